"""Infer: what each column of a table most likely is, with every doubtful guess listed for review.

Pure guesses by rules that a reader can follow; nothing is asked. A column that is no use to a model, or that
gives the target away, is left out with its reason.
"""

import math
import re
from collections.abc import Collection, Sequence
from dataclasses import replace

import numpy as np
import polars as pl

from shipworthy.contract.expressions import MISSING, did_you_mean
from shipworthy.data.datetimes import Format, detect_format
from shipworthy.data.guesses import GIVES_AWAY, Goal, Guess, Inference, numbers_of, short, texts_of
from shipworthy.data.review import review
from shipworthy.data.values import EXACT_WHOLE
from shipworthy.kernel.errors import DataError, UsageError
from shipworthy.stats.metrics import roc_auc

MOST_CATEGORIES = 50  # beyond them a text says too little about each group, and a contract is unreadable
MOST_CLASSES = 20  # more distinct whole numbers are a quantity, not classes
FITTING_SHARE = 0.95  # of the values that must be of a type; the rest goes to quarantine
SAMPLE_ROWS = 50_000  # for leaks: enough to tell an AUC of 1 from 0.99
LEAK_AUC = 0.9995  # a single honest column does not part two classes so well
LEAK_CORRELATION = 0.99995
LEAK_ROWS = 50  # with fewer rows a perfect column is often chance
MOST_CHARACTERS = 200  # of a label; a longer text is prose, and a contract of them unreadable
RARE_ROWS = 20  # a class of fewer cannot be learnt, and hardly judged
SHOWN_NAMES = 50  # of columns in a message
NAMES_ROWS = "names each row"
ALMOST_SHARE = 0.5  # of the texts that are numbers, for the rest to be worth a word
SOME_SHARE = 0.2  # of the texts that are dates of one format
_UNITS = r"[$€£¥%'\s]|\b(?:USD|EUR|GBP|CHF|JPY)\b"  # what stands with a number in a text: signs, blanks, currencies
_THOUSANDS = r"[.,](\d{3})\b"
_PROTECTED = re.compile(
    r"(^|_)(sex|gender|race|ethnic\w*|religion|nationality|disab\w+|age_?(group|band|range|bracket)|marital\w*)(_|$)"
)
_KEY = re.compile(r"(?i:(^|_)(id|uuid|guid|key)(_|$))|[a-z](Id|ID)$")
_TIME = re.compile(r"(^|_)(time|date|datetime|timestamp|at|on|created|when)(_|$)")
_BIRTH = re.compile(r"birth|(^|_)dob(_|$)")
_POSITIVE = ("1", "1.0", "yes", "y", "true", "t", "positive", "pos", "+", "bad", "fraud", "default", "churned", "spam")


def infer(
    frame: pl.DataFrame,
    target: str,
    time: str | None = None,
    key: str | None = None,
    protected: Sequence[str] = (),
) -> Inference:
    """Guess the place, type, range and categories of every column.

    Args:
        frame: as it was read; text columns, or typed ones.
        target: the column to predict.
        time: when a row came to be; guessed when None.
        key: names a row; guessed when None.
        protected: columns that part people in groups; more are guessed by their names.

    Raises:
        UsageError: a named column does not exist, or cannot be what it is said to be.
        DataError: the target has no value, one value, a class of one row, or too many texts; or no column is
            left to learn from.
    """
    for name in (target, *filter(None, (time, key)), *protected):
        _judge_name(name, frame)
    goal = _target(frame, target)
    known = frame.filter(goal.rows)
    guesses = [_column(known[name], time, key, protected) for name in frame.columns if name != target]
    guesses = _with_time(_with_key(guesses, known, key), known, time)
    guesses = _without_leaks(guesses, known, goal)
    if not any(guess.place == "feature" for guess in guesses):
        raise DataError(
            f"no column is left to predict {target} from: "
            + "; ".join(f"{guess.name}: {guess.why or guess.place}" for guess in guesses)
        )
    by_name = {guess.name: guess for guess in (*guesses, goal.guess)}
    columns = tuple(by_name[name] for name in frame.columns)
    found = Inference(columns, target, goal.task, goal.classes, goal.positive, goal.usual)
    return replace(found, review=tuple(review(found, frame, goal)))


