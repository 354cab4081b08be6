//! What whoever checks trusts: keys, a policy, a kept checkpoint, roots of timestamp authorities.

use std::path::Path;

use anyhow::{Context as _, bail};
use countersign_evidence::shown;
use countersign_evidence::timestamp::Roots;
use countersign_ledger::{Checkpoint, Policy, VerifierKey};

use super::super::records::{log_keys, read};
use super::Args;
use crate::anchors::timestamp::read_roots;
use crate::paths::Paths;

/// What whoever checks brings along.
pub(super) struct Trusted {
    pub(super) keys: Vec<VerifierKey>,
    pub(super) policy: Option<Policy>,
    pub(super) pinned: Option<Checkpoint>,
    pub(super) roots: Option<Roots>,
}

impl Trusted {
    /// Reads what the arguments name; an installation's own keys if they name none.
    pub(super) fn read(args: &Args, paths: &Paths) -> anyhow::Result<Self> {
        let policy = args.policy.as_deref().map(read_policy).transpose()?;
        let mut keys = Vec::new();
        for vkey in &args.vkey {
            keys.extend(read_keys(vkey)?);
        }
        if keys.is_empty() {
            let logs = policy.iter().flat_map(Policy::logs);
            keys.extend(logs.map(|log| log.key.clone()));
        }
        if keys.is_empty() && [&args.log, &args.package, &args.record].iter().any(|it| it.is_some())
        {
            bail!("the policy has no `log` line; name the log's public key with --vkey");
        }
        if keys.is_empty() {
            keys = log_keys(paths)?;
        }
        let pinned = args.checkpoint.as_deref().map(|file| read_pinned(file, &keys)).transpose()?;
        let roots = args.tsa_roots.as_deref().map(read_roots).transpose()?;
        Ok(Self { keys, policy, pinned, roots })
    }
}

/// Reads a policy.
fn read_policy(file: &Path) -> anyhow::Result<Policy> {
    let of = || file.display().to_string();
    let text = String::from_utf8(read(file)?).ok().context("it is not text").with_context(of)?;
    Policy::parse(&text).with_context(of)
}

/// Reads keys: one as text, or a file with one per line.
fn read_keys(vkey: &str) -> anyhow::Result<Vec<VerifierKey>> {
    if let Ok(key) = VerifierKey::parse(vkey.trim()) {
        return Ok(vec![key]);
    }
    let path = Path::new(vkey);
    if !path.is_file() {
        bail!("--vkey is neither a public key (`name+id+base64`) nor a file: `{}`", shown(vkey));
    }
    let text = String::from_utf8(read(path)?).context("the key file is not text")?;
    let lines =
        text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    let keys: Vec<VerifierKey> = lines
        .map(|line| VerifierKey::parse(line).with_context(|| format!("{vkey} has no public key")))
        .collect::<anyhow::Result<_>>()?;
    anyhow::ensure!(!keys.is_empty(), "{vkey} has no public key");
    Ok(keys)
}

fn read_pinned(file: &Path, keys: &[VerifierKey]) -> anyhow::Result<Checkpoint> {
    Checkpoint::open(&read(file)?, keys)
        .with_context(|| format!("{} is not a checkpoint of this log", file.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_given_as_text_or_in_a_file() {
        let key =
            countersign_ledger::SigningKey::from_seed("log.example.com/acme", &[1; 32]).unwrap();
        let text = key.verifier_key().to_string();
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), format!("# kept since 2026\n\n{text}\n")).unwrap();
        for given in [text.as_str(), file.path().to_str().unwrap()] {
            assert_eq!(read_keys(given).unwrap(), [key.verifier_key()]);
        }
        std::fs::write(file.path(), "# nothing\n").unwrap();
        assert!(read_keys(file.path().to_str().unwrap()).is_err());
        assert!(read_keys("log.example.com/acme").is_err());
    }
}
