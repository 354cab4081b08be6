//! Trust policies: which logs and witnesses count, and how many (C2SP tlog-policy, commit `5ba5ee8`).
//!
//! The file is read as UTF-8, which the format recommends; names are compared byte by byte.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::checkpoint::{Checkpoint, CheckpointError, parse_decimal};
use crate::note::{NoteError, VerifierKey};
use crate::tree::TreeSize;

/// Largest policy file we read, in bytes.
pub const POLICY_BYTES_MAX: usize = 1024 * 1024;

/// Most logs, most witnesses and most groups in one policy; tlog-policy asks for at least 32.
pub const POLICY_ENTRIES_MAX: usize = 256;

/// Signature type of a plain Ed25519 signature (C2SP signed-note).
pub(crate) const ED25519: u8 = 0x01;

/// Signature type of a timestamped Ed25519 cosignature (C2SP tlog-cosignature).
pub(crate) const COSIGNATURE: u8 = 0x04;

/// Signature type of an ML-DSA-44 cosignature, which we carry and cannot verify.
const ML_DSA_COSIGNATURE: u8 = 0x06;

/// The quorum that asks for no cosignature.
const NONE: &str = "none";

/// What is wrong with a policy file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {problem}")]
pub struct PolicyError {
    /// The line, counted from 1; one after the last if something is missing.
    pub line: usize,
    /// What is wrong with it.
    pub problem: PolicyProblem,
}

/// What is wrong with a line of a policy.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PolicyProblem {
    /// The line has a form that the format does not know.
    #[error("{0}")]
    Malformed(&'static str),
    /// A key cannot be read.
    #[error(transparent)]
    Key(#[from] NoteError),
    /// The same public key stands there twice, perhaps under two names.
    #[error("the public key of `{0}` is defined twice")]
    DuplicateKey(String),
    /// A name is defined twice, or is the predefined `none`.
    #[error("the name `{0}` is taken")]
    NameTaken(String),
    /// A name is used before its definition, or has none.
    #[error("`{0}` is not defined on a line before")]
    Undefined(String),
    /// A name is a member of two groups, or twice of one.
    #[error("`{0}` is a member already")]
    MemberTwice(String),
}

/// Why a checkpoint does not satisfy a policy.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unsatisfied {
    /// No log of the policy signed it, or a signature of a known key does not verify.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// It has no records, so whoever cosigned it vouches for nothing.
    #[error("the checkpoint has no records")]
    Empty,
    /// Too few witnesses cosigned it.
    #[error(
        "the quorum `{quorum}` did not cosign the checkpoint of {size} records: missing {}; cosigned by {}",
        listed(.missing, "; "),
        listed(.cosigned, ", ")
    )]
    Quorum {
        /// The name of the witness or group that has to witness.
        quorum: String,
        /// The size of the checkpoint.
        size: TreeSize,
        /// What lacks for the quorum: of each group that was not reached how many of which members.
        missing: Vec<Missing>,
        /// The policy's names of the witnesses that did cosign.
        cosigned: Vec<String>,
    },
}

/// What a witness or a group lacks to have witnessed a checkpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Missing {
    /// The name of the group; `None` for a witness alone.
    pub group: Option<String>,
    /// How many more have to witness.
    pub count: usize,
    /// The names of those of which they may be.
    pub of: Vec<String>,
}

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of {}", self.count, self.of.join(", "))?;
        self.group.as_ref().map_or(Ok(()), |group| write!(f, " (group `{group}`)"))
    }
}

/// A log that is accepted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PolicyLog {
    /// Its key; the key's name is the origin.
    pub key: VerifierKey,
    /// Where it is.
    pub url: Option<String>,
}

/// A witness whose cosignatures count.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PolicyWitness {
    /// What the policy calls it.
    pub name: String,
    /// Its key.
    pub key: VerifierKey,
    /// Its submission prefix (C2SP tlog-witness).
    pub url: Option<String>,
}

