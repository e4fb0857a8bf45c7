"""The ingest of a project, from CSV to snapshot: whole, then with a hundredth more rows in another file.

`python -m bench.ingest [--rows N]` prints CPU seconds, seconds and peak memory, each ingest in a process of its own.
Twenty columns, one row in a hundred bad. Goals: what is added costs at most 5 % of the whole; 10,000,000 rows in 4 GiB.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import polars as pl
from bench.validate import contract, draw

from shipworthy.faces.wiring import open_parts
from shipworthy.workflows.fingerprints import Fingerprints
from shipworthy.workflows.project import read_contract
from shipworthy.workflows.ship import take_snapshot
from shipworthy.workflows.shipping import Shipping
from shipworthy.workflows.sources import gathering

PIECE_ROWS = 1_000_000  # that are drawn and written at a time
GOAL_ADDED, GOAL_BYTES, GOAL_ROWS = 0.05, 4 * 2**30, 10_000_000


def write_project(root: Path) -> None:
    sections = contract().model_dump(mode="json", by_alias=True, exclude_unset=True)
    sections["data"]["sources"]["rows"]["path"] = "rows"
    (root / "shipworthy.yaml").write_text(json.dumps(sections))
    (root / "rows").mkdir()


def write_rows(file: Path, rows: int, first: int) -> None:
    """Rows whose numbers begin with `first`; no two pieces are alike."""
    with file.open("wb") as content:
        for start in range(0, rows, PIECE_ROWS):
            piece = draw(min(rows - start, PIECE_ROWS))
            number = pl.int_range(first + start, first + start + piece.height)
            piece = piece.with_columns(
                pl.format("r{}", number.cast(pl.String).str.zfill(9)).alias("id"),
                pl.col("at").dt.strftime("%Y-%m-%d %H:%M:%S"),
                *((pl.col(f"x{at}") + (first + start) * 1e-8).round(3 + at) for at in range(1, 10)),
            )
            piece.write_csv(content, include_header=not start)


def ingest(root: Path) -> dict[str, float]:
    """What the ingest costs this process, but for the loading of its code."""
    import shipworthy.workflows.stages.ingest  # noqa: F401  # loaded when a stage begins

    began, before = time.perf_counter(), time.process_time()
    with open_parts(root) as parts:
        project = parts.project
        shipping = Shipping(parts, read_contract(project), project.contract_text(), lambda *_: None, {}, [])
        fingerprints = Fingerprints.load(project.state / "cache" / "digests.json", time.time_ns())
        with gathering(shipping, fingerprints) as gathered:
            fingerprints.save()
            rows = take_snapshot(shipping, gathered, {})["rows"]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    spent = {"cpu": time.process_time() - before, "seconds": time.perf_counter() - began}
    return {"rows": rows, **spent, "peak": peak}


def measured(root: Path) -> dict[str, float]:
    command = [sys.executable, "-m", "bench.ingest", "--project", str(root)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    found: dict[str, float] = json.loads(done.stdout)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--project", type=Path, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.project is not None:
        print(json.dumps(ingest(chosen.project)))
        return
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        write_project(root)
        write_rows(root / "rows" / "0.csv", chosen.rows, 0)
        time.sleep(2)  # a file changed this moment is digested twice
        whole = measured(root)
        write_rows(root / "rows" / "1.csv", chosen.rows // 100, chosen.rows)
        added = measured(root)
    for what, found in (("whole", whole), ("1 % added", added)):
        spent = f"{found['cpu']:8.2f} CPU s {found['seconds']:8.2f} s, peak {found['peak'] / 2**30:5.2f} GiB"
        print(f"{what:10} {found['rows']:12,.0f} rows in the snapshot {spent}")
    share, time_share = (added[key] / whole[key] for key in ("cpu", "seconds"))
    told = "met" if share <= GOAL_ADDED else "missed"
    print(f"added / whole: {share:.1%} of the CPU, {time_share:.1%} of the time; goal 5 %: {told}")
    if chosen.rows >= GOAL_ROWS:
        print(f"memory: {'met' if whole['peak'] < GOAL_BYTES else 'missed'}; goal 4 GiB")


if __name__ == "__main__":
    main()
