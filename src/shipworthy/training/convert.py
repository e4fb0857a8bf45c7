"""What skl2onnx makes of scikit-learn models, with the product's names."""

import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from onnx import GraphProto, ModelProto, NodeProto, TensorProto

from shipworthy.kernel.errors import ConversionError
from shipworthy.training.graph import INPUT, ML_OPSET, OPSET, Graph, needed

PREFIX = "model."  # of all names inside, so that no column's name meets one of ours


def add_converted(graph: Graph, model: Any, *, is_transformer: bool) -> None:
    """Append a scikit-learn model, or with `is_transformer` a Pipeline's first steps.

    Raises:
        ConversionError: skl2onnx does not know a part of it.
    """
    converted = _convert(model, graph.names, by_name=_wants_names(model), double=graph.double)
    inner = converted.graph
    _feed(graph, inner)
    wanted = inner.output[0 if is_transformer or graph.layout.task == "regression" else -1]
    for node in needed(list(inner.node), wanted.name):
        graph.nodes.append(_renamed(node))
    _keep_constants(graph, inner)
    for entry in converted.opset_import:
        graph.opsets[entry.domain] = max(entry.version, graph.opsets.get(entry.domain, 0))
    graph.last = PREFIX + wanted.name
    kind = wanted.type.tensor_type.elem_type
    graph.is_double = kind == TensorProto.DOUBLE
    if not is_transformer:
        graph.last = graph.op("Cast", [graph.last], graph.layout.output, to=TensorProto.FLOAT)
    elif kind not in (TensorProto.FLOAT, TensorProto.DOUBLE):
        graph.last = graph.op("Cast", [graph.last], "transformed", to=TensorProto.FLOAT)


def _renamed(node: NodeProto) -> NodeProto:
    found = NodeProto()
    found.CopyFrom(node)
    found.input[:] = [PREFIX + name if name else "" for name in node.input]
    found.output[:] = [PREFIX + name if name else "" for name in node.output]
    found.name = f"{node.op_type}.{found.output[0]}"
    return found


def _keep_constants(graph: Graph, inner: GraphProto) -> None:
    used = {name for node in graph.nodes for name in node.input}
    for constant in inner.initializer:
        if PREFIX + constant.name in used:
            kept = TensorProto()
            kept.CopyFrom(constant)
            kept.name = PREFIX + constant.name
            graph.constants.append(kept)


def _feed(graph: Graph, inner: GraphProto) -> None:
    """Give the inner graph its inputs: the whole matrix, or one column for each name."""
    names = [entry.name for entry in inner.input]
    if names == [INPUT]:
        graph.op("Identity", [graph.last], PREFIX + INPUT)
        return
    for name in names:
        at = graph.constant(f"at.{name}", np.array([graph.names.index(name)], np.int64))
        graph.op("Gather", [graph.last, at], PREFIX + name, axis=1)


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
        raise ConversionError(f"{type(model).__name__} does not convert to ONNX: {_first_line(error)}") from error
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
