"""Database and log: compared on open, carried on after a stop, refused when they contradict each other."""

import errno
import json
import os
import shutil
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

from shipworthy.kernel.errors import AccessError, ConflictError, IntegrityError, ShipworthyError, StorageError
from shipworthy.ledger.audit import verify_audit
from shipworthy.ledger.events import Event
from shipworthy.ledger.files import LocalDisk
from shipworthy.ledger.log import entries_path
from shipworthy.ledger.rebuild import rebuild_database
from shipworthy.ledger.store import Ledger, open_ledger
from shipworthy.security.keys import PublicKey, SigningKey
from tests.conftest import Seen

Open = Callable[[], Ledger]
KILLS = int(os.environ.get("SHIPWORTHY_SOAK", "3"))


class FailingDisk(LocalDisk):
    """A disk whose n-th operation that changes something fails, and only that one."""

    def __init__(self, fail_at: int) -> None:
        self.left = fail_at
        self.failed = ""

    def _count(self, operation: str) -> None:
        self.left -= 1
        if self.left == 0:
            self.failed = operation
            number = errno.ENOSPC if operation == "write" else errno.EIO
            raise OSError(number, os.strerror(number))

    def write_at(self, path: Path, offset: int, content: bytes) -> None:
        self._count("write")
        super().write_at(path, offset, content)

    def sync(self, path: Path) -> None:
        self._count("sync")
        super().sync(path)

    def sync_directory(self, path: Path) -> None:
        self._count("sync_directory")
        super().sync_directory(path)

    def replace(self, source: Path, target: Path) -> None:
        self._count("replace")
        super().replace(source, target)


def noted(number: int) -> Event:
    return Event("noted", f"note:{number}", "ada", {"number": number})


def fill(ledger: Ledger, count: int) -> None:
    ledger.append_all([noted(number) for number in range(count)])


def test_wherever_the_disk_fails_nothing_acknowledged_is_lost(
    tmp_path: Path, signer: SigningKey, keys: dict[str, PublicKey], seen: Seen
) -> None:
    """The k-th operation of the disk fails, for every k of an append that finishes a tile."""
    template = tmp_path / "template"
    with open_ledger(f"sqlite:///{template}/ledger.db", template / "log", signer, lambda: 1e9) as ledger:
        fill(ledger, 255)
    fail_at = 0
    while True:
        fail_at += 1
        place = tmp_path / str(fail_at)
        url, log = f"sqlite:///{place}/ledger.db", place / "log"
        shutil.copytree(template, place)
        disk = FailingDisk(fail_at)
        with open_ledger(url, log, signer, lambda: 1e9, disk=disk) as ledger:
            try:
                ledger.append_all([noted(255), noted(256)])
                acknowledged = 257
            except StorageError:
                acknowledged = 255
            if not disk.failed:
                break
            if disk.failed == "write":  # the disk said no, and broke no promise: the next append works
                assert ledger.append(noted(999)).seq == 256
                acknowledged = 256
            else:
                with pytest.raises(StorageError, match="start again"):
                    ledger.append(noted(999))
        with open_ledger(url, log, signer, lambda: 1e9) as ledger:
            entries = list(ledger.events())
            assert len(entries) in {acknowledged, 257}
            assert [entry.seq for entry in entries] == list(range(1, len(entries) + 1))
            assert ledger.append(noted(1000)).seq == len(entries) + 1
        assert verify_audit(log, keys, url).passed
    assert fail_at > 12
    seen("calls that failed", fail_at - 1)


def test_a_commit_that_was_not_published_is_carried_on(
    url: str, log: Path, opened: Open, keys: dict[str, PublicKey]
) -> None:
    fill(opened(), 3)
    before = {path: path.read_bytes() for path in log.rglob("*") if path.is_file()}
    opened().append_all([noted(3), noted(4)])
    for path, content in before.items():
        path.write_bytes(content)  # as if the last append had stopped after its commit
    with open_ledger(url, log, None, lambda: 1e9, keys=keys) as reader:  # has no key to carry on with
        assert len(list(reader.events())) == 5
        with pytest.raises(AccessError, match="signed log"):
            reader.append(noted(5))
    again = opened()
    assert again.checkpoint is not None
    assert again.checkpoint.size == 5
    assert again.append(noted(5)).seq == 6


def test_a_log_that_lost_more_than_the_last_append_is_refused(url: str, log: Path, opened: Open) -> None:
    fill(opened(), 3)
    shutil.copytree(log, log.with_name("old"))
    opened().append(noted(3))
    opened().append(noted(4))
    shutil.rmtree(log)
    shutil.copytree(log.with_name("old"), log)
    with pytest.raises(IntegrityError, match=r"ends at entry 3, the database at 5: entry 4 is the first"):
        opened()


