"""Records encoded in bulk: what one `Record` after the other would say, from columns.

A record is a row of pieces: bytes that all rows share, columns of bytes that are as wide in every row, and columns
whose width differs. Neighbours of one width become one matrix, so that a row costs little more than its bytes. What is
read back is the same; ints and maps are written in their widest form, for width is what makes it quick.
"""

from collections.abc import Iterable, Sequence
from itertools import repeat

import msgspec
import numpy as np
from numpy.typing import NDArray

Piece = bytes | NDArray[np.uint8] | list[bytes]  # of all rows; (n, width); of each row

_FLOAT, _INT, _FALSE, _TRUE, _NIL = 0xCB, 0xD3, 0xC2, 0xC3, b"\xc0"
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


def floats(values: NDArray[np.float64]) -> NDArray[np.uint8]:
    """A float in each row."""
    return _numbers(_FLOAT, np.ascontiguousarray(values, dtype=">f8"))


def ints(values: NDArray[np.int64]) -> NDArray[np.uint8]:
    """A whole number of 64 bits in each row."""
    return _numbers(_INT, np.ascontiguousarray(values, dtype=">i8"))


def bools(values: NDArray[np.bool_]) -> NDArray[np.uint8]:
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
    return [value if is_there else b"" for value, is_there in zip(_rows(piece), present.tolist(), strict=False)]


def join(*pieces: Piece) -> Piece:
    """The pieces of each row, one behind the other, as one piece."""
    rows = next((len(piece) for piece in pieces if not isinstance(piece, bytes)), None)
    if rows is None:
        return b"".join(piece for piece in pieces if isinstance(piece, bytes))
    if any(isinstance(piece, list) for piece in pieces):
        return join_rows(pieces, rows)
    return _side_by_side([piece for piece in pieces if not isinstance(piece, list)], rows)


def join_rows(pieces: Sequence[Piece], rows: int) -> list[bytes]:
    """The rows.

    Args:
        pieces: in their order.
        rows: how many.
    """
    parts: list[list[bytes]] = []
    block: list[bytes | NDArray[np.uint8]] = []
    for piece in pieces:
        if isinstance(piece, list):
            _close(block, parts, rows)
            parts.append(piece)
        elif len(piece):
            block.append(piece)
    _close(block, parts, rows)
    return parts[0] if len(parts) == 1 else list(map(b"".join, zip(*parts, strict=True)))


def _close(block: list[bytes | NDArray[np.uint8]], parts: list[list[bytes]], rows: int) -> None:
    """Make one column of neighbours whose width is the same in every row."""
    if block:
        parts.append(list(_rows(_side_by_side(block, rows))))
        block.clear()


def _side_by_side(block: Sequence[bytes | NDArray[np.uint8]], rows: int) -> NDArray[np.uint8]:
    widths = [len(piece) if isinstance(piece, bytes) else piece.shape[1] for piece in block]
    matrix = np.empty((rows, sum(widths)), dtype=np.uint8)
    start = 0
    for piece, width in zip(block, widths, strict=True):
        matrix[:, start : start + width] = np.frombuffer(piece, np.uint8) if isinstance(piece, bytes) else piece
        start += width
    return matrix


def _rows(piece: Piece) -> Iterable[bytes]:
    if isinstance(piece, bytes):
        return repeat(piece)
    if isinstance(piece, list):
        return piece
    found: list[bytes] = piece.view(f"V{piece.shape[1]}").ravel().tolist()
    return found


def _numbers(tag: int, values: NDArray[np.generic]) -> NDArray[np.uint8]:
    matrix = np.empty((len(values), 9), dtype=np.uint8)
    matrix[:, 0] = tag
    matrix[:, 1:] = values.view(np.uint8).reshape(-1, 8)
    return matrix
