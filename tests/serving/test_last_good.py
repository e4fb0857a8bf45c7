"""The last good release: asked where the model that answers cannot, labelled, bounded, and never a bad one."""

import json
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shipworthy.bundle.format import ContextField, DeployedRelease, Deployment, Policy, Schema
from shipworthy.bundle.verify import verify_payload
from shipworthy.records.read import read_records
from shipworthy.serving.breaker import FAILURES, Breaker
from shipworthy.serving.last_good import LAST_GOOD, find_last_good, read_answered, say_unfit
from shipworthy.serving.runtimes.load import load_runtime
from shipworthy.serving.servable import Servable, make_servable
from shipworthy.serving.stand_in import restate
from tests.engines.models import SOURCE
from tests.serving.conftest import (
    SYSTEM,
    WEIGHTS,
    Place,
    Running,
    good_request,
    linear_model,
    loans_baselines,
    loans_policy,
    loans_schema,
)
from tests.serving.faulty_server import (
    CAUSES,
    FEWER,
    HANGS,
    LAG_S,
    LAGS,
    NAN,
    RAISES,
    SOUND,
)
from tests.serving.test_novelty import STRANGE, novelty
from tests.serving.test_python_models import MEMORY, model_pids, python_model
from tests.serving.test_workers import is_whole, metric, wait_for

FAULTY = Path(__file__).with_name("faulty_server.py")
TIMEOUT_S = 0.4
APPROVES = linear_model([0.0] * len(WEIGHTS), bias=9.0)  # whatever is asked; the rules refer or refuse
FIRST, SECOND, THIRD = f"{SYSTEM}:1", f"{SYSTEM}:2", f"{SYSTEM}:3"

Start = Callable[..., Running]


def sound(**changes: Any) -> Policy:
    """Of a release that never fails."""
    return loans_policy(**{"timeout_s": TIMEOUT_S, "reasons": SOUND, **changes})


def asking(**changes: Any) -> Policy:
    """Of a release that fails on command, and has the last good one asked."""
    return loans_policy(**{"timeout_s": TIMEOUT_S, "fallback_last_good": True, **changes})


def health(running: Running) -> Any:
    return running.call("GET", "/v2/health/ready")[1]


def switch(place: Place, running: Running, *releases: DeployedRelease) -> None:
    """Deploy, and wait until every worker answers from it."""
    place.deploy(*releases)
    wait_for(lambda: bool(health(running)["generation"] == place.generation))


def begin(place: Place, start: Start, first: DeployedRelease, second: DeployedRelease) -> Running:
    """A server that answered from `first`, and answers from `second` now."""
    place.deploy(first)
    running = start(script=FAULTY)
    switch(place, running, second)
    return running


def publish_both(place: Place, **changes: Any) -> tuple[DeployedRelease, DeployedRelease]:
    return place.publish(1, model=APPROVES, policy=sound()), place.publish(2, policy=asking(**changes))


@pytest.fixture
def behind(place: Place, start: Start) -> Running:
    """Release 2 answers, and release 1 stands behind it."""
    return begin(place, start, *publish_both(place))


# --- what it is asked for


@pytest.mark.parametrize(("income", "cause"), CAUSES.items())
def test_the_last_good_release_answers_where_the_model_fails(
    behind: Running, place: Place, income: float, cause: str
) -> None:
    began = time.monotonic()
    status, answer = behind.predict(good_request(income=income))
    assert status == 200
    assert time.monotonic() - began < TIMEOUT_S + 0.5
    assert (answer["source"], answer["handling"], answer["release"]) == ("fallback", "automatic", SECOND)
    assert answer["decision"] == "approve"  # of release 1: the rules would refer
    assert answer["warnings"] == [f"answered by fallback: {cause}; {FIRST} answered"]
    assert (answer["prediction"], answer["probability"], answer["confidence"]) == (None, None, None)
    (record,) = read_records(place.records)
    assert (record.prediction_id, record.release, record.source) == (answer["prediction_id"], SECOND, "fallback")
    assert (record.decision, record.prediction, record.warnings) == ("approve", None, tuple(answer["warnings"]))
    text = behind.call("GET", "/metrics")[1].decode()
    assert f'shipworthy_fallbacks_total{{cause="{cause}"}} 1' in text
    assert f'shipworthy_last_good_answers_total{{release="{FIRST}"}} 1' in text
    assert f'shipworthy_last_good_ready{{release="{FIRST}"}} 1' in text
    wait_for(lambda: bool(behind.predict(good_request())[1]["source"] == "model"))


