"""Tree ensembles, read exactly from fitted models and written as one ONNX node.

Learners keep split thresholds as float64 while a served row is float32. For a float32 `x`, `x <= t` holds
exactly when `x <= t'` with `t'` the largest float32 that is not above `t`: thresholds are rounded down,
never to nearest, so each row takes the branch that the learner itself would take.
"""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import NodeProto, helper, numpy_helper

from shipworthy.kernel.errors import ConversionError
from shipworthy.training.graph import Link

ZERO = float(np.float32(1e-35))  # LightGBM reads magnitudes up to this as zero
CATEGORICAL, DEFAULT_LEFT = 1, 2  # bits of LightGBM's decision_type; bits 2 and 3 hold the missing type
MISSING_NONE, MISSING_ZERO = 0, 1  # values of LightGBM's missing type; 2 is NaN


@dataclass(slots=True)
class Trees:
    """A sum of trees: nodes in one flat table, leaves with weights for each output.

    A branch holds for `x <= threshold` (mode `BRANCH_LEQ`) or `x == threshold` (mode `BRANCH_EQ`); a missing
    `x` goes left when `missing_left` says so. Several branches may share a child.
    """

    columns: int
    outputs: int
    link: Link = "identity"
    sigma: float = 1.0  # slope inside a sigmoid link
    narrow: bool = False  # whether the learner rounds what it is handed to float32
    base: NDArray[np.float64] = field(default_factory=lambda: np.zeros(0))  # shape (outputs,)
    tree: list[int] = field(default_factory=list)
    node: list[int] = field(default_factory=list)
    mode: list[str] = field(default_factory=list)
    feature: list[int] = field(default_factory=list)
    threshold: list[float] = field(default_factory=list)  # float64 as the learner has it
    left: list[int] = field(default_factory=list)
    right: list[int] = field(default_factory=list)
    missing_left: list[bool] = field(default_factory=list)
    leaf: list[tuple[int, int, int, float]] = field(default_factory=list)  # tree, node, output, weight

    def __post_init__(self) -> None:
        if self.base.size == 0:
            self.base = np.zeros(self.outputs)

    def add_branch(
        self, tree: int, node: int, feature: int, threshold: float, *, left: int, right: int, missing_left: bool
    ) -> None:
        """Add a node that sends `x <= threshold` left."""
        self.add(tree, node, "BRANCH_LEQ", feature, threshold, left, right, missing_left=missing_left)

    def add_member(
        self, tree: int, node: int, feature: int, members: list[float], *, left: int, right: int, spare: int
    ) -> int:
        """Add a chain of nodes that sends `x in members` left and all else, missing too, right.

        Returns:
            The first node id that is still free, counting from `spare`.
        """
        for at, member in enumerate(members):
            here = node if at == 0 else spare + at - 1
            after = right if at == len(members) - 1 else spare + at
            self.add(tree, here, "BRANCH_EQ", feature, member, left, after, missing_left=False)
        if not members:  # an empty set: nothing goes left
            self.add(tree, node, "BRANCH_LEQ", feature, -np.inf, right, right, missing_left=True)
        return spare + max(len(members) - 1, 0)

    def add_leaf(self, tree: int, node: int, weights: dict[int, float]) -> None:
        """Add a leaf with a weight for each output that it adds to."""
        self.add(tree, node, "LEAF", 0, 0.0, 0, 0, missing_left=False)
        self.leaf.extend((tree, node, output, weight) for output, weight in weights.items())

    def add(
        self,
        tree: int,
        node: int,
        mode: str,
        feature: int,
        threshold: float,
        left: int,
        right: int,
        *,
        missing_left: bool,
    ) -> None:
        """Add one row of the node table."""
        self.tree.append(tree)
        self.node.append(node)
        self.mode.append(mode)
        self.feature.append(feature)
        self.threshold.append(threshold)
        self.left.append(left)
        self.right.append(right)
        self.missing_left.append(missing_left)

    def split_points(self) -> dict[int, NDArray[np.float32]]:
        """Distinct thresholds by column, rounded down to float32."""
        points: dict[int, set[float]] = {}
        for mode, column, threshold in zip(self.mode, self.feature, self.threshold, strict=True):
            if mode == "BRANCH_LEQ" and np.isfinite(threshold):
                points.setdefault(column, set()).add(threshold)
        return {column: np.unique(round_down(np.array(sorted(found)))) for column, found in sorted(points.items())}


