//! The fixture over stdio: both eras on one pipe, and a call log that survives `kill -9`.

#[cfg(test)]
mod common;
#[cfg(test)]
#[path = "common/peer.rs"]
mod peer;

use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};

use common::{modern_call, modern_meta};
use countersign_testkit::{CallLog, EraMode};
use peer::{Peer, request};
use serde_json::json;

#[tokio::test]
async fn a_legacy_call_asks_the_client_while_it_stays_open() {
    let mut peer = Peer::new(EraMode::Both);
    assert_eq!(peer.initialize("2025-06-18").await["result"]["protocolVersion"], "2025-06-18");
    let call = json!({"name": "test_input_required_result_elicitation"});
    let question = peer.ask(&request(1, "tools/call", &call)).await;
    assert_eq!(question["method"], "elicitation/create");

    let answer = json!({"action": "accept", "content": {"name": "Alice"}});
    let done = peer.ask(&json!({"jsonrpc": "2.0", "id": question["id"], "result": answer})).await;
    assert_eq!(done["id"], 1);
    assert_eq!(done["result"]["content"][0]["text"], "Hello, Alice!");
    assert!(done["result"].get("resultType").is_none(), "legacy results have no type");
}

#[tokio::test]
async fn a_modern_call_ends_with_input_required_and_goes_on_with_its_state() {
    let mut peer = Peer::new(EraMode::Both);
    let tool = "test_input_required_result_multi_round";
    let mut call = modern_call(1, tool, &json!({}));
    let mut rounds = Vec::new();
    for (key, content) in [("step1", json!({"name": "Alice"})), ("step2", json!({"color": "red"}))]
    {
        let asked = peer.ask(&call).await;
        rounds.push(asked["result"]["requestState"].clone());
        call["params"]["requestState"] = asked["result"]["requestState"].clone();
        assert!(asked["result"]["inputRequests"].get(key).is_some(), "{asked}");
        call["params"]["inputResponses"] = json!({key: {"action": "accept", "content": content}});
    }
    let done = peer.ask(&call).await;
    let text = done["result"]["content"][0]["text"].as_str().unwrap();
    assert!(text.contains("Alice") && text.contains("red"), "{text}");

    call["params"]["requestState"] = rounds[0].clone();
    let early = peer.ask(&call).await;
    assert_eq!(early["result"]["resultType"], "input_required", "round 1 is not answered by step2");
}

#[tokio::test]
async fn each_mode_answers_the_other_eras_opening_in_that_eras_way() {
    let discover = request(1, "server/discover", &json!({"_meta": modern_meta()}));
    let mut legacy = Peer::new(EraMode::Legacy);
    assert_eq!(legacy.ask(&discover).await["error"]["code"], -32601);
    let mut modern = Peer::new(EraMode::Modern);
    assert_eq!(modern.initialize("2025-11-25").await["error"]["code"], -32022);
    let found = modern.ask(&discover).await;
    assert_eq!(found["result"]["supportedVersions"], json!(["2026-07-28"]));
}

#[tokio::test]
async fn a_subscription_acknowledges_first_and_keeps_to_its_filter() {
    let mut peer = Peer::new(EraMode::Both);
    let filter = json!({"toolsListChanged": true, "resourceSubscriptions": ["test://a"]});
    let listen = request(
        7,
        "subscriptions/listen",
        &json!({"_meta": modern_meta(), "notifications": filter}),
    );
    let first = peer.ask(&listen).await;
    assert_eq!(first["method"], "notifications/subscriptions/acknowledged");

    let mut seen = Vec::new();
    for (id, tool, arguments) in [
        (1, "test_trigger_prompt_change", json!({})),
        (2, "test_trigger_resource_change", json!({"uri": "test://b"})),
        (3, "test_trigger_resource_change", json!({"uri": "test://a"})),
        (4, "test_trigger_tool_change", json!({})),
    ] {
        peer.send(&modern_call(id, tool, &arguments)).await;
    }
    while seen.len() < 2 {
        let message = peer.receive().await;
        if let Some(method) = message["method"].as_str() {
            assert_eq!(message["params"]["_meta"]["io.modelcontextprotocol/subscriptionId"], 7);
            seen.push(method.to_owned());
        }
    }
    seen.sort();
    assert_eq!(seen, ["notifications/resources/updated", "notifications/tools/list_changed"]);
}

#[tokio::test]
async fn a_cancelled_call_sends_nothing_more() {
    let mut peer = Peer::new(EraMode::Both);
    peer.initialize("2025-11-25").await;
    let call = json!({"name": "test_elicitation", "arguments": {"message": "?"}});
    let question = peer.ask(&request(1, "tools/call", &call)).await;
    assert_eq!(question["method"], "elicitation/create");
    peer.send(
        &json!({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": 1}}),
    )
    .await;
    let late = json!({"action": "accept", "content": {}});
    peer.send(&json!({"jsonrpc": "2.0", "id": question["id"], "result": late})).await;
    let next = peer.ask(&request(2, "ping", &json!({}))).await;
    assert_eq!((&next["id"], &next["result"]), (&json!(2), &json!({})));
}

#[test]
fn the_log_of_a_killed_process_holds_every_answered_call() {
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("calls");
    let mut child = Command::new(env!("CARGO_BIN_EXE_mcp-fixture"))
        .args(["--stdio", "--log"])
        .arg(&log)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut input = child.stdin.take().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    for id in 0..3 {
        let mut call = modern_call(id, "echo", &json!({"n": id}));
        call["params"]["_meta"]["dev.countersign/idempotency-key"] = json!(format!("k-{id}"));
        writeln!(input, "{call}").unwrap();
        lines.next().unwrap().unwrap();
    }
    child.kill().unwrap();
    child.wait().unwrap();

    let records = CallLog::read_file(&log).unwrap();
    let keys: Vec<_> = records.iter().map(|call| call.idempotency_key.clone().unwrap()).collect();
    assert_eq!(keys, ["k-0", "k-1", "k-2"]);
    assert_ne!(records[0].arguments_sha256, records[1].arguments_sha256);
}
