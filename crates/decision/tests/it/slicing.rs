//! Slices leave out only what the scope excludes.

use std::collections::BTreeMap;

use cedar_policy::{Authorizer, Context, Entities, Policy, PolicySet, Request, Schema};
use countersign_decision::{Bundle, decide};
use countersign_model::{Facts, Verdict};
use proptest::prelude::*;
use proptest::strategy::ValueTree as _;
use serde_json::json;

use crate::support::{call, load};

const PRINCIPALS: [&str; 7] = [
    "principal",
    "principal == Agent::\"bot\"",
    "principal == Agent::\"other\"",
    "principal in Agent::\"bot\"",
    "principal in Role::\"support\"",
    "principal is Agent in Role::\"sales\"",
    "principal is Agent",
];
const ACTIONS: [&str; 8] = [
    "action",
    "action == Action::\"crm/refund\"",
    "action == Action::\"crm/locate\"",
    "action in Action::\"tools\"",
    "action in Action::\"tag:money\"",
    "action in [Action::\"server:crm\", Action::\"crm/refund\", Action::\"crm/refund\"]",
    "action in [Action::\"mcp\", Action::\"crm/locate\"]",
    "action in Action::\"mcp\"",
];
const RESOURCES: [&str; 3] = ["resource", "resource == Server::\"crm\"", "resource is Server"];
const CONDITIONS: [&str; 10] = [
    "",
    "when { principal.environment == resource.environment }",
    "when { principal.environment != resource.environment }",
    "when { context.at > datetime(\"2025-01-01\") }",
    "unless { context.principal.type == \"human\" }",
    "when { context has session && context.method == \"tools/call\" }",
    "when { (if true then context else context) has session }",
    "when { context has arguments.amount && context.arguments.amount > 4 }",
    "when { context has arguments.lat && context.arguments.lat.lessThan(decimal(\"2.0\")) }",
    // Errs whenever it is evaluated.
    "when { 9223372036854775807 + context.at.toTime().toMilliseconds() > 0 }",
];
const MODES: [&str; 5] = [
    "",
    "@mode(\"observe\")",
    "@mode(\"warn\")",
    "@approval(\"boss\")",
    "@approval(\"boss\") @mode(\"warn\")",
];

#[derive(Clone, Debug)]
struct Drawn {
    forbid: bool,
    mode: &'static str,
    text: String,
}

fn policy() -> impl Strategy<Value = Drawn> {
    let one = |of: &'static [&'static str]| proptest::sample::select(of);
    // Errors are rare, or most draws would be the same.
    let condition = prop_oneof![20 => one(&CONDITIONS[..9]), 1 => Just(CONDITIONS[9])];
    (any::<bool>(), one(&MODES), one(&PRINCIPALS), one(&ACTIONS), one(&RESOURCES), condition)
        .prop_map(|(forbid, mode, principal, action, resource, condition)| {
            let mode = if forbid || !mode.contains("approval") { mode } else { "" };
            let effect = if forbid { "forbid" } else { "permit" };
            let text = format!("{mode} {effect} ({principal}, {action}, {resource}) {condition};");
            Drawn { forbid, mode, text }
        })
}

fn facts() -> impl Strategy<Value = Facts> {
    let roles = proptest::sample::subsequence(vec!["support", "sales"], 0..=2);
    let names = proptest::sample::select(&["bot", "other", "third"]);
    let session = proptest::option::of(Just("s".to_owned()));
    (any::<bool>(), names, roles, any::<bool>(), session).prop_map(
        |(refund, name, roles, prod, session)| {
            let arguments =
                if refund { json!({"amount": 5}) } else { json!({"lat": 1, "lon": 2.5}) };
            let mut facts = call(if refund { "crm/refund" } else { "crm/locate" }, arguments);
            facts.agent.name = name.parse().unwrap();
            facts.agent.roles = roles.into_iter().map(str::to_owned).collect();
            facts.agent.environment = if prod { "prod" } else { "test" }.parse().unwrap();
            facts.session = session;
            facts
        },
    )
}

fn bundle(policies: &[Drawn]) -> Bundle {
    let text: Vec<_> =
        policies.iter().enumerate().map(|(i, p)| format!("@id(\"p{i}\") {}", p.text)).collect();
    load(&text.join("\n"))
}

