//! Commits the log's checkpoints to a Git remote that an auditor reads.
//!
//! Only commits that extend what the remote has are pushed, never with force. A remote that lost what was
//! pushed, or has another history of the log than this one, is left as it is, and said to be so.
//!
//! The program `git` works in a repository of our own in the data folder, without a working tree, hooks,
//! prompts or the system's configuration; credentials come from the user's (`~/.gitconfig`, `~/.ssh`).

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use countersign_console::BoxFuture;
use countersign_ledger::limits::NOTE_BYTES_MAX;
use countersign_ledger::{Checkpoint, Note};
use countersign_store::{Reader, Store};
use tokio::io::AsyncWriteExt as _;
use tokio::process::Command;

use super::{Anchor, extends};
use crate::config;

/// How long one command may take.
const TIMEOUT: Duration = Duration::from_secs(60);
/// Characters of a failure that are shown.
const SHOWN: usize = 300;
/// The last commit that was pushed.
const PUSHED: &str = "refs/countersign/pushed";
/// What the remote's branch was when it was last fetched.
const FETCHED: &str = "refs/countersign/fetched";
/// What stands for these references, and for the index, while they are written.
const LOCKS: [&str; 3] =
    ["index.lock", "refs/countersign/pushed.lock", "refs/countersign/fetched.lock"];
/// Settings of every command.
const SETTINGS: [(&str, &str); 4] = [
    ("core.hooksPath", "/dev/null"),
    ("core.fsync", "all"),
    ("gc.auto", "0"),
    ("commit.gpgSign", "false"),
];
/// Variables of our own environment that the program gets: where credentials and proxies are.
const INHERITED: [&str; 8] = [
    "PATH",
    "HOME",
    "SSH_AUTH_SOCK",
    "XDG_CONFIG_HOME",
    "http_proxy",
    "https_proxy",
    "HTTPS_PROXY",
    "NO_PROXY",
];
/// Variables that it gets besides: it never asks, and speaks English.
const FIXED: [(&str, &str); 12] = [
    ("GIT_TERMINAL_PROMPT", "0"),
    ("GIT_ASKPASS", "false"),
    ("SSH_ASKPASS", "false"),
    ("GIT_SSH_COMMAND", "ssh -o BatchMode=yes -o ConnectTimeout=10"),
    ("GIT_CONFIG_NOSYSTEM", "1"),
    ("GIT_ALLOW_PROTOCOL", "file:git:http:https:ssh"),
    ("GIT_AUTHOR_NAME", "Countersign"),
    ("GIT_AUTHOR_EMAIL", "countersign@localhost"),
    ("GIT_COMMITTER_NAME", "Countersign"),
    ("GIT_COMMITTER_EMAIL", "countersign@localhost"),
    ("LC_ALL", "C"),
    ("TZ", "UTC"),
];

/// A branch of a remote.
pub(super) struct Remote {
    store: Store,
    reader: Reader,
    git: Git,
    url: String,
    branch: String,
}

