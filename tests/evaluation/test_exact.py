"""Exact reasons come from the served graph, and are those of a library that we did not write."""

import warnings
from types import SimpleNamespace
from typing import Any

import lightgbm
import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper
from sklearn.compose import ColumnTransformer
from sklearn.ensemble import (
    GradientBoostingClassifier,
    HistGradientBoostingClassifier,
    RandomForestClassifier,
    RandomForestRegressor,
)
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from shipworthy.bundle.format import Policy, Task
from shipworthy.evaluation.exact import Explainer, Values
from shipworthy.evaluation.structure import find_structure, read_model
from shipworthy.kernel.errors import EvidenceError
from shipworthy.stats.shapley import enumerated_values
from shipworthy.training.models import to_onnx

WIDTH = 6
NAMES = [f"f{at}" for at in range(WIDTH)]
CLASSES: dict[str, tuple[str, ...]] = {"binary": ("0", "1"), "multiclass": ("a", "b", "c"), "regression": ()}


def rows_of(rows: int, seed: int = 1, missing: float = 0.0) -> NDArray[np.float32]:
    chance = np.random.default_rng(seed)
    matrix = chance.normal(size=(rows, WIDTH)).astype(np.float32)
    matrix[:, 5] = chance.integers(0, 4, rows)  # a category
    matrix[chance.random(matrix.shape) < missing] = np.nan
    return matrix


TRAIN, ROWS, BACKGROUND = rows_of(600, 1), rows_of(40, 2), rows_of(60, 3)
SUM = TRAIN[:, 0] * TRAIN[:, 1] + TRAIN[:, 2] + (TRAIN[:, 5] == 2)
TRUTH = {"binary": (SUM > 0).astype(int), "multiclass": np.digitize(SUM, [-0.5, 1.0]), "regression": SUM}


def payload(model: Any, task: Task, positive: str | None = None, *, double: bool = True) -> Any:
    content = model if isinstance(model, bytes) else to_onnx(model, NAMES, task, CLASSES[task], double=double)
    named = positive or ("1" if task == "binary" else None)
    policy = Policy(task=task, classes=CLASSES[task], positive=named, fallback_otherwise="0", timeout_s=1.0)
    return SimpleNamespace(model=content, policy=policy)


def explainer(model: Any, task: Task, **options: Any) -> Explainer:
    return Explainer(payload(model, task, **options), BACKGROUND, seed=5)


def adds_up(found: Values) -> bool:
    return bool(np.abs(found.values.sum(axis=1) + found.base - found.score).max() < 1e-5)


def by_shap(model: Any, **options: Any) -> NDArray[np.float64]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of its own dependencies
        import shap

        given = shap.TreeExplainer(model, BACKGROUND.astype(float), feature_perturbation="interventional", **options)
        return np.asarray(given.shap_values(ROWS.astype(float), check_additivity=False))


def test_trees_have_the_values_that_shap_gives_them() -> None:
    """The library takes the fitted models, we the graphs that are served."""
    truth = TRUTH["binary"]
    boosted = lightgbm.LGBMClassifier(n_estimators=30, num_leaves=15, verbosity=-1).fit(TRAIN, truth)
    found = explainer(boosted, "binary")
    assert (found.method, found.background_rows) == ("exact-trees", 60)
    values = found.explain(ROWS)
    assert values.values == pytest.approx(by_shap(boosted), abs=1e-5)
    assert adds_up(values)

    older = GradientBoostingClassifier(n_estimators=20, random_state=0).fit(TRAIN, truth)
    assert explainer(older, "binary").explain(ROWS).values == pytest.approx(by_shap(older), abs=1e-5)

    forest = RandomForestRegressor(20, random_state=0).fit(TRAIN, TRUTH["regression"])
    assert explainer(forest, "regression").explain(ROWS).values == pytest.approx(by_shap(forest), abs=1e-5)

    votes = RandomForestClassifier(20, max_depth=6, random_state=0).fit(TRAIN, truth)
    assert explainer(votes, "binary").explain(ROWS).values == pytest.approx(by_shap(votes)[:, :, 1], abs=1e-5)


