//! A copy of the log in a folder; `e2e/anchors/run` does the same with an S3 service.

use std::path::Path;

use crate::{World, copy};

fn table(folder: &Path) -> String {
    format!("\n[anchors.object_store]\nurl = \"file://{}\"\ninterval = \"1s\"\n", folder.display())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r_065_a_copy_of_the_log_is_a_log() {
    let folder = tempfile::tempdir().unwrap();
    let objects = folder.path().join("bucket/prefix");
    let world = World::new(&table(&objects)).await;
    let (vkey, at) = (world.vkey(), objects.to_str().unwrap().to_owned());
    let check = ["verify", "--log", &at, "--vkey", &vkey];
    let (mut size, mut calls) = (0, 0);
    // The second gateway takes up what the first one left.
    for run in 0..2 {
        let gateway = world.project.serve();
        for batch in 0..2 {
            for call in 0..50 {
                world.call(&gateway, &format!("{run} {batch} {call}")).await;
            }
            calls += 50;
            // Each has left a decision and an outcome.
            size = world.anchored_above("object_store", 2 * calls - 1).await;
        }
        gateway.stop();
        let (sound, said) = world.run(&check);
        assert!(sound, "{said}");
    }
    assert!(size > 256, "there are full tiles: {size}");
    assert!(objects.join("tile/0/000").exists() && objects.join("tile/entries/000").exists());
    assert!(std::fs::read_dir(objects.join("checkpoints")).unwrap().count() >= 4);

    // Nothing that is there is replaced.
    let bundle = objects.join("tile/entries/000");
    let good = std::fs::read(&bundle).unwrap();
    std::fs::write(&bundle, b"altered").unwrap();
    std::fs::remove_file(objects.join("checkpoint")).unwrap();
    let gateway = world.project.serve();
    world.failed("object_store", "`tile/entries/000` of the copy has other content").await;
    world.call(&gateway, "held up?").await;
    assert_eq!(std::fs::read(&bundle).unwrap(), b"altered");
    std::fs::write(&bundle, good).unwrap();
    world.anchored_above("object_store", size).await;
    gateway.stop();
    let (sound, said) = world.run(&check);
    assert!(sound, "{said}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r_065_a_copy_that_is_ahead_stays_as_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let objects = folder.path().join("bucket");
    let world = World::new(&table(&objects)).await;
    let (data, backup) = (world.project.data(), folder.path().join("backup"));
    copy(&data, &backup);
    let gateway = world.project.serve();
    let shared = world.anchored_above("object_store", 0).await;
    world.call(&gateway, "one").await;
    world.anchored_above("object_store", shared).await;
    gateway.stop();
    std::fs::remove_dir_all(&data).unwrap();
    std::fs::rename(&backup, &data).unwrap();
    let before = std::fs::read(objects.join("checkpoint")).unwrap();
    let gateway = world.project.serve();
    world.call(&gateway, "another").await;
    world.call(&gateway, "and another").await;
    world.failed("object_store", "of another history of this log").await;
    assert_eq!(std::fs::read(objects.join("checkpoint")).unwrap(), before);
    gateway.stop();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_would_overwrite_unseen_is_refused() {
    let world = World::new(
        "\n[anchors.object_store]\nurl = \"s3://bucket\"\nendpoint = \"http://127.0.0.1:1\"\n",
    )
    .await;
    let mut serve = world.project.command(&["serve"]);
    serve.env("AWS_ACCESS_KEY_ID", "a").env("AWS_SECRET_ACCESS_KEY", "b");
    let output = serve.env("AWS_CONDITIONAL_PUT", "disabled").output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(
        !output.status.success() && said.contains("AWS_CONDITIONAL_PUT is `disabled`"),
        "{said}"
    );
}
