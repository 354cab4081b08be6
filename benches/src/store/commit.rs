//! Durable calls: a decision and its outcome, many at a time.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use clap::Args;
use countersign_model::{Draft, Kind, OutcomeStatus, RecordId};
use countersign_store::{Committed, Database, Intent, Outcome, Store};
use countersign_testkit::Postgres;
use serde_json::{Map, json};

use crate::latency::{Latencies, LatencySummary};
use crate::{config, decision, folder, new_id, say};

#[derive(Args)]
pub(crate) struct CommitArgs {
    /// Calls at a time
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u16).range(1..))]
    in_flight: u16,
    /// Seconds of each engine in a round
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..))]
    seconds: u64,
    /// Rounds; the engines take turns
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// Print one line of JSON for each engine and round
    #[arg(long)]
    json: bool,
}

pub(crate) async fn run(args: &CommitArgs) -> anyhow::Result<()> {
    let cluster = Postgres::start().context("PostgreSQL does not start")?;
    let place = folder(None, "commit")?;
    let engines = [
        ("sqlite", Database::Sqlite),
        ("postgres", { Database::Postgres(vec![cluster.database()?]) }),
    ];
    let mut stores = Vec::new();
    for (name, database) in engines {
        let config = config(database, None);
        Store::create(&place.join(name), &config).await?;
        stores.push((name, Store::open(&place.join(name), config).await?));
    }
    for round in 1..=args.rounds {
        for (name, store) in &stores {
            let publisher = tokio::spawn({
                let store = store.clone();
                async move { store.publisher().await }
            });
            let (calls, latency) = measure(store, args).await?;
            publisher.abort();
            report(args, round, name, calls, latency)?;
        }
    }
    for (_, store) in stores {
        store.shutdown().await?;
    }
    Ok(std::fs::remove_dir_all(place)?)
}

#[expect(clippy::cast_precision_loss, reason = "a rate for people")]
fn report(
    args: &CommitArgs,
    round: u32,
    engine: &str,
    calls: u64,
    latency: LatencySummary,
) -> anyhow::Result<()> {
    let rate = calls as f64 / args.seconds as f64;
    let LatencySummary { p50, p99, .. } = latency;
    let line = if args.json {
        let line = json!({
            "round": round, "engine": engine, "in_flight": args.in_flight,
            "calls_per_second": rate, "call_us": latency,
        });
        line.to_string()
    } else {
        format!(
            "round {round}, {engine}: {rate:.0} calls/s ({:.0} records/s), p50 {p50} µs, p99 {p99} µs",
            rate * 2.0
        )
    };
    Ok(say(&line)?)
}

/// Returns the calls that were durably recorded, and how long each took.
async fn measure(store: &Store, args: &CommitArgs) -> anyhow::Result<(u64, LatencySummary)> {
    let (next, end) =
        (Arc::new(AtomicU64::new(1)), Instant::now() + Duration::from_secs(args.seconds));
    let callers: Vec<_> = (0..args.in_flight)
        .map(|_| {
            let (store, next) = (store.clone(), Arc::clone(&next));
            tokio::spawn(async move {
                let mut took = Vec::new();
                while Instant::now() < end {
                    let start = Instant::now();
                    call(&store, next.fetch_add(1, Ordering::Relaxed)).await?;
                    took.push(start.elapsed());
                }
                anyhow::Ok(took)
            })
        })
        .collect();
    let mut latencies = Latencies::new()?;
    let mut calls = 0;
    for caller in callers {
        for took in caller.await?? {
            latencies.record(took);
            calls += 1;
        }
    }
    Ok((calls, latencies.summary()))
}

async fn call(store: &Store, n: u64) -> anyhow::Result<()> {
    // Every verdict in `decision` that is a denial is made an intent here: both records are wanted.
    let draft = decision(n).with("decision", "allow");
    let intent = Intent { draft, denial: Box::new(|_| Map::new()), idempotency: None };
    let Committed::Recorded(receipt) = store.commit_intent(intent).await? else {
        bail!("a call without a key is recorded");
    };
    let draft = Draft::new(RecordId(new_id()), Kind::Outcome).sealed("result", "y".repeat(1024));
    let (evaluation_id, status) = (receipt.evaluation_id(), OutcomeStatus::Executed);
    store.commit_outcome(Outcome { evaluation_id, draft, status, result: None }).await?;
    Ok(())
}