def test_health_says_who_stands_behind_whom(behind: Running) -> None:
    assert health(behind)["last_good"] == {"stands_in": {SECOND: FIRST}, "refused": None}
    assert health(behind)["breakers"] == {SECOND: "closed", FIRST: "closed"}
    assert health(behind)["releases"] == [SECOND]


def test_a_model_that_hangs_is_answered_for_and_nobody_else_waits(behind: Running) -> None:
    assert behind.predict(good_request(income=HANGS))[1]["decision"] == "approve"
    took = []
    for _ in range(5):
        began = time.monotonic()
        answer = behind.predict(good_request())[1]
        took.append(time.monotonic() - began)
        assert answer["warnings"] == [f"answered by fallback: the model was late; {FIRST} answered"]
    assert min(took) < 0.2


def test_it_answers_while_the_model_rests_behind_its_open_breaker(behind: Running) -> None:
    for _ in range(FAILURES):
        assert behind.predict(good_request(income=RAISES))[1]["decision"] == "approve"
    answer = behind.predict(good_request())[1]
    assert answer["warnings"] == [f"answered by fallback: the model rests after it failed; {FIRST} answered"]
    assert health(behind)["breakers"] == {SECOND: "open", FIRST: "closed"}


def test_one_poison_row_is_answered_for_and_costs_its_batch_mates_nothing(behind: Running, place: Place) -> None:
    items = [good_request(income=RAISES if i in (7, 90) else 50.0) for i in range(100)]
    answers = behind.predict(items)[1]
    assert [answer["source"] for answer in answers] == ["fallback" if i in (7, 90) else "model" for i in range(100)]
    assert {answer["decision"] for answer in answers if answer["source"] == "fallback"} == {"approve"}
    assert len({record.prediction_id for record in read_records(place.records)}) == 100
    assert metric(behind, "breaker_opened_total") == 0


def test_a_long_list_whose_every_row_fails_is_answered_whole(behind: Running) -> None:
    answers = behind.predict([good_request(income=NAN)] * 3000)[1]
    assert len(answers) == 3000
    assert {(answer["source"], answer["release"]) for answer in answers} == {("fallback", SECOND)}
    assert metric(behind, "last_good_answers_total") > 1000  # those that the deadline left time for


def test_what_it_sends_to_a_person_goes_to_a_person(place: Place, start: Start) -> None:
    first = place.publish(1, model=APPROVES, policy=sound(review_below=1.0, review_answer="refer"))
    running = begin(place, start, first, place.publish(2, policy=asking()))
    answer = running.predict(good_request(income=RAISES))[1]
    assert (answer["decision"], answer["handling"]) == ("refer", "review")


def test_a_row_out_of_distribution_is_no_failure_of_the_model_and_for_the_rules(place: Place, start: Start) -> None:
    baselines = msgspec.structs.replace(loans_baselines(), novelty=novelty())
    second = place.publish(2, policy=asking(out_of_distribution="fallback"), baselines=baselines)
    running = begin(place, start, place.publish(1, model=APPROVES, policy=sound()), second)
    answer = running.predict(good_request(**STRANGE))[1]
    assert (answer["decision"], answer["warnings"][-1]) == ("refuse", "answered by fallback: out of distribution")
    assert metric(running, "last_good_answers_total") == 0


@pytest.mark.parametrize(
    ("handling", "decision", "ends"), [("fallback", "refer", ""), ("warn", "approve", f"; {FIRST} answered")]
)
def test_the_last_good_release_judges_rows_by_its_own_training(
    place: Place, start: Start, handling: str, decision: str, ends: str
) -> None:
    """RAISES is far beyond the incomes that it knows."""
    baselines = msgspec.structs.replace(loans_baselines(), novelty=novelty())
    first = place.publish(1, model=APPROVES, policy=sound(out_of_distribution=handling), baselines=baselines)
    running = begin(place, start, first, place.publish(2, policy=asking()))
    answer = running.predict(good_request(income=RAISES))[1]
    assert answer["decision"] == decision
    assert answer["warnings"][-1] == f"answered by fallback: the model failed{ends}"
    assert [words.partition(":")[0] for words in answer["warnings"][:-1]] == ["out of distribution"] * bool(ends)
    assert health(running)["breakers"][FIRST] == "closed"


