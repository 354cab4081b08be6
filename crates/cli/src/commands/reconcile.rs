//! `countersign reconcile`: settle a call whose outcome is unknown.

use std::io::{self, Write as _};
use std::process::ExitCode;

use countersign_model::{OutcomeStatus, RecordId};
use serde_json::json;

use crate::control::{Control, with_store};
use crate::paths::Paths;

/// The name under which changes without a gateway are recorded.
const ACTOR: &str = "command-line";

/// Settle a call whose outcome is unknown.
///
/// A call is left unknown when the gateway stopped between forwarding it and writing down what came of it.
/// Look it up in the server's own records first. What you say is recorded as a second outcome; the first
/// one stays.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  countersign records query --kind decision --result unknown
  countersign reconcile 0199a2c0-5c1e-7d52-9f6e-2b1f6f0f3c11 --outcome executed --reason 'refund 4711 is booked'")]
pub(crate) struct Args {
    /// The call's evaluation id
    id: RecordId,
    /// What came of the call
    #[arg(long)]
    outcome: OutcomeArg,
    /// How you know
    #[arg(long, value_name = "TEXT")]
    reason: String,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
#[value(rename_all = "snake_case")]
enum OutcomeArg {
    /// The server did it
    Executed,
    /// The server answered with an error
    Failed,
    /// The server never got it
    #[value(alias = "not-forwarded")]
    NotForwarded,
}

impl From<OutcomeArg> for OutcomeStatus {
    fn from(outcome: OutcomeArg) -> Self {
        match outcome {
            OutcomeArg::Executed => Self::Executed,
            OutcomeArg::Failed => Self::Failed,
            OutcomeArg::NotForwarded => Self::NotForwarded,
        }
    }
}

pub(crate) async fn run(args: Args, paths: &Paths) -> anyhow::Result<ExitCode> {
    let (id, outcome) = (args.id, OutcomeStatus::from(args.outcome));
    anyhow::ensure!(!args.reason.trim().is_empty(), "--reason says how you know; it is empty");
    let answer = match Control::find(paths).await {
        Some(control) => {
            let body = json!({"outcome": outcome.as_str(), "reason": args.reason});
            control.post(&format!("/api/v1/calls/{id}/reconcile"), &body).await?
        }
        None => {
            let settle = async |store: &countersign_store::Store| {
                Ok(store.reconcile(id, outcome, ACTOR, &args.reason).await?)
            };
            let place = with_store(paths, settle).await?;
            json!({"record_id": place.record_id, "index": place.index.map(|index| index.0)})
        }
    };
    let mut out = io::stdout();
    if args.json {
        writeln!(out, "{answer}")?;
    } else {
        writeln!(out, "{id} is settled as {outcome}")?;
    }
    Ok(ExitCode::SUCCESS)
}
