"""A process that ends with the one that started it, whatever ended that."""

import os
import signal
import threading


def end_with_parent(descriptor: int = 0) -> None:
    """Tell this process to stop (SIGTERM) once nobody holds the other end of `descriptor` any more.

    Args:
        descriptor: reading end of a pipe that the parent keeps open and writes nothing more to; standard input.
    """

    def watch() -> None:
        while os.read(descriptor, 4096):
            pass
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, name="lifeline", daemon=True).start()
