"""The log on disk: entries, tiles of hashes, signatures, and the checkpoint that says how far they count.

    checkpoint            signed note; replaced at one moment; nothing beyond it counts
    entries/NNN           256 entries, one line each
    tile/L/NNN            256 hashes of level L, 32 bytes each (level 0: leaves)
    signature/NNN         64 bytes for each entry: the signature over the checkpoint that ended with it, or zeros

An append is `stage`, then the database's commit, then `publish`: when the commit is made, everything but the
name `checkpoint` is already safe on disk, and when it is not made, nothing happened.

Source: C2SP tlog-tiles (numbering of tiles).
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import NoReturn

from shipworthy.kernel.errors import AccessError, IntegrityError, InternalError, StorageError
from shipworthy.ledger.checkpoint import Checkpoint, Note, parse_note, sign_checkpoint
from shipworthy.ledger.files import Disk
from shipworthy.ledger.tree import TILE_HEIGHT, TILE_WIDTH, Frontier, frontier_of, leaf_hash, levels_of
from shipworthy.security.keys import PublicKey, Signer

HASH_BYTES = 32
SIGNATURE_BYTES = 64
UNSIGNED = bytes(SIGNATURE_BYTES)  # an entry inside a batch
ORIGIN = "shipworthy.dev/ledger"  # followed by the start of the first entry's hash, so that no two logs share it


@dataclass(slots=True)
class _Write:
    """What follows in a file, from `offset` on."""

    offset: int
    content: bytearray
    needed: bool  # synced at once: it cannot be made again; the rest is synced when its tile is whole
    width: int  # bytes of a whole tile; of no meaning for entries


_Writes = dict[Path, _Write]


def tile_name(index: int) -> str:
    """Path of tile `index` below its level.

    >>> tile_name(5), tile_name(1234067)
    ('005', 'x001/x234/067')
    """
    name = f"{index % 1000:03d}"
    while index := index // 1000:
        name = f"x{index % 1000:03d}/{name}"
    return name


@lru_cache(maxsize=64)
def entries_path(log: Path, index: int) -> Path:
    """File of the entries of tile `index`."""
    return log / "entries" / tile_name(index)


@lru_cache(maxsize=64)
def tile_path(log: Path, level: int, index: int) -> Path:
    """File of the hashes of tile `index` of `level`."""
    return log / "tile" / str(level) / tile_name(index)


@lru_cache(maxsize=64)
def signature_path(log: Path, index: int) -> Path:
    """File of the signatures of tile `index`."""
    return log / "signature" / tile_name(index)


def split_entries(content: bytes) -> list[bytes]:
    """The entries of a file, without their line ends; an unfinished line at the end is an entry with a NUL.

    The NUL makes it differ from every true entry.
    """
    lines = content.split(b"\n")
    last = lines.pop()
    return [*lines, last + b"\x00"] if last else lines


def read_tile(disk: Disk, log: Path, level: int, index: int) -> list[bytes]:
    """The hashes of a tile, as many as are there."""
    content = disk.read(tile_path(log, level, index)) or b""
    return [content[at : at + HASH_BYTES] for at in range(0, len(content) - HASH_BYTES + 1, HASH_BYTES)]


class Log:
    """The one writer's view of a log. The caller holds the writer lock around every method.

    Invariant: `note` is what the file `checkpoint` says and `_frontier` is the tree of its entries.
    """

    def __init__(
        self, root: Path, disk: Disk, signer: Signer | None = None, keys: Mapping[str, PublicKey] | None = None
    ) -> None:
        self.root = root
        self.note: Note | None = None
        self.fenced: str | None = None
        self._checkpoint = root / "checkpoint"
        self._draft = root / "checkpoint.next"
        self._disk = disk
        self._signer = signer
        self._keys = keys or {}  # asked each time: the ring may change while this process lives
        self._unsynced: set[Path] = set()  # directories with new names, also of appends that were discarded
        self._raw: bytes | None = None
        self._frontier = Frontier()
        self._offset = 0  # where the next entry starts in its file
        self._last: list[bytes] = []  # entries of the unfinished tile
        self._staged: tuple[Note, Frontier, int, list[bytes]] | None = None
        self._touched: _Writes = {}

    @property
    def size(self) -> int:
        """How many entries count."""
        return self._frontier.size

    @property
    def is_writable(self) -> bool:
        """Whether this process may append: a signed log wants its key."""
        return self._signer is not None or self.note is None or not self.note.signature

    @property
    def tail(self) -> Sequence[bytes]:
        """The entries of the unfinished tile, the last of the log."""
        return self._last

    def refresh(self) -> None:
        """See what another process has published.

        Raises:
            StorageError: the log is fenced, or cannot be read.
            IntegrityError: the log is gone, or its end does not match its checkpoint.
        """
        self._check_open()
        raw = self._disk.read(self._checkpoint)
        if raw != self._raw:
            self._load(raw)

    def check_writable(self) -> None:
        """Return only if this process may append.

        Raises:
            AccessError: the log is signed and this process has no key.
        """
        if not self.is_writable:
            raise AccessError(f"{self.root} is a signed log; open the ledger with its signing key to append.")

    def stage(self, entries: Sequence[bytes]) -> None:
        """Put `entries` safely on disk, not yet counting.

        Raises:
            AccessError: the log is signed and this process has no key.
            StorageError: the disk refuses (nothing happened), or cannot promise (the log is fenced).
        """
        self._check_open()
        self.check_writable()
        note, writes = self._plan(entries)
        try:
            self._write(note, writes)
        except OSError as error:
            self.discard()
            raise StorageError(f"{self.root}: nothing was recorded, the log cannot be written: {error}.") from error
        self._sync(writes)

    def publish(self) -> None:
        """Let what was staged count.

        Raises:
            StorageError: the disk refuses; the log is fenced, and the next opening takes the entries over.
        """
        if self._staged is None:
            raise InternalError("Nothing was staged to be published.")
        note, frontier, offset, last = self._staged
        try:
            self._disk.replace(self._draft, self._checkpoint)
            self._disk.sync_directory(self.root)
        except OSError as error:
            self._fence(error)
        self.note, self._raw = note, note.to_bytes()
        self._frontier, self._offset, self._last = frontier, offset, last
        self._staged, self._touched = None, {}

    def discard(self) -> None:
        """Forget what was staged."""
        touched, self._staged, self._touched = self._touched, None, {}
        try:
            for path, write in touched.items():
                self._disk.truncate(path, write.offset)
        except OSError as error:
            self._fence(error)

    def trim(self) -> None:
        """Cut off what a stopped append left behind the checkpoint."""
        try:
            index, inside = divmod(self.size, TILE_WIDTH)
            self._cut(partial(entries_path, self.root), index, self._offset)
            self._cut(partial(signature_path, self.root), index, inside * SIGNATURE_BYTES)
            for level in range(levels_of(self.size) + 1):
                index, inside = divmod(self.size >> (TILE_HEIGHT * level), TILE_WIDTH)
                self._cut(partial(tile_path, self.root, level), index, inside * HASH_BYTES)
        except OSError as error:
            raise StorageError(f"{self.root}: the log cannot be written: {error}.") from error

    def _cut(self, path_of: Callable[[int], Path], index: int, end: int) -> None:
        self._disk.truncate(path_of(index), end)
        while self._disk.size(path_of(index := index + 1)):
            self._disk.truncate(path_of(index), 0)

    def read(self, first: int, last: int) -> Iterable[bytes]:
        """The entries with places first..last, from 0, the end excluded; none beyond the checkpoint."""
        last = min(last, self.size)
        for index in range(first // TILE_WIDTH, -(-last // TILE_WIDTH)):
            base = index * TILE_WIDTH
            lines = split_entries(self._disk.read(entries_path(self.root, index)) or b"")
            yield from lines[max(0, first - base) : last - base]

    def _check_open(self) -> None:
        if self.fenced is not None:
            raise StorageError(self.fenced)

    def _fence(self, error: OSError) -> NoReturn:
        self.fenced = (
            f"{self.root}: the disk failed and its promises no longer hold ({error}); nothing more is recorded."
            " Check the disk, then start again: the ledger is compared and carried on."
        )
        raise StorageError(self.fenced) from error

    def _load(self, raw: bytes | None) -> None:
        if raw is None:
            if self.note is not None:
                raise IntegrityError(f"{self._checkpoint} is gone; put the log back from a copy.")
            return
        note = parse_note(raw, str(self._checkpoint))
        self._check_signer(note)
        size = note.checkpoint.size
        index, inside = divmod(size, TILE_WIDTH)
        last = split_entries(self._disk.read(entries_path(self.root, index)) or b"")[:inside] if inside else []
        leaves = [leaf_hash(entry) for entry in last]

        def tiles(level: int, place: int) -> Sequence[bytes]:
            return leaves if level == 0 else read_tile(self._disk, self.root, level, place)

        frontier = frontier_of(size, tiles)
        if len(last) != inside or frontier.root() != note.checkpoint.root:
            raise IntegrityError(
                f"{self.root}: the end of the log does not match its checkpoint of {size} entries;"
                " `shipworthy verify audit` names the first bad entry."
            )
        self.note, self._raw, self._frontier = note, raw, frontier
        self._offset, self._last = sum(len(entry) + 1 for entry in last), last
        if inside:
            self._mend(index, leaves)

    def _mend(self, index: int, leaves: list[bytes]) -> None:
        """Leaf hashes of the unfinished tile are not synced: after a loss of power they are made again."""
        path, content = tile_path(self.root, 0, index), b"".join(leaves)
        if not (self._disk.read(path) or b"").startswith(content):
            self._disk.write_at(path, 0, content)

    def _check_signer(self, note: Note) -> None:
        known = dict(self._keys)
        if self._signer is not None:
            public = self._signer.public
            known.setdefault(public.keyid, public)
        if note.signature and known and note.signer(known) is None:
            raise IntegrityError(
                f"{self._checkpoint} was signed by a key that is not known here; hand over its public key,"
                " or find out who wrote it."
            )
        if not note.signature and self._signer is not None and note.checkpoint.size:
            raise IntegrityError(f"{self._checkpoint} carries no signature, but this ledger has a signing key.")

    def _plan(self, entries: Sequence[bytes]) -> tuple[Note, _Writes]:
        frontier, offset, last = self._frontier.copy(), self._offset, list(self._last)
        writes: _Writes = {}
        for entry in entries:
            index = frontier.size // TILE_WIDTH
            _add(writes, entries_path(self.root, index), offset, entry + b"\n", needed=True)
            for level, place, value in frontier.push(leaf_hash(entry)):
                tile, inside = divmod(place, TILE_WIDTH)
                _add(writes, tile_path(self.root, level, tile), inside * HASH_BYTES, value, needed=level > 0)
            if self._signer is not None:
                inside = (frontier.size - 1) % TILE_WIDTH
                _add(writes, signature_path(self.root, index), inside * SIGNATURE_BYTES, UNSIGNED)
            offset += len(entry) + 1
            last.append(entry)
            if frontier.size % TILE_WIDTH == 0:
                offset, last = 0, []
        note = sign_checkpoint(Checkpoint(self._origin(entries), frontier.size, frontier.root()), self._signer)
        if note.signature:
            signatures = writes[signature_path(self.root, (frontier.size - 1) // TILE_WIDTH)].content
            signatures[-SIGNATURE_BYTES:] = note.signature
        self._staged, self._touched = (note, frontier, offset, last), writes
        return note, writes

    def _origin(self, entries: Sequence[bytes]) -> str:
        return self.note.checkpoint.origin if self.note else f"{ORIGIN}/{leaf_hash(entries[0]).hex()[:16]}"

    def _write(self, note: Note, writes: _Writes) -> None:
        for path, write in writes.items():
            if write.offset == 0:
                self._unsynced.update([*self._disk.make_directory(path.parent), path.parent])
            elif write.needed and (self._disk.size(path) or 0) < write.offset:
                raise OSError(f"{path} was removed or cut while running")
            self._disk.write_at(path, write.offset, bytes(write.content))
        self._disk.write_at(self._draft, 0, note.to_bytes())

    def _sync(self, writes: _Writes) -> None:
        try:
            for path, write in writes.items():
                if write.needed or write.offset + len(write.content) == write.width:
                    self._disk.sync(path)
            self._disk.sync(self._draft)
            for directory in self._unsynced:
                self._disk.sync_directory(directory)
            self._unsynced.clear()
        except OSError as error:
            self._fence(error)


def _add(writes: _Writes, path: Path, offset: int, content: bytes, *, needed: bool = False) -> None:
    if (write := writes.get(path)) is None:
        write = writes[path] = _Write(offset, bytearray(), needed, TILE_WIDTH * len(content))
    write.content.extend(content)
