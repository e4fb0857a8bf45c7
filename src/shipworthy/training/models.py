"""A fitted model's own answers, and the same model as one ONNX graph with fixed names.

The graph takes `features`, float32 of shape (n, k) with columns in contract order, and gives `probabilities`,
float32 of shape (n, classes), or `prediction`, float32 of shape (n, 1). Trees and the usual scikit-learn steps are
written by `trees` and `steps`, exactly; the rest by skl2onnx.
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, helper

from shipworthy.kernel.errors import ConversionError
from shipworthy.training.convert import add_converted
from shipworthy.training.graph import INPUT, Graph, Layout, Task, needed, serialize
from shipworthy.training.steps import add_linear, add_steps, is_linear, is_writable
from shipworthy.training.trees import Trees, read_boosted, read_forest, read_histogram, read_lightgbm, tree_node

HISTOGRAM = ("HistGradientBoostingClassifier", "HistGradientBoostingRegressor")
BOOSTED = ("GradientBoostingClassifier", "GradientBoostingRegressor")
FORESTS = tuple(
    name + kind
    for name in ("DecisionTree", "RandomForest", "ExtraTrees", "ExtraTree")
    for kind in ("Classifier", "Regressor")
)


def to_onnx(model: Any, columns: Sequence[str], task: Task, classes: Sequence[str], *, double: bool = False) -> bytes:
    """The model as ONNX bytes; the same model gives the same bytes.

    Args:
        model: a fitted LightGBM Booster or estimator, scikit-learn estimator or Pipeline, an onnx ModelProto,
            or the path of an ONNX file.
        columns: names of the model's inputs, in the order of the matrix.
        task: what is predicted.
        classes: labels in the order of the probabilities; empty for regression.
        double: compute in float64 inside the graph, where the operators allow it.

    Raises:
        ConversionError: the model is of an unknown kind, takes other columns, or has a part that does not convert.
    """
    layout = Layout(tuple(columns), task, len(classes))
    given = _given_onnx(model)
    if given is not None:
        return _adopt(given, layout)
    if not is_known(model):
        raise ConversionError(
            f"train returned {describe(model)}, which cannot be served; return a fitted LightGBM model, a "
            "scikit-learn estimator or Pipeline, or an ONNX model."
        )
    graph = Graph(layout, double=double)
    graph.select(_positions(model, layout.columns))
    *first, last = _steps(model) or [model]
    trees = read_trees(last)
    if double and all(map(is_writable, first)) and (trees is not None or is_linear(last)):
        add_steps(graph, first)
    elif first and trees is not None:
        add_converted(graph, model[:-1], is_transformer=True)
    elif trees is None:
        add_converted(graph, model, is_transformer=False)
        return graph.finish()
    if trees is not None:
        _add_trees(graph, trees)
    else:
        add_linear(graph, last)
    return graph.finish()


def _add_trees(graph: Graph, trees: Trees) -> None:
    if trees.narrow and graph.is_double:
        graph.last = graph.narrow(graph.last)
    graph.nodes.append(tree_node(trees, graph.last, "sum", double=graph.is_double))
    # the sum is float32, but its link must not be: next to 0 and 1 a float32 sigmoid has lost the digits of 1 - p
    graph.last, graph.is_double = graph.op("Cast", ["sum"], "wide.sum", to=TensorProto.DOUBLE), True
    if trees.sigma != 1.0:
        slope = graph.constant("sigma", np.array([trees.sigma], np.float64))
        graph.last = graph.op("Mul", [graph.last, slope], "margin")
    graph.answer(trees.link, trees.outputs)


def predict(model: Any, matrix: NDArray[np.float32], columns: Sequence[str], task: Task) -> NDArray[np.float64]:
    """The fitted model's own answers, computed in float64.

    Args:
        model: as for `to_onnx`.
        matrix: shape (n, k), columns in the order of `columns`; missing is NaN.
        columns: names of the matrix's columns.
        task: what is predicted.

    Returns:
        Probabilities of shape (n, classes), or predictions of shape (n,).
    """
    given = _given_onnx(model)
    if given is not None:
        return _run_onnx(given, matrix)
    chosen = matrix[:, _positions(model, columns)].astype(np.float64)
    booster = _booster(model)
    if booster is not None:
        answers = np.asarray(booster.predict(chosen), np.float64)
        return np.column_stack([1 - answers, answers]) if task == "binary" and answers.ndim == 1 else answers
    names = _fitted_names(model)
    table: Any = chosen
    if names is not None:
        import polars as pl  # only models that were fitted on named columns want names back

        table = pl.DataFrame(chosen, schema=list(names))
    answer = model.predict(table) if task == "regression" else model.predict_proba(table)
    return np.asarray(answer, np.float64)


def describe(model: Any) -> str:
    """What the model is, in the words of its library: `Pipeline(SimpleImputer, LogisticRegression)`."""
    if isinstance(model, type):
        return f"the class {model.__name__} itself"
    if model is None:
        return "None"
    steps = _steps(model)
    name = type(model).__name__
    return f"{name}({', '.join(type(step).__name__ for step in steps)})" if steps else name


def split_points(model: Any, columns: Sequence[str]) -> dict[int, NDArray[np.float32]]:
    """The thresholds of a tree model by column of the matrix; empty for other models."""
    trees = read_trees(model)
    if trees is None:
        return {}
    positions = _positions(model, columns)
    return {positions[column]: points for column, points in trees.split_points().items()}


def read_trees(model: Any) -> Trees | None:
    """The model's trees, or None when it is not a tree ensemble that this room reads itself."""
    booster = _booster(model)
    if booster is not None:
        if getattr(booster, "pandas_categorical", None):
            raise ConversionError(
                "the LightGBM model was trained on pandas categories, which recode the columns; "
                "hand it the numeric columns and name categorical_feature instead."
            )
        return read_lightgbm(booster.model_to_string())
    name = type(model).__name__
    if not type(model).__module__.startswith("sklearn."):
        return None
    if name in HISTOGRAM:
        return read_histogram(model)
    if name in BOOSTED:
        return read_boosted(model)
    return read_forest(model) if name in FORESTS else None


