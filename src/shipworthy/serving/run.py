"""A run of a model: what the policy says of each row, or why nothing."""

import logging
from collections.abc import Sequence

import numpy as np

from shipworthy.bundle.format import Policy
from shipworthy.kernel.errors import ModelError, ModelFault
from shipworthy.serving.decode import Sample
from shipworthy.serving.policy import Decided, decide
from shipworthy.serving.servable import Servable

FAILED, LATE, INVALID = "the model failed", "the model was late", "the model gave no usable output"
RESTING = "the model rests after it failed"
UNLIKE = "out of distribution"  # the model could have answered: nothing is wrong with it
FAILURES = frozenset({FAILED, LATE, INVALID, RESTING})  # of the model, where another might answer
_CAUSES: dict[ModelFault, str] = {"raised": FAILED, "ended": FAILED, "late": LATE, "resting": RESTING}

_log = logging.getLogger("shipworthy.serving")


def infer(servable: Servable, samples: Sequence[Sample]) -> list[Decided | str]:
    """What the policy says of each sample, or why nothing.

    A run that raises is done again row by row; one that ended the model's process is not: who knows which row it was.

    Args:
        servable: the release that answers.
        samples: at most `MAX_RUN_ROWS`.
    """
    matrix = np.array([sample.floats for sample in samples], dtype=np.float32)
    try:
        outputs = servable.runtime.run(matrix)
    except Exception as error:  # noqa: BLE001 (whatever a model raises costs its rows, not the server)
        fault = error.fault if isinstance(error, ModelError) else "raised"
        if fault == "raised" and len(samples) > 1:
            return [result for sample in samples for result in infer(servable, [sample])]
        if fault == "raised":
            _log.warning("%s failed on a row: %s", servable.release, type(error).__name__)
        return [_CAUSES[fault]] * len(samples)
    found = [INVALID if row is None else row for row in decide(servable.policy, outputs, len(samples)).rows()]
    if servable.sentinel is not None:
        for place, words in servable.sentinel.judge(matrix).items():
            found[place] = _handle_unlike(servable.policy, samples[place], found[place], words)
    return found


def _handle_unlike(policy: Policy, sample: Sample, found: Decided | str, words: str) -> Decided | str:
    """What becomes of a row that is out of distribution: said, and as the policy wants it."""
    sample.is_unlike = True
    if policy.out_of_distribution == "review":
        sample.send_to_review(words)
    else:
        sample.warn(words)
    return UNLIKE if policy.out_of_distribution == "fallback" and not isinstance(found, str) else found
