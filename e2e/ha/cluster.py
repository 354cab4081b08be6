"""etcd, and three PostgreSQL servers under Patroni, as docs/operations/postgresql.md wants them."""

import json
import os
import pwd
import random
import shutil
import signal
import socket
import subprocess
import time
import urllib.request
from pathlib import Path

ACCOUNT = "postgres"
OWNER, DATABASE = "countersign", "countersign"
NODES = ("pg1", "pg2", "pg3")
START_SECONDS, HEAL_SECONDS = 90, 120
PARAMETERS = {
    "synchronous_commit": "on", "fsync": "on", "full_page_writes": "on", "max_connections": 100,
    "wal_keep_size": "256MB", "hot_standby": "on",
}
# Short enough that a failover is over well within a minute: loop_wait + 2 * retry_timeout <= ttl.
DYNAMIC = {
    "ttl": 20, "loop_wait": 3, "retry_timeout": 4, "primary_start_timeout": 10,
    "maximum_lag_on_failover": 1 << 20,
    "synchronous_mode": True, "synchronous_mode_strict": True,
    "postgresql": {
        "use_pg_rewind": True, "use_slots": True, "parameters": PARAMETERS,
    },
}
used_ports = set()


def free_port():
    """A port that is free, and that no outgoing connection takes while its server is down."""
    while True:
        port = random.SystemRandom().randrange(15000, 32000)
        with socket.socket() as listener:
            try:
                listener.bind(("127.0.0.1", port))
            except OSError:
                continue
        if port not in used_ports:
            used_ports.add(port)
            return port


def find_programs():
    """Finds what must be installed; PostgreSQL's own programs lie outside of the path on Debian."""
    versions = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: int(path.parent.name))
    bin_dir = versions[-1] if versions else Path(shutil.which("postgres") or "/").parent
    found = {"etcd": shutil.which("etcd"), "patroni": shutil.which("patroni"),
             "postgres": shutil.which("postgres", path=str(bin_dir))}
    missing = [name for name, path in found.items() if not path]
    if missing:
        raise SystemExit(f"run: needs {', '.join(missing)}; on Debian: apt install postgresql patroni etcd-server")
    return bin_dir


def as_account(command):
    """PostgreSQL refuses to run as root."""
    if os.geteuid() != 0:
        return command
    return ["setpriv", f"--reuid={ACCOUNT}", f"--regid={ACCOUNT}", "--clear-groups", *command]


def give(path):
    if os.geteuid() == 0:
        entry = pwd.getpwnam(ACCOUNT)
        os.chown(path, entry.pw_uid, entry.pw_gid)


def request(url, body=None, timeout=3):
    data = None if body is None else json.dumps(body).encode()
    with urllib.request.urlopen(urllib.request.Request(url, data), timeout=timeout) as response:
        return response.read().decode()


def children(pid):
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                stat = (entry / "stat").read_text()
            except OSError:
                continue
            if int(stat.rsplit(")", 1)[1].split()[1]) == pid:
                found += [int(entry.name), *children(int(entry.name))]
    return found


def send(pids, number):
    for pid in pids:
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            pass


class Etcd:
    def __init__(self, folder, logs):
        client, peer = free_port(), free_port()
        self.endpoint = f"127.0.0.1:{client}"
        urls = [f"--listen-client-urls=http://{self.endpoint}", f"--advertise-client-urls=http://{self.endpoint}",
                f"--listen-peer-urls=http://127.0.0.1:{peer}",
                f"--initial-advertise-peer-urls=http://127.0.0.1:{peer}",
                f"--initial-cluster=default=http://127.0.0.1:{peer}"]
        command = [shutil.which("etcd"), "--enable-v2=true", f"--data-dir={folder / 'etcd'}", *urls]
        log = open(logs / "etcd.log", "ab")
        self.process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)

    def stop(self):
        self.process.kill()
        self.process.wait()


