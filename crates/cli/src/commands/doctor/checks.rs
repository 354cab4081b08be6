//! The checks, one function each.

use std::fs::{self, File};
use std::io::Write as _;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use countersign_decision::Bundle;
use countersign_evidence::shown;
use countersign_evidence::time::utc;
use countersign_gateway::upstream::{StdioCommand, Transport};
use countersign_ledger::{Checkpoint, LeafIndex, Note};
use countersign_model::ServerName;
use countersign_store::{Clock as _, Database, Reader, SignerStatus, StoreError, moved_to};
use serde_json::Value;

use super::{Finding, config_or_default};
use crate::anchors::status;
use crate::clock::SystemClock;
use crate::commands::policy;
use crate::config::{Config, Upstream};
use crate::control::Control;
use crate::paths::Paths;
use crate::run::store_config;

/// How long a server has to accept a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// How long the disk is measured.
const MEASURE_TIME: Duration = Duration::from_millis(300);
/// No disk that really writes is faster, in synced writes per second; most are far slower.
const SYNCS_PER_SECOND_MAX: f64 = 20_000.0;
/// Free space under which someone should look, in KiB.
const FREE_KIB_LOW: u64 = 1 << 20;
/// Free space under which calls will soon be refused, in KiB.
const FREE_KIB_MIN: u64 = 64 << 10;
/// A clock before this time is wrong: 2026-01-01T00:00:00Z.
const CLOCK_MIN_MS: i64 = 1_767_225_600_000;

pub(super) fn config(paths: &Paths) -> (Config, Finding) {
    let check = "config";
    let file = paths.config.display();
    if !paths.config.exists() {
        let remedy = "make a project with `countersign init`, or name its folder with --dir";
        let says = format!("{file} does not exist, so everything has its default");
        return (Config::default(), Finding::warning(check, says, remedy));
    }
    let read = Config::read(&paths.config).and_then(|config| {
        config.gateway(paths)?;
        Ok(config)
    });
    match config_or_default(read) {
        (config, None) => {
            let says = format!("{file} is valid, with {} upstreams", config.upstreams.len());
            (config, Finding::ok(check, says))
        }
        (config, Some(error)) => {
            let remedy = format!("correct {file}; every key is explained in a fresh one of `init`");
            (config, Finding::error(check, error, remedy))
        }
    }
}

/// Checks that what holds secrets is for the owner alone.
#[cfg(unix)]
pub(super) fn permissions(paths: &Paths) -> Vec<Finding> {
    use std::os::unix::fs::PermissionsExt as _;
    let check = "permissions";
    let keys = paths.data.join("keys");
    if !keys.is_dir() {
        let says = format!("there is no keystore in {}", paths.data.display());
        return vec![Finding::error(check, says, "`countersign init` makes one; or restore yours")];
    }
    let open = |path: &PathBuf| {
        let about = fs::metadata(path).ok()?;
        let allowed = if about.is_dir() { 0o700 } else { 0o600 };
        let mode = about.permissions().mode() & 0o777;
        (mode & !allowed != 0).then(|| {
            let path = path.display();
            let says = format!("{path} has mode {mode:o}, so others may read it");
            Finding::error(check, says, format!("chmod {allowed:o} {path}"))
        })
    };
    let mut secrets = vec![paths.data.clone(), paths.token(), paths.tokens()];
    collect(&keys, &mut secrets);
    let found: Vec<_> = secrets.iter().filter_map(open).collect();
    if found.is_empty() {
        vec![Finding::ok(check, format!("{} secrets are for their owner alone", secrets.len()))]
    } else {
        found
    }
}

#[cfg(not(unix))]
pub(super) fn permissions(_paths: &Paths) -> Vec<Finding> {
    let remedy = "let nobody but the gateway's user read countersign-data";
    vec![Finding::warning("permissions", "modes are not checked on this system", remedy)]
}

fn collect(folder: &Path, into: &mut Vec<PathBuf>) {
    into.push(folder.to_owned());
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() { collect(&path, into) } else { into.push(path) }
    }
}

