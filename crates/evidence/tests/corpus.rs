//! Replays the corpus of every fuzz target: what was once found stays fixed.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test that cannot go on fails"
)]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

// A workspace of its own, so that no build of the product needs a fuzzer; its functions need none.
#[path = "../../../fuzz/src/lib.rs"]
#[expect(unreachable_pub, reason = "a library where it is fuzzed")]
mod fuzz;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz")
}

fn corpus() -> PathBuf {
    folder().join("corpus")
}

fn inputs(target: &str) -> Vec<PathBuf> {
    let folder = fs::read_dir(corpus().join(target));
    let folder = folder.unwrap_or_else(|error| panic!("`{target}` has no corpus: {error}"));
    folder.map(|entry| entry.unwrap().path()).collect()
}

#[expect(clippy::print_stdout, reason = "the test that fails shows the input")]
fn replay(target: &str) {
    let inputs = inputs(target);
    assert!(!inputs.is_empty(), "`{target}` has no corpus");
    for input in inputs {
        println!("{}", input.display());
        fuzz::run(target, &fs::read(input).unwrap());
    }
}

macro_rules! replays {
    ($($target:ident),*) => {
        const REPLAYED: &[&str] = &[$(stringify!($target)),*];
        $(#[test] fn $target() { replay(stringify!($target)); })*
    };
}

replays!(
    note,
    checkpoint,
    verifier_key,
    add_checkpoint,
    witness_answer,
    policy,
    tile_path,
    bundle,
    tlog_proof,
    log,
    leaf,
    disclosure,
    open_leaf,
    section,
    record_file,
    package,
    package_entries,
    timestamp
);

#[test]
fn every_target_is_replayed_and_fuzzed() {
    let targets: BTreeSet<&str> = fuzz::TARGETS.iter().map(|(name, _)| *name).collect();
    assert_eq!(targets, REPLAYED.iter().copied().collect());
    let folders = fs::read_dir(corpus()).unwrap().map(|entry| entry.unwrap().file_name());
    let folders: BTreeSet<String> = folders.map(|name| name.into_string().unwrap()).collect();
    assert!(folders.iter().map(String::as_str).eq(targets.iter().copied()));
    let manifest = fs::read_to_string(folder().join("Cargo.toml")).unwrap();
    let built = targets.iter().filter(|name| manifest.contains(&format!("name = \"{name}\"")));
    assert_eq!(built.count(), targets.len());
}

#[test]
#[ignore = "writes the seeds again, after a format has changed"]
fn seeds() {
    fuzz::seeds::write(&folder());
}
