//! Whether witnesses cosigned a checkpoint, by the policy of whoever checks (C2SP tlog-policy).

use countersign_ledger::policy::Unsatisfied;
use countersign_ledger::verify::{CHECKPOINT_PATH, COSIGNED_PREFIX, Problem};
use countersign_ledger::{Checkpoint, Policy, TreeSize, VerifierKey};
use serde::Serialize;

use crate::folder::LogFolder;
use crate::time::utc;

/// A checkpoint that the quorum of a policy cosigned.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Witnessed {
    /// The number of records that it covers.
    pub size: TreeSize,
    /// Who cosigned it, of the policy's witnesses, by name; none if the policy asks for none.
    pub cosigned: Vec<Cosigned>,
    /// The checkpoint.
    #[serde(skip)]
    pub checkpoint: Checkpoint,
}

/// Who cosigned a checkpoint, and when.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Cosigned {
    /// The policy's name of the witness.
    pub witness: String,
    /// Its key.
    pub vkey: String,
    /// When it did, as it says, in RFC 3339.
    pub time: String,
}

impl Witnessed {
    /// Checks that one of `keys` signed the checkpoint in `note`, and that the quorum of `policy` cosigned it.
    ///
    /// # Errors
    /// [`Unsatisfied`] names the witnesses that are missing.
    pub fn check(note: &[u8], policy: &Policy, keys: &[VerifierKey]) -> Result<Self, Unsatisfied> {
        let satisfied = policy.satisfied_with(note, keys)?;
        let witness = |witness: &countersign_ledger::policy::PolicyWitness| {
            let seconds = *satisfied.cosigned.get(&witness.name)?;
            let ms = i64::try_from(seconds.saturating_mul(1_000)).unwrap_or(i64::MAX);
            let (name, vkey) = (witness.name.clone(), witness.key.to_string());
            Some(Cosigned { witness: name, vkey, time: utc(ms) })
        };
        let cosigned = policy.witnesses().iter().filter_map(witness).collect();
        let checkpoint = satisfied.checkpoint;
        if checkpoint.size == TreeSize(0) {
            return Err(Unsatisfied::Empty);
        }
        Ok(Self { size: checkpoint.size, cosigned, checkpoint })
    }

    /// Finds the newest checkpoint that the quorum of `policy` cosigned, of a log that was checked; `keys` are
    /// those that its report names. That the log extends it is for that check.
    ///
    /// # Errors
    /// The [`Problem`] of the newest cosigned checkpoint, or of the log's own if none was cosigned.
    pub fn newest(log: &LogFolder, policy: &Policy, keys: &[VerifierKey]) -> Result<Self, Problem> {
        let bad = |object: &str, reason: String| Problem {
            object: object.to_owned(),
            index: None,
            reason,
        };
        let own = log.checkpoint();
        let own = own.ok_or_else(|| bad(CHECKPOINT_PATH, "the file is missing".to_owned()))?;
        let mut first = match Self::check(own, policy, keys) {
            Ok(witnessed) => return Ok(witnessed),
            Err(error) => bad(CHECKPOINT_PATH, error.to_string()),
        };
        for size in log.cosigned_sizes().iter().rev() {
            let path = format!("{COSIGNED_PREFIX}{size}");
            let note = log.cosigned(*size).map_err(|error| bad(&path, error.to_string()))?;
            // One that is gone since it was listed is none.
            let Some(note) = note else { continue };
            match Self::check(&note, policy, keys) {
                Ok(witnessed) if witnessed.size == *size => return Ok(witnessed),
                Ok(_) => return Err(bad(&path, "it is of another size than its path says".into())),
                Err(error) if first.object == CHECKPOINT_PATH => {
                    first = bad(&path, error.to_string());
                }
                Err(_) => {}
            }
        }
        Err(first)
    }

    /// Says who cosigned, and when.
    #[must_use]
    pub fn says(&self) -> String {
        let one = |one: &Cosigned| format!("{} at {}", one.witness, one.time);
        let said: Vec<String> = self.cosigned.iter().map(one).collect();
        if said.is_empty() { "none, as the policy says".to_owned() } else { said.join(", ") }
    }
}
