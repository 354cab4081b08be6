//! The rows that a batch adds, written a few dozen per statement: each statement is a round trip to the
//! connection's thread, which costs more than the insert itself.

use countersign_ledger::Hash;
use countersign_model::RecordId;
use sqlx::SqliteConnection;

use crate::batch::{open_call_sum, record_bytes};
use crate::db::int;
use crate::prepare::SealedRow;

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

/// Repeats the placeholders of a row.
macro_rules! times {
    (1, $row:literal) => {
        $row
    };
    (4, $row:literal) => {
        concat!($row, ", ", $row, ", ", $row, ", ", $row)
    };
    (16, $row:literal) => {
        concat!(
            times!(4, $row),
            ", ",
            times!(4, $row),
            ", ",
            times!(4, $row),
            ", ",
            times!(4, $row)
        )
    };
    (64, $row:literal) => {
        concat!(
            times!(16, $row),
            ", ",
            times!(16, $row),
            ", ",
            times!(16, $row),
            ", ",
            times!(16, $row)
        )
    };
}

/// Inserts `$rows` with as few statements as four sizes of statement allow.
macro_rules! insert_all {
    ($tx:expr, $rows:expr, $insert:literal, $row:literal, |$query:ident, $item:ident| $bind:expr) => {
        let mut rest = $rows.as_slice();
        while !rest.is_empty() {
            let (sql, count) = match rest.len() {
                64.. => (concat!($insert, times!(64, $row)), 64),
                16.. => (concat!($insert, times!(16, $row)), 16),
                4.. => (concat!($insert, times!(4, $row)), 4),
                _ => (concat!($insert, times!(1, $row)), 1),
            };
            let (now, later) = rest.split_at(count);
            let mut $query = sqlx::query(sql);
            for $item in now {
                $query = $bind;
            }
            $query.execute(&mut *$tx).await?;
            rest = later;
        }
    };
}

impl Rows {
    /// Writes everything.
    pub(crate) async fn insert(
        &self,
        tx: &mut SqliteConnection,
        tenant: &str,
        replica: &str,
        epoch: u64,
    ) -> Result<(), sqlx::Error> {
        let epoch = int(epoch);
        insert_all!(
            tx,
            self.leaves,
            "INSERT INTO intake (tenant, replica, epoch, seq, record, kind, prev, body) VALUES ",
            "(?, ?, ?, ?, ?, ?, ?, ?)",
            |query, row| query
                .bind(tenant)
                .bind(replica)
                .bind(epoch)
                .bind(int(row.seq))
                .bind(record_bytes(row.record))
                .bind(row.kind)
                .bind(row.prev.0.as_slice())
                .bind(row.body.as_slice())
        );
        insert_all!(
            tx,
            self.leaves,
            "INSERT INTO leaf (tenant, idx, replica, epoch, seq, leaf_hash) VALUES ",
            "(?, ?, ?, ?, ?, ?)",
            |query, row| query
                .bind(tenant)
                .bind(int(row.index))
                .bind(replica)
                .bind(epoch)
                .bind(int(row.seq))
                .bind(row.hash.0.as_slice())
        );
        insert_all!(
            tx,
            self.sealed,
            "INSERT INTO sealed
             (tenant, record, section, subject, period, nonce, ciphertext, dek, sum) VALUES ",
            "(?, ?, ?, ?, ?, ?, ?, ?, ?)",
            |query, row| {
                let (record, row) = row;
                let record = record_bytes(*record);
                row.bind(query.bind(tenant).bind(record.clone()), tenant, &record)
            }
        );
        insert_all!(
            tx,
            self.open_calls,
            "INSERT INTO open_call (tenant, record, state, claimed, sum) VALUES ",
            "(?, ?, ?, ?, ?)",
            |query, row| {
                let (call, state, claimed) = *row;
                let record = record_bytes(call);
                let sum = open_call_sum(tenant, &record, state, claimed);
                query.bind(tenant).bind(record).bind(state).bind(i64::from(claimed)).bind(sum)
            }
        );
        Ok(())
    }
}
