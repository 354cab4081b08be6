"""Tests of verify.py: the vectors beside ledger.md, and small logs that a writer of its own makes and breaks.

Run with `python3 -m unittest discover -s spec` from the repository's root.
"""
import base64
import contextlib
import hashlib
import io
import json
import os
import shutil
import sys
import tempfile
import unittest
from unittest import mock

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import verify  # noqa: E402
import verify_database as database  # noqa: E402
import verify_evidence as evidence  # noqa: E402
import verify_signatures as signatures  # noqa: E402
from verify_signatures import Bad  # noqa: E402

VECTORS = os.path.join(os.path.dirname(os.path.abspath(__file__)), "vectors", "ledger")
SEED, ORIGIN = bytes(range(32)), "ledger.example/acme"
ALLOW, DENY, OUTCOME = {"kind": "decision", "decision": "allow"}, {"kind": "decision", "decision": "deny"}, {"kind": "outcome"}


def vectors(name):
    with open(os.path.join(VECTORS, f"{name}.json"), encoding="utf-8") as file:
        return json.load(file)


# ---- A writer of logs, as simple as can be ----


def secret(seed):
    """Gives the scalar and the prefix of a seed (RFC 8032, section 5.1.5)."""
    h = hashlib.sha512(seed).digest()
    return (int.from_bytes(h[:32], "little") & (2**254 - 8) | 2**254) % signatures.L, h[32:]


def public_key(seed):
    return signatures.encode_point(signatures.multiply(secret(seed)[0], signatures.BASE))


def sign(seed, message):
    scalar, prefix = secret(seed)
    r = int.from_bytes(hashlib.sha512(prefix + message).digest(), "little") % signatures.L
    point = signatures.encode_point(signatures.multiply(r, signatures.BASE))
    k = int.from_bytes(hashlib.sha512(point + public_key(seed) + message).digest(), "little")
    return point + ((r + k * scalar) % signatures.L).to_bytes(32, "little")


def make_vkey(seed=SEED, name=ORIGIN, kind=1):
    data = bytes([kind]) + public_key(seed)
    key_id = hashlib.sha256(name.encode() + b"\n" + data).digest()[:4]
    return f"{name}+{key_id.hex()}+{base64.b64encode(data).decode()}"


def sign_note(text, seed=SEED, name=ORIGIN):
    key_id = verify.parse_vkey(make_vkey(seed, name)).id
    return f"{text}\n\u2014 {name} {base64.b64encode(key_id + sign(seed, text.encode())).decode()}\n".encode()


def sign_by_all(text, seeds, name=ORIGIN):
    """Signs a note with several keys of one name."""
    notes = [sign_note(text, seed, name) for seed in seeds]
    return notes[0] + b"".join(note[len(text.encode()) + 1:] for note in notes[1:])


def cosign(note, seed, name, time=1763700000):
    """Adds a witness's line to a checkpoint."""
    text = note.decode().rpartition("\n\n")[0] + "\n"
    key_id = signatures.parse_vkey(make_vkey(seed, name, kind=4)).id
    signature = sign(seed, f"cosignature/v1\ntime {time}\n{text}".encode())
    return note + f"\u2014 {name} {base64.b64encode(key_id + time.to_bytes(8, 'big') + signature).decode()}\n".encode()


def rotation(old, new, origin=ORIGIN, by=None):
    """Makes the statement that one key takes the place of another."""
    text = f"countersign-key-rotation/v1\n{origin}\n{make_vkey(old, origin)}\n{make_vkey(new, origin)}\n"
    return sign_by_all(text, by or [old, new], origin).decode()


def make_leaves(kinds, tenant="acme", replica="g1"):
    """Makes leaves of one stream; a member that is None is left out."""
    entries, prev = [], bytes(32)
    for i, members in enumerate(kinds):
        leaf = {
            "v": 1, "record_id": f"r{i}", "tenant": tenant, "time": {"ms": 1763700000000 + i, "n": 0},
            "gw": {"replica": replica, "epoch": 1, "seq": i + 1, "prev": verify.base64url(prev)}, **members,
        }
        leaf = {name: value for name, value in leaf.items() if value is not None}
        entries.append(json.dumps(leaf, ensure_ascii=False, separators=(",", ":"), sort_keys=True).encode())
        prev = hashlib.sha256(entries[-1]).digest()
    return entries


