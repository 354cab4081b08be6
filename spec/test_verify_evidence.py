"""Tests of verify_evidence.py: a package and a record file that `countersign` made, and what can be done to them.

Run with `python3 -m unittest discover -s spec` from the repository's root.
"""
import base64
import copy
import hashlib
import json
import os
import shutil
import subprocess
import sys
import unittest

import verify
import verify_evidence as evidence
import verify_lists as lists
from test_verify import InFolder, cosign, make_vkey, run, sign_note, vectors, write
from verify_signatures import Bad

VECTOR = vectors("package")
SEED = bytes.fromhex(VECTOR["seed_hex"])
ID = "019ac4a0-0000-7000-8000-0000000000{:02}".format


class Packages(InFolder):
    def setUp(self):
        super().setUp()
        self.lay_out()

    def lay_out(self):
        for path, text in VECTOR["files"].items():
            write(self.path("package"), path, text.encode())
        for path, data in VECTOR["files_base64"].items():
            write(self.path("package"), path, base64.b64decode(data))

    def read(self, path):
        with open(self.path("package", path), "rb") as file:
            return file.read()

    def change(self, path, old, new, count=1):
        data = self.read(path)
        self.assertIn(old.encode(), data)
        write(self.path("package"), path, data.replace(old.encode(), new.encode(), count))

    def lines(self, path, change):
        write(self.path("package"), path, b"".join(change(self.read(path).splitlines(keepends=True))))

    def sign_again(self):
        """Lists and signs what is there, as whoever has the log's key can."""
        manifest = json.loads(self.read("manifest.json"))
        paths = sorted(verify.files_below(self.path("package")))
        manifest["files"] = [{"path": path, "sha256": hashlib.sha256(self.read(path)).hexdigest(), "bytes": len(self.read(path))}
                             for path in paths if path not in ("manifest.json", "manifest.sig")]
        self.write_manifest(manifest)

    def write_manifest(self, manifest):
        data = json.dumps(manifest, ensure_ascii=False, indent=2).encode() + b"\n"
        write(self.path("package"), "manifest.json", data)
        text = f"countersign-package/v1\n{manifest['origin']}\n{hashlib.sha256(data).hexdigest()}\n"
        write(self.path("package"), "manifest.sig", sign_note(text, SEED, manifest["origin"]))

    def check(self, *arguments):
        code, out, err = run("package", self.path("package"), "--vkey", VECTOR["vkey"], "--json", *arguments)
        self.assertIn(code, (0, 1), err)
        return json.loads(out)

    def assert_bad(self, file, row=None, reason=""):
        """Checks that the file is named as bad, as it is and also when it is listed and signed again."""
        for sign in (None, self.sign_again):
            if sign:
                sign()
            problem = self.check().get("problem", {})
            self.assertEqual((problem.get("object"), problem.get("row")), (file, row), problem)
            self.assertIn(reason, problem["reason"])
        shutil.rmtree(self.path("package"))
        self.lay_out()

    def test_what_the_program_built_is_accepted(self):
        found = self.check()
        self.assertEqual((found["ok"], found["signed_by"], found["log"]["size"]), (True, "localhost/default", 14))
        self.assertEqual(found["manifest"], json.loads(VECTOR["files"]["manifest.json"]))
        out = run("package", self.path("package"), "--vkey", VECTOR["vkey"])[1]
        self.assertRegex(out, r"(?m)^  late_outcomes +2$")
        self.assertTrue(out.endswith("OK: every list has exactly the records that the signed log has for it\n"))

    def test_every_cell_is_derived_again(self):
        cells = 0
        for path in (path for path in VECTOR["files"] if path.startswith("csv/")):
            lines = self.read(path).splitlines(keepends=True)
            for row in (1, 2):
                if len(lines) < row:
                    continue
                cut = lines[row - 1].split(b'","')
                for at in range(1, len(cut)):
                    line = b'","'.join([*cut[:at], b"z" + cut[at], *cut[at + 1:]])
                    write(self.path("package"), path, b"".join([*lines[:row - 1], line, *lines[row:]]))
                    problem = self.check()["problem"]
                    self.assertEqual((problem["object"], problem["row"]), (path, row))
                    self.assertIn(f"column {at + 1}: `z", problem["reason"] if row > 1 else f"column {at + 1}: `z")
                    cells += 1
            write(self.path("package"), path, b"".join(lines))
        self.assertGreater(cells, 200)

    def test_rows_that_are_dropped_added_or_swapped(self):
        for path, first in (("csv/decisions.csv", 1), ("csv/decisions_narrow.csv", 1), ("records/decisions.jsonl", 0)):
            self.lines(path, lambda lines: [*lines[:first + 1], *lines[first + 2:]])
            self.assert_bad(path, first + 2, "leaf 3 is missing")
            self.lines(path, lambda lines: lines[:-1])
            self.assert_bad(path, first + 4, "leaf 10 is missing")
            self.lines(path, lambda lines: [*lines[:first + 2], *lines[first + 1:]])
            self.assert_bad(path, first + 3, "leaf 3 does not belong here")
            self.lines(path, lambda lines: [*lines, lines[-1]])
            self.assert_bad(path, first + 5, "leaf 10 does not belong here")
            self.lines(path, lambda lines: [*lines[:first], lines[first + 1], lines[first], *lines[first + 2:]])
            self.assert_bad(path, first + 1, "leaf 2 is missing")
        self.lines("csv/decisions.csv", lambda lines: lines[1:])
        self.assert_bad("csv/decisions.csv", 1)

    def test_an_edited_leaf_in_a_list(self):
        self.change("records/decisions.jsonl", '"decision":"deny"', '"decision":"allow"')
        self.assert_bad("records/decisions.jsonl", 2, "not what the log leads to")
        self.change("records/late_outcomes.jsonl", '"failed"', '"executed"')
        self.assert_bad("records/late_outcomes.jsonl", 2)

    def test_an_edited_entry_of_its_log(self):
        data = self.read("log/tile/entries/000.p/14")
        write(self.path("package"), "log/tile/entries/000.p/14", data.replace(b'"deny"', b'"hold"'))
        problem = self.check()["problem"]
        self.assertEqual((problem["object"], problem["index"]), ("log/tile/entries/000.p/14", 3))

    def test_counts_and_claims_of_the_manifest(self):
        for name, value in (("from", "2025-11-21T04:40:00.003Z"), ("to", "2025-11-22T00:00:00.000Z"), ("filters", {"agent": "a1"}),
                            ("filters", {"decision": "deny"}), ("tenant", "other"), ("as_of", "2025-11-21T04:40:00.012Z"),
                            ("period_is_over", False), ("checkpoint_start", None), ("first_leaf", 1), ("excluded", {}), ("more", 1),
                            ("sample", {"draw": "4711", "n": 1, "items": []}), ("from", "2025-11-21T04:40:00.0020Z")):
            manifest = json.loads(VECTOR["files"]["manifest.json"])
            manifest[name] = value
            self.write_manifest(manifest)
            problem = self.check()["problem"]
            self.assertEqual(problem["object"], "manifest.json", (name, problem))
        manifest = json.loads(VECTOR["files"]["manifest.json"])
        manifest["lists"][0]["rows"] -= 1
        self.write_manifest(manifest)
        self.assertIn('"rows": 3', self.check()["problem"]["reason"])
        manifest = json.loads(VECTOR["files"]["manifest.json"])
        manifest["files"].reverse()
        self.write_manifest(manifest)
        self.assertIn("sorted", self.check()["problem"]["reason"])

    def test_manifests_that_are_none(self):
        good = json.loads(VECTOR["files"]["manifest.json"])
        whole = [b"", b"[]", b"{}", b"null", b"\xff", b"[" * 9999, b"1" * 5000]
        members = [("format", "countersign-package/v2"), ("from", 5), ("from", "soon"), ("to", good["from"]), ("filters", []), ("files", [{}]),
                   ("files", [{"path": 1}]), ("sample", {"draw": 1, "n": 1}), ("sample", {"draw": "", "n": -1}), ("sample", {"draw": "", "n": True}),
                   ("sample", {"draw": "\ud800", "n": 1}), ("generator", None), ("filters", {"agent": 5})]
        for data in whole + [json.dumps({**good, name: value}).encode() for name, value in members]:
            write(self.path("package"), "manifest.json", data)
            self.assertEqual(self.check()["problem"]["object"], "manifest.json", data[:60])

    def test_signatures_of_the_manifest(self):
        self.change("manifest.json", '"4711"', '"4712"')
        self.assertEqual(self.check()["problem"]["object"], "manifest.sig")
        self.lay_out()
        text = VECTOR["files"]["manifest.sig"].split("\n\n")[0] + "\n"
        for note in (b"", sign_note(text, bytes(32), "localhost/default"), sign_note(text, SEED, "other")):
            write(self.path("package"), "manifest.sig", note)
            self.assertEqual(self.check()["problem"]["object"], "manifest.sig")
        write(self.path("package"), "manifest.sig", sign_note(text, SEED, "other"))
        code, out, _ = run("package", self.path("package"), "--vkey", VECTOR["vkey"], "--vkey", make_vkey(SEED, "other"))
        self.assertIn("not signed by the log's own key", out)
        os.remove(self.path("package", "manifest.sig"))
        self.assertEqual((self.check()["ok"], self.check()["signed_by"]), (True, None))

    def test_files_that_are_too_many_too_few_or_no_files(self):
        for path in ("more", "records/all.jsonl", "log/tile/1/000.p/1", "log/checkpoints/14", "proofs/x.tlog-proof", "csv/decisions"):
            write(self.path("package"), path, b"x")
            self.assertEqual(self.check()["problem"]["object"], path)
            self.sign_again()
            self.assertEqual(self.check()["problem"]["object"], path)
            os.remove(self.path("package", path))
            self.lay_out()
        write(self.path("package"), "records/.hidden", b"x")
        self.assertTrue(self.check()["ok"], "names with a dot are no part of it")
        for path in sorted({**VECTOR["files"], **VECTOR["files_base64"]}):
            os.rename(self.path("package", path), self.path("away"))
            found = self.check()
            if path == "manifest.sig":
                self.assertTrue(found["ok"])
            else:
                self.assertEqual(found["problem"]["object"], path)
            os.symlink(self.path("away"), self.path("package", path))
            self.assertEqual(self.check()["problem"]["object"], path)
            os.remove(self.path("package", path))
            os.rename(self.path("away"), self.path("package", path))

    def test_every_file_has_its_hash(self):
        for path in ("README.md", "verify.py", "verify_signatures.py"):
            self.lines(path, lambda lines: [*lines, b"x"])
            self.assertEqual(self.check()["problem"]["object"], path)
            self.lay_out()

    def test_sheets(self):
        for row, old, new in ((51, '"row_count": 4', '"row_count": 5'), (58, '"deny": 1', '"deny": 0'), (25, '"as_of": "2025', '"as_of": "2026'),
                              (69, '"outside_period": 1', '"outside_period": true'), (31, '"filters": {}', '"filters": {"agent": "a1"}'), (43, '"size": 14', '"size": 15'),
                              (3, '"list": "decisions"', '"list": "auth"'), (4, "(allow, deny, hold)", "(allow, deny)"), (80, "not judged", "judged")):
            self.change("ipe/decisions.json", old, new)
            self.assert_bad("ipe/decisions.json", row)
        for data in (b"[]", b"", b"{}\n"):
            write(self.path("package"), "ipe/gaps.json", data)
            self.assert_bad("ipe/gaps.json", 1)
        self.lines("ipe/auth.json", lambda lines: [*lines, b"\n"])
        self.assert_bad("ipe/auth.json", self.read("ipe/auth.json").count(b"\n"))

    def test_the_attestation(self):
        for row, old, new in ((1, "all 9 records", "all 8 records"), (3, "1 gaps", "0 gaps"), (4, "none", "agent = a1"), (7, "root ", "root"), (8, "1 (listed", "0 (listed"),
                              (9, "all private sections", "no sections"), (11, "as of 2025-11-21", "as of 2025-11-22"), (12, "it is not an audit opinion", "it is an audit opinion")):
            self.change("attestation.txt", old, new)
            self.assert_bad("attestation.txt", row)
        self.lines("attestation.txt", lambda lines: [*lines, b"Approved.\n"])
        self.assert_bad("attestation.txt", 13)

    def test_the_coverage(self):
        for row, old, new in ((1, "first_leaf", "leaf"), (2, '"up"', '"down"'), (2, '"4"', '"5"'), (3, "restart", "silence")):
            self.change("coverage/recorder.csv", old, new)
            self.assert_bad("coverage/recorder.csv", row)
        self.lines("coverage/recorder.csv", lambda lines: lines[:-1])
        self.assert_bad("coverage/recorder.csv", 4)
        for old, new in (('"period_ms": 9', '"period_ms": 8'), ("more than 90 s", "more than 91 s"), ('"up": ', '"up": 1')):
            self.change("ipe/recorder.json", old, new)
            problem = self.check()["problem"]
            self.assertEqual(problem["object"], "ipe/recorder.json")
            self.lay_out()

    def test_proofs(self):
        first, second = (f"proofs/{ID(number)}.tlog-proof" for number in (2, 3))
        proofs = VECTOR["files"][first], VECTOR["files"][second]
        for text in (proofs[1], proofs[0] + " ", "", proofs[0].replace("\nindex", "\nextra AAAA\nindex"), proofs[0].replace("index 2", "index 3")):
            write(self.path("package"), first, text.encode())
            self.assert_bad(first)

    def test_copies_of_checkpoints(self):
        for path in ("checkpoints/end", "checkpoints/start"):
            write(self.path("package"), path, self.read("checkpoints/start" if path.endswith("end") else "checkpoints/end"))
            self.assert_bad(path, None, "not a copy")

    def test_a_pinned_checkpoint(self):
        write(self.folder, "kept", VECTOR["files"]["checkpoints/start"].encode())
        self.assertTrue(self.check("--pinned", self.path("kept"))["ok"])
        other = sign_note(f"localhost/default\n1\n{base64.b64encode(bytes(32)).decode()}\n", SEED, "localhost/default")
        write(self.folder, "kept", other)
        self.assertEqual(self.check("--pinned", self.path("kept"))["problem"]["object"], "log/checkpoint")
        write(self.folder, "kept", b"nonsense")
        self.assertEqual(self.check("--pinned", self.path("kept"))["problem"]["object"], self.path("kept"))

    def test_exit_codes(self):
        self.assertEqual(run("package", self.path("none"), "--vkey", VECTOR["vkey"])[0], 2)
        self.assertEqual(run("package", self.path("package"), "--vkey", make_vkey(SEED, "other"))[0], 1)
        self.change("csv/auth.csv", "leaf_index", "leaf_Index")
        self.assertTrue(run("package", self.path("package"), "--vkey", VECTOR["vkey"])[1].startswith("FAILED: `csv/auth.csv`, row 1: "))


    def test_a_packages_own_verifiers_leave_nothing_behind(self):
        here = os.path.dirname(os.path.abspath(__file__))
        for name in evidence.FOR_PEOPLE - {"README.md"}:
            shutil.copy(os.path.join(here, name), self.path("package", name))
        self.sign_again()
        before = verify.files_below(self.path("package"))
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
        for program, command, folder in (("verify_evidence.py", "package", "."), ("verify.py", "log", "log"), ("verify_evidence.py", "package", ".")):
            done = subprocess.run([sys.executable, program, command, folder, "--vkey", VECTOR["vkey"]], cwd=self.path("package"), env=environment,
                                  capture_output=True, text=True)
            self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
        self.assertEqual(verify.files_below(self.path("package")), before)

    def test_a_policy(self):
        witness = bytes([9] * 32)
        write(self.folder, "policy", f"log {VECTOR['vkey']}\nwitness w {make_vkey(witness, 'w', 4)}\nquorum w\n".encode())
        self.assertEqual(self.check("--policy", self.path("policy"))["problem"]["object"], "log/checkpoint")
        note = cosign(self.read("log/checkpoint"), witness, "w")
        for path in ("log/checkpoint", "checkpoints/end"):
            write(self.path("package"), path, note)
        for path in (path for path in VECTOR["files"] if path.startswith("proofs/")):
            write(self.path("package"), path, self.read(path).partition(b"\n\n")[0] + b"\n\n" + note)
        self.sign_again()
        found = self.check("--policy", self.path("policy"))
        self.assertEqual([(one["witness"], one["time"]) for one in found["witnessed"]["cosigned"]], [("w", "2025-11-21T04:40:00.000Z")])
        self.assertRegex(run("package", self.path("package"), "--policy", self.path("policy"))[1], r"(?m)^cosigned by +w at 2025-11-21T04:40:00.000Z$")


