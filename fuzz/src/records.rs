//! Leaves, disclosures, and record files.

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use countersign_evidence::Record;
use countersign_evidence::proof::{FORMAT, ProvenRecord, RecordFile};
use countersign_evidence::sentence::sentence;
use countersign_ledger::disclosure;
use countersign_ledger::hash::sha256;
use countersign_ledger::leaf::LeafError;
use countersign_ledger::limits::{
    DISCLOSED_VALUE_BYTES_MAX, DISCLOSURE_BYTES_MAX, ENTRY_BYTES_MAX, INTEGER_MAX,
    SECTION_DISCLOSURES_MAX,
};
use countersign_ledger::seal::{SealedSection, Section};
use countersign_ledger::{Disclosure, Leaf, jcs};
use serde_json::{Value, json};

use super::world::{KEYS, Log, RECORDS};

/// A leaf: canonical JSON and nothing else, which the other reader of leaves understands the same way.
pub(crate) fn leaf(bytes: &[u8]) {
    let value: Option<Value> = serde_json::from_slice(bytes).ok();
    let canonical = value.as_ref().and_then(|value| jcs::canonicalize(value).ok());
    match Leaf::parse(bytes) {
        Ok(leaf) => {
            assert_eq!(canonical.as_deref(), Some(bytes));
            assert!(bytes.len() <= ENTRY_BYTES_MAX);
            let record = Record::parse(0, bytes.to_vec()).unwrap();
            assert_eq!((record.id(), record.kind()), (&*leaf.record_id, &*leaf.kind));
            assert_eq!(u64::try_from(record.time_ms()), Ok(leaf.time.ms));
            assert!(!sentence(&record, None).is_empty());
        }
        Err(LeafError::NotCanonical) => assert_ne!(canonical.as_deref(), Some(bytes)),
        Err(_) => {}
    }
    // What is canonical stays as it is.
    if let Some(canonical) = canonical {
        let again: Value = serde_json::from_slice(&canonical).unwrap();
        assert_eq!(jcs::canonicalize(&again).unwrap(), canonical);
        assert!(!matches!(Leaf::parse(&canonical), Err(LeafError::NotCanonical)));
    }
    // RFC 8785 spells an integer above 2^53 as ECMAScript does, perhaps with zeros at its end; that integer may
    // be one that no double equals, which is refused. It never is spelled in another way.
    let any = value.as_ref().and_then(|value| jcs::canonicalize_any(value).ok());
    if let Some(canonical) = any {
        let again: Value = serde_json::from_slice(&canonical).unwrap();
        match jcs::canonicalize_any(&again) {
            Ok(again) => assert_eq!(again, canonical),
            Err(_) => assert!(has_large(&again)),
        }
    }
}

/// Returns whether an integer that a double may not equal stands somewhere in a value.
fn has_large(value: &Value) -> bool {
    match value {
        Value::Number(number) => {
            let magnitude = number.as_u64().or_else(|| number.as_i64().map(i64::unsigned_abs));
            magnitude.is_some_and(|magnitude| magnitude > INTEGER_MAX)
        }
        Value::Array(items) => items.iter().any(has_large),
        Value::Object(fields) => fields.values().any(has_large),
        Value::Null | Value::Bool(_) | Value::String(_) => false,
    }
}

/// A disclosure, as it stands or as the JSON in it.
pub(crate) fn disclosure(bytes: &[u8]) {
    let text = str::from_utf8(bytes).ok().map(str::to_owned);
    for encoded in text.into_iter().chain([URL_SAFE_NO_PAD.encode(bytes)]) {
        let Ok(disclosure) = Disclosure::decode(&encoded) else { continue };
        assert!(encoded.len() <= DISCLOSURE_BYTES_MAX);
        assert_eq!(disclosure.as_str(), encoded);
        assert_eq!(disclosure.digest(), sha256(encoded.as_bytes()));
        assert!(!["_sd", "..."].contains(&disclosure.name().unwrap_or_default()));
        assert_written_again(&disclosure);
    }
}

/// Asserts that salt, name and value come back from what is written of them.
fn assert_written_again(disclosure: &Disclosure) {
    let (salt, name, value) = (disclosure.salt(), disclosure.name(), disclosure.value());
    let array = match name {
        Some(name) => json!([salt, name, value]),
        None => json!([salt, value]),
    };
    let encoded = URL_SAFE_NO_PAD.encode(array.to_string());
    if encoded.len() > DISCLOSURE_BYTES_MAX {
        return;
    }
    let again = Disclosure::decode(&encoded).unwrap();
    assert_eq!((again.salt(), again.name(), again.value()), (salt, name, value));
    let bytes = URL_SAFE_NO_PAD.decode(salt).ok().and_then(|salt| <[u8; 16]>::try_from(salt).ok());
    let Some(bytes) = bytes.filter(|_| value.to_string().len() <= DISCLOSED_VALUE_BYTES_MAX) else {
        return;
    };
    let made = match name {
        Some(name) => Disclosure::new(&bytes, name, value.clone()),
        None => Disclosure::element(&bytes, value.clone()),
    };
    assert_eq!(made.unwrap(), again);
}

