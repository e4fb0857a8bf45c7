"""The real server with a model that fails on command: the value of `income` says how."""

import ctypes
import errno
import os
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shipworthy.bundle.verify import VerifiedPayload
from shipworthy.records.disk import LocalDisk
from shipworthy.serving import server, worker_process
from shipworthy.serving.runtimes.load import load_runtime

RAISES, NAN, LATE, SHAPE, HANGS, LEAKS, CRASHES, SLOW = 901.0, 902.0, 903.0, 904.0, 905.0, 906.0, 907.0, 908.0
HOLDS, INFINITE, OUTSIDE, FEWER, LAGS = 909.0, 910.0, 911.0, 912.0, 913.0
CAUSES = {  # what fallbacks say of each
    RAISES: "the model failed",
    **dict.fromkeys((NAN, INFINITE, OUTSIDE, SHAPE, FEWER), "the model gave no usable output"),
    LATE: "the model was late",
}
SLOW_S = 0.005  # for each row
LAG_S = 0.6  # late, and not yet stuck
SOUND = 1  # reasons: a release whose policy gives so many does as it should
LEAK_BYTES = 20 * 2**20


class FaultyRuntime:
    is_apart = False

    def close(self) -> None:
        self._inner.close()

    def __init__(self, payload: VerifiedPayload) -> None:
        self._inner = load_runtime(payload)
        self._is_sound = payload.policy.reasons == SOUND
        self._leaked: list[bytes] = []

    def run(self, matrix: NDArray[np.float32]) -> NDArray[np.floating[Any]]:
        if self._is_sound:
            return self._inner.run(matrix)
        asked = set(matrix[:, 0].tolist())
        if RAISES in asked:
            raise RuntimeError("the model does not like a row")
        if LATE in asked:
            time.sleep(1.5)
        if LAGS in asked:
            time.sleep(LAG_S)
        if HANGS in asked:
            time.sleep(30)  # as native code that lets go of the interpreter
        if HOLDS in asked:
            ctypes.PyDLL(None).sleep(30)  # as native code that does not
        if SLOW in asked:
            time.sleep(SLOW_S * int((matrix[:, 0] == SLOW).sum()))
        if LEAKS in asked:
            self._leaked.append(os.urandom(LEAK_BYTES))
        if CRASHES in asked:
            ctypes.string_at(0)
        outputs = self._inner.run(matrix)
        if SHAPE in asked:
            return outputs[:, :1]
        if FEWER in asked:
            return outputs[:-1]
        outputs[matrix[:, 0] == NAN] = np.nan
        outputs[matrix[:, 0] == INFINITE] = np.inf
        outputs[matrix[:, 0] == OUTSIDE] = (-0.5, 1.5)
        return outputs


class FaultyDisk(LocalDisk):
    """A disk that does what files say: `SLOW_DISK`: syncs take two seconds; `FULL_DISK`, `FAILING_DISK`: below the
    folder that the file names nothing can be written, or nothing synced."""

    def open(self, path: Path, flags: int) -> int:
        if flags & os.O_CREAT and _is_below("FULL_DISK", path):
            raise OSError(errno.ENOSPC, "No space left on device")
        return super().open(path, flags)

    def write(self, descriptor: int, content: bytes | memoryview) -> int:
        if _is_below("FULL_DISK", Path(os.readlink(f"/proc/self/fd/{descriptor}"))):
            super().write(descriptor, content[: len(content) // 2])
            raise OSError(errno.ENOSPC, "No space left on device")
        return super().write(descriptor, content)

    def sync(self, descriptor: int) -> None:
        if Path(os.environ.get("SLOW_DISK", "/nowhere")).exists():
            time.sleep(2)
        if _is_below("FAILING_DISK", Path(os.readlink(f"/proc/self/fd/{descriptor}"))):
            raise OSError(errno.EIO, "Input/output error")
        super().sync(descriptor)


def _is_below(fault: str, path: Path) -> bool:
    switch = Path(os.environ.get(fault, "/nowhere"))
    return switch.exists() and path.is_relative_to(switch.read_text())


if __name__ == "__main__":
    if "--line" in sys.argv:
        sys.exit(worker_process.main(FaultyRuntime, FaultyDisk()))
    sys.exit(server.main([__file__]))
