//! Messages outside any call: list changes, resource updates, log lines.
//!
//! Clients of the stateful era get them on their session's stream, clients of the stateless era on
//! the response to `subscriptions/listen`.

use std::sync::Arc;

use axum::response::Response;
use countersign_model::ServerName;
use serde_json::value::RawValue;
use serde_json::{Map, Value, json};
use tokio::sync::{mpsc, oneshot};

use super::call::{self, Governed};
use super::link::Link;
use super::route::Route;
use super::serve::Context;
use super::session::LegacySession;
use super::{http, lists, message};
use crate::envelope::{Edit, edit_object, member, string};
use crate::limits::{STREAM_QUEUE, SUBSCRIBED_URIS_MAX};
use crate::pipeline::CallRequest;
use crate::refusal::{RpcError, code};
use crate::upstream::{Era, Event, Exchange, Session, SessionEvent};

/// `_meta` key by which a client tells its subscriptions apart.
const SUBSCRIPTION_ID: &str = "io.modelcontextprotocol/subscriptionId";

/// Passes a server's messages outside any call on to the session's stream, as long as both live.
pub(crate) fn follow(
    context: &Context,
    client: &Arc<LegacySession>,
    server: &ServerName,
    session: &Arc<Session>,
) {
    if !client.start_listening(server, session) {
        return;
    }
    let weak = Arc::downgrade(client);
    let (route, server) = (context.route.clone(), server.clone());
    let mut events = session.events();
    // A weak handle: listening must not keep an unused session open.
    let session = Arc::downgrade(session);
    tokio::spawn(async move {
        while let Ok(event) = events.recv().await {
            let Some(client) = weak.upgrade() else { return };
            match event {
                SessionEvent::Notification { method, params } => {
                    if let Some(text) = passed(&route, &server, &method, params.as_deref()) {
                        client.push(text);
                    }
                }
                SessionEvent::ServerRequest { id, .. } => {
                    let refused = json!({"code": code::INVALID_REQUEST,
                        "message": "requests outside a call are not passed on"});
                    if let Some(session) = session.upgrade() {
                        let _ = session.answer(&id, Err(message::raw(refused.to_string()))).await;
                    }
                }
                SessionEvent::Closed(_) => break,
            }
        }
    });
}

/// Passes updates of one resource on to the session's stream until the subscription ends.
pub(crate) fn relay_updates(
    context: &Context,
    client: &Arc<LegacySession>,
    server: &ServerName,
    mut exchange: Exchange,
    mut ended: oneshot::Receiver<()>,
) {
    // A weak handle: the session holds the subscription, not the other way round.
    let client = Arc::downgrade(client);
    let (route, server) = (context.route.clone(), server.clone());
    tokio::spawn(async move {
        loop {
            let event = tokio::select! {
                event = exchange.next() => event,
                _ = &mut ended => {
                    exchange.cancel("unsubscribed");
                    return;
                }
            };
            match event {
                Event::Notification { method, params } => {
                    let text = passed(&route, &server, &method, params.as_deref());
                    if let (Some(client), Some(text)) = (client.upgrade(), text) {
                        client.push(text);
                    }
                }
                Event::ServerRequest { .. } => {}
                Event::Result(_) | Event::Error(_) | Event::Lost { .. } => return,
            }
        }
    });
}

/// Gives the client's form of a message outside any call, if it is passed. Changed tools are not: what
/// the client sees are the pins, which did not change.
fn passed(
    route: &Route,
    server: &ServerName,
    method: &str,
    params: Option<&RawValue>,
) -> Option<String> {
    match method {
        "notifications/prompts/list_changed"
        | "notifications/resources/list_changed"
        | "notifications/message" => Some(message::notification(method, params)),
        "notifications/resources/updated" => {
            let params = params?;
            let uri = member(params, "uri").and_then(|raw| string(raw).ok())?;
            let outer =
                message::raw(Value::from(route.outer_uri(server, &uri).as_ref()).to_string());
            let params = edit_object(params, &[Edit::set(&["uri"], &outer)]).ok()?;
            Some(message::notification(method, Some(&params)))
        }
        _ => None,
    }
}

/// What a client wants to hear, as `notifications` in `subscriptions/listen`.
#[derive(Clone, Debug, Default)]
struct Filter {
    tools: bool,
    prompts: bool,
    resources: bool,
    uris: Vec<String>,
}

