"""Stands between us and a heavy process: ends its whole group when we are gone, and measures what it took.

Run by path with `python -I -S`, so it imports little. Arguments: descriptor whose closing means that we are
gone, descriptor for reports, program and its arguments. Reports are lines: `started PID`, then
`ended STATUS CPU_SECONDS MAX_RSS`.
"""

import contextlib
import os
import signal
import sys
import threading


def main(arguments: list[str]) -> int:
    """Start the program, wait for it, report; return 0 when it could be started."""
    alive, report = int(arguments[0]), int(arguments[1])
    os.set_inheritable(alive, False)
    os.set_inheritable(report, False)
    program = arguments[2:]
    try:
        child = os.posix_spawnp(program[0], program, os.environ, setpgroup=0)
    except OSError as error:
        os.write(report, f"failed {error.strerror}\n".encode())
        return 1
    os.write(report, f"started {child}\n".encode())
    threading.Thread(target=_end_with_parent, args=(alive, child), daemon=True).start()
    _, status, usage = os.wait4(child, 0)
    end_group(child)  # what it left behind
    seconds = usage.ru_utime + usage.ru_stime
    os.write(report, f"ended {os.waitstatus_to_exitcode(status)} {seconds} {usage.ru_maxrss}\n".encode())
    return 0


def end_group(leader: int) -> None:
    """Kill every process of the group that `leader` leads; 0 is no group."""
    if not leader:
        return
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(leader, signal.SIGKILL)


def _end_with_parent(alive: int, child: int) -> None:
    while os.read(alive, 1):
        pass
    end_group(child)
    os._exit(1)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
