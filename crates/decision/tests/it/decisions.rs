//! One call, one decision.

use countersign_decision::{Recorded, Replay, arguments_digest, decide, explain, replay};
use countersign_model::{AgentFacts, AgentId, Decision, Facts, Mode, TimestampMs, Verdict};
use serde_json::json;

use crate::support::{agent, call, load};

const PERMIT: &str =
    r#"@id("p") permit (principal in Role::"support", action in Action::"server:crm", resource);"#;

/// Verdict, what it would be, rules, and `stage CODE detail [rule]` of every reason.
fn show(decision: &Decision) -> String {
    let mut text = decision.verdict.to_string();
    if let Some(would_be) = decision.would_be {
        text += &format!(", would be {would_be}");
    }
    let rules: Vec<_> = decision.rules.iter().map(|r| format!("{}({})", r.id, r.mode)).collect();
    text += &format!(" by {}", rules.join(" "));
    for reason in &decision.reasons {
        let rule = reason.rule.as_deref().unwrap_or("-");
        text += &format!("; {} {} {} [{rule}]", reason.stage, reason.code, reason.detail);
    }
    text
}

fn check(policies: &str, facts: &Facts, expected: &str) {
    assert_eq!(show(&decide(&load(policies), facts)), expected, "{policies}");
}

#[test]
fn r_031_stages_are_told_apart() {
    let policies = format!(
        r#"{PERMIT} @id("b") @code("BOUNDS") @reason("amount>5000")
        forbid (principal, action == Action::"crm/refund", resource) when {{ context.arguments.amount > 5000 }};"#
    );
    let stranger = Facts { agent: agent(&["sales"]), ..call("crm/refund", json!({"amount": 50})) };
    for (facts, expected) in [
        (call("crm/refund", json!({"amount": 50})), "allow by p(enforce)"),
        (
            call("crm/refund", json!({"amount": 5001})),
            "deny by b(enforce); bounds BOUNDS amount>5000 [b]",
        ),
        (call("crm/refund", json!({})), "deny by ; schema SCHEMA /amount required [-]"),
        (call("crm/refund", json!(null)), "deny by ; schema SCHEMA /amount required [-]"),
        (stranger, "deny by ; permission NOT_ALLOWLISTED no policy permits `crm/refund` [-]"),
    ] {
        check(&policies, &facts, expected);
    }
}

#[test]
fn strangers_learn_neither_schema_nor_rules() {
    let policies = format!(
        r#"{PERMIT} @id("f") forbid (principal, action == Action::"crm/refund", resource);"#
    );
    for arguments in [json!({}), json!({"amount": 1})] {
        let facts = Facts { agent: agent(&[]), ..call("crm/refund", arguments) };
        let expected = "deny by ; permission NOT_ALLOWLISTED no policy permits `crm/refund` [-]";
        check(&policies, &facts, expected);
    }
}

#[test]
fn unknown_things_are_refused_before_any_policy() {
    let all = r#"@id("all") permit (principal, action, resource);"#;
    let with = |change: fn(&mut Facts)| {
        let mut facts = call("crm/refund", json!({"amount": 1}));
        change(&mut facts);
        facts
    };
    for (facts, expected) in [
        (with(|f| f.call.pin_mismatch = true), "TOOL_PIN_MISMATCH"),
        (with(|f| f.call.tool = Some("crm/nothing".parse().unwrap())), "NOT_ALLOWLISTED"),
        (with(|f| f.call.tool = None), "METHOD_NOT_ALLOWED"),
        (with(|f| f.call.server = "erp".parse().unwrap()), "NOT_ALLOWLISTED"),
        (call("erp/refund", json!({})), "NOT_ALLOWLISTED"),
        (with(|f| f.call.method = "tools/frobnicate".to_owned()), "METHOD_NOT_ALLOWED"),
    ] {
        let decision = decide(&load(all), &facts);
        assert_eq!(decision.verdict, Verdict::Deny, "{facts:?}");
        let codes: Vec<_> = decision.reasons.iter().map(|r| r.code.as_str()).collect();
        assert_eq!(codes, [expected], "{facts:?}");
    }
}

