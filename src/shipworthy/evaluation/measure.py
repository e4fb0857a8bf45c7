"""Evidence of a payload: its answers and decisions on rows that training never saw."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from shipworthy.bundle.format import Policy, Schema
from shipworthy.bundle.verify import VerifiedPayload, verify_payload
from shipworthy.contract.types import Contract
from shipworthy.data.columns import derive, encode, target_array
from shipworthy.evaluation.perturb import noisy
from shipworthy.gates.evidence import BudgetMeasurement, Champion, Evidence, Flips, Parity
from shipworthy.kernel.errors import EvidenceError, ModelError
from shipworthy.security.vault import Vault
from shipworthy.serving.policy import Decisions, decide
from shipworthy.serving.runtimes.load import load_patiently
from shipworthy.stats.estimates import Answers

BATCH_ROWS = 8192  # of one model run: large enough to be fast, small enough to stay in the cache
MAX_NUMBER_GROUPS = 12  # distinct numbers of a sliced column that are groups of their own; more are quartered

Groups = NDArray[np.object_]


@dataclass(frozen=True, slots=True, eq=False)
class Measured:
    """A payload's answers to some rows."""

    answers: Answers
    decisions: NDArray[np.int64]  # index into `actions`, -1 for a plain number
    actions: tuple[str, ...]


def measure(
    contract: Contract,
    payload: Path,
    test: pl.DataFrame,
    *,
    baseline: NDArray[np.float64],
    champion: Path | None = None,
    budget: BudgetMeasurement | None = None,
    parity: Parity | None = None,
    vault: Vault | None = None,
) -> Evidence:
    """All that the contract's gates read, measured on the test rows.

    Args:
        contract: names target, protected and sliced columns, and the noise of the robustness gate.
        payload: directory of the payload under judgement.
        test: accepted rows of the test part, with context, features and target.
        baseline: of the train part, see `trivial_baseline`.
        champion: directory of the serving release's payload, or None.
        budget: what `evaluation.budget` measured, or None.
        parity: what the conversion proved, or None.
        vault: opens a champion that is encrypted.

    Raises:
        EvidenceError: the model's output is unusable, or there is no row.
        IntegrityError: a payload is not what its manifest says.
    """
    if test.height == 0:
        raise EvidenceError("the test part has no rows; nothing can be measured (training.split.test)")
    test = derive(contract, test)
    verified = verify_payload(payload, vault=vault)
    matrix = encode(contract, test)
    measured = answer(verified, matrix)
    target, robustness = contract.target, contract.gates.robustness
    slices = contract.gates.slices.by if contract.gates.slices is not None else ()
    return Evidence(
        task=target.type,
        classes=verified.policy.classes,
        positive=_positive(verified.policy),
        truth=target_array(contract, test),
        answers=measured.answers,
        baseline=baseline,
        decisions=measured.decisions,
        actions=measured.actions,
        champion=None if champion is None else _champion(champion, verified, matrix, vault),
        protected=_groups(test, contract.context_by_role("protected")),
        slices=_groups(test, slices),
        flips=None if robustness is None else _flips(contract, verified, test, measured, robustness.noise_sd),
        budget=budget,
        parity=parity,
        seed=contract.training.seed,
    )


def trivial_baseline(contract: Contract, train: pl.DataFrame) -> NDArray[np.float64]:
    """What needs no model, from the train part: class frequencies, or mean and median of a regression.

    Each class counts one row more than it has, so that none is impossible.
    """
    truth = target_array(contract, train)
    if contract.target.type == "regression":
        return np.array([np.mean(truth), np.median(truth)], dtype=np.float64)
    counts = np.bincount(truth.astype(np.int64), minlength=len(contract.target.values or ())) + 1.0
    return np.asarray(counts / counts.sum(), dtype=np.float64)


def answer(payload: VerifiedPayload, matrix: NDArray[np.float32]) -> Measured:
    """The payload's answers to the rows of `matrix`, by the server's runtime and policy.

    Raises:
        EvidenceError: the model's output for a row is unusable; a server would fall back there.
    """
    decisions = run_policy(payload, matrix)
    if not decisions.valid.all():
        row = int(np.flatnonzero(~decisions.valid)[0])
        raise EvidenceError(
            f"test row {row}: the model's output is no usable answer (not finite, or no probabilities); mend train.py"
        )
    actions = possible_actions(payload.policy)
    places = {action: place for place, action in enumerate(actions)}
    taken = np.array([places.get(decision, -1) for decision in map(str, decisions.decision)], dtype=np.int64)
    if decisions.probability is None or decisions.index is None:
        return Measured(Answers(np.array(decisions.prediction, dtype=np.float64)), taken, actions)
    return Measured(Answers(decisions.probability, decisions.index.astype(np.int64)), taken, actions)


