//! Decides recorded calls again, by the bundle that decided them or by another one.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use countersign_decision::{Bundle, BundleFiles, Recorded, decide};
use countersign_model::{Facts, Mode, Verdict};
use countersign_store::{Reader, StoreError};
use serde::Serialize;
use serde_json::{Value, json};

use crate::case::open;
use crate::sentence::lost_claim;
use crate::{EvidenceError, Record, time};

/// Values that a leaf lists at most; the gateway cuts the rest, with a count.
const LIST_MAX: usize = 32;

/// Bundles that are kept at a time.
const BUNDLES_MAX: usize = 64;

/// One decision, decided again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Replayed {
    /// The decision.
    pub evaluation_id: String,
    /// When it was made, RFC 3339.
    pub at: String,
    /// The agent's name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub agent: Option<String>,
    /// The tool, or the method.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tool: Option<String>,
    /// What came of it.
    #[serde(flatten)]
    pub result: Outcome,
}

/// What came of deciding again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "result", rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Outcome {
    /// The same bundle decides the same.
    Match,
    /// This is not the bundle that decided.
    BundleHashMismatch {
        /// The hash in the record.
        recorded: String,
        /// The hash of the bundle at hand.
        found: String,
        /// The policies and files that differ, as far as that can be told: `changed policy refund-bounds`.
        differences: Vec<String>,
        /// What it decides otherwise; empty if it decides the same.
        changes: Vec<Change>,
        /// The policies that now determine the verdict.
        rules: Vec<String>,
        /// Whether any of its decisions could be made at all.
        decided: bool,
    },
    /// The same bundle decides otherwise.
    Differs {
        /// What differs.
        changes: Vec<Change>,
    },
    /// It cannot be decided again.
    Unavailable {
        /// Why not.
        reason: String,
    },
}

/// A field that differs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Change {
    /// The field of the record.
    pub field: &'static str,
    /// What is recorded.
    pub recorded: String,
    /// What it is now.
    pub now: String,
}

impl Replayed {
    /// Returns whether the decision is the same; a mere other hash of a bundle that was asked for is.
    #[must_use]
    pub fn is_equal(&self) -> bool {
        match &self.result {
            Outcome::Match => true,
            Outcome::BundleHashMismatch { changes, decided, .. } => *decided && changes.is_empty(),
            Outcome::Differs { .. } | Outcome::Unavailable { .. } => false,
        }
    }
}

/// Decides recorded calls again.
#[derive(Debug)]
pub struct Replayer<'a> {
    reader: &'a Reader,
    /// The files of another bundle that is to decide.
    other: Option<BundleFiles>,
    bundles: HashMap<String, Arc<Loaded>>,
}

/// What there is to decide with, for one recorded bundle.
#[derive(Debug)]
enum Loaded {
    /// The recorded bundle itself.
    Same(Bundle),
    /// Another one, and how it differs.
    Other(Bundle, Vec<String>),
    /// Not what was recorded, so it does not get to decide: hash found, differences.
    Altered(String, Vec<String>),
    /// Nothing.
    Missing(String),
}

impl<'a> Replayer<'a> {
    /// Decides by the recorded bundles, or by `other`. Tool pins and manifests that `other` lacks are those
    /// of the recorded bundle.
    #[must_use]
    pub fn new(reader: &'a Reader, other: Option<BundleFiles>) -> Self {
        Self { reader, other, bundles: HashMap::new() }
    }

    /// Decides one recorded decision again.
    ///
    /// # Errors
    /// [`EvidenceError::NoDecision`]; [`EvidenceError::Store`].
    pub async fn replay(&mut self, record: &Record) -> Result<Replayed, EvidenceError> {
        if record.kind() != "decision" {
            let (id, kind) = (record.id().to_owned(), record.kind().to_owned());
            return Err(EvidenceError::NoDecision { id, kind });
        }
        let result = match self.recall(record).await? {
            Ok((recorded, facts, loaded)) => judge(record, &recorded, &facts, &loaded),
            Err(reason) => Outcome::Unavailable { reason },
        };
        let text = |name: &str| record.text(name).map(str::to_owned);
        Ok(Replayed {
            evaluation_id: record.id().to_owned(),
            at: time::utc(record.time_ms()),
            agent: text("agent_name"),
            tool: text("tool").or_else(|| text("method")),
            result,
        })
    }

