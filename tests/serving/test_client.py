"""Both clients against the real server."""

import asyncio
import signal
import ssl
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pytest
import uvloop

from shipworthy.client import (
    AccessError,
    AsyncClient,
    Client,
    InvalidRequestError,
    NotFoundError,
    Prediction,
    RateLimitedError,
    UnavailableError,
)
from tests.callers import KINDS, Callers
from tests.certificates import Authority
from tests.serving.conftest import SYSTEM, Place, Running, good_request


@pytest.fixture(params=KINDS)
def callers(request: pytest.FixtureRequest) -> Iterator[Callers]:
    callers = Callers(request.param)
    yield callers
    callers.close()


def address_of(running: Running) -> str:
    return f"http://{running.host}:{running.port}"


def test_the_client_predicts_with_reasons_and_names_bad_fields(server: Running, callers: Callers) -> None:
    client = callers.make(address_of(server))
    request = good_request()
    answer = client.predict(request["inputs"], context=request["context"], id="c-1", reasons=True)
    assert (answer.prediction, answer.decision, answer.source) == ("1", "approve", "model")
    assert answer.reasons is not None
    assert len(answer.reasons["changes"]) == 3
    with pytest.raises(InvalidRequestError, match=r"inputs\.income: expected a number from 0 to 1000") as caught:
        client.predict({**request["inputs"], "income": "001", "purpose": "boat"})
    assert [problem.field for problem in caught.value.problems] == ["inputs.income", "inputs.purpose"]
    assert caught.value.code == "invalid_request"


def test_bad_items_of_a_list_are_typed_errors_in_their_places(server: Running, callers: Callers) -> None:
    good = good_request()
    infinite = {"inputs": {**good["inputs"], "income": float("inf")}}
    found = callers.make(address_of(server)).predict_many([good, {"inputs": {}}, infinite, good, {"no": 1}])
    assert [type(one) for one in found] == [
        Prediction,
        InvalidRequestError,
        InvalidRequestError,
        Prediction,
        InvalidRequestError,
    ]
    assert {problem.field for problem in found[1].problems} >= {"inputs.income", "inputs.purpose"}
    assert [problem.field for problem in found[2].problems] == ["inputs.income"]
    assert callers.make(address_of(server)).predict_many([]) == []


def test_a_list_of_any_length_is_answered_in_order(server: Running, callers: Callers) -> None:
    client = callers.make(address_of(server), timeout_s=60.0)
    before = served(server)
    requests = [good_request(score=1 + place % 6) for place in range(10_050)]
    requests[10_020] = {"inputs": {}}
    found = client.predict_many(requests)
    assert served(server) - before == 3  # two parts, and the first look at the counter
    assert [place for place, one in enumerate(found) if not isinstance(one, Prediction)] == [10_020]
    confidences = {one.confidence for place, one in enumerate(found) if place % 6 == 5}
    assert len(confidences) == 1
    assert len({one.confidence for one in found if isinstance(one, Prediction)}) == 6


def served(server: Running) -> int:
    text = server.call("GET", "/metrics")[1].decode()
    line = next(line for line in text.splitlines() if line.startswith('shipworthy_responses_total{status="200"}'))
    return int(float(line.split()[-1]))


def test_what_is_too_large_for_the_server_is_refused_in_its_words(server: Running, callers: Callers) -> None:
    client = callers.make(address_of(server))
    request = good_request()
    for _ in range(3):
        with pytest.raises(InvalidRequestError, match="more than 16777216 bytes"):
            client.predict({**request["inputs"], "purpose": "x" * 17 * 2**20})
    assert client.predict(request["inputs"]).source == "model"


def test_another_system_is_not_found(server: Running, callers: Callers) -> None:
    with pytest.raises(NotFoundError):
        callers.make(address_of(server), system="other").predict({})


def test_health_says_how_it_stands(server: Running, callers: Callers) -> None:
    assert callers.make(address_of(server)).health()["releases"] == [f"{SYSTEM}:1"]


