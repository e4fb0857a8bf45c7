"""Every kind of model answers in ONNX as it was trained, on 10,000 edge rows."""

from functools import partial
from pathlib import Path
from typing import Any

import lightgbm as lgb
import numpy as np
import onnx
import polars as pl
import pytest
from sklearn.calibration import CalibratedClassifierCV
from sklearn.compose import ColumnTransformer
from sklearn.ensemble import (
    ExtraTreesClassifier,
    GradientBoostingClassifier,
    GradientBoostingRegressor,
    HistGradientBoostingClassifier,
    HistGradientBoostingRegressor,
    RandomForestClassifier,
    RandomForestRegressor,
)
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LinearRegression, LogisticRegression, PoissonRegressor, Ridge
from sklearn.naive_bayes import GaussianNB
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MinMaxScaler, OneHotEncoder, RobustScaler, StandardScaler
from sklearn.tree import DecisionTreeRegressor

from shipworthy.kernel.errors import ConversionError
from shipworthy.training.edges import EDGE_ROWS, edge_rows
from shipworthy.training.models import describe, predict, split_points, to_onnx
from shipworthy.training.parity import TOLERANCE, open_session, prove_parity, run_model

NAMES = ("a", "b", "c", "d", "e", "f")
CLASSES: dict[str, tuple[str, ...]] = {"binary": ("no", "yes"), "multiclass": ("low", "mid", "high"), "regression": ()}
QUICK: dict[str, Any] = {
    "n_estimators": 30,
    "verbose": -1,
    "num_threads": 1,
    "deterministic": True,
    "force_row_wise": True,
}
DEFAULT = {"objective": "binary", "verbose": -1, "num_threads": 1}


def columns_by_name() -> Any:
    numbers = make_pipeline(SimpleImputer(add_indicator=True), StandardScaler())
    codes = make_pipeline(SimpleImputer(strategy="most_frequent"), OneHotEncoder(handle_unknown="ignore"))
    return ColumnTransformer([("numbers", numbers, ["a", "b", "c", "d"]), ("codes", codes, ["e", "f"])])


def columns_by_place() -> Any:
    codes = OneHotEncoder(handle_unknown="ignore", sparse_output=False, drop="if_binary")
    return ColumnTransformer([("codes", codes, [4, 5]), ("numbers", SimpleImputer(), [0, 1])], remainder="passthrough")


def target(table: Any, task: Any) -> Any:
    return {"binary": table.binary, "multiclass": table.multiclass, "regression": table.number}[task]


def fit_lightgbm(task: Any, **options: Any) -> Any:
    return lambda t: (lgb.LGBMRegressor if task == "regression" else lgb.LGBMClassifier)(**QUICK, **options).fit(
        t.matrix, target(t, task)
    )


def fit(task: Any, model: Any) -> Any:
    return lambda t: model.fit(t.matrix, target(t, task))


def fit_frame(task: Any, model: Any, names: Any = NAMES) -> Any:
    return lambda t: model.fit(pl.DataFrame(t.matrix, schema=list(NAMES)).select(names), target(t, task))


def fit_positive(model: Any) -> Any:
    return lambda t: model.fit(t.matrix, np.abs(t.number) / 1e4 + 0.1)


def fit_categorical(task: Any) -> Any:
    kind = lgb.LGBMRegressor if task == "regression" else lgb.LGBMClassifier
    return lambda t: kind(**QUICK).fit(t.matrix, target(t, task), categorical_feature=[4, 5])


def fit_booster(**params: Any) -> Any:
    return lambda t: lgb.train({**DEFAULT, **params}, lgb.Dataset(t.matrix, t.binary), 20)


