"""Tests of verify_database.py: a small installation that a writer of its own makes, and what can be done to it.

Run with `python3 -m unittest discover -s spec` from the repository's root.
"""
import base64
import glob
import hashlib
import json
import os
import shutil
import sqlite3
import unittest
import uuid

import verify
import verify_database as database
from test_verify import ALLOW, DENY, ORIGIN, InFolder, make_leaves, make_vkey, run, sign_note, vectors, write, write_log
from verify_signatures import Bad

MIGRATIONS = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "crates", "store", "migrations", "sqlite")
TENANT, TENANT_KEY, SUBJECT, PERIOD = "acme", bytes([7] * 32), "pseudonym", "2025-11-standard"
ID = "019ac4a0-0000-7000-8000-0000000000{:02}".format
LARGE = "x" * 100


# ---- A writer of installations, as simple as can be ----


def encrypt(key, nonce, names, text):
    """The other way round than `decrypt`, whose key stream it takes."""
    stream = b"".join(database.chacha20(database.hchacha20(key, nonce[:16]), bytes(4) + nonce[16:], block + 1)
                      for block in range(-(-len(text) // 64)))
    sealed = bytes(a ^ b for a, b in zip(text, stream))
    bound = b"".join(len(name).to_bytes(4, "big") + name.encode() for name in names)
    padded = b"".join(data + bytes(-len(data) % 16) for data in (bound, sealed))
    lengths = len(bound).to_bytes(8, "little") + len(sealed).to_bytes(8, "little")
    block = database.chacha20(database.hchacha20(key, nonce[:16]), bytes(4) + nonce[16:], 0)
    return sealed + database.poly1305(block[:32], padded + lengths)


def wrap(key, nonce, names, secret):
    return nonce + encrypt(key, nonce, names, secret)


def nonces(name):
    return [hashlib.sha256(f"{name} {place}".encode()).digest()[:24] for place in range(3)]


def disclose(salt, *named):
    return verify.base64url(json.dumps([salt, *named]).encode())


def digest_of(encoded):
    return verify.base64url(hashlib.sha256(encoded.encode()).digest())


def record_key(record):
    return uuid.UUID(record).bytes


class Installation(InFolder):
    SUBJECT_KEY, PERIOD_KEY, DEK = bytes([8] * 32), bytes([9] * 32), bytes([10] * 32)

    def setUp(self):
        super().setUp()
        self.make()

    def make(self, kinds=None, private=True):
        shutil.rmtree(self.path("data"), ignore_errors=True)
        write(self.path("data", "keys"), "tenant.kek", base64.b64encode(TENANT_KEY) + b"\n")
        period = wrap(TENANT_KEY, nonces("p")[0], ["countersign/period", PERIOD], self.PERIOD_KEY)
        write(self.path("data", "keys", "periods"), f"{PERIOD}.kek", period)
        subject = wrap(TENANT_KEY, nonces("s")[0], ["countersign/subject", "3"], self.SUBJECT_KEY)
        write(self.path("data", "keys", "subjects"), "0.keks", bytes(3 * 72) + subject)
        salt = verify.base64url(bytes(16))
        text = json.dumps(LARGE)
        reference = {"sha256": verify.base64url(hashlib.sha256(bytes(16) + text.encode()).digest()), "len": len(text)}
        self.disclosures = [disclose("c2FsdA", "amount", 1200), disclose("c2FsdB", "arguments.note", reference)]
        self.blob = [disclose("c2FsdC", salt), disclose("c2FsdD", text[:30]), disclose("c2FsdE", text[30:])]
        sealed = {"principal": SUBJECT, "_sd_alg": "sha-256", "_sd": sorted(map(digest_of, self.disclosures))}
        kinds = kinds or [{**ALLOW, **sealed}, DENY, {"kind": "heartbeat"}, DENY]
        self.entries = make_leaves([{**kind, "record_id": ID(at)} for at, kind in enumerate(kinds)])
        write_log(self.path("data", "log"), self.entries, [1, 3])
        self.connection = sqlite3.connect(self.path("data", "countersign.db"))
        self.addCleanup(self.connection.close)
        for file in sorted(glob.glob(os.path.join(MIGRATIONS, "*.sql"))):
            with open(file, encoding="utf-8") as sql:
                self.connection.executescript(sql.read())
        self.fill(private)

    def fill(self, private):
        tree = verify.Tree()
        for index, entry in enumerate(self.entries):
            leaf, gw = json.loads(entry), json.loads(entry)["gw"]
            place = [TENANT, gw["replica"], gw["epoch"], gw["seq"]]
            self.insert("intake", *place, record_key(leaf["record_id"]), leaf["kind"], verify.unbase64(gw["prev"], url=True), entry)
            self.insert("leaf", TENANT, index, *place[1:], verify.leaf_hash(entry))
            tree.push(verify.leaf_hash(entry))
        for size in (1, 3):
            with open(self.path("data", "log", "checkpoints", str(size)), encoding="utf-8") as note:
                self.insert("checkpoint", TENANT, size, note.read())
        self.insert("frontier", TENANT, tree.size, tree.size.to_bytes(8, "big") + b"".join(tree.edge), tree.root(), 1)
        self.insert_summed("coord", TENANT, "", 1)
        if private:
            self.insert_summed("subject", TENANT, SUBJECT, 3)
            self.seal("private", self.disclosures)
            self.seal("blob/arguments.note", self.blob)
        self.connection.commit()

    def insert(self, table, *values):
        self.connection.execute(f"INSERT INTO {table} VALUES ({', '.join('?' * len(values))})", values)

    def insert_summed(self, table, *values):
        hashes = list(map(database.hash_of, values))
        total = hashlib.sha256(table.encode() + b"\0" + b"".join(hashes)).digest()[:16]
        self.insert(table, *values, total + b"".join(digest[:2] for digest in hashes))

    def seal(self, section, disclosures, record=ID(0)):
        place, (content, subject, period) = (TENANT, record, section), nonces(section)
        text = "".join(f"{disclosure}~" for disclosure in disclosures).encode()
        inner = wrap(self.SUBJECT_KEY, subject, (*place, "subject"), self.DEK)
        dek = wrap(self.PERIOD_KEY, period, (*place, "period"), inner)
        self.insert_summed("sealed", TENANT, record_key(record), section, SUBJECT, PERIOD, content, encrypt(self.DEK, content, place, text), dek)

    # -- what is done to it --

    def execute(self, statement, *values):
        """Changes the database as whoever has its file can: without its triggers."""
        triggers = self.connection.execute("SELECT name, sql FROM sqlite_master WHERE type = 'trigger'").fetchall()
        for name, _ in triggers:
            self.connection.execute(f"DROP TRIGGER {name}")
        self.assertGreater(self.connection.execute(statement, values).rowcount, 0, statement)
        for _, sql in triggers:
            self.connection.execute(sql)
        self.connection.commit()

    def check(self, *arguments):
        code, out, err = run("sqlite", self.path("data"), "--vkey", make_vkey(), "--json", *arguments)
        self.assertIn(code, (0, 1), err)
        return json.loads(out)

    def assert_bad(self, object, index=None, reason=""):
        problem = self.check().get("problem", {})
        self.assertTrue(problem.get("object", "").startswith(object), (object, problem))
        self.assertEqual(problem.get("index"), index)
        self.assertIn(reason, problem["reason"])


class Databases(Installation):
    def test_what_is_sound_is_accepted(self):
        found = self.check()
        self.assertTrue(found["ok"], found)
        self.assertEqual({name: found["database"][name] for name in ("leaves", "published", "checkpoints", "sections_opened", "sections_closed", "rows")},
                         {"leaves": 4, "published": 3, "checkpoints": 2, "sections_opened": 2, "sections_closed": 0, "rows": 4})
        self.assertTrue(run("sqlite", self.path("data"), "--vkey", make_vkey())[1].endswith("unchanged and in order\n"))
        self.assertEqual(sorted(os.listdir(self.path("data"))), ["countersign.db", "keys", "log"], "nothing is written")

    def test_a_database_with_a_write_ahead_log_is_read_with_it(self):
        self.connection.execute("PRAGMA journal_mode = WAL")
        self.execute("UPDATE leaf SET leaf_hash = zeroblob(32) WHERE idx = 3")
        self.assertGreater(os.path.getsize(self.path("data", "countersign.db-wal")), 0)
        self.assert_bad("leaf, leaf_hash", 3)

    def test_records_that_are_gone_or_added(self):
        for seq, index in ((1, 0), (2, 1), (4, 3)):
            self.make()
            self.execute("DELETE FROM intake WHERE seq = ?", seq)
            self.assert_bad("intake, body", index, "missing")
        self.make()
        self.execute("INSERT INTO intake SELECT tenant, 'g2', epoch, seq, record, kind, prev, body FROM intake WHERE seq = 1")
        self.assert_bad("intake", None, "5 records, 4 leaves")
        self.make()
        self.execute("DELETE FROM leaf WHERE idx = 1")
        self.assert_bad("leaf, idx", 2)
        self.make()
        self.execute("DELETE FROM leaf WHERE idx > 1")
        self.execute("DELETE FROM intake WHERE seq > 2")
        self.assert_bad("leaf", None, "only 2 leaves")

    def test_bytes_of_records(self):
        body = self.entries[1].replace(b'"deny"', b'"hold"')
        self.execute("UPDATE intake SET body = ? WHERE seq = 2", body)
        self.assert_bad("intake, body", 1, "not the entry of the published log")
        self.execute("UPDATE leaf SET leaf_hash = ? WHERE idx = 1", verify.leaf_hash(body))
        self.assert_bad("intake, body", 1, "not the entry of the published log")
        self.make()
        body = self.entries[3].replace(b'"deny"', b'"hold"')  # not published yet
        self.execute("UPDATE intake SET body = ? WHERE seq = 4", body)
        self.assert_bad("leaf, leaf_hash", 3)
        self.execute("UPDATE leaf SET leaf_hash = ? WHERE idx = 3", verify.leaf_hash(body))
        self.assert_bad("frontier")
        self.make()
        self.execute("UPDATE intake SET body = ?, prev = prev WHERE seq = 4", self.entries[2])
        self.execute("UPDATE leaf SET leaf_hash = ? WHERE idx = 3", verify.leaf_hash(self.entries[2]))
        self.assert_bad("intake, body", 3, "stream")

    def test_columns(self):
        for object, index, statement in (("intake, kind", 1, "UPDATE intake SET kind = 'auth' WHERE seq = 2"), ("intake, record", 1, "UPDATE intake SET record = zeroblob(16) WHERE seq = 2"),
                                         ("intake, record", 1, "UPDATE intake SET record = x'00' WHERE seq = 2"), ("intake, prev", 1, "UPDATE intake SET prev = zeroblob(32) WHERE seq = 2"),
                                         ("intake, body", 1, "UPDATE intake SET replica = 'g2' WHERE seq = 2"), ("intake, body", 3, "UPDATE intake SET seq = 9 WHERE seq = 4"),
                                         ("frontier, root", None, "UPDATE frontier SET root = zeroblob(32)"), ("frontier, root", None, "UPDATE frontier SET size = 3"),
                                         ("frontier, root", None, "UPDATE frontier SET edge = zeroblob(40)"), ("checkpoint, note", 3, "UPDATE checkpoint SET note = replace(note, char(10) || '3' || char(10), char(10) || '4' || char(10)) WHERE size = 3"),
                                         ("checkpoint, size", 2, "UPDATE checkpoint SET size = 2 WHERE size = 1"), ("coord, acme, epoch", None, "UPDATE coord SET epoch = 2"),
                                         ("coord, acme, sum", None, "UPDATE coord SET sum = CAST(zeroblob(16) || substr(sum, 17) AS BLOB)"), ("subject, acme pseudonym, slot", None, "UPDATE subject SET slot = 4")):
            self.make()
            self.execute(statement)
            self.assert_bad(object, index)
        self.make()
        self.execute("DELETE FROM coord")
        self.assert_bad("coord, tenant")

    def test_a_checkpoint_that_was_signed_for_another_tree(self):
        self.execute("UPDATE checkpoint SET note = ? WHERE size = 3", sign_note(f"{ORIGIN}\n3\n{'A' * 43}=\n").decode())
        self.assert_bad("checkpoint, note", 3, "not that of the leaves")

    def test_a_place_that_both_tables_claim(self):
        for table in ("intake", "leaf"):
            self.execute(f"UPDATE {table} SET replica = 'g2'")
        self.assert_bad("leaf, seq", 0)

    def test_another_log(self):
        write_log(self.path("data", "log"), make_leaves([DENY] * 3), [1, 3])
        self.assert_bad("intake, body", 0, "not the entry of the published log")
        write(self.path("data", "log", "tile"), "0/000.p/3", bytes(96))
        self.assert_bad("log/tile/0/000.p/3", 0)

    def test_files_that_are_no_database(self):
        with open(self.path("data", "countersign.db"), "r+b") as file:
            file.write(bytes(4096))
        self.assert_bad("countersign.db")
        os.remove(self.path("data", "countersign.db"))
        self.assert_bad("countersign.db", None, "missing")


class Sections(Installation):
    def sum_again(self, table):
        """Makes the sums of a table fit again, as its attacker can."""
        rows = self.connection.execute(f"SELECT * FROM {table} ORDER BY rowid").fetchall()
        self.execute(f"DELETE FROM {table}")
        for *values, _ in rows:
            self.insert_summed(table, *values)
        self.connection.commit()

    def test_an_altered_section(self):
        for column in ("nonce", "ciphertext", "dek"):
            self.make()
            self.execute(f"UPDATE sealed SET {column} = CAST(substr({column}, 1, 5) || x'00' || substr({column}, 7) AS BLOB)")
            self.assert_bad(f"sealed, acme {ID(0)} private, {column}", None, "sum")
            self.sum_again("sealed")
            self.assert_bad("sealed, 019", None, "does not open")

    def test_sections_that_are_swapped_or_cut(self):
        self.execute("UPDATE sealed SET section = 'blob/other' WHERE section <> 'private'")
        self.sum_again("sealed")
        self.assert_bad(f"sealed, {ID(0)}, ciphertext", None, "`blob/other`: it does not open")
        for column in ("ciphertext", "dek", "nonce"):
            self.make()
            self.execute(f"UPDATE sealed SET {column} = substr({column}, 1, 8)")
            self.sum_again("sealed")
            self.assert_bad("sealed, 019")

    def test_fields_that_are_not_those_of_the_leaf(self):
        for disclosures in (self.disclosures[:1], [*self.disclosures, disclose("c2FsdF", "more", 1)], [disclose("c2FsdA", "amount", 1201), self.disclosures[1]]):
            self.make()
            self.execute("DELETE FROM sealed WHERE section = 'private'")
            self.seal("private", disclosures)
            self.connection.commit()
            self.assert_bad("sealed, 019")

    def test_a_large_value(self):
        for blob in ([], self.blob[:2], [self.blob[0], self.blob[2], self.blob[1]], [disclose("x", verify.base64url(b"y" * 16)), *self.blob[1:]]):
            self.make()
            self.execute("DELETE FROM sealed WHERE section <> 'private'")
            if blob:
                self.seal("blob/arguments.note", blob)
            self.connection.commit()
            self.assert_bad(f"sealed, {ID(0)}, section", None, "refers to" if blob else "missing")

    def test_a_section_that_is_missing(self):
        self.execute("DELETE FROM sealed WHERE section = 'private'")
        self.assert_bad(f"sealed, {ID(0)}", None, "no erasure tells of it")

    def test_a_section_of_no_record(self):
        self.seal("private", [], ID(1))
        self.connection.commit()
        self.assert_bad(f"sealed, {ID(1)}, ciphertext", None, "no such record")

    def test_without_its_keys_a_section_stays_closed(self):
        def counts():
            found = self.check()["database"]
            return found["sections_opened"], found["sections_closed"]

        shutil.move(self.path("data", "keys"), self.path("keys"))
        self.assertEqual(counts(), (0, 2))
        self.assertEqual(self.check("--keys", self.path("keys"))["database"]["sections_opened"], 2)
        shutil.move(self.path("keys"), self.path("data", "keys"))
        os.remove(self.path("data", "keys", "periods", f"{PERIOD}.kek"))
        self.assertEqual(counts(), (0, 2))
        self.make()
        write(self.path("data", "keys", "subjects"), "0.keks", bytes(4 * 72))
        self.assertEqual(counts(), (0, 2))
        self.make()
        self.execute("UPDATE sealed SET period = '../2025-11-standard'")
        self.sum_again("sealed")
        self.assert_bad("sealed, 019", None, "not the name of a period")

    def erased(self, *more, private=False):
        person = {"principal": SUBJECT, "_sd_alg": "sha-256", "_sd": [digest_of(disclose("c2FsdA", "amount", 1200))]}
        self.make([{**ALLOW, **person}, *more], private)
        return self.check()

    def test_deletions_that_the_log_tells_of(self):
        def person(phase, subject=SUBJECT):
            return {"kind": "erasure", "phase": phase, "subject": subject}

        def purge(ranges, records, phase="purged"):
            return {"kind": "erasure", "cause": "retention", "phase": phase, "job": "j", "ranges": ranges, "records": records}

        for expected, leaves in (((1, 0), [person("requested")]), ((1, 0), [person("requested"), person("done")]), ((0, 1), [purge([[0, 1]], 1)]),
                                 ((0, 1), [purge([[0, 1], [5, 9]], 1)]), (None, [person("done", "other")]), (None, [purge([[1, 2]], 0)]),
                                 (None, [purge([[0, 1]], 1, "done")]), (None, [DENY]), (None, [purge([[0, 1]], 2)])):
            found = self.erased(*leaves, DENY, DENY)
            counts = found["ok"] and (found["database"]["records_erased"], found["database"]["records_purged"])
            self.assertEqual(counts or None, expected, leaves)
        problem = self.erased(purge([[0, 1]], 1), DENY, DENY, private=True)["problem"]
        self.assertIn("a purge says that it is not", problem["reason"])
        self.make([{"kind": "heartbeat"}, DENY, DENY, DENY])
        self.assert_bad(f"sealed, {ID(0)}", None, "no such record")


class Cipher(unittest.TestCase):
    def test_rfc_8439(self):  # sections 2.3.2 and 2.5.2
        block = database.chacha20(bytes(range(32)), bytes.fromhex("000000090000004a00000000"), 1)
        self.assertEqual(block.hex(), "10f1e7e4d13b5915500fdd1fa32071c4c7d1f4c733c068030422aa9ac3d46c4e"
                                      "d2826446079faa0914c2d705d98b02a2b5129cd1de164eb9cbd083e8a2503c4e")
        key = bytes.fromhex("85d6be7857556d337f4452fe42d506a80103808afb0db2fd4abff6af4149f51b")
        self.assertEqual(database.poly1305(key, b"Cryptographic Forum Research Group").hex(), "a8061dc1305136c6c22b8baf0c0127a9")

    def test_hchacha20(self):  # draft-irtf-cfrg-xchacha-03, section 2.2.1
        key = database.hchacha20(bytes(range(32)), bytes.fromhex("000000090000004a0000000031415927"))
        self.assertEqual(key.hex(), "82413b4227b27bfed30e42508a877d73a0f9e4d58a74a853c12ec41326d3ecdc")

    def test_the_sealed_section(self):
        v = vectors("seal")
        sealed, keys = bytes.fromhex(v["sealed_hex"]), [bytes.fromhex(v[f"{name}_key_hex"]) for name in ("subject", "period")]

        def opened(keys=keys, record=v["record_id"], sealed=sealed):
            place = v["tenant"], record, v["section"]
            return database.Keystore.open(None, *keys, place, sealed[1:25], sealed[25:137], sealed[137:])

        self.assertEqual(opened(), v["disclosures"])
        self.assertEqual((opened([None, keys[1]]), opened([keys[0], None])), (None, None))
        for how in ({"keys": keys[::-1]}, {"record": "another"}, *({"sealed": sealed[:at] + bytes([sealed[at] ^ 1]) + sealed[at + 1:]} for at in range(1, len(sealed), 5))):
            with self.assertRaises(Bad, msg=how):
                opened(**how)


if __name__ == "__main__":
    unittest.main()
