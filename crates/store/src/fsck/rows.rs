//! Rows that carry a sum.

use futures_util::TryStreamExt as _;
use sqlx::postgres::{PgPool, PgRow};
use sqlx::sqlite::SqliteRow;
use sqlx::{Row as _, TypeInfo as _, ValueRef as _};

use super::{Check, Problem};
use crate::db::{Column, ROW_SUM_BYTES, sum_of};

/// The tables whose rows have a sum as the last column, and how many columns their keys have.
const TABLES: &[(&str, &str, usize)] = &[
    ("coord", "SELECT * FROM coord", 1),
    ("subject", "SELECT * FROM subject", 2),
    ("sealed", "SELECT * FROM sealed", 3),
    ("replay", "SELECT * FROM replay", 2),
    ("idempotency", "SELECT * FROM idempotency", 3),
    ("open_call", "SELECT * FROM open_call", 2),
    ("anchor", "SELECT * FROM anchor", 4),
    ("agent", "SELECT * FROM agent", 2),
    ("api_key", "SELECT * FROM api_key", 2),
    ("bundle", "SELECT * FROM bundle", 3),
    ("active_bundle", "SELECT * FROM active_bundle", 1),
];

impl Check<'_> {
    /// Checks the sum of every row that has one, and that it is of this tenant.
    pub(crate) async fn rows(&mut self) -> Result<(), Problem> {
        for &(table, sql, keys) in TABLES {
            let mut rows = sqlx::query(sql).fetch(&mut *self.conn);
            while let Some(row) = rows.try_next().await.map_err(Problem::query(table))? {
                let cells = sqlite_cells(&row).map_err(Problem::query(table))?;
                check_row(table, &cells, keys, &self.tenant)?;
                self.report.rows += 1;
            }
        }
        Ok(())
    }
}

/// Checks the sums of a tenant's rows in PostgreSQL, one row after the other; returns how many there are.
pub(super) async fn check_postgres(db: &PgPool, tenant: &str) -> Result<u64, Problem> {
    let mut checked = 0;
    for &(table, sql, keys) in TABLES {
        let sql = match table {
            // Who leads the log and which gateway has a call are no part of a sum.
            "coord" => continue,
            "open_call" => "SELECT tenant, record, state, claimed, sum FROM open_call",
            _ => sql,
        };
        let mut rows = sqlx::query(sql).fetch(db);
        while let Some(row) = rows.try_next().await.map_err(Problem::query(table))? {
            let cells = postgres_cells(&row).map_err(Problem::query(table))?;
            check_row(table, &cells, keys, tenant)?;
            checked += 1;
        }
    }
    Ok(checked)
}

/// A column's name and value.
struct Cell {
    name: String,
    value: Value,
}

enum Value {
    Int(i64),
    Text(String),
    Blob(Vec<u8>),
}

impl Value {
    fn hash(&self) -> [u8; 32] {
        match self {
            Self::Int(number) => Column::Int(*number).hash(),
            Self::Text(text) => Column::Text(text).hash(),
            Self::Blob(bytes) => Column::Blob(bytes).hash(),
        }
    }

    /// Returns it for people: text as it is, bytes in hexadecimal.
    fn shown(&self) -> String {
        match self {
            Self::Int(number) => number.to_string(),
            Self::Text(text) => text.clone(),
            Self::Blob(bytes) => match <[u8; 16]>::try_from(bytes.as_slice()) {
                Ok(id) => uuid::Uuid::from_bytes(id).to_string(),
                Err(_) => bytes.iter().map(|byte| format!("{byte:02x}")).collect(),
            },
        }
    }
}

/// Reads the cells of a row of either engine, whose types have other names.
macro_rules! cells {
    ($row:expr, $int:literal) => {{
        let row = $row;
        let cell = |(place, column): (usize, _)| {
            let name = sqlx::Column::name(column).to_owned();
            let kind = row.try_get_raw(place)?.type_info().name().to_owned();
            if kind == $int {
                return Ok(Cell { name, value: Value::Int(row.try_get(place)?) });
            }
            // Damaged text may not be UTF-8.
            let bytes: Vec<u8> = row.try_get_unchecked(place)?;
            let value = match String::from_utf8(bytes) {
                Ok(text) if kind == "TEXT" => Value::Text(text),
                Ok(text) => Value::Blob(text.into_bytes()),
                Err(error) => Value::Blob(error.into_bytes()),
            };
            Ok(Cell { name, value })
        };
        row.columns().iter().enumerate().map(cell).collect()
    }};
}

fn sqlite_cells(row: &SqliteRow) -> Result<Vec<Cell>, sqlx::Error> {
    cells!(row, "INTEGER")
}

fn postgres_cells(row: &PgRow) -> Result<Vec<Cell>, sqlx::Error> {
    cells!(row, "INT8")
}

fn check_row(table: &str, row: &[Cell], keys: usize, tenant: &str) -> Result<(), Problem> {
    let bad = |column: &str, reason| {
        let key: Vec<String> = row.iter().take(keys).map(|cell| cell.value.shown()).collect();
        Err(Problem::row(table, key.join(" "), column, reason))
    };
    let Some((Cell { value: Value::Blob(stored), .. }, summed)) = row.split_last() else {
        return bad("sum", "it is not a sum");
    };
    let hashes: Vec<[u8; 32]> = summed.iter().map(|cell| cell.value.hash()).collect();
    let computed = sum_of(table, &hashes);
    if *stored != computed {
        return bad(bad_column(summed, stored, &computed), "the value does not fit the row's sum");
    }
    if summed.first().map(|cell| cell.value.shown()).as_deref() != Some(tenant) {
        return bad("tenant", "the tenant is another one");
    }
    Ok(())
}

/// Names the column that makes two sums differ.
fn bad_column<'a>(summed: &'a [Cell], stored: &[u8], computed: &[u8]) -> &'a str {
    let whole_fits = stored.get(..ROW_SUM_BYTES) == computed.get(..ROW_SUM_BYTES);
    let piece = |sum: &[u8], place: usize| {
        let start = ROW_SUM_BYTES + 2 * place;
        sum.get(start..start + 2).map(<[u8]>::to_vec)
    };
    let differs = |(place, _): &(usize, _)| piece(stored, *place) != piece(computed, *place);
    let found = summed.iter().enumerate().find(differs).filter(|_| !whole_fits);
    found.map_or("sum", |(_, cell)| &cell.name)
}
