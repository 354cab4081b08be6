//! First pages of a large ledger by four filters, and a package of it.

use std::path::PathBuf;
use std::time::Instant;

use anyhow::Context as _;
use clap::Args;
use countersign_store::{Database, Query, Reader, Store};
use countersign_testkit::Postgres;
use serde_json::json;
use uuid::Uuid;

use crate::latency::Latencies;
use crate::{config, decision, folder, say};

/// Records that are appended at a time.
const AT_ONCE: u64 = 256;

#[derive(Args)]
pub(crate) struct QueryArgs {
    /// Records in the ledger
    #[arg(long, default_value_t = 1_000_000)]
    records: u64,
    /// Queries that are timed
    #[arg(long, default_value_t = 500)]
    queries: u64,
    /// The ledger is in PostgreSQL
    #[arg(long)]
    postgres: bool,
    /// A folder on the disk to use, instead of the temporary one
    #[arg(long)]
    dir: Option<PathBuf>,
    /// Leave the ledger there
    #[arg(long)]
    keep: bool,
}

pub(crate) async fn run(args: &QueryArgs) -> anyhow::Result<()> {
    let cluster = args.postgres.then(Postgres::start).transpose()?;
    let database = match &cluster {
        Some(cluster) => Database::Postgres(vec![cluster.database()?]),
        None => Database::Sqlite,
    };
    let place = folder(args.dir.as_deref(), "query")?;
    let config = config(database, None);
    Store::create(&place, &config).await?;
    let store = Store::open(&place, config.clone()).await?;
    let begin = Instant::now();
    fill(&store, args.records).await?;
    store.publish_now().await?;
    let filled = begin.elapsed();
    let reader = Reader::of(&place, &config).await?;
    let begin = Instant::now();
    reader.catch_up_index().await?;
    let indexed = begin.elapsed();
    let mut latencies = Latencies::new()?;
    let mut found = 0;
    let times = times(&reader).await?;
    for n in 0..args.queries {
        let query = query(n, times);
        let begin = Instant::now();
        let page = reader.query(&query).await?;
        latencies.record(begin.elapsed());
        found += page.records.len();
    }
    let line = json!({
        "engine": if args.postgres { "postgres" } else { "sqlite" },
        "records": args.records,
        "filled_s": filled.as_secs_f64(),
        "indexed_s": indexed.as_secs_f64(),
        "queries": args.queries,
        "records_found": found,
        "first_page_us": latencies.summary(),
    });
    say(&line.to_string())?;
    reader.close().await;
    store.shutdown().await?;
    if args.keep {
        say(&place.display().to_string())?;
        return Ok(());
    }
    Ok(std::fs::remove_dir_all(place)?)
}

async fn fill(store: &Store, records: u64) -> anyhow::Result<()> {
    let mut next = 0;
    while next < records {
        let end = (next + AT_ONCE).min(records);
        let batch: Vec<_> = (next..end)
            .map(|n| {
                let (store, draft) = (store.clone(), decision(n).with("decision", "deny"));
                tokio::spawn(async move { store.append(draft).await })
            })
            .collect();
        for append in batch {
            append.await??;
        }
        next = end;
        if next.is_multiple_of(AT_ONCE * 200) {
            store.publish_now().await?;
        }
    }
    Ok(())
}

/// Returns the times of the first and of the last record.
async fn times(reader: &Reader) -> anyhow::Result<(i64, i64)> {
    let ms = |record: &countersign_store::Record| {
        record.leaf.pointer("/time/ms").and_then(serde_json::Value::as_i64)
    };
    let size = reader.size().await?;
    let first = reader.at(countersign_ledger::LeafIndex(0)).await?;
    let last = reader.at(countersign_ledger::LeafIndex(size.saturating_sub(1))).await?;
    let ends = first.as_ref().and_then(ms).zip(last.as_ref().and_then(ms));
    ends.context("the ledger is empty")
}

/// Agent, policy, verdict and time: a different four for each `n`.
fn query(n: u64, (first, last): (i64, i64)) -> Query {
    let step = (last - first) / 20;
    let from = first + step * i64::try_from(n % 10).unwrap_or(0);
    Query {
        agent: Some(countersign_model::AgentId(Uuid::from_u128(u128::from(n % 50))).to_string()),
        rule: Some(format!("rule-{}", n % 23)),
        decision: Some("deny".to_owned()),
        from_ms: Some(from),
        until_ms: Some(from + step * 10),
        limit: 100,
        ..Query::default()
    }
}
