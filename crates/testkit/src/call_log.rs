use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::Path;
use std::sync::Mutex;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest, Sha256};
use tokio::sync::watch;

use crate::sync::locked;

/// `_meta` key under which the gateway passes its idempotency key upstream.
const IDEMPOTENCY_KEY: &str = "dev.countersign/idempotency-key";

/// One executed `tools/call`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CallRecord {
    /// The tool's name as this server knows it.
    pub tool: String,
    /// `_meta["dev.countersign/idempotency-key"]` of the call.
    pub idempotency_key: Option<String>,
    /// SHA-256, in lower-case hex, of the JCS form (RFC 8785) of the arguments.
    pub arguments_sha256: String,
}

/// Everything a fixture executed, in memory and, if asked for, in a file.
///
/// The file holds one [`CallRecord`] as JSON per line, written with one `write` and no `fsync`:
/// it survives the end of the process, which is what a test needs that kills it.
#[derive(Debug)]
pub struct CallLog {
    records: Mutex<Vec<CallRecord>>,
    file: Option<Mutex<File>>,
    count: watch::Sender<usize>,
}

impl Default for CallLog {
    fn default() -> Self {
        Self { records: Mutex::default(), file: None, count: watch::Sender::new(0) }
    }
}

impl CallLog {
    /// Opens a log that also appends to the file at `path`.
    ///
    /// # Errors
    ///
    /// Fails if the file cannot be opened for appending.
    pub fn to_file(path: &Path) -> io::Result<Self> {
        let file = OpenOptions::new().create(true).append(true).open(path)?;
        Ok(Self { file: Some(Mutex::new(file)), ..Self::default() })
    }

    /// Reads the records that a process wrote to the file at `path`; a last line that was cut
    /// short is left out.
    ///
    /// # Errors
    ///
    /// Fails if the file cannot be read.
    pub fn read_file(path: &Path) -> io::Result<Vec<CallRecord>> {
        let text = std::fs::read_to_string(path)?;
        Ok(text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect())
    }

    /// The records so far, in order of execution.
    #[must_use]
    pub fn records(&self) -> Vec<CallRecord> {
        locked(&self.records).clone()
    }

    /// Waits until at least `count` calls were executed.
    pub async fn wait_for(&self, count: usize) {
        let mut seen = self.count.subscribe();
        // The sender lives in `self`, so the channel cannot close while we wait.
        let _still_open = seen.wait_for(|&done| done >= count).await;
    }

    /// Writes down one call, from the params of its `tools/call`.
    pub(crate) fn record(&self, params: &Value) -> io::Result<()> {
        let record = CallRecord::of(params)?;
        if let Some(file) = &self.file {
            let mut line = serde_json::to_vec(&record)?;
            line.push(b'\n');
            locked(file).write_all(&line)?;
        }
        let mut records = locked(&self.records);
        records.push(record);
        self.count.send_replace(records.len());
        Ok(())
    }
}

impl CallRecord {
    fn of(params: &Value) -> io::Result<Self> {
        let empty = Value::Object(serde_json::Map::new());
        let arguments = params.get("arguments").unwrap_or(&empty);
        let canonical = serde_json_canonicalizer::to_vec(arguments)?;
        let digest = Sha256::digest(&canonical);
        Ok(Self {
            tool: text(params.get("name")).unwrap_or_default(),
            idempotency_key: text(params.get("_meta").and_then(|meta| meta.get(IDEMPOTENCY_KEY))),
            arguments_sha256: digest.iter().map(|byte| format!("{byte:02x}")).collect(),
        })
    }
}

fn text(value: Option<&Value>) -> Option<String> {
    value.and_then(Value::as_str).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn key_order_and_spacing_do_not_change_the_arguments_digest() {
        let one = CallRecord::of(&json!({"name": "echo", "arguments": {"a": 1, "b": [2.0]}}));
        let other: Value =
            serde_json::from_str(r#"{"arguments":{ "b":[2],"a":1 },"name":"echo"}"#).unwrap();
        assert_eq!(one.unwrap(), CallRecord::of(&other).unwrap());
    }

    #[test]
    fn a_line_cut_short_by_a_crash_is_left_out() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("calls");
        let log = CallLog::to_file(&path).unwrap();
        let params = json!({"name": "echo", "_meta": {IDEMPOTENCY_KEY: "k-1"}});
        log.record(&params).unwrap();
        let mut file = OpenOptions::new().append(true).open(&path).unwrap();
        file.write_all(br#"{"tool":"ec"#).unwrap();

        let read = CallLog::read_file(&path).unwrap();
        assert_eq!(read, log.records());
        assert_eq!(read[0].idempotency_key.as_deref(), Some("k-1"));
        assert_eq!(
            read[0].arguments_sha256,
            "44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a"
        );
    }
}
