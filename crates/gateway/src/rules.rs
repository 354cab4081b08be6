//! The rules in force: policy files and pinned tool definitions, swapped whole.
//!
//! A server's tool definitions are pinned when the gateway first sees the server, unless the bundle
//! brings approved pins of its own. From then on agents see the pinned definitions, and a tool whose
//! live definition differs is refused until an operator pins it again.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use arc_swap::ArcSwap;
use countersign_decision::{Bundle, BundleFiles, Diagnostic};
use countersign_model::{Environment, ServerName, ToolName};
use serde_json::value::RawValue;
use serde_json::{Value, json};

use crate::pipeline::CallRequest;

/// One immutable version of the rules.
#[derive(Debug)]
pub struct Current {
    /// Policies, manifests and pins.
    pub bundle: Bundle,
    /// The hash of each tool's definition as its server gave it last, where the server was seen.
    live: Arc<RwLock<HashMap<ServerName, HashMap<String, String>>>>,
}

impl Current {
    /// Tells whether the server's live definition of the called tool differs from the pinned one.
    ///
    /// A tool that the server did not list is no mismatch: servers list tools by client capability.
    #[must_use]
    pub fn pin_mismatch(&self, request: &CallRequest) -> bool {
        request.tool.as_ref().is_some_and(|tool| self.tool_drifted(tool))
    }

    fn tool_drifted(&self, tool: &ToolName) -> bool {
        let live = self.live.read().unwrap_or_else(PoisonError::into_inner);
        let seen = live.get(tool.server()).and_then(|tools| tools.get(tool.tool()));
        match (seen, self.bundle.tool(tool)) {
            (Some(seen), Some(pinned)) => *seen != pinned.pin,
            _ => false,
        }
    }
}

/// Says why rules could not be loaded.
#[derive(Debug, thiserror::Error)]
pub enum RulesError {
    /// A file could not be read or written.
    #[error("cannot access `{}`", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The bundle has errors.
    #[error("the policy bundle has errors: {}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))]
    Bundle(Vec<Diagnostic>),
}

/// Holds the rules in force.
#[derive(Debug)]
pub struct Rules {
    policies: PathBuf,
    pins: PathBuf,
    environments: Mutex<BTreeMap<ServerName, Environment>>,
    current: ArcSwap<Current>,
}

impl Rules {
    /// Loads the bundle in the folder `policies` with the pins in the folder `pins`.
    ///
    /// A server without a manifest in the bundle gets one that names its environment of
    /// `environments`, and nothing else.
    ///
    /// # Errors
    ///
    /// Fails if a file cannot be read or the bundle has errors.
    pub fn load(
        policies: &Path,
        pins: &Path,
        environments: BTreeMap<ServerName, Environment>,
    ) -> Result<Self, RulesError> {
        let bundle = load(policies, pins, &environments)?;
        let current = Current { bundle, live: Arc::default() };
        Ok(Self {
            policies: policies.to_owned(),
            pins: pins.to_owned(),
            environments: Mutex::new(environments),
            current: ArcSwap::from_pointee(current),
        })
    }

    /// Returns the version in force. A call keeps it to its end.
    #[must_use]
    pub fn current(&self) -> arc_swap::Guard<Arc<Current>> {
        self.current.load()
    }

    /// Reads the files again and puts the new version in force; the old one stays on errors.
    ///
    /// # Errors
    ///
    /// As [`Rules::load`].
    pub fn reload(&self) -> Result<(), RulesError> {
        // Held to the end: of two reloads at once, the one that read less must not come last.
        let environments = self.environments.lock().unwrap_or_else(PoisonError::into_inner);
        let bundle = load(&self.policies, &self.pins, &environments)?;
        let live = Arc::clone(&self.current.load().live);
        self.current.store(Arc::new(Current { bundle, live }));
        Ok(())
    }

    /// Takes one more server into the rules.
    ///
    /// # Errors
    ///
    /// As [`Rules::load`].
    pub fn add_server(
        &self,
        server: ServerName,
        environment: Environment,
    ) -> Result<(), RulesError> {
        let mut environments = self.environments.lock().unwrap_or_else(PoisonError::into_inner);
        environments.insert(server, environment);
        drop(environments);
        self.reload()
    }

    /// Notes what a server offers now. The first sight of a server pins its tools.
    ///
    /// Returns what happened, for the ledger.
    ///
    /// # Errors
    ///
    /// Fails if the pins cannot be written or the bundle has errors with them.
    pub fn observe(
        &self,
        server: &ServerName,
        instructions: Option<&str>,
        tools: &[Box<RawValue>],
    ) -> Result<Observed, RulesError> {
        let hashes = hashes(tools);
        if self.current().bundle.server(server).is_none_or(|known| known.tools.is_empty()) {
            self.write_pins(server, instructions, tools)?;
            self.note_live(server, hashes);
            self.reload()?;
            return Ok(Observed::Pinned { tools: tools.len() });
        }
        let news = self.note_live(server, hashes.clone());
        let current = self.current();
        let mut drifted = Vec::new();
        for (name, hash) in hashes {
            match ToolName::new(server.clone(), &name).ok().and_then(|t| current.bundle.tool(&t)) {
                Some(pinned) if pinned.pin == hash => {}
                Some(_) | None => drifted.push(name),
            }
        }
        drifted.sort();
        Ok(if drifted.is_empty() {
            Observed::Unchanged
        } else {
            Observed::Drifted { tools: drifted, news }
        })
    }

