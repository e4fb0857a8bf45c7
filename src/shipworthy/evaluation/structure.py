"""What a model's graph computes, where that can be told: a sum of trees, or a linear sum, over known inputs.

It is read from the verified ONNX bytes that the server runs: nothing is unpickled, and no library of the training is
needed. What lies between the columns and the sum must keep columns apart, and behind the sum there may only be a link.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from shipworthy.serving.runtimes.onnx import INPUT
from shipworthy.stats.shapley import EQUAL, GREATER, GREATER_EQUAL, LEAF, LESS, LESS_EQUAL, NOT_EQUAL, Forest

Floats = NDArray[np.float64]

MODES: Mapping[str, int] = {
    "BRANCH_LT": LESS,
    "BRANCH_LEQ": LESS_EQUAL,
    "BRANCH_GT": GREATER,
    "BRANCH_GTE": GREATER_EQUAL,
    "BRANCH_EQ": EQUAL,
    "BRANCH_NEQ": NOT_EQUAL,
    "LEAF": LEAF,
}
TREES = "TreeEnsembleRegressor"
SUMS = ("MatMul", "Gemm")
APART = frozenset(  # of each output element only the same column's input is asked
    ("Abs", "Add", "Cast", "Clip", "Concat", "Div", "Equal", "Gather", "Identity", "IsNaN", "Mul", "Sub", "Where")
)
LINKS = frozenset(("Abs", "Add", "Cast", "Concat", "Exp", "Identity", "Mul", "Sigmoid", "Softmax", "Sub"))


@dataclass(frozen=True, slots=True)
class Structure:
    """A sum over inputs that each come from one column."""

    source: str  # name of the tensor that holds the inputs
    origins: NDArray[np.intp]  # (inputs,) the column of the model's matrix that each comes from
    forest: Forest | None  # of a sum of trees
    weights: Floats | None = None  # of a linear sum: (inputs, outputs)
    offset: Floats | None = None  # of a linear sum: (outputs,)


def find_structure(model: ModelProto) -> Structure | None:
    """The sum that the graph computes; None where it is of another kind."""
    nodes = list(model.graph.node)
    sums = [node for node in nodes if node.op_type in (TREES, *SUMS)]
    if len(sums) != 1:
        return None
    total = sums[0]
    constants = {entry.name: numpy_helper.to_array(entry) for entry in model.graph.initializer}
    before, after = _ancestors(nodes, total.input[0]), _descendants(nodes, total.output[0])
    if len(before) + len(after) + 1 != len(nodes) or any(node.op_type not in LINKS for node in after):
        return None
    origins = _origins(before, total.input[0], constants, _width(model))
    if origins is None:
        return None
    if total.op_type == TREES:
        forest = _forest(total)
        return None if forest is None else Structure(total.input[0], origins, forest)
    weights = _weights(total, constants)
    if weights is None:
        return None
    return Structure(total.input[0], origins, None, weights, _offset(total, after, constants, weights.shape[1]))


def expose(model: ModelProto, tensor: str) -> bytes:
    """The graph up to `tensor`, as a model with that output alone."""
    if tensor == INPUT:
        tensor = "same"
        kept = [helper.make_node("Identity", [INPUT], [tensor])]
    else:
        kept = _ancestors(list(model.graph.node), tensor)
    used = {name for node in kept for name in node.input}
    graph = helper.make_graph(
        kept,
        "inputs",
        [entry for entry in model.graph.input if entry.name == INPUT],
        [helper.make_empty_tensor_value_info(tensor)],
        [entry for entry in model.graph.initializer if entry.name in used],
    )
    made = helper.make_model(graph, opset_imports=model.opset_import, ir_version=model.ir_version)
    return bytes(made.SerializeToString())


def read_model(content: bytes) -> ModelProto:
    """The graph of a payload's `model.onnx`."""
    return onnx.load_from_string(content)


def _width(model: ModelProto) -> int:
    (entry,) = [entry for entry in model.graph.input if entry.name == INPUT]
    return int(entry.type.tensor_type.shape.dim[1].dim_value)


def _ancestors(nodes: Sequence[NodeProto], tensor: str) -> list[NodeProto]:
    wanted, found = {tensor}, []
    for node in reversed(nodes):
        if wanted.intersection(node.output):
            wanted.update(node.input)
            found.append(node)
    return found[::-1]


def _descendants(nodes: Sequence[NodeProto], tensor: str) -> list[NodeProto]:
    reached, found = {tensor}, []
    for node in nodes:
        if reached.intersection(node.input):
            reached.update(node.output)
            found.append(node)
    return found


