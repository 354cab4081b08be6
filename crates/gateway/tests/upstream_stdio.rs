//! Upstreams as child processes: the fixture (this test binary, started again) and shell scripts.
#![expect(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests may panic")]

mod upstream_common;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use countersign_gateway::upstream::{
    Era, Event, Housekeeping, LostReason, Request, StdioCommand, Transport, UpstreamConfig,
    UpstreamError,
};
use countersign_testkit::{CallLog, EraMode, Fixture, serve_stdio};
use serde_json::value::RawValue;
use serde_json::{Value, json};
use upstream_common::{
    Permits, config, owner, profile, run, server, session, text, tool, upstreams,
};

#[tokio::test]
#[ignore = "a child of the other tests"]
async fn child_legacy() {
    serve(EraMode::Legacy).await;
}

#[tokio::test]
#[ignore = "a child of the other tests"]
async fn child_modern() {
    serve(EraMode::Modern).await;
}

async fn serve(mode: EraMode) {
    let fixture = Arc::new(Fixture::new(mode, CallLog::default()));
    serve_stdio(fixture, tokio::io::stdin(), tokio::io::stdout()).await.unwrap();
}

/// The fixture as a child; what the test harness prints around it is no message.
fn fixture(child: &str) -> UpstreamConfig {
    let program = std::env::current_exe().unwrap().to_str().unwrap().to_owned();
    let arguments = ["--ignored", "--exact", child, "--nocapture"];
    let command = [program].into_iter().chain(arguments.map(str::to_owned)).collect();
    config(Transport::Stdio(StdioCommand { command, ..StdioCommand::default() }))
}

/// A server written as a shell script.
fn script(text: &str) -> UpstreamConfig {
    let command = ["/bin/sh", "-c", text].map(str::to_owned).to_vec();
    let env = BTreeMap::from([("PATH".to_owned(), "/usr/bin:/bin".to_owned())]);
    config(Transport::Stdio(StdioCommand { command, env, cwd: None }))
}

/// Refuses `server/discover` (id 1), answers `initialize` (id 2); the first call has id 3.
const LEGACY: &str = r#"
    read discover; echo '{"jsonrpc":"2.0","id":1,"error":{"code":-32601,"message":"no"}}'
    read initialize; echo '{"jsonrpc":"2.0","id":2,"result":{"protocolVersion":"2025-06-18","capabilities":{}}}'
    read initialized
"#;

#[tokio::test]
async fn finds_the_era_of_a_child() {
    let permits = Permits::new().await;
    for (child, era) in [
        ("child_legacy", Era::Legacy { version: "2025-11-25".into() }),
        ("child_modern", Era::Modern { version: "2026-07-28".into() }),
    ] {
        let upstreams = upstreams(fixture(child));
        let session = session(&upstreams, "a").await;
        assert_eq!(session.era(), &era);
        let tools = session.housekeeping(Housekeeping::ToolsList, None).await.unwrap();
        assert!(tools.get().contains("\"echo\""));
        let params = json!({ "arguments": {}, "_meta": { "progressToken": 1.5 } });
        let request = tool("test_tool_with_progress", &params);
        let mut exchange = session.call(permits.permit().await, request).await.unwrap();
        let (events, end) = run(&mut exchange).await;
        assert_eq!(text(&end), "the tool reported its progress");
        let progress: Vec<_> = events
            .iter()
            .filter_map(|event| {
                let Event::Notification { params, .. } = event else { return None };
                params.as_deref().map(RawValue::get)
            })
            .collect();
        assert_eq!(progress.len(), 3, "{progress:?}");
        assert!(progress.iter().all(|params| params.contains("\"progressToken\":1.5")));
        upstreams.shutdown().await;
        assert!(session.is_dead());
    }
}

#[tokio::test]
async fn calls_run_side_by_side_and_keep_their_answers() {
    let permits = Permits::new().await;
    let upstreams = upstreams(fixture("child_legacy"));
    let session = session(&upstreams, "a").await;
    let calls = (0..50).map(|n| {
        let (session, permits) = (&session, &permits);
        async move {
            let request = tool("echo", &json!({ "arguments": { "text": format!("t{n}") } }));
            let mut exchange = session.call(permits.permit().await, request).await.unwrap();
            assert_eq!(text(&run(&mut exchange).await.1), format!("t{n}"));
        }
    });
    futures_util::future::join_all(calls).await;
    upstreams.shutdown().await;
}

