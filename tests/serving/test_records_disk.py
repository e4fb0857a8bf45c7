"""The records' disk under a real server: full, failing, mended; in each mode that a contract may declare."""

import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from shipworthy.records.read import list_segments, read_records
from tests.conftest import Seen
from tests.serving.conftest import Place, Running, good_request, loans_policy
from tests.serving.test_workers import FAULTY, wait_for

REPEAT = int(os.environ.get("SHIPWORTHY_SOAK", "0")) or 2
FAULTS = {"full": "FULL_DISK", "failing": "FAILING_DISK"}


class Faulty:
    """A server whose records' disk fails on command."""

    def __init__(
        self, place: Place, start: Callable[..., Running], fault: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        self.place = place
        self.switch = place.root / "switch"
        self._start = start
        monkeypatch.setenv(FAULTS[fault], str(self.switch))
        self.running = self.start()
        self.acknowledged: list[str] = []

    def start(self) -> Running:
        self.running = self._start(script=FAULTY, spool=str(self.place.spool))
        return self.running

    def fail(self) -> None:
        draft = self.switch.with_name("draft")
        draft.write_text(str(self.place.records))
        draft.rename(self.switch)

    def mend(self) -> None:
        self.switch.unlink()

    def ask(self, times: int) -> set[int]:
        statuses = set()
        for _ in range(times):
            status, answer = self.running.predict(good_request())
            statuses.add(status)
            if status == 200:
                self.acknowledged.append(answer["prediction_id"])
        return statuses

    def count(self, metric: str) -> int:
        lines = self.running.call("GET", "/metrics")[1].decode().splitlines()
        return int(next(line for line in lines if line.startswith(f"shipworthy_{metric} ")).split()[1])

    def health(self) -> str:
        return str(self.running.call("GET", "/v2/health/ready")[1]["records"])

    def recorded(self) -> list[str]:
        return [record.prediction_id for record in read_records(self.place.records)]


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("when_full", ["refuse", "spool", "drop"])
def test_a_disk_that_refuses_is_met_as_declared_and_recovered_from(
    place: Place,
    start: Callable[..., Running],
    monkeypatch: pytest.MonkeyPatch,
    when_full: str,
    fault: str,
    seen: Seen,
) -> None:
    """F08, F10, F14."""
    place.deploy(place.publish(1, policy=loans_policy(when_full=when_full, spool_bytes=10**8)))
    faulty = Faulty(place, start, fault, monkeypatch)
    assert faulty.ask(3) == {200}
    assert faulty.health() == "their disk"
    dropped = 0
    for _ in range(REPEAT):
        before = faulty.count("segments_fenced_total")
        faulty.fail()
        assert faulty.ask(4) == {503 if when_full == "refuse" else 200}
        assert faulty.health() == ("the spool" if when_full == "spool" else "nowhere") + ": their disk refuses"
        assert faulty.count("records_writable") == 0
        assert faulty.count("segments_fenced_total") > before
        assert (faulty.count("spool_bytes") > 0) is (when_full == "spool")
        if when_full == "drop":
            del faulty.acknowledged[-4:]
            dropped += 4
        faulty.mend()
        wait_for(lambda: faulty.count("records_writable") == 1 and faulty.count("spool_bytes") == 0, 15)
        assert faulty.ask(2) == {200}
    assert faulty.recorded() == faulty.acknowledged  # each once, in order
    assert faulty.count("records_dropped_total") == dropped
    assert faulty.count("records_spooled_total") == (4 * REPEAT if when_full == "spool" else 0)
    log = faulty.running.stderr.read_text()
    assert log.count("records wait in the spool") == (REPEAT if when_full == "spool" else 0)
    if when_full != "spool":
        assert "records refused: " in log
    faulty.running.stop()
    assert faulty.recorded() == faulty.acknowledged
    seen(f"{when_full}, {fault}: refusals and recoveries", REPEAT)
    seen(f"{when_full}, {fault}: acknowledged records lost or doubled", 0)


def test_a_server_killed_while_records_wait_moves_them_when_started_again(
    place: Place, start: Callable[..., Running], monkeypatch: pytest.MonkeyPatch, seen: Seen
) -> None:
    """F14: kill -9 in the middle, as often as asked, with the disk full or just mended."""
    place.deploy(place.publish(1, policy=loans_policy(when_full="spool", spool_bytes=10**8)))
    faulty = Faulty(place, start, "full", monkeypatch)
    faulty.ask(2)
    for number in range(REPEAT):
        faulty.fail()
        assert faulty.ask(3) == {200}
        if number % 2:
            faulty.mend()
        faulty.running.stop(signal.SIGKILL)
        waiting = {record.prediction_id for record in read_records(place.spool / "records" / "local")}
        assert set(faulty.acknowledged) <= {*faulty.recorded(), *waiting}
        faulty.start()  # with a full disk too
        assert faulty.ask(1) == {200}
        faulty.switch.unlink(missing_ok=True)
        wait_for(lambda: faulty.count("spool_bytes") == 0 and faulty.count("records_writable") == 1, 15)
    assert faulty.recorded() == faulty.acknowledged
    assert list_segments(place.spool / "records" / "local") == []
    seen("kills while records waited", REPEAT)


def test_a_spool_that_is_full_sheds(
    place: Place, start: Callable[..., Running], monkeypatch: pytest.MonkeyPatch
) -> None:
    place.deploy(place.publish(1, policy=loans_policy(when_full="spool", spool_bytes=2000)))
    faulty = Faulty(place, start, "full", monkeypatch)
    faulty.fail()
    assert faulty.ask(20) == {200, 503}
    assert faulty.count("spool_bytes") < 3000
    faulty.mend()
    wait_for(lambda: faulty.count("spool_bytes") == 0, 15)
    assert faulty.recorded() == faulty.acknowledged


def test_a_release_that_counts_on_a_spool_is_not_served_without_one(
    place: Place, start: Callable[..., Running]
) -> None:
    place.deploy(place.publish(1))
    running = start()
    place.deploy(place.publish(2, policy=loans_policy(when_full="spool", spool_bytes=10**8)))
    wait_for(lambda: running.call("GET", "/v2/health/ready")[1]["refused"] is not None)
    assert running.predict(good_request())[1]["release"] == "loans:1"
    assert "start again with --spool DIR" in running.stderr.read_text()
    running.stop()
    with pytest.raises(
        RuntimeError, match=r"loans:2 keeps records in a spool .* --spool DIR, a folder on another volume"
    ):
        start()


def test_a_spool_of_another_project_is_refused(place: Place, start: Callable[..., Running], tmp_path: Path) -> None:
    place.deploy(place.publish(1))
    place.spool.mkdir()
    (place.spool / ".spool-of").write_text("/somewhere/records")
    with pytest.raises(RuntimeError, match="is the spool of /somewhere/records; give each project its own"):
        start(spool=str(place.spool))
