"""Telling lineage: everything once, in order, whoever is away; and nothing waits for it."""

import json
import os
import re
import socket
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from shipworthy.contract.parse import parse_contract
from shipworthy.ledger.events import Event
from shipworthy.workflows.project import Parts
from shipworthy.workflows.tell_lineage import Telling, require_receiver, tell_lineage, write_events
from tests.data.conftest import BASE
from tests.governance.judges import judge_event

DIGEST = f"sha256:{'a' * 64}"


class Receiver:
    """An OpenLineage receiver of this machine; answers `status`."""

    def __init__(self) -> None:
        self.events: list[dict[str, Any]] = []
        self.requests: list[tuple[str, str | None]] = []
        self.status = 201
        self.is_slow = threading.Event()
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                event = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                if receiver.is_slow.is_set():
                    time.sleep(0.4)
                if receiver.status < 300:
                    receiver.events.append(event)
                receiver.requests.append((self.path, self.headers["Authorization"]))
                self.send_response(receiver.status)
                self.end_headers()

            def log_message(self, *_: object) -> None: ...

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    found = Receiver()
    yield found
    found.close()


class Clock:
    def __init__(self) -> None:
        self.now = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now


def name_receiver(parts: Parts, place: str, **more: str) -> None:
    text = json.dumps({**BASE, "lineage": {"openlineage": place, **more}})
    parse_contract(text)
    (parts.project.root / "shipworthy.yaml").write_text(text)


def ingest(parts: Parts, count: int = 1) -> None:
    """So many runs in the ledger."""
    link = {"parent": f"file:loans.csv@{DIGEST}", "relation": "ingested", "child": f"snapshot:{DIGEST}"}
    body = {"digest": DIGEST, "rows": 9, "reasons": {}, "sources": {"loans": DIGEST}, "links": [link]}
    for at in range(count):
        ended = {"key": f"k{at}", "name": "ingest", "outputs": {}, "seconds": 1}
        parts.ledger.append_all(
            [Event("snapshot.taken", f"snapshot:{DIGEST}", "a", body), Event("stage.finished", "stage:i", "a", ended)]
        )


def tell(parts: Parts, clock: Clock, **more: Any) -> Telling | None:
    return tell_lineage(parts.project, parts.ledger, {"URL": "", "KEY": "k-1"} | os.environ, clock, **more)


def test_a_receiver_is_told_each_run_once(parts: Parts, receiver: Receiver):
    name_receiver(parts, receiver.address, token="${KEY}")
    ingest(parts, 3)
    assert tell(parts, Clock(), patience_s=30) == Telling(6, 0)
    assert [event["eventType"] for event in receiver.events] == ["START", "COMPLETE"] * 3
    for event in receiver.events:
        judge_event(event)
    assert set(receiver.requests) == {("/api/v1/lineage", "Bearer k-1")}
    assert tell(parts, Clock()) is None
    ingest(parts)
    assert tell(parts, Clock(), patience_s=30) == Telling(2, 0)
    assert len({event["run"]["runId"] for event in receiver.events}) == 4


def test_a_receiver_that_refuses_is_told_of_once_and_gets_all_when_it_is_back(parts: Parts, receiver: Receiver):
    name_receiver(parts, f"{receiver.address}/lineage")
    clock, receiver.status = Clock(), 503
    ingest(parts, 2)
    told = tell(parts, clock, patience_s=30)
    assert told == Telling(0, 2, "the receiver answered 503", is_news=True)
    assert str(told) == (
        "the OpenLineage receiver was not told: the receiver answered 503; 2 runs are kept and told later, "
        "or now by `shipworthy lineage --send`"
    )
    assert tell(parts, clock) is None  # a pause
    clock.now += 2
    again = tell(parts, clock, patience_s=30)
    assert again is not None
    assert not again.is_news
    receiver.status = 200
    ingest(parts)
    assert tell(parts, clock) is None
    assert tell(parts, clock, patience_s=None) == Telling(6, 0)  # whoever asks for it does not wait for the pause
    assert [path for path, _ in receiver.requests[:1]] == ["/lineage"]
    assert len(receiver.events) == 6


