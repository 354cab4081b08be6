"""Runs one driver process: which real clients there are, and what a driver is told and answers.

A driver reads one JSON task from standard input and prints one JSON report.

task    connect: url and key, or stdio (command and arguments) and env; era; answers (what the client declares and
        replies to: sampling, elicitation, roots); reply (the answers themselves).
        steps: a list of {"op": ..., ...}; the operations are the `do_` methods of python_client.py.
report  protocol, server, capabilities; steps: {"ok": result} or {"error": {type, message, code?, data?, http_status?}}
        in the order of the task; notifications and asked: what reached the client unasked.
        Or only connect_error, when no step could be taken.
"""

import json
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

HERE = Path(__file__).resolve().parent
DRIVER_SECONDS = 120

# What every client answers when a server asks it for something.
REPLY = {
    "sampling": {
        "role": "assistant",
        "content": {"type": "text", "text": "sampled by the e2e client"},
        "model": "e2e-model",
        "stopReason": "endTurn",
    },
    "elicitation": {"action": "accept", "content": {"name": "Ada Lovelace", "check": True, "integer": 36}},
    "roots": {"roots": [{"uri": "file:///e2e/root", "name": "e2e root"}]},
}


@dataclass(frozen=True)
class Client:
    """One real client in the one era it is made to speak."""

    sdk: str
    era: str

    def __str__(self):
        return f"{self.sdk}/{self.era}"

    def is_modern(self):
        return self.era == "modern"


LEGACY = (Client("python", "legacy"), Client("ts-v1", "legacy"), Client("ts-v2", "legacy"))
MODERN = (Client("python", "modern"), Client("ts-v2", "modern"))
AUTO = (Client("python", "auto"), Client("ts-v2", "auto"))


@dataclass(frozen=True)
class Endpoint:
    """Where a client connects: an HTTP URL with its key, or a command to start."""

    url: str | None = None
    key: str | None = None
    stdio: tuple[str, ...] = ()
    env: dict[str, str] = field(default_factory=dict)


class Drivers:
    """Starts the drivers under one Node and one Python."""

    def __init__(self, node):
        self.commands = {
            "python": [sys.executable, str(HERE / "python_client.py")],
            "ts-v1": [node, str(HERE / "ts_v1.mjs")],
            "ts-v2": [node, str(HERE / "ts_v2.mjs")],
        }

    def run(self, client, endpoint, steps, answers=()):
        """Lets one client take the steps at the endpoint and gives its report."""
        connect = {
            "url": endpoint.url,
            "key": endpoint.key,
            "stdio": list(endpoint.stdio) or None,
            "env": endpoint.env,
            "era": client.era,
            "answers": list(answers),
            "reply": REPLY,
        }
        try:
            done = subprocess.run(
                self.commands[client.sdk],
                input=json.dumps({"connect": connect, "steps": steps}),
                capture_output=True,
                text=True,
                timeout=DRIVER_SECONDS,
            )
        except subprocess.TimeoutExpired:
            return {"connect_error": {"type": "Timeout", "message": f"no report within {DRIVER_SECONDS} s"}}
        if done.returncode != 0 or not done.stdout.strip():
            return {"connect_error": {"type": "DriverFailed", "message": done.stderr[-2000:]}}
        return json.loads(done.stdout.splitlines()[-1])
