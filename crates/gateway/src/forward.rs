//! From a permit to an answer: sending the call, passing on what comes in between, asking the client.

use std::sync::Arc;
use std::time::Duration;

use countersign_model::{Facts, OutcomeStatus, RecordId};
use serde_json::value::RawValue;
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::envelope::{Edit, edit_object, member, members, string};
use crate::limits::{CANCEL_GRACE, INPUT_ROUNDS_MAX, SUBSCRIBE_TIMEOUT};
use crate::mcp::link::{Link, NoAnswer, Question};
use crate::mcp::{self, Context, raw};
use crate::permit::Permit;
use crate::pipeline::{CallRequest, Pipeline};
use crate::questions::{self, Asked};
use crate::refusal::{RpcError, code};
use crate::upstream::{Event, Exchange, Request, Session, UpstreamError};

/// What became of a forwarded call.
#[derive(Debug)]
pub(crate) enum Forwarded {
    /// The server's result, as it came.
    Result(Box<RawValue>),
    /// The server's JSON-RPC error, as it came.
    Error(Box<RawValue>),
    /// Nothing was sent.
    NotSent(String),
    /// The call was sent, and no answer came.
    Lost(String),
}

impl Forwarded {
    /// Returns the status for the outcome record.
    #[must_use]
    pub(crate) fn status(&self) -> OutcomeStatus {
        match self {
            Self::Result(_) => OutcomeStatus::Executed,
            Self::Error(_) => OutcomeStatus::Failed,
            Self::NotSent(_) => OutcomeStatus::NotForwarded,
            Self::Lost(_) => OutcomeStatus::Unknown,
        }
    }

    /// Returns the answer of the server, if there is one.
    #[must_use]
    pub(crate) fn answer(&self) -> Option<&RawValue> {
        match self {
            Self::Result(raw) | Self::Error(raw) => Some(raw),
            Self::NotSent(_) | Self::Lost(_) => None,
        }
    }

    /// Returns why there is no answer.
    #[must_use]
    pub(crate) fn detail(&self) -> Option<&str> {
        match self {
            Self::Result(_) | Self::Error(_) => None,
            Self::NotSent(detail) | Self::Lost(detail) => Some(detail),
        }
    }
}

/// How one request to the server ended.
enum Round {
    /// The call is over.
    Over(Forwarded),
    /// The server wants input before it goes on (MCP 2026-07-28, multi round-trip requests).
    InputRequired(Box<RawValue>),
}

/// One forwarded call.
pub(crate) struct Call<'a> {
    pub(crate) pipeline: &'a Pipeline,
    pub(crate) context: &'a Context,
    pub(crate) request: &'a CallRequest,
    pub(crate) facts: &'a Facts,
    pub(crate) link: &'a Link,
}

