"""`key open`: what it opens is recorded, what it may not open is named, and nothing is replaced."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from shipworthy.faces.wiring import open_parts
from shipworthy.kernel.errors import AccessError, ConflictError, IntegrityError, NotFoundError, UsageError
from shipworthy.security.access import Principal
from shipworthy.workflows.keys import rotate_data_key
from shipworthy.workflows.principals import acting
from shipworthy.workflows.project import Parts
from shipworthy.workflows.quarantine import keep_rows
from shipworthy.workflows.unseal import unseal

ROWS = pl.DataFrame({"id": ["a", "b"], "reason": ["income is -4", "income is -5"]})


@pytest.fixture
def parts(project: Path, home: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> Iterator[Parts]:
    """The shipped project with a data key."""
    monkeypatch.setenv("XDG_CONFIG_HOME", home["XDG_CONFIG_HOME"])
    with open_parts(project) as found:
        rotate_data_key(found, acting(found, {}), home)
        yield found


def test_quarantine_is_sealed_opened_and_sealed_again_in_place(parts: Parts, tmp_path: Path) -> None:
    folder, vault = parts.project.quarantine, parts.project.vault
    plain = keep_rows(folder, "abc", ROWS, None)
    sealed = keep_rows(folder, "abc", ROWS, vault)
    assert plain is not None
    assert sealed == folder / "abc.csv.sealed"
    assert [path.name for path in folder.glob("abc*")] == ["abc.csv.sealed"]
    done = unseal(parts, acting(parts, {}), sealed, tmp_path / "out.csv")
    assert (tmp_path / "out.csv").read_text() == ROWS.write_csv()
    assert done["size_bytes"] == len(ROWS.write_csv())
    opened = [entry.object for entry in parts.ledger.events(verb="rows.opened")]
    assert opened == ["sealed:quarantine/abc"]
    assert keep_rows(folder, "abc", ROWS.clear(), vault) is None
    assert not list(folder.glob("abc*"))


def test_what_cannot_be_opened_is_named_and_nothing_is_written(parts: Parts, tmp_path: Path) -> None:
    project, who = parts.project, acting(parts, {})
    sealed = keep_rows(project.quarantine, "abc", ROWS, project.vault)
    assert sealed is not None
    (tmp_path / "there").write_text("kept")
    moved = project.quarantine / "other.csv.sealed"
    moved.write_bytes(sealed.read_bytes())

    def refused(error: type[Exception], words: str, act: Callable[[], Any]) -> None:
        with pytest.raises(error, match=words):
            act()

    refused(UsageError, "is not encrypted", lambda: unseal(parts, who, _plain(project.quarantine), tmp_path / "out"))
    refused(UsageError, "records are shown by", lambda: unseal(parts, who, project.contract_file, tmp_path / "out"))
    refused(NotFoundError, "cannot be read", lambda: unseal(parts, who, project.quarantine / "no", tmp_path / "out"))
    refused(ConflictError, "exists; nothing is replaced", lambda: unseal(parts, who, sealed, tmp_path / "there"))
    refused(IntegrityError, "is not what its place says", lambda: unseal(parts, who, moved, tmp_path / "out"))
    auditor = Principal("ada", frozenset({"auditor"}))
    refused(AccessError, "ada .* may not do `key open`", lambda: unseal(parts, auditor, sealed, tmp_path / "out"))
    assert (tmp_path / "there").read_text() == "kept"
    assert not (tmp_path / "out").exists()


def _plain(folder: Path) -> Path:
    path = folder / "plain.csv"
    path.write_text("id\n1\n")
    return path
