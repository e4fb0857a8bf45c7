"""The import rules catch what they are there to catch: one planted offence for each, in a copy of the source."""

import ast
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

TOP = Path(__file__).parents[1]
OFFENCES = {
    "Rooms import downwards only": ("stats/planted.py", "import shipworthy.serving.policy\n"),
    "Pure rooms touch no file, network, clock or chance": ("gates/planted.py", "import time\n"),
    "Only the ledger speaks SQL to our own database": ("release/planted.py", "import sqlalchemy\n"),
    "The serving process stays small": ("serving/planted.py", "import polars\n"),
    "Records and bundles know neither the ledger nor each other": (
        "records/planted.py",
        "import shipworthy.ledger.events\nimport shipworthy.bundle.format\n",
    ),
    "Only the faces parse command lines and print": ("workflows/planted.py", "import click\n"),
}
NEW_ROOM = "Rooms import downwards only"


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The source and the rules, to be broken."""
    place = tmp_path_factory.mktemp("rules")
    shutil.copytree(TOP / "src" / "shipworthy", place / "shipworthy", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(TOP / ".importlinter", place)
    return place


def judged(place: Path) -> dict[str, bool]:
    """Whether each rule holds in `place`."""
    linter = Path(sys.executable).with_name("lint-imports")
    environment = {**os.environ, "PYTHONPATH": str(place), "COLUMNS": "200"}
    done = subprocess.run(
        [str(linter), "--no-cache"], cwd=place, env=environment, capture_output=True, text=True, check=False
    )
    return {name: f"{name} KEPT" in done.stdout for name in OFFENCES}


def test_every_rule_catches_its_offence(copy: Path):
    for file, content in OFFENCES.values():
        (copy / "shipworthy" / file).write_text(f'"""Planted."""\n\n{content}')
    try:
        assert judged(copy) == dict.fromkeys(OFFENCES, False)
    finally:
        for file, _ in OFFENCES.values():
            (copy / "shipworthy" / file).unlink()


def test_a_new_room_must_be_argued_for(copy: Path):
    room = copy / "shipworthy" / "helpers"
    room.mkdir()
    (room / "__init__.py").write_text('"""Planted."""\n')
    try:
        assert not judged(copy)[NEW_ROOM]
    finally:
        shutil.rmtree(room)


@pytest.mark.parametrize(
    "line",
    [
        "import pickle",
        "from joblib import load",
        "import marshal",
        "import yaml\nyaml.load('')",
        "import os\nos.system('')",
        "import datetime\ndatetime.datetime.now()",
        "import numpy as np\nnp.random.seed(1)",
        "from .kernel import errors",
    ],
)
def test_banned_names_are_caught(line: str):
    ruff = str(Path(sys.executable).with_name("ruff"))
    argv = [ruff, "check", "--select", "TID", "--stdin-filename", "src/shipworthy/x.py"]
    done = subprocess.run([*argv, "-"], input=f"{line}\n", cwd=TOP, capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stdout
    assert "TID25" in done.stdout


@pytest.mark.parametrize("room", ["kernel", "stats", "contract", "gates", "rollout"])
def test_pure_rooms_open_and_print_nothing(room: str):
    for file in (TOP / "src" / "shipworthy" / room).glob("*.py"):
        tree = ast.parse(file.read_text())
        called = {
            node.func.id for node in ast.walk(tree) if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
        }
        assert not called & {"open", "print", "input", "exec", "eval", "__import__"}, file
