"""Evidence is what the payload really answers, by the server's policy."""

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from shipworthy.contract.types import Contract
from shipworthy.evaluation.measure import group_names, measure, trivial_baseline
from shipworthy.gates.judge import judge
from shipworthy.kernel.errors import EvidenceError, IntegrityError


def test_the_evidence_holds_what_the_payload_answers(
    contract: Contract, rows: Any, payload: Any, tmp_path: Path
) -> None:
    test = rows(1000)
    directory = payload(tmp_path / "payload", contract)
    evidence = measure(contract, directory, test, baseline=trivial_baseline(contract, rows(2000, 2)))
    expected = 1 / (1 + np.exp(-(0.8 * test["income"] - (test["purpose"] == "renew") + 0.3
                                 - 5 * test["children"] / test["income"])))  # fmt: skip
    assert evidence.answers.values[:, 1] == pytest.approx(expected.to_numpy(), abs=1e-6)
    assert evidence.truth.tolist() == (test["repaid"] == "yes").cast(pl.Int64).to_list()
    assert evidence.positive == 1
    assert evidence.actions == ("refer", "approve")
    assert (evidence.decisions == (expected >= 0.5).to_numpy()).all()
    assert evidence.protected["sex"].tolist() == test["sex"].to_list()
    assert sorted(evidence.slices) == ["income", "purpose"]
    assert evidence.flips is not None
    assert evidence.flips.rows == 1000
    assert evidence.seed == 5


def test_a_good_payload_passes_what_can_be_judged(contract: Contract, rows: Any, payload: Any, tmp_path: Path) -> None:
    directory = payload(tmp_path / "payload", contract)
    evidence = measure(contract, directory, rows(3000), baseline=trivial_baseline(contract, rows(2000, 2)))
    outcomes = {verdict.gate: verdict.outcome for verdict in judge(contract, evidence)}
    assert outcomes.pop("budget.p99") == outcomes.pop("budget.memory") == "insufficient"
    assert set(outcomes.values()) == {"pass"}
    assert sum(gate.startswith("slices.accuracy.income=") for gate in outcomes) == 4


def test_reviewed_rows_count_with_the_action_that_they_were_answered(
    contract: Contract, rows: Any, payload: Any, tmp_path: Path
) -> None:
    directory = payload(tmp_path / "payload", contract, review_below=0.7, review_answer="ask")
    evidence = measure(contract, directory, rows(500), baseline=np.array([0.5, 0.5]))
    assert evidence.actions == ("refer", "approve", "ask")
    unsure = evidence.answers.values.max(axis=1) < 0.7
    assert 0 < unsure.sum() < 500
    assert (evidence.decisions[unsure] == 2).all()


def test_the_champion_answers_the_same_rows(contract: Contract, rows: Any, payload: Any, tmp_path: Path) -> None:
    champion = payload(tmp_path / "champion", contract, bias=0.0)
    directory = payload(tmp_path / "payload", contract)
    evidence = measure(contract, directory, rows(500), baseline=np.array([0.5, 0.5]), champion=champion)
    assert evidence.champion is not None
    assert evidence.champion.payload.startswith("sha256:")
    assert evidence.champion.answers is not None
    assert (evidence.champion.answers.values[:, 1] < evidence.answers.values[:, 1] + 1e-6).all()


def test_a_champion_that_lacks_a_newer_column_still_answers(
    contract: Contract, changed: Any, rows: Any, payload: Any, tmp_path: Path
) -> None:
    older = changed(derived={})
    champion = payload(tmp_path / "champion", older, weights=(0.8, -1.0, 0.0))
    directory = payload(tmp_path / "payload", contract)
    evidence = measure(contract, directory, rows(500), baseline=np.array([0.5, 0.5]), champion=champion)
    assert evidence.champion is not None
    assert evidence.champion.answers is not None


@pytest.mark.parametrize("values", [("renew", "buy"), ("buy", "renew", "other")])
def test_a_champion_with_other_meanings_is_not_compared(
    contract: Contract, changed: Any, rows: Any, payload: Any, tmp_path: Path, values: tuple[str, ...]
) -> None:
    features = {
        "income": {"type": "float", "range": (0.0, 50.0)},
        "purpose": {"type": "category", "values": values},
        "children": {"type": "int", "range": (0.0, 20.0)},
    }
    champion = payload(tmp_path / "champion", changed(features=features))
    directory = payload(tmp_path / "payload", contract)
    evidence = measure(contract, directory, rows(500), baseline=np.array([0.5, 0.5]), champion=champion)
    assert evidence.champion is not None
    assert evidence.champion.answers is None


def test_the_baseline_is_the_train_parts_frequencies(contract: Contract, rows: Any) -> None:
    train = rows(1000)
    share = (train["repaid"] == "yes").mean()
    baseline = trivial_baseline(contract, train)
    assert baseline.sum() == pytest.approx(1)
    assert baseline[1] == pytest.approx(share, abs=2e-3)


def test_no_class_is_impossible_in_the_baseline(contract: Contract, rows: Any) -> None:
    train = rows(100).with_columns(repaid=pl.lit("yes"))
    assert trivial_baseline(contract, train).tolist() == pytest.approx([1 / 102, 101 / 102])


def test_the_baseline_of_a_regression_is_mean_and_median(changed: Any) -> None:
    contract = changed(target={"column": "delay", "type": "regression"})
    assert trivial_baseline(contract, pl.DataFrame({"delay": [1.0, 2.0, 9.0]})).tolist() == [4.0, 2.0]


def test_without_rows_there_is_no_evidence(contract: Contract, rows: Any, payload: Any, tmp_path: Path) -> None:
    directory = payload(tmp_path / "payload", contract)
    with pytest.raises(EvidenceError, match="the test part has no rows"):
        measure(contract, directory, rows(10).clear(), baseline=np.array([0.5, 0.5]))


def test_a_model_that_answers_nonsense_is_refused(contract: Contract, rows: Any, payload: Any, tmp_path: Path) -> None:
    directory = payload(tmp_path / "payload", contract, weights=(float("nan"), 0.0, 0.0, 0.0))
    with pytest.raises(EvidenceError, match="test row 0: the model's output is no usable answer"):
        measure(contract, directory, rows(10), baseline=np.array([0.5, 0.5]))


def test_a_changed_payload_is_refused(contract: Contract, rows: Any, payload: Any, tmp_path: Path) -> None:
    directory = payload(tmp_path / "payload", contract)
    (directory / "policy.json").write_text((directory / "policy.json").read_text().replace("0.5", "0.4"))
    with pytest.raises(IntegrityError, match=r"policy\.json"):
        measure(contract, directory, rows(10), baseline=np.array([0.5, 0.5]))


def test_groups_are_named_as_a_reader_would() -> None:
    assert group_names(pl.Series(["a", None, "b"])).tolist() == ["a", None, "b"]
    assert group_names(pl.Series([True, None, False])).tolist() == ["true", None, "false"]
    assert group_names(pl.Series([3, None, 1])).tolist() == ["3", None, "1"]


def test_many_numbers_are_quartered() -> None:
    groups = group_names(pl.Series([None, *range(101)]))
    assert groups[0] is None
    names, counts = np.unique(groups[1:].astype(str), return_counts=True)
    assert dict(zip(names.tolist(), counts.tolist(), strict=True)) == {
        "under 25": 25,
        "25 to 50": 25,
        "50 to 75": 25,
        "from 75": 26,
    }
