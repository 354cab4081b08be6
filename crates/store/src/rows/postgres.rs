//! One statement with an array for each column.

use sqlx::error::DatabaseError;
use sqlx::postgres::PgConnection;

use super::{Rows, Stream};
use crate::batch::{open_call_sum, record_bytes};
use crate::db::int;

/// All of a batch, unless something had to be read or written before: then the end of its transaction.
///
/// Writes nothing unless the stream is still this process's: whoever took it over has counted its epoch
/// up, and waited for the row as long as this transaction had it. Fails, by a division by zero, unless every
/// call that ends was open.
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
), ended AS (
    DELETE FROM open_call o USING fence, unnest($22::bytea[]) AS e(record)
     WHERE o.tenant = $1 AND o.record = e.record AND o.state = 'open' RETURNING 1
), calls AS (
    INSERT INTO open_call (tenant, record, state, claimed, sum, replica)
    SELECT $1, c.*, $2 FROM fence,
           unnest($18::bytea[], $19::text[], $20::bigint[], $21::bytea[]) AS c
)
SELECT count(*) / CASE WHEN count(*) = 0 OR (SELECT count(*) FROM ended) = cardinality($22)
                  THEN 1 ELSE 0 END FROM fence";

/// Says what a division by zero means here.
fn not_open(error: sqlx::Error) -> sqlx::Error {
    match error.as_database_error().and_then(DatabaseError::code).as_deref() {
        Some("22012") => {
            sqlx::Error::Protocol("a call that ends is not open in the database".into())
        }
        _ => error,
    }
}

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
        let ended: Vec<Vec<u8>> = self.ended.iter().map(|call| record_bytes(*call)).collect();
        // All rows, not the first: the commit is done when the server is ready for the next statement.
        let fenced: Vec<i64> = sqlx::query_scalar(WRITE)
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
            .bind(ended)
            .fetch_all(conn)
            .await
            .map_err(not_open)?;
        if fenced != [1] {
            return Err(sqlx::Error::Protocol(
                "another process writes this gateway's stream".into(),
            ));
        }
        Ok(())
    }
}
