use std::convert::Infallible;
use std::sync::Arc;

use axum::body::Body;
use axum::http::{Response, header};
use bytes::Bytes;
use futures_util::Stream;
use futures_util::stream::unfold;
use serde_json::Value;
use tokio::sync::{broadcast, mpsc};
use tokio::task::JoinHandle;

use crate::fixture::Change;
use crate::session::{Frame, Parked, Session, random_id};
use crate::sync::locked;

/// What a client is told to wait before it resumes, in milliseconds.
const RETRY_MS: u64 = 100;

/// A task that ends with whoever waits for it.
#[derive(Debug)]
pub(super) struct AbortOnDrop(pub(super) JoinHandle<()>);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Where an answer stream stands.
struct AnswerStream {
    id: String,
    next_event: u64,
    queued: Vec<Frame>,
    frames: Option<mpsc::Receiver<Frame>>,
    session: Option<Arc<Session>>,
    _running: Option<AbortOnDrop>,
}

/// The stream of a POST: notifications and requests, then the answer.
pub(super) fn answer_stream(
    first: Frame,
    frames: mpsc::Receiver<Frame>,
    session: Option<Arc<Session>>,
    running: Option<AbortOnDrop>,
) -> Response<Body> {
    let prime = session.as_ref().is_some_and(|session| session.can_resume());
    let state = AnswerStream {
        id: random_id(),
        next_event: u64::from(prime),
        queued: vec![first],
        frames: Some(frames),
        session,
        _running: running,
    };
    let priming = prime.then(|| {
        let id = &state.id;
        (Bytes::from(format!("id: {id}-0\nretry: {RETRY_MS}\ndata: \n\n")), ())
    });
    let head = futures_util::stream::iter(priming.map(|(bytes, ())| Ok(bytes)));
    event_stream(futures_util::StreamExt::chain(head, unfold(state, next_event)))
}

/// The stream of a GET with `Last-Event-ID`: the rest of a stream that was closed on purpose.
pub(super) fn resumed_stream(id: &str, parked: Parked, session: Arc<Session>) -> Response<Body> {
    event_stream(unfold(
        AnswerStream {
            id: id.to_owned(),
            next_event: parked.next_event,
            queued: Vec::new(),
            frames: Some(parked.frames),
            session: Some(session),
            _running: None,
        },
        next_event,
    ))
}

async fn next_event(mut state: AnswerStream) -> Option<(Result<Bytes, Infallible>, AnswerStream)> {
    loop {
        let frames = state.frames.as_mut()?;
        let frame = match state.queued.pop() {
            Some(frame) => frame,
            None => frames.recv().await?,
        };
        let message = match frame {
            Frame::Message(message) => message,
            Frame::Answer(_, answer) => {
                state.frames = None;
                answer
            }
            Frame::HangUp => {
                let Some(session) = resumable(&state) else { continue };
                let parked = Parked { frames: state.frames.take()?, next_event: state.next_event };
                locked(&session.parked).insert(state.id, parked);
                return None;
            }
        };
        let event = match resumable(&state) {
            Some(_) => {
                let id = format!("{}-{}", state.id, state.next_event);
                state.next_event += 1;
                format!("id: {id}\nevent: message\ndata: {message}\n\n")
            }
            None => format!("event: message\ndata: {message}\n\n"),
        };
        return Some((Ok(Bytes::from(event)), state));
    }
}

fn resumable(state: &AnswerStream) -> Option<Arc<Session>> {
    state.session.clone().filter(|session| session.can_resume())
}

/// The stream of a plain GET: what changed on the server.
pub(super) fn change_stream(
    changes: broadcast::Receiver<Change>,
    session: Arc<Session>,
) -> Response<Body> {
    event_stream(unfold((changes, session), |(mut changes, session)| async move {
        let message = next_change(&mut changes, &session).await?;
        let event = Bytes::from(format!("event: message\ndata: {message}\n\n"));
        Some((Ok(event), (changes, session)))
    }))
}

/// Waits for the next change that the session is told about.
pub(crate) async fn next_change(
    changes: &mut broadcast::Receiver<Change>,
    session: &Session,
) -> Option<Value> {
    loop {
        match changes.recv().await {
            Ok(change) if change.told_to(session) => return Some(change.to_notification()),
            Ok(_) | Err(broadcast::error::RecvError::Lagged(_)) => {}
            Err(broadcast::error::RecvError::Closed) => return None,
        }
    }
}

fn event_stream(
    events: impl Stream<Item = Result<Bytes, Infallible>> + Send + 'static,
) -> Response<Body> {
    let mut response = Response::new(Body::from_stream(events));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, header::HeaderValue::from_static("text/event-stream"));
    headers.insert(header::CACHE_CONTROL, header::HeaderValue::from_static("no-store"));
    response
}