/// Members of which a number has to witness.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Group {
    name: String,
    threshold: usize,
    members: Vec<String>,
}

/// Which logs and witnesses count, and how many.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    logs: Vec<PolicyLog>,
    witnesses: Vec<PolicyWitness>,
    /// In the order of the file: members come before the groups they are in.
    groups: Vec<Group>,
    /// `None` if no cosignature is asked for.
    quorum: Option<String>,
}

/// A checkpoint that satisfies a policy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Satisfied {
    /// The checkpoint.
    pub checkpoint: Checkpoint,
    /// The policy's names of the witnesses that cosigned it, and when, in Unix seconds.
    pub cosigned: BTreeMap<String, u64>,
}

impl Policy {
    /// Reads a policy file.
    ///
    /// # Errors
    /// [`PolicyError`], also above [`POLICY_BYTES_MAX`] or [`POLICY_ENTRIES_MAX`].
    pub fn parse(text: &str) -> Result<Self, PolicyError> {
        if text.len() > POLICY_BYTES_MAX {
            let problem = PolicyProblem::Malformed("the policy is too large");
            return Err(PolicyError { line: 1, problem });
        }
        let mut reading = Reading::default();
        for (line, text) in (1..).zip(text.split('\n')) {
            reading.line(text).map_err(|problem| PolicyError { line, problem })?;
        }
        let Reading { logs, witnesses, groups, quorum, .. } = reading;
        let quorum = quorum.ok_or_else(|| PolicyError {
            line: text.split('\n').count(),
            problem: PolicyProblem::Malformed("there is no `quorum` line"),
        })?;
        Ok(Self { logs, witnesses, groups, quorum: Some(quorum).filter(|name| name != NONE) })
    }

    /// Returns the logs, in the order of the file.
    #[must_use]
    pub fn logs(&self) -> &[PolicyLog] {
        &self.logs
    }

    /// Returns the witnesses, in the order of the file.
    #[must_use]
    pub fn witnesses(&self) -> &[PolicyWitness] {
        &self.witnesses
    }

    /// Returns the name of the witness or group that has to witness; `None` if no cosignature is asked for.
    #[must_use]
    pub fn quorum(&self) -> Option<&str> {
        self.quorum.as_deref()
    }

    /// Returns what the quorum lacks if every witness cosigns that has a URL and a key which can be verified
    /// here; nothing if that is enough.
    #[must_use]
    pub fn unreachable(&self) -> Vec<Missing> {
        let Some(quorum) = self.quorum() else { return Vec::new() };
        let verifiable = |witness: &&PolicyWitness| public_key(&witness.key).0 == COSIGNATURE;
        let asked = self.witnesses.iter().filter(verifiable).filter(|one| one.url.is_some());
        self.missing(quorum, asked.map(|witness| &witness.name))
    }

    /// Checks that a log of this policy signed the checkpoint in `note` and that the quorum cosigned it.
    ///
    /// # Errors
    /// [`Unsatisfied`].
    pub fn satisfied(&self, note: &[u8]) -> Result<Satisfied, Unsatisfied> {
        let logs = self.logs.iter().map(|log| log.key.clone()).collect::<Vec<_>>();
        self.satisfied_with(note, &logs)
    }

