"""What the server counts, as a real Prometheus reads it."""

import json
import shutil
import socket
import subprocess
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.serving.conftest import Place, Running, good_request

pytestmark = pytest.mark.skipif(shutil.which("promtool") is None, reason="needs Debian's package prometheus")

CONFIG = """
global: {{scrape_interval: 200ms, scrape_timeout: 200ms}}
scrape_configs:
  - job_name: shipworthy
    static_configs: [{{targets: ["{host}:{port}"]}}]
"""


@pytest.fixture
def counted(place: Place, start: Callable[..., Running]) -> Running:
    """A server that has answered, refused and fallen back."""
    place.deploy(place.publish(1))
    running = start(workers=2)
    for _ in range(5):
        assert running.predict(good_request())[0] == 200
    assert running.predict({})[0] == 422
    return running


def test_promtool_finds_nothing_to_say_against_the_metrics(counted: Running) -> None:
    text = counted.call("GET", "/metrics")[1]
    done = subprocess.run(["promtool", "check", "metrics"], input=text, capture_output=True, timeout=30, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def prometheus(counted: Running, tmp_path: Path) -> Iterator[str]:
    """The address of a Prometheus that scrapes the server."""
    config = tmp_path / "prometheus.yml"
    config.write_text(CONFIG.format(host=counted.host, port=counted.port))
    port = free_port()
    words = [f"--config.file={config}", f"--storage.tsdb.path={tmp_path / 'data'}"]
    words.append(f"--web.listen-address=127.0.0.1:{port}")
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(["prometheus", *words], stdout=log, stderr=log)
    yield f"http://127.0.0.1:{port}"
    process.terminate()
    process.wait(20)


def query(address: str, words: str) -> list[dict[str, Any]]:
    """What Prometheus answers; nothing while it starts."""
    try:
        with urllib.request.urlopen(f"{address}/api/v1/query?query={urllib.parse.quote(words)}", timeout=5) as answer:
            return list(json.load(answer)["data"]["result"])
    except OSError:
        return []


def test_a_real_prometheus_scrapes_the_server(prometheus: str, counted: Running) -> None:
    end = time.monotonic() + 30
    while not (found := query(prometheus, "shipworthy_answers_total")):
        assert time.monotonic() < end, "nothing was scraped"
        time.sleep(0.1)
    assert found[0]["metric"]["source"] == "model"
    assert found[0]["value"][1] == "5"
    assert query(prometheus, "up")[0]["value"][1] == "1"
    assert query(prometheus, "shipworthy_workers")[0]["value"][1] == "2"
    quantile = query(prometheus, "histogram_quantile(0.99, shipworthy_latency_seconds_bucket)")
    assert 0 < float(quantile[0]["value"][1]) < 2.5