class Node:
    """One PostgreSQL server and the Patroni that keeps it."""

    def __init__(self, name, folder, logs, endpoint, bin_dir):
        self.name, self.log, self.process = name, logs / f"{name}.log", None
        self.port, self.api = free_port(), free_port()
        self.home = folder / name
        self.data = self.home / "data"
        self.home.mkdir()
        give(self.home)
        self.config = self.home / "patroni.json"
        account = {"password": "ha"}
        self.config.write_text(json.dumps({
            # Not `etcd3`: Patroni 3.0 overwrites another leader's key there when it wakes up.
            "scope": "ha", "name": name, "etcd": {"host": endpoint},
            "restapi": {"listen": f"127.0.0.1:{self.api}", "connect_address": f"127.0.0.1:{self.api}"},
            "bootstrap": {"dcs": DYNAMIC, "initdb": ["data-checksums", {"encoding": "UTF8"}, {"locale": "C"}]},
            "postgresql": {
                "listen": f"127.0.0.1:{self.port}", "connect_address": f"127.0.0.1:{self.port}",
                "data_dir": str(self.data), "bin_dir": str(bin_dir), "pgpass": str(self.home / "pgpass"),
                "authentication": {"superuser": {"username": "postgres", **account},
                                   "replication": {"username": "replicator", **account},
                                   "rewind": {"username": "rewinder", **account}},
                "pg_hba": ["host all all 127.0.0.1/32 trust", "host replication all 127.0.0.1/32 trust"],
                "parameters": {"unix_socket_directories": str(self.home)},
                "basebackup": [{"checkpoint": "fast"}],
                "remove_data_directory_on_rewind_failure": True,
                "remove_data_directory_on_diverged_timelines": True,
            },
            "watchdog": {"mode": "off"},
        }, indent=1))
        os.chmod(self.config, 0o644)

    def start(self):
        # What the account has to find: neither the caller's folder nor the caller's Python.
        clean = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "HOME": str(self.home), "LANG": "C.UTF-8"}
        command = as_account([shutil.which("patroni"), str(self.config)])
        self.process = subprocess.Popen(command, stdout=open(self.log, "ab"), stderr=subprocess.STDOUT,
                                        cwd=self.home, env=clean, start_new_session=True)

    def postmaster(self):
        """The server's first process, if it is this node's."""
        try:
            pid = int((self.data / "postmaster.pid").read_text().split()[0])
            return pid if os.readlink(f"/proc/{pid}/cwd") == str(self.data) else None
        except (OSError, ValueError, IndexError):
            return None

    def pids(self):
        """Patroni and what it started, then the server and its backends: the parents first."""
        found = []
        for parent in (self.process.pid if self.process and self.process.poll() is None else None, self.postmaster()):
            if parent:
                found += [parent, *children(parent)]
        return list(dict.fromkeys(found))

    def pause(self):
        # Twice: what a parent started before it was stopped is stopped then.
        send(self.pids(), signal.SIGSTOP)
        send(self.pids(), signal.SIGSTOP)

    def resume(self):
        send(self.pids(), signal.SIGCONT)

    def kill(self):
        send(self.pids(), signal.SIGKILL)
        self.process.wait()
        time.sleep(0.2)
        send(self.pids(), signal.SIGKILL)

    def sql(self, text, user="postgres", database=DATABASE, seconds=5):
        """Runs SQL on this server; gives rows of texts. Raises `OSError` if it cannot."""
        command = ["psql", "-X", "-q", "-A", "-t", "-F", "\t", "-v", "ON_ERROR_STOP=1", "-h", "127.0.0.1",
                   "-p", str(self.port), "-U", user, "-d", database, "-c", text]
        clean = {**os.environ, "PGCONNECT_TIMEOUT": "3"}
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=seconds, env=clean)
        except subprocess.TimeoutExpired as error:
            raise OSError(f"{self.name} does not answer") from error
        if done.returncode:
            raise OSError(done.stderr.strip())
        return [line.split("\t") for line in done.stdout.splitlines()]


class Cluster:
    def __init__(self, folder, logs):
        bin_dir = find_programs()
        os.chmod(folder, 0o755)
        self.etcd = Etcd(folder, logs)
        self.nodes = [Node(name, folder, logs, self.etcd.endpoint, bin_dir) for name in NODES]

    def start(self):
        for node in self.nodes:
            node.start()
        if not self.wait_healthy(START_SECONDS):
            raise SystemExit("run: the PostgreSQL servers do not come up; see their logs")
        primary = self.primary()
        primary.sql(f"CREATE ROLE {OWNER} LOGIN CREATEROLE", database="postgres", seconds=20)
        primary.sql(f"CREATE DATABASE {DATABASE} OWNER {OWNER}", database="postgres", seconds=20)

    def urls(self):
        return [f"postgres://{OWNER}@127.0.0.1:{node.port}/{DATABASE}" for node in self.nodes]

    def members(self):
        """What any node says of all: name, role, state, timeline."""
        for node in self.nodes:
            try:
                return json.loads(request(f"http://127.0.0.1:{node.api}/cluster"))["members"]
            except (OSError, ValueError, KeyError):
                continue
        return []

    def primary(self):
        """The node that leads, by Patroni's word and the server's own."""
        for member in self.members():
            if member["role"] == "leader" and member["state"] == "running":
                node = next(node for node in self.nodes if node.name == member["name"])
                try:
                    if node.sql("SELECT pg_is_in_recovery()", database="postgres") == [["f"]]:
                        return node
                except OSError:
                    pass
        return None

    def healthy(self):
        members = self.members()
        roles = sorted(member["role"] for member in members if member["state"] in ("running", "streaming"))
        if roles != ["leader", "replica", "sync_standby"] or len({member.get("timeline") for member in members}) != 1:
            return False
        primary = self.primary()
        try:
            sync = "SELECT count(*), count(*) FILTER (WHERE sync_state = 'sync') FROM pg_stat_replication"
            sync += " WHERE state = 'streaming'"
            return primary is not None and primary.sql(sync, database="postgres") == [["2", "1"]]
        except OSError:
            return False

    def wait_healthy(self, seconds=HEAL_SECONDS):
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if self.healthy():
                return True
            time.sleep(0.5)
        return False

    def sql(self, text, user="postgres"):
        """Runs SQL on the primary, whichever it is; `None` if there is none."""
        primary = self.primary()
        try:
            return primary and primary.sql(text, user)
        except OSError:
            return None

    def switchover(self):
        """Asks the leader to hand over to the synchronous standby; gives both names."""
        members = {member["role"]: member["name"] for member in self.members()}
        leader, candidate = members["leader"], members["sync_standby"]
        node = next(node for node in self.nodes if node.name == leader)
        url = f"http://127.0.0.1:{node.api}/switchover"
        request(url, {"leader": leader, "candidate": candidate}, timeout=60)
        return leader, candidate

    def stop(self):
        for node in self.nodes:
            if node.process:
                node.kill()
        self.etcd.stop()
