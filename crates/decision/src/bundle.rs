//! Bundles: all rules of one version, loaded from plain files.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use cedar_policy::{Schema, SchemaFragment};
use countersign_model::{AgentFacts, ServerName, ToolName};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::catalog::{self, Server, Tool};
use crate::diagnostic::{Diagnostic, Severity};
use crate::index::Index;
use crate::limits::{BUNDLE_FILE_BYTES_MAX, BUNDLE_FILES_MAX, POLICIES_MAX};
use crate::policy::{self, PolicyInfo, Rule};
use crate::request::Entities;
use crate::{digest, schema, validate, visibility};

/// The files of a bundle: path, with `/` between its parts, to content.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BundleFiles(pub BTreeMap<String, Vec<u8>>);

impl BundleFiles {
    /// Returns path, file name without extension and content of the files directly in a folder.
    pub(crate) fn in_folder<'a>(
        &'a self,
        folder: &'a str,
        extension: &'a str,
    ) -> impl Iterator<Item = (&'a str, &'a str, &'a [u8])> {
        self.0.iter().filter_map(move |(path, bytes)| {
            let stem = path.strip_prefix(folder)?.strip_suffix(extension)?;
            (!stem.contains('/')).then_some((path.as_str(), stem, bytes.as_slice()))
        })
    }

    /// Returns the SHA-256, in lower-case hexadecimal, over the canonical form (RFC 8785) of
    /// `{path: SHA-256 of the content}` of all files but those in `tests/`.
    #[must_use]
    pub fn hash(&self) -> String {
        let digests: serde_json::Map<_, _> = self
            .0
            .iter()
            .filter(|(path, _)| !path.starts_with("tests/"))
            .map(|(path, bytes)| (path.clone(), Value::from(digest::sha256_hex(bytes))))
            .collect();
        digest::sha256_hex(digest::canonical(&Value::Object(digests)).as_bytes())
    }
}

/// An immutable version of all rules, checked and ready to decide.
#[derive(Debug)]
pub struct Bundle {
    files: BundleFiles,
    hash: String,
    warnings: Vec<Diagnostic>,
    servers: Vec<Server>,
    tools: HashMap<ToolName, (usize, usize)>,
    schema: String,
    pub(crate) rules: BTreeMap<String, Rule>,
    pub(crate) index: Index,
    pub(crate) entities: Entities,
}

impl Bundle {
    /// Loads and checks a bundle.
    ///
    /// # Errors
    ///
    /// Returns every error, then every warning, in the order of files and lines.
    pub fn load(files: &BundleFiles) -> Result<Self, Vec<Diagnostic>> {
        let mut found = limits(files);
        if !found.is_empty() {
            return Err(found);
        }
        let servers = catalog::load(files, &mut found);
        let sources = sources(files, &mut found);
        let rules = rules(&sources, &mut found);
        let (schema, schema_text) = match cedar_schema(&servers) {
            Ok(schema) => schema,
            Err(fault) => {
                found.push(fault);
                return Err(sorted(found));
            }
        };
        let entities = Entities::of(&schema, &servers).map_err(|fault| vec![fault])?;
        let live = schema::live_actions(&servers);
        found.extend(validate::check(&rules, &sources, schema, &live));
        let index = Index::of(&rules).map_err(|fault| vec![fault])?;
        let found = sorted(found);
        if found.iter().any(|one| one.severity == Severity::Error) {
            return Err(found);
        }
        Ok(Self {
            files: files.clone(),
            hash: files.hash(),
            warnings: found,
            tools: positions(&servers),
            servers,
            schema: schema_text,
            rules: rules.into_iter().map(|rule| (rule.info.id.clone(), rule)).collect(),
            index,
            entities,
        })
    }

    /// Returns the bundle's hash, see [`BundleFiles::hash`].
    #[must_use]
    pub fn hash(&self) -> &str {
        &self.hash
    }

    /// Returns the files that the bundle was loaded from.
    #[must_use]
    pub fn files(&self) -> &BundleFiles {
        &self.files
    }

    /// Returns what someone should look at, in the order of files and lines.
    #[must_use]
    pub fn warnings(&self) -> &[Diagnostic] {
        &self.warnings
    }

    /// Returns the generated Cedar schema as text.
    #[must_use]
    pub fn schema(&self) -> &str {
        &self.schema
    }

    /// Returns a pinned tool.
    #[must_use]
    pub fn tool(&self, name: &ToolName) -> Option<&Tool> {
        let (server, tool) = *self.tools.get(name)?;
        self.servers.get(server)?.tools.get(tool)
    }

    /// Returns a server.
    #[must_use]
    pub fn server(&self, name: &ServerName) -> Option<&Server> {
        let at = self.servers.binary_search_by(|server| server.name.cmp(name)).ok()?;
        self.servers.get(at)
    }

    /// Returns all servers in the order of their names.
    #[must_use]
    pub fn servers(&self) -> &[Server] {
        &self.servers
    }

