//! Records as CSV (RFC 4180) that spreadsheets read well and never execute.
//!
//! UTF-8 with a byte order mark, CRLF, every cell quoted. A text that a spreadsheet would take for a
//! formula (CWE-1236) gets a leading `'`, and its column's name stands in `csv_escaped`: the leaves,
//! not this table, are the evidence. Line ends and tabs inside a cell are written `\n`, `\r` and `\t`.

use std::io::Write;

use countersign_ledger::hash::sha256;

use crate::{EvidenceError, Record, time};

/// Longest cell, in characters; a spreadsheet cuts at 32,767.
const CELL_CHARS_MAX: usize = 32_000;

/// Characters of a longer cell that are kept before its hash.
const CELL_CHARS_KEPT: usize = 31_900;

/// What makes a spreadsheet take a text for a formula, full-width forms included.
const FORMULA: [char; 11] = ['=', '+', '-', '@', '\t', '\r', '\n', '＝', '＋', '－', '＠'];

/// The columns.
pub const COLUMNS: [&str; 27] = [
    "leaf_index",
    "record_id",
    "evaluation_id",
    "kind",
    "occurred_at_utc",
    "occurred_excel_utc",
    "result",
    "would_be_decision",
    "enforcement_mode",
    "agent_id",
    "agent_name",
    "principal",
    "environment",
    "origin",
    "method",
    "server",
    "tool_name",
    "matched_rule_ids",
    "reason_codes",
    "policy_bundle_sha256",
    "tool_pin",
    "parent_id",
    "session_id",
    "duration_ms",
    "detail",
    "leaf_hash",
    "csv_escaped",
];

/// Writes records as rows.
pub struct CsvWriter<W: Write>(csv::Writer<W>);

impl<W: Write> std::fmt::Debug for CsvWriter<W> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CsvWriter").finish_non_exhaustive()
    }
}

impl<W: Write> CsvWriter<W> {
    /// Begins a table with the byte order mark and the header.
    ///
    /// # Errors
    /// [`EvidenceError::Csv`] if it cannot be written.
    pub fn new(mut to: W) -> Result<Self, EvidenceError> {
        to.write_all("\u{feff}".as_bytes()).map_err(csv::Error::from)?;
        let mut writer = csv::WriterBuilder::new()
            .terminator(csv::Terminator::CRLF)
            .quote_style(csv::QuoteStyle::Always)
            .from_writer(to);
        writer.write_record(COLUMNS)?;
        Ok(Self(writer))
    }

    /// Writes one record.
    ///
    /// # Errors
    /// [`EvidenceError::Csv`] if it cannot be written.
    pub fn write(&mut self, record: &Record) -> Result<(), EvidenceError> {
        let mut escaped = Vec::new();
        let mut cells = Vec::with_capacity(COLUMNS.len());
        for (column, value) in COLUMNS.iter().zip(values(record)) {
            let (cell, prefixed) = match value {
                Cell::Number(number) => (number, false),
                Cell::Text(text) => cell(&text),
            };
            if prefixed {
                escaped.push(*column);
            }
            cells.push(cell);
        }
        cells.push(escaped.join(" "));
        Ok(self.0.write_record(&cells)?)
    }

    /// Ends the table.
    ///
    /// # Errors
    /// [`EvidenceError::Csv`] if it cannot be written.
    pub fn finish(mut self) -> Result<(), EvidenceError> {
        self.0.flush().map_err(|error| csv::Error::from(error).into())
    }
}

/// Writes records as one table.
///
/// # Errors
/// [`EvidenceError::Csv`].
pub fn table(records: &[Record]) -> Result<Vec<u8>, EvidenceError> {
    let mut bytes = Vec::new();
    let mut table = CsvWriter::new(&mut bytes)?;
    for record in records {
        table.write(record)?;
    }
    table.finish()?;
    Ok(bytes)
}

/// What stands in a cell.
pub(crate) enum Cell {
    /// Digits: never prefixed.
    Number(String),
    /// A text of whatever origin.
    Text(String),
}

/// Returns the byte order mark and the header as bytes.
pub(crate) fn header(columns: &[&str]) -> Vec<u8> {
    let mut line = "\u{feff}".as_bytes().to_vec();
    line.extend(quoted(columns));
    line
}

/// Returns one row as bytes; `cells` are those of all columns but the last, which is `csv_escaped`.
pub(crate) fn row(columns: &[&str], cells: impl Iterator<Item = Cell>) -> Vec<u8> {
    let mut escaped = Vec::new();
    let mut texts = Vec::with_capacity(columns.len());
    for (column, value) in columns.iter().zip(cells) {
        let (text, prefixed) = match value {
            Cell::Number(number) => (number, false),
            Cell::Text(text) => cell(&text),
        };
        if prefixed {
            escaped.push(*column);
        }
        texts.push(text);
    }
    texts.push(escaped.join(" "));
    quoted(&texts)
}

