"""The audit: does the log still say what was recorded, and if not, from which entry on.

Four witnesses are compared, each kept in another place: the entries, their hashes in tiles, the signatures
(each over the tree as it stood when its entry was the last), and the database's copy. Checkpoints kept elsewhere
(anchors) are the only ones that hold against whoever has the signing key.
"""

from base64 import b64decode, b64encode
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Literal

from shipworthy.kernel.errors import IntegrityError, NotFoundError, ShipworthyError
from shipworthy.ledger.checkpoint import Checkpoint, Note, parse_note, read_note
from shipworthy.ledger.events import Entry
from shipworthy.ledger.files import LocalDisk
from shipworthy.ledger.lock import LOCK_TIMEOUT_S, WriterLock
from shipworthy.ledger.log import (
    HASH_BYTES,
    SIGNATURE_BYTES,
    UNSIGNED,
    entries_path,
    read_tile,
    signature_path,
    split_entries,
    tile_path,
)
from shipworthy.ledger.tree import (
    TILE_HEIGHT,
    TILE_WIDTH,
    frontier_of,
    inclusion_path,
    leaf_hash,
    levels_of,
    root_from_path,
    root_of,
)
from shipworthy.security.keys import PublicKey

MAX_PROBLEMS = 100  # a report is read by people

Trust = Literal["unsigned", "local", "separate signer", "anchored"]
Json = dict[str, object]


@dataclass(frozen=True, slots=True)
class AuditReport:
    """What an audit found."""

    entries: int
    root: str  # hexadecimal, over the entries as they are
    first_bad: int | None  # seq of the first entry that is not as it was recorded; None if no entry is to blame
    problems: tuple[str, ...]
    trust: Trust  # "local": whoever holds the signing key could have rewritten it; "anchored": only behind `anchored`
    anchored: int  # entries that an anchor vouches for
    first_time: str | None
    last_time: str | None

    @property
    def passed(self) -> bool:
        """Whether nothing is wrong."""
        return not self.problems


@dataclass(slots=True)
class _Findings:
    """Problems, and whom they blame: an entry exactly, or the start of a range that holds the bad one."""

    problems: list[str] = field(default_factory=list)
    exact: list[int] = field(default_factory=list)
    rough: list[int] = field(default_factory=list)

    def blame(self, seq: int, problem: str, *, exact: bool = True) -> None:
        (self.exact if exact else self.rough).append(seq)
        self.problems.append(problem)

    def note(self, seq: int | None, problem: str) -> None:
        if seq is None:
            self.problems.append(problem)
        else:
            self.blame(seq, problem)

    def first_bad(self) -> int | None:
        return min(self.exact or self.rough, default=None)


def verify_audit(
    log: Path, keys: Mapping[str, PublicKey], database: str | None = None, anchors: Sequence[Path] = ()
) -> AuditReport:
    """Hash every entry again and compare all witnesses. Appends wait while it runs.

    A stopped append leaves entries behind the checkpoint, which opening the ledger cuts off: open it first.

    Args:
        log: the log's directory.
        keys: whom to believe, by keyid; with none, an unsigned log is accepted as such.
        database: URL of the database that must say the same; None to leave it out.
        anchors: checkpoints that were exported: files, or directories of them.

    Raises:
        ConflictError: another process keeps the log locked.
    """
    lock = WriterLock(log, LOCK_TIMEOUT_S)
    with lock.held() if lock.exists() else nullcontext():  # a copy has no writers
        return audit_locked(log, keys, database, anchors)


