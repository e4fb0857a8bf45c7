"""No feature sees the future: planted leaks are found and named, correct joins and aggregates pass."""

import os
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from shipworthy.data.prepare.point_in_time import Proof, prove
from shipworthy.data.prepare.run import prepare, prove_point_in_time
from shipworthy.data.sources.read import read_file
from shipworthy.kernel.errors import DataError
from tests.data.conftest import build

ROWS = 400
START = datetime(2026, 1, 1, tzinfo=UTC)
READ_FLIGHTS = """\
import polars as pl
at = pl.col("due").str.to_datetime(time_zone="UTC")
def tables(t):
    flights = t["flights"].with_columns(at=at, late=pl.col("delay").cast(pl.Int64)).sort("at", maintain_order=True)
    return flights, t["weather"].with_columns(at=pl.col("seen").str.to_datetime(time_zone="UTC"),
                                              temp=pl.col("temp").cast(pl.Float64)).sort("at")
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Flights every hour, each with the delay that it had; weather every half hour."""
    folder = tmp_path_factory.mktemp("flights")
    random = np.random.default_rng(4)
    due = [START + timedelta(hours=hour) for hour in range(ROWS)]
    seen = [START + timedelta(minutes=30 * step - 600) for step in range(2 * ROWS + 40)]
    pl.DataFrame(
        {
            "id": [f"f{row:04d}" for row in range(ROWS)],
            "due": [at.isoformat() for at in due],
            "carrier": random.choice(["AA", "B6", "UA"], ROWS),
            "delay": random.integers(-10, 60, ROWS),
        }
    ).sample(fraction=1, shuffle=True, seed=2).write_csv(folder / "flights.csv")
    pl.DataFrame({"seen": [at.isoformat() for at in seen], "temp": random.normal(10, 5, len(seen)).round(1)}).write_csv(
        folder / "weather.csv"
    )
    return folder


def proven(folder: Path, steps: Any, code: str = "", *, key: bool = True, **times: Any) -> Proof | None:
    """What is proven of a `prepare` that makes the feature x."""
    sources = {
        "flights": {"path": "flights.csv", "time": "due"},
        "weather": {"path": "weather.csv", "time": "seen"},
    }
    for name, changed in times.items():
        sources[name] = {"path": f"{name}.csv", **changed}
    contract = build(
        data={"sources": sources, "prepare": steps},
        context={
            **({"id": {"role": "key", "type": "text"}} if key else {}),
            "due": {"role": "time", "type": "datetime"},
        },
        features={"x": {"type": "float", "missing": "allow"}},
        target={"column": "delay", "type": "regression"},
        decision={"fallback": {"otherwise": 0}},
        gates={"performance": {"mae": {"better_than": "baseline"}}},
    )
    (folder / "prepare.py").write_text(READ_FLIGHTS + code)
    reads = {name: read_file(name, folder / f"{name}.csv") for name in sources}
    work = folder / "work"
    work.mkdir(exist_ok=True)
    made = prepare(contract, reads, folder, work=work, environment=os.environ).frame
    return prove_point_in_time(contract, reads, made, folder, work=work, environment=os.environ)