/// Looks for the marker that `migrate` leaves in the data folder.
pub(super) fn moved(config: &Config, paths: &Paths) -> Option<Finding> {
    let check = "moved";
    let (to, size) = match moved_to(&paths.data) {
        Ok(marker) => marker?,
        Err(error) => {
            let remedy =
                "look for the ledger where it was to go; see docs/operations/postgresql.md";
            return Some(Finding::error(check, error.to_string(), remedy));
        }
    };
    let (to, old) = (shown(&to), paths.data.join("countersign.db"));
    let says = format!("`moved.json`: the ledger of {size} records moved to {to}");
    Some(match config.store.database() {
        Database::Postgres(_) if old.exists() => {
            let says = format!("{says}; {} is what it was before", old.display());
            Finding::ok(check, says)
        }
        Database::Postgres(_) => Finding::ok(check, says),
        Database::Sqlite => {
            let says = format!("{says}, or may have, and nothing is recorded here any more");
            let remedy = "set store.url to it; if `countersign migrate` broke off, run it again first \
                          (docs/operations/postgresql.md)";
            Finding::error(check, says, remedy)
        }
    })
}

/// Checks that the database can be read, and that nothing is ahead of it.
pub(super) async fn ledger(paths: &Paths) -> Vec<Finding> {
    let check = "ledger";
    let config = match Config::read(&paths.config) {
        Ok(config) => store_config(&config),
        // Another check says what is wrong with it.
        Err(_) => return Vec::new(),
    };
    let reader = match Reader::of(&paths.data, &config).await {
        Ok(reader) => reader,
        Err(error) => {
            let remedy = "`countersign init` makes a ledger; a damaged one is restored from backup";
            return vec![Finding::error(check, error.to_string(), remedy)];
        }
    };
    let found = examine_ledger(&reader, paths).await;
    reader.close().await;
    found.unwrap_or_else(|error| {
        let remedy = "restore countersign-data from a backup, then run `countersign verify`";
        vec![Finding::error(check, error.to_string(), remedy)]
    })
}

async fn examine_ledger(reader: &Reader, paths: &Paths) -> Result<Vec<Finding>, StoreError> {
    // In this order: the log only grows, so a running gateway cannot make a checkpoint look ahead.
    let published = reader.checkpoint()?.and_then(|note| {
        let note = Note::parse(note.as_bytes()).ok()?;
        Checkpoint::parse(note.text()).ok()
    });
    let memory = paths.data.join("keys").join("signer-state");
    let signed = fs::read_to_string(memory).ok().and_then(|text| Checkpoint::parse(&text).ok());
    let size = reader.size().await?;
    let last = match size.checked_sub(1) {
        Some(last) => reader.at(LeafIndex(last)).await?,
        None => None,
    };
    let time = last.and_then(|last| last.leaf.pointer("/time/ms").and_then(Value::as_i64));
    let says = format!("tenant `{}`, {size} records", reader.tenant());
    Ok(vec![
        Finding::ok("ledger", says),
        checkpoints(size, signed.as_ref(), published.as_ref()),
        clock(SystemClock.now_ms(), time),
    ])
}

/// Looks for the signer, if it is a process of its own.
pub(super) async fn signer(config: &Config) -> Finding {
    let check = "signer";
    let Some(socket) = &config.signer.socket else {
        let says =
            "the gateway has the signing key: whoever takes over its account can sign anything";
        return Finding::ok(check, says);
    };
    match SignerStatus::ask(socket, &config.origin()).await {
        Ok(status) => {
            let says = format!("a process of its own, which has signed {} records", status.size);
            Finding::ok(check, says)
        }
        Err(error) => {
            let remedy =
                "start `countersign signer`; until then calls go on, and nothing is published";
            Finding::error(check, error.to_string(), remedy)
        }
    }
}

fn checkpoints(size: u64, signed: Option<&Checkpoint>, published: Option<&Checkpoint>) -> Finding {
    let check = "checkpoint";
    let there = |point: Option<&Checkpoint>| point.map_or(0, |point| point.size.0);
    for (what, there) in
        [("the signer has signed", there(signed)), ("the published log has", there(published))]
    {
        if there > size {
            let says = format!("{what} {there} records, the database only {size}");
            let remedy =
                "the database is an old backup: restore a newer one, or sign under a new origin";
            return Finding::error(check, says, remedy);
        }
    }
    if let (Some(signed), Some(published)) = (signed, published)
        && signed.size == published.size
        && signed.root != published.root
    {
        let says = format!("two checkpoints of size {} have different roots", signed.size.0);
        let remedy =
            "stop the gateway and keep everything: the published log was changed, or forked";
        return Finding::error(check, says, remedy);
    }
    let behind = size - there(published);
    Finding::ok(check, format!("{} records are published, {behind} are not yet", there(published)))
}