def test_reasons_that_were_asked_for_are_null(behind: Running) -> None:
    answer = behind.predict({**good_request(income=RAISES), "reasons": True})[1]
    assert (answer["decision"], answer["reasons"]) == ("approve", None)


# --- when it cannot either


def test_the_rules_answer_where_the_last_good_release_fails_too(place: Place, start: Start) -> None:
    running = begin(place, start, place.publish(1, policy=loans_policy()), place.publish(2, policy=asking()))
    answer = running.predict(good_request(income=RAISES))[1]
    assert (answer["decision"], answer["warnings"]) == ("refer", ["answered by fallback: the model failed"])
    assert running.predict(good_request(income=RAISES, debt=500.0))[1]["decision"] == "refuse"
    assert metric(running, "last_good_answers_total") == 0
    for _ in range(FAILURES):
        running.predict(good_request(income=RAISES))
    assert health(running)["breakers"][FIRST] == "open"


def test_a_second_hang_blocks_nobody(place: Place, start: Start) -> None:
    running = begin(
        place, start, place.publish(1, policy=loans_policy(timeout_s=TIMEOUT_S)), place.publish(2, policy=asking())
    )
    began = time.monotonic()
    status, answer = running.predict(good_request(income=HANGS))
    assert time.monotonic() - began < TIMEOUT_S + 0.5
    assert (status, answer["decision"], answer["warnings"]) == (
        200,
        "refer",
        ["answered by fallback: the model was late"],
    )
    took = []
    for _ in range(5):
        began = time.monotonic()
        assert running.predict(good_request())[1]["source"] == "fallback"
        took.append(time.monotonic() - began)
    assert min(took) < 0.2


def test_a_last_good_release_that_hangs_alone_costs_one_deadline(place: Place, start: Start) -> None:
    """The model goes on; what it fails on is answered by the rules while the other hangs."""
    first = place.publish(1, policy=loans_policy(timeout_s=TIMEOUT_S))
    second = place.publish(2, model=nan_model(), policy=asking(reasons=SOUND))
    running = begin(place, start, first, second)
    began = time.monotonic()
    answer = running.predict(good_request(income=HANGS))[1]
    assert TIMEOUT_S < time.monotonic() - began < TIMEOUT_S + 0.5
    assert answer["warnings"] == ["answered by fallback: the model gave no usable output"]
    took = []
    for _ in range(3):
        began = time.monotonic()
        assert running.predict(good_request(income=60.0))[1]["decision"] == "refer"
        took.append(time.monotonic() - began)
    assert min(took) < 0.2
    assert health(running)["ready"] is True


def nan_model() -> bytes:
    return linear_model([float("nan")] + [0.0] * (len(WEIGHTS) - 1))


# --- which release it is


def test_it_is_asked_only_where_the_policy_says_so(place: Place, start: Start) -> None:
    first, second = place.publish(1, model=APPROVES, policy=sound()), place.publish(2, policy=loans_policy())
    running = begin(place, start, first, second)
    answer = running.predict(good_request(income=RAISES))[1]
    assert (answer["decision"], answer["warnings"]) == ("refer", ["answered by fallback: the model failed"])
    assert health(running)["last_good"] == {"stands_in": {}, "refused": None}
    assert health(running)["breakers"] == {SECOND: "closed"}  # and it is not in memory


def test_there_is_none_before_anything_was_replaced(place: Place, start: Start) -> None:
    place.deploy(place.publish(1, policy=asking()))
    running = start(script=FAULTY)
    assert running.predict(good_request(income=RAISES))[1]["decision"] == "refer"
    assert health(running)["last_good"] == {"stands_in": {}, "refused": None}


def test_a_release_that_was_rolled_back_is_not_a_good_one(place: Place, start: Start) -> None:
    first, second = publish_both(place)
    first = place.publish(1, model=APPROVES, policy=sound(fallback_last_good=True))
    running = begin(place, start, first, second)
    switch(place, running, first)
    assert health(running)["last_good"] == {"stands_in": {}, "refused": None}
    assert health(running)["breakers"] == {FIRST: "closed"}
    assert not (place.records / ".good" / LAST_GOOD).exists()
    switch(place, running, place.publish(3, policy=asking()))
    assert health(running)["last_good"]["stands_in"] == {THIRD: FIRST}
    assert running.predict(good_request(income=RAISES))[1]["decision"] == "approve"


