use countersign_evidence::query::{Filter, Rows, nearest};
use countersign_evidence::{EvidenceError, Record};
use countersign_ledger::LeafIndex;
use countersign_store::Reader;
use serde_json::json;

use crate::world::{START_MS, World};

async fn found(reader: &Reader, filter: Filter) -> Vec<Record> {
    let mut rows = Rows::open(reader, filter).await.unwrap();
    let mut found = Vec::new();
    while let Some(record) = rows.next().await.unwrap() {
        found.push(record);
    }
    found
}

/// Every record of the log, oldest first.
async fn all(reader: &Reader) -> Vec<Record> {
    let mut all: Vec<Record> = Vec::new();
    loop {
        let from = LeafIndex(u64::try_from(all.len()).unwrap());
        let records = reader.range(from, 1_000).await.unwrap();
        if records.is_empty() {
            return all;
        }
        all.extend(records.into_iter().map(Record::from));
    }
}

/// A record matches if every field of the filter does, as a person reading the leaf would judge.
fn matches(record: &Record, filter: &Filter, world: &World, outcomes: &[Record]) -> bool {
    let text = |name: &str| record.text(name);
    let agent = |name: &String| {
        let agent = world.agents.iter().find(|agent| agent.name.as_str() == name).unwrap();
        text("agent") == Some(agent.id.to_string().as_str())
    };
    let pseudonym = |person: &String| world.store.pseudonym(person).unwrap();
    let result = |result: &String| match record.kind() {
        "decision" => outcomes.iter().any(|outcome| {
            outcome.text("parent") == Some(record.id()) && outcome.text("outcome") == Some(result)
        }),
        "outcome" => text("outcome") == Some(result),
        "auth" => text("result") == Some(result),
        _ => false,
    };
    filter.agent.as_ref().is_none_or(agent)
        && filter.principal.as_ref().is_none_or(|it| text("principal") == Some(&pseudonym(it)))
        && filter.tool.as_deref().is_none_or(|it| text("tool") == Some(it))
        && filter.policy.as_deref().is_none_or(|it| record.list("rules").contains(&it))
        && filter.decision.as_deref().is_none_or(|it| text("decision") == Some(it))
        && filter.kind.as_deref().is_none_or(|it| record.kind() == it)
        && filter.result.as_ref().is_none_or(result)
        && filter.from_ms.is_none_or(|from| record.time_ms() >= from)
        && filter.until_ms.is_none_or(|until| record.time_ms() < until)
}

fn filters() -> Vec<Filter> {
    let some = |text: &str| Some(text.to_owned());
    let mut filters = vec![Filter::default()];
    let tools = [None, some("crm/query"), some("crm/refund"), some("crm/none")];
    let windows = [
        (None, None),
        (Some(START_MS + 9_000), None),
        (None, Some(START_MS + 30_000)),
        (Some(START_MS + 9_000), Some(START_MS + 30_000)),
    ];
    for agent in [None, some("backup-bot"), some("billing-bot")] {
        for tool in tools.clone() {
            for decision in [None, some("allow"), some("deny"), some("hold")] {
                for (from_ms, until_ms) in windows {
                    let (agent, tool, decision) = (agent.clone(), tool.clone(), decision.clone());
                    filters.push(Filter {
                        agent,
                        tool,
                        decision,
                        from_ms,
                        until_ms,
                        ..Filter::default()
                    });
                }
            }
        }
    }
    for policy in ["allow-crm", "refund-bounds", "none"] {
        filters.push(Filter { policy: some(policy), ..Filter::default() });
    }
    for person in ["ada@example.com", "bob@example.com", "nobody"] {
        filters.push(Filter { principal: some(person), ..Filter::default() });
        filters.push(Filter {
            principal: some(person),
            decision: some("deny"),
            ..Filter::default()
        });
    }
    for result in ["executed", "failed", "accepted", "rejected"] {
        filters.push(Filter { result: some(result), ..Filter::default() });
        filters.push(Filter { result: some(result), kind: some("decision"), ..Filter::default() });
        filters.push(Filter { result: some(result), kind: some("auth"), ..Filter::default() });
    }
    for kind in ["decision", "outcome", "auth", "change", "heartbeat"] {
        filters.push(Filter { kind: some(kind), ..Filter::default() });
    }
    filters
}