def audit_locked(
    log: Path, keys: Mapping[str, PublicKey], database: str | None = None, anchors: Sequence[Path] = ()
) -> AuditReport:
    """As `verify_audit`, for a caller who holds the writer lock."""
    findings = _Findings()
    note = _read_checkpoint(log, keys, findings)
    if note is None:
        _check_that_nothing_was_lost(log, database, anchors, findings)
        return AuditReport(0, "", findings.first_bad(), tuple(findings.problems), "unsigned", 0, None, None)
    found = _Entries(log, note.checkpoint.size)
    found.check(findings)
    root = found.root(note.checkpoint.size) if found.size == note.checkpoint.size else b""
    if root != note.checkpoint.root:
        findings.problems.append("The entries do not have the root of the checkpoint.")
        _locate(log, keys, note, found, findings)
    if database is not None:
        from shipworthy.ledger.witness import compare_database  # SQLAlchemy only where a database is compared

        for seq, problem in compare_database(database, log, found.size):
            findings.note(seq, problem)
    anchored = _check_anchors(anchors, keys, note, found, findings)
    trust: Trust = "anchored" if anchored else "local" if note.signature else "unsigned"
    problems = tuple(findings.problems[:MAX_PROBLEMS])
    times = found.times()
    return AuditReport(found.size, root.hex(), findings.first_bad(), problems, trust, anchored, *times)


def _check_that_nothing_was_lost(log: Path, database: str | None, anchors: Sequence[Path], findings: _Findings) -> None:
    """There is no checkpoint: then nobody may remember an entry."""
    if anchors:
        findings.blame(1, "An anchor was given, and the log has no checkpoint.")
    if database is not None:
        from shipworthy.ledger.witness import compare_database, is_there

        for seq, problem in compare_database(database, log, 0) if is_there(database) else ():
            findings.note(seq, problem)


def prove(log: Path, seq: int) -> Json:
    """A proof, complete in itself, that entry `seq` stands in the log under its checkpoint.

    Raises:
        NotFoundError: there is no such entry.
    """
    note = read_note(log / "checkpoint")
    size, disk = note.checkpoint.size, LocalDisk()
    if not 1 <= seq <= size:
        raise NotFoundError(f"There is no entry {seq}; the log has 1 to {size}.")
    index, inside = divmod(seq - 1, TILE_WIDTH)
    entry = split_entries(entries_path(log, index).read_bytes())[inside]
    path = inclusion_path(seq - 1, size, lambda level, place: read_tile(disk, log, level, place))
    return {
        "entry": entry.decode(),
        "seq": seq,
        "path": [b64encode(value).decode() for value in path],
        "checkpoint": note.to_bytes().decode(),
    }


def check_proof(proof: Mapping[str, object], keys: Mapping[str, PublicKey]) -> Entry:
    """The entry, if `proof` shows that it stands under a checkpoint that one of `keys` signed.

    Raises:
        IntegrityError: it does not.
    """
    entry, seq, path, text = (proof.get(name) for name in ("entry", "seq", "path", "checkpoint"))
    if not (isinstance(entry, str) and type(seq) is int and isinstance(path, list) and isinstance(text, str)):
        raise IntegrityError("A proof holds entry, seq, path and checkpoint.")
    note = parse_note(text.encode(), "The proof's checkpoint")
    if note.signer(keys) is None:
        raise IntegrityError("The proof's checkpoint is not signed by a key known here.")
    try:
        siblings = [b64decode(value, validate=True) for value in path]
    except (ValueError, TypeError):
        raise IntegrityError("The proof's path is not base64.") from None
    if any(len(sibling) != HASH_BYTES for sibling in siblings):
        raise IntegrityError(f"The proof's path must hold hashes of {HASH_BYTES} bytes.")
    content = entry.encode()
    if root_from_path(seq - 1, note.checkpoint.size, leaf_hash(content), siblings) != note.checkpoint.root:
        raise IntegrityError(f"The proof does not lead from entry {seq} to the root of its checkpoint.")
    return Entry.from_bytes(content)


