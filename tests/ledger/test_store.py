"""The ledger on both databases: one conformance suite."""

import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from shipworthy.kernel.digest import digest_bytes
from shipworthy.kernel.errors import ConflictError, NotFoundError, UsageError
from shipworthy.ledger.events import Event
from shipworthy.ledger.store import Ledger, open_ledger
from shipworthy.security.keys import SigningKey

Open = Callable[[], Ledger]


def noted(number: int) -> Event:
    return Event("noted", f"note:{number}", "ada", {"number": number})


def deployed(generation: int, environment: str = "local") -> Event:
    return Event(
        "deployment.set",
        f"deployment:{environment}:{generation}",
        "ada",
        {"environment": environment, "generation": generation},
    )


def published(version: int, system: str = "loans") -> Event:
    body = {
        "system": system,
        "version": version,
        "digest": digest_bytes(b"%d" % version),
        "payload": digest_bytes(b"p"),
    }
    return Event("release.published", f"release:{system}:{version}", "ada", body)


def test_an_entry_has_the_next_seq_the_time_and_what_was_said(opened: Open) -> None:
    ledger = opened()
    first, second = (
        ledger.append(noted(1)),
        ledger.append(Event("noted", "note:ü", "bob", {"ß": [None, 0.1]}, "rule-7")),
    )
    assert (first.seq, first.time, first.actor, first.verb) == (1, "2025-11-22T08:26:41.000Z", "ada", "noted")
    assert (second.seq, second.object, second.rule, second.body) == (2, "note:ü", "rule-7", {"ß": [None, 0.1]})
    assert list(opened().events()) == [first, second]


def test_events_are_filtered_by_verb_object_and_place(opened: Open) -> None:
    ledger = opened()
    for number in range(5):
        ledger.append(noted(number))
    ledger.append(Event("other", "note:1", "ada"))
    assert [entry.seq for entry in ledger.events(verb="noted", after=2, limit=2)] == [3, 4]
    assert [entry.verb for entry in ledger.events(object="note:1")] == ["noted", "other"]


def test_what_was_appended_is_there_when_opened_again(opened: Open) -> None:
    ledger = opened()
    for number in range(3):
        ledger.append(noted(number))
    before = ledger.checkpoint
    again = opened()
    assert again.checkpoint == before
    assert again.append(noted(3)).seq == 4
    assert ledger.append(noted(4)).seq == 5  # the first sees what the second wrote


def test_a_batch_is_recorded_whole_or_not_at_all(opened: Open) -> None:
    ledger = opened()
    assert [entry.seq for entry in ledger.append_all([noted(number) for number in range(600)])] == list(range(1, 601))
    with pytest.raises(ConflictError):
        ledger.append_all([noted(1), deployed(2)])
    assert ledger.append(noted(7)).seq == 601
    assert ledger.append_all([]) == []
    assert opened().append(noted(8)).seq == 602


def test_a_finished_stage_is_found_by_its_key_the_latest_first(opened: Open) -> None:
    ledger = opened()
    assert ledger.find_stage("k") is None
    for outputs in ({"a": 1}, {"a": 2}):
        ledger.append(Event("stage.finished", "stage:k", "ada", {"key": "k", "name": "ingest", "outputs": outputs}))
    assert ledger.find_stage("k") == {"key": "k", "name": "ingest", "outputs": {"a": 2}}


def test_releases_are_numbered_without_a_gap_and_found_by_every_name(opened: Open) -> None:
    ledger = opened()
    assert ledger.next_version("loans") == 1
    ledger.append_all([published(1), published(2)])
    assert ledger.next_version("loans") == 3
    for name in ("loans:2", "loans", digest_bytes(b"2")):
        assert ledger.find_release(name)["version"] == 2
    assert [body["version"] for body in ledger.releases("loans")] == [1, 2]
    assert ledger.releases("cars") == []
    for name in ("loans:3", "cars", "loans:x", "loans:99999999999999", digest_bytes(b"9")):
        with pytest.raises(NotFoundError, match="no release"):
            ledger.find_release(name)
    for version in (2, 4):
        with pytest.raises(ConflictError, match="loans:3 is"):
            ledger.append(published(version))


def test_a_deployment_is_set_by_compare_and_swap(opened: Open) -> None:
    ledger = opened()
    assert ledger.current_deployment("local") is None
    ledger.append_all([deployed(1), deployed(2), deployed(1, "production")])
    for generation in (1, 2, 4):
        with pytest.raises(ConflictError, match="at generation 2"):
            ledger.append(deployed(generation))
    assert ledger.current_deployment("local") == {"environment": "local", "generation": 2}
    assert ledger.next_generation("production") == 2