    /// Brings back what was decided, on which facts, by which bundle; or says why it cannot.
    async fn recall(
        &mut self,
        record: &Record,
    ) -> Result<Result<(Recorded, Facts, Arc<Loaded>), String>, EvidenceError> {
        let Some(recorded) = recorded(record) else {
            return Ok(Err("the record lacks fields of a decision".to_owned()));
        };
        let opened = open(self.reader, record.clone()).await?;
        if let Some(reason) = opened.closed {
            return Ok(Err(format!("the facts are closed: {reason}")));
        }
        let Some(facts) = opened.facts() else {
            return Ok(Err("the record has no facts".to_owned()));
        };
        let facts: Facts = match serde_json::from_value(facts) {
            Ok(facts) => facts,
            Err(error) => return Ok(Err(format!("the facts cannot be read: {error}"))),
        };
        let loaded = self.load(&recorded.bundle).await?;
        Ok(Ok((recorded, facts, loaded)))
    }

    async fn load(&mut self, hash: &str) -> Result<Arc<Loaded>, EvidenceError> {
        if let Some(loaded) = self.bundles.get(hash) {
            return Ok(Arc::clone(loaded));
        }
        let stored = self.reader.get_bundle(hash).await;
        let loaded = Arc::new(match (stored, &self.other) {
            (Ok(Some(files)), other) => {
                let stored = BundleFiles(files);
                other
                    .as_ref()
                    .map_or_else(|| same(hash, &stored), |other| another(hash, &stored, other))
            }
            (Ok(None), _) => Loaded::Missing(format!("the store has no bundle `{hash}`")),
            (Err(StoreError::Corrupt(what)), _) => {
                Loaded::Altered("unknown".to_owned(), vec![format!("altered {what}")])
            }
            (Err(error), _) => return Err(error.into()),
        });
        if self.bundles.len() >= BUNDLES_MAX {
            self.bundles.clear();
        }
        self.bundles.insert(hash.to_owned(), Arc::clone(&loaded));
        Ok(loaded)
    }
}

fn same(hash: &str, stored: &BundleFiles) -> Loaded {
    let found = stored.hash();
    if found != hash {
        let how = "the stored files are not those that decided".to_owned();
        return Loaded::Altered(found, vec![how]);
    }
    match Bundle::load(stored) {
        Ok(bundle) => Loaded::Same(bundle),
        Err(faults) => Loaded::Missing(unloadable(&faults)),
    }
}

fn another(hash: &str, stored: &BundleFiles, other: &BundleFiles) -> Loaded {
    let mut files = other.clone();
    for (path, content) in &stored.0 {
        if path.starts_with("tools/") || path.starts_with("manifests/") {
            files.0.entry(path.clone()).or_insert_with(|| content.clone());
        }
    }
    let bundle = match Bundle::load(&files) {
        Ok(bundle) => bundle,
        Err(faults) => return Loaded::Missing(unloadable(&faults)),
    };
    if bundle.hash() == hash {
        return Loaded::Same(bundle);
    }
    let differences = differences(stored, &files);
    Loaded::Other(bundle, differences)
}

fn unloadable(faults: &[countersign_decision::Diagnostic]) -> String {
    let first = faults.first().map_or_else(String::new, ToString::to_string);
    format!("the bundle does not load: {first}")
}

/// Lists what differs between two bundles: policies by their ids, other files by their paths.
fn differences(old: &BundleFiles, new: &BundleFiles) -> Vec<String> {
    let (old, new) = (pieces(old), pieces(new));
    let names: BTreeSet<&String> = old.keys().chain(new.keys()).collect();
    let verb = |name: &String| match (old.get(name), new.get(name)) {
        (Some(_), None) => Some("removed"),
        (None, Some(_)) => Some("added"),
        (then, now) if then != now => Some("changed"),
        _ => None,
    };
    names.into_iter().filter_map(|name| Some(format!("{} {name}", verb(name)?))).collect()
}

