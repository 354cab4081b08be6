//! `countersign retention restore-test`: a random segment of the archive is fetched to a scratch folder,
//! proved against the archive's signed checkpoint, and compared with the ledger.
//!
//! The archive is the copy of the log in the object store. A segment is an entry bundle, 256 records.

use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, anyhow, ensure};
use countersign_console::RestoreTest;
use countersign_evidence::cut;
use countersign_ledger::limits::TILE_WIDTH;
use countersign_ledger::tile::{TileHashReader, TileKind, TileReader, decode_bundle, width_at};
use countersign_ledger::tree::{inclusion_proof, verify_inclusion};
use countersign_ledger::verify::CHECKPOINT_PATH;
use countersign_ledger::{Checkpoint, LeafIndex, TilePath, leaf_hash};
use countersign_store::{Keystore, Reader};
use serde_json::json;
use tokio::runtime::Handle;

use crate::anchors::objects::Archive;
use crate::config::Config;
use crate::control::{ACTOR, Control, with_store};
use crate::paths::Paths;
use crate::run::store_config;
/// Characters of a problem that are recorded.
const PROBLEM_CHARS_MAX: usize = 400;

/// A folder that goes when the test ends.
struct Scratch(PathBuf);

impl Scratch {
    fn new(data: &Path) -> anyhow::Result<Self> {
        let folder = data.join(format!(".restore-test-{}", std::process::id()));
        std::fs::create_dir(&folder).with_context(|| folder.display().to_string())?;
        Ok(Self(folder))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// What is restored so far; what is not there is fetched first.
struct Restored<'a> {
    archive: &'a Archive,
    scratch: &'a Scratch,
}

impl Restored<'_> {
    /// Fetches a file into the scratch folder, and reads it there.
    fn read(&self, path: &str) -> anyhow::Result<Option<Vec<u8>>> {
        let file = self.scratch.0.join(path);
        if !file.exists() {
            let fetched = Handle::current().block_on(self.archive.get(path))?;
            let Some(bytes) = fetched else { return Ok(None) };
            if let Some(parent) = file.parent() {
                std::fs::create_dir_all(parent)?;
            }
            std::fs::write(&file, bytes)?;
        }
        Ok(Some(std::fs::read(&file)?))
    }
}

impl TileReader for &Restored<'_> {
    type Error = anyhow::Error;

    fn tile(&self, path: &TilePath) -> anyhow::Result<Option<Vec<u8>>> {
        self.read(&path.to_string())
    }
}

pub(crate) async fn run(json: bool, paths: &Paths) -> anyhow::Result<ExitCode> {
    let config = Config::read(&paths.config)?;
    let objects = config.anchors.object_store.as_ref().context(
        "there is no archive to test: `[anchors.object_store]` in countersign.toml names one",
    )?;
    let archive = Archive::open(objects)?;
    let store = store_config(&config);
    let reader = Reader::of(&paths.data, &store).await.context("the ledger cannot be read")?;
    let scratch = Scratch::new(&paths.data)?;
    let keys = store.keys.clone().unwrap_or_else(|| paths.keys());
    let keys = Keystore::open(&keys)?.log_keys(&store.origin)?;
    let note = archive.get(CHECKPOINT_PATH).await?.context("the archive has no checkpoint yet")?;
    let point = Checkpoint::open(&note, &keys)
        .context("`checkpoint` of the archive is no checkpoint of this log")?;
    ensure!(point.size.0 > 0, "the archive is empty");

    let width = u64::from(TILE_WIDTH);
    let segment = random_below(point.size.0.div_ceil(width))?;
    let (from, to) = (segment * width, ((segment + 1) * width).min(point.size.0));
    let restored = Restored { archive: &archive, scratch: &scratch };
    let checked = match tokio::task::block_in_place(|| restore(&restored, &point, segment)) {
        Ok(entries) => compare(&reader, from, &entries).await,
        Err(error) => Err(error),
    };
    reader.close().await;
    drop(scratch);
    let problem = checked.err().map(|error| cut(&format!("{error:#}"), PROBLEM_CHARS_MAX));
    let test = RestoreTest {
        from,
        to,
        archive_size: point.size.0,
        root: point.root.to_base64(),
        archive: objects.url.clone(),
        problem,
    };
    record(&test, paths).await.context("the restore test cannot be recorded")?;
    say(&test, json)?;
    Ok(if test.problem.is_none() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn random_below(count: u64) -> anyhow::Result<u64> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).map_err(|error| anyhow!("no random bytes: {error}"))?;
    Ok(u64::try_from(u128::from_le_bytes(bytes) % u128::from(count))?)
}

