"""Exact reasons: Shapley values of a release's own model, over rows of training data as the background.

They take too long for an answer and are right by definition, so they are for batches and reports, and what served
reasons are compared with.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from shipworthy.bundle.verify import VerifiedPayload
from shipworthy.evaluation.structure import Structure, expose, find_structure, read_model
from shipworthy.kernel.errors import EvidenceError, ModelError
from shipworthy.serving.runtimes.load import load_patiently
from shipworthy.serving.runtimes.onnx import INPUT
from shipworthy.stats.shapley import (
    MAX_PLAYERS,
    enumerated_values,
    linear_values,
    sampled_values,
    tree_values,
)

Method = Literal["exact-trees", "exact-linear", "exact-enumeration", "sampled"]
Floats = NDArray[np.float64]

BACKGROUND_ROWS = 500  # of training: more changes values by less than their third digit
FEW_ROWS = 20  # of the background where each row of it costs runs of the model
FEW_COLUMNS = 8  # up to which all coalitions are asked
ORDERS = 50  # pairs of random orders, beyond
RUN_ROWS = 4096
CLIP = 1e-12  # of a probability, before its logarithm


@dataclass(frozen=True, slots=True)
class Values:
    """How far each of the model's columns moved the score of each row."""

    values: Floats  # (n, columns)
    score: Floats  # (n,) of the rows
    base: float | Floats  # mean score of the background; (n,) where each row's score is of its own class


class Explainer:
    """Shapley values of one payload's model.

    Args:
        payload: verified; its graph is read, and run where its structure cannot be told.
        background: shape (m, columns), rows of the training part in the model's columns.
        seed: chooses among background rows, and orders.

    Raises:
        EvidenceError: there is no background row.
    """

    def __init__(self, payload: VerifiedPayload, background: NDArray[np.float32], seed: int) -> None:
        if not len(background):
            raise EvidenceError("there is no row of the training part; exact reasons need some to compare with")
        chance = np.random.default_rng(seed)
        chosen = chance.permutation(len(background))[:BACKGROUND_ROWS]
        self._background = background[np.sort(chosen)]
        self._policy = payload.policy
        self._runtime = load_patiently(payload)
        self._seed = seed
        model = read_model(payload.model) if isinstance(payload.model, bytes) else None  # of code there is no graph
        self._structure = None if model is None else _usable(find_structure(model))
        if model is not None and self._structure is not None:
            self._inputs = onnxruntime.InferenceSession(
                expose(model, self._structure.source), providers=["CPUExecutionProvider"]
            )
            self._known = self._run_inputs(self._background)

    @property
    def method(self) -> Method:
        """How the values are found."""
        if self._structure is None:
            return "exact-enumeration" if self._background.shape[1] <= FEW_COLUMNS else "sampled"
        return "exact-linear" if self._structure.forest is None else "exact-trees"

    @property
    def background_rows(self) -> int:
        """How many rows of training the values compare with."""
        return len(self._background if self._structure is not None else self._background[:FEW_ROWS])

    def rows_within(self, seconds: float, clock: Callable[[], float] = time.monotonic) -> int | None:
        """How many rows may be explained in about so long; None where the model need not be asked, so any number."""
        if self._structure is not None:
            return None
        few, columns = self._background[:FEW_ROWS], self._background.shape[1]
        self._score(few)  # the first run is slower
        began = clock()
        self._score(few)
        each = (clock() - began) / len(few)
        asked = 2**columns * len(few) if self.method == "exact-enumeration" else 2 * ORDERS * (columns + 1)
        return int(seconds / max(each * asked, 1e-9))

    @property
    def score_name(self) -> str:
        """What the values add up to, in words."""
        policy = self._policy
        if policy.task == "regression":
            return "prediction before its link"
        named = policy.positive if policy.task == "binary" and policy.positive else "the predicted class"
        return f"raw score of {named}, before link and calibration"

    def explain(self, rows: NDArray[np.float32], picked: NDArray[np.intp] | None = None) -> Values:
        """Values of each row and column.

        Args:
            rows: shape (n, columns).
            picked: shape (n,), the class whose score is explained, of several; two classes: the positive one's.
        """
        values, scores, base = self._all(rows)
        width = values.shape[2]
        if width == 1:
            sign = -1.0 if self._is_first_positive else 1.0
            return Values(sign * values[:, :, 0], sign * scores[:, 0], float(sign * base[0]))
        if self._policy.task == "binary":
            up, down = (0, 1) if self._is_first_positive else (1, 0)
            pair = (values[:, :, up] - values[:, :, down], scores[:, up] - scores[:, down])
            return Values(*pair, float(base[up] - base[down]))
        at = np.arange(len(rows))
        chosen = np.zeros(len(rows), dtype=np.intp) if picked is None else picked
        return Values(values[at, :, chosen], scores[at, chosen], base[chosen])

    @property
    def _is_first_positive(self) -> bool:
        policy = self._policy
        return policy.task == "binary" and policy.positive is not None and policy.classes.index(policy.positive) == 0

    def _all(self, rows: NDArray[np.float32]) -> tuple[Floats, Floats, Floats]:
        """Values (n, columns, outputs), scores (n, outputs) and base (outputs,)."""
        structure, columns = self._structure, rows.shape[1]
        if structure is None:
            return self._all_by_runs(rows)
        inputs = self._run_inputs(rows)
        if structure.forest is not None:
            found = tree_values(structure.forest, inputs, self._known, structure.origins)
            scores, base = structure.forest.score(inputs), structure.forest.score(self._known).mean(axis=0)
        else:
            weights = np.zeros((0, 0)) if structure.weights is None else structure.weights
            offset = 0.0 if structure.offset is None else structure.offset
            found = linear_values(inputs, self._known, weights, structure.origins)
            scores, base = inputs @ weights + offset, (self._known @ weights).mean(axis=0) + offset
        values = np.zeros((len(rows), columns, found.shape[2]))
        values[:, : found.shape[1]] = found
        return values, scores, base

    def _all_by_runs(self, rows: NDArray[np.float32]) -> tuple[Floats, Floats, Floats]:
        few = self._background[:FEW_ROWS]
        if self.method == "exact-enumeration":
            values = enumerated_values(self._score, rows, few)
        else:
            values = sampled_values(self._score, rows, few, orders=ORDERS, seed=self._seed)
        return values, self._score(rows), self._score(few).mean(axis=0)

    def _score(self, rows: NDArray[np.float32]) -> Floats:
        """Numbers as the model gives them, or logarithms of probabilities; shape (n, outputs)."""
        try:
            parts = [self._runtime.run(rows[start : start + RUN_ROWS]) for start in range(0, len(rows), RUN_ROWS)]
        except ModelError as error:
            raise EvidenceError(f"the model gives no answer: {error}; mend its code") from None
        outputs = np.concatenate(parts).astype(np.float64).reshape(len(rows), -1)
        return outputs if self._policy.task == "regression" else np.log(np.clip(outputs, CLIP, 1.0))

    def _run_inputs(self, rows: NDArray[np.float32]) -> Floats:
        return np.asarray(self._inputs.run(None, {INPUT: rows})[0], np.float64)


def _usable(structure: Structure | None) -> Structure | None:
    """None where paths could ask for more columns than can be told apart."""
    if structure is None or len(set(structure.origins.tolist())) > MAX_PLAYERS:
        return None
    return structure