/// Quotes every cell (RFC 4180).
fn quoted(cells: &[impl AsRef<str>]) -> Vec<u8> {
    let cells: Vec<String> =
        cells.iter().map(|cell| format!("\"{}\"", cell.as_ref().replace('"', "\"\""))).collect();
    format!("{}\r\n", cells.join(",")).into_bytes()
}

/// Returns the values of all columns but the last.
fn values(record: &Record) -> Vec<Cell> {
    let text = |name: &str| record.text(name).unwrap_or_default().to_owned();
    let at = time::utc(record.time_ms());
    let excel = at.replace('T', " ").chars().take(19).collect();
    let duration = record.integer("duration_ms").map_or_else(String::new, |ms| ms.to_string());
    let texts = [
        record.id().to_owned(),
        record.evaluation_id().to_owned(),
        record.kind().to_owned(),
        at,
        excel,
        record.result().to_owned(),
        text("would_be"),
        text("mode"),
        text("agent"),
        text("agent_name"),
        text("principal"),
        text("environment"),
        text("origin"),
        text("method"),
        text("server"),
        text("tool"),
        record.list("rules").join(" "),
        record.list("reasons").join(" "),
        text("bundle"),
        text("tool_pin"),
        text("parent"),
        text("session"),
    ];
    let mut values = vec![Cell::Number(record.index().to_string())];
    values.extend(texts.map(Cell::Text));
    values.push(Cell::Number(duration));
    values.push(Cell::Text(text("detail")));
    values.push(Cell::Text(record.leaf_hash().to_string()));
    values
}

/// Makes a text safe as a cell; tells whether it had to be prefixed.
fn cell(text: &str) -> (String, bool) {
    let formula = text.starts_with(FORMULA);
    let mut cell = text.replace('\n', "\\n").replace('\r', "\\r").replace('\t', "\\t");
    if cell.chars().count() > CELL_CHARS_MAX {
        let kept: String = cell.chars().take(CELL_CHARS_KEPT).collect();
        cell = format!("{kept}…[sha256:{}]", sha256(text.as_bytes()));
    }
    if formula {
        cell.insert(0, '\'');
    }
    (cell, formula)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn table(leaf: &serde_json::Value) -> String {
        let mut bytes = Vec::new();
        let mut table = CsvWriter::new(&mut bytes).unwrap();
        table.write(&Record::parse(7, leaf.to_string().into_bytes()).unwrap()).unwrap();
        table.finish().unwrap();
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn no_cell_is_a_formula() {
        for (text, expected, prefixed) in [
            ("=cmd|' /C calc'!A0", "'=cmd|' /C calc'!A0", true),
            ("+1", "'+1", true),
            ("-1", "'-1", true),
            ("@SUM(A1)", "'@SUM(A1)", true),
            ("\t=1", "'\\t=1", true),
            ("\r=1", "'\\r=1", true),
            ("\n=1", "'\\n=1", true),
            ("＝1", "'＝1", true),
            ("a=1", "a=1", false),
            ("a\r\nb\tc", "a\\r\\nb\\tc", false),
            ("", "", false),
        ] {
            assert_eq!(cell(text), (expected.to_owned(), prefixed), "{text:?}");
        }
    }

    #[test]
    fn a_row_names_its_escaped_columns() {
        let leaf = json!({"kind": "decision", "record_id": "r", "time": {"ms": 0, "n": 0},
            "decision": "deny", "tool": "=1+1", "session": "a\"b,c", "detail": "-x"});
        let table = table(&leaf);
        assert!(table.starts_with("\u{feff}\"leaf_index\",\"record_id\","));
        let mut lines = table.split("\r\n");
        let (header, row) = (lines.next().unwrap(), lines.next().unwrap());
        assert_eq!((lines.next(), lines.next()), (Some(""), None), "every line ends in CRLF");
        assert_eq!(header.split(',').count(), COLUMNS.len());
        assert!(row.starts_with("\"7\",\"r\",\"r\",\"decision\",\"1970-01-01T00:00:00.000Z\",\"1970-01-01 00:00:00\",\"deny\""));
        assert!(row.contains("\"'=1+1\"") && row.contains("\"a\"\"b,c\""), "{row}");
        assert!(row.ends_with("\"tool_name detail\""), "{row}");
    }

    #[test]
    fn long_cells_keep_their_hash() {
        let (cell, _) = cell(&"x".repeat(CELL_CHARS_MAX + 1));
        assert!(cell.chars().count() <= CELL_CHARS_MAX && cell.contains("…[sha256:"));
    }
}
