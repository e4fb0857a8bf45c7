"""`score --reasons exact`: what each input added to the score of each row, from the release that answered it."""

import shutil
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import polars as pl
import pytest

from shipworthy.bundle.format import Policy
from tests.stories.conftest import Done

INPUTS = ["reason_income", "reason_debt", "reason_purpose", "reason_ratio"]


@pytest.fixture
def table(project: Path) -> Path:
    """300 loans: one with an income below its range, one without a debt, one that is no row at all."""
    rows = pl.read_csv(project / "loans.csv", infer_schema=False).head(300).drop("repaid")
    number = pl.int_range(pl.len())
    rows = rows.with_columns(
        income=pl.when(number == 3).then(pl.lit("-5")).otherwise("income"),
        debt=pl.when(number == 5).then(pl.lit("")).otherwise("debt"),
    )
    rows.write_csv(project / "new.csv")
    with open(project / "new.csv", "a") as file:
        file.write("loan-x,1,2,car,9,9,9\n")
    return project / "new.csv"


def policy_of(project: Path) -> Policy:
    (file,) = (project / ".shipworthy" / "live" / "local").rglob("policy.json")
    return msgspec.json.decode(file.read_bytes(), type=Policy)


@pytest.mark.parametrize("suffix", ["parquet", "csv", "jsonl"])
def test_values_add_up_to_the_score_of_each_row(
    project: Path, table: Path, shipworthy: Callable[..., Done], suffix: str
) -> None:
    out = project / f"answers.{suffix}"
    done = shipworthy("score", table, out, "--reasons", "exact", "--project", project)
    assert done.code == 0, done.err
    readers: dict[str, Callable[[Path], pl.DataFrame]] = {
        "parquet": pl.read_parquet,
        "csv": pl.read_csv,
        "jsonl": pl.read_ndjson,
    }
    found = readers[suffix](out)
    assert found.height == 301
    refused = found["problem"].is_not_null()
    assert refused.arg_true().to_list() == [3, 300]
    assert found.filter(refused).select(*INPUTS, "reason_base", "reason_method").null_count().row(0) == (2,) * 6
    answered = found.filter(~refused)
    assert answered["reason_method"].unique().to_list() == ["exact-linear"]
    scores = (answered.select(INPUTS).sum_horizontal() + answered["reason_base"]).to_numpy()
    calibration = policy_of(project).calibration
    logit = np.log(answered["probability_1"].to_numpy() / answered["probability_0"].to_numpy())
    assert calibration.slope * scores + calibration.offset == pytest.approx(logit, abs=1e-5)
    incomes = answered["income"].cast(pl.Float64).to_numpy()
    assert np.corrcoef(incomes, answered["reason_income"].to_numpy())[0, 1] == pytest.approx(1.0)


def test_without_the_option_the_answers_are_as_they_were(
    project: Path, table: Path, shipworthy: Callable[..., Done]
) -> None:
    for name, words in (("a.csv", ()), ("b.csv", ("--reasons", "exact"))):
        assert shipworthy("score", table, project / name, *words, "--project", project).code == 0
    plain, explained = (pl.read_csv(project / name) for name in ("a.csv", "b.csv"))
    assert explained.select(plain.columns).equals(plain)
    assert set(explained.columns) - set(plain.columns) == {*INPUTS, "reason_base", "reason_method"}


def test_what_a_table_calls_a_reason_itself_is_refused(
    project: Path, table: Path, shipworthy: Callable[..., Done]
) -> None:
    rows = pl.read_csv(project / "loans.csv").head(5).with_columns(reason_income=pl.lit(1))
    rows.write_csv(project / "named.csv")
    done = shipworthy("score", project / "named.csv", project / "o.csv", "--reasons", "exact", "--project", project)
    assert (done.code, "has a column reason_income, as the answers have; rename it" in done.err) == (2, True)


def test_where_the_training_rows_are_gone_it_is_said_before_anything_is_answered(
    project: Path, table: Path, shipworthy: Callable[..., Done]
) -> None:
    shutil.rmtree(project / ".shipworthy" / "tables")
    done = shipworthy("score", table, project / "o.csv", "--reasons", "exact", "--project", project)
    assert done.code not in (0, 70), done.err
    assert not (project / "o.csv").exists()
    assert not list((project / ".shipworthy").glob("records/local/score-*"))