    /// Returns what the policies' annotations say, in the order of their ids.
    pub fn policies(&self) -> impl Iterator<Item = &PolicyInfo> {
        self.rules.values().map(|rule| &rule.info)
    }

    /// Returns what the annotations of one policy say.
    #[must_use]
    pub fn policy(&self, id: &str) -> Option<&PolicyInfo> {
        self.rules.get(id).map(|rule| &rule.info)
    }

    /// Says whether some call of this action by this agent could go on or be held, whatever its
    /// arguments: whether to show a tool in a list.
    ///
    /// `action` is a tool (`crm/refund`) or a method's action (`mcp.resource.read`). A policy that
    /// reads the context counts by its scope alone; a `forbid` that does never hides. An error hides.
    #[must_use]
    pub fn could_allow(&self, agent: &AgentFacts, server: &ServerName, action: &str) -> bool {
        visibility::could_allow(self, agent, server, action)
    }
}

fn limits(files: &BundleFiles) -> Vec<Diagnostic> {
    if files.0.len() > BUNDLE_FILES_MAX {
        let message = format!("a bundle has at most {BUNDLE_FILES_MAX} files");
        return vec![Diagnostic::error("", message)];
    }
    let too_long = |(path, bytes): (&String, &Vec<u8>)| {
        let message = format!("a file has at most {BUNDLE_FILE_BYTES_MAX} bytes");
        (bytes.len() > BUNDLE_FILE_BYTES_MAX).then(|| Diagnostic::error(path, message))
    };
    files.0.iter().filter_map(too_long).collect()
}

/// Decodes the policy files; warns of files that no one reads.
fn sources(files: &BundleFiles, found: &mut Vec<Diagnostic>) -> BTreeMap<String, String> {
    let mut sources = BTreeMap::new();
    for (path, _, bytes) in files.in_folder("policies/", ".cedar") {
        match std::str::from_utf8(bytes) {
            Ok(source) => drop(sources.insert(path.to_owned(), source.to_owned())),
            Err(_) => found.push(Diagnostic::error(path, "the file is not UTF-8")),
        }
    }
    let known: BTreeSet<&str> = [
        ("policies/", ".cedar"),
        ("manifests/", ".toml"),
        ("tools/", ".json"),
        ("tests/", ".toml"),
    ]
    .into_iter()
    .flat_map(|(folder, extension)| files.in_folder(folder, extension))
    .map(|(path, ..)| path)
    .collect();
    for path in files.0.keys().filter(|path| !known.contains(path.as_str())) {
        if path != "README.md" {
            let help =
                "a bundle has policies/*.cedar, manifests/*.toml, tools/*.json, tests/*.toml";
            found.push(Diagnostic::warning(path, "the file is not used").help(help));
        }
    }
    sources
}

fn rules(sources: &BTreeMap<String, String>, found: &mut Vec<Diagnostic>) -> Vec<Rule> {
    let mut ids: HashMap<String, String> = HashMap::new();
    let mut rules = Vec::new();
    let parsed: Vec<_> =
        sources.iter().flat_map(|(file, source)| policy::parse(file, source, found)).collect();
    for rule in parsed {
        let PolicyInfo { id, file, line, .. } = &rule.info;
        match ids.insert(id.clone(), format!("{file}:{line}")) {
            None => rules.push(rule),
            Some(first) => {
                let message = format!("policy `{id}` is already in `{first}`");
                let fault =
                    Diagnostic { line: *line, column: 1, ..Diagnostic::error(file, message) };
                found.push(fault.help("every `@id` is unique"));
            }
        }
    }
    if rules.len() > POLICIES_MAX {
        let message = format!("a bundle has at most {POLICIES_MAX} policies");
        found.push(Diagnostic::error("policies", message));
    }
    rules
}

fn cedar_schema(servers: &[Server]) -> Result<(Schema, String), Diagnostic> {
    let fault = |error: String| Diagnostic::error("tools", format!("no Cedar schema: {error}"));
    let fragment = SchemaFragment::from_json_value(schema::generate(servers))
        .map_err(|error| fault(error.to_string()))?;
    let text = fragment.to_cedarschema().map_err(|error| fault(error.to_string()))?;
    let schema: Schema =
        fragment.try_into().map_err(|error: cedar_policy::SchemaError| fault(error.to_string()))?;
    Ok((schema, text))
}

fn positions(servers: &[Server]) -> HashMap<ToolName, (usize, usize)> {
    let tools = |(at, server): (usize, &Server)| {
        let names = server.tools.iter().enumerate();
        names.map(|(tool, it)| (it.name.clone(), (at, tool))).collect::<Vec<_>>()
    };
    servers.iter().enumerate().flat_map(tools).collect()
}

fn sorted(mut found: Vec<Diagnostic>) -> Vec<Diagnostic> {
    found.sort_by(|a, b| (a.severity, a).cmp(&(b.severity, b)));
    found.dedup();
    found
}
