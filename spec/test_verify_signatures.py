"""Tests of verify_signatures.py: logs whose key was replaced, and policies for witnesses.

Run with `python3 -m unittest discover -s spec` from the repository's root.
"""
import os
import shutil
import unittest

import verify_signatures as signatures
from test_verify import (ALLOW, DENY, ORIGIN, SEED, InFolder, cosign, make_leaves, make_vkey, rotation, run, sign_by_all,
                         write, write_log)
from verify_signatures import Bad

OLD, NEW, NEXT = SEED, bytes(range(1, 33)), bytes(range(2, 34))
KEY = {"kind": "key", "rotation": rotation(OLD, NEW)}
AT = 2  # the leaf that replaces the key


def by(*signers):
    """Gives the seeds that sign each size: (up to this size, seeds) in order."""
    return lambda size: next(seeds for upto, seeds in signers if size <= upto)


class Rotations(InFolder):
    KINDS = [ALLOW, DENY, KEY, ALLOW, DENY]
    SOUND = by((AT, [OLD]), (3, [OLD, NEW]), (99, [NEW]))

    def verdicts(self, *given, kinds=None, seeds=SOUND, sizes=(1, 2, 3, 5)):
        """Gives, for each list of keys that a verifier may be given, the report or the problem."""
        shutil.rmtree(self.path("log"), ignore_errors=True)
        write_log(self.path("log"), make_leaves(kinds or self.KINDS), list(sizes), seeds)
        for keys in given:
            first, *more = (make_vkey(seed) for seed in keys)
            yield self.report(*(part for key in more for part in ("--vkey", key)), vkey=first)

    def all_fail(self, object, *given, **how):
        for keys, found in zip(given, self.verdicts(*given, **how)):
            self.assertEqual(found.get("problem", {}).get("object"), object, [OLD, NEW, NEXT].index(keys[0]))

    def test_whoever_has_either_key_goes_on(self):
        for found in self.verdicts([OLD], [NEW], [OLD, NEW], [NEW, OLD]):
            self.assertTrue(found["ok"], found)
        trust = [[(key["trust"], key.get("leaf")) for key in found["log"]["keys"]] for found in self.verdicts([OLD], [NEW], [OLD, NEW])]
        self.assertEqual(trust, [[("given", None), ("successor", AT)], [("given", None), ("predecessor", AT)], [("given", None)] * 2])
        self.assertRegex(run("log", self.path("log"), "--vkey", make_vkey(OLD))[1], r"(?m)^  ledger.example/acme\+[0-9a-f]{8} +successor, says leaf 2$")
        self.all_fail("checkpoint", [NEXT])

    def test_a_key_that_was_replaced_counts_for_nothing(self):
        stolen = by((AT, [OLD]), (3, [OLD, NEW]), (99, [OLD]))
        self.all_fail("checkpoint", [OLD], [NEW], [OLD, NEW], seeds=stolen)
        self.all_fail("checkpoints/3", [OLD], [NEW], [OLD, NEW], seeds=by((AT, [OLD]), (3, [OLD]), (99, [NEW])))

    def test_the_new_key_signs_nothing_older_unless_it_is_given(self):
        for size in (1, 2):
            seeds = by((size - 1, [OLD]), (size, [NEW]), (AT, [OLD]), (99, [NEW]))
            self.all_fail(f"checkpoints/{size}", [OLD], seeds=seeds)
            self.assertTrue(next(self.verdicts([NEW], seeds=seeds))["ok"])

    def test_statements_that_are_none(self):
        other = rotation(OLD, NEW, "ledger.example/other")
        for statement in (None, 5, "", "x", other, rotation(OLD, NEW, by=[OLD]), rotation(OLD, NEW, by=[NEW]), rotation(OLD, NEW, by=[OLD, NEXT]),
                          rotation(OLD, NEW, by=[NEXT, NEW]), KEY["rotation"].replace("/v1", "/v2"), KEY["rotation"][:-9] + KEY["rotation"][-8:],
                          sign_by_all("countersign-key-rotation/v1\n", [OLD, NEW]).decode(), rotation(OLD, OLD)):
            kinds = [ALLOW, DENY, {"kind": "key", "rotation": statement}, ALLOW, DENY]
            found = next(self.verdicts([OLD], kinds=kinds, seeds=OLD))
            self.assertEqual((found["problem"]["object"], found["problem"]["index"]), ("tile/entries/000.p/5", AT), statement)

    def test_only_the_first_replacement_of_a_key_counts(self):
        thief = {"kind": "key", "rotation": rotation(OLD, NEXT)}
        kinds = [ALLOW, DENY, KEY, thief, ALLOW]
        self.assertTrue(next(self.verdicts([OLD], kinds=kinds))["ok"])
        self.all_fail("checkpoint", [OLD], [NEW], kinds=kinds, seeds=by((AT, [OLD]), (3, [NEW]), (99, [NEXT])))
        self.assertTrue(next(self.verdicts([OLD], kinds=[ALLOW, DENY, KEY, KEY, ALLOW]))["ok"], "the same leaf twice")

    def test_a_key_is_replaced_again(self):
        kinds = [ALLOW, DENY, KEY, ALLOW, {"kind": "key", "rotation": rotation(NEW, NEXT)}, DENY]
        seeds = by((AT, [OLD]), (4, [NEW]), (99, [NEXT]))
        for found in self.verdicts([OLD], [NEW], [NEXT], kinds=kinds, seeds=seeds, sizes=(2, 3, 4, 6)):
            self.assertTrue(found["ok"], found)
        self.all_fail("checkpoint", [OLD], [NEW], [NEXT], kinds=kinds, seeds=by((AT, [OLD]), (99, [NEW])), sizes=(2, 3, 4, 6))

    def test_a_checkpoint_that_was_kept_needs_the_key_that_signed_it(self):
        next(self.verdicts([OLD]))
        kept = ["--pinned", self.path("log", "checkpoints", "1")]
        for code, keys in ((0, [OLD]), (1, [NEW]), (0, [OLD, NEW])):
            arguments = [part for seed in keys for part in ("--vkey", make_vkey(seed))]
            self.assertEqual(run("log", self.path("log"), *arguments, *kept)[0], code)

    def test_a_key_leaf_that_is_not_signed_yet_changes_nothing(self):
        entries = make_leaves(self.KINDS)
        write_log(self.path("log"), entries, [2, 5], by((2, [OLD]), (99, [NEW])))
        shutil.copy(self.path("log", "checkpoints", "2"), self.path("log", "checkpoint"))
        os.remove(self.path("log", "checkpoints", "5"))
        self.assertTrue(self.report(vkey=make_vkey(OLD))["ok"])
        self.assertFalse(self.report(vkey=make_vkey(NEW))["ok"])