def _judge_name(name: str, frame: pl.DataFrame) -> None:
    if name not in frame.columns:
        known = ", ".join(frame.columns[:SHOWN_NAMES])
        more = f" and {frame.width - SHOWN_NAMES} more" if frame.width > SHOWN_NAMES else ""
        raise UsageError(f"the data has no column {name!r}; it has {known}{more}{did_you_mean(name, frame.columns)}")


# --- the target


def _target(frame: pl.DataFrame, name: str) -> Goal:
    texts = texts_of(frame[name])
    present = texts.drop_nulls()
    if not len(present):
        raise DataError(f"the target {name} has no value in any of {frame.height} rows; choose another --target")
    counts = dict(present.value_counts(sort=True).iter_rows())
    if len(counts) == 1:
        raise DataError(
            f"the target {name} is {short(present[0])} in every row{_without_truth(frame[name])}; "
            "there is nothing to learn"
        )
    numbers = numbers_of(frame[name])
    numeric = _known(numbers) >= FITTING_SHARE * len(present)
    if len(counts) == 2 or (len(counts) <= MOST_CLASSES and not (numeric and _has_fraction(frame[name], numbers))):
        return replace(_classes(name, texts, counts), absent=_words_for_missing(frame[name]))
    if numeric:
        return _regression(name, numbers)
    raise DataError(
        f"the target {name} has {len(counts)} distinct texts, such as {short(present[0])}: too many for classes, and "
        f"no numbers; choose another --target, or group them into at most {MOST_CLASSES}"
    )


def _without_truth(series: pl.Series) -> str:
    """The words that stand where a value is missing, with what to do if one is a class."""
    words = _words_for_missing(series)
    if not words:
        return " that has a value" if series.null_count() else ""
    return f" that has a value; {words} means missing: where it is a class, write it as another word"


def _words_for_missing(series: pl.Series) -> str:
    if series.dtype != pl.String:
        return ""
    trimmed = series.str.strip_chars().unique()
    return " or ".join(map(short, sorted(trimmed.filter(trimmed.is_in(MISSING) & (trimmed != "")).to_list())))


def _judge_labels(name: str, labels: Collection[str]) -> None:
    longest = max(labels, key=len)
    if len(longest) > MOST_CHARACTERS:
        raise DataError(
            f"a label of {name} has {len(longest)} characters, {short(longest)}; a label has at most "
            f"{MOST_CHARACTERS}: choose another column, or shorten its labels"
        )


def _classes(name: str, texts: pl.Series, counts: dict[str, int]) -> Goal:
    single = [label for label, count in counts.items() if count == 1]
    if single:
        others = f", as have {len(single) - 1} others" if len(single) > 1 else ""
        raise DataError(
            f"class {short(single[0])} of the target {name} has one row{others}; gather more, merge it with another "
            "class, or take the row out"
        )
    _judge_labels(name, counts)
    classes = _ordered(list(counts))
    positive = None
    if len(classes) == 2:
        rarer = min(classes, key=lambda label: counts[label])
        positive = next((label for label in reversed(classes) if label.lower() in _POSITIVE), rarer)
    return Goal(
        guess=Guess(name, "target", "category", values=classes, missing=_missing(texts)),
        task="binary" if positive is not None else "multiclass",
        truth=texts.drop_nulls(),
        rows=texts.is_not_null(),
        classes=classes,
        positive=positive,
        usual=max(classes, key=lambda label: counts[label]),
        rare={label: count for label, count in counts.items() if count < RARE_ROWS},
    )


def _regression(name: str, numbers: pl.Series) -> Goal:
    truth = numbers.drop_nulls()
    return Goal(
        guess=Guess(name, "target", "float", missing=_missing(numbers)),
        task="regression",
        truth=truth,
        rows=numbers.is_not_null(),
        classes=(),
        positive=None,
        usual=float(f"{np.median(truth.to_numpy()):.6g}"),
    )


