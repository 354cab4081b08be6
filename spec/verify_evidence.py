#!/usr/bin/env python3
"""Verifies what is made out of a Countersign ledger, offline: evidence packages, and records with their proofs.

Written from ledger.md (beside this file), like verify.py, which checks the log itself, and which it needs beside it,
with verify_signatures.py and verify_lists.py. Of a package, everything that follows from its log is derived again and
compared: lists, tables, totals, sample, proofs, the recorder's coverage, the attestation and the sheets. Not checked
but by their hashes: README.md, the verifiers, and timestamps. Names that begin with a dot are no part of a package.
Exit codes are those of verify.py.
"""
import base64, hashlib, heapq, json, os, re, sys  # noqa: E401
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
sys.dont_write_bytecode = True  # a package whose own verifier is run gets no other files by that
from verify import (ARGUMENTS, BUNDLES, EPOCH, FILE_MAX, TILE, TRUST, Log, check_proof, cosigners, files_below,
                    parse_canonical, run_command, split_bundle, tile_path, utc)  # noqa: E402
from verify_lists import (LISTS, RECORDER, TABLES, Survey, attestation, facts, interval_row, list_sheet, quoted,
                          recorder_sheet, row)  # noqa: E402
from verify_signatures import (ED25519, Bad, base64url, check, check_quorum, open_note, parse_checkpoint, sha256,
                               split_note, unbase64)  # noqa: E402

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

def check_record(record, keys, policy):
    """Checks one record of a record file; gives its leaf, the log's name, and what is opened of it."""
    entry = unbase64(record["leaf"])
    leaf, (index, checkpoint) = parse_canonical(entry), check_proof(record["proof"].encode(), keys, entry, policy)
    check(leaf["record_id"] == record["record_id"], "its leaf is of another record")
    opened, closed = open_disclosures(leaf, record.get("disclosures", []))
    return leaf, checkpoint.origin, {"record_id": leaf["record_id"], "leaf_index": index, "tree_size": checkpoint.size,
                                     "opened": opened, "closed": closed}
def check_record_file(path, keys, policy=None):
    """Checks a record and its outcomes (ledger.md, "Record file"); gives what is opened of each."""
    try:
        file = json.loads(path.read_bytes().decode("utf-8"))
        check(file["format"] == "countersign-record/v1", "its format is unknown")
        every = [file, *file.get("outcomes", [])]
        (call, origin, _), *outcomes = records = [check_record(one, keys, policy) for one in every]
        for leaf, log, _ in outcomes:
            belongs = (leaf["kind"], leaf.get("parent"), log) == ("outcome", call["record_id"], origin)
            check(belongs, f"`{leaf['record_id']}` is no outcome of the record in the file")
        return [found for _, _, found in records]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise Bad(error.why if isinstance(error, Bad) else f"it is no record file: {error!r}", str(path)) from None

# ---- A package's folder (ledger.md, "Evidence package") ----
FORMAT, LINE_MAX, MANIFEST_MAX, SAMPLE_MAX = "countersign-package/v1", 1 << 20, 1 << 26, 10_000
BOM, UNLISTED, STAMP = b"\xef\xbb\xbf", {"manifest.json", "manifest.sig"}, re.compile(r"log/timestamps/\d+\.tsr")
FOR_PEOPLE = {"README.md", "verify.py", "verify_evidence.py", "verify_lists.py", "verify_signatures.py"}

def milliseconds(text):
    return (datetime.fromisoformat(text[:-1]) - EPOCH) // timedelta(milliseconds=1)
