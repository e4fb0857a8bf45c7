"""What a process and its descendants use: processor time and memory, from /proc or from `ps`."""

import os
import subprocess
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from shipworthy.kernel.errors import UnavailableError

PROC = Path("/proc")
KILOBYTE = 1024  # the kernel's and ps's unit of resident memory


@dataclass(frozen=True, slots=True)
class Usage:
    """Sums over a process and its descendants."""

    cpu_seconds: float
    memory_bytes: int  # peak resident of each, added up; where the system keeps no peak, resident now


def usage(pid: int) -> Usage:
    """What process `pid` and its descendants have used so far.

    Raises:
        UnavailableError: the process is gone.
    """
    found = _from_proc(pid) if (PROC / "self" / "stat").exists() else _from_ps(pid)
    if not found:
        raise UnavailableError(f"process {pid} has ended; nothing can be measured")
    return Usage(sum(part.cpu_seconds for part in found), sum(part.memory_bytes for part in found))


def _from_proc(pid: int) -> list[Usage]:
    parents: dict[int, int] = {}
    ticks: dict[int, int] = {}
    for directory in PROC.iterdir():
        if not directory.name.isdigit():
            continue
        try:
            fields = (directory / "stat").read_text().rpartition(")")[2].split()
        except OSError:  # it ended meanwhile
            continue
        parents[int(directory.name)] = int(fields[1])
        ticks[int(directory.name)] = int(fields[11]) + int(fields[12])  # utime and stime, man 5 proc
    second = os.sysconf("SC_CLK_TCK")
    return [Usage(ticks[member] / second, _peak_memory(member)) for member in _family(pid, parents)]


def _peak_memory(pid: int) -> int:
    try:
        lines = (PROC / str(pid) / "status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * KILOBYTE for line in lines if line.startswith("VmHWM:")), 0)


def _from_ps(pid: int) -> list[Usage]:
    listing = subprocess.run(
        ["ps", "-A", "-o", "pid=,ppid=,rss=,time="], check=True, capture_output=True, text=True
    ).stdout
    rows = [line.split(maxsplit=3) for line in listing.splitlines() if line.strip()]
    parents = {int(row[0]): int(row[1]) for row in rows}
    family = set(_family(pid, parents))
    return [Usage(clock_seconds(row[3]), int(row[2]) * KILOBYTE) for row in rows if int(row[0]) in family]


def family(pid: int) -> list[int]:
    """Process `pid` and its descendants, itself first; those that /proc knows."""
    parents: dict[int, int] = {}
    for directory in PROC.iterdir():
        if directory.name.isdigit():
            with suppress(OSError):  # it ended meanwhile
                parents[int(directory.name)] = int((directory / "stat").read_text().rpartition(")")[2].split()[1])
    return _family(pid, parents)


def clock_seconds(text: str) -> float:
    """Seconds of ps's `[days-][hours:]minutes:seconds`.

    >>> clock_seconds("1-02:03:04"), clock_seconds("0:01.25")
    (93784.0, 1.25)
    """
    days, _, clock = text.strip().rpartition("-")
    seconds = 0.0
    for part in clock.split(":"):
        seconds = seconds * 60 + float(part)
    return seconds + 86400 * int(days or 0)


def _family(pid: int, parents: dict[int, int]) -> list[int]:
    if pid not in parents:
        return []
    members = [pid]
    for member in members:
        members += [child for child, parent in parents.items() if parent == member]
    return members