    /// Checks as [`Policy::satisfied`], for `logs` that are known otherwise.
    ///
    /// # Errors
    /// [`Unsatisfied`].
    pub fn satisfied_with(
        &self,
        note: &[u8],
        logs: &[VerifierKey],
    ) -> Result<Satisfied, Unsatisfied> {
        let witnesses = self.witnesses.iter().map(|witness| witness.key.clone());
        let keys: Vec<_> = logs.iter().cloned().chain(witnesses).collect();
        let (checkpoint, verified) = Checkpoint::open_verified(note, &keys)?;
        let mut cosigned = BTreeMap::new();
        for signer in verified.signers() {
            let witness = self
                .witnesses
                .iter()
                .find(|witness| witness.key.name() == signer.name && witness.key.id() == signer.id);
            if let (Some(witness), Some(time)) = (witness, signer.cosigned_at) {
                cosigned.insert(witness.name.clone(), time);
            }
        }
        let Some(quorum) = &self.quorum else { return Ok(Satisfied { checkpoint, cosigned }) };
        let missing = self.missing(quorum, cosigned.keys());
        if missing.is_empty() {
            return Ok(Satisfied { checkpoint, cosigned });
        }
        let (size, cosigned) = (checkpoint.size, cosigned.into_keys().collect());
        Err(Unsatisfied::Quorum { quorum: quorum.clone(), size, missing, cosigned })
    }

    /// Returns what `quorum` lacks, of the whole before its parts, if the witnesses `cosigned` did;
    /// nothing if it witnessed.
    fn missing<'a>(
        &'a self,
        quorum: &'a str,
        cosigned: impl Iterator<Item = &'a String>,
    ) -> Vec<Missing> {
        let mut witnessed: BTreeSet<&str> = cosigned.map(String::as_str).collect();
        let mut short = Vec::new();
        for group in &self.groups {
            let (there, away): (Vec<&str>, Vec<&str>) =
                group.members.iter().map(String::as_str).partition(|name| witnessed.contains(name));
            if there.len() >= group.threshold {
                witnessed.insert(&group.name);
            } else {
                short.push((group, group.threshold - there.len(), away));
            }
        }
        if witnessed.contains(quorum) {
            return Vec::new();
        }
        let (mut needed, mut missing) = (BTreeSet::from([quorum]), Vec::new());
        // Groups come after their members, so from the end each is met after those that need it.
        for (group, count, away) in short.into_iter().rev() {
            if needed.contains(group.name.as_str()) {
                let of = away.iter().map(|name| (*name).to_owned()).collect();
                missing.push(Missing { group: Some(group.name.clone()), count, of });
                needed.extend(away);
            }
        }
        if missing.is_empty() {
            missing.push(Missing { group: None, count: 1, of: vec![quorum.to_owned()] });
        }
        missing
    }
}

/// What of a policy has been read.
#[derive(Default)]
struct Reading {
    logs: Vec<PolicyLog>,
    witnesses: Vec<PolicyWitness>,
    groups: Vec<Group>,
    quorum: Option<String>,
    names: BTreeSet<String>,
    members: BTreeSet<String>,
    log_keys: BTreeSet<Vec<u8>>,
    witness_keys: BTreeSet<Vec<u8>>,
}

impl Reading {
    fn line(&mut self, line: &str) -> Result<(), PolicyProblem> {
        if line.bytes().any(|byte| (byte < 0x20 && byte != b'\t') || byte == 0x7f) {
            return Err(PolicyProblem::Malformed("a control character"));
        }
        let items: Vec<&str> = line.split([' ', '\t']).filter(|item| !item.is_empty()).collect();
        match items.as_slice() {
            [] => Ok(()),
            [first, ..] if first.starts_with('#') => Ok(()),
            ["log", key] => self.log(key, None),
            ["log", key, url] => self.log(key, Some(url)),
            ["witness", name, key] => self.witness(name, key, None),
            ["witness", name, key, url] => self.witness(name, key, Some(url)),
            ["group", name, threshold, members @ ..] => self.group(name, threshold, members),
            ["quorum", name] => self.set_quorum(name),
            _ => Err(PolicyProblem::Malformed(
                "expected `log <vkey> [url]`, `witness <name> <vkey> [url]`, \
                 `group <name> all|any|<k> <members…>` or `quorum <name>|none`",
            )),
        }
    }