IMPUTED = SimpleImputer
MODELS: dict[str, tuple[Any, Any]] = {
    "lightgbm binary": ("binary", fit_lightgbm("binary")),
    "lightgbm multiclass": ("multiclass", fit_lightgbm("multiclass")),
    "lightgbm regression": ("regression", fit_lightgbm("regression")),
    "lightgbm categories binary": ("binary", fit_categorical("binary")),
    "lightgbm categories multiclass": ("multiclass", fit_categorical("multiclass")),
    "lightgbm categories regression": ("regression", fit_categorical("regression")),
    "lightgbm zero as missing": ("regression", fit_lightgbm("regression", zero_as_missing=True)),
    "lightgbm no missing": ("regression", fit_lightgbm("regression", use_missing=False)),
    "lightgbm square root": ("regression", fit_lightgbm("regression", reg_sqrt=True)),
    "lightgbm poisson": ("regression", fit_positive(lgb.LGBMRegressor(objective="poisson", **QUICK))),
    "lightgbm random forest": ("binary", fit_booster(boosting="rf", bagging_freq=1, bagging_fraction=0.7)),
    "lightgbm dart, steep sigmoid": ("binary", fit_booster(boosting="dart", sigmoid=2.0)),
    "lightgbm constant": ("binary", fit_booster(min_data_in_leaf=5000)),
    "lightgbm on two named columns": ("binary", fit_frame("binary", lgb.LGBMClassifier(**QUICK), ("c", "a"))),
    "histogram binary": ("binary", fit("binary", HistGradientBoostingClassifier(max_iter=30))),
    "histogram categories": (
        "multiclass",
        fit("multiclass", HistGradientBoostingClassifier(max_iter=20, categorical_features=[4, 5])),
    ),
    "histogram regression": ("regression", fit("regression", HistGradientBoostingRegressor(max_iter=30))),
    "histogram gamma": ("regression", fit_positive(HistGradientBoostingRegressor(loss="gamma", max_iter=20))),
    "histogram behind a scaler": (
        "binary",
        fit("binary", make_pipeline(StandardScaler(), HistGradientBoostingClassifier(max_iter=20))),
    ),
    "histogram behind one-hot": (
        "binary",
        fit("binary", make_pipeline(columns_by_place(), HistGradientBoostingClassifier(max_iter=20))),
    ),
    "forest binary": ("binary", fit("binary", RandomForestClassifier(20, random_state=1))),
    "forest multiclass": ("multiclass", fit("multiclass", RandomForestClassifier(10, random_state=1))),
    "forest regression": ("regression", fit("regression", RandomForestRegressor(10, random_state=1))),
    "forest behind scaler and imputer": (
        "binary",
        fit("binary", make_pipeline(StandardScaler(), IMPUTED(), RandomForestClassifier(10, random_state=1))),
    ),
    "extra trees": ("binary", fit("binary", make_pipeline(IMPUTED(), ExtraTreesClassifier(10, random_state=1)))),
    "one tree": ("regression", fit("regression", DecisionTreeRegressor(random_state=1))),
    "boosting binary": ("binary", fit("binary", make_pipeline(IMPUTED(), GradientBoostingClassifier(n_estimators=20)))),
    "boosting exponential": (
        "binary",
        fit("binary", make_pipeline(IMPUTED(), GradientBoostingClassifier(loss="exponential", n_estimators=20))),
    ),
    "boosting multiclass": (
        "multiclass",
        fit("multiclass", make_pipeline(IMPUTED(), GradientBoostingClassifier(n_estimators=10))),
    ),
    "boosting regression": (
        "regression",
        fit("regression", make_pipeline(IMPUTED(), GradientBoostingRegressor(n_estimators=20))),
    ),
    "logistic": ("binary", fit("binary", make_pipeline(IMPUTED(), StandardScaler(), LogisticRegression()))),
    "logistic multiclass, columns by name": (
        "multiclass",
        fit_frame("multiclass", make_pipeline(columns_by_name(), LogisticRegression())),
    ),
    "logistic, other order": (
        "binary",
        fit_frame("binary", make_pipeline(columns_by_name(), LogisticRegression()), tuple(reversed(NAMES))),
    ),
    "logistic behind ranges": (
        "binary",
        fit("binary", make_pipeline(IMPUTED(strategy="median"), MinMaxScaler(), RobustScaler(), LogisticRegression())),
    ),
    "linear": ("regression", fit("regression", make_pipeline(IMPUTED(strategy="constant"), LinearRegression()))),
    "ridge by name": ("regression", fit_frame("regression", make_pipeline(IMPUTED(), Ridge()))),
    "poisson": ("regression", fit_positive(make_pipeline(IMPUTED(), PoissonRegressor()))),
    "lightgbm behind an imputer": (
        "binary",
        fit("binary", make_pipeline(IMPUTED(strategy="median"), lgb.LGBMClassifier(**QUICK))),
    ),
}
THIRD_PARTY: dict[str, tuple[Any, Any]] = {  # by skl2onnx, in float32
    "naive Bayes": ("binary", fit("binary", make_pipeline(IMPUTED(), GaussianNB()))),
    "network": (
        "binary",
        fit("binary", make_pipeline(IMPUTED(), StandardScaler(), MLPClassifier((4,), tol=1e-2, random_state=1))),
    ),
}


