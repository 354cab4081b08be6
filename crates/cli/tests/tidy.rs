//! Holds the shape of the workspace: arrows between crates, banned dependencies, no I/O under the pure
//! crates, one place that reads the clock. Prints, without failing, the longest files and functions.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::string_slice,
    clippy::print_stdout,
    reason = "a test of the sources may panic as tests may, and prints what it measured"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use cargo_metadata::{DependencyKind, Metadata, MetadataCommand};

/// What each crate may depend on, of the workspace.
const ARROWS: [(&str, &[&str]); 10] = [
    ("model", &[]),
    ("ledger", &[]),
    ("decision", &["model"]),
    ("store", &["model", "ledger"]),
    ("evidence", &["model", "ledger", "decision", "store"]),
    ("gateway", &["model", "decision", "ledger", "store"]),
    ("console", &["model", "decision", "ledger", "store", "evidence"]),
    ("cli", &["model", "ledger", "decision", "store", "evidence", "gateway", "console"]),
    ("testkit", &[]),
    ("benches", &["ledger", "model", "store", "testkit"]),
];
/// Crates without I/O.
const PURE: [&str; 3] = ["model", "ledger", "decision"];
/// What must not be anywhere below a pure crate.
const NOT_BELOW_PURE: [&str; 5] = ["tokio", "axum", "sqlx", "reqwest", "hyper"];
/// What must not be anywhere in the program.
const BANNED: [&str; 6] =
    ["openssl", "openssl-sys", "native-tls", "ring", "serde_yaml", "serde_yml"];
/// Words that only named files may have.
const WORDS: [(&str, &[&str]); 3] = [
    ("SystemTime::now", &["crates/cli/src/clock.rs"]),
    ("AssertSqlSafe", &[]),
    ("Uuid::now_v7", &["crates/cli/src/clock.rs"]),
];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().unwrap()
}

fn metadata() -> Metadata {
    MetadataCommand::new()
        .manifest_path(root().join("Cargo.toml"))
        .other_options(vec!["--locked".into()])
        .exec()
        .unwrap()
}

fn short(name: &str) -> Option<&str> {
    name.strip_prefix("countersign-")
}

#[test]
fn crates_depend_only_along_the_arrows() {
    let arrows: BTreeMap<_, _> = ARROWS.into_iter().collect();
    for package in metadata().workspace_packages() {
        let name = short(&package.name).unwrap();
        let allowed = arrows.get(name).unwrap_or_else(|| panic!("{name} has no row in ARROWS"));
        for dependency in &package.dependencies {
            if dependency.kind != DependencyKind::Normal {
                continue;
            }
            if let Some(on) = short(&dependency.name) {
                assert!(allowed.contains(&on), "{name} must not depend on {on}");
            }
        }
    }
}

#[test]
fn nothing_banned_is_in_the_program_and_no_io_below_the_pure_crates() {
    for name in ARROWS.iter().map(|(name, _)| *name).filter(|name| *name != "benches") {
        let below = below(&format!("countersign-{name}"));
        assert!(below.contains(&format!("countersign-{name}")), "{name} is not in its own tree");
        for banned in BANNED {
            assert!(!below.contains(banned), "{banned} is below {name}");
        }
        if PURE.contains(&name) {
            for io in NOT_BELOW_PURE {
                assert!(!below.contains(io), "{io} is below the pure crate {name}");
            }
        }
    }
}

/// Collects the names of all normal and build dependencies of a crate, as they are built here: the
/// graph of `cargo metadata` also has edges of features that are off.
fn below(name: &str) -> BTreeSet<String> {
    let tree = std::process::Command::new(env!("CARGO"))
        .args(["tree", "--locked", "--prefix", "none", "--edges", "normal,build"])
        .args(["--package", name, "--manifest-path"])
        .arg(root().join("Cargo.toml"))
        .output()
        .unwrap();
    assert!(tree.status.success(), "{}", String::from_utf8_lossy(&tree.stderr));
    let text = String::from_utf8(tree.stdout).unwrap();
    text.lines().filter_map(|line| line.split(' ').next()).map(str::to_owned).collect()
}

#[test]
fn some_words_stand_in_one_place_only() {
    for file in sources() {
        let path = file.strip_prefix(root()).unwrap().to_string_lossy().into_owned();
        if !path.contains("/src/")
            || path.starts_with("crates/testkit")
            || path.starts_with("benches")
        {
            continue;
        }
        let text = std::fs::read_to_string(&file).unwrap();
        let code = text.split("#[cfg(test)]").next().unwrap();
        for (word, places) in WORDS {
            let used = code
                .lines()
                .any(|line| !line.trim_start().starts_with("//") && line.contains(word));
            assert!(!used || places.contains(&path.as_str()), "{path} uses {word}");
        }
    }
}

#[test]
fn the_longest_files_and_functions_are_printed() {
    let mut files = Vec::new();
    let mut functions = Vec::new();
    for file in sources() {
        let path = file.strip_prefix(root()).unwrap().display().to_string();
        if !path.contains("/src/") {
            continue;
        }
        let text = std::fs::read_to_string(&file).unwrap();
        let code = text.split("#[cfg(test)]").next().unwrap();
        files.push((code.lines().count(), path.clone()));
        functions.extend(
            function_lengths(code)
                .into_iter()
                .map(|(lines, name)| (lines, format!("{path}: {name}"))),
        );
    }
    for (what, mut found) in [("files", files), ("functions", functions)] {
        found.sort_by(|a, b| b.cmp(a));
        println!("longest {what}:");
        for (lines, name) in found.iter().take(10) {
            println!("{lines:>6}  {name}");
        }
    }
}

/// Measures functions by their indentation: from the line with `fn` to the brace that closes it.
fn function_lengths(code: &str) -> Vec<(usize, String)> {
    let lines: Vec<_> = code.lines().collect();
    let mut found = Vec::new();
    for (start, line) in lines.iter().enumerate() {
        let trimmed = line.trim_start();
        let Some(name) = trimmed.split("fn ").nth(1).filter(|_| !trimmed.starts_with("//")) else {
            continue;
        };
        if !trimmed.starts_with("fn ")
            && !trimmed.starts_with("pub")
            && !trimmed.starts_with("async fn ")
        {
            continue;
        }
        let close = format!("{}}}", &line[..line.len() - trimmed.len()]);
        let length = lines[start..].iter().position(|line| *line == close).unwrap_or(0) + 1;
        let name = name.split(['(', '<']).next().unwrap_or_default().to_owned();
        found.push((length, name));
    }
    found
}

/// Lists the Rust sources of the workspace.
fn sources() -> Vec<PathBuf> {
    let mut open = vec![root().join("crates"), root().join("benches")];
    let mut found = Vec::new();
    while let Some(folder) = open.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() && !path.ends_with("target") {
                open.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                found.push(path);
            }
        }
    }
    found
}
