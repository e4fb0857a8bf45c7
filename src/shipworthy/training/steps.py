"""The usual scikit-learn steps and linear models, written operator by operator in float64.

scikit-learn computes in float64 where it is handed float64; the same operations in the same width give the same
answers, which float32 converters do not.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto

from shipworthy.training.graph import Graph, Link

LINEAR: dict[str, Link] = {
    "LogisticRegression": "sigmoid",  # softmax with more than two classes
    "LogisticRegressionCV": "sigmoid",
    "LinearRegression": "identity",
    "Ridge": "identity",
    "RidgeCV": "identity",
    "Lasso": "identity",
    "LassoCV": "identity",
    "ElasticNet": "identity",
    "ElasticNetCV": "identity",
    "HuberRegressor": "identity",
    "SGDRegressor": "identity",
    "PoissonRegressor": "exp",
    "GammaRegressor": "exp",
}


@dataclass(frozen=True, slots=True)
class _Tensor:
    """A float64 tensor of the graph, shape (n, width)."""

    name: str
    width: int


def is_linear(model: Any) -> bool:
    """Whether `add_linear` knows the model."""
    return _is_sklearn(model) and type(model).__name__ in LINEAR


def is_writable(step: Any) -> bool:
    """Whether `add_steps` knows the transformer with the settings that it has."""
    if step is None or isinstance(step, str):
        return step in (None, "passthrough", "drop")
    name = type(step).__name__
    if not _is_sklearn(step) or name not in _WRITERS:
        return False
    if name == "Pipeline":
        return all(is_writable(inner) for _, inner in step.steps)
    if name == "ColumnTransformer":
        return all(is_writable(inner) for _, inner, _ in step.transformers_)
    if name == "SimpleImputer":
        return _is_nan(step.missing_values) and all(
            isinstance(value, int | float | np.number) for value in step.statistics_
        )
    if name == "FunctionTransformer":
        return step.func is None
    if name == "OneHotEncoder":
        return not step._infrequent_enabled and all(np.asarray(c).dtype.kind in "fiu" for c in step.categories_)
    return not getattr(step, "clip", False)


def add_steps(graph: Graph, steps: Sequence[Any]) -> None:
    """Append transformers that are `is_writable`, one behind the other."""
    found = _Tensor(graph.last, graph.width)
    for step in steps:
        found = _write(graph, step, found)
    graph.last, graph.width = found.name, found.width


def add_linear(graph: Graph, model: Any) -> None:
    """Append a linear model and its link.

    Raises:
        ConversionError: the link cannot give the answer that the task asks for.
    """
    weights = np.atleast_2d(np.asarray(model.coef_, np.float64)).T
    outputs = weights.shape[1]
    offset = np.broadcast_to(np.asarray(model.intercept_, np.float64).ravel(), (outputs,))
    matrix, bias = graph.constant("weights", np.ascontiguousarray(weights)), graph.constant("offset", offset.copy())
    product = graph.op("MatMul", [graph.last, matrix], "product")
    graph.last = graph.op("Add", [product, bias], "sum")
    link = LINEAR[type(model).__name__]
    graph.answer("softmax" if link == "sigmoid" and outputs > 1 else link, outputs)


def _is_sklearn(model: Any) -> bool:
    return type(model).__module__.startswith("sklearn.")


def _is_nan(value: Any) -> bool:
    return isinstance(value, float) and value != value


def _name(graph: Graph, word: str) -> str:
    return f"{word}.{len(graph.nodes)}"


def _write(graph: Graph, step: Any, source: _Tensor) -> _Tensor:
    if step is None or isinstance(step, str):
        return source
    return _WRITERS[type(step).__name__](graph, step, source)


def _take(graph: Graph, source: _Tensor, columns: Sequence[int]) -> _Tensor:
    if list(columns) == list(range(source.width)):
        return source
    index = graph.constant(_name(graph, "columns"), np.array(columns, np.int64))
    return _Tensor(graph.op("Gather", [source.name, index], _name(graph, "taken"), axis=1), len(columns))


def _join(graph: Graph, parts: Sequence[_Tensor]) -> _Tensor:
    kept = [part for part in parts if part.width]
    if len(kept) == 1:
        return kept[0]
    name = graph.op("Concat", [part.name for part in kept], _name(graph, "joined"), axis=1)
    return _Tensor(name, sum(part.width for part in kept))


def _row(graph: Graph, word: str, values: Any) -> str:
    return graph.constant(_name(graph, word), np.asarray(values, np.float64).reshape(1, -1))


def _pipeline(graph: Graph, step: Any, source: _Tensor) -> _Tensor:
    for _, inner in step.steps:
        source = _write(graph, inner, source)
    return source


def _same(graph: Graph, step: Any, source: _Tensor) -> _Tensor:  # noqa: ARG001 - a writer's signature
    return source


def _column_transformer(graph: Graph, step: Any, source: _Tensor) -> _Tensor:
    parts = []
    for name, inner, _ in step.transformers_:
        columns = [int(at) for at in step._transformer_to_input_indices[name]]
        if isinstance(inner, str) and inner == "drop":
            continue
        if columns:
            parts.append(_write(graph, inner, _take(graph, source, columns)))
    return _join(graph, parts)


def _imputer(graph: Graph, step: Any, source: _Tensor) -> _Tensor:
    """Missing values become the statistic; columns without one are dropped; indicators come last."""
    statistics = np.asarray(step.statistics_, np.float64)
    if getattr(step, "_fit_dtype", None) == np.float32:  # it casts what it is handed to the type it was fitted on
        statistics = statistics.astype(np.float32).astype(np.float64)
        source = _Tensor(graph.narrow(source.name), source.width)
    kept = [at for at in range(source.width) if step.keep_empty_features or not np.isnan(statistics[at])]
    values = _take(graph, source, kept)
    gone = graph.op("IsNaN", [values.name], _name(graph, "gone"))
    filling = _row(graph, "filling", np.nan_to_num(statistics[kept]))
    filled = _Tensor(graph.op("Where", [gone, filling, values.name], _name(graph, "filled")), len(kept))
    if not step.add_indicator:
        return filled
    marked = _take(graph, source, [int(at) for at in step.indicator_.features_])
    flags = graph.op("IsNaN", [marked.name], _name(graph, "missing"))
    numbers = graph.op("Cast", [flags], _name(graph, "marked"), to=TensorProto.DOUBLE)
    return _join(graph, [filled, _Tensor(numbers, marked.width)])


def _shift_scale(graph: Graph, source: _Tensor, shift: Any, scale: Any) -> _Tensor:
    name = source.name
    if shift is not None:
        name = graph.op("Sub", [name, _row(graph, "shift", shift)], _name(graph, "shifted"))
    if scale is not None:
        name = graph.op("Div", [name, _row(graph, "scale", scale)], _name(graph, "scaled"))
    return _Tensor(name, source.width)


def _standard_scaler(graph: Graph, step: Any, source: _Tensor) -> _Tensor:
    return _shift_scale(graph, source, step.mean_ if step.with_mean else None, step.scale_ if step.with_std else None)


def _robust_scaler(graph: Graph, step: Any, source: _Tensor) -> _Tensor:
    return _shift_scale(graph, source, step.center_, step.scale_)


def _max_abs_scaler(graph: Graph, step: Any, source: _Tensor) -> _Tensor:
    return _shift_scale(graph, source, None, step.scale_)


def _min_max_scaler(graph: Graph, step: Any, source: _Tensor) -> _Tensor:
    scaled = graph.op("Mul", [source.name, _row(graph, "scale", step.scale_)], _name(graph, "scaled"))
    return _Tensor(graph.op("Add", [scaled, _row(graph, "least", step.min_)], _name(graph, "moved")), source.width)


def _one_hot(graph: Graph, step: Any, source: _Tensor) -> _Tensor:
    parts = []
    for at, categories in enumerate(step.categories_):
        column = _take(graph, source, [at])
        drop = None if step.drop_idx_ is None else step.drop_idx_[at]
        parts.append(_indicators(graph, column, np.asarray(categories, np.float64), drop))
    return _join(graph, parts)


def _indicators(graph: Graph, column: _Tensor, categories: NDArray[np.float64], drop: Any) -> _Tensor:
    """One column of 0 and 1 for each category, NaN among them where it was seen."""
    wanted = [value for at, value in enumerate(categories.tolist()) if drop is None or at != drop]
    numbers = [value for value in wanted if value == value]
    parts = []
    if numbers:
        same = graph.op("Equal", [column.name, _row(graph, "categories", numbers)], _name(graph, "same"))
        parts.append(_Tensor(graph.op("Cast", [same], _name(graph, "hot"), to=TensorProto.DOUBLE), len(numbers)))
    if len(numbers) < len(wanted):  # scikit-learn sorts NaN last
        gone = graph.op("IsNaN", [column.name], _name(graph, "gone"))
        parts.append(_Tensor(graph.op("Cast", [gone], _name(graph, "hot"), to=TensorProto.DOUBLE), 1))
    return _join(graph, parts) if parts else _Tensor("", 0)


_WRITERS: dict[str, Callable[[Graph, Any, _Tensor], _Tensor]] = {
    "ColumnTransformer": _column_transformer,
    "FunctionTransformer": _same,  # what a passed-through column becomes
    "MaxAbsScaler": _max_abs_scaler,
    "MinMaxScaler": _min_max_scaler,
    "OneHotEncoder": _one_hot,
    "Pipeline": _pipeline,
    "RobustScaler": _robust_scaler,
    "SimpleImputer": _imputer,
    "StandardScaler": _standard_scaler,
}
