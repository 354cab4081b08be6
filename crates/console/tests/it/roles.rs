//! Named tokens, and what each role may do.

use axum::http::StatusCode;
use countersign_console::{TokenInfo, Tokens};
use countersign_evidence::case::open;
use countersign_store::Store;
use serde_json::json;

use crate::world::{Call, START_MS, World};

const DAY_MS: i64 = 24 * 60 * 60 * 1_000;

/// Routes, and whether viewer, auditor and administrator get through.
const TABLE: [(&str, &str, [bool; 3]); 26] = [
    ("GET", "/api/v1/records", [true, true, true]),
    ("GET", "/api/v1/records?format=csv", [true, true, true]),
    ("GET", "/api/v1/records?shape=acp", [false, true, true]),
    ("GET", "/api/v1/records/ID", [true, true, true]),
    ("GET", "/api/v1/records/ID?shape=acp", [false, true, true]),
    ("GET", "/api/v1/records/ID/proof", [true, true, true]),
    ("GET", "/api/v1/records/ID/proof?disclose=principal", [false, true, true]),
    ("GET", "/api/v1/records/ID/proof?disclose=*", [false, true, true]),
    ("GET", "/api/v1/consistency?from=1", [true, true, true]),
    ("GET", "/api/v1/audit", [false, true, true]),
    ("GET", "/acme/api/v1/audit", [false, true, true]),
    ("GET", "/acme/api/v1/audit?shape=record", [true, true, true]),
    ("GET", "/api/v1/openapi.json", [true, true, true]),
    ("GET", "/log/acme/checkpoint", [true, true, true]),
    ("GET", "/log/acme/tile/entries/000.p/1", [false, true, true]),
    ("GET", "/api/v1/agents", [false, false, true]),
    ("POST", "/api/v1/agents", [false, false, true]),
    ("GET", "/api/v1/tokens", [false, false, true]),
    ("POST", "/api/v1/tokens", [false, false, true]),
    ("POST", "/api/v1/tokens/viewer/revoke", [false, false, true]),
    ("POST", "/api/v1/policy/reload", [false, false, true]),
    ("POST", "/api/v1/subjects/erase", [false, false, true]),
    ("POST", "/api/v1/retention/purge", [false, false, true]),
    ("POST", "/api/v1/retention/restore-tests", [false, false, true]),
    ("POST", "/api/v1/records", [false, false, true]),
    ("GET", "/no/such/route", [false, false, true]),
];

#[tokio::test]
async fn each_role_reaches_its_routes_and_no_other() {
    let world = World::start().await;
    let id = world.call(Call::default(), None).await.to_string();
    world.store.publish_now().await.unwrap();
    let mut tokens = Vec::new();
    for role in ["viewer", "auditor", "admin"] {
        tokens.push((role, world.token_of(&format!("the-{role}"), role).await));
    }
    for (method, path, allowed) in TABLE {
        let path = path.replace("ID", &id);
        for ((role, token), allowed) in tokens.iter().zip(allowed) {
            let answer = world.with(method, &path, Some(token), "").await;
            let refused = answer.status == StatusCode::FORBIDDEN;
            assert_eq!(!refused, allowed, "{method} {path} as {role}: {}", answer.status);
            assert_ne!(answer.status, StatusCode::UNAUTHORIZED, "{method} {path} as {role}");
            if refused {
                let error = &answer.json()["error"];
                let needs = error["needs"].as_str().unwrap();
                assert_eq!(error["code"], "FORBIDDEN");
                let message = format!("this needs the role `{needs}`, and the token has `{role}`");
                assert_eq!(error["message"], message);
                assert_eq!(
                    answer.header("www-authenticate"),
                    r#"Bearer error="insufficient_scope""#
                );
                assert_eq!(
                    needs == "admin",
                    *role == "auditor"
                        || !TABLE_FOR_AUDITOR.contains(&path.replace(&id, "ID").as_str())
                );
                let record = world.newest().await;
                assert_eq!((record.kind(), record.text("result")), ("access", Some("refused")));
                assert_eq!(record.text("needs"), Some(needs));
            }
        }
    }
}

