"""A fitted model's own answers, and the same model as one ONNX graph with fixed names.

The graph takes `features`, float32 of shape (n, k) with columns in contract order, and gives `probabilities`,
float32 of shape (n, classes), or `prediction`, float32 of shape (n, 1). Trees are written by `trees`, exactly;
other scikit-learn steps by skl2onnx.
"""

import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from shipworthy.kernel.errors import ConversionError
from shipworthy.training.trees import Trees, read_forest, read_histogram, read_lightgbm, tree_node

Task = Literal["binary", "multiclass", "regression"]
OPSET, ML_OPSET, IR_VERSION = 21, 3, 10  # what onnxruntime 1.22 reads; newer tree operators came with ml 5
INPUT = "features"
OUTPUTS: dict[str, str] = {"binary": "probabilities", "multiclass": "probabilities", "regression": "prediction"}
HISTOGRAM = ("HistGradientBoostingClassifier", "HistGradientBoostingRegressor")
FORESTS = tuple(
    name + kind
    for name in ("DecisionTree", "RandomForest", "ExtraTrees", "ExtraTree")
    for kind in ("Classifier", "Regressor")
)


@dataclass(frozen=True, slots=True)
class Layout:
    """What the graph must look like."""

    columns: tuple[str, ...]
    task: Task
    classes: int  # 0 for regression

    @property
    def output(self) -> str:
        """Name of the graph's output."""
        return OUTPUTS[self.task]

    @property
    def width(self) -> int:
        """Columns of the graph's output."""
        return self.classes or 1


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
    if not _is_known(model):
        raise ConversionError(
            f"train returned {describe(model)}, which cannot be served; return a fitted LightGBM model, a "
            "scikit-learn estimator or Pipeline, or an ONNX model."
        )
    trees = read_trees(model)
    graph = _Graph(layout, double=double)
    graph.select(_positions(model, layout.columns))
    if trees is not None:
        graph.add_trees(trees)
    elif _steps(model) and (tail := read_trees(_steps(model)[-1])) is not None:
        graph.add_converted(model[:-1], is_transformer=True)
        graph.add_trees(tail)
    else:
        graph.add_converted(model, is_transformer=False)
    return graph.finish()


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
    return read_forest(model) if name in FORESTS else None


def _booster(model: Any) -> Any:
    """The Booster inside a LightGBM model; LightGBM is only looked for where the user's code loaded it."""
    lightgbm = sys.modules.get("lightgbm")
    if lightgbm is None:
        return None
    if isinstance(model, lightgbm.Booster):
        return model
    return model.booster_ if isinstance(model, lightgbm.LGBMModel) else None


def _is_known(model: Any) -> bool:
    if isinstance(model, type):
        return False
    return _booster(model) is not None or any(base.__module__.startswith("sklearn.") for base in type(model).__mro__)


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


