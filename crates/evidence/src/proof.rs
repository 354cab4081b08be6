//! One record as a file that proves itself: its leaf, opened fields and way up to a signed checkpoint.
//!
//! The file is JSON: `format`, `record_id`, `leaf` (base64 of the leaf's bytes), `disclosures` (RFC
//! 9901), `proof` (C2SP tlog-proof), `outcomes` (what came of a call, each with the same fields) and
//! `vkey`, a hint which key signed. The hint is never trusted: the auditor brings the key.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use countersign_ledger::disclosure::{Disclosure, open_leaf};
use countersign_ledger::{Checkpoint, Leaf, Policy, TlogProof, VerifierKey};
use countersign_store::Reader;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::case::{Case, index_of};
use crate::witnessed::Witnessed;
use crate::{EvidenceError, Opened, Record};

/// The file's format and version.
pub const FORMAT: &str = "countersign-record/v1";

/// Largest record file that is read, in bytes.
pub const RECORD_FILE_BYTES_MAX: usize = 64 << 20;

/// The proof that a log has a record.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Proof {
    /// The record's position in the log, from 0.
    pub leaf_index: u64,
    /// The hash of its leaf, base64.
    pub leaf_hash: String,
    /// How many records the signed tree has.
    pub tree_size: u64,
    /// The root of the signed tree, base64.
    pub root: String,
    /// The log's name.
    pub origin: String,
    /// The log's public key.
    pub vkey: String,
    /// The proof as a C2SP tlog-proof file.
    pub tlog_proof: String,
}

/// Gets and checks the proof of a record.
///
/// # Errors
/// [`EvidenceError::Store`] if no published checkpoint covers the record yet;
/// [`EvidenceError::NotProven`] if the published log does not have it.
pub async fn prove(
    reader: &Reader,
    record: &Record,
    keys: &[VerifierKey],
) -> Result<Proof, EvidenceError> {
    let text = reader.inclusion_proof(index_of(record)).await?;
    let not_proven = |error: countersign_ledger::proof::ProofError| EvidenceError::NotProven {
        id: record.id().to_owned(),
        reason: error.to_string(),
    };
    let proof = TlogProof::parse(&text).map_err(not_proven)?;
    let checkpoint = proof.verify(record.body(), keys).map_err(not_proven)?;
    // The newest of the keys that signed: while one takes the other's place, both do.
    let signed =
        |key: &&VerifierKey| proof.verify(record.body(), std::slice::from_ref(*key)).is_ok();
    let vkey = keys.iter().rev().find(signed).map(ToString::to_string).unwrap_or_default();
    Ok(Proof {
        leaf_index: record.index(),
        leaf_hash: record.leaf_hash().to_base64(),
        tree_size: checkpoint.size.0,
        root: checkpoint.root.to_base64(),
        origin: checkpoint.origin,
        vkey,
        tlog_proof: text,
    })
}

/// A record with its proof, as it stands in a file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProvenRecord {
    /// The record's id.
    pub record_id: String,
    /// The leaf's bytes, base64.
    pub leaf: String,
    /// The opened fields.
    #[serde(default)]
    pub disclosures: Vec<String>,
    /// The C2SP tlog-proof.
    pub proof: String,
}

/// A record file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecordFile {
    /// [`FORMAT`].
    pub format: String,
    /// The record.
    #[serde(flatten)]
    pub record: ProvenRecord,
    /// What came of it, if it is a call.
    #[serde(default)]
    pub outcomes: Vec<ProvenRecord>,
    /// The key that is said to have signed; not trusted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vkey: Option<String>,
}

/// What a record file proves.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Verified {
    /// The record.
    pub record: VerifiedRecord,
    /// Its outcomes.
    pub outcomes: Vec<VerifiedRecord>,
}

/// A record that a signed log has.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct VerifiedRecord {
    /// The record's id.
    pub record_id: String,
    /// Its position in the log.
    pub leaf_index: u64,
    /// The signed tree's size.
    pub tree_size: u64,
    /// The signed tree's root, base64.
    pub root: String,
    /// The log's name.
    pub origin: String,
    /// The record's public fields.
    pub leaf: Value,
    /// The opened private fields.
    pub opened: Map<String, Value>,
    /// How many digests of the leaf stay closed.
    pub closed: usize,
    /// Who cosigned the checkpoint, if somebody said whom to trust for it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub witnessed: Option<Witnessed>,
}

impl RecordFile {
    /// Makes the file of a case.
    ///
    /// # Errors
    /// [`EvidenceError::NotProven`] if the record or an outcome has no proof yet.
    pub async fn of(
        reader: &Reader,
        case: &Case,
        keys: &[VerifierKey],
    ) -> Result<Self, EvidenceError> {
        let proof = case.proof.as_ref().map_err(|reason| EvidenceError::NotProven {
            id: case.main.record.id().to_owned(),
            reason: reason.clone(),
        })?;
        let record = ProvenRecord::of(&case.main, proof.tlog_proof.clone());
        Self::with(reader, record, &case.outcomes, &proof.vkey, keys).await
    }

