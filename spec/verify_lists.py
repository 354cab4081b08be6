"""What a package has to say about the records of a period: its lists, tables, sheets, and its attestation.

The part of verify_evidence.py, which is beside this file, that derives them. Written from ledger.md, with Python's
standard library alone.
"""
import re, sys, time  # noqa: E401
from collections import Counter
sys.dont_write_bytecode = True  # a folder that has this file gets no other by its being run
from verify import WRITER, leaf_hash, utc  # noqa: E402

# ---- Lists and tables of a package (ledger.md, "Evidence package") ----
KINDS = {"decision": "decisions", "outcome": "outcomes", "auth": "auth", "change": "changes", "detection": "detections",
         "gap": "gaps", "heartbeat": "heartbeats", "access": "accesses", "erasure": "erasures", "legal_hold": "holds",
         "check": "checks"}
LISTS = ["decisions", "outcomes", "late_outcomes", "auth", "changes", "detections", "gaps", "heartbeats", "accesses",
         "erasures", "holds", "checks", "other"]
RESULTS = dict(decision="decision", outcome="outcome", auth="result", access="result", check="result", detection="type",
               gap="gap", erasure="phase", legal_hold="action")
FRAME = {"v", "kind", "record_id", "tenant", "gw", "time", "_sd", "_sd_alg"}  # of every leaf; not in `other_fields`
CALL = ("execution_status", "outcome_record_id", "outcome_at_utc", "outcome_leaf_index", "duration_ms")
# The columns of each table; `column=field` where the leaf calls it otherwise.
START, END = "leaf_index record_id occurred_at_utc occurred_excel_utc", "other_fields leaf_hash csv_escaped"
RULE = "enforcement_mode=mode reason_codes=reasons matched_rule_ids=rules"
OUTCOMES = f"{START} parent_id=parent outcome duration_ms reconciled agent_id=agent agent_name tool_name=tool {END}"
OTHERS = f"{START} kind agent_id=agent server {END}"
TABLES = {name: [column.partition("=")[::2] for column in columns.split()] for name, columns in {
    "decisions": f"{START} date_utc hour_utc weekday_utc decision would_be_decision=would_be {RULE} "
                 "policy_bundle_sha256=bundle agent_id=agent agent_name principal environment origin method server "
                 "tool_name=tool tool_pin session_id=session parent_id=parent execution_status outcome_record_id "
                 f"outcome_at_utc outcome_leaf_index duration_ms stream stream_seq closed_fields {END}",
    "decisions_narrow": f"{START} agent_name principal environment tool_name=tool decision {RULE} execution_status "
                        "csv_escaped",
    "outcomes": OUTCOMES, "late_outcomes": OUTCOMES,
    "auth": f"{START} result reason_codes=reasons agent_id=agent environment key_id {END}",
    "changes": f"{START} object what agent_id=agent server policy_bundle_sha256=bundle principal {END}",
    "accesses": f"{START} result plane role principal key_id command route count read_record disclosed_fields tree_size "
                f"{END}",
    "erasures": f"{START} phase cause subject ticket job batch records sections held {END}",
    "holds": f"{START} action principal {END}",
    "checks": f"{START} check result from to count archive_size root {END}",
    "detections": OTHERS, "gaps": OTHERS, "heartbeats": OTHERS, "other": OTHERS}.items()}

def text(leaf, name):
    return leaf[name] if isinstance(leaf.get(name), str) else ""
def what(leaf):
    """Gives, in a word, what a record says (a verdict, what came of a call), and the field that says it."""
    change = "event" if "event" in leaf else "action"
    name = change if leaf["kind"] == "change" else RESULTS.get(leaf["kind"], "")
    return text(leaf, name), name
def cell(value):
    """Writes a value of a leaf; gives the text, and whether a spreadsheet would have taken it for a formula."""
    if value is None or isinstance(value, bool):
        return {None: "", True: "TRUE", False: "FALSE"}[value], False
    if isinstance(value, int):
        return str(value), False
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        value = " ".join(value)
    written = value if isinstance(value, str) else WRITER.encode(value)
    formula = written.startswith(tuple("=+-@\t\r\n＝＋－＠"))
    return "'" * formula + written.replace("\n", "\\n").replace("\r", "\\r").replace("\t", "\\t"), formula
