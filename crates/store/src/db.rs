//! The database: SQLite in the data folder, or PostgreSQL.

pub(crate) mod postgres;
mod sql;
pub(crate) mod sqlite;
pub(crate) mod warnings;

use std::time::Duration;

use countersign_ledger::hash::sha256;

use crate::StoreError;

pub(crate) use sql::{Conn, Pool, Row};

/// A column's value, as statements and row sums take it.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Column<'a> {
    Int(i64),
    Text(&'a str),
    Blob(&'a [u8]),
}

impl Column<'_> {
    /// Returns the hash of one value.
    pub(crate) fn hash(self) -> [u8; 32] {
        let hash = |tag: &[u8], value: &[u8]| sha256(&[tag, value].concat()).0;
        match self {
            Column::Int(value) => hash(b"i", &value.to_be_bytes()),
            Column::Text(value) => hash(b"t", value.as_bytes()),
            Column::Blob(value) => hash(b"b", value),
        }
    }
}

/// Bytes of a row's sum that cover the whole row; two for each column follow, to tell which one is bad.
pub(crate) const ROW_SUM_BYTES: usize = 16;

/// Returns the sum of a row over the hashes of its columns, in the table's order.
pub(crate) fn sum_of(table: &str, hashes: &[[u8; 32]]) -> Vec<u8> {
    let whole = sha256(&[table.as_bytes(), b"\0", &hashes.concat()].concat());
    let mut sum: Vec<u8> = whole.0.iter().take(ROW_SUM_BYTES).copied().collect();
    sum.extend(hashes.iter().flat_map(|hash| hash.iter().take(2)));
    sum
}

/// Returns the sum of a row: it guards rows that no hash of the ledger covers against damage.
pub(crate) fn row_sum(table: &str, columns: &[Column<'_>]) -> Vec<u8> {
    let hashes: Vec<_> = columns.iter().map(|column| column.hash()).collect();
    sum_of(table, &hashes)
}

/// Empties SQLite's write-ahead log, which holds pages as they were before; PostgreSQL keeps its own.
pub(crate) fn empty_log(conn: &mut Conn, busy: Duration) -> Result<(), StoreError> {
    match conn {
        Conn::Sqlite(conn) => sqlite::truncate_wal_within(conn.get_mut(), busy),
        Conn::Postgres(_) => Ok(()),
    }
}

/// Returns a row's columns with its sum as the last one, as statements that write it take them.
pub(crate) fn with_sum<'a>(columns: &[Column<'a>], sum: &'a [u8]) -> Vec<Column<'a>> {
    [columns, &[Column::Blob(sum)]].concat()
}

/// Converts a count or index for a column; none of ours comes near 2^63.
pub(crate) fn int(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

/// Converts a column that holds a count or index.
pub(crate) fn unsigned(value: i64, what: &str) -> Result<u64, StoreError> {
    u64::try_from(value).map_err(|_| StoreError::corrupt(format!("{what} is negative")))
}