LEAKS = {
    "a mean over the whole year, by SQL": (
        "select id, due, delay, m.x from flights join "
        "(select carrier, avg(cast(delay as double)) as x from flights group by carrier) m using (carrier)",
        "",
    ),
    "target encoding over everything": (
        "prepare.py:prepare",
        "def prepare(t):\n    f, _ = tables(t)\n    return f.with_columns(x=pl.col('late').mean().over('carrier'))\n",
    ),
    "a rolling window that is centred": (
        "prepare.py:prepare",
        "def prepare(t):\n    f, _ = tables(t)\n"
        "    return f.with_columns(x=pl.col('late').rolling_mean(7, center=True, min_samples=1))\n",
    ),
    "the next observation of the weather": (
        "prepare.py:prepare",
        "def prepare(t):\n    f, w = tables(t)\n"
        "    later = w.select('at', x='temp').with_columns(pl.col('at') - pl.duration(minutes=30))\n"
        "    return f.join(later, on='at', how='left')\n",
    ),
    "a rank among all": (
        [
            {"table": "flights", "sql": "select *, cast(delay as double) as late from flights"},
            {"sql": "select id, due, delay, rank() over (order by late) as x from flights"},
        ],
        "",
    ),
}
CORRECT = {
    "as of the row's time": (
        "prepare.py:prepare",
        "def prepare(t):\n    f, w = tables(t)\n"
        "    return f.join_asof(w.select('at', x='temp'), on='at', strategy='backward')\n",
    ),
    "the mean of what was before": (
        "prepare.py:prepare",
        "def prepare(t):\n    f, _ = tables(t)\n    before = pl.col('late').cum_sum() - pl.col('late')\n"
        "    return f.with_columns(x=before.over('carrier') / (pl.col('late').cum_count().over('carrier') - 1))\n",
    ),
    "yesterday's mean": (
        "prepare.py:prepare",
        "def prepare(t):\n    f, w = tables(t)\n"
        "    days = w.group_by(day=pl.col('at').dt.date() + pl.duration(days=1)).agg(x=(pl.col('temp') / 3).mean())\n"
        "    return f.with_columns(day=pl.col('at').dt.date()).join(days, on='day', how='left')\n",
    ),
    "what the row itself says": ("select id, due, delay, cast(length(carrier) as double) as x from flights", ""),
}


@pytest.mark.parametrize("case", LEAKS)
@pytest.mark.parametrize("key", [True, False], ids=["by key", "by time alone"])
def test_a_planted_leak_is_found_and_named(folder: Path, case: str, key: bool) -> None:
    proof = proven(folder, *LEAKS[case], key=key)
    assert proof is not None
    assert [found.column for found in proof.ahead] == ["x"]
    assert proof.ahead[0].rows > 0
    assert proof.told().startswith(
        "data.prepare sees the future: without the rows of flights, weather that became known later, x differs "
        f"in {proof.ahead[0].rows} of the "
    )
    assert "2026" not in str(proof.to_json()), "an event tells counts, no time of a row"


