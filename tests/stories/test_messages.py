"""Requests from a queue: `shipworthy consume` as a user runs it, against a real RabbitMQ."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from shipworthy.records.read import read_records
from tests.brokers import PASSWORD, USER, Broker, has_broker
from tests.serving.consuming import by_id, message, receive, send
from tests.stories.conftest import Done
from tests.stories.test_serve import events
from tests.stories.test_serving_set import WITHOUT

pytestmark = pytest.mark.skipif(not has_broker(), reason="needs Debian's package rabbitmq-server")

URL = "amqp://${BROKER_USER}:${BROKER_PASSWORD}@127.0.0.1:%d/"
WORDS = ("requests", "--answers", "answers", "--dead-letter", "dead", "--create")
REQUEST = {"inputs": {"income": 60.0, "debt": 10.0, "purpose": "car"}}


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    broker = Broker(tmp_path_factory.mktemp("broker") / "node")
    broker.start()
    yield broker
    broker.close()


@pytest.fixture
def words(project: Path, home: dict[str, str], broker: Broker) -> list[str]:
    """The command, with its secrets in the environment."""
    home |= {"BROKER_USER": USER, "BROKER_PASSWORD": PASSWORD}
    return ["consume", *WORDS, "--url", URL % broker.port, "--project", str(project)]


def started(argv: list[str], home: dict[str, str], stderr: Path) -> tuple["subprocess.Popen[str]", dict[str, Any]]:
    with stderr.open("wb") as log:
        process = subprocess.Popen(argv, env=home, stdout=subprocess.PIPE, stderr=log, text=True)
    assert process.stdout is not None
    line = process.stdout.readline()
    assert line, stderr.read_text()
    return process, json.loads(line)


def stop(process: "subprocess.Popen[str]") -> int:
    process.send_signal(signal.SIGINT)
    code = process.wait(30)
    if process.stdout is not None:
        process.stdout.close()
    return code


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def test_messages_are_answered_also_after_the_consumer_was_killed_and_who_started_it_is_on_record(
    words: list[str], project: Path, home: dict[str, str], broker: Broker, tmp_path: Path
):
    log = tmp_path / "stderr"
    process, ready = started([sys.executable, "-m", "shipworthy", *words, "--json"], home, log)
    assert ready["release"] == "loans:1"
    assert (ready["queue"], ready["answers"], ready["dead_letter"]) == ("requests", "answers", "dead")
    send(broker.url, [message(REQUEST | {"id": "a"})])
    (first,) = receive(broker.url, 1)
    assert first.document["decision"] == "approve"
    (consumer,) = children(process.pid)
    os.kill(consumer, signal.SIGKILL)
    send(broker.url, [message(REQUEST | {"id": "a"}), message(REQUEST | {"id": "b"}), message(b"?", message_id="c")])
    answers = receive(broker.url, 3)
    while "c" not in by_id(answers):  # what was answered and not acknowledged when it was killed is answered again
        answers += receive(broker.url, 1)
    found = by_id(answers)
    assert all(document == first.document for document in found["a"])
    assert (len(found["b"]), found["c"][0]["status"]) == (1, 400)
    assert [got.body for got in receive(broker.url, 1, "dead")] == [b"?"]
    assert stop(process) == 0
    assert [record.id for record in read_records(project / ".shipworthy" / "records" / "local")] == ["a", "b"]
    allowed, begun = (events(project, verb)[-1] for verb in ("access.allowed", "plane.started"))
    assert (allowed["body"]["verb"], begun["rule"]) == ("consume", allowed["rule"])
    assert begun["object"] == "plane:local/messages"
    assert begun["body"]["address"] == f"amqp://127.0.0.1:{broker.port} requests"
    said = log.read_text() + (project / ".shipworthy" / "ledger.db").read_bytes().decode("latin-1")
    assert PASSWORD not in said
    assert "another one starts in 0.1 s" in said


def test_a_person_reads_where_messages_come_from_and_go(
    words: list[str], home: dict[str, str], broker: Broker, tmp_path: Path
):
    argv = [sys.executable, "-m", "shipworthy", *words]
    with (tmp_path / "stderr").open("wb") as log:
        process = subprocess.Popen(argv, env=home, stdout=subprocess.PIPE, stderr=log, text=True)
    assert process.stdout is not None
    first, second = process.stdout.readline(), process.stdout.readline()
    assert stop(process) == 0
    assert first == f"loans:1 answers the messages of requests at amqp://127.0.0.1:{broker.port} (Ctrl-C stops it).\n"
    assert second == "Answers and problems go to answers; 0 ids are remembered.\n"


def test_the_serving_set_consumes(words: list[str], home: dict[str, str], broker: Broker, tmp_path: Path):
    process, _ = started([sys.executable, "-c", WITHOUT, *words, "--json"], home, tmp_path / "stderr")
    send(broker.url, [message(REQUEST, message_id="only serving")])
    assert set(by_id(receive(broker.url, 1))) == {"only serving"}
    assert stop(process) == 0
    assert "Nothing is recorded" in (tmp_path / "stderr").read_text()


def test_a_killed_command_takes_its_consumer_with_it(
    words: list[str], home: dict[str, str], tmp_path: Path, broker: Broker
):
    process, _ = started([sys.executable, "-m", "shipworthy", *words, "--json"], home, tmp_path / "stderr")
    process.kill()
    process.wait()
    process.stdout.close()  # type: ignore[union-attr]
    end = time.monotonic() + 20
    while True:  # until the lock of the records is free
        again = subprocess.Popen(
            [sys.executable, "-m", "shipworthy", *words, "--json"], env=home, stdout=subprocess.PIPE, text=True
        )
        assert again.stdout is not None
        if again.stdout.readline():
            break
        again.wait()
        again.stdout.close()
        assert time.monotonic() < end
    assert stop(again) == 0


@pytest.mark.parametrize(
    ("changed", "code", "said"),
    [
        ({"--url": "amqp://ada:hunter2@127.0.0.1/"}, 2, "--url holds a password; keep it in the environment"),
        ({"--url": "amqp://${NOT_SET}@127.0.0.1/"}, 2, "the environment variable NOT_SET is not set (--url)"),
        ({"--url": "kafka://127.0.0.1"}, 2, "--url kafka://127.0.0.1 is no address of a broker"),
        ({"--url": "amqps://127.0.0.1/?no_verify_ssl=1"}, 2, "asks not to verify the broker's certificate"),
        ({"--answers": "requests"}, 2, "need a queue each; got requests, requests, dead"),
        ({"--prefetch": "0"}, 2, "--prefetch 0: it is 1 to 4096"),
        ({"--prefetch": "100", "--window": "99"}, 2, "--window 99 is less than --prefetch 100"),
        ({"--env": "production"}, 1, "nothing is deployed in production"),
        ({"--spool": "/proc/none"}, 1, "/proc/none"),
    ],
)
def test_what_cannot_work_is_said_before_anything_starts(
    words: list[str], shipworthy: Callable[..., Done], changed: dict[str, str], code: int, said: str
):
    done = shipworthy(*words, *(word for pair in changed.items() for word in pair), timeout=60)
    assert done.code == code
    assert said in done.err
    assert "hunter2" not in done.err


def test_a_missing_client_library_is_named_with_its_extra(words: list[str], home: dict[str, str]):
    code = "import sys\nsys.modules['aiormq'] = None\nfrom shipworthy.faces.cli.main import main\nmain()"
    done = subprocess.run([sys.executable, "-c", code, *words], env=home, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "pip install 'shipworthy[amqp]'" in done.stderr
    assert "Traceback" not in done.stderr


def test_who_may_not_operate_may_not_consume(
    words: list[str], shipworthy: Callable[..., Done], project: Path, home: dict[str, str]
):
    token = shipworthy("user", "add", "ada", "--role", "auditor", "--json", "--project", project).document["token"]
    home["SHIPWORTHY_TOKEN"] = token
    done = shipworthy(*words)
    assert done.code == 1
    assert "ada (auditor) may not do `consume`: operate needs" in done.err