class _Graph:
    """A graph under construction: `last` names the tensor that the next part reads."""

    def __init__(self, layout: Layout, *, double: bool) -> None:
        self.layout = layout
        self.double = double
        self.nodes: list[NodeProto] = []
        self.constants: list[TensorProto] = []
        self.last = INPUT
        self.width = len(layout.columns)
        self.names: tuple[str, ...] = layout.columns
        self.is_double = False
        self.opsets = {"": OPSET, "ai.onnx.ml": ML_OPSET}

    def op(self, kind: str, inputs: Sequence[str], output: str, **attributes: Any) -> str:
        self.nodes.append(helper.make_node(kind, list(inputs), [output], name=f"{kind}.{output}", **attributes))
        return output

    def constant(self, name: str, value: NDArray[Any]) -> str:
        self.constants.append(numpy_helper.from_array(value, name))
        return name

    def select(self, positions: list[int]) -> None:
        """Take the columns that the model wants, in its order."""
        if positions != list(range(self.width)):
            index = self.constant("positions", np.array(positions, np.int64))
            self.last = self.op("Gather", [self.last, index], "selected", axis=1)
            self.names = tuple(self.layout.columns[at] for at in positions)
            self.width = len(positions)
        if self.double:
            self.last = self.op("Cast", [self.last], "wide", to=TensorProto.DOUBLE)
            self.is_double = True

    def add_trees(self, trees: Trees) -> None:
        """Sum the trees and turn the sum into the answer."""
        expected = {"binary": 1, "multiclass": self.layout.classes, "regression": 1}[self.layout.task]
        is_number = trees.link in ("identity", "exp", "square")
        if trees.outputs != expected or is_number != (self.layout.task == "regression"):
            raise ConversionError(
                f"the model gives {trees.outputs} {trees.link} output(s), the target is {self.layout.task} with "
                f"{self.layout.classes} classes; choose the objective that fits the target."
            )
        self.nodes.append(tree_node(trees, self.last, "sum", double=self.is_double))
        self.last, self.is_double = "sum", False
        self._link(trees)

    def _link(self, trees: Trees) -> None:
        output = self.layout.output
        if trees.link == "square":
            size = self.op("Abs", [self.last], "size")
            self.last = self.op("Mul", [self.last, size], output)
        elif trees.link == "exp":
            self.last = self.op("Exp", [self.last], output)
        elif trees.link == "softmax":
            self.last = self.op("Softmax", [self.last], output, axis=1)
        elif trees.link == "sigmoid" or (trees.link == "share" and trees.outputs == 1):
            self._two_classes(trees, output)
        else:
            self.last = self.op("Identity", [self.last], output)

    def _two_classes(self, trees: Trees, output: str) -> None:
        positive = self.last
        if trees.link == "sigmoid":
            if trees.sigma != 1.0:
                slope = self.constant("sigma", np.array([trees.sigma], np.float32))
                positive = self.op("Mul", [positive, slope], "margin")
            positive = self.op("Sigmoid", [positive], "positive")
        one = self.constant("one", np.array([1.0], np.float32))
        negative = self.op("Sub", [one, positive], "negative")
        self.last = self.op("Concat", [negative, positive], output, axis=1)

    def add_converted(self, model: Any, *, is_transformer: bool) -> None:
        """Append what skl2onnx makes of a scikit-learn model or of a Pipeline's first steps."""
        converted = _convert(model, self.names, by_name=_wants_names(model), double=self.double)
        inner = converted.graph
        self._feed(inner)
        prefix = "model."
        inputs = {entry.name for entry in inner.input}
        wanted = inner.output[0 if is_transformer or self.layout.task == "regression" else -1].name
        for node in _needed(list(inner.node), wanted):
            renamed = NodeProto()
            renamed.CopyFrom(node)
            renamed.input[:] = [prefix + name if name else "" for name in node.input]
            renamed.output[:] = [prefix + name if name else "" for name in node.output]
            renamed.name = f"{node.op_type}.{renamed.output[0]}"
            self.nodes.append(renamed)
        used = {name for node in self.nodes for name in node.input}
        for constant in inner.initializer:
            if prefix + constant.name in used and constant.name not in inputs:
                kept = TensorProto()
                kept.CopyFrom(constant)
                kept.name = prefix + constant.name
                self.constants.append(kept)
        for entry in converted.opset_import:
            self.opsets[entry.domain] = max(entry.version, self.opsets.get(entry.domain, 0))
        self.last = prefix + wanted
        kind = next(entry for entry in inner.output if entry.name == wanted).type.tensor_type.elem_type
        self.is_double = kind == TensorProto.DOUBLE
        if is_transformer and kind not in (TensorProto.FLOAT, TensorProto.DOUBLE):
            self.last = self.op("Cast", [self.last], "transformed", to=TensorProto.FLOAT)
        elif not is_transformer:
            self.last = self.op("Cast", [self.last], self.layout.output, to=TensorProto.FLOAT)

    def _feed(self, inner: onnx.GraphProto) -> None:
        """Give the inner graph its inputs: the whole matrix, or one column for each name."""
        names = [entry.name for entry in inner.input]
        if names == [INPUT]:
            self.op("Identity", [self.last], "model." + INPUT)
            return
        for name in names:
            at = self.constant(f"at.{name}", np.array([self.names.index(name)], np.int64))
            self.op("Gather", [self.last, at], f"model.{name}", axis=1)

    def finish(self) -> bytes:
        """The checked model's bytes."""
        layout = self.layout
        graph = helper.make_graph(
            self.nodes,
            "model",
            [helper.make_tensor_value_info(INPUT, TensorProto.FLOAT, ["rows", len(layout.columns)])],
            [helper.make_tensor_value_info(layout.output, TensorProto.FLOAT, ["rows", layout.width])],
            self.constants,
        )
        return _serialize(graph, self.opsets)


