"""What a process uses includes what its children use."""

import subprocess
import sys

import pytest

from shipworthy.evaluation import processes
from shipworthy.evaluation.processes import clock_seconds, usage
from shipworthy.kernel.errors import UnavailableError

PARENT = """
import subprocess, sys
child = subprocess.Popen([sys.executable, "-c", '''
held = bytearray(80_000_000)
held[::4096] = b"x" * len(held[::4096])
sum(range(3_000_000))
print("ready", flush=True)
input()
'''], stdin=subprocess.PIPE)
input()
child.communicate(b"\\n")
"""


def test_children_count_with_their_parent() -> None:
    with subprocess.Popen([sys.executable, "-c", PARENT], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        found = usage(process.pid)
        listed = processes._from_ps(process.pid)
        process.communicate(b"\n")
    assert found.memory_bytes > 80_000_000
    assert found.cpu_seconds > 0.05
    assert len(listed) == 2  # the way of systems without /proc sees the same family
    assert sum(part.memory_bytes for part in listed) == pytest.approx(found.memory_bytes, rel=0.1)


def test_a_process_that_has_ended_is_said() -> None:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    with pytest.raises(UnavailableError, match="has ended"):
        usage(process.pid)


@pytest.mark.parametrize(("text", "seconds"), [("0:01.25", 1.25), ("01:02:03", 3723), ("2-00:00:01", 172801)])
def test_clocks_of_ps_are_read(text: str, seconds: float) -> None:
    assert clock_seconds(text) == seconds
