//! The course of one request over HTTP: head, then one JSON message or a stream of events.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::{Response, StatusCode};
use hyper_util::client::legacy::ResponseFuture;
use serde_json::value::RawValue;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};

use super::super::error::LostReason;
use super::super::exchange::Event;
use super::super::limits::{
    ENVELOPE_BYTES_MAX, ERROR_BODY_BYTES_MAX, RESUME_ATTEMPTS_MAX, RESUME_DELAY, RESUME_DELAY_MAX,
};
use super::super::link::Outgoing;
use super::super::mux::{Registration, notification, progress_id};
use super::super::sse::{SseDecoder, SseEvent};
use super::super::wire;
use super::{HttpLink, SESSION_ID, is_event_stream, lost};
use crate::envelope::{Envelope, MessageKind};

/// One request and its response.
#[derive(Debug)]
pub(in super::super) struct HttpFlow {
    stream: Stream,
    /// What the session's own stream carries for this request.
    side: Option<(mpsc::Receiver<Event>, Registration)>,
}

impl HttpFlow {
    /// Prepares the request; it is written at the first [`HttpFlow::next`].
    pub(in super::super) fn new(
        link: &Arc<HttpLink>,
        outgoing: Outgoing,
    ) -> Result<Self, LostReason> {
        let Outgoing { id, body, token, governed, opening, headers } = outgoing;
        let side = match link.listener.get() {
            Some(_) => Some(link.mux.register(id, token.clone(), governed)?),
            None => None,
        };
        let phase = Phase::Head(link.post(body.into(), &headers));
        let stream = Stream {
            link: Arc::clone(link),
            id,
            token,
            opening,
            phase,
            ready: VecDeque::new(),
            last_event: None,
            retry: RESUME_DELAY,
            failures: 0,
        };
        Ok(Self { stream, side })
    }

    /// Waits for the next event. Cancel-safe.
    pub(in super::super) async fn next(&mut self) -> Event {
        let Some((side, _)) = &mut self.side else { return self.stream.next().await };
        loop {
            tokio::select! {
                biased;
                Some(event) = side.recv() => match event {
                    // The response itself tells what became of the request.
                    Event::Lost { reason: LostReason::Closed(_), .. } => {}
                    Event::Notification { .. } | Event::ServerRequest { .. } => return event,
                    Event::Result(_) | Event::Error(_) | Event::Lost { .. } => {
                        self.stream.phase = Phase::Done;
                        return event;
                    }
                },
                event = self.stream.next() => return event,
            }
        }
    }

    /// Drops the response: to a modern server that is the cancellation.
    pub(in super::super) fn abandon(&mut self) {
        self.stream.ready.clear();
        self.stream.finish(LostReason::Cancelled, true);
    }
}

#[derive(Debug)]
enum Phase {
    Head(ResponseFuture),
    /// One message, whose result has at most `bytes_max` bytes.
    Message {
        status: StatusCode,
        body: Incoming,
        bytes: Vec<u8>,
        bytes_max: usize,
    },
    Events {
        body: Incoming,
        decoder: SseDecoder,
    },
    /// A broken legacy stream is asked for again.
    Resume(Instant),
    Done,
}

#[derive(Debug)]
struct Stream {
    link: Arc<HttpLink>,
    id: u64,
    token: Option<Box<RawValue>>,
    opening: bool,
    phase: Phase,
    ready: VecDeque<Event>,
    last_event: Option<String>,
    retry: Duration,
    failures: u32,
}

impl Stream {
    async fn next(&mut self) -> Event {
        loop {
            if let Some(event) = self.ready.pop_front() {
                return event;
            }
            self.advance().await;
        }
    }

    /// Takes one step. Every wait comes before the change it leads to, so it can be dropped.
    async fn advance(&mut self) {
        match &mut self.phase {
            Phase::Head(response) => match response.await {
                Ok(response) => self.read_head(response),
                Err(error) if self.last_event.is_some() => {
                    tracing::debug!(error = %super::chain(&error), "stream could not be resumed");
                    self.resume("cannot connect");
                }
                Err(error) => {
                    let (reason, sent) = lost(&error);
                    self.finish(reason, sent);
                }
            },
            Phase::Message { body, bytes, bytes_max, .. } => match body.frame().await {
                Some(Ok(frame)) => {
                    let chunk = frame.into_data().unwrap_or_default();
                    if bytes.len() + chunk.len() > *bytes_max + ENVELOPE_BYTES_MAX {
                        let bytes_max = *bytes_max;
                        self.finish(LostReason::TooLarge { bytes_max }, true);
                    } else {
                        bytes.extend_from_slice(&chunk);
                    }
                }
                Some(Err(error)) => {
                    let reason = LostReason::Closed(super::chain(&error));
                    self.finish(reason, true);
                }
                None => self.read_message(),
            },
            Phase::Events { body, decoder } => match body.frame().await {
                Some(Ok(frame)) => {
                    let chunk = frame.into_data().unwrap_or_default();
                    let mut events = VecDeque::new();
                    let fits = decoder.push(&chunk, &mut events).is_ok();
                    self.read_events(events);
                    if !fits {
                        let bytes_max = self.link.result_bytes_max();
                        self.finish(LostReason::TooLarge { bytes_max }, true);
                    }
                }
                Some(Err(error)) => self.resume(&super::chain(&error)),
                None => self.resume("the stream ended without an answer"),
            },
            Phase::Resume(at) => {
                sleep_until(*at).await;
                self.phase = Phase::Head(self.link.get(self.last_event.as_deref()));
            }
            Phase::Done => {
                let reason = LostReason::Closed("the exchange is over".to_owned());
                self.ready.push_back(Event::Lost { reason, sent: true });
            }
        }
    }

