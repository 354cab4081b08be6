#!/usr/bin/env python3
"""Verifies the SQLite database of a Countersign installation against the log that is published from it.

Written from ledger.md (beside this file, "Database"), like verify.py, which it needs beside it with
verify_signatures.py, verify_lists.py and verify_evidence.py. Checked are the published log, as verify.py does it; every
record and its place in the log; the tree, and each stored checkpoint; the sums of rows; and that every private field is
there, unless the log tells of its deletion. With the keystore each sealed section is opened and compared with the
digests in its leaf, some three hundred a second; without it, or if its keys were destroyed, it counts as closed.
Not checked, unlike by `countersign verify`: whether a purge came in time; claims and open calls, but for their sums;
the schema and its triggers.
The database is opened for reading only. Stop the gateway first, or check a copy: what is written meanwhile looks like
damage. Exit codes are those of verify.py.
"""
import os, re, sqlite3, sys, uuid  # noqa: E401
from bisect import bisect_left, bisect_right
from contextlib import closing
from functools import lru_cache
from pathlib import Path
from urllib.parse import quote
sys.dont_write_bytecode = True
from verify import (ARGUMENTS, INTEGER_MAX, Log, Population, Tree, leaf_hash, parse_canonical, rotations_of,
                    run_command)  # noqa: E402
from verify_evidence import open_disclosures, parse_disclosure  # noqa: E402
from verify_signatures import HASH, Bad, base64url, check, open_checkpoint, sha256, unbase64  # noqa: E402
FILE, SHARD_SLOTS, NONCE, WRAPPED = "countersign.db", 256, 24, 24 + 32 + 16
PRIVATE, BLOB, PERIOD = "private", "blob/", re.compile(r"[0-9]{4}-(0[1-9]|1[0-2])-standard")

# ---- XChaCha20-Poly1305 (RFC 8439, sections 2.1 to 2.8; draft-irtf-cfrg-xchacha-03, section 2) ----
def words(data):
    return [int.from_bytes(data[at:at + 4], "little") for at in range(0, len(data), 4)]
def rotate(value, bits):
    return value << bits & 0xffffffff | value >> 32 - bits
def quarter_round(x, a, b, c, d):
    x[a] = x[a] + x[b] & 0xffffffff
    x[d] = rotate(x[d] ^ x[a], 16)
    x[c] = x[c] + x[d] & 0xffffffff
    x[b] = rotate(x[b] ^ x[c], 12)
    x[a] = x[a] + x[b] & 0xffffffff
    x[d] = rotate(x[d] ^ x[a], 8)
    x[c] = x[c] + x[d] & 0xffffffff
    x[b] = rotate(x[b] ^ x[c], 7)
def permuted(state):
    """Gives a state after the twenty rounds, which are ten of columns and ten of diagonals."""
    x = list(state)
    for _ in range(10):
        for at in range(4):
            quarter_round(x, at, at + 4, at + 8, at + 12)
        for at in range(4):
            quarter_round(x, at, (at + 1) % 4 + 4, (at + 2) % 4 + 8, (at + 3) % 4 + 12)
    return x
def bytes_of(numbers):
    return b"".join(number.to_bytes(4, "little") for number in numbers)
def chacha20(key, nonce, counter):
    """Gives the block of the key stream with this number."""
    state = words(b"expand 32-byte k" + key + counter.to_bytes(4, "little") + nonce)
    return bytes_of(a + b & 0xffffffff for a, b in zip(state, permuted(state)))
def hchacha20(key, nonce):
    state = permuted(words(b"expand 32-byte k" + key + nonce))
    return bytes_of(state[:4] + state[12:])
def poly1305(key, text):
    r, s = int.from_bytes(key[:16], "little") & 0x0ffffffc0ffffffc0ffffffc0fffffff, int.from_bytes(key[16:], "little")
    total = 0
    for at in range(0, len(text), 16):
        total = (total + int.from_bytes(text[at:at + 16] + b"\1", "little")) * r % (2**130 - 5)
    return (total + s & 2**128 - 1).to_bytes(16, "little")