impl Call<'_> {
    /// Sends the call and stays with it until the server's last word.
    pub(crate) async fn forward(&self, permit: Permit) -> Forwarded {
        let session = match mcp::upstream_session(self.context, &self.request.server).await {
            Ok(session) => session,
            Err(error) => return not_sent(&error),
        };
        match self.request.method {
            "resources/subscribe" if session.era().is_modern() => {
                return self.subscribe(permit, &session).await;
            }
            "resources/unsubscribe" if session.era().is_modern() => return self.unsubscribe(),
            _ => {}
        }
        let mut params = self.params(&session);
        let mut permit = permit;
        for _ in 0..INPUT_ROUNDS_MAX {
            let exchange = match session.call(permit, self.upstream_request(&params)).await {
                Ok(exchange) => exchange,
                Err(error) => return not_sent(&error),
            };
            let required = match self.follow(exchange).await {
                Round::Over(forwarded) => return forwarded,
                Round::InputRequired(required) => required,
            };
            let answered = match questions::input_required(self, &required).await {
                Ok(answered) => answered,
                Err(reason) => return Forwarded::Lost(reason),
            };
            params = with_answers(&params, &answered, &required);
            permit = match self.pipeline.next_round(self.request, self.facts).await {
                Ok(permit) => permit,
                Err(reason) => return Forwarded::Lost(reason),
            };
        }
        Forwarded::Lost(format!("the server asked more than {INPUT_ROUNDS_MAX} times"))
    }

    /// Gives the parameters as the server gets them: with our id, and with the log level that a
    /// session's client has set, where the server has no sessions.
    fn params(&self, session: &Session) -> Box<RawValue> {
        let id = raw(format!("\"{}\"", self.facts.evaluation_id));
        let mut edits = vec![Edit::set(&["_meta", mcp::EVALUATION_ID], &id)];
        let level = self.link.session().and_then(|client| client.log_level());
        let level = level.filter(|_| session.era().is_modern());
        let level = level.map(|level| raw(Value::from(level).to_string()));
        if let Some(level) = &level {
            edits.push(Edit::set(&["_meta", mcp::LOG_LEVEL], level));
        }
        let params = &self.request.params;
        // Answers and state belong to later rounds; `task` asks for what the gateway does not offer.
        let inner = ["requestState", "inputResponses", "task"].map(|name| [name]);
        edits.extend(inner.iter().map(|path| Edit::remove(path)));
        edit_object(params, &edits).unwrap_or_else(|_| params.clone())
    }

    fn upstream_request(&self, params: &RawValue) -> Request<'_> {
        let request = self.request;
        let rules = self.pipeline.rules.current();
        let tool = request.tool.as_ref().and_then(|tool| rules.bundle.tool(tool));
        let mut upstream = Request::new(request.method, params.to_owned());
        upstream.name = match &request.tool {
            Some(tool) => Some(tool.tool()),
            None => request.target.as_deref(),
        };
        if let Some(tool) = tool {
            upstream.param_headers = mcp::param_headers(tool.definition.get(), &request.arguments);
            upstream.timeout = tool.timeout_ms.map(Duration::from_millis);
        }
        if self.context.is_modern() {
            upstream.client_capabilities = Some(&self.context.profile().capabilities);
        }
        upstream
    }

    /// Passes on what the server sends until its answer; a cancelled call has a time of grace.
    async fn follow(&self, mut exchange: Exchange) -> Round {
        let mut cancelled_at: Option<Instant> = None;
        loop {
            let grace_ends = cancelled_at.map(|at| at + CANCEL_GRACE);
            let event = tokio::select! {
                event = exchange.next() => event,
                () = self.link.cancelled(), if cancelled_at.is_none() => {
                    exchange.cancel("cancelled by the client");
                    self.link.hang_up().await;
                    cancelled_at = Some(Instant::now());
                    continue;
                }
                () = until(grace_ends) => {
                    return Round::Over(Forwarded::Lost("cancelled by the client".into()));
                }
            };
            match event {
                Event::Notification { method, params } => {
                    self.notification(&method, params.as_deref()).await;
                }
                Event::ServerRequest { id, method, params } => {
                    let answer = questions::server_request(self, method, params).await;
                    if exchange.answer(&id, answer).await.is_err() {
                        return Round::Over(Forwarded::Lost("the server went away".into()));
                    }
                }
                Event::Result(result) => return over(result),
                Event::Error(error) => return Round::Over(Forwarded::Error(error)),
                Event::Lost { reason, sent } => {
                    let reason = if cancelled_at.is_some() {
                        "cancelled by the client".to_owned()
                    } else {
                        reason.to_string()
                    };
                    return Round::Over(if sent {
                        Forwarded::Lost(reason)
                    } else {
                        Forwarded::NotSent(reason)
                    });
                }
            }
        }
    }

    /// Passes on progress and log messages. A client of the stateless era gets log messages only if
    /// its request asked for them.
    async fn notification(&self, method: &str, params: Option<&RawValue>) {
        let passed = match method {
            "notifications/progress" => true,
            "notifications/message" => {
                !self.context.is_modern()
                    || member(&self.request.params, "_meta")
                        .is_some_and(|meta| member(meta, mcp::LOG_LEVEL).is_some())
            }
            _ => false,
        };
        if passed {
            self.link.notify(method, params).await;
        }
    }

    /// Asks the client, if it declared that it can be asked.
    pub(crate) async fn ask(&self, questions: &[Question]) -> Result<Box<RawValue>, NoAnswer> {
        let declared = &self.context.profile().capabilities;
        let undeclared = questions.iter().find(|question| {
            let capability = question.method.split('/').next().unwrap_or_default();
            member(declared, capability).is_none()
        });
        if let Some(question) = undeclared {
            let text = format!("the client did not declare that it answers `{}`", question.method);
            let error = RpcError::new(code::METHOD_NOT_FOUND, text);
            return Err(NoAnswer::Error(raw(error.to_json().to_string())));
        }
        self.link.ask(questions, || mcp::binding(self.request)).await
    }

    /// Subscribes to a resource at a server of the stateless era: an open `subscriptions/listen`
    /// stands in for the subscription, and what comes on it goes to the session's stream.
    async fn subscribe(&self, permit: Permit, session: &Arc<Session>) -> Forwarded {
        let (Some(client), Some(uri)) = (self.link.session(), self.request.target.as_deref())
        else {
            return Forwarded::NotSent("there is no session to subscribe for".into());
        };
        let params = json!({"notifications": {"resourceSubscriptions": [uri]}});
        let listen = Request::new("subscriptions/listen", raw(params.to_string()));
        let mut exchange = match session.call(permit, listen).await {
            Ok(exchange) => exchange,
            Err(error) => return not_sent(&error),
        };
        match tokio::time::timeout(SUBSCRIBE_TIMEOUT, exchange.next()).await {
            Ok(Event::Notification { .. }) => {
                let server = &self.request.server;
                if client.subscribed(server, uri, |ended| {
                    mcp::relay_updates(self.context, client, server, exchange, ended);
                }) {
                    Forwarded::Result(raw("{}".into()))
                } else {
                    Forwarded::Lost("the session has too many subscriptions".into())
                }
            }
            Ok(Event::Error(error)) => Forwarded::Error(error),
            Ok(_) | Err(_) => Forwarded::Lost("the server did not acknowledge".into()),
        }
    }

    /// Ends a subscription that [`Self::subscribe`] made.
    fn unsubscribe(&self) -> Forwarded {
        if let (Some(client), Some(uri)) = (self.link.session(), &self.request.target) {
            client.unsubscribed(&self.request.server, uri);
        }
        Forwarded::Result(raw("{}".into()))
    }

    /// Returns the id of the call's decision.
    pub(crate) fn evaluation_id(&self) -> RecordId {
        self.facts.evaluation_id
    }
}

