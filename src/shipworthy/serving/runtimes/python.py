"""Python models, each in a process of its own that is started again when it dies, hangs or grows.

The worker never imports the model's code: it hands over rows and gets numbers, or is told that there are none. What
the process is kept from is in `engines.confine`.
"""

import logging
import threading
import time
import weakref
from collections.abc import Callable
from functools import partial

import numpy as np
from numpy.typing import NDArray

from shipworthy.bundle.format import Policy
from shipworthy.bundle.verify import PythonModel
from shipworthy.engines.model_process import ModelProcess
from shipworthy.kernel.errors import IntegrityError, ModelError, ShipworthyError

START_S = 60.0  # for a process to load its model, and for runs that warm it
WEIGH_S = 0.5  # between two looks at a process that answers
NEARLY = 0.8  # of the memory that it may take: it is succeeded before the system refuses it more
STEADY_S = 10.0  # a process that answered longer is nothing to be wary of
FIRST_DELAY_S, MAX_DELAY_S = 0.1, 30.0  # before the third start in a row and all further ones; doubled each time

_log = logging.getLogger("shipworthy.serving")


class PythonRuntime:
    """A Python model, whatever becomes of its processes. The last of them ends with it.

    Args:
        model: verified source and data.
        policy: of the same payload.
        limit_s: seconds after which a run is ended.
        wait_s: seconds to wait for a process that is being started again; 0: its rows go without.
        patient_runs: how many first runs may take as long as a start: they warm the model.

    Raises:
        IntegrityError: the model cannot be loaded.
    """

    is_apart = True

    def __init__(
        self, model: PythonModel, policy: Policy, *, limit_s: float, wait_s: float = 0.0, patient_runs: int = 2
    ) -> None:
        start = partial(
            ModelProcess,
            model.source,
            model.data,
            width=len(policy.classes),
            memory_bytes=policy.model_memory_bytes,
            start_s=START_S,
        )
        try:
            first = start()
        except ModelError as error:
            raise IntegrityError(f"The payload's model cannot be loaded: {error}") from None
        _log.info("a model answers in a process of its own; %s", first.confined)
        self._keeper = _Keeper(first, start, int(policy.model_memory_bytes * NEARLY))
        self._limit_s = limit_s
        self._wait_s = wait_s
        self._patience = patient_runs
        self._unusable = np.empty(0)
        self.close = weakref.finalize(self, self._keeper.stop)  # when it is told to, or nobody has it any more

    def run(self, matrix: NDArray[np.float32]) -> NDArray[np.floating]:
        """See `Runtime`.

        Raises:
            ModelError: it raised, was late, died, or is being started again.
        """
        limit_s = self._limit_s
        if self._patience:
            self._patience -= 1
            limit_s = max(START_S, limit_s)
        answers = self._keeper.run(matrix, limit_s, self._wait_s)
        return self._unusable if answers is None else answers


class _Keeper:
    """Keeps one process running, with a thread that looks at it, starts it again and warms successors."""

    def __init__(self, first: ModelProcess, start: Callable[[], ModelProcess], most_bytes: int) -> None:
        self._process: ModelProcess | None = first
        self._start = start
        self._most_bytes = most_bytes
        self._using = threading.Lock()  # held through a run
        self._is_up = threading.Event()
        self._is_up.set()
        self._look_now = threading.Event()
        self._is_stopped = False
        self._started = time.monotonic()
        self._failures = 0  # in a row, of processes that did not live long
        self._row: NDArray[np.float32] | None = None  # that warms
        threading.Thread(target=self._keep, name="model keeper", daemon=True).start()

    def run(self, matrix: NDArray[np.float32], limit_s: float, wait_s: float) -> NDArray[np.float64] | None:
        if not self._is_up.wait(wait_s):
            raise ModelError("the model's process is being started again", "resting")
        with self._using:
            if self._row is None:
                self._row = matrix[:1].copy()
            process = self._process
            if process is None:
                raise ModelError("the model's process is being started again", "resting")
            try:
                return process.run(matrix, limit_s)
            except ModelError as error:
                if error.fault != "raised":
                    self._lose(str(error))
                raise

    def stop(self) -> None:
        """Let the thread end the process; this blocks nobody."""
        self._is_stopped = True
        self._look_now.set()

    def _lose(self, reason: str) -> None:
        _log.error("%s", reason)
        self._is_up.clear()
        self._process = None
        self._look_now.set()

    # --- in the keeper's thread

    def _keep(self) -> None:
        while not self._is_stopped:
            self._look_now.wait(WEIGH_S)
            self._look_now.clear()
            try:
                if not self._is_stopped:
                    self._look()
            except Exception:  # noqa: BLE001 (a worker loop: logged, and it looks again)
                _log.exception("a model's process cannot be kept")
        if self._process is not None:
            self._process.close()

    def _look(self) -> None:
        process = self._process
        if process is not None and not process.is_alive:
            with self._using:
                if self._process is process and not self._is_stopped:
                    self._lose(process.last_words())
        if self._process is None:
            self._restart()
        elif self._process.memory_bytes > self._most_bytes:
            _log.error("a model's process nears its limit of memory; it is succeeded")
            self._restart()

    def _restart(self) -> None:
        """Start and warm a process beside, with a pause if the last ones did not live long; then it answers."""
        lived = time.monotonic() - self._started
        self._failures = 1 if lived > STEADY_S else self._failures + 1
        if self._failures > 1:
            time.sleep(min(FIRST_DELAY_S * 2 ** (self._failures - 2), MAX_DELAY_S))
        if self._is_stopped:
            return
        try:
            fresh = self._start()
            self._warm(fresh)
        except ShipworthyError as error:
            _log.error("a model's process was not started again: %s", error)
            self._started = time.monotonic()
            self._look_now.set()
            return
        with self._using:
            old, self._process = self._process, fresh
        self._started = time.monotonic()
        self._is_up.set()
        _log.info("another process of the model answers")
        if old is not None:
            old.close()

    def _warm(self, fresh: ModelProcess) -> None:
        if self._row is None:
            return
        try:
            fresh.run(self._row, START_S)
        except ModelError as error:
            if error.fault != "raised":
                raise
