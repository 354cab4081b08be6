//! The inputs to begin with: real files of a log, and the vectors of `spec/`.

use std::fs;
use std::path::Path;

use super::world::{KEYS, LOG_KEY, OPAQUE, ORIGIN, RECORDS, WITNESS_KEY, records};
use super::{TARGETS, packages, timestamps};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use countersign_evidence::proof::{FORMAT, ProvenRecord, RecordFile};
use countersign_ledger::witness::AddCheckpoint;
use countersign_ledger::{Disclosure, TreeSize};
use serde_json::{Value, json};

const NOTE: &str = include_str!("../../spec/vectors/ledger/note.json");
const TILES: &str = include_str!("../../spec/vectors/ledger/tiles.json");
const DISCLOSURE: &str = include_str!("../../spec/vectors/ledger/disclosure.json");
const STREAM: &str = include_str!("../../spec/vectors/ledger/stream.json");
const JCS: &str = include_str!("../../spec/vectors/ledger/jcs.json");
const SEAL: &str = include_str!("../../spec/vectors/ledger/seal.json");
const TESSERA: &str = include_str!("../../spec/vectors/ledger/tessera-15-leaf7.tlog-proof");

type Seeds = Vec<Vec<u8>>;

/// Writes the seeds of all targets below the folder `fuzz`, in place of those that are there.
pub fn write(fuzz: &Path) {
    for (target, _) in TARGETS {
        let folder = fuzz.join("corpus").join(target);
        fs::create_dir_all(&folder).unwrap();
        for file in fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap()) {
            if file.file_name().to_string_lossy().starts_with("seed-") {
                fs::remove_file(file.path()).unwrap();
            }
        }
        for (n, seed) in seeds(target).into_iter().enumerate() {
            fs::write(folder.join(format!("seed-{n:02}")), seed).unwrap();
        }
    }
}

fn seeds(target: &str) -> Seeds {
    match target {
        "note" => [texts(NOTE, "accept", "note"), texts(NOTE, "refuse", "note"), notes()].concat(),
        "checkpoint" => {
            let plain = [0, 3, 6].map(|size| RECORDS.checkpoint_at(size).to_string().into_bytes());
            [plain.to_vec(), strings(NOTE, "malformed_checkpoints"), notes()].concat()
        }
        "verifier_key" => {
            let ours = KEYS.iter().map(|key| key.to_string().into_bytes()).collect();
            let (good, bad) = (strings(NOTE, "vkeys"), strings(NOTE, "malformed_vkeys"));
            [ours, good, bad].concat()
        }
        "add_checkpoint" => requests(),
        "witness_answer" => answers(),
        "policy" => policies(),
        "tile_path" => [texts(TILES, "valid", "path"), strings(TILES, "invalid")].concat(),
        "bundle" => {
            let of =
                |files: &[(&str, &[u8])]| files.iter().map(|(_, bytes)| bytes.to_vec()).collect();
            let published: Seeds = of(&entries_files());
            let cut =
                strings(TILES, "truncated_bundles_hex").iter().map(|hex| unhex(hex)).collect();
            [published, cut].concat()
        }
        "tlog_proof" => proofs(),
        "log" => logs(),
        "leaf" => leaves(),
        "disclosure" => {
            let (decode, encode) =
                (texts(DISCLOSURE, "decode", "encoded"), texts(DISCLOSURE, "encode", "encoded"));
            let json = encode.iter().map(|text| URL_SAFE_NO_PAD.decode(text).unwrap()).collect();
            [decode, encode, json, strings(DISCLOSURE, "malformed")].concat()
        }
        "open_leaf" => leaves_to_open(),
        "section" => sections(),
        "record_file" => record_files(),
        "package" => packages::seeds(),
        "package_entries" => package_entries(),
        "timestamp" => timestamps::seeds(),
        _ => panic!("`{target}` has no seeds"),
    }
}

fn vectors(text: &str) -> Value {
    serde_json::from_str(text).unwrap()
}

