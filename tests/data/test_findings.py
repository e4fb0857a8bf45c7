"""Findings: what is planted is found, and honest columns of real data are left in peace."""

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from shipworthy.contract.parse import parse_contract
from shipworthy.data.findings.find import Finding, find_all, told_apart
from shipworthy.data.findings.leaks import find_tellers
from shipworthy.data.findings.noise import estimate_noise
from shipworthy.data.sources.read import read_file
from shipworthy.data.split import split
from shipworthy.data.validate import validate
from shipworthy.workflows.init import init
from tests.stories.files import breast_cancer, flights, wooldridge

ROWS = 3_000


def draw(seed: int = 1, rows: int = ROWS) -> pl.DataFrame:
    random = np.random.default_rng(seed)
    income, debt = random.normal(50, 15, rows).round(2), random.normal(20, 8, rows).round(2)
    return pl.DataFrame(
        {
            "income": income,
            "debt": debt,
            "town": random.choice(["a", "b", "c"], rows),
            "sex": random.choice(["f", "m"], rows),
            "person": [f"p{at}" for at in range(rows)],
            "repaid": (random.uniform(size=rows) < 1 / (1 + np.exp((debt - income + 30) / 8))).astype(int),
        }
    )


def contract_for(make: Any, frame: pl.DataFrame, **more: Any) -> Any:
    kinds = {pl.Float64: "float", pl.Int64: "int"}
    features: dict[str, Any] = {
        name: {"type": kinds.get(kind.base_type(), "category"), "missing": "allow"}
        | ({} if kind.is_numeric() else {"values": frame[name].drop_nulls().unique().sort().to_list()})
        for name, kind in frame.schema.items()
        if name not in ("sex", "person", "repaid")
    }
    context = {
        "sex": {"role": "protected", "type": "category", "values": ["f", "m"], "reference": "m"},
        "person": {"role": "subject", "type": "text"},
    }
    return make(features=features, context=context, **more)


def found(make: Any, frame: pl.DataFrame, **more: Any) -> list[Finding]:
    contract = contract_for(make, frame, **more)
    accepted = validate(contract, frame).accepted
    assert accepted.height == frame.height
    return find_all(contract, accepted, split(contract, accepted, 0))


def said(findings: list[Finding]) -> list[tuple[str, ...]]:
    return [(finding.kind, *finding.columns) for finding in findings]


def test_an_honest_table_raises_no_question(make: Any) -> None:
    assert [said(found(make, draw(seed))) for seed in range(5)] == [[]] * 5


def test_each_planted_fault_is_found_and_nothing_else(make: Any) -> None:
    frame, random = draw(), np.random.default_rng(9)
    assert said(found(make, frame.with_columns(fixed=pl.lit(3.0)))) == [("constant", "fixed")]
    assert said(found(make, frame.with_columns(empty=pl.lit(None, pl.Float64)))) == [("constant", "empty")]
    cents = frame.with_columns(cents=100 - pl.col("income") * 100, place=pl.col("town").replace({"a": "x", "b": "y"}))
    assert said(found(make, cents)) == [("duplicate", "income", "cents"), ("duplicate", "town", "place")]
    for code in (-99.0, 999.0, 9999.0, -1000.0):
        coded = frame.with_columns(debt=pl.when(pl.int_range(pl.len()) % 60 == 0).then(code).otherwise("debt"))
        [finding] = found(make, coded)
        assert (finding.kind, finding.columns) == ("sentinel", ("debt",)), code
        assert f"debt: {code:g} in 50 of 3,000 rows, far from all others" in finding.words
    height = pl.when(pl.col("sex") == "m").then(180).otherwise(166) + pl.Series(random.normal(0, 5, ROWS))
    assert said(found(make, frame.with_columns(height=height))) == [("proxy", "height", "sex")]
    granted = pl.when((pl.col("repaid") == 1) & (pl.col("income") > 45)).then(1.0).otherwise(0.0)
    assert said(found(make, frame.with_columns(granted=granted))) == [("leak", "granted")]


def test_copies_between_train_and_test_are_counted_and_coarse_rows_are_not(make: Any) -> None:
    frame = draw()
    twice = pl.concat([frame, frame.head(300)]).with_columns(person=pl.format("p{}", pl.int_range(pl.len())))
    contract = contract_for(make, twice)
    accepted = validate(contract, twice).accepted
    places = split(contract, accepted, 0)
    rows = accepted.select(*contract.features, "repaid")
    train = set(rows[places.train].rows())
    expected = sum(row in train for row in rows[places.test].rows())
    [finding] = find_all(contract, accepted, places)
    assert finding.kind == "contamination"
    assert f"{expected} of {len(places.test)} test rows" in finding.words
    assert expected > 20
    coarse = frame.with_columns((pl.col("income", "debt") / 20).round(0))
    assert "contamination" not in [finding.kind for finding in found(make, coarse)]


