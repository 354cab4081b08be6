//! Tests that a bundle brings for its own policies.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use countersign_model::{
    AgentFacts, AgentId, CallFacts, Decision, Environment, Facts, Principal, PrincipalType,
    Provenance, RecordId, ServerName, TenantId, TimestampMs, ToolName, Verdict,
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use toml::value::{Datetime, Offset};

use crate::bundle::{Bundle, BundleFiles};
use crate::catalog::parse_toml;
use crate::civil;
use crate::decide::decide;
use crate::diagnostic::Diagnostic;

/// The ids of what tests make up.
const NIL: &str = "00000000-0000-0000-0000-000000000000";

/// `tests/*.toml`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TestFile {
    #[serde(default)]
    fixture: Fixture,
    #[serde(default)]
    test: Vec<Case>,
}

/// What the tests of a file need besides the bundle.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Fixture {
    /// More policies, in Cedar.
    policies: String,
    /// More servers, as manifests; their tools take any arguments.
    servers: BTreeMap<String, toml::Table>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Case {
    name: String,
    agent: TestAgent,
    tool: Option<ToolName>,
    method: Option<String>,
    server: Option<ServerName>,
    target: Option<String>,
    arguments: Option<Value>,
    arguments_json: Option<String>,
    at: Option<Datetime>,
    expect: Verdict,
    would_be: Option<Verdict>,
    code: Option<String>,
    rule: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TestAgent {
    name: String,
    environment: Environment,
    #[serde(default)]
    roles: Vec<String>,
    #[serde(default)]
    owner: String,
}

/// What came of a bundle's tests.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct TestReport {
    /// What is wrong with the bundle or the test files.
    pub diagnostics: Vec<Diagnostic>,
    /// The tests in the order of their files.
    pub tests: Vec<TestResult>,
    /// Policies that determined no tested decision.
    pub untested: Vec<String>,
}

/// One test.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct TestResult {
    /// The file in the bundle.
    pub file: String,
    /// The test's name.
    pub name: String,
    /// What differs from what was expected; empty if the test passed.
    pub failures: Vec<String>,
}

impl TestReport {
    /// Says whether the bundle loads and all tests pass.
    #[must_use]
    pub fn passed(&self) -> bool {
        let errors = self.diagnostics.iter().any(|d| d.severity == crate::Severity::Error);
        !errors && self.tests.iter().all(|test| test.failures.is_empty())
    }
}

impl fmt::Display for TestReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for diagnostic in &self.diagnostics {
            writeln!(f, "{diagnostic}")?;
        }
        for TestResult { file, name, failures } in &self.tests {
            let mark = if failures.is_empty() { "ok" } else { "FAILED" };
            writeln!(f, "{mark:6} {file}: {name}")?;
            for failure in failures {
                writeln!(f, "       {failure}")?;
            }
        }
        for policy in &self.untested {
            writeln!(f, "no test is decided by policy `{policy}`")?;
        }
        let failed = self.tests.iter().filter(|test| !test.failures.is_empty()).count();
        write!(f, "{} passed, {failed} failed", self.tests.len() - failed)
    }
}

/// Loads a bundle and runs its tests.
#[must_use]
pub fn run_tests(files: &BundleFiles) -> TestReport {
    let bundle = match Bundle::load(files) {
        Ok(bundle) => bundle,
        Err(diagnostics) => return TestReport { diagnostics, ..TestReport::default() },
    };
    let mut report =
        TestReport { diagnostics: bundle.warnings().to_vec(), ..TestReport::default() };
    let mut untested: BTreeSet<String> = bundle.policies().map(|info| info.id.clone()).collect();
    for (path, stem, bytes) in files.in_folder("tests/", ".toml") {
        if let Err(faults) = run_file(&bundle, (path, stem, bytes), &mut report, &mut untested) {
            report.diagnostics.extend(faults);
        }
    }
    report.untested = untested.into_iter().collect();
    report
}

fn run_file(
    bundle: &Bundle,
    (path, stem, bytes): (&str, &str, &[u8]),
    report: &mut TestReport,
    untested: &mut BTreeSet<String>,
) -> Result<(), Vec<Diagnostic>> {
    let file: TestFile = parse_toml(path, bytes).map_err(|fault| vec![fault])?;
    let extended = file.fixture.extend(bundle.files(), stem).map_err(|text| {
        vec![Diagnostic::error(path, format!("the fixture cannot be used: {text}"))]
    })?;
    let extended = extended.map(|files| Bundle::load(&files)).transpose()?;
    for case in file.test {
        let failures = match case.facts() {
            Ok(facts) => {
                let decision = decide(extended.as_ref().unwrap_or(bundle), &facts);
                for rule in &decision.rules {
                    untested.remove(&rule.id);
                }
                case.failures(&decision)
            }
            Err(fault) => vec![fault],
        };
        report.tests.push(TestResult { file: path.to_owned(), name: case.name, failures });
    }
    Ok(())
}

