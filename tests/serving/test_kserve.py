"""KServe's client, which we did not write, asks over HTTP and gRPC, with tensors in each of their forms."""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

from tests.serving.conftest import SYSTEM, Place, Running, good_request
from tests.serving.test_grpc import stored

TOP = Path(__file__).parents[2]
PYTHON = TOP / ".kserve" / "bin" / "python"  # made by `make test`: it needs other versions than we do


def test_kserves_client_is_answered_as_a_plain_request_is(place: Place, start: Callable[..., Running]) -> None:
    place.deploy(place.publish(1))
    place.allow(stored("good"))
    running = start(open=False, grpc_port=0)
    columns = {name: [value] * 3 for name, value in good_request()["inputs"].items()}
    words = [f"http://127.0.0.1:{running.port}", running.grpc, SYSTEM, "good"]
    script = [str(PYTHON), "-W", "ignore", str(Path(__file__).with_name("kserve_client.py"))]
    done = subprocess.run(
        [*script, *words], input=json.dumps(columns), capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["rest"] == found["grpc"] == [True, True, True]
    plain = running.predict(good_request(), {"authorization": "Bearer good"})[1]
    for form in ("json", "binary", "typed", "raw"):
        told = found[form]
        assert (told["model"], told["id"]) == (SYSTEM, "r-1"), form
        assert told["outputs"]["decision"] == [plain["decision"]] * 3, form
        assert told["outputs"]["confidence"] == [plain["confidence"]] * 3, form
        assert told["outputs"]["probability"] == [[*plain["probability"].values()]] * 3, form
        assert told["outputs"]["source"] == ["model"] * 3, form
    assert [found[form]["version"] for form in ("typed", "raw")] == ["1", "1"]  # over HTTP it does not read that
    assert "Send `Authorization: Bearer TOKEN`" in found["refused"]