def quoted(cells):  # RFC 4180
    return (",".join('"' + text.replace('"', '""') + '"' for text in cells) + "\r\n").encode()
def facts(index, entry, leaf, call=()):
    """Gives what columns show besides the leaf's own fields; `call` is what came of a decision."""
    at, gw, closed = utc(leaf["time"]["ms"]), leaf["gw"], leaf.get("_sd")
    return {**dict(zip(CALL, call)), "leaf_index": index, "occurred_at_utc": at, "date_utc": at[:10],
            "occurred_excel_utc": at.replace("T", " ")[:19], "hour_utc": at[11:13], "what": what(leaf)[0],
            "weekday_utc": time.strftime("%A", time.gmtime(leaf["time"]["ms"] // 1000)),
            "closed_fields": sum(isinstance(digest, str) for digest in closed) if isinstance(closed, list) else 0,
            "stream": f"{gw['replica']}/{gw['epoch']}", "stream_seq": gw["seq"], "leaf_hash": leaf_hash(entry).hex()}
def row(table, leaf, told):
    """Gives the row of a record in a table, as bytes."""
    columns = TABLES[table]
    shown = FRAME | {field or column for column, field in columns}
    shown |= {what(leaf)[1]} if "what" in shown else set()
    others = {name: value for name, value in leaf.items() if name not in shown}
    values = {**leaf, **told, "other_fields": others or None}
    cells = [cell(values.get(field or column)) for column, field in columns[:-1]]
    escaped = [column for (column, _), (_, formula) in zip(columns, cells) if formula]
    return quoted([text for text, _ in cells] + [" ".join(escaped)])

class Survey:
    """Says of each leaf, in order, in which list of a package it stands, and counts."""
    def __init__(self, begin, end, filters):
        self.begin, self.end, self.filters = begin, end, filters
        self.places = bytearray()  # of each leaf: its list, as a number; one beyond the last if it is in none
        self.calls, self.came, self.decisions, self.gaps, self.coverage = {}, {}, [], [], Coverage()
        self.first, self.as_of, self.tenant, self.excluded = None, 0, "", {}
        self.totals = {name: {"rows": 0, **{by: Counter() for by in ("by_result", "by_day", "by_agent")}}
                       for name in LISTS}
    def passes(self, leaf):
        fields = leaf if leaf["kind"] == "decision" else {**leaf, "decision": None}  # only these have verdicts
        return all(fields.get(name) == wanted for name, wanted in self.filters.items())
    def outcome(self, index, leaf, now):
        """Gives the list of an outcome: it follows its decision, unless none waits for it."""
        call = leaf.get("parent")
        decision, passes = self.calls.get(call, (None, self.passes(leaf)))
        if decision is not None:
            ended = "unknown" if leaf.get("outcome") is None else leaf["outcome"]
            self.came[decision] = ended, leaf["record_id"], utc(leaf["time"]["ms"]), index, leaf.get("duration_ms")
        if leaf.get("outcome") != "unknown":  # one that is unknown may be settled later
            self.calls.pop(call, None)
        return "outcomes" if now and passes else "late_outcomes" if not now and decision is not None else None
    def add(self, index, leaf):
        self.coverage.add(index, leaf)
        kind, ms = leaf["kind"], leaf["time"]["ms"]
        now, self.as_of, self.tenant = self.begin <= ms < self.end, max(self.as_of, ms), leaf["tenant"]
        self.first = index if self.first is None and ms >= self.begin else self.first
        if kind == "outcome":
            place = self.outcome(index, leaf, now)
        else:
            passes = self.passes(leaf)
            place = KINDS.get(kind, "other") if now and (passes or kind == "gap") else None
            if kind == "decision" and leaf["decision"] == "allow":
                self.calls[leaf["record_id"]] = index if place else None, passes
        self.places.append(LISTS.index(place) if place else len(LISTS))
        self.gaps += [index] if place == "gaps" else []
        self.decisions += [(leaf["record_id"], index)] if place == "decisions" else []
        if place:
            totals = self.totals[place]
            totals["rows"] += 1
            totals["by_result"][what(leaf)[0]] += 1
            totals["by_day"][utc(ms)[:10]] += 1
            totals["by_agent"][text(leaf, "agent")] += 1
        else:
            why = self.excluded.setdefault(kind, {"outside_period": 0, "filtered": 0})
            why["filtered" if now else "outside_period"] += 1

# ---- When the recorder of each gateway was up (ledger.md, "Coverage of the recorder") ----
SILENCE_MS, NEVER = 90_000, -(2**63)
LIVE, ALIVE_LOSSES = {"decision", "auth", "close"}, {"connection_lost", "database_failed"}
RECORDER = [(column, "") for column in "gateway state from_utc to_utc from_excel_utc to_excel_utc duration_ms cause "
            "first_leaf last_leaf csv_escaped".split()]

class Recorder:
    """One gateway: what its records say one after the other, and what others say of it; times are (ms, leaf)."""
    def __init__(self):
        self.events, self.lost = [], []  # (epoch, sign, cause, first time, last time); (epoch, cause)
    def add(self, epoch, sign, cause, at):
        """Takes a record; one that changes nothing belongs to the event before it, which goes on."""
        if self.events:
            before, was, _, _, last = self.events[-1]
            near = epoch == before and at[0] - last[0] <= SILENCE_MS
            if near and (sign == "other" or sign == "life" and was in ("start", "life", "loss while alive")):
                self.events[-1][4] = at
                return
        self.events.append([epoch, sign, cause, at, at])
    def intervals(self, begin, end, known_ms):
        """Gives (state, from, to, cause, first leaf, last leaf) of each interval within a period, without a hole."""
        self.begin, self.end, self.rows = begin, end, []
        self.state, self.cause, self.since, self.last, self.epoch = "down", "not_started", (NEVER, None), None, None
        lost = sorted(self.lost, key=lambda one: one[0])
        for event in self.events:
            while lost and lost[0][0] < event[0]:
                self.lose(lost.pop(0)[1])
            self.step(*event)
        for _, cause in lost:
            self.lose(cause)
        if self.last and known_ms - self.last[0] > SILENCE_MS:
            self.break_off("silence")
        if known_ms < end:
            self.turn("gap", "log_ends", (known_ms, None))
        self.cut((end, None))
        return self.rows
    def step(self, epoch, sign, cause, first, last):
        goes_on = self.last is not None and self.epoch == epoch and first[0] - self.last[0] <= SILENCE_MS
        was_up, same = self.state == "up", self.last is not None and self.epoch == epoch
        if sign.startswith("loss"):
            self.lose(cause)
            if sign == "loss while alive" and was_up:
                self.turn("up", "resumed", first)
        else:
            if sign == "start" or not goes_on:
                self.break_off("silence")
            if sign == "start":
                self.turn("up", "started", first)
            elif sign == "stop":
                self.turn("down", "stopped", first)
            elif sign == "life" or was_up and same:
                self.turn("up", "resumed", first)
        self.epoch, self.last = epoch, last
    def lose(self, cause):
        """Takes it that nobody recorded after the last record."""
        if self.state == "down" and self.last and self.last[1] != self.since[1]:
            self.turn("gap", cause, self.last)
        self.break_off(cause)
    def break_off(self, cause):
        if self.state == "up" and self.last:
            self.turn("gap", cause, self.last)
    def turn(self, state, cause, at):
        if self.state != state or state != "up" and self.cause != cause:
            at = max(at[0], self.since[0]), at[1]
            self.cut(at)
            self.state, self.cause, self.since = state, cause, at
    def cut(self, at):
        begin, end = max(self.since[0], self.begin), min(at[0], self.end)
        if begin < end:
            self.rows.append((self.state, begin, end, self.cause, self.since[1], at[1]))

class Coverage:
    """All gateways; of the log all leaves, before and after the period too."""
    def __init__(self):
        self.gateways, self.known_ms = {}, NEVER
    def add(self, index, leaf):
        (kind, gw), ms = (leaf["kind"], leaf["gw"]), leaf["time"]["ms"]
        self.known_ms = max(self.known_ms, ms)
        event = leaf.get("event") if leaf.get("event") in ("start", "stop") else "life"
        sign = event if kind == "heartbeat" else "life" if kind in LIVE else "other"
        cause = leaf["gap"] if isinstance(leaf.get("gap"), str) else "unclean_stop"
        if kind == "gap":
            last = leaf["last"] if isinstance(leaf.get("last"), dict) else {}
            other, epoch = text(last, "replica"), last.get("epoch")
            if isinstance(last.get("replica"), str) and other != gw["replica"]:
                epoch = epoch if type(epoch) is int and epoch > 0 else 0
                self.gateways.setdefault(other, Recorder()).lost.append((epoch, cause))
                sign = "life" if cause == "gateway_lost" else "other"  # only a serving gateway looks after others
            else:
                sign = "loss while alive" if cause in ALIVE_LOSSES else "loss"
        self.gateways.setdefault(gw["replica"], Recorder()).add(gw["epoch"], sign, cause, (ms, index))
    def intervals(self, begin, end):
        return [(name, *row) for name, gateway in sorted(self.gateways.items()) if gateway.events
                for row in gateway.intervals(begin, end, self.known_ms)]
def interval_row(gateway, state, begin, end, cause, first, last):
    """Gives the row of an interval in `coverage/recorder.csv`, as bytes."""
    times = [utc(begin), utc(end)]
    values = [gateway, state, *times, *(at.replace("T", " ")[:19] for at in times), end - begin, cause, first, last]
    cells = [cell(value) for value in values]
    escaped = [column for (column, _), (_, formula) in zip(RECORDER, cells) if formula]
    return quoted([text for text, _ in cells] + [" ".join(escaped)])

# ---- Words of a package (ledger.md, "Evidence package") ----
KNOWN_LIMITATIONS = [
    "actions that never reached the gateway are not recorded",
    "texts supplied by agents and tools are recorded, not judged",
    "the principal is as true as the credential or identity provider that named it",
    "two histories may have been shown before the first checkpoint that was kept elsewhere",
    "private fields are not opened: identities and arguments stand as pseudonyms and digests",
    "approvals and incidents are not recorded by this version"]
TITLES = {
    "decisions": "Decisions (allow, deny, hold) recorded in the period",
    "outcomes": "Outcomes of calls recorded in the period",
    "late_outcomes": "Outcomes of listed decisions recorded outside the period",
    "auth": "Credentials accepted or rejected in the period",
    "changes": "Changes of policies, tools, agents and configuration in the period",
    "detections": "Detections in the period",
    "gaps": "Places in the period where the recorder stopped without a clean end",
    "heartbeats": "Signs of life in the period",
    "accesses": "Readings and exports of records, and refused ones, in the period",
    "erasures": "Private fields destroyed in the period: erasures of persons, purges of retention",
    "holds": "Legal holds set and lifted in the period",
    "checks": "Checks of the ledger in the period: restore tests of its archive",
    "other": "Records of all other kinds in the period"}
ATTESTATION = """\
This package contains all {rows} records that the log {origin} of tenant {tenant}
recorded from {from} (inclusive) to {to} (exclusive), UTC, and that match
the filters: {kinds}.
Filters: {filters}. It also lists {late} outcomes that were recorded outside the
period and belong to listed decisions.

Leaf range [{first_leaf}, {size}), root {root}.
Gaps in the period: {gaps}.
Sections not opened: all private sections; they stand as digests.
{over}
This statement is produced by software, as of {as_of}, and can be verified with
`countersign verify --package`; it is not an audit opinion.
"""
NOT_OVER = """
The log's newest record is older than the end of the period: whatever is recorded in the period from now
on is not in this package.
"""
HIDING = re.compile("[\0-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff]")

def shown(text):
    """Writes what would command a terminal, or turn the direction of a text, as escapes."""
    escapes = {"\t": "\\t", "\n": "\\n", "\r": "\\r"}
    return HIDING.sub(lambda hiding: escapes.get(hiding[0], f"\\u{{{ord(hiding[0]):x}}}"), text)
def filter_words(filters):
    return ", ".join(f"{name} = {shown(value)}" for name, value in filters.items()) or "none"
def query(name, manifest):
    """Says which records are in a list."""
    period, filters = f"{manifest['from']} <= time < {manifest['to']}", filter_words(manifest["filters"])
    kind = next((kind for kind, place in KINDS.items() if place == name), "none of those of the other lists")
    return {"gaps": f"kind = gap and {period}; no filters",
            "outcomes": f"kind = outcome and {period}; filters on its decision: {filters}",
            "late_outcomes": f"kind = outcome and not {period}; its decision is in decisions",
            }.get(name, f"kind = {kind} and {period}; filters: {filters}")
def attestation(manifest, gaps):
    rows = {totals["list"]: totals["rows"] for totals in manifest["lists"]}
    late, end = rows.pop("late_outcomes"), manifest["checkpoint_end"]
    told = {"rows": sum(rows.values()), "late": late, "kinds": ", ".join(f"{n} {name}" for name, n in rows.items()),
            "filters": filter_words(manifest["filters"]), "size": end["size"], "root": end["root"],
            "gaps": f"{gaps} (listed in records/gaps.jsonl)" if gaps else 0,
            "over": "" if manifest["period_is_over"] else NOT_OVER}
    return ATTESTATION.format(**{**manifest, **told})
def sheet(name, title, rule, manifest, files, parameters, told):
    """Gives a sheet: what every one begins and ends with, and in between what is told of its list."""
    start, end = manifest["checkpoint_start"], manifest["checkpoint_end"]
    return {"ipe_id": f"{name}-{end['size']}", "list": name, "title": title, "files": files,
            "system": "Countersign", "tool_version": manifest["generator"], "tenant": manifest["tenant"],
            "as_of": manifest["as_of"], "query": rule,
            "parameters": {"from": manifest["from"], "to": manifest["to"], "tz": "UTC", **parameters},
            "period_semantics": "[from, to)", "period_is_over": manifest["period_is_over"],
            "source": {"log": manifest["origin"], "checkpoint_start": start, "checkpoint_end": end,
                       "leaf_range": [manifest["first_leaf"], end["size"]]},
            **told, "known_limitations": KNOWN_LIMITATIONS, "recompute": "countersign verify --package . --vkey KEY"}
def list_sheet(name, manifest, gaps, files):
    """Gives the sheet of a list; `files` has the manifest's entries by path."""
    totals = next(totals for totals in manifest["lists"] if totals["list"] == name)
    paths = [f"records/{name}.jsonl", f"csv/{name}.csv"] + ["csv/decisions_narrow.csv"] * (name == LISTS[0])
    excluded = {kind: counts for kind, counts in manifest["excluded"].items()
                if KINDS.get(kind, "other") == name or (kind, name) == ("outcome", "late_outcomes")}
    parameters = {"filters": manifest["filters"], "disclosure_profile": "public part only"}
    told = {"row_count": totals["rows"],
            "control_totals": {by: totals[by] for by in ("by_day", "by_result", "by_agent")},
            "excluded": {"by_kind": excluded, "proof": "log/tile/entries"}, "gaps": gaps}
    own = sheet(name, TITLES[name], query(name, manifest), manifest, [files[path] for path in paths], parameters, told)
    return {**own, "independent_recompute": "python3 verify_evidence.py package . --vkey KEY"}
def recorder_sheet(manifest, intervals, period_ms, files):
    """Gives the sheet of `coverage/recorder.csv`."""
    rule = (f"intervals of each stream that fill {manifest['from']} <= time < {manifest['to']}: up from a start to a "
            f"stop, a loss or more than {SILENCE_MS // 1000} s without a record; down until a start; a gap otherwise; "
            "no filters")
    spent = {gateway: {"up": 0, "down": 0, "gap": 0} for gateway, *_ in intervals}
    for gateway, state, begin, end, *_ in intervals:
        spent[gateway][state] += end - begin
    told = {"row_count": len(intervals), "control_totals": {"period_ms": period_ms, "by_gateway_ms": spent}}
    title = "When the recorder of each gateway was up, down or in a gap"
    return sheet("recorder", title, rule, manifest, [files["coverage/recorder.csv"]], {}, told)
