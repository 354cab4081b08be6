//! Every flipped byte of a row is found and named (T6), and damage to published files.

use std::path::Path;

use crate::common::{World, raw, recorded};
use countersign_model::{Draft, Kind, NewAgent, OutcomeStatus};
use countersign_store::fsck::{Problem, Report, check};
use sqlx::{Connection as _, Row as _};

async fn run(folder: &Path) -> Result<Report, Problem> {
    check(folder, None, &mut |_, _| {}).await
}

/// Fills every table that the store writes.
async fn fill(world: &World) {
    let store = world.create().await;
    let new = NewAgent {
        name: "bot".into(),
        purpose: "p".into(),
        owner: "o".into(),
        environment: "prod".into(),
        roles: vec!["r".into()],
        key_expires: None,
    };
    store.agents().add(new, "op").await.unwrap();
    let files = [("a.cedar".to_owned(), b"permit".to_vec())].into();
    store.put_bundle(&"a".repeat(64), &files, "op").await.unwrap();
    let call = recorded(store.commit_intent(world.claiming("k", 1)).await.unwrap()).evaluation_id();
    store.commit_outcome(world.outcome(call, OutcomeStatus::Executed, Some("1"))).await.unwrap();
    store.publish_now().await.unwrap();
    let _open = recorded(store.commit_intent(world.claiming("open", 1)).await.unwrap());
    store.append(Draft::new(world.id(), Kind::Check)).await.unwrap();
    store.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sound_store_is_reported() {
    let world = World::new();
    fill(&world).await;
    let report = run(&world.path()).await.unwrap();
    assert_eq!((report.leaves, report.checkpoints, report.published), (6, 2, 6));
    assert_eq!((report.sections_opened, report.sections_closed), (4, 0));
    assert_eq!(report.open_calls, 1);
    assert!(report.rows > 10);
}

/// One place in the database: table, rowid or key position, column.
struct Spot {
    table: String,
    row: usize,
    column: String,
    is_integer: bool,
}

async fn spots(world: &World) -> Vec<Spot> {
    let mut db = raw(&world.database()).await;
    let tables: Vec<String> =
        sqlx::query_scalar("SELECT name FROM sqlite_schema WHERE type = 'table' ORDER BY name")
            .fetch_all(&mut db)
            .await
            .unwrap();
    let mut spots = Vec::new();
    for table in tables {
        let sql = format!("SELECT name, type FROM pragma_table_info('{table}')");
        let columns = sqlx::query(sqlx::AssertSqlSafe(sql)).fetch_all(&mut db).await.unwrap();
        let sql = format!("SELECT count(*) FROM {table}");
        let rows: i64 =
            sqlx::query_scalar(sqlx::AssertSqlSafe(sql)).fetch_one(&mut db).await.unwrap();
        for row in 0..usize::try_from(rows).unwrap() {
            for column in &columns {
                let is_integer = column.get::<String, _>(1) == "INTEGER";
                let (table, column) = (table.clone(), column.get(0));
                spots.push(Spot { table, row, column, is_integer });
            }
        }
    }
    spots
}

/// Changes one bit of a value, in a copy of the database without its triggers.
async fn flip(database: &Path, spot: &Spot) {
    let mut db = raw(database).await;
    let Spot { table, row, column, is_integer } = spot;
    sqlx::raw_sql("PRAGMA foreign_keys = OFF").execute(&mut db).await.unwrap();
    for trigger in ["update", "delete"] {
        let sql = format!("DROP TRIGGER IF EXISTS {table}_no_{trigger}");
        sqlx::raw_sql(sqlx::AssertSqlSafe(sql)).execute(&mut db).await.unwrap();
    }
    let sql =
        format!("SELECT group_concat(name, ',') FROM pragma_table_info('{table}') WHERE pk > 0");
    let keys: String =
        sqlx::query_scalar(sqlx::AssertSqlSafe(sql)).fetch_one(&mut db).await.unwrap();
    let new = if *is_integer {
        format!("CASE {column} & 64 WHEN 64 THEN {column} - 64 ELSE {column} + 64 END")
    } else {
        // The fifth bit of the last byte: ASCII stays ASCII, and no key becomes its neighbour.
        let (head, digit, tail) = (
            format!("substr(hex({column}), 1, length(hex({column})) - 2)"),
            format!("substr(hex({column}), -2, 1)"),
            format!("substr(hex({column}), -1)"),
        );
        let digit = format!("substr('1032547698BADCFE', instr('0123456789ABCDEF', {digit}), 1)");
        let bytes = format!("nullif(unhex({head} || {digit} || {tail}), x'')");
        // An empty value has no bit to flip: it gets a byte.
        let bytes = format!("coalesce({bytes}, 'x')");
        format!("CASE typeof({column}) WHEN 'text' THEN CAST({bytes} AS TEXT) ELSE {bytes} END")
    };
    let sql = format!(
        "UPDATE {table} SET {column} = {new}
          WHERE ({keys}) = (SELECT {keys} FROM {table} ORDER BY {keys} LIMIT 1 OFFSET {row})"
    );
    let done = sqlx::raw_sql(sqlx::AssertSqlSafe(sql)).execute(&mut db).await.unwrap();
    assert_eq!(done.rows_affected(), 1, "{table}.{column} row {row}");
    db.close().await.unwrap();
}

fn copy_folder(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        // After a clean stop these are empty, and a connection that closes late may take them away.
        if path.to_string_lossy().ends_with("-wal") || path.to_string_lossy().ends_with("-shm") {
            continue;
        }
        let target = to.join(path.file_name().unwrap());
        if path.is_dir() {
            copy_folder(&path, &target);
        } else {
            std::fs::copy(&path, &target).unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn t6_every_flipped_value_is_found_and_named() {
    let world = World::new();
    fill(&world).await;
    let (mut flips, mut misnamed) = (0, Vec::new());
    for spot in spots(&world).await {
        // A copy for each flip: a connection to the last one may still be closing.
        let copy = tempfile::tempdir().unwrap();
        copy_folder(&world.path(), copy.path());
        flip(&copy.path().join("countersign.db"), &spot).await;
        let Spot { table, row, column, .. } = &spot;
        match run(copy.path()).await {
            Ok(_) => panic!("{table}.{column} of row {row} was flipped and nobody noticed"),
            Err(problem) if problem.object == *table && problem.column == *column => {}
            Err(problem) => misnamed.push(format!("{table}.{column} row {row}: {problem}")),
        }
        flips += 1;
    }
    assert!(flips > 150, "{flips}");
    assert!(misnamed.is_empty(), "{} of {flips}:\n{}", misnamed.len(), misnamed.join("\n"));
}

#[tokio::test(flavor = "multi_thread")]
async fn t6_flipped_bits_of_published_files_are_found() {
    let world = World::new();
    fill(&world).await;
    let log = world.path().join("log");
    for name in ["checkpoint", "checkpoints/4", "tile/0/000.p/6", "tile/entries/000.p/6"] {
        let path = log.join(name);
        let sound = std::fs::read(&path).unwrap_or_else(|error| panic!("{name}: {error}"));
        for place in (0..sound.len()).step_by(sound.len() / 9 + 1) {
            let mut bad = sound.clone();
            bad[place] ^= 1;
            std::fs::write(&path, &bad).unwrap();
            let problem = run(&world.path()).await.expect_err(name);
            assert_eq!(problem.object, format!("log/{name}"), "byte {place}: {problem}");
        }
        std::fs::write(&path, sound).unwrap();
    }
    run(&world.path()).await.unwrap();
}
