//! The rows of a package's tables.

use serde_json::{Map, Value};

use super::list::List;
use crate::csv::{Cell, row};
use crate::{Record, time};

const DECISIONS: [&str; 35] = [
    "leaf_index",
    "record_id",
    "occurred_at_utc",
    "occurred_excel_utc",
    "date_utc",
    "hour_utc",
    "weekday_utc",
    "decision",
    "would_be_decision",
    "enforcement_mode",
    "reason_codes",
    "matched_rule_ids",
    "policy_bundle_sha256",
    "agent_id",
    "agent_name",
    "principal",
    "environment",
    "origin",
    "method",
    "server",
    "tool_name",
    "tool_pin",
    "session_id",
    "parent_id",
    "execution_status",
    "outcome_record_id",
    "outcome_at_utc",
    "outcome_leaf_index",
    "duration_ms",
    "stream",
    "stream_seq",
    "closed_fields",
    "other_fields",
    "leaf_hash",
    "csv_escaped",
];

const NARROW: [&str; 14] = [
    "leaf_index",
    "record_id",
    "occurred_at_utc",
    "occurred_excel_utc",
    "agent_name",
    "principal",
    "environment",
    "tool_name",
    "decision",
    "enforcement_mode",
    "reason_codes",
    "matched_rule_ids",
    "execution_status",
    "csv_escaped",
];

const OUTCOMES: [&str; 14] = [
    "leaf_index",
    "record_id",
    "occurred_at_utc",
    "occurred_excel_utc",
    "parent_id",
    "outcome",
    "duration_ms",
    "reconciled",
    "agent_id",
    "agent_name",
    "tool_name",
    "other_fields",
    "leaf_hash",
    "csv_escaped",
];

const AUTH: [&str; 12] = [
    "leaf_index",
    "record_id",
    "occurred_at_utc",
    "occurred_excel_utc",
    "result",
    "reason_codes",
    "agent_id",
    "environment",
    "key_id",
    "other_fields",
    "leaf_hash",
    "csv_escaped",
];

const CHANGES: [&str; 13] = [
    "leaf_index",
    "record_id",
    "occurred_at_utc",
    "occurred_excel_utc",
    "object",
    "what",
    "agent_id",
    "server",
    "policy_bundle_sha256",
    "principal",
    "other_fields",
    "leaf_hash",
    "csv_escaped",
];

const ACCESSES: [&str; 18] = [
    "leaf_index",
    "record_id",
    "occurred_at_utc",
    "occurred_excel_utc",
    "result",
    "plane",
    "role",
    "principal",
    "key_id",
    "command",
    "route",
    "count",
    "read_record",
    "disclosed_fields",
    "tree_size",
    "other_fields",
    "leaf_hash",
    "csv_escaped",
];

const ERASURES: [&str; 16] = [
    "leaf_index",
    "record_id",
    "occurred_at_utc",
    "occurred_excel_utc",
    "phase",
    "cause",
    "subject",
    "ticket",
    "job",
    "batch",
    "records",
    "sections",
    "held",
    "other_fields",
    "leaf_hash",
    "csv_escaped",
];

const HOLDS: [&str; 9] = [
    "leaf_index",
    "record_id",
    "occurred_at_utc",
    "occurred_excel_utc",
    "action",
    "principal",
    "other_fields",
    "leaf_hash",
    "csv_escaped",
];

const CHECKS: [&str; 14] = [
    "leaf_index",
    "record_id",
    "occurred_at_utc",
    "occurred_excel_utc",
    "check",
    "result",
    "from",
    "to",
    "count",
    "archive_size",
    "root",
    "other_fields",
    "leaf_hash",
    "csv_escaped",
];

const OTHERS: [&str; 10] = [
    "leaf_index",
    "record_id",
    "occurred_at_utc",
    "occurred_excel_utc",
    "kind",
    "agent_id",
    "server",
    "other_fields",
    "leaf_hash",
    "csv_escaped",
];

/// Fields of every leaf that its row tells otherwise, or that only the proof needs.
const FRAME: [&str; 8] = ["v", "kind", "record_id", "tenant", "gw", "time", "_sd", "_sd_alg"];

/// Returns the columns of the tables of a list, in the order of [`List::tables`].
pub(crate) fn columns(list: List) -> Vec<&'static [&'static str]> {
    match list {
        List::Decisions => vec![&DECISIONS, &NARROW],
        List::Outcomes | List::LateOutcomes => vec![&OUTCOMES],
        List::Auth => vec![&AUTH],
        List::Changes => vec![&CHANGES],
        List::Accesses => vec![&ACCESSES],
        List::Erasures => vec![&ERASURES],
        List::Holds => vec![&HOLDS],
        List::Checks => vec![&CHECKS],
        List::Detections | List::Gaps | List::Heartbeats | List::Other => vec![&OTHERS],
    }
}

