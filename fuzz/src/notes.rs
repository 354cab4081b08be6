//! Notes, checkpoints, keys, what logs and witnesses say to each other, and policies.

use std::collections::BTreeSet;

use countersign_ledger::limits::{NOTE_BYTES_MAX, NOTE_SIGNATURES_MAX};
use countersign_ledger::note::{Signature, verify_note};
use countersign_ledger::policy::POLICY_ENTRIES_MAX;
use countersign_ledger::witness::{AddCheckpoint, REQUEST_HASHES_MAX, Refusal, read_answer};
use countersign_ledger::{Checkpoint, Note, Policy, SigningKey, TreeSize, VerifierKey, Witness};

use super::world::{KEYS, LOG_KEY, ORIGIN, RECORDS, WITNESS_KEY};

/// A signed note: one spelling, and no signature that the key did not make.
pub(crate) fn note(bytes: &[u8]) {
    let verified = verify_note(bytes, &KEYS);
    match Note::parse(bytes) {
        Err(_) => assert!(verified.is_err()),
        Ok(note) => {
            assert_eq!(note.to_bytes(), bytes);
            assert!((1..=NOTE_SIGNATURES_MAX).contains(&note.signatures().len()));
            assert!(bytes.len() <= NOTE_BYTES_MAX);
            for signature in note.signatures() {
                assert_eq!(Signature::parse(&signature.to_string()).as_ref(), Ok(signature));
            }
            if let Ok(verified) = &verified {
                assert_eq!(verified.text(), note.text());
                assert!(!verified.signers().is_empty());
                assert_ours(&note, verified.signers().iter().map(|signer| signer.cosigned_at));
            }
        }
    }
    // Whatever can be a text is still that text once it was signed.
    let text = str::from_utf8(bytes).ok().and_then(|text| LOG_KEY.sign_note(text).ok());
    if let Some(signed) = text.filter(|note| note.to_bytes().len() <= NOTE_BYTES_MAX) {
        let verified = verify_note(&signed.to_bytes(), &KEYS).unwrap();
        assert_eq!(verified.text().as_bytes(), bytes);
    }
}

/// Asserts that the world's keys made the signatures that verified: Ed25519 has one per key and message.
fn assert_ours(note: &Note, times: impl Iterator<Item = Option<u64>>) {
    for time in times {
        let made = match time {
            None => LOG_KEY.sign_note(note.text()).unwrap().signatures().first().cloned(),
            Some(time) => WITNESS_KEY.cosign(note.text(), time).ok(),
        };
        assert!(note.signatures().contains(&made.unwrap()));
    }
}

/// The text of a checkpoint, and the same as a signed note.
pub(crate) fn checkpoint(bytes: &[u8]) {
    if let Ok((checkpoint, verified)) = Checkpoint::open_verified(bytes, &KEYS) {
        assert_eq!(checkpoint.origin, ORIGIN);
        assert_eq!(verified.text(), checkpoint.to_string());
        assert!(verified.is_signed_by(ORIGIN));
    }
    let Ok(text) = str::from_utf8(bytes) else { return };
    let Ok(checkpoint) = Checkpoint::parse(text) else { return };
    assert_eq!(checkpoint.to_string(), text);
    // Some origins cannot name a key.
    let Ok(key) = SigningKey::from_seed(&checkpoint.origin, &[9; 32]) else { return };
    let signed = checkpoint.sign(&key).unwrap().to_bytes();
    assert_eq!(Checkpoint::open(&signed, &[key.verifier_key()]).as_ref(), Ok(&checkpoint));
    assert!(Checkpoint::open(&signed, &KEYS).is_err());
}

/// A verifier key.
pub(crate) fn verifier_key(bytes: &[u8]) {
    let Ok(text) = str::from_utf8(bytes) else { return };
    let Ok(key) = VerifierKey::parse(text) else { return };
    assert_eq!(key.to_string(), text);
    assert_eq!(text.parse().as_ref(), Ok(&key));
    assert!(text.starts_with(&format!("{}+{}+", key.name(), key.id())));
    let mut note = LOG_KEY.sign_note("text\n").unwrap();
    note.add(WITNESS_KEY.cosign("text\n", 1).unwrap());
    if verify_note(&note.to_bytes(), std::slice::from_ref(&key)).is_ok() {
        assert!(KEYS.contains(&key));
    }
}

