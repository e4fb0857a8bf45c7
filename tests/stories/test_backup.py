"""A project in one file and back: proven whole, or nothing."""

import io
import json
import shutil
import tarfile
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from tests.stories.conftest import Done

Run = Callable[..., Done]


@pytest.fixture
def saved(project: Path, tmp_path: Path, shipworthy: Run, serving: Callable[..., Any]) -> Path:
    """A backup of a project that served and was told nothing yet."""
    with serving(project) as server:
        assert server.post(server.ready["example"])[0] == 200
        done = shipworthy("backup", "create", tmp_path / "backup.tar", "--project", project, "--json")
        assert done.code == 0, done.err
        assert done.document["files"] > 20
    return tmp_path / "backup.tar"


def test_a_restored_project_is_proven_serves_and_ships_on(
    saved: Path, project: Path, tmp_path: Path, shipworthy: Run, serving: Callable[..., Any]
):
    away = tmp_path / "away"
    project.rename(away)
    done = shipworthy("backup", "restore", saved, project, "--json")
    assert done.code == 0, done.err
    assert done.document["proofs"] > 4
    assert shipworthy("verify", "all", "--project", project).code == 0
    with serving(project) as server:
        assert server.post(server.ready["example"])[0] == 200
    shutil.copy(away / "loans.csv", project / "loans.csv")
    assert shipworthy("ship", "--project", project, "--json").document["release"] == "loans:1"
    with tarfile.open(saved) as archive:
        names = archive.getnames()
    assert not [name for name in names if name.endswith((".key", "ledger.db"))]
    created = shipworthy("audit", "list", "--limit", "50", "--json", "--project", away).document["entries"]
    assert [entry["verb"] for entry in created].count("backup.created") == 1


def rewrite(saved: Path, change: Callable[[dict[str, bytes]], None]) -> None:
    """The archive with other members."""
    with tarfile.open(saved) as archive:
        members = {member.name: archive.extractfile(member).read() for member in archive}  # type: ignore[union-attr]
    change(members)
    with tarfile.open(saved, "w", format=tarfile.USTAR_FORMAT) as archive:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))


def test_a_backup_that_was_changed_leaves_nothing_behind(saved: Path, tmp_path: Path, shipworthy: Run):
    good = saved.read_bytes()
    place = tmp_path / "anew"

    def flip(members: dict[str, bytes]) -> None:
        name = next(name for name in members if name.endswith("model.onnx"))
        members[name] = members[name][:-1] + bytes([members[name][-1] ^ 1])

    def drop(members: dict[str, bytes]) -> None:
        del members[next(name for name in members if "/blobs/" in name)]

    def add(members: dict[str, bytes]) -> None:
        manifest = members.pop("backup.json")
        members[".shipworthy/blobs/zz"] = b"x"
        members["backup.json"] = manifest

    def forge(members: dict[str, bytes]) -> None:
        """A whole backup whose log was rewritten, with a list that says so."""
        name = ".shipworthy/log/entries/000"
        members[name] = members[name].replace(b"release.published", b"release.publisheD")
        listed = json.loads(members["backup.json"])
        listed["files"][name] = {
            "digest": "sha256:" + sha256(members[name]).hexdigest(),
            "size_bytes": len(members[name]),
        }
        members["backup.json"] = json.dumps(listed).encode()

    def lead_out(members: dict[str, bytes]) -> None:
        members["authorized_keys"] = b"x"

    said = {
        flip: "is not what was backed up", drop: "is missing", add: "is not in its list", forge: "does not verify",
        lead_out: "behind the list",
    }  # fmt: skip
    for change, words in said.items():
        saved.write_bytes(good)
        rewrite(saved, change)
        done = shipworthy("backup", "restore", saved, place)
        assert (done.code, words in done.err) == (1, True), (change.__name__, done.err)
        assert not place.exists()
        assert not list(tmp_path.glob(".anew*"))
    saved.write_bytes(good[: len(good) // 2])
    assert shipworthy("backup", "restore", saved, place).code == 1
    assert not place.exists()


def test_what_is_there_is_never_replaced(saved: Path, project: Path, shipworthy: Run):
    done = shipworthy("backup", "create", saved, "--project", project)
    assert (done.code, "exists; name another file" in done.err) == (1, True)
    done = shipworthy("backup", "restore", saved, project)
    assert (done.code, "is not empty; name a new folder" in done.err) == (1, True)
