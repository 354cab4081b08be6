"""Who signed: Ed25519, signed notes and checkpoints, keys that take the place of others, policies for witnesses.

The part of verify.py, which is beside this file, that looks at signatures. Written from ledger.md and the
specifications that it names, with Python's standard library alone.
"""
import base64, hashlib, re  # noqa: E401
from collections import namedtuple
from functools import lru_cache, reduce
from itertools import accumulate
NOTE_MAX, SIGNATURES_MAX, POLICY_MAX, HASH = 256 << 10, 64, 256, 32
ED25519, COSIGNATURE, ML_DSA_COSIGNATURE = b"\1", b"\4", b"\6"  # the types of keys
Key, Checkpoint = namedtuple("Key", "name id type public"), namedtuple("Checkpoint", "origin size root")
Rotation, Policy = namedtuple("Rotation", "leaf old new"), namedtuple("Policy", "logs witnesses groups quorum")

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
    check(data[:1] not in (ED25519, COSIGNATURE) or len(data) == 33, "an Ed25519 key has 32 bytes")
    return Key(name, bytes.fromhex(key_id), data[:1], data[1:])
def write_vkey(key):
    return f"{key.name}+{key.id.hex()}+{base64.b64encode(key.type + key.public).decode()}"
def time_of(signature):
    """Gives the Unix time in seconds that a cosignature begins with."""
    return int.from_bytes(signature[:8], "big")
def signs(key, text, signature):
    if key.type == COSIGNATURE:
        text, signature = f"cosignature/v1\ntime {time_of(signature)}\n{text}", signature[8:]
    return ed25519_verify(key.public, text.encode(), signature)
def split_note(data):
    """Gives a note's text and its signatures, each with name, key id and what was signed; checks no signature."""
    note = data.decode("utf-8", "replace") if len(data) <= NOTE_MAX else ""
    head, _, tail = note.rpartition("\n\n")
    lines, signatures = tail.split("\n"), []
    well_formed = head and lines.pop() == "" and note.encode() == data and not re.search("[\0-\x09\x0b-\x1f]", note)
    check(well_formed and 0 < len(lines) <= SIGNATURES_MAX, "not a signed note")
    for line in lines:
        name, text64 = (line.split(" ") + ["", ""])[1:3]
        blob = unbase64(text64)
        check(line == f"\u2014 {name} {text64}" and is_name(name) and len(blob) > 4, "a signature line is malformed")
        signatures.append((name, blob[:4], blob[4:]))
    return head + "\n", signatures
def signatures_of(data, keys):
    """Gives a note's text, and its signature by each known key; fails if one of them fails or there is none."""
    (text, signatures), found = split_note(data), {}
    for name, key_id, signature in signatures:
        known = [key for key in keys if key[:2] == (name, key_id) and key.type in (ED25519, COSIGNATURE)]
        good = [key for key in known if signs(key, text, signature)]
        check(good or not known, f"the signature of `{name}` is wrong")
        found.update({key: signature for key in good[:1]})
    check(found, "no signature by a known key")
    return text, found
def open_note(data, keys):
    """Gives a note's text and the known keys that signed it."""
    text, signatures = signatures_of(data, keys)
    return text, list(signatures)
def parse_checkpoint(text):
    match = re.fullmatch("([^\n]+)\n(0|[1-9][0-9]{0,19})\n([^\n]+)\n", text)
    check(match and is_name(match[1]) and int(match[2]) < 2**64, "not a checkpoint: origin, size, root")
    check(len(unbase64(match[3])) == HASH, "a root has 32 bytes")
    return Checkpoint(match[1], int(match[2]), unbase64(match[3]))
def open_checkpoint(data, keys, rotations=()):
    """Opens a checkpoint that a key of the log signed: a given one, or one that `key` leaves tie to it."""
    checkpoint = parse_checkpoint(split_note(data)[0])
    _, signers = open_note(data, counting(keys, rotations, checkpoint.size))
    own = any((key.type, key.name) == (ED25519, checkpoint.origin) for key in signers)
    check(own, "not signed by the log's own key")
    return checkpoint

# ---- Keys that take the place of others (ledger.md, "Replacement of the signing key" and "Verifying a log") ----
def open_rotation(index, statement, origin):
    """Opens the statement of the `key` leaf at an index, which the old and the new key must have signed."""
    lines = split_note(statement.encode("utf-8"))[0].split("\n")
    check(len(lines) == 5 and lines[0] == "countersign-key-rotation/v1", "no statement that a key is replaced")
    old, new = map(parse_vkey, lines[2:4])
    check({lines[1], old.name, new.name} == {origin} and old.id != new.id, "its keys are not two keys of this log")
    for key in (old, new):
        check(key.type == ED25519, "its keys are not Ed25519")
        open_note(statement.encode("utf-8"), [key])
    return Rotation(index, old, new)
