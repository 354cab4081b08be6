//! PostgreSQL clusters that live as long as the test.

use std::fs;
use std::io::{BufRead as _, BufReader, Error, Result};
use std::net::TcpListener;
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// Longest time that a cluster takes to start.
const START_DEADLINE: Duration = Duration::from_secs(30);

/// The account that owns a cluster when the test runs as root, who must not.
const ACCOUNT: &str = "postgres";

/// Starts the server and ends it with the pipe from the test, however the test ends.
const SUPERVISE: &str = r#"
"$BIN/postgres" -D "$DATA" -k '' -h 127.0.0.1 -p "$PORT" "$@" >"$FOLDER/log" 2>&1 &
server=$!
echo $server
while read -r line; do kill -s "$line" $server; done
kill -s INT $server 2>/dev/null
kill -s CONT $server 2>/dev/null
wait $server
rm -rf "$FOLDER"
"#;

/// A cluster of its own: fresh, on a free port of loopback, on the disk of the temporary folder.
#[derive(Debug)]
pub struct Postgres {
    port: u16,
    databases: AtomicU32,
    bin: PathBuf,
    /// The server ends when this pipe does.
    pipe: Option<ChildStdin>,
    supervisor: Child,
}

impl Postgres {
    /// Makes and starts a cluster; its user `countersign` needs no password.
    ///
    /// # Errors
    /// If PostgreSQL's programs are not installed (Debian: `postgresql`), or do not start.
    pub fn start() -> Result<Self> {
        let bin = programs().ok_or_else(|| {
            Error::other("PostgreSQL's `initdb` is not installed (Debian: postgresql)")
        })?;
        let folder = fresh_folder()?;
        let account = account(&folder)?;
        let data = folder.join("data");
        let mut initdb = Command::new(bin.join("initdb"));
        initdb.arg("-D").arg(&data).args(["-U", "countersign", "-A", "trust", "-E", "UTF8"]);
        initdb.args(["--locale", "C", "--no-sync"]).stdout(Stdio::null()).current_dir(&folder);
        run_as(&mut initdb, account);
        if !initdb.status()?.success() {
            return Err(Error::other("initdb failed"));
        }
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let mut supervisor = Command::new("sh");
        supervisor.args(["-c", SUPERVISE, "sh", "-c", "max_connections=200"]).current_dir(&folder);
        supervisor
            .env("BIN", &bin)
            .env("DATA", &data)
            .env("FOLDER", &folder)
            .env("PORT", port.to_string());
        supervisor.stdin(Stdio::piped()).stdout(Stdio::piped());
        run_as(&mut supervisor, account);
        let mut supervisor = supervisor.spawn()?;
        let mut started = String::new();
        if let Some(out) = supervisor.stdout.take() {
            BufReader::new(out).read_line(&mut started)?;
        }
        let pipe = supervisor.stdin.take();
        let cluster = Self { port, databases: AtomicU32::new(0), bin, pipe, supervisor };
        let deadline = Instant::now() + START_DEADLINE;
        while let Err(error) = cluster.sql("postgres", "SELECT 1") {
            if Instant::now() > deadline {
                return Err(Error::other(format!("PostgreSQL does not start: {error}")));
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(cluster)
    }

    /// Makes an empty database and returns its URL.
    ///
    /// # Errors
    /// If the server does not answer.
    pub fn database(&self) -> Result<String> {
        let name = format!("test{}", self.databases.fetch_add(1, Ordering::Relaxed));
        self.sql("postgres", &format!("CREATE DATABASE {name}"))?;
        Ok(format!("postgres://countersign@127.0.0.1:{}/{name}", self.port))
    }

    /// Runs SQL by `psql` as the owner of everything and returns what it prints, unaligned and bare.
    ///
    /// `place` is a database's name, or a URL.
    ///
    /// # Errors
    /// What `psql` says.
    pub fn sql(&self, place: &str, sql: &str) -> Result<String> {
        let url = if place.contains("://") {
            place.to_owned()
        } else {
            format!("postgres://countersign@127.0.0.1:{}/{place}", self.port)
        };
        let out = Command::new(self.bin.join("psql"))
            .args(["-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-d", &url, "-c", sql])
            .stdin(Stdio::null())
            .output()?;
        if out.status.success() {
            return Ok(String::from_utf8_lossy(&out.stdout).trim_end().to_owned());
        }
        Err(Error::other(String::from_utf8_lossy(&out.stderr).into_owned()))
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        drop(self.pipe.take());
        let _ = self.supervisor.wait();
    }
}

/// Returns the folder of `initdb`, of the newest version that is installed.
fn programs() -> Option<PathBuf> {
    let needed = ["initdb", "postgres", "psql"];
    let is_there = |folder: &PathBuf| needed.iter().all(|name| folder.join(name).exists());
    let path = std::env::var_os("PATH").unwrap_or_default();
    let in_path = std::env::split_paths(&path).find(is_there);
    let debian = fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    in_path.or_else(|| debian.map(|entry| entry.path().join("bin")).filter(is_there).max())
}

fn fresh_folder() -> Result<PathBuf> {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let n = NEXT.fetch_add(1, Ordering::Relaxed);
    let name = format!("countersign-postgres-{}-{n}", std::process::id());
    let folder = std::env::temp_dir().join(name);
    fs::create_dir(&folder)?;
    fs::set_permissions(&folder, fs::Permissions::from_mode(0o755))?;
    Ok(folder)
}

/// Gives the folder to the account that runs the server, if this is root.
fn account(folder: &Path) -> Result<Option<(u32, u32)>> {
    use std::os::unix::fs::MetadataExt as _;
    if fs::metadata(folder)?.uid() != 0 {
        return Ok(None);
    }
    let accounts = fs::read_to_string("/etc/passwd")?;
    let mut fields = accounts
        .lines()
        .map(|line| line.split(':').collect::<Vec<_>>())
        .find(|fields| fields.first() == Some(&ACCOUNT))
        .ok_or_else(|| Error::other(format!("there is no account `{ACCOUNT}`")))?
        .into_iter()
        .skip(2)
        .map(|field| field.parse::<u32>().map_err(Error::other));
    let mut number = || fields.next().unwrap_or_else(|| Err(Error::other("a short line")));
    let (user, group) = (number()?, number()?);
    chown(folder, Some(user), Some(group))?;
    Ok(Some((user, group)))
}

fn run_as(command: &mut Command, account: Option<(u32, u32)>) {
    use std::os::unix::process::CommandExt as _;
    if let Some((user, group)) = account {
        command.uid(user).gid(group);
    }
}
