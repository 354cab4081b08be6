//! What must hold for every parser of bytes that come from elsewhere, whatever the bytes are.
//!
//! Each target is a function that reads bytes as one format and asserts more than that it comes back: what
//! was read is written the same again, nothing passes as signed that the world's keys did not sign, and
//! what we make out of anything is accepted. The fuzzer (`fuzz/run`) and the test that replays the corpus
//! (`crates/evidence/tests/corpus.rs`) call the same functions.
//!
//! Out of scope: formats that only this program writes for itself (its database, its keystore).

mod notes;
mod packages;
mod records;
pub mod seeds;
mod timestamps;
mod trees;
pub mod world;

/// One fuzz target: its name, which is also that of its folder in `corpus/`, and what it asserts.
pub type Target = (&'static str, fn(&[u8]));

/// All targets.
pub const TARGETS: &[Target] = &[
    ("note", notes::note),
    ("checkpoint", notes::checkpoint),
    ("verifier_key", notes::verifier_key),
    ("add_checkpoint", notes::add_checkpoint),
    ("witness_answer", notes::witness_answer),
    ("policy", notes::policy),
    ("tile_path", trees::tile_path),
    ("bundle", trees::bundle),
    ("tlog_proof", trees::tlog_proof),
    ("log", trees::log),
    ("leaf", records::leaf),
    ("disclosure", records::disclosure),
    ("open_leaf", records::open_leaf),
    ("section", records::section),
    ("record_file", records::record_file),
    ("package", packages::package),
    ("package_entries", packages::package_entries),
    ("timestamp", timestamps::timestamp),
];

/// Runs the target called `name`.
///
/// # Panics
/// If there is no such target, or what it asserts does not hold.
pub fn run(name: &str, bytes: &[u8]) {
    let found = TARGETS.iter().find(|(target, _)| *target == name);
    let (_, target) = found.unwrap_or_else(|| panic!("there is no target `{name}`"));
    target(bytes);
}
