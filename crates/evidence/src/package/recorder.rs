//! When the recorder was up: `coverage/recorder.csv` and its sheet.

use serde_json::json;

use super::PackageError;
use super::list::Scope;
use super::manifest::Manifest;
use super::output::{Output, Sink};
use super::sheet::{LIMITATIONS, source};
use crate::coverage::{Coverage, Interval, SILENCE_MAX_MS, durations};
use crate::csv::{Cell, header, row};
use crate::time;

/// Where the list stands.
pub(crate) const PATH: &str = "coverage/recorder.csv";

/// Where its sheet stands.
const SHEET: &str = "ipe/recorder.json";

const COLUMNS: [&str; 11] = [
    "gateway",
    "state",
    "from_utc",
    "to_utc",
    "from_excel_utc",
    "to_excel_utc",
    "duration_ms",
    "cause",
    "first_leaf",
    "last_leaf",
    "csv_escaped",
];

/// Writes list and sheet; filters do not apply.
pub(crate) fn derive<K: Sink>(
    coverage: &Coverage,
    scope: &Scope,
    manifest: &Manifest,
    out: &mut Output<'_, K>,
) -> Result<(), PackageError> {
    let intervals = coverage.intervals(scope.from_ms, scope.to_ms, None);
    out.line(PATH, &header(&COLUMNS))?;
    intervals.iter().try_for_each(|interval| out.line(PATH, &line(interval)))?;
    out.end(PATH)?;
    let sheet = json!({
        "ipe_id": format!("recorder-{}", manifest.checkpoint_end.size),
        "list": "recorder",
        "title": "When the recorder of each gateway was up, down or in a gap",
        "files": [out.files.get(PATH)],
        "system": "Countersign",
        "tool_version": manifest.generator,
        "tenant": manifest.tenant,
        "as_of": manifest.as_of,
        "query": format!(
            "intervals of each stream that fill {} <= time < {}: up from a start to a stop, a loss or more than \
             {} s without a record; down until a start; a gap otherwise; no filters",
            manifest.from, manifest.to, SILENCE_MAX_MS / 1_000
        ),
        "parameters": { "from": manifest.from, "to": manifest.to, "tz": "UTC" },
        "period_semantics": "[from, to)",
        "period_is_over": manifest.period_is_over,
        "source": source(manifest),
        "row_count": intervals.len(),
        "control_totals": {
            "period_ms": scope.to_ms.saturating_sub(scope.from_ms),
            "by_gateway_ms": durations(&intervals),
        },
        "known_limitations": LIMITATIONS,
        "recompute": "countersign verify --package . --vkey KEY",
    });
    let text = serde_json::to_string_pretty(&sheet)
        .map_err(|error| PackageError::Request(error.to_string()))?;
    out.text(SHEET, &(text + "\n"))
}

fn line(interval: &Interval) -> Vec<u8> {
    let (from, to) = (time::utc(interval.from_ms), time::utc(interval.to_ms));
    let excel = |at: &str| Cell::Text(at.replace('T', " ").chars().take(19).collect());
    let leaf =
        |leaf: Option<u64>| Cell::Number(leaf.map(|leaf| leaf.to_string()).unwrap_or_default());
    let cells = [
        Cell::Text(interval.gateway.clone()),
        Cell::Text(interval.state.as_str().to_owned()),
        Cell::Text(from.clone()),
        Cell::Text(to.clone()),
        excel(&from),
        excel(&to),
        Cell::Number(interval.ms().to_string()),
        Cell::Text(interval.cause.clone()),
        leaf(interval.first_leaf),
        leaf(interval.last_leaf),
    ];
    row(&COLUMNS, cells.into_iter())
}