/// What a viewer is told to ask an auditor for.
const TABLE_FOR_AUDITOR: [&str; 7] = [
    "/api/v1/records?shape=acp",
    "/api/v1/records/ID?shape=acp",
    "/api/v1/records/ID/proof?disclose=principal",
    "/api/v1/records/ID/proof?disclose=*",
    "/api/v1/audit",
    "/acme/api/v1/audit",
    "/log/acme/tile/entries/000.p/1",
];

#[tokio::test]
async fn r_063_an_agent_key_reads_nothing() {
    let world = World::start().await;
    let key = world.agent_key().await;
    for (method, path, _) in TABLE {
        let answer = world.with(method, path, Some(&key), "").await;
        assert_eq!(answer.status, StatusCode::UNAUTHORIZED, "{method} {path}");
        assert_eq!(answer.code(), "UNAUTHORIZED");
    }
}

#[tokio::test]
async fn a_token_ends_when_it_says_and_when_it_is_revoked() {
    let world = World::start().await;
    // The day of the test's clock, which is included.
    let new = json!({"name": "siem", "role": "viewer", "expires": "2026-11-21"});
    let made = world.api("POST", "/api/v1/tokens", &new).await.json();
    let (siem, key_id) = (made["secret"].as_str().unwrap(), made["token"]["id"].as_str().unwrap());
    let path = "/api/v1/records";
    let end = START_MS - START_MS.rem_euclid(DAY_MS) + DAY_MS;
    assert_eq!(made["token"]["expires_at"], "2026-11-22T00:00:00.000Z");
    for (now, status, reason) in [
        (START_MS, StatusCode::OK, None),
        (end - 1, StatusCode::OK, None),
        (end, StatusCode::UNAUTHORIZED, Some("CREDENTIAL_EXPIRED")),
        (end + DAY_MS, StatusCode::UNAUTHORIZED, Some("CREDENTIAL_EXPIRED")),
    ] {
        world.clock.set(now);
        assert_eq!(world.get(path, siem).await.status, status, "{now}");
        if let Some(reason) = reason {
            let record = world.newest().await;
            assert_eq!((record.kind(), record.text("key_id")), ("auth", Some(key_id)));
            assert_eq!(record.list("reasons"), [reason]);
        }
    }
    let audit = world.token_of("audit", "auditor").await;
    assert_eq!(world.get(path, &audit).await.status, StatusCode::OK);
    let revoked = world.api("POST", "/api/v1/tokens/audit/revoke", &json!(null)).await;
    assert!(revoked.json()["token"]["revoked_at"].is_string());
    assert_eq!(world.get(path, &audit).await.status, StatusCode::UNAUTHORIZED);
    let again = world.api("POST", "/api/v1/tokens/audit/revoke", &json!(null)).await;
    assert_eq!(again.code(), "CONFLICT");
    let unknown = world.api("POST", "/api/v1/tokens/no/revoke", &json!(null)).await;
    assert_eq!(unknown.code(), "NOT_FOUND");
    // A revoked name is not free again.
    let taken = json!({"name": "audit", "role": "viewer"});
    assert_eq!(world.api("POST", "/api/v1/tokens", &taken).await.code(), "NAME_TAKEN");
}

#[tokio::test]
async fn tokens_are_kept_as_keyed_hashes_for_the_owner_alone() {
    let world = World::start().await;
    let text = world.token_of("siem", "viewer").await;
    let data = world.store.folder();
    let (file, key) = (data.join("control-tokens.json"), data.join("keys/control-token.key"));
    let kept = std::fs::read_to_string(&file).unwrap();
    let secret = text.rsplit('_').next().unwrap();
    assert!(kept.contains("siem") && !kept.contains(secret), "{kept}");
    #[cfg(unix)]
    for path in [&file, &key] {
        use std::os::unix::fs::PermissionsExt as _;
        let mode = std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode, 0o600, "{}", path.display());
    }
    // What a restart reads is what is there; another key opens nothing.
    let listed = world.api("GET", "/api/v1/tokens", &json!(null)).await.json();
    let reopened: Vec<TokenInfo> = Tokens::open(data, &data.join("keys")).unwrap().list();
    assert_eq!(json!({"tokens": reopened}), listed);
    assert!(!listed.to_string().contains(secret));
    let last = if text.ends_with('0') { '1' } else { '0' };
    let mut short = text.clone();
    short.pop();
    for wrong in [
        text.replace("cst_", "cst_0"),
        format!("{short}{last}"),
        text.to_uppercase(),
        format!("cst_{secret}"),
        short,
    ] {
        let answer = world.get("/api/v1/records", &wrong).await;
        assert_eq!(answer.status, StatusCode::UNAUTHORIZED, "{wrong}");
    }
    assert_eq!(world.get("/api/v1/records", &text).await.status, StatusCode::OK);
}