def test_a_log_that_is_gone_is_refused(log: Path, opened: Open) -> None:
    for number in range(2):
        opened().append(noted(number))
    shutil.rmtree(log)
    with pytest.raises(IntegrityError, match="entry 1 is the first"):
        opened()


def test_a_database_that_differs_is_refused_naming_the_entry_and_the_cure(
    tmp_path: Path, signer: SigningKey, keys: dict[str, PublicKey]
) -> None:
    url, log = f"sqlite:///{tmp_path}/ledger.db", tmp_path / "log"
    for change in (
        "DELETE FROM events WHERE seq > 4",
        "UPDATE events SET entry = '{}' WHERE seq = 5",
        "DELETE FROM events",
    ):
        first = 1 if change.endswith("events") else 5
        with open_ledger(url, log, signer, lambda: 1e9) as ledger:
            fill(ledger, 6)
        with sqlite3.connect(tmp_path / "ledger.db") as connection:
            connection.execute(change)
        connection.close()
        with pytest.raises(IntegrityError, match=rf"from entry {first} on.*audit rebuild"):
            open_ledger(url, log, signer, lambda: 1e9)
        rebuild_database(url, log, keys)
        assert verify_audit(log, keys, url).passed


def test_a_signed_log_is_read_but_not_written_without_its_key(
    url: str, log: Path, opened: Open, keys: dict[str, PublicKey]
) -> None:
    opened().append(noted(1))
    with open_ledger(url, log, None, lambda: 1e9, keys=keys) as reader:
        assert [entry.object for entry in reader.events()] == ["note:1"]
        with pytest.raises(AccessError, match="signed log"):
            reader.append(noted(2))
    assert opened().append(noted(2)).seq == 2


def test_a_log_signed_by_a_stranger_is_refused(url: str, log: Path, opened: Open) -> None:
    opened().append(noted(1))
    with pytest.raises(IntegrityError, match="not known here"):
        open_ledger(url, log, SigningKey.from_seed("eve", b"e" * 32), lambda: 1e9)


@pytest.mark.parametrize("what", ["", "lock", "checkpoint", "entries/000"])
def test_a_log_removed_while_running_refuses_the_next_append(log: Path, opened: Open, what: str) -> None:
    ledger = opened()
    fill(ledger, 3)
    victim = log / what
    shutil.rmtree(victim) if victim.is_dir() else victim.unlink()
    with pytest.raises((StorageError, IntegrityError), match=r"removed|gone"):
        ledger.append(noted(3))
    assert len(list(ledger.events())) == 3


def test_a_log_cut_while_running_refuses_the_next_append(log: Path, opened: Open) -> None:
    ledger = opened()
    fill(ledger, 3)
    os.truncate(entries_path(log, 0), 10)
    with pytest.raises(StorageError, match="removed or cut while running"):
        ledger.append(noted(3))
    with pytest.raises(IntegrityError, match="does not match its checkpoint"):
        opened()


def test_a_held_lock_is_waited_for_and_then_named(tmp_path: Path, signer: SigningKey) -> None:
    url, log = f"sqlite:///{tmp_path}/ledger.db", tmp_path / "log"
    with (
        open_ledger(url, log, signer, lambda: 1e9) as one,
        open_ledger(url, log, signer, lambda: 1e9, timeout_s=0.05) as two,
        one._lock.held(),
        pytest.raises(ConflictError, match="held by another process"),
    ):
        two.append(noted(1))


def test_the_database_is_made_again_from_the_log_and_nothing_is_lost(
    url: str, log: Path, opened: Open, keys: dict[str, PublicKey]
) -> None:
    ledger = opened()
    fill(ledger, 300)
    for key, outputs in (("a", 1), ("b", 2), ("a", 3)):
        ledger.append(
            Event("stage.finished", f"stage:{key}", "ada", {"key": key, "name": "n", "outputs": {"o": outputs}})
        )
    for generation in (1, 2):
        ledger.append(Event("deployment.set", "deployment", "ada", {"environment": "local", "generation": generation}))
    before = list(ledger.events())
    ledger.close()
    assert rebuild_database(url, log, keys) == len(before)
    again = opened()
    assert list(again.events()) == before
    assert again.find_stage("a") == {"key": "a", "name": "n", "outputs": {"o": 3}}
    assert again.next_generation("local") == 3
    assert again.append(noted(1)).seq == len(before) + 1
    assert verify_audit(log, keys, url).passed


