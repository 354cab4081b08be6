//! The way back to the client of one running call.
//!
//! A call runs in a task of its own. What it has to tell its client, progress, questions, the answer,
//! goes through its [`Link`] to whichever HTTP response is attached at that moment.

use std::sync::Arc;

use serde_json::value::RawValue;
use tokio::sync::{Mutex, Notify, mpsc};

use super::message;
use super::parking::{Binding, Parking};
use super::session::LegacySession;
use crate::envelope::member;
use crate::limits::INPUT_TIMEOUT;

/// What goes to the client on the response of one request.
#[derive(Debug)]
pub enum Out {
    /// A notification or a request of the server's: one serialised JSON-RPC message.
    Message(String),
    /// The response; nothing follows.
    Last(Reply),
    /// The client cancelled and expects no response; nothing follows.
    Cancelled,
}

/// The response to one request.
#[derive(Debug)]
pub struct Reply {
    /// The HTTP status, where the response is not part of a stream.
    pub status: u16,
    /// The serialised JSON-RPC response.
    pub body: String,
    /// Whether it repeats an earlier answer.
    pub replayed: bool,
}

/// A request of an upstream server for something that only the client has.
#[derive(Debug)]
pub struct Question {
    /// The key under which the answer is expected.
    pub key: String,
    /// `elicitation/create`, `sampling/createMessage` or `roots/list`.
    pub method: String,
    /// The parameters, as the server sent them.
    pub params: Option<Box<RawValue>>,
}

/// Why a question has no answer.
#[derive(Debug)]
pub enum NoAnswer {
    /// The client answered with a JSON-RPC error.
    Error(Box<RawValue>),
    /// The client is gone, did not answer in time, or too many calls wait.
    Gone,
}

/// A client's way to cancel one of its calls.
#[derive(Debug, Default)]
pub struct CancelSignal(Notify);

impl CancelSignal {
    /// Cancels the call, now or as soon as it listens.
    pub fn cancel(&self) {
        self.0.notify_one();
    }
}

/// Where the client's response is, and under which id it expects the answer.
#[derive(Debug)]
pub struct Attached {
    /// The client's request id, as it spelt it.
    pub id: Box<RawValue>,
    /// The response's queue.
    pub out: mpsc::Sender<Out>,
}

enum Peer {
    Legacy {
        session: Arc<LegacySession>,
        cancel: Arc<CancelSignal>,
    },
    Modern {
        parking: Arc<Parking>,
        /// Answers that the client sent before anybody asked.
        early: Mutex<Option<Box<RawValue>>>,
    },
    /// Nobody listens: a call that the gateway makes for a subscription.
    Nobody,
}

/// The way back to the client of one running call.
pub struct Link {
    attached: Mutex<Attached>,
    peer: Peer,
}

impl std::fmt::Debug for Link {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Link").finish_non_exhaustive()
    }
}

impl Link {
    /// Links a call to a client of the stateful era.
    pub fn legacy(
        attached: Attached,
        session: Arc<LegacySession>,
        cancel: Arc<CancelSignal>,
    ) -> Self {
        Self { attached: Mutex::new(attached), peer: Peer::Legacy { session, cancel } }
    }

    /// Links a call to a client of the stateless era, which may have sent answers with the call.
    pub fn modern(attached: Attached, parking: Arc<Parking>, early: Option<Box<RawValue>>) -> Self {
        let peer = Peer::Modern { parking, early: Mutex::new(early) };
        Self { attached: Mutex::new(attached), peer }
    }

    /// Makes a link for a call that has nothing to tell its client.
    pub fn nobody() -> Self {
        let (out, _) = mpsc::channel(1);
        let attached = Attached { id: message::raw("null".into()), out };
        Self { attached: Mutex::new(attached), peer: Peer::Nobody }
    }

    /// Returns the client's session, in the stateful era.
    pub fn session(&self) -> Option<&Arc<LegacySession>> {
        match &self.peer {
            Peer::Legacy { session, .. } => Some(session),
            Peer::Modern { .. } | Peer::Nobody => None,
        }
    }

    /// Sends a notification. A client that is gone misses it.
    pub async fn notify(&self, method: &str, params: Option<&RawValue>) {
        let attached = self.attached.lock().await;
        let _ = attached.out.send(Out::Message(message::notification(method, params))).await;
    }

