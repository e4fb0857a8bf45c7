"""Heavy work in a process group of its own on this machine, with a time and a memory limit."""

import contextlib
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Literal

from shipworthy.engines.guard import end_group
from shipworthy.kernel.errors import InternalError, StorageError, UsageError

GUARD = Path(__file__).with_name("guard.py")
POLL_S = 0.1  # between two looks at the memory in use
THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "VECLIB_MAXIMUM_THREADS", "POLARS_MAX_THREADS")
Ended = Literal["exit", "timeout", "memory"]


@dataclass(frozen=True, slots=True)
class Finished:
    """How a process ended and what it took."""

    returncode: int  # negative: the signal that killed it
    seconds: float
    cpu_seconds: float
    max_rss_bytes: int  # of its largest process
    ended: Ended  # by itself, or killed at a limit


def run_process(
    argv: Sequence[str],
    *,
    cwd: Path,
    env: Mapping[str, str],
    timeout_s: float,
    log: Path,
    memory_bytes: int | None = None,
) -> Finished:
    """Run a program to its end, or to a limit; nothing of its process group survives the call.

    The group is also killed when this process dies or is interrupted.

    Args:
        argv: the program and its arguments; no shell is involved.
        cwd: working directory.
        env: its whole environment.
        timeout_s: seconds after which it is killed, above 0.
        log: file that receives its standard output and error.
        memory_bytes: resident memory of the group above which it is killed.

    Raises:
        UsageError: no program, or a limit is not above 0.
        StorageError: the log cannot be written, or the program cannot be started.
    """
    if not argv:
        raise UsageError("argv is empty; name the program to run")
    if timeout_s <= 0 or (memory_bytes is not None and memory_bytes <= 0):
        raise UsageError(f"timeout_s is {timeout_s}, memory_bytes {memory_bytes}; limits must be above 0")
    alive_read, alive_write = os.pipe()
    report_read, report_write = os.pipe()
    try:
        with log.open("wb") as output:
            guard = start_guard(argv, cwd, env, output, (alive_read, report_write))
    except OSError as error:
        os.close(alive_write)
        os.close(report_read)
        raise StorageError(f"{argv[0]} cannot be started with log {log}: {error.strerror}") from error
    finally:
        os.close(alive_read)
        os.close(report_write)
    try:
        return _watch(argv[0], guard, report_read, timeout_s, memory_bytes)
    finally:
        os.close(alive_write)  # tells the guard to end the group, if it still runs
        guard.wait()
        os.close(report_read)


def start_guard(
    argv: Sequence[str],
    cwd: Path,
    env: Mapping[str, str],
    output: IO[bytes] | int,
    line: tuple[int, int],
    handed: Sequence[int] = (),
) -> subprocess.Popen[bytes]:
    """Start a program in a process group of its own, behind a guard that ends the group when we are gone.

    Args:
        argv: the program and its arguments.
        cwd: working directory.
        env: its whole environment.
        output: what receives its standard output and error; `subprocess.PIPE` as for `Popen`.
        line: descriptors that the guard keeps: one whose closing at our end means that we are gone, one for reports.
        handed: descriptors that the program inherits.

    Raises:
        OSError: the guard cannot be started.
    """
    return subprocess.Popen(
        [sys.executable, "-I", "-S", str(GUARD), *map(str, line), *argv],
        cwd=cwd,
        env=dict(env),
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=subprocess.STDOUT,
        pass_fds=(*line, *handed),
        start_new_session=True,  # a Ctrl-C at the terminal reaches us alone
    )


def _watch(
    name: str, guard: subprocess.Popen[bytes], report: int, timeout_s: float, memory_bytes: int | None
) -> Finished:
    started = time.monotonic()
    deadline = started + timeout_s
    leader, text = 0, b""
    ended: Ended = "exit"
    while True:
        left = max(deadline - time.monotonic(), 0.0)
        pause = left if memory_bytes is None else min(left, POLL_S)
        ready, _, _ = select.select([report], [], [], pause if ended == "exit" else None)
        if ready:
            chunk = os.read(report, 4096)
            text += chunk
            leader = leader or leader_of(text)
            if not chunk:
                return _finish(name, leader, text, time.monotonic() - started, ended)
            continue
        if time.monotonic() >= deadline:
            ended = "timeout"
        elif memory_bytes is not None and leader and group_memory(leader) > memory_bytes:
            ended = "memory"
        if ended != "exit":
            _kill(leader, guard)


def _kill(leader: int, guard: subprocess.Popen[bytes]) -> None:
    if leader:
        end_group(leader)
    else:
        guard.kill()


def leader_of(text: bytes) -> int:
    """The program's process, as the guard's reports name it; 0 if they do not yet."""
    words = text.partition(b"\n")[0].split()
    return int(words[1]) if len(words) == 2 and words[0] == b"started" and b"\n" in text else 0


def _finish(name: str, leader: int, text: bytes, seconds: float, ended: Ended) -> Finished:
    reports = dict(line.split(" ", 1) for line in text.decode().splitlines())
    if "failed" in reports:
        raise StorageError(f"{name} cannot be started: {reports['failed']}")
    if "ended" not in reports:
        end_group(leader)
        if ended == "exit":
            raise InternalError(f"the guard of {name} was killed; its process group has been ended too")
        return Finished(-signal.SIGKILL, seconds, 0.0, 0, ended)
    status, cpu, peak = reports["ended"].split()
    unit = 1 if sys.platform == "darwin" else 1024  # of ru_maxrss
    return Finished(int(status), seconds, float(cpu), int(peak) * unit, ended)


def group_memory(leader: int) -> int:
    """Resident bytes of all processes in the group that `leader` leads; 0 when it is gone."""
    return _group_memory_proc(leader) if Path("/proc/self/statm").exists() else _group_memory_ps(leader)


def _group_memory_proc(leader: int) -> int:
    total, page = 0, os.sysconf("SC_PAGE_SIZE")
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        with contextlib.suppress(OSError):
            if os.getpgid(int(entry.name)) == leader:
                total += int((entry / "statm").read_text().split()[1]) * page
    return total


def _group_memory_ps(leader: int) -> int:
    found = subprocess.run(["ps", "-A", "-o", "pgid=,rss="], capture_output=True, text=True, check=False)
    rows = (line.split() for line in found.stdout.splitlines())
    return sum(int(row[1]) * 1024 for row in rows if len(row) == 2 and int(row[0]) == leader)