def test_snapshots_runs_tokens_and_artefacts_are_found(opened: Open) -> None:
    ledger = opened()
    digest = digest_bytes(b"rows")
    artefacts = [{"digest": digest, "kind": "table", "size_bytes": 4}]
    ledger.append(Event("snapshot.taken", f"snapshot:{digest}", "ada", {"digest": digest, "artefacts": artefacts}))
    ledger.append(Event("snapshot.taken", f"snapshot:{digest}", "bob", {"digest": digest, "artefacts": artefacts}))
    ledger.append(Event("run.finished", "run:1", "ada", {"run": "1", "seconds": 0.5}))
    ledger.append(Event("token.minted", "token:laptop", "ada", {"hash": "00", "name": "laptop"}))
    found = ledger.find_snapshot(digest)
    assert found is not None
    assert found["artefacts"] == artefacts
    assert len(ledger.snapshots()) == 1
    assert ledger.find_run("1") == {"run": "1", "seconds": 0.5}
    assert ledger.runs() == [{"run": "1", "seconds": 0.5}]
    assert ledger.tokens() == [{"hash": "00", "name": "laptop"}]
    assert ledger.find_artefact(digest) == {"digest": digest, "kind": "table", "size_bytes": 4}
    assert ledger.find_artefact(digest_bytes(b"other")) is None
    assert ledger.find_snapshot("x") is None
    assert ledger.find_run("2") is None
    with pytest.raises(ConflictError, match="happens once"):
        ledger.append(Event("run.finished", "run:1", "ada", {"run": "1"}))


@pytest.mark.parametrize(
    "event",
    [
        Event("", "o", "a"),
        Event("v", "", "a"),
        Event("v", "o", ""),
        Event("v", "a\x00b", "a"),
        Event("v", "o", "line\nbreak"),
        Event("v", "o", "a", {"x": float("nan")}),
        Event("v", "o", "a", {"x": "\ud800"}),
        Event("v", "o", "a", {"x": object()}),
        Event("stage.finished", "o", "a", {"key": "k", "name": "n"}),
        Event("release.published", "o", "a", {"system": "s", "version": True, "digest": "d", "payload": "p"}),
        Event("deployment.set", "o", "a", {"environment": "e", "generation": "1"}),
        Event("v", "o", "a", {"artefacts": [{"digest": "../x", "kind": "k", "size_bytes": 1}]}),
        Event("v", "o", "a", {"artefacts": {}}),
        Event("v", "o", "a", {"links": [{"parent": "p", "child": "c"}]}),
        Event("v", "o", "a", {"links": [{"parent": "p", "relation": "r", "child": ""}]}),
    ],
)
def test_an_event_that_makes_no_sense_is_refused_and_leaves_no_gap(
    tmp_path: Path, signer: SigningKey, event: Event
) -> None:
    with open_ledger(f"sqlite:///{tmp_path}/l.db", tmp_path / "log", signer, lambda: 0.0) as ledger:
        with pytest.raises(UsageError):
            ledger.append(event)
        assert ledger.append(noted(1)).seq == 1


def test_threads_and_ledgers_of_one_process_take_turns(opened: Open) -> None:
    ledgers = [opened(), opened()]

    def work(ledger: Ledger) -> None:
        for number in range(10):
            ledger.append(noted(number))

    threads = [threading.Thread(target=work, args=(ledger,)) for ledger in ledgers * 2]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [entry.seq for entry in opened().events()] == list(range(1, 41))


APPEND_MANY = """
import sys
from pathlib import Path
from shipworthy.ledger.events import Event
from shipworthy.ledger.store import open_ledger
from shipworthy.security.keys import SigningKey

signer = SigningKey.from_seed("signer", bytes(range(32)))
with open_ledger(sys.argv[1], Path(sys.argv[2]), signer, lambda: 1e9) as ledger:
    for number in range(40):
        print(ledger.append(Event("noted", f"note:{number}", sys.argv[3])).seq, flush=True)
"""


def start_appending(url: str, log: Path, actor: str) -> subprocess.Popen[str]:
    """A process of its own that appends 40 events and prints the seq of each one acknowledged."""
    return subprocess.Popen(
        [sys.executable, "-c", APPEND_MANY, url, str(log), actor], stdout=subprocess.PIPE, text=True
    )


def test_two_processes_append_without_a_gap_or_a_loss(url: str, log: Path, opened: Open) -> None:
    processes = [start_appending(url, log, actor) for actor in ("ada", "bob")]
    outputs = [process.communicate(timeout=60)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0]
    entries = list(opened().events())
    assert [entry.seq for entry in entries] == list(range(1, 81))
    for actor, output in zip(("ada", "bob"), outputs, strict=True):
        assert [entry.seq for entry in entries if entry.actor == actor] == [int(seq) for seq in output.split()]
