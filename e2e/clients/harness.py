"""Runs the scenarios with every client at every place and prints one line per check. Started by ./run."""

import argparse
import json
import os
import shutil
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import scenarios
from clients import AUTO, LEGACY, MODERN, Drivers, Endpoint
from gateway import REPOSITORY, Processes, Servers, start_gateway
from scenarios import GREETING, Place

SHOWN_CHARACTERS = 600
OUTCOME_SECONDS = 15


class Checks:
    """Counts and prints the checks."""

    def __init__(self):
        self.passed = 0
        self.failed = 0
        self.lock = threading.Lock()

    def add(self, label, good, shown=None):
        with self.lock:
            self.passed += bool(good)
            self.failed += not good
            print(f"{'ok  ' if good else 'FAIL'} {label}", flush=True)
            if not good and shown is not None:
                print(f"       got {json.dumps(shown, ensure_ascii=False, default=str)[:SHOWN_CHARACTERS]}", flush=True)

    def guarded(self, label, check, value, shown):
        """Adds a check whose function may trip over a value of another shape; that fails it."""
        try:
            good = check(value)
        except (KeyError, IndexError, TypeError, AttributeError, ValueError) as error:
            good, shown = False, {"tripped": repr(error), "value": shown}
        self.add(label, good, shown)


class Run:
    """One run of the harness."""

    def __init__(self, drivers, checks, only, gateway=None):
        self.drivers, self.checks, self.only, self.gateway = drivers, checks, only, gateway

    def at(self, client, place, build):
        """Runs one scenario and judges its report, then the records it left."""
        title = f"{client} {place.name} {build.__name__}"
        if self.only and self.only not in title:
            return
        script = build(place, client)
        before = Counter(self.gateway.records()) if self.gateway else None
        report = self.drivers.run(client, place.endpoint, script.steps, script.answers)
        if "connect_error" in report:
            self.checks.add(f"{title}: connects", False, report["connect_error"])
            return
        for (label, check), taken in zip(script.checks, report["steps"], strict=True):
            self.checks.guarded(f"{title}: {label}", check, taken, taken)
        for label, check in script.closing:
            self.checks.guarded(f"{title}: {label}", check, report, {k: report[k] for k in ("notifications", "asked")})
        modern = report["protocol"] >= "2026-07-28"
        self.checks.add(f"{title}: spoke the {client.era} era", modern == client.is_modern(), report["protocol"])
        if self.gateway:
            for judged in self.records(place, script.calls, before):
                self.checks.add(f"{title}: {judged[0]}", *judged[1:])

    def records(self, place, calls, before):
        """Judges the records left since; a cancelled call may take its grace time to leave its outcome."""
        deadline = time.monotonic() + OUTCOME_SECONDS
        while True:
            left = [json.loads(line) for line in (Counter(self.gateway.records()) - before).elements()]
            judged = [found for call, count in Counter(calls).items() for found in judge(place, *call, count, left)]
            if all(good for _, good, _ in judged) or time.monotonic() > deadline:
                return judged
            time.sleep(1)

    def closed_door(self, client, place):
        """A wrong key, and none, get HTTP 401."""
        for label, key in (("a wrong key", "csk_wrong"), ("no key", None)):
            title = f"{client} {place.name} {label}"
            if self.only and self.only not in title:
                continue
            endpoint = replace(place.endpoint, key=key)
            report = self.drivers.run(client, endpoint, [{"op": "list_tools"}])
            taken = report.get("connect_error") or report["steps"][0].get("error") or {}
            self.checks.add(f"{title}: gets 401", taken.get("http_status") == 401, report)

    def negotiates(self, client, place, version):
        """A client that may choose finds the version that it should."""
        title = f"{client} {place.name}"
        if self.only and self.only not in title:
            return
        report = self.drivers.run(client, place.endpoint, [{"op": "list_tools"}])
        good = report.get("protocol") == version and "ok" in report["steps"][0]
        self.checks.add(f"{title}: settles on {version}", good, report.get("connect_error") or report.get("protocol"))