@pytest.mark.parametrize("damage", ["missing", "garbage", "flipped header"])
def test_a_damaged_file_is_replaced_and_kept_aside(
    tmp_path: Path, signer: SigningKey, keys: dict[str, PublicKey], damage: str
) -> None:
    url, log, path = f"sqlite:///{tmp_path}/ledger.db", tmp_path / "log", tmp_path / "ledger.db"
    with open_ledger(url, log, signer, lambda: 1e9) as ledger:
        fill(ledger, 3)
    if damage == "missing":
        path.unlink()
    else:
        path.write_bytes(b"x" * 8192 if damage == "garbage" else b"\xff" * 50 + path.read_bytes()[50:])
    with pytest.raises(ShipworthyError, match="audit rebuild"):
        open_ledger(url, log, signer, lambda: 1e9)
    assert rebuild_database(url, log, keys) == 3
    with open_ledger(url, log, signer, lambda: 1e9) as ledger:
        assert len(list(ledger.events())) == 3
    assert (tmp_path / "ledger.db.damaged-1").exists() is (damage != "missing")


def test_a_log_that_does_not_verify_rebuilds_nothing(
    tmp_path: Path, signer: SigningKey, keys: dict[str, PublicKey]
) -> None:
    url, log = f"sqlite:///{tmp_path}/ledger.db", tmp_path / "log"
    with open_ledger(url, log, signer, lambda: 1e9) as ledger:
        fill(ledger, 300)
    path = entries_path(log, 0)
    path.write_bytes(path.read_bytes().replace(b'"number":7}', b'"number":8}'))
    before = (tmp_path / "ledger.db").read_bytes()
    with pytest.raises(IntegrityError, match="nothing was rebuilt: Entry 8 "):
        rebuild_database(url, log, keys)
    with pytest.raises(IntegrityError, match="it is empty"):
        rebuild_database(url, tmp_path, keys)
    assert (tmp_path / "ledger.db").read_bytes() == before


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_a_folder_that_may_only_be_read_is_read_or_refused_with_its_reason(
    signer: SigningKey, keys: dict[str, PublicKey]
) -> None:
    with tempfile.TemporaryDirectory() as directory:
        Path(directory).chmod(0o755)  # others may look in
        place = Path(directory, "project")
        url, log = f"sqlite:///{place}/ledger.db", place / "log"
        with open_ledger(url, log, signer, lambda: 1e9) as ledger:
            fill(ledger, 3)
        os.seteuid(65534)
        try:
            with pytest.raises(StorageError, match="cannot"):
                open_ledger(f"sqlite:///{directory}/new/ledger.db", Path(directory, "new", "log"), signer, lambda: 1e9)
            with pytest.raises(StorageError), open_ledger(url, log, signer, lambda: 1e9) as ledger:
                ledger.append(noted(3))
            assert verify_audit(log, keys).passed
        finally:
            os.seteuid(0)
        with open_ledger(url, log, signer, lambda: 1e9) as ledger:
            assert len(list(ledger.events())) == 3


KILLED = """
import sys
import tempfile
from pathlib import Path
from shipworthy.ledger.events import Event
from shipworthy.ledger.store import open_ledger
from shipworthy.security.keys import SigningKey

signer = SigningKey.from_seed("signer", bytes(range(32)))
with open_ledger(sys.argv[1], Path(sys.argv[2]), signer, lambda: 1e9) as ledger:
    while True:
        print(ledger.append(Event("noted", "note", "ada")).seq, flush=True)
"""


@pytest.mark.timeout(36_000)
def test_a_killed_process_loses_nothing_it_acknowledged(
    tmp_path: Path, signer: SigningKey, keys: dict[str, PublicKey], seen: Seen
) -> None:
    url, log = f"sqlite:///{tmp_path}/ledger.db", tmp_path / "log"
    for turn in range(KILLS):
        process = subprocess.Popen([sys.executable, "-c", KILLED, url, str(log)], stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        last = 0
        for _ in range(20 + 7 * turn % 50):
            last = int(process.stdout.readline())
        process.kill()
        last = max([last, *(int(line) for line in process.stdout if line.endswith("\n"))])
        process.stdout.close()
        process.wait()
        with open_ledger(url, log, signer, lambda: 1e9) as ledger:
            count = len(list(ledger.events()))
        assert last <= count <= last + 1
        assert verify_audit(log, keys, url).passed
    seen("kills", KILLS)
    seen("entries acknowledged", last)


def test_the_log_is_readable_with_nothing_but_a_text_editor(log: Path, opened: Open) -> None:
    fill(opened(), 300)
    lines = entries_path(log, 1).read_text().splitlines()
    assert [json.loads(line)["seq"] for line in lines] == list(range(257, 301))
