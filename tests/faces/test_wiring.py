"""Wiring: any folder that can be made can be a project."""

from pathlib import Path

import pytest

from shipworthy.faces.wiring import key_name, project_key
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
