"""Both clients against a server that answers as no server should."""

import asyncio
import gc
import inspect
import os
import socket
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from email.utils import formatdate
from pathlib import Path
from typing import Any

import pytest

import shipworthy.client
from shipworthy.client import (
    AccessError,
    AsyncClient,
    Client,
    DeadlineError,
    InvalidRequestError,
    NotFoundError,
    Prediction,
    RateLimitedError,
    UnavailableError,
    UsageError,
)
from tests.callers import Callers
from tests.certificates import Authority
from tests.client.hostile import Hostile, Step, drop, giant, late, raw, say, whole
from tests.client.test_messages import PREDICTION

GOOD = say(200, PREDICTION)


@pytest.fixture
def waited() -> list[float]:
    """The seconds that clients waited: they do not."""
    return []


@pytest.fixture
def make(hostile: Hostile, callers: Callers, waited: list[float]) -> Callable[..., Any]:
    return lambda **options: callers.make(hostile.address, **{"sleep": waited.append, "timeout_s": 10.0, **options})


def test_an_answer_is_a_value_and_the_token_travels(hostile: Hostile, make: Callable[..., Any]) -> None:
    hostile.steps = [GOOD]
    found = make(token="swt_x", system="a b/c").predict({"income": 1}, context={"sex": "f"}, id="a")
    assert (found.decision, found.warnings, found.reasons) == ("approve", ("a",), None)
    (seen,) = hostile.seen
    assert seen.line == "POST /v1/systems/a%20b%2Fc/predict HTTP/1.1"
    assert seen.headers["authorization"] == "Bearer swt_x"
    assert seen.headers["host"] == f"127.0.0.1:{hostile.port}"
    assert seen.body == {"inputs": {"income": 1}, "context": {"sex": "f"}, "id": "a"}


# --- what is tried again


def test_a_busy_server_is_asked_again_when_it_said(
    hostile: Hostile, make: Callable[..., Any], waited: list[float]
) -> None:
    hostile.steps = [say(503, {}, retry_after=2), say(429, {}, retry_after=3), GOOD]
    assert make(chance=lambda: 0.0).predict({}).prediction == "1"
    assert waited == pytest.approx([2.05, 3.1])


def test_a_date_to_come_back_is_read_by_the_servers_clock(
    hostile: Hostile, make: Callable[..., Any], waited: list[float]
) -> None:
    at = 946_684_800.0  # the year 2000: this server's clock is far behind
    busy = say(503, {}, retry_after=formatdate(at + 4, usegmt=True), date=formatdate(at, usegmt=True))
    hostile.steps = [busy, say(429, {}, retry_after=formatdate(time.time() - 60, usegmt=True)), GOOD]
    assert make(chance=lambda: 0.0).predict({}).prediction == "1"
    assert waited == pytest.approx([4.05, 0.1])


@pytest.mark.parametrize(("status", "error"), [(429, RateLimitedError), (503, UnavailableError)])
def test_a_wait_beyond_the_deadline_is_the_callers(
    hostile: Hostile, make: Callable[..., Any], waited: list[float], status: int, error: Any
) -> None:
    hostile.steps = [say(status, {"detail": "no more today"}, retry_after=5000)]
    with pytest.raises(error, match="no more today") as caught:
        make().predict({}, id="a")
    assert (caught.value.wait_s, waited, len(hostile.seen)) == (5000.0, [], 1)


def test_who_does_not_say_when_to_come_back_is_asked_again_only_with_an_id(
    hostile: Hostile, make: Callable[..., Any]
) -> None:
    hostile.steps = [say(503, {"detail": "busy"}), GOOD]
    assert make().predict({}, id="a").prediction == "1"
    hostile.steps = [say(503, {"detail": "busy"}), GOOD]
    with pytest.raises(UnavailableError, match=r"busy \(status 503\)"):
        make().predict({})
    assert len(hostile.steps) == 1


