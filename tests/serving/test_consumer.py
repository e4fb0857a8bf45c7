"""Messages of a real broker: each id answered once, whatever is killed, cut or sent twice."""

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from shipworthy.records.read import read_records
from tests.brokers import Broker, has_broker
from tests.certificates import Authority
from tests.serving.conftest import Place, good_request
from tests.serving.consuming import (
    Consumed,
    consumer_settings,
    delete,
    depth,
    message,
    receive,
    send,
    start_consumer,
)

pytestmark = pytest.mark.skipif(not has_broker(), reason="needs Debian's package rabbitmq-server")

KILLS = int(os.environ.get("SHIPWORTHY_SOAK", "4"))
FAULTY = Path(__file__).with_name("faulty_server.py")
QUEUES = ("requests", "answers", "dead")


@pytest.fixture(scope="module")
def running_broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    folder = tmp_path_factory.mktemp("broker")
    authority = Authority(folder)
    broker = Broker(folder / "node", authority.issue("server"))
    broker.start()
    yield broker
    broker.close()


@pytest.fixture
def broker(running_broker: Broker) -> Broker:
    """A broker without queues."""
    delete(running_broker.url, *QUEUES)
    return running_broker


@pytest.fixture
def consume(place: Place, broker: Broker, tmp_path: Path) -> Iterator[Callable[..., Consumed]]:
    """Start a consumer of a deployed release."""
    place.deploy(place.publish(1))
    started: list[Consumed] = []

    def start(script: Path | None = None, environ: dict[str, str] | None = None, **changes: Any) -> Consumed:
        settings = consumer_settings(place, broker, **changes)
        started.append(start_consumer(settings, broker.url, tmp_path / "stderr", script, **(environ or {})))
        return started[-1].wait_ready()

    yield start
    for consumer in started:
        consumer.stop(signal.SIGKILL)


def request(name: str | None, **inputs: Any) -> dict[str, Any]:
    document = good_request(**inputs)
    return document if name is None else {"id": name, **document}


def test_a_request_is_answered_recorded_and_acknowledged(
    consume: Callable[..., Consumed], broker: Broker, place: Place
):
    consumer = consume()
    assert consumer.ready["release"] == "loans:1"
    assert consumer.ready["broker"] == f"amqp://127.0.0.1:{broker.port}"
    send(broker.url, [message(request("a"), correlation_id="mine"), message(request(None), message_id="b")])
    answers = receive(broker.url, 2)
    assert consumer.stop() == 0
    first, second = answers
    assert (first.properties.correlation_id, second.properties.correlation_id) == ("mine", "b")
    assert [got.properties.headers["id"] for got in answers] == ["a", "b"]
    assert first.document["decision"] == "approve"
    assert first.document["source"] == "model"
    assert first.properties.message_id == first.document["prediction_id"]
    assert first.properties.content_type == "application/json"
    records = list(read_records(place.records))
    assert [(record.id, record.prediction_id) for record in records] == [
        (got.properties.headers["id"], got.document["prediction_id"]) for got in answers
    ]
    assert {record.worker for record in records} == {"consume"}
    assert depth(broker.url, "requests") == 0
    assert "2 messages, 2 answered" in consumer.stderr.read_text()


def test_what_cannot_be_answered_is_told_why_kept_with_the_reason_and_holds_nobody_up(
    consume: Callable[..., Consumed], broker: Broker
):
    consume(dead_letter="dead")
    bad = [
        message(b"not json", message_id="1"),
        message(b"\xff\x00", message_id="2"),
        message(request("3", income=-4.0, purpose="yacht")),
        message([request("4")], message_id="4"),
        message(request(None)),
        message(b"{" + b" " * 2**20 + b"}", message_id="6"),
        message(b"", message_id="7"),
    ]
    send(broker.url, [*bad, message(request("good"))])
    replies = receive(broker.url, len(bad) + 1)
    assert [got.document.get("status", 200) for got in replies] == [400, 400, 422, 422, 422, 413, 400, 200]
    assert [got.properties.correlation_id for got in replies] == ["1", "2", None, "4", None, "6", "7", "good"]
    assert {got.properties.content_type for got in replies[:-1]} == {"application/problem+json"}
    assert [error["field"] for error in replies[2].document["errors"]] == ["inputs.income", "inputs.purpose"]
    assert replies[4].document["errors"][0]["field"] == "id"
    assert depth(broker.url, "requests") == 0
    assert depth(broker.url, "dead") == len(bad)
    buried = receive(broker.url, len(bad), "dead")
    assert [got.body for got in buried] == [body if isinstance(body, bytes) else dumped(body) for body, _ in bad]
    assert buried[0].properties.headers == {"problem": replies[0].document["detail"], "from": "requests"}
    assert buried[0].properties.message_id == "1"


def dumped(document: Any) -> bytes:
    return json.dumps(document).encode()