def pretty(value):
    return json.dumps(value, ensure_ascii=False, indent=2) + "\n"
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
    def in_log(self, pinned, call, *arguments):
        """Calls a check of the log, whose files have other names here."""
        try:
            return call(*arguments)
        except Bad as bad:
            raise Bad(bad.why, bad.file if bad.file in pinned else f"log/{bad.file}", bad.index) from None
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
    def expect_text(self, file, text):
        """Compares a file with the text that the log leads to."""
        for line in text.encode().split(b"\n")[:-1]:
            self.expect(file, line + b"\n")
        self.expect(file, b"")
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
    def check_signature(self, keys):
        """Checks who signed the manifest, and gives the name; None if nobody did."""
        if "manifest.sig" not in self.files:
            return None
        origin, digest = self.manifest.get("origin"), sha256(self.read("manifest.json", MANIFEST_MAX)).hex()
        try:
            text, signers = open_note(self.read("manifest.sig"), keys)
            check(text == f"{FORMAT}\n{origin}\n{digest}\n", "it signs another manifest than `manifest.json`")
            check((ED25519, origin) in ((key.type, key.name) for key in signers), "not signed by the log's own key")
        except Bad as bad:
            raise Bad(bad.why, "manifest.sig") from None
        return origin
    def bundle(self, index, size):
        return split_bundle(self.read("log/" + tile_path(BUNDLES, index, min(TILE, size - TILE * index))))
    def check_lists(self, size, survey):
        """Derives each line of each list and table again."""
        for table in TABLES:
            self.expect(f"csv/{table}.csv", BOM + quoted(column for column, _ in TABLES[table]))
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
    def check_proofs(self, size, keys, items):
        for item in sorted(items, key=lambda item: item["record_id"]):
            file, index = f"proofs/{item['record_id']}.tlog-proof", item["leaf_index"]
            proof = self.read(file)
            try:
                proven = check_proof(proof, keys, self.bundle(index // TILE, size)[index % TILE])[0]
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
                          FOR_PEOPLE, ("attestation.txt", "coverage/recorder.csv", "ipe/recorder.json"),
                          *((file, f"log/checkpoints/{file[15:-4]}") for file in self.files if STAMP.fullmatch(file)),
                          (f"proofs/{item['record_id']}.tlog-proof" for item in items),
                          *((f"records/{name}.jsonl", f"ipe/{name}.json") for name in LISTS),
                          (f"csv/{table}.csv" for table in TABLES))
        for file in self.files:
            check(file in own, "it is no part of a package", file)
    def check_words(self, manifest, survey, files):
        """Derives the attestation and the sheets again."""
        self.expect_text("attestation.txt", attestation(manifest, len(survey.gaps)))
        for name in LISTS:
            self.expect_text(f"ipe/{name}.json", pretty(list_sheet(name, manifest, survey.gaps, files)))
        intervals, file = survey.coverage.intervals(survey.begin, survey.end), "coverage/recorder.csv"
        for line in [BOM + quoted(column for column, _ in RECORDER), *(interval_row(*one) for one in intervals), b""]:
            self.expect(file, line)
        period_ms = survey.end - survey.begin
        self.expect_text("ipe/recorder.json", pretty(recorder_sheet(manifest, intervals, period_ms, files)))
    def check_files(self, files):
        for path, file in files.items():
            check(file in self.manifest["files"], "its bytes are not those that the manifest lists", path)
        check(self.manifest["files"] == list(files.values()), "its files are not sorted", "manifest.json")
    def derive(self, survey, draw, n, report):
        """Gives the manifest as the log leads to it, but with the files that it lists."""
        size, stored = report["size"], [int(file[16:]) for file in self.files if file.startswith("log/checkpoints/")]
        start = max((at for at in stored if at <= (size if survey.first is None else survey.first)), default=None)
        if start is not None:
            root = parse_checkpoint(split_note(self.read(f"log/checkpoints/{start}"))[0]).root  # verified with the log
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
    def verify(self, pinned, policy=None):
        """Checks everything; gives the manifest, who signed it, the report of the log, and who cosigned that."""
        survey, draw, n = self.request()
        for path in sorted({file["path"] for file in self.manifest["files"]} ^ ({*self.files} - UNLISTED)):
            raise Bad("it is missing, or the manifest does not list it", path)
        log = self.in_log(pinned, Log, self.folder / "log", self.keys)
        keys = log.keys_at(log.says.size)
        signed_by, report = self.check_signature(keys), self.in_log(pinned, log.verify, pinned, survey.add)
        cosigned = self.in_log(pinned, log.read, "checkpoint", partial(check_quorum, policy), keys) if policy else None
        size, own = report["size"], self.derive(survey, draw, n, report)
        self.expect_text("manifest.json", pretty(own))
        self.check_lists(size, survey)
        self.check_places(size, own["checkpoint_start"], own["sample"]["items"])
        self.check_proofs(size, keys, own["sample"]["items"])
        files = {file["path"]: file for file in self.entries()}
        self.check_words(own, survey, files)
        self.check_files(files)
        check(own["period_is_over"] or not policy, "its log ends before the period does", "log/checkpoint")
        witnessed = {"witnessed": {"size": size, "cosigned": cosigners(policy, cosigned)}} if policy else {}
        return {"manifest": own, "signed_by": signed_by, "log": report, **witnessed}

# ---- Command line ----
def run_package(args):
    found = Package(args.dir, args.vkey).verify(list(map(os.path.abspath, args.pinned)), args.policy)
    if args.json:
        return {"ok": True, **found}
    manifest, end = found["manifest"], found["manifest"]["checkpoint_end"]
    cosigned = found.get("witnessed", {}).get("cosigned", [])
    for name, value in {"period": f"{manifest['from']} to {manifest['to']}", "filters": manifest["filters"] or "none",
                        **{f"  {totals['list']}": totals["rows"] for totals in manifest["lists"]},
                        "sample": len(manifest["sample"]["items"]), "files": len(manifest["files"]),
                        "manifest signed by": found["signed_by"] or "nobody: not checked", "log": manifest["origin"],
                        "cosigned by": ", ".join(map("{witness} at {time}".format_map, cosigned)) or "not checked",
                        "size": end["size"], "root": end["root"], "as of": manifest["as_of"]}.items():
        print(f"{name:26} {value}")
    return "OK: every list has exactly the records that the signed log has for it"
def run_record(args):
    records = check_record_file(args.file, args.vkey, args.policy)
    return {"ok": True, "records": records} if args.json else records
COMMANDS = {"package": (run_package, "check an evidence package", ("dir", *TRUST, "--pinned", "--json")),
            "record": (run_record, "check a record with its proof and outcomes", ("file", *TRUST, "--json"))}
OPTIONS = {**ARGUMENTS, "dir": {"help": "the package's folder"},
           "file": {"type": Path, "help": "a record file, as `countersign show --proof` writes it"}}
def main():
    return run_command(__doc__, COMMANDS, OPTIONS)

if __name__ == "__main__":
    sys.exit(main())
