"""An ONNX graph under construction, with the product's fixed names and versions."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import GraphProto, NodeProto, TensorProto, helper, numpy_helper

from shipworthy.kernel.errors import ConversionError

Task = Literal["binary", "multiclass", "regression"]
Link = Literal["identity", "exp", "sigmoid", "softmax", "share", "square"]  # from a sum to the answer
OPSET, ML_OPSET, IR_VERSION = 21, 3, 10  # what onnxruntime 1.22 reads; newer tree operators came with ml 5
INPUT = "features"
OUTPUTS: dict[Task, str] = {"binary": "probabilities", "multiclass": "probabilities", "regression": "prediction"}


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


class Graph:
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
        """Add one operator; returns its output."""
        self.nodes.append(helper.make_node(kind, list(inputs), [output], name=f"{kind}.{output}", **attributes))
        return output

    def constant(self, name: str, value: NDArray[Any]) -> str:
        """Add one constant; returns its name."""
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

    def narrow(self, source: str) -> str:
        """Round a float64 tensor to float32 and widen it again; returns the result."""
        if source == "wide":  # the input itself, which was float32
            return source
        small = self.op("Cast", [source], f"narrow.{len(self.nodes)}", to=TensorProto.FLOAT)
        return self.op("Cast", [small], f"rounded.{len(self.nodes)}", to=TensorProto.DOUBLE)

    def answer(self, link: Link, outputs: int) -> None:
        """Turn the sums in `last`, shape (n, outputs), into the graph's output.

        Raises:
            ConversionError: that link cannot give the answer that the task asks for.
        """
        task, classes = self.layout.task, self.layout.classes
        expected = {"binary": 1, "multiclass": classes, "regression": 1}[task]
        is_number = link in ("identity", "exp", "square")
        if outputs != expected or is_number != (task == "regression"):
            raise ConversionError(
                f"the model gives {outputs} {link} output(s), the target is {task}"
                f"{f' with {classes} classes' if classes else ''}; choose the objective that fits the target."
            )
        if link == "square":
            size = self.op("Abs", [self.last], "size")
            self.last = self.op("Mul", [self.last, size], "squared")
        elif link == "exp":
            self.last = self.op("Exp", [self.last], "raised")
        elif link == "softmax":
            self.last = self.op("Softmax", [self.last], "shares", axis=1)
        elif outputs == 1 and link in ("sigmoid", "share"):
            self._two_classes(link)
        self.last = self.op("Cast", [self.last], self.layout.output, to=TensorProto.FLOAT)
        self.is_double = False

    def _two_classes(self, link: Link) -> None:
        positive = self.op("Sigmoid", [self.last], "positive") if link == "sigmoid" else self.last
        one = self.constant("one", np.array([1.0], np.float64 if self.is_double else np.float32))
        negative = self.op("Sub", [one, positive], "negative")
        self.last = self.op("Concat", [negative, positive], "both", axis=1)

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
        return serialize(graph, self.opsets)


def serialize(graph: GraphProto, opsets: dict[str, int]) -> bytes:
    """The checked model's bytes; the same graph gives the same bytes.

    Raises:
        ConversionError: the graph is not valid ONNX.
    """
    imports = [helper.make_opsetid(domain, version) for domain, version in sorted(opsets.items())]
    model = helper.make_model(graph, opset_imports=imports, ir_version=IR_VERSION, producer_name="shipworthy")
    try:
        onnx.checker.check_model(model)
    except onnx.checker.ValidationError as error:
        raise ConversionError(f"the converted model is not valid ONNX: {error}") from error
    content: bytes = model.SerializeToString(deterministic=True)
    return content


def needed(nodes: list[NodeProto], wanted: str) -> list[NodeProto]:
    """The nodes that `wanted` depends on, in their order."""
    alive = {wanted}
    kept: list[NodeProto] = []
    for node in reversed(nodes):
        if alive.intersection(node.output):
            alive.update(node.input)
            kept.append(node)
    return kept[::-1]