def names_tool(recorded, wanted):
    """Compares tool names; a wanted name without a server matches any server's."""
    return recorded.endswith(wanted) if wanted.startswith("/") else recorded == wanted


def judge(place, tool, verdict, count, left):
    """Every call leaves its decision, and an outcome exactly if it was allowed to go on."""
    wanted = f"{place.server or ''}/{tool}"
    about = [r for r in left if names_tool(r.get("tool") or "", wanted)]
    decided = [r for r in about if r["kind"] == "decision"]
    # A call that asks for input is decided again in each round.
    good = len(decided) >= count and all(r["decision"] == verdict for r in decided)
    yield f"{tool} left {count} decision(s) `{verdict}`", good, about
    outcomes = [r for r in about if r["kind"] == "outcome"]
    if verdict == "allow":
        yield f"{tool} left {count} outcome(s)", len(outcomes) == count, about
    else:
        yield f"{tool} was not forwarded", all(r.get("status") == "not_forwarded" for r in outcomes), about


def make_directories(work):
    """Directories for the file servers, with a file to read in each and one outside that nobody may touch."""
    made = {}
    for name in ("files", "scratch"):
        made[name] = work / "disk" / name
        made[name].mkdir(parents=True)
        (made[name] / "hello.txt").write_text(GREETING)
    outside = work / "disk" / "outside"
    outside.mkdir()
    (outside / "secret.txt").write_text("not for clients\n")
    return made


def local(port):
    return Endpoint(url=f"http://127.0.0.1:{port}/mcp")


def direct(run, servers, directories):
    """Proves the drivers against the servers themselves."""
    legacy = (
        Place("everything stdio", Endpoint(stdio=servers.everything()), "everything"),
        Place("everything http", local(servers.http_port), "everything"),
    )
    # The SDK's server offers neither in the legacy era.
    both = {"can_subscribe": False, "can_log": False}
    modern = (
        Place("modern stdio", Endpoint(stdio=servers.modern()), "modern", **both),
        Place("modern http", local(servers.modern_port), "modern", **both),
    )
    files = Place(
        "files stdio", Endpoint(stdio=servers.files(directories["scratch"])), "files", directory=directories["scratch"]
    )
    work = [(c, p, s) for p in legacy for c in LEGACY for s in scenarios.everything(p, c)]
    work += [(c, p, s) for p in modern for c in (*LEGACY, *MODERN) for s in scenarios.everything(p, c)]
    work += [(c, files, scenarios.files) for c in LEGACY]
    in_parallel(lambda item: run.at(*item), work)
    for client in AUTO:
        for place in legacy:
            run.negotiates(client, place, "2025-11-25")
        for place in modern:
            run.negotiates(client, place, "2026-07-28")
    with closed_server() as port:
        for client in (*LEGACY, *MODERN):
            run.closed_door(client, Place("closed http", local(port), "closed"))


def in_parallel(do, items):
    with ThreadPoolExecutor(max_workers=min(4, os.cpu_count() or 1)) as pool:
        for _ in pool.map(do, items):
            pass


class closed_server:
    """A door that never opens: it proves that every driver reports a 401 as one."""

    class Handler(BaseHTTPRequestHandler):
        def refuse(self):
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            self.send_response(401)
            self.send_header("WWW-Authenticate", "Bearer")
            self.send_header("Content-Length", "0")
            self.end_headers()

        do_GET = do_POST = do_DELETE = refuse

        def log_message(self, *_):
            pass

    def __enter__(self):
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), self.Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        return self.server.server_address[1]

    def __exit__(self, *_):
        self.server.shutdown()


