"""The folder through which a training job and its results pass between two processes: JSON and arrays only."""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from shipworthy.training.edges import EdgeColumn

JOB, RESULT, FAILURE = "job.json", "result.json", "failure.json"
MODEL = "model"  # folder of the files that a payload carries
DISK_FAILED = 74  # the child's exit status when the folder cannot be written (EX_IOERR of sysexits.h)
Scalar = str | int | float | bool


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingJob:
    """One training: the user's function, its rows, and what its model will be asked."""

    root: Path  # of the project
    entry: str  # `train.py:train`, relative to the root
    columns: tuple[EdgeColumn, ...]  # the model's inputs in order
    categories: dict[str, tuple[str, ...]]
    task: Literal["binary", "multiclass", "regression"]
    classes: tuple[str, ...]  # empty for regression
    target: str  # name of the target's column
    params: dict[str, Scalar]
    seed: int
    timeout_s: float
    train: NDArray[np.float32]  # shape (n, k)
    train_target: NDArray[Any]  # shape (n,): int class index, or float64
    calibrate: NDArray[np.float32]
    test: NDArray[np.float32]
    memory_bytes: int | None = None
    python: str | None = None  # the file that answers in the server; None: the model becomes ONNX
    python_memory_bytes: int = 0  # that it may take there
    threads: int = 2  # a fixed number: more threads sum in another order

    @property
    def names(self) -> tuple[str, ...]:
        """The model's inputs in order."""
        return tuple(column.name for column in self.columns)


def write_job(job: TrainingJob, work: Path) -> None:
    """Write the job into `work`, an existing folder, without what an earlier job left there."""
    for leftover in (RESULT, FAILURE):
        (work / leftover).unlink(missing_ok=True)
    shutil.rmtree(work / MODEL, ignore_errors=True)
    (work / MODEL).mkdir()
    write_array(work / "train.npy", job.train)
    write_array(work / "target.npy", job.train_target)
    write_array(work / "calibrate.npy", job.calibrate)
    write_array(work / "test.npy", job.test)
    settings = {
        "root": str(job.root.resolve()),
        "entry": job.entry,
        "columns": [
            {name: getattr(column, name) for name in EdgeColumn.__dataclass_fields__} for column in job.columns
        ],
        "categories": {name: list(values) for name, values in job.categories.items()},
        "task": job.task,
        "classes": list(job.classes),
        "target": job.target,
        "params": job.params,
        "seed": job.seed,
        "timeout_s": job.timeout_s,
        "memory_bytes": job.memory_bytes,
        "python": job.python,
        "python_memory_bytes": job.python_memory_bytes,
        "threads": job.threads,
    }
    (work / JOB).write_text(json.dumps(settings))


def read_job(work: Path) -> TrainingJob:
    """The job that `write_job` wrote."""
    settings = json.loads((work / JOB).read_text())
    settings["root"] = Path(settings["root"])
    settings["columns"] = tuple(EdgeColumn(**column) for column in settings["columns"])
    settings["categories"] = {name: tuple(values) for name, values in settings["categories"].items()}
    settings["classes"] = tuple(settings["classes"])
    return TrainingJob(
        **settings,
        train=read_array(work / "train.npy"),
        train_target=read_array(work / "target.npy"),
        calibrate=read_array(work / "calibrate.npy"),
        test=read_array(work / "test.npy"),
    )


def write_array(path: Path, array: NDArray[Any]) -> None:
    """Write one array; object arrays are refused."""
    with path.open("wb") as file:
        np.save(file, np.ascontiguousarray(array), allow_pickle=False)


def read_array(path: Path) -> NDArray[Any]:
    """Read one array; object arrays are refused."""
    with path.open("rb") as file:
        found: NDArray[Any] = np.load(file, allow_pickle=False)
    return found
