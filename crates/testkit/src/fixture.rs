mod call;
mod content;
mod jobs;
mod run;
mod seal;
mod tasks;
mod tools;

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::{Value, json};
use tokio::sync::broadcast;

pub(crate) use self::call::{Call, Stop};
use self::jobs::{Client, Job};
use self::seal::Seal;
use self::tasks::Tasks;
use crate::call_log::CallLog;
use crate::era::{Era, EraMode, MODERN_VERSION};
use crate::jsonrpc::{
    Fault, INTERNAL_ERROR, META_SERVER_INFO, META_SUBSCRIPTION, METHOD_NOT_FOUND, notification,
    response, text_at,
};
use crate::session::Session;
use crate::sync::locked;

/// Change notices that a slow listener may fall behind before it loses some.
const CHANGE_QUEUE: usize = 64;

/// Lifetime of lists, in milliseconds, as told to modern clients.
const LIST_TTL_MS: u64 = 1_000;

/// Something that changed on the server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    Tools,
    Prompts,
    Resource(String),
    /// A task by its id, with its new state.
    Task(String, Value),
}

impl Change {
    pub(crate) fn to_notification(&self) -> Value {
        match self {
            Self::Tools => notification("notifications/tools/list_changed", &json!({})),
            Self::Prompts => notification("notifications/prompts/list_changed", &json!({})),
            Self::Resource(uri) => {
                notification("notifications/resources/updated", &json!({ "uri": uri }))
            }
            Self::Task(_, state) => notification("notifications/tasks", state),
        }
    }

    /// True if a `subscriptions/listen` filter asks for this change.
    fn wanted_by(&self, filter: &Value) -> bool {
        let flag = |name| filter.get(name).and_then(Value::as_bool).unwrap_or(false);
        let lists = |name, wanted: &str| {
            let listed = filter.get(name).and_then(Value::as_array);
            listed.is_some_and(|listed| listed.iter().any(|item| item == wanted))
        };
        match self {
            Self::Tools => flag("toolsListChanged"),
            Self::Prompts => flag("promptsListChanged"),
            Self::Resource(uri) => lists("resourceSubscriptions", uri),
            Self::Task(id, _) => lists("taskIds", id),
        }
    }

    /// True if a legacy session is told about this change.
    pub(crate) fn told_to(&self, session: &Session) -> bool {
        match self {
            Self::Tools | Self::Prompts => true,
            Self::Resource(uri) => locked(&session.subscribed).contains(uri),
            Self::Task(..) => false,
        }
    }
}

/// An MCP server with the tools, resources and prompts of the official conformance suite.
#[derive(Debug)]
pub struct Fixture {
    mode: EraMode,
    log: CallLog,
    seal: Seal,
    changes: broadcast::Sender<Change>,
    tasks: Tasks,
    dynamic_tool: AtomicBool,
    dynamic_prompt: AtomicBool,
    descriptions: Mutex<BTreeMap<String, String>>,
}

impl Fixture {
    /// Makes a server that speaks the given eras and writes its calls to `log`.
    #[must_use]
    pub fn new(mode: EraMode, log: CallLog) -> Self {
        let changes = broadcast::Sender::new(CHANGE_QUEUE);
        Self {
            mode,
            log,
            seal: Seal::new(),
            tasks: Tasks::new(changes.clone()),
            changes,
            dynamic_tool: AtomicBool::new(false),
            dynamic_prompt: AtomicBool::new(false),
            descriptions: Mutex::default(),
        }
    }

    /// The calls that were executed.
    #[must_use]
    pub fn log(&self) -> &CallLog {
        &self.log
    }

    /// Gives a tool another description and tells everyone that the list changed.
    pub fn redescribe(&self, tool: &str, description: &str) {
        locked(&self.descriptions).insert(tool.to_owned(), description.to_owned());
        self.announce(Change::Tools);
    }

    pub(crate) fn mode(&self) -> EraMode {
        self.mode
    }

    pub(crate) fn seal(&self) -> &Seal {
        &self.seal
    }

    pub(crate) fn listen(&self) -> broadcast::Receiver<Change> {
        self.changes.subscribe()
    }

    fn announce(&self, change: Change) {
        // No listener is no error.
        let _listeners = self.changes.send(change);
    }