LOST = {
    "before an answer": drop,
    "half an answer": raw(whole(200, PREDICTION)[:-5]),
    "half a header": raw(b"HTTP/1.1 200 OK\r\ncontent-le"),
    "a proxy that got none": say(502, b"<html>"),
}


@pytest.mark.parametrize("step", LOST.values(), ids=LOST)
def test_a_lost_answer_is_asked_for_again_only_with_an_id(
    hostile: Hostile, make: Callable[..., Any], waited: list[float], step: Step
) -> None:
    hostile.steps = [step, step, GOOD]
    client = make()
    assert client.predict({"a": 1}, id="a").prediction == "1"
    assert [seen.body for seen in hostile.seen] == [{"inputs": {"a": 1}, "id": "a"}] * 3
    assert len(waited) == 2
    hostile.steps = [step, GOOD]
    with pytest.raises(UnavailableError) as caught:
        client.predict({"a": 1})
    assert (caught.value.may_have_answered, len(hostile.steps), len(waited)) == (True, 1, 2)
    hostile.steps = [step] * 4
    with pytest.raises(UnavailableError):
        client.predict({}, id="a")
    assert len(hostile.steps) == 1


def test_a_list_is_asked_for_again_only_if_all_have_ids(hostile: Hostile, make: Callable[..., Any]) -> None:
    hostile.steps = [drop, say(200, [PREDICTION] * 2)]
    with pytest.raises(UnavailableError):
        make().predict_many([{"inputs": {}, "id": "a"}, {"inputs": {}}])
    hostile.steps = [drop, say(200, [PREDICTION] * 2)]
    assert len(make().predict_many([{"inputs": {}, "id": "a"}, {"inputs": {}, "id": "b"}])) == 2


def test_outcomes_are_told_again_as_that_has_no_effect(hostile: Hostile, make: Callable[..., Any]) -> None:
    hostile.steps = [drop, say(200, {"accepted": 1, "problems": []})]
    assert make().tell_outcomes([{"id": "a", "value": "1"}]).accepted == 1


def test_nobody_listening_is_tried_again_until_somebody_does(callers: Callers) -> None:
    with socket.create_server(("127.0.0.1", 0)) as place:
        port = place.getsockname()[1]
    pauses: list[float] = []
    started: list[Hostile] = []

    def begin(seconds: float) -> None:
        pauses.append(seconds)
        if len(pauses) == 2:
            started.append(Hostile(port))
            started[0].steps = [GOOD]

    try:
        assert callers.make(f"http://127.0.0.1:{port}", sleep=begin).predict({}).prediction == "1"
    finally:
        for server in started:
            server.close()
    assert len(pauses) == 2


def test_nobody_listening_is_unavailable_and_nothing_was_answered(callers: Callers) -> None:
    client = callers.make("http://127.0.0.1:1", sleep=lambda _: None)
    with pytest.raises(UnavailableError, match=r"127\.0\.0\.1 does not listen: ") as caught:
        client.predict({})
    assert not caught.value.may_have_answered
    with pytest.raises(UnavailableError, match="does not listen"):
        client.health()


def test_a_name_that_nobody_has_is_unavailable(callers: Callers) -> None:
    with pytest.raises(UnavailableError, match=r"nowhere\.invalid cannot be reached"):
        callers.make("http://nowhere.invalid", retries=0).predict({})


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (401, AccessError),
        (403, AccessError),
        (404, NotFoundError),
        (413, InvalidRequestError),
        (422, InvalidRequestError),
        (500, UnavailableError),
    ],
)
def test_refusals_are_typed_and_not_repeated(
    hostile: Hostile, make: Callable[..., Any], status: int, error: type[Exception]
) -> None:
    hostile.steps = [say(status, {"detail": "no"})]
    with pytest.raises(error, match="no"):
        make().predict({}, id="a")
    assert len(hostile.seen) == 1


# --- answers that are none