def gateway_places(gateway, servers, directories):
    """Every way through the gateway to each server: its own route, the federated one, and a wrapped command."""
    no_log = {"can_log": False}

    def own(server, **more):
        return Place(f"/mcp/{server}", Endpoint(f"{gateway.url}/mcp/{server}", gateway.key), server, **more)

    def federated(server, **more):
        names = {"prefix": f"{server}__", "uri_prefix": f"{server}+"}
        return Place(f"/mcp {server}", Endpoint(f"{gateway.url}/mcp", gateway.key), server, **names, **more)

    def wrapped(server, command, **more):
        name = f"wrapped-{server}"
        endpoint = Endpoint(stdio=gateway.wrap(name, command), env=gateway.wrap_env())
        return Place(f"wrap {server}", endpoint, name, **more)

    def disk(name):
        return {"directory": directories[name], "may_write": name != "files"}

    everywhere = [own("everything"), own("everything-http"), own("modern", **no_log), own("modern-http", **no_log)]
    everywhere += [federated("everything"), federated("modern-http", **no_log)]
    everywhere += [wrapped("everything", servers.everything())]
    disks = [own(s, **disk(s)) for s in directories] + [federated(s, **disk(s)) for s in directories]
    disks += [wrapped(s, servers.files(directories[s]), **disk(s)) for s in directories]
    return everywhere, disks


def through_gateway(run, servers, directories, quick):
    """Proves the gateway: one scenario after the other, so that its records are the ones just left."""
    everywhere, disks = gateway_places(run.gateway, servers, directories)
    if quick:
        # One way in of each kind: a server's own route, the federated one, a wrapped command.
        everywhere = [everywhere[0], everywhere[5], everywhere[6]]
        disks = disks[::3]
    for client in (*LEGACY, *MODERN):
        for place in everywhere:
            for scenario in scenarios.everything(place, client):
                run.at(client, place, scenario)
        for place in disks:
            run.at(client, place, scenarios.files)
        run.closed_door(client, everywhere[0])
    for client in AUTO:
        for place in everywhere:
            run.negotiates(client, place, "2026-07-28")
    challenge(run)


def challenge(run):
    """A refused request says how to authenticate."""
    body = json.dumps({"jsonrpc": "2.0", "id": 1, "method": "ping"}).encode()
    headers = {"Content-Type": "application/json", "Accept": "application/json, text/event-stream"}
    request = urllib.request.Request(f"{run.gateway.url}/mcp", body, headers)
    try:
        status, challenged = urllib.request.urlopen(request, timeout=10).status, ""
    except urllib.error.HTTPError as error:
        status, challenged = error.code, error.headers.get("WWW-Authenticate") or ""
    run.checks.add("a request without a key: gets 401 and a Bearer challenge", status == 401 and "Bearer" in challenged)


def parse_arguments():
    parser = argparse.ArgumentParser(prog="run", description="End-to-end tests with real MCP clients and servers.")
    parser.add_argument("--direct", action="store_true", help="without the gateway: prove the drivers")
    parser.add_argument("--quick", action="store_true", help="fewer places: one of each kind")
    parser.add_argument("--only", metavar="TEXT", help="only scenarios whose title (client, place, name) has this text")
    parser.add_argument("--keep", action="store_true", help="keep the working directory with its logs")
    parser.add_argument("--node", required=True, help=argparse.SUPPRESS)
    parser.add_argument(
        "--program",
        default=os.environ.get("COUNTERSIGN") or str(REPOSITORY / "target" / "debug" / "countersign"),
        help="the countersign program; also the variable COUNTERSIGN",
    )
    return parser.parse_args()


def main():
    arguments = parse_arguments()
    work = Path(tempfile.mkdtemp(prefix="countersign-e2e-"))
    checks = Checks()
    drivers = Drivers(arguments.node)
    servers = Servers(arguments.node, work)
    directories = make_directories(work)
    try:
        with Processes(work) as processes:
            servers.start(processes)
            if arguments.direct:
                direct(Run(drivers, checks, arguments.only), servers, directories)
            else:
                gateway = start_gateway(arguments.program, servers, processes, directories)
                through_gateway(Run(drivers, checks, arguments.only, gateway), servers, directories, arguments.quick)
    finally:
        if arguments.keep or checks.failed:
            print(f"logs are in {work}", file=sys.stderr)
        else:
            shutil.rmtree(work, ignore_errors=True)
    print(f"{checks.passed} passed, {checks.failed} failed")
    sys.exit(1 if checks.failed or not checks.passed else 0)


if __name__ == "__main__":
    main()
