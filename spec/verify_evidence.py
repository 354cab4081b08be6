#!/usr/bin/env python3
"""Verifies what is made out of a Countersign ledger, offline: evidence packages, and records with their proofs.

Written from ledger.md (beside this file), like verify.py, which it needs beside it and which checks the log itself.
Of a package, everything that follows from its log is derived again and compared: lists, tables, totals, sample.
Not checked but by their hashes: the words of README.md, attestation.txt and the sheets in ipe/, coverage/, timestamps.
Names that begin with a dot are no part of a package. Exit codes are those of verify.py.
"""
import base64, hashlib, heapq, json, os, re, sys, time  # noqa: E401
from collections import Counter
from datetime import datetime, timedelta
from pathlib import Path
from verify import (ARGUMENTS, BUNDLES, FILE_MAX, TILE, WRITER, Bad, Log, base64url, check, check_proof, files_below,
                    leaf_hash, open_checkpoint, open_note, parse_canonical, run_command, sha256, spell,
                    split_bundle, tile_path, unbase64)

# ---- Disclosures (RFC 9901) ----
def digests(value):
    """Gives (digest, whether an array's element) of each closed place in a JSON value."""
    if not isinstance(value, dict):
        return [place for item in value for place in digests(item)] if isinstance(value, list) else []
    if list(value) == ["..."]:
        return [(value["..."], True)]
    own = value["_sd"] if isinstance(value.get("_sd"), list) else []
    return [(digest, False) for digest in own] + digests(list(value.values()))
def parse_disclosure(encoded):
    """Gives a disclosure's place (digest, whether an array's element), its name and its value."""
    try:
        salt, *names, value = json.loads(unbase64(encoded, url=True).decode("utf-8"))
        check(len(names) < 2 and {type(text) for text in [salt] + names} == {str}, "salt and name are texts")
        check(names not in (["_sd"], ["..."]), "the name is reserved")
    except (ValueError, TypeError, RecursionError) as error:
        raise Bad(f"a disclosure is malformed: {error}") from None
    return (base64url(sha256(encoded.encode())), not names), names[0] if names else None, value
def open_disclosures(leaf, encoded):
    """Finds the one place of each disclosure; gives the opened fields and the digests that stay closed."""
    check(isinstance(leaf, dict) and leaf.get("_sd_alg", "sha-256") == "sha-256", "no leaf with `_sd_alg` `sha-256`")
    closed, waiting, opened = digests(leaf), [parse_disclosure(text) for text in encoded], []
    while fitting := next((d for d in waiting if d[0] in closed), None):
        place, name, value = fitting
        check([digest for digest, _ in closed].count(place[0]) == 1, f"digest `{place[0]}` stands there twice")
        waiting.remove(fitting)
        closed.remove(place)
        closed += digests(value)  # an opened value may have closed places of its own
        opened.append({"digest": place[0], "name": name, "value": value})
    check(not waiting, f"no place in the leaf for disclosures of {[name for _, name, _ in waiting]}")
    return opened, [digest for digest, _ in closed]

def check_record(record, keys):
    """Checks one record of a record file; gives its leaf, the log's name, and what is opened of it."""
    entry = unbase64(record["leaf"])
    leaf, (index, checkpoint) = parse_canonical(entry), check_proof(record["proof"].encode(), keys, entry)
    check(leaf["record_id"] == record["record_id"], "its leaf is of another record")
    opened, closed = open_disclosures(leaf, record.get("disclosures", []))
    return leaf, checkpoint.origin, {"record_id": leaf["record_id"], "leaf_index": index, "tree_size": checkpoint.size,
                                     "opened": opened, "closed": closed}
