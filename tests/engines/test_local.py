"""Processes of this machine: nothing outlives a limit, an interruption or a parent."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from shipworthy.engines.local import group_memory, run_process
from shipworthy.kernel.errors import InternalError, StorageError, UsageError

GRANDCHILD = (
    "import subprocess, sys, time; p = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)']); \
open('pids', 'w').write(str(p.pid)); time.sleep({seconds})"
)


def run(code: str, folder: Path, **options: Any) -> Any:
    settings = {"timeout_s": 30.0, **options}
    return run_process([sys.executable, "-c", code], cwd=folder, env=dict(os.environ), log=folder / "log", **settings)


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    stat = Path(f"/proc/{pid}/stat")
    return not (stat.exists() and stat.read_text().rsplit(")", 1)[1].split()[0] == "Z")


def wait_until_gone(pid: int) -> bool:
    for _ in range(100):
        if not is_alive(pid):
            return True
        time.sleep(0.05)
    return False


def test_a_process_that_ends_is_measured_and_its_output_is_kept(tmp_path: Path) -> None:
    finished = run("import sys; print('out'); print('err', file=sys.stderr); sum(range(10**6)); sys.exit(3)", tmp_path)
    assert (finished.returncode, finished.ended) == (3, "exit")
    assert sorted((tmp_path / "log").read_text().split()) == ["err", "out"]
    assert 0 < finished.cpu_seconds < finished.seconds + 1
    assert finished.max_rss_bytes > 5_000_000


def test_a_crash_by_signal_is_a_negative_status(tmp_path: Path) -> None:
    assert run("import os; os.kill(os.getpid(), 11)", tmp_path).returncode == -signal.SIGSEGV


def test_a_process_sees_only_the_environment_that_it_is_given(tmp_path: Path) -> None:
    code = "import os; print(sorted(os.environ.get(n, '-') for n in ('HOME', 'MARK')))"
    run_process([sys.executable, "-c", code], cwd=tmp_path, env={"MARK": "1"}, timeout_s=30, log=tmp_path / "log")
    assert (tmp_path / "log").read_text().strip() == "['-', '1']"


def test_a_timeout_kills_the_whole_group(tmp_path: Path) -> None:
    started = time.monotonic()
    finished = run(GRANDCHILD.format(seconds=60), tmp_path, timeout_s=1.0)
    assert (finished.ended, finished.returncode) == ("timeout", -signal.SIGKILL)
    assert time.monotonic() - started < 10
    assert wait_until_gone(int((tmp_path / "pids").read_text()))


def test_what_a_finished_process_leaves_behind_is_killed(tmp_path: Path) -> None:
    assert run(GRANDCHILD.format(seconds=0), tmp_path).ended == "exit"
    assert wait_until_gone(int((tmp_path / "pids").read_text()))


def test_memory_above_the_limit_ends_the_group(tmp_path: Path) -> None:
    finished = run("import time; b = b'x' * 300_000_000; time.sleep(60)", tmp_path, memory_bytes=100_000_000)
    assert (finished.ended, finished.returncode) == ("memory", -signal.SIGKILL)


def test_memory_below_the_limit_is_left_alone(tmp_path: Path) -> None:
    assert run("import time; time.sleep(0.3)", tmp_path, memory_bytes=500_000_000).ended == "exit"


def test_the_group_dies_with_its_parent(tmp_path: Path) -> None:
    code = (
        "import os, sys; from pathlib import Path; from shipworthy.engines.local import run_process\n"
        'run_process([sys.executable, \'-c\', \'import os, time; open("pid", "w").write(str(os.getpid())); '
        "time.sleep(60)'], cwd=Path('.'), env=dict(os.environ), timeout_s=60, log=Path('log'))"
    )
    parent = subprocess.Popen([sys.executable, "-c", code], cwd=tmp_path)
    file = tmp_path / "pid"
    for _ in range(200):
        if file.exists() and file.read_text():
            break
        time.sleep(0.05)
    pid = int(file.read_text())
    assert is_alive(pid)
    parent.kill()
    parent.wait()
    assert wait_until_gone(pid)


def test_an_interruption_kills_the_group(tmp_path: Path) -> None:
    code = (
        "import os, signal, sys, threading; from pathlib import Path\n"
        "from shipworthy.engines.local import run_process\n"
        "threading.Timer(1.5, lambda: os.kill(os.getpid(), signal.SIGINT)).start()\n"
        "try:\n"
        '    run_process([sys.executable, \'-c\', \'import os, time; open("pid", "w").write(str(os.getpid())); '
        "time.sleep(60)'], cwd=Path('.'), env=dict(os.environ), timeout_s=60, log=Path('log'))\n"
        "except KeyboardInterrupt:\n"
        "    print('interrupted')"
    )
    found = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=30)
    assert found.stdout == "interrupted\n"
    assert wait_until_gone(int((tmp_path / "pid").read_text()))


def test_a_killed_guard_takes_the_group_with_it(tmp_path: Path) -> None:
    code = "import os, signal, time; open('pid', 'w').write(str(os.getpid())); os.kill(os.getppid(), 9); time.sleep(60)"
    with pytest.raises(InternalError, match="guard"):
        run(code, tmp_path)
    assert wait_until_gone(int((tmp_path / "pid").read_text()))


def test_a_program_that_does_not_exist_is_named(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="no-such-program cannot be started: No such file"):
        run_process(["no-such-program"], cwd=tmp_path, env={}, timeout_s=5, log=tmp_path / "log")


def test_a_log_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="cannot be started with log"):
        run_process(["true"], cwd=tmp_path, env={}, timeout_s=5, log=tmp_path / "absent" / "log")


@pytest.mark.parametrize(("argv", "timeout"), [([], 1.0), (["true"], 0.0)])
def test_senseless_arguments_are_refused(argv: Any, timeout: Any, tmp_path: Path) -> None:
    with pytest.raises(UsageError):
        run_process(argv, cwd=tmp_path, env={}, timeout_s=timeout, log=tmp_path / "log")


def test_memory_of_a_group_that_is_gone_is_zero() -> None:
    assert group_memory(2**22 - 1) == 0
