"""Answers that wait for a person: listed oldest first, taken by one, decided once, and kept in the audit log."""

import contextlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import polars as pl
import pytest

from shipworthy.faces.wiring import open_parts
from shipworthy.kernel.errors import AccessError, ConflictError, NotFoundError, UsageError
from shipworthy.records.read import read_records
from shipworthy.records.write import SegmentWriter
from shipworthy.security.access import Principal
from shipworthy.workflows.principals import add_principal
from shipworthy.workflows.project import Parts
from shipworthy.workflows.reviews import Reviewed, Wanted, claim, decide, queue
from tests.stories.conftest import Done

RUTH = Principal("ruth", frozenset({"risk"}))
BOB = Principal("bob", frozenset({"business"}))


@pytest.fixture
def parts(
    project: Path, home: dict[str, str], shipworthy: Callable[..., Done], monkeypatch: pytest.MonkeyPatch
) -> Iterator[Parts]:
    """A project that has answered 200 loans, some of them unsure."""
    pl.read_csv(project / "loans.csv").head(200).write_csv(project / "new.csv")
    done = shipworthy("score", project / "new.csv", project / "answers.csv", "--project", project)
    assert done.code == 0, done.err
    monkeypatch.setenv("XDG_CONFIG_HOME", home["XDG_CONFIG_HOME"])
    with open_parts(project) as found:
        yield found


def waiting(parts: Parts) -> list[dict[str, Any]]:
    return queue(parts, "local")


def test_the_queue_holds_what_was_answered_for_review_oldest_first(parts: Parts) -> None:
    records = [record for record in read_records(parts.project.records("local")) if record.handling == "review"]
    found = waiting(parts)
    assert len(found) == len(records) > 10
    assert [item["prediction_id"] for item in found] == sorted(record.prediction_id for record in records)
    assert found == sorted(found, key=lambda item: item["time"])
    first, record = found[0], min(records, key=lambda record: record.prediction_id)
    assert (first["inputs"], first["id"], first["decision"]) == (record.inputs, record.id, record.decision)
    assert (first["confidence"], first["release"], first["claimed_by"]) == (record.confidence, "loans:1", None)
    assert queue(parts, "local", Wanted(limit=3)) == found[:3]
    assert queue(parts, "nowhere") == []


def test_a_claimed_answer_is_somebodys_and_a_decided_one_leaves_the_queue(parts: Parts) -> None:
    first, second = [item["prediction_id"] for item in waiting(parts)[:2]]
    claim(parts, RUTH, "local", first)
    assert waiting(parts)[0]["claimed_by"] == "ruth"
    with pytest.raises(ConflictError, match=f"{first} is claimed by ruth until"):
        decide(parts, BOB, "local", first, "approve", "looks fine")
    decide(parts, RUTH, "local", first, "refer", "debts at another bank")
    decide(parts, BOB, "local", second, "approve", "a customer of ten years")
    assert first not in [item["prediction_id"] for item in waiting(parts)]
    with pytest.raises(ConflictError, match=r"was decided by ruth .*: refer"):
        decide(parts, BOB, "local", first, "approve", "looks fine")
    entries = [entry for entry in parts.ledger.events() if entry.verb.startswith("review.")]
    assert [(entry.verb, entry.actor, entry.rule) for entry in entries] == [
        ("review.claimed", "user:ruth", "risk may review"),
        ("review.decided", "user:ruth", "risk may review"),
        ("review.decided", "user:bob", "business may review"),
    ]
    assert entries[1].body["reason"] == "debts at another bank"


def test_what_cannot_be_decided_is_refused_with_the_cure(parts: Parts) -> None:
    unsure = waiting(parts)[0]["prediction_id"]
    sure = next(r for r in read_records(parts.project.records("local")) if r.handling == "automatic")
    with pytest.raises(UsageError, match="'aprove' cannot be decided here; the actions are refer, approve"):
        decide(parts, RUTH, "local", unsure, "aprove", "clear")
    with pytest.raises(NotFoundError, match=f"{sure.prediction_id} waits for nobody: {sure.decision} was answered"):
        claim(parts, RUTH, "local", sure.prediction_id)
    with pytest.raises(NotFoundError, match="local has no prediction 'p_nothing'; see `shipworthy review list`"):
        decide(parts, RUTH, "local", "p_nothing", "approve", "clear")
    with pytest.raises(AccessError, match=r"ann \(auditor\) may not do `review claim`"):
        claim(parts, Principal("ann", frozenset({"auditor"})), "local", unsure)
    assert parts.ledger.latest("review") == []


