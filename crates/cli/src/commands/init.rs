//! `countersign init`: make a project.

#![expect(clippy::print_stdout, reason = "the command's output")]

use std::fs;
use std::path::Path;
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
#[command(after_help = "Example:\n  countersign --dir gateway init")]
pub(crate) struct Args {
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
    write(&paths.config, TEMPLATE.as_bytes())?;
    write_folder(&BLANK, &paths.policies)?;
    let vkey = create_ledger(paths).await?;
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

/// Makes the ledger and opens it once, so that it can be read before the first start. Returns the key
/// by which auditors check it.
async fn create_ledger(paths: &Paths) -> anyhow::Result<String> {
    let config = Config::read(&paths.config)?;
    let failed = || format!("cannot make the ledger in {}", paths.data.display());
    Store::create(&paths.data, &store_config(&config)).await.with_context(failed)?;
    let store = Store::open(&paths.data, store_config(&config)).await.with_context(failed)?;
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
