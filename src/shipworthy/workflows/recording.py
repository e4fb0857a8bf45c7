"""Records of many rows that one release answered, from columns: what `serving.answer` records of each."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray

from shipworthy.bundle.format import ContextField, FeatureField
from shipworthy.records.bulk import (
    Piece,
    array_of,
    bools,
    constant,
    floats,
    frame_rows,
    ints,
    map_of,
    mixed,
    picked,
    texts,
    where,
)
from shipworthy.records.format import Framed
from shipworthy.serving.policy import Decisions
from shipworthy.serving.servable import Servable


@dataclass(frozen=True, slots=True)
class Occasion:
    """What the records of one chunk have in common."""

    environment: str
    worker: str
    time: float  # Unix seconds
    latency_ms: float


def record_rows(
    servable: Servable,
    decided: Decisions,
    sent: Mapping[str, pl.Series],
    prediction_ids: Sequence[str],
    ids: Sequence[str],
    occasion: Occasion,
) -> list[Framed]:
    """The framed record of each of n rows that the model answered and that needed nothing special.

    Args:
        servable: the release that answered.
        decided: n valid rows.
        sent: features and context as JSON has them, by name; n values each, null where missing.
        prediction_ids: n new ids.
        ids: of the requests.
        occasion: when and where.
    """
    policy, schema = servable.policy, servable.schema
    inputs, _ = _fields(schema.features, sent)
    context, given = _fields(schema.context, sent)
    has_context, review = given > 0, decided.review
    entries: list[tuple[str, Piece]] = [
        ("prediction_id", texts(prediction_ids)),
        ("time", constant(occasion.time)),
        ("system", constant(servable.system)),
        ("release", constant(servable.release)),
        ("environment", constant(occasion.environment)),
        ("worker", constant(occasion.worker)),
        ("id", texts(ids)),
        ("inputs", inputs),
    ]
    pieces = [_entry(name, piece) for name, piece in entries]
    pieces.append(where(has_context, _entry("context", context)))
    entries = [("prediction", _prediction(policy.classes, decided))]
    if decided.probability is not None:
        entries.append(("probability", _probability(policy.classes, decided.probability)))
    if decided.interval is not None:
        sides = [floats(decided.interval[:, side]) for side in (0, 1)]
        entries.append(("interval", (array_of(2), *sides)))
    entries += [("confidence", floats(decided.confidence)), ("decision", mixed(decided.decision))]
    pieces += [_entry(name, piece) for name, piece in entries]
    pieces.append(where(review, _entry("handling", constant("review"))))
    pieces.append(_entry("latency_ms", constant(occasion.latency_ms)))
    always = 12 + (decided.probability is not None) + (decided.interval is not None)
    varying = has_context.astype(np.int64) + review
    head = map_of(always + int(varying[0])) if (varying == varying[0]).all() else map_of(always + varying)
    return frame_rows((head, *pieces), len(prediction_ids))


def _entry(name: str, piece: Piece) -> Piece:
    return constant(name), piece


def _prediction(classes: Sequence[str], decided: Decisions) -> Piece:
    return mixed(decided.prediction) if decided.index is None else picked(classes, decided.index)


def _probability(classes: Sequence[str], probability: NDArray[np.float64]) -> Piece:
    pairs = [piece for place, name in enumerate(classes) for piece in (constant(name), floats(probability[:, place]))]
    return map_of(len(classes)), *pairs


def _fields(
    fields: Sequence[FeatureField] | Sequence[ContextField], sent: Mapping[str, pl.Series]
) -> tuple[Piece, NDArray[np.int64]]:
    """The map of what is given of some fields, and how many are, in each row."""
    rows = len(next(iter(sent.values()))) if sent else 0
    given = np.zeros(rows, dtype=np.int64)
    pieces: list[Piece] = []
    for field in fields:
        present = sent[field.name].is_not_null().to_numpy()
        given += present
        if present.any():
            pieces.append(where(present, _entry(field.name, _values(field, sent[field.name]))))
    head = map_of(int(given[0]) if rows and (given == given[0]).all() else given)
    return (head, *pieces), given


def _values(field: FeatureField | ContextField, values: pl.Series) -> Piece:
    """What is sent of one field; where it is missing, anything."""
    match field.kind:
        case "float":
            return floats(values.fill_null(0.0).to_numpy())
        case "int":
            return ints(values.fill_null(0).to_numpy())
        case "bool":
            return bools(values.fill_null(False).to_numpy())
        case "category" if field.values:
            labels = values.fill_null(field.values[0]).cast(pl.Enum(list(field.values)))
            return picked(field.values, labels.to_physical().to_numpy().astype(np.intp))
        case _:
            return texts(values.fill_null("").to_list())