def _serialize(graph: onnx.GraphProto, opsets: dict[str, int]) -> bytes:
    imports = [helper.make_opsetid(domain, version) for domain, version in sorted(opsets.items())]
    model = helper.make_model(graph, opset_imports=imports, ir_version=IR_VERSION, producer_name="shipworthy")
    try:
        onnx.checker.check_model(model)
    except onnx.checker.ValidationError as error:
        raise ConversionError(f"the converted model is not valid ONNX: {error}") from error
    content: bytes = model.SerializeToString(deterministic=True)
    return content


def _needed(nodes: list[NodeProto], wanted: str) -> list[NodeProto]:
    """The nodes that `wanted` depends on, in their order."""
    alive = {wanted}
    kept: list[NodeProto] = []
    for node in reversed(nodes):
        if alive.intersection(node.output):
            alive.update(node.input)
            kept.append(node)
    return kept[::-1]


def _walk(model: Any) -> Iterator[Any]:
    """The model and every scikit-learn part inside it."""
    yield model
    parts: list[Any] = [step for _, step in getattr(model, "steps", None) or ()]
    parts += [entry[1] for entry in getattr(model, "transformers_", None) or ()]
    parts += [step for _, step in getattr(model, "transformer_list", None) or ()]
    for name in ("estimator", "estimator_", "regressor_"):
        parts.append(getattr(model, name, None))
    for part in parts:
        if part is not None and not isinstance(part, str):
            yield from _walk(part)


def _wants_names(model: Any) -> bool:
    """Whether a column transformer inside picks its columns by name."""
    return any(
        isinstance(name, str)
        for part in _walk(model)
        for entry in getattr(part, "transformers_", None) or ()
        for name in ([entry[2]] if isinstance(entry[2], str) else _names(entry[2]))
    )


def _names(chosen: Any) -> list[Any]:
    return list(chosen) if isinstance(chosen, list | tuple | np.ndarray) else []


def _convert(model: Any, names: Sequence[str], *, by_name: bool, double: bool) -> ModelProto:
    skl2onnx, kinds = _load_skl2onnx()
    kind = kinds.DoubleTensorType if double else kinds.FloatTensorType
    inputs = [(name, kind([None, 1])) for name in names] if by_name else [(INPUT, kind([None, len(names)]))]
    has_classes = hasattr(model, "classes_") and hasattr(model, "predict_proba")
    try:
        converted: ModelProto = skl2onnx.convert_sklearn(
            model,
            name="model",
            initial_types=inputs,
            target_opset={"": OPSET, "ai.onnx.ml": ML_OPSET},
            options={id(model): {"zipmap": False}} if has_classes else None,
        )
    except Exception as error:
        raise ConversionError(f"{describe(model)} does not convert to ONNX: {_first_line(error)}") from error
    return converted


def _load_skl2onnx() -> tuple[Any, Any]:
    import skl2onnx  # heavy: tree models never need it
    from skl2onnx.common import data_types

    _register_lightgbm(skl2onnx)
    return skl2onnx, data_types


def _register_lightgbm(skl2onnx: Any) -> None:
    """Let skl2onnx know LightGBM estimators inside meta-estimators."""
    lightgbm = sys.modules.get("lightgbm")
    if lightgbm is None:
        return
    from onnxmltools.convert.lightgbm.operator_converters.LightGbm import convert_lightgbm
    from skl2onnx.common import shape_calculator

    options = {"nocl": [True, False], "zipmap": [True, False, "columns"]}
    shapes: dict[str, tuple[Callable[..., Any], Any]] = {
        "LGBMClassifier": (shape_calculator.calculate_linear_classifier_output_shapes, options),
        "LGBMRegressor": (shape_calculator.calculate_linear_regressor_output_shapes, None),
    }
    for name, (shape, settings) in shapes.items():
        skl2onnx.update_registered_converter(
            getattr(lightgbm, name), f"LightGbm{name}", shape, convert_lightgbm, options=settings
        )


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:300] if lines else type(error).__name__


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
    body = _needed(list(inner.node), "model." + output.name)
    made = helper.make_graph(
        [front, *body, back],
        "model",
        [helper.make_tensor_value_info(INPUT, TensorProto.FLOAT, ["rows", len(layout.columns)])],
        [helper.make_tensor_value_info(layout.output, TensorProto.FLOAT, ["rows", layout.width])],
        list(inner.initializer),
    )
    return _serialize(made, {entry.domain: entry.version for entry in model.opset_import})
