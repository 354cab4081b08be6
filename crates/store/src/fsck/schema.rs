//! The schema: triggers that forbid changes help only while they are there.

use std::collections::BTreeMap;

use sqlx::{Connection as _, SqliteConnection};

use super::{Check, Problem};
use crate::db::sqlite::{self, MIGRATIONS};

/// Name, type, table and text of an object; bytes, since damaged text may not be UTF-8.
type Object = (Vec<u8>, Vec<u8>, Vec<u8>, Option<Vec<u8>>);

/// The objects by name.
type Schema = BTreeMap<Vec<u8>, Object>;

impl Check<'_> {
    /// Compares the schema with what the migrations up to its version make.
    ///
    /// Comes last: what else is wrong with the data says more.
    pub(crate) async fn schema(&mut self) -> Result<(), Problem> {
        let broken = Problem::query("sqlite_schema");
        let version: i64 = sqlx::query_scalar("PRAGMA user_version")
            .fetch_one(&mut *self.conn)
            .await
            .map_err(&broken)?;
        if MIGRATIONS.iter().all(|(known, _)| *known != version) {
            return Err(Problem::row(sqlite::FILE, "", "user_version", format!("it is {version}")));
        }
        let made = made(version).await.map_err(&broken)?;
        let found = read(&mut *self.conn).await.map_err(&broken)?;
        let bad = |name: &[u8], reason| {
            Err(Problem::row("sqlite_schema", String::from_utf8_lossy(name), "sql", reason))
        };
        for (name, object) in &made {
            match found.get(name) {
                Some(same) if same == object => {}
                Some(_) => return bad(name, "it is not what the migrations make"),
                None => return bad(name, "it is missing"),
            }
        }
        match found.keys().find(|name| !made.contains_key(*name)) {
            Some(name) => bad(name, "no migration makes it"),
            None => Ok(()),
        }
    }
}

/// Makes the schema of a version anew and reads it.
async fn made(version: i64) -> Result<Schema, sqlx::Error> {
    let mut conn = SqliteConnection::connect("sqlite::memory:").await?;
    for (_, sql) in MIGRATIONS.iter().filter(|(known, _)| *known <= version) {
        sqlx::raw_sql(*sql).execute(&mut conn).await?;
    }
    let schema = read(&mut conn).await?;
    conn.close().await?;
    Ok(schema)
}

async fn read(conn: &mut SqliteConnection) -> Result<Schema, sqlx::Error> {
    let objects: Vec<Object> = sqlx::query_as(
        "SELECT CAST(name AS BLOB), CAST(type AS BLOB), CAST(tbl_name AS BLOB), CAST(sql AS BLOB)
           FROM sqlite_schema",
    )
    .fetch_all(conn)
    .await?;
    Ok(objects.into_iter().map(|object| (object.0.clone(), object)).collect())
}