    fn log(&mut self, key: &str, url: Option<&str>) -> Result<(), PolicyProblem> {
        let key = VerifierKey::parse(key)?;
        let (kind, public) = public_key(&key);
        if kind == COSIGNATURE {
            return Err(PolicyProblem::Malformed("the key is a witness's, not a log's"));
        }
        if !self.log_keys.insert(public) {
            return Err(PolicyProblem::DuplicateKey(key.name().to_owned()));
        }
        self.logs.push(PolicyLog { key, url: url.map(str::to_owned) });
        within_limit(self.logs.len())
    }

    fn witness(&mut self, name: &str, key: &str, url: Option<&str>) -> Result<(), PolicyProblem> {
        let key = VerifierKey::parse(key)?;
        let (kind, public) = public_key(&key);
        if kind != COSIGNATURE && kind != ML_DSA_COSIGNATURE {
            return Err(PolicyProblem::Malformed("the key is no witness's: it cannot cosign"));
        }
        if !self.witness_keys.insert(public) {
            return Err(PolicyProblem::DuplicateKey(key.name().to_owned()));
        }
        let (name, url) = (self.define(name)?, url.map(str::to_owned));
        self.witnesses.push(PolicyWitness { name, key, url });
        within_limit(self.witnesses.len())
    }

    fn group(
        &mut self,
        name: &str,
        threshold: &str,
        members: &[&str],
    ) -> Result<(), PolicyProblem> {
        let count = members.len();
        let threshold = match threshold {
            "all" => Some(count),
            "any" => Some(1),
            number => parse_decimal(number).and_then(|number| usize::try_from(number).ok()),
        };
        let threshold = threshold.filter(|threshold| (1..=count).contains(threshold)).ok_or(
            PolicyProblem::Malformed("expected `all`, `any` or 1 to as many as there are members"),
        )?;
        for member in members {
            self.must_be_defined(member)?;
            if !self.members.insert((*member).to_owned()) {
                return Err(PolicyProblem::MemberTwice((*member).to_owned()));
            }
        }
        let members = members.iter().map(|member| (*member).to_owned()).collect();
        // Defined last: a group is no member of itself.
        let name = self.define(name)?;
        self.groups.push(Group { name, threshold, members });
        within_limit(self.groups.len())
    }

    fn set_quorum(&mut self, name: &str) -> Result<(), PolicyProblem> {
        if name != NONE {
            self.must_be_defined(name)?;
        }
        match self.quorum.replace(name.to_owned()) {
            Some(_) => Err(PolicyProblem::Malformed("a second `quorum` line")),
            None => Ok(()),
        }
    }

    fn define(&mut self, name: &str) -> Result<String, PolicyProblem> {
        if name == NONE || !self.names.insert(name.to_owned()) {
            return Err(PolicyProblem::NameTaken(name.to_owned()));
        }
        Ok(name.to_owned())
    }

    fn must_be_defined(&self, name: &str) -> Result<(), PolicyProblem> {
        if self.names.contains(name) {
            return Ok(());
        }
        Err(PolicyProblem::Undefined(name.to_owned()))
    }
}

fn within_limit(count: usize) -> Result<(), PolicyProblem> {
    if count > POLICY_ENTRIES_MAX {
        return Err(PolicyProblem::Malformed("more than 256 logs, witnesses or groups"));
    }
    Ok(())
}

fn listed<T: fmt::Display>(items: &[T], between: &str) -> String {
    let items: Vec<String> = items.iter().map(T::to_string).collect();
    if items.is_empty() { "none".to_owned() } else { items.join(between) }
}

/// Returns a key's signature type and its public key.
pub(crate) fn public_key(key: &VerifierKey) -> (u8, Vec<u8>) {
    let text = key.to_string();
    // `name+id+base64`: a name has no `+`, base64 may.
    let encoded = text.splitn(3, '+').nth(2).unwrap_or_default();
    let bytes = STANDARD.decode(encoded).unwrap_or_default();
    bytes.split_first().map_or((0, Vec::new()), |(kind, public)| (*kind, public.to_vec()))
}

#[cfg(test)]
mod tests;
