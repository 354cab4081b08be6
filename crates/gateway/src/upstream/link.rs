//! One connection to a server, whatever carries it.

use std::sync::Arc;

use hyper::http::{HeaderName, HeaderValue};
use serde_json::value::RawValue;
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout_at};

use super::error::LostReason;
use super::exchange::Event;
use super::http::{HttpFlow, HttpLink};
use super::mux::{Mux, Registration};
use super::stdio::StdioLink;

/// A request ready to go.
#[derive(Debug)]
pub(super) struct Outgoing {
    pub(super) id: u64,
    pub(super) body: String,
    /// The client's progress token.
    pub(super) token: Option<Box<RawValue>>,
    /// A call that holds a permit; the others are lists and the opening.
    pub(super) governed: bool,
    /// `server/discover` or `initialize`: the answer may name the HTTP session, a refusal ends none.
    pub(super) opening: bool,
    /// HTTP headers of this request; stdio has none.
    pub(super) headers: Vec<(HeaderName, HeaderValue)>,
}

/// A connection to one server for one owner.
#[derive(Clone, Debug)]
pub(super) enum Link {
    Stdio(Arc<StdioLink>),
    Http(Arc<HttpLink>),
}

impl Link {
    pub(super) fn mux(&self) -> &Arc<Mux> {
        match self {
            Self::Stdio(link) => link.mux(),
            Self::Http(link) => link.mux(),
        }
    }

    /// Begins a request; an error means that nothing was sent.
    pub(super) async fn start(&self, outgoing: Outgoing) -> Result<Flow, LostReason> {
        match self {
            Self::Stdio(link) => link.start(outgoing).await,
            Self::Http(link) => Ok(Flow::Http(Box::new(HttpFlow::new(link, outgoing)?))),
        }
    }

    /// Sends a request and waits for its answer alone.
    pub(super) async fn ask(&self, outgoing: Outgoing, deadline: Instant) -> Event {
        let mut flow = match timeout_at(deadline, self.start(outgoing)).await {
            Ok(Ok(flow)) => flow,
            Ok(Err(reason)) => return Event::Lost { reason, sent: false },
            Err(_) => return Event::Lost { reason: LostReason::Timeout, sent: false },
        };
        loop {
            match timeout_at(deadline, flow.next()).await {
                Ok(event) if event.is_last() => return event,
                Ok(_) => {}
                Err(_) => return Event::Lost { reason: LostReason::Timeout, sent: true },
            }
        }
    }

    /// Sends a notification or an answer.
    pub(super) async fn send(&self, body: String) -> Result<(), LostReason> {
        match self {
            Self::Stdio(link) => link.send(body).await,
            Self::Http(link) => link.send(body).await,
        }
    }

    /// Ends the connection in the way of its transport.
    pub(super) async fn close(&self) {
        match self {
            Self::Stdio(link) => link.close().await,
            Self::Http(link) => link.close().await,
        }
    }
}

/// The course of one request.
#[derive(Debug)]
pub(super) enum Flow {
    /// All messages come through the reader of the connection.
    Channel { rx: mpsc::Receiver<Event>, _registration: Registration },
    /// The request has its own HTTP response.
    Http(Box<HttpFlow>),
}

impl Flow {
    /// Waits for the next event. Cancel-safe.
    pub(super) async fn next(&mut self) -> Event {
        match self {
            Self::Channel { rx, .. } => rx.recv().await.unwrap_or_else(|| Event::Lost {
                reason: LostReason::Closed("no answer".to_owned()),
                sent: true,
            }),
            Self::Http(flow) => flow.next().await,
        }
    }
}
