"""What must hold in the end, whatever went wrong: nothing lost, nothing doubled, one log, short outages."""

import contextlib
import json
import subprocess
import sys
import threading
import time
from collections import Counter, defaultdict


SHOWN = 5
OUTAGE_SECONDS_MAX = 60
REACHED = ("executed", "failed", "unknown")


class Watcher:
    """Keeps every checkpoint that was ever public, and who led the log when."""

    def __init__(self, cluster, gateways):
        self.cluster, self.gateways = cluster, gateways
        self.seen, self.violations, self.leaders = defaultdict(set), [], []
        self.stopping = threading.Event()
        self.threads = [threading.Thread(target=work, daemon=True) for work in (self.checkpoints, self.leads)]
        for thread in self.threads:
            thread.start()

    def checkpoints(self):
        sizes = Counter()
        while not self.stopping.wait(0.2):
            for gateway in self.gateways:
                note, size = gateway.checkpoint()
                if note is None:
                    continue
                self.seen[size].add(note)
                if size < sizes[gateway.name]:
                    text = f"{gateway.name} published size {size} after size {sizes[gateway.name]}"
                    self.violations.append(text)
                sizes[gateway.name] = size

    def leads(self):
        while not self.stopping.wait(1):
            with contextlib.suppress(Exception):
                rows = self.cluster.sql("SELECT leader FROM countersign.coord") or [[""]]
                if rows[0][0] and self.leaders[-1:] != [rows[0][0]]:
                    self.leaders.append(rows[0][0])

    def stop(self):
        self.stopping.set()
        for thread in self.threads:
            thread.join(20)


def wait_quiet(cluster, gateways, seconds):
    """Waits until all records are in the log and every gateway has published it whole."""
    counts, deadline = None, time.monotonic() + seconds
    counting = "SELECT (SELECT count(*) FROM countersign.intake), (SELECT count(*) FROM countersign.leaf)"
    while time.monotonic() < deadline:
        sizes = [gateway.checkpoint()[1] for gateway in gateways]
        rows = cluster.sql(counting)
        counts = [*map(int, rows[0]), *sizes] if rows else None
        if counts and len(set(counts)) == 1:
            return None
        time.sleep(0.5)
    return f"records, leaves and published sizes stay apart: {counts}"


def limited(violations, texts):
    """Adds violations, of one kind no more than can be read."""
    texts = list(texts)
    violations += texts[:SHOWN]
    if len(texts) > SHOWN:
        violations.append(f"… and {len(texts) - SHOWN} more of that kind")