#[tokio::test]
async fn a_line_feed_in_the_parameters_makes_no_second_message() {
    let permits = Permits::new().await;
    let upstreams = upstreams(fixture("child_legacy"));
    let session = session(&upstreams, "a").await;
    let params = "{\"name\":\"echo\",\"arguments\":{\n\"text\":\r\n\"x\\n\"}\n}".to_owned();
    let request = Request::new("tools/call", RawValue::from_string(params).unwrap());
    let mut exchange = session.call(permits.permit().await, request).await.unwrap();
    assert_eq!(text(&run(&mut exchange).await.1), "x\n");
    upstreams.shutdown().await;
}

#[tokio::test]
async fn a_question_without_correlation_goes_to_the_running_call() {
    let permits = Permits::new().await;
    let upstreams = upstreams(fixture("child_legacy"));
    let session = session(&upstreams, "a").await;
    let request = tool("test_sampling", &json!({ "arguments": { "prompt": "p" } }));
    let mut exchange = session.call(permits.permit().await, request).await.unwrap();
    let Event::ServerRequest { id, method, .. } = exchange.next().await else { panic!() };
    assert_eq!(method, "sampling/createMessage");
    let answer =
        json!({ "role": "assistant", "model": "m", "content": { "type": "text", "text": "7" } });
    exchange.answer(&id, Ok(upstream_common::raw(&answer))).await.unwrap();
    assert_eq!(text(&run(&mut exchange).await.1), "LLM response: 7");
    upstreams.shutdown().await;
}

#[tokio::test]
async fn a_crash_loses_what_was_sent_and_the_next_session_is_a_new_child() {
    let permits = Permits::new().await;
    let upstreams = upstreams(script(&format!("{LEGACY} read call; exit 1")));
    let first = session(&upstreams, "a").await;
    let request = || tool("x", &json!({}));
    let mut exchange = first.call(permits.permit().await, request()).await.unwrap();
    let (_, end) = run(&mut exchange).await;
    assert!(matches!(end, Event::Lost { reason: LostReason::Closed(_), sent: true }), "{end:?}");
    let error = first.call(permits.permit().await, request()).await.unwrap_err();
    assert!(matches!(error, UpstreamError::NotSent { .. }), "{error:?}");
    // The remembered era saves the child the probe, so this script, which expects it, answers
    // `initialize` with an error, and the whole probe follows.
    let second = session(&upstreams, "a").await;
    assert!(!second.is_dead() && !Arc::ptr_eq(&first, &second));
    upstreams.shutdown().await;
}

#[tokio::test]
async fn silence_and_flight_at_the_probe_mean_legacy() {
    let silent = r#"read discover; read initialize
        echo '{"jsonrpc":"2.0","id":2,"result":{"protocolVersion":"2024-11-05","capabilities":{}}}'
        read initialized; read rest"#;
    let flees = r#"read first; case "$first" in *discover*) exit 1;; esac
        echo '{"jsonrpc":"2.0","id":1,"result":{"protocolVersion":"2024-11-05","capabilities":{}}}'
        read initialized; read rest"#;
    for text in [silent, flees] {
        let upstreams = upstreams(script(text));
        let session = session(&upstreams, "a").await;
        assert_eq!(session.era().version(), "2024-11-05");
        upstreams.shutdown().await;
    }
}

#[tokio::test]
async fn a_slow_modern_child_is_still_found_modern() {
    let text = r#"read discover; sleep 1.3
        echo '{"jsonrpc":"2.0","id":1,"result":{"supportedVersions":["2026-07-28"],"capabilities":{}}}'
        read initialize; echo '{"jsonrpc":"2.0","id":2,"error":{"code":-32022,"message":"no"}}'
        read rest"#;
    let upstreams = upstreams(script(text));
    assert!(session(&upstreams, "a").await.era().is_modern());
    upstreams.shutdown().await;
}