def decrypt(key, nonce, names, sealed):
    """Opens what is sealed: bytes and a tag, bound to names; fails if key, nonce, names or a byte is another."""
    check(len(nonce) == NONCE and len(sealed) >= 16, "it does not open: it is cut off")
    key, nonce, text, tag = hchacha20(key, nonce[:16]), bytes(4) + nonce[16:], sealed[:-16], sealed[-16:]
    bound = b"".join(len(name).to_bytes(4, "big") + name for name in (name.encode() for name in names))
    padded = b"".join(data + bytes(-len(data) % 16) for data in (bound, text))
    lengths = len(bound).to_bytes(8, "little") + len(text).to_bytes(8, "little")
    check(poly1305(chacha20(key, nonce, 0)[:32], padded + lengths) == tag, "it does not open: a byte was altered")
    stream = b"".join(chacha20(key, nonce, block + 1) for block in range(-(-len(text) // 64)))
    return bytes(a ^ b for a, b in zip(text, stream))

class Keystore:
    """The folder with the keys; None stands for one that was destroyed."""
    def __init__(self, folder):
        self.folder, self.tenant = folder, unbase64((folder / "tenant.kek").read_text().strip())
    def unwrap(self, wrapped, *names):
        return decrypt(self.tenant, wrapped[:NONCE], names, wrapped[NONCE:])
    @lru_cache(maxsize=None)
    def period(self, name):
        check(PERIOD.fullmatch(name), f"`{name}` is not the name of a period")
        file = self.folder / "periods" / f"{name}.kek"
        return self.unwrap(file.read_bytes(), "countersign/period", name) if file.is_file() else None
    @lru_cache(maxsize=1 << 16)
    def subject(self, slot):
        file, at = self.folder / "subjects" / f"{slot // SHARD_SLOTS}.keks", slot % SHARD_SLOTS * WRAPPED
        wrapped = file.read_bytes()[at:at + WRAPPED] if file.is_file() else b""
        return self.unwrap(wrapped, "countersign/subject", str(slot)) if wrapped.strip(b"\0") else None
    def open(self, subject, period, place, nonce, dek, ciphertext):
        """Opens a sealed section (ledger.md, "Sealed section"); gives its disclosures, None without its keys."""
        if subject is None or period is None:
            return None
        inner = decrypt(period, dek[:NONCE], (*place, "period"), dek[NONCE:])
        key = decrypt(subject, inner[:NONCE], (*place, "subject"), inner[NONCE:])
        section = decrypt(key, nonce, place, ciphertext)
        check(section == b"" or section.endswith(b"~"), "a disclosure is cut off")
        return section.decode("ascii").split("~")[:-1]

# ---- The database (ledger.md, "Database") ----
def hash_of(value):
    if isinstance(value, int):
        return sha256(b"i", value.to_bytes(8, "big", signed=True))
    return sha256(b"t", value.encode()) if isinstance(value, str) else sha256(b"b", value)
def record_of(key):
    return str(uuid.UUID(bytes=key)) if isinstance(key, bytes) and len(key) == 16 else repr(key)
def is_reference(value):
    return (isinstance(value, dict) and sorted(value) == ["len", "sha256"]
            and isinstance(value["sha256"], str) and type(value["len"]) is int)

class Told:
    """What `erasure` leaves say is deleted."""
    def __init__(self, leaves):
        self.persons = [leaf for leaf in leaves if leaf.get("cause") != "retention"]
        self.purges = [leaf for leaf in leaves if (leaf.get("cause"), leaf.get("phase")) == ("retention", "purged")]
        self.ranges = sorted(tuple(pair) for leaf in self.purges for pair in leaf.get("ranges", []))
    def is_purged(self, index):
        at = bisect_right(self.ranges, (index, INTEGER_MAX))
        return at > 0 and index < self.ranges[at - 1][1]
    def is_erased(self, principal, time):
        """Says whether a person's erasure tells of a record: one that ended after it, or that has not ended yet."""
        mine = [leaf for leaf in self.persons if principal is not None and leaf.get("subject") == principal]
        ended = any(leaf.get("phase") == "done" and list(leaf["time"].values()) > time for leaf in mine)
        return ended or bool(mine) and mine[-1].get("phase") != "done"
    def check_counts(self, private):
        for leaf in self.purges:
            found = sum(bisect_left(private, b) - bisect_left(private, a) for a, b in leaf.get("ranges", []))
            check(found == leaf.get("records"), f"a purge of {leaf.get('records')} records, where {found} had private "
                  "fields", f"intake, {leaf['record_id']}, body")

class Database:
    """An installation's data folder, of which the log was verified."""
    def __init__(self, folder, log, keystore):
        path, self.log, self.keystore = folder / FILE, log, keystore
        check(path.is_file(), "the file is missing", FILE)
        if sqlite3.sqlite_version_info < (3, 37):
            raise ValueError(f"it needs SQLite 3.37 or later, this is {sqlite3.sqlite_version}")
        pending = os.path.exists(f"{path}-wal") and os.path.getsize(f"{path}-wal") > 0
        # Without a write-ahead log nobody writes, and SQLite need not make a file beside the database.
        mode = "mode=ro" if pending else "mode=ro&immutable=1"
        self.connection = sqlite3.connect(f"file:{quote(str(path.resolve()))}?{mode}", uri=True)
        self.private, self.erasures = {}, []  # of each record with private fields: its index, its person, its time
    def rows(self, sql, *values):
        try:
            with closing(self.connection.execute(sql, values)) as rows:
                yield from rows
        except (sqlite3.Error, OverflowError) as error:
            raise Bad(f"it cannot be read: {error}", FILE) from None
    def check_sums(self):
        """Checks the sum that rows have as their last column, and that they are of the one tenant; gives how many."""
        count = 0
        for (table,) in list(self.rows("SELECT name FROM sqlite_schema WHERE type = 'table' ORDER BY name")):
            columns = [(name, key) for _, name, _, _, _, key in self.rows(f'PRAGMA table_info("{table}")')]
            for *values, own in self.rows(f'SELECT * FROM "{table}"') if columns[-1][0] == "sum" else ():
                hashes = [hash_of(value) for value in values]
                pieces = [digest[:2] for digest in hashes]
                bad = [name for at, (name, _) in enumerate(columns[:-1]) if own[16 + 2 * at:18 + 2 * at] != pieces[at]]
                key = " ".join(record_of(value) if isinstance(value, bytes) else str(value)
                               for value, (_, part) in zip(values, columns) if part)
                check(own == sha256(table.encode(), b"\0", *hashes)[:16] + b"".join(pieces),
                      "the value does not fit the row's sum", f"{table}, {key}, {(bad or ['sum'])[0]}")
                check(values[0] == self.tenant, "the tenant is another one", f"{table}, {key}, tenant")
                count += 1
        return count
    def check_leaves(self):
        """Checks each record, its place, and the tree; gives the tree, the roots at stored sizes, and replaced keys."""
        people, tree, rotations, published = Population(), Tree(), [], self.log.tree.levels[0]
        roots = {size: None for size, in self.rows("SELECT size FROM checkpoint")}
        pairs = self.rows("""SELECT l.idx, l.tenant, l.replica, l.epoch, l.seq, l.leaf_hash, i.record, i.kind, i.prev,
            i.body FROM leaf l LEFT JOIN intake i ON (i.tenant, i.replica, i.epoch, i.seq) =
            (l.tenant, l.replica, l.epoch, l.seq) ORDER BY l.idx""")
        for index, (at, *place, stored, record, kind, prev, body) in enumerate(pairs):
            check(at == index, "the leaf before is missing", "leaf, idx", at)
            check(body is not None, "the record is missing", "intake, body", index)
            own, signed = leaf_hash(body), bytes(published[HASH * index:HASH * index + HASH])
            check(signed in (own, b""), "not the entry of the published log", "intake, body", index)
            check(stored == own, "it is not the hash of the leaf's bytes", "leaf, leaf_hash", index)
            try:
                leaf = people.add(index, body)
                rotations += rotations_of(index, leaf, self.log.says.origin)
            except Bad as bad:
                raise Bad(bad.why, "intake, body", index) from None
            gw = leaf["gw"]
            says = [leaf["tenant"], gw["replica"], gw["epoch"], gw["seq"]]
            check(place == says and leaf["tenant"] == self.tenant, "the leaf says another place", "leaf, seq", index)
            for column, value, said in (("record", record_of(record), leaf["record_id"]), ("kind", kind, leaf["kind"]),
                                        ("prev", base64url(prev), gw["prev"])):
                check(value == said, "the leaf says something else", f"intake, {column}", index)
            if leaf.get("_sd"):
                self.private[leaf["record_id"]] = index, leaf.get("principal"), list(leaf["time"].values())
            self.erasures += [leaf] * (leaf["kind"] == "erasure")
            tree.push(own)
            roots.update({tree.size: tree.root()} if tree.size in roots else {})
        (records,), = self.rows("SELECT count(*) FROM intake")
        check(records == tree.size, f"{records} records, {tree.size} leaves", "intake")
        check(self.log.says.size <= tree.size, f"it has only {tree.size} leaves of the published log", "leaf")
        return tree, roots, rotations
    def check_checkpoints(self, tree, roots, rotations):
        for size, note in self.rows("SELECT size, note FROM checkpoint ORDER BY size"):
            try:
                point = open_checkpoint(note.encode(), self.log.keys, rotations)
            except Bad as bad:
                raise Bad(bad.why, "checkpoint, note", size) from None
            check(point.size == size, f"the note says {point.size}", "checkpoint, size", size)
            check(point.root == (roots[size] or size == 0 and sha256()), "its root is not that of the leaves",
                  "checkpoint, note", size)
        for size, root, edge in self.rows("SELECT size, root, edge FROM frontier"):
            own = size.to_bytes(8, "big") + b"".join(tree.edge)
            same = (size, root, edge) == (tree.size, tree.root(), own)
            check(same, "the leaves say something else", "frontier, root")
    def leaf(self, index):
        (body,), = self.rows("""SELECT i.body FROM leaf l JOIN intake i ON (i.tenant, i.replica, i.epoch, i.seq) =
            (l.tenant, l.replica, l.epoch, l.seq) WHERE (l.tenant, l.idx) = (?, ?)""", self.tenant, index)
        return parse_canonical(body)
    def check_sections(self, told):
        """Opens each section whose keys are there; gives of each whether that was so."""
        found, blobs, references = {}, {}, {}
        sections = self.rows("""SELECT d.record, d.section, d.period, s.slot, d.nonce, d.dek, d.ciphertext FROM sealed d
            LEFT JOIN subject s ON (s.tenant, s.subject) = (d.tenant, d.subject) ORDER BY d.rowid""")
        for key, section, *sealed in sections:
            record = record_of(key)
            place = f"sealed, {record}, ciphertext"
            check(record in self.private, "there is no such record with private fields", place)
            check(not told.is_purged(self.private[record][0]), "it is there, and a purge says that it is not", place)
            try:
                disclosures = self.open(record, section, *sealed)
                found[record, section] = disclosures is not None
                if disclosures is not None and section == PRIVATE:
                    opened, closed = open_disclosures(self.leaf(self.private[record][0]), disclosures)
                    check(not closed, "digests of the leaf stay closed")
                    references.update({(record, f"{BLOB}{one['name']}"): (one["value"]["sha256"], one["value"]["len"])
                                       for one in opened if is_reference(one["value"])})
                elif disclosures is not None:
                    salt, *parts = (parse_disclosure(part)[2] for part in disclosures)
                    text = "".join(parts).encode()
                    blobs[record, section] = base64url(sha256(unbase64(salt, url=True), text)), len(text)
            except (ValueError, TypeError) as error:
                raise Bad(f"section `{section}`: {getattr(error, 'why', error)}", place) from None
        for (record, section), reference in references.items():
            place = f"sealed, {record}, section"
            check((record, section) in found, f"section `{section}` is missing, and `{PRIVATE}` is there", place)
            same = blobs.get((record, section), reference) == reference
            check(same, f"section `{section}` is not what `{PRIVATE}` refers to", place)
        return found
    def open(self, record, section, period, slot, *sealed):
        if self.keystore is None or slot is None:
            return None
        place = self.tenant, record, section
        return self.keystore.open(self.keystore.subject(slot), self.keystore.period(period), place, *sealed)
    def check_missing(self, told, found):
        """Checks that the log tells of each deletion; gives how many records were erased, and purged."""
        told.check_counts([index for index, _, _ in self.private.values()])
        missing = {record: known for record, known in self.private.items() if (record, PRIVATE) not in found}
        purged = {record for record, (index, _, _) in missing.items() if told.is_purged(index)}
        for record, (_, principal, time) in missing.items():
            deleted = record in purged or told.is_erased(principal, time)
            check(deleted, "it is missing, and no erasure tells of it", f"sealed, {record}, record")
        return len(missing) - len(purged), len(purged)
    def verify(self):
        """Checks everything; gives the report, or raises what is wrong."""
        tenants = [tenant for tenant, in self.rows("SELECT tenant FROM coord")]
        check(len(tenants) == 1, "there is not one tenant", "coord, tenant")
        self.tenant, = tenants
        sums = self.check_sums()
        tree, roots, rotations = self.check_leaves()
        self.check_checkpoints(tree, roots, rotations)
        told = Told(self.erasures)
        found = self.check_sections(told)
        erased, purged = self.check_missing(told, found)
        for line, in self.rows("PRAGMA integrity_check(1)"):
            check(line == "ok", line, FILE)
        return {"leaves": tree.size, "root": tree.root().hex(), "checkpoints": len(roots), "rows": sums,
                "published": self.log.says.size, "sections_opened": sum(found.values()),
                "sections_closed": len(found) - sum(found.values()), "records_erased": erased, "records_purged": purged}

# ---- Command line ----
def run_sqlite(args):
    keys, pinned = args.keys or args.dir / "keys", list(map(os.path.abspath, args.pinned))
    try:
        log = Log(args.dir / "log", args.vkey)
        report = log.verify(pinned)
    except Bad as bad:
        raise Bad(bad.why, bad.file if bad.file in pinned else f"log/{bad.file}", bad.index) from None
    database = Database(args.dir, log, Keystore(keys) if (keys / "tenant.kek").is_file() else None)
    with closing(database.connection):
        found = database.verify()
    if args.json:
        return {"ok": True, "log": report, "database": found}
    for name, value in {"origin": report["origin"], **found}.items():
        print(f"{name.replace('_', ' '):26} {value}")
    return "OK: log and database hold what was signed, unchanged and in order"
COMMANDS = {"sqlite": (run_sqlite, "check a database in SQLite", ("dir", "--vkey", "--keys", "--pinned", "--json"))}
OPTIONS = {**ARGUMENTS, "dir": {"type": Path, "help": f"the data folder: `{FILE}`, `log/`"},
           "--keys": {"type": Path, "metavar": "DIR", "help": "the keystore, if it is not in the data folder"}}
def main():
    return run_command(__doc__, COMMANDS, OPTIONS)

if __name__ == "__main__":
    sys.exit(main())