def check_record_file(path, keys):
    """Checks a record and its outcomes (ledger.md, "Record file"); gives what is opened of each."""
    try:
        file = json.loads(path.read_bytes().decode("utf-8"))
        check(file["format"] == "countersign-record/v1", "its format is unknown")
        (call, origin, _), *outcomes = records = [check_record(one, keys) for one in [file, *file.get("outcomes", [])]]
        for leaf, log, _ in outcomes:
            belongs = (leaf["kind"], leaf.get("parent"), log) == ("outcome", call["record_id"], origin)
            check(belongs, f"`{leaf['record_id']}` is no outcome of the record in the file")
        return [found for _, _, found in records]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise Bad(error.why if isinstance(error, Bad) else f"it is no record file: {error!r}", str(path)) from None

# ---- Lists and tables of a package (ledger.md, "Evidence package") ----
FORMAT, LINE_MAX, MANIFEST_MAX, SAMPLE_MAX = "countersign-package/v1", 1 << 20, 1 << 26, 10_000
EPOCH, LATEST_MS = datetime(1970, 1, 1), 253402207200999  # the latest time that is written as a date
KINDS = {"decision": "decisions", "outcome": "outcomes", "auth": "auth", "change": "changes", "detection": "detections",
         "gap": "gaps", "heartbeat": "heartbeats"}
LISTS = ["decisions", "outcomes", "late_outcomes", "auth", "changes", "detections", "gaps", "heartbeats", "other"]
RESULTS = dict(decision="decision", outcome="outcome", auth="result", access="result", detection="type", gap="gap")
UNLISTED, STAMP = {"manifest.json", "manifest.sig"}, re.compile(r"log/timestamps/\d+\.tsr")
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
    "detections": OTHERS, "gaps": OTHERS, "heartbeats": OTHERS, "other": OTHERS}.items()}

def utc(ms):
    """Writes a time as RFC 3339 in UTC, with milliseconds."""
    at = EPOCH + timedelta(milliseconds=min(ms, LATEST_MS))
    return at.isoformat(timespec="milliseconds") + "Z" if ms <= LATEST_MS else f"{ms} ms"
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
        self.calls, self.came, self.decisions, self.gaps = {}, {}, [], []
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

# ---- A package's folder ----
def milliseconds(text):
    return (datetime.fromisoformat(text[:-1]) - EPOCH) // timedelta(milliseconds=1)
def difference(own, found):
    """Says how a line differs from the one that the log leads to."""
    matches = (re.match(rb'(?:\{"index":|")([0-9]{1,16})[",]', line) for line in (own, found))
    ours, theirs = (int(match[1]) if match else -1 for match in matches)
    if ours >= 0 and (not found or theirs > ours):
        return f"leaf {ours} is missing"
    if theirs >= 0 and theirs != ours:
        return f"leaf {theirs} does not belong here"
    cells = [line.decode("utf-8", "replace").strip().split('","') for line in (own, found)]
    for number, (mine, its) in enumerate(zip(*cells), 1):
        if mine != its and not own.startswith(b"{"):
            return f"column {number}: " * own.startswith(b'"') + f"`{its[:60]}` instead of `{mine[:60]}`"
    return "it is not what the log leads to"

