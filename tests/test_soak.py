"""The runner of the long repetitions: resumes, tells a failure, and claims only what ran."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests import soak
from tests.conftest import Seen
from tests.soak import ROWS, Result, Row

TOP = Path(__file__).parents[1]
TESTS = """\
import json
import os
import pathlib
import time

TOP = pathlib.Path(__file__).parent
COUNT = int(os.environ.get("SHIPWORTHY_SOAK", "2"))


def note(name, value):
    with open(os.environ["SHIPWORTHY_EVIDENCE"], "a") as file:
        file.write(json.dumps([name, value]) + "\\n")
    with open(TOP / "ran", "a") as file:
        file.write(name + "\\n")


def test_one():
    note("kills", COUNT)
    note("rate", 0.05123)


def test_two():
    note("rate", 0.04)
    assert not (TOP / "broken").exists(), "the machine exploded"


def test_slow():
    note("slow", 1)
    time.sleep(0 if (TOP / "fast").exists() else 60)
"""
TWO = (
    Row("one", "the first holds", ("checks.py::test_one",), 40),
    Row("two", "the second holds", ("checks.py::test_one", "checks.py::test_two")),
)


@pytest.fixture
def top(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A small project with a history of one commit, whose tests need no plugin."""
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    (tmp_path / "checks.py").write_text(TESTS)
    (tmp_path / "conftest.py").write_text("def pytest_addoption(parser):\n    parser.addini('timeout', 'in s')\n")
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "product.py").write_text("")
    (tmp_path / ".gitignore").write_text(".soak/\n")
    commit(tmp_path)
    return tmp_path


def commit(top: Path) -> None:
    git = ["git", "-C", str(top), "-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false"]
    subprocess.run([*git, "init", "-q"], check=True)
    subprocess.run([*git, "add", "."], check=True)
    subprocess.run([*git, "commit", "-q", "--allow-empty", "-m", "x"], check=True)


def page(top: Path) -> list[list[str]]:
    """The cells of the page's rows."""
    lines = (top / soak.PAGE).read_text().splitlines()
    return [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in lines[lines.index(soak.HEAD.splitlines()[-1]) + 1 :]
    ]


def ran(top: Path) -> list[str]:
    return (top / "ran").read_text().splitlines()


def test_each_row_is_run_with_its_repetitions_and_written_down(top: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert soak.soak(top, TWO)
    one, two = page(top)
    assert one[:5] == ["one", "the first holds", "40", "held", "kills 40; rate 0.05123; tests 1 passed"]
    assert one[6] == soak.commit_of(top)
    assert two[2:5] == ["all", "held", "kills 2; rate 0.04 to 0.05123; tests 2 passed"]
    assert "one: the first holds, 40 times" in capsys.readouterr().out


def test_what_held_at_this_commit_is_not_run_again(top: Path) -> None:
    assert soak.soak(top, TWO, only=["one"])
    before = (top / soak.PAGE).read_bytes()
    count = len(ran(top))
    assert soak.soak(top, TWO, only=["one"])
    assert len(ran(top)) == count
    assert (top / soak.PAGE).read_bytes() == before
    commit(top)
    assert soak.soak(top, TWO, only=["one"])
    assert len(ran(top)) == 2 * count


def test_fewer_repetitions_are_no_excuse_for_the_full_number(top: Path) -> None:
    assert soak.soak(top, TWO, only=["one"], scale=0.1)
    assert page(top)[0][2] == "4 of 40"
    assert soak.soak(top, TWO, only=["one"])
    assert page(top)[0][2] == "40"


def test_a_failure_is_told_written_down_and_tried_again(top: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (top / "broken").touch()
    assert not soak.soak(top, TWO)
    assert [cells[3] for cells in page(top)] == ["held", "FAILED"]
    assert "1 failed, 1 passed" in page(top)[1][4]
    assert "the machine exploded" in soak.state_file(top, "two", "log").read_text()
    assert "two.log" in capsys.readouterr().out
    (top / "broken").unlink()
    assert soak.soak(top, TWO)
    assert [cells[3] for cells in page(top)] == ["held", "held"]


def test_a_row_that_was_not_run_says_so_or_keeps_what_the_page_had(top: Path) -> None:
    assert soak.soak(top, TWO, only=["two"])
    assert page(top)[0][2:4] == ["", "not run"]
    (top / ".soak" / "two.json").unlink()
    before = page(top)[1]
    assert soak.soak(top, TWO, only=["one"])
    assert page(top)[1] == before


def test_changed_files_are_marked_and_never_count_as_done(top: Path) -> None:
    (top / "src" / "product.py").write_text("changed = True\n")
    assert soak.soak(top, TWO, only=["one"])
    assert page(top)[0][6].endswith("+")
    count = len(ran(top))
    assert soak.soak(top, TWO, only=["one"])
    assert len(ran(top)) == 2 * count


def test_a_killed_runner_carries_on_behind_what_it_had_done(top: Path) -> None:
    rows = (TWO[0], Row("slow", "the last holds", ("checks.py::test_slow",)))
    script = f"from tests import soak; from pathlib import Path; soak.soak(Path({str(top)!r}), {rows!r})"
    script = f"from tests.soak import Row; {script}"
    environment = {**os.environ, "PYTHONPATH": str(TOP)}
    running = subprocess.Popen([sys.executable, "-c", script], env=environment, start_new_session=True)
    end = time.monotonic() + 30
    while "slow" not in ((top / "ran").read_text() if (top / "ran").exists() else ""):
        assert time.monotonic() < end
        time.sleep(0.05)
    os.killpg(running.pid, signal.SIGKILL)
    running.wait()
    (top / "fast").touch()
    assert soak.soak(top, rows)
    assert ran(top).count("kills") == 1
    assert [cells[3] for cells in page(top)] == ["held", "held"]


def test_every_row_names_tests_that_exist_and_has_its_own_name() -> None:
    assert len({row.id for row in ROWS}) == len(ROWS)
    for node in {node for row in ROWS for node in row.tests}:
        file, _, test = node.partition("::")
        assert (TOP / file).exists(), node
        assert not test or f"def {test}(" in (TOP / file).read_text(), node


def test_every_test_that_can_repeat_has_a_row() -> None:
    files = [path for path in (TOP / "tests").rglob("test_*.py") if 'environ.get("SHIPWORTHY_SOAK"' in path.read_text()]
    rows = [TOP / node.partition("::")[0] for row in ROWS for node in row.tests]
    here = Path(__file__)
    assert [path for path in files if path != here and not any(row in (path, *path.parents) for row in rows)] == []


def test_a_row_of_another_name_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        soak.main(["--only", "F99"])
    assert "no row is called F99" in capsys.readouterr().err


def test_the_list_shows_every_row(capsys: pytest.CaptureFixture[str]) -> None:
    assert soak.main(["--list"]) == 0
    assert [line.split(" | ")[0] for line in capsys.readouterr().out.splitlines()] == [f"| {row.id}" for row in ROWS]


def test_what_a_test_saw_is_kept_only_when_asked(
    seen: Seen, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    seen("kills", 3)
    with pytest.raises(TypeError):
        seen("an object", object())
    assert soak.summarise([("a", 1), ("a", 3), ("b", "x|y"), ("a", 2)]) == "a 1 to 3; b x/y"
    result = Result("one", "abc", None, True, "", 1.0, "2026-01-01")
    assert not soak.is_done(result, TWO[0], "abc", 40)
    assert json.loads("null") is None