STRANGE = {
    "garbage": (say(200, b"{]"), "The answer is not JSON"),
    "another's JSON": (say(200, {"ok": True}), "The answer is not a prediction"),
    "no HTTP": (raw(b"220 mail ready\r\n"), "the answer cannot be read: it does not begin"),
    "giant": (giant, "it has more than 67108864 bytes"),
    "announced giant": (raw(b"HTTP/1.1 200 OK\r\ncontent-length: 99999999999\r\n\r\n"), "it has more than"),
    "redirect": (say(307, {}, location="http://evil.example/"), r"sends callers elsewhere \(status 307\)"),
}


@pytest.mark.parametrize(("step", "words"), STRANGE.values(), ids=STRANGE)
def test_what_is_no_answer_is_unavailable_and_not_asked_for_again(
    hostile: Hostile, make: Callable[..., Any], step: Step, words: str
) -> None:
    hostile.steps = [step, GOOD]
    client = make()
    with pytest.raises(UnavailableError, match=words):
        client.predict({}, id="a")
    assert len(hostile.seen) == 1
    assert client.predict({}).prediction == "1"  # on a clean connection


def test_an_early_no_is_heard_while_a_large_request_is_still_being_sent(
    hostile: Hostile, make: Callable[..., Any]
) -> None:
    def refuse(wire: socket.socket) -> bool:
        wire.sendall(whole(413, {"detail": "too large"}, connection="close"))
        return False

    hostile.impatient = refuse
    with pytest.raises(InvalidRequestError, match="too large"):
        make().predict({"a": "x" * 30_000_000})


# --- time


def test_a_slow_answer_ends_with_the_deadline_and_is_not_asked_for_again(
    hostile: Hostile, make: Callable[..., Any]
) -> None:
    hostile.steps = [hostile.silent, GOOD]
    with pytest.raises(DeadlineError, match=r"did not answer within 0\.2 s") as caught:
        make(timeout_s=0.2).predict({}, id="a")
    assert caught.value.may_have_answered
    assert len(hostile.seen) == 1


def test_an_answer_that_drips_is_late_although_each_byte_is_in_time(hostile: Hostile, make: Callable[..., Any]) -> None:
    hostile.steps = [hostile.drip]
    with pytest.raises(DeadlineError):
        make(timeout_s=0.3).predict({})


def test_retries_share_the_deadline_of_the_call(hostile: Hostile, callers: Callers) -> None:
    hostile.otherwise = say(503, {"detail": "busy"}, retry_after=0)
    with pytest.raises(UnavailableError, match="busy"):
        callers.make(hostile.address, timeout_s=0.5, retries=1000, chance=lambda: 0.0).predict({})
    assert 2 <= len(hostile.seen) <= 4  # after 0, 50, 150 and 350 ms; the next would come too late


def test_a_list_in_parts_has_one_deadline(hostile: Hostile, make: Callable[..., Any]) -> None:
    hostile.steps = [say(200, [PREDICTION] * 10_000), hostile.silent]
    with pytest.raises(DeadlineError):
        make(timeout_s=2.0).predict_many([{"inputs": {}}] * 10_001)


def test_a_server_that_takes_no_connection_is_late(callers: Callers) -> None:
    with socket.create_server(("127.0.0.1", 0), backlog=0) as full:
        port = full.getsockname()[1]
        held = []
        for _ in range(3):  # the queue is full then, and what comes is left without an answer
            wire = socket.socket()
            wire.setblocking(False)
            wire.connect_ex(("127.0.0.1", port))
            held.append(wire)
        try:
            with pytest.raises(DeadlineError, match=r"no connection to 127\.0\.0\.1 within 0\.3 s") as caught:
                callers.make(f"http://127.0.0.1:{port}", timeout_s=0.3).predict({}, id="a")
            assert not caught.value.may_have_answered
        finally:
            for wire in held:
                wire.close()


