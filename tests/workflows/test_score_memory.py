"""`score` needs as much memory for many rows as for some."""

import os
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest

from shipworthy.workflows.layout import Project
from tests.conftest import Seen
from tests.serving.conftest import Place
from tests.workflows.test_score import deploy, draw_rows
from tests.workflows.test_score_kills import RUN

ROWS = int(os.environ.get("SHIPWORTHY_SOAK", "400000"))
FEW = 200_000  # enough that every chunk that can be under way is
SLACK_MB = 100  # of allocators
PEAK = "\nimport resource; print('peak', resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)\n"


@pytest.mark.timeout(36_000)
@pytest.mark.skipif(sys.platform == "darwin", reason="peaks are counted in other units there")
def test_memory_does_not_grow_with_the_rows_but_for_their_ids(tmp_path: Path, seen: Seen) -> None:
    place = Place(Project(tmp_path).state)
    deploy(place)
    good = pl.DataFrame([row for row in draw_rows(rows=2_000) if "001" not in row.values()], infer_schema_length=None)
    peaks = {rows: peak_mb(tmp_path, good, rows) for rows in (FEW, ROWS)}
    seen("rows", ROWS)
    seen("MB at the peak", round(peaks[ROWS]))
    seen("MB more than for 200,000 rows", round(peaks[ROWS] - peaks[FEW]))
    assert peaks[ROWS] < peaks[FEW] + SLACK_MB + 3 * 8 * ROWS / 2**20


def peak_mb(root: Path, good: pl.DataFrame, rows: int) -> float:
    source = root / f"{rows}.parquet"
    times = -(-rows // good.height)
    copies = (good.with_columns(loan=pl.format(f"{rows}-{number}-{{}}", "loan")) for number in range(times))
    pl.concat([frame.lazy() for frame in copies]).head(rows).sink_parquet(source)
    words = [sys.executable, "-c", RUN.format(top=str(Path(__file__).parents[2])) + PEAK]
    words += [str(root), str(source), str(root / f"{rows}-answers.parquet"), ""]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    assert pl.scan_parquet(root / f"{rows}-answers.parquet").select(pl.len()).collect().item() == rows
    return int(done.stdout.split()[-1]) / 2**10
