//! The one log that all targets know, with the keys that sign for it: the same in every run.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::LazyLock;

use countersign_ledger::disclosure::{SD_ALG, sd_list};
use countersign_ledger::leaf::prev_hash;
use countersign_ledger::tile::{
    TileKind, TilePath, bundles_for_growth, encode_bundle, tile_bytes, tiles_for_growth,
};
use countersign_ledger::verify::{LogSource, SourceError};
use countersign_ledger::{
    Checkpoint, Disclosure, Hash, LeafIndex, MemoryTree, SigningKey, TlogProof, TreeSize,
    VerifierKey, jcs, leaf_hash,
};
use serde_json::{Value, json};

/// The log's name.
pub const ORIGIN: &str = "log.example/acme";

/// The time of the first record: 2026-03-15T03:00:00Z.
pub const START_MS: u64 = 1_773_543_600_000;

/// The log's key.
pub static LOG_KEY: LazyLock<SigningKey> =
    LazyLock::new(|| SigningKey::from_seed(ORIGIN, &[7; 32]).unwrap());

/// The witness's key.
pub static WITNESS_KEY: LazyLock<SigningKey> =
    LazyLock::new(|| SigningKey::cosigner_from_seed("witness.example", &[8; 32]).unwrap());

/// Both keys, as a verifier has them.
pub static KEYS: LazyLock<Vec<VerifierKey>> =
    LazyLock::new(|| vec![LOG_KEY.verifier_key(), WITNESS_KEY.verifier_key()]);

/// A log of a few records, published at sizes 3 and 6.
pub static RECORDS: LazyLock<Log> =
    LazyLock::new(|| Log::publish(records().into_iter().map(|(leaf, _)| leaf).collect(), &[3, 6]));

/// A log of tiny entries with tiles of two levels, published at sizes 255 and 260.
pub static OPAQUE: LazyLock<Log> = LazyLock::new(|| {
    let entries = (0_u16..260).map(|n| n.to_be_bytes().to_vec());
    Log::publish(entries.collect(), &[255, 260])
});

/// A published log, in memory.
#[derive(Debug, Clone)]
pub struct Log {
    /// The entries.
    pub entries: Vec<Vec<u8>>,
    /// The published files.
    pub files: BTreeMap<String, Vec<u8>>,
    tree: MemoryTree,
}

impl Log {
    /// Publishes the log of these entries at these sizes, the last of which counts them all.
    #[must_use]
    pub fn publish(entries: Vec<Vec<u8>>, sizes: &[u64]) -> Self {
        let tree: MemoryTree = entries.iter().map(|entry| leaf_hash(entry)).collect();
        let (mut files, mut old) = (BTreeMap::new(), TreeSize(0));
        for new in sizes.iter().copied().map(TreeSize) {
            for path in tiles_for_growth(old, new) {
                files.insert(path.to_string(), tile_bytes(&tree, &path).unwrap());
            }
            for path in bundles_for_growth(old, new) {
                files.insert(path.to_string(), bundle(&entries, &path));
            }
            let note = checkpoint(&tree, new).sign(&LOG_KEY).unwrap().to_bytes();
            files.insert(format!("checkpoints/{new}"), note.clone());
            files.insert("checkpoint".to_owned(), note);
            old = new;
        }
        Self { entries, files, tree }
    }

    /// Returns the number of entries.
    #[must_use]
    pub fn size(&self) -> TreeSize {
        self.tree.size()
    }

    /// Returns the checkpoint of the log's first `size` entries.
    #[must_use]
    pub fn checkpoint_at(&self, size: u64) -> Checkpoint {
        checkpoint(&self.tree, TreeSize(size))
    }

    /// Returns the signed proof of an entry.
    #[must_use]
    pub fn proof(&self, index: u64) -> TlogProof {
        let (index, size) = (LeafIndex(index), self.size());
        let checkpoint = self.checkpoint_at(size.0).sign(&LOG_KEY).unwrap();
        let hashes = self.tree.inclusion_proof(index, size).unwrap();
        TlogProof { extra: None, index, hashes, checkpoint }
    }

    /// Returns the proof that the log extends its first `old` entries.
    #[must_use]
    pub fn consistency(&self, old: u64) -> Vec<Hash> {
        self.tree.consistency_proof(TreeSize(old), self.size()).unwrap()
    }

    /// Writes the files below a folder.
    pub fn write(&self, folder: &Path) {
        for (path, bytes) in &self.files {
            let path = folder.join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, bytes).unwrap();
        }
    }
}

