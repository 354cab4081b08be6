//! Records, pages, proofs, and the records that reading leaves.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use axum::body::Body;
use axum::http::{Request, StatusCode};
use countersign_evidence::case::open;
use countersign_evidence::csv;
use countersign_evidence::proof::RecordFile;
use countersign_evidence::query::{Filter, page};
use countersign_evidence::time::utc;
use countersign_evidence::{Opened, Record};
use countersign_ledger::tree::verify_consistency;
use countersign_ledger::{Checkpoint, Hash, LeafIndex, TreeSize};
use countersign_model::{Draft, Kind, NewAgent, OutcomeStatus};
use serde_json::{Value, json};

use crate::world::{Answer, Call, START_MS, World};

/// How many records a walk goes through; `COUNTERSIGN_WALK_RECORDS` makes it larger.
#[expect(clippy::disallowed_methods, reason = "the size of a run is chosen by who starts it")]
fn walk_records() -> usize {
    std::env::var("COUNTERSIGN_WALK_RECORDS").map_or(2_501, |text| text.parse().unwrap())
}

/// Follows `Link: <…>; rel="next"` as a script does, and returns the pages.
async fn walk(world: &World, first: &str, token: &str) -> Vec<Answer> {
    let mut pages = Vec::new();
    let mut next = Some(first.to_owned());
    while let Some(path) = next {
        let answer = world.get(&path, token).await;
        assert_eq!(answer.status, StatusCode::OK, "{path}");
        next = answer.headers.get("link").map(|link| {
            let link = link.to_str().unwrap().strip_prefix('<').unwrap();
            link.strip_suffix(r#">; rel="next""#).unwrap().to_owned()
        });
        pages.push(answer);
    }
    pages
}

fn rows(pages: &[Answer]) -> Vec<Value> {
    pages.iter().flat_map(|page| page.json()["records"].as_array().unwrap().clone()).collect()
}

fn ids(rows: &[Value]) -> Vec<&str> {
    rows.iter().map(|row| row["record_id"].as_str().unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r_151_a_walk_gives_every_record_that_there_was_at_its_beginning() {
    let world = Arc::new(World::start().await);
    let auditor = world.token_of("acme-audit", "auditor").await;
    let count = walk_records();
    let expected: BTreeSet<String> = world.denials(count).await.into_iter().collect();
    // More is recorded all the while.
    let stop = Arc::new(AtomicBool::new(false));
    let (writing, stopped) = (Arc::clone(&world), Arc::clone(&stop));
    let first = world.get("/api/v1/records?kind=decision&limit=1000", &auditor).await.json();
    let writer = tokio::spawn(async move {
        let mut written = 0;
        while !stopped.load(Ordering::SeqCst) && written < count / 10 {
            written += writing.denials(10).await.len();
        }
        written
    });
    let next = first["next_cursor"].as_str().unwrap();
    let path = format!("/api/v1/records?kind=decision&limit=1000&cursor={next}");
    let pages = walk(&world, &path, &auditor).await;
    let mut found = first["records"].as_array().unwrap().clone();
    found.extend(rows(&pages));
    let found_ids = ids(&found);
    assert_eq!(found_ids.len(), count, "each once");
    assert_eq!(found_ids.iter().map(|id| (*id).to_owned()).collect::<BTreeSet<_>>(), expected);
    let indexes: Vec<_> = found.iter().map(|row| row["leaf_index"].as_u64().unwrap()).collect();
    assert!(indexes.is_sorted_by(|a, b| a > b), "newest first");
    for page in &pages {
        assert_eq!(page.json()["tree_size"], first["tree_size"], "one pin for the whole walk");
    }

    // All kinds: exactly the leaves of the tree at the pin, with other page sizes.
    let pages = walk(&world, "/api/v1/records?limit=999", &auditor).await;
    let size = pages[0].json()["tree_size"].as_u64().unwrap();
    let indexes: Vec<_> =
        rows(&pages).iter().map(|row| row["leaf_index"].as_u64().unwrap()).collect();
    assert_eq!(indexes, (0..size).rev().collect::<Vec<_>>());
    stop.store(true, Ordering::SeqCst);
    assert!(writer.await.unwrap() > 0);

    // The alias, in its shape, below the tenant's name.
    let (from, to) = (utc(START_MS), utc(START_MS + 1_000_000));
    let path = format!("/acme/api/v1/audit?from={from}&to={to}&limit=1000");
    let pages = walk(&world, &path, &auditor).await;
    let calls = rows(&pages);
    assert!(calls.len() > count);
    assert!(calls.iter().all(|call| call["result"] == "denied"));
    eprintln!("{count} records walked, {} calls in the shape `acp`", calls.len());
}

/// A ledger with a bit of everything.
async fn mixed() -> (World, Vec<String>) {
    let world = World::start().await;
    let mut agents = Vec::new();
    for name in ["backup-bot", "billing-bot"] {
        let new = NewAgent {
            name: name.into(),
            purpose: "works".into(),
            owner: "ada@example.com".into(),
            environment: "prod".into(),
            ..NewAgent::default()
        };
        agents.push(world.store.agents().add(new, "test").await.unwrap().0.id.to_string());
    }
    for n in 0..90_usize {
        world.clock.set(START_MS + i64::try_from(n).unwrap() * 1_000);
        let call = Call {
            agent: &agents[n % 2],
            person: ["ada@example.com", "bob@example.com"][n / 2 % 2],
            tool: ["crm/query", "crm/refund", "fs/read file"][n % 3],
            rule: ["allow-crm", "bounds"][n / 3 % 2],
            verdict: ["allow", "deny", "hold"][n / 4 % 3],
        };
        let outcome = [
            Some(OutcomeStatus::Executed),
            Some(OutcomeStatus::Failed),
            Some(OutcomeStatus::Unknown),
            None,
        ][n % 4];
        world.call(call, outcome).await;
        if n % 10 == 0 {
            let result = if n % 20 == 0 { "accepted" } else { "rejected" };
            let draft = Draft::new(world.id(), Kind::Auth).with("result", result);
            world.store.append(draft).await.unwrap();
        }
    }
    (world, agents)
}

/// Tells by the records alone whether one matches.
fn matches(world: &World, all: &[Record], one: &Record, query: &[(&str, &str)]) -> bool {
    let outcome = |call: &Record| {
        let of = |record: &&Record| {
            record.kind() == "outcome" && record.text("parent") == Some(call.id())
        };
        all.iter().rfind(of).and_then(|outcome| outcome.text("outcome")).map(str::to_owned)
    };
    query.iter().all(|(name, value)| match *name {
        "agent" => one.text("agent") == Some(value),
        "principal" => one.text("principal") == Some(&world.store.pseudonym(value).unwrap()),
        "tool" => one.text("tool") == Some(value),
        "policy" => one.list("rules").contains(value),
        "decision" => one.text("decision") == Some(value),
        "kind" => one.kind() == *value,
        "result" => match one.kind() {
            "decision" => outcome(one).as_deref() == Some(value),
            "outcome" => one.text("outcome") == Some(value),
            "auth" => one.text("result") == Some(value),
            _ => false,
        },
        "from" => utc(one.time_ms()).as_str() >= *value,
        "to" => utc(one.time_ms()).as_str() < *value,
        other => panic!("{other}"),
    })
}

#[tokio::test]
async fn r_032_filters_find_what_a_look_at_every_record_finds() {
    let (world, agents) = mixed().await;
    let viewer = world.token_of("siem", "viewer").await;
    let (from, to) = (utc(START_MS + 20_000), utc(START_MS + 70_000));
    let (from, to) = (from.as_str(), to.as_str());
    let all = world.reader.range(LeafIndex(0), 1_000).await.unwrap();
    let all: Vec<Record> = all.into_iter().map(Record::from).collect();
    let mut found_some = 0;
    for query in [
        vec![("agent", agents[0].as_str())],
        vec![("principal", "bob@example.com")],
        vec![("tool", "fs/read file")],
        vec![("policy", "bounds")],
        vec![("decision", "hold")],
        vec![("kind", "auth")],
        vec![("result", "executed")],
        vec![("result", "unknown"), ("kind", "decision")],
        vec![("result", "rejected")],
        vec![("result", "accepted"), ("from", from)],
        vec![("from", from), ("to", to)],
        vec![
            ("agent", agents[1].as_str()),
            ("policy", "bounds"),
            ("decision", "deny"),
            ("from", from),
        ],
        vec![
            ("agent", agents[1].as_str()),
            ("policy", "bounds"),
            ("from", from),
            ("to", to),
            ("decision", "allow"),
        ],
        vec![("principal", "ada@example.com"), ("tool", "crm/refund"), ("result", "failed")],
        vec![("principal", "nobody@example.com")],
        vec![("kind", "decision"), ("result", "rejected")],
    ] {
        let expected: Vec<&str> = all
            .iter()
            .rev()
            .filter(|one| matches(&world, &all, one, &query))
            .map(Record::id)
            .collect();
        found_some += usize::from(!expected.is_empty());
        let text: Vec<_> = query
            .iter()
            .map(|(name, value)| format!("{name}={}", value.replace(' ', "+").replace('@', "%40")))
            .collect();
        // As of the records above: reading has left others since.
        let path = format!("/api/v1/records?{}&limit=7", text.join("&"));
        let rows = rows(&walk(&world, &path, &viewer).await);
        let rows: Vec<Value> = rows.into_iter().filter(|row| row["kind"] != "access").collect();
        assert_eq!(ids(&rows), expected, "{query:?}");
    }
    assert!(found_some >= 14, "{found_some}");
}

#[tokio::test]
async fn words_of_the_command_line_are_understood() {
    let (world, agents) = mixed().await;
    let viewer = world.token_of("siem", "viewer").await;
    for (one, other) in [
        ("agent=backup-bot", format!("agent={}", agents[0])),
        ("decision=require-approval", "decision=hold".to_owned()),
        ("result=auth_failed", "result=rejected".to_owned()),
        (
            "from=2026-11-21&to=2026-11-22",
            "from=2026-11-21T00:00:00Z&to=2026-11-22T00:00:00Z".to_owned(),
        ),
    ] {
        let mut found = Vec::new();
        for query in [one, other.as_str()] {
            let path = format!("/api/v1/records?{query}&limit=1000");
            let rows = rows(&walk(&world, &path, &viewer).await);
            found.push(rows.into_iter().filter(|row| row["kind"] != "access").collect::<Vec<_>>());
        }
        assert_eq!(found[0], found[1], "{one}");
        assert!(!found[0].is_empty(), "{one}");
    }
}

#[tokio::test]
async fn a_wrong_request_is_refused_by_the_name_of_its_parameter() {
    let (world, _) = mixed().await;
    let viewer = world.token_of("siem", "viewer").await;
    let cursor = world.get("/api/v1/records?kind=decision&limit=1", &viewer).await.json();
    let cursor = cursor["next_cursor"].as_str().unwrap().to_owned();
    for (path, field) in [
        ("/api/v1/records?limit=1001".to_owned(), "limit"),
        ("/api/v1/records?limit=0".to_owned(), "limit"),
        ("/api/v1/records?form=2026-01-01".to_owned(), "form"),
        ("/api/v1/records?agent=nobody".to_owned(), "agent"),
        ("/api/v1/records?kind=x".to_owned(), "kind"),
        ("/api/v1/records?kind=auth&kind=decision".to_owned(), "kind"),
        (format!("/api/v1/records?kind=auth&cursor={cursor}"), "cursor"),
        ("/api/v1/records?cursor=x".to_owned(), "cursor"),
        (
            "/api/v1/records/00000000-0000-0000-0000-000000000001/proof?disclosed=a".to_owned(),
            "disclosed",
        ),
        ("/api/v1/consistency".to_owned(), "from"),
        ("/api/v1/consistency?from=x".to_owned(), "from"),
    ] {
        let answer = world.get(&path, &viewer).await;
        assert_eq!(
            (answer.status, answer.code().as_str()),
            (StatusCode::BAD_REQUEST, "BAD_PARAMETER"),
            "{path}"
        );
        assert_eq!(answer.json()["error"]["fields"], json!([field]), "{path}");
    }
    for path in [
        "/api/v1/records/00000000-0000-0000-0000-000000000001",
        "/api/v1/records/x",
        "/api/v1/records/x/proof",
        "/other/api/v1/audit",
    ] {
        let answer = world.get(path, &viewer).await;
        assert_eq!(answer.code(), "NOT_FOUND", "{path}");
    }
}

#[tokio::test]
async fn r_150_csv_is_that_of_the_command_line() {
    let (world, _) = mixed().await;
    let viewer = world.token_of("siem", "viewer").await;
    let mut filter = Filter::default();
    filter.set("kind", "decision").unwrap();
    let size = world.reader.size().await.unwrap();
    let expected = page(&world.reader, filter, LeafIndex(size), 20).await.unwrap();
    let expected = csv::table(&expected.records).unwrap();
    let by_parameter =
        world.get("/api/v1/records?kind=decision&limit=20&format=csv", &viewer).await;
    assert_eq!(by_parameter.header("content-type"), "text/csv; charset=utf-8");
    assert_eq!(by_parameter.body, expected);
    let request = Request::get("/api/v1/records?kind=decision&limit=20")
        .header("authorization", format!("Bearer {viewer}"))
        .header("accept", "text/csv");
    let by_header = world.send(request.body(Body::empty()).unwrap()).await;
    assert_eq!(by_header.body, expected);
    // All pages have all rows.
    let pages = walk(&world, "/api/v1/records?kind=decision&limit=20&format=csv", &viewer).await;
    let lines: usize =
        pages.iter().map(|page| page.body.iter().filter(|b| **b == b'\n').count() - 1).sum();
    assert_eq!((pages.len(), lines), (5, 90));
}

#[tokio::test]
async fn one_record_comes_with_its_outcomes() {
    let world = World::start().await;
    let viewer = world.token_of("siem", "viewer").await;
    let allowed = Call { verdict: "allow", ..Call::default() };
    let id = world.call(allowed, Some(OutcomeStatus::Executed)).await;
    let call = world.get(&format!("/api/v1/records/{id}"), &viewer).await.json();
    assert_eq!(call["record"]["record_id"], id.to_string());
    assert_eq!(call["record"]["decision"], "allow");
    assert_eq!(call["outcomes"][0]["outcome"], "executed");
    assert_eq!(call["sentence"], "`bot` asked for `crm/query`: allowed by `deny-all`.");
    assert!(!call.to_string().contains("ada@example.com"));
    // The outcome's id shows the call.
    let outcome = call["outcomes"][0]["record_id"].as_str().unwrap();
    let same = world.get(&format!("/api/v1/records/{outcome}"), &viewer).await.json();
    assert_eq!(same, call);
}

#[tokio::test]
async fn r_061_a_call_in_the_shape_of_the_example() {
    let world = World::start().await;
    let auditor = world.token_of("acme-audit", "auditor").await;
    let schema: Value = serde_json::from_str(include_str!("acp.schema.json")).unwrap();
    let schema = jsonschema::validator_for(&schema).unwrap();
    let allowed = Call { verdict: "allow", ..Call::default() };
    for (call, outcome, result) in [
        (allowed, Some(OutcomeStatus::Executed), "success"),
        (allowed, Some(OutcomeStatus::Failed), "error"),
        (allowed, None, "pending"),
        (Call::default(), None, "denied"),
        (Call { verdict: "hold", ..Call::default() }, None, "held"),
    ] {
        let id = world.call(call, outcome).await;
        let shown = world.get(&format!("/api/v1/records/{id}?shape=acp"), &auditor).await.json();
        let faults: Vec<_> = schema.iter_errors(&shown).map(|fault| fault.to_string()).collect();
        assert!(faults.is_empty(), "{shown}: {faults:?}");
        assert_eq!(shown["result"], result);
        // The list has the same.
        let listed = world.get("/api/v1/audit?limit=1", &auditor).await.json();
        assert_eq!(listed["records"][0], shown);
    }
    let id = world.call(allowed, Some(OutcomeStatus::Executed)).await;
    let shown = world.get(&format!("/api/v1/records/{id}?shape=acp"), &auditor).await.json();
    assert_eq!(
        shown,
        json!({
            "timestamp": utc(START_MS),
            "sub": "ada@example.com",
            "email": "ada@example.com",
            "tool": "crm/query",
            "input": {"text": "deals of this month"},
            "scopes": [],
            "scopeRequired": [],
            "scopeResult": "pass",
            "contentScan": {"piiDetected": null, "riskScore": null},
            "result": "success",
            "latencyMs": 142,
            "tenantId": "acme",
            "clientType": "bot",
            "delegationChain": null,
        })
    );
    // What is no call has no such shape.
    let auth = world.newest().await;
    let answer = world.get(&format!("/api/v1/records/{}?shape=acp", auth.id()), &auditor).await;
    assert_eq!(answer.json()["error"]["fields"], json!(["shape"]));
}

#[tokio::test]
async fn an_erased_person_shows_as_null_and_opens_no_field() {
    let world = World::start().await;
    let auditor = world.token_of("acme-audit", "auditor").await;
    let id = world.call(Call::default(), None).await;
    world.store.erase("ada@example.com", "T-1", None, "test").await.unwrap();
    world.store.publish_now().await.unwrap();
    let shown = world.get(&format!("/api/v1/records/{id}?shape=acp"), &auditor).await.json();
    for field in ["sub", "email", "input"] {
        assert_eq!(shown[field], Value::Null, "{field}");
    }
    let path = format!("/api/v1/records/{id}/proof?disclose=principal");
    assert_eq!(world.get(&path, &auditor).await.code(), "GONE");
    let whole = world.get(&format!("/api/v1/records/{id}/proof?disclose=*"), &auditor).await;
    let file = RecordFile::parse(&whole.body).unwrap();
    let verified = file.verify(std::slice::from_ref(&world.log_key), None).unwrap();
    assert!(verified.record.opened.is_empty());
}

#[tokio::test]
async fn a_proof_is_checked_offline_and_opens_what_was_asked_for() {
    let world = World::start().await;
    let auditor = world.token_of("acme-audit", "auditor").await;
    let allowed = Call { verdict: "allow", ..Call::default() };
    let id = world.call(allowed, Some(OutcomeStatus::Executed)).await;
    let path = format!("/api/v1/records/{id}/proof");
    // No checkpoint covers it yet.
    assert_eq!(world.get(&path, &auditor).await.code(), "UNAVAILABLE");
    world.store.publish_now().await.unwrap();
    let keys = std::slice::from_ref(&world.log_key);
    for (disclose, opened, of_outcome) in [
        ("", vec![], vec![]),
        ("?disclose=principal", vec!["principal"], vec!["principal"]),
        ("?disclose=arguments.text,result", vec!["arguments.text"], vec!["result"]),
        ("?disclose=*", vec!["arguments.text", "principal"], vec!["principal", "result"]),
    ] {
        let answer = world.get(&format!("{path}{disclose}"), &auditor).await;
        assert_eq!(answer.status, StatusCode::OK, "{disclose}");
        let file = RecordFile::parse(&answer.body).unwrap();
        let verified = file.verify(keys, None).unwrap();
        assert_eq!(verified.record.record_id, id.to_string());
        for (found, expected) in [(&verified.record, &opened), (&verified.outcomes[0], &of_outcome)]
        {
            let found: BTreeSet<_> = found.opened.keys().map(String::as_str).collect();
            assert_eq!(found, BTreeSet::from_iter(expected.iter().copied()), "{disclose}");
        }
        assert_eq!(verified.record.closed, 2 - opened.len(), "{disclose}");
    }
    let unknown = world.get(&format!("{path}?disclose=salary"), &auditor).await;
    assert_eq!(unknown.json()["error"]["fields"], json!(["disclose"]));
    assert!(unknown.json()["error"]["message"].as_str().unwrap().contains("`principal`"));
    // Another key proves nothing.
    let file = RecordFile::parse(&world.get(&path, &auditor).await.body).unwrap();
    let other = World::start().await;
    assert!(file.verify(std::slice::from_ref(&other.log_key), None).is_err());
}

#[tokio::test]
async fn a_consistency_proof_holds_between_any_two_sizes() {
    let world = World::start().await;
    let viewer = world.token_of("siem", "viewer").await;
    let path = "/api/v1/consistency?from=0";
    world.denials(300).await;
    let size = world.store.publish_now().await.unwrap();
    for (from, to) in
        [(0, None), (1, None), (255, Some(256)), (256, Some(290)), (7, Some(7)), (299, None)]
    {
        let to_text = to.map_or_else(String::new, |to| format!("&to={to}"));
        let path = format!("/api/v1/consistency?from={from}{to_text}");
        let proof = world.get(&path, &viewer).await.json();
        let hash = |name: &str| Hash::from_base64(proof[name].as_str().unwrap()).unwrap();
        let hashes = proof["hashes"].as_array().unwrap().iter();
        let hashes: Vec<_> =
            hashes.map(|one| Hash::from_base64(one.as_str().unwrap()).unwrap()).collect();
        let (old, new) = (TreeSize(from), TreeSize(to.unwrap_or(size)));
        verify_consistency(old, &hash("from_root"), new, &hash("to_root"), &hashes).unwrap();
        assert_eq!(proof["to"], new.0);
        let note = proof["checkpoint"].as_str().unwrap();
        let keys = std::slice::from_ref(&world.log_key);
        let checkpoint = Checkpoint::open(note.as_bytes(), keys).unwrap();
        assert_eq!(to.is_none(), checkpoint.root == hash("to_root"), "{path}");
    }
    for (query, field) in [("from=2&to=1", "from"), ("from=0&to=100000", "to")] {
        let answer = world.get(&format!("/api/v1/consistency?{query}"), &viewer).await;
        assert_eq!(answer.json()["error"]["fields"], json!([field]), "{query}");
    }
    assert_eq!(world.get(path, &viewer).await.status, StatusCode::OK);
}

/// Opens the newest record, which is what the last request left.
async fn left(world: &World) -> Opened {
    open(&world.reader, world.newest().await).await.unwrap()
}

#[tokio::test]
async fn every_reading_is_on_record_with_what_was_asked_and_opened() {
    let world = World::start().await;
    let auditor = world.token_of("acme-audit", "auditor").await;
    let key_id = auditor.split('_').nth(1).unwrap();
    let id = world.call(Call::default(), None).await.to_string();
    let size = world.store.publish_now().await.unwrap();
    let entries = format!("/log/acme/tile/entries/000.p/{size}");
    let ada = world.store.pseudonym("ada@example.com").unwrap();
    let proof = format!("/api/v1/records/{id}/proof?disclose=principal");
    for (path, route, count, disclosed, filters) in [
        ("/api/v1/records?limit=2", "/api/v1/records", 2, vec![], None),
        (
            "/api/v1/records?principal=ada@example.com&kind=decision",
            "/api/v1/records",
            1,
            vec![],
            Some(json!({"kind": "decision", "principal": ada})),
        ),
        ("/acme/api/v1/audit", "/{tenant}/api/v1/audit", 1, vec!["arguments", "principal"], None),
        (&format!("/api/v1/records/{id}"), "/api/v1/records/{id}", 1, vec![], None),
        (&proof, "/api/v1/records/{id}/proof", 1, vec!["principal"], None),
        ("/api/v1/consistency?from=1", "/api/v1/consistency", 0, vec![], None),
        (&entries, "/log/{tenant}/tile/entries/{path}", i64::try_from(size).unwrap(), vec![], None),
    ] {
        let before = world.reader.size().await.unwrap();
        assert_eq!(world.get(path, &auditor).await.status, StatusCode::OK, "{path}");
        assert_eq!(world.reader.size().await.unwrap(), before + 1, "one record for {path}");
        let Opened { record, private, .. } = left(&world).await;
        assert_eq!((record.kind(), record.text("result")), ("access", Some("read")), "{path}");
        assert_eq!((record.text("route"), record.text("role")), (Some(route), Some("auditor")));
        assert_eq!(record.text("key_id"), Some(key_id), "{path}");
        assert_eq!(record.integer("count"), Some(count), "{path}");
        let named = i64::try_from(disclosed.len()).unwrap();
        assert_eq!(record.integer("disclosed_fields"), Some(named), "{path}");
        assert_eq!(private["principal"], "token:acme-audit", "{path}");
        let expected = (!disclosed.is_empty()).then(|| json!(disclosed));
        assert_eq!(private.get("disclosed"), expected.as_ref(), "{path}");
        assert_eq!(private.get("filters"), filters.as_ref(), "{path}");
        assert!(!String::from_utf8_lossy(record.body()).contains("ada@example.com"));
    }
    // Who reads the log with the control token is on record, too.
    world.api("GET", "/api/v1/records", &json!(null)).await;
    let Opened { record, private, .. } = left(&world).await;
    assert_eq!((record.text("role"), record.text("key_id")), (Some("admin"), None));
    assert_eq!(private["principal"], "control-token");
}

#[tokio::test]
async fn nothing_is_read_that_cannot_be_recorded() {
    let world = World::start().await;
    let auditor = world.token_of("acme-audit", "auditor").await;
    let id = world.call(Call::default(), None).await.to_string();
    let size = world.store.publish_now().await.unwrap();
    world.store.shutdown().await.unwrap();
    for path in [
        "/api/v1/records".to_owned(),
        "/api/v1/records?format=csv".to_owned(),
        "/api/v1/audit".to_owned(),
        format!("/api/v1/records/{id}"),
        format!("/api/v1/records/{id}/proof?disclose=*"),
        "/api/v1/consistency?from=1".to_owned(),
        format!("/log/acme/tile/entries/000.p/{size}"),
    ] {
        let answer = world.get(&path, &auditor).await;
        assert_eq!(answer.code(), "UNAVAILABLE", "{path}");
        assert!(!String::from_utf8_lossy(&answer.body).contains(&id), "{path}");
    }
}
