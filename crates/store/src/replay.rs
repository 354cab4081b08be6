//! Reads back how a call ended and what it gave, for callers that repeat it.

use countersign_model::RecordId;
use sqlx::{Row as _, SqlitePool};

use crate::StoreError;
use crate::batch::record_bytes;
use crate::keystore::Keystore;
use crate::prepare::{RESULT, SealedRow, joined};

/// Returns whether a call has no outcome yet.
pub(crate) async fn is_open(
    db: &SqlitePool,
    tenant: &str,
    call: RecordId,
) -> Result<bool, StoreError> {
    let row: Option<i64> = sqlx::query_scalar(
        "SELECT 1 FROM open_call WHERE tenant = $1 AND record = $2 AND state = 'open'",
    )
    .bind(tenant)
    .bind(record_bytes(call))
    .fetch_optional(db)
    .await?;
    Ok(row.is_some())
}

/// Returns the sealed result of a call if it is still kept.
pub(crate) async fn result(
    db: &SqlitePool,
    tenant: &str,
    call: RecordId,
    now_ms: i64,
) -> Result<Option<SealedRow>, StoreError> {
    let row = sqlx::query(
        "SELECT subject, period, nonce, ciphertext, dek FROM replay
          WHERE tenant = $1 AND record = $2 AND expires_ms > $3",
    )
    .bind(tenant)
    .bind(record_bytes(call))
    .bind(now_ms)
    .fetch_optional(db)
    .await?;
    let Some(row) = row else { return Ok(None) };
    let (nonce, dek): (Vec<u8>, Vec<u8>) = (row.try_get(2)?, row.try_get(4)?);
    let (subject, period) = (row.try_get(0)?, row.try_get(1)?);
    let read = SealedRow::read(RESULT.to_owned(), subject, period, &nonce, row.try_get(3)?, &dek);
    read.map(Some).ok_or_else(|| StoreError::corrupt(format!("kept result of call `{call}`")))
}

/// Opens a kept result.
pub(crate) fn open(
    row: &SealedRow,
    keys: &Keystore,
    tenant: &str,
    call: RecordId,
    slot: u32,
) -> Result<String, StoreError> {
    Ok(joined(row.open(keys, tenant, call, slot)?.disclosures()))
}
