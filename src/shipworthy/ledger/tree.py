"""The Merkle tree over the log's entries. Pure: no file, no clock.

Source: RFC 6962 section 2.1 (hashes, proofs); C2SP tlog-tiles (tiles of height 8).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from hashlib import sha256

TILE_HEIGHT = 8
TILE_WIDTH = 1 << TILE_HEIGHT
EMPTY_ROOT = sha256(b"").digest()

Tiles = Callable[[int, int], Sequence[bytes]]
"""(level, index) -> the hashes of that tile, as many as there are."""


def leaf_hash(entry: bytes) -> bytes:
    """Hash of an entry as a leaf."""
    return sha256(b"\x00" + entry).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """Hash of an inner node."""
    return sha256(b"\x01" + left + right).digest()


def root_of(hashes: Sequence[bytes]) -> bytes:
    """Root of the tree over leaf hashes (or over the roots of equal perfect subtrees).

    >>> root_of([]).hex()[:16]
    'e3b0c44298fc1c14'
    """
    if not hashes:
        return EMPTY_ROOT
    level = list(hashes)
    while len(level) > 1:
        # an odd last hash moves up unchanged, which is RFC 6962's split at the largest power of two
        paired = [sha256(b"\x01" + left + right).digest() for left, right in zip(level[::2], level[1::2], strict=False)]
        level = paired + level[len(level) & ~1 :]
    return level[0]


@dataclass(slots=True)
class Frontier:
    """The few hashes that let a tree of any size grow: its perfect subtrees, largest first."""

    size: int = 0
    peaks: list[tuple[int, bytes]] = field(default_factory=list)  # (height, hash), heights falling

    def copy(self) -> "Frontier":
        """A frontier that grows on its own."""
        return Frontier(self.size, list(self.peaks))

    def push(self, leaf: bytes) -> list[tuple[int, int, bytes]]:
        """Add a leaf; answers the hashes that tiles store for it, as (tile level, place in level, hash)."""
        stored = [(0, self.size, leaf)]
        height, acc = 0, leaf
        while self.peaks and self.peaks[-1][0] == height:
            acc = node_hash(self.peaks.pop()[1], acc)
            height += 1
            if height % TILE_HEIGHT == 0:
                stored.append((height // TILE_HEIGHT, self.size >> height, acc))
        self.peaks.append((height, acc))
        self.size += 1
        return stored

    def root(self) -> bytes:
        """Root of the tree as it stands."""
        if not self.peaks:
            return EMPTY_ROOT
        acc = self.peaks[-1][1]
        for _, peak in reversed(self.peaks[:-1]):
            acc = node_hash(peak, acc)
        return acc


def frontier_of(size: int, tiles: Tiles) -> Frontier:
    """The frontier of a tree of `size` leaves, from the last tile of each level."""
    peaks = []
    for level in reversed(range(levels_of(size))):
        shift = level * TILE_HEIGHT
        count = (size >> shift) % TILE_WIDTH
        hashes = tiles(level, size >> (shift + TILE_HEIGHT)) if count else ()
        start = 0
        for height in reversed(range(TILE_HEIGHT)):
            if count >> height & 1:
                peaks.append((shift + height, root_of(hashes[start : start + (1 << height)])))
                start += 1 << height
    return Frontier(size, peaks)


def levels_of(size: int) -> int:
    """How many levels of tiles a tree of `size` leaves has."""
    levels = 0
    while size >> (levels * TILE_HEIGHT):
        levels += 1
    return levels


def inclusion_path(index: int, size: int, tiles: Tiles) -> list[bytes]:
    """The sibling hashes that lead from leaf `index` to the root of the tree of `size` leaves, leaf first.

    Args:
        index: from 0, below `size`.
        size: leaves of the tree.
        tiles: where hashes are read.

    Raises:
        ValueError: index out of range.
    """
    if not 0 <= index < size:
        raise ValueError(f"index is {index}; the tree has {size} leaves")
    path = []
    low, high = 0, size
    while high - low > 1:
        middle = low + (1 << (high - low - 1).bit_length() - 1)
        if index < middle:
            path.append(_range_root(middle, high, tiles))
            high = middle
        else:
            path.append(_range_root(low, middle, tiles))
            low = middle
    return path[::-1]


def root_from_path(index: int, size: int, leaf: bytes, path: Sequence[bytes]) -> bytes | None:
    """The root that `path` leads to from `leaf` at `index`; None if the path's length is wrong.

    Source: RFC 9162 section 2.1.3.2.
    """
    if not 0 <= index < size:
        return None
    place, last, acc = index, size - 1, leaf
    for sibling in path:
        if last == 0:
            return None
        if place & 1 or place == last:
            acc = node_hash(sibling, acc)
            while not place & 1 and place:
                place, last = place >> 1, last >> 1
        else:
            acc = node_hash(acc, sibling)
        place, last = place >> 1, last >> 1
    return acc if last == 0 else None


def _range_root(low: int, high: int, tiles: Tiles) -> bytes:
    """Root over leaves low..high, where low is a multiple of the largest power of two that fits."""
    peaks = []
    while low < high:
        height = (high - low).bit_length() - 1
        peaks.append(_perfect_root(low, height, tiles))
        low += 1 << height
    acc = peaks.pop()
    while peaks:
        acc = node_hash(peaks.pop(), acc)
    return acc


def _perfect_root(low: int, height: int, tiles: Tiles) -> bytes:
    level, rest = divmod(height, TILE_HEIGHT)
    place = low >> (level * TILE_HEIGHT)
    index, start = divmod(place, TILE_WIDTH)
    return root_of(tiles(level, index)[start : start + (1 << rest)])
