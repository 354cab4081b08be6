//! One statement with an array for each column.

use countersign_model::RecordId;
use sqlx::postgres::PgConnection;

use super::{Row, Rows, Stream};
use crate::batch::{open_call_sum, record_bytes};
use crate::db::int;

/// Opens a transaction and takes calls that are about to end off the open ones.
pub(super) async fn begin(
    conn: &mut PgConnection,
    tenant: &str,
    ending: &[RecordId],
) -> Result<Vec<Row>, sqlx::Error> {
    sqlx::query("BEGIN").execute(&mut *conn).await?;
    if ending.is_empty() {
        return Ok(Vec::new());
    }
    let calls: Vec<Vec<u8>> = ending.iter().map(|call| record_bytes(*call)).collect();
    let taken = sqlx::query(
        "DELETE FROM open_call WHERE tenant = $1 AND state = 'open' AND record = ANY($2)
         RETURNING record, claimed",
    )
    .bind(tenant)
    .bind(calls)
    // Planned each time: a plan made while the table was small would look at every row of the tenant,
    // and thousands of ended calls lie there until the next vacuum.
    .persistent(false)
    .fetch_all(conn)
    .await?;
    Ok(taken.into_iter().map(Row::Postgres).collect())
}

/// Writes nothing unless the stream is still this process's: whoever took it over has counted its epoch
/// up, and waited for the row as long as this transaction had it.
const WRITE: &str = "
WITH fence AS (
    UPDATE stream SET seq = $4, beat = now()
     WHERE tenant = $1 AND replica = $2 AND epoch = $3 RETURNING epoch
), records AS (
    INSERT INTO intake (tenant, replica, epoch, seq, record, kind, prev, body)
    SELECT $1, $2, $3, r.* FROM fence,
           unnest($5::bigint[], $6::bytea[], $7::text[], $8::bytea[], $9::bytea[]) AS r
), sections AS (
    INSERT INTO sealed (tenant, record, section, subject, period, nonce, ciphertext, dek, sum)
    SELECT $1, s.* FROM fence,
           unnest($10::bytea[], $11::text[], $12::text[], $13::text[], $14::bytea[], $15::bytea[],
                  $16::bytea[], $17::bytea[]) AS s
), calls AS (
    INSERT INTO open_call (tenant, record, state, claimed, sum, replica)
    SELECT $1, c.*, $2 FROM fence,
           unnest($18::bytea[], $19::text[], $20::bigint[], $21::bytea[]) AS c
)
SELECT count(*) FROM fence";

impl Rows {
    pub(super) async fn write_postgres(
        self,
        conn: &mut PgConnection,
        stream: Stream<'_>,
    ) -> Result<(), sqlx::Error> {
        let tenant = stream.tenant;
        let records: Vec<Vec<u8>> =
            self.sealed.iter().map(|(record, _)| record_bytes(*record)).collect();
        let sums: Vec<Vec<u8>> = self
            .sealed
            .iter()
            .zip(&records)
            .map(|((_, row), record)| row.sum(tenant, record))
            .collect();
        let sealed = || self.sealed.iter().map(|(_, row)| row);
        let calls: Vec<Vec<u8>> =
            self.open_calls.iter().map(|(call, ..)| record_bytes(*call)).collect();
        let call_sums: Vec<Vec<u8>> = self
            .open_calls
            .iter()
            .zip(&calls)
            .map(|((_, state, claimed), call)| open_call_sum(tenant, call, state, *claimed))
            .collect();
        let leaves = || self.leaves.iter();
        let fenced: i64 = sqlx::query_scalar(WRITE)
            .bind(tenant)
            .bind(stream.replica)
            .bind(int(stream.epoch))
            .bind(int(stream.seq))
            .bind(leaves().map(|row| int(row.seq)).collect::<Vec<_>>())
            .bind(leaves().map(|row| record_bytes(row.record)).collect::<Vec<_>>())
            .bind(leaves().map(|row| row.kind).collect::<Vec<_>>())
            .bind(leaves().map(|row| row.prev.0.as_slice()).collect::<Vec<_>>())
            .bind(leaves().map(|row| row.body.as_slice()).collect::<Vec<_>>())
            .bind(records)
            .bind(sealed().map(|row| row.section()).collect::<Vec<_>>())
            .bind(sealed().map(|row| row.subject()).collect::<Vec<_>>())
            .bind(sealed().map(|row| row.period()).collect::<Vec<_>>())
            .bind(sealed().map(|row| row.nonce()).collect::<Vec<_>>())
            .bind(sealed().map(|row| row.bytes()).collect::<Vec<_>>())
            .bind(sealed().map(|row| row.dek()).collect::<Vec<_>>())
            .bind(sums)
            .bind(calls)
            .bind(self.open_calls.iter().map(|(_, state, _)| *state).collect::<Vec<_>>())
            .bind(
                self.open_calls
                    .iter()
                    .map(|(_, _, claimed)| i64::from(*claimed))
                    .collect::<Vec<_>>(),
            )
            .bind(call_sums)
            .fetch_one(conn)
            .await?;
        if fenced != 1 {
            return Err(sqlx::Error::Protocol(
                "another process writes this gateway's stream".into(),
            ));
        }
        Ok(())
    }
}
