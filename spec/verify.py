#!/usr/bin/env python3
"""Verifies a Countersign ledger offline: a second implementation, for an auditor to read.

Written from ledger.md (beside this file) and the specifications it names, with Python's standard library alone.
A pass proves that the holder of the key signed exactly these records, in this order, and that all checkpoints at
hand belong to one history; not that nobody was shown another history (keep a checkpoint, and pass it with --pinned,
or say with --policy which witnesses must have cosigned), nor that every call is in the log. If several things are
wrong, one is named: a checkpoint that does not open, else the first bad entry, checkpoint or tile. Exit codes: 0
good, 1 something is wrong, 2 wrong usage or unreadable input.
Needs verify_signatures.py beside it. What is made out of a log, evidence packages and opened records, is checked by
verify_evidence.py, and the database that it is published from by verify_database.py.
"""
import argparse, base64, json, os, re, sys, time  # noqa: E401
from collections import Counter, defaultdict
from datetime import datetime, timedelta
from functools import partial, reduce
from pathlib import Path
sys.dont_write_bytecode = True  # a folder that has this file gets no other by its being run
from verify_signatures import (HASH, Bad, base64url, check, check_quorum, counting, open_checkpoint, open_rotation,
                               parse_checkpoint, parse_policy, parse_vkey, sha256, split_note, trusted, unbase64,
                               write_vkey)  # noqa: E402
ENTRY_MAX, FILE_MAX, INTEGER_MAX, ROTATIONS_MAX = 16 << 10, 1 << 25, 2**53 - 1, 1024
TILE, BUNDLES = 256, -1  # hashes of a full tile, the "level" of entry bundles
EPOCH, LATEST_MS = datetime(1970, 1, 1), 253402207200999  # the latest time that is written as a date

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
def check_proof(data, keys, entry, policy=None):
    """Checks a tlog-proof of `entry`, and that its checkpoint has a policy's quorum; gives index and checkpoint."""
    head, _, note = data.partition(b"\n\n")
    proof = r"c2sp\.org/tlog-proof@v1(?:\nextra ([^\n]*))?\nindex (0|[1-9][0-9]{0,19})((?:\n[^\n]+){0,64})"
    match = re.fullmatch(proof, head.decode("latin-1"))
    check(match and unbase64(match[1] or "") is not None, "not a tlog-proof")
    index, path, checkpoint = int(match[2]), list(map(unbase64, match[3].split("\n")[1:])), open_checkpoint(note, keys)
    check({len(node) for node in path} <= {HASH}, "a hash of the proof has not 32 bytes")
    root = root_of_inclusion(index, checkpoint.size, leaf_hash(entry), path)
    check(root == checkpoint.root, f"the entry is not leaf {index} of the signed tree")
    if policy:
        check_quorum(policy, note, keys)
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
def rotations_of(index, leaf, origin):
    """Gives in a list what a leaf says about the replacement of a key: nothing, unless it is of kind `key`."""
    return [open_rotation(index, field(leaf, "rotation", str), origin)] if field(leaf, "kind", str) == "key" else []
DAY_TOTALS, NAMED_MAX = {"by_kind": "kind", "by_decision": "decision", "by_mode": "mode", "by_agent": "agent"}, 200
def spell(value):  # with sorted members, so that equal values have equal texts
    return json.dumps(value, ensure_ascii=False, sort_keys=True)