impl Filter {
    fn parse(params: Option<&RawValue>) -> Result<Self, RpcError> {
        let invalid = |text: &str| RpcError::new(code::INVALID_PARAMS, text);
        let wanted = params.and_then(|params| member(params, "notifications"));
        let wanted: Value = wanted
            .and_then(|raw| serde_json::from_str(raw.get()).ok())
            .filter(Value::is_object)
            .ok_or_else(|| invalid("`notifications` must be an object"))?;
        let flag = |name: &str| wanted.get(name).and_then(Value::as_bool).unwrap_or(false);
        let uris = match wanted.get("resourceSubscriptions") {
            None | Some(Value::Null) => Vec::new(),
            Some(list) => serde_json::from_value::<Vec<String>>(list.clone())
                .map_err(|_| invalid("`resourceSubscriptions` must be a list of URIs"))?,
        };
        if uris.len() > SUBSCRIBED_URIS_MAX {
            return Err(invalid("too many resource subscriptions"));
        }
        Ok(Self {
            tools: flag("toolsListChanged"),
            prompts: flag("promptsListChanged"),
            resources: flag("resourcesListChanged"),
            uris,
        })
    }

    fn to_json(&self) -> Value {
        let mut granted = Map::new();
        for (name, flag) in [
            ("toolsListChanged", self.tools),
            ("promptsListChanged", self.prompts),
            ("resourcesListChanged", self.resources),
        ] {
            if flag {
                granted.insert(name.into(), true.into());
            }
        }
        if !self.uris.is_empty() {
            granted.insert("resourceSubscriptions".into(), self.uris.clone().into());
        }
        Value::Object(granted)
    }

    /// Tells whether a notification is one that the client asked for.
    fn wants(&self, method: &str) -> bool {
        match method {
            "notifications/tools/list_changed" => self.tools,
            "notifications/prompts/list_changed" => self.prompts,
            "notifications/resources/list_changed" => self.resources,
            "notifications/resources/updated" => !self.uris.is_empty(),
            _ => false,
        }
    }
}

/// Opens a subscription stream of the stateless era.
pub(crate) fn listen(context: Context, id: &RawValue, params: Option<&RawValue>) -> Response {
    let filter = match Filter::parse(params) {
        Ok(filter) => filter,
        Err(error) => return http::rpc_error(Some(id), &error),
    };
    let mut servers: Vec<ServerName> = match &context.route {
        Route::One(server) => vec![server.clone()],
        Route::All if filter.tools || filter.prompts || filter.resources => {
            lists::subscribable(&context)
        }
        Route::All => filter
            .uris
            .iter()
            .filter_map(|uri| context.route.inner_uri(uri))
            .map(|(server, _)| server)
            .collect(),
    };
    servers.sort();
    servers.dedup();
    let (out, messages) = mpsc::channel::<String>(STREAM_QUEUE);
    let id = id.to_owned();
    tokio::spawn(async move {
        let (granted, sources) = open(&context, filter, &servers).await;
        let acknowledged = json!({"notifications": granted.to_json()});
        let acknowledged = tagged(&id, &message::raw(acknowledged.to_string()));
        let method = "notifications/subscriptions/acknowledged";
        if out.send(message::notification(method, Some(&acknowledged))).await.is_err() {
            return;
        }
        let quiet = sources.is_empty(); // no server has anything to say, which is no end
        let relays = sources
            .into_iter()
            .map(|source| relay(context.route.clone(), &granted, source, out.clone(), &id));
        tokio::select! {
            _ = futures_util::future::join_all(relays), if !quiet => {}
            () = out.closed() => {}
        }
        // Servers gone: end with a result, so that the client knows that nothing more comes.
        let result = json!({"resultType": "complete"});
        let result = tagged(&id, &message::raw(result.to_string()));
        let _ = out.send(message::response(&id, result.get())).await;
    });
    http::message_stream(messages)
}

/// Where messages of one server come from.
struct Source {
    server: ServerName,
    session: Arc<Session>,
    /// The open `subscriptions/listen` of a server of the stateless era.
    exchange: Option<Exchange>,
}