    /// Lets go of a client that cancelled: it gets no response (MCP 2025-11-25, cancellation,
    /// "Behavior Requirements").
    pub async fn hang_up(&self) {
        let (nobody, _) = mpsc::channel(1);
        let out = std::mem::replace(&mut self.attached.lock().await.out, nobody);
        let _ = out.send(Out::Cancelled).await;
    }

    /// Sends the response and ends the link.
    pub async fn finish(self, reply: impl FnOnce(&RawValue) -> Reply) {
        let attached = self.attached.into_inner();
        let last = Out::Last(reply(&attached.id));
        let _ = attached.out.send(last).await;
    }

    /// Waits until the client cancels: by a notification in the stateful era, by closing the
    /// response in the stateless one.
    pub async fn cancelled(&self) {
        match &self.peer {
            Peer::Legacy { cancel, .. } => cancel.0.notified().await,
            Peer::Modern { .. } => {
                let out = self.attached.lock().await.out.clone();
                out.closed().await;
            }
            Peer::Nobody => std::future::pending().await,
        }
    }

    /// Asks the client and waits for its answers: the `inputResponses` object. `binding` tells which
    /// retry of a client of the stateless era may bring them.
    ///
    /// # Errors
    ///
    /// Gives up after [`INPUT_TIMEOUT`], or when the client answers with an error.
    pub async fn ask(
        &self,
        questions: &[Question],
        binding: impl FnOnce() -> Binding,
    ) -> Result<Box<RawValue>, NoAnswer> {
        match &self.peer {
            Peer::Legacy { session, .. } => self.ask_legacy(session, questions).await,
            Peer::Modern { parking, early } => {
                let early = if questions.is_empty() { None } else { early.lock().await.take() };
                match early.filter(|given| answers_all(given, questions)) {
                    Some(given) => Ok(given),
                    None => self.ask_modern(parking, binding(), questions).await,
                }
            }
            Peer::Nobody => Err(NoAnswer::Gone),
        }
    }

    /// Sends each question as a request on the open response and waits for the session to get the
    /// answers.
    async fn ask_legacy(
        &self,
        session: &Arc<LegacySession>,
        questions: &[Question],
    ) -> Result<Box<RawValue>, NoAnswer> {
        let mut answers = Vec::with_capacity(questions.len());
        for question in questions {
            let (id, answer) = session.expect_answer();
            let text = message::request(&id, &question.method, question.params.as_deref());
            if self.attached.lock().await.out.send(Out::Message(text)).await.is_err() {
                session.forget(&id);
                return Err(NoAnswer::Gone);
            }
            let answer = tokio::time::timeout(INPUT_TIMEOUT, answer).await;
            session.forget(&id);
            match answer {
                Ok(Ok(Ok(result))) => answers.push((question.key.as_str(), result)),
                Ok(Ok(Err(error))) => return Err(NoAnswer::Error(error)),
                Ok(Err(_)) | Err(_) => return Err(NoAnswer::Gone),
            }
        }
        Ok(message::object(&answers))
    }

    /// Answers the client's request with `input_required` and waits for its retry.
    async fn ask_modern(
        &self,
        parking: &Arc<Parking>,
        binding: Binding,
        questions: &[Question],
    ) -> Result<Box<RawValue>, NoAnswer> {
        let Some((state, retry)) = parking.park(binding) else {
            return Err(NoAnswer::Gone);
        };
        let mut attached = self.attached.lock().await;
        let body = message::input_required(&attached.id, questions, &state);
        let last = Out::Last(Reply { status: 200, body, replayed: false });
        if attached.out.send(last).await.is_err() {
            parking.forget(&state);
            return Err(NoAnswer::Gone);
        }
        let retry = tokio::time::timeout(INPUT_TIMEOUT, retry).await;
        parking.forget(&state);
        let Ok(Ok(resumed)) = retry else { return Err(NoAnswer::Gone) };
        *attached = resumed.attached;
        Ok(resumed.responses)
    }
}

/// Tells whether an `inputResponses` object has an answer to each question.
fn answers_all(given: &RawValue, questions: &[Question]) -> bool {
    questions.iter().all(|question| member(given, &question.key).is_some())
}