class Coverage(unittest.TestCase):
    def intervals(self, *leaves, begin=0, end, known=None):
        """Gives the intervals of a log whose newest leaf is at the end of the period, unless said otherwise."""
        coverage = lists.Coverage()
        for index, (ms, epoch, kind, more) in enumerate(leaves):
            coverage.add(index, {"kind": kind, "time": {"ms": ms, "n": 0}, "gw": {"replica": more.pop("of", "g1"), "epoch": epoch}, **more})
        coverage.known_ms = end if known is None else known
        return [(name, state, first, last, cause) for name, state, first, last, cause, _, _ in coverage.intervals(begin, end)]

    def test_a_start_and_a_stop(self):
        self.assertEqual(self.intervals((100, 1, "heartbeat", {"event": "start"}), (200, 1, "decision", {}), (300, 1, "heartbeat", {"event": "stop"}), end=301),
                         [("g1", "down", 0, 100, "not_started"), ("g1", "up", 100, 300, "started"), ("g1", "down", 300, 301, "stopped")])

    def test_silence(self):
        start = (0, 1, "heartbeat", {"event": "start"})
        self.assertEqual(self.intervals(start, (90_000, 1, "heartbeat", {}), end=90_000), [("g1", "up", 0, 90_000, "started")])
        self.assertEqual(self.intervals(start, (90_001, 1, "heartbeat", {}), end=90_002),
                         [("g1", "gap", 0, 90_001, "silence"), ("g1", "up", 90_001, 90_002, "resumed")])
        self.assertEqual(self.intervals(start, (10, 1, "decision", {}), (200_000, 1, "change", {"of": "g2"}), end=200_000),
                         [("g1", "up", 0, 10, "started"), ("g1", "gap", 10, 200_000, "silence"), ("g2", "down", 0, 200_000, "not_started")])

    def test_losses(self):
        start, later = (0, 1, "heartbeat", {"event": "start"}), (50, 1, "decision", {})
        for gap, after in (({"gap": "database_failed"}, ("up", 70, 80, "resumed")), ({}, ("gap", 50, 80, "unclean_stop"))):
            found = self.intervals(start, later, (70, 1, "gap", dict(gap)), end=80)
            self.assertEqual((found[0][1:], found[-1][1:]), (("up", 0, 50, "started"), after))

    def test_a_gateway_that_another_found_lost(self):
        lost = {"gap": "gateway_lost", "last": {"replica": "g1", "epoch": 1, "seq": 2}, "of": "g2"}
        leaves = [(0, 1, "heartbeat", {"event": "start"}), (50, 1, "decision", {}), (60, 3, "gap", lost), (80, 2, "heartbeat", {"event": "start"})]
        self.assertEqual(self.intervals(*leaves, end=90, known=80),
                         [("g1", "up", 0, 50, "started"), ("g1", "gap", 50, 80, "gateway_lost"), ("g1", "gap", 80, 90, "log_ends"),
                          ("g2", "down", 0, 60, "not_started"), ("g2", "up", 60, 80, "resumed"), ("g2", "gap", 80, 90, "log_ends")])