impl LogSource for Log {
    fn read(&self, path: &str) -> Result<Option<Vec<u8>>, SourceError> {
        Ok(self.files.get(path).cloned())
    }

    fn list(&self, prefix: &str) -> Result<Vec<String>, SourceError> {
        Ok(self.files.keys().filter(|path| path.starts_with(prefix)).cloned().collect())
    }
}

fn checkpoint(tree: &MemoryTree, size: TreeSize) -> Checkpoint {
    Checkpoint { origin: ORIGIN.to_owned(), size, root: tree.root_at(size).unwrap() }
}

fn bundle(entries: &[Vec<u8>], path: &TilePath) -> Vec<u8> {
    assert_eq!(path.kind(), TileKind::Entries);
    let first = usize::try_from(path.index()).unwrap() * 256;
    encode_bundle(entries.iter().skip(first).take(path.width().into())).unwrap()
}

/// Appends records to a stream, which numbers and chains them.
#[derive(Debug, Default)]
pub struct Stream {
    /// The records.
    pub leaves: Vec<Vec<u8>>,
    last_ms: u64,
}

impl Stream {
    /// Adds a record with these fields; its place in the stream is set here, its id and time if it says none.
    /// One that has no canonical form is left out.
    pub fn add(&mut self, fields: Value) {
        let Value::Object(mut fields) = fields else { return };
        let seq = self.leaves.len() + 1;
        let id = format!("0198f3b2-0000-7000-8000-{seq:012x}");
        let ms = fields.get("time").and_then(Value::as_u64).unwrap_or(START_MS + 1_000);
        self.last_ms = self.last_ms.max(ms);
        fields.insert("v".into(), json!(1));
        fields.insert("tenant".into(), json!("acme"));
        fields.insert("time".into(), json!({"ms": self.last_ms, "n": seq}));
        fields.entry("record_id").or_insert_with(|| json!(id));
        fields.entry("kind").or_insert_with(|| json!("decision"));
        let prev = prev_hash(self.leaves.last().map(Vec::as_slice));
        fields.insert("gw".into(), json!({"replica": "g1", "epoch": 1, "seq": seq, "prev": prev}));
        self.leaves.extend(jcs::canonicalize(&Value::Object(fields)));
    }
}

/// The records of [`RECORDS`], each with its disclosures.
#[must_use]
pub fn records() -> Vec<(Vec<u8>, Vec<Disclosure>)> {
    let mut stream = Stream::default();
    let amount = Disclosure::new(&[1; 16], "arguments.amount", json!(120)).unwrap();
    let person = Disclosure::new(&[2; 16], "principal", json!({"id": "alice"})).unwrap();
    let disclosures = vec![amount, person];
    let digests = sd_list(disclosures.iter().map(Disclosure::digest));
    let decision = "0198f3b2-0000-7000-8000-000000000001";
    let agent = "0198f3b2-0000-7000-8000-00000000aaaa";
    stream.add(json!({
        "decision": "allow", "mode": "enforce", "agent": agent, "agent_name": "billing-bot",
        "server": "crm", "tool": "crm/refund", "rules": ["allow-crm"], "reasons": [],
        "bundle": "47DEQpj8HBSa-_TImW-5JCeuQeRkm5NMpJWZG3hSuFU", "_sd_alg": SD_ALG, "_sd": digests,
    }));
    stream.add(json!({
        "kind": "outcome", "parent": decision, "outcome": "executed", "duration_ms": 142,
        "agent": agent, "tool": "crm/refund",
    }));
    stream.add(
        json!({"decision": "deny", "agent_name": "=cmd|' /C calc'!A0", "reasons": ["BOUNDS"]}),
    );
    stream.add(json!({"kind": "auth", "result": "rejected", "reasons": ["CREDENTIAL_MISSING"]}));
    stream.add(json!({"kind": "change", "object": "agent", "event": "added", "agent": agent}));
    stream.add(json!({"kind": "gap", "gap": "unclean_stop"}));
    let mut disclosures = vec![disclosures];
    disclosures.resize(stream.leaves.len(), Vec::new());
    stream.leaves.into_iter().zip(disclosures).collect()
}

/// Takes the first byte as the choice of a file, and the others as what to put in its place.
#[must_use]
pub fn replacement<'a, 'b>(
    files: &'a BTreeMap<String, Vec<u8>>,
    bytes: &'b [u8],
) -> Option<(&'a str, &'b [u8])> {
    let (choice, content) = bytes.split_first()?;
    files.keys().nth(usize::from(*choice) % files.len()).map(|path| (path.as_str(), content))
}
