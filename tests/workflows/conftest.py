"""A project with a place to deploy to, and its parts."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from shipworthy.ledger.artefacts import ArtefactStore
from shipworthy.ledger.store import open_ledger
from shipworthy.workflows.layout import Project
from shipworthy.workflows.project import Parts
from tests.serving.conftest import Place

NOW = 1_800_000_000.0


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(Project(tmp_path).state)


@pytest.fixture
def parts(place: Place, tmp_path: Path) -> Iterator[Parts]:
    project = Project(tmp_path)
    project.state.mkdir()
    with open_ledger(project.ledger_url({}), project.log, place.key, lambda: NOW) as ledger:
        yield Parts(project, ledger, ArtefactStore(project.blobs), place.key, "user:ann", lambda: NOW, os.urandom)
