"""What a process that runs a model may still do, once it has given up the rest for good.

Limits of memory hold on Linux; macOS keeps only some of them. Files, TCP and signals are Landlock's (Linux 5.13 and
later; TCP from 6.7, signals from 6.12), which a process may put on itself without any right.

Source: the kernel's documentation, userspace-api/landlock.
"""

import ctypes
import os
import resource
import struct
import sys
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

import shipworthy

OPEN_FILES = 512
_PR_SET_NO_NEW_PRIVS = 38
_CREATE, _ADD, _RESTRICT = 444, 445, 446  # system calls, the same on all processors that Python runs on
_ASK_VERSION = 1
_PATH_BENEATH = 1
_EXECUTE, _WRITE, _READ, _LIST = 1 << 0, 1 << 1, 1 << 2, 1 << 3
_FILE_RIGHTS = {1: (1 << 13) - 1, 2: (1 << 14) - 1, 3: (1 << 15) - 1, 5: (1 << 16) - 1}  # all there are, by version
_TCP = 0b11  # bind, connect
_SCOPES = 0b11  # abstract sockets, signals
_SYSTEM = ("/usr", "/lib", "/lib64", "/etc/ld.so.cache", "/etc/localtime", "/proc/self", "/proc/cpuinfo")
_DEVICES = ("/dev/null", "/dev/zero", "/dev/random", "/dev/urandom", "/proc/meminfo", "/sys/devices/system/cpu")


def confine(memory_bytes: int) -> str:
    """Limit this process for good; what starts from it is limited too.

    It may allocate `memory_bytes`, write no file and leave no core. Where there is Landlock it reads nothing but
    Python, the installed packages and the system's libraries, opens no TCP connection and signals no other process.

    Args:
        memory_bytes: of private memory.

    Returns:
        What holds, in words for the log.
    """
    _limit(resource.RLIMIT_DATA, memory_bytes)
    _limit(resource.RLIMIT_FSIZE, 0)
    _limit(resource.RLIMIT_CORE, 0)
    _limit(resource.RLIMIT_NOFILE, OPEN_FILES)
    version = _landlock() if sys.platform == "linux" else 0
    return f"Landlock {version}" if version else "no Landlock: files and network are open to it"


def _limit(what: int, most: int) -> None:
    _, hard = resource.getrlimit(what)
    most = most if hard == resource.RLIM_INFINITY else min(most, hard)
    resource.setrlimit(what, (most, most))


def _landlock() -> int:
    """The version of Landlock that holds now; 0: none."""
    call = ctypes.CDLL(None, use_errno=True).syscall
    call.restype = ctypes.c_long
    version = int(call(_CREATE, None, ctypes.c_size_t(0), ctypes.c_uint(_ASK_VERSION)))
    if version <= 0:
        return 0
    files = _FILE_RIGHTS[max(known for known in _FILE_RIGHTS if known <= version)]
    wanted = struct.pack("<QQQ", files, _TCP if version >= 4 else 0, _SCOPES if version >= 6 else 0)
    size = 24 if version >= 6 else 16 if version >= 4 else 8
    rules = _must(call(_CREATE, wanted, ctypes.c_size_t(size), ctypes.c_uint(0)))
    for path in _readable():
        _allow(call, rules, path, _READ | (_EXECUTE | _LIST if path.is_dir() else 0))
    _allow(call, rules, Path("/dev/null"), _READ | _WRITE)
    _must(ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
    _must(call(_RESTRICT, ctypes.c_int(rules), ctypes.c_uint(0)))
    os.close(rules)
    return version


def _readable() -> Iterable[Path]:
    python = (sys.prefix, sys.base_prefix, sys.exec_prefix, *sys.path, str(Path(shipworthy.__file__).parent))
    named = dict.fromkeys(Path(path).resolve() for path in (*python, *_SYSTEM, *_DEVICES) if path)
    return [path for path in named if path != Path("/")]


def _allow(call: "ctypes._NamedFuncPointer", rules: int, path: Path, rights: int) -> None:
    with suppress(FileNotFoundError, NotADirectoryError, PermissionError):
        descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
        try:
            rule = struct.pack("<Qi", rights, descriptor)
            _must(call(_ADD, ctypes.c_int(rules), ctypes.c_int(_PATH_BENEATH), rule, ctypes.c_uint(0)))
        finally:
            os.close(descriptor)


def _must(result: int) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return int(result)
