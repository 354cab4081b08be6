//! Checkpoints in a bare repository, pushed by the real program.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::World;

/// Runs `git` in a folder; it must succeed.
fn git(folder: &Path, arguments: &str) -> String {
    let mut command = Command::new("git");
    command.args(["-c", "user.name=t", "-c", "user.email=t@t"]).args(arguments.split_whitespace());
    let output = command.current_dir(folder).output().unwrap();
    assert!(output.status.success(), "{arguments}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

fn bare(folder: &Path, name: &str) -> PathBuf {
    git(folder, &format!("init -q --bare -b evidence {name}"));
    folder.join(name)
}

fn table(remote: &Path) -> String {
    format!(
        "\n[anchors.git]\nremote = \"{}\"\nbranch = \"evidence\"\ninterval = \"1s\"\n",
        remote.display()
    )
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r_065_checkpoints_are_pushed_and_never_forced() {
    let folder = tempfile::tempdir().unwrap();
    let remote = bare(folder.path(), "remote.git");
    // The auditor's repository has other things in it, which stay.
    git(folder.path(), "clone -q remote.git auditor");
    let auditor = folder.path().join("auditor");
    std::fs::write(auditor.join("README"), "mine\n").unwrap();
    git(&auditor, "add README");
    git(&auditor, "commit -q -m first");
    git(&auditor, "push -q origin HEAD:evidence");

    let world = World::new(&table(&remote)).await;
    let gateway = world.project.serve();
    let mut size = world.anchored_above("git", 0).await;
    world.call(&gateway, "one").await;
    size = world.anchored_above("git", size).await;
    git(&auditor, "pull -q origin evidence");
    assert!(auditor.join("README").exists());
    let kept = auditor.join("checkpoints/localhost%2fdefault");
    let latest = kept.join("latest").to_str().unwrap().to_owned();
    let names = || std::fs::read_dir(&kept).unwrap().count();
    assert!(names() >= 3, "two checkpoints and the latest");
    let (sound, said) = world.run(&["verify", "--checkpoint", &latest]);
    assert!(sound, "{said}");

    // A program that was killed leaves a lock, which holds up nothing.
    std::fs::write(world.project.data().join("anchors.git/index.lock"), "").unwrap();

    // Somebody else pushes meanwhile: the next commit goes on top of theirs.
    std::fs::write(auditor.join("README"), "still mine\n").unwrap();
    git(&auditor, "commit -q -a -m second");
    git(&auditor, "pull -q --rebase origin evidence");
    git(&auditor, "push -q origin HEAD:evidence");
    world.call(&gateway, "two").await;
    size = world.anchored_above("git", size).await;
    git(&auditor, "pull -q origin evidence");
    assert_eq!(git(&auditor, "log --format=%s --author=t@t"), "second\nfirst");

    // A remote that was rewritten stays as it is, and calls go on.
    let head = git(&remote, "rev-parse evidence");
    git(&remote, "update-ref refs/heads/evidence evidence~2");
    let rewritten = git(&remote, "rev-parse evidence");
    world.failed("git", "the remote was rewritten").await;
    world.call(&gateway, "three").await;
    assert_eq!(git(&remote, "rev-parse evidence"), rewritten);
    let (_, said) = world.run(&["doctor"]);
    assert!(said.contains("the remote was rewritten"), "{said}");
    git(&remote, "update-ref -d refs/heads/evidence");
    world.failed("git", "the branch `evidence` of the remote is gone").await;
    git(&remote, &format!("update-ref refs/heads/evidence {head}"));
    size = world.anchored_above("git", size).await;

    // A remote that is away is tried again.
    let away = folder.path().join("away");
    std::fs::rename(&remote, &away).unwrap();
    world.failed("git", "`git ls-remote` failed").await;
    world.call(&gateway, "four").await;
    std::fs::rename(&away, &remote).unwrap();
    world.anchored_above("git", size).await;
    gateway.stop();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r_065_a_remote_that_is_ahead_or_of_another_history_is_not_overwritten() {
    let folder = tempfile::tempdir().unwrap();
    let remote = bare(folder.path(), "remote.git");
    let world = World::new(&table(&remote)).await;
    let data = world.project.data();
    let backup = folder.path().join("backup");
    crate::copy(&data, &backup);
    let gateway = world.project.serve();
    let shared = world.anchored_above("git", 0).await;
    world.call(&gateway, "one").await;
    world.anchored_above("git", shared).await;
    gateway.stop();

    // An old backup comes back: what the remote has is more, or else.
    std::fs::remove_dir_all(&data).unwrap();
    std::fs::rename(&backup, &data).unwrap();
    let head = git(&remote, "rev-parse evidence");
    let gateway = world.project.serve();
    let failed = |status: &serde_json::Value| {
        let said = status["error"].as_str().unwrap_or_default();
        said.contains("the remote is ahead") || said.contains("of another history")
    };
    world.until("git", failed).await;
    // With as many records as the remote has, the log is still another one.
    world.call(&gateway, "another").await;
    world.call(&gateway, "and another").await;
    world.failed("git", "of another history of this log").await;
    assert_eq!(git(&remote, "rev-parse evidence"), head);
    gateway.stop();
}