def test_of_several_classes_the_picked_ones_score_is_explained() -> None:
    model = lightgbm.LGBMClassifier(n_estimators=10, verbosity=-1).fit(TRAIN, TRUTH["multiclass"])
    picked = np.arange(len(ROWS)) % 3
    found = explainer(model, "multiclass").explain(ROWS, picked)
    expected = by_shap(model)[np.arange(len(ROWS)), :, picked]
    assert found.values == pytest.approx(expected, abs=1e-5)
    assert adds_up(found)


def test_the_positive_class_may_be_the_first() -> None:
    model = lightgbm.LGBMClassifier(n_estimators=10, verbosity=-1).fit(TRAIN, TRUTH["binary"])
    first, second = (explainer(model, "binary", positive=name).explain(ROWS) for name in ("0", "1"))
    assert (first.values == -second.values).all()
    assert adds_up(first)


def log_odds_of(found: Explainer) -> NDArray[np.float64]:
    """By all coalitions of the whole served model, asked as a black box."""
    logs = enumerated_values(found._score, ROWS, BACKGROUND)
    return np.asarray(logs[:, :, 1] - logs[:, :, 0])


@pytest.mark.parametrize("missing", [0.0, 0.2])
def test_categories_and_missing_values_are_where_the_served_graph_sends_them(missing: float) -> None:
    train = rows_of(600, 1, missing)
    model = HistGradientBoostingClassifier(max_iter=20, categorical_features=[5], random_state=0)
    found = explainer(model.fit(train, TRUTH["binary"]), "binary")
    rows = rows_of(40, 2, missing)
    logs = enumerated_values(found._score, rows, BACKGROUND)
    assert found.method == "exact-trees"
    assert found.explain(rows).values == pytest.approx(logs[:, :, 1] - logs[:, :, 0], abs=1e-4)


def test_steps_before_a_linear_model_belong_to_their_columns() -> None:
    steps = ColumnTransformer(
        [
            ("numbers", make_pipeline(SimpleImputer(), StandardScaler()), [0, 1, 2, 3, 4]),
            ("kinds", OneHotEncoder(handle_unknown="ignore"), [5]),
        ]
    )
    model = make_pipeline(steps, LogisticRegression()).fit(TRAIN.astype(float), TRUTH["binary"])
    found = explainer(model, "binary")
    assert found.method == "exact-linear"
    assert found.explain(ROWS).values == pytest.approx(log_odds_of(found), abs=1e-4)
    assert adds_up(found.explain(ROWS))


def test_steps_before_trees_belong_to_their_columns() -> None:
    steps = ColumnTransformer([("kinds", OneHotEncoder(), [5]), ("numbers", StandardScaler(), [0, 1, 2, 3, 4])])
    forest = RandomForestClassifier(15, max_depth=5, random_state=0)
    model = make_pipeline(steps, forest).fit(TRAIN.astype(float), TRUTH["binary"])
    found = explainer(model, "binary")
    assert found.method == "exact-trees"
    shares = enumerated_values(lambda matrix: found._runtime.run(matrix).astype(np.float64), ROWS, BACKGROUND)
    assert found.explain(ROWS).values == pytest.approx(shares[:, :, 1], abs=1e-4)


def test_a_regressions_weights_by_hand() -> None:
    model = LinearRegression().fit(TRAIN.astype(float), TRUTH["regression"])
    found = explainer(model, "regression").explain(ROWS)
    expected = (ROWS - BACKGROUND.mean(axis=0)) * model.coef_
    assert found.values == pytest.approx(expected, abs=1e-5)
    assert found.score == pytest.approx(model.predict(ROWS.astype(float)), abs=1e-5)


