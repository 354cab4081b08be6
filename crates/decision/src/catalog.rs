//! Servers and their tools: pinned definitions and what the manifests say about them.

use std::collections::BTreeMap;
use std::str::FromStr;

use countersign_model::{Environment, ServerName, ToolName};
use jsonschema::Validator;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use serde_json::value::RawValue;

use crate::argument_types::{self, Fields};
use crate::bundle::BundleFiles;
use crate::diagnostic::Diagnostic;
use crate::limits::SERVER_TOOLS_MAX;
use crate::{digest, input_schema};

/// Whether calls of a tool carry an idempotency key.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum IdempotencyMode {
    /// The caller must send a key.
    Required,
    /// The gateway makes a key of the call where the caller sends none.
    Derived,
    /// Calls are independent of each other.
    #[default]
    None,
}

/// An upstream server as the bundle describes it.
#[derive(Debug)]
pub struct Server {
    /// The server's name.
    pub name: ServerName,
    /// Where the server runs.
    pub environment: Environment,
    /// The pinned `instructions`, as the server sent them.
    pub instructions: Option<String>,
    /// The pinned tools in the order in which the server listed them.
    pub tools: Vec<Tool>,
}

/// A pinned tool.
#[derive(Debug)]
pub struct Tool {
    /// The tool's name in policy and records.
    pub name: ToolName,
    /// The definition exactly as the server sent it.
    pub definition: Box<RawValue>,
    /// The pin of the definition, see [`crate::pin`].
    pub pin: String,
    /// Risk tags, sorted.
    pub tags: Vec<String>,
    /// Whether calls carry an idempotency key.
    pub idempotency: IdempotencyMode,
    /// How long the upstream may take, in milliseconds.
    pub timeout_ms: Option<u64>,
    /// How long a result may be, in bytes.
    pub result_bytes_max: Option<u64>,
    pub(crate) validator: Validator,
    pub(crate) fields: Fields,
}

/// `manifests/<server>.toml`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Manifest {
    environment: Environment,
    #[serde(default)]
    tools: BTreeMap<String, ToolManifest>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct ToolManifest {
    tags: Vec<String>,
    idempotency: IdempotencyMode,
    timeout_ms: Option<u64>,
    result_bytes_max: Option<u64>,
}

/// `tools/<server>.json`.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Inventory {
    server: String,
    #[serde(default)]
    instructions: Option<String>,
    tools: Vec<Box<RawValue>>,
}

/// Loads all servers, in the order of their names.
pub(crate) fn load(files: &BundleFiles, found: &mut Vec<Diagnostic>) -> Vec<Server> {
    let mut inventories: BTreeMap<_, _> = files
        .in_folder("tools/", ".json")
        .filter_map(|(path, stem, bytes)| {
            let inventory = inventory(path, stem, bytes).map_err(|fault| found.push(fault)).ok()?;
            Some((stem.to_owned(), (path.to_owned(), inventory)))
        })
        .collect();
    let mut servers = Vec::new();
    for (path, stem, bytes) in files.in_folder("manifests/", ".toml") {
        let pinned = inventories.remove(stem);
        match manifest(path, stem, bytes) {
            Ok((name, manifest)) => servers.push(server(name, path, manifest, pinned, found)),
            Err(fault) => found.push(fault),
        }
    }
    // By file name, `crm-eu.toml` comes before `crm.toml`.
    servers.sort_by(|a: &Server, b| a.name.cmp(&b.name));
    for (stem, (path, _)) in inventories {
        let help = format!("add `manifests/{stem}.toml` with `environment = \"…\"`");
        found.push(Diagnostic::error(&path, format!("server `{stem}` has no manifest")).help(help));
    }
    servers
}

fn inventory(path: &str, stem: &str, bytes: &[u8]) -> Result<Inventory, Diagnostic> {
    let inventory: Inventory =
        serde_json::from_slice(bytes).map_err(|error| json_fault(path, bytes, &error))?;
    if inventory.server != stem {
        let message = format!("the file is about server `{}`", inventory.server);
        return Err(Diagnostic::error(path, message).help("name the file after its server"));
    }
    if inventory.tools.len() > SERVER_TOOLS_MAX {
        let message = format!("a server has at most {SERVER_TOOLS_MAX} pinned tools");
        return Err(Diagnostic::error(path, message));
    }
    Ok(inventory)
}

