"""Review: what a person should look at, for a machine can only guess."""

import re
from collections.abc import Iterator

import polars as pl

from shipworthy.data.guesses import GIVES_AWAY, Goal, Guess, Inference, numbers_of, short

FAR_TIMES = 10  # as large as any other value: a measured one rarely stands so alone


def review(found: Inference, frame: pl.DataFrame, goal: Goal) -> Iterator[str]:
    """What a person should look at, in the table's order.

    Args:
        found: what was inferred.
        frame: the rows that it was inferred from.
        goal: the target.
    """
    yield from _target_notes(goal)
    for guess in found.columns:
        yield from _notes(guess, frame)
    if not any(guess.place == "time" for guess in found.columns):
        yield "no time column: rows are parted at random, which flatters a model where the world changes"
    else:
        yield "target.known_after: say how long after a row its truth is known, so that nothing learns from the future"


def _called(words: str) -> str:
    return f", or {words}, which means missing unless target.values lists it," if words else ""


def _target_notes(goal: Goal) -> Iterator[str]:
    if goal.task == "binary":
        yield f'target: "{goal.positive}" is taken as the positive class, whose probability is thresholded'
    elif goal.task == "multiclass":
        numeric = all(label.replace(".", "", 1).isdigit() for label in goal.classes)
        amounts = "; if they are amounts, make it type: regression" if numeric else ""
        yield f"target: {len(goal.classes)} classes{amounts}"
    for label, count in goal.rare.items():
        yield f"target: class {short(label)} has {count} rows, too few to be learnt; gather more, or merge classes"
    if goal.guess.missing:
        yield f"target: {goal.guess.missing:.2%} of the rows have none{_called(goal.absent)} and go to quarantine"


def _notes(guess: Guess, frame: pl.DataFrame) -> Iterator[str]:
    if guess.place == "protected":
        yield f"{guess.name}: protected, so the model does not see it; compared with the group {guess.reference!r}"
    elif guess.place == "key" and frame[guess.name].n_unique() < frame.height:
        repeated = frame.height - frame[guess.name].n_unique()
        yield f"{guess.name}: {repeated} rows repeat an earlier key or have none, and go to quarantine"
    elif guess.place == "time" and guess.format is not None and "z" not in guess.format:
        yield f"{guess.name}: written without a time zone, read as UTC; declare its zone, such as America/New_York"
    elif guess.place == "left out" and guess.why.startswith(GIVES_AWAY):
        yield f"{guess.name}: left out, for it {guess.why}; take it in only if it is known before the truth is"
    elif guess.place == "feature" and re.search(r"(^|_)age(_|$)", guess.name.lower()):
        yield f"{guess.name}: the model sees it; where age must not decide, move it to context as age groups"
    if guess.place == "feature" and guess.kind in ("float", "int"):
        yield from _far_note(guess.name, numbers_of(frame[guess.name]))
    if guess.strays:
        yield f"{guess.name}: {guess.strays} values are no numbers; their rows go to quarantine"


def _far_note(name: str, numbers: pl.Series) -> Iterator[str]:
    """A word on a single value that is far beyond all others, as codes for missing are: 999, -1000000."""
    distinct = numbers.drop_nulls().unique()
    if len(distinct) < 3:
        return
    sizes = distinct.abs().sort(descending=True)
    if sizes[0] >= FAR_TIMES * sizes[1] > 0:
        far = distinct.filter(distinct.abs() == sizes[0])[0]
        others = distinct.filter(distinct != far).to_numpy()
        rows = int((numbers == far).sum())
        yield (
            f"{name}: {far:g} in {rows:,} row{'s' if rows != 1 else ''} is far from all others ({others.min():g} to "
            f"{others.max():g}); if it is a code, narrow the range, so that such rows go to quarantine"
        )