class _Entries:
    """The entries as they are, hashed tile by tile; only the roots of whole tiles are held."""

    def __init__(self, log: Path, size: int) -> None:
        self.size = size  # lowered if entries are missing
        self._log = log
        self._disk = LocalDisk()
        self._roots: list[bytes] = []  # of whole tiles

    def lines(self, index: int) -> list[bytes]:
        """The entries of a tile's file."""
        return split_entries(self._disk.read(entries_path(self._log, index)) or b"")

    def leaves(self, index: int) -> list[bytes]:
        """Their hashes."""
        return [sha256(b"\x00" + line).digest() for line in self.lines(index)]

    def check(self, findings: _Findings) -> None:
        """Hash everything; compare with the tiles."""
        whole, inside = divmod(self.size, TILE_WIDTH)
        for index in range(whole):
            leaves = self.leaves(index)
            self._compare_leaves(index, leaves, TILE_WIDTH, findings)
            self._roots.append(root_of(leaves[:TILE_WIDTH]))
        self._compare_leaves(whole, self.leaves(whole), inside, findings)
        self._check_beyond(whole + 1, findings)
        self._compare_tiles(findings)

    def _compare_leaves(self, index: int, leaves: list[bytes], count: int, findings: _Findings) -> None:
        stored = self._disk.read(tile_path(self._log, 0, index)) or b""
        if len(leaves) == count and b"".join(leaves) == stored:
            return
        base = index * TILE_WIDTH
        for place in range(max(count, len(leaves))):
            seq, hashed = base + place + 1, stored[place * HASH_BYTES : (place + 1) * HASH_BYTES]
            if place >= len(leaves):
                findings.blame(seq, f"Entry {seq} is missing.")
                self.size = min(self.size, seq - 1)
                return
            if place >= count:
                findings.blame(seq, f"Entry {seq} is not covered by the checkpoint, or was inserted before.")
                return
            if leaves[place] != hashed:
                findings.blame(seq, f"Entry {seq} does not match its stored hash.")
                if len(leaves) != count:
                    self.size = min(self.size, seq - 1) if len(leaves) < count else self.size
                return
        findings.blame(base + count + 1, f"{tile_path(self._log, 0, index)} holds more hashes than there are entries.")

    def _check_beyond(self, index: int, findings: _Findings) -> None:
        beyond = (entries_path(self._log, index), tile_path(self._log, 0, index))
        if any(self._disk.size(path) for path in beyond):
            seq = index * TILE_WIDTH + 1
            findings.blame(seq, f"{beyond[0]} is not covered by the checkpoint.")

    def _compare_tiles(self, findings: _Findings) -> None:
        for level in range(1, levels_of(self.size) + 1):
            count = self.size >> (TILE_HEIGHT * level)
            for index in range(-(-count // TILE_WIDTH) + 1):
                stored, mine = read_tile(self._disk, self._log, level, index), self.tiles(level, index)
                size = self._disk.size(tile_path(self._log, level, index)) or 0
                if stored == mine and size == len(mine) * HASH_BYTES:
                    continue
                pairs = enumerate(zip(stored, mine, strict=False))
                place = next((at for at, (one, two) in pairs if one != two), min(len(stored), len(mine)))
                seq = ((index * TILE_WIDTH + place) << (TILE_HEIGHT * level)) + 1
                path = tile_path(self._log, level, index)
                findings.blame(seq, f"{path} does not match the entries from {seq} on.", exact=False)

    def tiles(self, level: int, index: int) -> Sequence[bytes]:
        """The hashes that a tile should hold."""
        start = index * TILE_WIDTH
        if level == 0:
            return self.leaves(index)
        if level == 1:
            return self._roots[start : start + TILE_WIDTH]
        below = range(start, min(start + TILE_WIDTH, len(self._roots) >> (TILE_HEIGHT * (level - 1))))
        return [root_of(self.tiles(level - 1, place)) for place in below]

    def root(self, size: int) -> bytes:
        """Root over the first `size` entries as they are."""
        return frontier_of(size, self.tiles).root()

    def times(self) -> tuple[str | None, str | None]:
        """When the first and the last entry say they were recorded."""
        if not self.size:
            return None, None
        index, inside = divmod(self.size - 1, TILE_WIDTH)
        return _time(self.lines(0)[:1]), _time(self.lines(index)[inside : inside + 1])


def _time(lines: list[bytes]) -> str | None:
    try:
        return Entry.from_bytes(lines[0]).time if lines else None
    except IntegrityError:
        return None


def _read_checkpoint(log: Path, keys: Mapping[str, PublicKey], findings: _Findings) -> Note | None:
    try:
        note = read_note(log / "checkpoint")
    except NotFoundError:
        if LocalDisk().size(entries_path(log, 0)):
            findings.blame(1, f"{log / 'checkpoint'} is gone: nothing vouches for the entries.", exact=False)
        return None
    except IntegrityError as error:
        findings.blame(1, str(error), exact=False)
        return None
    try:
        if note.signer(keys) is None and (keys or note.signature):
            findings.problems.append("The checkpoint is not signed by a key known here.")
    except IntegrityError as error:
        findings.problems.append(f"The checkpoint does not hold: {error}")
    return note


def _locate(log: Path, keys: Mapping[str, PublicKey], note: Note, found: _Entries, findings: _Findings) -> None:
    """Find the first bad entry by the signatures: those up to it still match the entries as they are."""
    signed = [(size, signature) for size, signature in _signatures(log, found.size)]
    good, bad = 0, len(signed)  # signatures before `good` match, those from `bad` on do not
    while good < bad:
        middle = (good + bad) // 2
        size, signature = signed[middle]
        checkpoint = Checkpoint(note.checkpoint.origin, size, found.root(size))
        if any(_matches(key, checkpoint, signature) for key in keys.values()):
            good = middle + 1
        else:
            bad = middle
    last = signed[good - 1][0] if good else 0
    if good < len(signed):
        exact = signed[good][0] == last + 1
        findings.blame(last + 1, f"The signatures vouch for the entries up to {last} only.", exact=exact)
    elif found.size < note.checkpoint.size:
        findings.blame(found.size + 1, f"The entries end at {found.size}, the checkpoint has {note.checkpoint.size}.")


def _matches(key: PublicKey, checkpoint: Checkpoint, signature: bytes) -> bool:
    return key.matches(checkpoint.text().encode(), signature)  # of a revoked key too: it only helps to find the place


def _signatures(log: Path, size: int) -> Iterator[tuple[int, bytes]]:
    disk = LocalDisk()
    for index in range(-(-size // TILE_WIDTH)):
        content = disk.read(signature_path(log, index)) or b""
        for at in range(0, len(content) - SIGNATURE_BYTES + 1, SIGNATURE_BYTES):
            signature = content[at : at + SIGNATURE_BYTES]
            seq = index * TILE_WIDTH + at // SIGNATURE_BYTES + 1
            if signature != UNSIGNED and seq <= size:
                yield seq, signature


def _check_anchors(
    anchors: Sequence[Path], keys: Mapping[str, PublicKey], note: Note, found: _Entries, findings: _Findings
) -> int:
    """The size of the largest anchor that agrees; an anchor that does not blames what follows it."""
    good = 0
    for path, anchor in sorted(_read_anchors(anchors, keys, findings), key=lambda item: item[1].size):
        if anchor.origin != note.checkpoint.origin:
            findings.problems.append(f"{path} is of another log, {anchor.origin}.")
        elif anchor.size > found.size:
            findings.blame(
                found.size + 1, f"{path} vouches for {anchor.size} entries; the log ends at {found.size}: it was cut."
            )
        elif found.root(anchor.size) != anchor.root:
            findings.blame(
                good + 1, f"{path}: an entry from {good + 1} to {anchor.size} is not what it was.", exact=False
            )
        else:
            good = anchor.size
    return good


def _read_anchors(
    anchors: Sequence[Path], keys: Mapping[str, PublicKey], findings: _Findings
) -> Iterator[tuple[Path, Checkpoint]]:
    for place in anchors:
        for path in sorted(place.iterdir()) if place.is_dir() else [place]:
            try:
                anchor = read_note(path)
                if anchor.signer(keys) is None and (keys or anchor.signature):
                    raise IntegrityError(f"{path} is not signed by a key known here.")
                yield path, anchor.checkpoint
            except ShipworthyError as error:
                findings.problems.append(f"Anchor {error}")
