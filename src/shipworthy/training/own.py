"""Models that bring their own code: what they hand over in training, and the proof that it answers alike in a server.

The trained object gives its data as bytes by name (`files()`), and never itself. The file that `serving.python` names
is all that will run; it is tried here as the server runs it: alone, in a process of its own.
"""

from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shipworthy.bundle.format import DATA, MAX_DATA_FILES, SOURCE, is_data_file
from shipworthy.engines.model_process import ModelProcess
from shipworthy.kernel.errors import ConversionError, ModelError, TrainingError
from shipworthy.training.job import TrainingJob
from shipworthy.training.parity import Parity, prove_parity

WAYS = "a model of serving.python has predict(matrix), and files(), which gives its data as bytes by name"
START_S = 60.0  # to load, and for one run: nobody waits
CURE = (
    "Let files() give all that predict() uses, load(files) build it back without rounding, and the answer to a row "
    "not depend on the rows beside it."
)


def python_files(job: TrainingJob, model: Any) -> dict[str, bytes]:
    """What a payload carries of a model: its source, and the data that it gives.

    Raises:
        TrainingError: it gives none, or what cannot be kept; or there is no such source.
    """
    for name in ("predict", "files"):
        if not callable(getattr(model, name, None)):
            raise TrainingError(f"{job.entry} returned {type(model).__name__}, which has no {name}; {WAYS}.")
    given = model.files()
    if not isinstance(given, Mapping) or len(given) > MAX_DATA_FILES:
        raise TrainingError(f"{type(model).__name__}.files() must give at most {MAX_DATA_FILES} names with bytes.")
    files = {SOURCE: _source(job)}
    for name, content in given.items():
        if not isinstance(name, str) or not is_data_file(DATA + name):
            raise TrainingError(
                f"{type(model).__name__}.files() names {name!r}; a name has small letters, digits, _, - and dots."
            )
        if not isinstance(content, bytes):
            raise TrainingError(f"{type(model).__name__}.files()[{name!r}] is {type(content).__name__}, not bytes.")
        files[DATA + name] = content
    return files


def _source(job: TrainingJob) -> bytes:
    path = job.root / (job.python or "")
    if not path.is_file():
        raise TrainingError(f"{job.python} does not exist; serving.python.file names it.")
    return path.read_bytes()


def ask(model: Any, matrix: NDArray[np.float32], job: TrainingJob) -> NDArray[np.float64]:
    """The trained model's own answers: probabilities (n, classes), or numbers (n,)."""
    found = np.asarray(model.predict(matrix), np.float64)
    return found[:, 0] if not job.classes and found.ndim == 2 and found.shape[1] == 1 else found


def prove_own(
    files: Mapping[str, bytes],
    parts: Mapping[str, tuple[NDArray[np.float32], NDArray[np.float64]]],
    job: TrainingJob,
) -> Parity:
    """Run the files as a server does, and compare with the trained model's answers on every row of every part.

    Raises:
        ConversionError: they do not load, do not answer, or answer differently.
    """
    data = {name.removeprefix(DATA): content for name, content in files.items() if name != SOURCE}
    try:
        process = ModelProcess(
            files[SOURCE], data, width=len(job.classes), memory_bytes=job.python_memory_bytes, start_s=START_S
        )
    except ModelError as error:
        raise ConversionError(f"{job.python}, as it is served alone: {error}") from None
    try:
        return prove_parity(partial(_run, process, job), parts, job.names, cure=CURE)
    except ModelError as error:
        raise ConversionError(f"{job.python}, as it is served: {error}") from None
    finally:
        process.close()


def _run(process: ModelProcess, job: TrainingJob, matrix: NDArray[np.float32], batch: int) -> NDArray[np.float64]:
    parts = []
    for start in range(0, len(matrix), batch):
        rows = matrix[start : start + batch]
        answers = process.run(rows, START_S)
        if answers is None:
            raise ConversionError(f"{job.python} gave answers of another shape for {len(rows)} rows.")
        parts.append(answers[:, 0] if not job.classes and answers.ndim == 2 else answers)
    return np.concatenate(parts)