def round_down(values: NDArray[np.float64]) -> NDArray[np.float32]:
    """The largest float32 not above each value.

    >>> float(round_down(np.array([0.1]))[0]) <= 0.1
    True
    """
    with np.errstate(over="ignore"):
        nearest = values.astype(np.float32)
    above = nearest.astype(np.float64) > values
    return np.where(above, np.nextafter(nearest, np.float32(-np.inf)), nearest).astype(np.float32)


def tree_node(trees: Trees, source: str, output: str, *, double: bool) -> NodeProto:
    """The ONNX node that sums `trees` over `source` into `output`, shape (n, outputs).

    Args:
        trees: what to sum; without any tree the answer is the base.
        source: name of a float32 tensor, or of a float64 one with `double`.
        output: name of the float32 result.
        double: keep thresholds, weights and the running sum in float64.
    """
    if not trees.tree:  # every tree was a constant, which the base holds
        trees.add_leaf(0, 0, {0: 0.0})
    thresholds = np.array(trees.threshold, np.float64)
    weights = np.array([weight for *_, weight in trees.leaf], np.float64)
    attributes: dict[str, Any] = {
        "n_targets": trees.outputs,
        "nodes_treeids": trees.tree,
        "nodes_nodeids": trees.node,
        "nodes_modes": trees.mode,
        "nodes_featureids": trees.feature,
        "nodes_truenodeids": trees.left,
        "nodes_falsenodeids": trees.right,
        "nodes_missing_value_tracks_true": [int(left) for left in trees.missing_left],
        "target_treeids": [tree for tree, *_ in trees.leaf],
        "target_nodeids": [node for _, node, *_ in trees.leaf],
        "target_ids": [output for *_, output, _ in trees.leaf],
    }
    if double:
        attributes["nodes_values_as_tensor"] = numpy_helper.from_array(thresholds, "thresholds")
        attributes["target_weights_as_tensor"] = numpy_helper.from_array(weights, "weights")
        attributes["base_values_as_tensor"] = numpy_helper.from_array(trees.base.astype(np.float64), "base")
    else:
        attributes["nodes_values"] = round_down(thresholds).tolist()
        attributes["target_weights"] = weights.astype(np.float32).tolist()
        attributes["base_values"] = trees.base.astype(np.float32).tolist()
    node: NodeProto = helper.make_node(
        "TreeEnsembleRegressor", [source], [output], domain="ai.onnx.ml", name=f"trees.{output}", **attributes
    )
    return node


