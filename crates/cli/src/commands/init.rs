//! `countersign init`: make a project.

#![expect(clippy::print_stdout, reason = "the command's output")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, bail};
use countersign_store::Store;
use include_dir::{Dir, include_dir};
use serde_json::json;

use crate::config::Config;
use crate::paths::Paths;
use crate::run::store_config;

/// The commented configuration file.
const TEMPLATE: &str = include_str!("../../templates/countersign.toml");
/// A bundle that permits nothing yet.
static BLANK: Dir<'_> = include_dir!("$CARGO_MANIFEST_DIR/../../policies/blank");

/// Make a project: configuration, policies, an empty ledger and its keys.
///
/// Nothing that is there is overwritten. The folder is the current one, or that of --dir.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  countersign --dir gateway init\n  \
    countersign --dir g2 init --store postgres://db1/countersign --store postgres://db2/countersign \\\n      \
    --replica g2 --keys /srv/countersign-keys")]
pub(crate) struct Args {
    /// Keep the ledger in PostgreSQL, shared with other gateways: the server's URL, once for each server
    ///
    /// A password is better kept in ~/.pgpass than in the URL, which is written to countersign.toml.
    #[arg(long, value_name = "URL")]
    store: Vec<String>,
    /// This gateway's name among those that share the ledger
    #[arg(long, value_name = "NAME", default_value = "g1", requires = "store")]
    replica: String,
    /// The folder with the keys that the gateways share; made by the first of them
    #[arg(long, value_name = "FOLDER", requires = "store")]
    keys: Option<PathBuf>,
    /// Let `countersign signer` sign the log, which runs and answers on this socket
    #[arg(long, value_name = "SOCKET")]
    signer: Option<PathBuf>,
    /// The log's origin, a URL without scheme that names it for ever [default: localhost/default]
    #[arg(long)]
    origin: Option<String>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(crate) async fn run(args: Args, paths: &Paths) -> anyhow::Result<ExitCode> {
    for path in [&paths.config, &paths.policies, &paths.data] {
        if path.exists() {
            bail!("`{}` exists already; nothing was changed", path.display());
        }
    }
    make_folder(&paths.root)?;
    write(&paths.config, configuration(&args).as_bytes())?;
    let config = Config::read(&paths.config)?;
    if let Some(keys) = &args.keys {
        make_private_folder(&paths.data)?;
        share_keys(keys, &paths.data.join("keys"))?;
    }
    write_folder(&BLANK, &paths.policies)?;
    let vkey = create_ledger(paths, &config).await?;
    if args.json {
        let made = json!({
            "config": paths.config, "policies": paths.policies, "data": paths.data, "vkey": vkey,
        });
        println!("{made}");
    } else {
        println!("{}", next_steps(paths, &vkey));
    }
    Ok(ExitCode::SUCCESS)
}

/// Returns the commented configuration, with what was asked for.
fn configuration(args: &Args) -> String {
    // JSON's strings and lists of strings are TOML's too.
    let mut text = match &args.origin {
        Some(origin) => format!("origin = {}\n\n{TEMPLATE}", json!(origin)),
        None => TEMPLATE.to_owned(),
    };
    if !args.store.is_empty() {
        let (url, replica) = (json!(args.store), json!(args.replica));
        text += &format!("\n[store]\nreplica = {replica}\nurl = {url}\n");
    }
    if let Some(socket) = &args.signer {
        text += &format!("\n[signer]\nsocket = {}\n", json!(socket));
    }
    text
}

/// Lets the keystore's place lead to the folder that gateways share.
fn share_keys(keys: &Path, place: &Path) -> anyhow::Result<()> {
    make_private_folder(keys)?;
    let keys = keys.canonicalize().with_context(|| format!("cannot find {}", keys.display()))?;
    std::os::unix::fs::symlink(&keys, place)
        .with_context(|| format!("cannot make {}", place.display()))
}

/// Makes the ledger and opens it once, so that it can be read before the first start. Returns the key
/// by which auditors check it.
async fn create_ledger(paths: &Paths, config: &Config) -> anyhow::Result<String> {
    let failed = || format!("cannot make the ledger in {}", paths.data.display());
    Store::create(&paths.data, &store_config(config)).await.with_context(failed)?;
    let store = Store::open(&paths.data, store_config(config)).await.with_context(failed)?;
    let vkey = store.vkey();
    store.shutdown().await?;
    Ok(vkey?)
}

fn write_folder(folder: &Dir<'_>, to: &Path) -> anyhow::Result<()> {
    make_folder(to)?;
    for file in folder.files() {
        write(&to.join(file.path().file_name().unwrap_or_default()), file.contents())?;
    }
    for inner in folder.dirs() {
        write_folder(inner, &to.join(inner.path().file_name().unwrap_or_default()))?;
    }
    Ok(())
}

fn make_folder(path: &Path) -> anyhow::Result<()> {
    fs::create_dir_all(path).with_context(|| format!("cannot make {}", path.display()))
}

fn make_private_folder(path: &Path) -> anyhow::Result<()> {
    let mut builder = fs::DirBuilder::new();
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    let made = builder.recursive(true).create(path);
    made.with_context(|| format!("cannot make {}", path.display()))
}

fn write(path: &Path, bytes: &[u8]) -> anyhow::Result<()> {
    fs::write(path, bytes).with_context(|| format!("cannot write {}", path.display()))
}

fn next_steps(paths: &Paths, vkey: &str) -> String {
    let (config, policies) = (paths.config.display(), paths.policies.display());
    format!(
        "A project is in {root}. There:

  1. Name a server in {config}, under [upstreams.…].
  2. Register an agent, and keep the key that this prints:
       countersign agents add --name support-bot --purpose 'answers tickets' \\
           --owner you@example.com --environment prod --role support-agent
  3. Start the gateway. It pins the server's tools when it first sees them:
       countersign serve
  4. Permit the role a tool in {policies}/policies/30-permits.cedar, then:
       countersign policy check && countersign policy reload
  5. Point the agent at http://127.0.0.1:7700/mcp with its key, and see what it does:
       countersign records query

Give auditors the log's verifier key: {vkey}",
        root = paths.root.display(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_template_is_valid_with_and_without_its_examples() {
        toml::from_str::<Config>(TEMPLATE).unwrap();
        // A setting that is commented out has no space after the `#`.
        let setting = |line: &str| {
            let rest = line.strip_prefix('#');
            rest.filter(|rest| !rest.is_empty() && !rest.starts_with(' ')).map(str::to_owned)
        };
        let lines = TEMPLATE.lines().map(|line| setting(line).unwrap_or_else(|| line.to_owned()));
        let all = lines.collect::<Vec<_>>().join("\n");
        let config: Config = toml::from_str(&all).unwrap();
        assert_eq!(config.upstreams.len(), 2);
        // What is shown as a default is the default.
        let default = Config::default();
        assert_eq!(config.data_plane.listen, default.data_plane.listen);
        assert_eq!(config.control_plane.listen, default.control_plane.listen);
        assert_eq!((config.tenant(), config.origin()), (default.tenant(), default.origin()));
    }
}
