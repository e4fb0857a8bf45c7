"""A table scored with every guard on, against ONNX Runtime alone on the same matrix at the same batch size.

`python -m bench.score [--rows N] [--kind SUFFIX …] [--cases NAME …]` prints rows/s, the ratio to the bare
`session.run` loop (float32 in memory, nothing read, checked, recorded or written), CPU for each row and peak memory.
Raw runs before and after each case and the faster counts: compare ratios within one run. Scoring reads, runs and
records in a thread each, so the ratio needs a second core that nobody else uses; CPU for each row does not.
"""

import argparse
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from base64 import b64encode
from pathlib import Path

import msgspec
import numpy as np
import polars as pl
from bench.serving import FEATURES, build_model, deploy
from numpy.typing import NDArray

from shipworthy.ledger.artefacts import ArtefactStore
from shipworthy.ledger.store import open_ledger
from shipworthy.security.access import Principal
from shipworthy.security.datakeys import make_data_key
from shipworthy.security.keys import SigningKey
from shipworthy.security.master import KEY_SETTING
from shipworthy.security.vault import Vault
from shipworthy.serving.runtimes.onnx import OnnxRuntime
from shipworthy.workflows.layout import Project
from shipworthy.workflows.project import Parts
from shipworthy.workflows.score import score
from shipworthy.workflows.scorer import RUN_ROWS

GOAL = 0.8  # of raw
CASES = {"sync": "sync", "async": "async", "no records": "off", "sync, sealed": "sync"}


class Seen(msgspec.Struct):
    """What one scoring took."""

    rows: int
    seconds: float
    cpu_s: float
    peak_mb: float


def draw(rows: int) -> NDArray[np.float32]:
    return np.random.default_rng(5).normal(size=(rows, FEATURES)).astype(np.float32)


def write_rows(path: Path, matrix: NDArray[np.float32]) -> None:
    frame = pl.DataFrame({f"f{i:02d}": matrix[:, i].astype(np.float64) for i in range(FEATURES)})
    if path.suffix == ".parquet":
        frame.write_parquet(path)
    elif path.suffix == ".jsonl":
        frame.write_ndjson(path)
    else:
        frame.write_csv(path)


def raw(model: bytes, matrix: NDArray[np.float32]) -> tuple[float, float]:
    """Rows per second of the model and nothing else, and its CPU for each row in seconds."""
    runtime = OnnxRuntime(model)
    began, spent = time.perf_counter(), time.process_time()
    for start in range(0, len(matrix), RUN_ROWS):
        runtime.run(matrix[start : start + RUN_ROWS])
    return len(matrix) / (time.perf_counter() - began), (time.process_time() - spent) / len(matrix)


def scored(root: Path, source: Path, destination: Path) -> Seen:
    """Score in this process."""
    project, key = Project(root), SigningKey.from_seed("bench", bytes(32))
    with open_ledger(project.ledger_url({}), project.log, key, time.time) as ledger:
        parts = Parts(project, ledger, ArtefactStore(project.blobs), key, "user:bench", time.time, os.urandom)
        principal = Principal("bench", frozenset({"ml-engineer"}))
        before = resource.getrusage(resource.RUSAGE_SELF)
        began = time.perf_counter()  # the report's own seconds end before the answers stand in place
        report = score(parts, principal, "local", source, destination)
        seconds = time.perf_counter() - began
        after = resource.getrusage(resource.RUSAGE_SELF)
    assert report.answered == report.rows
    cpu_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    peak = after.ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)
    return Seen(report.rows, seconds, cpu_s, peak)


def measure(root: Path, source: Path, destination: Path) -> Seen:
    """Score in a process of its own, so that its memory is its own."""
    words = [sys.executable, "-m", "bench.score", "--child", str(root), str(source), str(destination)]
    done = subprocess.run(words, capture_output=True, text=True, check=True, cwd=Path(__file__).parents[1])
    return msgspec.json.decode(done.stdout.splitlines()[-1], type=Seen)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--kind", nargs="+", default=["parquet", "csv"], help="suffixes of the tables")
    parser.add_argument("--cases", nargs="+", default=list(CASES), choices=list(CASES))
    parser.add_argument("--child", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        print(msgspec.json.encode(scored(*map(Path, arguments.child))).decode())
        return
    os.environ[KEY_SETTING] = b64encode(os.urandom(32)).decode()
    top = Path(tempfile.mkdtemp(prefix="bench-"))
    try:
        model, matrix = build_model(), draw(arguments.rows)
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
        print(f"{arguments.rows:,} rows of {FEATURES} features, runs of {RUN_ROWS} rows, {cores} cores")
        for kind in arguments.kind:
            source = top / f"rows.{kind}"
            write_rows(source, matrix)
            for name in arguments.cases:
                root = top / f"{kind}-{name.replace(', ', '-').replace(' ', '-')}"
                state = Project(root).state
                state.mkdir(parents=True)
                vault = None
                if name.endswith("sealed"):
                    make_data_key(Project(root).data_keys, os.environ, time.time())
                    vault = Vault(Project(root).data_keys, os.environ)
                deploy(state, model, CASES[name], vault)
                before = raw(model, matrix)
                seen = measure(root, source, root / f"answers.{kind}")
                best, model_cpu_s = max(before, raw(model, matrix))
                rate = seen.rows / seen.seconds
                print(
                    f"{kind:8}{name:14}{rate:>10,.0f} of {best:,.0f} rows/s: {rate / best:.2f} (goal {GOAL}), CPU "
                    f"{seen.cpu_s / seen.rows * 1e6:.1f} us a row, the model's {model_cpu_s * 1e6:.1f}; "
                    f"peak {seen.peak_mb:,.0f} MB; load of the machine {os.getloadavg()[0]:.1f}",
                    flush=True,
                )
                shutil.rmtree(root)
            source.unlink()
    finally:
        shutil.rmtree(top)


if __name__ == "__main__":
    main()
