"""A system that looks features up: shipped, asked in every way, refreshed and rolled back; sealed where it lies."""

import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from shipworthy.records.read import read_records
from shipworthy.workflows.layout import Project
from tests.stories.conftest import Done
from tests.stories.deliveries import deliveries, vans, weather, write_deliveries

Run = Callable[..., Done]

PLANTED = "van-planted-7731"
BUDGET = "budget: {at_rps: 100, memory: {at_most: 1GB}, size: {at_most: 5MB}}"


@pytest.fixture
def written(tmp_path: Path) -> Path:
    """The project, encrypted at rest, with a van that no row of the training has."""
    project = write_deliveries(tmp_path / "deliveries", 1_500)
    with (project / "vans.csv").open("a") as file:
        file.write(f"{PLANTED},7,no\n")
    contract = project / "shipworthy.yaml"
    text = contract.read_text().replace("environments:", f"  {BUDGET}\nencryption: at_rest\nenvironments:")
    contract.write_text(text)
    return project


def ask(plate: str, depot: str = "north", stops: int = 30, minutes: int = 15) -> dict[str, Any]:
    """A request soon after the last observation of the depot."""
    last = weather().filter(depot=depot)["observed_at"].max()
    assert last is not None
    due = (last + timedelta(minutes=minutes)).isoformat()  # type: ignore[operator]
    return {"inputs": {"plate": plate, "depot": depot, "stops": stops}, "context": {"due": due}}


def until(server: Any, request: dict[str, Any], status: int) -> Any:
    """The first answer with this status: a server notices another deployment by itself."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        found, answer = server.post(request)
        if found == status:
            return answer
        time.sleep(0.05)
    raise AssertionError(f"never {status}: {found} {answer}")


def test_a_table_is_looked_up_everywhere_and_rolled_back_with_its_release(
    written: Path,
    tmp_path: Path,
    shipworthy: Run,
    serving: Callable[..., Any],
    home: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    project = written
    done = shipworthy("ship", "--project", project, "--json")
    assert done.code == 0, done.err
    report = done.document
    assert report["lookups"]["vans"] | {"rows": 41, "keys": 41} == report["lookups"]["vans"]
    found = report["lookups"]["weather"]
    assert found["too_old"] > 100
    assert found["found"] + found["not_found"] + found["too_old"] == 1_500
    shown = shipworthy("data", "show", "0", "--project", project)
    assert f"Lookup vans: {report['lookups']['vans']['found']:,} of 1,500 rows found" in shown.out

    rows = pl.concat([deliveries(200, seed=9), deliveries(1, seed=8).with_columns(plate=pl.lit("nobody's"))])
    last = weather()["observed_at"].max()
    assert last is not None
    rows = rows.with_columns(due=pl.lit(last) + pl.duration(minutes=pl.int_range(pl.len()))).drop("late")
    rows.with_columns(pl.col("due").dt.strftime("%Y-%m-%dT%H:%M:%SZ")).write_csv(tmp_path / "asked.csv")
    done = shipworthy("score", tmp_path / "asked.csv", tmp_path / "answers.csv", "--project", project, "--json")
    assert (done.document["answered"], done.document["refused"]) == (200, 1), done.err
    scored = pl.read_csv(tmp_path / "answers.csv", infer_schema=False)
    assert "a row of the lookup vans for this plate" in scored["problem"][200]

    with serving(project) as server:
        requests = [
            {
                "inputs": {name: row[name] for name in ("plate", "depot", "stops")},
                "context": {"due": row["due"].isoformat()},
            }
            for row in rows.iter_rows(named=True)
        ]
        status, answers = server.post(requests)
        assert status == 200
        given = [float(answer["probability"]["1"]) for answer in answers[:200]]
        assert given == pytest.approx(scored["probability_1"][:200].cast(pl.Float64).to_list(), abs=1e-6)
        assert answers[200]["status"] == 422
        tensors = [
            {"name": name, "datatype": kind, "shape": [200], "data": rows[name][:200].to_list()}
            for name, kind in (("plate", "BYTES"), ("depot", "BYTES"), ("stops", "INT64"))
        ]
        due = [moment.isoformat() for moment in rows["due"][:200]]
        body = {"inputs": tensors, "parameters": {"context": {"due": due}}}
        status, answer = server.post(body, "/v2/models/deliveries/infer")
        assert status == 200, answer
        (probability,) = [output["data"] for output in answer["outputs"] if output["name"] == "probability"]
        assert probability[1::2] == pytest.approx(given, abs=1e-6)

        status, answer = server.post(ask(PLANTED))
        assert (status, answer["source"], answer["warnings"]) == (200, "model", [])
        status, problem = server.post(ask("new-van"))
        assert (status, problem["errors"][0]["got"]) == (422, '"new-van"')

        # a new table alone is a new release of the same model, and rolling it back takes the table back too
        with (project / "vans.csv").open("a") as file:
            file.write("new-van,9,yes\n")
        again = shipworthy("ship", "--project", project, "--json").document
        assert (again["release"], again["run"]) == ("deliveries:2", report["run"])
        assert [stage["name"] for stage in again["stages"] if stage["reused"]] == ["train"]
        assert until(server, ask("new-van"), 200)["release"] == "deliveries:2"
        done = shipworthy("rollback", "--env", "local", "--project", project, "--reason", "wrong vans")
        assert done.code == 0, done.err
        assert until(server, ask("new-van"), 422)["errors"][0]["got"] == '"new-van"'

    state = Project(project)
    monkeypatch.setenv("XDG_CONFIG_HOME", home["XDG_CONFIG_HOME"])
    records = list(read_records(state.records("local"), state.vault))
    capacity = {**dict(vans().select("plate", "capacity").iter_rows()), PLANTED: 7, "new-van": 9}
    assert len(records) > 600
    assert all(record.inputs["capacity"] == capacity[record.inputs["plate"]] for record in records)
    kept = [path for path in state.state.rglob("*") if path.is_file() and PLANTED.encode() in path.read_bytes()]
    assert kept == []
