"""A training in its own process: what it gives back, and what is said of every way it can fail."""

import dataclasses
import json
import os
import re
import sys
import textwrap
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from shipworthy.kernel.errors import ConversionError, StorageError, TrainingError
from shipworthy.training import child
from shipworthy.training.job import TrainingJob, read_job, write_job
from shipworthy.training.parity import open_session, run_model
from shipworthy.training.run import train

LIGHTGBM = """
    import lightgbm as lgb

    def train(frame, params, context):
        print("training on", frame.height, "rows")
        kind = lgb.LGBMRegressor if context.task == "regression" else lgb.LGBMClassifier
        model = kind(**params, random_state=context.seed, verbose=-1, deterministic=True, force_row_wise=True)
        codes = [context.features.index(name) for name in context.categories]
        return model.fit(frame.select(context.features).to_numpy(), frame[context.target].to_numpy(),
                         categorical_feature=codes)
"""
TREE = """
    from sklearn.tree import DecisionTreeClassifier

    def train(frame, params, context):
        model = DecisionTreeClassifier(max_depth=4, random_state=context.seed)
        return model.fit(frame.select(context.features).to_numpy(), frame[context.target].to_numpy())
"""
CLASSES: dict[str, tuple[str, ...]] = {"binary": ("no", "yes"), "multiclass": ("low", "mid", "high"), "regression": ()}


@pytest.fixture
def make_job(table: Any, tmp_path: Path) -> Any:
    def make(code: Any = LIGHTGBM, task: Any = "binary", **changes: Any) -> Any:
        root = tmp_path / "project"
        root.mkdir(exist_ok=True)
        (root / "train.py").write_text(textwrap.dedent(code))
        target = {"binary": table.binary, "multiclass": table.multiclass, "regression": table.number}[task]
        settings = {
            "root": root,
            "entry": "train.py:train",
            "columns": table.columns,
            "categories": {"e": tuple("abcdefghijkl")},
            "task": task,
            "classes": CLASSES[task],
            "target": "y",
            "params": {"n_estimators": 20},
            "seed": 3,
            "threads": 1,
            "timeout_s": 120.0,
            "train": table.matrix[:1400],
            "train_target": target[:1400],
            "calibrate": table.matrix[1400:1600],
            "test": table.matrix[1600:],
        }
        return TrainingJob(**{**settings, **changes})

    return make


def refusal(job: Any, work: Any, kind: Any = TrainingError) -> Any:
    with pytest.raises(kind) as caught:
        train(job, work, os.environ)
    return str(caught.value)


def test_a_job_survives_its_folder(make_job: Any, tmp_path: Path) -> None:
    job = make_job()
    write_job(job, tmp_path)
    again = read_job(tmp_path)
    for entry in dataclasses.fields(job):
        np.testing.assert_equal(getattr(again, entry.name), getattr(job, entry.name))


@pytest.mark.parametrize("task", ["binary", "multiclass", "regression"])
def test_a_candidate_answers_as_it_was_trained(task: Any, make_job: Any, tmp_path: Path) -> None:
    job = make_job(task=task)
    candidate = train(job, tmp_path / "work", os.environ)
    assert candidate.parity.rows == 400 + 10_000
    assert candidate.parity.max_difference < 1e-6
    assert candidate.model_kind == ("LGBMRegressor" if task == "regression" else "LGBMClassifier")
    assert candidate.calibrate_answers.shape[0] == 200
    assert {"lightgbm", "numpy"} <= set(candidate.libraries)
    assert candidate.log.read_text().startswith("training on 1400 rows")
    assert candidate.cpu_seconds > 0
    served = run_model(open_session(candidate.model["model.onnx"].read_bytes()), job.test)
    np.testing.assert_allclose(served, candidate.test_answers, rtol=1e-6, atol=1e-6)


def test_a_table_of_plain_python_files_may_be_imported(make_job: Any, tmp_path: Path) -> None:
    job = make_job("from recipe import train\n")
    (job.root / "recipe.py").write_text(textwrap.dedent(TREE))
    assert train(job, tmp_path / "work", os.environ).parity.labels_differing == 0


RAISES = """
    def prepare(frame):
        return frame["no such column"]

    def train(frame, params, context):
        return prepare(frame)
"""


