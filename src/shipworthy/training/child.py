"""The process that runs the user's training function: `python -m shipworthy.training.child WORK`.

It reads the job from the folder, calls the function, lets the fitted model answer, converts it, and writes the
answers and the ONNX model back. No model object leaves the process.
"""

import importlib.metadata
import importlib.util
import json
import linecache
import random
import sys
import traceback
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from shipworthy.bundle.format import ONNX
from shipworthy.kernel.errors import ConversionError, ShipworthyError, TrainingError
from shipworthy.training.context import TrainingContext
from shipworthy.training.edges import edge_rows
from shipworthy.training.job import DISK_FAILED, FAILURE, MODEL, RESULT, TrainingJob, read_job, write_array
from shipworthy.training.models import describe, is_known, predict, split_points, to_onnx
from shipworthy.training.own import ask, python_files
from shipworthy.training.parity import TOLERANCE, differences, open_session, run_model

SIGNATURE = "train(frame, params, context) -> fitted model"
SUM_TOLERANCE = 1e-3  # of a row's probabilities from 1: libraries round, but not more


def main(work: Path) -> int:
    """Do the job in `work`; return 0, 1 with the reason in `failure.json`, or 74 where `work` cannot be written."""
    try:
        return _do(work)
    except OSError as error:  # not of the user's code, whose errors are told apart
        print(error, file=sys.stderr)
        return DISK_FAILED


def _do(work: Path) -> int:
    job = read_job(work)
    try:
        model = _fit(job)
        result = _examine(job, model, work)
    except ShipworthyError as error:
        (work / FAILURE).write_text(json.dumps({"code": error.code, "message": str(error)}))
        return 1
    (work / RESULT).write_text(json.dumps(result))
    return 0


def _fit(job: TrainingJob) -> Any:
    """Call the user's function; whatever it raises becomes one error that shows its own lines."""
    random.seed(job.seed)
    np.random.seed(job.seed)  # noqa: TID251 - what the user's code draws from unasked must repeat too
    file, _, name = job.entry.partition(":")
    sys.path[:0] = [str(job.root), str((job.root / file).parent)]
    context = TrainingContext(list(job.names), job.categories, job.target, job.task, job.classes, job.seed)
    try:
        function = _load(job.root / file, file, name)
        return function(_frame(job), dict(job.params), context)
    except TrainingError:
        raise
    except BaseException as error:
        raise TrainingError(_user_message(error, job)) from error


def _load(path: Path, file: str, name: str) -> Any:
    if not path.is_file():
        raise TrainingError(f"{file} does not exist; training.entry names it. Write {SIGNATURE} there.")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        raise TrainingError(f"{file} is no Python file; training.entry must name one.")
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    spec.loader.exec_module(module)
    function = getattr(module, name, None)
    if not callable(function):
        found = "is not callable" if hasattr(module, name) else "is not defined"
        raise TrainingError(f"{file} was read, but {name} {found} there; define {SIGNATURE}, or mend training.entry.")
    return function


def _frame(job: TrainingJob) -> pl.DataFrame:
    columns = {name: job.train[:, at] for at, name in enumerate(job.names)}
    return pl.DataFrame({**columns, job.target: job.train_target})


def _user_message(error: BaseException, job: TrainingJob) -> str:
    """The user's own lines of the traceback, innermost last, then what was raised."""
    if isinstance(error, SyntaxError) and error.filename:
        place = f"{_relative(error.filename, job.root)}:{error.lineno}"
        return f"{place}: {type(error).__name__}: {error.msg}: {(error.text or '').strip()}"
    lines = [
        f"{_relative(file, job.root)}:{line} in {function}: {linecache.getline(file, line).strip()}"
        for file, line, function in _frames(error.__traceback__)
        if Path(file).is_relative_to(job.root) and "site-packages" not in file
    ]
    said = traceback.format_exception_only(error)[-1].strip()
    if isinstance(error, SystemExit):
        said = f"it ended the process with sys.exit({error.code!r}); return a fitted model instead"
    if not lines:
        said += f" (the entry is called as {SIGNATURE})"
        lines = [f"{job.entry} could not be called"]
    return "\n".join([*lines, said])


def _frames(trace: TracebackType | None) -> list[tuple[str, int, str]]:
    return [(entry.filename, entry.lineno or 0, entry.name) for entry in traceback.extract_tb(trace)]


def _relative(file: str, root: Path) -> str:
    path = Path(file)
    return str(path.relative_to(root)) if path.is_relative_to(root) else path.name


def _examine(job: TrainingJob, model: Any, work: Path) -> dict[str, Any]:
    """Let the model answer, convert it, and write both down."""
    _require_model(job, model)
    files = python_files(job, model) if job.python else {}
    for part, matrix in (("calibrate", job.calibrate), ("test", job.test)):
        write_array(work / f"{part}_answers.npy", _answers(job, model, matrix, part))
    edges = edge_rows(job.columns, job.train, split_points(model, job.names), job.seed)
    answers = _answers(job, model, edges, "edge")
    write_array(work / "edges.npy", edges)
    write_array(work / "edge_answers.npy", answers)
    for name, content in (files or {ONNX: _convert(job, model, edges, answers)}).items():
        (work / MODEL / name).write_bytes(content)
    return {"kind": describe(model), "libraries": _libraries()}


