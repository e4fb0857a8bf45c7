"""Wiring: any folder that can be made can be a project."""

from pathlib import Path

import pytest

from shipworthy.faces.wiring import key_name, project_key
from shipworthy.kernel.errors import NotFoundError
from shipworthy.workflows.layout import Project

NAMES = ("loans", "Loans", "my project", "Größe", "日本", ".hidden", "a" * 200, "it's [1] & more", "...x")


@pytest.mark.parametrize("name", NAMES)
def test_a_folder_of_any_name_gets_a_key(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    (tmp_path / name).mkdir()
    project = Project(tmp_path / name)
    made = project_key(project)
    assert project_key(project).public.keyid == made.public.keyid


def test_folders_whose_names_differ_in_signs_only_have_keys_of_their_own(tmp_path: Path):
    assert len({key_name(tmp_path / name) for name in ("a b", "a-b", "A B", "a_b")}) == 4


def test_a_project_whose_key_is_elsewhere_is_refused_and_no_other_key_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "mine"))
    project = Project(tmp_path)
    project_key(project)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "yours"))
    for _ in range(2):
        with pytest.raises(
            NotFoundError, match=r"yours.* does not hold the private key of .*\.pub.*copy .*\.key there"
        ):
            project_key(project)
    assert not list((tmp_path / "yours").rglob("*.key"))


def test_a_key_of_the_same_name_that_is_another_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    project = Project(tmp_path / "project")
    project_key(project)
    (public,) = project.public_keys.glob("*.pub")
    held = public.read_bytes()
    for file in (public, *(tmp_path / "config").rglob("*.key")):
        file.unlink()
    project_key(project)
    public.write_bytes(held)
    with pytest.raises(NotFoundError, match="does not hold the private key"):
        project_key(project)