class Lists(unittest.TestCase):
    def survey(self, leaves, filters, begin=0, end=1000):
        survey = evidence.Survey(begin, end, filters)
        for index, (ms, kind, more) in enumerate(leaves):
            survey.add(index, {"kind": kind, "record_id": f"r{index}", "tenant": "t", "time": {"ms": ms, "n": 0}, "gw": {"replica": "g1", "epoch": 1, "seq": index + 1}, **more})
        return survey, [evidence.LISTS[place] if place < len(evidence.LISTS) else None for place in survey.places]

    def test_an_outcome_follows_its_decision(self):
        allow, deny = {"decision": "allow", "agent": "a"}, {"decision": "deny", "agent": "a"}

        def outcome(call, **more):
            return {"parent": call, "outcome": "executed", **more}

        leaves = [(1, "decision", allow), (2, "outcome", outcome("r0")), (3, "decision", {**allow, "agent": "b"}), (4, "outcome", outcome("r2", agent="a")),
                  (5, "outcome", outcome("r0")), (6, "outcome", outcome("r0", agent="a")), (7, "decision", deny)]
        self.assertEqual(self.survey(leaves, {"agent": "a"})[1], ["decisions", "outcomes", None, None, None, "outcomes", "decisions"])
        self.assertEqual(self.survey(leaves, {"decision": "allow"})[1], ["decisions", "outcomes", "decisions", "outcomes", None, None, None])
        survey, places = self.survey(leaves, {}, 1, 2)
        self.assertEqual(places, ["decisions", "late_outcomes", None, None, None, None, None])
        self.assertEqual(survey.excluded, {"decision": {"outside_period": 2, "filtered": 0}, "outcome": {"outside_period": 3, "filtered": 0}})

    def test_an_unknown_outcome_waits_for_another(self):
        leaves = [(1, "decision", {"decision": "allow"}), (2, "outcome", {"parent": "r0", "outcome": "unknown"}),
                  (3, "outcome", {"parent": "r0", "outcome": "executed"}), (4, "outcome", {"parent": "r0", "outcome": "failed"})]
        survey, places = self.survey(leaves, {}, 1, 2)
        self.assertEqual((places, survey.came[0][:2]), (["decisions", "late_outcomes", "late_outcomes", None], ("executed", "r2")))

    def test_gaps_pass_every_filter(self):
        self.assertEqual(self.survey([(1, "gap", {}), (2, "heartbeat", {}), (5000, "gap", {})], {"agent": "a"})[1], ["gaps", None, None])

    def test_cells(self):
        for value, expected in ((None, ""), (True, "TRUE"), (False, "FALSE"), (-5, "-5"), (0, "0"), ("", ""), ("a\r\n\tb", "a\\r\\n\\tb"), ([], ""),
                                (["a", "b"], "a b"), ([1, "a"], '[1,"a"]'), ({"b": "ä", "a": None}, '{"b":"ä","a":null}')):
            self.assertEqual(lists.cell(value), (expected, False), value)
        for value in ("=1", "+1", "-1", "@a", "＝1", "＋", "－", "＠", ["=1", "b"]):
            written = value if isinstance(value, str) else "=1 b"
            self.assertEqual(lists.cell(value), (f"'{written}", True), value)
        self.assertEqual(lists.cell("\t=1"), ("'\\t=1", True))

    def test_times(self):
        for ms, written in ((0, "1970-01-01T00:00:00.000Z"), (1773543607142, "2026-03-15T03:00:07.142Z"), (253402207200999, "9999-12-30T22:00:00.999Z"),
                            (253402207201000, "253402207201000 ms"), (2**53 - 1, "9007199254740991 ms"), (-62135596800000, "0001-01-01T00:00:00.000Z")):
            self.assertEqual(verify.utc(ms), written)
            if written.endswith("Z"):
                self.assertEqual(evidence.milliseconds(written), ms)