def test_what_it_raises_is_shown_with_the_users_own_lines(make_job: Any, tmp_path: Path) -> None:
    said = refusal(make_job(RAISES), tmp_path / "work")
    assert 'train.py:6 in train: return prepare(frame)\ntrain.py:3 in prepare: return frame["no such column"]\n' in said
    assert "ColumnNotFoundError" in said
    assert "shipworthy" not in said
    assert "polars/" not in said


NONSENSE = {
    "nothing": (
        "def train(frame, params, context):\n    pass\n",
        "returned None; end the function with `return model`",
    ),
    "a class": (
        "from sklearn.linear_model import Ridge\ndef train(f, p, c):\n    return Ridge\n",
        "returned the class Ridge itself; return a fitted instance",
    ),
    "a number": ("def train(f, p, c):\n    return 7\n", "returned int, which cannot be served"),
    "an unfitted model": (
        "from sklearn.linear_model import LogisticRegression\ndef train(f, p, c):\n    return LogisticRegression()\n",
        "Call fit before returning it",
    ),
    "an unfitted LightGBM": (
        "import lightgbm\ndef train(f, p, c):\n    return lightgbm.LGBMClassifier()\n",
        "Call fit before returning it",
    ),
    "an exit": ("import sys\ndef train(f, p, c):\n    sys.exit(0)\n", r"ended the process with sys.exit\(0\)"),
    "a syntax error": ("def train(f, p, c)\n    return 1\n", r"train.py:1: SyntaxError: expected ':'"),
    "no function": ("def fit(f, p, c):\n    return 1\n", "train is not defined there"),
    "no callable": ("train = 3\n", "train is not callable there"),
    "other arguments": ("def train(frame):\n    return 1\n", "the entry is called as train"),
    "a failing import": ("import no_such_package\n", "train.py:1 .*\nModuleNotFoundError: No module named"),
    "string labels": (
        """
        from sklearn.dummy import DummyClassifier
        def train(f, p, c):
            return DummyClassifier().fit(f.select(c.features).to_numpy(), ["b" if y else "a" for y in f[c.target]])
        """,
        r"fitted on the classes 'a', 'b'; the target's are 0 to 1 \(no, yes\)",
    ),
    "one class": (
        """
        from sklearn.dummy import DummyClassifier
        def train(f, p, c):
            return DummyClassifier().fit(f.select(c.features).to_numpy(), [0] * f.height)
        """,
        r"fitted on the classes 0; the target's are 0 to 1",
    ),
    "a regressor": (
        """
        from sklearn.linear_model import LinearRegression
        def train(f, p, c):
            return LinearRegression().fit(f.select(c.features).fill_nan(0).to_numpy(), f[c.target].to_numpy())
        """,
        "has no attribute 'predict_proba'",
    ),
    "a model that cannot take missing values": (
        """
        from sklearn.linear_model import LogisticRegression
        def train(f, p, c):
            return LogisticRegression().fit(f.select(c.features).fill_nan(0).to_numpy(), f[c.target].to_numpy())
        """,
        "lets missing values reach a, e: put an imputer in front",
    ),
    "probabilities that are not numbers": (
        """
        import numpy as np
        from sklearn.linear_model import LogisticRegression
        from sklearn.impute import SimpleImputer
        from sklearn.pipeline import make_pipeline
        def train(f, p, c):
            model = make_pipeline(SimpleImputer(), LogisticRegression())
            model.fit(f.select(c.features).to_numpy(), f[c.target].to_numpy())
            model[-1].coef_[:] = np.nan
            return model
        """,
        r"answers \[nan, nan\] on calibrate row 0 \(a=",
    ),
}


@pytest.fixture
def run_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """What the training process would say, without the second that it takes to start."""

    def run(job: Any) -> Any:
        monkeypatch.setattr(sys, "path", list(sys.path))
        monkeypatch.delitem(sys.modules, "train", raising=False)
        write_job(job, tmp_path)
        state = np.random.get_state()
        assert child.main(tmp_path) == 1
        np.random.set_state(state)
        return json.loads((tmp_path / "failure.json").read_text())

    yield run
    sys.modules.pop("train", None)


@pytest.mark.parametrize("name", NONSENSE)
def test_nonsense_is_named_with_its_cure(name: Any, make_job: Any, run_here: Any) -> None:
    code, expected = NONSENSE[name]
    said = run_here(make_job(code))
    assert said["code"] in ("training", "conversion")
    assert re.search(expected, said["message"], re.DOTALL), said["message"]