    /// Makes the file of a record and its outcomes, of which as much is open as the file may show.
    ///
    /// # Errors
    /// [`EvidenceError::Store`] if no published checkpoint covers all of them yet;
    /// [`EvidenceError::NotProven`].
    pub async fn prove(
        reader: &Reader,
        main: &Opened,
        outcomes: &[Opened],
        keys: &[VerifierKey],
    ) -> Result<Self, EvidenceError> {
        let proof = prove(reader, &main.record, keys).await?;
        let record = ProvenRecord::of(main, proof.tlog_proof);
        Self::with(reader, record, outcomes, &proof.vkey, keys).await
    }

    async fn with(
        reader: &Reader,
        record: ProvenRecord,
        outcomes: &[Opened],
        vkey: &str,
        keys: &[VerifierKey],
    ) -> Result<Self, EvidenceError> {
        let mut proven = Vec::new();
        for outcome in outcomes {
            let proof = prove(reader, &outcome.record, keys).await?;
            proven.push(ProvenRecord::of(outcome, proof.tlog_proof));
        }
        let vkey = Some(vkey.to_owned());
        Ok(Self { format: FORMAT.to_owned(), record, outcomes: proven, vkey })
    }

    /// Writes the file's text: JSON on several lines.
    ///
    /// # Errors
    /// [`EvidenceError::MalformedFile`] if it cannot be written as JSON.
    pub fn to_text(&self) -> Result<String, EvidenceError> {
        serde_json::to_string_pretty(self)
            .map(|text| text + "\n")
            .map_err(|error| EvidenceError::MalformedFile(error.to_string()))
    }

    /// Reads a file.
    ///
    /// # Errors
    /// [`EvidenceError::MalformedFile`].
    pub fn parse(bytes: &[u8]) -> Result<Self, EvidenceError> {
        if bytes.len() > RECORD_FILE_BYTES_MAX {
            let reason = format!("it has more than {RECORD_FILE_BYTES_MAX} bytes");
            return Err(EvidenceError::MalformedFile(reason));
        }
        let file: Self = serde_json::from_slice(bytes)
            .map_err(|error| EvidenceError::MalformedFile(error.to_string()))?;
        if file.format != FORMAT {
            let reason = format!("its format is `{}`, expected `{FORMAT}`", file.format);
            return Err(EvidenceError::MalformedFile(reason));
        }
        Ok(file)
    }

    /// Checks everything in the file against the log's key, and against the quorum of `policy` if there is
    /// one: needs no network and no store.
    ///
    /// # Errors
    /// [`EvidenceError::NotProven`] names the record and what does not hold.
    pub fn verify(
        &self,
        keys: &[VerifierKey],
        policy: Option<&Policy>,
    ) -> Result<Verified, EvidenceError> {
        let (record, _) = self.record.verify(keys, policy)?;
        let mut outcomes = Vec::new();
        for outcome in &self.outcomes {
            let (verified, leaf) = outcome.verify(keys, policy)?;
            let belongs = leaf.kind == "outcome"
                && leaf.parent.as_deref() == Some(self.record.record_id.as_str())
                && verified.origin == record.origin;
            if !belongs {
                return Err(outcome.not_proven("it is no outcome of the record in the file"));
            }
            outcomes.push(verified);
        }
        Ok(Verified { record, outcomes })
    }
}

impl ProvenRecord {
    fn of(opened: &Opened, proof: String) -> Self {
        Self {
            record_id: opened.record.id().to_owned(),
            leaf: STANDARD.encode(opened.record.body()),
            disclosures: opened.disclosures.iter().map(|one| one.as_str().to_owned()).collect(),
            proof,
        }
    }

    fn not_proven(&self, reason: impl std::fmt::Display) -> EvidenceError {
        EvidenceError::NotProven { id: self.record_id.clone(), reason: reason.to_string() }
    }

    fn verify(
        &self,
        keys: &[VerifierKey],
        policy: Option<&Policy>,
    ) -> Result<(VerifiedRecord, Leaf), EvidenceError> {
        let body =
            STANDARD.decode(&self.leaf).map_err(|_| self.not_proven("its leaf is not base64"))?;
        let leaf = Leaf::parse(&body).map_err(|error| self.not_proven(error))?;
        if leaf.record_id != self.record_id {
            return Err(self.not_proven(format!("its leaf is record `{}`", leaf.record_id)));
        }
        let proof = TlogProof::parse(&self.proof).map_err(|error| self.not_proven(error))?;
        let checkpoint: Checkpoint =
            proof.verify(&body, keys).map_err(|error| self.not_proven(error))?;
        let note = proof.checkpoint.to_bytes();
        let witnessed = policy.map(|policy| Witnessed::check(&note, policy, keys)).transpose();
        let witnessed = witnessed.map_err(|error| self.not_proven(error))?;
        let disclosures: Vec<Disclosure> = self
            .disclosures
            .iter()
            .map(|text| Disclosure::decode(text))
            .collect::<Result<_, _>>()
            .map_err(|error| self.not_proven(error))?;
        let opened = open_leaf(&body, &disclosures).map_err(|error| self.not_proven(error))?;
        let fields = opened.opened.values();
        let fields = fields.filter_map(|one| Some((one.name()?.to_owned(), one.value().clone())));
        let verified = VerifiedRecord {
            record_id: self.record_id.clone(),
            leaf_index: proof.index.0,
            tree_size: checkpoint.size.0,
            root: checkpoint.root.to_base64(),
            origin: checkpoint.origin,
            opened: fields.collect(),
            closed: opened.closed.len(),
            leaf: opened.leaf,
            witnessed,
        };
        Ok((verified, leaf))
    }
}
