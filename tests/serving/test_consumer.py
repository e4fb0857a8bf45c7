"""Messages of a real broker: each id answered once, whatever is killed, cut or sent twice."""

import json
import os
import random
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from pika.exceptions import AMQPError

from shipworthy.records.format import Record
from shipworthy.records.read import read_as, read_records
from tests.brokers import Broker, has_broker
from tests.certificates import Authority
from tests.conftest import Seen
from tests.serving.conftest import Place, good_request
from tests.serving.consuming import (
    Consumed,
    by_id,
    consumer_settings,
    declare,
    delete,
    depth,
    message,
    receive,
    send,
    start_consumer,
)

pytestmark = pytest.mark.skipif(not has_broker(), reason="needs Debian's package rabbitmq-server")

KILLS = int(os.environ.get("SHIPWORTHY_SOAK", "4"))
FAULTY = Path(__file__).with_name("faulty_consumer.py")
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
    assert [got.properties.correlation_id for got in replies] == ["1", "2", "3", "4", None, "6", "7", "good"]
    assert {got.properties.content_type for got in replies[:-1]} == {"application/problem+json"}
    assert [error["field"] for error in replies[2].document["errors"]] == ["inputs.income", "inputs.purpose"]
    assert replies[4].document["errors"][0]["field"] == "id"
    assert depth(broker.url, "requests") == 0
    assert depth(broker.url, "dead") == len(bad)
    buried = receive(broker.url, len(bad), "dead")
    assert [got.body for got in buried] == [body if isinstance(body, bytes) else dumped(body) for body, _ in bad]
    reasons = [(got.properties.headers["problem"], got.properties.headers["from"]) for got in buried]
    assert reasons == [(got.document["detail"], "requests") for got in replies[:-1]]
    assert buried[0].properties.message_id == "1"


def dumped(document: Any) -> bytes:
    return json.dumps(document).encode()


def test_an_id_that_comes_again_gets_the_answer_that_was_recorded(
    consume: Callable[..., Consumed], broker: Broker, place: Place
):
    first = consume()
    send(broker.url, [message(request("a"))] * 3 + [message(request("b")), message(request("a"))])
    answers = by_id(receive(broker.url, 5))
    assert first.stop() == 0
    assert consume().ready["remembered"] == 2
    send(broker.url, [message(request("a")), message(request("b")), message(request("a", income=60.0))])
    *again, other = receive(broker.url, 3)
    given = {name: documents[0] for name, documents in answers.items()}
    assert {name: len(documents) for name, documents in answers.items()} == {"a": 4, "b": 1}
    assert all(document == given["a"] for document in answers["a"])
    assert [got.document for got in again] == [given["a"], given["b"]]
    assert [got.properties.message_id for got in again] == [given[name]["prediction_id"] for name in ("a", "b")]
    warning = "answered earlier with other inputs: this is the recorded answer"
    assert other.document == {**given["a"], "warnings": [*given["a"]["warnings"], warning]}
    assert [record.id for record in read_as(place.records, Record)] == ["a", "b"]


def test_beyond_the_window_an_id_is_answered_anew_and_readers_take_the_first(
    consume: Callable[..., Consumed], broker: Broker, place: Place
):
    for asked in (range(5), (0, 4)):
        consumer = consume(window=3, prefetch=3)
        send(broker.url, [message(request(f"r{number}")) for number in asked])
        receive(broker.url, len(asked))
        consumer.stop()
    assert consume(window=3, prefetch=3).ready["remembered"] == 3
    assert [record.id for record in read_as(place.records, Record)] == ["r0", "r1", "r2", "r3", "r4", "r0"]
    assert [record.id for record in read_records(place.records)] == ["r0", "r1", "r2", "r3", "r4"]


def judge(place: Place, answers: dict[str, list[Any]], names: set[str]) -> int:
    """Every id is recorded once and has that answer; how many answers were published again."""
    records = list(read_as(place.records, Record))
    assert sorted(record.id or "" for record in records) == sorted(names)
    recorded = {record.id: record.prediction_id for record in records}
    assert set(answers) == names
    for name, documents in answers.items():
        assert {document["prediction_id"] for document in documents} == {recorded[name]}, name
    return sum(len(documents) - 1 for documents in answers.values())


def drain(broker: Broker, names: set[str], answers: dict[str, list[Any]]) -> None:
    """Take answers until every id has one and nothing is left."""
    end = time.monotonic() + 60
    while names - set(answers) or (depth(broker.url, "answers") + depth(broker.url, "requests")):
        assert time.monotonic() < end, f"{len(names - set(answers))} ids have no answer"
        with suppress(AMQPError):  # a broker that was started again may not have its queues yet
            for name, documents in by_id(receive(broker.url, 500, timeout_s=0.3)).items():
                answers.setdefault(name, []).extend(documents)


@pytest.mark.timeout(36_000)
def test_a_consumer_killed_at_any_moment_records_each_id_once_and_answers_all(
    consume: Callable[..., Consumed], broker: Broker, place: Place, seen: Seen
):
    chance = random.Random(5)
    names: set[str] = set()
    answers: dict[str, list[Any]] = {}
    consume(prefetch=200).stop()  # which makes the queues
    for kill in range(KILLS):
        wave = [f"{kill}-{number}" for number in range(1000)]
        names |= set(wave)
        send(broker.url, [message(request(name)) for name in wave])
        consumer = consume(prefetch=200)
        time.sleep(chance.uniform(0, 0.3))
        consumer.stop(signal.SIGKILL)
    consumer = consume(prefetch=200)
    drain(broker, names, answers)
    assert consumer.stop() == 0
    seen("kills", KILLS)
    seen("requests", len(names))
    seen("answers published again", judge(place, answers, names))
    seen("records missing or doubled", 0)


@pytest.mark.timeout(36_000)
def test_a_broker_killed_under_load_is_found_again_and_nothing_is_lost_or_doubled(
    consume: Callable[..., Consumed], broker: Broker, place: Place, seen: Seen
):
    chance = random.Random(6)
    names: set[str] = set()
    answers: dict[str, list[Any]] = {}
    declare(broker.url, "requests", "answers")  # a quorum queue may be lost with a node that is killed while making it
    consumer = consume(prefetch=100, create=False)
    kills = max(1, KILLS // 4)
    for kill in range(kills):
        wave = [f"{kill}-{number}" for number in range(2000)]
        names |= set(wave)
        send(broker.url, [message(request(name)) for name in wave])
        time.sleep(chance.uniform(0, 0.1))
        broker.kill()
        broker.start()
    drain(broker, names, answers)
    assert consumer.process.poll() is None
    assert consumer.stop() == 0
    seen("broker kills", kills)
    seen("requests", len(names))
    seen("answers published again", judge(place, answers, names))
    assert "tried again in" in consumer.stderr.read_text()