    /// The definitions that `tools/list` shows now.
    pub(crate) fn tools(&self) -> Vec<Value> {
        let mut tools = tools::definitions();
        if self.dynamic_tool.load(Ordering::Relaxed) {
            tools.push(tools::plain("test_dynamic_tool", "Comes and goes"));
        }
        let descriptions = locked(&self.descriptions);
        for tool in &mut tools {
            let Some(text) = descriptions.get(text_at(tool, "/name")) else { continue };
            if let Some(description) = tool.get_mut("description") {
                *description = json!(text);
            }
        }
        tools
    }

    /// The result of `initialize`.
    pub(crate) fn greet(session: &Session) -> Value {
        json!({
            "protocolVersion": session.version,
            "capabilities": capabilities(Era::Legacy),
            "serverInfo": server_info(),
            "instructions": INSTRUCTIONS,
        })
    }

    /// Executes one request and makes the answer to it.
    pub(crate) async fn answer(&self, method: &str, id: &Value, call: &Call<'_>) -> (u16, Value) {
        let outcome = match self.dispatch(method, call).await {
            Ok(result) | Err(Stop::Result(result)) => Ok(result),
            Err(Stop::Fault(fault)) => Err(fault),
        };
        match outcome {
            Ok(result) if call.era == Era::Modern => (200, response(id, &modern(method, result))),
            Ok(result) => (200, response(id, &result)),
            Err(fault) => (fault.status, fault.to_response(id)),
        }
    }

    async fn dispatch(&self, method: &str, call: &Call<'_>) -> Result<Value, Stop> {
        match method {
            "tools/list" => Ok(json!({ "tools": self.tools() })),
            "tools/call" => self.call_tool(call).await,
            "resources/list" => Ok(json!({ "resources": content::resources() })),
            "resources/templates/list" => {
                Ok(json!({ "resourceTemplates": content::resource_templates() }))
            }
            "resources/read" => content::read(call),
            "prompts/list" => {
                let dynamic = self.dynamic_prompt.load(Ordering::Relaxed);
                Ok(json!({ "prompts": content::prompts(dynamic) }))
            }
            "prompts/get" => content::prompt(call).await,
            "completion/complete" => Ok(content::complete(call)),
            _ => match &call.session {
                Some(session) => legacy_only(method, session, call),
                None => self.modern_only(method, call).await,
            },
        }
    }

    async fn call_tool(&self, call: &Call<'_>) -> Result<Value, Stop> {
        let name = text_at(&call.params, "/name");
        if !self.tools().iter().any(|tool| text_at(tool, "/name") == name) {
            return Err(Fault::invalid_params(format!("unknown tool `{name}`")).into());
        }
        self.log
            .record(&call.params)
            .map_err(|error| Fault::new(500, INTERNAL_ERROR, error.to_string()))?;
        match name {
            "test_trigger_tool_change" => {
                self.dynamic_tool.fetch_xor(true, Ordering::Relaxed);
                self.announce(Change::Tools);
                Ok(run::text("the list of tools changed"))
            }
            "test_trigger_prompt_change" => {
                self.dynamic_prompt.fetch_xor(true, Ordering::Relaxed);
                self.announce(Change::Prompts);
                Ok(run::text("the list of prompts changed"))
            }
            "test_trigger_resource_change" => {
                let uri = text_at(&call.params, "/arguments/uri").to_owned();
                self.announce(Change::Resource(uri));
                Ok(run::text("the resource changed"))
            }
            _ => match Job::find(name) {
                Some(job) => self.start(job, call).await,
                None => run::tool(name, call).await,
            },
        }
    }

    /// Runs a job as a task where the client knows tasks, else while it waits.
    async fn start(&self, job: &'static Job, call: &Call<'_>) -> Result<Value, Stop> {
        let as_task = call.era == Era::Modern && tasks::has_extension(call);
        if call.era == Era::Modern && job.needs_task {
            tasks::require_extension(call)?;
        }
        let arguments = jobs::prepare(job, call).await?;
        if as_task {
            return Ok(self.tasks.start(job, arguments));
        }
        jobs::run(job, &arguments, &Client::Call(call)).await
    }

