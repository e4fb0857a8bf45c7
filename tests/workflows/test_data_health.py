"""A project's data over weeks: what is unlike its past is told, or refused, before training; `data health` shows it."""

import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from shipworthy.faces.cli.main import root as command_line
from shipworthy.faces.wiring import open_parts
from shipworthy.kernel.errors import ContractError, DataError
from shipworthy.workflows.data_health import HealthReport, health
from shipworthy.workflows.data_metrics import render_data_metrics
from shipworthy.workflows.fingerprints import Fingerprints
from shipworthy.workflows.observing import changes_since, read_past
from shipworthy.workflows.project import read_contract
from shipworthy.workflows.ship import take_snapshot
from shipworthy.workflows.shipping import Shipping
from shipworthy.workflows.sources import gathering
from tests.stories.loans import CONTRACT, write_project

DAY_S = 86_400.0
START = 1_760_000_000.0
DAYS = 12


def batch(day: int, rows: int = 400) -> pl.DataFrame:
    """A day's loans."""
    random = np.random.default_rng(day)
    count = int(rows * np.exp(random.normal(0, 0.03)))
    income, debt = random.uniform(1, 100, count).round(2), random.uniform(0, 80, count).round(2)
    frame = pl.DataFrame(
        {
            "loan_id": [f"loan-{day}-{at}" for at in range(count)],
            "income": income,
            "debt": debt,
            "purpose": random.choice(["car", "home", "school"], count),
            "repaid": (income > debt).astype(int),
        }
    )
    return frame.with_columns(pl.when(pl.Series(random.uniform(size=count) > 0.02)).then(pl.col("debt")).alias("debt"))


@dataclass
class Weeks:
    """A project that ingests once a day."""

    folder: Path

    def take(self, day: int, frame: pl.DataFrame) -> dict[str, Any]:
        frame.write_csv(self.folder / "loans.csv")
        with open_parts(self.folder) as opened:
            parts = replace(opened, now=lambda: START + day * DAY_S)
            contract = read_contract(parts.project)
            shipping = Shipping(parts, contract, parts.project.contract_text(), lambda *_: None, {}, [])
            with gathering(shipping, Fingerprints(self.folder / "none", 0)) as gathered:
                return take_snapshot(shipping, gathered, {})

    def report(self, day: float) -> HealthReport:
        with open_parts(self.folder) as parts:
            return health(parts.project, parts.ledger, read_contract(parts.project), START + day * DAY_S)

    def alerts(self) -> list[dict[str, Any]]:
        with open_parts(self.folder) as parts:
            return [alert for alert in parts.ledger.latest("alert") if alert["state"] == "open"]

    def edit(self, old: str, new: str) -> None:
        file = self.folder / "shipworthy.yaml"
        assert old in file.read_text()
        file.write_text(file.read_text().replace(old, new))


