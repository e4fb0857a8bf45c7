"""A payload is exactly what the contract and the calibrate part say, byte for byte."""

from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from shipworthy.bundle.format import ONNX, Calibration, FallbackRule, Policy
from shipworthy.bundle.verify import verify_payload
from shipworthy.kernel.errors import EvidenceError
from shipworthy.release.payload import build_payload
from shipworthy.release.policy import Tuning, compile_policy, tune
from shipworthy.release.schema import compile_schema


def test_the_schema_says_what_the_contract_says(contract: Any) -> None:
    schema = compile_schema(contract)
    income, debt, purpose, note = schema.features
    assert (income.name, income.kind, income.low, income.high, income.outside) == ("income", "float", 0, 1000, "reject")
    assert debt.outside == "clip"
    assert (purpose.values, purpose.unknown) == (("purchase", "refinance"), "missing")
    assert (note.kind, note.missing) == ("text", "allow")
    assert [(field.name, field.required) for field in schema.context] == [("application_id", True), ("sex", False)]
    assert schema.derived[0].expression == "100 * monthly_debt / income"
    assert schema.columns == ("income", "monthly_debt", "loan_purpose", "debt_ratio")


def test_the_policy_says_what_the_contract_says(contract: Any) -> None:
    policy = compile_policy(contract, Tuning(rows=10, threshold=0.7))
    assert (policy.classes, policy.positive, policy.threshold) == (("0", "1"), "1", 0.7)
    assert policy.actions == {"1": "approve", "0": "refer"}
    assert (policy.review_below, policy.review_answer) == (0.65, "refer")
    assert policy.fallback_rules == (FallbackRule(condition="debt_ratio > 45", action="refer"),)
    assert (policy.fallback_otherwise, policy.timeout_s, policy.reasons) == ("refer", 0.2, 3)
    assert policy.fallback_last_good is False


def test_a_policy_from_before_the_last_good_release_could_be_asked_asks_for_none(contract: Any) -> None:
    fallback = contract.decision.fallback.model_copy(update={"last_good": True})
    decision = contract.decision.model_copy(update={"fallback": fallback})
    asking = compile_policy(contract.model_copy(update={"decision": decision}), Tuning(rows=10, threshold=0.7))
    assert asking.fallback_last_good is True
    old = msgspec.to_builtins(asking)
    del old["fallback_last_good"]
    assert msgspec.convert(old, Policy).fallback_last_good is False


def test_the_calibrate_part_fixes_scaling_and_threshold(contract: Any, calibrate: Any) -> None:
    tuning = tune(contract, *calibrate)
    assert tuning.calibration.slope == pytest.approx(0.5, abs=0.05)
    assert tuning.threshold == pytest.approx(3940 / 4900, abs=0.06)  # where approving breaks even
    assert tuning.calibration_error_before is not None
    assert tuning.calibration_error_after is not None
    assert tuning.calibration_error_after < tuning.calibration_error_before / 3
    assert tuning.rows == 5000


def test_the_threshold_reads_the_positive_class_wherever_it_stands(contract: Any, calibrate: Any) -> None:
    probabilities, truth = calibrate
    turned = contract.model_copy(update={"target": contract.target.model_copy(update={"values": ("1", "0")})})
    straight, mirrored = tune(contract, probabilities, truth), tune(turned, probabilities[:, ::-1], 1 - truth)
    assert mirrored.threshold == pytest.approx(straight.threshold)


def test_a_fixed_threshold_stands(contract: Any, calibrate: Any) -> None:
    fixed = contract.decision.model_copy(
        update={"threshold": contract.decision.threshold.model_copy(update={"at": 0.3, "maximise": None})}
    )
    assert tune(contract.model_copy(update={"decision": fixed}), *calibrate).threshold == 0.3


def test_a_multiclass_target_gets_a_temperature(contract: Any) -> None:
    random = np.random.default_rng(2)
    logits = random.normal(size=(5000, 3))
    sharp = np.exp(2 * logits) / np.exp(2 * logits).sum(axis=1, keepdims=True)
    true = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    truth = (true.cumsum(axis=1) > random.random((5000, 1))).argmax(axis=1)
    target = contract.target.model_copy(update={"type": "multiclass", "values": ("a", "b", "c"), "positive": None})
    tuning = tune(contract.model_copy(update={"target": target}), sharp, truth)
    assert tuning.calibration.temperature == pytest.approx(2.0, rel=0.1)
    assert tuning.threshold is None


def test_a_regression_gets_intervals_or_says_that_rows_are_too_few(contract: Any) -> None:
    target = contract.target.model_copy(update={"type": "regression", "values": None, "positive": None})
    number = contract.model_copy(update={"target": target})
    random = np.random.default_rng(3)
    tuning = tune(number, np.zeros(500), random.normal(size=500))
    assert tuning.intervals is not None
    assert tuning.intervals.coverage == 0.9
    assert tuning.intervals.half_widths[0] == pytest.approx(1.64, abs=0.2)
    with pytest.raises(EvidenceError, match="at least 9"):
        tune(number, np.zeros(5), np.zeros(5))


def test_the_same_inputs_give_the_same_digest(
    contract: Any, model: Any, baselines: Any, calibrate: Any, tmp_path: Path
) -> None:
    tuning = tune(contract, *calibrate)
    payloads = [build_payload(contract, {ONNX: model}, tuning, baselines, tmp_path / name) for name in ("one", "two")]
    assert payloads[0].digest == payloads[1].digest
    verified = verify_payload(payloads[0].directory, payloads[0].digest)
    assert verified.model == model
    assert verified.schema == payloads[0].schema
    assert verified.policy == payloads[0].policy
    assert payloads[0].size_bytes == sum(entry.size_bytes for entry in verified.manifest.files.values())


def test_another_bound_in_the_contract_is_another_payload(
    contract: Any, model: Any, baselines: Any, tmp_path: Path
) -> None:
    tuning = Tuning(rows=0, threshold=0.5)
    income = contract.features["income"].model_copy(update={"range": (0.0, 999.0)})
    other = contract.model_copy(update={"features": {**contract.features, "income": income}})
    digests = {
        build_payload(c, {ONNX: model}, tuning, baselines, tmp_path / c.features["income"].range.__repr__()).digest
        for c in (contract, other)
    }
    assert len(digests) == 2


def test_another_calibration_is_another_policy(contract: Any) -> None:
    plain, scaled = (compile_policy(contract, Tuning(rows=0, calibration=Calibration(slope=s))) for s in (1.0, 2.0))
    assert msgspec.json.encode(plain) != msgspec.json.encode(scaled)


def test_a_contract_without_a_threshold_takes_the_likelier_class(contract: Any, calibrate: Any) -> None:
    decision = contract.decision.model_copy(update={"threshold": None})
    assert tune(contract.model_copy(update={"decision": decision}), *calibrate).threshold == 0.5
