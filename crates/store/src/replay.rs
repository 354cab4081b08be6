//! Reads back how a call ended and what it gave, for callers that repeat it.

use countersign_model::RecordId;

use crate::StoreError;
use crate::batch::record_bytes;
use crate::db::{Column, Pool};
use crate::keystore::Keystore;
use crate::prepare::{RESULT, SealedRow, joined};

/// Returns whether a call has no outcome yet.
pub(crate) async fn is_open(db: &Pool, tenant: &str, call: RecordId) -> Result<bool, StoreError> {
    let sql = "SELECT state FROM open_call WHERE tenant = $1 AND record = $2 AND state = 'open'";
    let args = [Column::Text(tenant), Column::Blob(&record_bytes(call))];
    Ok(db.fetch_optional(sql, &args).await?.is_some())
}

/// Returns the sealed result of a call if it is still kept.
pub(crate) async fn result(
    db: &Pool,
    tenant: &str,
    call: RecordId,
    now_ms: i64,
) -> Result<Option<SealedRow>, StoreError> {
    let sql = "SELECT subject, period, nonce, ciphertext, dek FROM replay
                WHERE tenant = $1 AND record = $2 AND expires_ms > $3";
    let args = [Column::Text(tenant), Column::Blob(&record_bytes(call)), Column::Int(now_ms)];
    let Some(row) = db.fetch_optional(sql, &args).await? else { return Ok(None) };
    let (nonce, dek): (Vec<u8>, Vec<u8>) = (row.get(2)?, row.get(4)?);
    let (subject, period) = (row.get(0)?, row.get(1)?);
    let read = SealedRow::read(RESULT.to_owned(), subject, period, &nonce, row.get(3)?, &dek);
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
