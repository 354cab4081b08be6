"""Agents that call again and again, and repeat a call with the same key until they know its end."""

import http.client
import json
import select
import threading
import time
from collections import Counter
from dataclasses import dataclass, field

from gateways import EVALUATION, KEY

VERSION = "2026-07-28"
TOOL, TEXT = "test_simple_text", "This is a simple text response for testing."
REFUSAL = "dev.countersign/refusal"
# No answer may take longer; to a repeated call it may, since a gateway waits 25 s for the end of one in flight.
ANSWER_SECONDS, REPEAT_SECONDS, GIVEN_UP_SECONDS = 15, 30, 40
# When a health check takes a gateway that hangs out of the rotation.
NOTICED_SECONDS = 2
PAUSE_SECONDS = 0.2
# Repeating helps, or may help.
REPEATED = {"AUDIT_UNAVAILABLE", "IDEMPOTENCY_IN_FLIGHT", "UPSTREAM_UNREACHABLE"}
# The end, without a result: nobody knows it, or it could not be kept.
UNKNOWN = {"OUTCOME_UNKNOWN", "IDEMPOTENCY_OUTCOME_UNKNOWN", "IDEMPOTENCY_RESULT_GONE"}


@dataclass
class Answer:
    """What an attempt gave: a result with its evaluation id, or a code; `broken` without an answer."""

    code: str = ""
    evaluation: str = ""
    replayed: bool = False
    wrong: str = ""


def read(status, body):
    """Reads an answer; `wrong` says what is not as it must be."""
    try:
        if not body.startswith(b"{"):  # an answer that took long comes as a stream
            body = b"".join(line[5:] for line in body.splitlines() if line.startswith(b"data:"))
        message = json.loads(body)
        if message.get("id") != 1 and not (status == 503 and message.get("id") is None):
            return Answer(wrong=f"HTTP {status}, not the answer to this request: {body[:300]!r}")
        if "error" in message:
            error = message["error"]
            refusal = (error.get("data") or {}).get(REFUSAL) or {}
            code = refusal.get("code") or error["message"].split(":")[0]
            return known(Answer(code, refusal.get("evaluation_id", "")), status, body)
        result = message["result"]
        meta = result.get("_meta", {})
        if result.get("isError"):
            refusal = meta[REFUSAL]
            return known(Answer(refusal["code"], refusal["evaluation_id"]), status, body)
        if status == 200 and result["content"] == [{"type": "text", "text": TEXT}] and meta.get(EVALUATION):
            return Answer("", meta[EVALUATION], meta.get("dev.countersign/replayed", False))
    except (ValueError, KeyError, TypeError, AttributeError):
        pass
    return Answer(wrong=f"HTTP {status}, an answer that nobody expects: {body[:300]!r}")


def known(answer, status, body):
    if answer.code not in REPEATED | UNKNOWN:
        answer.wrong = f"HTTP {status}, a refusal that nobody expects: {body[:300]!r}"
    return answer


@dataclass
class Operation:
    key: str
    began: float
    ended: float = 0.0
    evaluation: str = ""
    unknown: str = ""
    attempts: int = 0


@dataclass
class Tally:
    """What all agents saw."""

    acknowledged: list = field(default_factory=list)
    unknown: list = field(default_factory=list)
    waiting: list = field(default_factory=list)
    refused: Counter = field(default_factory=Counter)
    broken: int = 0
    replayed: int = 0
    slowest: float = 0.0
    violations: list = field(default_factory=list)


