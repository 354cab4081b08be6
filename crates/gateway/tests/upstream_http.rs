//! Upstreams over Streamable HTTP, against an upstream that misbehaves on demand.
#![expect(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests may panic")]

mod upstream_common;

use std::time::Duration;

use countersign_gateway::upstream::{
    Era, Event, Housekeeping, LostReason, SessionEvent, Transport, UpstreamError,
};
use countersign_testkit::{Behaviour, EraMode, FakeUpstream};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use upstream_common::{
    Permits, config, owner, profile, raw, run, server, session, text, tool, upstreams,
};

fn http(url: &str) -> Transport {
    Transport::Http { url: url.parse().unwrap(), headers: Vec::new() }
}

#[tokio::test]
async fn speaks_the_newest_version_of_each_era() {
    let permits = Permits::new().await;
    for (mode, era) in [
        (EraMode::Legacy, Era::Legacy { version: "2025-11-25".into() }),
        (EraMode::Modern, Era::Modern { version: "2026-07-28".into() }),
        (EraMode::Both, Era::Modern { version: "2026-07-28".into() }),
    ] {
        let fake = FakeUpstream::start_era(mode).await.unwrap();
        let upstreams = upstreams(config(http(&fake.url())));
        let session = session(&upstreams, "a").await;
        assert_eq!(session.era(), &era);
        assert!(session.capabilities().unwrap().get().contains("tools"));
        assert!(session.server_info().is_some());
        let tools = session.housekeeping(Housekeeping::ToolsList, None).await.unwrap();
        assert!(tools.get().contains("\"echo\""));
        let request = tool("echo", &json!({ "arguments": { "text": "héllo" } }));
        let mut exchange = session.call(permits.permit().await, request).await.unwrap();
        assert_eq!(text(&run(&mut exchange).await.1), "héllo");
        assert_eq!(fake.count("echo"), 1);
        upstreams.shutdown().await;
    }
}

#[tokio::test]
async fn modern_headers_are_built_from_the_body() {
    let permits = Permits::new().await;
    let fake = FakeUpstream::start_era(EraMode::Modern).await.unwrap();
    let upstreams = upstreams(config(http(&fake.url())));
    let session = session(&upstreams, "a").await;
    let arguments = json!({ "arguments": { "region": "zürich", "priority": 3 } });
    let mut request = tool("test_x_mcp_header", &arguments);
    request.param_headers = vec![
        ("mcp-param-region".parse().unwrap(), "zürich".into()),
        ("mcp-param-priority".parse().unwrap(), "3".into()),
    ];
    let mut exchange = session.call(permits.permit().await, request).await.unwrap();
    assert!(matches!(run(&mut exchange).await.1, Event::Result(_)));
    let seen = fake.requests().pop().unwrap();
    for (name, value) in [
        ("mcp-protocol-version", "2026-07-28"),
        ("mcp-method", "tools/call"),
        ("mcp-name", "test_x_mcp_header"),
        ("mcp-param-region", "=?base64?esO8cmljaA==?="),
        ("mcp-param-priority", "3"),
        ("accept", "application/json, text/event-stream"),
    ] {
        assert_eq!(seen.header(name), Some(value), "{name}");
    }
    assert_eq!(seen.header("mcp-session-id"), None);
    let meta = &seen.body["params"]["_meta"];
    assert_eq!(meta["io.modelcontextprotocol/clientInfo"]["name"], "countersign");
    assert_eq!(meta["io.modelcontextprotocol/clientCapabilities"]["sampling"], json!({}));
}

#[tokio::test]
async fn legacy_requests_carry_the_session_and_its_version() {
    let permits = Permits::new().await;
    let fake = FakeUpstream::start_era(EraMode::Legacy).await.unwrap();
    let upstreams = upstreams(config(http(&fake.url())));
    let session_a = session(&upstreams, "a").await;
    let request = tool("echo", &json!({ "arguments": { "text": "" } }));
    let mut exchange = session_a.call(permits.permit().await, request).await.unwrap();
    run(&mut exchange).await;
    session(&upstreams, "b").await;
    let seen = fake.requests();
    let call = seen.iter().find(|request| request.method() == "tools/call").unwrap();
    assert_eq!(call.header("mcp-protocol-version"), Some("2025-11-25"));
    let id = call.header("mcp-session-id").unwrap();
    assert!(call.body["params"].get("_meta").is_none());
    let initialized = seen.iter().filter(|r| r.method() == "notifications/initialized");
    let ids: Vec<_> = initialized.map(|r| r.header("mcp-session-id").unwrap()).collect();
    assert!(ids.len() == 2 && ids[0] == id && ids[1] != id, "{ids:?}");
    upstreams.close_owner(&owner("a")).await;
    let deleted = fake.requests().into_iter().find(|r| r.http_method == "DELETE").unwrap();
    assert_eq!(deleted.header("mcp-session-id"), Some(id));
}

