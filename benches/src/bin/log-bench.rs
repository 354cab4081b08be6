//! Measures how fast a published log is verified, on one core: a tlog-tiles directory of records that is
//! made for it, and deleted afterwards.
//!
//! `tiles` reads the hash tiles of level 0 and computes the root; `entries` checks all files of the log and
//! hashes every entry; `records` also reads every entry as a record, follows its stream and counts it, as
//! `countersign verify --log` does.
//!
//! A core's second is a second of this process's only thread on a processor, as Linux counts it: on a busy
//! host it is less than what a clock shows, on a quiet one the same.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use clap::Parser;
use countersign_ledger::leaf::prev_hash;
use countersign_ledger::limits::{ENTRY_BYTES_MAX, TILE_WIDTH};
use countersign_ledger::tile::{
    TileKind, bundles_for_growth, decode_tile, encode_bundle, tile_bytes, tiles_for_growth,
};
use countersign_ledger::verify::{
    CHECKPOINT_PATH, EntryFormat, LogSource, SourceError, VerifyOptions, verify_log,
};
use countersign_ledger::{
    Checkpoint, Frontier, Hash, MemoryTree, SigningKey, TilePath, TreeSize, VerifierKey, leaf_hash,
};
use serde::Serialize;
use serde_json::json;

/// The name of the log that is made.
const ORIGIN: &str = "bench.example/log";

#[derive(Parser)]
#[command(name = "log-bench", version, about = "Measures how fast a published log is verified")]
struct Args {
    /// Leaves of the log
    #[arg(long, default_value_t = 2_000_000, value_parser = clap::value_parser!(u64).range(1..))]
    leaves: u64,
    /// Bytes of an entry, about
    #[arg(long, default_value_t = 700)]
    entry_bytes: usize,
    /// How often each way is measured; the median counts
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    runs: u32,
    /// Folder in which the log is made
    #[arg(long, default_value_os_t = std::env::temp_dir())]
    dir: PathBuf,
    /// Print one line of JSON
    #[arg(long)]
    json: bool,
}

/// Verifies a log and returns how many leaves it saw.
type Verify = fn(&Published) -> anyhow::Result<u64>;

/// One way to verify, measured.
#[derive(Serialize)]
struct Measured {
    way: &'static str,
    /// On the clock, of each run, in order of size.
    seconds: Vec<f64>,
    /// On a processor, of each run, in order of size.
    core_seconds: Vec<f64>,
    leaves_per_second: f64,
    leaves_per_core_second: f64,
}

/// A published log in a folder, deleted with this value.
struct Published {
    root: PathBuf,
    key: VerifierKey,
    entry_bytes: u64,
}

impl Drop for Published {
    fn drop(&mut self) {
        // A folder that stays behind spoils no figure.
        let _ = fs::remove_dir_all(&self.root);
    }
}

impl LogSource for Published {
    fn read(&self, path: &str) -> Result<Option<Vec<u8>>, SourceError> {
        let path = self.root.join(path);
        fs::read(path).map(Some).map_err(|error| SourceError(error.to_string()))
    }

    fn list(&self, prefix: &str) -> Result<Vec<String>, SourceError> {
        let mut found = Vec::new();
        list(&self.root, prefix.trim_end_matches('/'), &mut found)
            .map_err(|error| SourceError(error.to_string()))?;
        Ok(found)
    }
}

fn list(root: &Path, folder: &str, found: &mut Vec<String>) -> std::io::Result<()> {
    let path = root.join(folder);
    if !path.exists() {
        return Ok(());
    }
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        let name = format!("{folder}/{}", entry.file_name().to_string_lossy());
        if entry.file_type()?.is_dir() {
            list(root, &name, found)?;
        } else {
            found.push(name);
        }
    }
    Ok(())
}

fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    ensure!(args.entry_bytes <= ENTRY_BYTES_MAX, "an entry has at most {ENTRY_BYTES_MAX} bytes");
    let log = publish(&args)?;
    let ways: [(&str, Verify); 3] =
        [("tiles", from_tiles), ("entries", from_entries), ("records", from_records)];
    let mut measured = Vec::new();
    for (way, verify) in ways {
        measured.push(measure(way, verify, &log, &args)?);
    }
    let mut out = std::io::stdout().lock();
    if args.json {
        let (leaves, entry_bytes) = (args.leaves, log.entry_bytes / args.leaves);
        let report = json!({"leaves": leaves, "entry_bytes": entry_bytes, "ways": measured});
        writeln!(out, "{report}")?;
    } else {
        for Measured { way, leaves_per_second, leaves_per_core_second, .. } in &measured {
            writeln!(
                out,
                "{way:8} {leaves_per_core_second:>12.0} leaves per core and second, \
                 {leaves_per_second:.0} on the clock"
            )?;
        }
    }
    Ok(())
}

fn measure(
    way: &'static str,
    verify: Verify,
    log: &Published,
    args: &Args,
) -> anyhow::Result<Measured> {
    let (mut seconds, mut core_seconds) = (Vec::new(), Vec::new());
    for _ in 0..args.runs {
        let (begin, begin_on_core) = (Instant::now(), on_core()?);
        let leaves = verify(log)?;
        seconds.push(begin.elapsed().as_secs_f64());
        core_seconds.push((on_core()? - begin_on_core).as_secs_f64());
        ensure!(leaves == args.leaves, "`{way}` saw {leaves} leaves");
    }
    let leaves = f64::from(u32::try_from(args.leaves).context("more leaves than can be measured")?);
    let leaves_per_second = leaves / median(&mut seconds)?;
    let leaves_per_core_second = leaves / median(&mut core_seconds)?;
    Ok(Measured { way, seconds, core_seconds, leaves_per_second, leaves_per_core_second })
}

/// Returns how long this thread has been on a processor.
fn on_core() -> anyhow::Result<Duration> {
    let path = "/proc/thread-self/schedstat";
    let text = fs::read_to_string(path).with_context(|| format!("cannot read `{path}`"))?;
    let nanoseconds = text.split(' ').next().context("no time on a processor")?;
    Ok(Duration::from_nanos(nanoseconds.parse()?))
}

/// Sorts and returns what is in the middle.
fn median(values: &mut [f64]) -> anyhow::Result<f64> {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().context("nothing was run")
}

// --- Ways to verify -------------------------------------------------------------------------------

/// Computes the root from the tiles of level 0 and compares it with the signed one.
fn from_tiles(log: &Published) -> anyhow::Result<u64> {
    let signed = log.read(CHECKPOINT_PATH)?.context("there is no checkpoint")?;
    let signed = Checkpoint::open(&signed, std::slice::from_ref(&log.key))?;
    let mut frontier = Frontier::new();
    let tiles = tiles_for_growth(TreeSize(0), signed.size);
    for path in tiles.iter().filter(|path| path.kind() == TileKind::Hashes(0)) {
        let bytes = log.read(&path.to_string())?.context("a tile is missing")?;
        decode_tile(path, &bytes)?.into_iter().for_each(|hash| frontier.push(hash));
    }
    ensure!(frontier.root() == signed.root, "the tiles do not lead to the signed root");
    Ok(frontier.size().0)
}

fn from_entries(log: &Published) -> anyhow::Result<u64> {
    verified(log, EntryFormat::Opaque)
}

fn from_records(log: &Published) -> anyhow::Result<u64> {
    verified(log, EntryFormat::Records)
}

fn verified(log: &Published, entries: EntryFormat) -> anyhow::Result<u64> {
    let keys = vec![log.key.clone()];
    let options = VerifyOptions { keys, entries, ..VerifyOptions::default() };
    Ok(verify_log(log, &options, &mut |_| {})?.size.0)
}