/// Returns the row of a record, in a list of decisions with what came of the call.
pub(crate) fn line(columns: &[&str], record: &Record, outcome: Option<&Record>) -> Vec<u8> {
    let own = columns.iter().filter(|column| **column != "csv_escaped");
    row(columns, own.map(|column| cell(columns, record, outcome, column)))
}

fn cell(columns: &[&str], record: &Record, outcome: Option<&Record>, column: &str) -> Cell {
    let is_decision = record.kind() == "decision";
    let at = time::utc(record.time_ms());
    let of_outcome =
        |text: fn(&Record) -> String| Cell::Text(outcome.map(text).unwrap_or_default());
    match column {
        "leaf_index" => Cell::Number(record.index().to_string()),
        "occurred_at_utc" => Cell::Text(at),
        "occurred_excel_utc" => Cell::Text(at.replace('T', " ").chars().take(19).collect()),
        "date_utc" => Cell::Text(at.chars().take(10).collect()),
        "hour_utc" => Cell::Number(at.chars().skip(11).take(2).collect()),
        "weekday_utc" => Cell::Text(time::weekday(record.time_ms()).to_owned()),
        "what" => Cell::Text(record.result().to_owned()),
        "leaf_hash" => Cell::Text(record.leaf_hash().to_string()),
        "closed_fields" => Cell::Number(record.list("_sd").len().to_string()),
        "stream" => Cell::Text(stream(record)),
        "stream_seq" => json_cell(record.fields().get("gw").and_then(|gw| gw.get("seq"))),
        "execution_status" => Cell::Text(execution(record, outcome).to_owned()),
        "outcome_record_id" => of_outcome(|outcome| outcome.id().to_owned()),
        "outcome_at_utc" => of_outcome(|outcome| time::utc(outcome.time_ms())),
        "outcome_leaf_index" => {
            Cell::Number(outcome.map(|outcome| outcome.index().to_string()).unwrap_or_default())
        }
        "duration_ms" if is_decision => {
            json_cell(outcome.and_then(|outcome| outcome.fields().get("duration_ms")))
        }
        "other_fields" => Cell::Text(others(columns, record)),
        column => json_cell(record.fields().get(field(column))),
    }
}

/// Returns the field of the leaf that a column shows.
fn field(column: &str) -> &str {
    match column {
        "agent_id" => "agent",
        "tool_name" => "tool",
        "enforcement_mode" => "mode",
        "would_be_decision" => "would_be",
        "reason_codes" => "reasons",
        "matched_rule_ids" => "rules",
        "policy_bundle_sha256" => "bundle",
        "session_id" => "session",
        "parent_id" => "parent",
        same => same,
    }
}

/// Returns how a call ended: empty for one that was not let through.
fn execution<'a>(record: &Record, outcome: Option<&'a Record>) -> &'a str {
    match (record.text("decision"), outcome) {
        (_, Some(outcome)) => outcome.text("outcome").unwrap_or("unknown"),
        (Some("allow"), None) => "no_outcome",
        (_, None) => "",
    }
}

fn stream(record: &Record) -> String {
    let gw = record.fields().get("gw");
    let replica = gw.and_then(|gw| gw.get("replica")).and_then(Value::as_str).unwrap_or_default();
    let epoch = gw.and_then(|gw| gw.get("epoch")).map(Value::to_string).unwrap_or_default();
    format!("{replica}/{epoch}")
}

/// Returns the public fields that no column shows, as JSON.
fn others(columns: &[&str], record: &Record) -> String {
    let shown = |name: &str| columns.iter().any(|column| field(column) == name);
    let event = if record.fields().contains_key("event") { "event" } else { "action" };
    let what = |name: &str| columns.contains(&"what") && name == event;
    let rest: Map<String, Value> = record
        .fields()
        .iter()
        .filter(|(name, _)| !FRAME.contains(&name.as_str()) && !shown(name) && !what(name))
        .map(|(name, value)| (name.clone(), value.clone()))
        .collect();
    if rest.is_empty() { String::new() } else { Value::Object(rest).to_string() }
}

fn json_cell(value: Option<&Value>) -> Cell {
    match value {
        None | Some(Value::Null) => Cell::Text(String::new()),
        Some(Value::Bool(flag)) => Cell::Text(if *flag { "TRUE" } else { "FALSE" }.to_owned()),
        Some(Value::Number(number)) => Cell::Number(number.to_string()),
        Some(Value::String(text)) => Cell::Text(text.clone()),
        Some(Value::Array(list)) if list.iter().all(Value::is_string) => {
            let texts: Vec<&str> = list.iter().filter_map(Value::as_str).collect();
            Cell::Text(texts.join(" "))
        }
        Some(value @ (Value::Array(_) | Value::Object(_))) => Cell::Text(value.to_string()),
    }
}