# --- one column


def _column(series: pl.Series, time: str | None, key: str | None, protected: Collection[str]) -> Guess:
    name, texts = series.name, texts_of(series)
    if not _known(texts):
        return Guess(name, "left out", "text", "has no value in any row", missing=1.0)
    if name == key:
        return Guess(name, "key", "text", missing=_missing(texts))
    if name == time:
        return _asked_time(series, texts)
    if name in protected:
        return _group(name, texts)
    numbers = numbers_of(series)
    if _known(numbers) >= FITTING_SHARE * _known(texts):
        return _number(series, texts, numbers)
    return _label(series, texts)


def _number(series: pl.Series, texts: pl.Series, numbers: pl.Series) -> Guess:
    whole = not _has_fraction(series, numbers)
    known = numbers.drop_nulls().to_numpy()
    least, most = float(known.min()), float(known.max())
    if whole and (_is_coded(texts) or (_is_group(series.name) and most - least < MOST_CATEGORIES)):
        return _label(series, texts)
    name, missing = series.name, _missing(texts)
    if least == most:
        return Guess(name, "left out", "text", f"is {least:g} wherever it has a value")
    if whole and _counts_rows(numbers):
        return Guess(name, "left out", "int", "numbers the rows")
    if whole and _KEY.search(name) and texts.n_unique() > 0.9 * len(texts):
        return Guess(name, "left out", "int", NAMES_ROWS, missing=missing)
    if whole and max(-least, most) >= EXACT_WHOLE:
        why = "holds whole numbers of 2**53 and more, which a model cannot tell apart"
        return Guess(name, "left out", "int", why, missing=missing)
    strays = _known(texts) - len(known)
    bounds = widened(least, most, whole=whole)
    return Guess(name, "feature", "int" if whole else "float", range=bounds, missing=missing, strays=strays)


def _label(series: pl.Series, texts: pl.Series) -> Guess:
    name, missing, present = series.name, _missing(texts), texts.drop_nulls()
    found = _format(series, texts)
    if found is not None or series.dtype.is_temporal():
        why = "is a datetime; a model sees only parts of it, such as hour(…) in a derived column"
        return Guess(name, "left out", "datetime", why, missing=missing, format=found.pattern if found else None)
    distinct = present.n_unique()
    if distinct == 1:
        return Guess(name, "left out", "text", f"is {short(present[0])} wherever it has a value")
    if series.dtype == pl.Boolean or (distinct == 2 and _is_truth(present)):
        return Guess(name, "feature", "bool", missing=missing)
    if _is_group(name) and distinct <= MOST_CATEGORIES:
        return _group(name, texts)
    longest = present.str.len_chars().max()
    if isinstance(longest, int) and longest > MOST_CHARACTERS:
        return Guess(name, "left out", "text", f"holds texts of up to {longest} characters", missing=missing)
    if distinct <= MOST_CATEGORIES and (distinct <= 3 or distinct <= len(present) / 5):
        return Guess(name, "feature", "category", values=_ordered(present.unique().to_list()), missing=missing)
    almost = _almost(series, present)
    if distinct == len(present) and not almost and not present.str.contains(r"\s").any():
        return Guess(name, "left out", "text", NAMES_ROWS, missing=missing)
    why = f"holds {distinct} distinct texts, such as {short(present[0])}{almost}"
    return Guess(name, "left out", "text", why, missing=missing)


def _almost(series: pl.Series, present: pl.Series) -> str:
    """What a column of texts would be if it were written otherwise, or nothing."""
    share = _known(numbers_of(series)) / len(present)
    if share >= ALMOST_SHARE:
        return f"; {share:.1%} of them are numbers: clear the others to have it as a feature"
    bare = present.str.replace_all(_UNITS, "").str.replace_all(_THOUSANDS, "$1").str.replace(",", ".", literal=True)
    if _known(bare.cast(pl.Float64, strict=False)) >= FITTING_SHARE * len(present):
        return "; write plain numbers, such as 1234.5, to have it as a feature"
    found = detect_format(present) if series.dtype == pl.String else None
    if found is not None and found.ambiguous:
        return "; whether day or month comes first cannot be told: write year-month-day"
    if found is not None and found.share >= SOME_SHARE:
        return f"; {found.share:.1%} of them are dates as {found.pattern}: write all in one format"
    return ""


