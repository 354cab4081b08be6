//! A prepared statement for each table, run once for each row.

use countersign_ledger::Frontier;
use rusqlite::Connection;

use super::{Rows, Stream};
use crate::batch::{open_call_sum, record_bytes};
use crate::db::sqlite::execute;
use crate::db::{Column, int};

const ENDED: &str = "DELETE FROM open_call WHERE tenant = $1 AND record = $2 AND state = 'open'";

const INTAKE: &str = "INSERT INTO intake (tenant, replica, epoch, seq, record, kind, prev, body)
     VALUES ($1, $2, $3, $4, $5, $6, $7, $8)";

const LEAF: &str = "INSERT INTO leaf (tenant, idx, replica, epoch, seq, leaf_hash)
     VALUES ($1, $2, $3, $4, $5, $6)";

const OPEN_CALL: &str = "INSERT INTO open_call (tenant, record, state, claimed, sum)
     VALUES ($1, $2, $3, $4, $5)";

const FRONTIER: &str = "INSERT INTO frontier (tenant, size, edge, root, epoch)
     VALUES ($1, $2, $3, $4, $5)
     ON CONFLICT (tenant) DO UPDATE SET size = excluded.size, edge = excluded.edge,
     root = excluded.root, epoch = excluded.epoch";

impl Rows {
    /// Writes everything but sealed sections.
    pub(super) fn write_sqlite(
        &self,
        conn: &Connection,
        stream: Stream<'_>,
        frontier: &Frontier,
    ) -> Result<(), sqlx::Error> {
        let tenant = Column::Text(stream.tenant);
        let (replica, epoch) = (Column::Text(stream.replica), Column::Int(int(stream.epoch)));
        for row in &self.leaves {
            let record = record_bytes(row.record);
            let (seq, body) = (Column::Int(int(row.seq)), Column::Blob(&row.body));
            let (record, kind) = (Column::Blob(&record), Column::Text(row.kind));
            let prev = Column::Blob(&row.prev.0);
            execute(conn, INTAKE, &[tenant, replica, epoch, seq, record, kind, prev, body])?;
            let index = Column::Int(int(row.index.unwrap_or_default()));
            let hash = Column::Blob(&row.hash.0);
            execute(conn, LEAF, &[tenant, index, replica, epoch, seq, hash])?;
        }
        for call in &self.ended {
            let args = [tenant, Column::Blob(call.0.as_bytes())];
            if execute(conn, ENDED, &args)? != 1 {
                let reason = "a call that ends is not open in the database";
                return Err(sqlx::Error::Protocol(reason.into()));
            }
        }
        for (call, state, claimed) in &self.open_calls {
            let call = record_bytes(*call);
            let sum = open_call_sum(stream.tenant, &call, state, *claimed);
            let (call, claimed) = (Column::Blob(&call), Column::Int(i64::from(*claimed)));
            let args = [tenant, call, Column::Text(state), claimed, Column::Blob(&sum)];
            execute(conn, OPEN_CALL, &args)?;
        }
        let (size, edge, root) =
            (Column::Int(int(frontier.size().0)), frontier.to_bytes(), frontier.root());
        let args = [tenant, size, Column::Blob(&edge), Column::Blob(&root.0), epoch];
        execute(conn, FRONTIER, &args)?;
        Ok(())
    }
}