/// Fetches a segment, and proves each entry of it against the archive's checkpoint.
fn restore(
    restored: &Restored<'_>,
    point: &Checkpoint,
    segment: u64,
) -> anyhow::Result<Vec<Vec<u8>>> {
    let width = width_at(TileKind::Entries, segment, point.size).context("no such segment")?;
    let path = TilePath::entries(segment, width).context("no such segment")?;
    let bytes = restored.read(&path.to_string())?;
    let bytes = bytes.with_context(|| format!("`{path}` of the archive is missing"))?;
    let entries = decode_bundle(&bytes).with_context(|| format!("`{path}` of the archive"))?;
    let count = entries.len();
    ensure!(count == usize::from(width), "`{path}` of the archive has {count} entries");
    let hashes = TileHashReader::new(restored, point.size);
    for (index, entry) in (segment * u64::from(TILE_WIDTH)..).map(LeafIndex).zip(&entries) {
        let proved = inclusion_proof(&hashes, index, point.size).and_then(|proof| {
            verify_inclusion(&leaf_hash(entry), index, point.size, &proof, &point.root)
        });
        proved
            .with_context(|| format!("leaf {index} of the archive is not under its checkpoint"))?;
    }
    Ok(entries.into_iter().map(<[u8]>::to_vec).collect())
}

/// Compares restored entries with what the ledger has at their places.
async fn compare(reader: &Reader, from: u64, entries: &[Vec<u8>]) -> anyhow::Result<()> {
    let limit = u32::from(TILE_WIDTH);
    let records = reader.range(LeafIndex(from), limit).await?;
    for (n, entry) in entries.iter().enumerate() {
        let index = from + u64::try_from(n)?;
        let record = records.get(n).filter(|record| record.index.0 == index);
        let record = record.with_context(|| format!("the ledger has no leaf {index}"))?;
        ensure!(record.body == *entry, "leaf {index} of the ledger has other bytes");
        ensure!(
            record.leaf_hash == leaf_hash(entry),
            "leaf {index} of the ledger has another hash"
        );
    }
    Ok(())
}

async fn record(test: &RestoreTest, paths: &Paths) -> anyhow::Result<()> {
    match Control::find(paths).await {
        Some(control) => {
            let body = serde_json::to_value(test)?;
            control.post("/api/v1/retention/restore-tests", &body).await.map(drop)
        }
        None => {
            let test = test.clone();
            with_store(paths, async |store| Ok(test.record(store, ACTOR).await.map(drop)?)).await
        }
    }
}

fn say(test: &RestoreTest, json: bool) -> io::Result<()> {
    let mut out = io::stdout();
    let RestoreTest { from, to, archive_size, root, archive, problem } = test;
    if json {
        let count = to - from;
        let answer = json!({
            "ok": problem.is_none(), "from": from, "to": to, "count": count,
            "archive_size": archive_size, "root": root, "archive": archive, "problem": problem,
        });
        return writeln!(out, "{answer}");
    }
    match problem {
        None => writeln!(
            out,
            "OK: leaves {from} to {} of {archive_size} in {archive} were restored, are under root {root}, \
             and are what the ledger has",
            to - 1
        ),
        Some(problem) => writeln!(out, "FAIL: {problem}"),
    }
}