@pytest.fixture(scope="module")
def past(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A project with twelve ordinary days, and its keys beside it."""
    top = tmp_path_factory.mktemp("weeks")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CONFIG_HOME", str(top / "config"))
        weeks = Weeks(write_project(top / "loans"))
        for day in range(DAYS):
            weeks.take(day, batch(day))
        yield top


@pytest.fixture
def weeks(past: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Weeks:
    shutil.copytree(past, tmp_path / "top")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "top" / "config"))
    return Weeks(tmp_path / "top" / "loans")


def test_an_ordinary_day_is_well(weeks: Weeks) -> None:
    done = weeks.take(DAYS, batch(DAYS))
    assert (done["anomalies"], done["changes"]) == ([], [])
    found = weeks.report(DAYS + 0.5)
    assert found.problems() == []
    document = json.loads(json.dumps(found.to_json(), allow_nan=False))
    assert document["healthy"] is True
    assert document["judgement"]["state"] == "judged"
    assert [column["column"] for column in document["columns"]] == [
        "loan_id", "income", "debt", "purpose", "ratio", "repaid",
    ]  # fmt: skip
    assert len(document["table"]["history"]) == DAYS + 1
    assert document["sources"][0]["history"][-1] == done["rows"] + done["quarantined"]
    assert weeks.alerts() == []


def test_half_of_the_rows_are_warned_of_and_the_next_good_day_closes_the_alert(weeks: Weeks) -> None:
    done = weeks.take(DAYS, batch(DAYS, 160))
    assert [(found["about"], found["aspect"]) for found in done["anomalies"]] == [("the batch", "volume")]
    alert = weeks.alerts()[0]
    assert (alert["kind"], alert["about"], alert["severity"]) == ("data", "data", "critical")
    assert alert["title"].startswith("data: the batch, ")
    assert "fewer rows than is usual" in weeks.report(DAYS + 0.5).problems()[0]
    with pytest.raises(DataError, match="quarantined"):  # which says nothing of whether the rows are back
        weeks.take(DAYS + 1, batch(DAYS + 1).with_columns(income=pl.lit(-1)))
    assert len(weeks.alerts()) == 1
    weeks.take(DAYS + 1, batch(DAYS + 1))
    assert weeks.alerts() == []
    assert weeks.report(DAYS + 1.5).problems() == []


def test_where_the_contract_refuses_it_the_last_snapshot_stays(weeks: Weeks) -> None:
    weeks.edit("quarantined: {at_most: 10%}", "quarantined: {at_most: 10%}, anomalies: refuse")
    gaps = batch(DAYS).with_columns(debt=pl.when(pl.int_range(pl.len()) % 2 == 0).then("debt"))
    with pytest.raises(
        DataError, match=r"unlike the 12 snapshots before it: debt is missing more often .*anomalies: refuse"
    ):
        weeks.take(DAYS, gaps)
    with open_parts(weeks.folder) as parts:
        assert len(parts.ledger.snapshots()) == DAYS
        refused = list(parts.ledger.events(verb="data.refused"))[-1].body
    assert refused["observed"]["judgement"]["anomalies"][0]["about"] == "debt"
    found = weeks.report(DAYS + 0.5)
    assert found.problems()[0].startswith("the last batch was refused: the batch is unlike")
    assert weeks.alerts()[0]["kind"] == "data"
    weeks.take(DAYS + 1, batch(DAYS + 1))
    assert weeks.report(DAYS + 1.5).problems() == []


def test_a_wider_budget_is_declared_and_a_wrong_one_refused(weeks: Weeks) -> None:
    weeks.edit("accept: {", "watch: {false_alarms: {at_most: 4, per: 30d}}\n  accept: {")
    with open_parts(weeks.folder) as parts:
        assert read_contract(parts.project).data.watch.false_alarms.at_most == 4
    weeks.edit("at_most: 4, per: 30d", "at_most: 0, per: 30d")
    with (
        open_parts(weeks.folder) as parts,
        pytest.raises(ContractError, match="expected more than 0, not the number 0"),
    ):
        read_contract(parts.project)


def test_a_renamed_column_is_named_with_what_it_breaks(weeks: Weeks) -> None:
    frame = batch(DAYS).rename({"income": "income_eur"})
    frame.write_csv(weeks.folder / "loans.csv")
    with open_parts(weeks.folder) as parts:
        told = [each.told() for each in changes_since(parts.project, parts.ledger, read_contract(parts.project))]
    wanted = (
        "loans: income is gone; it may be called income_eur now (breaking; it breaks features.income, derived.ratio)"
    )
    assert told == [wanted]
    with pytest.raises(DataError, match="it may be called income_eur now"):
        weeks.take(DAYS, frame)
    assert weeks.alerts()[0]["severity"] == "critical"
    problems = weeks.report(DAYS + 0.5).problems()
    assert len(problems) == 1  # not once more for the file that still lies there
    assert "it breaks features.income" in problems[0]


def test_a_source_that_fell_silent_or_is_gone_is_told(weeks: Weeks) -> None:
    assert weeks.report(DAYS).problems() == []
    assert weeks.report(DAYS + 20).problems() == [
        "loans is stale: usually it has something new after 24 h, nothing for 21 d."
    ]
    (weeks.folder / "loans.csv").unlink()
    assert "loans.csv: there is no such file" in weeks.report(DAYS).problems()[0]


def test_a_personal_column_is_watched_and_never_shown(weeks: Weeks) -> None:
    weeks.edit("debt: {type: float,", "debt: {type: float, personal: true,")
    done = weeks.take(DAYS, batch(DAYS))
    with open_parts(weeks.folder) as parts:
        kept = json.loads(parts.artefacts.get_bytes(done["artefacts"]["profile"]))
        assert set(kept["debt"]) == {"type", "rows", "missing", "distinct", "distinct_exact", "personal"}
        assert set(json.loads(parts.artefacts.get_bytes(done["artefacts"]["sketches"]))["debt"]) == {
            "type", "rows", "missing", "personal",
        }  # fmt: skip
    assert weeks.take(DAYS + 1, batch(DAYS + 1).with_columns(debt=pl.lit(None)))["anomalies"][0]["about"] == "debt"


def test_a_profile_that_is_lost_makes_the_history_shorter_and_breaks_nothing(weeks: Weeks) -> None:
    with open_parts(weeks.folder) as parts:
        digest = read_past(parts.ledger, parts.artefacts, "loans")[-3].body["artefacts"][0]["digest"]
        parts.artefacts.path_of(digest).unlink()
    done = weeks.take(DAYS, batch(DAYS, 160))
    assert [found["aspect"] for found in done["anomalies"]] == ["volume"]  # whose history is in the ledger itself


def test_the_metrics_have_the_figures_of_the_newest_snapshot(weeks: Weeks) -> None:
    done = weeks.take(DAYS, batch(DAYS, 160))
    text = render_data_metrics(weeks.report(DAYS)).decode()
    assert f"shipworthy_data_rows {done['rows']}\n" in text
    assert 'shipworthy_data_findings{aspect="volume"} 1\n' in text
    assert 'shipworthy_data_missing_share{column="income"} 0\n' in text
    assert "shipworthy_data_healthy 0\n" in text
    assert render_data_metrics(None) == b""


def run(capsys: pytest.CaptureFixture[str], *words: str | Path) -> tuple[int, str]:
    code = command_line.main([*map(str, words)], standalone_mode=False)
    return code, capsys.readouterr().out


def test_the_command_shows_it_and_ends_with_one_where_something_is_wrong(
    weeks: Weeks, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out = run(capsys, "data", "health", "--project", weeks.folder)
    assert code == 1  # the last day was years ago
    assert "loans is stale" in out
    assert "\x1b" not in out
    code, out = run(capsys, "data", "health", "--json", "--project", weeks.folder)
    document = json.loads(out)
    assert (code, document["healthy"], document["table"]["rows"]) == (1, False, weeks.report(DAYS).snapshots[-1].rows)


def test_a_young_project_says_that_its_history_is_short(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    young = Weeks(write_project(tmp_path / "loans"))
    assert CONTRACT in (young.folder / "shipworthy.yaml").read_text()
    young.take(0, batch(0))
    code, out = run(capsys, "data", "health", "--project", young.folder)
    assert code == 0
    assert "Insufficient history: no snapshot before this one, 8 are needed" in out


def test_check_tells_of_changes_since_the_last_snapshot(weeks: Weeks, capsys: pytest.CaptureFixture[str]) -> None:
    batch(DAYS).with_columns(extra=pl.lit(1)).write_csv(weeks.folder / "loans.csv")
    code, out = run(capsys, "check", "--project", weeks.folder)
    assert (code, "schema: loans: extra is new (compatible)" in out) == (0, True)
    batch(DAYS).rename({"debt": "debts"}).write_csv(weeks.folder / "loans.csv")
    with pytest.raises(ContractError, match="the data has no column 'debt'"):
        run(capsys, "check", "--project", weeks.folder)
    assert "debt is gone; it may be called debts now (breaking" in capsys.readouterr().out
