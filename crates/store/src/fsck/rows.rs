//! Rows that carry a sum.

use sqlx::sqlite::SqliteRow;
use sqlx::{Column as _, Row as _, TypeInfo as _, ValueRef as _};

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
        use futures_util::TryStreamExt as _;
        for &(table, sql, keys) in TABLES {
            let mut rows = sqlx::query(sql).fetch(&mut *self.conn);
            while let Some(row) = rows.try_next().await.map_err(Problem::query(table))? {
                check_row(table, &row, keys, &self.tenant)?;
                self.report.rows += 1;
            }
        }
        Ok(())
    }
}

fn check_row(table: &str, row: &SqliteRow, keys: usize, tenant: &str) -> Result<(), Problem> {
    let columns = row.columns().len() - 1;
    let hashes: Vec<[u8; 32]> = (0..columns)
        .map(|place| hash_at(row, place))
        .collect::<Result<_, _>>()
        .map_err(Problem::query(table))?;
    let stored: Vec<u8> = row.try_get(columns).map_err(Problem::query(table))?;
    let bad = |column: &str, reason| {
        let key: Vec<String> = (0..keys).map(|place| text_at(row, place)).collect();
        Err(Problem::row(table, key.join(" "), column, reason))
    };
    let computed = sum_of(table, &hashes);
    if stored != computed {
        return bad(bad_column(row, &stored, &computed), "the value does not fit the row's sum");
    }
    if text_at(row, 0) != tenant {
        return bad("tenant", "the tenant is another one");
    }
    Ok(())
}

/// Names the column that makes two sums differ.
fn bad_column<'a>(row: &'a SqliteRow, stored: &[u8], computed: &[u8]) -> &'a str {
    let whole_fits = stored.get(..ROW_SUM_BYTES) == computed.get(..ROW_SUM_BYTES);
    let piece = |sum: &[u8], place: usize| {
        let start = ROW_SUM_BYTES + 2 * place;
        sum.get(start..start + 2).map(<[u8]>::to_vec)
    };
    let differs = |place: &usize| piece(stored, *place) != piece(computed, *place);
    let place = (0..row.columns().len() - 1).find(differs).filter(|_| !whole_fits);
    place.map_or("sum", |place| row.column(place).name())
}

fn hash_at(row: &SqliteRow, place: usize) -> Result<[u8; 32], sqlx::Error> {
    let value = row.try_get_raw(place)?;
    let kind = value.type_info().name().to_owned();
    if kind == "INTEGER" {
        return Ok(Column::Int(row.try_get(place)?).hash());
    }
    // Damaged text may not be UTF-8.
    let bytes: Vec<u8> = row.try_get_unchecked(place)?;
    Ok(match str::from_utf8(&bytes) {
        Ok(text) if kind == "TEXT" => Column::Text(text).hash(),
        _ => Column::Blob(&bytes).hash(),
    })
}

/// Returns a key's column for people: text as it is, bytes in hexadecimal.
fn text_at(row: &SqliteRow, place: usize) -> String {
    if let Ok(number) = row.try_get::<i64, _>(place) {
        return number.to_string();
    }
    if let Ok(text) = row.try_get::<String, _>(place) {
        return text;
    }
    let bytes: Vec<u8> = row.try_get_unchecked(place).unwrap_or_default();
    match <[u8; 16]>::try_from(bytes.as_slice()) {
        Ok(id) => uuid::Uuid::from_bytes(id).to_string(),
        Err(_) => bytes.iter().map(|byte| format!("{byte:02x}")).collect(),
    }
}
