"""The control plane answers as its published interface says, whatever it is asked."""

import itertools
from pathlib import Path

import pytest

from shipworthy.faces.api import make_app
from shipworthy.security.access import ROLES
from shipworthy.workflows.principals import add_principal
from tests.conftest import Seen
from tests.faces.conftest import NOW, OWNER, serving
from tests.faces.life import live, make_project
from tests.schemas import examine


@pytest.mark.timeout(3_000)
@pytest.mark.parametrize("has_token", [True, False])
def test_every_answer_is_as_published_and_tells_nothing_else(tmp_path: Path, seen: Seen, has_token: bool):
    clock = itertools.count(NOW)  # time goes on, so that nobody is asked to wait
    opener = make_project(tmp_path / "flights", lambda: NOW)
    with opener() as parts:
        live(parts)
        token = add_principal(parts, OWNER, "everybody", ROLES)
    app = make_app(opener, owner=OWNER, now=lambda: next(clock), tick=lambda *_: {"done": []})
    with serving(app) as port:
        wrong, count = examine(app.openapi(), f"http://127.0.0.1:{port}", token if has_token else None, tmp_path)
    assert wrong == [], "\n".join(wrong)
    assert count > 30
    seen("requests", count)
