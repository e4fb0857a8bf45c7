"""A Python model in a process of its own, whatever it does in there."""

import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shipworthy.engines.model_process import ModelProcess
from shipworthy.kernel.errors import ModelError
from tests.engines import models
from tests.engines.models import SOURCE, model_data

WEIGHTS = [0.01, -0.5, 0.2]
MEMORY = 200_000_000
linux = pytest.mark.skipif(sys.platform != "linux", reason="limits of Linux")

Start = Callable[..., ModelProcess]


@pytest.fixture
def start() -> Iterator[Start]:
    started: list[ModelProcess] = []

    def start(source: bytes = SOURCE, data: dict[str, bytes] | None = None, **changes: int) -> ModelProcess:
        given = {"width": 2, "memory_bytes": MEMORY, "start_s": 20.0, **changes}
        started.append(ModelProcess(source, model_data(WEIGHTS) if data is None else data, **given))
        return started[-1]

    yield start
    for process in started:
        process.close()


def rows(first: float = 0.5, count: int = 3) -> np.ndarray:
    return np.array([[first, 1, 2]] * count, np.float32)


def expected(matrix: np.ndarray) -> np.ndarray:
    positive = 1 / (1 + np.exp(-(matrix.astype(np.float64) @ np.array(WEIGHTS))))
    return np.stack([1 - positive, positive], axis=1)


def source(body: str, load: str = "Model()") -> bytes:
    head = "import numpy as np\nclass Model:\n    def predict(self, matrix):\n"
    return (head + textwrap.indent(body, " " * 8) + f"\ndef load(files):\n    return {load}\n").encode()


def is_gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"


def test_it_answers_as_the_same_numbers_would_here(start: Start) -> None:
    process = start()
    for count in (1, 3, 256):
        np.testing.assert_array_equal(process.run(rows(count=count), 5), expected(rows(count=count)))


@settings(max_examples=50, deadline=None)
@given(st.lists(st.lists(st.floats(width=32, allow_nan=True), min_size=2, max_size=2), min_size=1, max_size=20))
def test_numbers_pass_bit_by_bit(mirror: ModelProcess, table: list[list[float]]) -> None:
    matrix = np.array(table, np.float32)
    answers = mirror.run(matrix, 5)
    assert answers is not None
    assert answers.tobytes() == matrix.astype(np.float64).tobytes()


@pytest.fixture(scope="module")
def mirror() -> Iterator[ModelProcess]:
    process = ModelProcess(source("return matrix"), {}, width=2, memory_bytes=MEMORY, start_s=20.0)
    yield process
    process.close()


def test_numbers_of_a_regression_may_stand_in_a_column(start: Start) -> None:
    for body in ("return matrix.sum(axis=1)", "return matrix.sum(axis=1, keepdims=True)", "return [3.5] * len(matrix)"):
        answers = start(source(body), {}, width=0).run(rows(), 5)
        assert answers is not None
        assert answers.tolist() == [3.5] * 3


def test_what_it_raises_is_told_with_its_line_and_it_answers_on(start: Start) -> None:
    process = start()
    with pytest.raises(ModelError, match=r"model.py:\d+ in predict: raise RuntimeError.*\n.*does not like") as caught:
        process.run(rows(models.RAISES), 5)
    assert caught.value.fault == "raised"
    with pytest.raises(ModelError, match="could not convert string to float"):
        process.run(rows(models.WORDS), 5)
    np.testing.assert_array_equal(process.run(rows(), 5), expected(rows()))


@pytest.mark.parametrize("how", [models.WIDE, models.FEWER])
def test_an_answer_of_another_shape_is_none(start: Start, how: float) -> None:
    process = start()
    assert process.run(rows(how), 5) is None
    np.testing.assert_array_equal(process.run(rows(), 5), expected(rows()))


@pytest.mark.parametrize("how", [models.SLEEPS, models.SPINS], ids=["sleep", "native code that holds the interpreter"])
def test_one_that_hangs_is_killed_at_the_deadline(start: Start, how: float) -> None:
    process = start()
    began = time.monotonic()
    with pytest.raises(ModelError, match=r"within 0.3 s and was killed") as caught:
        process.run(rows(how), 0.3)
    assert 0.3 <= time.monotonic() - began < 2
    assert caught.value.fault == "late"
    assert not process.is_alive


@pytest.mark.parametrize(
    ("how", "death"),
    [
        (models.EXITS, "ended itself with status 3"),
        (models.CRASHES, "was ended by signal 11"),
        (models.LIES, "was killed"),
        (models.TALKS_OVER, "was killed"),
    ],
)
def test_one_that_dies_or_lies_is_gone_and_it_is_said_how(start: Start, how: float, death: str) -> None:
    process = start()
    with pytest.raises(ModelError, match=death) as caught:
        process.run(rows(how), 5)
    assert caught.value.fault == "ended"
    assert not process.is_alive
    with pytest.raises(ModelError):
        process.run(rows(), 5)


