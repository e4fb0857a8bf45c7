"""What a user's training function is told beside its rows."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class TrainingContext:
    """The third argument of `train(frame, params, context)`."""

    features: list[str]  # the model's inputs in order; train on exactly these columns of the frame
    categories: dict[str, tuple[str, ...]]  # a categorical column holds the index into these values
    target: str  # the target's column: class index, or a number
    task: Literal["binary", "multiclass", "regression"]
    classes: tuple[str, ...]  # in the order of the target's indices; empty for regression
    seed: int