class Records(InFolder):
    def check(self, file):
        write(self.folder, "record.json", file if isinstance(file, bytes) else json.dumps(file).encode())
        code, out, err = run("record", self.path("record.json"), "--vkey", vectors("record")["vkey"], "--json")
        self.assertIn(code, (0, 1), err)
        return json.loads(out)

    def test_what_the_program_wrote_is_accepted(self):
        found = self.check(vectors("record")["file"])
        names = [opened["name"] for opened in found["records"][0]["opened"]]
        self.assertEqual((found["ok"], len(found["records"]), found["records"][0]["closed"]), (True, 2, []))
        self.assertIn("arguments.amount", names)

    def test_whatever_is_altered_is_refused(self):
        def changed(change):
            file = copy.deepcopy(vectors("record")["file"])
            change(file, file["outcomes"][0])
            return file

        def swap(name):
            def change(file, outcome):
                file[name], outcome[name] = outcome[name], file[name]
            return changed(change)

        disclosure = verify.base64url(json.dumps(["c2FsdA", "arguments.amount", 1]).encode())
        for file in (*map(swap, ("leaf", "proof", "disclosures", "record_id")), changed(lambda file, _: file.update(format="x")),
                     changed(lambda file, _: file.update(leaf="AA==")), changed(lambda file, _: file["disclosures"].append(disclosure)),
                     changed(lambda file, _: file["disclosures"].append(file["disclosures"][0])),
                     changed(lambda file, outcome: outcome.update({name: file[name] for name in ("record_id", "leaf", "disclosures", "proof")})),
                     changed(lambda file, _: file.update(outcomes=[5])), {}, [], b"", b"\xff", b"1" * 5000):
            problem = self.check(file)["problem"]
            self.assertEqual(problem["object"], self.path("record.json"))

    def test_a_policy(self):
        file, key = vectors("record")["file"], vectors("record")["vkey"]
        witness = bytes([9] * 32)
        write(self.folder, "policy", f"log {key}\nwitness w {make_vkey(witness, 'w', 4)}\nquorum w\n".encode())
        for cosigned, code in ((0, 1), (1, 1), (2, 0)):
            write(self.folder, "record.json", json.dumps(file).encode())
            self.assertEqual(run("record", self.path("record.json"), "--policy", self.path("policy"))[0], code)
            part = [file, *file["outcomes"], {}][cosigned]
            if part:
                head, _, note = part["proof"].partition("\n\n")
                part["proof"] = head + "\n\n" + cosign(note.encode(), witness, "w").decode()

    def test_what_is_not_opened_stays_closed(self):
        file = vectors("record")["file"]
        file["disclosures"] = []
        self.assertGreater(len(self.check(file)["records"][0]["closed"]), 2)

    def test_another_key(self):
        write(self.folder, "record.json", json.dumps(vectors("record")["file"]).encode())
        self.assertEqual(run("record", self.path("record.json"), "--vkey", make_vkey())[0], 1)
        self.assertEqual(run("record", self.path("none"), "--vkey", make_vkey())[0], 2)