def _is_group(name: str) -> bool:
    return _PROTECTED.search(name.lower()) is not None


def _group(name: str, texts: pl.Series) -> Guess:
    distinct = texts.drop_nulls().n_unique()
    if distinct > MOST_CATEGORIES:
        raise UsageError(
            f"the protected column {name} has {distinct} distinct values; such columns part people in groups, so make "
            f"one with at most {MOST_CATEGORIES}, such as age groups"
        )
    counts = dict(texts.drop_nulls().value_counts(sort=True).iter_rows())
    values = _ordered(list(counts))
    reference = max(values, key=lambda value: counts[value])
    return Guess(name, "protected", "category", values=values, missing=_missing(texts), reference=reference)


def _asked_time(series: pl.Series, texts: pl.Series) -> Guess:
    found = _format(series, texts)
    if found is None and not series.dtype.is_temporal():
        shown = short(texts.drop_nulls()[0])
        raise UsageError(
            f"the time column {series.name} holds no dates of one known format, such as {shown}; write "
            "year-month-day, such as 2026-03-31 or 2026-03-31T14:00:00Z"
        )
    return Guess(series.name, "time", "datetime", missing=_missing(texts), format=found.pattern if found else None)


def widened(least: float, most: float, *, whole: bool) -> tuple[float, float]:
    """A range of round numbers around what was observed, with room of a tenth; it never crosses 0 for room
    and begins there where the least is far below the most.

    >>> widened(18, 90, whole=True), widened(0, 1, whole=True), widened(0.2, 0.93, whole=False)
    ((0.0, 100.0), (0.0, 1.0), (0.0, 1.0))
    """
    if least >= 0 and 0.5 < most <= 1:
        return 0.0, 1.0
    span = most - least or abs(most) or 1.0
    power = 10.0 ** math.floor(math.log10(span / 10))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= span / 10)
    step = max(step, 1.0) if whole else step
    low, high = math.floor((least - span / 10) / step), math.ceil((most + span / 10) / step)
    low, high = (max(low, 0) if least >= 0 else low), (min(high, 0) if most <= 0 else high)
    low = 0 if 0 <= least <= most / 2 else low  # amounts and counts begin at nothing
    return _round(low, step), _round(high, step)


def _round(count: int, step: float) -> float:
    return float(f"{count * step:.12g}")


# --- reading


def _known(series: pl.Series) -> int:
    return len(series) - series.null_count()


def _missing(series: pl.Series) -> float:
    return series.null_count() / max(len(series), 1)


def _has_fraction(series: pl.Series, numbers: pl.Series) -> bool:
    """Whether numbers are written with a point, have a fraction, or a type that allows one."""
    if series.dtype != pl.String:
        return not series.dtype.is_integer()
    return bool((series.str.contains(".", literal=True) & numbers.is_not_null()).any() or (numbers % 1 != 0).any())


def _is_coded(texts: pl.Series) -> bool:
    """Whether whole numbers are codes such as 007, whose zeros mean something."""
    return bool((texts.str.starts_with("0") & (texts.str.len_bytes() > 1)).any())


def _is_truth(texts: pl.Series) -> bool:
    return set(texts.drop_nulls().str.to_lowercase().unique().to_list()) == {"true", "false"}


def _counts_rows(numbers: pl.Series) -> bool:
    if numbers.null_count() or len(numbers) < 3:
        return False
    values = numbers.to_numpy()
    return bool(values[0] in (0, 1) and (np.diff(values) == 1).all())


def _format(series: pl.Series, texts: pl.Series) -> Format | None:
    if series.dtype != pl.String:
        return None
    found = detect_format(texts)
    return found if found is not None and found.share >= FITTING_SHARE and not found.ambiguous else None


