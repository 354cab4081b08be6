//! `countersign migrate`: move a ledger from SQLite to PostgreSQL.

use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, bail};
use countersign_store::{Database, MigrateError, Migrated, Step, StoreConfig, StoreError, migrate};
use indicatif::ProgressBar;
use serde_json::{Map, Value, json};

use super::records::whole_or_cut;
use super::verify::bar;
use crate::config::Config;
use crate::paths::Paths;
use crate::run::store_config;

/// The database's file in the data folder.
const FILE: &str = "countersign.db";

/// Move the ledger from SQLite to PostgreSQL, with every proof
#[derive(Debug, clap::Args)]
#[command(after_help = "Example, in the project folder, with the gateway stopped:
  countersign migrate --from sqlite://countersign-data --to postgres://owner@db1/countersign

The ledger is checked as `verify` does, copied in one transaction, read back and compared, and the tree is
derived again from what was copied. A target that has anything of the tenant is refused. After any error the
target has nothing of the ledger, unless the error says otherwise. From the commit on, `moved.json` in the
data folder keeps every gateway from starting on SQLite; if it is not known how a commit ended, run the same
command again. A record of kind `change`, object
`store`, tells of the move in the new place.

Moves: records and their places in the log, private fields, checkpoints and cosignatures, idempotency keys
and kept results, open calls, agents and their keys, policy bundles.
Stays in the data folder, and is used there from then on: the keystore with the log's key and what it signed
last, the published log, the search index, the tokens of the control plane, the pins of tools.

Tenant, origin and the gateway's name are those of countersign.toml. With standbys name each server with a
--to of its own. The URL's user must own the tables, or be allowed to make them. Afterwards set store.url,
keep store.replica, and start the gateway. There is no way back to SQLite.")]
pub(crate) struct Args {
    /// The ledger: `sqlite://` and this installation's data folder, or the database in it
    #[arg(long, value_name = "URL")]
    from: String,
    /// Where it moves to: the URL of a PostgreSQL server, once for each server
    ///
    /// A password is better kept in ~/.pgpass than in the URL.
    #[arg(long, value_name = "URL", required = true)]
    to: Vec<String>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(crate) async fn run(args: Args, paths: &Paths) -> anyhow::Result<ExitCode> {
    check_source(&args.from, paths)?;
    if !args.to.iter().all(|url| url.starts_with("postgres://") || url.starts_with("postgresql://"))
    {
        bail!("--to is a URL like `postgres://countersign@db1:5432/countersign`");
    }
    let database = Database::Postgres(args.to);
    let config = StoreConfig { database, ..store_config(&Config::read(&paths.config)?) };
    let mut bars = Bars::default();
    let mut progress = |step, done, all| bars.tell(step, done, all);
    let moved = migrate(&paths.data, &config, &mut progress).await;
    bars.clear();
    let moved = moved.map_err(|error| {
        let hint = hint(&error);
        let error = anyhow::Error::from(error);
        match hint {
            Some(hint) => error.context(hint),
            None => error,
        }
    })?;
    let text = if args.json { format!("{:#}\n", to_json(&moved)) } else { sentences(&moved) };
    let printed = io::stdout().write_all(text.as_bytes());
    whole_or_cut(printed.map(|()| ExitCode::SUCCESS).map_err(Into::into))
}

/// Checks that `--from` is the ledger of this installation: its settings are the ones that are read.
fn check_source(from: &str, paths: &Paths) -> anyhow::Result<()> {
    let Some(named) = from.strip_prefix("sqlite://") else {
        bail!("--from is `sqlite://` and a data folder, like `sqlite://countersign-data`");
    };
    let folder = match Path::new(named) {
        file if file.file_name().is_some_and(|name| name == FILE) => {
            file.parent().map(Path::to_owned).filter(|folder| !folder.as_os_str().is_empty())
        }
        folder => Some(folder.to_owned()),
    };
    let folder = folder.unwrap_or_else(|| PathBuf::from("."));
    let whole = |path: &Path| {
        path.canonicalize().with_context(|| format!("there is no folder `{}`", path.display()))
    };
    if whole(&folder)? != whole(&paths.data)? {
        let (folder, data) = (folder.display(), paths.data.display());
        bail!(
            "`{folder}` is not the data folder of this installation, `{data}`; name it with --dir"
        );
    }
    Ok(())
}

/// Says what to do about an error.
fn hint(error: &MigrateError) -> Option<&'static str> {
    match error {
        MigrateError::Store(StoreError::Locked(_)) => {
            Some("a gateway or a command uses the ledger; stop it first")
        }
        MigrateError::NotRecorded(_) => Some(
            "the ledger is in PostgreSQL and nothing of it is lost: set store.url and start the gateway",
        ),
        MigrateError::Unknown(_) => Some(
            "run the same command again: it finds the ledger in PostgreSQL, or copies it again; until then no \
             gateway starts on SQLite",
        ),
        MigrateError::Elsewhere { .. } => {
            Some("name the same place with --to, so that it is looked up")
        }
        MigrateError::NotEmpty { .. } => Some(
            "if this ledger moved there before, set store.url and start the gateway; else name another database",
        ),
        MigrateError::Damaged(_)
        | MigrateError::Text { .. }
        | MigrateError::Differs { .. }
        | MigrateError::Store(_)
        | _ => None,
    }
}

/// A progress bar for each step.
#[derive(Default)]
struct Bars {
    current: Option<(Step, ProgressBar)>,
}

impl Bars {
    fn tell(&mut self, step: Step, done: u64, all: u64) {
        if self.current.as_ref().is_none_or(|(current, _)| *current != step) {
            self.clear();
            let name = match step {
                Step::Check => "check",
                Step::Copy => "copy",
                Step::Verify => "verify",
            };
            self.current = Some((step, bar(name)));
        }
        if let Some((_, bar)) = &self.current {
            bar.set_length(all);
            bar.set_position(done);
        }
    }

    fn clear(&mut self) {
        if let Some((_, bar)) = self.current.take() {
            bar.finish_and_clear();
        }
    }
}

fn to_json(moved: &Migrated) -> Value {
    let Migrated { leaves, root, rows, record_id, published } = moved;
    let rows: Map<String, Value> =
        rows.iter().map(|(table, rows)| ((*table).to_owned(), json!(rows))).collect();
    json!({
        "ok": true, "leaves": leaves, "root": root, "rows": rows, "record_id": record_id,
        "published": published,
    })
}

fn sentences(moved: &Migrated) -> String {
    let Migrated { leaves, root, rows, record_id, published } = moved;
    let all: u64 = rows.iter().map(|(_, rows)| rows).sum();
    format!(
        "The ledger is in PostgreSQL: {leaves} records, {all} rows, read back and equal.
  root       {root}
  record     {record_id}
  signed up  to {published} records, by the same key

Now set store.url in countersign.toml to what --to names, keep store.replica, and start the gateway.
The keys, the published log and the tokens stay in the data folder and are used there. {FILE} is
not, and moved.json keeps a gateway from starting on it; delete it once the gateway has run on PostgreSQL and `countersign verify` is content.
"
    )
}