#[tokio::test]
async fn r_032_filters_equal_brute_force() {
    let world = World::new().await;
    for n in 0..240_usize {
        let person = ["ada@example.com", "bob@example.com"][n / 3 % 2];
        let facts = match n % 4 {
            0 => world.facts(n / 2 % 2, person, "crm/query", json!({"text": "x"})),
            1 => world.facts(n % 2, person, "crm/refund", json!({"amount": 7 * n})),
            2 => world.facts(0, person, "crm/wipe", json!({"all": true})),
            _ => world.facts(1, person, "crm/none", json!({})),
        };
        world.call(&facts, None).await;
        if n % 5 == 0 {
            world.auth(if n % 2 == 0 { "accepted" } else { "rejected" }).await;
        }
    }
    let reader = world.reader().await;
    let all = all(&reader).await;
    let outcomes: Vec<Record> = all.iter().filter(|one| one.kind() == "outcome").cloned().collect();
    assert!(outcomes.len() > 10);
    assert!(all.len() > 300, "more than the index keeps the times of together: {}", all.len());
    let mut hits = 0;
    for filter in filters() {
        let mut expected: Vec<u64> = all
            .iter()
            .filter(|record| matches(record, &filter, &world, &outcomes))
            .map(Record::index)
            .collect();
        expected.reverse();
        let got: Vec<u64> =
            found(&reader, filter.clone()).await.iter().map(Record::index).collect();
        assert_eq!(got, expected, "{filter:?}");
        hits += got.len();
    }
    assert!(hits > 500, "the filters find something: {hits}");
}

#[tokio::test]
async fn nothing_is_cut_between_pages() {
    let world = World::new().await;
    let mut waiting = tokio::task::JoinSet::new();
    let world = std::sync::Arc::new(world);
    for _ in 0..2_100 {
        let world = std::sync::Arc::clone(&world);
        waiting.spawn(async move { world.auth("rejected").await });
    }
    while let Some(done) = waiting.join_next().await {
        done.unwrap();
    }
    let reader = world.reader().await;
    let filter = Filter { result: Some("rejected".into()), ..Filter::default() };
    assert_eq!(found(&reader, filter).await.len(), 2_100);
}

#[tokio::test]
async fn unknown_agents_are_an_error_and_not_an_empty_list() {
    let world = World::new().await;
    let reader = world.reader().await;
    let filter = Filter { agent: Some("backup-bto".into()), ..Filter::default() };
    let error = Rows::open(&reader, filter).await.unwrap_err();
    assert!(matches!(error, EvidenceError::UnknownAgent(name) if name == "backup-bto"));
}

#[tokio::test]
async fn finds_the_decision_nearest_to_a_time() {
    let world = World::new().await;
    for _ in 0..5 {
        let facts = world.facts(0, "ada@example.com", "crm/query", json!({"text": "x"}));
        world.call(&facts, None).await;
    }
    let reader = world.reader().await;
    let filter = Filter { kind: Some("decision".into()), ..Filter::default() };
    let decisions = found(&reader, filter).await;
    for record in &decisions {
        for offset in [-1, 0, 1] {
            let near = nearest(&reader, "crm/query", record.time_ms() + offset).await.unwrap();
            assert_eq!(near.unwrap().id(), record.id(), "{offset}");
        }
    }
    let first = nearest(&reader, "crm/query", 0).await.unwrap().unwrap();
    assert_eq!(first.id(), decisions.last().unwrap().id());
    let last = nearest(&reader, "crm/query", START_MS * 2).await.unwrap().unwrap();
    assert_eq!(last.id(), decisions.first().unwrap().id());
    assert_eq!(nearest(&reader, "crm/refund", START_MS).await.unwrap(), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_query_ends_while_records_are_written() {
    let world = std::sync::Arc::new(World::new().await);
    let writing = {
        let world = std::sync::Arc::clone(&world);
        tokio::spawn(async move {
            loop {
                world.auth("rejected").await;
            }
        })
    };
    let reader = world.reader().await;
    for _ in 0..50 {
        let limit = std::time::Duration::from_secs(30);
        let filter = Filter { kind: Some("change".into()), ..Filter::default() };
        let changes = tokio::time::timeout(limit, found(&reader, filter)).await;
        assert_eq!(changes.expect("the query ends").len(), 3);
    }
    writing.abort();
}
