"""Records encoded in bulk: what one `Record` after the other would say, from columns.

A record is a row of pieces: bytes that all rows share, columns of bytes that are as wide in every row, and columns
whose width differs. Where all are as wide, some rows at a time become one matrix with their frames, and a row costs
little more than its bytes. What is read back is the same; ints and maps are written in their widest form for that.
"""

from collections.abc import Sequence
from zlib import crc32

import msgspec
import numpy as np
from numpy.typing import NDArray

from shipworthy.records.format import FRAME, Framed, join_frames

Fixed = bytes | NDArray[np.generic]  # of all rows; bytes (n, width), or n numbers of 64 bits
Piece = Fixed | list[bytes] | tuple["Piece", ...]  # or of each row; or one behind the other
BLOCK_BYTES = 2**18  # of rows that are put together at a time: they stay in the processor's cache
GROUP_BYTES = 2**22  # of frames that are handed on together

_TAGS = {"f": 0xCB, "i": 0xD3}
_FALSE, _TRUE = 0xC2, 0xC3
_NUMBER = np.dtype(np.float64)
_encode = msgspec.msgpack.encode


def constant(value: object) -> bytes:
    """The same value, or key, in every row."""
    return _encode(value)


def map_of(counts: int | NDArray[np.int64]) -> Piece:
    """The head of a map of so many entries: in all rows, or in each.

    >>> map_of(2).hex()
    'de0002'
    """
    if isinstance(counts, int):
        return b"\xde" + counts.to_bytes(2, "big")
    heads = np.empty((len(counts), 3), dtype=np.uint8)
    heads[:, 0] = 0xDE
    heads[:, 1:] = counts.astype(">u2").view(np.uint8).reshape(-1, 2)
    return heads


def array_of(count: int) -> bytes:
    """The head of an array of so many values."""
    return b"\xdc" + count.to_bytes(2, "big")


def floats(values: NDArray[np.float64]) -> Fixed:
    """A float in each row."""
    return values


def ints(values: NDArray[np.int64]) -> Fixed:
    """A whole number of 64 bits in each row."""
    return values


def bools(values: NDArray[np.bool_]) -> Fixed:
    """True or false in each row."""
    return np.where(values, _TRUE, _FALSE).astype(np.uint8)[:, None]


def texts(values: Sequence[str]) -> Piece:
    """A text in each row."""
    joined = "".join(values).encode()
    width = len(joined) // max(len(values), 1)
    if values and len(joined) == width * len(values) and set(map(len, values)) == {width}:  # then all is ASCII
        head = _encode(values[0])[: -width or None]
        matrix = np.empty((len(values), len(head) + width), dtype=np.uint8)
        matrix[:, : len(head)] = np.frombuffer(head, dtype=np.uint8)
        matrix[:, len(head) :] = np.frombuffer(joined, dtype=np.uint8).reshape(len(values), width)
        return matrix
    return list(map(_encode, values))


def picked(values: Sequence[object], places: NDArray[np.intp]) -> Piece:
    """One of a few values in each row.

    Args:
        values: to choose from.
        places: of each row's in `values`.
    """
    encoded = [_encode(value) for value in values]
    if len({len(value) for value in encoded}) == 1:
        table = np.frombuffer(b"".join(encoded), dtype=np.uint8).reshape(len(encoded), -1)
        return table[places]
    return [encoded[place] for place in places.tolist()]


def mixed(values: Sequence[str | float]) -> Piece:
    """A text or a float in each row; texts are few."""
    if all(type(value) is float for value in values):
        return floats(np.array(values, dtype=np.float64))
    codes: dict[str | float, int] = {}
    places = [codes.setdefault(value, len(codes)) for value in values]
    return picked(list(codes), np.array(places, dtype=np.intp))


def where(present: NDArray[np.bool_], piece: Piece) -> Piece:
    """The piece in the rows where it is present, nothing in the others."""
    if present.all():
        return piece
    if not present.any():
        return b""
    rows = join_rows(piece, len(present))
    return [value if is_there else b"" for value, is_there in zip(rows, present.tolist(), strict=True)]