UNCONVERTIBLE = """
    from sklearn.dummy import DummyClassifier
    def train(f, p, c):
        return DummyClassifier().fit(f.select(c.features).to_numpy(), f[c.target].to_numpy())
"""
DEATHS = {
    "a hard exit": ("import os\ndef train(f, p, c):\n    os._exit(0)\n", "ended its process with status 0 before"),
    "a crash": ("import os\ndef train(f, p, c):\n    os.abort()\n", "crashed with signal 6"),
    "a kill": ("import os\ndef train(f, p, c):\n    os.kill(os.getpid(), 9)\n", "signal 9.*want of memory"),
}


@pytest.mark.parametrize("name", DEATHS)
def test_a_process_that_dies_is_explained(name: Any, make_job: Any, tmp_path: Path) -> None:
    code, expected = DEATHS[name]
    with pytest.raises(TrainingError, match=f"(?s){expected}.*Its output ends with"):
        train(make_job(code), tmp_path / "work", os.environ)


def test_a_refused_conversion_reaches_the_caller_as_one(make_job: Any, tmp_path: Path) -> None:
    said = refusal(make_job(UNCONVERTIBLE), tmp_path / "work", ConversionError)
    assert "DummyClassifier does not convert to ONNX" in said


def test_a_regression_that_answers_infinity_is_refused(make_job: Any, run_here: Any) -> None:
    code = """
        from sklearn.tree import DecisionTreeRegressor
        def train(f, p, c):
            model = DecisionTreeRegressor(max_depth=2).fit(f.select(c.features).to_numpy(), f[c.target].to_numpy())
            model.tree_.value[:] = float("inf")
            return model
    """
    assert "a finite number" in run_here(make_job(code, task="regression"))["message"]


def test_a_class_without_training_rows_is_named(make_job: Any, table: Any, run_here: Any) -> None:
    target = np.minimum(table.multiclass[:1400], 1)
    said = run_here(make_job(task="multiclass", train_target=target))
    assert "the train part has no row of high" in said["message"]


def test_a_hanging_function_is_ended_at_the_contracts_timeout(make_job: Any, tmp_path: Path) -> None:
    code = "import time\ndef train(f, p, c):\n    print('thinking')\n    time.sleep(60)\n"
    said = refusal(make_job(code, timeout_s=4.0), tmp_path / "work")
    assert "did not finish within 4 s (training.timeout)" in said


def test_too_much_memory_is_ended_at_the_contracts_limit(make_job: Any, tmp_path: Path) -> None:
    code = "import time\ndef train(f, p, c):\n    x = b'x' * 2_000_000_000\n    time.sleep(60)\n"
    said = refusal(make_job(code, memory_bytes=700_000_000), tmp_path / "work")
    assert "took more than 700 MB (training.memory)" in said


def test_a_missing_entry_file_is_named(make_job: Any, run_here: Any) -> None:
    assert "model.py does not exist" in run_here(make_job(entry="model.py:train"))["message"]


def test_garbage_on_standard_output_and_a_shadowed_module_harm_nothing(make_job: Any, tmp_path: Path) -> None:
    job = make_job("import os\nos.write(1, bytes(range(256)) * 100)\n" + textwrap.dedent(TREE))
    (job.root / "json.py").write_text("raise RuntimeError('shadowed')")
    assert train(job, tmp_path / "work", os.environ).parity.labels_differing == 0


def test_the_same_job_gives_the_same_bytes_and_a_later_one_does_not_inherit_them(make_job: Any, tmp_path: Path) -> None:
    candidates = [train(make_job(TREE), tmp_path / name, os.environ) for name in ("work", "other")]
    models = [candidate.model["model.onnx"].read_bytes() for candidate in candidates]
    assert models[0] == models[1]
    assert "status 0" in refusal(make_job(DEATHS["a hard exit"][0]), tmp_path / "work")


def test_a_folder_that_cannot_be_written_is_named(make_job: Any, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="cannot be written"):
        train(make_job(), tmp_path / "file" / "work", os.environ)


def test_a_disk_that_refuses_the_results_is_no_fault_of_the_users_code(make_job: Any, tmp_path: Path) -> None:
    work = tmp_path / "work"
    (work / "test_answers.npy").mkdir(parents=True)
    assert re.search(
        r"work cannot be written \(.*test_answers.*\); make room", refusal(make_job(TREE), work, StorageError)
    )
