//! What happened, from the ledger's side and from the server's side.

use std::collections::HashMap;
use std::path::Path;

use countersign_ledger::verify::{Report, VerifyOptions, verify_log};
use countersign_ledger::{LeafIndex, VerifierKey};
use countersign_store::{Keystore, PublishedLog, Reader, fsck};
use countersign_testkit::FakeUpstream;
use serde_json::Value;

/// Leaves that are read at a time.
const PAGE: u32 = 1_000;
/// Requests that a fake upstream remembers.
const REQUESTS_MAX: usize = 100_000;

/// The ledger's decisions and outcomes, by the id of the decision.
#[derive(Default)]
pub(crate) struct History {
    /// The verdict of each decision.
    pub(crate) verdicts: HashMap<String, String>,
    /// The outcomes of each decision, in the order of the log.
    pub(crate) outcomes: HashMap<String, Vec<String>>,
}

impl History {
    /// Reads the whole ledger of a data folder, also while a gateway writes it.
    pub(crate) async fn read(data: &Path) -> Self {
        let reader = Reader::open(data, None).await.unwrap();
        let (mut history, mut next) = (Self::default(), 0);
        loop {
            let records = reader.range(LeafIndex(next), PAGE).await.unwrap();
            let Some(last) = records.last() else { break };
            next = last.index.0 + 1;
            records.iter().for_each(|record| history.note(&record.leaf));
        }
        reader.close().await;
        history
    }

    fn note(&mut self, leaf: &Value) {
        let text = |name: &str| leaf[name].as_str().unwrap_or_default().to_owned();
        match text("kind").as_str() {
            "decision" => {
                let twice = self.verdicts.insert(text("record_id"), text("decision"));
                assert_eq!(twice, None, "a decision stands in the log twice: {leaf}");
            }
            "outcome" => self.outcomes.entry(text("parent")).or_default().push(text("outcome")),
            _ => {}
        }
    }

    /// Whether the decision with this id allowed its call.
    pub(crate) fn allows(&self, id: &str) -> bool {
        self.verdicts.get(id).is_some_and(|verdict| verdict == "allow")
    }

    /// The only outcome of a decision.
    pub(crate) fn outcome(&self, id: &str) -> Option<&str> {
        match self.outcomes.get(id).map(Vec::as_slice) {
            Some([only]) => Some(only),
            _ => None,
        }
    }
}

/// One `tools/call` that reached the server.
#[derive(Debug)]
pub(crate) struct Reached {
    pub(crate) idempotency_key: String,
    pub(crate) evaluation_id: String,
}

/// Reads the server's own log of calls.
pub(crate) fn reached(upstream: &FakeUpstream) -> Vec<Reached> {
    let meta = |body: &Value, name: &str| {
        let value = body["params"]["_meta"].get(name).and_then(Value::as_str);
        value.unwrap_or_default().to_owned()
    };
    let requests = upstream.requests();
    let calls: Vec<_> = requests
        .iter()
        .filter(|request| request.method() == "tools/call")
        .map(|request| Reached {
            idempotency_key: meta(&request.body, "dev.countersign/idempotency-key"),
            evaluation_id: meta(&request.body, "dev.countersign/evaluation-id"),
        })
        .collect();
    // A server that forgot requests could not prove that there were none. One that was read when its
    // sender died may not have been executed; it counts all the same.
    assert!(requests.len() < REQUESTS_MAX, "the server's log of requests may not be complete");
    assert!(calls.len() >= upstream.calls().len(), "an executed call was never read");
    calls
}

/// Checks the published log with nothing but the public key, as an auditor would.
pub(crate) fn verify(data: &Path) -> Result<Report, String> {
    let keys = vec![vkey(data)];
    let options = VerifyOptions { keys, ..VerifyOptions::default() };
    verify_log(&PublishedLog::new(data), &options, &mut |_| {})
        .map_err(|problem| problem.to_string())
}

/// The public key of the log.
pub(crate) fn vkey(data: &Path) -> VerifierKey {
    let keys = Keystore::open(&data.join("keys")).unwrap();
    keys.log_key("localhost/default").unwrap().verifier_key()
}

/// Checks the stopped ledger: the published log as an auditor would, and the database behind it.
pub(crate) async fn sound(data: &Path) -> Report {
    let report =
        verify(data).unwrap_or_else(|problem| panic!("the log does not verify: {problem}"));
    let checked = fsck::check(data, None, &mut |_, _| {}).await;
    let checked = checked.unwrap_or_else(|problem| panic!("the database is not sound: {problem}"));
    assert_eq!(checked.leaves, report.size.0, "a clean stop publishes everything");
    report
}
