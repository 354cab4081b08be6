//! One record with everything that belongs to it: private fields, outcomes, agent, policies, proof.

use std::collections::BTreeMap;

use countersign_decision::{Bundle, BundleFiles, PolicyInfo};
use countersign_ledger::{Disclosure, LeafIndex, VerifierKey};
use countersign_model::{Agent, RecordId};
use countersign_store::{Reader, StoreError};
use serde_json::Value;

use crate::proof::Proof;
use crate::{EvidenceError, Opened, Record};

/// A record and what it is understood by.
#[derive(Clone, Debug)]
pub struct Case {
    /// The record: a decision, if it or the record that was asked for belongs to one.
    pub main: Opened,
    /// What came of the call, oldest first; a later one supersedes those before it.
    pub outcomes: Vec<Opened>,
    /// The agent, as it is registered now.
    pub agent: Option<Agent>,
    /// The determining policies that the recorded bundle still tells about.
    pub policies: Vec<PolicyInfo>,
    /// The proof that the log has the record, or why there is none yet.
    pub proof: Result<Proof, String>,
}

/// Finds a record by its id; that of an outcome gives the call that it belongs to.
///
/// # Errors
/// [`EvidenceError::UnknownRecord`]; [`EvidenceError::Store`].
pub async fn find(reader: &Reader, id: &str) -> Result<Record, EvidenceError> {
    let unknown = || EvidenceError::UnknownRecord(id.to_owned());
    let record_id: RecordId = id.trim().parse().map_err(|_| unknown())?;
    let found = reader.get(record_id).await?.map(Record::from).ok_or_else(unknown)?;
    match found.text("parent").and_then(|parent| parent.parse::<RecordId>().ok()) {
        Some(parent) if found.kind() == "outcome" => {
            // An outcome whose decision is not there is shown for itself.
            Ok(reader.get(parent).await?.map_or(found, Record::from))
        }
        _ => Ok(found),
    }
}

/// Gathers what belongs to a record. `keys` check its proof.
///
/// # Errors
/// [`EvidenceError::Store`]; private fields that cannot be opened are no error.
pub async fn gather(
    reader: &Reader,
    record: Record,
    keys: &[VerifierKey],
) -> Result<Case, EvidenceError> {
    let mut outcomes = Vec::new();
    if record.kind() == "decision"
        && let Ok(id) = record.id().parse()
    {
        for outcome in reader.outcomes(id).await? {
            outcomes.push(open(reader, outcome.into()).await?);
        }
    }
    let agents = reader.agents().await?;
    let agent =
        record.text("agent").and_then(|id| agents.into_iter().find(|one| one.id.to_string() == id));
    let policies = policies(reader, &record).await?;
    let proof = crate::proof::prove(reader, &record, keys).await.map_err(|error| error.to_string());
    Ok(Case { main: open(reader, record).await?, outcomes, agent, policies, proof })
}

/// Opens the private fields of a record, as far as there are keys.
///
/// # Errors
/// [`EvidenceError::Store`] if the store cannot be read.
pub async fn open(reader: &Reader, record: Record) -> Result<Opened, EvidenceError> {
    let Ok(id) = record.id().parse::<RecordId>() else { return Ok(Opened::public(record)) };
    if record.list("_sd").is_empty() {
        return Ok(Opened::public(record));
    }
    let disclosures = match reader.disclosures(id).await {
        Ok(disclosures) if disclosures.is_empty() => {
            let closed = Some("their keys are destroyed".to_owned());
            return Ok(Opened { closed, ..Opened::public(record) });
        }
        Ok(disclosures) => disclosures,
        Err(error @ (StoreError::NoKey(_) | StoreError::Unsealable { .. })) => {
            let closed = Some(error.to_string());
            return Ok(Opened { closed, ..Opened::public(record) });
        }
        Err(error) => return Err(error.into()),
    };
    // What was sealed counts only as far as the leaf commits to it.
    if let Err(error) = countersign_ledger::disclosure::open_leaf(record.body(), &disclosures) {
        return Ok(Opened { closed: Some(error.to_string()), ..Opened::public(record) });
    }
    let mut private = BTreeMap::new();
    for disclosure in &disclosures {
        let Some(name) = disclosure.name() else { continue };
        private.insert(name.to_owned(), value(reader, id, name, disclosure).await?);
    }
    Ok(Opened { record, disclosures, private, closed: None })
}

/// Returns a disclosed value; one that is stored apart is fetched.
async fn value(
    reader: &Reader,
    id: RecordId,
    name: &str,
    disclosure: &Disclosure,
) -> Result<Value, EvidenceError> {
    let apart = disclosure.value().as_object().is_some_and(|object| {
        object.len() == 2 && object.contains_key("sha256") && object.contains_key("len")
    });
    let blob = if apart { reader.blob(id, name).await? } else { None };
    Ok(blob.unwrap_or_else(|| disclosure.value().clone()))
}

/// Returns what the recorded bundle says about the determining policies.
async fn policies(reader: &Reader, record: &Record) -> Result<Vec<PolicyInfo>, EvidenceError> {
    let rules = record.list("rules");
    let Some(hash) = record.text("bundle").filter(|_| !rules.is_empty()) else {
        return Ok(Vec::new());
    };
    let files = match reader.get_bundle(hash).await {
        Ok(Some(files)) => BundleFiles(files),
        Ok(None) | Err(StoreError::Corrupt(_)) => return Ok(Vec::new()),
        Err(error) => return Err(error.into()),
    };
    // Rules of a bundle that was altered explain nothing.
    let bundle = Bundle::load(&files).ok().filter(|bundle| bundle.hash() == hash);
    Ok(bundle.map_or_else(Vec::new, |bundle| {
        rules.into_iter().filter_map(|rule| bundle.policy(rule).cloned()).collect()
    }))
}

/// Returns the position of a record as the ledger counts.
pub(crate) fn index_of(record: &Record) -> LeafIndex {
    LeafIndex(record.index())
}
