"""Rows unlike the training rows: said, reviewed or answered by the fallback, over HTTP, in records and metrics."""

import dataclasses
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from shipworthy.bundle.format import Novelty, NoveltyColumn
from shipworthy.bundle.verify import VerifiedPayload, verify_payload
from shipworthy.kernel.errors import IntegrityError
from shipworthy.records.read import find_record
from shipworthy.serving.breaker import Breaker
from shipworthy.serving.run import UNLIKE
from shipworthy.serving.runtimes.load import load_runtime
from shipworthy.serving.servable import make_servable
from shipworthy.stats.novelty import category_marginal, fit_precision, number_marginal
from tests.serving.conftest import Place, Running, good_request, loans_baselines, loans_policy, loans_schema
from tests.serving.conftest import start_server as start
from tests.serving.test_path import run_jobs

ROWS = 4000
STRANGE = {"income": 900.0, "debt": 900.0}  # each in its range, far from what was seen
WORDS = "out of distribution: unlike the training rows, mostly by "


def novelty(limit: float = 40.0) -> Novelty:
    """Of rows like the good request: income around 50, debt a fifth of it."""
    chance = np.random.default_rng(7)
    income = chance.normal(50, 10, ROWS)
    debt = income / 5 + chance.normal(0, 1, ROWS)
    bounds = [(0, 2), (1, 7), (0, 2), (0, 2), (18, 99)]
    rest = [*(chance.integers(*bound, ROWS).astype(float) for bound in bounds), 100 * debt / income]
    rows = np.stack([income, debt, *rest], axis=1).astype(np.float32)
    names, categories = loans_schema().columns, {"purpose", "region"}
    marginals = tuple(
        category_marginal(rows[:, at], 2) if name in categories else number_marginal(rows[:, at])
        for at, name in enumerate(names)
    )
    precision = fit_precision(marginals, rows)
    return Novelty(
        columns=tuple(
            NoveltyColumn(name=name, **dataclasses.asdict(marginal))
            for name, marginal in zip(names, marginals, strict=True)
        ),
        precision=tuple(tuple(row) for row in precision.tolist()),
        limit=limit,
        share=0.005,
        rows=ROWS,
    )


def payload(place: Place, handling: str, found: Novelty | None = None, **changes: Any) -> VerifiedPayload:
    policy = loans_policy(out_of_distribution=handling, **changes)
    baselines = msgspec.structs.replace(loans_baselines(), novelty=found or novelty())
    place.publish(1, policy=policy, baselines=baselines)
    return verify_payload(max(place.root.glob("payload-*")))


@pytest.fixture
def served(place: Place) -> Iterator[Callable[..., Running]]:
    """Starts a server with a handling."""
    running = []

    def serve(handling: str, **changes: Any) -> Running:
        policy = loans_policy(out_of_distribution=handling, **changes)
        baselines = msgspec.structs.replace(loans_baselines(), novelty=novelty())
        place.deploy(place.publish(1, policy=policy, baselines=baselines))
        running.append(start(place.settings(), place.root / "stderr"))
        return running[0]

    yield serve
    for server in running:
        server.stop(signal.SIGKILL)


def test_a_strange_row_goes_to_a_person_and_its_neighbours_do_not(served: Callable[..., Running], place: Place) -> None:
    server = served("review", review_answer="refer")
    answers = server.predict([good_request(), good_request(**STRANGE), good_request(income=40.0, debt=8.0)])[1]
    assert [answer["handling"] for answer in answers] == ["automatic", "review", "automatic"]
    strange = answers[1]
    assert (strange["source"], strange["decision"], len(strange["warnings"])) == ("model", "refer", 1)
    assert strange["warnings"][0].startswith(WORDS)
    assert "income" in strange["warnings"][0].removeprefix(WORDS).split(", ")
    assert [answers[0]["warnings"], answers[2]["warnings"]] == [[], []]
    record = find_record(place.records, strange["prediction_id"])
    assert (record.handling, list(record.warnings)) == ("review", strange["warnings"])
    assert "shipworthy_out_of_distribution_total 1\n" in server.call("GET", "/metrics")[1].decode()


def test_a_strange_combination_of_usual_values_is_found(served: Callable[..., Running]) -> None:
    server = served("warn")
    usual, odd = server.predict([good_request(income=70.0, debt=14.0), good_request(income=30.0, debt=14.5)])[1]
    assert usual["warnings"] == []
    assert odd["warnings"][0].startswith(WORDS)
    assert (odd["handling"], odd["source"]) == ("automatic", "model")


def test_the_fallback_may_answer_and_says_why(served: Callable[..., Running]) -> None:
    server = served("fallback")
    answer = server.predict(good_request(**STRANGE))[1]
    assert (answer["source"], answer["prediction"], answer["decision"]) == ("fallback", None, "refuse")
    assert answer["warnings"][-1] == "answered by fallback: out of distribution"
    assert server.predict(good_request())[1]["source"] == "model"
    assert 'shipworthy_fallbacks_total{cause="out of distribution"} 1\n' in server.call("GET", "/metrics")[1].decode()


def test_without_a_handling_nothing_is_judged(place: Place) -> None:
    assert make_servable(payload(place, "off"), "loans:1", "sha256:0", load_runtime).sentinel is None


def test_strange_rows_say_nothing_against_the_model(place: Place) -> None:
    servable = make_servable(payload(place, "fallback", novelty(limit=0.0)), "loans:1", "sha256:0", load_runtime)
    for _ in range(8):
        _, counters = run_jobs(place, servable, 3)
    assert counters.fallbacks == {UNLIKE: 3}
    assert counters.unlike == 3
    assert servable.breaker.state == Breaker().state


def _column(**changes: Any) -> Novelty:
    good = novelty()
    first = msgspec.structs.replace(good.columns[0], **changes)
    return msgspec.structs.replace(good, columns=(first, *good.columns[1:]))


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        (msgspec.structs.replace(novelty(), columns=novelty().columns[1:]), "does not fit its schema"),
        (msgspec.structs.replace(novelty(), precision=((1.0,),)), "does not fit its schema"),
        (_column(knots=(1.0, 1.0), scores=(0.0, 1.0)), "no ascending knots with scores for 'income'"),
        (_column(knots=(1.0, 2.0), scores=(0.0,)), "no ascending knots with scores for 'income'"),
    ],
)
def test_a_payload_whose_novelty_does_not_fit_is_not_served(place: Place, bad: Novelty, said: str) -> None:
    with pytest.raises(IntegrityError, match=said):
        make_servable(payload(place, "warn", bad), "loans:1", "sha256:0", load_runtime)


def test_a_policy_that_asks_for_what_the_baselines_lack_is_not_served(place: Place) -> None:
    place.publish(1, policy=loans_policy(out_of_distribution="warn"))
    found = verify_payload(max(Path(place.root).glob("payload-*")))
    with pytest.raises(IntegrityError, match="its baselines cannot tell"):
        make_servable(found, "loans:1", "sha256:0", load_runtime)