// --- The log --------------------------------------------------------------------------------------

/// Makes a log of calls, each with a decision and an outcome.
fn publish(args: &Args) -> anyhow::Result<Published> {
    let root = args.dir.join(format!("log-bench-{}", std::process::id()));
    let key = SigningKey::from_seed(ORIGIN, &[1; 32])?;
    let mut log = Published { root, key: key.verifier_key(), entry_bytes: 0 };
    let (mut tree, mut previous) = (MemoryTree::new(), None);
    let size = TreeSize(args.leaves);
    for path in bundles_for_growth(TreeSize(0), size) {
        let first = path.index() * u64::from(TILE_WIDTH);
        let mut entries = Vec::with_capacity(path.width().into());
        for seq in (first + 1..).take(path.width().into()) {
            let leaf = record(seq, previous.as_deref(), args.entry_bytes);
            tree.push(leaf_hash(&leaf));
            log.entry_bytes += u64::try_from(leaf.len())?;
            entries.push(leaf.clone());
            previous = Some(leaf);
        }
        write(&log.root, &path, &encode_bundle(&entries)?)?;
    }
    for path in tiles_for_growth(TreeSize(0), size) {
        write(&log.root, &path, &tile_bytes(&tree, &path)?)?;
    }
    let checkpoint = Checkpoint { origin: ORIGIN.to_owned(), size, root: tree.root() };
    fs::write(log.root.join(CHECKPOINT_PATH), checkpoint.sign(&key)?.to_bytes())?;
    Ok(log)
}

/// Returns the canonical leaf with place `seq` in its stream, filled up to about `bytes`.
fn record(seq: u64, previous: Option<&[u8]>, bytes: usize) -> Vec<u8> {
    let call = seq.div_ceil(2);
    let (prev, ms) = (prev_hash(previous), 1_773_543_600_000 + seq);
    let gw = format!(r#""gw":{{"epoch":1,"prev":"{prev}","replica":"g1","seq":{seq}}}"#);
    let id = |n: u64| format!("0198f3b2-0000-7000-8000-{n:012x}");
    let (agent, record) = (id(0xaaaa), id(seq));
    let time = format!(r#""tenant":"acme","time":{{"ms":{ms},"n":0}}"#);
    let leaf = |filler: &str| {
        if seq % 2 == 1 {
            let place = format!(r#""origin":"mcp","record_id":"{record}","rules":["allow-crm"]"#);
            return format!(
                r#"{{"_sd":[{filler}],"_sd_alg":"sha-256","agent":"{agent}","agent_name":"billing-bot","decision":"allow","environment":"prod",{gw},"kind":"decision","mode":"enforce",{place},"server":"crm",{time},"tool":"crm/refund","v":1}}"#
            );
        }
        let parent = id(call * 2 - 1);
        format!(
            r#"{{"_sd":[{filler}],"_sd_alg":"sha-256","agent":"{agent}","duration_ms":142,{gw},"kind":"outcome","outcome":"executed","parent":"{parent}","record_id":"{record}",{time},"tool":"crm/refund","v":1}}"#
        )
    };
    // A digest with its quotes has 45 characters, and a comma between two.
    let digest = |n: u64| {
        format!(
            "\"{}\"",
            Hash(leaf_hash(&[seq.to_be_bytes(), n.to_be_bytes()].concat()).0).to_base64url()
        )
    };
    let digests = bytes.saturating_sub(leaf("").len()) / 46;
    let digests: Vec<String> = (0..).take(digests).map(digest).collect();
    leaf(&digests.join(",")).into_bytes()
}

fn write(root: &Path, path: &TilePath, bytes: &[u8]) -> anyhow::Result<()> {
    let path = root.join(path.to_string());
    let folder = path.parent().context("a tile has no folder")?;
    fs::create_dir_all(folder)?;
    fs::write(&path, bytes).with_context(|| format!("cannot write `{}`", path.display()))
}