fn clock(now_ms: i64, last_ms: Option<i64>) -> Finding {
    let check = "clock";
    let remedy = "set the system clock, and let it be kept by NTP";
    if now_ms < CLOCK_MIN_MS {
        return Finding::error(check, "the system clock stands before 2026", remedy);
    }
    match last_ms.map(|last| last - now_ms) {
        Some(ahead) if ahead > countersign_store::limits::CLOCK_STEP_MS => {
            let says = format!("the last record is {} s in the future", ahead / 1_000);
            Finding::warning(check, says, remedy)
        }
        Some(_) | None => Finding::ok(check, "the clock is not behind the ledger"),
    }
}

/// Says how the anchors of the gateway fare, or fared when it ran last.
pub(super) fn anchors(paths: &Paths) -> Vec<Finding> {
    let status::Statuses { anchors, refusing } = status::read(&paths.anchors());
    let finding = |(name, status): (&String, &status::Status)| {
        let last = match (status.size, status.time_ms) {
            (Some(size), Some(ms)) => {
                format!("{name}: {size} records are anchored since {}", utc(ms))
            }
            _ => format!("{name}: nothing is anchored yet"),
        };
        match &status.error {
            None => Finding::ok("anchors", last),
            Some(error) => {
                let says = format!("{last}; now it fails: {}", shown(error));
                let remedy =
                    "mend what it says; the gateway goes on trying (docs/guides/anchors.md)";
                Finding::warning("anchors", says, remedy)
            }
        }
    };
    let refusing = refusing.then(|| {
        let says = "calls are refused: no anchor has taken a checkpoint for anchors.refuse_unanchored_after";
        let remedy = "mend an anchor; calls go on by themselves (docs/guides/anchors.md)";
        Finding::error("anchors", says, remedy)
    });
    anchors.iter().map(finding).chain(refusing).collect()
}

pub(super) fn policy(paths: &Paths) -> Finding {
    let check = "policy";
    let remedy = "`countersign policy check` names the places";
    let files = match policy::read(None, paths) {
        Ok(files) => files,
        Err(error) => {
            let remedy = "`countersign init` makes a project with a bundle";
            return Finding::error(check, format!("{error:#}"), remedy);
        }
    };
    match Bundle::load(&files) {
        Err(found) => {
            Finding::error(check, format!("the bundle has {} errors", found.len()), remedy)
        }
        Ok(bundle) if bundle.warnings().is_empty() => {
            let says = format!("the bundle loads, with {} policies", bundle.policies().count());
            Finding::ok(check, says)
        }
        Ok(bundle) => {
            let says = format!("the bundle loads, with {} warnings", bundle.warnings().len());
            Finding::warning(check, says, remedy)
        }
    }
}

pub(super) async fn upstreams(config: &Config) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (name, upstream) in &config.upstreams {
        findings.push(self::upstream(name, upstream).await);
    }
    if findings.is_empty() {
        let remedy = "name a server in countersign.toml, under [upstreams.…]";
        findings.push(Finding::warning("upstream", "no server is behind the gateway", remedy));
    }
    findings
}

async fn upstream(name: &ServerName, upstream: &Upstream) -> Finding {
    let check = "upstream";
    let works = match upstream.config(name).map(|config| config.transport) {
        Ok(Transport::Stdio(command)) => find_program(&command),
        Ok(Transport::Http { url, .. }) => connect(&url).await,
        Err(error) => Err(format!("{error:#}")),
    };
    match works {
        Ok(says) => Finding::ok(check, format!("{name}: {says}")),
        Err(says) => {
            let remedy = format!("start or install the server, or correct [upstreams.{name}]");
            Finding::error(check, format!("{name}: {says}"), remedy)
        }
    }
}