def join_rows(piece: Piece, rows: int) -> list[bytes]:
    """The piece in each row.

    Args:
        piece: of n rows.
        rows: how many.
    """
    parts: list[list[bytes]] = []
    block: list[Fixed] = []
    for each in (*_flat(piece), []):
        if not isinstance(each, list):
            block.append(each)
            continue
        if block:
            layout = _Layout(block)
            matrix = np.empty((rows, layout.width), dtype=np.uint8)
            layout.fill(matrix, slice(0, rows))
            parts.append(matrix.view(f"V{layout.width}").ravel().tolist())
            block = []
        if each:
            parts.append(each)
    return parts[0] if len(parts) == 1 else list(map(b"".join, zip(*parts, strict=True)))


def frame_rows(piece: Piece, rows: int) -> list[Framed]:
    """The piece in each row, framed, some rows together."""
    flat = _flat(piece)
    fixed = [each for each in flat if not isinstance(each, list)]
    if len(fixed) < len(flat):
        return frame_contents(join_rows(flat, rows))
    layout = _Layout([bytes(FRAME.size), *fixed])
    stride = layout.width
    matrix = np.empty((rows, stride), dtype=np.uint8)
    step, whole = max(1, BLOCK_BYTES // stride), matrix.data.cast("B")
    for start in range(0, rows, step):
        block = matrix[start : start + step]
        layout.fill(block, slice(start, start + len(block)))
        starts = range(start * stride + FRAME.size, (start + len(block)) * stride, stride)
        heads = np.empty((len(block), 2), dtype="<u4")
        heads[:, 0] = size = stride - FRAME.size
        heads[:, 1] = [crc32(whole[place : place + size]) for place in starts]
        block[:, : FRAME.size] = heads.view(np.uint8).reshape(-1, FRAME.size)
    group = max(1, GROUP_BYTES // stride)
    return [
        Framed(whole[start * stride : (start + group) * stride], min(group, rows - start))
        for start in range(0, rows, group)
    ]


def frame_contents(contents: Sequence[bytes]) -> list[Framed]:
    """Encoded records, framed, some together."""
    framed: list[Framed] = []
    group: list[bytes] = []
    size_bytes = 0
    for content in contents:
        group.append(content)
        size_bytes += len(content)
        if size_bytes >= GROUP_BYTES:
            framed.append(Framed(join_frames(group), len(group)))
            group, size_bytes = [], 0
    return [*framed, Framed(join_frames(group), len(group))] if group else framed


def _flat(piece: Piece) -> tuple[Fixed | list[bytes], ...]:
    if isinstance(piece, tuple):
        return tuple(each for inner in piece for each in _flat(inner))
    return (piece,) if len(piece) else ()


class _Layout:
    """Pieces side by side: what all rows share, and where the columns lie in it."""

    def __init__(self, pieces: Sequence[Fixed]) -> None:
        shared = bytearray()
        self._columns: list[tuple[int, NDArray[np.generic]]] = []
        for piece in pieces:
            if isinstance(piece, bytes):
                shared += piece
            elif piece.ndim == 1:
                shared.append(_TAGS[piece.dtype.kind])
                self._columns.append((len(shared), piece))
                shared += bytes(_NUMBER.itemsize)
            else:
                self._columns.append((len(shared), piece))
                shared += bytes(piece.shape[1])
        self._shared = np.frombuffer(shared, dtype=np.uint8)
        self.width = len(shared)

    def fill(self, matrix: NDArray[np.uint8], rows: slice) -> None:
        """Write some rows to `matrix`, which is contiguous and has as many."""
        matrix[:] = self._shared
        for start, column in self._columns:
            if column.ndim == 1:
                kind = column.dtype.newbyteorder(">")
                np.ndarray(len(matrix), kind, matrix.data, start, (self.width,))[:] = column[rows]
            else:
                matrix[:, start : start + column.shape[1]] = column[rows]
