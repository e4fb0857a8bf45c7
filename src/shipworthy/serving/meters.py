"""What principals have used of their limits, in a file that all workers of a server share."""

import fcntl
import hashlib
import mmap
import os
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from shipworthy.serving.caller import Cell, MemoryCell, Use

CELLS = 4096  # principals with limits; those beyond are counted by each worker for itself
_KEY_BYTES = 16
_USE = struct.Struct("<ddqq")
_CELL_BYTES = _KEY_BYTES + _USE.size
_SIZE = CELLS * _CELL_BYTES


class MeterTable:
    """Cells by principal; a process that dies while it changes one leaves it unlocked.

    Args:
        path: the file; made if missing.
    """

    def __init__(self, path: Path) -> None:
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        os.ftruncate(self._descriptor, _SIZE)
        self._memory = mmap.mmap(self._descriptor, _SIZE)

    def cell(self, principal: str) -> Cell:
        """The principal's cell, the same one in each worker."""
        key = hashlib.blake2b(principal.encode(), digest_size=_KEY_BYTES).digest()
        first = int.from_bytes(key[:4]) % CELLS
        with self._locked(_SIZE, 1):  # beyond every cell: for whoever takes a new one
            for step in range(CELLS):
                offset = (first + step) % CELLS * _CELL_BYTES
                found = self._memory[offset : offset + _KEY_BYTES]
                if found == bytes(_KEY_BYTES):
                    self._memory[offset : offset + _KEY_BYTES] = key
                if found in (key, bytes(_KEY_BYTES)):
                    return _SharedCell(self, offset + _KEY_BYTES)
        return MemoryCell()

    def change(self, offset: int, act: Callable[[Use], float]) -> float:
        """What `act` gives for the use at `offset`, which it may change, while nobody else does."""
        with self._locked(offset, _USE.size):
            use = Use(*_USE.unpack_from(self._memory, offset))
            result = act(use)
            _USE.pack_into(self._memory, offset, use.spent, use.seen, use.day, use.rows)
        return result

    @contextmanager
    def _locked(self, offset: int, length: int) -> Iterator[None]:
        fcntl.lockf(self._descriptor, fcntl.LOCK_EX, length, offset)
        try:
            yield
        finally:
            fcntl.lockf(self._descriptor, fcntl.LOCK_UN, length, offset)


class _SharedCell:
    __slots__ = ("_offset", "_table")

    def __init__(self, table: MeterTable, offset: int) -> None:
        self._table = table
        self._offset = offset

    def change(self, act: Callable[[Use], float]) -> float:
        return self._table.change(self._offset, act)
