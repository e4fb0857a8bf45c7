"""Prepare: sources become one frame by SQL or by the user's function, whose faults are named with their line."""

import os
import sys
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from shipworthy.data.prepare import run as prepared
from shipworthy.data.sources.read import read_file
from shipworthy.kernel.errors import DataError


@pytest.fixture
def reads(tmp_path: Path) -> Any:
    (tmp_path / "loans.csv").write_text("id,income\n1,10\n2,20\n")
    (tmp_path / "scores.csv").write_text("id,score\n1,5\n")
    return {name: read_file(name, tmp_path / f"{name}.csv") for name in ("loans", "scores")}


def prepare(contract: Any, reads: Any, root: Path) -> pl.DataFrame:
    work = root / "work"
    work.mkdir()
    return prepared.prepare(contract, reads, root, work=work, environment={**os.environ, "SEEN": "yes"}).frame


def preparing(make: Any, text: Any) -> Any:
    return make(data={"sources": {"loans": {"path": "loans.csv"}, "scores": {"path": "scores.csv"}}, "prepare": text})


def test_a_single_source_is_its_own_frame(make: Any, reads: Any, tmp_path: Path) -> None:
    loans = {"loans": reads["loans"]}
    assert prepare(make(), loans, tmp_path).equals(reads["loans"].frame)


def test_sql_joins_the_sources(make: Any, reads: Any, tmp_path: Path) -> None:
    contract = preparing(make, "select loans.id, income, score from loans left join scores using (id) order by id")
    assert prepare(contract, reads, tmp_path).rows() == [("1", "10", "5"), ("2", "20", None)]


def test_the_users_function_gets_frames_by_name(make: Any, reads: Any, tmp_path: Path) -> None:
    (tmp_path / "prepare.py").write_text(
        "def prepare(sources):\n    return sources['loans'].join(sources['scores'], on='id')\n"
    )
    assert prepare(preparing(make, "prepare.py:prepare"), reads, tmp_path).rows() == [("1", "10", "5")]


def test_the_users_function_gets_lazy_frames_and_may_return_either(make: Any, reads: Any, tmp_path: Path) -> None:
    (tmp_path / "prepare.py").write_text(
        "import polars\n"
        "def prepare(sources):\n"
        "    assert all(isinstance(frame, polars.LazyFrame) for frame in sources.values())\n"
        "    return sources['loans'].collect()\n"
    )
    assert prepare(preparing(make, "prepare.py:prepare"), reads, tmp_path).equals(reads["loans"].frame)


def test_the_users_function_has_a_process_of_its_own(make: Any, reads: Any, tmp_path: Path) -> None:
    (tmp_path / "prepare.py").write_text(
        "import os, polars\n"
        "def prepare(sources):\n    return polars.DataFrame({'pid': [os.getpid()], 'seen': [os.environ['SEEN']]})\n"
    )
    ((pid, seen),) = prepare(preparing(make, "prepare.py:prepare"), reads, tmp_path).rows()
    assert pid != os.getpid()
    assert seen == "yes"
    assert "prepare" not in sys.modules


FAULTY = {
    "raises": ("def prepare(s):\n    x = 1\n    return s['nothing']\n", "prepare.py line 3: prepare raised KeyError"),
    "syntax": ("def prepare(s)\n    pass\n", "prepare.py line 1: importing raised SyntaxError"),
    "at import": ("x = 1\n1 / 0\n", "prepare.py line 2: importing raised ZeroDivisionError"),
    "later": (
        "import polars as pl\ndef prepare(s):\n    return s['loans'].select(pl.col('nothing'))\n",
        r"prepare raised ColumnNotFoundError: unable to find column \"nothing\"; valid columns: .*\]$",
    ),
    "rows of a lazy frame": (
        "def prepare(s):\n    s['loans'].filter(True)\n    return s['loans'].to_dicts()\n",
        r"line 3: prepare raised AttributeError: .*; the frames are lazy \(polars LazyFrame\): call \.collect\(\)$",
    ),
    "a column of a lazy frame": (
        "def prepare(s):\n    return s['loans']['id']\n",
        r"line 2: prepare raised TypeError: .*; the frames are lazy \(polars LazyFrame\): call \.collect\(\)$",
    ),
    "length of a lazy frame": ("def prepare(s):\n    return len(s['loans'])\n", r"the frames are lazy"),
    "nonsense": ("def prepare(s):\n    return 5\n", "returned int; it must return a polars LazyFrame or DataFrame"),
    "no function": ("x = 1\n", "has no function prepare"),
    "ends": ("import os\ndef prepare(s):\n    os._exit(3)\n", r"prepare ended its process \(3\)"),
    "no rows": ("def prepare(s):\n    return s['loans'].head(0)\n", "left no rows"),
}


@pytest.mark.parametrize("case", FAULTY)
def test_a_faulty_function_is_named_with_its_line(make: Any, reads: Any, tmp_path: Path, case: str) -> None:
    code, message = FAULTY[case]
    (tmp_path / "prepare.py").write_text(code)
    with pytest.raises(DataError, match=message):
        prepare(preparing(make, "prepare.py:prepare"), reads, tmp_path)


def test_missing_code_and_faulty_sql_are_refused(make: Any, reads: Any, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"absent\.py does not exist"):
        prepare(preparing(make, "absent.py:prepare"), reads, tmp_path)
    (tmp_path / "work").rmdir()
    with pytest.raises(DataError, match=r"the SQL fails: .*the tables are loans\(id, income\); scores\(id, score\)"):
        prepare(preparing(make, "select nothing from loans"), reads, tmp_path)


def test_frames_are_polars(reads: Any) -> None:
    assert isinstance(reads["loans"].frame, pl.DataFrame)