class Load:
    def __init__(self, gateways, api_key, clients, seed, started):
        self.started = started
        self.gateways, self.api_key, self.tally = gateways, api_key, Tally()
        self.stopping, self.lock, self.seed = threading.Event(), threading.Lock(), seed
        self.threads = [threading.Thread(target=self.work, args=(n,), daemon=True) for n in range(clients)]

    def start(self):
        for thread in self.threads:
            thread.start()

    def stop(self):
        self.stopping.set()
        for thread in self.threads:
            thread.join(2 * GIVEN_UP_SECONDS)

    def work(self, number):
        connections, count = {}, 0
        while not self.stopping.is_set():
            operation = Operation(f"s{self.seed}-a{number}-c{count}", time.monotonic())
            count += 1
            self.settle(operation, connections, number + count)

    def settle(self, operation, connections, at, until=None):
        """Repeats the call at one gateway after the other. An agent that is told twice that its call is in
        flight turns to others, and comes back to it in the end; then it has until a given moment."""
        in_flight = 0
        while (until or float("inf")) > time.monotonic() and (until or not self.stopping.is_set()):
            at += 1
            gateway = self.gateways[at % len(self.gateways)]
            if gateway.hangs(NOTICED_SECONDS):
                continue
            answer = self.attempt(operation, gateway, connections)
            if answer and not answer.wrong and not answer.code:
                operation.evaluation, operation.ended = answer.evaluation, time.monotonic()
                with self.lock:
                    self.tally.acknowledged.append(operation)
                    self.tally.replayed += answer.replayed
                return True
            if answer and answer.code in UNKNOWN:
                operation.unknown = answer.code
                with self.lock:
                    self.tally.unknown.append(operation)
                return True
            in_flight += bool(answer) and answer.code == "IDEMPOTENCY_IN_FLIGHT"
            if (in_flight == 2 and not until) or (answer and answer.wrong):
                break
            time.sleep(PAUSE_SECONDS)
        with self.lock:
            self.tally.waiting.append(operation)
        return False

    def attempt(self, operation, gateway, connections):
        """Calls once; `None` if the connection broke."""
        began, answer = time.monotonic(), None
        operation.attempts += 1
        try:
            answer = self.call(operation.key, gateway, connections)
        except (OSError, http.client.HTTPException) as error:
            connections.pop(gateway.name, None)
            why = repr(error)
        took, excused = time.monotonic() - began, gateway.was_away(began, time.monotonic())
        allowed = ANSWER_SECONDS if operation.attempts == 1 else REPEAT_SECONDS
        with self.lock:
            tally = self.tally
            if answer is None:
                tally.broken += 1
                if not excused:
                    tally.violations.append(f"{self.now()} {gateway.name} broke off `{operation.key}` after {took:.1f} s: {why}")
                return None
            if not excused:
                tally.slowest = max(tally.slowest, took if operation.attempts == 1 else 0)
                if took > allowed:
                    text = f"{self.now()} {gateway.name} took {took:.1f} s for `{operation.key}` ({answer.code or 'result'})"
                    tally.violations.append(text)
            if answer.wrong:
                tally.violations.append(f"{self.now()} {gateway.name} on `{operation.key}`: {answer.wrong}")
            elif answer.code:
                tally.refused[answer.code] += 1
        return answer

    def call(self, key, gateway, connections):
        meta = {"io.modelcontextprotocol/protocolVersion": VERSION, KEY: key,
                "io.modelcontextprotocol/clientInfo": {"name": "ha", "version": "1"},
                "io.modelcontextprotocol/clientCapabilities": {}}
        body = {"jsonrpc": "2.0", "id": 1, "method": "tools/call",
                "params": {"name": TOOL, "arguments": {}, "_meta": meta}}
        headers = {"content-type": "application/json", "accept": "application/json, text/event-stream",
                   "authorization": f"Bearer {self.api_key}", "mcp-protocol-version": VERSION,
                   "mcp-method": "tools/call", "mcp-name": TOOL}
        for again in (True, False):
            kept = connections.get(gateway.name)
            if kept is None:
                kept = connections[gateway.name] = http.client.HTTPConnection("127.0.0.1", gateway.port,
                                                                              timeout=GIVEN_UP_SECONDS)
                again = False
            try:
                kept.request("POST", "/mcp/everything", json.dumps(body), headers)
                self.await_answer(kept, gateway)
                response = kept.getresponse()
                return read(response.status, response.read())
            except (http.client.RemoteDisconnected, ConnectionResetError, BrokenPipeError):
                # A connection that was kept may be closed by now: no answer was begun.
                connections.pop(gateway.name, None)
                if not again:
                    raise
        raise OSError("unreachable")

    def await_answer(self, connection, gateway):
        """Waits for the first byte, as long as nobody noticed that the gateway hangs."""
        until = time.monotonic() + GIVEN_UP_SECONDS
        while not select.select([connection.sock], [], [], 0.5)[0]:
            if time.monotonic() > until or gateway.hangs(NOTICED_SECONDS):
                raise TimeoutError("no answer")

    def now(self):
        return f"{time.monotonic() - self.started:7.1f}"

    def finish(self, seconds):
        """Settles what is left, when everything runs again; what cannot be settled stays in `waiting`."""
        left, self.tally.waiting = self.tally.waiting, []
        until, lock = time.monotonic() + seconds, threading.Lock()

        def work(number):
            connections = {}
            while True:
                with lock:
                    if not left:
                        return
                    operation = left.pop()
                self.settle(operation, connections, number, until)

        threads = [threading.Thread(target=work, args=(n,), daemon=True) for n in range(min(32, len(left)))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(seconds + 2 * GIVEN_UP_SECONDS)