def read_lightgbm(text: str) -> Trees:
    """The trees of a LightGBM model, from its text form.

    Args:
        text: what `Booster.model_to_string` writes, version 4.

    Raises:
        ConversionError: linear trees, or an objective whose answers are neither a number nor probabilities.
    """
    header, *blocks = text.split("\nTree=")
    settings = _fields(header)
    per_round = int(settings["num_tree_per_iteration"])
    link, sigma = _lightgbm_link(settings.get("objective", ""))
    trees = Trees(columns=int(settings["max_feature_idx"]) + 1, outputs=per_round, link=link, sigma=sigma)
    rounds = max(len(blocks) // per_round, 1)
    scale = 1.0 / rounds if "\naverage_output" in header else 1.0  # random-forest mode takes the mean
    for number, block in enumerate(blocks):
        _add_lightgbm_tree(trees, number, number % per_round, _fields(block), scale)
    return trees


def _fields(block: str) -> dict[str, str]:
    pairs = (line.partition("=") for line in block.splitlines())
    found: dict[str, str] = {}
    for name, sign, value in pairs:
        if name == "end of trees":
            break
        if sign:
            found.setdefault(name, value)
    return found


def _lightgbm_link(objective: str) -> tuple[Link, float]:
    name, *options = objective.split() or [""]
    settings = dict(option.partition(":")[::2] for option in options)
    if name == "regression" and "sqrt" in settings:
        return "square", 1.0
    if name in ("regression", "regression_l1", "huber", "fair", "quantile", "mape"):
        return "identity", 1.0
    if name in ("poisson", "gamma", "tweedie"):
        return "exp", 1.0
    if name in ("binary", "cross_entropy"):
        return "sigmoid", float(settings.get("sigmoid", "1"))
    if name == "multiclass":
        return "softmax", 1.0
    raise ConversionError(
        f"LightGBM's objective is {objective!r}, whose answers are not probabilities of classes or a number; "
        "use binary, multiclass, or a regression objective."
    )


def _numbers(fields: dict[str, str], name: str) -> list[float]:
    return [float(word) for word in fields.get(name, "").split()]


def _integers(fields: dict[str, str], name: str) -> list[int]:
    return [int(word) for word in fields.get(name, "").split()]


def _add_lightgbm_tree(trees: Trees, number: int, output: int, fields: dict[str, str], scale: float) -> None:
    if fields.get("is_linear", "0") != "0":
        raise ConversionError("LightGBM's linear_tree is on; its leaves are linear models. Train without linear_tree.")
    leaves = _numbers(fields, "leaf_value")
    if len(leaves) == 1:
        trees.base[output] += leaves[0] * scale
        return
    features, thresholds = _integers(fields, "split_feature"), _numbers(fields, "threshold")
    kinds, starts = _integers(fields, "decision_type"), _integers(fields, "cat_boundaries")
    left, right = _integers(fields, "left_child"), _integers(fields, "right_child")
    words = _integers(fields, "cat_threshold")
    splits = len(features)
    spare = splits + len(leaves)

    def child(code: int) -> int:
        return code if code >= 0 else splits + ~code

    for at, kind in enumerate(kinds):
        yes, no = child(left[at]), child(right[at])
        if kind & CATEGORICAL:
            which = int(thresholds[at])
            members = _members(words[starts[which] : starts[which + 1]])
            spare = trees.add_member(number, at, features[at], members, left=yes, right=no, spare=spare)
            continue
        missing, default_left, limit = (kind >> 2) & 3, bool(kind & DEFAULT_LEFT), _around_zero(thresholds[at])
        if missing == MISSING_ZERO:
            spare = _add_zero_split(trees, number, at, features[at], limit, yes, no, default_left, spare)
            continue
        goes_left = limit >= 0 if missing == MISSING_NONE else default_left  # without a missing type NaN is read as 0
        trees.add_branch(number, at, features[at], limit, left=yes, right=no, missing_left=goes_left)
    for at, value in enumerate(leaves):
        trees.add_leaf(number, splits + at, {output: value * scale})


def _add_zero_split(
    trees: Trees, tree: int, node: int, feature: int, limit: float, yes: int, no: int, default_left: bool, spare: int
) -> int:
    """Zero and NaN take the default side, all else is compared.

    onnxruntime lays a false child out right behind its parent, so only true children may be shared: the
    comparison is turned round when the default side is its false one.
    """
    compare, default, dead = spare + 1, spare + 2, spare + 3
    trees.add(tree, node, "BRANCH_LT", feature, -ZERO, compare, spare, missing_left=False)
    trees.add(tree, spare, "BRANCH_GT", feature, ZERO, compare, default, missing_left=False)
    trees.add(tree, default, "BRANCH_LEQ", feature, np.inf, yes if default_left else no, dead, missing_left=True)
    trees.add_leaf(tree, dead, {0: 0.0})
    if default_left:
        trees.add(tree, compare, "BRANCH_LEQ", feature, limit, yes, no, missing_left=False)
    else:
        trees.add(tree, compare, "BRANCH_GT", feature, limit, no, yes, missing_left=False)
    return spare + 4


def _around_zero(limit: float) -> float:
    """The threshold that, without LightGBM's rounding of tiny values to zero, parts the rows as LightGBM does."""
    if -ZERO <= limit < 0:
        return float(np.nextafter(np.float32(-ZERO), np.float32(-np.inf)))
    return ZERO if 0 <= limit < ZERO else limit


def _members(words: list[int]) -> list[float]:
    return [float(32 * at + bit) for at, word in enumerate(words) for bit in range(32) if word >> bit & 1]


def read_histogram(model: Any) -> Trees:
    """The trees of a fitted scikit-learn HistGradientBoosting model.

    Raises:
        ConversionError: its loss has a link that this reader does not know.
    """
    links: dict[str, Link] = {
        "IdentityLink": "identity",
        "LogLink": "exp",
        "LogitLink": "sigmoid",
        "MultinomialLogit": "softmax",
    }
    name = type(model._loss.link).__name__
    if name not in links:
        raise ConversionError(f"the loss {model.loss!r} has the link {name}; use squared_error, poisson or log_loss.")
    base = np.asarray(model._baseline_prediction, np.float64).ravel()
    trees = Trees(columns=model.n_features_in_, outputs=len(base), link=links[name], base=base.copy())
    origin, codes = _histogram_columns(model)
    number = 0
    for round_ in model._predictors:
        for output, predictor in enumerate(round_):
            _add_histogram_tree(trees, number, output, predictor, origin, codes)
            number += 1
    return trees


def _histogram_columns(model: Any) -> tuple[list[int], dict[int, NDArray[np.float64]]]:
    """For each of the learner's inner columns: the outer column, and a category's outer values."""
    columns = list(range(model.n_features_in_))
    if model._preprocessor is None:
        return columns, {}
    chosen = np.asarray(model.is_categorical_, bool)
    origin = [at for at in columns if chosen[at]] + [at for at in columns if not chosen[at]]
    encoder = model._preprocessor.named_transformers_["encoder"]
    return origin, {inner: np.asarray(values, np.float64) for inner, values in enumerate(encoder.categories_)}


def _add_histogram_tree(
    trees: Trees, number: int, output: int, predictor: Any, origin: list[int], codes: dict[int, NDArray[np.float64]]
) -> None:
    nodes, spare = predictor.nodes, len(predictor.nodes)
    if len(nodes) == 1:
        trees.base[output] += float(nodes["value"][0])
        return
    for at, row in enumerate(nodes):
        if row["is_leaf"]:
            trees.add_leaf(number, at, {output: float(row["value"])})
            continue
        inner, yes, no = int(row["feature_idx"]), int(row["left"]), int(row["right"])
        missing_left = bool(row["missing_go_to_left"])
        if not row["is_categorical"]:
            limit = float(row["num_threshold"])
            trees.add_branch(number, at, origin[inner], limit, left=yes, right=no, missing_left=missing_left)
            continue
        inside = set(_members([int(word) for word in predictor.raw_left_cat_bitsets[row["bitset_idx"]]]))
        known = [(float(value), float(code) in inside) for code, value in enumerate(codes[inner]) if value == value]
        # unknown and missing values go one way: list the members of the other side
        members = [value for value, is_left in known if is_left != missing_left]
        yes, no = (no, yes) if missing_left else (yes, no)
        spare = trees.add_member(number, at, origin[inner], members, left=yes, right=no, spare=spare)


def read_forest(model: Any) -> Trees:
    """The trees of a fitted scikit-learn decision tree, random forest or extra trees.

    Raises:
        ConversionError: it predicts several targets at once.
    """
    members = list(getattr(model, "estimators_", [model]))
    if model.n_outputs_ != 1:
        raise ConversionError(f"the model predicts {model.n_outputs_} targets; train it on one.")
    is_classifier = hasattr(model, "classes_")
    classes = len(model.classes_) if is_classifier else 1
    outputs = 1 if classes <= 2 else classes  # of two classes the second one's share is enough
    link: Link = "share" if is_classifier else "identity"
    trees = Trees(columns=model.n_features_in_, outputs=outputs, link=link, narrow=True)
    for number, member in enumerate(members):
        _add_forest_tree(trees, number, member.tree_, classes if is_classifier else 0, 1.0 / len(members))
    return trees


def read_boosted(model: Any) -> Trees | None:
    """The trees of a fitted scikit-learn GradientBoosting model; None if its start is a model of its own."""
    if type(model.init_).__name__ not in ("DummyClassifier", "DummyRegressor"):
        return None
    is_classifier = hasattr(model, "classes_")
    rounds, outputs = model.estimators_.shape
    start = np.asarray(model._raw_predict_init(np.zeros((1, model.n_features_in_), np.float32)), np.float64).ravel()
    link: Link = "identity" if not is_classifier else "sigmoid" if outputs == 1 else "softmax"
    sigma = 2.0 if is_classifier and model.loss == "exponential" else 1.0
    trees = Trees(model.n_features_in_, outputs, link, sigma, narrow=True, base=start)
    for number in range(rounds):
        for output in range(outputs):
            tree = model.estimators_[number, output].tree_
            _add_tree(trees, number * outputs + output, tree, _leaf_values(tree) * model.learning_rate, [output])
    return trees


def _leaf_values(tree: Any) -> NDArray[np.float64]:
    return np.asarray(tree.value, np.float64)[:, 0, :]


def _add_forest_tree(trees: Trees, number: int, tree: Any, classes: int, scale: float) -> None:
    values = _leaf_values(tree)
    if classes:
        values = values / values.sum(axis=1, keepdims=True)
    wanted = values[:, 1:] if classes == 2 else values
    _add_tree(trees, number, tree, wanted * scale, list(range(wanted.shape[1])))


def _add_tree(trees: Trees, number: int, tree: Any, values: NDArray[np.float64], outputs: list[int]) -> None:
    """One scikit-learn tree; `values[node]` are the weights of `outputs` in that leaf."""
    missing_left = np.asarray(tree.missing_go_to_left, bool)
    for at in range(tree.node_count):
        yes, no = int(tree.children_left[at]), int(tree.children_right[at])
        if yes < 0:
            trees.add_leaf(number, at, dict(zip(outputs, values[at].tolist(), strict=True)))
            continue
        goes_left = bool(missing_left[at])
        feature, limit = int(tree.feature[at]), float(tree.threshold[at])
        trees.add_branch(number, at, feature, limit, left=yes, right=no, missing_left=goes_left)