    async fn modern_only(&self, method: &str, call: &Call<'_>) -> Result<Value, Stop> {
        match method {
            "server/discover" => Ok(json!({
                "supportedVersions": [MODERN_VERSION],
                "capabilities": capabilities(Era::Modern),
                "instructions": INSTRUCTIONS,
            })),
            "subscriptions/listen" => self.subscribe(call).await,
            _ if method.starts_with("tasks/") => self.tasks.answer(method, call),
            _ => Err(unknown_method(method, 404)),
        }
    }

    /// Acknowledges a subscription and forwards what it asked for, until the request is dropped.
    async fn subscribe(&self, call: &Call<'_>) -> Result<Value, Stop> {
        if call.params.pointer("/notifications/taskIds").is_some() {
            tasks::require_extension(call)?;
        }
        let mut changes = self.listen();
        let filter = call.params.get("notifications").cloned().unwrap_or(json!({}));
        let tag = json!({ META_SUBSCRIPTION: call.id });
        let acknowledged = json!({ "notifications": filter, "_meta": tag });
        call.notify("notifications/subscriptions/acknowledged", &acknowledged).await;
        loop {
            match changes.recv().await {
                Ok(change) if change.wanted_by(&filter) => {
                    let mut message = change.to_notification();
                    if let Some(params) = message.get_mut("params").and_then(Value::as_object_mut) {
                        params.insert("_meta".into(), tag.clone());
                    }
                    call.send(message).await;
                }
                Ok(_) | Err(broadcast::error::RecvError::Lagged(_)) => {}
                Err(broadcast::error::RecvError::Closed) => return Ok(json!({ "_meta": tag })),
            }
        }
    }
}

/// What the server tells a model about itself.
const INSTRUCTIONS: &str = "A server for tests; it does nothing useful.";

fn server_info() -> Value {
    json!({ "name": "countersign-fixture", "version": env!("CARGO_PKG_VERSION") })
}

fn capabilities(era: Era) -> Value {
    let mut capabilities = json!({
        "tools": { "listChanged": true },
        "resources": { "subscribe": true },
        "prompts": { "listChanged": true },
        "completions": {},
    });
    if let Some(fields) = capabilities.as_object_mut() {
        match era {
            Era::Legacy => fields.insert("logging".into(), json!({})),
            Era::Modern => fields.insert("extensions".into(), json!({ tasks::EXTENSION: {} })),
        };
    }
    capabilities
}

fn unknown_method(method: &str, status: u16) -> Stop {
    Fault::new(status, METHOD_NOT_FOUND, format!("unknown method `{method}`")).into()
}

fn legacy_only(method: &str, session: &Session, call: &Call<'_>) -> Result<Value, Stop> {
    let uri = || text_at(&call.params, "/uri").to_owned();
    match method {
        "ping" => {}
        "logging/setLevel" => {
            let level = text_at(&call.params, "/level").to_owned();
            *locked(&session.log_level) = Some(level);
        }
        "resources/subscribe" => {
            locked(&session.subscribed).insert(uri());
        }
        "resources/unsubscribe" => {
            locked(&session.subscribed).remove(&uri());
        }
        _ => return Err(unknown_method(method, 200)),
    }
    Ok(json!({}))
}

/// Adds what every modern result carries: its type, the server's name, and cache hints.
fn modern(method: &str, mut result: Value) -> Value {
    let Some(fields) = result.as_object_mut() else { return result };
    fields.entry("resultType").or_insert_with(|| json!("complete"));
    let meta = fields.entry("_meta").or_insert_with(|| json!({}));
    if let Some(meta) = meta.as_object_mut() {
        meta.insert(META_SERVER_INFO.into(), server_info());
    }
    let complete = fields.get("resultType").is_some_and(|kind| kind == "complete");
    let hints = match method {
        "tools/list"
        | "prompts/list"
        | "resources/list"
        | "resources/templates/list"
        | "server/discover" => Some((LIST_TTL_MS, "public")),
        "resources/read" if complete => Some((0, "private")),
        _ => None,
    };
    if let Some((ttl, scope)) = hints {
        fields.insert("ttlMs".into(), json!(ttl));
        fields.insert("cacheScope".into(), json!(scope));
    }
    result
}