/// Looks for the program of a stdio server as the system would, in the child's own `PATH`.
fn find_program(command: &StdioCommand) -> Result<String, String> {
    let program = command.command.first().ok_or("there is no command")?;
    let path = command.env.get("PATH").map(String::as_str).unwrap_or_default();
    let found = if program.contains('/') {
        let base = command.cwd.clone().unwrap_or_default();
        Some(base.join(program)).filter(|path| path.is_file())
    } else {
        std::env::split_paths(path).map(|folder| folder.join(program)).find(|path| path.is_file())
    };
    let found = found.ok_or_else(|| format!("there is no program `{program}`"))?;
    Ok(format!("it is started as {}", found.display()))
}

/// Connects to the address of an HTTP server, without asking it for anything.
async fn connect(url: &hyper::Uri) -> Result<String, String> {
    let host = url.host().ok_or("its URL has no host")?;
    let secure = url.scheme_str() == Some("https");
    let port = url.port_u16().unwrap_or(if secure { 443 } else { 80 });
    let address = (host.trim_matches(['[', ']']), port);
    let connecting = tokio::net::TcpStream::connect(address);
    match tokio::time::timeout(CONNECT_TIMEOUT, connecting).await {
        Ok(Ok(_)) => Ok(format!("{host}:{port} accepts connections")),
        Ok(Err(error)) => Err(format!("{host}:{port} cannot be reached: {error}")),
        Err(_) => Err(format!("{host}:{port} does not accept connections in time")),
    }
}

/// Asks `df` (POSIX) for the free space.
pub(super) async fn disk_space(data: &Path) -> Finding {
    let check = "disk space";
    let asked = tokio::process::Command::new("df").arg("-Pk").arg(data).output().await;
    let output = asked.map(|output| String::from_utf8_lossy(&output.stdout).into_owned());
    let Some(free_kib) = output.ok().and_then(|text| free_kib(&text)) else {
        let remedy = "see that the disk of countersign-data is watched";
        return Finding::warning(check, "the free space cannot be found out", remedy);
    };
    let says = format!("{} MiB are free", free_kib / 1_024);
    let remedy = "make room: when the ledger cannot be written, every call is refused";
    if free_kib < FREE_KIB_MIN {
        Finding::error(check, says, remedy)
    } else if free_kib < FREE_KIB_LOW {
        Finding::warning(check, says, remedy)
    } else {
        Finding::ok(check, says)
    }
}

/// Reads the column `Available` of `df -Pk`.
fn free_kib(output: &str) -> Option<u64> {
    output.lines().nth(1)?.split_whitespace().nth(3)?.parse().ok()
}

/// Measures how many small writes a second become durable.
pub(super) fn disk_speed(data: &Path) -> Finding {
    let check = "disk speed";
    let path = data.join(format!(".doctor-{}", std::process::id()));
    let measured = measure(&path);
    let _ = fs::remove_file(&path);
    match measured {
        Err(error) => {
            let says = format!("{} cannot be written: {error}", data.display());
            Finding::error(check, says, "give the gateway's user a data folder that it can write")
        }
        Ok(rate) if rate > SYNCS_PER_SECOND_MAX => {
            let says = format!("{rate:.0} synced writes a second are too many to be true");
            let remedy = "the disk says that data is safe when it is not (tmpfs? a cache without battery?): \
                          put countersign-data on another";
            Finding::warning(check, says, remedy)
        }
        Ok(rate) => Finding::ok(check, format!("{rate:.0} synced writes a second")),
    }
}

fn measure(path: &Path) -> std::io::Result<f64> {
    let mut file = File::create(path)?;
    let start = Instant::now();
    let mut writes = 0_u32;
    while start.elapsed() < MEASURE_TIME {
        file.write_all(&[0x5a; 1_024])?;
        file.sync_data()?;
        writes += 1;
    }
    Ok(f64::from(writes) / start.elapsed().as_secs_f64())
}

pub(super) fn running(control: &Control) -> Finding {
    let addresses = &control.addresses;
    let (data, control, pid) = (&addresses.data_plane, &addresses.control_plane, addresses.pid);
    Finding::ok("gateway", format!("process {pid} serves {data}, control plane {control}"))
}

