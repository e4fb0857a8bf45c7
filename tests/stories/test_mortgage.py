"""`demo mortgage` tells what is true of the data, in one go, and says what people decided."""

import difflib
import json
from collections.abc import Callable
from pathlib import Path

import polars as pl

from shipworthy.contract.parse import parse_contract
from shipworthy.faces import mortgage
from shipworthy.faces.mortgage import write_loans
from tests.stories.conftest import Done

REVIEWED = Path(mortgage.__file__).parent / "stories" / "mortgage" / "shipworthy.yaml"


def test_the_loans_keep_every_row_and_say_race_and_sex_in_words(tmp_path: Path) -> None:
    assert write_loans(tmp_path / "loans.csv") == 1989
    loans = pl.read_csv(tmp_path / "loans.csv", infer_schema_length=None)
    assert dict(loans["race"].value_counts().iter_rows()) == {"white": 1681, "black": 197, "hispanic": 111}
    assert loans["sex"].null_count() == 15
    assert loans["application"].n_unique() == 1989
    assert sorted(loans["gdlin"].unique()) == [0, 1, 666]
    assert not {"white", "black", "hispan", "male"} & set(loans.columns)


def test_the_reviewed_contract_differs_from_the_inferred_one_in_few_lines(
    tmp_path: Path, shipworthy: Callable[..., Done]
) -> None:
    write_loans(tmp_path / "loans.csv")
    words = ("--data", tmp_path / "loans.csv", "--target", "approve", "--key", "application")
    done = shipworthy("init", tmp_path / "mortgage", *words, "--json")
    asked = [line for line in done.document["review"] if "known only afterwards?" in line]
    assert [line.partition(":")[0] for line in asked] == ["typur", "inson"]
    inferred = (tmp_path / "mortgage" / "shipworthy.yaml").read_text().splitlines()
    reviewed = REVIEWED.read_text().splitlines()
    changed = [line for line in difflib.ndiff(inferred, reviewed) if line[0] in "+-"]
    assert len(changed) < 40
    contract = parse_contract(REVIEWED.read_text())
    assert not {"typur", "inson", "action", "reject", "race", "sex"} & set(contract.features)
    assert contract.environments["production"].approvals == {"risk": 1, "business": 1}


def test_the_story_is_told_in_one_go_and_its_facts_can_be_found_again(
    tmp_path: Path, shipworthy: Callable[..., Done]
) -> None:
    done = shipworthy("demo", "mortgage", "--dir", tmp_path / "demo", "--json")
    assert done.code == 0, done.err[-3000:]
    facts = done.document
    assert (facts["rows"], facts["black_applicants"]) == (1989, 197)
    assert facts["auc_with_leak"] > 0.94
    assert 0.88 < facts["auc"] < 0.93
    assert (facts["fairness"]["outcome"], facts["fairness"]["limit"]) == ("insufficient", 0.1)
    assert facts["fairness"]["interval"][0] < 0.1 < facts["fairness"]["interval"][1]
    for words in ("666 are in quarantine", "ruth does not hold the role business", "may not serve in production"):
        assert words in done.err, words
    where = ("--project", facts["project"])
    (quarantined,) = (Path(facts["project"]) / ".shipworthy" / "quarantine").glob("*.csv")
    rows = pl.read_csv(quarantined, infer_schema=False)
    assert rows.select("reasons", "gdlin").rows() == [("gdlin: outside [0, 1]", "666")] * 2
    assert shipworthy("verify", "all", *where, "--json").document["holds"] is True
    left = shipworthy("review", "list", "--env", "production", "--limit", "500", *where, "--json").document["reviews"]
    assert facts["decided"]["prediction_id"] not in [item["prediction_id"] for item in left]
    assert json.loads(shipworthy("user", "list", *where, "--json").out)["principals"]