def run_policy(payload: VerifiedPayload, matrix: NDArray[np.float32]) -> Decisions:
    """What the server's policy says of each row of `matrix`.

    Raises:
        EvidenceError: a Python model gave no answer.
    """
    runtime = load_patiently(payload)
    starts = range(0, len(matrix), BATCH_ROWS)
    try:
        outputs = [runtime.run(matrix[start : start + BATCH_ROWS]) for start in starts]
    except ModelError as error:
        raise EvidenceError(f"the model gives no answer: {error}; mend its code") from None
    return decide(payload.policy, np.concatenate(outputs), len(matrix))


def possible_actions(policy: Policy) -> tuple[str, ...]:
    """Every action that the policy can answer for a usable output, each once."""
    named = [policy.actions.get(label, label) for label in policy.classes] + [band.action for band in policy.bands]
    review = [] if policy.review_answer is None else [policy.review_answer]
    return tuple(dict.fromkeys(named + review))


def _positive(policy: Policy) -> int | None:
    if policy.task != "binary":
        return None
    return len(policy.classes) - 1 if policy.positive is None else policy.classes.index(policy.positive)


def _champion(
    directory: Path, candidate: VerifiedPayload, matrix: NDArray[np.float32], vault: Vault | None
) -> Champion:
    champion = verify_payload(directory, vault=vault)
    columns = _shared_columns(champion.schema, candidate.schema)
    if columns is None or champion.policy.classes != candidate.policy.classes:
        return Champion(champion.digest, None)
    return Champion(champion.digest, answer(champion, matrix[:, columns]).answers)


def _shared_columns(champion: Schema, candidate: Schema) -> list[int] | None:
    """Where the champion's columns stand in the candidate's matrix, or None if one is missing or means another."""
    ours, theirs = _meanings(candidate), _meanings(champion)
    if any(name not in ours or ours[name] != theirs[name] for name in champion.columns):
        return None
    return [candidate.columns.index(name) for name in champion.columns]


def _meanings(schema: Schema) -> Mapping[str, tuple[object, ...]]:
    features = {field.name: (field.kind, field.unit, field.values) for field in schema.features}
    derived = {field.name: (field.kind, field.expression, field.values) for field in schema.derived}
    return {name: {**features, **derived}[name] for name in schema.columns}


def _flips(contract: Contract, payload: VerifiedPayload, test: pl.DataFrame, measured: Measured, sd: float) -> Flips:
    """How many decisions change under noise; a regression without bands has no decision that could flip."""
    if not measured.actions:
        return Flips(0, 0)
    disturbed = noisy(contract, test, noise_sd=sd, seed=contract.training.seed)
    again = answer(payload, encode(contract, disturbed))
    return Flips(int(np.sum(again.decisions != measured.decisions)), test.height)


def _groups(frame: pl.DataFrame, names: tuple[str, ...]) -> dict[str, Groups]:
    return {name: group_names(frame[name]) for name in names if name in frame.columns}


def group_names(column: pl.Series) -> Groups:
    """The group of each row in words, None where missing; many distinct numbers are quartered."""
    if column.dtype.is_numeric() and column.n_unique() > MAX_NUMBER_GROUPS:
        low, middle, high = (float(column.quantile(share) or 0.0) for share in (0.25, 0.5, 0.75))
        edges = [low, middle, high]
        words = [f"under {low:.3g}", f"{low:.3g} to {middle:.3g}", f"{middle:.3g} to {high:.3g}", f"from {high:.3g}"]
        places = np.searchsorted(edges, column.cast(pl.Float64).fill_null(0.0).to_numpy(), side="right")
        missing = column.is_null().to_numpy()
        named = [None if lost else words[place] for place, lost in zip(places, missing, strict=True)]
        return np.array(named, dtype=object)
    return np.array(column.cast(pl.String).to_list(), dtype=object)