def _origins(
    nodes: Sequence[NodeProto], tensor: str, constants: Mapping[str, NDArray[Any]], width: int
) -> NDArray[np.intp] | None:
    """The column behind each element of a row of `tensor`; None where an element mixes columns."""
    known: dict[str, NDArray[np.intp]] = {INPUT: np.arange(width)}
    for node in nodes:
        found = _origins_of(node, known, constants) if node.op_type in APART else None
        if found is None or len(node.output) != 1:
            return None
        known[node.output[0]] = found
    return known.get(tensor)


def _origins_of(
    node: NodeProto, known: Mapping[str, NDArray[np.intp]], constants: Mapping[str, NDArray[Any]]
) -> NDArray[np.intp] | None:
    moving = [name for name in node.input if name and name not in constants]
    if not moving or any(name not in known for name in moving):
        return None
    axis = next((attribute.i for attribute in node.attribute if attribute.name == "axis"), 0)
    if node.op_type == "Gather":
        index = constants.get(node.input[1])
        return known[node.input[0]][index.ravel()] if index is not None and axis in (1, -1) else None
    if node.op_type == "Concat":
        return (
            np.concatenate([known[name] for name in moving]) if len(moving) == len(node.input) and axis == 1 else None
        )
    parts = [known[name] for name in moving]
    fixed = [constants[name].shape[-1] for name in node.input if name in constants and constants[name].ndim]
    wide = max([len(part) for part in parts] + fixed)
    if any(len(part) not in (1, wide) for part in parts):
        return None
    spread = [np.broadcast_to(part, (wide,)) for part in parts]
    return spread[0] if all(np.array_equal(part, spread[0]) for part in spread[1:]) else None


def _weights(node: NodeProto, constants: Mapping[str, NDArray[Any]]) -> Floats | None:
    matrix = constants.get(node.input[1])
    if matrix is None or matrix.ndim != 2:
        return None
    settings = {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
    if settings.get("transA", 0):
        return None
    turned = matrix.T if settings.get("transB", 0) else matrix
    return np.asarray(turned, np.float64) * float(settings.get("alpha", 1.0))


def _offset(node: NodeProto, after: Sequence[NodeProto], constants: Mapping[str, NDArray[Any]], outputs: int) -> Floats:
    """What is added to the sum, by the node itself or by the next one."""
    added = [name for name in node.input[2:] if name in constants]
    for following in after:
        if following.op_type == "Add" and node.output[0] in following.input:
            added += [name for name in following.input if name in constants]
    total = np.zeros(outputs)
    for name in added:
        total = total + constants[name].astype(np.float64).ravel()
    return total


def _forest(node: NodeProto) -> Forest | None:
    settings = {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
    if settings.get("aggregate_function", b"SUM") != b"SUM" or settings.get("post_transform", b"NONE") != b"NONE":
        return None
    keys = list(zip(settings["nodes_treeids"], settings["nodes_nodeids"], strict=True))
    places = {key: place for place, key in enumerate(keys)}
    trees = [tree for tree, _ in keys]
    mode = np.array([MODES[name.decode()] for name in settings["nodes_modes"]], dtype=np.int64)
    outputs = int(settings["n_targets"])
    weights = np.zeros((len(keys), outputs))
    targets = zip(settings["target_treeids"], settings["target_nodeids"], settings["target_ids"], strict=True)
    for (tree, leaf, output), weight in zip(targets, _floats(settings, "target_weights"), strict=True):
        weights[places[tree, leaf], output] += weight
    ways = {}
    for name in ("nodes_truenodeids", "nodes_falsenodeids"):
        after = zip(trees, settings[name], mode.tolist(), strict=True)
        ways[name] = np.array([-1 if at == LEAF else places[tree, to] for tree, to, at in after], dtype=np.int64)
    reached = {*ways["nodes_truenodeids"].tolist(), *ways["nodes_falsenodeids"].tolist()}
    missing = settings.get("nodes_missing_value_tracks_true") or [0] * len(keys)
    base = _floats(settings, "base_values")
    return Forest(
        roots=np.array([place for place in range(len(keys)) if place not in reached], dtype=np.int64),
        mode=mode,
        column=np.array(settings["nodes_featureids"], dtype=np.int64),
        threshold=_floats(settings, "nodes_values"),
        yes=ways["nodes_truenodeids"],
        no=ways["nodes_falsenodeids"],
        missing_yes=np.array(missing, dtype=np.bool_),
        weights=weights,
        base=base if len(base) else np.zeros(outputs),
    )


def _floats(settings: Mapping[str, Any], name: str) -> Floats:
    tensor: TensorProto | None = settings.get(f"{name}_as_tensor")
    return np.asarray(settings.get(name, ()) if tensor is None else numpy_helper.to_array(tensor), np.float64).ravel()
