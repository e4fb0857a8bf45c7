"""A project's contract leaves for other tools and comes back from them, by the commands that a person runs."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from shipworthy.contract.parse import parse_contract
from tests.stories.loans import CONTRACT, write_project

CHURN = Path(__file__).parents[1] / "governance" / "churn.odcs.yaml"


def test_a_contract_goes_out_and_comes_back(tmp_path: Path, shipworthy: Callable[..., Any]):
    project = write_project(tmp_path / "loans")
    words = ("--project", project)
    first = shipworthy("contract", "export", "--odcs", tmp_path / "a.yaml", *words)
    assert first.code == 0
    assert "  - decision\n" in first.out
    told = shipworthy("contract", "export", "--odcs", tmp_path / "b.yaml", "--json", *words).document
    assert "gates" in told["own"]
    assert (tmp_path / "a.yaml").read_bytes() == (tmp_path / "b.yaml").read_bytes()
    back = tmp_path / "back"
    assert shipworthy("contract", "import", tmp_path / "a.yaml", "--project", back).code == 0
    assert parse_contract((back / "shipworthy.yaml").read_text()).model_dump() == parse_contract(CONTRACT).model_dump()
    assert (back / "train.py").is_file()
    (back / "loans.csv").write_bytes((project / "loans.csv").read_bytes())
    assert shipworthy("check", "--project", back).code == 0
    again = shipworthy("contract", "import", tmp_path / "a.yaml", "--project", back)
    assert (again.code, "exists; change it by hand" in again.err) == (1, True)


def test_another_tools_contract_becomes_a_project_that_checks(tmp_path: Path, shipworthy: Callable[..., Any]):
    done = shipworthy("contract", "import", CHURN, "--target", "churned", "--json", "--project", tmp_path / "churn")
    report = json.loads(done.out)
    assert report["written"] == [".gitignore", "train.py", "shipworthy.yaml"]
    assert "quality: no orphans" in report["left_out"]
    rows = ["Customer ID,signed_up,country,age,spend,churned"]
    rows += [f"c{at},2026-11-{at % 28 + 1:02},no,{20 + at % 50},{at}.5,{('001', '1')[at % 2]}" for at in range(200)]
    data = tmp_path / "churn" / "data"
    data.mkdir()
    (data / "customers.csv").write_text("\n".join(rows) + "\n")
    checked = shipworthy("check", "--project", tmp_path / "churn")
    assert checked.code == 0, checked.err
    lacking = shipworthy("contract", "import", CHURN, "--project", tmp_path / "other")
    assert lacking.code == 2
    assert "name it with --target COLUMN" in lacking.err
    assert not (tmp_path / "other").exists()