def replaced(rotations):
    """Gives for each replaced key the first leaf that replaces it: a stolen key names no other successor later."""
    return {rotation.old: rotation for rotation in reversed(rotations)}
def trusted(given, rotations):
    """Gives all keys that are trusted, each with the reason and the leaf that says so."""
    chain = sorted(replaced(rotations).values())
    keys = {key: ("given", None) for key in given}
    for leaf, old, new in chain:
        if old in keys:
            keys.setdefault(new, ("successor", leaf))
    for leaf, old, new in reversed(chain):
        if new in keys:
            keys.setdefault(old, ("predecessor", leaf))
    return keys
def counting(given, rotations, size):
    """Gives the keys that count for a tree of a size: one that was replaced in it does not, even if it was given."""
    retired = {key for key, rotation in replaced(rotations).items() if rotation.leaf < size}
    return [key for key, (reason, leaf) in trusted(given, rotations).items() if key not in retired
            and (reason == "given" or (reason == "successor") == (leaf < size))]

# ---- Policies: which witnesses count, and how many of them (C2SP tlog-policy) ----
def parse_policy(text):
    """Reads a policy; `groups` has for each group how many of which members make it a witness."""
    policy, names, members = Policy([], {}, {}, []), {"none"}, set()
    def define(name):
        check(name not in names, f"the name `{name}` is taken")
        names.add(name)
    def add_key(key, keys):
        check(key.public not in {other.public for other in keys}, f"the key of `{key.name}` stands there twice")
        return key
    def add(verb, *words):
        count = len(words)
        if verb == "log" and count in (1, 2):
            key = add_key(parse_vkey(words[0]), policy.logs)
            check(key.type != COSIGNATURE, "the key is a witness's, not a log's")
            policy.logs.append(key)
        elif verb == "witness" and count in (2, 3):
            key = add_key(parse_vkey(words[1]), policy.witnesses.values())
            check(key.type in (COSIGNATURE, ML_DSA_COSIGNATURE), "the key is no witness's")
            define(words[0])
            policy.witnesses[words[0]] = key
        elif verb == "group" and count > 2:
            name, number, *of = words
            number = {"all": str(len(of)), "any": "1"}.get(number, number)
            check(re.fullmatch("[1-9][0-9]{0,5}", number) and int(number) <= len(of), "not that many members")
            check(names.issuperset(of) and "none" not in of, "a member is not defined on a line before")
            check(len(members.union(of)) == len(members) + len(of), "a member stands there twice")
            members.update(of)
            define(name)
            policy.groups[name] = int(number), set(of)
        else:
            check(verb == "quorum" and count == 1, "not a line of a policy")
            check(words[0] in names and not policy.quorum, "a second quorum, or one that is not defined")
            policy.quorum.append(words[0])
        check(max(map(len, policy)) <= POLICY_MAX, "more than 256 logs, witnesses or groups")
    lines = text.split("\n")
    for number, line in enumerate(lines, 1):
        words = [word for word in re.split("[ \t]", line) if word]
        try:
            check(not re.search("[\0-\x08\x0a-\x1f\x7f]", line), "a control character")
            if words and not words[0].startswith("#"):
                add(*words)
        except Bad as bad:
            raise Bad(f"line {number}: {bad.why}") from None
    check(policy.quorum, "there is no `quorum` line")
    return policy
def check_quorum(policy, data, keys):
    """Checks that the quorum cosigned a checkpoint that one of the keys signed; gives who did, and when."""
    checkpoint = open_checkpoint(data, [*keys, *policy.witnesses.values()])
    signatures = signatures_of(data, [*keys, *policy.witnesses.values()])[1]
    cosigned = {name: time_of(signatures[key]) for name, key in policy.witnesses.items() if key in signatures}
    check(checkpoint.size > 0, "a checkpoint of no records, for which nobody vouches")
    there = {"none", *cosigned}
    for name, (number, members) in policy.groups.items():  # members come before the groups that they are in
        there |= {name} if len(members & there) >= number else set()
    check(policy.quorum[0] in there, f"the quorum `{policy.quorum[0]}` did not cosign the checkpoint of "
          f"{checkpoint.size} records: cosigned by {', '.join(cosigned) or 'none'}")
    return cosigned