/// The body of a witness's `add-checkpoint`, and what the witness answers to it.
pub(crate) fn add_checkpoint(bytes: &[u8]) {
    let Ok(request) = AddCheckpoint::parse(bytes) else { return };
    assert_eq!(request.to_string().as_bytes(), bytes);
    assert!(request.proof.len() <= REQUEST_HASHES_MAX);
    let witness_key = SigningKey::cosigner_from_seed(WITNESS_KEY.name(), &[8; 32]).unwrap();
    let witness = Witness::new(witness_key, [LOG_KEY.verifier_key()]).unwrap();
    for last in [None, Some(RECORDS.checkpoint_at(3)), Some(RECORDS.checkpoint_at(6))] {
        match witness.cosign(&request, last.as_ref(), 77) {
            Err(refusal) => {
                assert!([400, 403, 404, 409, 422].contains(&refusal.status()));
                let size = last.map_or(TreeSize(0), |last| last.size);
                if let Refusal::Conflict { cosigned } = refusal {
                    assert!(cosigned == size && request.old != size);
                }
            }
            Ok(cosigned) => {
                assert_eq!(last.map_or(TreeSize(0), |last| last.size), request.old);
                let checkpoint = &cosigned.checkpoint;
                assert!([3, 6].map(|size| RECORDS.checkpoint_at(size)).contains(checkpoint));
                assert_eq!(
                    witness.recall(ORIGIN, &cosigned.note.to_bytes()).as_ref(),
                    Ok(checkpoint)
                );
                let answer = format!("{}\n", cosigned.cosignature);
                let text = request.checkpoint.text();
                let read = read_answer(answer.as_bytes(), text, &witness.verifier_key());
                assert_eq!(read.as_ref(), Ok(&cosigned.cosignature));
            }
        }
    }
}

/// A witness's answer: nothing but its own cosignature of the very checkpoint is taken.
pub(crate) fn witness_answer(bytes: &[u8]) {
    let text = RECORDS.checkpoint_at(6).to_string();
    let Ok(signature) = read_answer(bytes, &text, &WITNESS_KEY.verifier_key()) else { return };
    let (time, _) = signature.bytes().split_first_chunk::<8>().unwrap();
    let made = WITNESS_KEY.cosign(&text, u64::from_be_bytes(*time)).unwrap();
    assert_eq!(signature, made);
}

/// A trust policy: spaces and comments do not matter, nothing is named twice, and it asks for what it says.
pub(crate) fn policy(bytes: &[u8]) {
    let Ok(text) = str::from_utf8(bytes) else { return };
    let Ok(policy) = Policy::parse(text) else { return };
    let plain = |line: &str| {
        line.split([' ', '\t']).filter(|item| !item.is_empty()).collect::<Vec<_>>().join(" ")
    };
    let lines =
        text.split('\n').map(plain).filter(|line| !line.is_empty() && !line.starts_with('#'));
    let bare = lines.collect::<Vec<_>>().join("\n");
    assert_eq!(Policy::parse(&bare).as_ref(), Ok(&policy));
    assert!(Policy::parse(&format!("{bare}\nquorum none")).is_err());
    assert!(policy.logs().len().max(policy.witnesses().len()) <= POLICY_ENTRIES_MAX);
    let keys: BTreeSet<String> = policy.logs().iter().map(|log| log.key.to_string()).collect();
    assert_eq!(keys.len(), policy.logs().len());
    let names: BTreeSet<&str> = policy.witnesses().iter().map(|w| w.name.as_str()).collect();
    assert_eq!(names.len(), policy.witnesses().len());
    // Cosignatures never take anything away.
    let mut note = RECORDS.checkpoint_at(6).sign(&LOG_KEY).unwrap();
    let alone = policy.satisfied(&note.to_bytes());
    note.add(WITNESS_KEY.cosign(&RECORDS.checkpoint_at(6).to_string(), 5).unwrap());
    let cosigned = policy.satisfied(&note.to_bytes());
    assert!(alone.is_err() || cosigned.is_ok());
    if cosigned.is_ok() {
        assert!(policy.logs().iter().any(|log| log.key == LOG_KEY.verifier_key()));
    }
}