    /// Pins what a server offers now, whatever was pinned before.
    ///
    /// # Errors
    ///
    /// As [`Rules::observe`].
    pub fn pin(
        &self,
        server: &ServerName,
        instructions: Option<&str>,
        tools: &[Box<RawValue>],
    ) -> Result<(), RulesError> {
        self.write_pins(server, instructions, tools)?;
        self.note_live(server, hashes(tools));
        self.reload()
    }

    /// Keeps what a server offers now; `true` if that is not what it offered last.
    fn note_live(&self, server: &ServerName, hashes: HashMap<String, String>) -> bool {
        let current = self.current();
        let mut live = current.live.write().unwrap_or_else(PoisonError::into_inner);
        let news = live.get(server) != Some(&hashes);
        live.insert(server.clone(), hashes);
        news
    }

    fn write_pins(
        &self,
        server: &ServerName,
        instructions: Option<&str>,
        tools: &[Box<RawValue>],
    ) -> Result<(), RulesError> {
        let mut pins = json!({"server": server, "tools": tools});
        if let (Some(text), Some(object)) = (instructions, pins.as_object_mut()) {
            object.insert("instructions".into(), text.into());
        }
        let path = self.pins.join(format!("{server}.json"));
        let text = serde_json::to_vec_pretty(&pins).unwrap_or_default();
        let write = || {
            std::fs::create_dir_all(&self.pins)?;
            let temporary = path.with_extension("json.new");
            std::fs::write(&temporary, &text)?;
            std::fs::rename(&temporary, &path)
        };
        write().map_err(|source| RulesError::Io { path: path.clone(), source })
    }
}

/// What comparing a server with its pins showed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Observed {
    /// The server was new: its tools are pinned now.
    Pinned {
        /// How many tools there are.
        tools: usize,
    },
    /// Everything is as pinned.
    Unchanged,
    /// These tools are new or changed; they are refused until somebody pins them.
    Drifted {
        /// Their names.
        tools: Vec<String>,
        /// Whether the last comparison did not show the same.
        news: bool,
    },
}

fn hashes(tools: &[Box<RawValue>]) -> HashMap<String, String> {
    tools
        .iter()
        .filter_map(|raw| serde_json::from_str::<Value>(raw.get()).ok())
        .filter_map(|tool| {
            Some((tool.get("name")?.as_str()?.to_owned(), countersign_decision::pin(&tool)))
        })
        .collect()
}

/// Reads the files of a bundle; pins that the bundle brings itself win over pins of first sight.
fn load(
    policies: &Path,
    pins: &Path,
    environments: &BTreeMap<ServerName, Environment>,
) -> Result<Bundle, RulesError> {
    let files = read_with_pins(policies, pins, environments)?;
    Bundle::load(&BundleFiles(files)).map_err(RulesError::Bundle)
}

/// Reads the files of a bundle together with pins and default manifests.
///
/// # Errors
///
/// Fails if a folder or file cannot be read.
pub fn read_with_pins(
    policies: &Path,
    pins: &Path,
    environments: &BTreeMap<ServerName, Environment>,
) -> Result<BTreeMap<String, Vec<u8>>, RulesError> {
    let mut files = read_bundle(policies)?;
    for (name, bytes) in read_folder(pins, Path::new(""), 1)? {
        files.entry(format!("tools/{name}")).or_insert(bytes);
    }
    for (server, environment) in environments {
        let manifest = format!("environment = \"{environment}\"\n");
        files.entry(format!("manifests/{server}.toml")).or_insert_with(|| manifest.into_bytes());
    }
    Ok(files)
}

/// Reads the files of the bundle in a folder, by path relative to it.
///
/// # Errors
///
/// Fails if a folder or file cannot be read.
pub fn read_bundle(folder: &Path) -> Result<BTreeMap<String, Vec<u8>>, RulesError> {
    read_folder(folder, Path::new(""), 2)
}

/// Reads the `.cedar`, `.toml` and `.json` files of a folder, `depth` folders deep.
fn read_folder(
    folder: &Path,
    below: &Path,
    depth: usize,
) -> Result<BTreeMap<String, Vec<u8>>, RulesError> {
    let path = folder.join(below);
    let io = |path: &Path| {
        let path = path.to_owned();
        move |source| RulesError::Io { path, source }
    };
    let mut files = BTreeMap::new();
    let entries = match std::fs::read_dir(&path) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(files),
        Err(error) => return Err(io(&path)(error)),
    };
    for entry in entries {
        let entry = entry.map_err(io(&path))?;
        let relative = below.join(entry.file_name());
        if entry.path().is_dir() {
            if depth > 1 {
                files.extend(read_folder(folder, &relative, depth - 1)?);
            }
        } else if entry
            .path()
            .extension()
            .is_some_and(|e| e == "cedar" || e == "toml" || e == "json")
        {
            let bytes = std::fs::read(entry.path()).map_err(io(&entry.path()))?;
            files.insert(relative.to_string_lossy().replace('\\', "/"), bytes);
        }
    }
    Ok(files)
}