#[tokio::test]
async fn progress_comes_back_under_the_clients_token() {
    let permits = Permits::new().await;
    for mode in [EraMode::Legacy, EraMode::Modern] {
        let fake = FakeUpstream::start_era(mode).await.unwrap();
        let upstreams = upstreams(config(http(&fake.url())));
        let session = session(&upstreams, "a").await;
        let params = json!({ "arguments": {}, "_meta": { "progressToken": "töken" } });
        let request = tool("test_tool_with_progress", &params);
        let mut exchange = session.call(permits.permit().await, request).await.unwrap();
        let (events, end) = run(&mut exchange).await;
        assert!(matches!(end, Event::Result(_)), "{end:?}");
        assert_eq!(events.len(), 3, "{events:?}");
        for event in events {
            let Event::Notification { method, params: Some(params) } = event else { panic!() };
            assert_eq!(method, "notifications/progress");
            let params: Value = serde_json::from_str(params.get()).unwrap();
            assert_eq!(params["progressToken"], "töken");
        }
        let call = fake.requests().into_iter().find(|r| r.method() == "tools/call").unwrap();
        assert!(call.body["params"]["_meta"]["progressToken"].is_u64());
    }
}

#[tokio::test]
async fn a_legacy_server_may_ask_during_a_call() {
    let permits = Permits::new().await;
    let fake = FakeUpstream::start_era(EraMode::Legacy).await.unwrap();
    let upstreams = upstreams(config(http(&fake.url())));
    let session = session(&upstreams, "a").await;
    let request = tool("test_sampling", &json!({ "arguments": { "prompt": "p" } }));
    let mut exchange = session.call(permits.permit().await, request).await.unwrap();
    let Event::ServerRequest { id, method, .. } = exchange.next().await else { panic!() };
    assert_eq!(method, "sampling/createMessage");
    let content = json!({ "type": "text", "text": "42" });
    let answer = raw(&json!({ "role": "assistant", "content": content, "model": "m" }));
    exchange.answer(&id, Ok(answer)).await.unwrap();
    assert_eq!(text(&run(&mut exchange).await.1), "LLM response: 42");
}

#[tokio::test]
async fn a_closed_stream_is_resumed() {
    let permits = Permits::new().await;
    let fake = FakeUpstream::start_era(EraMode::Legacy).await.unwrap();
    let upstreams = upstreams(config(http(&fake.url())));
    let session = session(&upstreams, "a").await;
    let request = tool("test_reconnection", &json!({ "arguments": {} }));
    let mut exchange = session.call(permits.permit().await, request).await.unwrap();
    let (_, end) = run(&mut exchange).await;
    assert!(text(&end).contains("after the reconnection"), "{end:?}");
    assert_eq!(fake.count("test_reconnection"), 1);
}