impl Remote {
    pub(super) fn new(
        store: &Store,
        reader: &Reader,
        config: &config::Git,
        folder: PathBuf,
    ) -> anyhow::Result<Self> {
        let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '/');
        let branch = &config.branch;
        ensure!(
            branch.starts_with(|c: char| c.is_ascii_alphanumeric()) && branch.chars().all(fits),
            "anchors.git.branch: `{branch}` is no name of a branch"
        );
        let url = &config.remote;
        ensure!(
            !url.is_empty() && !url.starts_with('-'),
            "anchors.git.remote: `{url}` is no remote repository"
        );
        ensure!(
            !has_password(url),
            "anchors.git.remote has a password or token in it; use a key or a credential helper of `git`"
        );
        Ok(Self {
            store: store.clone(),
            reader: reader.clone(),
            git: Git { folder },
            url: url.clone(),
            branch: branch.clone(),
        })
    }

    /// Commits and pushes a checkpoint, unless the remote has it; returns the size that it has now.
    async fn push(&self, point: &Checkpoint, note: &Note) -> anyhow::Result<u64> {
        let head = self.fetch().await?;
        let folder =
            format!("checkpoints/{}", point.origin.replace('%', "%25").replace('/', "%2f"));
        let latest = match &head {
            Some(head) => self.latest(head, &folder).await?,
            None => None,
        };
        if let Some(latest) = &latest {
            extends(&self.store, "the remote", latest, point).await?;
        }
        let known = latest.map_or(0, |latest| latest.size.0);
        let (point, note) = self.cosigned(known).await?.unwrap_or((point.clone(), note.clone()));
        if point.size.0 > known {
            let commit = self.commit(head.as_deref(), &folder, &point, &note).await?;
            let to = format!("{commit}:refs/heads/{}", self.branch);
            self.git.run(&["push", "-q", "--end-of-options", &self.url, &to]).await?;
            self.git.run(&["update-ref", PUSHED, &commit]).await?;
        }
        Ok(point.size.0.max(known))
    }

    /// Fetches the remote's branch, which must have what was pushed before; `None` if there is none.
    async fn fetch(&self) -> anyhow::Result<Option<String>> {
        let branch = format!("refs/heads/{}", self.branch);
        let listed = ["ls-remote", "-q", "--end-of-options", &self.url, &branch];
        let listed = self.git.anywhere(&listed).await?;
        // A pattern also matches the end of longer names.
        let mut heads = listed.lines().filter_map(|line| line.split_once('\t'));
        let head = heads.find(|(_, name)| *name == branch).map(|(id, _)| id.to_owned());
        self.git.make(head.as_ref().map_or(0, String::len)).await?;
        let pushed = self.git.commit_of(PUSHED).await?;
        let Some(head) = head else {
            ensure!(pushed.is_none(), "the branch `{}` of the remote is gone", self.branch);
            return Ok(None);
        };
        let fetched = format!("+{branch}:{FETCHED}");
        let options = ["--no-tags", "--no-write-fetch-head", "--end-of-options"];
        let fetch = [&["fetch", "-q"][..], &options, &[&self.url, &fetched]].concat();
        self.git.run(&fetch).await?;
        let fetched = self.git.commit_of(FETCHED).await?.unwrap_or(head);
        if let Some(pushed) = pushed {
            let kept = self.git.run(&["merge-base", "--is-ancestor", &pushed, &fetched]).await;
            kept.context("the remote was rewritten: it does not have what was pushed before")?;
        }
        Ok(Some(fetched))
    }

    /// Reads the newest checkpoint of this log that the remote has.
    async fn latest(&self, head: &str, folder: &str) -> anyhow::Result<Option<Checkpoint>> {
        let object = format!("{head}:{folder}/latest");
        let listed = self.git.run(&["ls-tree", head, &format!("{folder}/latest")]).await?;
        if listed.is_empty() {
            return Ok(None);
        }
        let size = self.git.run(&["cat-file", "-s", &object]).await?;
        let fits = size.trim().parse::<usize>().is_ok_and(|size| size <= NOTE_BYTES_MAX);
        ensure!(fits, "`{folder}/latest` of the remote is too large for a checkpoint");
        let note = self.git.run(&["cat-file", "blob", &object]).await?;
        Checkpoint::open(note.as_bytes(), &self.store.log_keys()).map(Some).with_context(|| {
            format!("`{folder}/latest` of the remote is no checkpoint of this log")
        })
    }

    /// Returns the newest checkpoint that witnesses cosigned, if it is larger than `known`.
    async fn cosigned(&self, known: u64) -> anyhow::Result<Option<(Checkpoint, Note)>> {
        let Some(note) = self.reader.cosigned_checkpoint().await? else { return Ok(None) };
        let point = Checkpoint::parse(note.text())?;
        Ok((point.size.0 > known).then_some((point, note)))
    }

    /// Makes the commit that adds a checkpoint, and returns its id.
    async fn commit(
        &self,
        parent: Option<&str>,
        folder: &str,
        point: &Checkpoint,
        note: &Note,
    ) -> anyhow::Result<String> {
        let git = &self.git;
        git.run(&["read-tree", parent.unwrap_or("--empty")]).await?;
        let blob = git.feed(&["hash-object", "-w", "--stdin"], &note.to_bytes()).await?;
        for name in [format!("{}.txt", point.size), "latest".to_owned()] {
            let entry = format!("100644,{},{folder}/{name}", blob.trim());
            git.run(&["update-index", "--add", "--cacheinfo", &entry]).await?;
        }
        let tree = git.run(&["write-tree"]).await?;
        let message = format!("{}: {} records", point.origin, point.size);
        let mut command = vec!["commit-tree", tree.trim(), "-m", &message];
        command.extend(parent.into_iter().flat_map(|parent| ["-p", parent]));
        Ok(git.run(&command).await?.trim().to_owned())
    }
}

