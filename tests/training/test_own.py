"""Models that bring their own code: what training takes of them, and that they answer alike when they are served."""

import dataclasses
import os
import textwrap
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from shipworthy.engines.model_process import ModelProcess
from shipworthy.kernel.errors import ConversionError, TrainingError
from shipworthy.training.run import train
from tests.training.test_run import make_job as make_job
from tests.training.test_run import refusal

MODEL = """
    import io
    import json

    import numpy as np

    class Neighbours:
        '''Share of each class among the nearest rows that were seen; missing counts as 0.'''

        def __init__(self, rows, labels, classes):
            self.rows, self.labels, self.classes = rows, labels, classes

        def predict(self, matrix):
            asked = np.nan_to_num(matrix).astype(np.float64)
            answers = []
            for row in asked:
                nearest = np.argsort(((self.rows - row) ** 2).sum(axis=1), kind="stable")[:7]
                answers.append(np.bincount(self.labels[nearest], minlength=self.classes) / 7)
            return np.array(answers)

        def files(self):
            buffer = io.BytesIO()
            np.savez(buffer, rows=self.rows, labels=self.labels)
            return {"rows.npz": buffer.getvalue(), "settings.json": json.dumps({"classes": self.classes}).encode()}

    def load(files):
        arrays = np.load(io.BytesIO(files["rows.npz"]))
        return Neighbours(arrays["rows"], arrays["labels"], json.loads(files["settings.json"])["classes"])
"""
TRAIN = """
    import numpy as np
    from model import Neighbours

    def train(frame, params, context):
        rows = np.nan_to_num(frame.select(context.features).to_numpy()).astype(np.float64)
        return Neighbours(rows, frame[context.target].to_numpy(), len(context.classes))
"""


@pytest.fixture
def make_own(make_job: Any) -> Any:
    def make(model: str = MODEL, code: str = TRAIN, task: str = "binary", **changes: Any) -> Any:
        job = make_job(code, task, python="model.py", python_memory_bytes=300_000_000, **changes)
        (job.root / "model.py").write_text(textwrap.dedent(model))
        return job

    return make


@pytest.mark.parametrize("task", ["binary", "multiclass"])
def test_a_model_that_no_converter_knows_is_its_source_and_its_data(make_own: Any, tmp_path: Path, task: str) -> None:
    job = make_own(task=task)
    candidate = train(job, tmp_path / "work", os.environ)
    assert sorted(candidate.model) == ["data.rows.npz", "data.settings.json", "model.py"]
    assert candidate.model["model.py"].read_text() == textwrap.dedent(MODEL)
    assert candidate.model_kind == "Neighbours"
    assert candidate.parity.rows == len(job.test) + len(candidate.edges)
    assert candidate.parity.max_difference == 0.0
    files = {name.removeprefix("data."): path.read_bytes() for name, path in candidate.model.items()}
    process = ModelProcess(files.pop("model.py"), files, width=len(job.classes), memory_bytes=300_000_000, start_s=20)
    np.testing.assert_array_equal(process.run(job.test, 20), candidate.test_answers)
    process.close()


def test_a_regression_may_answer_a_column(make_own: Any, tmp_path: Path) -> None:
    model = """
        class Mean:
            def __init__(self, mean):
                self.mean = mean
            def predict(self, matrix):
                return [[self.mean]] * len(matrix)
            def files(self):
                return {"mean.txt": repr(self.mean).encode()}
        def load(files):
            return Mean(float(files["mean.txt"]))
    """
    code = """
        from model import Mean
        def train(frame, params, context):
            return Mean(frame[context.target].mean())
    """
    job = make_own(model, code, "regression")
    candidate = train(job, tmp_path / "work", os.environ)
    assert candidate.test_answers.shape == (len(job.test),)
    assert candidate.parity.max_difference == 0.0


def test_the_same_model_without_the_declaration_is_refused_and_told_of_it(make_own: Any, tmp_path: Path) -> None:
    said = refusal(dataclasses.replace(make_own(), python=None), tmp_path / "work")
    assert "returned Neighbours, which cannot be served" in said
    assert "declare its own code in serving.python" in said


REFUSED: dict[str, tuple[tuple[str, str], str]] = {
    "no files": (("def files", "def filed"), "returned Neighbours, which has no files; a model of serving.python has"),
    "no predict": (("def predict", "def guess"), "returned Neighbours, which has no predict"),
    "not a mapping": (("return {", "return 3 or {"), "must give at most 64 names with bytes"),
    "a name that is a path": (('"rows.npz": buffer', '"../rows.npz": buffer'), "names '../rows.npz'; a name has small"),
    "not bytes": (('"rows.npz": buffer.getvalue()', '"rows.npz": 7'), r"files()['rows.npz'] is int, not bytes"),
    "another shape": (("return np.array(answers)", "return np.array(answers)[:, :1]"), "have the shape"),
    "no probabilities": (("/ 7)", "/ 6)"), "expected are probabilities"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_kept_is_refused_in_words(make_own: Any, tmp_path: Path, case: str) -> None:
    (old, new), said = REFUSED[case]
    assert old in MODEL
    assert said in refusal(make_own(MODEL.replace(old, new)), tmp_path / "work", TrainingError)


DIFFERENT: dict[str, tuple[tuple[str, str], str]] = {
    "data that was rounded": (("rows=self.rows", "rows=self.rows.round()"), "answers differently from the trained one"),
    "a row that looks at its neighbours": (
        ("for row in asked", "asked = asked + len(asked)\n            for row in asked"),
        "the answer to a row not depend on the rows beside it",
    ),
    "a file that was not given": (('files["settings.json"]', 'files["other.json"]'), "KeyError: 'other.json'"),
    "a pickle": (("np.savez(buffer, rows=self.rows", "np.savez(buffer, rows=self.rows.astype(object)"), "allow_pickle"),
    "a pickle that is asked for": (
        ('arrays = np.load(io.BytesIO(files["rows.npz"]))', "import pickle; pickle.loads(pickle.dumps(np.ones(3)))"),
        "a pickle holds code that nobody can read in the release",
    ),
    "another file of the project": (
        ("import json\n", "import json\n    from helper import nothing\n"),
        "No module named 'helper'",
    ),
    "a crash when it is served": (
        ("    def load(files):", "    def load(files):\n        import os; os._exit(5)"),
        "ended itself with status 5",
    ),
}


@pytest.mark.parametrize("case", DIFFERENT)
def test_one_that_is_not_the_same_when_it_is_served_is_refused(make_own: Any, tmp_path: Path, case: str) -> None:
    (old, new), said = DIFFERENT[case]
    assert old in MODEL
    job = make_own(MODEL.replace(old, new))
    (job.root / "helper.py").write_text("nothing = None\n")
    assert said in refusal(job, tmp_path / "work", ConversionError)


def test_a_source_that_is_missing_is_named(make_own: Any, tmp_path: Path) -> None:
    job = dataclasses.replace(make_own(), python="models/own.py")
    assert "models/own.py does not exist; serving.python.file names it" in refusal(job, tmp_path / "work")