#[tokio::test]
async fn a_failed_call_is_sent_once_and_says_that_it_was_sent() {
    let permits = Permits::new().await;
    for mode in [EraMode::Legacy, EraMode::Modern] {
        for (behaviour, executed, reason) in [
            (Behaviour::Stall, 1, "the request timed out"),
            (Behaviour::Late(Duration::from_secs(5)), 1, "the request timed out"),
            (Behaviour::HangUpBeforeReading, 0, "the connection closed"),
            (Behaviour::HangUpAfterReading, 1, "the connection closed"),
            (Behaviour::HangUpInAnswer, 1, "the connection closed"),
            (Behaviour::Garbage, 1, "unreadable answer"),
            (Behaviour::ForeignId, 1, "unreadable answer: answer to another request"),
            (Behaviour::Oversized(200_000), 1, "the answer has more than 100000 bytes"),
            (Behaviour::Status(503), 0, "the server answered with HTTP status 503"),
        ] {
            let fake = FakeUpstream::start_era(mode).await.unwrap();
            let upstreams = upstreams(config(http(&fake.url())));
            let session = session(&upstreams, "a").await;
            fake.behave(behaviour);
            let mut request = tool("echo", &json!({ "arguments": { "text": "x" } }));
            request.timeout = Some(Duration::from_millis(300));
            let mut exchange = session.call(permits.permit().await, request).await.unwrap();
            let (_, end) = run(&mut exchange).await;
            let Event::Lost { reason: found, sent: true } = &end else {
                panic!("{behaviour:?}: {end:?}")
            };
            let found = found.to_string();
            assert!(found.starts_with(reason), "{behaviour:?}: {found}");
            assert!(matches!(exchange.next().await, Event::Lost { .. }));
            assert_eq!(fake.count("echo"), executed, "{behaviour:?}");
        }
    }
}

#[tokio::test]
async fn what_cannot_be_connected_was_not_sent() {
    let permits = Permits::new().await;
    let fake = FakeUpstream::start().await.unwrap();
    let upstreams = upstreams(config(http(&fake.url())));
    let open = session(&upstreams, "a").await;
    drop(fake);
    let lost = async || {
        let request = tool("echo", &json!({ "arguments": { "text": "x" } }));
        let mut exchange = open.call(permits.permit().await, request).await.unwrap();
        run(&mut exchange).await.1
    };
    // The first may still meet a pooled connection that is just closing.
    lost().await;
    let end = lost().await;
    assert!(matches!(end, Event::Lost { reason: LostReason::Connect(_), sent: false }), "{end:?}");
    upstreams.shutdown().await;
}

#[tokio::test]
async fn a_refused_session_says_that_nothing_was_sent() {
    let mut small = config(http("http://127.0.0.1:9/mcp"));
    small.sessions_max = 1;
    let upstreams = upstreams(small);
    // A failed opening takes no place from the next owner.
    for key in ["a", "b"] {
        let error = upstreams.session(&server(), &owner(key), &profile()).await.unwrap_err();
        assert!(matches!(error, UpstreamError::NotSent { reason: LostReason::Connect(_), .. }));
        assert!(error.is_not_sent());
    }
    let unknown = "other".parse().unwrap();
    let error = upstreams.session(&unknown, &owner("a"), &profile()).await.unwrap_err();
    assert!(matches!(error, UpstreamError::UnknownServer { .. }));
}

#[tokio::test]
async fn a_session_that_the_server_forgot_is_opened_again() {
    let permits = Permits::new().await;
    let fake = FakeUpstream::start_era(EraMode::Legacy).await.unwrap();
    let upstreams = upstreams(config(http(&fake.url())));
    let old = session(&upstreams, "a").await;
    let seen = fake.requests();
    let id = seen.iter().find_map(|request| request.header("mcp-session-id")).unwrap();
    delete_session(&fake.url(), id).await;
    let request = || tool("echo", &json!({ "arguments": { "text": "x" } }));
    let mut exchange = old.call(permits.permit().await, request()).await.unwrap();
    let (_, end) = run(&mut exchange).await;
    assert!(matches!(end, Event::Lost { reason: LostReason::SessionGone, .. }), "{end:?}");
    assert_eq!(fake.count("echo"), 0);
    assert!(old.is_dead());
    let new = session(&upstreams, "a").await;
    let mut exchange = new.call(permits.permit().await, request()).await.unwrap();
    assert_eq!(text(&run(&mut exchange).await.1), "x");
}

