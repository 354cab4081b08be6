"""Starts what the clients talk to: the servers, and Countersign in front of them."""

import json
import os
import select
import socket
import subprocess
import sys
import time
import urllib.request
from dataclasses import dataclass
from pathlib import Path

START_SECONDS = 30
STOP_SECONDS = 10
HERE = Path(__file__).resolve().parent
REPOSITORY = HERE.parents[1]

CONFIG = """
[data_plane]
listen = "127.0.0.1:0"

[control_plane]
listen = "127.0.0.1:0"

[upstreams.everything]
command = {everything}

[upstreams.everything-http]
url = "http://127.0.0.1:{http_port}/mcp"

[upstreams.modern]
command = {modern}

[upstreams.modern-http]
url = "http://127.0.0.1:{modern_port}/mcp"

[upstreams.files]
command = {files}

[upstreams.scratch]
command = {scratch}
"""

SERVERS = ("everything", "everything-http", "modern", "modern-http", "files", "scratch")
# What `countersign wrap` puts behind the gateway, under names of its own.
WRAPPED = ("wrapped-everything", "wrapped-files", "wrapped-scratch")

# Everything these servers offer is permitted but one tool; what a server asks of the client is permitted too.
POLICY = "".join(
    f'@id("use-{server}") permit(principal == Agent::"e2e", action, resource == Server::"{server}");\n'
    for server in (*SERVERS, *WRAPPED)
) + "".join(
    f'@id("no-write-{server}") forbid(principal, action == Action::"{server}/write_file", resource);\n'
    for server in ("files", "wrapped-files")
)


def free_port():
    """A port that was free a moment ago; server-everything cannot report one it chose itself."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


class Processes:
    """The processes started for a run; they all end with it."""

    def __init__(self, logs):
        self.logs = logs
        self.started = []

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for process in reversed(self.started):
            process.terminate()
            try:
                process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()

    def start(self, name, command, env=None, **more):
        """Starts a process whose standard error goes to a log file of its name."""
        log = open(self.logs / f"{name}.log", "wb")
        more.setdefault("stdout", log)
        process = subprocess.Popen(command, stderr=log, env={**os.environ, **(env or {})}, **more)
        self.started.append(process)
        return process

    def start_http(self, name, command, port, env=None):
        """Starts a server and waits until it accepts connections on its port."""
        process = self.start(name, command, env)
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline and process.poll() is None:
            try:
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
                return
            except OSError:
                time.sleep(0.05)
        raise SystemExit(f"{name} did not start; see {self.logs / name}.log")


@dataclass
class Servers:
    """The upstream servers: commands for stdio, ports for HTTP, directories for files."""

    node: str
    work: Path

    def __post_init__(self):
        modules = HERE / "node_modules" / "@modelcontextprotocol"
        self.everything_js = str(modules / "server-everything" / "dist" / "index.js")
        self.files_js = str(modules / "server-filesystem" / "dist" / "index.js")
        self.http_port = free_port()
        self.modern_port = free_port()

    def everything(self):
        return (self.node, self.everything_js, "stdio")

    def modern(self):
        return (sys.executable, str(HERE / "modern_server.py"))

    def files(self, directory):
        return (self.node, self.files_js, str(directory))

    def start(self, processes):
        """Starts the servers that are reached by HTTP."""
        everything = (self.node, self.everything_js, "streamableHttp")
        processes.start_http("everything-http", everything, self.http_port, {"PORT": str(self.http_port)})
        modern = (*self.modern(), "--port", str(self.modern_port))
        processes.start_http("modern-http", modern, self.modern_port)


@dataclass
class Gateway:
    """A running Countersign with one agent, `e2e`."""

    program: str
    directory: Path
    url: str
    key: str

    def wrap(self, name, command):
        """The command by which a stdio client reaches a server through the gateway."""
        return (self.program, "wrap", "--dir", str(self.directory), "--name", name, "--agent", "e2e", "--", *command)

    def wrap_env(self):
        """The credential a wrapped client carries: it comes from the environment, never from the protocol."""
        return {"COUNTERSIGN_KEY": self.key}

    def records(self):
        """Every record about the agent so far, as the lines that the query prints."""
        query = [self.program, "records", "query", "--dir", str(self.directory), "--json", "--agent", "e2e"]
        return [line for line in run(query).splitlines() if line.strip()]


def run(command):
    done = subprocess.run(command, capture_output=True, text=True, timeout=START_SECONDS)
    if done.returncode != 0:
        raise SystemExit(f"`{' '.join(command)}` failed: {done.stderr.strip()}")
    return done.stdout


def start_gateway(program, servers, processes, directories):
    """Sets Countersign up in a fresh directory, starts it and waits until it says where it listens."""
    directory = servers.work / "countersign"
    run([program, "init", "--dir", str(directory)])
    config = directory / "countersign.toml"
    upstreams = CONFIG.format(
        everything=json.dumps(servers.everything()),
        modern=json.dumps(servers.modern()),
        files=json.dumps(servers.files(directories["files"])),
        scratch=json.dumps(servers.files(directories["scratch"])),
        http_port=servers.http_port,
        modern_port=servers.modern_port,
    )
    config.write_text(upstreams)
    policies = directory / "policies" / "policies"
    policies.mkdir(parents=True, exist_ok=True)
    (policies / "e2e.cedar").write_text(POLICY)
    about = ["--name", "e2e", "--purpose", "end-to-end tests", "--owner", "e2e@example.org", "--environment", "prod"]
    added = json.loads(run([program, "agents", "add", "--dir", str(directory), *about, "--json"]))
    serve = [program, "serve", "--dir", str(directory), "--json", "-v"]
    process = processes.start("countersign", serve, stdout=subprocess.PIPE, text=True)
    readable, _, _ = select.select([process.stdout], [], [], START_SECONDS)
    line = process.stdout.readline() if readable else ""
    if not line:
        raise SystemExit(f"countersign did not start; see {processes.logs / 'countersign.log'}")
    url = json.loads(line)["data_plane"].rstrip("/")
    gateway = Gateway(program, directory, url if "://" in url else f"http://{url}", added["key"])
    for server in SERVERS:
        wait_for_tools(f"{gateway.url}/mcp/{server}", gateway.key)
    return gateway


def wait_for_tools(url, key):
    """Waits until the gateway has pinned a server's tools and lists them."""
    meta = {
        "io.modelcontextprotocol/protocolVersion": "2026-07-28",
        "io.modelcontextprotocol/clientCapabilities": {},
    }
    body = {"jsonrpc": "2.0", "id": 1, "method": "tools/list", "params": {"_meta": meta}}
    headers = {
        "Authorization": f"Bearer {key}",
        "Content-Type": "application/json",
        "Accept": "application/json, text/event-stream",
        "MCP-Protocol-Version": "2026-07-28",
        "Mcp-Method": "tools/list",
    }
    request = urllib.request.Request(url, json.dumps(body).encode(), headers)
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        with urllib.request.urlopen(request, timeout=START_SECONDS) as response:
            if json.load(response)["result"]["tools"]:
                return
        time.sleep(0.1)
    raise SystemExit(f"{url} lists no tools within {START_SECONDS} s")