def _require_model(job: TrainingJob, model: Any) -> None:
    what = f"{job.entry} returned {describe(model)}"
    if model is None:
        raise TrainingError(f"{what}; end the function with `return model`.")
    if isinstance(model, type):
        raise TrainingError(f"{what}; return a fitted instance of it.")
    if job.python:
        return
    if not is_known(model):
        raise TrainingError(
            f"{what}, which cannot be served; return a fitted LightGBM model, a scikit-learn estimator or Pipeline, "
            "or an ONNX model, or declare its own code in serving.python."
        )
    labels = getattr(model, "classes_", None)
    if labels is not None and job.classes and [str(label) for label in _plain(labels)] != _expected(job, labels):
        shown = ", ".join(repr(label) for label in _plain(labels))
        raise TrainingError(
            f"{what}, fitted on the classes {shown}; the target's are 0 to {len(job.classes) - 1} "
            f"({', '.join(job.classes)}). Train on frame[context.target] as it stands{_rare(job)}."
        )


def _plain(labels: Any) -> list[Any]:
    found = np.asarray(labels)
    return [int(label) if found.dtype.kind == "f" and label == int(label) else label for label in found.tolist()]


def _expected(job: TrainingJob, labels: Any) -> list[str]:
    if np.asarray(labels).dtype.kind in "UO":
        return list(job.classes)
    return [str(index) for index in range(len(job.classes))]


def _rare(job: TrainingJob) -> str:
    """A hint when a class has no row to learn from."""
    seen = np.bincount(job.train_target.astype(np.int64), minlength=len(job.classes))
    absent = [label for label, count in zip(job.classes, seen, strict=False) if count == 0]
    return f"; the train part has no row of {', '.join(absent)}" if absent else ""


def _answers(job: TrainingJob, model: Any, matrix: NDArray[np.float32], part: str) -> NDArray[np.float64]:
    if len(matrix) == 0:
        return np.zeros((0, len(job.classes)) if job.classes else 0)
    try:
        found = ask(model, matrix, job) if job.python else predict(model, matrix, job.names, job.task)
    except ShipworthyError:
        raise
    except Exception as error:
        raise TrainingError(_cannot_answer(job, model, part, error)) from error
    expected = (len(matrix), len(job.classes)) if job.classes else (len(matrix),)
    if found.shape != expected:
        raise TrainingError(
            f"{job.entry} returned {describe(model)}, whose answers on {len(matrix)} {part} rows have the shape "
            f"{found.shape}; expected is {expected}{_rare(job) if job.classes else ''}."
        )
    _require_numbers(job, model, matrix, found, part)
    return found


def _require_numbers(
    job: TrainingJob, model: Any, matrix: NDArray[np.float32], found: NDArray[np.float64], part: str
) -> None:
    good = np.isfinite(found)
    if job.classes:
        good = good.all(axis=1) & (found >= 0).all(axis=1) & (np.abs(found.sum(axis=1) - 1) <= SUM_TOLERANCE)
    if good.all():
        return
    at = int(np.argmin(good))
    row = ", ".join(f"{name}={value:.6g}" for name, value in zip(job.names, matrix[at], strict=True))
    wanted = "probabilities from 0 to 1 that sum to 1" if job.classes else "a finite number"
    raise TrainingError(
        f"{job.entry} returned {describe(model)}, which answers {found[at].tolist()} on {part} row {at} ({row}); "
        f"expected are {wanted}. {int((~good).sum())} of {len(good)} rows are so."
    )


def _cannot_answer(job: TrainingJob, model: Any, part: str, error: Exception) -> str:
    said = f"{type(error).__name__}: {str(error).strip().splitlines()[0][:300] if str(error).strip() else ''}"
    what = f"{job.entry} returned {describe(model)}, which cannot answer {part} rows: {said}"
    if "NotFitted" in type(error).__name__:
        return f"{what} Call fit before returning it."
    missing = [column.name for column in job.columns if column.missing]
    if "NaN" in str(error) and missing:
        return (
            f"{what} The contract lets missing values reach {', '.join(missing)}: put an imputer in front of the "
            "model, or set `missing: reject`."
        )
    return what


def _convert(job: TrainingJob, model: Any, edges: NDArray[np.float32], answers: NDArray[np.float64]) -> bytes:
    """The first form that keeps the answers: in float64, else in float32, else the one that comes closer."""
    forms: list[tuple[float, bytes]] = []
    errors: list[ConversionError] = []
    for double in (True, False):
        try:
            content = to_onnx(model, job.names, job.task, job.classes, double=double)
            gap = float(differences(run_model(open_session(content), edges), answers).max())
        except ConversionError as error:
            errors.append(error)
            continue
        if gap <= TOLERANCE:
            return content
        forms.append((gap, content))
    if forms:
        return min(forms)[1]
    raise errors[-1]


def _libraries() -> dict[str, str]:
    """Versions of the installed packages that were loaded for this training."""
    loaded = {name.partition(".")[0] for name in sys.modules}
    packages = importlib.metadata.packages_distributions()
    names = {name for module in loaded for name in packages.get(module, ())}
    return {name: importlib.metadata.version(name) for name in sorted(names)}


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