def _ordered(labels: Sequence[str]) -> tuple[str, ...]:
    """As numbers where all are, else alphabetically."""
    try:
        return tuple(sorted(labels, key=lambda label: (float(label), label)))
    except ValueError:
        return tuple(sorted(labels))


# --- between columns


def _with_key(guesses: list[Guess], frame: pl.DataFrame, key: str | None) -> list[Guess]:
    """The first column that names each row becomes the key, if none was named."""
    if key is not None:
        return guesses
    for at, guess in enumerate(guesses):
        if guess.why == NAMES_ROWS and not guess.missing and frame[guess.name].n_unique() == frame.height:
            return [*guesses[:at], replace(guess, place="key", kind="text", why=""), *guesses[at + 1 :]]
    return guesses


def _with_time(guesses: list[Guess], frame: pl.DataFrame, time: str | None) -> list[Guess]:
    """The most likely datetime becomes the time, if none was named: by its name, else the first."""
    moments = [guess for guess in guesses if guess.kind == "datetime" and not _BIRTH.search(guess.name.lower())]
    likely = [guess for guess in moments if guess.missing <= 1 - FITTING_SHARE and frame[guess.name].n_unique() >= 10]
    if time is not None or not likely:
        return guesses
    chosen = next((guess for guess in likely if _TIME.search(guess.name.lower())), likely[0])
    return [replace(guess, place="time", why="") if guess is chosen else guess for guess in guesses]


def _without_leaks(guesses: list[Guess], frame: pl.DataFrame, goal: Goal) -> list[Guess]:
    """Columns that tell the target outright are left out, unless nothing would be left."""
    if frame.height < LEAK_ROWS:
        return guesses
    every = max(1, frame.height // SAMPLE_ROWS)
    sample, truth = frame.gather_every(every), goal.truth.gather_every(every)
    found = {guess.name: _leak(guess, sample, truth, goal) for guess in guesses if guess.place == "feature"}
    if all(found.values()):
        return guesses
    return [
        replace(guess, place="left out", why=f"{GIVES_AWAY}: {found[guess.name]}") if found.get(guess.name) else guess
        for guess in guesses
    ]


def _leak(guess: Guess, frame: pl.DataFrame, truth: pl.Series, goal: Goal) -> str:
    """How the column gives the target away, or nothing."""
    texts = texts_of(frame[guess.name])
    if goal.task == "regression":
        return _numeric_leak(numbers_of(frame[guess.name]), truth) if guess.kind in ("float", "int") else ""
    distinct = texts.n_unique()
    if distinct <= MOST_CATEGORIES and _is_pure(texts, truth):
        return "each of its values goes with one class"
    if goal.task == "binary" and guess.kind in ("float", "int"):
        area = _area(numbers_of(frame[guess.name]), truth == goal.positive)
        if max(area, 1 - area) >= LEAK_AUC:
            return f"alone it parts the classes with an AUC of {max(area, 1 - area):.4f}"
    return ""


def _is_pure(texts: pl.Series, truth: pl.Series) -> bool:
    pairs = pl.DataFrame({"value": texts.fill_null("\0missing"), "class": truth}).unique()
    return pairs.height == pairs["value"].n_unique() and truth.n_unique() > 1


def _area(numbers: pl.Series, positive: pl.Series) -> float:
    """AUC of the column as a score; missing counts as lowest."""
    lowest = numbers.min()
    scores = numbers.fill_null(float(lowest) - 1 if isinstance(lowest, float) else 0.0).to_numpy()
    return roc_auc(positive.to_numpy(), scores)


def _numeric_leak(numbers: pl.Series, truth: pl.Series) -> str:
    both = numbers.is_not_null()
    x, y = numbers.filter(both).to_numpy(), truth.filter(both).to_numpy()
    if len(x) < LEAK_ROWS or not np.ptp(x) or not np.ptp(y):
        return ""
    correlation = float(np.corrcoef(x, y)[0, 1])
    return f"its correlation with the target is {correlation:.5f}" if abs(correlation) >= LEAK_CORRELATION else ""
