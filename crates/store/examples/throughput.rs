//! Prints how many records and syncs per second the store does on this machine's disk.
//!
//! `cargo run -p countersign-store --example throughput --release [folder]`
#![expect(clippy::print_stdout, reason = "its output is its purpose")]
#![expect(clippy::disallowed_methods, reason = "it measures in real time")]

use std::error::Error;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use countersign_model::{Draft, Kind, OutcomeStatus, RecordId, TenantId};
use countersign_store::{Clock, Committed, Intent, Outcome, Store, StoreConfig};
use serde_json::{Map, json};
use uuid::Uuid;

/// How long each figure is measured.
const RUN: Duration = Duration::from_secs(3);

struct RealClock;

impl Clock for RealClock {
    fn now_ms(&self) -> i64 {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let folder = std::env::args().nth(1).map_or_else(|| PathBuf::from("."), PathBuf::from);
    let folder = tempfile::tempdir_in(folder)?;
    println!("fsync/s {:>8.0}", syncs(folder.path())?);
    println!("{:>9} {:>10} {:>8} {:>8}", "in flight", "records/s", "p50 ms", "p99 ms");
    for clients in [1, 16, 64, 256] {
        let data = folder.path().join(clients.to_string());
        let (records, mut waits) = run(&data, clients).await?;
        waits.sort_unstable();
        let at = |part: usize| waits.get(waits.len() * part / 100).copied().unwrap_or_default();
        let (p50, p99) = (at(50).as_secs_f64() * 1e3, at(99).as_secs_f64() * 1e3);
        println!("{clients:>9} {records:>10.0} {p50:>8.2} {p99:>8.2}");
    }
    Ok(())
}

fn syncs(folder: &Path) -> std::io::Result<f64> {
    let mut file = std::fs::File::create(folder.join("sync"))?;
    let (started, mut count) = (Instant::now(), 0_u32);
    while started.elapsed() < Duration::from_secs(1) {
        file.write_all(&[0; 4_096])?;
        file.sync_data()?;
        count += 1;
    }
    Ok(f64::from(count) / started.elapsed().as_secs_f64())
}

/// Lets `clients` write an intent and its outcome again and again; two records each.
async fn run(folder: &Path, clients: usize) -> Result<(f64, Vec<Duration>), Box<dyn Error>> {
    let ids = Arc::new(Uuid::now_v7);
    let config = StoreConfig::new(TenantId("acme".into()), Arc::new(RealClock), ids);
    Store::create(folder, &config).await?;
    let store = Store::open(folder, config).await?;
    let started = Instant::now();
    let tasks: Vec<_> = (0..clients)
        .map(|_| {
            let store = store.clone();
            tokio::spawn(async move {
                let mut waits = Vec::new();
                while started.elapsed() < RUN {
                    if let Some(call) = timed(&mut waits, commit(&store)).await {
                        timed(&mut waits, finish(&store, call)).await;
                    }
                }
                waits
            })
        })
        .collect();
    let mut waits = Vec::new();
    for task in tasks {
        waits.extend(task.await?);
    }
    let seconds = started.elapsed().as_secs_f64();
    store.shutdown().await?;
    let records = u32::try_from(waits.len())?;
    Ok((f64::from(records) / seconds, waits))
}

async fn timed<T>(waits: &mut Vec<Duration>, work: impl Future<Output = T>) -> T {
    let started = Instant::now();
    let done = work.await;
    waits.push(started.elapsed());
    done
}

async fn commit(store: &Store) -> Option<RecordId> {
    let draft = Draft::new(RecordId(Uuid::now_v7()), Kind::Decision)
        .with("decision", "allow")
        .with("agent", "0198c0de-0000-7000-8000-000000000001")
        .with("tool", "crm/update_customer")
        .with("bundle", "a".repeat(64))
        .with("rules", vec!["allow-crm".to_owned()])
        .about("ada@example.com")
        .sealed("arguments", json!({ "customer": 4711, "note": "x".repeat(300) }))
        .sealed("facts", json!({ "v": 1, "text": "y".repeat(300) }));
    let intent = Intent { draft, denial: Box::new(|_| Map::new()), idempotency: None };
    match store.commit_intent(intent).await {
        Ok(Committed::Recorded(receipt)) => Some(receipt.evaluation_id()),
        _ => None,
    }
}

async fn finish(store: &Store, call: RecordId) {
    let draft =
        Draft::new(RecordId(Uuid::now_v7()), Kind::Outcome).sealed("result", "z".repeat(300));
    let status = OutcomeStatus::Executed;
    let outcome = Outcome { evaluation_id: call, draft, status, result: None };
    if let Err(error) = store.commit_outcome(outcome).await {
        println!("{error}");
    }
}
