"""A model that no converter knows, from the guide's own lines to answers: trained, proven, signed, served, scored."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from shipworthy.kernel.digest import digest_bytes
from tests.stories.conftest import Done
from tests.stories.loans import write_project
from tests.stories.test_documents import blocks

Run = Callable[..., Done]
ROWS = 1000  # the model looks at all rows for each


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """The guide's model.py and train.py in the project of loans."""
    folder = write_project(tmp_path / "loans", rows=ROWS)
    model, train = blocks("models.md", "python")
    (folder / "model.py").write_text(model)
    (folder / "train.py").write_text(train)
    return folder


def declare(project: Path, more: str = "") -> None:
    (declared,) = blocks("models.md", "yaml")
    contract = project / "shipworthy.yaml"
    contract.write_text(contract.read_text() + declared.replace("200ms", "1s") + more)


def test_a_model_that_no_converter_knows_is_declared_shipped_served_and_scored(
    project: Path, tmp_path: Path, shipworthy: Run, serving: Callable[..., Any]
) -> None:
    refused = shipworthy("ship", "--project", project)
    assert refused.code == 1
    assert "Neighbours, which cannot be served" in refused.err
    assert "serving.python" in refused.err

    declare(project)
    shipped = shipworthy("ship", "--project", project)
    assert shipped.code == 0, shipped.out + shipped.err
    assert "Neighbours" in shipped.out + shipped.err
    (payload,) = (project / ".shipworthy" / "live" / "local" / "bundles").glob("*/payload")
    assert sorted(path.name for path in payload.iterdir()) == [
        "baselines.json", "data.loans.npz", "manifest.json", "model.py", "policy.json", "schema.json",
    ]  # fmt: skip
    assert (payload / "model.py").read_text() == (project / "model.py").read_text()
    assert all(stage["reused"] for stage in shipworthy("ship", "--json", "--project", project).document["stages"])

    request = {"inputs": {"income": 90.0, "debt": 5.0, "purpose": "car"}}
    with serving(project) as server:
        status, answer = server.post(request)
        assert (status, answer["source"], answer["decision"]) == (200, "model", "approve")
        poor = {"inputs": {"income": 2.0, "debt": 70.0, "purpose": "car"}}
        assert server.post(poor)[1]["decision"] == "refer"

    for name in ("loans:1", "all"):
        assert shipworthy("verify", name, "--project", project).code == 0, name
    out = tmp_path / "scored.csv"
    scored = shipworthy("score", project / "loans.csv", out, "--project", project)
    assert scored.code == 0, scored.err
    assert out.read_text().count("model") >= ROWS
    lineage = shipworthy("lineage", "loans:1", "--json", "--project", project)
    assert lineage.code == 0
    for name in ("model.py", "data.loans.npz"):
        assert digest_bytes((payload / name).read_bytes()) in lineage.out

    source = payload / "model.py"
    source.write_text(source.read_text() + "\nprint('changed')\n")
    verified = shipworthy("verify", "all", "--project", project)
    assert verified.code == 1
    assert "model.py" in verified.out + verified.err


def test_what_model_py_needs_and_does_not_bring_is_said_by_ship(project: Path, shipworthy: Run) -> None:
    declare(project)
    (project / "features.py").write_text("SCALE = 2.0\n")
    model = project / "model.py"
    model.write_text(model.read_text().replace("NEAREST = 25", "from features import SCALE\n\nNEAREST = 25"))
    refused = shipworthy("ship", "--project", project)
    assert refused.code == 1
    assert "model.py, as it is served alone: the model cannot be loaded" in refused.err
    assert "No module named 'features'" in refused.err


def test_encrypted_at_rest_its_source_and_data_lie_nowhere_in_the_open(
    project: Path, shipworthy: Run, serving: Callable[..., Any]
) -> None:
    declare(project, "encryption: at_rest\n")
    assert shipworthy("ship", "--project", project).code == 0
    with serving(project) as server:
        answer = server.post({"inputs": {"income": 90.0, "debt": 5.0, "purpose": "car"}})[1]
        assert answer["source"] == "model"
        for path in (project / ".shipworthy").rglob("*"):
            if path.is_file() and path.name not in ("code.py",):
                assert b"NEAREST = 25" not in path.read_bytes(), path


def test_the_budget_counts_the_models_process(project: Path, shipworthy: Run) -> None:
    contract = project / "shipworthy.yaml"
    gate = "  performance: {log_loss: {better_than: baseline}}\n"
    assert gate in contract.read_text()
    budget = "  budget: {at_rps: 100, memory: {at_most: 90MB}}\n"
    contract.write_text(contract.read_text().replace(gate, gate + budget))
    declare(project)
    done = shipworthy("ship", "--json", "--project", project)
    (memory,) = [verdict for verdict in done.document["verdicts"] if verdict["gate"] == "budget.memory"]
    assert memory["measured"] > 110_000_000  # a worker alone takes 88 MB
