"""A thread that does one thing after the other."""

import logging
import queue
import threading
from collections.abc import Callable

_log = logging.getLogger("shipworthy.serving")


class Lane:
    """A daemon thread that runs what it is given, one after the other."""

    def __init__(self, name: str) -> None:
        self._queue: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, name=name, daemon=True)
        self._thread.start()

    def submit(self, task: Callable[[], None]) -> None:
        """Run `task` after those before it."""
        self._queue.put(task)

    def stop(self, timeout_s: float) -> None:
        """End after what is queued; leaves the thread behind if it hangs longer."""
        self._queue.put(None)
        self._thread.join(timeout_s)

    def _work(self) -> None:
        while (task := self._queue.get()) is not None:
            try:
                task()
            except Exception:  # noqa: BLE001 (a worker loop: logged, and the next task is due)
                _log.exception("a task of %s failed", self._thread.name)
            del task  # what it holds, such as a release that answers no more, is let go now and not with the next task
