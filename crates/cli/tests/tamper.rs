//! T6, R-064: one bit is changed at a time, in every published file and all over the database, and
//! `countersign verify` must fail and name the place.
//!
//! Bits that mean nothing (free space in SQLite's pages, SQLite's own counters) may go unseen; whether
//! a bit means something is decided by reading the whole database before and after.
//! The size of the run: `COUNTERSIGN_TAMPER_FLIPS` (database), `…_FILE_FLIPS` (each file), `…_SEED`.

#![cfg(test)]

mod harness {
    pub(crate) mod caller;
    pub(crate) mod project;
    pub(crate) mod random;
    pub(crate) mod settings;
}

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use countersign_testkit::{Behaviour, FakeUpstream};
use harness::caller::Caller;
use harness::project::Project;
use harness::random::Random;
use harness::settings::{say, setting};
use serde_json::Value;
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{AssertSqlSafe, Connection as _, Row as _, SqliteConnection};

/// Calls that the log has at least.
const CALLS: usize = 24;
/// The page size of the database, SQLite's default.
const PAGE: usize = 4_096;

/// A stopped installation with some history, and its parts as they should be.
struct Installation {
    _folder: tempfile::TempDir,
    project: Project,
    database: Vec<u8>,
}

impl Installation {
    /// Makes calls through a gateway: some answered, some refused, one that ended in a crash.
    async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let upstream = FakeUpstream::start().await.unwrap();
        let project = Project::new(folder.path(), &upstream.url()).await;
        let caller = Caller::new(&project.key);
        let mut gateway = project.serve();
        upstream.behave_once(Behaviour::Stall);
        let lost = tokio::spawn({
            let (caller, url) = (caller.clone(), gateway.url.clone());
            async move { caller.echo(&url, "lost", "lost").await }
        });
        upstream.wait_for_calls(1).await;
        gateway.kill();
        lost.await.unwrap().unwrap_err();

        let gateway = project.serve();
        for number in 0..CALLS {
            let key = format!("call-{number}");
            let answer = caller.echo(&gateway.url, &key, &key).await.unwrap();
            assert!(answer.is_result() && !answer.replayed, "{answer:?}");
            if number % 8 == 7 {
                wait_for_checkpoint(&project.data()).await;
            }
        }
        let stranger = Caller::new("csk_prod_stranger_00");
        assert_eq!(stranger.echo(&gateway.url, "x", "x").await.unwrap().status, 401);
        gateway.stop();
        let database = std::fs::read(project.data().join("countersign.db")).unwrap();
        let made = Self { _folder: folder, project, database };
        made.verify().expect("the installation is sound before anything is changed");
        made
    }

    fn database(&self) -> PathBuf {
        self.project.data().join("countersign.db")
    }

    /// Puts the database back as it was.
    fn restore(&self) {
        for suffix in ["-wal", "-shm"] {
            let _ = std::fs::remove_file(format!("{}{suffix}", self.database().display()));
        }
        std::fs::write(self.database(), &self.database).unwrap();
    }

    /// Runs `countersign verify`; the error is what it names as bad.
    fn verify(&self) -> Result<(), String> {
        let output = self.project.command(&["verify", "--json"]).output().unwrap();
        let complaint = String::from_utf8_lossy(&output.stderr).into_owned();
        match output.status.code() {
            Some(0) => Ok(()),
            Some(1) => Err(place(&output.stdout).unwrap_or(complaint)),
            _ => panic!("verify ended with {}: {complaint}", output.status),
        }
    }
}

/// Reads which object a verification names, with its index.
fn place(stdout: &[u8]) -> Option<String> {
    let found: Value = serde_json::from_slice(stdout).ok()?;
    let problem = &found["problem"];
    Some(format!("{} {} {}", problem["object"].as_str()?, problem["index"], problem["reason"]))
}