/// Subscribes at the servers to what policy grants.
async fn open(
    context: &Context,
    mut filter: Filter,
    servers: &[ServerName],
) -> (Filter, Vec<Source>) {
    let mut granted = Vec::new();
    let mut sources = Vec::new();
    for server in servers {
        let Ok(session) = lists::session(context, server).await else { continue };
        let modern = matches!(session.era(), Era::Modern { .. });
        let mut uris = Vec::new();
        for uri in &filter.uris {
            let Some((of, _)) = context.route.inner_uri(uri) else { continue };
            if of == *server && subscribe(context, uri, modern).await {
                uris.push(uri.clone());
            }
        }
        granted.extend(uris.iter().cloned());
        let exchange = if modern {
            let wanted = Filter { uris, ..filter.clone() };
            listen_upstream(context, server, &wanted, &session).await
        } else {
            None
        };
        sources.push(Source { server: server.clone(), session, exchange });
    }
    filter.uris = granted;
    (filter, sources)
}

/// Asks policy, and a server of the stateful era, for updates of one resource.
async fn subscribe(context: &Context, uri: &str, modern: bool) -> bool {
    let params = message::raw(json!({"uri": uri}).to_string());
    let Ok(request) = call::parse(context, Governed::ResourcesSubscribe, Some(&params)) else {
        return false;
    };
    if modern {
        return context.gateway.pipeline.would_allow(&request).await;
    }
    context.gateway.pipeline.run(request, context, &Link::nobody()).await.is_ok()
}

/// Opens the subscription of a server of the stateless era.
async fn listen_upstream(
    context: &Context,
    server: &ServerName,
    filter: &Filter,
    session: &Arc<Session>,
) -> Option<Exchange> {
    let mut inner = filter.to_json();
    let uris: Vec<_> = filter
        .uris
        .iter()
        .filter_map(|uri| context.route.inner_uri(uri))
        .filter(|(of, _)| of == server)
        .map(|(_, uri)| Value::from(uri))
        .collect();
    if let Some(object) = inner.as_object_mut() {
        object.remove("resourceSubscriptions");
        if !uris.is_empty() {
            object.insert("resourceSubscriptions".into(), uris.into());
        }
    }
    let request = CallRequest {
        caller: context.caller.clone(),
        method: "subscriptions/listen",
        server: server.clone(),
        tool: None,
        target: None,
        arguments: inner.clone(),
        params: message::raw(json!({"notifications": inner}).to_string()),
        session: None,
        idempotency_key: None,
    };
    context.gateway.pipeline.open(&request, session).await.ok()
}

/// Passes on what one server sends, until it ends.
async fn relay(
    route: Route,
    granted: &Filter,
    mut source: Source,
    out: mpsc::Sender<String>,
    id: &RawValue,
) {
    let mut events = source.session.events();
    loop {
        let (method, params) = match &mut source.exchange {
            Some(exchange) => match exchange.next().await {
                Event::Notification { method, params } => (method, params),
                Event::ServerRequest { .. } => continue,
                Event::Result(_) | Event::Error(_) | Event::Lost { .. } => return,
            },
            None => match events.recv().await {
                Ok(SessionEvent::Notification { method, params }) => {
                    (method.to_string(), params.map(|params| params.as_ref().to_owned()))
                }
                Ok(SessionEvent::Closed(_))
                | Err(tokio::sync::broadcast::error::RecvError::Closed) => {
                    return;
                }
                Ok(_) | Err(_) => continue,
            },
        };
        if !granted.wants(&method) {
            continue;
        }
        let params = params.unwrap_or_else(|| message::raw("{}".into()));
        let params =
            match (method.as_str(), member(&params, "uri").and_then(|raw| string(raw).ok())) {
                ("notifications/resources/updated", Some(uri)) => {
                    let outer = route.outer_uri(&source.server, &uri).into_owned();
                    if !granted.uris.contains(&outer) {
                        continue;
                    }
                    let outer = message::raw(Value::from(outer).to_string());
                    edit_object(&params, &[Edit::set(&["uri"], &outer)]).unwrap_or(params.clone())
                }
                _ => params,
            };
        let params = tagged(id, &params);
        if out.send(message::notification(&method, Some(&params))).await.is_err() {
            return;
        }
    }
}

/// Marks a message with the client's own subscription id.
fn tagged(id: &RawValue, params: &RawValue) -> Box<RawValue> {
    edit_object(params, &[Edit::set(&["_meta", SUBSCRIPTION_ID], id)])
        .unwrap_or_else(|_| params.to_owned())
}
