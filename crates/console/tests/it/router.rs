//! Administration and the log's files.

use axum::body::Body;
use axum::http::{Request, StatusCode};
use countersign_console::ACTOR;
use countersign_console::limits::BODY_BYTES_MAX;
use countersign_model::{AgentId, Draft, Kind, OutcomeStatus, RecordId};
use countersign_store::{Committed, Intent, Outcome};
use serde_json::{Map, json};
use uuid::Uuid;

use crate::world::World;

const ROUTES: [(&str, &str); 13] = [
    ("GET", "/healthz"),
    ("GET", "/log/acme/checkpoint"),
    ("GET", "/log/acme/tile/0/000.p/1"),
    ("GET", "/log/acme/tile/entries/000.p/1"),
    ("GET", "/api/v1/agents"),
    ("POST", "/api/v1/agents"),
    ("GET", "/api/v1/agents/bot"),
    ("POST", "/api/v1/agents/bot/disable"),
    ("POST", "/api/v1/agents/bot/rotate-key"),
    ("POST", "/api/v1/policy/reload"),
    ("POST", "/api/v1/pins/crm"),
    ("POST", "/api/v1/upstreams"),
    ("GET", "/no/such/route"),
];

#[tokio::test]
async fn r_063_an_agent_key_works_on_no_route() {
    let world = World::start().await;
    let key = world.agent_key().await;
    world.store.publish_now().await.unwrap();
    let before = world.store.publish_now().await.unwrap();
    for (method, path) in ROUTES {
        let answer = world.with(method, path, Some(&key), "{}").await;
        assert_eq!(answer.status, StatusCode::UNAUTHORIZED, "{method} {path}");
        assert_eq!(answer.header("www-authenticate"), "Bearer");
        assert_eq!(answer.code(), "UNAUTHORIZED");
    }
    assert!(world.asked.0.lock().unwrap().is_empty());
    // Each attempt is on record.
    let after = world.store.publish_now().await.unwrap();
    assert_eq!(after - before, u64::try_from(ROUTES.len()).unwrap());
    let path = format!("/log/acme/tile/entries/000.p/{after}");
    let entries = world.api("GET", &path, &json!(null)).await;
    let entries = String::from_utf8_lossy(&entries.body);
    assert_eq!(entries.matches(r#""plane":"control""#).count(), ROUTES.len());
}

#[tokio::test]
async fn what_is_not_public_needs_the_token() {
    let world = World::start().await;
    world.agent_key().await;
    world.store.publish_now().await.unwrap();
    for (method, path) in ROUTES {
        let public = path == "/healthz" || path.ends_with("checkpoint") || path.contains("tile/0");
        let answer = world.with(method, path, None, "{}").await;
        let expected = if public { StatusCode::OK } else { StatusCode::UNAUTHORIZED };
        assert_eq!(answer.status, expected, "{method} {path}");
    }
    let mut wrong = world.token.expose().to_owned();
    wrong.pop();
    for credential in ["", "x", wrong.as_str()] {
        let answer = world.with("GET", "/api/v1/agents", Some(credential), "").await;
        assert_eq!(answer.status, StatusCode::UNAUTHORIZED, "{credential:?}");
    }
    assert_eq!(world.api("GET", "/no/such/route", &json!(null)).await.code(), "NOT_FOUND");
    assert_eq!(world.api("GET", "/api/v1/no", &json!(null)).await.code(), "NOT_FOUND");
    let answer = world.api("DELETE", "/api/v1/agents", &json!(null)).await;
    assert_eq!(answer.code(), "METHOD_NOT_ALLOWED");
}

#[tokio::test]
async fn a_foreign_host_is_refused() {
    let world = World::start().await;
    for (host, expected) in
        [("localhost:7701", StatusCode::OK), ("evil.example", StatusCode::FORBIDDEN)]
    {
        let request = Request::get("/healthz").header("host", host).body(Body::empty()).unwrap();
        assert_eq!(world.send(request).await.status, expected, "{host}");
    }
}

#[tokio::test]
async fn the_log_is_served_and_nothing_else_of_its_folder() {
    let world = World::start().await;
    world.agent_key().await;
    let size = world.store.publish_now().await.unwrap();
    let log = world.store.folder().join("log");
    let world = &world;
    let get = |path: String| async move { world.api("GET", &path, &json!(null)).await };

    let checkpoint = get("/log/acme/checkpoint".into()).await;
    assert_eq!(checkpoint.body, std::fs::read(log.join("checkpoint")).unwrap());
    assert_eq!(checkpoint.header("content-type"), "text/plain; charset=utf-8");
    assert_eq!(checkpoint.header("cache-control"), "public, max-age=1");
    for (tile, cache) in [
        (format!("tile/0/000.p/{size}"), "public, max-age=31536000, immutable"),
        (format!("tile/entries/000.p/{size}"), "private, max-age=31536000, immutable"),
    ] {
        let answer = get(format!("/log/acme/{tile}")).await;
        assert_eq!(answer.body, std::fs::read(log.join(&tile)).unwrap(), "{tile}");
        assert_eq!(answer.header("content-type"), "application/octet-stream");
        assert_eq!(answer.header("cache-control"), cache);
    }
    // With a file outside that would be found by a path taken at its word.
    std::fs::write(log.join("tile").join("secret"), "x").unwrap();
    for path in [
        "/log/acme/tile/secret",
        "/log/acme/tile/../checkpoint",
        "/log/acme/tile/%2e%2e/checkpoint",
        "/log/acme/tile/0/..%2f..%2f..%2fcontrol.token",
        "/log/acme/tile/entries/..%2f..%2f..%2fcountersign.db",
        "/log/acme/tile/0/%2fetc%2fpasswd",
        "/log/acme/tile/0/0",
        "/log/acme/tile/0/x000/000",
        "/log/acme/tile/0",
        "/log/other/checkpoint",
        "/log/%2e%2e/checkpoint",
        "/log/acme/checkpoints/1",
    ] {
        assert_eq!(get(path.into()).await.status, StatusCode::NOT_FOUND, "{path}");
    }
}

#[tokio::test]
async fn r_020_an_agent_without_its_fields_is_refused_with_all_of_them() {
    let world = World::start().await;
    let answer = world.api("POST", "/api/v1/agents", &json!({"name": "bot", "owner": " "})).await;
    assert_eq!(answer.status, StatusCode::UNPROCESSABLE_ENTITY);
    assert_eq!(
        answer.json(),
        json!({"error": {
            "code": "MISSING_FIELDS",
            "message": "these fields are missing: purpose, owner, environment",
            "fields": ["purpose", "owner", "environment"],
        }})
    );
    assert!(world.store.agents().list().is_empty());
}

#[tokio::test]
async fn agents_are_added_listed_disabled_and_get_new_keys() {
    let world = World::start().await;
    let new = json!({
        "name": "bot", "purpose": "answers", "owner": "ada@example.com", "environment": "prod",
        "roles": ["support"],
    });
    let added = world.api("POST", "/api/v1/agents", &new).await;
    assert_eq!(added.status, StatusCode::CREATED);
    assert_eq!(added.header("cache-control"), "no-store");
    let first = added.json()["key"].as_str().unwrap().to_owned();
    assert!(world.store.authenticate(&first).is_ok());
    assert_eq!(world.api("POST", "/api/v1/agents", &new).await.code(), "NAME_TAKEN");

    let listed = world.api("GET", "/api/v1/agents", &json!(null)).await.json();
    assert_eq!(listed["agents"][0], added.json()["agent"]);
    let shown = world.api("GET", "/api/v1/agents/bot", &json!(null)).await.json();
    assert_eq!(shown["agent"]["roles"], json!(["support"]));
    assert!(!listed.to_string().contains("csk_"));

    let body = json!({"overlap_ms": 0});
    let rotated = world.api("POST", "/api/v1/agents/bot/rotate-key", &body).await.json();
    let second = rotated["key"].as_str().unwrap();
    assert!(world.store.authenticate(second).is_ok());
    assert!(world.store.authenticate(&first).is_err());

    let disabled = world.api("POST", "/api/v1/agents/bot/disable", &json!(null)).await.json();
    assert_eq!(disabled["agent"]["status"], "disabled");
    assert!(world.store.authenticate(second).is_err());
    for path in ["/api/v1/agents/no/disable", "/api/v1/agents/no/rotate-key"] {
        assert_eq!(world.api("POST", path, &json!(null)).await.code(), "NOT_FOUND", "{path}");
    }
}

#[tokio::test]
async fn the_gateway_is_asked_under_the_tokens_name() {
    let world = World::start().await;
    let reloaded = world.api("POST", "/api/v1/policy/reload", &json!(null)).await;
    assert_eq!(reloaded.json(), json!({"bundle": "ab12"}));
    let pinned = world.api("POST", "/api/v1/pins/crm", &json!(null)).await;
    assert_eq!(pinned.json(), json!({"server": "crm", "tools": 3}));
    assert_eq!(world.api("POST", "/api/v1/pins/erp", &json!(null)).await.code(), "NOT_FOUND");
    assert_eq!(world.api("POST", "/api/v1/pins/A%20b", &json!(null)).await.code(), "INVALID");
    let upstream =
        json!({"name": "fs", "command": ["fs-server", "/tmp"], "env": {"KEY": "s3cret"}});
    let added = world.api("POST", "/api/v1/upstreams", &upstream).await;
    assert_eq!(added.status, StatusCode::CREATED);
    let missing = world.api("POST", "/api/v1/upstreams", &json!({})).await.json();
    assert_eq!(missing["error"]["fields"], json!(["name", "command"]));
    let asked = world.asked.0.lock().unwrap();
    assert_eq!(asked.len(), 4);
    assert!(asked.iter().all(|what| what.ends_with(&format!("by {ACTOR}"))));
    assert!(!asked.iter().any(|what| what.contains("s3cret")));
}

#[tokio::test]
async fn an_unknown_outcome_is_reconciled_once() {
    let world = World::start().await;
    let id = RecordId((world.store.config().ids)());
    let draft = Draft::new(id, Kind::Decision)
        .with("decision", "allow")
        .with("agent", AgentId(Uuid::nil()).to_string());
    let denial = Box::new(|_: &_| Map::new());
    let intent = Intent { draft, denial, idempotency: None };
    let Committed::Recorded(_receipt) = world.store.commit_intent(intent).await.unwrap() else {
        panic!("the intent is not recorded");
    };
    let path = format!("/api/v1/calls/{id}/reconcile");
    let body = json!({"outcome": "executed", "reason": "found in the CRM's own log"});
    // Still open: nobody may say yet what came of it.
    assert_eq!(world.api("POST", &path, &body).await.code(), "INVALID");
    let outcome = Outcome {
        evaluation_id: id,
        draft: Draft::new(RecordId((world.store.config().ids)()), Kind::Outcome),
        status: OutcomeStatus::Unknown,
        result: None,
    };
    world.store.commit_outcome(outcome).await.unwrap();
    let missing = world.api("POST", &path, &json!({})).await.json();
    assert_eq!(missing["error"]["fields"], json!(["outcome", "reason"]));
    let answer = world.api("POST", &path, &body).await;
    assert_eq!(answer.status, StatusCode::OK, "{}", answer.json());
    assert!(answer.json()["index"].is_u64());
    assert_eq!(world.api("POST", &path, &body).await.code(), "INVALID");
}

#[tokio::test]
async fn bodies_are_bounded_json() {
    let world = World::start().await;
    let long = format!("\"{}\"", "x".repeat(BODY_BYTES_MAX));
    for (body, status, code) in [
        (long.as_str(), 413, "TOO_LARGE"),
        ("{", 400, "BAD_REQUEST"),
        ("3", 422, "INVALID"),
        (r#"{"nme":"bot"}"#, 422, "INVALID"),
    ] {
        let token = world.token.expose();
        let answer = world.with("POST", "/api/v1/agents", Some(token), body).await;
        assert_eq!((answer.status.as_u16(), answer.code().as_str()), (status, code));
    }
}
