//! The price of durability on a disk: append 4 KiB, `fdatasync`, over and over.

use std::fs::OpenOptions;
use std::io::Write;
use std::path::PathBuf;
use std::time::Instant;

use anyhow::Context;
use clap::Args;
use serde::{Deserialize, Serialize};

use crate::latency::{Latencies, LatencySummary};

/// One page of a database or of its write-ahead log.
const APPEND_BYTES: usize = 4096;

#[derive(Args)]
pub(crate) struct FsyncArgs {
    /// Directory on the disk to measure; the file made there is removed
    #[arg(long)]
    dir: PathBuf,
    /// Number of appends
    #[arg(long, default_value_t = 500, value_parser = clap::value_parser!(u32).range(1..))]
    n: u32,
}

/// What durable appends cost, one at a time.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct FsyncReport {
    pub(crate) n: u32,
    pub(crate) latency_us: LatencySummary,
    pub(crate) per_second: f64,
}

/// Prints the report as one line of JSON.
pub(crate) fn run(args: &FsyncArgs) -> anyhow::Result<()> {
    let path = args.dir.join(format!("mcp-bench-fsync-{}", std::process::id()));
    let report = measure(&path, args.n);
    let removed = std::fs::remove_file(&path);
    let report = report.with_context(|| format!("cannot measure in `{}`", args.dir.display()))?;
    removed?;
    Ok(crate::say(&serde_json::to_string(&report)?)?)
}

fn measure(path: &std::path::Path, n: u32) -> anyhow::Result<FsyncReport> {
    let mut file = OpenOptions::new().create_new(true).append(true).open(path)?;
    let page = [0x5a_u8; APPEND_BYTES];
    let mut latencies = Latencies::new()?;
    let begin = Instant::now();
    for _ in 0..n {
        let start = Instant::now();
        file.write_all(&page)?;
        file.sync_data()?;
        latencies.record(start.elapsed());
    }
    let per_second = f64::from(n) / begin.elapsed().as_secs_f64();
    Ok(FsyncReport { n, latency_us: latencies.summary(), per_second })
}
