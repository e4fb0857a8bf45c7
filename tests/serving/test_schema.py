"""The data plane answers as its published interface says, whatever it is asked."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import Seen
from tests.schemas import examine
from tests.serving.conftest import SYSTEM, Place, Running, good_request


@pytest.mark.timeout(3_000)
@pytest.mark.parametrize("has_token", [True, False])
def test_every_answer_is_as_published_and_tells_nothing_else(
    place: Place, start: Callable[..., Running], tmp_path: Path, seen: Seen, has_token: bool
):
    place.deploy(place.publish(1))
    token = place.mint((f"predict:{SYSTEM}", f"tell:{SYSTEM}"))
    server = start(open=False, outcomes=str(place.root / "outcomes" / "local"))
    bearer = {"Authorization": f"Bearer {token}"}
    document = server.call("GET", "/openapi.json", headers=bearer)[1]
    address = f"http://{server.host}:{server.port}"
    wrong, count = examine(document, address, token if has_token else None, tmp_path)
    assert wrong == []
    assert count > 30
    assert server.predict(good_request(), bearer)[0] == 200
    assert "Traceback" not in server.stderr.read_text()
    seen("requests", count)