class Disclosures(unittest.TestCase):
    def test_vectors(self):
        v = vectors("disclosure")
        for case in v["decode"] + v["encode"]:
            (digest, element), name, value = evidence.parse_disclosure(case["encoded"])
            self.assertEqual((digest, name, value), (case["digest"], case["name"], case["value"]))
            self.assertEqual(element, name is None)
        for text in v["malformed"]:
            with self.assertRaises(Bad, msg=text):
                evidence.parse_disclosure(text)
        leaf = verify.parse_canonical(v["leaf"].encode())
        opened, closed = evidence.open_disclosures(leaf, v["open"]["disclosures"])
        self.assertEqual(closed, v["open"]["closed"])
        self.assertEqual([(o["name"], o["value"]) for o in opened], [("amount", 1200), (None, {"iban": "<tok:1>"})])

    def test_disclosures_that_do_not_belong(self):
        v = vectors("disclosure")
        leaf, first = json.loads(v["leaf"]), v["open"]["disclosures"][0]
        element_as_field = {"_sd": [leaf["items"][0]["..."]]}
        for case, disclosures in ((leaf, [v["encode"][3]["encoded"]]), (leaf, [first, first]), (element_as_field, v["open"]["disclosures"][1:]),
                                  ({"_sd": leaf["_sd"] * 2}, [first]), ({**leaf, "_sd_alg": "sha-512"}, [first])):
            with self.assertRaises(Bad):
                evidence.open_disclosures(case, disclosures)

    def test_a_disclosed_value_may_hold_digests(self):
        inner = verify.base64url(b'["c2FsdA","iban","DE1"]')
        outer = verify.base64url(json.dumps(["c2FsdA", "to", {"_sd": [evidence.parse_disclosure(inner)[0][0]]}]).encode())
        opened, closed = evidence.open_disclosures({"_sd": [evidence.parse_disclosure(outer)[0][0]]}, [inner, outer])
        self.assertEqual(([o["name"] for o in opened], closed), (["to", "iban"], []))


if __name__ == "__main__":
    unittest.main()