def day_of(ms):
    return "{:04}-{:02}-{:02}".format(*time.gmtime(ms // 1000)[:3])
def utc(ms):
    """Writes a time as RFC 3339 in UTC, with milliseconds."""
    at = EPOCH + timedelta(milliseconds=min(ms, LATEST_MS))
    return at.isoformat(timespec="milliseconds") + "Z" if ms <= LATEST_MS else f"{ms} ms"

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

def cosigners(policy, cosigned):
    """Says who cosigned a checkpoint, and when."""
    return [{"witness": name, "vkey": write_vkey(policy.witnesses[name]), "time": utc(1000 * seconds)}
            for name, seconds in cosigned.items()]

class Log:
    """A log's folder: in which widths each tile and bundle is published, and the replacements of its key."""
    def __init__(self, folder, keys):
        os.listdir(folder)  # a folder that cannot be read is no verdict
        self.folder, self.keys, self.tiles, self.tree = folder, keys, defaultdict(list), Tree()
        for level, index, width in (parse_tile_path(f"tile/{path}") for path in files_below(Path(folder, "tile"))):
            self.tiles[level, index] = sorted(self.tiles[level, index] + [width])
        self.says = self.read("checkpoint", lambda data: parse_checkpoint(split_note(data)[0]))  # not verified yet
        self.rotations = list(self.key_leaves())
    def read(self, file, parse, *arguments):
        path = Path(self.folder, file)
        check(path.is_file() and path.stat().st_size <= FILE_MAX, "the file is missing or too large", file)
        try:
            return parse(path.read_bytes(), *arguments)
        except Bad as bad:
            raise Bad(bad.why, file, bad.index) from None
    def key_leaves(self):
        """Finds `key` leaves ahead: they say whose checkpoints count. What is wrong with one, the pass tells."""
        for index in range(-(-self.says.size // TILE)):
            widths = self.tiles.get((BUNDLES, index))
            if not widths:
                return
            try:
                entries = self.read(tile_path(BUNDLES, index, widths[-1]), split_bundle)
            except Bad:
                return
            for at, entry in enumerate(entries[:self.says.size - TILE * index], TILE * index):
                try:
                    if b'"kind":"key"' in entry:
                        yield from rotations_of(at, parse_canonical(entry), self.says.origin)
                except Bad:
                    pass
    def keys_at(self, size):
        return counting(self.keys, self.rotations, size)
    def checkpoints(self, pinned):
        """Opens all checkpoints; gives the newest, and (size, root, file) of each by size."""
        head, marks = self.read("checkpoint", open_checkpoint, self.keys, self.rotations), []
        stored = [f"{folder}/{path}" for folder in ("checkpoints", "cosigned")
                  for path in files_below(Path(self.folder, folder))]
        for file in stored + pinned + ["checkpoint"]:
            mark = self.read(file, open_checkpoint, self.keys, () if file in pinned else self.rotations)
            places = ["checkpoint", f"checkpoints/{mark.size}", f"cosigned/{mark.size}"] + pinned
            check(mark.origin == head.origin and file in places, "a checkpoint of another size or log", file)
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
        rotations = []
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
                    rotations += rotations_of(tree.size, leaf, head.origin)
                    check(len(rotations) <= ROTATIONS_MAX, f"more than {ROTATIONS_MAX} key leaves")
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
        check(rotations == self.rotations, "its entries changed while they were read", "tile")
        self.tree = tree
        unsigned = sorted(tile_path(level, index, width) for (level, index), widths in self.tiles.items()
                          for width in widths if TILE * index + width > head.size >> 8 * max(level, 0))
        return {"origin": head.origin, "size": head.size, "root": base64.b64encode(head.root).decode(),
                "checkpoints": sum(file.startswith("checkpoints/") for _, _, file in marks), **people.report(),
                "keys": [{"vkey": write_vkey(key), "trust": reason, **({"leaf": leaf} if leaf is not None else {})}
                         for key, (reason, leaf) in trusted(self.keys, rotations).items()], "unsigned": unsigned}
    def witnessed(self, policy):
        """Finds the newest checkpoint of a log that was verified which has the policy's quorum; gives size and who."""
        cosigned = sorted(map(int, files_below(Path(self.folder, "cosigned"))), reverse=True)
        missing = []
        for file in ["checkpoint"] + [f"cosigned/{size}" for size in cosigned]:
            size = self.read(file, lambda data: parse_checkpoint(split_note(data)[0])).size
            try:
                who = self.read(file, partial(check_quorum, policy), self.keys_at(size))
                return {"size": size, "cosigned": cosigners(policy, who), "records_after": self.tree.size - size}
            except Bad as bad:
                missing.append(bad)
        raise missing[min(1, len(missing) - 1)]  # of the newest that somebody cosigned, if anybody did

# ---- Command line ----
def vkey(argument):  # a key, or a file with keys, one per line, and `#` before comments
    lines = Path(argument).read_text("utf-8").split("\n") if os.path.isfile(argument) else [argument]
    return [parse_vkey(line.strip()) for line in lines if line.strip() and not line.startswith("#")]
def policy(argument):
    try:
        return parse_policy(Path(argument).read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise argparse.ArgumentTypeError(f"{argument}: {error}") from None
def run_log(args):
    log = Log(args.dir, args.vkey)
    report = log.verify(list(map(os.path.abspath, args.pinned)))
    witnessed = log.witnessed(args.policy) if args.policy else {}
    if args.json:
        return {"ok": True, "log": report, **({"witnessed": witnessed} if witnessed else {})}
    for key in report.pop("keys"):
        if key["trust"] != "given":
            report["  " + "+".join(key["vkey"].split("+")[:2])] = f"{key['trust']}, says leaf {key['leaf']}"
    for count in report.pop("population"):
        report[f"  {count['kind']} {count['verdict'] or ''}"] = count["count"]
    report.update({"witnessed": f"{witnessed['size']} of {report['size']} records"} if witnessed else {})
    report.update({f"  {one['witness']}": one["time"] for one in witnessed.get("cosigned", [])})
    for name, value in report.items():
        if name in ("first_ms", "last_ms") and value is not None:
            value = utc(value)
        value = f"{len(value)} {value[:8] or ''}" if isinstance(value, list) else value
        print(f"{name if name[0] == ' ' else name.replace('_', ' '):26} {value}")
    return "OK: every record is in the signed log, unchanged and in order"
def run_proof(args):
    index, checkpoint = check_proof(args.file.read_bytes(), args.vkey, args.entry.read_bytes(), args.policy)
    return f"OK: the entry is leaf {index} of `{checkpoint.origin}`, size {checkpoint.size}"
TRUST = ("--vkey", "--policy")
COMMANDS = {"log": (run_log, "check a whole log", ("dir", *TRUST, "--pinned", "--json")),
            "proof": (run_proof, "check that an entry is in a log", ("file", *TRUST, "--entry"))}
ARGUMENTS = {"dir": {"help": "a tlog-tiles folder: `checkpoint`, `checkpoints/`, `tile/`"},
             "file": {"type": Path, "help": "a .tlog-proof"},
             "--vkey": {"metavar": "KEY|FILE", "type": vkey, "default": [], "action": "extend", "help": "a log key"},
             "--policy": {"metavar": "FILE", "type": policy, "help": "witnesses that must have cosigned"},
             "--pinned": {"metavar": "FILE", "action": "append", "default": [], "help": "a checkpoint from earlier"},
             "--entry": {"type": Path, "required": True, "help": "the bytes of the leaf"},
             "--json": {"action": "store_true", "help": "print JSON"}}

def run_command(doc, known, options):
    about, _, more = doc.partition("\n\n")
    parser = argparse.ArgumentParser(description=about, epilog=more, formatter_class=argparse.RawTextHelpFormatter)
    commands = parser.add_subparsers(required=True, metavar="|".join(known))
    for name, (run, text, arguments) in known.items():
        command = commands.add_parser(name, help=text, description=text)
        command.set_defaults(run=run, json=False, policy=None)
        for argument in arguments:
            command.add_argument(argument, **options[argument])
    args = parser.parse_args()
    args.vkey = args.vkey or (args.policy.logs if args.policy else [])
    if not args.vkey:
        parser.error("name the log's public key, with --vkey or in a policy")
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