/// Checks that a gateway could listen.
pub(super) fn ports(config: &Config) -> Vec<Finding> {
    let mut findings = vec![Finding::ok("gateway", "no gateway is running")];
    for (plane, address) in
        [("data plane", &config.data_plane.listen), ("control plane", &config.control_plane.listen)]
    {
        findings.push(match TcpListener::bind(address) {
            Ok(_) => Finding::ok("port", format!("{address} is free for the {plane}")),
            Err(error) => {
                let remedy = "stop the program that has it, or set `listen` in countersign.toml";
                let says = format!("the {plane} cannot listen on {address}: {error}");
                Finding::error("port", says, remedy)
            }
        });
    }
    findings
}

#[cfg(test)]
mod tests {
    use countersign_ledger::{Hash, TreeSize};

    use super::super::Status;
    use super::*;

    fn point(size: u64, root: u8) -> Option<Checkpoint> {
        Some(Checkpoint {
            origin: "localhost/t".into(),
            size: TreeSize(size),
            root: Hash([root; 32]),
        })
    }

    #[test]
    fn checkpoints_ahead_of_the_database_are_errors() {
        for (size, signed, published, status) in [
            (0, None, None, Status::Ok),
            (9, point(9, 1), point(9, 1), Status::Ok),
            (9, point(9, 1), point(8, 2), Status::Ok),
            (9, point(9, 1), point(9, 2), Status::Error),
            (8, point(9, 1), point(8, 1), Status::Error),
            (8, None, point(9, 1), Status::Error),
        ] {
            let found = checkpoints(size, signed.as_ref(), published.as_ref());
            assert_eq!(found.status, status, "{}", found.says);
        }
    }

    #[test]
    fn the_marker_of_a_move_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let paths = Paths::new(folder.path());
        fs::create_dir(&paths.data).unwrap();
        let shared: Config =
            toml::from_str("[store]\nurl = [\"postgres://db1/countersign\"]").unwrap();
        let configs = [Config::default(), shared];
        let found = || configs.each_ref().map(|config| moved(config, &paths));
        assert!(found().iter().all(Option::is_none));
        let marker = r#"{"to": ["postgres://db1:5432/countersign"], "size": 7, "root": "00"}"#;
        for (text, statuses) in
            [(marker, [Status::Error, Status::Ok]), ("{", [Status::Error, Status::Error])]
        {
            fs::write(paths.data.join("moved.json"), text).unwrap();
            let found = found().map(Option::unwrap);
            assert_eq!(found.each_ref().map(|found| found.status), statuses, "{found:?}");
            assert!(found.iter().all(|found| found.says.contains("moved.json")), "{found:?}");
        }
        fs::write(paths.data.join("moved.json"), marker).unwrap();
        assert!(
            found()[0].as_ref().unwrap().says.contains("7 records moved to postgres://db1:5432/")
        );
    }

    #[test]
    fn a_clock_behind_the_ledger_is_noticed() {
        let now = CLOCK_MIN_MS + 5_000;
        for (now, last, status) in [
            (now, None, Status::Ok),
            (now, Some(now + 1_000), Status::Ok),
            (now, Some(now + 1_001), Status::Warning),
            (0, None, Status::Error),
        ] {
            assert_eq!(clock(now, last).status, status);
        }
    }

    #[test]
    fn free_space_is_read_from_df() {
        let output = "Filesystem     1024-blocks     Used Available Capacity Mounted on\n\
                      /dev/vda1         41151808 17532532  21496660      45% /\n";
        assert_eq!(free_kib(output), Some(21_496_660));
        assert_eq!(free_kib("df: no such file"), None);
    }

    #[test]
    fn programs_are_looked_for_in_the_childs_path() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("server"), "").unwrap();
        let here = folder.path().display().to_string();
        for (program, path, found) in [
            ("server", here.clone(), true),
            ("server", "/nowhere".to_owned(), false),
            ("./server", String::new(), true),
            ("./other", here.clone(), false),
        ] {
            let command = StdioCommand {
                command: vec![program.to_owned()],
                env: [("PATH".to_owned(), path)].into(),
                cwd: Some(folder.path().to_owned()),
            };
            assert_eq!(find_program(&command).is_ok(), found, "{program}");
        }
    }
}
