"""Whatever goes wrong in a command, its user sees words and an exit code, never a traceback."""

import subprocess
import sys
from pathlib import Path

import pytest

FAILING = """
import shipworthy.faces.cli.check as module
from shipworthy.faces.cli.main import main
import sys

def fail(project):
    raise {error}

module.run_check = fail
sys.argv = ["shipworthy", "check"]
main()
"""


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        ("KeyError('x')", 3, "internal error (KeyError); the details are in shipworthy-error.txt"),
        ("ModuleNotFoundError('no', name='polars')", 1, "pip install 'shipworthy[standard]'"),
        ("ModuleNotFoundError('no', name='shipworthy.gone')", 3, "internal error (ModuleNotFoundError)"),
        ("KeyboardInterrupt()", 130, "carry on"),
    ],
)
def test_an_unforeseen_error_is_told_in_words(error: str, code: int, words: str, tmp_path: Path):
    argv = [sys.executable, "-c", FAILING.format(error=error)]
    done = subprocess.run(argv, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == code, done.stderr
    assert words in done.stderr
    assert "Traceback" not in done.stderr
    assert (tmp_path / "shipworthy-error.txt").exists() == (code == 3)
