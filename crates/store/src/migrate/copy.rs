//! Reads rows from SQLite one by one and writes them to PostgreSQL in batches.

use futures_util::TryStreamExt as _;
use sqlx::postgres::PgConnection;
use sqlx::sqlite::SqliteConnection;
use sqlx::{Row as _, TypeInfo as _, ValueRef as _};

use super::tables::Table;
use super::{MigrateError, within};
use crate::StoreError;
use crate::db::{Column, ROW_SUM_BYTES, sum_of};

/// Most rows of one statement.
const BATCH_ROWS_MAX: usize = 2_000;

/// Bytes after which a statement takes no further row; one row has at most the bytes of a bundle.
const BATCH_BYTES_MAX: usize = 4 * 1024 * 1024;

/// Rows after which progress is told.
const TOLD_ROWS: u64 = 1_000;

/// A value of a row.
enum Value {
    Int(i64),
    Text(String),
    Blob(Vec<u8>),
}

/// Reads the values of a row of either database.
macro_rules! read {
    ($row:expr) => {{
        let row = $row;
        (0..row.columns().len())
            .map(|place| {
                let kind = row.try_get_raw(place)?.type_info().name().to_owned();
                match kind.as_str() {
                    "INTEGER" | "INT8" => Ok(Value::Int(row.try_get(place)?)),
                    "TEXT" => Ok(Value::Text(row.try_get(place)?)),
                    _ => Ok(Value::Blob(row.try_get(place)?)),
                }
            })
            .collect::<Result<Vec<Value>, sqlx::Error>>()
    }};
}

impl Value {
    fn column(&self) -> Column<'_> {
        match self {
            Self::Int(value) => Column::Int(*value),
            Self::Text(value) => Column::Text(value),
            Self::Blob(value) => Column::Blob(value),
        }
    }

    fn bytes(&self) -> usize {
        match self {
            Self::Int(_) => size_of::<i64>(),
            Self::Text(value) => value.len(),
            Self::Blob(value) => value.len(),
        }
    }
}

/// The values of one column; every table is strict, so a column has one type.
enum Values {
    Int(Vec<i64>),
    Text(Vec<String>),
    Blob(Vec<Vec<u8>>),
}

impl Values {
    fn of(first: Value) -> Self {
        match first {
            Value::Int(value) => Self::Int(vec![value]),
            Value::Text(value) => Self::Text(vec![value]),
            Value::Blob(value) => Self::Blob(vec![value]),
        }
    }

    /// Adds a value; false if it has another type.
    fn push(&mut self, value: Value) -> bool {
        match (self, value) {
            (Self::Int(values), Value::Int(value)) => values.push(value),
            (Self::Text(values), Value::Text(value)) => values.push(value),
            (Self::Blob(values), Value::Blob(value)) => values.push(value),
            (Self::Int(_) | Self::Text(_) | Self::Blob(_), _) => return false,
        }
        true
    }
}

/// Rows that one statement writes.
#[derive(Default)]
struct Batch {
    columns: Vec<Values>,
    rows: usize,
    bytes: usize,
}

impl Batch {
    fn add(&mut self, table: &Table, values: Vec<Value>) -> Result<(), StoreError> {
        self.rows += 1;
        self.bytes += values.iter().map(Value::bytes).sum::<usize>();
        if self.columns.is_empty() {
            self.columns = values.into_iter().map(Values::of).collect();
            return Ok(());
        }
        for (column, value) in self.columns.iter_mut().zip(values) {
            if !column.push(value) {
                let reason = format!("{}: a column has values of two types", table.name);
                return Err(StoreError::corrupt(reason));
            }
        }
        Ok(())
    }

    fn is_full(&self) -> bool {
        self.rows >= BATCH_ROWS_MAX || self.bytes >= BATCH_BYTES_MAX
    }

    /// Writes the rows; returns how many the database says it took.
    async fn write(
        self,
        sql: &'static str,
        target: &mut PgConnection,
    ) -> Result<u64, MigrateError> {
        if self.rows == 0 {
            return Ok(0);
        }
        let mut query = sqlx::query(sql);
        for values in self.columns {
            query = match values {
                Values::Int(values) => query.bind(values),
                Values::Text(values) => query.bind(values),
                Values::Blob(values) => query.bind(values),
            };
        }
        Ok(within(query.execute(target)).await?.rows_affected())
    }
}

/// How many rows there are and what is in them, in whatever order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Tally {
    pub(super) rows: u64,
    /// The sum of the rows' hashes.
    sum: u128,
}

impl Tally {
    fn add(&mut self, table: &Table, values: &[Value]) {
        let hash = sum_of(table.name, &hashes(values));
        let hash = hash.first_chunk::<ROW_SUM_BYTES>().map_or(0, |hash| u128::from_be_bytes(*hash));
        self.rows += 1;
        self.sum = self.sum.wrapping_add(hash);
    }
}

fn hashes(values: &[Value]) -> Vec<[u8; 32]> {
    values.iter().map(|value| value.column().hash()).collect()
}

/// Makes a row what PostgreSQL gets.
fn convert(table: &Table, values: &mut Vec<Value>) -> Result<(), MigrateError> {
    if values.iter().any(|value| matches!(value, Value::Text(text) if text.contains('\0'))) {
        return Err(MigrateError::Text { table: table.name });
    }
    if table.renamed {
        values.pop();
        values.push(Value::Blob(sum_of(table.name, &hashes(values))));
    }
    Ok(())
}

/// Copies a table; `progress` is told of each batch's rows.
pub(super) async fn copy(
    table: &Table,
    source: &mut SqliteConnection,
    target: &mut PgConnection,
    progress: &mut (dyn FnMut(u64) + Send),
) -> Result<Tally, MigrateError> {
    let mut rows = sqlx::query(table.read).fetch(source);
    let (mut batch, mut tally) = (Batch::default(), Tally::default());
    loop {
        let row = rows.try_next().await?;
        if let Some(row) = &row {
            let mut values = read!(row)?;
            convert(table, &mut values)?;
            tally.add(table, &values);
            batch.add(table, values)?;
        }
        if row.is_none() || batch.is_full() {
            progress(std::mem::take(&mut batch).write(table.write, target).await?);
        }
        if row.is_none() {
            return Ok(tally);
        }
    }
}

/// Reads a table back; `progress` is told of some rows at a time.
pub(super) async fn read_back(
    table: &Table,
    target: &mut PgConnection,
    tenant: &str,
    progress: &mut (dyn FnMut(u64) + Send),
) -> Result<Tally, MigrateError> {
    let mut rows = sqlx::query(table.back).bind(tenant).fetch(target);
    let (mut tally, mut told) = (Tally::default(), 0);
    loop {
        let row = within(rows.try_next()).await?;
        if let Some(row) = &row {
            tally.add(table, &read!(row)?);
        }
        if row.is_none() || tally.rows - told >= TOLD_ROWS {
            progress(tally.rows - told);
            told = tally.rows;
        }
        if row.is_none() {
            return Ok(tally);
        }
    }
}
