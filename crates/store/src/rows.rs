//! The rows that a batch adds, written with one message to the database: each message costs more than
//! the inserts themselves.

mod postgres;
mod sqlite;

use countersign_ledger::{Frontier, Hash};
use countersign_model::RecordId;

use crate::db::{Conn, Row};
use crate::prepare::SealedRow;

/// Bytes of a sealed section above which it is bound on its own instead of being copied.
const PACKED_BYTES_MAX: usize = 32 * 1024;

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

/// Opens a transaction, takes calls that are about to end off the open ones, and returns each with
/// whether it claimed a key.
pub(crate) async fn begin(
    conn: &mut Conn,
    tenant: &str,
    ending: &[RecordId],
) -> Result<Vec<Row>, sqlx::Error> {
    match conn {
        Conn::Sqlite(conn) => sqlite::begin(conn, tenant, ending).await,
        Conn::Postgres(conn) => postgres::begin(conn, tenant, ending).await,
    }
}

impl Rows {
    /// Writes everything and commits.
    pub(crate) async fn write(
        mut self,
        tx: &mut Conn,
        stream: Stream<'_>,
        frontier: Option<&Frontier>,
    ) -> Result<(), sqlx::Error> {
        if matches!(tx, Conn::Sqlite(_)) {
            for (record, row) in self.take_large() {
                row.insert(tx, stream.tenant, record).await?;
            }
        }
        match (tx, frontier) {
            (Conn::Sqlite(conn), Some(frontier)) => self.write_sqlite(conn, stream, frontier).await,
            (tx @ Conn::Postgres(_), None) => {
                if let Conn::Postgres(conn) = tx {
                    self.write_postgres(conn, stream).await?;
                }
                tx.commit().await
            }
            (Conn::Sqlite(_), None) | (Conn::Postgres(_), Some(_)) => {
                Err(sqlx::Error::Protocol("a writer orders the log, or a sequencer does".into()))
            }
        }
    }

    /// Takes out the sections that are bound on their own.
    fn take_large(&mut self) -> Vec<(RecordId, SealedRow)> {
        self.sealed.extract_if(.., |(_, row)| row.bytes().len() > PACKED_BYTES_MAX).collect()
    }
}