/// Cedar's request as JSON, made without the code under test.
fn request(bundle: &Bundle, facts: &Facts) -> (Request, Entities) {
    let (schema, _) = Schema::from_cedarschema_str(bundle.schema()).unwrap();
    let tool = facts.call.tool.as_ref().unwrap();
    let mut arguments = facts.call.arguments.clone();
    for name in ["lat", "lon"] {
        if let Some(number) = arguments.get(name).and_then(serde_json::Value::as_f64) {
            arguments[name] = json!({"__extn": {"fn": "decimal", "arg": format!("{number:.1}")}});
        }
    }
    let mut context = json!({
        "arguments": arguments,
        "unrepresentable": [],
        "at": {"__extn": {"fn": "datetime", "arg": "2025-10-09T08:53:20Z"}},
        "method": "tools/call",
        "origin": "mcp",
        "principal": {"type": "human", "id": "sam@example.com"},
    });
    if let Some(session) = &facts.session {
        context["session"] = json!(session);
    }
    let action: cedar_policy::EntityUid = format!("Action::\"{tool}\"").parse().unwrap();
    let context = Context::from_json_value(context, Some((&schema, &action))).unwrap();
    let agent = facts.agent.name.as_str();
    let parents: Vec<_> =
        facts.agent.roles.iter().map(|role| json!({"type": "Role", "id": role})).collect();
    let entities = json!([
        {
            "uid": {"type": "Agent", "id": agent},
            "attrs": {
                "id": facts.agent.id.to_string(),
                "owner": facts.agent.owner,
                "environment": facts.agent.environment.as_str(),
            },
            "parents": parents,
        },
        {"uid": {"type": "Server", "id": "crm"}, "attrs": {"environment": "prod"}, "parents": []},
    ]);
    let entities = Entities::from_json_value(entities, Some(&schema)).unwrap();
    let principal = format!("Agent::\"{agent}\"").parse().unwrap();
    let resource = "Server::\"crm\"".parse().unwrap();
    (Request::new(principal, action, resource, context, Some(&schema)).unwrap(), entities)
}

/// Asks each policy alone, all of them, and weighs the answers as the documentation says.
fn unsliced(bundle: &Bundle, policies: &[Drawn], facts: &Facts) -> (Verdict, Option<Verdict>) {
    let (request, entities) = request(bundle, facts);
    let mut satisfied = Vec::new();
    for drawn in policies {
        let set = PolicySet::from_policies([Policy::parse(None, &drawn.text).unwrap()]).unwrap();
        let answer = Authorizer::new().is_authorized(&request, &set, &entities);
        if answer.diagnostics().errors().count() > 0 {
            return (Verdict::Deny, None);
        }
        if answer.diagnostics().reason().count() > 0 {
            satisfied.push(drawn);
        }
    }
    let weigh = |strict: bool| {
        let counted = || satisfied.iter().filter(|p| strict || !p.mode.contains("@mode"));
        let forbidden = counted().any(|p| p.forbid && !p.mode.contains("approval"));
        let permitted = counted().any(|p| !p.forbid);
        match (forbidden, permitted, counted().any(|p| p.mode.contains("approval") && p.forbid)) {
            (true, _, _) | (_, false, _) => Verdict::Deny,
            (_, _, true) => Verdict::Hold,
            _ => Verdict::Allow,
        }
    };
    (weigh(false), Some(weigh(true)).filter(|verdict| *verdict != weigh(false)))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn sliced_decisions_equal_unsliced_ones(
        policies in proptest::collection::vec(policy(), 0..8),
        facts in facts(),
    ) {
        let bundle = bundle(&policies);
        let decision = decide(&bundle, &facts);
        let expected = unsliced(&bundle, &policies, &facts);
        prop_assert_eq!((decision.verdict, decision.would_be), expected);
        // A shown tool may be refused; a hidden one is never allowed.
        let action = facts.call.tool.as_ref().unwrap().to_string();
        let shown = bundle.could_allow(&facts.agent, &facts.call.server, &action);
        prop_assert!(shown || decision.verdict == Verdict::Deny);
    }

    #[test]
    fn r_033_same_facts_same_decision(
        policies in proptest::collection::vec(policy(), 0..8),
        facts in facts(),
    ) {
        let decision = decide(&bundle(&policies), &facts);
        prop_assert_eq!(&decide(&bundle(&policies), &facts), &decision);
        let stored: Facts = serde_json::from_value(serde_json::to_value(&facts).unwrap()).unwrap();
        prop_assert_eq!(&decide(&bundle(&policies), &stored), &decision);
    }
}

#[test]
fn draws_reach_every_verdict() {
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    let strategy = (proptest::collection::vec(policy(), 0..8), facts());
    let mut seen = BTreeMap::new();
    for _ in 0..192 {
        let (policies, facts) = strategy.new_tree(&mut runner).unwrap().current();
        *seen.entry(decide(&bundle(&policies), &facts).verdict.to_string()).or_insert(0) += 1;
    }
    assert_eq!(seen.len(), 3, "{seen:?}");
}
