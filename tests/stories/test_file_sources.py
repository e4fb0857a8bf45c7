"""Files of every kind as sources of a project: what `check` and `ship` say of them."""

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl

from tests.stories.loans import CONTRACT, write_project

WITHOUT_RIGHTS = """
import os
import shipworthy.data.sources.read, shipworthy.faces.cli.check  # what is needed is loaded while it can be read
from shipworthy.faces.cli.main import main

"".encode("utf-8-sig")
if os.getuid() == 0:
    os.setgroups([])
    os.setgid(65534)
    os.setuid(65534)
main()
"""


def monthly(folder: Path) -> Path:
    """The loans' project with its table in two files, of windows-1252, semicolons and decimal commas."""
    project = write_project(folder)
    table = pl.read_csv(project / "loans.csv", infer_schema=False)
    (project / "loans.csv").unlink()
    (project / "months").mkdir()
    for name, part in (("01", table[:1500]), ("02", table[1500:])):
        write_month(project / "months" / f"{name}.csv", part)
    source = 'loans: {path: months, format: csv, delimiter: ";", encoding: windows-1252, decimal: ","}'
    contract = CONTRACT.replace("loans: {path: loans.csv}", source)
    (project / "shipworthy.yaml").write_text(contract)
    return project


def write_month(path: Path, table: pl.DataFrame) -> None:
    """One month, with a column of a text beyond ASCII."""
    money = pl.col("income", "debt").str.replace(".", ",", literal=True)
    text = table.with_columns(money, pl.lit("Köln").alias("town")).write_csv(separator=";")
    path.write_bytes(text.encode("cp1252"))


def kept(project: Path) -> list[tuple[Any, ...]]:
    """Place and reasons of what is in quarantine now."""
    files = sorted((project / ".shipworthy" / "quarantine").glob("*.csv"), key=lambda path: path.stat().st_mtime_ns)
    return pl.read_csv(files[-1], infer_schema=False).select("file", "line", "reasons").rows()


def test_a_folder_of_files_is_shipped_and_each_of_them_is_named(tmp_path: Path, shipworthy: Callable[..., Any]):
    project = monthly(tmp_path / "loans")
    bad = (project / "months" / "02.csv").read_bytes().splitlines()
    bad[3], bad[7] = b"loan-x;12.5;3,25;car;1;K\xf6ln", b"loan-y;-4,5;3,25;boat;1;K\xf6ln"
    (project / "months" / "02.csv").write_bytes(b"\n".join(bad))
    assert shipworthy("check", "--project", project).code == 0
    done = shipworthy("ship", "--project", project, "--json")
    assert done.code == 0, done.err
    assert kept(project) == [
        ("02.csv", "8", "income: outside [0, 1000]; purpose: unknown category"),
        ("02.csv", "4", "income: not a number written as 1234,5"),
    ]
    up = shipworthy("lineage", "loans:1", "--project", project, "--json").document["up"]["edges"]
    assert {edge["parent"].split("@")[0] for edge in up if edge["relation"] == "ingested"} == {
        "file:months/01.csv",
        "file:months/02.csv",
    }
    down = shipworthy("lineage", project / "months" / "01.csv", "--down", "--project", project, "--json").document
    assert any(edge["child"] == "deployment:local:1" for edge in down["down"]["edges"])

    same = shipworthy("ship", "--project", project, "--json").document
    assert all(stage["reused"] for stage in same["stages"])
    (project / "months" / "03.csv").write_bytes("größe;x\n1;2\n".encode("cp1252"))
    for verb in ("check", "ship"):
        refused = shipworthy(verb, "--project", project)
        assert refused.code == 1
        assert "03.csv: lacks loan_id, income, debt, purpose, repaid and adds groe, x, compared with 01.csv" in (
            refused.err.replace("\n", " ")
        )
        assert "(data.sources.loans)" in refused.err.replace("\n", " ")
    assert "loans:1" in shipworthy("status", "--project", project).out


def test_a_file_that_is_not_as_the_contract_says_is_told_by_check(tmp_path: Path, shipworthy: Callable[..., Any]):
    project = monthly(tmp_path / "loans")
    path = project / "months" / "02.csv"
    text = path.read_bytes().decode("cp1252")
    commas = text.replace(",", ".").replace(";", ",")
    changes = {
        "is UTF-8, and its source declares windows-1252": text.encode(),
        "is not parted by ';', which its source declares, but by ','": commas.encode("cp1252"),
        "is UTF-16, and its source declares windows-1252": text.encode("utf-16"),
    }
    for words, content in changes.items():
        path.write_bytes(content)
        done = shipworthy("check", "--project", project, "--json")
        assert done.code == 1, words
        message = done.document["error"]["message"]
        assert words in message
        assert message.startswith(f"source loans: {path}")
        assert message.endswith("(data.sources.loans)")


def test_a_file_that_changes_while_it_is_read_is_refused_and_leaves_nothing(
    tmp_path: Path, shipworthy: Callable[..., Any]
):
    project = write_project(tmp_path / "loans")
    path, stop = project / "loans.csv", threading.Event()

    def write() -> None:
        with path.open("a") as file:
            number = 0
            while not stop.is_set():
                number += 1
                file.write(f"late-{number},50.0,20.0,car,1\n")
                file.flush()
                time.sleep(0.001)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        done = shipworthy("ship", "--project", project, "--json")
    finally:
        stop.set()
        writer.join()
    assert done.code == 1
    assert "loans.csv: changed while it was read; wait until it is complete" in done.document["error"]["message"]
    state = project / ".shipworthy"
    assert not any((state / name).exists() and any((state / name).iterdir()) for name in ("tables", "quarantine"))


def test_a_file_that_may_not_be_read_is_said_so(tmp_path: Path, home: dict[str, str]):
    project = write_project(tmp_path / "loans")
    (project / "loans.csv").chmod(0)
    (project / "shipworthy.yaml").chmod(0o644)
    for path in (project, *project.parents):  # pytest keeps its folders for their owner alone
        if path.stat().st_uid == os.getuid() and path != Path("/"):
            path.chmod(path.stat().st_mode | 0o005)
    argv = [sys.executable, "-c", WITHOUT_RIGHTS, "check", "--project", str(project)]
    done = subprocess.run(argv, env=home, capture_output=True, text=True, check=False, cwd="/")
    assert done.returncode == 1, done.stderr
    assert "loans.csv: may not be read; give yourself the right with chmod u+r" in done.stderr.replace("\n", " ")
    assert "Traceback" not in done.stderr