def test_a_release_whose_breaker_is_open_when_it_is_replaced_is_not_a_good_one(behind: Running, place: Place) -> None:
    for _ in range(FAILURES):
        behind.predict(good_request(income=RAISES))
    assert health(behind)["breakers"][SECOND] == "open"
    switch(place, behind, place.publish(3, policy=asking()))
    assert health(behind)["last_good"]["stands_in"] == {THIRD: FIRST}


def test_a_worker_and_a_server_that_start_anew_know_it(place: Place, start: Start) -> None:
    first, second = publish_both(place)
    place.deploy(first)
    running = start(script=FAULTY, workers=2)
    wait_for(lambda: is_whole(running, 2))
    switch(place, running, second)
    wait_for(lambda: (place.records / ".good" / LAST_GOOD).exists())
    for lost in running.workers:
        os.kill(lost, signal.SIGKILL)
        wait_for(lambda lost=lost: lost not in running.workers and is_whole(running, 2))  # type: ignore[misc]
    for _ in range(4):
        assert running.predict(good_request(income=RAISES))[1]["decision"] == "approve"
    running.stop(signal.SIGKILL)
    again = start(script=FAULTY)
    assert again.predict(good_request(income=RAISES))[1]["decision"] == "approve"
    assert health(again)["last_good"]["stands_in"] == {SECOND: FIRST}


def test_a_server_that_was_down_while_the_release_changed_knows_it(place: Place, start: Start) -> None:
    first, second = publish_both(place)
    place.deploy(first)
    assert start(script=FAULTY).stop() == 0
    place.deploy(second)
    running = start(script=FAULTY)
    assert running.predict(good_request(income=RAISES))[1]["decision"] == "approve"


def test_a_new_token_changes_nothing_of_it(behind: Running, place: Place) -> None:
    place.mint()
    time.sleep(0.3)
    assert behind.predict(good_request(income=RAISES))[1]["decision"] == "approve"


@pytest.mark.parametrize("spoil", ["model", "name"])
def test_one_that_cannot_be_loaded_is_said_and_the_server_answers_without_it(
    place: Place, start: Start, spoil: str
) -> None:
    first, second = publish_both(place)
    begin(place, start, first, second).stop()
    if spoil == "model":
        model = place.live / "bundles" / first.digest.removeprefix("sha256:") / "payload" / "model.onnx"
        model.write_bytes(model.read_bytes()[:-1] + b"\x00")
    else:
        other = msgspec.structs.replace(first, digest="sha256:" + "0" * 64)
        (place.records / ".good" / LAST_GOOD).write_bytes(msgspec.json.encode(other))
    running = start(script=FAULTY)
    assert running.predict(good_request())[1]["source"] == "model"
    assert running.predict(good_request(income=RAISES))[1]["decision"] == "refer"
    assert health(running)["last_good"] == {
        "stands_in": {},
        "refused": f"{FIRST} cannot be loaded (integrity)",
    }
    assert f'shipworthy_last_good_ready{{release="{FIRST}"}} 0' in running.call("GET", "/metrics")[1].decode()
    assert f"no last good release stands behind {SECOND}" in running.stderr.read_text()
    assert health(running)["ready"] is True


@pytest.mark.parametrize("content", [b"", b"\xff", b"{}", b'{"release":"x","digest":"y","payload":"z","share":1.0}'])
def test_a_file_that_names_none_is_as_if_there_were_none(tmp_path: Path, content: bytes) -> None:
    (tmp_path / LAST_GOOD).write_bytes(content)
    assert read_answered(tmp_path, {}, "local") == ()