#[tokio::test]
async fn a_child_inherits_nothing_and_its_noise_is_ignored() {
    let text = r#"echo 'Starting server...'; echo oops >&2
        read discover; echo '{"jsonrpc":"2.0","id":1,"error":{"code":-32601,"message":"no"}}'
        read initialize; all=$(env | sort | tr '\n' ' ')
        echo '{"jsonrpc":"2.0","id":2,"result":{"protocolVersion":"2025-06-18","capabilities":{},"instructions":"'"$all"'"}}'
        read initialized; read rest"#;
    let upstreams = upstreams(script(text));
    let session = session(&upstreams, "a").await;
    let seen: String = serde_json::from_str(session.instructions().unwrap().get()).unwrap();
    let names: Vec<_> = seen.split_whitespace().filter_map(|pair| pair.split('=').next()).collect();
    let own = ["OLDPWD", "PATH", "PWD", "SHLVL", "_"];
    assert!(names.contains(&"PATH") && names.iter().all(|name| own.contains(name)), "{seen}");
    upstreams.shutdown().await;
}

#[tokio::test]
async fn cancelling_sends_the_notification_and_waits_for_the_answer() {
    let permits = Permits::new().await;
    let text = format!(
        r#"{LEGACY} read call; read cancelled
        echo '{{"jsonrpc":"2.0","id":3,"result":'"$cancelled"'}}'; read rest"#
    );
    let upstreams = upstreams(script(&text));
    let session = session(&upstreams, "a").await;
    let mut exchange = session.call(permits.permit().await, tool("x", &json!({}))).await.unwrap();
    exchange.cancel("enough");
    let (_, end) = run(&mut exchange).await;
    let Event::Result(result) = end else { panic!("{end:?}") };
    let cancelled: Value = serde_json::from_str(result.get()).unwrap();
    assert_eq!(cancelled["method"], "notifications/cancelled");
    assert_eq!(cancelled["params"], json!({ "requestId": 3, "reason": "enough" }));
    upstreams.shutdown().await;
}

#[tokio::test]
async fn an_answer_beyond_the_limit_is_lost() {
    let permits = Permits::new().await;
    let text =
        format!(r#"{LEGACY} read call; head -c 200000 /dev/zero | tr '\0' 'x'; echo; read rest"#);
    let upstreams = upstreams(script(&text));
    let session = session(&upstreams, "a").await;
    let mut exchange = session.call(permits.permit().await, tool("x", &json!({}))).await.unwrap();
    let (_, end) = run(&mut exchange).await;
    assert!(
        matches!(end, Event::Lost { reason: LostReason::TooLarge { .. }, sent: true }),
        "{end:?}"
    );
    assert!(session.is_dead());
}

#[tokio::test]
async fn a_child_that_does_not_exit_is_killed() {
    let upstreams = upstreams(script(&format!("{LEGACY} exec sleep 600")));
    let session = session(&upstreams, "a").await;
    let begun = Instant::now();
    upstreams.shutdown().await;
    assert!(begun.elapsed() < Duration::from_secs(10));
    assert!(session.is_dead());
}

#[tokio::test]
async fn a_child_that_keeps_crashing_is_left_alone() {
    let mut crashing = script("read line; exit 1");
    crashing.connect_timeout = Duration::from_millis(300);
    let upstreams = upstreams(crashing);
    let mut errors = Vec::new();
    for _ in 0..4 {
        let error = upstreams.session(&server(), &owner("a"), &profile()).await.unwrap_err();
        assert!(error.is_not_sent());
        errors.push(error.to_string());
    }
    assert!(errors[0].contains("exited"), "{errors:?}");
    assert!(errors[3].contains("started again later"), "{errors:?}");
}

#[tokio::test]
async fn a_missing_program_was_not_reached() {
    let command = vec!["/nonexistent/program".to_owned()];
    let transport = Transport::Stdio(StdioCommand { command, ..StdioCommand::default() });
    let upstreams = upstreams(config(transport));
    let error = upstreams.session(&server(), &owner("a"), &profile()).await.unwrap_err();
    assert!(matches!(error, UpstreamError::NotSent { reason: LostReason::Connect(_), .. }));
}