W1, W2, W3 = (bytes([number] * 32) for number in (41, 42, 43))
WITNESSES = "".join(f"witness w{number} {make_vkey(seed, f'w{number}.example', 4)}\n" for number, seed in ((1, W1), (2, W2), (3, W3)))
ML_DSA = signatures.write_vkey(signatures.Key("m.example", signatures.sha256(b"m.example\n\x06" + bytes(1312))[:4], b"\6", bytes(1312)))


class Policies(InFolder):
    def setUp(self):
        super().setUp()
        self.log([ALLOW, DENY, ALLOW], [2, 3])

    def policy(self, *lines, log=True):
        own = f"# whom an auditor trusts\n\nlog {make_vkey()}\thttps://log.example\n" if log else ""
        write(self.folder, "policy", (own + WITNESSES + "\n".join(lines) + "\n").encode())
        return self.path("policy")

    def cosign(self, path, *witnesses, to=None):
        with open(self.path("log", *path.split("/")), "rb") as file:
            note = file.read()
        for seed, name in witnesses:
            note = cosign(note, seed, name)
        write(self.path("log"), to or path, note)

    def witnessed(self, *lines):
        found = self.report("--policy", self.policy(*lines))
        return found["witnessed"] if found["ok"] else found["problem"]["object"], found

    def test_a_quorum(self):
        self.cosign("checkpoint", (W1, "w1.example"), (W3, "w3.example"))
        for quorum, expected in ((["quorum none"], True), (["quorum w1"], True), (["quorum w2"], False), (["group a all w1 w3", "quorum a"], True),
                                 (["group a all w1 w2", "quorum a"], False), (["group a any w2 w3", "quorum a"], True), (["group a 2 w1 w2 w3", "quorum a"], True),
                                 (["group a 3 w1 w2 w3", "quorum a"], False), (["group a any w1 w2", "group b all a w3", "quorum b"], True),
                                 (["group a all w1 w2", "group b 1 a", "quorum b"], False)):
            found, _ = self.witnessed(*quorum)
            self.assertEqual(found != "checkpoint", expected, quorum)
        self.assertEqual([(one["witness"], one["time"]) for one in self.witnessed("quorum w1")[0]["cosigned"]],
                         [("w1", "2025-11-21T04:40:00.000Z"), ("w3", "2025-11-21T04:40:00.000Z")])

    def test_the_newest_cosigned_checkpoint_counts(self):
        self.cosign("checkpoints/2", (W1, "w1.example"), (W2, "w2.example"), to="cosigned/2")
        self.cosign("checkpoint", (W1, "w1.example"), to="cosigned/3")
        for quorum, size, after in (("w1", 3, 0), ("w2", 2, 1)):
            found, _ = self.witnessed(f"quorum {quorum}")
            self.assertEqual((found["size"], found["records_after"]), (size, after))
        self.assertEqual(self.witnessed("quorum w3")[0], "cosigned/3")
        out = run("log", self.path("log"), "--policy", self.policy("quorum w2"))[1]
        self.assertRegex(out, r"(?m)^witnessed +2 of 3 records$")

    def test_cosignatures_that_fail_refuse_the_checkpoint(self):
        self.cosign("checkpoint", (W1, "w1.example"), (W2, "w2.example"))
        with open(self.path("log", "checkpoint"), "rb") as file:
            note = file.read()
        lines = note.splitlines(keepends=True)
        for at in (-1, -2):
            bad = lines[at].replace(lines[at][-20:-16], b"AAAA")
            write(self.path("log"), "checkpoint", note.replace(lines[at], bad))
            self.assertEqual(self.witnessed("group a any w1 w2", "quorum a")[0], "checkpoint")
        write(self.path("log"), "checkpoint", b"".join(lines[:-2]))
        self.assertEqual(self.witnessed("quorum w1")[0], "checkpoint", "stripped")
        other = cosign(sign_by_all(f"{ORIGIN}\n3\n{'A' * 43}=\n", [SEED]), W1, "w1.example").splitlines(keepends=True)
        write(self.path("log"), "checkpoint", b"".join([*lines[:-2], other[-1]]))
        self.assertEqual(self.witnessed("quorum w1")[0], "checkpoint", "cosigned for another tree")
        self.cosign("checkpoint", (W1, "w2.example"))
        self.assertEqual(self.witnessed("quorum w2")[0], "checkpoint", "by another key")

    def test_cosigned_checkpoints_are_of_this_log(self):
        other = cosign(sign_by_all(f"{ORIGIN}\n2\n{'A' * 43}=\n", [SEED]), W1, "w1.example")
        write(self.path("log"), "cosigned/2", other)
        self.assertEqual(self.report()["problem"]["object"], "cosigned/2")
        self.cosign("checkpoints/2", to="cosigned/3")
        os.remove(self.path("log", "cosigned", "2"))
        self.assertEqual(self.report()["problem"]["object"], "cosigned/3")

    def test_a_policy_gives_the_keys_of_logs_unless_they_are_given(self):
        run_with = lambda *arguments: run("log", self.path("log"), *arguments)[0]  # noqa: E731
        self.assertEqual(run_with("--policy", self.policy("quorum none")), 0)
        self.assertEqual(run_with("--policy", self.policy("quorum none"), "--vkey", make_vkey(NEW)), 1)
        self.assertEqual(run_with("--policy", self.policy("quorum none", log=False)), 2)
        self.assertEqual(run_with("--policy", self.policy("quorum none", log=False), "--vkey", make_vkey()), 0)
        self.assertEqual(run_with("--policy", self.path("none")), 2)

    def test_a_witness_of_another_algorithm_never_counts(self):
        self.cosign("checkpoint", (W1, "w1.example"))
        self.assertEqual(self.witnessed(f"witness m {ML_DSA}", "group a all w1 m", "quorum a")[0], "checkpoint")
        self.assertEqual(self.witnessed(f"witness m {ML_DSA}", "group a any w1 m", "quorum a")[0]["size"], 3)

    def test_nobody_vouches_for_an_empty_log(self):
        write_log(self.path("empty"), [], [0])
        self.assertEqual(run("log", self.path("empty"), "--policy", self.policy("quorum none"))[0], 1)

    def test_lines_that_are_refused(self):
        log, w1 = make_vkey(), make_vkey(W1, "w1.example", 4)
        for lines in (["quorum none", "quorum none"], [], ["quorum w9"], ["quorum"], ["quorum w1 w2"], ["witness w1 " + make_vkey(NEW, "x", 4), "quorum none"],
                      [f"witness again {w1}", "quorum none"], ["witness none " + make_vkey(NEW, "x", 4), "quorum none"], [f"witness l {log}", "quorum none"],
                      [f"log {log}", "quorum none"], [f"log {make_vkey(NEW, 'x', 4)}", "quorum none"], ["log nonsense", "quorum none"], ["log", "quorum none"],
                      ["group a 3 w1 w2", "quorum a"], ["group a 0 w1", "quorum a"], ["group a 01 w1", "quorum a"], ["group a all", "quorum a"],
                      ["group a all w1 w1", "quorum a"], ["group a all w9", "quorum a"], ["group a all a", "quorum a"], ["group w1 all w2", "quorum w1"],
                      ["group a all w1", "group b all w1", "quorum a"], ["group a any none", "quorum a"], ["nonsense", "quorum none"], ["quorum\x01 none"]):
            with open(self.policy(*lines), encoding="utf-8") as file, self.assertRaises(Bad, msg=lines):
                signatures.parse_policy(file.read())


if __name__ == "__main__":
    unittest.main()
