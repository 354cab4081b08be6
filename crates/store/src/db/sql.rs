//! Runs SQL on either engine. The text is the same for both; where it cannot be, the caller matches on
//! the engine.

use sqlx::postgres::{PgConnection, PgPool, PgRow};
use sqlx::sqlite::{SqliteConnection, SqlitePool, SqliteRow};
use sqlx::{Connection as _, Decode, Postgres, Row as _, Sqlite, Type};

use super::{Column, warnings};

/// A connection.
pub(crate) enum Conn {
    Sqlite(SqliteConnection),
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
    /// Returns how many rows were changed.
    pub(crate) async fn execute(
        &mut self,
        sql: &'static str,
        args: &[Column<'_>],
    ) -> Result<u64, sqlx::Error> {
        Ok(match self {
            Self::Sqlite(conn) => bound!(sql, args).execute(conn).await?.rows_affected(),
            Self::Postgres(conn) => bound!(sql, args).execute(conn).await?.rows_affected(),
        })
    }

    pub(crate) async fn fetch_all(
        &mut self,
        sql: &'static str,
        args: &[Column<'_>],
    ) -> Result<Vec<Row>, sqlx::Error> {
        Ok(match self {
            Self::Sqlite(conn) => sqlite_rows(bound!(sql, args).fetch_all(conn).await?),
            Self::Postgres(conn) => postgres_rows(bound!(sql, args).fetch_all(conn).await?),
        })
    }

    pub(crate) async fn fetch_optional(
        &mut self,
        sql: &'static str,
        args: &[Column<'_>],
    ) -> Result<Option<Row>, sqlx::Error> {
        Ok(match self {
            Self::Sqlite(conn) => bound!(sql, args).fetch_optional(conn).await?.map(Row::Sqlite),
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
        let (done, warned) = warnings::listening(self.execute("COMMIT", &[])).await;
        done?;
        if warned {
            return Err(sqlx::Error::Protocol("the database warned during a commit".into()));
        }
        Ok(())
    }

    pub(crate) async fn roll_back(&mut self) -> Result<(), sqlx::Error> {
        self.execute("ROLLBACK", &[]).await.map(drop)
    }

    pub(crate) async fn close(self) -> Result<(), sqlx::Error> {
        match self {
            Self::Sqlite(conn) => conn.close().await,
            Self::Postgres(conn) => conn.close().await,
        }
    }

    /// Closes without any further word to the database.
    pub(crate) async fn close_hard(self) {
        let _ = match self {
            Self::Sqlite(conn) => conn.close_hard().await,
            Self::Postgres(conn) => conn.close_hard().await,
        };
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
            + Type<Postgres>,
    {
        match self {
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
