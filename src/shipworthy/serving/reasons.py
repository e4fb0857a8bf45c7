"""Reasons of an answer: how its score changes when one feature is set to its reference."""

import logging

import numpy as np

from shipworthy.serving.answer import REASONS_METHOD, Change, Reasons
from shipworthy.serving.decode import Sample
from shipworthy.serving.policy import Decided, calibrate
from shipworthy.serving.servable import Servable

RUN_ROWS = 256  # of one run of the model

_log = logging.getLogger("shipworthy.serving")


def explain(servable: Servable, sample: Sample, decided: Decided) -> Reasons | None:
    """Reasons of one answer, from one extra run in chunks; None if the model fails on it."""
    ablated = list(servable.decoder.ablate(sample, servable.references))
    if not ablated:
        return Reasons(REASONS_METHOD, _score_name(servable, decided), ())
    matrix = np.array([floats for _, floats in ablated], dtype=np.float32)
    try:
        parts = [servable.runtime.run(matrix[i : i + RUN_ROWS]) for i in range(0, len(matrix), RUN_ROWS)]
        outputs = np.concatenate(parts)
    except Exception:  # noqa: BLE001 (whatever a model raises: the answer stands without reasons)
        _log.warning("%s gave no reasons", servable.release)
        return None
    if decided.probability is None:
        scores, base = outputs.reshape(-1).astype(np.float64), float(decided.prediction)
    else:
        column = _score_column(servable, decided)
        scores, base = calibrate(servable.policy, outputs)[:, column], decided.probability[column]
    if len(scores) != len(ablated) or not np.isfinite(scores).all():
        return None
    changes = [Change(name, float(score) - base) for (name, _), score in zip(ablated, scores, strict=True)]
    changes.sort(key=lambda change: -abs(change.change))
    return Reasons(REASONS_METHOD, _score_name(servable, decided), tuple(changes[: servable.policy.reasons]))


def _score_column(servable: Servable, decided: Decided) -> int:
    policy = servable.policy
    if policy.task == "binary" and policy.positive is not None:
        return policy.classes.index(policy.positive)
    return policy.classes.index(str(decided.prediction))


def _score_name(servable: Servable, decided: Decided) -> str:
    if decided.probability is None:
        return "prediction"
    return f"probability of {servable.policy.classes[_score_column(servable, decided)]}"