def read_log(verify, gateway, keys):
    """The leaves of a published log, in order."""
    log = verify.Log(str(gateway.log), keys)
    head = gateway.checkpoint()[1]
    leaves = []
    for index in range(-(-head // verify.TILE)):
        count = min(verify.TILE, head - verify.TILE * index)
        files = log.published(verify.BUNDLES, index, count)
        entries = next(items for items in files.values() if len(items) >= count)
        leaves += [json.loads(entry) for entry in entries[:count]]
    return leaves


def one_log(root, gateways, vkey, watcher, cluster):
    """Checks the logs of all gateways against each other and with both verifiers."""
    violations, notes = list(watcher.violations), defaultdict(set)
    for gateway in gateways:
        done = gateway.command("verify", check=False, seconds=300)
        if done.returncode:
            violations.append(f"`countersign verify` of {gateway.name}: {done.stdout[-400:]} {done.stderr[-400:]}")
        command = [sys.executable, str(root / "spec/verify.py"), "log", str(gateway.log), "--vkey", vkey]
        done = subprocess.run(command, capture_output=True, text=True, timeout=900)
        if done.returncode:
            violations.append(f"spec/verify.py on the log of {gateway.name}: {done.stdout[-400:]}{done.stderr[-400:]}")
        for path in (gateway.log / "checkpoints").iterdir():
            notes[int(path.name)].add(path.read_bytes())
    stored = {}
    for size, note in cluster.sql("SELECT size, encode(convert_to(note, 'UTF8'), 'hex') FROM countersign.checkpoint"):
        stored[int(size)] = bytes.fromhex(note)
        notes[int(size)].add(stored[int(size)])
    limited(violations, (f"there are {len(all_of)} checkpoints of size {size}"
                         for size, all_of in sorted(notes.items()) if len(all_of) > 1))
    limited(violations, (f"a checkpoint of size {size} was public that is no longer there"
                         for size, seen in sorted(watcher.seen.items()) if not seen <= notes[size]))
    return violations, {"checkpoints": len(notes), "checkpoints_stored": len(stored),
                        "checkpoints_seen_while_running": sum(map(len, watcher.seen.values()))}


def records_and_calls(leaves, tally, upstream):
    """Compares what agents were told, what the log says, and what reached the upstream."""
    violations = []
    decisions = {leaf["record_id"]: leaf for leaf in leaves if leaf["kind"] == "decision"}
    outcomes = defaultdict(list)
    for leaf in leaves:
        if leaf["kind"] == "outcome":
            outcomes[leaf["parent"]].append(leaf["outcome"])
    allowed = {record for record, leaf in decisions.items() if leaf["decision"] == "allow"}
    calls = list(upstream.calls)
    sent, of_key = Counter(evaluation for _, evaluation in calls), defaultdict(list)
    for key, evaluation in calls:
        of_key[key].append(evaluation)
    executed = Counter(upstream.executed())

    told = tally.acknowledged
    limited(violations, (f"lost: `{op.key}` was answered, its decision {op.evaluation} is not in the log"
                         for op in told if op.evaluation not in allowed))
    limited(violations, (f"lost: `{op.key}` was answered, its outcomes are {outcomes[op.evaluation]}"
                         for op in told if op.evaluation in allowed and outcomes[op.evaluation] != ["executed"]))
    limited(violations, (f"`{op.key}` was answered with {op.evaluation}, and {of_key[op.key]} reached the upstream"
                         for op in told if of_key[op.key] != [op.evaluation]))
    limited(violations, (f"doubled: `{key}` reached the upstream {len(all_of)} times, as {all_of}"
                         for key, all_of in of_key.items() if len(all_of) > 1))
    limited(violations, (f"doubled: `{key}` was executed {count} times" for key, count in executed.items() if count > 1))
    limited(violations, (f"unrecorded: {evaluation} reached the upstream, its decision is not in the log"
                         for evaluation in sent if evaluation not in allowed))
    limited(violations, (f"{evaluation} reached the upstream, its outcomes are {outcomes[evaluation]}"
                         for evaluation in sent if evaluation in allowed
                         and outcomes[evaluation] and not (len(outcomes[evaluation]) == 1 and outcomes[evaluation][0] in REACHED)))
    limited(violations, (f"{record} is recorded as executed and never reached the upstream"
                         for record, all_of in outcomes.items() if "executed" in all_of and record not in sent))
    open_calls = [record for record in allowed if not outcomes[record]]
    limited(violations, (f"left open: the call {record} has no outcome" for record in open_calls))
    limited(violations, (f"never settled: `{op.key}` after {op.attempts} attempts" for op in tally.waiting))
    counts = Counter(status for all_of in outcomes.values() for status in all_of)
    return violations, {
        "leaves": len(leaves), "reached_upstream": len(calls), "executed_upstream": sum(executed.values()),
        "decisions_allow": len(allowed), "decisions_deny": len(decisions) - len(allowed),
        "outcomes": dict(counts), "gaps": dict(Counter(leaf["gap"] for leaf in leaves if leaf["kind"] == "gap")),
        "streams": len({(leaf["gw"]["replica"], leaf["gw"]["epoch"]) for leaf in leaves}),
    }


def outages(acknowledged, faults, began, ended):
    """The longest time without an acknowledged call, and by kind of fault."""
    moments = [began, *sorted(op.ended for op in acknowledged if began <= op.ended <= ended), ended]
    longest, by_kind = 0.0, {}
    for first, second in zip(moments, moments[1:]):
        longest = max(longest, second - first)
        before = [fault for fault in faults if fault.began <= second]
        if before:
            by_kind[before[-1].kind] = max(by_kind.get(before[-1].kind, 0), second - first)
    violations = []
    if longest > OUTAGE_SECONDS_MAX:
        violations.append(f"no call was acknowledged for {longest:.1f} s")
    return violations, {"longest": round(longest, 1), "by_kind": {k: round(v, 1) for k, v in by_kind.items()}}
