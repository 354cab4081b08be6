//! Runs SQL on either engine. The text is the same for both; where it cannot be, the caller matches on
//! the engine.

use rusqlite::types::{FromSql, Value, ValueRef};
use sqlx::postgres::{PgConnection, PgPool, PgRow};
use sqlx::sqlite::{SqlitePool, SqliteRow};
use sqlx::{Connection as _, Decode, Postgres, Row as _, Sqlite, Type};
use sync_wrapper::SyncWrapper;

use super::{Column, sqlite, warnings};

/// A connection. Calls to SQLite block the thread until they are done.
pub(crate) enum Conn {
    /// Nobody shares it: what owns it may go from thread to thread, though it is not `Sync` by itself.
    Sqlite(SyncWrapper<rusqlite::Connection>),
    Postgres(PgConnection),
}

/// Connections for reading.
#[derive(Clone)]
pub(crate) enum Pool {
    Sqlite(SqlitePool),
    Postgres(PgPool),
}

/// A row of an answer.
pub(crate) enum Row {
    /// From the connection that writes.
    Values(Vec<Value>),
    Sqlite(SqliteRow),
    Postgres(PgRow),
}

/// A query with its arguments; the engine follows from where it is run.
macro_rules! bound {
    ($sql:expr, $args:expr) => {{
        let mut query = sqlx::query($sql);
        for arg in $args {
            query = match *arg {
                Column::Int(value) => query.bind(value),
                Column::Text(value) => query.bind(value),
                Column::Blob(value) => query.bind(value),
            };
        }
        query
    }};
}

impl Conn {
    pub(crate) fn sqlite(conn: rusqlite::Connection) -> Self {
        Self::Sqlite(SyncWrapper::new(conn))
    }

    /// Returns how many rows were changed.
    pub(crate) async fn execute(
        &mut self,
        sql: &'static str,
        args: &[Column<'_>],
    ) -> Result<u64, sqlx::Error> {
        Ok(match self {
            Self::Sqlite(conn) => sqlite::execute(conn.get_mut(), sql, args)?,
            Self::Postgres(conn) => bound!(sql, args).execute(conn).await?.rows_affected(),
        })
    }

    pub(crate) async fn fetch_all(
        &mut self,
        sql: &'static str,
        args: &[Column<'_>],
    ) -> Result<Vec<Row>, sqlx::Error> {
        Ok(match self {
            Self::Sqlite(conn) => {
                let rows = sqlite::fetch(conn.get_mut(), sql, args)?;
                rows.into_iter().map(Row::Values).collect()
            }
            Self::Postgres(conn) => postgres_rows(bound!(sql, args).fetch_all(conn).await?),
        })
    }

    pub(crate) async fn fetch_optional(
        &mut self,
        sql: &'static str,
        args: &[Column<'_>],
    ) -> Result<Option<Row>, sqlx::Error> {
        Ok(match self {
            Self::Sqlite(conn) => {
                sqlite::fetch(conn.get_mut(), sql, args)?.into_iter().next().map(Row::Values)
            }
            Self::Postgres(conn) => {
                bound!(sql, args).fetch_optional(conn).await?.map(Row::Postgres)
            }
        })
    }

    pub(crate) async fn fetch_one(
        &mut self,
        sql: &'static str,
        args: &[Column<'_>],
    ) -> Result<Row, sqlx::Error> {
        self.fetch_optional(sql, args).await?.ok_or(sqlx::Error::RowNotFound)
    }

    /// Opens a transaction that writes. After an error the connection must be closed.
    pub(crate) async fn begin(&mut self) -> Result<(), sqlx::Error> {
        match self {
            Self::Sqlite(_) => self.execute("BEGIN IMMEDIATE", &[]).await?,
            Self::Postgres(_) => self.execute("BEGIN", &[]).await?,
        };
        Ok(())
    }

    /// Commits; after an error it is not known whether the transaction is durable.
    pub(crate) async fn commit(&mut self) -> Result<(), sqlx::Error> {
        warnings::refusing(self.execute("COMMIT", &[])).await.map(drop)
    }

    pub(crate) async fn roll_back(&mut self) -> Result<(), sqlx::Error> {
        self.execute("ROLLBACK", &[]).await.map(drop)
    }

    pub(crate) async fn close(self) -> Result<(), sqlx::Error> {
        match self {
            Self::Sqlite(conn) => {
                conn.into_inner().close().map_err(|(_, error)| sqlite::failed(error))
            }
            Self::Postgres(conn) => conn.close().await,
        }
    }

    /// Closes after an error: PostgreSQL hears nothing further, SQLite rolls back.
    pub(crate) async fn close_hard(self) {
        match self {
            Self::Sqlite(conn) => drop(conn),
            Self::Postgres(conn) => drop(conn.close_hard().await),
        }
    }
}

impl Pool {
    pub(crate) async fn fetch_all(
        &self,
        sql: &'static str,
        args: &[Column<'_>],
    ) -> Result<Vec<Row>, sqlx::Error> {
        Ok(match self {
            Self::Sqlite(pool) => sqlite_rows(bound!(sql, args).fetch_all(pool).await?),
            Self::Postgres(pool) => postgres_rows(bound!(sql, args).fetch_all(pool).await?),
        })
    }

    pub(crate) async fn fetch_optional(
        &self,
        sql: &'static str,
        args: &[Column<'_>],
    ) -> Result<Option<Row>, sqlx::Error> {
        Ok(match self {
            Self::Sqlite(pool) => bound!(sql, args).fetch_optional(pool).await?.map(Row::Sqlite),
            Self::Postgres(pool) => {
                bound!(sql, args).fetch_optional(pool).await?.map(Row::Postgres)
            }
        })
    }

    pub(crate) async fn fetch_one(
        &self,
        sql: &'static str,
        args: &[Column<'_>],
    ) -> Result<Row, sqlx::Error> {
        self.fetch_optional(sql, args).await?.ok_or(sqlx::Error::RowNotFound)
    }

    pub(crate) async fn close(&self) {
        match self {
            Self::Sqlite(pool) => pool.close().await,
            Self::Postgres(pool) => pool.close().await,
        }
    }
}

impl Row {
    /// Reads a column, counted from 0.
    pub(crate) fn get<T>(&self, place: usize) -> Result<T, sqlx::Error>
    where
        T: for<'r> Decode<'r, Sqlite>
            + Type<Sqlite>
            + for<'r> Decode<'r, Postgres>
            + Type<Postgres>
            + FromSql,
    {
        match self {
            Self::Values(values) => {
                let value = values.get(place).ok_or(sqlx::Error::ColumnIndexOutOfBounds {
                    index: place,
                    len: values.len(),
                })?;
                T::column_result(ValueRef::from(value))
                    .map_err(|error| sqlx::Error::Decode(error.into()))
            }
            Self::Sqlite(row) => row.try_get(place),
            Self::Postgres(row) => row.try_get(place),
        }
    }
}

fn sqlite_rows(rows: Vec<SqliteRow>) -> Vec<Row> {
    rows.into_iter().map(Row::Sqlite).collect()
}

fn postgres_rows(rows: Vec<PgRow>) -> Vec<Row> {
    rows.into_iter().map(Row::Postgres).collect()
}
