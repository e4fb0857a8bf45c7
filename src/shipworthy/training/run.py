"""One training: the job in a process of its own, its model proven equal as it is served, a candidate back."""

import json
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from shipworthy.bundle.format import ONNX
from shipworthy.engines.local import THREADS, Finished, run_process
from shipworthy.kernel.errors import ConversionError, StorageError, TrainingError
from shipworthy.training.job import DISK_FAILED, FAILURE, MODEL, RESULT, TrainingJob, read_array, write_job
from shipworthy.training.own import prove_own
from shipworthy.training.parity import Parity, open_session, prove_parity, run_model

TAIL = 2000  # characters of the log shown when a training dies without a word


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A trained model as a payload carries it, with its answers and what it took."""

    model: Mapping[str, Path]  # its files by name: `model.onnx`, or `model.py` and its data
    model_kind: str  # in the words of its library
    calibrate_answers: NDArray[np.float64]  # probabilities (n, classes), or predictions (n,)
    test_answers: NDArray[np.float64]
    edges: NDArray[np.float32]
    edge_answers: NDArray[np.float64]
    parity: Parity
    seconds: float
    cpu_seconds: float
    max_rss_bytes: int
    libraries: dict[str, str]
    log: Path


def train(job: TrainingJob, work: Path, environment: Mapping[str, str]) -> Candidate:
    """Run the user's training function and prove the model that it returned.

    Args:
        job: what to train.
        work: folder for the job's files; made if need be, what an earlier job left there is replaced.
        environment: the caller's environment variables; the training sees them, with threads and seeds fixed.

    Raises:
        TrainingError: the user's code raised, hung, was killed, or returned something unusable.
        ConversionError: the model cannot be served, or not with the same answers.
        StorageError: `work` cannot be written.
    """
    try:
        work.mkdir(parents=True, exist_ok=True)
        write_job(job, work)
    except OSError as error:
        raise StorageError(f"{work} cannot be written: {error.strerror or error}") from error
    log = work / "training.log"
    finished = run_process(
        [sys.executable, "-P", "-m", "shipworthy.training.child", str(work.resolve())],
        cwd=job.root,
        env=_child_environment(environment, job),
        timeout_s=job.timeout_s,
        memory_bytes=job.memory_bytes,
        log=log,
    )
    _require_result(job, work, finished, log)
    return _collect(job, work, finished, log)


def _child_environment(environment: Mapping[str, str], job: TrainingJob) -> dict[str, str]:
    fixed = dict.fromkeys(THREADS, str(job.threads))
    patient = {"OMP_WAIT_POLICY": "PASSIVE", "KMP_BLOCKTIME": "0"}  # a waiting thread leaves its core to others
    return {
        **environment,
        **fixed,
        **patient,
        "PYTHONHASHSEED": "0",
        "PYTHONUNBUFFERED": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
    }


def _require_result(job: TrainingJob, work: Path, finished: Finished, log: Path) -> None:
    if finished.ended == "timeout":
        raise TrainingError(
            f"{job.entry} did not finish within {job.timeout_s:g} s (training.timeout) and was ended; make it faster, "
            f"or raise training.timeout. Its output is in {log}."
        )
    if finished.ended == "memory":
        raise TrainingError(
            f"{job.entry} took more than {(job.memory_bytes or 0) / 1e6:g} MB (training.memory) and was ended; use "
            f"less, or raise training.memory. Its output is in {log}."
        )
    failure = work / FAILURE
    if finished.returncode == DISK_FAILED:
        raise StorageError(f"{work} cannot be written ({_tail(log).splitlines()[-1]}); make room, then run this again")
    if failure.exists():
        said = json.loads(failure.read_text())
        raise (ConversionError if said["code"] == ConversionError.code else TrainingError)(said["message"])
    if finished.returncode != 0 or not (work / RESULT).exists():
        raise TrainingError(f"{job.entry} {_death(finished)} Its output ends with:\n{_tail(log)}")


def _death(finished: Finished) -> str:
    if finished.returncode == -9:
        return "was killed by the system (signal 9), most likely for want of memory."
    if finished.returncode < 0:
        return f"crashed with signal {-finished.returncode}."
    return f"ended its process with status {finished.returncode} before it returned a model."


def _tail(log: Path) -> str:
    size = log.stat().st_size
    with log.open("rb") as file:
        file.seek(max(size - TAIL, 0), os.SEEK_SET)
        return file.read().decode(errors="replace").strip() or "(nothing)"


def _collect(job: TrainingJob, work: Path, finished: Finished, log: Path) -> Candidate:
    result = json.loads((work / RESULT).read_text())
    test, edges, edge_answers = (read_array(work / f"{name}.npy") for name in ("test_answers", "edges", "edge_answers"))
    model = {path.name: path for path in sorted((work / MODEL).iterdir())}
    parts = {"test": (job.test, test), "edge": (edges, edge_answers)}
    if job.python:
        parity = prove_own({name: path.read_bytes() for name, path in model.items()}, parts, job)
    else:
        parity = prove_parity(partial(run_model, open_session(model[ONNX].read_bytes())), parts, job.names)
    return Candidate(
        model=model,
        model_kind=result["kind"],
        calibrate_answers=read_array(work / "calibrate_answers.npy"),
        test_answers=test,
        edges=edges,
        edge_answers=edge_answers,
        parity=parity,
        seconds=finished.seconds,
        cpu_seconds=finished.cpu_seconds,
        max_rss_bytes=finished.max_rss_bytes,
        libraries=result["libraries"],
        log=log,
    )
