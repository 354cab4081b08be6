#!/usr/bin/env python3
"""Verifies a Countersign ledger offline: a second implementation, for an auditor to read.

Written from ledger.md (beside this file) and the specifications it names, with Python's standard library alone.
A pass proves that the holder of the key signed exactly these records, in this order, and that all checkpoints at
hand belong to one history; not that nobody was shown another history (keep a checkpoint, and pass it with --pinned),
nor that every call is in the log. If several things are wrong, one is named: a checkpoint that does not open, else
the first bad entry, checkpoint or tile. Exit codes: 0 good, 1 something is wrong, 2 wrong usage or unreadable input.
What is made out of a log, evidence packages and opened records, is checked by verify_evidence.py, beside this file.
"""
import argparse, base64, hashlib, json, os, re, sys, time  # noqa: E401
from collections import Counter, defaultdict, namedtuple
from functools import lru_cache, reduce
from itertools import accumulate
from pathlib import Path
NOTE_MAX, SIGNATURES_MAX, ENTRY_MAX, FILE_MAX, INTEGER_MAX = 256 << 10, 64, 16 << 10, 1 << 25, 2**53 - 1
HASH, TILE, BUNDLES = 32, 256, -1  # bytes of a hash, hashes of a full tile, the "level" of entry bundles
Key, Checkpoint = namedtuple("Key", "name id type public"), namedtuple("Checkpoint", "origin size root")

class Bad(ValueError):
    """Something is not what it must be: why, in which file, at which index within that file."""
    def __init__(self, why, file=None, index=None, unit="index"):
        super().__init__(f"`{file}`{'' if index is None else f', {unit} {index}'}: {why}" if file else why)
        self.why, self.file, self.index, self.unit = why, file, index, unit
def check(condition, why, *place):
    if not condition:
        raise Bad(why, *place)
def sha256(*parts):
    return hashlib.sha256(b"".join(parts)).digest()

# ---- Ed25519 (RFC 8032, section 5.1): strict, by the equation without cofactor ----
P, L = 2**255 - 19, 2**252 + 27742317777372353535851937790883648493  # the field; the base point's order
D = -121665 * pow(121666, -1, P) % P
def add(p, q):
    """Adds two points in extended coordinates (section 5.1.4); it doubles as well."""
    a, b = (p[1] - p[0]) * (q[1] - q[0]) % P, (p[1] + p[0]) * (q[1] + q[0]) % P
    c, d = 2 * D * p[3] * q[3] % P, 2 * p[2] * q[2] % P
    e, f, g, h = b - a, d - c, d + c, b + a
    return e * f % P, g * h % P, f * g % P, e * h % P
@lru_cache(maxsize=64)
def doublings(point):
    return list(accumulate(range(252), lambda p, _: add(p, p), initial=point))
def multiply(factor, point):
    return reduce(add, (p for i, p in enumerate(doublings(point)) if factor >> i & 1), (0, 1, 1, 0))
