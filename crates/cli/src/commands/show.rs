//! `countersign show`: one record whole.

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, bail};
use countersign_evidence::case::{Case, find, gather};
use countersign_evidence::proof::RecordFile;
use countersign_evidence::sentence::sentence;
use countersign_evidence::{Opened, shown};
use serde_json::{Value, json};

use super::records::{log_keys, open, whole_or_cut};
use crate::paths::Paths;

/// Show one record whole.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  countersign show 0199a2c0-5c1e-7d52-9f6e-2b1f6f0f3c11
  countersign show 0199a2c0-5c1e-7d52-9f6e-2b1f6f0f3c11 --proof record.json
  countersign verify --record record.json --vkey \"$(countersign log vkey)\"")]
pub(crate) struct Args {
    /// The record's id; that of an outcome shows its call
    id: String,
    /// Print JSON
    #[arg(long, conflicts_with = "snapshot")]
    json: bool,
    /// Print the facts that the decision was made on, and nothing else
    #[arg(long)]
    snapshot: bool,
    /// Also write the record with its opened fields and proof to this file, to be checked offline
    ///
    /// The file holds private fields: who gets it can read them.
    #[arg(long, value_name = "FILE")]
    proof: Option<PathBuf>,
}

pub(crate) async fn run(args: Args, paths: &Paths) -> anyhow::Result<ExitCode> {
    let keys = log_keys(paths)?;
    let reader = open(paths).await?;
    let case = gather(&reader, find(&reader, &args.id).await?, &keys).await?;
    if let Some(path) = &args.proof {
        let file = RecordFile::of(&reader, &case, &keys).await?;
        write_private(path, &file.to_text()?)
            .with_context(|| format!("cannot write {}", path.display()))?;
    }
    reader.close().await;
    let mut out = io::BufWriter::new(io::stdout().lock());
    let printed = print(&case, &args, &mut out).and_then(|()| Ok(out.flush()?));
    whole_or_cut(printed.map(|()| ExitCode::SUCCESS))
}

/// Writes a file that only its owner can read.
fn write_private(path: &std::path::Path, text: &str) -> io::Result<()> {
    use std::os::unix::fs::OpenOptionsExt as _;
    let mut options = std::fs::OpenOptions::new();
    let mut file = options.write(true).create(true).truncate(true).mode(0o600).open(path)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()
}

fn print(case: &Case, args: &Args, out: &mut impl Write) -> anyhow::Result<()> {
    if args.snapshot {
        let Some(facts) = case.main.facts() else {
            let closed = case.main.closed.as_deref().unwrap_or("it is no decision");
            bail!("record `{}` shows no facts: {closed}", case.main.record.id());
        };
        return Ok(writeln!(out, "{facts}")?);
    }
    if args.json {
        return Ok(writeln!(out, "{:#}", whole(case))?);
    }
    Ok(text(case, out)?)
}

/// Shows everything as JSON.
fn whole(case: &Case) -> Value {
    let mut value = part(&case.main);
    if let Some(fields) = value.as_object_mut() {
        let outcomes: Vec<Value> = case.outcomes.iter().map(part).collect();
        fields.insert("outcomes".into(), outcomes.into());
        let proof = match &case.proof {
            Ok(proof) => json!(proof),
            Err(reason) => json!({ "missing": reason }),
        };
        fields.insert("proof".into(), proof);
    }
    value
}

fn part(opened: &Opened) -> Value {
    json!({
        "sentence": sentence(&opened.record, opened.principal()),
        "record": opened.record.to_json(),
        "private": opened.private,
        "closed_fields": opened.closed_fields(),
        "closed": opened.closed,
    })
}

fn text(case: &Case, out: &mut impl Write) -> io::Result<()> {
    section(&case.main, out)?;
    for outcome in &case.outcomes {
        writeln!(out)?;
        section(outcome, out)?;
    }
    writeln!(out)?;
    match &case.proof {
        Ok(proof) => {
            writeln!(
                out,
                "Proof: leaf {} of {} under root {}",
                proof.leaf_index, proof.tree_size, proof.root
            )?;
            writeln!(out, "  signed by {}", proof.vkey)
        }
        Err(reason) => writeln!(out, "Proof: none yet ({reason})"),
    }
}

fn section(opened: &Opened, out: &mut impl Write) -> io::Result<()> {
    let record = &opened.record;
    writeln!(out, "{}", sentence(record, opened.principal()))?;
    writeln!(out, "  leaf {}, hash {}", record.index(), record.leaf_hash().to_base64())?;
    for (name, value) in record.fields() {
        if !name.starts_with("_sd") {
            field(name, value, out)?;
        }
    }
    if !opened.private.is_empty() {
        writeln!(out, "  private:")?;
    }
    for (name, value) in &opened.private {
        write!(out, "  ")?;
        field(name, value, out)?;
    }
    match (&opened.closed, opened.closed_fields()) {
        (Some(reason), closed) => writeln!(out, "  {closed} private fields stay closed: {reason}"),
        (None, 0) => Ok(()),
        (None, closed) => writeln!(out, "  {closed} private fields stay closed"),
    }
}

fn field(name: &str, value: &Value, out: &mut impl Write) -> io::Result<()> {
    let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    writeln!(out, "  {:16} {}", shown(name), shown(&text))
}