def root_of(hashes):
    """The recursive definition of RFC 6962, section 2.1."""
    if len(hashes) < 2:
        return hashes[0] if hashes else hashlib.sha256().digest()
    k = 1 << (len(hashes) - 1).bit_length() - 1
    return hashlib.sha256(b"\1" + root_of(hashes[:k]) + root_of(hashes[k:])).digest()


def write(folder, path, data):
    path = os.path.join(folder, *path.split("/"))
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "wb") as file:
        file.write(data)


def write_log(folder, entries, sizes, seed=SEED, origin=ORIGIN):
    """Publishes the entries at each of the sizes, the last of which is the newest checkpoint's.

    `seed` is that of the key, or a function that gives the seeds of all keys that sign a size.
    """
    seeds = seed if callable(seed) else lambda size: [seed]
    leaves = [hashlib.sha256(b"\0" + entry).digest() for entry in entries]
    levels = [leaves]
    while len(levels[-1]) >= 256:
        full = range(0, len(levels[-1]) - 255, 256)
        levels.append([root_of(levels[-1][at:at + 256]) for at in full])
    for before, size in zip([0] + sizes, sizes):
        for level, hashes in [(-1, entries)] + list(enumerate(levels)):
            step = 256 ** max(level, 0)
            for index in range(before // step // 256, -(-(size // step) // 256)):
                width = min(256, size // step - 256 * index)
                items = hashes[256 * index:256 * index + width]
                data = b"".join(len(e).to_bytes(2, "big") + e for e in items) if level < 0 else b"".join(items)
                write(folder, verify.tile_path(level, index, width), data)
        root = base64.b64encode(root_of(leaves[:size])).decode()
        note = sign_by_all(f"{origin}\n{size}\n{root}\n", seeds(size), origin)
        write(folder, f"checkpoints/{size}", note)
        write(folder, "checkpoint", note)


def run(*arguments):
    """Runs the program that has the command; gives its exit code, standard output and standard error."""
    program = {"package": evidence, "record": evidence, "sqlite": database}.get("".join(arguments[:1]), verify)
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), mock.patch.object(sys, "argv", ["verify.py", *arguments]):
        try:
            code = program.main()
        except SystemExit as end:
            code = end.code
    return code, out.getvalue(), err.getvalue()


class InFolder(unittest.TestCase):
    def setUp(self):
        self.folder = tempfile.mkdtemp()
        self.addCleanup(shutil.rmtree, self.folder)

    def path(self, *parts):
        return os.path.join(self.folder, *parts)

    def report(self, *arguments, folder="log", vkey=None):
        code, out, err = run("log", self.path(folder), "--vkey", vkey or make_vkey(), "--json", *arguments)
        self.assertIn(code, (0, 1), err)
        return json.loads(out)

    def log(self, kinds, sizes=None, folder="log", **how):
        entries = make_leaves(kinds, **how)
        write_log(self.path(folder), entries, sizes or [len(entries)])
        return entries


class Vectors(unittest.TestCase):
    def test_roots(self):
        tree, v = verify.Tree(), vectors("tree")
        self.assertEqual(tree.root().hex(), v["roots_hex"][0])
        for leaf, root in zip(v["leaves_hex"], v["roots_hex"][1:]):
            tree.push(verify.leaf_hash(bytes.fromhex(leaf)))
            self.assertEqual(tree.root().hex(), root)

    def test_inclusion(self):
        v = vectors("tree")
        for case in v["inclusion"]:
            leaf = verify.leaf_hash(bytes.fromhex(v["leaves_hex"][case["index"]]))
            path = [bytes.fromhex(h) for h in case["proof_hex"]]
            root = verify.root_of_inclusion(case["index"], case["size"], leaf, path)
            self.assertEqual(root.hex(), v["roots_hex"][case["size"]], case)
            with self.assertRaises(Bad):
                verify.root_of_inclusion(case["index"], case["size"], leaf, path + [leaf])
            if path:
                with self.assertRaises(Bad):
                    verify.root_of_inclusion(case["index"], case["size"], leaf, path[:-1])

    def test_an_index_beyond_the_tree_proves_nothing(self):
        leaf = verify.leaf_hash(b"")
        for index in (1, 2, 2**63):
            with self.assertRaises(Bad):
                verify.root_of_inclusion(index, 1, leaf, [])

    def test_a_tree_of_three_levels(self):
        tree = verify.Tree()
        for i in range(65536):
            tree.push(verify.sha256(i.to_bytes(4, "big")))
        self.assertEqual([len(tree.levels[level]) // 32 for level in sorted(tree.levels)], [65536, 256, 1])
        self.assertEqual(tree.levels[2], tree.root())
        self.assertEqual(tree.levels[1][-32:], root_of(verify.split(32, tree.levels[0][-8192:])))

    def test_notes(self):
        v = vectors("note")
        for case in v["accept"]:
            keys = [verify.parse_vkey(key) for key in case["keys"]]
            signers = signatures.open_note(case["note"].encode(), keys)[1]
            self.assertEqual([key.name for key in signers], case["signers"], case["why"])
        for case in v["refuse"]:
            with self.assertRaises(Bad, msg=case["why"]):
                signatures.open_note(case["note"].encode(), [verify.parse_vkey(key) for key in case["keys"]])

    def test_keys(self):
        v = vectors("note")
        for key in v["vkeys"]:
            verify.parse_vkey(key)
        for key in v["malformed_vkeys"]:
            with self.assertRaises(Bad, msg=key):
                verify.parse_vkey(key)

    def test_signatures(self):
        v = vectors("note")["sign"]
        self.assertEqual(sign_note(v["text"], bytes.fromhex(v["seed_hex"]), v["name"]).decode(), v["note"])

    def test_checkpoints(self):
        v = vectors("note")
        good = verify.open_checkpoint(v["checkpoint"]["note"].encode(), [verify.parse_vkey(make_vkey())])
        self.assertEqual((good.origin, good.size), (v["checkpoint"]["origin"], v["checkpoint"]["size"]))
        key = verify.parse_vkey(make_vkey(name="a"))
        verify.open_checkpoint(sign_note("a\n0\n47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=\n", name="a"), [key])
        for text in v["malformed_checkpoints"]:
            with self.assertRaises(Bad, msg=text):
                verify.open_checkpoint(sign_note(text, name="a"), [key])

    def test_a_cosignature_alone_does_not_sign_a_checkpoint(self):
        v = vectors("note")["cosign"]
        note = f"{v['text']}\n{v['line']}\n".encode()
        key = verify.parse_vkey(make_vkey(bytes.fromhex(v["seed_hex"]), v["name"], kind=4))
        self.assertEqual(signatures.open_note(note, [key])[1], [key])
        with self.assertRaises(Bad):
            verify.open_checkpoint(note, [key])

    def test_tile_paths(self):
        v = vectors("tiles")
        for case in v["valid"]:
            level = verify.BUNDLES if case["kind"] == "entries" else case["level"]
            self.assertEqual(verify.parse_tile_path(case["path"]), (level, int(case["index"]), case["width"]))
        for path in v["invalid"]:
            with self.assertRaises(Bad, msg=path):
                verify.parse_tile_path(path)

    def test_bundles(self):
        v = vectors("tiles")
        entries = verify.split_bundle(bytes.fromhex(v["bundle"]["bundle_hex"]))
        self.assertEqual([entry.hex() for entry in entries], v["bundle"]["entries_hex"])
        for bundle in v["truncated_bundles_hex"]:
            with self.assertRaises(Bad, msg=bundle):
                verify.split_bundle(bytes.fromhex(bundle))

    def test_canonical_json(self):
        v = vectors("jcs")
        for case in v["leaf"]:
            verify.parse_canonical(case["canonical"].encode())
            if case["input"] != case["canonical"]:
                with self.assertRaises(Bad, msg=case):
                    verify.parse_canonical(case["input"].encode())
        more = ['{"a":1,"a":1}', '{"b":1,"a":1}', '{"a":01}', "-0", '"\\u0041"', '"\\u001F"', '"\\/"', " 1", "1\n", '"\\ud800"', "[1,]",
                "NaN", "1" * 5000, "[" * 9999, "\ufeff1", "", '"\t"']
        for text in v["leaf_refused"] + more:
            with self.assertRaises(Bad, msg=text[:40]):
                verify.parse_canonical(text.encode())
        with self.assertRaises(Bad):
            verify.parse_canonical(b'"\xff"')

    def test_streams(self):
        leaves = [leaf.encode() for leaf in vectors("stream")["leaves"]]
        people = verify.Population()
        for i, leaf in enumerate(leaves):
            people.add(i, leaf)
        self.assertEqual((people.report()["gaps"], people.report()["decisions_without_outcome"]), ([5], [3]))
        for left_out in (0, 1, 2):
            people = verify.Population()
            with self.assertRaises(Bad, msg=left_out):
                for i, leaf in enumerate(leaves[:left_out] + leaves[left_out + 1:]):
                    people.add(i, leaf)


class Ed25519(unittest.TestCase):
    def test_rfc_8032(self):  # section 7.1, tests 1 to 3
        for public, message, signature in (
            ("d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a", "",
             "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555fb8821590a33bacc61e39701cf9b46bd25bf5f0595bbe24655141438e7a100b"),
            ("3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c", "72",
             "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00"),
            ("fc51cd8e6218a1a38da47ed00230f0580816ed13ba3303ac5deb911548908025", "af82",
             "6291d657deec24024827e69c3abe01a30ce548a284743a445e3680d7db5ac3ac18ff9b538d16f290ae67f760984dc6594a7c15e9716ed28dc027beceea1ec40a"),
        ):
            public, message, signature = map(bytes.fromhex, (public, message, signature))
            self.assertTrue(signatures.ed25519_verify(public, message, signature))
            for bit in (0, 255, 256, 300, 511):
                flipped = (int.from_bytes(signature, "little") ^ 1 << bit).to_bytes(64, "little")
                self.assertFalse(signatures.ed25519_verify(public, message, flipped), bit)
            self.assertFalse(signatures.ed25519_verify(public, message + b"x", signature))
            larger = int.from_bytes(signature[32:], "little") + signatures.L  # the same S, not reduced
            self.assertFalse(signatures.ed25519_verify(public, message, signature[:32] + larger.to_bytes(32, "little")))

    def test_points_that_are_no_points(self):
        too_large, minus_zero = (signatures.P + 1).to_bytes(32, "little"), (1 | 1 << 255).to_bytes(32, "little")
        for data in (too_large, minus_zero, (2).to_bytes(32, "little"), bytes(31)):
            self.assertIsNone(signatures.decode_point(data), data)

    def test_a_key_of_small_order_signs_nothing(self):
        neutral = (1).to_bytes(32, "little")
        self.assertFalse(signatures.ed25519_verify(neutral, b"any text", neutral + bytes(32)))


class Proofs(InFolder):
    def test_tlog_proof(self):
        v = vectors("tlog-proof")
        write(self.folder, "entry", v["entry"].encode())
        proof = os.path.join(VECTORS, v["file"])
        code, out, _ = run("proof", proof, "--vkey", v["vkey"], "--entry", self.path("entry"))
        self.assertEqual(code, 0)
        self.assertIn(f"leaf {v['index']} of `{v['origin']}`, size {v['size']}", out)
        write(self.folder, "entry", b"other")
        self.assertEqual(run("proof", proof, "--vkey", v["vkey"], "--entry", self.path("entry"))[0], 1)
        self.assertEqual(run("proof", proof, "--vkey", make_vkey(), "--entry", self.path("entry"))[0], 1)

    def test_a_proof_fails_wherever_it_is_altered(self):
        v = vectors("tlog-proof")
        with open(os.path.join(VECTORS, v["file"]), "rb") as file:
            proof = file.read()
        keys = [verify.parse_vkey(v["vkey"])]
        extra = proof.replace(b"\nindex", b"\nextra AAAA\nindex")
        self.assertEqual(verify.check_proof(extra, keys, b"eit")[0], v["index"])
        for at in range(0, len(proof), 7):
            with self.assertRaises(Bad, msg=at):
                verify.check_proof(proof[:at] + bytes([proof[at] ^ 1]) + proof[at + 1:], keys, b"eit")
        for bad in (b"", proof[:40], extra.replace(b"AAAA", b"AAA"), proof.replace(b"index 7", b"index 07"), proof.replace(b"index 7", b"index 15")):
            with self.assertRaises(Bad, msg=bad):
                verify.check_proof(bad, keys, b"eit")


class Logs(InFolder):
    def test_the_vector(self):
        v = vectors("log")
        for path, data in v["files_base64"].items():
            write(self.path("log"), path, base64.b64decode(data))
        report = self.report(vkey=v["vkey"])
        self.assertEqual({name: report["log"][name] for name in v["report"]}, v["report"])
        code, out, _ = run("log", self.path("log"), "--vkey", v["vkey"])
        self.assertEqual(code, 0)
        self.assertRegex(out, r"(?m)^decisions without outcome +1 \[3\]$")

    def test_an_empty_log(self):
        write_log(self.path("log"), [], [0])
        self.assertEqual(self.report()["log"]["size"], 0)
        write(self.path("log"), "checkpoint", sign_note(f"{ORIGIN}\n0\n{base64.b64encode(bytes(32)).decode()}\n"))
        self.assertEqual(self.report()["problem"]["object"], "checkpoint")

    def test_every_flipped_byte_is_found_in_its_file(self):
        self.log([ALLOW, {**OUTCOME, "parent": "r0"}, DENY] * 3, [2, 9])
        paths = [os.path.relpath(os.path.join(top, name), self.path("log")) for top, _, names in os.walk(self.path("log")) for name in names]
        self.assertEqual(len(paths), 7)
        for path in paths:
            with open(self.path("log", path), "rb") as file:
                data = file.read()
            for at in range(0, len(data), 1 + len(data) // 24):
                write(self.path("log"), path, data[:at] + bytes([data[at] ^ 1]) + data[at + 1:])
                self.assertEqual(self.report()["problem"]["object"], path, at)
            for other in (data[:-1], data + b"x", b""):
                write(self.path("log"), path, other)
                self.assertEqual(self.report()["problem"]["object"], path)
            os.remove(self.path("log", path))
            needed = path == "checkpoint" or path.endswith("000.p/9")
            self.assertEqual(self.report().get("problem", {}).get("object"), path if needed else None)
            write(self.path("log"), path, data)
        self.assertTrue(self.report()["ok"])

    def test_flips_in_full_tiles_and_upper_levels(self):
        self.log([{"kind": "heartbeat"}] * 520, [300, 520])
        for path in ("tile/0/000", "tile/0/001.p/44", "tile/0/002.p/8", "tile/1/000.p/1", "tile/1/000.p/2", "tile/entries/001", "checkpoints/300"):
            with open(self.path("log", path), "rb") as file:
                data = file.read()
            write(self.path("log"), path, data[:-9] + bytes([data[-9] ^ 4]) + data[-8:])
            self.assertEqual(self.report()["problem"]["object"], path)
            write(self.path("log"), path, data)
        for path in ("tile/0/000", "tile/1/000.p/2", "tile/entries/000"):
            os.rename(self.path("log", path), self.path("away"))
            self.assertEqual(self.report()["problem"]["object"], path)
            os.rename(self.path("away"), self.path("log", path))
        self.assertTrue(self.report()["ok"])

    def test_the_entry_is_named_with_its_index(self):
        entries = self.log([{"kind": "heartbeat"}] * 300)
        at = sum(len(entry) + 2 for entry in entries[:255])  # the last of its bundle
        with open(self.path("log", "tile/entries/000"), "r+b") as file:
            file.seek(at + 40)
            byte = file.read(1)
            file.seek(at + 40)
            file.write(bytes([byte[0] ^ 1]))
        problem = self.report()["problem"]
        self.assertEqual((problem["object"], problem["index"]), ("tile/entries/000", 255))

    def test_a_file_of_another_log(self):
        self.log([ALLOW, DENY])
        self.log([DENY, ALLOW], folder="other")
        for path in ("checkpoint", "checkpoints/2", "tile/0/000.p/2", "tile/entries/000.p/2"):
            shutil.copy(self.path("log", path), self.path("own"))
            shutil.copy(self.path("other", path), self.path("log", path))
            # a checkpoint that the same key signed for other entries opens, and fails by its root
            self.assertEqual(self.report()["problem"]["object"], path)
            shutil.copy(self.path("own"), self.path("log", path))

    def test_a_forged_history_fails_against_a_pinned_checkpoint(self):
        self.log([ALLOW, DENY, ALLOW], folder="true")
        self.log([DENY, DENY, ALLOW, DENY])
        self.assertTrue(self.report()["ok"])
        problem = self.report("--pinned", self.path("true", "checkpoint"))["problem"]
        self.assertEqual(problem["object"], "checkpoint")
        shutil.copy(self.path("true", "checkpoint"), self.path("log", "checkpoints", "3"))
        self.assertEqual(self.report()["problem"]["object"], "checkpoints/3")

    def test_a_log_behind_a_pinned_checkpoint(self):
        self.log([ALLOW, DENY], folder="long")
        self.log([ALLOW])
        self.assertIn("behind", self.report("--pinned", self.path("long", "checkpoint"))["problem"]["reason"])

    def test_what_a_running_log_has_not_signed_is_reported(self):
        self.log([ALLOW, DENY, ALLOW], [2, 3])
        shutil.copy(self.path("log", "checkpoints", "2"), self.path("log", "checkpoint"))
        for name in ("checkpoints/3", "tile/0/000.p/2", "tile/entries/000.p/2"):
            os.remove(self.path("log", name))
        report = self.report()["log"]
        self.assertEqual((report["size"], report["unsigned"]), (2, ["tile/0/000.p/3", "tile/entries/000.p/3"]))

    def test_a_path_with_another_spelling(self):
        self.log([ALLOW])
        write(self.path("log"), "tile/0/x000/000.p/1", bytes(32))
        self.assertEqual(self.report()["problem"]["object"], "tile/0/x000/000.p/1")

    def test_calls_and_their_outcomes(self):
        def outcome(call, result, **more):
            return {**OUTCOME, "parent": f"r{call}", "outcome": result, **more}

        self.log([ALLOW, outcome(0, "executed"), ALLOW, outcome(2, "unknown"), ALLOW, outcome(4, "unknown"),
                  outcome(4, "executed", reconciled=True), ALLOW, outcome(0, "failed"), DENY, outcome(9, "executed"), outcome(99, "executed")])
        report = self.report()["log"]
        self.assertEqual(report["decisions_without_outcome"], [7])
        self.assertEqual(report["outcomes_unknown"], [2])
        self.assertEqual(report["outcomes_repeated"], [8])
        self.assertEqual(report["outcomes_without_decision"], [10, 11])

    def test_leaves_that_are_refused_though_signed(self):
        for bad in ({"v": 2}, {"v": True}, {"v": None}, {"kind": None}, {"record_id": None}, {"record_id": "r0"}, {"tenant": "other"},
                    {"tenant": None}, {"time": {"ms": -1, "n": 0}}, {"time": {"ms": 1763700000000, "n": 0}}, {"time": None}, {"gw": None},
                    {"decision": "maybe"}, {"decision": None},
                    {"gw": {"replica": "g1", "epoch": 1, "seq": 2, "prev": verify.base64url(bytes(32))}},
                    {"gw": {"replica": "g2", "epoch": 1, "seq": 2, "prev": verify.base64url(bytes(32))}},
                    {"x": 1.5}, {"x": 2**53}, {"x": "y" * 17000}, {"kind": "outcome"}):
            self.log([ALLOW, {**ALLOW, **bad}])
            problem = self.report()["problem"]
            self.assertEqual((problem["object"], problem["index"]), ("tile/entries/000.p/2", 1), bad)


    def test_fields_of_another_type_are_refused(self):
        for bad in ({"agent": 5}, {"mode": []}, {"day": True}, {"parent": {}}, {"outcome": 1}, {"reconciled": "true"}, {"reconciled": None, "x": 1}):
            kinds = [ALLOW, {**DENY, **bad}]
            entries = make_leaves(kinds)
            if bad.get("reconciled", 0) is None:
                entries[1] = entries[1].replace(b'"record_id"', b'"reconciled":null,"record_id"')
            write_log(self.path("log"), entries, [2])
            problem = self.report()["problem"]
            self.assertEqual((problem["object"], problem["index"]), ("tile/entries/000.p/2", 1), bad)
        self.log([ALLOW, {**DENY, "agent": "a", "reconciled": False}])
        self.assertTrue(self.report()["ok"])

    def test_files_that_are_being_written_are_no_part_of_a_log(self):
        self.log([ALLOW])
        for path in ("tile/.x", "tile/0/.000.p-1", "checkpoints/.2", ".checkpoint", "tile/.new/000"):
            write(self.path("log"), path, b"x")
        self.assertTrue(self.report()["ok"])
        os.symlink(self.path("log", "tile", "0"), self.path("log", "tile", "1"))
        self.assertEqual(self.report()["problem"]["object"], "tile/1")


class Closes(InFolder):
    DAY = 86_400_000
    START = 1763700000000 // DAY * DAY  # 2025-11-21

    def leaves(self, totals, day="2025-11-21"):
        """Makes a day of records, one of the day after, and a close of the first day."""
        more = {"agent": "a1", "mode": "enforce"}
        kinds = [{**ALLOW, **more}, {"kind": "heartbeat", "agent": "a9"}, {**DENY, **more, "agent": "a2", "mode": "warn"}, {**DENY, **more},
                 {"kind": "heartbeat"}, {"kind": "close", "day": day, "totals": totals}]
        times = [0, 1, self.DAY - 2, self.DAY - 1, self.DAY, self.DAY + 300_000]
        return make_leaves([{**kind, "time": {"ms": self.START + ms, "n": 0}} for kind, ms in zip(kinds, times)])

    TOTALS = {"records": 4, "first": 0, "last": 3, "by_kind": {"decision": 3, "heartbeat": 1}, "by_decision": {"allow": 1, "deny": 2},
              "by_mode": {"enforce": 2, "warn": 1}, "by_agent": {"a1": 2, "a2": 1}, "other_agents": 0}

    def closed(self, totals, **how):
        entries = self.leaves(totals, **how)
        write_log(self.path("log"), entries, [len(entries)])
        return self.report()

    def test_totals_are_counted_again(self):
        report = self.closed(self.TOTALS)
        self.assertEqual((report["ok"], report["log"]["closes"]), (True, 1))
        self.assertRegex(run("log", self.path("log"), "--vkey", make_vkey())[1], r"(?m)^closes +1$")

    def test_wrong_totals_are_named(self):
        wrong = [{**self.TOTALS, name: value} for name, value in (
            ("records", 3), ("records", True), ("first", 1), ("last", 4), ("by_kind", {"decision": 3}), ("by_decision", {"allow": 2, "deny": 1}),
            ("by_mode", {}), ("by_agent", {"a1": 2, "a2": 1, "a9": 1}), ("other_agents", 1), ("more", 0))]
        for totals in wrong + [{}, None, 5, {name: value for name, value in self.TOTALS.items() if name != "first"}]:
            problem = self.closed(totals)["problem"]
            self.assertEqual((problem["object"], problem["index"]), ("tile/entries/000.p/6", 5), totals)
            self.assertIn("the totals of 2025-11-21", problem["reason"])
        self.assertIn("`day`", self.closed(self.TOTALS, day=None)["problem"]["reason"])
        self.assertIn("2025-11-22", self.closed(self.TOTALS, day="2025-11-22")["problem"]["reason"])

    def test_a_day_without_records(self):
        empty = {"records": 0, "by_kind": {}, "by_decision": {}, "by_mode": {}, "by_agent": {}, "other_agents": 0}
        self.assertTrue(self.closed(empty, day="2025-11-20")["ok"])
        self.assertFalse(self.closed({**empty, "first": 0}, day="2025-11-20")["ok"])

    def test_agents_beyond_the_first_ones_are_counted_together(self):
        day = verify.Day()
        for index in range(600):
            day.add(index, {**ALLOW, "agent": f"a{index % 300:03}"})
        totals = json.loads(day.totals())
        self.assertEqual((len(totals["by_agent"]), totals["by_agent"]["a199"], totals["other_agents"]), (200, 2, 200))
        self.assertNotIn("a200", totals["by_agent"])

    def test_days_are_those_of_the_calendar(self):
        for ms, day in ((0, "1970-01-01"), (951_782_400_000, "2000-02-29"), (951_868_799_999, "2000-02-29"), (951_868_800_000, "2000-03-01"),
                        (1_767_225_599_999, "2025-12-31"), (2**53 - 1, "287396-10-12")):
            self.assertEqual(verify.day_of(ms), day)


class Keys(InFolder):
    NEW = bytes(range(1, 33))

    def test_a_log_that_has_had_two_keys(self):
        entries = self.log([ALLOW, DENY], [1, 2])
        write_log(self.path("new"), entries, [2], seed=self.NEW)
        shutil.copy(self.path("new", "checkpoint"), self.path("log", "checkpoint"))
        old, new = make_vkey(), make_vkey(self.NEW)
        write(self.folder, "keys", f"{old}\n{new}\n".encode())
        for code, keys in ((0, [old, new]), (0, [new, old]), (0, [self.path("keys")]), (0, [old, old, new]), (1, [old]), (1, [new])):
            arguments = [part for key in keys for part in ("--vkey", key)]
            self.assertEqual(run("log", self.path("log"), *arguments)[0], code, keys)

    def test_a_known_key_that_fails_refuses_whoever_else_signed(self):
        self.log([ALLOW])
        with open(self.path("log", "checkpoint"), encoding="utf-8") as file:
            note = file.read()
        other = verify.parse_vkey(make_vkey(self.NEW))
        line = f"— {ORIGIN} {base64.b64encode(other.id + bytes(64)).decode()}\n"
        write(self.path("log"), "checkpoint", (note + line).encode())
        os.remove(self.path("log", "checkpoints", "1"))
        self.assertTrue(self.report()["ok"], "the signature of an unknown key is ignored")
        self.assertIn("is wrong", self.report("--vkey", make_vkey(self.NEW))["problem"]["reason"])

    def test_keys_with_the_same_name_and_id(self):
        good = verify.parse_vkey(make_vkey())
        twin = signatures.Key(good.name, good.id, good.type, public_key(self.NEW))
        note = sign_note(f"{ORIGIN}\n0\n{base64.b64encode(hashlib.sha256().digest()).decode()}\n")
        for keys in ([good, twin], [twin, good]):
            self.assertEqual(signatures.open_note(note, keys)[1], [good])
        with self.assertRaises(Bad):
            signatures.open_note(note, [twin])


class CommandLine(InFolder):
    def test_exit_codes(self):
        self.log([ALLOW])
        write(self.folder, "keys", f"# the log's key\n{make_vkey()}\n".encode())
        for code, arguments in ((0, ["log", self.path("log"), "--vkey", make_vkey()]), (0, ["log", self.path("log"), "--vkey", self.path("keys")]),
                                (1, ["log", self.path("log"), "--vkey", make_vkey(bytes(32))]), (1, ["log", self.folder, "--vkey", make_vkey()]),
                                (2, ["log", self.path("log"), "--vkey", "nonsense"]), (2, ["log", self.path("none"), "--vkey", make_vkey()]),
                                (2, ["log", self.path("log")]), (2, []), (0, ["--help"]), (0, ["log", "--help"])):
            self.assertEqual(run(*arguments)[0], code, arguments)

    def test_a_failure_names_file_index_and_reason(self):
        self.log([ALLOW, {**ALLOW, "v": 3}])
        out = run("log", self.path("log"), "--vkey", make_vkey())[1]
        self.assertEqual(out, "FAILED: `tile/entries/000.p/2`, index 1: field `v` is not 1\n")


if __name__ == "__main__":
    unittest.main()