fn not_sent(error: &UpstreamError) -> Forwarded {
    if let UpstreamError::Refused { error, .. } = error {
        return Forwarded::Error(error.clone());
    }
    if error.is_not_sent() {
        Forwarded::NotSent(error.to_string())
    } else {
        Forwarded::Lost(error.to_string())
    }
}

async fn until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}

/// Tells what a result means for the call (MCP 2026-07-28, `resultType`).
fn over(result: Box<RawValue>) -> Round {
    let kind = member(&result, "resultType").and_then(|raw| string(raw).ok());
    match kind.as_deref() {
        None | Some("complete") => Round::Over(Forwarded::Result(result)),
        Some("input_required") => Round::InputRequired(result),
        Some(other) => Round::Over(Forwarded::Lost(format!(
            "the server answered with a result of type `{other}`, which is not passed on"
        ))),
    }
}

/// Gives the parameters of the next round: the answers, and the server's own state, byte for byte.
fn with_answers(params: &RawValue, answered: &Asked, required: &RawValue) -> Box<RawValue> {
    let mut edits = Vec::new();
    match &answered.responses {
        Some(responses) => edits.push(Edit::set(&["inputResponses"], responses)),
        None => edits.push(Edit::remove(&["inputResponses"])),
    }
    match member(required, "requestState") {
        Some(state) => edits.push(Edit::set(&["requestState"], state)),
        None => edits.push(Edit::remove(&["requestState"])),
    }
    edit_object(params, &edits).unwrap_or_else(|_| params.to_owned())
}

/// Splits the `inputRequests` of a result into questions.
pub(crate) fn input_requests(required: &RawValue) -> Vec<Question> {
    let requests = member(required, "inputRequests").and_then(|raw| members(raw).ok());
    let question = |key: &str, request: &RawValue| {
        let method = member(request, "method").and_then(|raw| string(raw).ok())?;
        let params = member(request, "params").map(ToOwned::to_owned);
        Some(Question { key: key.to_owned(), method: method.into_owned(), params })
    };
    let requests = requests.unwrap_or_default();
    requests.iter().filter_map(|request| question(&request.name, request.value)).collect()
}
