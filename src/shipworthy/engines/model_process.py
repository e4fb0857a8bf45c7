"""A Python model in a process of its own: bounded in memory, killed at a deadline, gone when we are.

It is started with the bytes of a verified payload and never sees a path. Its environment holds no secret, it inherits
one descriptor, and what it says on that is numbers of a size that was known before. See `model_child` for the inside.
"""

import json
import os
import select
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from shipworthy.engines.frames import (
    ANSWERED,
    ASK,
    FILE,
    MAX_TEXT_BYTES,
    PLAN,
    RAISED,
    READY,
    TOLD,
    UNUSABLE,
    receive,
    send,
)
from shipworthy.engines.local import THREADS, group_memory, leader_of, start_guard
from shipworthy.kernel.errors import ModelError, StorageError

KEPT = ("PATH", "LANG", "LC_ALL", "LC_CTYPE", "TZ", "PYTHONPATH", "LD_LIBRARY_PATH", "SYSTEMROOT")  # no secret is there
FIXED = {"PYTHONHASHSEED": "0", "PYTHONUNBUFFERED": "1", "PYTHONDONTWRITEBYTECODE": "1", "HOME": "/nonexistent"}
TAIL_BYTES = 2000  # of what it last printed, told when it ends
SIP_BYTES, SIP_S = 1 << 16, 0.005  # of its output, and how often: who prints more waits, and costs us nothing
END_S = 2.0  # for the guard to end the group
DEATH_S = 0.2  # for the guard to say how a process ended that is gone


class ModelProcess:
    """A model that is loaded in its process. One thread at a time runs it; any thread may close it.

    Args:
        source: of `model.py`.
        data: what its `load` is given, by name.
        width: columns of an answer: how many classes; 0 for a number.
        memory_bytes: of private memory that it may take.
        start_s: seconds in which it must be loaded.

    Raises:
        ModelError: it cannot be loaded, or not in time; says what its code said.
        StorageError: no process can be started.
    """

    def __init__(
        self, source: bytes, data: Mapping[str, bytes], *, width: int, memory_bytes: int, start_s: float
    ) -> None:
        self._width = width
        self._number = 0
        self._tail = b""
        self._closing = threading.Lock()
        self._is_closed = False
        self._death = "was killed"
        self.leader = 0
        self._open()
        self._voice = threading.Thread(target=self._listen, name="model output", daemon=True)
        self._voice.start()
        try:
            self.confined = self._load(source, data, memory_bytes, time.monotonic() + start_s)
        except BaseException:
            self.close()
            raise

    def run(self, matrix: NDArray[np.float32], limit_s: float) -> NDArray[np.float64] | None:
        """The model's answers, shape (rows, width) or (rows,); None if they have another shape.

        Args:
            matrix: shape (rows, columns).
            limit_s: seconds after which the process is killed.

        Raises:
            ModelError: it raised (and may be asked again), or it is gone: killed at the limit, dead, or a liar.
        """
        self._number += 1
        rows, columns = matrix.shape
        deadline = time.monotonic() + limit_s
        try:
            ask = ASK.pack(self._number, rows, columns)
            send(self._channel, [ask, np.ascontiguousarray(matrix, np.float32).data.cast("B")], deadline)
            kind, content = self._hear(deadline, self._number, rows)
        except TimeoutError:
            self.close()
            raise ModelError(f"the model did not answer within {limit_s:g} s and was killed", "late") from None
        except (OSError, ValueError):
            raise ModelError(self.last_words(), "ended") from None
        if kind == RAISED:
            raise ModelError(content.decode(errors="replace"), "raised")
        if kind == UNUSABLE:
            return None
        answers: NDArray[np.float64] = np.frombuffer(content, np.float64)
        return answers.reshape(rows, self._width) if self._width else answers

    @property
    def is_alive(self) -> bool:
        """Whether it still runs."""
        return not self._is_closed and self._guard.poll() is None

    @property
    def memory_bytes(self) -> int:
        """What counts against its limit: private memory, or what all its processes have resident if that is more."""
        return max(_private_memory(self.leader), group_memory(self.leader))

    def last_words(self) -> str:
        """End it, and say how it ended and what it printed last."""
        self.close(DEATH_S)
        said = self._tail.decode(errors="replace").strip()
        return f"the model's process {self._death}" + (f"; its output ends with:\n{said}" if said else "")

    def close(self, wait_s: float = 0.0) -> None:
        """End it and all that it started; again is nothing.

        Args:
            wait_s: for one that is dying to do so by itself, so that it is known how.
        """
        with self._closing:
            if self._is_closed:
                return
            self._is_closed = True
            with suppress(subprocess.TimeoutExpired):
                self._guard.wait(wait_s)
            os.close(self._alive)  # tells the guard to end the group
            with suppress(subprocess.TimeoutExpired):
                self._guard.wait(END_S)
            self._death = _death(_read_all(self._report))
            os.close(self._report)
            self._channel.close()
        self._voice.join(END_S)

    def _open(self) -> None:
        with ExitStack() as theirs, ExitStack() as ours:
            alive, self._alive = _pipe(theirs, ours)
            told, self._report = reversed(_pipe(ours, theirs))
            self._channel, handed = socket.socketpair()
            ours.enter_context(self._channel)
            theirs.enter_context(handed)
            argv = [sys.executable, "-P", "-m", "shipworthy.engines.model_child", str(handed.fileno())]
            line = (alive, told)
            try:
                self._guard = start_guard(argv, Path("/"), _environment(), subprocess.PIPE, line, [handed.fileno()])
            except OSError as error:
                raise StorageError(f"no process can be started for the model: {error.strerror}") from error
            ours.pop_all()

    def _load(self, source: bytes, data: Mapping[str, bytes], memory_bytes: int, deadline: float) -> str:
        files = {FILE: source, **data}
        listing = [[name, len(content)] for name, content in files.items()]
        plan = json.dumps({"files": listing, "memory_bytes": memory_bytes, "width": self._width}).encode()
        try:
            self.leader = _leader(self._report, deadline)
            head = PLAN.pack(len(plan), sum(map(len, files.values())))
            send(self._channel, [head, plan, *files.values()], deadline)
            kind, content = self._hear(deadline, 0, 0)
        except TimeoutError:
            raise ModelError("the model was not loaded in time") from None
        except (OSError, ValueError):
            raise ModelError(f"the model cannot be loaded: {self.last_words()}") from None
        if kind != READY:
            raise ModelError(f"the model cannot be loaded: {content.decode(errors='replace')}")
        return content.decode()

    def _hear(self, deadline: float, asked: int, rows: int) -> tuple[int, bytearray]:
        """Kind and body of the next message; a ValueError if it is not one that was asked for."""
        number, kind, told_rows, width, size = TOLD.unpack(receive(self._channel, TOLD.size, deadline))
        if kind == ANSWERED:
            is_right = (told_rows, width, size) == (rows, self._width, rows * max(self._width, 1) * 8)
        else:
            is_right = kind in (READY, RAISED, UNUSABLE) and size <= MAX_TEXT_BYTES
        if number != asked or not is_right or (kind == READY) != (asked == 0 and kind != RAISED):
            raise ValueError("not what was asked for")
        return kind, receive(self._channel, size, deadline)

    def _listen(self) -> None:
        """Keep the end of what it prints."""
        output = self._guard.stdout
        if output is None:
            return
        with output:
            while sip := os.read(output.fileno(), SIP_BYTES):
                self._tail = (self._tail + sip)[-TAIL_BYTES:]
                if len(sip) > TAIL_BYTES:
                    time.sleep(SIP_S)


