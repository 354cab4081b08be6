//! What is recorded when a store is opened: a gap after an unclean stop, and unknown outcomes.

use countersign_model::{Draft, Kind, OutcomeStatus, RecordId};

use crate::StoreError;
use crate::batch::{Batch, Head, Work};
use crate::db::Conn;
use crate::head::{begin_epoch, load_coord, load_frontier, load_head, load_last};
use crate::limits::BATCH_RECORDS_MAX;
use crate::prepare::Prepared;
use crate::writer::{Context, closing_outcome, open_calls};

/// Begins an epoch and returns the writer's place in it.
pub(crate) async fn begin(conn: &mut Conn, context: &Context) -> Result<Head, StoreError> {
    let tenant = context.tenant.as_str();
    conn.begin().await?;
    let coord = load_coord(conn, tenant).await?;
    let gap = match &coord {
        Some(coord) if !coord.leader.is_empty() => Some(gap(conn, context).await?),
        Some(_) | None => None,
    };
    begin_epoch(conn, tenant, &context.replica, coord.map_or(0, |coord| coord.epoch)).await?;
    let mut head = load_head(conn, tenant, &context.replica).await?;
    if let Some(mut gap) = gap {
        let mut batch = batch(conn, context, head);
        batch.run(&mut gap, Work::Record(Vec::new())).await??;
        head = batch.commit().await?;
    } else {
        conn.commit().await?;
    }
    let calls = open_calls(conn, tenant).await?;
    sweep(conn, context, head, &calls).await
}

fn batch<'a>(tx: &'a mut Conn, context: &'a Context, head: Head) -> Batch<'a> {
    let (tenant, replica) = (context.tenant.as_str(), context.replica.as_str());
    Batch::new(tx, tenant, replica, context.clock.now_ms(), head)
}

/// Prepares the record that names the last known place of the stream that ended uncleanly.
async fn gap(tx: &mut Conn, context: &Context) -> Result<Prepared, StoreError> {
    let tenant = context.tenant.as_str();
    let size = load_frontier(tx, tenant).await?.size().0;
    let mut draft = Draft::new(RecordId((context.ids)()), Kind::Gap).with("gap", "unclean_stop");
    if let Some(last) = load_last(tx, tenant, size).await? {
        let place = last.leaf.gw;
        let last = serde_json::json!({
            "replica": place.replica, "epoch": place.epoch, "seq": place.seq,
        });
        draft = draft.with("last", last);
    }
    Prepared::public(&draft, tenant)
}

/// Records the outcome `unknown` of each call that was open when the store stopped.
pub(crate) async fn sweep(
    conn: &mut Conn,
    context: &Context,
    mut head: Head,
    calls: &[RecordId],
) -> Result<Head, StoreError> {
    for chunk in calls.chunks(BATCH_RECORDS_MAX) {
        conn.begin().await?;
        let mut batch = batch(conn, context, head);
        for call in chunk {
            let (mut prepared, settlement) =
                closing_outcome(context, *call, OutcomeStatus::Unknown)?;
            batch.run(&mut prepared, Work::Outcome(settlement)).await??;
        }
        head = batch.commit().await?;
    }
    if !calls.is_empty() {
        tracing::warn!(calls = calls.len(), "the outcome of calls is unknown after the last stop");
    }
    Ok(head)
}
