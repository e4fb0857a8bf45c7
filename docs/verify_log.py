"""Verify an audit log, or a proof from it, without Shipworthy: needs Python 3.11 and the package cryptography.

    python verify_log.py LOG_FOLDER KEY.pub [KEY.pub …] [--anchor CHECKPOINT …]
    python verify_log.py --proof PROOF.json KEY.pub [KEY.pub …]

The log is a Merkle tree of RFC 6962; its checkpoint is a signed note (C2SP tlog-checkpoint, Ed25519).
"""

import argparse
import itertools
import json
import sys
from base64 import b64decode
from hashlib import sha256
from pathlib import Path

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_public_key


def check(holds, words):
    if not holds:
        sys.exit(f"BROKEN: {words}")


def open_checkpoint(text, keys):
    """Size and root, if one of the keys signed them."""
    body, _, rest = text.partition("\n\n")
    origin, size, root = body.split("\n")
    raw = b64decode(rest.split()[-1])
    for key in keys:
        public = key.public_bytes(Encoding.Raw, PublicFormat.Raw)
        if sha256(origin.encode() + b"\n\x01" + public).digest()[:4] == raw[:4]:
            key.verify(raw[4:], (body + "\n").encode())
            return int(size), b64decode(root)
    sys.exit("BROKEN: the checkpoint is not signed by a key that was given")


def entries(folder):
    """Every entry of the log, in order: 256 in a file, a thousand files in a folder."""
    for index in itertools.count():
        name, rest = f"{index % 1000:03d}", index // 1000
        while rest:
            name, rest = f"x{rest % 1000:03d}/{name}", rest // 1000
        if not (path := folder / "entries" / name).is_file():
            return
        yield from path.read_bytes().split(b"\n")[:-1]


def verify_log(folder, keys, anchors):
    size, root = open_checkpoint((folder / "checkpoint").read_text(), keys)
    wanted = dict(open_checkpoint(path.read_text(), keys) for path in [*anchors, folder / "checkpoint"])
    stack, count = [], 0  # roots of whole trees, the largest first, with their heights
    for line in entries(folder):
        count += 1
        height, value = 0, sha256(b"\x00" + line).digest()
        while stack and stack[-1][0] == height:
            height, value = height + 1, sha256(b"\x01" + stack.pop()[1] + value).digest()
        stack.append((height, value))
        if count in wanted:
            top = stack[-1][1]
            for _, left in reversed(stack[:-1]):
                top = sha256(b"\x01" + left + top).digest()
            check(top == wanted.pop(count), f"an entry up to {count} is not what it was")
        if count == size:
            break
    check(not wanted, f"the log ends at entry {count}; {max(wanted, default=0)} were signed")
    print(f"holds: {size} entries, root {root.hex()}, {len(anchors)} anchors")


def verify_proof(proof, keys):
    size, root = open_checkpoint(proof["checkpoint"], keys)
    value, at, last = sha256(b"\x00" + proof["entry"].encode()).digest(), proof["seq"] - 1, size - 1
    for sibling in map(b64decode, proof["path"]):
        check(last > 0, "the path is too long")
        is_right = at % 2 or at == last
        value = sha256(b"\x01" + (sibling + value if is_right else value + sibling)).digest()
        while is_right and at and not at % 2:
            at, last = at // 2, last // 2
        at, last = at // 2, last // 2
    check(last == 0 and value == root, f"entry {proof['seq']} does not stand under this checkpoint")
    print(f"holds: {proof['entry']}")


parser = argparse.ArgumentParser()
parser.add_argument("paths", nargs="+", type=Path)
parser.add_argument("--anchor", action="append", default=[], type=Path)
parser.add_argument("--proof", type=Path)
given = parser.parse_args()
key_files = given.paths if given.proof else given.paths[1:]
known = [load_pem_public_key(path.read_bytes()) for path in key_files]
try:
    if given.proof:
        verify_proof(json.loads(given.proof.read_text()), known)
    else:
        verify_log(given.paths[0], known, given.anchor)
except (InvalidSignature, ValueError, KeyError, TypeError, OSError) as error:
    sys.exit(f"BROKEN: {type(error).__name__}: {error or 'a signature is wrong'}")