def test_an_answer_that_was_sent_twice_waits_once(parts: Parts) -> None:
    before, folder = waiting(parts), parts.project.records("local")
    again = [msgspec.structs.replace(record, prediction_id=f"z{at}") for at, record in enumerate(read_records(folder))]
    writer = SegmentWriter(folder, "local", "w2", now=parts.now, monotonic=time.monotonic)
    with contextlib.closing(writer):
        writer.append([msgspec.msgpack.encode(record) for record in again])
    assert waiting(parts) == before


def test_the_commands_act_as_whom_the_token_stands_for(
    parts: Parts, shipworthy: Callable[..., Done], home: dict[str, str]
) -> None:
    first = waiting(parts)[0]["prediction_id"]
    owner = Principal("owner", frozenset({"security"}))
    tokens = {name: add_principal(parts, owner, name, (role,)) for name, role in (("ruth", "risk"), ("max", "auditor"))}
    where = ("--project", parts.project.root)
    shown = shipworthy("review", "list", *where, "--limit", "2", "--json").document
    assert (shown["reviews"][0]["prediction_id"], len(shown["reviews"]), shown["more"]) == (first, 2, True)
    home["SHIPWORTHY_TOKEN"] = tokens["max"]
    refused = shipworthy("review", "claim", first, *where)
    assert (refused.code, "max (auditor) may not do `review" in refused.err) == (1, True)
    home["SHIPWORTHY_TOKEN"] = tokens["ruth"]
    assert shipworthy("review", "claim", first, *where).out == f"{first} is claimed by ruth.\n"
    assert "ruth" in shipworthy("review", "list", *where).out
    mine = shipworthy("review", "list", *where, "--by", "ruth", "--state", "claimed", "--json").document["reviews"]
    assert [item["prediction_id"] for item in mine] == [first]
    later = shipworthy("review", "list", *where, "--after", first, "--limit", "1", "--json").document["reviews"]
    assert later[0]["prediction_id"] > first
    assert "of max is decided in local" in shipworthy("review", "list", *where, "--by", "max", "--state", "decided").out
    case = shipworthy("review", "show", first, *where)
    assert case.code == 0, case.err
    for words in ("income", "Claimed by ruth", f"review decide {first} refer | approve --reason"):
        assert words in case.out, case.out
    assert shipworthy("review", "show", "p_nothing", *where).code == 1
    done = shipworthy("review", "decide", first, "approve", "--reason", "salary confirmed", *where, "--json")
    assert (done.document["by"], done.document["decision"]) == ("ruth", "approve")
    assert shipworthy("review", "decide", first, "refer", "--reason", "no", *where).code == 1
    assert "Decided: approve, by ruth." in shipworthy("review", "show", first, *where).out


def test_what_comes_later_joins_what_was_read_before(parts: Parts) -> None:
    reviewed, folder = Reviewed(), parts.project.records("local")
    before = queue(parts, "local", reviewed=reviewed)
    assert before == queue(parts, "local", reviewed=reviewed) == waiting(parts)
    first = next(record for record in read_records(folder) if record.handling == "review")
    later = [
        msgspec.structs.replace(first, prediction_id="zz", id="new"),
        msgspec.structs.replace(first, prediction_id="zzz", id=first.id),  # sent twice
        msgspec.structs.replace(first, prediction_id="zzzz", id=None, handling="automatic"),
    ]
    with contextlib.closing(SegmentWriter(folder, "local", "w2", now=parts.now, monotonic=time.monotonic)) as writer:
        writer.append([msgspec.msgpack.encode(record) for record in later])
    after = queue(parts, "local", reviewed=reviewed)
    assert after == waiting(parts)
    assert [item["prediction_id"] for item in after] == [*(item["prediction_id"] for item in before), "zz"]