/// Waits until one more checkpoint is published.
async fn wait_for_checkpoint(data: &Path) {
    let count = || std::fs::read_dir(data.join("log/checkpoints")).map_or(0, Iterator::count);
    let (before, started) = (count(), Instant::now());
    while count() == before {
        assert!(started.elapsed() < Duration::from_secs(20), "no checkpoint was published");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Lists the files below a folder.
fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { found.extend(files(&path)) } else { found.push(path) }
    }
    found.sort();
    found
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn t6_r_064_every_flipped_bit_of_a_published_file_is_found_and_its_file_named() {
    let installation = Installation::new().await;
    let each: usize = setting("COUNTERSIGN_TAMPER_FILE_FLIPS", 4);
    let mut random = Random::new(setting("COUNTERSIGN_TAMPER_SEED", 1));
    let log = installation.project.data().join("log");
    let (mut flips, files) = (0, files(&log));
    for file in &files {
        let sound = std::fs::read(file).unwrap();
        let name = file.strip_prefix(&log).unwrap().to_str().unwrap();
        for _ in 0..each {
            let place = below(&mut random, sound.len());
            let mut bad = sound.clone();
            bad[place] ^= 1 << random.below(8);
            std::fs::write(file, &bad).unwrap();
            let found = installation.verify().expect_err(name);
            assert!(found.contains(&format!("{name} ")), "{name}, byte {place}: {found}");
            flips += 1;
        }
        std::fs::write(file, &sound).unwrap();
    }
    installation.verify().unwrap();
    say(&format!(
        "T6: {flips} bits flipped in {} published files, all found and named",
        files.len()
    ));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn t6_r_064_a_changed_value_of_every_column_is_found_and_named() {
    let installation = Installation::new().await;
    let mut random = Random::new(setting("COUNTERSIGN_TAMPER_SEED", 1));
    let (mut changes, mut empty) = (0, Vec::new());
    for (table, columns) in schema(&installation.database()).await {
        for column in columns {
            let Some(rows) = change(&installation.database(), &table, &column, &mut random).await
            else {
                empty.push(table);
                break;
            };
            let found = installation.verify().expect_err(&format!("{table}.{column}"));
            let named = found.contains(&table) && found.contains(&column);
            assert!(named, "{table}.{column} of {rows} rows: {found}");
            installation.restore();
            changes += 1;
        }
    }
    installation.verify().unwrap();
    assert_eq!(empty, ["anchor"], "tables that the installation has no rows of");
    say(&format!("T6: {changes} columns changed, all found and named; without rows: {empty:?}"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn t6_r_064_flipped_bits_of_the_database_file_are_found_wherever_they_mean_something() {
    let installation = Installation::new().await;
    let flips: usize = setting("COUNTERSIGN_TAMPER_FLIPS", 300);
    let mut random = Random::new(setting("COUNTERSIGN_TAMPER_SEED", 1));
    let meaning = contents(&installation.database()).await.unwrap();
    installation.restore();
    let (mut found, mut idle, mut unseen) = (0, BTreeMap::<&str, usize>::new(), Vec::new());
    for flip in 0..flips {
        // Every page gets its share.
        let pages = installation.database.len() / PAGE;
        let position = flip % pages * PAGE + below(&mut random, PAGE);
        let mut bad = installation.database.clone();
        bad[position] ^= 1 << random.below(8);
        std::fs::write(installation.database(), &bad).unwrap();
        match installation.verify() {
            Err(place) => {
                assert!(!place.trim().is_empty(), "byte {position}: no place is named");
                found += 1;
            }
            Ok(()) => match difference(&meaning, contents(&installation.database()).await) {
                None => *idle.entry(region(position)).or_default() += 1,
                Some(changed) => unseen.push(format!("byte {position}: {changed}")),
            },
        }
        installation.restore();
    }
    installation.verify().unwrap();
    say(&format!(
        "T6: {flips} bits flipped in a database of {} pages: {found} found; without meaning: {idle:?}",
        installation.database.len() / PAGE,
    ));
    assert!(unseen.is_empty(), "what the database says was changed unseen:\n{}", unseen.join("\n"));
    assert!(found > flips / 4, "too few flips hit anything");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r_064_two_swapped_records_are_found_and_the_first_is_named() {
    let installation = Installation::new().await;
    let mut db = open(&installation.database()).await.unwrap();
    sqlx::raw_sql(
        "DROP TRIGGER intake_no_update;
         CREATE TEMP TABLE two AS SELECT rowid AS id, body FROM intake WHERE rowid IN (8, 12);
         UPDATE intake SET body = (SELECT body FROM two WHERE id = 20 - intake.rowid)
          WHERE rowid IN (8, 12);",
    )
    .execute(&mut db)
    .await
    .unwrap();
    db.close().await.unwrap();
    let found = installation.verify().unwrap_err();
    assert!(found.starts_with("intake, body 7 "), "{found}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r_064_a_schema_that_allows_what_ours_forbids_is_found_and_named() {
    let installation = Installation::new().await;
    let silent = "CREATE TRIGGER leaf_no_delete BEFORE DELETE ON leaf BEGIN SELECT 1; END";
    for (damage, named) in [
        ("DROP TRIGGER intake_no_delete", "sqlite_schema, intake_no_delete"),
        (&format!("DROP TRIGGER leaf_no_delete; {silent}"), "sqlite_schema, leaf_no_delete"),
        ("CREATE TABLE spare (x INTEGER)", "sqlite_schema, spare"),
        ("PRAGMA user_version = 7", "countersign.db, user_version"),
    ] {
        let mut db = open(&installation.database()).await.unwrap();
        sqlx::raw_sql(AssertSqlSafe(damage)).execute(&mut db).await.unwrap();
        db.close().await.unwrap();
        let found = installation.verify().expect_err(damage);
        assert!(found.starts_with(named), "{damage}: {found}");
        installation.restore();
    }
}

fn below(random: &mut Random, bound: usize) -> usize {
    usize::try_from(random.below(u64::try_from(bound).unwrap())).unwrap()
}

/// Says which part of the file a byte is in.
fn region(position: usize) -> &'static str {
    if position < 100 { "SQLite's file header" } else { "free space in pages" }
}

async fn open(path: &Path) -> Result<SqliteConnection, sqlx::Error> {
    SqliteConnection::connect_with(&SqliteConnectOptions::new().filename(path)).await
}

/// Lists the tables with their columns.
async fn schema(path: &Path) -> Vec<(String, Vec<String>)> {
    let mut db = open(path).await.unwrap();
    let rows: Vec<(String, String)> = sqlx::query_as(
        "SELECT t.name, c.name FROM sqlite_schema t JOIN pragma_table_info(t.name) c
          WHERE t.type = 'table' ORDER BY t.name, c.cid",
    )
    .fetch_all(&mut db)
    .await
    .unwrap();
    db.close().await.unwrap();
    let mut tables = BTreeMap::<_, Vec<_>>::new();
    for (table, column) in rows {
        tables.entry(table).or_default().push(column);
    }
    tables.into_iter().collect()
}

/// Changes one bit of a column in a random row, past the triggers; returns how many rows there are.
async fn change(path: &Path, table: &str, column: &str, random: &mut Random) -> Option<usize> {
    let mut db = open(path).await.unwrap();
    let ask = |sql: String| sqlx::query(AssertSqlSafe(sql));
    let keys = format!("SELECT group_concat(name) FROM pragma_table_info('{table}') WHERE pk > 0");
    let keys: String = ask(keys).fetch_one(&mut db).await.unwrap().get(0);
    let sql =
        format!("SELECT typeof({column}), hex({column}), {column} FROM {table} ORDER BY {keys}");
    let rows = ask(sql).fetch_all(&mut db).await.unwrap();
    if rows.is_empty() {
        return None;
    }
    let row = below(random, rows.len());
    let (kind, hex): (String, String) = (rows[row].get(0), rows[row].get(1));
    let value = if kind == "integer" {
        (rows[row].get::<i64, _>(2) ^ 64).to_string()
    } else {
        // The fifth bit of the last byte: text stays text, and no key becomes its neighbour.
        let (head, last) = hex.split_at(hex.len().saturating_sub(2));
        // An empty value has no bit to flip: it gets a byte.
        let last = u8::from_str_radix(last, 16).unwrap_or(b'a') ^ 16;
        format!("CAST(x'{head}{last:02X}' AS {kind})")
    };
    for sql in [
        "PRAGMA foreign_keys = OFF".to_owned(),
        format!("DROP TRIGGER IF EXISTS {table}_no_update"),
        format!(
            "UPDATE {table} SET {column} = {value}
              WHERE ({keys}) = (SELECT {keys} FROM {table} ORDER BY {keys} LIMIT 1 OFFSET {row})"
        ),
    ] {
        ask(sql).execute(&mut db).await.unwrap();
    }
    db.close().await.unwrap();
    Some(rows.len())
}

/// Tells in what two readings of the database differ.
fn difference(sound: &[String], now: Result<Vec<String>, String>) -> Option<String> {
    let now = match now {
        Ok(now) => now,
        Err(error) => return Some(format!("it cannot be read: {error}")),
    };
    let only = |one: &[String], other: &[String]| {
        let row = one.iter().find(|row| !other.contains(row));
        row.map(|row| row.chars().take(400).collect::<String>())
    };
    (now != sound).then(|| format!("was {:?}, is {:?}", only(sound, &now), only(&now, sound)))
}

/// Reads everything that a database says: its schema and every value of every row.
async fn contents(path: &Path) -> Result<Vec<String>, String> {
    let read = async {
        let mut db = open(path).await?;
        let version = sqlx::query_scalar("PRAGMA user_version");
        let version: i64 = version.fetch_one(&mut db).await?;
        let mut all = vec![format!("version {version}")];
        let mut tables = schema_names(&mut db).await?;
        tables.push("sqlite_schema".to_owned());
        for table in tables {
            let columns = format!("SELECT name FROM pragma_table_info('{table}')");
            let columns: Vec<String> =
                sqlx::query_scalar(AssertSqlSafe(columns)).fetch_all(&mut db).await?;
            let values: Vec<_> = columns
                .iter()
                .map(|column| format!("typeof({column}) || hex(CAST({column} AS BLOB))"))
                .collect();
            let values = values.join("|| ' ' ||");
            let sql = format!("SELECT '{table} ' || {values} FROM {table} ORDER BY 1");
            let rows: Vec<String> =
                sqlx::query_scalar(AssertSqlSafe(sql)).fetch_all(&mut db).await?;
            all.extend(rows);
        }
        db.close().await?;
        Ok::<_, sqlx::Error>(all)
    };
    read.await.map_err(|error| error.to_string())
}

async fn schema_names(db: &mut SqliteConnection) -> Result<Vec<String>, sqlx::Error> {
    sqlx::query_scalar("SELECT name FROM sqlite_schema WHERE type = 'table' ORDER BY name")
        .fetch_all(db)
        .await
}
