//! The named limits, as the crates have them.

use std::process::ExitCode;

use serde_json::{Map, Value};

/// Adds rows of name and value of a module's constants.
macro_rules! rows {
    ($table:ident: $krate:literal, $module:path: $($name:ident)+) => {{
        use $module as module;
        $table.extend([$((
            concat!($krate, ".", stringify!($name)),
            format!("{:?}", module::$name),
        )),+]);
    }};
}

fn table() -> Vec<(&'static str, String)> {
    let mut table = Vec::new();
    rows!(table: "gateway", countersign_gateway::limits:
        BODY_BYTES_MAX BODY_READ_TIMEOUT SESSIONS_PER_AGENT_MAX SESSIONS_MAX SESSION_IDLE
        STREAM_QUEUE INPUT_TIMEOUT PARKED_MAX INPUT_ROUNDS_MAX IN_FLIGHT_WAIT
        IDEMPOTENCY_KEY_BYTES_MAX CANCEL_GRACE LIST_PAGES_MAX TOOLS_PER_SERVER_MAX
        PIN_CHECK_INTERVAL SHUTDOWN_GRACE);
    rows!(table: "decision", countersign_decision:
        BUNDLE_FILES_MAX BUNDLE_FILE_BYTES_MAX POLICIES_MAX POLICY_ID_BYTES_MAX
        REASON_BYTES_MAX SERVER_TOOLS_MAX SCHEMA_DEPTH_MAX SCHEMA_VALUES_MAX
        ARGUMENT_TYPE_DEPTH_MAX PATTERN_BYTES_MAX);
    rows!(table: "ledger", countersign_ledger::limits:
        ENTRY_BYTES_MAX NOTE_BYTES_MAX NOTE_SIGNATURES_MAX PROOF_BYTES_MAX
        DISCLOSED_VALUE_BYTES_MAX DISCLOSURE_BYTES_MAX SECTION_DISCLOSURES_MAX STREAMS_MAX);
    rows!(table: "store", countersign_store::limits:
        BATCH_RECORDS_MAX QUEUE_RECORDS_MAX COMMIT_DEADLINE_MS RESULT_KEPT_MS CLOCK_STEP_MS
        CLOCK_GAP_DAYS BUNDLE_BYTES_MAX CREDENTIAL_BYTES_MAX QUERY_RECORDS_MAX);
    rows!(table: "console", countersign_console::limits:
        BODY_BYTES_MAX BODY_READ_TIMEOUT LOG_FILE_BYTES_MAX OPERATOR_TIMEOUT OVERLAP_MS_MAX
        REASON_BYTES_MAX PAGE_RECORDS PAGE_RECORDS_MAX QUERY_BYTES_MAX TOKENS_MAX
        TOKEN_NAME_BYTES_MAX);
    table
}

pub(super) fn print(json: bool) -> ExitCode {
    let table = table();
    if json {
        let limits: Map<_, _> =
            table.into_iter().map(|(name, value)| (name.to_owned(), Value::from(value))).collect();
        println!("{}", Value::Object(limits));
    } else {
        for (name, value) in table {
            println!("{name:44} {value}");
        }
    }
    ExitCode::SUCCESS
}
