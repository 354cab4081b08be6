//! The rows that a batch adds, written with one message to the connection's thread: each message
//! costs more than the inserts themselves.
//!
//! Every table gets one `INSERT … SELECT` from a JSON array of the rows' small columns; the bytes of
//! bodies and sections lie one after the other in one blob and are cut out of it. This is what
//! `UNNEST` of arrays does in PostgreSQL.

use std::fmt::Write as _;

use countersign_ledger::{Frontier, Hash};
use countersign_model::RecordId;
use sqlx::SqliteConnection;

use crate::batch::{open_call_sum, record_bytes};
use crate::db::int;
use crate::prepare::SealedRow;

/// Bytes of a sealed section above which it is bound on its own instead of being copied.
const PACKED_BYTES_MAX: usize = 32 * 1024;

/// A record's place and bytes.
pub(crate) struct LeafRow {
    pub(crate) index: u64,
    pub(crate) seq: u64,
    pub(crate) record: RecordId,
    pub(crate) kind: &'static str,
    pub(crate) prev: Hash,
    pub(crate) body: Vec<u8>,
    pub(crate) hash: Hash,
}

/// What a batch has yet to write.
#[derive(Default)]
pub(crate) struct Rows {
    pub(crate) leaves: Vec<LeafRow>,
    pub(crate) sealed: Vec<(RecordId, SealedRow)>,
    /// Call, state, and whether it claimed a key.
    pub(crate) open_calls: Vec<(RecordId, &'static str, bool)>,
}

/// Writes everything: `$1` tenant, `$2` replica, `$3` epoch, `$4` bytes, `$5` leaves, `$6` sealed
/// sections, `$7` open calls, `$8` to `$10` the tree's right edge.
///
/// Names of sections are in hexadecimal: they may hold any character, and SQLite's JSON ends a text at
/// U+0000.
macro_rules! write_rows {
    ($end:literal) => {
        concat!(
            "INSERT INTO intake (tenant, replica, epoch, seq, record, kind, prev, body)
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
             root = excluded.root, epoch = excluded.epoch",
            $end
        )
    };
}

impl Rows {
    /// Writes everything, and ends the transaction if `commit` says so.
    pub(crate) async fn write(
        self,
        tx: &mut SqliteConnection,
        stream: Stream<'_>,
        frontier: &Frontier,
        commit: bool,
    ) -> Result<(), sqlx::Error> {
        let mut packed = Packed::default();
        let leaves = packed.leaves(&self.leaves);
        let (small, large): (Vec<_>, Vec<_>) =
            self.sealed.iter().partition(|(_, row)| row.bytes().len() <= PACKED_BYTES_MAX);
        for (record, row) in large {
            row.insert(tx, stream.tenant, *record).await?;
        }
        let sealed = packed.sealed(stream.tenant, &small);
        let open_calls = open_calls(stream.tenant, &self.open_calls);
        let sql = if commit { write_rows!("; COMMIT") } else { write_rows!("") };
        sqlx::query(sql)
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
            .execute(tx)
            .await?;
        Ok(())
    }
}

/// Which stream of which tenant the rows belong to.
#[derive(Clone, Copy)]
pub(crate) struct Stream<'a> {
    pub(crate) tenant: &'a str,
    pub(crate) replica: &'a str,
    pub(crate) epoch: u64,
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
            let LeafRow { index, seq, record, kind, .. } = row;
            write!(text, r#"{index},{seq},"{record}","{kind}","#)?;
            hex(text, &row.prev.0)?;
            text.push(',');
            hex(text, &row.hash.0)?;
            write!(text, ",{start},{length}")
        })
    }

    fn sealed(&mut self, tenant: &str, rows: &[&(RecordId, SealedRow)]) -> String {
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
pub(crate) fn ids(calls: &[RecordId]) -> String {
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