def test_who_answers_https_with_plain_words_is_told_from_who_does_not_listen(
    hostile: Hostile, callers: Callers
) -> None:
    hostile.impatient = raw(b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n")
    with pytest.raises(UnavailableError, match=r"127\.0\.0\.1 and this machine cannot agree on TLS"):
        callers.make(hostile.address.replace("http:", "https:")).predict({}, id="a")
    assert hostile.connections == 1


# --- connections


def test_one_connection_carries_many_requests(hostile: Hostile, make: Callable[..., Any]) -> None:
    hostile.otherwise = GOOD
    client = make()
    for _ in range(5):
        client.predict({})
    assert {seen.connection for seen in hostile.seen} == {1}
    client.close()
    hostile.gone.acquire(timeout=10)
    client.predict({})
    assert hostile.seen[-1].connection == 2


@pytest.mark.parametrize("kind", ["close", "close without a word", "an answer that nobody asked for"])
def test_a_connection_spoilt_while_idle_is_noticed_before_sending(
    hostile: Hostile, make: Callable[..., Any], waited: list[float], kind: str
) -> None:
    another = whole(200, {**PREDICTION, "prediction": "another's"})
    hostile.steps = [
        {
            "close": say(200, PREDICTION, connection="close"),
            "close without a word": raw(whole(200, PREDICTION)),
            "an answer that nobody asked for": late(whole(200, PREDICTION), another),
        }[kind],
        GOOD,
    ]
    client = make(retries=0)
    client.predict({})
    hostile.idle.acquire(timeout=10)  # the server has done what it does
    assert client.predict({}).prediction == "1"  # no id, and no retries
    assert [seen.connection for seen in hostile.seen] == [1, 2]
    assert waited == []


def test_what_comes_unasked_while_the_loop_runs_on_spoils_the_connection(hostile: Hostile) -> None:
    async def story() -> Prediction:
        async with AsyncClient(hostile.address, system="loans", retries=0) as client:
            await client.predict({})
            await asyncio.to_thread(hostile.idle.acquire, timeout=10)
            for _ in range(50):  # turns of the loop, in which it reads what came
                await asyncio.sleep(0.002)
            return await client.predict({})

    hostile.steps = [late(whole(200, PREDICTION), whole(200, {**PREDICTION, "prediction": "another's"})), GOOD]
    assert asyncio.run(story()).prediction == "1"
    assert [seen.connection for seen in hostile.seen] == [1, 2]


def test_threads_and_tasks_share_a_client_and_its_bound(hostile: Hostile, callers: Callers) -> None:
    def echo(wire: socket.socket) -> bool:
        time.sleep(0.001)
        wire.sendall(whole(200, {**PREDICTION, "prediction": hostile.asked(wire).body["inputs"]["n"]}))
        return True

    hostile.otherwise = echo
    if callers.kind == "sync":
        client = callers.make(hostile.address, connections=4)
        with ThreadPoolExecutor(16) as threads:
            found = list(threads.map(lambda n: client.predict({"n": n}).prediction, range(300)))
    else:

        async def gather() -> list[Any]:
            async with AsyncClient(hostile.address, system="loans", connections=4) as client:
                return await asyncio.gather(*(client.predict({"n": n}) for n in range(300)))

        found = [prediction.prediction for prediction in asyncio.run(gather())]
    assert found == list(range(300))
    assert 2 <= hostile.most_open <= 4
    assert hostile.connections <= 4


def test_who_waits_for_a_connection_is_held_to_the_deadline(
    hostile: Hostile, callers: Callers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One has the only connection for two seconds; those who come later have less patience, and send nothing."""
    hostile.otherwise = hostile.silent
    patient_s, hasty_s = 2.0, 0.2
    if callers.kind == "sync":
        client = callers.make(hostile.address, connections=1, timeout_s=patient_s)
        with ThreadPoolExecutor(3) as threads:
            first = threads.submit(client.predict, {})
            while not hostile.seen:
                time.sleep(0.01)
            monkeypatch.setattr(client, "_timeout_s", hasty_s)
            errors = [call.exception(10) for call in [threads.submit(client.predict, {}) for _ in range(2)]]
            sent = len(hostile.seen)
            errors.append(first.exception(10))
    else:

        async def together() -> tuple[list[Any], int]:
            async with AsyncClient(hostile.address, system="loans", connections=1, timeout_s=patient_s) as client:
                first = asyncio.ensure_future(client.predict({}))
                while not hostile.seen:
                    await asyncio.sleep(0.01)
                monkeypatch.setattr(client, "_timeout_s", hasty_s)
                later: list[Any] = await asyncio.gather(*(client.predict({}) for _ in range(2)), return_exceptions=True)
                sent = len(hostile.seen)
                return [*later, *await asyncio.gather(first, return_exceptions=True)], sent

        errors, sent = asyncio.run(together())
    assert all(isinstance(error, DeadlineError) for error in errors)
    assert sent == 1


def test_a_client_carried_over_a_fork_shares_no_connection(hostile: Hostile) -> None:
    hostile.otherwise = GOOD
    with Client(hostile.address, system="loans") as client:
        client.predict({})
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # threads do not live on in the child: it needs none
            child = os.fork()
        if child == 0:
            try:
                client.predict({})
                os._exit(0)
            finally:
                os._exit(1)
        assert os.waitpid(child, 0)[1] == 0
        client.predict({})
    assert [seen.connection for seen in hostile.seen] == [1, 2, 1]


def test_a_connection_in_use_when_its_client_is_closed_is_not_kept(hostile: Hostile) -> None:
    asked, go = threading.Event(), threading.Event()

    def wait(wire: socket.socket) -> bool:
        asked.set()
        go.wait(10)
        wire.sendall(whole(200, PREDICTION))
        return True

    hostile.steps = [wait]
    client = Client(hostile.address, system="loans")
    with ThreadPoolExecutor(1) as threads:
        answer = threads.submit(client.predict, {})
        assert asked.wait(10)
        client.close()
        go.set()
        assert answer.result(10).prediction == "1"
    assert hostile.gone.acquire(timeout=10)


def test_a_cancelled_calls_connection_is_not_used_again(hostile: Hostile) -> None:
    async def story() -> Prediction:
        async with AsyncClient(hostile.address, system="loans", connections=1) as client:
            await client.predict({})
            call = asyncio.ensure_future(client.predict({"whose": "cancelled"}))
            while len(hostile.seen) < 2:
                await asyncio.sleep(0.005)
            call.cancel()
            with pytest.raises(asyncio.CancelledError):
                await call
            hostile.released.set()  # its answer would come now
            return await client.predict({"whose": "mine"})

    def tardy(wire: socket.socket) -> bool:
        hostile.released.wait(10)
        wire.sendall(whole(200, {**PREDICTION, "prediction": "cancelled"}))
        return True

    hostile.steps = [GOOD, tardy, say(200, {**PREDICTION, "prediction": "mine"})]
    assert asyncio.run(story()).prediction == "mine"
    assert [seen.connection for seen in hostile.seen] == [1, 1, 2]


def test_calls_cancelled_anywhere_leave_a_client_that_works(hostile: Hostile) -> None:
    """Cancelled after any number of turns of the loop: looking up, connecting, waiting for a turn, asking."""

    async def story() -> None:
        async with AsyncClient(hostile.address, system="loans", connections=2) as client:
            for turns in range(40):
                calls = [asyncio.ensure_future(client.predict({"turns": turns})) for _ in range(4)]
                for _ in range(turns):
                    await asyncio.sleep(0)
                for call in calls:
                    call.cancel()
                await asyncio.gather(*calls, return_exceptions=True)
            found = await asyncio.gather(*(client.predict({}) for _ in range(20)))
            assert len(found) == 20

    hostile.otherwise = GOOD
    asyncio.run(story())
    gc.collect()  # a transport that was left open would warn
    for _ in range(hostile.connections):
        assert hostile.gone.acquire(timeout=10)


def test_an_async_client_belongs_to_one_loop(hostile: Hostile) -> None:
    hostile.otherwise = GOOD
    client = AsyncClient(hostile.address, system="loans")

    async def once() -> None:
        await client.predict({})
        await client.close()

    asyncio.run(once())
    with pytest.raises(UsageError, match="belongs to another event loop"):
        asyncio.run(once())


# --- addresses and certificates


@pytest.mark.parametrize("kind", [Client, AsyncClient])
@pytest.mark.parametrize(
    "address",
    [
        "file:///etc/passwd",
        "models.example.com",
        "http://",
        "http://a:port",
        "http://[::1",
        "http://a b",
        "http://a\x00",
    ],
)
def test_an_address_must_be_of_http(kind: Any, address: str) -> None:
    with pytest.raises(UsageError, match="is not an address"):
        kind(address, system="loans")


@pytest.mark.parametrize("token", ["", "a b", "a\r\nx-evil:1", "a\x7f", "ä"])
def test_a_token_cannot_bring_a_header_of_its_own(token: str) -> None:
    with pytest.raises(UsageError, match="the token has characters that no token has"):
        Client("http://a", system="loans", token=token)


@pytest.mark.parametrize("kind", [Client, AsyncClient])
def test_certificates_are_files_of_an_https_address(tmp_path: Path, kind: Any) -> None:
    authority = Authority(tmp_path)
    pair, junk = authority.issue("caller"), tmp_path / "junk"
    junk.write_text("no certificate")
    with pytest.raises(UsageError, match=r"certificates are for an https address; 'http://a' is not one"):
        kind("http://a", system="loans", ca=authority.cert)
    with pytest.raises(NotFoundError, match=r"nowhere: not all of these files are there"):
        kind("https://a", system="loans", ca=tmp_path / "nowhere")
    with pytest.raises(UsageError, match=r"junk: cannot be used \(.*\); give PEM files"):
        kind("https://a", system="loans", ca=junk)
    with pytest.raises(UsageError, match=r"give PEM files, and a key of its certificate"):
        kind("https://a", system="loans", client_cert=(pair.cert, authority.issue("other").key))
    kind("https://a", system="loans", ca=authority.cert, client_cert=(pair.cert, pair.key))


# --- the room


def test_the_client_loads_python_and_our_errors_and_nothing_else() -> None:
    code = (
        "import sys; before = set(sys.modules); import shipworthy.client; new = set(sys.modules) - before\n"
        "print(' '.join(sorted(name for name in new if name.startswith('shipworthy'))))\n"
        "print(sorted({name.partition('.')[0] for name in new} - set(sys.stdlib_module_names) - {'shipworthy'}))\n"
        "print(len(new))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    ours, foreign, count = done.stdout.splitlines()
    files = {path.stem for path in Path(shipworthy.client.__file__).parent.glob("*.py")} - {"__init__"}
    rooms = {"shipworthy", "shipworthy.client", "shipworthy.kernel", "shipworthy.kernel.errors"}
    assert set(ours.split()) == rooms | {f"shipworthy.client.{name}" for name in files}
    assert foreign == "[]"
    assert int(count) < 250


def test_both_clients_have_the_same_methods_and_settings() -> None:
    def shown(kind: type) -> dict[str, Any]:
        return {
            name: inspect.signature(value).parameters if callable(value) else None
            for name, value in vars(kind).items()
            if not name.startswith("_") or name == "__init__"
        }

    ours, theirs = shown(Client), shown(AsyncClient)
    assert ours.keys() == theirs.keys()
    for name in ours:
        assert list(ours[name] or ()) == list(theirs[name] or ()), name
