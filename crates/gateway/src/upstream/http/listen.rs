//! The stream of session-level messages of a legacy server (`GET`).

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::BodyExt;
use tokio::time::sleep;

use super::super::limits::{
    ENVELOPE_BYTES_MAX, RESUME_ATTEMPTS_MAX, RESUME_DELAY, RESUME_DELAY_MAX,
};
use super::super::sse::{SseDecoder, SseEvent};
use super::{HttpLink, is_event_stream};
use crate::envelope::Envelope;

/// Reads the stream until the server offers none or the task is aborted.
pub(super) async fn listen(link: Arc<HttpLink>) {
    let mut position = Position { last_event: None, delay: RESUME_DELAY };
    let mut failures = 0;
    while failures < RESUME_ATTEMPTS_MAX && !link.mux.is_dead() {
        match link.get(position.last_event.as_deref()).await {
            Ok(response) if response.status().is_success() && is_event_stream(&response) => {
                failures = 0;
                read(&link, response.into_body(), &mut position).await;
            }
            // Most often 405: the server offers no such stream.
            Ok(response) if response.status().is_client_error() => return,
            Ok(_) | Err(_) => failures += 1,
        }
        sleep(position.delay).await;
    }
}

/// Where a broken stream goes on.
struct Position {
    last_event: Option<String>,
    delay: Duration,
}

async fn read(link: &HttpLink, mut body: hyper::body::Incoming, position: &mut Position) {
    let bytes_max = link.result_bytes_max() + ENVELOPE_BYTES_MAX;
    let mut decoder = SseDecoder::new(bytes_max);
    let mut events = VecDeque::new();
    while let Some(Ok(frame)) = body.frame().await {
        let Some(chunk) = frame.data_ref() else { continue };
        if decoder.push(chunk, &mut events).is_err() {
            tracing::debug!("event of a server is too large");
            return;
        }
        for SseEvent { id, retry, data, .. } in events.drain(..) {
            position.last_event = id.or(position.last_event.take());
            position.delay = retry.unwrap_or(position.delay).min(RESUME_DELAY_MAX);
            if let Some(reply) = route(link, &data, bytes_max)
                && let Err(reason) = link.send(reply).await
            {
                tracing::debug!(%reason, "answer to a server could not be sent");
            }
        }
    }
}

fn route(link: &HttpLink, data: &[u8], bytes_max: usize) -> Option<String> {
    if data.is_empty() {
        return None;
    }
    match Envelope::parse_from_server(data, bytes_max) {
        Ok(envelope) => link.mux.route(&envelope),
        Err(error) => {
            tracing::debug!(%error, "event of a server is no message");
            None
        }
    }
}