@linux
def test_more_memory_than_allowed_is_refused_by_the_system(start: Start) -> None:
    process = start()
    with pytest.raises(ModelError, match="MemoryError") as caught:
        process.run(rows(models.HOARDS), 5)
    assert caught.value.fault == "ended"


def test_chatter_is_kept_from_us_but_for_its_end(start: Start) -> None:
    process = start()
    np.testing.assert_allclose(process.run(rows(models.CHATS), 5), expected(rows(models.CHATS)))
    with pytest.raises(ModelError, match=r"output ends with:\n.*chatter") as caught:
        process.run(rows(models.EXITS), 5)
    assert len(str(caught.value)) < 2200


@linux
def test_nothing_that_it_started_outlives_it(start: Start, tmp_path: Path) -> None:
    process = start()
    with pytest.raises(ModelError):
        process.run(rows(models.FORKS), 5)
    left = subprocess.run(["ps", "-A", "-o", "args="], capture_output=True, text=True, check=True).stdout
    assert "sleep 300" not in left.splitlines()


@linux
def test_one_that_hangs_in_native_code_ends_with_us() -> None:
    """Its parent is killed while it holds the interpreter."""
    script = (
        "import sys, numpy as np\nfrom tests.engines.models import SOURCE, SPINS, model_data\n"
        "from shipworthy.engines.model_process import ModelProcess\n"
        "process = ModelProcess(SOURCE, model_data([1, 2, 3]), width=2, memory_bytes=2 * 10**8, start_s=20)\n"
        "print(process.leader, flush=True)\nprocess.run(np.full((1, 3), SPINS, np.float32), 60)\n"
    )
    top = Path(__file__).parents[2]
    environment = {**os.environ, "PYTHONPATH": f"{top}:{os.environ.get('PYTHONPATH', '')}"}
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True, env=environment) as ours:
        assert ours.stdout is not None
        leader = int(ours.stdout.readline())
        time.sleep(0.3)
        assert not is_gone(leader)
        ours.send_signal(signal.SIGKILL)
    deadline = time.monotonic() + 5
    while not is_gone(leader) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert is_gone(leader)


@linux
@pytest.mark.parametrize(
    ("body", "refusal"),
    [
        ("open('/etc/passwd').read()", "Permission denied"),
        ("import os; os.listdir('/tmp')", "Permission denied"),
        ("import os; open(f'/proc/{os.getppid()}/environ').read()", "Permission denied"),
        ("open('/tmp/written-by-a-model', 'w')", "Permission denied"),
        ("import socket; socket.create_connection(('127.0.0.1', 9))", "Permission denied"),
        ("import socket; socket.socket().bind(('127.0.0.1', 0))", "Permission denied"),
        ("import os; os.kill(os.getppid(), 15)", "Operation not permitted"),
    ],
)
def test_files_network_and_other_processes_are_closed_to_it(start: Start, body: str, refusal: str) -> None:
    process = start(source(f"{body}\nreturn matrix[:, :2]"), {})
    if "Landlock" in process.confined and int(process.confined.split()[-1]) < 6:
        pytest.skip("an older Landlock")
    with pytest.raises(ModelError, match=refusal):
        process.run(rows(), 5)


def test_no_secret_of_ours_reaches_it(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SHIPWORTHY_TOKEN", "SHIPWORTHY_MASTER_KEY", "AWS_SECRET_ACCESS_KEY", "DATABASE_URL"):
        monkeypatch.setenv(name, "planted")
    body = (
        "import os\nreturn [[float('planted' in os.environ.values()), len(os.listdir('/proc/self/fd'))]] * len(matrix)"
    )
    answers = start(source(body), {}).run(rows(), 5)
    assert answers is not None
    assert answers[0, 0] == 0
    assert answers[0, 1] <= 5  # the three that every process has, the one to us, and that of the listing


@pytest.mark.parametrize(
    ("code", "said"),
    [
        (b"def load(files:", "model.py:1: SyntaxError"),
        (b"import nosuchpackage", "No module named 'nosuchpackage'"),
        (b"x = 1", r"defines no load\(files\)"),
        (b"def load(files): return 3", r"gave int, which has no predict\(matrix\)"),
        (b"def load(files): return files['weights.txt']", "model.py:1 in load.*\n.*KeyError: 'weights.txt'"),
        (b"import os\nos._exit(7)", "ended itself with status 7"),
        (b"import pickle\npickle.loads(pickle.dumps(print))", "a pickle holds code that nobody can read"),
        (b"import numpy as np\nnp.ones(10**9)", "Unable to allocate"),
    ],
)
def test_one_that_does_not_load_says_why(start: Start, code: bytes, said: str) -> None:
    with pytest.raises(ModelError, match=said):
        start(code)


def test_one_that_hangs_while_it_loads_is_killed(start: Start) -> None:
    with pytest.raises(ModelError, match="not loaded in time"):
        start(b"import time\ntime.sleep(60)", start_s=0.5)
