//! The rows that a batch adds, written at its end: PostgreSQL gets them in one message, since each message
//! costs more than the inserts themselves; SQLite is called in place, a row at a time.

mod postgres;
mod sqlite;

use countersign_ledger::{Frontier, Hash};
use countersign_model::RecordId;

use crate::db::{Conn, warnings};
use crate::prepare::SealedRow;

/// A record's place and bytes.
pub(crate) struct LeafRow {
    /// Its place in the log, if the writer orders it.
    pub(crate) index: Option<u64>,
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
    /// Calls that were open in earlier batches and are no more.
    pub(crate) ended: Vec<RecordId>,
}

/// Which stream of which tenant the rows belong to.
#[derive(Clone, Copy)]
pub(crate) struct Stream<'a> {
    pub(crate) tenant: &'a str,
    pub(crate) replica: &'a str,
    pub(crate) epoch: u64,
    /// The last record's number in the stream.
    pub(crate) seq: u64,
}

impl Rows {
    /// Writes everything and commits; all in one statement unless the transaction is open already.
    pub(crate) async fn write(
        self,
        tx: &mut Conn,
        begun: bool,
        stream: Stream<'_>,
        frontier: Option<&Frontier>,
    ) -> Result<(), sqlx::Error> {
        match (&mut *tx, frontier) {
            (Conn::Sqlite(conn), Some(frontier)) => {
                self.write_sqlite(conn.get_mut(), stream, frontier)?;
                for (record, row) in &self.sealed {
                    row.insert(tx, stream.tenant, *record).await?;
                }
            }
            (Conn::Postgres(conn), None) => {
                warnings::refusing(self.write_postgres(conn, stream)).await?;
            }
            (Conn::Sqlite(_), None) | (Conn::Postgres(_), Some(_)) => {
                let reason = "a writer orders the log, or a sequencer does";
                return Err(sqlx::Error::Protocol(reason.into()));
            }
        }
        if begun { tx.commit().await } else { Ok(()) }
    }
}
