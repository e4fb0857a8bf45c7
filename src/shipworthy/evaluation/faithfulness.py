"""Faithfulness: how far the reasons that a server gives say the same as exact ones, on rows that training never saw."""

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from typing import Any

import msgspec
import numpy as np
import polars as pl
from numpy.typing import NDArray

from shipworthy.bundle.verify import VerifiedPayload
from shipworthy.contract.expressions import parse_expression
from shipworthy.contract.types import Contract
from shipworthy.data.columns import kinds
from shipworthy.data.requests import make_requests, plan_requests
from shipworthy.evaluation.exact import Explainer
from shipworthy.serving.decode import InvalidRequestError, Sample
from shipworthy.serving.pace import MAX_RUN_ROWS
from shipworthy.serving.policy import Decided
from shipworthy.serving.reasons import explain
from shipworthy.serving.run import infer
from shipworthy.serving.runtimes.load import load_patiently
from shipworthy.serving.servable import Servable, make_servable
from shipworthy.stats.metrics import midranks

Floats = NDArray[np.float64]

ROWS = 500  # compared: the standard error of a share is then at most 2.2 %
BUDGET_S = 20.0  # for a model that has to be asked: a slow one is asked about fewer rows
LEAST_ROWS = 20  # fewer say nothing
MEASURED = "measured"  # name of a release that there is not yet


@dataclass(frozen=True, slots=True)
class Faithfulness:
    """Means over the compared rows."""

    rows: int
    features: int
    method: str  # of the exact values
    background_rows: int
    score: str  # that the exact values add up to
    top: int  # reasons of an answer
    rank_correlation: float  # Spearman's, of the sizes of all features; -1 to 1
    top_agreement: float  # share of an answer's reasons that are among as many exact ones
    first_agreement: float  # share of rows whose first reason is the exact first
    sign_agreement: float  # share of reasons that say the same direction
    importance: dict[str, float]  # feature -> mean size of its exact value, largest first

    def to_json(self) -> dict[str, Any]:
        """As a document."""
        return asdict(self)


def measure_faithfulness(
    contract: Contract, payload: VerifiedPayload, test: pl.DataFrame, background: NDArray[np.float32]
) -> Faithfulness | None:
    """Compare served reasons with exact ones on up to 500 test rows.

    None if the contract gives no reasons, or the model is too slow to be asked as often as estimates take.

    Args:
        contract: names features, derived columns and the seed.
        payload: what is served.
        test: accepted rows of the test part.
        background: shape (m, columns), rows of the train part.

    Raises:
        EvidenceError: there is no row to compare with.
    """
    if not payload.policy.reasons or not test.height:
        return None
    explainer = Explainer(payload, background, contract.training.seed)
    within = explainer.rows_within(BUDGET_S)
    count = min(ROWS, test.height) if within is None else min(ROWS, test.height, within)
    if count < min(LEAST_ROWS, test.height):
        return None
    chosen = test.sample(count, seed=contract.training.seed, shuffle=True)
    samples, decided, served = _served(contract, payload, chosen)
    if not samples:
        return None
    classes = payload.policy.classes
    picked = np.array([classes.index(str(one.prediction)) for one in decided], dtype=np.intp) if classes else None
    found = explainer.explain(np.array([sample.floats for sample in samples], dtype=np.float32), picked)
    exact = found.values @ shares(contract)
    top = min(payload.policy.reasons, exact.shape[1])
    return Faithfulness(
        rows=len(samples),
        features=exact.shape[1],
        method=explainer.method,
        background_rows=explainer.background_rows,
        score=explainer.score_name,
        top=top,
        rank_correlation=float(np.mean([_rank_correlation(*pair) for pair in zip(served, exact, strict=True)])),
        top_agreement=_top_agreement(served, exact, top),
        first_agreement=_top_agreement(served, exact, 1),
        sign_agreement=_sign_agreement(served, exact, top),
        importance=_importance(list(contract.features), exact),
    )


def _importance(features: list[str], exact: Floats) -> dict[str, float]:
    means = np.abs(exact).mean(axis=0).tolist()
    return dict(sorted(zip(features, means, strict=True), key=lambda item: -item[1]))


def shares(contract: Contract) -> Floats:
    """How much of each model column's value is each feature's, shape (columns, features).

    What is derived from several features is shared equally among them; of context nothing is told.
    """
    features = list(contract.features)
    found = np.zeros((len(contract.model_columns), len(features)))
    parents: dict[str, frozenset[str]] = {name: frozenset((name,)) for name in features}
    for name, column in contract.derived.items():
        read = parse_expression(column.from_, kinds(contract)).columns
        parents[name] = frozenset().union(*(parents.get(other, frozenset()) for other in read))
    for place, name in enumerate(contract.model_columns):
        for parent in parents[name]:
            found[place, features.index(parent)] = 1 / len(parents[name])
    return found


def _served(
    contract: Contract, payload: VerifiedPayload, rows: pl.DataFrame
) -> tuple[list[Sample], list[Decided], Floats]:
    """What the server makes of the rows: samples, answers, and what each feature contributed, (n, features)."""
    features = list(contract.features)
    policy = msgspec.structs.replace(payload.policy, reasons=len(features))
    servable = make_servable(replace(payload.as_recorded(), policy=policy), MEASURED, payload.digest, load_patiently)
    sign = -1.0 if policy.calibration.slope > 0 else 1.0  # setting it to the reference takes away what it gave
    samples: list[Sample] = []
    decided: list[Decided] = []
    contributions = []
    for part in _decoded(servable, rows):
        answered = [
            (sample, one) for sample, one in zip(part, infer(servable, part), strict=True) if not isinstance(one, str)
        ]
        reasons = explain(servable, [sample for sample, _ in answered], [one for _, one in answered])
        for (sample, one), given in zip(answered, reasons, strict=True):
            if given is not None:
                changes = {change.feature: change.change for change in given.changes}
                samples.append(sample)
                decided.append(one)
                contributions.append([sign * changes.get(name, 0.0) for name in features])
    return samples, decided, np.array(contributions, dtype=np.float64).reshape(len(samples), len(features))


def _decoded(servable: Servable, rows: pl.DataFrame) -> Iterator[list[Sample]]:
    """Runs of the rows as the server reads them; those that it would refuse are left out."""
    samples = []
    for request in make_requests(plan_requests(servable.schema, rows), rows):
        with suppress(InvalidRequestError):
            samples.append(servable.decoder.decode_object(request))
    for start in range(0, len(samples), MAX_RUN_ROWS):
        yield samples[start : start + MAX_RUN_ROWS]


def _rank_correlation(first: Floats, second: Floats) -> float:
    """Spearman's, of sizes; 0 where one side has no order."""
    mine, right = midranks(np.abs(first)), midranks(np.abs(second))
    if np.ptp(mine) == 0 or np.ptp(right) == 0:
        return 0.0
    return float(np.corrcoef(mine, right)[0, 1])


def _largest(values: Floats, count: int) -> NDArray[np.intp]:
    return np.argsort(-np.abs(values), axis=1, kind="stable")[:, :count]


def _top_agreement(served: Floats, exact: Floats, count: int) -> float:
    pairs = zip(_largest(served, count).tolist(), _largest(exact, count).tolist(), strict=True)
    return float(np.mean([len({*mine} & {*right}) / count for mine, right in pairs]))


def _sign_agreement(served: Floats, exact: Floats, count: int) -> float:
    places = _largest(served, count)
    mine, right = (np.take_along_axis(values, places, axis=1) for values in (served, exact))
    told = mine != 0
    return float((np.sign(mine) == np.sign(right))[told].mean()) if told.any() else 0.0