impl Fixture {
    /// Returns the bundle's files with those of the fixture, or `None` if there is no fixture.
    fn extend(&self, files: &BundleFiles, stem: &str) -> Result<Option<BundleFiles>, String> {
        if self.policies.is_empty() && self.servers.is_empty() {
            return Ok(None);
        }
        let mut files = files.clone();
        let mut add = |path: String, text: String| match files.0.insert(path.clone(), text.into()) {
            None => Ok(()),
            Some(_) => Err(format!("the bundle already has `{path}`")),
        };
        add(format!("policies/fixture-of-{stem}.cedar"), self.policies.clone())?;
        for (server, manifest) in &self.servers {
            let names = manifest.get("tools").and_then(toml::Value::as_table);
            let tools: Vec<_> = names
                .into_iter()
                .flat_map(toml::Table::keys)
                .map(|name| json!({ "name": name, "inputSchema": { "type": "object" } }))
                .collect();
            let inventory = json!({ "server": server, "tools": tools });
            add(format!("manifests/{server}.toml"), manifest.to_string())?;
            add(format!("tools/{server}.json"), inventory.to_string())?;
        }
        Ok(Some(files))
    }
}

impl Case {
    fn facts(&self) -> Result<Facts, String> {
        Ok(Facts {
            v: Facts::VERSION,
            evaluation_id: NIL.parse::<RecordId>().map_err(|error| error.to_string())?,
            at: TimestampMs(self.at.as_ref().map_or(Ok(0), timestamp_ms)?),
            tenant: TenantId("test".to_owned()),
            origin: "mcp".to_owned(),
            agent: AgentFacts {
                id: NIL.parse::<AgentId>().map_err(|error| error.to_string())?,
                name: self.agent.name.parse().map_err(|error| format!("{error}"))?,
                owner: self.agent.owner.clone(),
                environment: self.agent.environment.clone(),
                roles: self.agent.roles.clone(),
            },
            principal: Principal {
                kind: PrincipalType::Human,
                id: self.agent.owner.clone(),
                provenance: Provenance::Registry,
            },
            session: None,
            call: self.call()?,
        })
    }

    fn call(&self) -> Result<CallFacts, String> {
        let (method, server) = match (&self.tool, &self.method, &self.server) {
            (Some(tool), None, None) => ("tools/call".to_owned(), tool.server().clone()),
            (None, Some(method), Some(server)) => (method.clone(), server.clone()),
            _ => return Err("a test has either `tool`, or `method` and `server`".to_owned()),
        };
        let arguments = match (&self.arguments, &self.arguments_json) {
            (None, None) => json!({}),
            (Some(arguments), None) => arguments.clone(),
            (None, Some(text)) => serde_json::from_str(text).map_err(|error| error.to_string())?,
            _ => return Err("a test has `arguments` or `arguments_json`".to_owned()),
        };
        let (tool, target) = (self.tool.clone(), self.target.clone());
        Ok(CallFacts { method, server, tool, target, arguments, keyed: true, pin_mismatch: false })
    }

    fn failures(&self, decision: &Decision) -> Vec<String> {
        let mut failures = Vec::new();
        let reasons: Vec<_> = decision
            .reasons
            .iter()
            .map(|reason| format!("{}: {}", reason.code, reason.detail))
            .collect();
        if decision.verdict != self.expect {
            let (got, why) = (decision.verdict, reasons.join("; "));
            failures.push(format!("expected {}, got {got} {why}", self.expect).trim_end().into());
        }
        if self.would_be.is_some() && self.would_be != decision.would_be {
            let got = decision.would_be.map_or("nothing else".to_owned(), |it| it.to_string());
            failures.push(format!("it would be {got}"));
        }
        if let Some(code) = &self.code
            && !decision.reasons.iter().any(|reason| reason.code.as_str() == code)
        {
            failures.push(format!("expected code {code}, got {}", reasons.join("; ")));
        }
        if let Some(id) = &self.rule
            && !decision.rules.iter().any(|rule| rule.id == *id)
        {
            let got: Vec<_> = decision.rules.iter().map(|rule| rule.id.as_str()).collect();
            failures.push(format!("expected policy `{id}`, got {}", got.join(", ")));
        }
        failures
    }
}

/// Returns the instant of a TOML date and time; UTC where it names no offset.
fn timestamp_ms(at: &Datetime) -> Result<i64, String> {
    let date = at.date.ok_or("`at` needs a date")?;
    let days = (i64::from(date.year), i64::from(date.month), i64::from(date.day));
    let time_ms = at.time.map_or(0, |time| {
        let seconds = i64::from(time.hour) * 3600
            + i64::from(time.minute) * 60
            + i64::from(time.second.unwrap_or(0));
        seconds * 1000 + i64::from(time.nanosecond.unwrap_or(0)) / 1_000_000
    });
    let offset_minutes = match at.offset {
        None | Some(Offset::Z) => 0,
        Some(Offset::Custom { minutes }) => i64::from(minutes),
    };
    Ok(civil::timestamp_ms(days, time_ms) - offset_minutes * 60_000)
}