def _booster(model: Any) -> Any:
    """The Booster inside a LightGBM model; None for other models."""
    if not _is_lightgbm(model):
        return None
    return model.booster_ if hasattr(type(model), "booster_") else model


def _is_lightgbm(model: Any) -> bool:
    """LightGBM is only looked for where the user's code loaded it."""
    lightgbm = sys.modules.get("lightgbm")
    return lightgbm is not None and isinstance(model, lightgbm.Booster | lightgbm.LGBMModel)


def is_known(model: Any) -> bool:
    """Whether the model is of a kind that `to_onnx` and `predict` take."""
    if isinstance(model, type):
        return False
    if isinstance(model, ModelProto | str | Path):
        return True
    return _is_lightgbm(model) or any(base.__module__.startswith("sklearn.") for base in type(model).__mro__)


def _steps(model: Any) -> list[Any]:
    return [step for _, step in model.steps] if type(model).__name__ == "Pipeline" else []


def _fitted_names(model: Any) -> tuple[str, ...] | None:
    booster = _booster(model)
    if booster is not None:
        names = tuple(booster.feature_name())
        is_generic = all(name == f"Column_{at}" for at, name in enumerate(names))
        return None if is_generic else names
    fitted = getattr(model, "feature_names_in_", None)
    return None if fitted is None else tuple(str(name) for name in fitted)


def _positions(model: Any, columns: Sequence[str]) -> list[int]:
    """Where the model's inputs stand in the matrix, in the model's own order."""
    names = _fitted_names(model)
    if names is not None:
        unknown = [name for name in names if name not in columns]
        if unknown:
            raise ConversionError(
                f"the model was trained on the column {unknown[0]!r}, which is no model input; "
                "train on frame.select(context.features)."
            )
        return [list(columns).index(name) for name in names]
    booster = _booster(model)
    width = booster.num_feature() if booster is not None else getattr(model, "n_features_in_", len(columns))
    if width != len(columns):
        raise ConversionError(
            f"the model takes {width} columns, the contract has {len(columns)}; "
            "train on frame.select(context.features)."
        )
    return list(range(len(columns)))


def _given_onnx(model: Any) -> ModelProto | None:
    if isinstance(model, ModelProto):
        return model
    if isinstance(model, str | Path):
        try:
            loaded: ModelProto = onnx.load(str(model))
        except Exception as error:
            raise ConversionError(f"train returned the path {str(model)!r}, which is no ONNX file: {error}") from error
        return loaded
    return None


def _run_onnx(model: ModelProto, matrix: NDArray[np.float32]) -> NDArray[np.float64]:
    import onnxruntime as ort  # heavy, and only a model that is already ONNX answers through it

    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    outputs = session.run(None, {session.get_inputs()[0].name: matrix})
    found = np.asarray(outputs[-1], np.float64)
    return found[:, 0] if found.ndim == 2 and found.shape[1] == 1 else found


def _adopt(model: ModelProto, layout: Layout) -> bytes:
    """A given ONNX model under the fixed names."""
    graph = model.graph
    constants = {constant.name for constant in graph.initializer}
    inputs = [entry for entry in graph.input if entry.name not in constants]
    shape = inputs[0].type.tensor_type if len(inputs) == 1 else None
    if shape is None or shape.elem_type != TensorProto.FLOAT:
        raise ConversionError("an ONNX model must have exactly one input, float32 of shape (rows, columns).")
    dims = shape.shape.dim
    if len(dims) == 2 and dims[1].dim_value not in (0, len(layout.columns)):
        raise ConversionError(
            f"the ONNX model takes {dims[1].dim_value} columns, the contract has {len(layout.columns)}."
        )
    output = next((entry for entry in graph.output if entry.name == layout.output), graph.output[-1])
    if output.type.tensor_type.elem_type not in (TensorProto.FLOAT, TensorProto.DOUBLE):
        raise ConversionError(f"the ONNX model's output {output.name!r} is not a float tensor (no ZipMap, no labels).")
    front = helper.make_node("Identity", [INPUT], ["model." + inputs[0].name], name="Identity.features")
    back = helper.make_node("Cast", ["model." + output.name], [layout.output], name="Cast.out", to=TensorProto.FLOAT)
    inner = onnx.compose.add_prefix(model, "model.").graph
    body = needed(list(inner.node), "model." + output.name)
    made = helper.make_graph(
        [front, *body, back],
        "model",
        [helper.make_tensor_value_info(INPUT, TensorProto.FLOAT, ["rows", len(layout.columns)])],
        [helper.make_tensor_value_info(layout.output, TensorProto.FLOAT, ["rows", layout.width])],
        list(inner.initializer),
    )
    return serialize(made, {entry.domain: entry.version for entry in model.opset_import})