def test_a_subject_in_both_parts_is_asked_about_unless_the_split_is_by_it(make: Any) -> None:
    frame = draw().with_columns(person=pl.format("p{}", pl.int_range(pl.len()) // 3))
    assert said(found(make, frame)) == [("contamination", "person")]
    by_subject = {"entry": "train.py:train", "split": {"by": "subject"}}
    assert said(found(make, frame, training=by_subject)) == []


def test_label_noise_is_estimated_and_an_outcome_that_is_chance_is_not_called_noise(make: Any) -> None:
    random = np.random.default_rng(3)
    clear = draw().with_columns(repaid=(pl.col("income") > 2 * pl.col("debt") + 10).cast(pl.Int64))
    assert said(found(make, clear)) == []
    wrong = pl.Series(random.uniform(size=ROWS) < 0.05)
    noisy = clear.with_columns(repaid=pl.when(wrong).then(1 - pl.col("repaid")).otherwise("repaid"))
    assert said(found(make, noisy)) == [("label noise", "repaid")]
    contract = contract_for(make, noisy)
    noise = estimate_noise(contract, validate(contract, noisy).accepted)
    assert noise is not None
    assert noise.low < wrong.mean() < noise.high + 0.01
    assert noise.rows == ROWS


def test_values_of_personal_columns_are_not_repeated(make: Any) -> None:
    frame = draw().with_columns(debt=pl.when(pl.int_range(pl.len()) % 60 == 0).then(-99.0).otherwise("debt"))
    contract = contract_for(make, frame)
    features = {**contract.features, "debt": contract.features["debt"].model_copy(update={"personal": True})}
    assert find_all(contract.model_copy(update={"features": features}), validate(contract, frame).accepted) == []


def test_a_number_is_told_too_well_by_a_copy_and_not_by_a_strong_column() -> None:
    random = np.random.default_rng(5)
    size, age = random.normal(100, 20, ROWS), random.uniform(0, 50, ROWS)
    price = 3 * size - age + random.normal(0, 30, ROWS)
    frame = pl.DataFrame(
        {"size": size, "age": age, "sold": np.log(price.clip(1)), "fee": np.where(price > 380, 0.03 * price, np.nan)}
    ).with_columns(price=pl.Series(price), fee=pl.col("size"))
    kinds: Any = dict.fromkeys(("size", "age"), "float")
    assert find_tellers(frame, kinds, "price") == []
    [teller] = find_tellers(frame, kinds | {"sold": "float"}, "price")
    assert teller.column == "sold"
    assert teller.told > 0.98 > 0.9 > teller.others > 0.7
    none = frame.with_columns(
        price=pl.when(pl.col("age") < 10).then(0.0).otherwise("price"),
        buyer=pl.when(pl.col("age") * 0 + pl.Series(random.uniform(size=ROWS)) < 2).then(1.0),
    ).with_columns(buyer=pl.when(pl.col("price") != 0).then("buyer"))
    [gap] = find_tellers(none.drop("age"), {"size": "float", "buyer": "float"}, "price")
    assert (gap.column, gap.where) == ("buyer", "is missing")


def test_groups_that_nothing_tells_are_told_by_chance() -> None:
    random = np.random.default_rng(2)
    groups = pl.Series("g", random.choice(["a", "b", "c"], 2_000, p=[0.8, 0.15, 0.05]))
    assert told_apart(pl.Series("v", random.normal(size=2_000)), groups) < 0.1
    assert told_apart(groups.alias("v"), groups) == 1.0
    assert told_apart(groups.head(100), groups.head(100)) == 0.0


REAL = {  # what a person should be asked about, by data set and target
    ("bc", "diagnosis"): [],
    ("flights", "late"): [],
    ("happiness", "vhappy"): [],
    ("wagepan", "lwage"): [],
    ("affairs", "affair"): [],
    ("twoyear", "lwage"): [],
    ("wage1", "wage"): [("leak", "lwage")],
    ("card", "lwage"): [("leak", "wage")],
    ("mlb1", "salary"): [("leak", "lsalary")],
    ("recid", "durat"): [("leak", "ldurat")],
    ("bwght", "bwght"): [("leak", "lbwght"), ("duplicate", "cigs", "packs")],
    ("loanapp", "approve"): [
        ("leak", "typur"), ("leak", "inson"), ("sentinel", "liq"), ("sentinel", "term"), ("sentinel", "review"),
    ],
}  # fmt: skip


@pytest.mark.parametrize(("name", "target"), REAL, ids=lambda value: value)
def test_real_tables_raise_the_questions_that_they_should(tmp_path: Path, name: str, target: str) -> None:
    file = tmp_path / f"{name}.csv"
    if name == "bc":
        breast_cancer(file)
    elif name == "flights":
        flights(file, every=30)
    else:
        wooldridge(name, file)
    init(tmp_path / "project", [file], target)
    contract = parse_contract((tmp_path / "project" / "shipworthy.yaml").read_text())
    accepted = validate(contract, read_file(name, file).frame).accepted
    findings = find_all(contract, accepted, split(contract, accepted, contract.training.seed))
    assert said(findings) == REAL[name, target]
