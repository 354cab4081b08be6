//! `countersign policy`: check, test and explain the policy bundle.

#![expect(clippy::print_stdout, clippy::print_stderr, reason = "the command's output")]

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, bail};
use countersign_decision::{Bundle, BundleFiles, Diagnostic, Severity, explain, run_tests};
use countersign_gateway::rules::read_with_pins;
use countersign_model::{
    AgentFacts, AgentId, AgentName, CallFacts, Environment, Facts, Principal, PrincipalType,
    Provenance, RecordId, TenantId, TimestampMs, ToolName,
};
use countersign_store::Clock as _;
use serde_json::{Value, json};
use uuid::Uuid;

use super::agents::registered;
use crate::clock::SystemClock;
use crate::config::Config;
use crate::control::Control;
use crate::paths::Paths;

/// Check, test and explain the policies.
///
/// A bundle is a folder with policies/*.cedar, manifests/*.toml, tools/*.json and tests/*.toml. Tools
/// that the gateway pinned at first sight count as part of it.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// Check a bundle: syntax, types, references
    ///
    /// Exits with 1 if there are errors.
    Check(BundleArgs),
    /// Run the tests that a bundle brings
    ///
    /// Exits with 1 if one fails.
    Test(BundleArgs),
    /// Say what would happen to a call, and which policies decide
    Explain(ExplainArgs),
    /// Print the Cedar schema that policies are checked against
    Schema {
        /// The bundle's folder; `policies` of the project if absent
        #[arg(value_name = "DIR")]
        bundle: Option<PathBuf>,
    },
    /// Tell the running gateway to read its bundle again
    Reload {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
}