#[tokio::test]
async fn making_and_revoking_a_token_is_a_change_under_the_callers_name() {
    let world = World::start().await;
    let admin = world.token_of("ops", "admin").await;
    let record = world.newest().await;
    assert_eq!((record.kind(), record.text("object")), ("change", Some("token")));
    assert_eq!((record.text("action"), record.text("role")), (Some("added"), Some("admin")));
    let control = world.store.pseudonym("control-token").unwrap();
    assert_eq!(record.text("principal"), Some(control.as_str()));

    let new = json!({"name": "siem", "role": "viewer"}).to_string();
    world.with("POST", "/api/v1/tokens", Some(&admin), &new).await;
    world.with("POST", "/api/v1/tokens/siem/revoke", Some(&admin), "").await;
    let record = world.newest().await;
    assert_eq!((record.kind(), record.text("action")), ("change", Some("revoked")));
    let ops = world.store.pseudonym("token:ops").unwrap();
    assert_eq!(record.text("principal"), Some(ops.as_str()));
    let opened = open(&world.reader, record).await.unwrap();
    assert_eq!(opened.value("name"), Some(&json!("siem")));
}

#[tokio::test]
async fn a_wrong_new_token_is_refused_and_changes_nothing() {
    let world = World::start().await;
    let before = world.reader.size().await.unwrap();
    for (new, code) in [
        (json!({}), "MISSING_FIELDS"),
        (json!({"name": "Siem", "role": "viewer"}), "INVALID"),
        (json!({"name": "siem", "role": "owner"}), "INVALID"),
        (json!({"name": "siem", "role": "viewer", "expires": "2020-01-01"}), "INVALID"),
        (json!({"name": "siem", "role": "viewer", "expiry": "2030-01-01"}), "INVALID"),
    ] {
        assert_eq!(world.api("POST", "/api/v1/tokens", &new).await.code(), code, "{new}");
    }
    assert_eq!(world.reader.size().await.unwrap(), before);
    assert!(Tokens::read_list(world.store.folder()).unwrap().is_empty());
}

#[tokio::test]
async fn a_token_that_cannot_be_recorded_is_not_made() {
    let world = World::start().await;
    let store: &Store = &world.store;
    store.shutdown().await.unwrap();
    let new = json!({"name": "siem", "role": "viewer"});
    assert_eq!(world.api("POST", "/api/v1/tokens", &new).await.code(), "UNAVAILABLE");
    assert!(Tokens::read_list(store.folder()).unwrap().is_empty());
}

#[tokio::test]
async fn only_an_administrator_says_what_the_command_line_read_and_only_of_known_commands() {
    let world = World::start().await;
    let reading = |account: &str, command: &str| {
        json!({"account": account, "command": command, "count": 3, "tree_size": 9,
            "filters": {"principal": "dana"}})
    };
    let path = "/api/v1/access";
    let good = reading("ops", "records-query");
    let auditor = world.token_of("acme-audit", "auditor").await;
    let refused = world.with("POST", path, Some(&auditor), &good.to_string()).await;
    assert_eq!(refused.status, StatusCode::FORBIDDEN);
    for bad in [reading("", "sample"), reading(&"x".repeat(257), "sample"), reading("ops", "wipe")]
    {
        let answer = world.api("POST", path, &bad).await;
        assert_eq!(answer.status, StatusCode::UNPROCESSABLE_ENTITY, "{bad}");
    }
    assert_eq!(world.api("POST", path, &good).await.status, StatusCode::CREATED);
}