/// Cuts a bundle into policies, each from its first line to that of the next, and other files.
fn pieces(files: &BundleFiles) -> BTreeMap<String, Vec<u8>> {
    let mut pieces: BTreeMap<String, Vec<u8>> = files
        .0
        .iter()
        .filter(|(path, _)| !path.starts_with("tests/"))
        .map(|(path, content)| (format!("file {path}"), content.clone()))
        .collect();
    let Ok(bundle) = Bundle::load(files) else { return pieces };
    let mut starts: BTreeMap<&str, BTreeMap<usize, &str>> = BTreeMap::new();
    for policy in bundle.policies() {
        starts.entry(&policy.file).or_default().insert(policy.line, &policy.id);
    }
    for (file, policies) in starts {
        let Some(content) = pieces.remove(&format!("file {file}")) else { continue };
        let text = String::from_utf8_lossy(&content);
        let lines: Vec<&str> = text.lines().collect();
        for (line, id) in &policies {
            let next = policies.range(line + 1..).next().map_or(lines.len(), |(next, _)| next - 1);
            let own = lines.get(line - 1..next).unwrap_or_default().join("\n");
            pieces.insert(format!("policy {id}"), own.trim().as_bytes().to_vec());
        }
    }
    pieces
}

/// Reads the fields of a decision from its leaf.
fn recorded(record: &Record) -> Option<Recorded> {
    let field = |name: &str| record.fields().get(name).cloned().unwrap_or(Value::Null);
    serde_json::from_value(json!({
        "decision": field("decision"),
        "would_be": field("would_be"),
        "mode": field("mode"),
        "rules": record.list("rules"),
        "codes": record.list("reasons"),
        "bundle": field("bundle"),
        "tool_pin": field("tool_pin"),
    }))
    .ok()
}

fn judge(record: &Record, recorded: &Recorded, facts: &Facts, loaded: &Loaded) -> Outcome {
    match loaded {
        Loaded::Missing(reason) => Outcome::Unavailable { reason: reason.clone() },
        Loaded::Altered(found, differences) => Outcome::BundleHashMismatch {
            recorded: recorded.bundle.clone(),
            found: found.clone(),
            differences: differences.clone(),
            changes: Vec::new(),
            rules: Vec::new(),
            decided: false,
        },
        Loaded::Same(bundle) => {
            let changes = changes(recorded, &again(record, bundle, facts));
            if changes.is_empty() { Outcome::Match } else { Outcome::Differs { changes } }
        }
        Loaded::Other(bundle, differences) => {
            let now = again(record, bundle, facts);
            Outcome::BundleHashMismatch {
                recorded: recorded.bundle.clone(),
                found: bundle.hash().to_owned(),
                differences: differences.clone(),
                changes: changes(recorded, &now),
                rules: now.rules,
                decided: true,
            }
        }
    }
}

/// Decides, and shows the decision as the gateway would have recorded it.
fn again(record: &Record, bundle: &Bundle, facts: &Facts) -> Recorded {
    let mut now = Recorded::from(&decide(bundle, facts));
    now.rules = listed(now.rules);
    now.codes = listed(now.codes);
    // What was lost afterwards, in the store, is no matter of policy: an allowed call loses it again.
    if let (Verdict::Allow, Some(code)) = (now.decision, lost_claim(record)) {
        now.decision = Verdict::Deny;
        now.mode = Mode::Enforce;
        now.would_be = None;
        now.codes = vec![code.to_owned()];
    }
    now
}

/// Cuts a list as the gateway does.
fn listed(mut list: Vec<String>) -> Vec<String> {
    let more = list.len().saturating_sub(LIST_MAX);
    if more > 0 {
        list.truncate(LIST_MAX);
        list.push(format!("and {more} more"));
    }
    list
}

fn changes(then: &Recorded, now: &Recorded) -> Vec<Change> {
    let verdict = |verdict: Option<Verdict>| verdict.map_or("none".to_owned(), |it| it.to_string());
    let fields = |it: &Recorded| {
        [
            ("decision", it.decision.to_string()),
            ("would_be", verdict(it.would_be)),
            ("mode", it.mode.to_string()),
            ("rules", it.rules.join(" ")),
            ("reasons", it.codes.join(" ")),
            ("tool_pin", it.tool_pin.clone().unwrap_or_else(|| "none".to_owned())),
        ]
    };
    let pairs = fields(then).into_iter().zip(fields(now));
    pairs
        .filter(|((_, recorded), (_, now))| recorded != now)
        .map(|((field, recorded), (_, now))| Change { field, recorded, now })
        .collect()
}