def network(width: int) -> bytes:
    """A hidden layer: no sum whose parts could be told."""
    chance = np.random.default_rng(0)
    nodes = [
        helper.make_node("MatMul", ["features", "first"], ["inner"]),
        helper.make_node("Relu", ["inner"], ["bent"]),
        helper.make_node("MatMul", ["bent", "second"], ["logits"]),
        helper.make_node("Softmax", ["logits"], ["probabilities"], axis=1),
    ]
    constants = [
        onnx.numpy_helper.from_array(chance.normal(size=(width, 4)).astype(np.float32), "first"),
        onnx.numpy_helper.from_array(chance.normal(size=(4, 2)).astype(np.float32), "second"),
    ]
    ends = [("features", width), ("probabilities", 2)]
    inputs, outputs = ([helper.make_tensor_value_info(n, TensorProto.FLOAT, ["rows", w])] for n, w in ends)
    graph = helper.make_graph(nodes, "network", inputs, outputs, constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    return bytes(model.SerializeToString())


def test_a_model_that_is_no_sum_is_asked_and_says_how() -> None:
    assert find_structure(read_model(network(WIDTH))) is None
    found = explainer(network(WIDTH), "binary")
    assert (found.method, found.background_rows) == ("exact-enumeration", 20)
    assert adds_up(found.explain(ROWS))
    background = np.random.default_rng(1).normal(size=(30, 12)).astype(np.float32)
    wide = Explainer(payload(network(12), "binary"), background, seed=1)
    assert wide.method == "sampled"
    assert wide.explain(np.ones((3, 12), dtype=np.float32)).values.shape == (3, 12)


def test_columns_that_are_mixed_before_the_sum_are_no_columns_parts() -> None:
    """A graph that adds two columns before its trees; and one whose link is more than a link."""
    model = lightgbm.LGBMClassifier(n_estimators=3, verbosity=-1).fit(TRAIN, TRUTH["binary"])
    graph = read_model(to_onnx(model, NAMES, "binary", CLASSES["binary"], double=False))
    assert find_structure(graph) is not None
    mixed = onnx.ModelProto.FromString(graph.SerializeToString())
    trees = next(node for node in mixed.graph.node if node.op_type == "TreeEnsembleRegressor")
    turned = onnx.numpy_helper.from_array(np.array([1, 0, 2, 3, 4, 5]), "turned")
    mixed.graph.initializer.append(turned)
    source = trees.input[0]
    extra = [
        helper.make_node("Gather", [source, "turned"], ["other"], axis=1),
        helper.make_node("Add", [source, "other"], ["both.columns"]),
    ]
    trees.input[0] = "both.columns"
    for place, node in enumerate(extra):
        mixed.graph.node.insert(list(mixed.graph.node).index(trees) if place == 0 else 1, node)
    assert find_structure(mixed) is None
    for node in graph.graph.node:
        if node.op_type == "Sigmoid":
            node.op_type = "Relu"
    assert find_structure(graph) is None


def test_a_slow_model_is_asked_about_fewer_rows() -> None:
    """Two seconds for 20 rows, so 0.1 s each; a row of 6 columns takes 2 ** 6 combinations with 20 rows."""
    clock = iter((0.0, 2.0))
    found = explainer(network(WIDTH), "binary")
    assert found.rows_within(1280.0, lambda: next(clock)) == 10
    background = np.random.default_rng(1).normal(size=(30, 12)).astype(np.float32)
    wide, clock = Explainer(payload(network(12), "binary"), background, seed=1), iter((0.0, 2.0))
    assert wide.rows_within(1300.0, lambda: next(clock)) == 10  # 50 pairs of orders, 13 rows each
    boosted = lightgbm.LGBMClassifier(n_estimators=3, verbosity=-1).fit(TRAIN, TRUTH["binary"])
    assert explainer(boosted, "binary").rows_within(0.0) is None


def test_without_background_there_is_nothing_to_compare_with() -> None:
    with pytest.raises(EvidenceError, match="no row of the training part"):
        Explainer(payload(network(WIDTH), "binary"), BACKGROUND[:0], seed=1)