def edges_of(model: Any, table: Any) -> Any:
    return edge_rows(table.columns, table.matrix, split_points(model, NAMES), seed=3)


@pytest.mark.filterwarnings("ignore:X does not have valid feature names")
@pytest.mark.parametrize("name", MODELS)
def test_the_served_model_answers_as_the_trained_one(name: Any, table: Any) -> None:
    task, train = MODELS[name]
    model = train(table)
    edges = edges_of(model, table)
    assert edges.shape == (EDGE_ROWS, 6)
    trained = predict(model, edges, NAMES, task)
    content = to_onnx(model, NAMES, task, CLASSES[task], double=True)
    parity = prove_parity(partial(run_model, open_session(content)), {"edge": (edges, trained)}, NAMES)
    assert parity.rows == EDGE_ROWS
    assert parity.max_difference < TOLERANCE / 10
    assert content == to_onnx(model, NAMES, task, CLASSES[task], double=True)


@pytest.mark.parametrize("name", THIRD_PARTY)
def test_models_of_other_kinds_go_through_skl2onnx(name: Any, table: Any) -> None:
    task, train = THIRD_PARTY[name]
    model = train(table)
    rows = table.matrix
    content = to_onnx(model, NAMES, task, CLASSES[task], double=False)
    assert prove_parity(
        partial(run_model, open_session(content)), {"train": (rows, predict(model, rows, NAMES, task))}, NAMES
    ).rows == len(rows)


def test_a_probability_next_to_0_keeps_its_digits() -> None:
    """Calibration works on the odds: where 1 - p is tiny it must be as exact as p."""
    matrix = np.random.default_rng(3).normal(size=(2_000, 3)).astype(np.float32)
    truth = (matrix[:, 0] > 0).astype(int)  # no noise: the odds run away
    model = lgb.LGBMClassifier(n_estimators=80, learning_rate=0.2, num_threads=1, verbosity=-1).fit(matrix, truth)
    served = run_model(open_session(to_onnx(model, ["a", "b", "c"], "binary", ["0", "1"], double=True)), matrix)
    trained = predict(model, matrix, ["a", "b", "c"], "binary")
    assert trained.min() < 1e-5
    odds = [np.log(answers[:, 1]) - np.log(answers[:, 0]) for answers in (served, trained)]
    assert np.abs(odds[0] - odds[1]).max() < 1e-5


def test_the_graph_has_the_fixed_names_and_versions(table: Any) -> None:
    content = to_onnx(fit_lightgbm("multiclass")(table), NAMES, "multiclass", CLASSES["multiclass"], double=True)
    model = onnx.load_from_string(content)
    assert [entry.name for entry in model.graph.input] == ["features"]
    assert [entry.name for entry in model.graph.output] == ["probabilities"]
    assert {entry.domain: entry.version for entry in model.opset_import} == {"": 21, "ai.onnx.ml": 3}
    shape = model.graph.output[0].type.tensor_type.shape.dim
    assert (shape[0].dim_param, shape[1].dim_value) == ("rows", 3)