class Package:
    """A package's folder: its manifest, and the paths of its files."""
    def __init__(self, folder, keys):
        os.listdir(folder)  # a folder that cannot be read is no verdict
        self.folder, self.keys, self.files, self.opened = Path(folder), keys, dict.fromkeys(files_below(folder)), {}
        for file in self.files:
            path = self.folder / file
            check(path.is_file() and not path.is_symlink(), "it is neither a file nor a folder", file)
        self.manifest = self.json("manifest.json", MANIFEST_MAX)
    def read(self, file, limit=FILE_MAX):
        check(file in self.files and (self.folder / file).stat().st_size <= limit, "missing or too large", file)
        return (self.folder / file).read_bytes()
    def json(self, file, limit=FILE_MAX):
        data = self.read(file, limit)
        try:
            return json.loads(data.decode("utf-8"))
        except (ValueError, RecursionError) as error:
            raise Bad(f"not JSON: {error}", file) from None
    def entries(self):
        """Gives path, hash and size of each file as a manifest lists them."""
        for file in (file for file in self.files if file not in UNLISTED):
            digest, size = hashlib.sha256(), 0
            with open(self.folder / file, "rb") as stream:
                for part in iter(lambda: stream.read(1 << 20), b""):
                    digest.update(part)
                    size += len(part)
            yield {"path": file, "sha256": digest.hexdigest(), "bytes": size}
    def expect(self, file, line):
        """Compares the next line of a file with the one that the log leads to; an empty one is the file's end."""
        check(file in self.files, "the file is missing", file)
        stream, row = self.opened.get(file) or (open(self.folder / file, "rb"), 1)
        self.opened[file] = stream, row + 1
        found = stream.readline(LINE_MAX)
        if found != line or not line:
            stream.close()
        check(found == line, difference(line, found), file, row, "row")
    def request(self):
        """Gives what the manifest says that was asked for: a survey, the draw and size of the sample."""
        try:
            own, sample = self.manifest, self.manifest["sample"]
            begin, end, given = milliseconds(own["from"]), milliseconds(own["to"]), own["filters"]
            filters = {name: given[name] for name in ("agent", "tool", "decision") if given.get(name) is not None}
            texts = [own["generator"], sample["draw"], *filters.values(), *(file["path"] for file in own["files"])]
            good = own["format"] == FORMAT and "".join(texts).encode() and begin < end  # and all are texts in UTF-8
            check(good and type(sample["n"]) is int and 0 <= sample["n"] <= SAMPLE_MAX, "a value is not allowed")
            return Survey(begin, end, filters), sample["draw"], sample["n"]
        except (ValueError, TypeError, KeyError, AttributeError, OverflowError) as error:
            raise Bad(f"it is no manifest: {error}", "manifest.json") from None
    def check_signature(self):
        """Checks who signed the manifest, and gives the name; None if nobody did."""
        if "manifest.sig" not in self.files:
            return None
        origin, digest = self.manifest.get("origin"), sha256(self.read("manifest.json", MANIFEST_MAX)).hex()
        try:
            text, signers = open_note(self.read("manifest.sig"), self.keys)
            check(text == f"{FORMAT}\n{origin}\n{digest}\n", "it signs another manifest than `manifest.json`")
            check((b"\1", origin) in ((key.type, key.name) for key in signers), "not signed by the log's own key")
        except Bad as bad:
            raise Bad(bad.why, "manifest.sig") from None
        return origin
    def check_log(self, pinned, survey):
        try:
            return Log(self.folder / "log", self.keys).verify(pinned, survey.add)
        except Bad as bad:
            raise Bad(bad.why, bad.file if bad.file in pinned else f"log/{bad.file}", bad.index) from None
    def bundle(self, index, size):
        return split_bundle(self.read("log/" + tile_path(BUNDLES, index, min(TILE, size - TILE * index))))
    def check_lists(self, size, survey):
        """Derives each line of each list and table again."""
        for table in TABLES:
            self.expect(f"csv/{table}.csv", b"\xef\xbb\xbf" + quoted(column for column, _ in TABLES[table]))
        for index, place in enumerate(survey.places):
            if index % TILE == 0:
                bundle = self.bundle(index // TILE, size)
            if place == len(LISTS):
                continue
            name, entry = LISTS[place], bundle[index % TILE]
            leaf = json.loads(entry)
            allowed = leaf.get("decision") == "allow"
            call = survey.came.get(index, ("no_outcome" if allowed else "", "", "", "", "")) if name == LISTS[0] else ()
            told = facts(index, entry, leaf, call)
            for table in [name] + ["decisions_narrow"] * (name == LISTS[0]):
                self.expect(f"csv/{table}.csv", row(table, leaf, told))
            self.expect(f"records/{name}.jsonl", b'{"index":%d,"leaf":%b}\n' % (index, entry))
        for file in [f"csv/{table}.csv" for table in TABLES] + [f"records/{name}.jsonl" for name in LISTS]:
            self.expect(file, b"")
    def check_proofs(self, size, items):
        for item in sorted(items, key=lambda item: item["record_id"]):
            file, index = f"proofs/{item['record_id']}.tlog-proof", item["leaf_index"]
            proof = self.read(file)
            try:
                proven = check_proof(proof, self.keys, self.bundle(index // TILE, size)[index % TILE])[0]
                plain = proof.partition(b"\n")[2][:6] == b"index " and proof.endswith(self.read("log/checkpoint"))
                check(proven == index and plain, "it proves another leaf, or has more than the proof")
            except Bad as bad:
                raise Bad(bad.why, file) from None
    def check_places(self, size, start, items):
        """Checks that each file has its place, and that the copies of checkpoints are copies."""
        copies = {"checkpoints/end": "log/checkpoint",
                  **({"checkpoints/start": f"log/checkpoints/{start['size']}"} if start else {})}
        for copy, original in copies.items():
            check(self.read(copy) == self.read(original), f"it is not a copy of `{original}`", copy)
        counts = [(level, size >> 8 * max(level, 0)) for level in range(BUNDLES, 8)]
        tiles = {"log/" + tile_path(level, index, min(TILE, count - TILE * index))
                 for level, count in counts for index in range(-(-count // TILE))}
        own = tiles.union(copies, copies.values(), UNLISTED,
                          ("README.md", "verify.py", "verify_evidence.py", "attestation.txt"),
                          ("coverage/recorder.csv", "ipe/recorder.json"),
                          *((file, f"log/checkpoints/{file[15:-4]}") for file in self.files if STAMP.fullmatch(file)),
                          (f"proofs/{item['record_id']}.tlog-proof" for item in items),
                          *((f"records/{name}.jsonl", f"ipe/{name}.json") for name in LISTS),
                          (f"csv/{table}.csv" for table in TABLES))
        for file in self.files:
            check(file in own, "it is no part of a package", file)
    def check_sheets(self, manifest, survey, files):
        """Checks the sheets but for their words."""
        size, filters = manifest["checkpoint_end"]["size"], manifest["filters"]
        for name, totals in zip(LISTS, manifest["lists"]):
            paths = [f"records/{name}.jsonl", f"csv/{name}.csv"] + ["csv/decisions_narrow.csv"] * (name == LISTS[0])
            source = {"log": manifest["origin"], "checkpoint_start": manifest["checkpoint_start"],
                      "checkpoint_end": manifest["checkpoint_end"], "leaf_range": [0, size]}
            excluded = {kind: counts for kind, counts in manifest["excluded"].items()
                        if KINDS.get(kind, "other") == name or (kind, name) == ("outcome", "late_outcomes")}
            own = {"ipe_id": f"{name}-{size}", "list": name, "files": [files[path] for path in paths],
                   "tool_version": manifest["generator"], "source": source, "row_count": totals["rows"],
                   "control_totals": {by: totals[by] for by in ("by_day", "by_result", "by_agent")},
                   "excluded": {"by_kind": excluded, "proof": "log/tile/entries"}, "gaps": survey.gaps,
                   "parameters": {"from": manifest["from"], "to": manifest["to"], "tz": "UTC", "filters": filters,
                                  "disclosure_profile": "public part only"}, "period_semantics": "[from, to)",
                   **{same: manifest[same] for same in ("tenant", "as_of", "period_is_over")}}
            sheet = self.json(f"ipe/{name}.json")
            wrong = [key for key in own if not isinstance(sheet, dict) or spell(sheet.get(key)) != spell(own[key])]
            check(not wrong, f"{wrong} is not what the log leads to", f"ipe/{name}.json")
    def check_files(self, files):
        for path, file in files.items():
            check(file in self.manifest["files"], "its bytes are not those that the manifest lists", path)
        check(self.manifest["files"] == list(files.values()), "its files are not sorted", "manifest.json")
    def derive(self, survey, draw, n, report):
        """Gives the manifest as the log leads to it, but with the files that it lists."""
        size, stored = report["size"], [int(file[16:]) for file in self.files if file.startswith("log/checkpoints/")]
        start = max((at for at in stored if at <= (size if survey.first is None else survey.first)), default=None)
        if start is not None:
            root = open_checkpoint(self.read(f"log/checkpoints/{start}"), self.keys).root
            start = {"size": start, "root": base64.b64encode(root).decode()}
        ranks = ((sha256(f"{draw}:{record}".encode()).hex(), record, index) for record, index in survey.decisions)
        items = [{"record_id": record, "leaf_index": index, "rank": rank}
                 for rank, record, index in heapq.nsmallest(n, ranks)]
        lists = [{"list": name, "rows": totals.pop("rows"), **{by: dict(sorted(totals[by].items())) for by in totals}}
                 for name, totals in survey.totals.items()]
        return {"format": FORMAT, "generator": self.manifest["generator"], "origin": report["origin"],
                "tenant": survey.tenant, "from": utc(survey.begin), "to": utc(survey.end), "filters": survey.filters,
                "as_of": utc(survey.as_of), "period_is_over": survey.as_of >= survey.end, "checkpoint_start": start,
                "checkpoint_end": {"size": size, "root": report["root"]}, "first_leaf": 0, "lists": lists,
                "excluded": dict(sorted(survey.excluded.items())),
                "sample": {"draw": draw, "n": n, "items": items}, "files": self.manifest["files"]}
    def verify(self, pinned):
        """Checks everything; gives the manifest, who signed it, and the report of the log."""
        survey, draw, n = self.request()
        for path in sorted({file["path"] for file in self.manifest["files"]} ^ ({*self.files} - UNLISTED)):
            raise Bad("it is missing, or the manifest does not list it", path)
        signed_by, report = self.check_signature(), self.check_log(pinned, survey)
        size, own = report["size"], self.derive(survey, draw, n, report)
        for line in json.dumps(own, ensure_ascii=False, indent=2).encode().split(b"\n") + [None]:
            self.expect("manifest.json", b"" if line is None else line + b"\n")
        self.check_lists(size, survey)
        self.check_places(size, own["checkpoint_start"], own["sample"]["items"])
        self.check_proofs(size, own["sample"]["items"])
        files = {file["path"]: file for file in self.entries()}
        self.check_sheets(own, survey, files)
        self.check_files(files)
        return {"manifest": own, "signed_by": signed_by, "log": report}

# ---- Command line ----
def run_package(args):
    found = Package(args.dir, args.vkey).verify(list(map(os.path.abspath, args.pinned)))
    if args.json:
        return {"ok": True, **found}
    manifest, end = found["manifest"], found["manifest"]["checkpoint_end"]
    for name, value in {"period": f"{manifest['from']} to {manifest['to']}", "filters": manifest["filters"] or "none",
                        **{f"  {totals['list']}": totals["rows"] for totals in manifest["lists"]},
                        "sample": len(manifest["sample"]["items"]), "files": len(manifest["files"]),
                        "manifest signed by": found["signed_by"] or "nobody: not checked", "log": manifest["origin"],
                        "size": end["size"], "root": end["root"], "as of": manifest["as_of"]}.items():
        print(f"{name:26} {value}")
    return "OK: every list has exactly the records that the signed log has for it"
def run_record(args):
    records = check_record_file(args.file, args.vkey)
    return {"ok": True, "records": records} if args.json else records
COMMANDS = {"package": (run_package, "check an evidence package", ("dir", "--vkey", "--pinned", "--json")),
            "record": (run_record, "check a record with its proof and outcomes", ("file", "--vkey", "--json"))}
OPTIONS = {**ARGUMENTS, "dir": {"help": "the package's folder"},
           "file": {"type": Path, "help": "a record file, as `countersign show --proof` writes it"}}
def main():
    return run_command(__doc__, COMMANDS, OPTIONS)

if __name__ == "__main__":
    sys.exit(main())