/// A leaf and disclosures, a line of JSON each; `@2` stands for the digest of the second disclosure. What
/// opens is proven by a record file of it.
pub(crate) fn open_leaf(bytes: &[u8]) {
    let Ok(text) = str::from_utf8(bytes) else { return };
    let mut lines: Vec<String> = text.split('\n').map(str::to_owned).collect();
    let mut disclosures = Vec::new();
    for place in (1..lines.len().min(10)).rev() {
        let Some(line) = lines.get(place) else { return };
        let Ok(disclosure) = Disclosure::decode(&URL_SAFE_NO_PAD.encode(line)) else { return };
        let digest = disclosure.digest().to_base64url();
        for earlier in lines.iter_mut().take(place) {
            *earlier = earlier.replace(&format!("@{place}"), &digest);
        }
        disclosures.push(disclosure);
    }
    let Some(leaf) = lines.first() else { return };
    let opened = disclosure::open_leaf(leaf.as_bytes(), &disclosures);
    let other_way: Vec<Disclosure> = disclosures.iter().rev().cloned().collect();
    assert_eq!(
        disclosure::open_leaf(leaf.as_bytes(), &other_way).ok(),
        opened.as_ref().ok().cloned()
    );
    let file = signed_file(leaf, &disclosures);
    let proven = file.as_ref().is_some_and(|file| file.verify(&KEYS, None).is_ok());
    let Ok(opened) = opened else {
        assert!(!proven);
        return;
    };
    assert_eq!(opened.opened.len(), disclosures.len());
    assert!(opened.opened.iter().all(|(digest, one)| *digest == one.digest().to_base64url()));
    assert!(opened.closed.iter().all(|digest| !opened.opened.contains_key(digest)));
    assert_eq!(proven, file.is_some() && Leaf::parse(leaf.as_bytes()).is_ok());
    let stray = Disclosure::new(&[255; 16], "stray", Value::Null).unwrap();
    let with_stray = [disclosures, vec![stray]].concat();
    assert!(disclosure::open_leaf(leaf.as_bytes(), &with_stray).is_err());
}

/// Makes the file that an operator with the log's key can make of any leaf.
fn signed_file(leaf: &str, disclosures: &[Disclosure]) -> Option<RecordFile> {
    let fields: Value = serde_json::from_str(leaf).ok()?;
    let log = Log::publish(vec![leaf.as_bytes().to_vec()], &[1]);
    let record = ProvenRecord {
        record_id: fields.get("record_id")?.as_str()?.to_owned(),
        leaf: STANDARD.encode(leaf),
        disclosures: disclosures.iter().map(|one| one.as_str().to_owned()).collect(),
        proof: log.proof(0).to_string(),
    };
    Some(RecordFile { format: FORMAT.to_owned(), record, outcomes: Vec::new(), vkey: None })
}

/// A section, sealed or open.
pub(crate) fn section(bytes: &[u8]) {
    if let Ok(section) = Section::from_bytes(bytes) {
        assert_eq!(section.to_bytes().as_slice(), bytes);
        assert!(section.disclosures().len() <= SECTION_DISCLOSURES_MAX);
    }
    if let Ok(sealed) = SealedSection::from_bytes(bytes) {
        assert_eq!(sealed.to_bytes(), bytes);
    }
}

/// A record file: it says the same when it is written again, and proves only what the log has.
pub(crate) fn record_file(bytes: &[u8]) {
    let Ok(file) = RecordFile::parse(bytes) else { return };
    assert_eq!(file.format, FORMAT);
    let again = RecordFile::parse(&serde_json::to_vec(&file).unwrap());
    assert_eq!(again.ok().as_ref(), Some(&file));
    let Ok(verified) = file.verify(&KEYS, None) else { return };
    assert_eq!(verified.outcomes.len(), file.outcomes.len());
    for record in std::iter::once(&verified.record).chain(&verified.outcomes) {
        let entry = RECORDS.entries.get(usize::try_from(record.leaf_index).unwrap()).unwrap();
        assert_eq!(jcs::canonicalize(&record.leaf).unwrap(), *entry);
    }
}