@pytest.mark.parametrize("case", CORRECT)
@pytest.mark.parametrize("key", [True, False], ids=["by key", "by time alone"])
def test_what_was_known_at_the_time_passes(folder: Path, case: str, key: bool) -> None:
    proof = proven(folder, *CORRECT[case], key=key)
    assert proof is not None
    assert proof.ahead == ()
    assert [cut.rows for cut in proof.cuts] == [ROWS // 2 + 1, ROWS * 9 // 10 + 1]
    assert proof.told() == ""


@pytest.mark.parametrize("key", [True, False], ids=["by key", "by time alone"])
@pytest.mark.parametrize(("factor", "found"), [(1 + 1e-13, False), (1 + 1e-7, True)])
def test_the_last_digits_of_a_sum_are_no_difference(key: bool, factor: float, found: bool) -> None:
    contract = build(
        data={"sources": {"a": {"path": "a.csv", "time": "due"}}},
        context={
            **({"id": {"role": "key", "type": "int"}} if key else {}),
            "due": {"role": "time", "type": "datetime"},
        },
        features={"x": {"type": "float", "missing": "allow"}},
    )
    due = pl.Series([START + timedelta(hours=hour // 3) for hour in range(60)])
    x = pl.Series([None, 0.0, *np.random.default_rng(1).normal(0, 1e6, 58)])
    whole = pl.DataFrame({"id": range(60), "due": due, "x": x})
    proof = prove(contract, {"a": whole}, whole, lambda rows: rows["a"].with_columns(pl.col("x") * factor))
    assert proof is not None
    assert bool(proof.ahead) == found


def test_a_cut_lies_where_many_rows_have_one_time() -> None:
    """A look ahead that reaches an hour is seen in all rows of the busy hour, not in one."""
    contract = build(
        data={"sources": {"a": {"path": "a.csv", "time": "due"}}},
        context={"id": {"role": "key", "type": "int"}, "due": {"role": "time", "type": "datetime"}},
        features={"x": {"type": "float", "missing": "allow"}},
    )
    busy = [hour for hour in range(100) for _ in range(30 if hour % 10 == 9 else 1)]
    rows = pl.DataFrame({"id": range(len(busy)), "due": pl.Series([START + timedelta(hours=hour) for hour in busy])})

    def look_ahead(tables: Mapping[str, pl.DataFrame]) -> pl.DataFrame:
        later = tables["a"].select(pl.col("due") - timedelta(hours=1), x=pl.lit(1.0)).unique("due")
        return tables["a"].join(later, on="due", how="left")

    proof = prove(contract, {"a": rows}, look_ahead({"a": rows}), look_ahead)
    assert proof is not None
    assert [found.rows for found in proof.ahead] == [30]


def test_a_delay_counts(folder: Path) -> None:
    """An as-of join of what was seen half an hour ago sees the future, if it is told an hour later."""
    steps, code = CORRECT["as of the row's time"]
    proof = proven(folder, steps, code, weather={"time": "seen", "delay": "2h"})
    assert proof is not None
    assert [found.column for found in proof.ahead] == ["x"]


def test_sources_without_a_time_are_taken_whole(folder: Path) -> None:
    steps, code = LEAKS["target encoding over everything"]
    proof = proven(folder, steps, code, flights={})
    assert proof is not None
    assert proof.whole == ("flights",)
    assert list(proof.watched) == ["weather"]
    assert proof.ahead == (), "what is taken whole is not watched, and `check` says so"


def test_nothing_is_proven_where_no_source_has_a_time(folder: Path) -> None:
    steps, code = LEAKS["target encoding over everything"]
    assert proven(folder, steps, code, flights={}, weather={}) is None


def test_rows_of_one_time_prove_nothing_and_that_can_be_told(folder: Path) -> None:
    text = "select id, '2026-01-01' as due, delay, 1.0 as x from flights"
    proof = proven(folder, text)
    assert proof is not None
    assert (proof.rows, proof.cuts, proof.ahead) == (0, (), ())


def test_the_truth_may_see_the_future(folder: Path) -> None:
    proof = proven(folder, "select id, due, 1.0 as x, max(cast(delay as int)) over () as delay from flights")
    assert proof is not None
    assert proof.ahead == ()


def test_a_time_that_is_not_there_or_is_none_is_refused(folder: Path) -> None:
    text = "select id, due, delay, 1.0 as x from flights"
    with pytest.raises(DataError, match=r"source weather: no column 'when' tells the time; there are seen, temp"):
        proven(folder, text, weather={"time": "when"})
    with pytest.raises(DataError, match=r"source flights: carrier holds no times"):
        proven(folder, text, flights={"time": "carrier"})


def test_code_that_fails_on_what_was_known_is_named_with_the_time(folder: Path) -> None:
    code = (
        "def prepare(t):\n    f, _ = tables(t)\n"
        f"    assert f.collect().height == {ROWS}\n    return f.with_columns(x=pl.lit(1.0))\n"
    )
    with pytest.raises(DataError, match=r"on what was known at 2026-01-09T08:00:00Z, without later rows of .* line 9"):
        proven(folder, "prepare.py:prepare", code)


def test_rows_without_a_time_count_as_always_known(folder: Path, tmp_path: Path) -> None:
    for name in ("flights", "weather"):
        (tmp_path / f"{name}.csv").write_text((folder / f"{name}.csv").read_text())
    with (tmp_path / "weather.csv").open("a") as file:
        file.write(",7.0\n")
    proof = proven(tmp_path, *CORRECT["what the row itself says"])
    assert proof is not None
    assert proof.watched == {"flights": 0, "weather": 1}
    assert proof.to_json()["without_time"] == {"weather": 1}


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(hours=st.integers(1, 60))
def test_every_look_ahead_is_seen_and_no_look_back_is(folder: Path, hours: int) -> None:
    """A value from so many rows later is found; from so many rows before it is none."""
    text = "select id, due, delay, lead(cast(delay as int), {n}) over (order by due) as x from flights"
    ahead, back = proven(folder, text.format(n=hours)), proven(folder, text.format(n=hours).replace("lead", "lag"))
    assert ahead is not None
    assert back is not None
    assert ahead.ahead
    assert ahead.ahead[0].rows <= hours
    assert not back.ahead
