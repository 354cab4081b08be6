use std::path::{Path, PathBuf};
use std::sync::Arc;

use countersign_evidence::folder::LogFolder;
use countersign_ledger::verify::{Problem, Report, VerifyOptions, verify_log};

use crate::world::World;

async fn grow(world: &Arc<World>, records: usize) {
    let mut waiting = tokio::task::JoinSet::new();
    for _ in 0..records {
        let world = Arc::clone(world);
        waiting.spawn(async move { world.auth("rejected").await });
    }
    waiting.join_all().await;
    world.store.publish_now().await.unwrap();
}

fn verify(world: &World, log: &LogFolder) -> Result<Report, Problem> {
    let options = VerifyOptions { keys: vec![world.key()], ..VerifyOptions::default() };
    verify_log(log, &options, &mut |_| {})
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    entries.flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] }).collect()
}

#[tokio::test]
async fn a_log_that_grows_while_it_is_checked_is_sound() {
    let world = Arc::new(World::new().await);
    grow(&world, 200).await;
    let root = world.store.folder().join("log");
    let log = LogFolder::open(&root).unwrap();
    let then = verify(&world, &log).unwrap();
    // The partial tiles of the checkpoint that was taken go away as full ones replace them.
    grow(&world, 100).await;
    assert!(!root.join(format!("tile/0/000.p/{}", then.size)).exists());
    let again = verify(&world, &log);
    // What was listed before and what is there now both count.
    assert_eq!(again.map(|report| (report.size, report.root)), Ok((then.size, then.root)));
    let now = verify(&world, &LogFolder::open(&root).unwrap()).unwrap();
    assert_eq!(now.size.0, then.size.0 + 100);
}

#[tokio::test]
async fn r_064_a_flipped_byte_in_any_file_is_found() {
    let world = Arc::new(World::new().await);
    grow(&world, 40).await;
    grow(&world, 230).await;
    let root = world.store.folder().join("log");
    for file in files(&root) {
        let good = std::fs::read(&file).unwrap();
        // The first, the last and one in between; each byte of a signature and a hash counts.
        for at in [0, good.len() / 2, good.len() - 1] {
            let mut bad = good.clone();
            bad[at] ^= 1;
            std::fs::write(&file, &bad).unwrap();
            let found = LogFolder::open(&root).map(|log| verify(&world, &log));
            let problem = found.unwrap().expect_err(&format!("{} at {at}", file.display()));
            assert!(!problem.object.is_empty());
        }
        std::fs::write(&file, &good).unwrap();
    }
    assert!(verify(&world, &LogFolder::open(&root).unwrap()).is_ok());
}

#[tokio::test]
async fn a_rolled_back_checkpoint_is_found() {
    let world = Arc::new(World::new().await);
    grow(&world, 5).await;
    let root = world.store.folder().join("log");
    let old = std::fs::read(root.join("checkpoint")).unwrap();
    grow(&world, 5).await;
    std::fs::write(root.join("checkpoint"), old).unwrap();
    let problem = verify(&world, &LogFolder::open(&root).unwrap()).unwrap_err();
    assert_eq!(problem.object, "checkpoint", "{problem}");
}

#[test]
fn what_is_no_folder_is_an_error() {
    assert!(LogFolder::open(Path::new("/nowhere/at/all")).is_err());
}