def test_while_traffic_is_shared_the_champion_answers_for_the_canary(place: Place, start: Start) -> None:
    first, second = publish_both(place)
    place.deploy(first)
    running = start(script=FAULTY)
    halves = [msgspec.structs.replace(release, share=0.5) for release in (second, first)]
    switch(place, running, *halves)
    assert health(running)["last_good"]["stands_in"] == {SECOND: FIRST}
    answers = []
    for number in range(30):
        request = good_request(income=RAISES)
        request["context"]["applicant"] = f"a{number}"
        answers.append(running.predict(request)[1])
    assert {(answer["release"], answer["source"]) for answer in answers} == {(FIRST, "model"), (SECOND, "fallback")}
    assert {answer["decision"] for answer in answers} == {"approve"}
    switch(place, running, second)  # promoted
    assert health(running)["last_good"]["stands_in"] == {SECOND: FIRST}
    third = msgspec.structs.replace(place.publish(3, policy=loans_policy()), share=0.5)  # which does not ask for it
    switch(place, running, third, msgspec.structs.replace(second, share=0.5))
    assert health(running)["last_good"]["stands_in"] == {SECOND: FIRST}


def deployment_of(*versions: int) -> Deployment:
    releases = tuple(released(version, 1 / len(versions)) for version in versions)
    return Deployment(system=SYSTEM, environment="local", generation=1, salt="s", releases=releases)


def released(version: int, share: float = 1.0) -> DeployedRelease:
    return DeployedRelease(release=f"{SYSTEM}:{version}", digest=f"sha256:{version}", payload="p", share=share)


def test_the_first_that_is_older_than_all_that_answer_is_the_last_good_one() -> None:
    assert find_last_good([released(2), released(1)], deployment_of(3)) == released(2)
    assert find_last_good([released(3), released(1)], deployment_of(2)) == released(1)  # 3 was rolled back
    assert find_last_good([released(2), released(1)], deployment_of(3, 2)) == released(1)
    assert find_last_good([released(2)], deployment_of(1)) is None
    assert find_last_good([], deployment_of(1)) is None


@given(st.lists(st.integers(1, 9)), st.lists(st.integers(1, 9), min_size=1, unique=True))
def test_a_newer_release_or_one_that_answers_is_never_the_last_good_one(before: list[int], now: list[int]) -> None:
    found = find_last_good(map(released, before), deployment_of(*now))
    if found is None:
        assert all(version >= min(now) for version in before)
    else:
        assert int(found.release.rpartition(":")[2]) < min(now)


# --- other schemas and policies


def changed_schema(drop: str = "", **fields: Any) -> Schema:
    """Of the loans, without the feature `drop` and with others changed."""
    schema = loans_schema()
    features = tuple(
        msgspec.structs.replace(field, **fields.get(field.name, {})) for field in schema.features if field.name != drop
    )
    columns = tuple(name for name in schema.columns if name != drop)
    return msgspec.structs.replace(schema, features=features, columns=columns)


def test_a_last_good_release_of_another_schema_reads_what_it_knows(place: Place, start: Start) -> None:
    schema = changed_schema("region", purpose={"values": ("refinance", "purchase", "boat")}, income={"high": 905.0})
    model = linear_model([0.0] * 7, bias=9.0)
    full = loans_baselines()
    baselines = msgspec.structs.replace(full, columns=tuple(each for each in full.columns if each.name != "region"))
    first = place.publish(1, model=model, schema=schema, policy=sound(), baselines=baselines)
    running = begin(place, start, first, place.publish(2, policy=asking()))
    assert running.predict(good_request(income=RAISES))[1]["decision"] == "approve"
    beyond = running.predict(good_request(income=FEWER))[1]  # more than release 1 accepts: the rules answer
    assert (beyond["decision"], beyond["source"]) == ("refer", "fallback")
    assert beyond["warnings"] == ["answered by fallback: the model gave no usable output"]
    assert health(running)["breakers"][FIRST] == "closed"


@pytest.mark.parametrize(
    ("schema", "policy", "why"),
    [
        (loans_schema(), sound(actions={"1": "accept", "0": "refer"}), "other actions"),
        (changed_schema(income={"unit": "EUR"}), sound(), "income has another unit"),
    ],
)
def test_one_that_means_something_else_is_not_asked(
    place: Place, start: Start, schema: Schema, policy: Policy, why: str
) -> None:
    first = place.publish(1, model=APPROVES, schema=schema, policy=policy)
    running = begin(place, start, first, place.publish(2, policy=asking()))
    assert running.predict(good_request(income=RAISES))[1]["decision"] == "refer"
    assert why in health(running)["last_good"]["refused"]
    assert health(running)["breakers"] == {SECOND: "closed"}


