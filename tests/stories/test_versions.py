"""The versions of a project's data, by the command line: shipped, looked at, compared, named, removed, taken again."""

from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest

from shipworthy.faces.cli.main import root
from shipworthy.kernel.errors import ShipworthyError
from tests.stories.conftest import Done
from tests.stories.loans import write_project

Run = Callable[..., Done]


def edit(project: Path, old: str, new: str) -> None:
    contract = project / "shipworthy.yaml"
    text = contract.read_text()
    assert old in text
    contract.write_text(text.replace(old, new))


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run `shipworthy` with words, in this process."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("COLUMNS", "120")

    def ran(project: Path, *words: str | Path, code: int = 0) -> Done:
        try:
            ended = root.main([*map(str, words), "--project", str(project)], standalone_mode=False)
            error = ""
        except ShipworthyError as refusal:
            ended, error = 1, str(refusal)
        out, err = capsys.readouterr()
        assert ended == code, err + error
        return Done(code, out, err + error)

    return ran


def test_what_is_shipped_is_a_version_that_is_kept_as_long_as_a_release_needs_it(tmp_path: Path, run: Run) -> None:
    """Encrypted, below a folder with a space: the harder way."""
    project = write_project(tmp_path / "my loans")
    edit(project, "{role: key, type: text}", "{role: key, type: text, personal: true}")
    edit(project, "environments:", "encryption: at_rest\nenvironments:")
    assert run(project, "ship", "--json").document["release"] == "loans:1"
    whole = pl.read_csv(project / "loans.csv")
    edited = whole.with_columns(pl.col("debt") + 30).tail(2_900)
    edited.write_csv(project / "loans.csv")
    edit(project, "log_loss: {better_than: baseline}", "log_loss: {at_most: 0.001}")
    edit(project, "accept:", "keep: {versions: 1}\n  accept:")
    run(project, "ship", code=1)  # refused by a gate: a version that no release refers to
    old, new = run(project, "data", "log", "--json").document["versions"][::-1]
    assert (old["releases"], old["serving"], new["releases"]) == (["loans:1"], ["local"], [])
    assert (old["encrypted"], new["since"]) == (True, new["rows"] - old["rows"])
    assert "loans:1, serving local" in run(project, "data", "log").out

    found = run(project, "data", "diff", "loans:1", "latest", "--json").document
    assert (found["rows"]["key"], found["rows"]["changed"]) == (["loan_id"], new["rows"])
    debt = next(column for column in found["columns"] if column["column"] == "debt")
    assert debt["magnitude"] == "large"
    words = run(project, "data", "diff", "0", "1")
    assert "Columns: the same." in words.out
    assert "loan-" not in words.out + str(found)
    shown = run(project, "data", "show", "0").out
    assert "•••" in shown
    assert "personal, not shown" in shown
    assert "loan-" not in shown

    run(project, "data", "tag", "1", "refused")
    edited.head(2_800).write_csv(project / "loans.csv")
    run(project, "ship", code=1)
    assert "Version 1 stays: tag refused." in run(project, "data", "compact", "--dry-run").out
    run(project, "data", "untag", "refused")
    done = run(project, "data", "compact", "--json").document
    assert (done["removed"], [held["by"] for held in done["held"]]) == (
        [1],
        ["release loans:1, deployment in local"],
    )
    gone = run(project, "data", "show", "1", code=1)
    assert "version 1 (" in gone.err
    assert "was removed on" in gone.err
    assert "as data.keep {versions: 1} says" in gone.err
    run(project, "data", "export", "loans:1", tmp_path / "old.parquet")
    assert pl.read_parquet(tmp_path / "old.parquet").height == old["rows"]
    assert run(project, "verify", "all").out.count("was removed by `data compact`") == 1

    edited.write_csv(project / "loans.csv")  # what ship remembers of these sources is a version that is gone
    edit(project, "log_loss: {at_most: 0.001}", "log_loss: {better_than: baseline}")
    run(project, "ship")
    listed = run(project, "data", "log", "--json").document["versions"]
    assert [version["digest"] for version in listed if version["removed"]] == [new["digest"]]
    assert (listed[0]["digest"], listed[0]["releases"]) == (new["digest"], ["loans:2"])


def test_before_anything_was_shipped_the_log_says_what_to_do(tmp_path: Path, run: Run) -> None:
    project = write_project(tmp_path / "loans")
    assert "run `shipworthy ship" in run(project, "data", "log", code=1).err
    assert "The contract keeps every version" in run(project, "data", "compact").out
    assert "No version yet; run: shipworthy ship --project" in run(project, "data", "log").out
    assert "--at: 'yesterday' is no time" in run(project, "data", "show", "--at", "yesterday", code=1).err
