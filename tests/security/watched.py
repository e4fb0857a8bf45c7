"""Watches a process by Python's audit hook: what nobody's data may make it do is written down."""

import os
import sys
from pathlib import Path

FORBIDDEN = (
    "pickle.find_class", "marshal.load", "marshal.loads", "exec", "compile", "import", "code.__new__",
    "os.system", "os.exec", "os.fork", "os.forkpty", "os.posix_spawn", "os.spawn", "subprocess.Popen", "pty.spawn",
    "ctypes.dlopen", "ctypes.dlsym", "socket.connect", "socket.getaddrinfo", "urllib.Request", "http.client.connect",
    "sqlite3.load_extension", "shutil.unpack_archive", "builtins.input", "cpython.run_command", "cpython.run_file",
    "tempfile.mkstemp", "tempfile.mkdtemp",
)  # fmt: skip
WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND


def watch(report: Path, armed: Path, root: Path) -> None:
    """From the moment that `armed` exists, write forbidden events, and files opened for writing outside `root`."""
    stream = os.open(report, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    inside = os.fsencode(root)
    busy = False

    def hook(event: str, arguments: tuple[object, ...]) -> None:
        nonlocal busy
        if busy or (event not in FORBIDDEN and event != "open"):
            return
        busy = True
        try:
            if event == "open" and not _is_foreign_write(arguments, inside):
                return
            if os.path.exists(armed):
                os.write(stream, f"{event} {str(arguments[0])[:200]!r}\n".encode())
        finally:
            busy = False

    sys.addaudithook(hook)


def _is_foreign_write(arguments: tuple[object, ...], inside: bytes) -> bool:
    path, _, flags = arguments
    if not isinstance(path, str | bytes) or not isinstance(flags, int) or not flags & WRITES:
        return False
    return not os.path.abspath(os.fsencode(path)).startswith(inside)