def test_hundreds_of_calls_at_once_share_few_connections(server: Running) -> None:
    async def story() -> list[Any]:
        async with AsyncClient(address_of(server), system=SYSTEM, connections=16) as client:
            calls = (client.predict(good_request(score=1 + n % 6)["inputs"], id=f"g-{n}") for n in range(600))
            found = await asyncio.gather(*calls)
            assert open_connections(server) <= 17  # and the one that asks
            return found

    found = asyncio.run(story())
    assert [one.confidence for one in found] == [found[n % 6].confidence for n in range(600)]
    assert len({one.prediction_id for one in found}) == 600


def open_connections(server: Running) -> int:
    text = server.call("GET", "/metrics")[1].decode()
    return int(
        float(next(line for line in text.splitlines() if line.startswith("shipworthy_connections ")).split()[-1])
    )


def test_threads_share_one_client_and_get_their_own_answers(server: Running) -> None:
    with Client(address_of(server), system=SYSTEM, connections=8) as client, ThreadPoolExecutor(16) as threads:
        found = list(threads.map(lambda n: client.predict(good_request(score=1 + n % 6)["inputs"]), range(300)))
    assert [one.confidence for one in found] == [found[n % 6].confidence for n in range(300)]
    assert len({one.confidence for one in found}) == 6


def test_a_server_that_was_replaced_is_found_again_without_an_id(
    place: Place, start: Callable[..., Running], callers: Callers
) -> None:
    place.deploy(place.publish(1))
    running = start()
    client = callers.make(address_of(running), retries=0)
    inputs = good_request()["inputs"]
    client.predict(inputs)
    running.stop(signal.SIGKILL)
    with pytest.raises(UnavailableError, match="does not listen") as caught:  # noticed before anything was sent
        client.predict(inputs)
    assert not caught.value.may_have_answered
    start(port=running.port)
    assert client.predict(inputs).source == "model"


def test_tokens_and_rates_are_typed_errors(place: Place, start: Callable[..., Running], callers: Callers) -> None:
    place.deploy(place.publish(1))
    token = place.mint(per_day=1, principal="p")
    address = address_of(start(open=False))
    with pytest.raises(AccessError, match=r"with a token that is valid\. \(status 401\)"):
        callers.make(address).predict({})
    client = callers.make(address, token=token)
    assert client.predict(good_request()["inputs"]).source == "model"
    with pytest.raises(RateLimitedError, match="0 are left, this asks 1") as caught:
        client.predict(good_request()["inputs"])
    assert 0 < caught.value.wait_s <= 86_400


def test_both_clients_prove_themselves_and_ask_for_proof(
    place: Place, start: Callable[..., Running], callers: Callers, tmp_path_factory: pytest.TempPathFactory
) -> None:
    authority = Authority(tmp_path_factory.mktemp("authority"))
    pair, caller = authority.issue("server"), authority.issue("caller", is_client=True)
    place.deploy(place.publish(1))
    running = start(tls_cert=str(pair.cert), tls_key=str(pair.key), tls_client_ca=str(authority.cert))
    address, inputs = f"https://localhost:{running.port}", good_request()["inputs"]
    client = callers.make(address, ca=authority.cert, client_cert=(caller.cert, caller.key))
    for _ in range(3):
        assert client.predict(inputs).source == "model"
    context = ssl.create_default_context(cafile=authority.cert)
    context.load_cert_chain(caller.cert, caller.key)
    assert open_connections(replace(running, tls=context)) == 2  # the client's, and the one that asks
    with pytest.raises(UnavailableError, match=r"localhost cannot prove who it is: .*; give `ca`"):
        callers.make(address).predict(inputs, id="a")
    with pytest.raises(UnavailableError):
        callers.make(address, ca=authority.cert, retries=0).predict(inputs)
    running.stop(signal.SIGKILL)
    with pytest.raises(UnavailableError, match=r"does not listen|cannot be reached"):
        client.predict(inputs)


def test_an_async_client_works_under_uvloop_too(server: Running) -> None:
    async def story() -> int:
        async with AsyncClient(address_of(server), system=SYSTEM, connections=8) as client:
            found = await asyncio.gather(*(client.predict(good_request()["inputs"]) for _ in range(100)))
            return len(found)

    assert uvloop.run(story()) == 100