fn texts(file: &str, list: &str, field: &str) -> Seeds {
    let vectors = vectors(file);
    let list = vectors[list].as_array().unwrap();
    list.iter().map(|case| case[field].as_str().unwrap().into()).collect()
}

fn strings(file: &str, list: &str) -> Seeds {
    let vectors = vectors(file);
    vectors[list].as_array().unwrap().iter().map(|text| text.as_str().unwrap().into()).collect()
}

fn unhex(hex: &[u8]) -> Vec<u8> {
    let byte = |pair: &[u8]| u8::from_str_radix(str::from_utf8(pair).unwrap(), 16).unwrap();
    hex.chunks(2).map(byte).collect()
}

/// Notes of the world's keys.
fn notes() -> Seeds {
    let mut cosigned = RECORDS.checkpoint_at(6).sign(&LOG_KEY).unwrap();
    cosigned.add(WITNESS_KEY.cosign(cosigned.text(), 1_773_543_700).unwrap());
    let more = LOG_KEY.sign_note("two\n\nparts\n").unwrap();
    vec![
        RECORDS.files["checkpoint"].clone(),
        cosigned.to_bytes(),
        more.to_bytes(),
        b"a text\n".to_vec(),
    ]
}

fn requests() -> Seeds {
    let request = |old: u64, size: u64| {
        let proof = if old == 3 && size == 6 { RECORDS.consistency(old) } else { Vec::new() };
        let checkpoint = RECORDS.checkpoint_at(size).sign(&LOG_KEY).unwrap();
        AddCheckpoint { old: TreeSize(old), proof, checkpoint }.to_string().into_bytes()
    };
    [(0, 3), (0, 6), (3, 6), (6, 6), (6, 3)].map(|(old, size)| request(old, size)).to_vec()
}

fn answers() -> Seeds {
    let text = RECORDS.checkpoint_at(6).to_string();
    let line = |time| format!("{}\n", WITNESS_KEY.cosign(&text, time).unwrap());
    let other = LOG_KEY.sign_note(&text).unwrap().signatures()[0].to_string() + "\n";
    vec![line(1).into(), (other + &line(u64::MAX)).into(), (line(2) + &line(3)).into()]
}

fn policies() -> Seeds {
    let log = format!("log {}\n", LOG_KEY.verifier_key());
    let witness = format!("witness W {} https://w.example/\n", WITNESS_KEY.verifier_key());
    let groups = "group X any W\ngroup both all X\n";
    vec![
        format!("{log}quorum none\n").into(),
        format!("# ours\n\n{log}\t{witness}quorum  W\n").into(),
        format!("{log}{witness}{groups}quorum both").into(),
        format!("{witness}group G 1 W\nquorum G\n{log}").into(),
    ]
}

fn entries_files() -> Vec<(&'static str, &'static [u8])> {
    let all = RECORDS.files.iter().chain(&OPAQUE.files);
    let entries = all.filter(|(path, _)| path.contains("/entries/"));
    entries.map(|(path, bytes)| (path.as_str(), bytes.as_slice())).collect()
}

fn proofs() -> Seeds {
    let mut extra = RECORDS.proof(2);
    extra.extra = Some(b"not vouched for".to_vec());
    let ours = (0..6).map(|index| RECORDS.proof(index).to_string().into_bytes());
    ours.chain([extra.to_string().into_bytes(), TESSERA.into()]).collect()
}

/// Every file of both logs in its own place, and once in another's.
fn logs() -> Seeds {
    let mut seeds = Seeds::new();
    for (log, files) in [(0_u8, &RECORDS.files), (1, &OPAQUE.files)] {
        for (place, bytes) in (0_u8..).zip(files.values()) {
            seeds.push([&[log, place], bytes.as_slice()].concat());
        }
        // An older checkpoint in the place of the newest.
        let older = files.values().nth(1).unwrap();
        seeds.push([&[log, 0], older.as_slice()].concat());
    }
    seeds
}

fn leaves() -> Seeds {
    let (ours, theirs) = (RECORDS.entries.clone(), strings(STREAM, "leaves"));
    let json = [texts(JCS, "leaf", "input"), texts(JCS, "any", "input")].concat();
    [ours, theirs, json].concat()
}

