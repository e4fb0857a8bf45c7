"""A server that misbehaves as it is told, and clients to call it."""

from collections.abc import Iterator

import pytest

from tests.callers import KINDS, Callers
from tests.client.hostile import Hostile


@pytest.fixture
def hostile() -> Iterator[Hostile]:
    server = Hostile()
    yield server
    server.close()


@pytest.fixture(params=KINDS)
def callers(request: pytest.FixtureRequest) -> Iterator[Callers]:
    """Both clients, one after the other."""
    callers = Callers(request.param)
    yield callers
    callers.close()