impl Anchor for Remote {
    fn name(&self) -> &'static str {
        "git"
    }

    fn anchor<'a>(
        &'a mut self,
        checkpoint: &'a Checkpoint,
        note: &'a Note,
    ) -> BoxFuture<'a, anyhow::Result<u64>> {
        Box::pin(self.push(checkpoint, note))
    }
}

/// Returns whether a URL has a password, or over HTTP a user, which may be a token: they would stand in
/// error messages and process lists.
fn has_password(url: &str) -> bool {
    let Some((scheme, rest)) = url.split_once("://") else { return false };
    let user = rest.split('/').next().and_then(|authority| authority.rsplit_once('@'));
    user.is_some_and(|(user, _)| user.contains(':') || scheme.starts_with("http"))
}

/// The program, and the repository that it works in.
struct Git {
    folder: PathBuf,
}

impl Git {
    /// Makes the repository, unless it is there, with the kind of ids that the remote has.
    async fn make(&self, id_length: usize) -> anyhow::Result<()> {
        if self.folder.join("HEAD").is_file() {
            // A program that was killed leaves its locks; no other one works here.
            for lock in LOCKS {
                let _ = std::fs::remove_file(self.folder.join(lock));
            }
            return Ok(());
        }
        let format = if id_length == 64 { "sha256" } else { "sha1" };
        let path = self.folder.to_str().context("the path of the data folder is not text")?;
        let format = format!("--object-format={format}");
        self.anywhere(&["init", "-q", "--bare", &format, path]).await.map(drop)
    }

    /// Returns the commit that a reference names.
    async fn commit_of(&self, reference: &str) -> anyhow::Result<Option<String>> {
        let found = self.run(&["for-each-ref", "--format=%(objectname)", reference]).await?;
        Ok(Some(found.trim().to_owned()).filter(|commit| !commit.is_empty()))
    }

    /// Runs a command in the repository; returns what it printed.
    async fn run(&self, arguments: &[&str]) -> anyhow::Result<String> {
        self.feed(arguments, &[]).await
    }

    async fn feed(&self, arguments: &[&str], input: &[u8]) -> anyhow::Result<String> {
        execute(Some(&self.folder), arguments, input).await
    }

    /// Runs a command that needs no repository.
    async fn anywhere(&self, arguments: &[&str]) -> anyhow::Result<String> {
        execute(None, arguments, &[]).await
    }
}

#[expect(clippy::disallowed_methods, reason = "the command line program may read the environment")]
async fn execute(
    folder: Option<&Path>,
    arguments: &[&str],
    input: &[u8],
) -> anyhow::Result<String> {
    let mut command = Command::new("git");
    command.env_clear().envs(FIXED);
    command.envs(INHERITED.into_iter().filter_map(|name| Some((name, std::env::var(name).ok()?))));
    for (key, value) in SETTINGS {
        command.arg("-c").arg(format!("{key}={value}"));
    }
    match folder {
        Some(folder) => command.arg("--git-dir").arg(folder),
        None => &mut command,
    };
    command.current_dir("/");
    command.args(arguments).kill_on_drop(true);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let what = arguments.first().copied().unwrap_or_default();
    let done = tokio::time::timeout(TIMEOUT, async {
        let mut child = command.spawn().context("the program `git` does not start")?;
        if let Some(mut stdin) = child.stdin.take() {
            // A program that ends without reading says why in its own words.
            let _ = stdin.write_all(input).await;
        }
        anyhow::Ok(child.wait_with_output().await?)
    });
    let Ok(output) = done.await else { bail!("`git {what}` did not end within {TIMEOUT:?}") };
    let output = output?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        let said: String = said.trim().replace('\n', "; ").chars().take(SHOWN).collect();
        bail!("`git {what}` failed: {said}");
    }
    String::from_utf8(output.stdout).with_context(|| format!("`git {what}` printed no text"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwords_in_urls_are_seen() {
        for (url, has) in [
            ("https://user:secret@git.example/x.git", true),
            ("https://:secret@git.example", true),
            ("https://token@git.example/x.git", true),
            ("ssh://git@git.example:22/x@y:z.git", false),
            ("git@git.example:x.git", false),
            ("/srv/x.git", false),
        ] {
            assert_eq!(has_password(url), has, "{url}");
        }
    }
}