def loaded(place: Place, version: int, schema: Schema | None = None, **changes: Any) -> Servable:
    place.publish(version, schema=schema, policy=loans_policy(**changes))
    directory = max(place.root.glob(f"payload-{version}-*"))
    return make_servable(verify_payload(directory), f"{SYSTEM}:{version}", f"sha256:{version}", load_runtime)


def test_who_fits_is_told_by_actions_units_and_zones(place: Place) -> None:
    plain = loaded(place, 2)
    assert say_unfit(plain, loaded(place, 1)) is None
    assert say_unfit(plain, loaded(place, 1, review_below=0.9, review_answer="refer")) is None
    assert "other actions" in str(say_unfit(plain, loaded(place, 1, review_below=0.9, review_answer="ask")))
    zoned = msgspec.structs.replace(
        loans_schema(),
        context=(
            ContextField(name="applied_at", kind="datetime", role="time", zone="Europe/Berlin"),
            *(field for field in loans_schema().context if field.name != "applied_at"),
        ),
    )
    assert "applied_at has another unit or zone" in str(say_unfit(plain, loaded(place, 1, zoned)))


def test_a_row_is_read_anew_from_what_was_sent(place: Place) -> None:
    asked = loaded(place, 2, changed_schema(age={"missing": "allow"}))
    other = loaded(place, 1, changed_schema(debt={"high": 40.0}))
    request = good_request(debt=500.0)
    sample = asked.decoder.decode(json.dumps(request).encode())
    theirs = restate(sample, asked, other)
    assert theirs is not None
    assert (theirs.floats[1], theirs.values and theirs.values["applicant"]) == (40.0, "a1")  # clipped by its own range
    assert sample.floats[1] == 500.0
    del request["inputs"]["age"]
    assert restate(asked.decoder.decode(json.dumps(request).encode()), asked, other) is None
    same = loaded(place, 3, asked.schema)
    copy = restate(sample, asked, same)
    assert copy is not None
    copy.warn("theirs alone")
    assert sample.warnings == ["ratio is outside 0 to 300: taken as missing"]


# --- memory


def test_a_python_model_stays_while_it_is_the_last_good_one_and_ends_when_replaced(place: Place, start: Start) -> None:
    def python(version: int) -> DeployedRelease:
        policy = asking(model_memory_bytes=MEMORY)
        return place.publish(version, model=python_model(SOURCE), policy=policy)

    place.deploy(python(1))
    running = start()
    (first,) = model_pids(running)
    switch(place, running, python(2))
    time.sleep(2.5)  # longer than one that is let go lives
    assert first in model_pids(running)
    (second,) = set(model_pids(running)) - {first}
    os.kill(second, signal.SIGKILL)
    answer = running.predict(good_request())[1]
    assert answer["source"] == "fallback"
    assert answer["warnings"][-1].endswith(f"; {FIRST} answered")
    wait_for(lambda: len(model_pids(running)) == 2, 10)
    switch(place, running, python(3))
    wait_for(lambda: first not in model_pids(running), 10)
    assert len(model_pids(running)) == 2


def test_who_stands_in_is_late_by_its_own_deadline_alone(place: Place, start: Start) -> None:
    """One that takes longer than what is left of a deadline, and not longer than its own, is no bad release."""
    first = place.publish(1, model=APPROVES, policy=loans_policy(timeout_s=5.0))
    second = place.publish(2, policy=asking())
    running = begin(place, start, first, second)
    workers = running.workers
    for _ in range(FAILURES + 1):
        assert running.predict(good_request(income=LAGS))[1]["decision"] == "refer"  # 0.1 s were left
        time.sleep(LAG_S + 0.1)
    assert health(running)["breakers"] == {FIRST: "closed", SECOND: "open"}
    assert running.workers == workers


def test_a_breaker_is_told_of_a_run_by_its_rows() -> None:
    breaker = Breaker()
    for _ in range(FAILURES):
        breaker.judge(good=0, bad=1, clock=0.0)
    assert breaker.state == "open"
    assert breaker.admits(2.0)
    breaker.judge(good=0, bad=0, clock=2.0)  # nobody waited for it: the trial is open again
    assert breaker.state == "open"
    assert breaker.admits(2.0)
    breaker.judge(good=1, bad=7, clock=2.0)
    assert breaker.state == "closed"