def test_a_regression_gives_one_column_named_prediction(table: Any) -> None:
    session = open_session(to_onnx(fit_lightgbm("regression")(table), NAMES, "regression", (), double=True))
    assert [output.name for output in session.get_outputs()] == ["prediction"]
    assert session.run(None, {"features": table.matrix[:3]})[0].shape == (3, 1)


def test_an_onnx_model_is_taken_under_the_fixed_names(table: Any, tmp_path: Path) -> None:
    first = to_onnx(fit_lightgbm("binary")(table), NAMES, "binary", CLASSES["binary"], double=True)
    given = onnx.load_from_string(first)
    given.graph.input[0].name = given.graph.node[0].input[0] = "X"
    path = tmp_path / "given.onnx"
    path.write_bytes(given.SerializeToString())
    for model in (given, path, str(path)):
        content = to_onnx(model, NAMES, "binary", CLASSES["binary"])
        served = run_model(open_session(content), table.matrix)
        np.testing.assert_array_equal(served, run_model(open_session(first), table.matrix))
        np.testing.assert_array_equal(served, predict(model, table.matrix, NAMES, "binary"))


def test_an_onnx_model_with_other_columns_is_refused(table: Any) -> None:
    content = to_onnx(fit_lightgbm("binary")(table), NAMES, "binary", CLASSES["binary"])
    with pytest.raises(ConversionError, match="takes 6 columns, the contract has 2"):
        to_onnx(onnx.load_from_string(content), ("a", "b"), "binary", CLASSES["binary"])


def test_a_path_that_is_no_onnx_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(b"not a model")
    with pytest.raises(ConversionError, match=r"which is no ONNX file"):
        to_onnx(path, NAMES, "binary", CLASSES["binary"])


@pytest.mark.parametrize("model", [7, {"weights": []}, object()])
def test_what_is_no_model_is_refused(model: Any) -> None:
    with pytest.raises(ConversionError, match="cannot be served; return a fitted"):
        to_onnx(model, NAMES, "binary", CLASSES["binary"])


def test_a_model_on_another_number_of_columns_is_refused(table: Any) -> None:
    model = lgb.LGBMClassifier(**QUICK).fit(table.matrix[:, :3], table.binary)
    with pytest.raises(ConversionError, match=r"takes 3 columns, the contract has 6; train on frame.select"):
        to_onnx(model, NAMES, "binary", CLASSES["binary"])


def test_a_model_on_an_unknown_column_is_refused(table: Any) -> None:
    frame = pl.DataFrame(table.matrix, schema=["a", "b", "c", "d", "e", "target"])
    model = lgb.LGBMClassifier(**QUICK).fit(frame, table.binary)
    with pytest.raises(ConversionError, match="trained on the column 'target', which is no model input"):
        to_onnx(model, NAMES, "binary", CLASSES["binary"])


def test_a_regressor_for_classes_is_refused(table: Any) -> None:
    with pytest.raises(ConversionError, match="gives 1 identity output"):
        to_onnx(fit_lightgbm("regression")(table), NAMES, "binary", CLASSES["binary"])


def test_a_wrong_conversion_is_refused_with_row_values_and_answers(table: Any) -> None:
    model = make_pipeline(IMPUTED(), StandardScaler(), LogisticRegression())
    calibrated = CalibratedClassifierCV(model).fit(table.matrix, table.binary)  # which skl2onnx gets wrong
    content = to_onnx(calibrated, NAMES, "binary", CLASSES["binary"])
    trained = predict(calibrated, table.matrix, NAMES, "binary")
    with pytest.raises(ConversionError, match=r"worst is test row \d+ \(a=.*\): trained \[.*\], served \[.*\]"):
        prove_parity(partial(run_model, open_session(content)), {"test": (table.matrix, trained)}, NAMES)


def test_a_model_is_described_in_its_librarys_words() -> None:
    assert describe(make_pipeline(SimpleImputer(), Ridge())) == "Pipeline(SimpleImputer, Ridge)"
    assert (describe(None), describe(Ridge)) == ("None", "the class Ridge itself")