async fn delete_session(url: &str, id: &str) {
    let host = url.trim_start_matches("http://").trim_end_matches("/mcp");
    let mut stream = tokio::net::TcpStream::connect(host).await.unwrap();
    let request = format!(
        "DELETE /mcp HTTP/1.1\r\nhost: {host}\r\nmcp-session-id: {id}\r\nconnection: close\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    stream.read_to_end(&mut Vec::new()).await.unwrap();
}

#[tokio::test]
async fn many_callers_share_one_opening() {
    let fake = FakeUpstream::start_era(EraMode::Legacy).await.unwrap();
    let upstreams = upstreams(config(http(&fake.url())));
    let (server, owner, profile) = (server(), owner("a"), profile());
    let opened = (0..20).map(|_| upstreams.session(&server, &owner, &profile));
    let opened = futures_util::future::join_all(opened).await;
    assert!(opened.iter().all(Result::is_ok));
    let count = |method| fake.requests().iter().filter(|r| r.method() == method).count();
    assert_eq!((count("server/discover"), count("initialize")), (1, 1));
    session(&upstreams, "b").await;
    assert_eq!((count("server/discover"), count("initialize")), (1, 2));
}

#[tokio::test]
async fn idle_sessions_make_room_and_busy_ones_do_not() {
    let permits = Permits::new().await;
    let fake = FakeUpstream::start_era(EraMode::Legacy).await.unwrap();
    let mut small = config(http(&fake.url()));
    small.sessions_max = 1;
    small.calls_max = 1;
    let upstreams = upstreams(small);
    let first = session(&upstreams, "a").await;
    let second = session(&upstreams, "b").await;
    assert!(first.is_dead() && !second.is_dead());
    fake.behave(Behaviour::Stall);
    let request = || tool("echo", &json!({ "arguments": { "text": "x" } }));
    let exchange = second.call(permits.permit().await, request()).await.unwrap();
    let error = upstreams.session(&server(), &owner("c"), &profile()).await.unwrap_err();
    assert!(matches!(error, UpstreamError::NotSent { reason: LostReason::Busy("sessions"), .. }));
    let error = second.call(permits.permit().await, request()).await.unwrap_err();
    assert!(matches!(error, UpstreamError::NotSent { reason: LostReason::Busy("calls"), .. }));
    drop(exchange);
    assert!(upstreams.session(&server(), &owner("c"), &profile()).await.is_ok());
}

#[tokio::test]
async fn changes_outside_a_call_are_session_events() {
    let fake = FakeUpstream::start_era(EraMode::Legacy).await.unwrap();
    let upstreams = upstreams(config(http(&fake.url())));
    let session = session(&upstreams, "a").await;
    let mut events = session.events();
    let event = loop {
        // Heard only once the session's own stream is open.
        fake.redescribe("echo", "another");
        let wait = tokio::time::timeout(Duration::from_millis(50), events.recv());
        if let Ok(event) = wait.await {
            break event.unwrap();
        }
    };
    let SessionEvent::Notification { method, .. } = event else { panic!("{event:?}") };
    assert_eq!(&*method, "notifications/tools/list_changed");
    upstreams.shutdown().await;
    loop {
        match events.recv().await {
            Ok(SessionEvent::Closed(LostReason::Stopped)) => break,
            Ok(_) => {}
            Err(error) => panic!("{error}"),
        }
    }
}

#[tokio::test]
async fn cancelling_tells_the_server_in_the_way_of_its_era() {
    let permits = Permits::new().await;
    for mode in [EraMode::Legacy, EraMode::Modern] {
        let fake = FakeUpstream::start_era(mode).await.unwrap();
        let upstreams = upstreams(config(http(&fake.url())));
        let session = session(&upstreams, "a").await;
        let mut request = tool("slow_compute", &json!({ "arguments": { "seconds": 60 } }));
        request.timeout = Some(Duration::from_secs(1));
        let mut exchange = session.call(permits.permit().await, request).await.unwrap();
        let started = tokio::time::timeout(Duration::from_millis(200), exchange.next()).await;
        assert!(started.is_err(), "{started:?}");
        exchange.cancel("changed \"mind\"");
        let (_, end) = run(&mut exchange).await;
        let seen = fake.requests();
        let call = seen.iter().find(|r| r.method() == "tools/call").unwrap();
        let told = seen.iter().find(|r| r.method() == "notifications/cancelled");
        if mode == EraMode::Modern {
            let reason = LostReason::Cancelled;
            assert!(matches!(&end, Event::Lost { reason: found, .. } if *found == reason));
            assert!(told.is_none());
        } else {
            let told = &told.unwrap().body["params"];
            assert_eq!(told["requestId"], call.body["id"]);
            assert_eq!(told["reason"], "changed \"mind\"");
        }
    }
}
