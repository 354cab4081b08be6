//! One request and everything that comes back for it.

use std::sync::Arc;

use serde_json::value::RawValue;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{Instant, timeout, timeout_at};

use super::error::{LostReason, UpstreamError};
use super::limits::GOODBYE_TIMEOUT;
use super::link::{Flow, Link};
use super::session::{Era, Session};
use super::wire;
use crate::envelope::Envelope;

/// What a server sends for one request; the last three end the exchange.
#[derive(Debug)]
pub enum Event {
    /// Progress or a log message; the progress token is the client's own.
    Notification {
        /// The method.
        method: String,
        /// The parameters.
        params: Option<Box<RawValue>>,
    },
    /// The server asks the client (legacy era); [`Exchange::answer`] is due.
    ServerRequest {
        /// The server's id as written.
        id: Box<RawValue>,
        /// The method.
        method: String,
        /// The parameters as they came.
        params: Option<Box<RawValue>>,
    },
    /// The result as it came.
    Result(Box<RawValue>),
    /// The JSON-RPC error object as it came.
    Error(Box<RawValue>),
    /// No answer will come.
    Lost {
        /// Why.
        reason: LostReason,
        /// Whether any byte of the request may have been written: if so, it may have been executed.
        sent: bool,
    },
}

impl Event {
    /// Whether nothing follows.
    #[must_use]
    pub fn is_last(&self) -> bool {
        match self {
            Self::Notification { .. } | Self::ServerRequest { .. } => false,
            Self::Result(_) | Self::Error(_) | Self::Lost { .. } => true,
        }
    }

    /// Makes the last event from a response.
    pub(super) fn answer_of(envelope: &Envelope<'_>) -> Option<Self> {
        let result = envelope.result.map(|result| Self::Result(result.to_owned()));
        result.or_else(|| envelope.error.map(|error| Self::Error(error.to_owned())))
    }
}

/// One governed request that was begun; it must be read to its last event.
///
/// Dropping it gives the answer up. It does not cancel on a legacy server: see
/// [`Exchange::cancel`].
#[derive(Debug)]
pub struct Exchange {
    session: Arc<Session>,
    id: u64,
    flow: Flow,
    deadline: Instant,
    finished: bool,
    _slot: OwnedSemaphorePermit,
}

impl Exchange {
    pub(super) fn new(
        session: Arc<Session>,
        id: u64,
        flow: Flow,
        deadline: Instant,
        slot: OwnedSemaphorePermit,
    ) -> Self {
        session.begin();
        Self { session, id, flow, deadline, finished: false, _slot: slot }
    }

    /// Returns the session that carries the request.
    #[must_use]
    pub fn session(&self) -> &Arc<Session> {
        &self.session
    }

    /// Waits for the next event; after the last one it is `Lost` for ever.
    ///
    /// Safe to cancel: a dropped wait loses no event. When the request's time is up, the request is
    /// cancelled upstream and the event is `Lost` with [`LostReason::Timeout`]; progress does not
    /// extend that time.
    pub async fn next(&mut self) -> Event {
        if self.finished {
            let reason = LostReason::Closed("the exchange is over".to_owned());
            return Event::Lost { reason, sent: true };
        }
        let event = match timeout_at(self.deadline, self.flow.next()).await {
            Ok(event) => event,
            Err(_) => {
                self.tell_cancelled("timeout");
                if let Flow::Http(flow) = &mut self.flow {
                    flow.abandon();
                }
                Event::Lost { reason: LostReason::Timeout, sent: true }
            }
        };
        self.session.learn(&event);
        self.finished |= event.is_last();
        event
    }

    /// Answers a request that came as [`Event::ServerRequest`].
    ///
    /// # Errors
    ///
    /// `Lost` if the server could not be told.
    pub async fn answer(
        &self,
        id: &RawValue,
        answer: Result<Box<RawValue>, Box<RawValue>>,
    ) -> Result<(), UpstreamError> {
        self.session.answer(id, answer).await
    }

    /// Asks the server to stop, in the way of its era and transport.
    ///
    /// A modern HTTP server is told by the end of the stream, so the next event is `Lost` with
    /// [`LostReason::Cancelled`]. Any other server gets `notifications/cancelled` and may still
    /// answer: go on reading for a time of grace.
    pub fn cancel(&mut self, reason: &str) {
        match (&mut self.flow, self.session.era()) {
            (Flow::Http(flow), Era::Modern { .. }) => flow.abandon(),
            _ => self.tell_cancelled(reason),
        }
    }

    fn tell_cancelled(&self, reason: &str) {
        if self.finished
            || matches!((&self.flow, self.session.era()), (Flow::Http(_), Era::Modern { .. }))
        {
            return;
        }
        let (link, body) = (self.session.link().clone(), wire::cancelled(self.id, reason));
        // Off the caller's path: a server that does not listen must not hold the caller up.
        tokio::spawn(send_in_time(link, body));
    }
}

async fn send_in_time(link: Link, body: String) {
    if !matches!(timeout(GOODBYE_TIMEOUT, link.send(body)).await, Ok(Ok(()))) {
        tracing::debug!("cancellation could not be sent");
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        self.session.end();
    }
}