    fn read_head(&mut self, response: Response<Incoming>) {
        let status = response.status();
        if self.opening
            && status.is_success()
            && let Some(id) = response.headers().get(SESSION_ID)
        {
            let _ = self.link.session_id.set(id.clone());
        }
        if status.is_success() && is_event_stream(&response) {
            self.failures = 0;
            let decoder = SseDecoder::new(self.link.result_bytes_max() + ENVELOPE_BYTES_MAX);
            self.phase = Phase::Events { body: response.into_body(), decoder };
        } else if self.last_event.is_some() {
            self.finish(LostReason::Status(status.as_u16()), true);
        } else {
            let bytes_max = if status.is_success() {
                self.link.result_bytes_max()
            } else {
                ERROR_BODY_BYTES_MAX
            };
            let body = response.into_body();
            self.phase = Phase::Message { status, body, bytes: Vec::new(), bytes_max };
        }
    }

    /// Reads the one message of a response that is no stream.
    fn read_message(&mut self) {
        let phase = std::mem::replace(&mut self.phase, Phase::Done);
        let Phase::Message { status, bytes, bytes_max, .. } = phase else { return };
        let envelope = Envelope::parse_from_server(&bytes, bytes_max + ENVELOPE_BYTES_MAX);
        let mine = envelope.as_ref().is_ok_and(|envelope| self.is_mine(envelope));
        if !status.is_success() && !mine {
            // Refused before the request was looked at: the session or the era is not what it was.
            if !self.opening && matches!(status.as_u16(), 400 | 404 | 405) {
                self.link.mux.mark_dead();
            }
            if status == StatusCode::NOT_FOUND && self.link.has_session() {
                return self.finish(LostReason::SessionGone, true);
            }
        }
        let answer = envelope.as_ref().ok().filter(|e| mine || e.id.is_none());
        match (answer.and_then(Event::answer_of), envelope) {
            (Some(event @ Event::Error(_)), _) => self.ready.push_back(event),
            (Some(event), _) if status.is_success() => self.ready.push_back(event),
            (_, _) if !status.is_success() => {
                self.finish(LostReason::Status(status.as_u16()), true);
            }
            (_, Ok(_)) => {
                self.finish(LostReason::Unreadable("answer to another request".to_owned()), true);
            }
            (_, Err(error)) => self.finish(LostReason::Unreadable(error.to_string()), true),
        }
    }

    fn read_events(&mut self, events: VecDeque<SseEvent>) {
        for SseEvent { event, id, retry, data } in events {
            self.last_event = id.or(self.last_event.take());
            self.retry = retry.unwrap_or(self.retry).min(RESUME_DELAY_MAX);
            if data.is_empty() || event.is_some_and(|event| event != "message") {
                continue;
            }
            let bytes_max = self.link.result_bytes_max() + ENVELOPE_BYTES_MAX;
            match Envelope::parse_from_server(&data, bytes_max) {
                Ok(envelope) => self.read_event(&envelope),
                Err(error) => {
                    self.finish(LostReason::Unreadable(error.to_string()), true);
                }
            }
            if matches!(self.phase, Phase::Done) {
                return;
            }
        }
    }

    fn read_event(&mut self, envelope: &Envelope<'_>) {
        let method = envelope.method.as_deref().unwrap_or_default();
        match (envelope.kind(), envelope.id) {
            (MessageKind::Response, _) => {
                let answer = (self.is_mine(envelope) || envelope.id.is_none())
                    .then(|| Event::answer_of(envelope))
                    .flatten();
                if let Some(answer) = answer {
                    self.phase = Phase::Done;
                    self.ready.push_back(answer);
                }
            }
            (MessageKind::Request, Some(id)) if method == "ping" => self.pong(id),
            (MessageKind::Request, Some(id)) => self.ready.push_back(Event::ServerRequest {
                id: id.to_owned(),
                method: method.to_owned(),
                params: envelope.params.map(ToOwned::to_owned),
            }),
            (MessageKind::Request | MessageKind::Notification, _) => {
                let progress = method == "notifications/progress";
                if progress
                    && (self.token.is_none() || progress_id(envelope.params) != Some(self.id))
                {
                    return;
                }
                self.ready.push_back(notification(method, envelope.params, self.token.as_deref()));
            }
        }
    }

    fn pong(&self, id: &RawValue) {
        let (link, body) = (Arc::clone(&self.link), wire::pong(id));
        // Rare, and the server must not hold up the stream that it writes.
        tokio::spawn(async move { link.send(body).await });
    }

    fn is_mine(&self, envelope: &Envelope<'_>) -> bool {
        envelope.id.and_then(|id| id.get().parse().ok()) == Some(self.id)
    }

    /// Asks a legacy server for the rest of a broken stream, if it has numbered its events.
    fn resume(&mut self, why: &str) {
        self.failures += 1;
        let resumable = self.last_event.is_some() && self.link.version.get().is_some();
        if resumable && self.failures <= RESUME_ATTEMPTS_MAX {
            self.phase = Phase::Resume(Instant::now() + self.retry);
        } else {
            self.finish(LostReason::Closed(why.to_owned()), true);
        }
    }

    fn finish(&mut self, reason: LostReason, sent: bool) {
        self.phase = Phase::Done;
        self.ready.push_back(Event::Lost { reason, sent });
    }
}
