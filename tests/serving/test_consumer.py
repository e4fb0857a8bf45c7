"""Messages of a real broker: each id answered once, whatever is killed, cut or sent twice."""

import json
import os
import random
import shutil
import signal
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import msgspec
import pytest
from pika.exceptions import AMQPError

from shipworthy.records.format import Record
from shipworthy.records.read import read_as, read_records
from tests.brokers import PASSWORD, Broker, free_port, has_broker
from tests.certificates import Authority
from tests.conftest import Seen
from tests.serving.conftest import WEIGHTS, Place, good_request, linear_model, loans_policy
from tests.serving.consuming import (
    MODULE,
    Cable,
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
from tests.serving.faulty_server import SOUND

pytestmark = pytest.mark.skipif(not has_broker(), reason="needs Debian's package rabbitmq-server")

KILLS = int(os.environ.get("SHIPWORTHY_SOAK", "4"))
FAULTY = "tests.serving.faulty_consumer"
QUEUES = ("requests", "answers", "dead", "classic")


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

    def start(module: str = MODULE, environ: dict[str, str] | None = None, **changes: Any) -> Consumed:
        settings = consumer_settings(place, broker, **changes)
        started.append(start_consumer(settings, broker.url, tmp_path / "stderr", module, **(environ or {})))
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
    end = time.monotonic() + max(
        200, len(names) / 200
    )  # the library may take a minute to say that a connection is gone
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
        wave = [f"{kill}-{number}" for number in range(max(0, 1000 - depth(broker.url, "requests")))]
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
    broker.sync()  # and so may any queue for a moment: RabbitMQ's own promise, not ours
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


@pytest.mark.timeout(36_000)
def test_connections_that_are_cut_are_made_again_and_nothing_is_lost_or_doubled(
    consume: Callable[..., Consumed], broker: Broker, place: Place, seen: Seen
):
    chance = random.Random(7)
    answers: dict[str, list[Any]] = {}
    names = {f"{number}" for number in range(400 * KILLS)}
    with closing(Cable(broker.port)) as cable:
        consumer = consume(environ={"BROKER_URL": cable.url(broker)}, prefetch=100)
        send(broker.url, [message(request(name)) for name in sorted(names)])
        for cut in range(KILLS):
            until(lambda cut=cut: cable.made > cut)  # type: ignore[misc]
            time.sleep(chance.uniform(0, 0.2))
            cable.cut()
        drain(broker, names, answers)
        assert consumer.stop() == 0
        assert cable.made > KILLS
    seen("cuts", KILLS)
    seen("answers published again", judge(place, answers, names))


def test_while_the_disk_refuses_nothing_is_answered_and_the_broker_keeps_what_has_no_place_here(
    consume: Callable[..., Consumed], broker: Broker, place: Place, tmp_path: Path
):
    switch = tmp_path / "full"
    switch.write_text(str(place.records))
    names = {f"{number}" for number in range(300)}
    consumer = consume(FAULTY, environ={"FULL_DISK": str(switch)}, prefetch=100, metrics_port=0)
    send(broker.url, [message(request(name)) for name in sorted(names)])
    until(lambda: metric(consumer, "messages_held_total") > 0)
    assert depth(broker.url, "answers") == 0
    assert depth(broker.url, "requests") == 200  # the others are here, unacknowledged
    switch.unlink()
    answers: dict[str, list[Any]] = {}
    drain(broker, names, answers)
    assert consumer.stop() == 0
    assert judge(place, answers, names) == 0


def test_a_slow_disk_costs_time_and_no_answer_by_fallback(
    consume: Callable[..., Consumed], broker: Broker, place: Place, tmp_path: Path
):
    switch = tmp_path / "slow"  # syncs of 2 s, where the deadline is 1 s
    consumer = consume(FAULTY, environ={"SLOW_DISK": str(switch)})
    switch.touch()
    send(broker.url, [message(request(name)) for name in "abc"])
    answers = by_id(receive(broker.url, 3))
    assert {documents[0]["source"] for documents in answers.values()} == {"model"}
    assert judge(place, answers, set("abc")) == 0
    assert consumer.stop() == 0


def test_async_records_are_on_the_disk_before_their_messages_are_acknowledged(
    consume: Callable[..., Consumed], broker: Broker, place: Place, tmp_path: Path
):
    switch = tmp_path / "failing"
    consumer = consume(FAULTY, environ={"FAILING_DISK": str(switch)}, metrics_port=0)
    place.deploy(place.publish(2, policy=loans_policy(durability="async")))
    until(lambda: health(consumer)["releases"] == ["loans:2"])
    send(broker.url, [message(request("a"))])
    receive(broker.url, 1)
    switch.write_text(str(place.records))  # syncs fail; writes to the segment that is open do not
    send(broker.url, [message(request("b"))])
    until(lambda: metric(consumer, "messages_held_total") > 0)
    assert depth(broker.url, "answers") == 0
    switch.unlink()
    (answer,) = receive(broker.url, 1)
    assert answer.properties.headers["id"] == "b"
    predictions = {record.prediction_id for record in read_as(place.records, Record) if record.id == "b"}
    assert answer.document["prediction_id"] in predictions  # beside one that may have been lost


def test_a_late_model_is_answered_by_fallback_and_one_that_hangs_ends_its_process(
    consume: Callable[..., Consumed], broker: Broker, place: Place
):
    consumer = consume(FAULTY)
    send(broker.url, [message(request("hangs", income=905.0)), message(request("next"))])
    answers = by_id(receive(broker.url, 2))
    assert consumer.process.wait(20) == 76
    assert answers["hangs"][0]["source"] == "fallback"
    assert judge(place, answers, {"hangs", "next"}) == 0


def test_the_last_good_release_answers_messages_on_which_the_model_fails(
    consume: Callable[..., Consumed], broker: Broker, place: Place
):
    consumer = consume(FAULTY, metrics_port=0)
    approving = linear_model([0.0] * len(WEIGHTS), bias=9.0)
    for version, model, policy in (
        (2, approving, loans_policy(reasons=SOUND)),
        (3, None, loans_policy(fallback_last_good=True)),
    ):
        place.deploy(place.publish(version, model=model, policy=policy))
        until(lambda version=version: health(consumer)["releases"] == [f"loans:{version}"])
    assert health(consumer)["last_good"] == {"stands_in": {"loans:3": "loans:2"}, "refused": None}
    send(broker.url, [message(request("fails", income=901.0)), message(request("next"))])
    answers = by_id(receive(broker.url, 2))
    assert (answers["fails"][0]["decision"], answers["next"][0]["source"]) == ("approve", "model")
    assert answers["fails"][0]["warnings"] == ["answered by fallback: the model failed; loans:2 answered"]
    assert judge(place, answers, {"fails", "next"}) == 0
    assert metric(consumer, 'last_good_answers_total{release="loans:2"}') == 1
    assert metric(consumer, 'last_good_ready{release="loans:2"}') == 1


def test_a_request_that_ends_its_process_is_found_out_and_answered_by_fallback(
    consume: Callable[..., Consumed], broker: Broker, place: Place
):
    consume(FAULTY).stop()
    names = {f"{number}" for number in range(40)}
    requests = [message(request(name)) for name in sorted(names)]
    send(broker.url, [*requests[:20], message(request("crash", income=907.0)), *requests[20:]])
    ends = 0
    while (consumer := consume(FAULTY)) and ended_by_itself(consumer):
        ends += 1
    assert ends == 4
    answers: dict[str, list[Any]] = {}
    drain(broker, names | {"crash"}, answers)
    assert consumer.stop() == 0
    assert answers["crash"][0]["warnings"] == ["answered by fallback: the model ended its process"]
    assert {answers[name][0]["source"] for name in names} == {"model"}
    judge(place, answers, names | {"crash"})


def ended_by_itself(consumer: Consumed) -> bool:
    with suppress(subprocess.TimeoutExpired):
        assert consumer.process.wait(2) == -signal.SIGSEGV
        return True
    return False


def test_a_new_deployment_answers_the_next_message_and_one_that_does_not_hold_answers_none(
    consume: Callable[..., Consumed], broker: Broker, place: Place
):
    consumer = consume(metrics_port=0)
    place.deploy(place.publish(2))
    until(lambda: health(consumer)["releases"] == ["loans:2"])
    (place.live / "deployment").write_bytes(b"{}")
    until(lambda: health(consumer)["refused"] is not None)
    send(broker.url, [message(request("a"))])
    assert receive(broker.url, 1)[0].document["release"] == "loans:2"
    assert consumer.stop() == 0


def test_shared_traffic_keeps_a_subject_with_its_release(
    consume: Callable[..., Consumed], broker: Broker, place: Place
):
    consumer = consume(metrics_port=0)
    releases = (place.publish(version) for version in (1, 2))
    place.deploy(*(msgspec.structs.replace(release, share=0.5) for release in releases))
    until(lambda: len(health(consumer)["releases"]) == 2)
    people = [f"person-{number}" for number in range(20)]
    asked = [(f"{person} {turn}", person) for turn in range(3) for person in people]
    requests = [{**request(name), "context": {**good_request()["context"], "applicant": who}} for name, who in asked]
    send(broker.url, [message(document) for document in requests])
    answers = by_id(receive(broker.url, len(asked)))
    found = {person: {answers[f"{person} {turn}"][0]["release"] for turn in range(3)} for person in people}
    assert all(len(one) == 1 for one in found.values())
    assert set.union(*found.values()) == {"loans:1", "loans:2"}


def test_told_to_stop_it_finishes_what_it_has_begun_and_leaves_the_rest(
    consume: Callable[..., Consumed], broker: Broker, place: Place
):
    names = {f"{number}" for number in range(3000)}
    answers: dict[str, list[Any]] = {}
    consume().stop()
    send(broker.url, [message(request(name)) for name in sorted(names)])
    first = consume()
    time.sleep(0.1)
    assert first.stop() == 0
    left = depth(broker.url, "requests")
    assert 0 < left < 3000
    assert depth(broker.url, "answers") == 3000 - left
    assert len(list(read_as(place.records, Record))) == 3000 - left
    second = consume()
    drain(broker, names, answers)
    assert second.stop() == 0
    assert judge(place, answers, names) == 0


def test_a_queue_that_is_deleted_is_waited_for(consume: Callable[..., Consumed], broker: Broker):
    declare(broker.url, "requests", "answers")
    consumer = consume(create=False, metrics_port=0)
    delete(broker.url, "answers")
    send(broker.url, [message(request("a"))])
    until(lambda: not health(consumer)["ready"])
    declare(broker.url, "answers")
    assert receive(broker.url, 1)[0].document["source"] == "model"
    delete(broker.url, "requests")
    until(lambda: not health(consumer)["ready"])
    declare(broker.url, "requests")
    until(lambda: health(consumer)["ready"])
    assert consumer.stop() == 0


def test_metrics_tell_what_became_of_messages(consume: Callable[..., Consumed], broker: Broker):
    consumer = consume(metrics_port=0, dead_letter="dead")
    send(broker.url, [message(request("a")), message(request("a")), message(b"{}", message_id="b")])
    receive(broker.url, 3)
    until(lambda: metric(consumer, "messages_published_total") == 3)
    text = get(consumer, "/metrics").decode()
    for outcome in ("answered", "repeated", "refused"):
        assert f'shipworthy_messages_total{{outcome="{outcome}"}} 1\n' in text
    assert [metric(consumer, name) for name in ("messages_dead_total", "ids_remembered", "broker_connected")] == [
        1,
        1,
        1,
    ]
    assert 'shipworthy_answers_total{source="model",handling="automatic"} 1\n' in text
    if shutil.which("promtool") is not None:
        check = ["promtool", "check", "metrics"]
        done = subprocess.run(check, input=text.encode(), capture_output=True, timeout=30, check=False)
        assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


def test_over_tls_the_broker_is_believed_by_its_certificate_alone(
    consume: Callable[..., Consumed], broker: Broker, running_broker: Broker, place: Place, tmp_path: Path
):
    authority = running_broker.folder.parent / "authority.pem"
    consumer = consume(url=f"${{BROKER_URL}}?cafile={authority}", environ={"BROKER_URL": broker.tls_url})
    assert consumer.ready["broker"] == f"amqps://localhost:{broker.tls_port}"
    send(broker.url, [message(request("a"))])
    assert receive(broker.url, 1)[0].document["source"] == "model"
    assert consumer.stop() == 0
    unknown = start_consumer(consumer_settings(place, broker), broker.tls_url, tmp_path / "unknown")
    until(lambda: "tried again" in unknown.stderr.read_text())
    assert unknown.stop() == 0
    assert "CERTIFICATE_VERIFY_FAILED" in unknown.stderr.read_text()


@pytest.mark.parametrize(
    ("changes", "url", "said"),
    [
        ({"create": False, "queue": "nowhere"}, None, "there is no queue 'nowhere'; declare it, or let --create do so"),
        ({}, "amqp://shipworthy:hunter2@127.0.0.1:{port}/", "refuses the user, the password or the virtual host"),
        ({}, "amqp://shipworthy:correct-horse@127.0.0.1:{port}/none", "refuses the user, the password or the virtual"),
        ({"queue": "classic"}, None, "leave --create out"),
    ],
)
def test_what_is_wrong_at_the_start_is_said_once_without_a_secret(
    place: Place, broker: Broker, tmp_path: Path, changes: dict[str, Any], url: str | None, said: str
):
    place.deploy(place.publish(1))
    declare(broker.url, "classic")
    settings = consumer_settings(place, broker, **changes)
    address = broker.url if url is None else url.format(port=broker.port)
    consumer = start_consumer(settings, address, tmp_path / "stderr")
    assert consumer.process.wait(30) == 1
    consumer.stop()
    text = consumer.stderr.read_text()
    assert said in text
    assert not any(word in text for word in ("Traceback", PASSWORD, "hunter2"))


def test_a_second_consumer_of_the_same_records_is_refused(
    consume: Callable[..., Consumed], broker: Broker, place: Place, tmp_path: Path
):
    consume()
    second = start_consumer(consumer_settings(place, broker), broker.url, tmp_path / "second")
    assert second.process.wait(30) == 1
    second.stop()
    assert "another process writes records as consume" in second.stderr.read_text()


def test_a_broker_that_comes_later_is_waited_for(place: Place, broker: Broker, tmp_path: Path):
    place.deploy(place.publish(1))
    port = free_port()
    consumer = start_consumer(
        consumer_settings(place, broker), broker.url.replace(f":{broker.port}", f":{port}"), tmp_path / "stderr"
    )
    until(lambda: "does not answer: Connection refused; tried again in 0.4 s" in consumer.stderr.read_text())
    assert consumer.stop() == 0


def until(holds: Callable[[], bool], timeout_s: float = 30) -> None:
    end = time.monotonic() + timeout_s
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.02)


def get(consumer: Consumed, path: str) -> bytes:
    request = urllib.request.Request(consumer.ready["metrics"] + path)
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return bytes(answer.read())
    except urllib.error.HTTPError as error:  # not ready
        with error:
            return error.read()


def health(consumer: Consumed) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(get(consumer, "/v2/health/ready"))
    return found


def metric(consumer: Consumed, name: str) -> float:
    lines = get(consumer, "/metrics").decode().splitlines()
    return float(next(line for line in lines if line.startswith(f"shipworthy_{name} ")).split()[1])