def decode_point(data):
    """Reads a point (section 5.1.3); gives None if y is too large, has no x, or x is minus zero."""
    sign, y = divmod(int.from_bytes(data, "little"), 2**255)
    square = (y * y - 1) * pow(D * y * y + 1, -1, P) % P
    x = pow(square, (P + 3) // 8, P)
    x = x if x * x % P == square else x * pow(2, (P - 1) // 4, P) % P
    if len(data) != 32 or y >= P or x * x % P != square or (x == 0 and sign):
        return None
    return (x, y, 1, x * y % P) if x & 1 == sign else (P - x, y, 1, -x * y % P)
def encode_point(p):
    x, y = (v * pow(p[2], -1, P) % P for v in p[:2])
    return (y | (x & 1) << 255).to_bytes(32, "little")
BASE = decode_point((4 * pow(5, -1, P) % P).to_bytes(32, "little"))
def ed25519_verify(public, text, signature):
    a, s = decode_point(public), int.from_bytes(signature[32:], "little")
    if len(signature) != 64 or s >= L or a is None:
        return False
    k = int.from_bytes(hashlib.sha512(signature[:32] + public + text).digest(), "little") % L
    r = add(multiply(s, BASE), multiply(k, (P - a[0], a[1], 1, P - a[3])))  # [s]B - [k]A must be R
    # A point of small order becomes neutral when doubled thrice; with one, a signature can fit many texts.
    return encode_point(r) == signature[:32] and all(reduce(lambda p, _: add(p, p), range(3), p)[0] for p in (a, r))

# ---- Encodings, signed notes, checkpoints (C2SP signed-note, tlog-cosignature, tlog-checkpoint) ----
def base64url(data):
    return base64.urlsafe_b64encode(data).decode().rstrip("=")
def unbase64(text, url=False):
    """Decodes canonical base64: the standard one with padding, or the one for URLs without."""
    try:
        padded = text + "=" * (-len(text) % 4) if url else text
        data = base64.b64decode(padded.encode("ascii"), b"-_" if url else None, validate=True)
    except ValueError:
        raise Bad("base64 is malformed") from None
    check((base64url(data) if url else base64.b64encode(data).decode()) == text, "base64 is not canonical")
    return data
def is_name(text):
    return text != "" and "+" not in text and not any(c.isspace() or c < " " for c in text)
def parse_vkey(text):
    name, key_id, data = (text.split("+", 2) + ["", ""])[:3]
    data = unbase64(data)
    check(is_name(name) and sha256(name.encode(), b"\n", data)[:4].hex() == key_id, "not a key, or its id is wrong")
    check(data[:1] not in (b"\1", b"\4") or len(data) == 33, "an Ed25519 key has 32 bytes")
    return Key(name, bytes.fromhex(key_id), data[:1], data[1:])
def signs(key, text, signature):
    if key.type == b"\4":  # a cosignature, which has its time before it
        text, signature = f"cosignature/v1\ntime {int.from_bytes(signature[:8], 'big')}\n{text}", signature[8:]
    return ed25519_verify(key.public, text.encode(), signature)
def open_note(data, keys):
    """Gives a note's text and the known keys that signed it; fails if one of them fails or there is none."""
    note = data.decode("utf-8", "replace") if len(data) <= NOTE_MAX else ""
    head, _, tail = note.rpartition("\n\n")
    text, lines, signers = head + "\n", tail.split("\n"), []
    well_formed = head and lines.pop() == "" and note.encode() == data and not re.search("[\0-\x09\x0b-\x1f]", note)
    check(well_formed and 0 < len(lines) <= SIGNATURES_MAX, "not a signed note")
    for line in lines:
        name, text64 = (line.split(" ") + ["", ""])[1:3]
        blob = unbase64(text64)
        check(line == f"\u2014 {name} {text64}" and is_name(name) and len(blob) > 4, "a signature line is malformed")
        known = [key for key in keys if (key.name, key.id) == (name, blob[:4]) and key.type in (b"\1", b"\4")]
        good = [key for key in known if signs(key, text, blob[4:])]
        check(good or not known, f"the signature of `{name}` is wrong")
        signers += good[:1]
    check(signers, "no signature by a known key")
    return text, signers
def open_checkpoint(data, keys):
    text, signers = open_note(data, keys)
    match = re.fullmatch("([^\n]+)\n(0|[1-9][0-9]{0,19})\n([^\n]+)\n", text)
    check(match and is_name(match[1]) and int(match[2]) < 2**64, "not a checkpoint: origin, size, root")
    check(any((key.type, key.name) == (b"\1", match[1]) for key in signers), "not signed by the log's own key")
    check(len(unbase64(match[3])) == HASH, "a root has 32 bytes")
    return Checkpoint(match[1], int(match[2]), unbase64(match[3]))

# ---- Tree and proofs (RFC 6962, section 2.1; C2SP tlog-proof) ----
def leaf_hash(entry):
    return sha256(b"\0", entry)
def node_hash(left, right):
    return sha256(b"\1", left, right)

class Tree:
    """A Merkle tree that grows: `edge` has a full subtree's root for each bit set in `size`, `levels` all tiles."""
    def __init__(self):
        self.size, self.edge, self.levels = 0, [], defaultdict(bytearray)
    def push(self, node):
        self.levels[0] += node
        self.size += 1
        for height in range(1, (self.size & -self.size).bit_length()):
            node = node_hash(self.edge.pop(), node)
            if height % 8 == 0:  # a tile is full: its root is a hash of the level above
                self.levels[height // 8] += node
        self.edge.append(node)
    def root(self):
        return reduce(lambda right, left: node_hash(left, right), self.edge[::-1]) if self.edge else sha256()
def root_of_inclusion(index, size, node, path):
    """Folds an inclusion path, from the leaf's sibling upward, into the root (section 2.1.1)."""
    check(index < size and (size == 1) == (not path), "the inclusion path is too short, or too long")
    if size == 1:
        return node
    left = 1 << (size - 1).bit_length() - 1  # the largest power of two below the size
    if index < left:
        return node_hash(root_of_inclusion(index, left, node, path[:-1]), path[-1])
    return node_hash(path[-1], root_of_inclusion(index - left, size - left, node, path[:-1]))
def check_proof(data, keys, entry):
    """Checks a tlog-proof of `entry`; gives the index and the checkpoint."""
    head, _, note = data.partition(b"\n\n")
    proof = r"c2sp\.org/tlog-proof@v1(?:\nextra ([^\n]*))?\nindex (0|[1-9][0-9]{0,19})((?:\n[^\n]+){0,64})"
    match = re.fullmatch(proof, head.decode("latin-1"))
    check(match and unbase64(match[1] or "") is not None, "not a tlog-proof")
    index, path, checkpoint = int(match[2]), list(map(unbase64, match[3].split("\n")[1:])), open_checkpoint(note, keys)
    check({len(node) for node in path} <= {HASH}, "a hash of the proof has not 32 bytes")
    root = root_of_inclusion(index, checkpoint.size, leaf_hash(entry), path)
    check(root == checkpoint.root, f"the entry is not leaf {index} of the signed tree")
    return index, checkpoint

# ---- Leaves: canonical JSON (RFC 8785, integers only), streams, calls and their outcomes ----
def members(pairs):
    names = [name.encode("utf-16-be", "surrogatepass") for name, _ in pairs]  # RFC 8785, section 3.2.3
    check(all(map(bytes.__lt__, names, names[1:])), "members repeat or are not sorted")
    return dict(pairs)
def integer(text):
    check(re.fullmatch("-?[0-9]{1,16}", text) and abs(int(text)) <= INTEGER_MAX, "a number is no integer or too large")
    return int(text)
READER = json.JSONDecoder(object_pairs_hook=members, parse_int=integer, parse_float=integer, parse_constant=integer)
WRITER = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"))  # escapes just what RFC 8785 wants
def parse_canonical(entry):
    try:
        value = READER.decode(entry.decode("utf-8"))
        check(WRITER.encode(value).encode("utf-8") == entry, "spelled otherwise")
        return value
    except (ValueError, RecursionError) as error:
        raise Bad(f"not canonical JSON: {error}") from None
FIELDS = (("v", int), ("kind", str), ("record_id", str), ("tenant", str), ("gw.replica", str), ("gw.epoch", int),
          ("gw.seq", int), ("gw.prev", str), ("time.ms", int), ("time.n", int))
OPT = dict(dict.fromkeys("decision mode agent day parent outcome rotation".split(), (str, type(None))), reconciled=bool)
def field(leaf, path, kind):
    for name in path.split("."):
        leaf = leaf.get(name) if isinstance(leaf, dict) else None
    check(type(leaf) is kind and (kind is str or leaf >= 0), f"field `{path}` is missing or of another type")
    return leaf
DAY_TOTALS, NAMED_MAX = {"by_kind": "kind", "by_decision": "decision", "by_mode": "mode", "by_agent": "agent"}, 200
def spell(value):  # with sorted members, so that equal values have equal texts
    return json.dumps(value, ensure_ascii=False, sort_keys=True)
def day_of(ms):
    return "{:04}-{:02}-{:02}".format(*time.gmtime(ms // 1000)[:3])

class Day:
    """What the records of a day add up to; a daily close states it."""
    def __init__(self):
        self.ends, self.counts = [], {name: Counter() for name in DAY_TOTALS}
    def add(self, index, leaf):
        self.ends[1:] = [index]
        for name, member in DAY_TOTALS.items():
            if leaf.get(member) is not None and (member == "kind" or leaf["kind"] == "decision"):
                self.counts[name][leaf[member]] += 1
    def totals(self):
        named = {name: dict(sorted(counts.items())[:NAMED_MAX]) for name, counts in self.counts.items()}
        records, others = sum(self.counts["by_kind"].values()), sorted(self.counts["by_agent"].items())[NAMED_MAX:]
        ends = {"first": self.ends[0], "last": self.ends[-1]} if records else {}
        return spell({**named, **ends, "records": records, "other_agents": sum(count for _, count in others)})

class Population:
    """What the leaves say, read in order: streams without holes, one tenant, calls and their outcomes."""
    def __init__(self):
        self.tenant, self.streams, self.records, self.counts, self.days = None, {}, {}, Counter(), defaultdict(Day)
        self.times, self.gaps, self.outcomes, self.repeated = [], [], {}, []
    def add(self, index, entry):
        """Checks the leaf at an index, and gives it."""
        check(len(entry) <= ENTRY_MAX, "the entry has more than 16 KiB")
        leaf = parse_canonical(entry)
        v, kind, record, tenant, replica, epoch, seq, prev, *time = (field(leaf, *f) for f in FIELDS)
        check(v == 1, "field `v` is not 1")
        wrong = [name for name, types in OPT.items() if name in leaf and not isinstance(leaf[name], types)]
        check(not wrong, f"fields {wrong} are of another type")
        self.tenant = self.tenant or tenant
        check(tenant == self.tenant, f"tenant `{tenant}` in the log of `{self.tenant}`")
        last, digest, then = self.streams.get((replica, epoch), (0, bytes(HASH), [-1, 0]))
        check(seq == last + 1 and time > then, f"stream {tenant}/{replica}/{epoch}: {seq}, {time} after {last}, {then}")
        check(prev == base64url(digest), f"stream `{tenant}/{replica}/{epoch}` breaks before sequence {seq}")
        self.streams[replica, epoch] = seq, sha256(entry), time
        verdict = field(leaf, "decision", str) if kind == "decision" else None
        check(verdict in (None, "allow", "deny", "hold"), f"verdict `{verdict}` is unknown")
        check(record not in self.records, f"record `{record}` stands there twice")
        self.records[record] = index, verdict
        self.counts[kind, verdict or ""] += 1
        self.times = [min(self.times[:1] + time[:1]), max(self.times[1:] + time[:1])]
        self.gaps += [index] if kind == "gap" else []
        if kind == "outcome":
            call, settles = field(leaf, "parent", str), leaf.get("reconciled") is True
            first, unknown = self.outcomes.get(call, (index, True))
            self.repeated += [index] if first != index and not (unknown and settles) else []
            self.outcomes[call] = first, unknown and leaf.get("outcome") == "unknown"
        if kind == "close":
            day, own = field(leaf, "day", str), self.days.get(leaf["day"], Day()).totals()
            check(spell(leaf.get("totals")) == own, f"the totals of {day} are not those of its records: {own}")
        self.days[day_of(time[0])].add(index, leaf)
        return leaf
    def report(self):
        allowed = [(record, index) for record, (index, verdict) in self.records.items() if verdict == "allow"]
        counts = [{"kind": k, "verdict": v or None, "count": n} for (k, v), n in sorted(self.counts.items())]
        orphans = [i for call, (i, _) in self.outcomes.items() if self.records.get(call, (0, None))[1] != "allow"]
        return {**dict(zip(("first_ms", "last_ms"), self.times or (None, None))), "population": counts,
                "decisions_without_outcome": [i for call, i in allowed if call not in self.outcomes],
                "outcomes_unknown": [i for call, i in allowed if self.outcomes.get(call, (0, False))[1]],
                "outcomes_repeated": self.repeated, "outcomes_without_decision": orphans, "gaps": self.gaps,
                "closes": self.counts["close", ""]}

# ---- A log's folder (C2SP tlog-tiles; ledger.md, "Tiles and bundles" and "Verifying a log") ----
def tile_path(level, index, width=TILE):
    groups = re.sub("(...)(?=.)", r"x\1/", "0" * (-len(str(index)) % 3) + str(index))
    return f"tile/{'entries' if level == BUNDLES else level}/{groups}" + (f".p/{width}" if width < TILE else "")
def parse_tile_path(path):
    """Gives level, index and width of a tile; a path counts if that is how these three are spelled."""
    match = re.fullmatch("tile/(entries|[0-9]{1,2})/([x0-9/]*[0-9])(?:[.]p/([1-9][0-9]{0,2}))?", path)
    check(match, "not a tile", path)
    level, index = BUNDLES if match[1] == "entries" else int(match[1]), int(re.sub("[x/]", "", match[2])[:30])
    check(level < 64 and index < 2**64 and tile_path(level, index, int(match[3] or TILE)) == path, "not a tile", path)
    return level, index, int(match[3] or TILE)
def split(width, data):
    return [bytes(data[at:at + width]) for at in range(0, len(data), width)]
def split_bundle(data):
    entries, at = [], 0
    while at < len(data):
        start, at = at + 2, at + 2 + int.from_bytes(data[at:at + 2], "big")
        check(start <= at <= len(data), "the bundle ends within an entry", None, len(entries))
        entries.append(data[start:at])
    return entries
def difference(files, own):
    """Gives the first place where a published file is not what the entries give, or None."""
    return next((Bad("not what the entries give", file, i) for file, items in files.items()
                 for i, (published, item) in enumerate(zip(items, own)) if published != item), None)

def files_below(folder):
    """Gives the paths of all files and links below a folder, without those of which a name begins with a dot."""
    paths = (Path(top, name) for top, folders, names in os.walk(folder) for name in folders + names)
    found = (path.relative_to(folder).as_posix() for path in paths if path.is_symlink() or not path.is_dir())
    return sorted(path for path in found if not re.search(r"(^|/)\.", path))

class Log:
    """A log's folder; `tiles` has the widths in which each tile and bundle is published."""
    def __init__(self, folder, keys):
        os.listdir(folder)  # a folder that cannot be read is no verdict
        self.folder, self.keys, self.tiles = folder, keys, defaultdict(list)
        for level, index, width in (parse_tile_path(f"tile/{path}") for path in files_below(Path(folder, "tile"))):
            self.tiles[level, index] = sorted(self.tiles[level, index] + [width])
    def read(self, file, parse, *arguments):
        path = Path(self.folder, file)
        check(path.is_file() and path.stat().st_size <= FILE_MAX, "the file is missing or too large", file)
        try:
            return parse(path.read_bytes(), *arguments)
        except Bad as bad:
            raise Bad(bad.why, file, bad.index) from None
    def checkpoints(self, pinned):
        """Opens all checkpoints; gives the newest, and (size, root, file) of each by size."""
        head, marks = self.read("checkpoint", open_checkpoint, self.keys), []
        stored = [f"checkpoints/{path}" for path in files_below(Path(self.folder, "checkpoints"))]
        for file in stored + pinned + ["checkpoint"]:
            mark = self.read(file, open_checkpoint, self.keys)
            named = mark.origin == head.origin and file in ["checkpoint", f"checkpoints/{mark.size}"] + pinned
            check(named, "a checkpoint of another size or log", file)
            check(mark.size <= head.size, f"size {head.size} is behind size {mark.size} of `{file}`", "checkpoint")
            marks.append((mark.size, mark.root, file))
        return head, sorted(marks, key=lambda mark: mark[0])
    def published(self, level, index, count):
        """Reads all files of a tile or bundle: by path, its hashes or entries; one must have `count` of them."""
        files, widths = {}, self.tiles.get((level, index), [])
        check(max(widths, default=0) >= count, "the file is missing", tile_path(level, index, count))
        for file, width in ((tile_path(level, index, width), width) for width in widths):
            files[file] = items = self.read(file, split_bundle if level == BUNDLES else lambda data: split(HASH, data))
            check(len(items) == width and (level == BUNDLES or len(items[-1]) == HASH), "too short or too long", file)
        return files
    def verify(self, pinned, watch=lambda index, leaf: None):
        """Checks everything (ledger.md, "Verifying a log"); gives the report, or raises what is wrong."""
        head, marks = self.checkpoints(pinned)
        tree, people, parted, wrong, roots = Tree(), Population(), None, [], {size: sha256() for size, _, _ in marks}
        for index in range(-(-head.size // TILE)):
            count = min(TILE, head.size - TILE * index)
            files = self.published(BUNDLES, index, count)
            bundle = next(file for file, items in files.items() if len(items) >= count)
            hashes = [leaf_hash(entry) for entry in files[bundle][:count]]
            wrong += [difference(files, files[bundle][:count]), difference(self.published(0, index, count), hashes)]
            if wrong[-1] and not parted:  # either is bad, tile or entry: the entry, if anything else fails
                parted = Bad("not the entry that was signed", bundle, wrong[-1].index)
            for i, entry in enumerate(files[bundle][:count]):
                try:
                    leaf = people.add(tree.size, entry)
                except Bad as bad:
                    raise parted or Bad(bad.why, bundle, i) from None
                watch(tree.size, leaf)
                tree.push(hashes[i])
                roots.update({tree.size: tree.root()} if tree.size in roots else {})
        if parted and roots[head.size] != head.root:
            raise parted
        for size, root, file in marks:
            check(roots[size] == root or file not in pinned, f"the log does not extend `{file}`", "checkpoint")
            check(roots[size] == root, "its root is not that of the entries", file)
        for level in range(1, len(tree.levels)):
            for index, own in enumerate(split(HASH * TILE, tree.levels[level])):
                wrong.append(difference(self.published(level, index, len(own) // HASH), split(HASH, own)))
        for bad in filter(None, wrong):
            raise bad
        unsigned = sorted(tile_path(level, index, width) for (level, index), widths in self.tiles.items()
                          for width in widths if TILE * index + width > head.size >> 8 * max(level, 0))
        return {"origin": head.origin, "size": head.size, "root": base64.b64encode(head.root).decode(),
                "checkpoints": len(marks) - 1 - len(pinned), **people.report(), "unsigned": unsigned}

# ---- Command line ----
def vkey(argument):  # a key, or a file with keys, one per line, and `#` before comments
    lines = Path(argument).read_text("utf-8").split("\n") if os.path.isfile(argument) else [argument]
    return [parse_vkey(line.strip()) for line in lines if line.strip() and not line.startswith("#")]
def run_log(args):
    report = Log(args.dir, args.vkey).verify(list(map(os.path.abspath, args.pinned)))
    if args.json:
        return {"ok": True, "log": report}
    for count in report.pop("population"):
        report[f"  {count['kind']} {count['verdict'] or ''}"] = count["count"]
    for name, value in report.items():
        if name in ("first_ms", "last_ms") and value is not None:
            value = f"{day_of(value)} {time.strftime('%H:%M:%S', time.gmtime(value // 1000))}.{value % 1000:03} UTC"
        value = f"{len(value)} {value[:8] or ''}" if isinstance(value, list) else value
        print(f"{name.replace('_', ' '):26} {value}")
    return "OK: every record is in the signed log, unchanged and in order"
def run_proof(args):
    index, checkpoint = check_proof(args.file.read_bytes(), args.vkey, args.entry.read_bytes())
    return f"OK: the entry is leaf {index} of `{checkpoint.origin}`, size {checkpoint.size}"
COMMANDS = {"log": (run_log, "check a whole log", ("dir", "--vkey", "--pinned", "--json")),
            "proof": (run_proof, "check that an entry is in a log", ("file", "--vkey", "--entry"))}
ARGUMENTS = {"dir": {"help": "a tlog-tiles folder: `checkpoint`, `checkpoints/`, `tile/`"},
             "file": {"type": Path, "help": "a .tlog-proof"},
             "--vkey": {"metavar": "KEY|FILE", "type": vkey, "required": True, "action": "extend", "help": "a log key"},
             "--pinned": {"metavar": "FILE", "action": "append", "default": [], "help": "a checkpoint from earlier"},
             "--entry": {"type": Path, "required": True, "help": "the bytes of the leaf"},
             "--json": {"action": "store_true", "help": "print JSON"}}

def run_command(doc, known, options):
    about, _, more = doc.partition("\n\n")
    parser = argparse.ArgumentParser(description=about, epilog=more, formatter_class=argparse.RawTextHelpFormatter)
    commands = parser.add_subparsers(required=True, metavar="|".join(known))
    for name, (run, text, arguments) in known.items():
        command = commands.add_parser(name, help=text, description=text)
        command.set_defaults(run=run, json=False)
        for argument in arguments:
            command.add_argument(argument, **options[argument])
    args = parser.parse_args()
    try:
        output, code = args.run(args), 0
    except Bad as bad:
        output, code = {"ok": False, "problem": {"object": bad.file, bad.unit: bad.index, "reason": bad.why}}, 1
        output = output if args.json else f"FAILED: {bad}"
    except (OSError, ValueError, RecursionError) as error:
        parser.exit(2, f"cannot read: {error}\n")
    print(output if isinstance(output, str) else json.dumps(output, ensure_ascii=False, indent=2))
    return code
def main():
    return run_command(__doc__, COMMANDS, ARGUMENTS)

if __name__ == "__main__":
    sys.exit(main())
