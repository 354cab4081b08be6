"""Three gateways with one log, and the upstream that counts what reaches it."""

import http.client
import json
import os
import re
import select
import signal
import subprocess
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from cluster import free_port

NAMES = ("g1", "g2", "g3")
START_SECONDS = 30
PERMIT = '@id("testers")\npermit (principal in Role::"tester", action, resource);\n'
EVALUATION, KEY = "dev.countersign/evaluation-id", "dev.countersign/idempotency-key"


def run(command, seconds=60, check=True):
    done = subprocess.run(command, capture_output=True, text=True, timeout=seconds)
    if check and done.returncode:
        raise SystemExit(f"`{' '.join(map(str, command))}` failed: {done.stdout.strip()} {done.stderr.strip()}")
    return done


def await_line(process, seconds=START_SECONDS):
    readable, _, _ = select.select([process.stdout], [], [], seconds)
    return process.stdout.readline() if readable else ""


class Upstream:
    """mcp-fixture, and before it a relay that notes the key and the evaluation id of each call it passes on."""

    def __init__(self, program, folder, logs):
        self.log, self.calls = folder / "upstream.jsonl", []
        command = [program, "--http", "127.0.0.1:0", "--log", str(self.log)]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=open(logs / "upstream.log", "ab"),
                                        text=True, start_new_session=True)
        address = re.search(r"http://([0-9.:]+)", await_line(self.process))
        if not address:
            raise SystemExit("run: mcp-fixture did not start")
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), self.relay(address[1]))
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_port}/mcp"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def relay(self, address):
        calls = self.calls

        class Relay(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def setup(self):
                super().setup()
                self.fixture = http.client.HTTPConnection(address, timeout=30)

            def pass_on(self):
                body = self.rfile.read(int(self.headers.get("content-length", 0)))
                message = json.loads(body) if body else {}
                if message.get("method") == "tools/call":
                    meta = message["params"].get("_meta", {})
                    calls.append((meta.get(KEY), meta.get(EVALUATION)))
                headers = {name: value for name, value in self.headers.items()
                           if name.lower() not in ("host", "connection", "content-length")}
                self.fixture.request(self.command, self.path, body, headers)
                answer = self.fixture.getresponse()
                data = answer.read()
                self.send_response_only(answer.status)
                for name, value in answer.getheaders():
                    if name.lower() not in ("connection", "content-length", "transfer-encoding"):
                        self.send_header(name, value)
                self.send_header("content-length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def finish(self):
                self.fixture.close()
                try:
                    super().finish()
                except OSError:
                    pass

            def handle(self):
                try:
                    super().handle()
                except OSError:
                    self.close_connection = True

            do_POST = do_GET = do_DELETE = pass_on

            def log_message(self, *_):
                pass

        return Relay

    def executed(self):
        """The idempotency key of each call that the fixture executed."""
        return [json.loads(line)["idempotency_key"] for line in self.log.read_text().splitlines()]

    def stop(self):
        self.server.shutdown()
        self.process.kill()
        self.process.wait()


class Gateway:
    def __init__(self, program, name, folder, logs, stores, upstream):
        self.program, self.name, self.folder, self.log_file = program, name, folder / name, logs / f"{name}.log"
        self.process, self.port = None, free_port()
        self.log = self.folder / "countersign-data" / "log"
        # When its process was frozen, killed or not yet up again: [from, to], monotonic seconds.
        self.away, self.starts, self.frozen = [], 0, False
        store = [part for url in stores for part in ("--store", url)]
        run([program, "--dir", self.folder, "init", *store, "--replica", name, "--keys", folder / "keys"])
        config = self.folder / "countersign.toml"
        text = config.read_text()
        for section, port in (("data_plane", self.port), ("control_plane", free_port())):
            text = text.replace(f"[{section}]\n", f'[{section}]\nlisten = "127.0.0.1:{port}"\n', 1)
        config.write_text(f'{text}\n[upstreams.everything]\nurl = "{upstream.url}"\n')
        with open(self.folder / "policies" / "policies" / "30-permits.cedar", "a") as permits:
            permits.write(PERMIT)

    def command(self, *arguments, **more):
        return run([self.program, "--dir", self.folder, *arguments], **more)

    def start(self, seconds=START_SECONDS):
        """Starts it and waits until it serves, again if the store cannot be reached yet; False in the end."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            serve = [self.program, "--dir", self.folder, "serve", "--json"]
            self.process = subprocess.Popen(serve, stdout=subprocess.PIPE, stderr=open(self.log_file, "ab"),
                                            text=True, start_new_session=True)
            self.starts += 1
            if await_line(self.process, max(1, deadline - time.monotonic())):
                self.back()
                return True
            self.process.kill()
            self.process.wait()
            time.sleep(0.5)
        return False

    def gone(self):
        self.away.append([time.monotonic(), float("inf")])

    def back(self):
        if self.away:
            self.away[-1][1] = min(self.away[-1][1], time.monotonic())

    def was_away(self, since, until):
        return any(begin <= until and since <= end for begin, end in list(self.away))

    def hangs(self, seconds):
        """Whether it has been frozen for that long."""
        return self.frozen and time.monotonic() > self.away[-1][0] + seconds

    def kill(self):
        self.gone()
        self.process.kill()
        self.process.wait()

    def pause(self):
        self.gone()
        self.frozen = True
        os.kill(self.process.pid, signal.SIGSTOP)

    def resume(self):
        os.kill(self.process.pid, signal.SIGCONT)
        self.frozen = False
        self.back()

    def stop(self, seconds=30):
        """Stops it as an operator would; False if it does not end."""
        if self.process is None or self.process.poll() is not None:
            return self.process is None or self.process.returncode == 0
        self.gone()
        self.process.terminate()
        try:
            return self.process.wait(seconds) == 0
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            return False

    def end(self):
        if self.process and self.process.poll() is None:
            self.process.kill()
            self.process.wait()

    def checkpoint(self):
        """The published checkpoint and the size that it states."""
        try:
            note = (self.log / "checkpoint").read_bytes()
            return note, int(note.split(b"\n")[1])
        except (OSError, IndexError, ValueError):
            return None, 0