#[derive(Debug, clap::Args)]
pub(crate) struct BundleArgs {
    /// The bundle's folder; `policies` of the project if absent
    #[arg(value_name = "DIR")]
    bundle: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  countersign policy explain --agent support-bot --tool crm/refund --arguments '{\"amount\": 50}'
  countersign policy explain --agent anybody --environment prod --role support-agent --tool crm/query")]
pub(crate) struct ExplainArgs {
    /// The agent's name; read from the registry unless --environment is given
    #[arg(long)]
    agent: AgentName,
    /// The tool, as SERVER/TOOL
    #[arg(long, value_name = "SERVER/TOOL")]
    tool: ToolName,
    /// The call's arguments, as JSON
    #[arg(long, default_value = "{}", value_parser = parse_json, value_name = "JSON")]
    arguments: Value,
    /// Make an agent up that runs here
    #[arg(long)]
    environment: Option<Environment>,
    /// A role of the made-up agent; may be repeated
    #[arg(long = "role", value_name = "ROLE", requires = "environment")]
    roles: Vec<String>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(crate) async fn run(command: Command, paths: &Paths) -> anyhow::Result<ExitCode> {
    match command {
        Command::Check(args) => check(&args, paths),
        Command::Test(args) => test(&args, paths),
        Command::Explain(args) => explain_call(args, paths).await,
        Command::Schema { bundle } => schema(bundle.as_deref(), paths),
        Command::Reload { json } => reload(json, paths).await,
    }
}

fn parse_json(text: &str) -> Result<Value, serde_json::Error> {
    serde_json::from_str(text)
}

/// Reads a bundle with the project's pins and the environments of its servers.
pub(crate) fn read(dir: Option<&Path>, paths: &Paths) -> anyhow::Result<BundleFiles> {
    let dir = dir.unwrap_or(&paths.policies);
    if !dir.is_dir() {
        bail!("there is no folder `{}`; `countersign init` makes a project", dir.display());
    }
    let environments = Config::read(&paths.config)?.gateway(paths)?.environments;
    Ok(BundleFiles(read_with_pins(dir, &paths.pins(), &environments)?))
}

fn check(args: &BundleArgs, paths: &Paths) -> anyhow::Result<ExitCode> {
    let files = read(args.bundle.as_deref(), paths)?;
    let (bundle, found) = match Bundle::load(&files) {
        Ok(bundle) => {
            let warnings = bundle.warnings().to_vec();
            (Some(bundle), warnings)
        }
        Err(found) => (None, found),
    };
    let hash = bundle.as_ref().map(Bundle::hash);
    if args.json {
        println!("{}", json!({"ok": bundle.is_some(), "bundle": hash, "diagnostics": found}));
    } else {
        print_diagnostics(&found, &files);
        match &bundle {
            Some(bundle) => println!("{}", summary(bundle)),
            None => eprintln!("the bundle cannot be used"),
        }
    }
    Ok(if bundle.is_some() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn summary(bundle: &Bundle) -> String {
    let tools: usize = bundle.servers().iter().map(|server| server.tools.len()).sum();
    format!(
        "bundle {}: {} policies, {} servers, {tools} tools",
        bundle.hash(),
        bundle.policies().count(),
        bundle.servers().len(),
    )
}

/// Prints each finding with the line that it is about.
fn print_diagnostics(found: &[Diagnostic], files: &BundleFiles) {
    for one in found {
        let severity = match one.severity {
            Severity::Error => "error",
            Severity::Warning => "warning",
        };
        println!("{severity}: {}", one.message);
        if one.line > 0 {
            println!("  --> {}:{}:{}", one.file, one.line, one.column);
            let source = files.0.get(&one.file).and_then(|bytes| std::str::from_utf8(bytes).ok());
            if let Some(line) = source.and_then(|text| text.lines().nth(one.line - 1)) {
                println!("   |  {}", line.replace('\t', " "));
                println!("   |  {}^", " ".repeat(one.column.saturating_sub(1)));
            }
        } else if !one.file.is_empty() {
            println!("  --> {}", one.file);
        }
        if let Some(help) = &one.help {
            println!("  help: {help}");
        }
    }
}

fn test(args: &BundleArgs, paths: &Paths) -> anyhow::Result<ExitCode> {
    let report = run_tests(&read(args.bundle.as_deref(), paths)?);
    if args.json {
        println!("{}", json!({"passed": report.passed(), "report": report}));
    } else {
        println!("{report}");
    }
    Ok(if report.passed() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn schema(dir: Option<&Path>, paths: &Paths) -> anyhow::Result<ExitCode> {
    print!("{}", load(dir, paths)?.schema());
    Ok(ExitCode::SUCCESS)
}

fn load(dir: Option<&Path>, paths: &Paths) -> anyhow::Result<Bundle> {
    Bundle::load(&read(dir, paths)?).map_err(|found| {
        let found: Vec<_> = found.iter().map(ToString::to_string).collect();
        anyhow::anyhow!("the bundle cannot be used:\n{}", found.join("\n"))
    })
}

async fn explain_call(args: ExplainArgs, paths: &Paths) -> anyhow::Result<ExitCode> {
    let bundle = load(None, paths)?;
    let agent = match args.environment {
        Some(environment) => AgentFacts {
            id: AgentId(Uuid::nil()),
            name: args.agent,
            owner: String::new(),
            environment,
            roles: args.roles,
        },
        None => find_agent(&args.agent, paths).await?,
    };
    let tenant = Config::read(&paths.config)?.tenant();
    let facts = facts(agent, tenant, args.tool, args.arguments);
    let explanation = explain(&bundle, &facts);
    if args.json {
        println!("{}", serde_json::to_string(&explanation)?);
    } else {
        println!("{explanation}");
    }
    Ok(ExitCode::SUCCESS)
}

async fn find_agent(name: &AgentName, paths: &Paths) -> anyhow::Result<AgentFacts> {
    let agents = registered(paths).await?;
    let agent = agents.iter().find(|agent| agent.name == *name);
    let hint = || format!("there is no agent `{name}`; --environment and --role make one up");
    Ok(AgentFacts::from(agent.with_context(hint)?))
}

/// Makes the facts of a call that nobody makes: now, for the agent's owner, with tools as pinned.
fn facts(agent: AgentFacts, tenant: TenantId, tool: ToolName, arguments: Value) -> Facts {
    let principal = Principal {
        kind: PrincipalType::Human,
        id: agent.owner.clone(),
        provenance: Provenance::Registry,
    };
    Facts {
        v: Facts::VERSION,
        evaluation_id: RecordId(Uuid::nil()),
        at: TimestampMs(SystemClock.now_ms()),
        tenant,
        origin: "mcp".to_owned(),
        agent,
        principal,
        session: None,
        call: CallFacts {
            method: "tools/call".to_owned(),
            server: tool.server().clone(),
            tool: Some(tool),
            target: None,
            arguments,
            keyed: true,
            pin_mismatch: false,
        },
    }
}

async fn reload(json: bool, paths: &Paths) -> anyhow::Result<ExitCode> {
    // What is wrong is better said here, with lines, than by the gateway.
    let local = load(None, paths)?;
    let control = Control::require(paths).await?;
    let answer = control.post("/api/v1/policy/reload", &json!({})).await?;
    if json {
        println!("{answer}");
    } else {
        println!("in force: {}", summary(&local));
    }
    let loaded = answer.get("bundle").and_then(Value::as_str).unwrap_or_default();
    if loaded != local.hash() {
        eprintln!("The gateway loaded another bundle: {loaded}");
    }
    Ok(ExitCode::SUCCESS)
}