def _private_memory(process: int) -> int:
    """What the system counts when it refuses more; 0 where it does not tell."""
    try:
        pages = int(Path(f"/proc/{process}/statm").read_text().split()[5])
    except (OSError, IndexError):
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE")


def _environment() -> dict[str, str]:
    kept = {name: os.environ[name] for name in KEPT if name in os.environ}
    return {**kept, **FIXED, **dict.fromkeys(THREADS, "1")}


def _pipe(reader: ExitStack, writer: ExitStack) -> tuple[int, int]:
    """A pipe whose ends are closed with what they are given to."""
    ends = os.pipe()
    reader.callback(os.close, ends[0])
    writer.callback(os.close, ends[1])
    return ends


def _leader(report: int, deadline: float) -> int:
    text = b""
    while not (found := leader_of(text)):
        ready, _, _ = select.select([report], [], [], max(deadline - time.monotonic(), 0.0))
        if not ready:
            raise TimeoutError("not started in time")
        chunk = os.read(report, 4096)
        if not chunk or text.startswith(b"failed"):
            raise ConnectionResetError("not started")
        text += chunk
    return found


def _read_all(report: int) -> bytes:
    """What the guard still said; it has ended, so this ends too."""
    text = b""
    while chunk := os.read(report, 4096):
        text += chunk
    return text


def _death(report: bytes) -> str:
    for line in report.decode(errors="replace").splitlines():
        words = line.split()
        if words[:1] == ["ended"]:
            status = int(words[1])
            return f"was ended by signal {-status}" if status < 0 else f"ended itself with status {status}"
    return "was killed"