def test_a_slow_receiver_holds_nobody_up_and_gets_the_rest_later(parts: Parts, receiver: Receiver):
    name_receiver(parts, receiver.address)
    receiver.is_slow.set()
    ingest(parts, 20)
    told = tell(parts, Clock(), patience_s=1.2)
    assert told is not None
    assert told.error == "it takes too long"
    assert told.events + 2 * told.waiting == 40
    assert told.waiting > 10
    receiver.is_slow.clear()
    rest = tell(parts, Clock(), patience_s=None)
    assert rest == Telling(2 * told.waiting, 0)
    assert len({event["run"]["runId"] for event in receiver.events}) == 20


def test_a_receiver_that_takes_the_call_and_says_nothing_holds_nobody_up(parts: Parts):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        name_receiver(parts, f"http://127.0.0.1:{silent.getsockname()[1]}")
        ingest(parts)
        told = tell(parts, Clock(), patience_s=0.2)
    assert told == Telling(0, 1, "it takes too long", is_news=True)


def test_nobody_is_called_without_a_receiver(parts: Parts):
    (parts.project.root / "shipworthy.yaml").write_text(json.dumps(BASE))
    ingest(parts)
    assert tell(parts, Clock()) is None
    with pytest.raises(LookupError, match="the contract names no receiver"):
        require_receiver(parts.project)


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("http://127.0.0.1:1", "no connection: Connection refused"),
        ("${NOWHERE_URL}", r"the environment variable NOWHERE_URL is not set \(lineage.openlineage\)"),
        ("nowhere/lineage.ndjson", r"lineage.ndjson cannot be written \(No such file or directory\)"),
    ],
)
def test_why_nobody_was_told_is_said_without_the_address(parts: Parts, address: str, words: str):
    name_receiver(parts, address)
    ingest(parts)
    told = tell(parts, Clock(), patience_s=30)
    assert told is not None
    assert re.fullmatch(words, str(told.error))


def test_another_receiver_is_told_everything(parts: Parts, receiver: Receiver):
    name_receiver(parts, "lineage.ndjson")
    ingest(parts, 2)
    assert tell(parts, Clock(), patience_s=30) == Telling(4, 0)
    name_receiver(parts, receiver.address)
    assert tell(parts, Clock(), patience_s=30) == Telling(4, 0)
    lines = (parts.project.root / "lineage.ndjson").read_text().splitlines()
    assert [json.loads(line) for line in lines] == receiver.events


def test_a_torn_line_ends_before_the_next(parts: Parts):
    name_receiver(parts, "lineage.ndjson")
    file = parts.project.root / "lineage.ndjson"
    file.write_text('{"eventType": "STA')
    ingest(parts)
    tell(parts, Clock(), patience_s=30)
    assert [line[:14] for line in file.read_text().splitlines()] == ['{"eventType": ', *['{"eventType": '] * 2]
    assert json.loads(file.read_text().splitlines()[1])["eventType"] == "START"


def test_two_who_tell_at_once_do_not_tell_twice(parts: Parts, receiver: Receiver):
    name_receiver(parts, receiver.address)
    receiver.is_slow.set()
    ingest(parts, 2)
    done: list[Telling | None] = []
    threads = [threading.Thread(target=lambda: done.append(tell(parts, Clock(), patience_s=None))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert done.count(Telling(4, 0)) == done.count(None) == 1
    assert len(receiver.events) == 4


def test_an_export_is_the_same_each_time(parts: Parts, tmp_path: Path):
    (parts.project.root / "shipworthy.yaml").write_text(json.dumps(BASE))
    ingest(parts, 3)
    for name in ("a", "b"):
        assert write_events(parts.project, parts.ledger, tmp_path / name) == 6
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
