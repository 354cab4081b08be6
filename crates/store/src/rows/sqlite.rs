//! One `INSERT … SELECT` for each table, from a JSON array of the rows' small columns; the bytes of bodies
//! and sections lie one after the other in one blob and are cut out of it.

use std::fmt::Write as _;

use countersign_ledger::Frontier;
use countersign_model::RecordId;
use sqlx::sqlite::SqliteConnection;

use super::{LeafRow, Row, Rows, Stream};
use crate::batch::{open_call_sum, record_bytes};
use crate::db::int;
use crate::prepare::SealedRow;

/// Writes everything and commits: `$1` tenant, `$2` replica, `$3` epoch, `$4` bytes, `$5` leaves, `$6` sealed
/// sections, `$7` open calls, `$8` to `$10` the tree's right edge.
///
/// Names of sections are in hexadecimal: they may hold any character, and SQLite's JSON ends a text at
/// U+0000.
const WRITE: &str = "INSERT INTO intake (tenant, replica, epoch, seq, record, kind, prev, body)
     SELECT $1, $2, $3, value->>1, unhex(value->>2, '-'), value->>3, unhex(value->>4),
            substr($4, value->>6, value->>7) FROM json_each($5);
     INSERT INTO leaf (tenant, idx, replica, epoch, seq, leaf_hash)
     SELECT $1, value->>0, $2, $3, value->>1, unhex(value->>5) FROM json_each($5);
     INSERT INTO sealed
            (tenant, record, section, subject, period, nonce, ciphertext, dek, sum)
     SELECT $1, unhex(value->>0, '-'), CAST(unhex(value->>1) AS TEXT), value->>2, value->>3,
            unhex(value->>4), substr($4, value->>7, value->>8), unhex(value->>5),
            unhex(value->>6) FROM json_each($6);
     INSERT INTO open_call (tenant, record, state, claimed, sum)
     SELECT $1, unhex(value->>0, '-'), value->>1, value->>2, unhex(value->>3)
       FROM json_each($7);
     INSERT INTO frontier (tenant, size, edge, root, epoch) VALUES ($1, $8, $9, $10, $3)
     ON CONFLICT (tenant) DO UPDATE SET size = excluded.size, edge = excluded.edge,
     root = excluded.root, epoch = excluded.epoch;
     COMMIT";

/// Opens a transaction and takes calls that are about to end off the open ones.
pub(super) async fn begin(
    conn: &mut SqliteConnection,
    tenant: &str,
    ending: &[RecordId],
) -> Result<Vec<Row>, sqlx::Error> {
    let taken = sqlx::query(
        "BEGIN IMMEDIATE; DELETE FROM open_call WHERE tenant = $1 AND state = 'open'
         AND record IN (SELECT unhex(value, '-') FROM json_each($2)) RETURNING record, claimed",
    )
    .bind(tenant)
    .bind(ids(ending))
    .fetch_all(conn)
    .await?;
    Ok(taken.into_iter().map(Row::Sqlite).collect())
}

impl Rows {
    pub(super) async fn write_sqlite(
        self,
        conn: &mut SqliteConnection,
        stream: Stream<'_>,
        frontier: &Frontier,
    ) -> Result<(), sqlx::Error> {
        let mut packed = Packed::default();
        let leaves = packed.leaves(&self.leaves);
        let sealed = packed.sealed(stream.tenant, &self.sealed);
        let open_calls = open_calls(stream.tenant, &self.open_calls);
        sqlx::query(WRITE)
            .bind(stream.tenant)
            .bind(stream.replica)
            .bind(int(stream.epoch))
            .bind(packed.bytes)
            .bind(leaves)
            .bind(sealed)
            .bind(open_calls)
            .bind(int(frontier.size().0))
            .bind(frontier.to_bytes())
            .bind(frontier.root().0.as_slice())
            .execute(conn)
            .await?;
        Ok(())
    }
}

/// The bytes of bodies and sections, one after the other.
#[derive(Default)]
struct Packed {
    bytes: Vec<u8>,
}

impl Packed {
    /// Adds bytes; returns where they begin, counted from 1, and how many they are.
    fn add(&mut self, bytes: &[u8]) -> (usize, usize) {
        let start = self.bytes.len() + 1;
        self.bytes.extend_from_slice(bytes);
        (start, bytes.len())
    }

    fn leaves(&mut self, rows: &[LeafRow]) -> String {
        array(rows, |text, row| {
            let (start, length) = self.add(&row.body);
            let LeafRow { seq, record, kind, .. } = row;
            let index = row.index.unwrap_or_default();
            write!(text, r#"{index},{seq},"{record}","{kind}","#)?;
            hex(text, &row.prev.0)?;
            text.push(',');
            hex(text, &row.hash.0)?;
            write!(text, ",{start},{length}")
        })
    }

    fn sealed(&mut self, tenant: &str, rows: &[(RecordId, SealedRow)]) -> String {
        array(rows, |text, (record, row)| {
            let (start, length) = self.add(row.bytes());
            write!(text, r#""{record}","#)?;
            hex(text, row.section().as_bytes())?;
            write!(text, r#","{}","{}","#, row.subject(), row.period())?;
            hex(text, row.nonce())?;
            text.push(',');
            hex(text, row.dek())?;
            text.push(',');
            hex(text, &row.sum(tenant, &record_bytes(*record)))?;
            write!(text, ",{start},{length}")
        })
    }
}

fn open_calls(tenant: &str, rows: &[(RecordId, &'static str, bool)]) -> String {
    array(rows, |text, (call, state, claimed)| {
        write!(text, r#""{call}","{state}",{},"#, i64::from(*claimed))?;
        hex(text, &open_call_sum(tenant, &record_bytes(*call), state, *claimed))
    })
}

/// Writes call ids as a JSON array, for `json_each`.
fn ids(calls: &[RecordId]) -> String {
    let mut text = String::from("[");
    for (n, call) in calls.iter().enumerate() {
        let comma = if n == 0 { "" } else { "," };
        let _ = write!(text, r#"{comma}"{call}""#);
    }
    text.push(']');
    text
}

/// Writes rows as a JSON array of arrays. Writing to a `String` cannot fail.
fn array<T>(rows: &[T], mut row: impl FnMut(&mut String, &T) -> std::fmt::Result) -> String {
    let mut text = String::with_capacity(2 + rows.len() * 512);
    text.push('[');
    for (n, item) in rows.iter().enumerate() {
        text.push_str(if n == 0 { "[" } else { ",[" });
        let _ = row(&mut text, item);
        text.push(']');
    }
    text.push(']');
    text
}

/// Writes bytes as a JSON string in hexadecimal.
fn hex(text: &mut String, bytes: &[u8]) -> std::fmt::Result {
    text.push('"');
    for byte in bytes {
        for nibble in [byte >> 4, byte & 15] {
            text.push(char::from_digit(u32::from(nibble), 16).ok_or(std::fmt::Error)?);
        }
    }
    text.push('"');
    Ok(())
}