fn leaves_to_open() -> Seeds {
    let leaf = String::from_utf8(RECORDS.entries[0].clone()).unwrap();
    let (_, disclosures) = &records()[0];
    let json =
        |d: &Disclosure| String::from_utf8(URL_SAFE_NO_PAD.decode(d.as_str()).unwrap()).unwrap();
    let (a, b) = (json(&disclosures[0]), json(&disclosures[1]));
    let nested = r#"{"_sd":["@1"],"_sd_alg":"sha-256","list":[{"...":"@3"},1]}"#;
    vec![
        format!("{leaf}\n{a}\n{b}").into(),
        format!("{leaf}\n{a}").into(),
        format!("{nested}\n[\"s\",\"a\",{{\"_sd\":[\"@2\"]}}]\n[\"t\",\"b\",2]\n[\"u\",3]").into(),
        leaf.replace("\"_sd\":[", "\"_sd\":[\"@1\",").into_bytes(),
        (leaf.replace("\"_sd\":[", "\"_sd\":[\"@1\",")
            + "\n[\"AQEBAQEBAQEBAQEBAQEBAQ\",\"x\",null]")
            .into(),
    ]
}

fn sections() -> Seeds {
    let (_, disclosures) = &records()[0];
    let open = disclosures.iter().map(|one| format!("{}~", one.as_str())).collect::<String>();
    let sealed = vectors(SEAL)["sealed_hex"].as_str().unwrap().as_bytes().to_vec();
    vec![Vec::new(), open.into_bytes(), unhex(&sealed)]
}

fn record_files() -> Seeds {
    let records = records();
    let proven = |index: usize, field: &str| {
        let (leaf, disclosures) = &records[index];
        let id = serde_json::from_slice::<Value>(leaf).unwrap()[field].as_str().unwrap().to_owned();
        ProvenRecord {
            record_id: id,
            leaf: STANDARD.encode(leaf),
            disclosures: disclosures.iter().map(|one| one.as_str().to_owned()).collect(),
            proof: RECORDS.proof(u64::try_from(index).unwrap()).to_string(),
        }
    };
    let file = |record: usize, outcomes: &[usize], vkey: Option<String>| {
        let outcomes = outcomes.iter().map(|index| proven(*index, "record_id")).collect();
        let record = proven(record, "record_id");
        let file = RecordFile { format: FORMAT.to_owned(), record, outcomes, vkey };
        serde_json::to_vec(&file).unwrap()
    };
    let vkey = Some(LOG_KEY.verifier_key().to_string());
    vec![file(0, &[1], vkey), file(2, &[], None), file(0, &[2], Some(ORIGIN.to_owned()))]
}

fn package_entries() -> Seeds {
    let call = json!({"decision": "allow", "agent": "a", "tool": "crm/refund"});
    let outcome = json!({"kind": "outcome", "parent": "0198f3b2-0000-7000-8000-000000000001", "outcome": "executed"});
    let formula =
        json!({"decision": "deny", "agent_name": "=1+1", "reasons": ["A\"B", "\r\n"], "n": -1});
    let day_before = json!({"kind": "gap", "gap": "unclean_stop", "time": 1_773_543_500_000_u64});
    let unknown = json!({"kind": "outcome", "parent": "0198f3b2-0000-7000-8000-000000000001", "outcome": "unknown"});
    let kinds = ["auth", "change", "detection", "gap", "heartbeat", "erasure"]
        .map(|kind| json!({"kind": kind}));
    let lines = |values: &[Value]| {
        values.iter().map(Value::to_string).collect::<Vec<_>>().join("\n").into_bytes()
    };
    vec![
        lines(&[call.clone(), outcome.clone()]),
        lines(&[formula, call.clone(), outcome.clone()]),
        lines(&[day_before, call.clone(), unknown, outcome]),
        lines(&kinds),
        lines(&[call, json!({"record_id": "../../x", "decision": "hold"})]),
    ]
}