#[test]
fn r_044_modes() {
    let permit =
        |mode: &str| format!(r#"@id("p") @mode("{mode}") permit (principal, action, resource);"#);
    let forbid = |mode: &str| {
        format!(r#"@id("f") @mode("{mode}") @reason("no") forbid (principal, action, resource);"#)
    };
    let held = |mode: &str| {
        format!(
            r#"@id("h") @mode("{mode}") @approval("boss") forbid (principal, action, resource);"#
        )
    };
    let none = "permission NOT_ALLOWLISTED no policy permits `crm/refund` [-]";
    let no = "permission FORBIDDEN no [f]";
    let boss = "approval FORBIDDEN needs approval by rule `boss` [h]";
    for (policies, expected) in [
        (permit("enforce"), "allow by p(enforce)".to_owned()),
        (permit("warn"), format!("deny, would be allow by p(warn); {none}")),
        (permit("observe"), format!("deny, would be allow by p(observe); {none}")),
        (permit("enforce") + &forbid("enforce"), format!("deny by f(enforce); {no}")),
        (
            permit("enforce") + &forbid("warn"),
            format!("allow, would be deny by f(warn) p(enforce); {no}"),
        ),
        (
            permit("enforce") + &forbid("observe"),
            format!("allow, would be deny by f(observe) p(enforce); {no}"),
        ),
        (permit("enforce") + &held("enforce"), format!("hold by h(enforce); {boss}")),
        (
            permit("enforce") + &held("observe"),
            format!("allow, would be hold by h(observe) p(enforce); {boss}"),
        ),
        (
            permit("enforce") + &held("enforce") + &forbid("observe"),
            format!("hold, would be deny by f(observe) h(enforce); {boss}; {no}"),
        ),
        (
            permit("enforce") + &held("enforce") + &forbid("enforce"),
            format!("deny by f(enforce); {no}"),
        ),
        (permit("observe") + &forbid("observe"), format!("deny by ; {none}")),
        (held("enforce"), format!("deny by ; {none}")),
        (String::new(), format!("deny by ; {none}")),
    ] {
        check(&policies, &call("crm/refund", json!({"amount": 1})), &expected);
    }
    let observed = load(&(permit("enforce") + &forbid("observe")));
    let decision = decide(&observed, &call("crm/refund", json!({"amount": 1})));
    assert_eq!(decision.mode(), Mode::Observe);
}

#[test]
fn a_conditional_permit_that_fails_leaves_the_bound_first() {
    let policies = r#"
        @id("p") permit (principal, action == Action::"crm/refund", resource)
        when { context.arguments.amount < 10 };
        @id("b") @code("BOUNDS") @reason("amount>5") forbid (principal, action == Action::"crm/refund", resource)
        when { context.arguments.amount > 5 };"#;
    let none = "permission NOT_ALLOWLISTED no policy permits `crm/refund` [-]";
    let bounds = "deny by b(enforce); bounds BOUNDS amount>5 [b]";
    check(policies, &call("crm/refund", json!({"amount": 7})), bounds);
    check(policies, &call("crm/refund", json!({"amount": 12})), &format!("{bounds}; {none}"));
}

#[test]
fn every_evaluation_error_refuses() {
    // Cedar leaves out a policy that errs; a forbid must not vanish so.
    let overflow = r#"action == Action::"crm/refund", resource)
        when { context.arguments.amount + 9223372036854775807 > 0 };"#;
    for policy in [
        format!(r#"@id("bad") forbid (principal, {overflow}"#),
        format!(r#"@id("bad") permit (principal, {overflow}"#),
        format!(r#"@id("bad") @mode("observe") forbid (principal, {overflow}"#),
        format!(r#"@id("bad") @approval("boss") forbid (principal, {overflow}"#),
    ] {
        let facts = call("crm/refund", json!({"amount": 4711}));
        let policies = format!("{PERMIT} {policy}");
        let decision = decide(&load(&policies), &facts);
        assert_eq!(decision.verdict, Verdict::Deny, "{policy}");
        let reason = &decision.reasons[0];
        assert_eq!((reason.code.as_str(), reason.rule.as_deref()), ("POLICY_ERROR", Some("bad")));
        assert!(!reason.detail.contains("4711"), "{}", reason.detail);
    }
}

#[test]
fn an_argument_without_cedar_value_refuses_only_where_it_is_read() {
    let limit = r#"@id("l") forbid (principal, action == Action::"crm/refund", resource)
        when { context.arguments has limit && context.arguments.limit > 100 };"#;
    let position = r#"@id("l") forbid (principal, action == Action::"crm/locate", resource)
        when { context.arguments.lat.greaterThan(decimal("80.0")) };"#;
    let named = r#"@id("l") forbid (principal, action == Action::"crm/locate", resource)
        when { context.unrepresentable.contains("/lat") };"#;
    let unknown = r#"@id("l") forbid (principal, action == Action::"crm/locate", resource)
        unless { context.unrepresentable.isEmpty() };"#;
    let error = "deny by l(enforce); permission POLICY_ERROR policy `l` could not be evaluated [l]";
    for (policy, facts, expected) in [
        (limit, call("crm/refund", json!({"amount": 1, "limit": 1e30})), error),
        (limit, call("crm/refund", json!({"amount": 1})), "allow by p(enforce)"),
        (limit, call("crm/refund", json!({"amount": 1, "anything": 1e30})), "allow by p(enforce)"),
        (position, call("crm/locate", json!({"lat": 52.123_456_7, "lon": 1})), error),
        (
            position,
            call("crm/locate", json!({"lat": 52.5, "lon": 13.123_456_7})),
            "allow by p(enforce)",
        ),
        (unknown, call("crm/locate", json!({"lat": 52, "lon": 1.5})), "allow by p(enforce)"),
        (
            unknown,
            call("crm/locate", json!({"lat": 52.123_456_7, "lon": 1})),
            "deny by l(enforce); permission FORBIDDEN forbidden by policy `l` [l]",
        ),
        (
            named,
            call("crm/locate", json!({"lat": 52.123_456_7, "lon": 1})),
            "deny by l(enforce); permission FORBIDDEN forbidden by policy `l` [l]",
        ),
    ] {
        check(&format!("{PERMIT} {policy}"), &facts, expected);
    }
}

#[test]
fn policies_read_arguments_agents_and_context() {
    for (condition, expected) in [
        (r#"context.arguments.order.id == "o1""#, true),
        (r#"context.arguments.labels.contains("vip")"#, true),
        (r#"context.arguments.labels.contains("new")"#, false),
        (r#"context.at > datetime("2025-10-01")"#, true),
        (r#"context.at > datetime("2025-10-10")"#, false),
        (r#"context.principal.type == "human""#, true),
        (r#"context.principal.id == "sam@example.com""#, true),
        (r#"context.origin == "mcp" && context.method == "tools/call""#, true),
        (r#"context has session"#, false),
        (r#"principal.owner == "dana@example.com""#, true),
        (r#"principal.id == "00000000-0000-7000-8000-000000000001""#, true),
        (r#"resource.environment == "prod" && principal.environment == "prod""#, true),
        (r#"action in Action::"tag:money""#, true),
        (r#"action in Action::"tag:privilege""#, false),
        (r#"principal in Role::"support" && principal == Agent::"bot""#, true),
    ] {
        let policy = format!(
            r#"@id("p") permit (principal, action == Action::"crm/refund", resource == Server::"crm")
            when {{ context.arguments has order && context.arguments has labels && {condition} }};"#
        );
        let arguments = json!({"amount": 1, "order": {"id": "o1"}, "labels": ["vip", "eu"]});
        let decision = decide(&load(&policy), &call("crm/refund", arguments));
        assert_eq!(decision.verdict == Verdict::Allow, expected, "{condition}");
    }
}

#[test]
fn earlier_calls_of_a_like_agent_change_nothing() {
    let policies = r#"@id("p") permit (principal in Role::"support", action, resource) when {
        principal.id == "00000000-0000-7000-8000-000000000001" &&
        principal.owner == "dana@example.com" && principal.environment == "prod" };"#;
    let like = |change: fn(&mut AgentFacts)| {
        let mut facts = call("crm/refund", json!({"amount": 1}));
        change(&mut facts.agent);
        facts
    };
    let same = like(|_| {});
    let bundle = load(policies);
    for other in [
        like(|agent| agent.id = AgentId("00000000-0000-7000-8000-000000000009".parse().unwrap())),
        like(|agent| agent.owner = "kim@example.com".to_owned()),
        like(|agent| agent.environment = "test".parse().unwrap()),
        like(|agent| agent.roles = vec!["sales".to_owned()]),
    ] {
        for facts in [&same, &other, &same] {
            let decision = decide(&bundle, facts);
            assert_eq!(decision.verdict == Verdict::Allow, *facts == same, "{facts:?}");
            assert_eq!(decision, decide(&load(policies), facts));
        }
    }
}

#[test]
fn an_impossible_time_refuses_even_where_no_policy_reads_it() {
    let mut facts = call("crm/refund", json!({"amount": 1}));
    facts.at = TimestampMs(i64::MAX);
    let expected = "deny by ; permission POLICY_ERROR the time is outside the years 0 to 9999 [-]";
    check(PERMIT, &facts, expected);
}

#[test]
fn methods_have_actions_of_their_own() {
    for (method, arguments, action) in [
        ("resources/read", json!({}), "mcp.resource.read"),
        ("prompts/get", json!({}), "mcp.prompt.get"),
        ("completion/complete", json!({}), "mcp.complete"),
        ("resources/subscribe", json!({}), "mcp.subscribe"),
        ("resources/unsubscribe", json!({}), "mcp.subscribe"),
        ("subscriptions/listen", json!({}), "mcp.subscribe"),
        ("sampling/createMessage", json!({}), "mcp.sampling"),
        ("elicitation/create", json!({}), "mcp.elicitation"),
        ("elicitation/create", json!({"mode": "form"}), "mcp.elicitation"),
        ("elicitation/create", json!({"mode": "url"}), "mcp.elicitation.url"),
        ("roots/list", json!({}), "mcp.roots"),
    ] {
        let mut facts = call("crm/refund", arguments);
        facts.call.tool = None;
        facts.call.method = method.to_owned();
        facts.call.target = Some("crm://a".to_owned());
        let policy = |action: &str| {
            format!(
                r#"@id("p") permit (principal, action == Action::"{action}", resource)
                when {{ context has target && context.target like "crm://*" }};"#
            )
        };
        assert_eq!(decide(&load(&policy(action)), &facts).verdict, Verdict::Allow, "{method}");
        let other = if action == "mcp.roots" { "mcp.sampling" } else { "mcp.roots" };
        assert_eq!(decide(&load(&policy(other)), &facts).verdict, Verdict::Deny, "{method}");
    }
}

#[test]
fn lists_show_what_could_be_permitted() {
    let permit = r#"@id("p") permit (principal in Role::"support", action == Action::"crm/refund", resource)"#;
    let forbid = r#"@id("f") forbid (principal, action == Action::"crm/refund", resource)"#;
    for (policies, expected) in [
        (String::new(), false),
        (format!("{permit};"), true),
        (format!(r#"@mode("observe") {permit};"#), false),
        (format!("{permit} when {{ context.arguments.amount < 5 }};"), true),
        (format!(r#"{permit} when {{ principal.environment == "test" }};"#), false),
        (format!("{permit}; {forbid};"), false),
        (
            format!(
                "{permit}; {forbid} unless {{ principal.environment == resource.environment }};"
            ),
            true,
        ),
        (format!(r#"{permit}; {forbid} when {{ principal.environment == "prod" }};"#), false),
        (format!("{permit}; {forbid} when {{ context.arguments.amount > 5 }};"), true),
        (format!(r#"{permit}; @approval("boss") {forbid};"#), true),
        (format!(r#"{permit}; @mode("warn") {forbid};"#), true),
    ] {
        let bundle = load(&policies);
        let crm = "crm".parse().unwrap();
        let could = |roles: &[&str], action| bundle.could_allow(&agent(roles), &crm, action);
        assert_eq!(could(&["support"], "crm/refund"), expected, "{policies}");
        assert!(!could(&["sales"], "crm/refund"), "{policies}");
        assert!(!could(&["support"], "crm/locate"), "{policies}");
        assert!(!could(&["support"], "crm/nothing"), "{policies}");
        let erp = "erp".parse().unwrap();
        assert!(!bundle.could_allow(&agent(&["support"]), &erp, "crm/refund"));
    }
}

#[test]
fn r_033_replay_matches_only_the_same_bundle_and_result() {
    let policies = format!(
        "{PERMIT} @id(\"h\") @approval(\"a\") forbid (principal, action == Action::\"crm/refund\", resource);"
    );
    let bundle = load(&policies);
    let facts = call("crm/refund", json!({"amount": 1}));
    // What is stored is text.
    let stored = serde_json::to_string(&facts).unwrap();
    let facts_again: Facts = serde_json::from_str(&stored).unwrap();
    let recorded = Recorded::from(&decide(&bundle, &facts));
    assert_eq!(replay(&bundle, &facts_again, &recorded), Replay::Match);
    let altered = load(&format!("{policies} "));
    assert_eq!(replay(&altered, &facts, &recorded), Replay::BundleHashMismatch);
    let forged = Recorded { decision: Verdict::Allow, codes: vec![], ..recorded };
    let differences = ["decision: recorded allow, now hold", "codes: recorded , now FORBIDDEN"];
    let expected = Replay::Differs(differences.map(str::to_owned).to_vec());
    assert_eq!(replay(&bundle, &facts, &forged), expected);
}

#[test]
fn explanations_show_every_policy_considered() {
    let policies = format!(
        r#"{PERMIT}
        @id("bound") @code("BOUNDS") @reason("amount>5") @mode("warn")
        forbid (principal, action == Action::"crm/refund", resource) when {{ context.arguments.amount > 5 }};
        @id("never") forbid (principal, action in Action::"tag:money", resource) when {{ context has session }};
        @id("other") permit (principal in Role::"sales", action, resource);"#
    );
    let bundle = load(&policies);
    let explanation = explain(&bundle, &call("crm/refund", json!({"amount": 6})));
    insta::assert_snapshot!("explanation_text", explanation);
    insta::assert_json_snapshot!("explanation_json", explanation);
}

#[test]
fn the_tool_says_how_to_call_it() {
    let bundle = load("");
    let server = bundle.server(&"crm".parse().unwrap()).unwrap();
    let names: Vec<_> = server.tools.iter().map(|tool| tool.name.to_string()).collect();
    assert_eq!(names, ["crm/refund", "crm/locate"]);
    assert_eq!(server.instructions.as_deref(), Some("Be kind."));
    let tool = bundle.tool(&"crm/refund".parse().unwrap()).unwrap();
    assert_eq!(tool.tags, ["money"]);
    assert_eq!(tool.timeout_ms, Some(5000));
    assert!(tool.definition.get().contains("_meta"));
    let mut definition = crate::support::tools()["tools"][0].clone();
    definition.as_object_mut().unwrap().remove("_meta");
    assert_eq!(tool.pin, countersign_decision::pin(&definition));
    let decision = decide(&bundle, &call("crm/refund", json!({"amount": 1})));
    assert_eq!(decision.tool_pin.as_deref(), Some(tool.pin.as_str()));
    assert_eq!(decision.bundle, bundle.hash());
    assert_ne!(arguments_digest("a", &json!({})), arguments_digest("b", &json!({})));
}