fn json_fault(path: &str, bytes: &[u8], error: &serde_json::Error) -> Diagnostic {
    let source = String::from_utf8_lossy(bytes);
    let line_start: usize =
        source.split_inclusive('\n').take(error.line().saturating_sub(1)).map(str::len).sum();
    Diagnostic::error(path, error.to_string())
        .at(&source, line_start + error.column().saturating_sub(1))
}

fn manifest(path: &str, stem: &str, bytes: &[u8]) -> Result<(ServerName, Manifest), Diagnostic> {
    let name = ServerName::from_str(stem)
        .map_err(|error| Diagnostic::error(path, error.to_string()).help("rename the file"))?;
    Ok((name, parse_toml(path, bytes)?))
}

/// Parses a TOML file of the bundle.
pub(crate) fn parse_toml<T: for<'de> Deserialize<'de>>(
    path: &str,
    bytes: &[u8],
) -> Result<T, Diagnostic> {
    let source =
        std::str::from_utf8(bytes).map_err(|_| Diagnostic::error(path, "the file is not UTF-8"))?;
    toml::from_str(source).map_err(|error| {
        let fault = Diagnostic::error(path, error.message());
        match error.span() {
            Some(span) => fault.at(source, span.start),
            None => fault,
        }
    })
}

fn server(
    name: ServerName,
    manifest_path: &str,
    manifest: Manifest,
    pinned: Option<(String, Inventory)>,
    found: &mut Vec<Diagnostic>,
) -> Server {
    let Manifest { environment, tools: mut settings } = manifest;
    let (path, inventory) = pinned.unwrap_or_default();
    let mut tools: Vec<Tool> = Vec::new();
    for definition in inventory.tools {
        match tool(&name, definition, &mut settings) {
            Ok(tool) if tools.iter().any(|other| other.name == tool.name) => {
                found.push(Diagnostic::error(&path, format!("`{}` is pinned twice", tool.name)));
            }
            Ok(tool) => tools.push(tool),
            Err(message) => found.push(Diagnostic::error(&path, message)),
        }
    }
    for unpinned in settings.keys() {
        found.push(
            Diagnostic::warning(manifest_path, format!("tool `{name}/{unpinned}` is not pinned"))
                .help("pin the server's tools, or correct the name"),
        );
    }
    for tag in tools.iter().flat_map(|tool| &tool.tags).filter(|tag| !is_tag(tag)) {
        let rule = "lower-case letters, digits and hyphens";
        found.push(Diagnostic::error(manifest_path, format!("tag `{tag}` may only have {rule}")));
    }
    Server { name, environment, instructions: inventory.instructions, tools }
}

fn is_tag(tag: &str) -> bool {
    let letter = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    !tag.is_empty() && tag.len() <= 64 && tag.bytes().all(letter)
}

fn tool(
    server: &ServerName,
    definition: Box<RawValue>,
    settings: &mut BTreeMap<String, ToolManifest>,
) -> Result<Tool, String> {
    let value: Value = serde_json::from_str(definition.get()).map_err(|error| error.to_string())?;
    let own_name = value.get("name").and_then(Value::as_str).ok_or("a tool has no `name`")?;
    let name = ToolName::new(server.clone(), own_name).map_err(|error| error.to_string())?;
    let schema =
        value.get("inputSchema").ok_or_else(|| format!("tool `{name}` has no `inputSchema`"))?;
    let validator = input_schema::compile(schema)
        .map_err(|error| format!("the `inputSchema` of tool `{name}` cannot be used: {error}"))?;
    let ToolManifest { mut tags, idempotency, timeout_ms, result_bytes_max } =
        settings.remove(own_name).unwrap_or_default();
    tags.sort();
    tags.dedup();
    Ok(Tool {
        name,
        pin: digest::pin(&value),
        tags,
        idempotency,
        timeout_ms,
        result_bytes_max,
        validator,
        fields: argument_types::fields(schema),
        definition,
    })
}
