"""Power loss: at every step of an append, whatever the disk made of what was not synced."""

import os
import random
import shutil
import sqlite3
from pathlib import Path

import pytest

from shipworthy.ledger.audit import verify_audit
from shipworthy.ledger.events import Event
from shipworthy.ledger.files import LocalDisk
from shipworthy.ledger.store import open_ledger
from shipworthy.security.keys import PublicKey, SigningKey
from tests.conftest import Seen

FATES = ("lost", "kept", "torn", "reordered")
REPETITIONS = int(os.environ.get("SHIPWORTHY_SOAK", "1"))  # of the two fates that are a matter of chance


class PowerLoss(BaseException):
    """The machine is off."""


class LossyDisk(LocalDisk):
    """Holds files in memory beside what of them is safe; at its n-th operation the power goes.

    A file's content is safe after `sync`, a name after `sync_directory`. `survive` answers what a machine finds
    when it starts again: `lost` nothing unsafe, `kept` all of it, `torn` half of each write, `reordered` any part
    in any order, later writes without earlier ones.
    """

    def __init__(self, root: Path, cut_at: int = 0) -> None:
        self.left = cut_at
        self.off = False
        self.now: dict[Path, bytes] = {path: path.read_bytes() for path in root.rglob("*") if path.is_file()}
        self.safe_content = dict(self.now)
        self.safe_names = set(self.now)
        self.moved: dict[Path, bytes] = {}  # what a replaced name held before, until the directory is synced
        self.written: dict[Path, list[tuple[int, bytes]]] = {}

    def _tick(self) -> None:
        self.left -= 1
        if self.left == 0 or self.off:
            self.off = True
            raise PowerLoss

    def read(self, path: Path) -> bytes | None:
        return self.now.get(path)

    def size(self, path: Path) -> int | None:
        return len(self.now[path]) if path in self.now else None

    def write_at(self, path: Path, offset: int, content: bytes) -> None:
        self._tick()
        before = self.now.get(path, b"")[:offset]
        self.now[path] = before + bytes(offset - len(before)) + content
        self.written.setdefault(path, []).append((offset, content))

    def truncate(self, path: Path, size: int) -> None:
        if (self.size(path) or 0) > size:
            self._tick()
            self.now[path] = self.now[path][:size]
            self.written.setdefault(path, []).append((size, b""))

    def sync(self, path: Path) -> None:
        self._tick()
        self.safe_content[path] = self.now[path]
        self.written.pop(path, None)

    def replace(self, source: Path, target: Path) -> None:
        self._tick()
        if target in self.now:
            self.moved[target] = self.safe_content[target]
        self.now[target] = self.now.pop(source)
        self.safe_content[target] = self.safe_content[source]
        self.written.pop(target, None)

    def make_directory(self, path: Path) -> list[Path]:
        return []  # names of directories are those of their files here

    def sync_directory(self, path: Path) -> None:
        self._tick()
        self.safe_names |= {name for name in self.now if name.parent == path}
        self.moved = {name: content for name, content in self.moved.items() if name.parent != path}

    def survive(self, fate: str, chance: random.Random) -> dict[Path, bytes]:
        files = {}
        for path in self.now:
            name_lost = path in self.moved or path not in self.safe_names
            if name_lost and (fate == "lost" or (fate == "reordered" and chance.random() < 0.5)):
                if path in self.moved:
                    files[path] = self.moved[path]
                continue
            files[path] = self._content(path, fate, chance)
        return files

    def _content(self, path: Path, fate: str, chance: random.Random) -> bytes:
        safe = self.safe_content.get(path, b"")
        if path not in self.written or fate == "lost":
            return safe
        if fate == "kept":
            return self.now[path]
        for offset, content in self.written[path]:
            if fate == "torn":
                content = content[: chance.randrange(len(content) + 1)]
            elif chance.random() < 0.5:
                continue
            safe = safe[:offset] + bytes(max(0, offset - len(safe))) + content
        return safe


def copy_database(source: Path, target: Path) -> None:
    """As the database would be found: what was committed."""
    one, two = sqlite3.connect(source), sqlite3.connect(target)
    one.backup(two)
    one.close()
    two.close()


@pytest.mark.parametrize("size", [3, 255])
@pytest.mark.timeout(36_000)
def test_an_append_is_there_whole_or_not_at_all_wherever_the_power_goes(
    tmp_path: Path, signer: SigningKey, keys: dict[str, PublicKey], size: int, seen: Seen
) -> None:
    """Every prefix of the trace of two appends, with every fate of what was not synced."""
    template = tmp_path / "template"
    with open_ledger(f"sqlite:///{template}/ledger.db", template / "log", signer, lambda: 1e9) as ledger:
        ledger.append_all([Event("noted", "note", "ada") for _ in range(size)])
    cut_at, cuts = 0, 0
    done = False
    while not done:
        cut_at += 1
        place = tmp_path / str(cut_at)
        shutil.copytree(template, place)
        disk = LossyDisk(place / "log", cut_at)
        acknowledged = size
        with open_ledger(f"sqlite:///{place}/ledger.db", place / "log", signer, lambda: 1e9, disk=disk) as ledger:
            try:
                for _ in range(2):
                    acknowledged = ledger.append(Event("noted", "note", "ada", {"text": "x" * 50})).seq
                done = True
            except PowerLoss:
                cuts += 1
        for number, fate in enumerate([*FATES[:2], *FATES[2:] * REPETITIONS]):
            started = place / f"{fate}-{number}"
            started.mkdir()
            copy_database(place / "ledger.db", started / "ledger.db")
            (started / "log").mkdir()
            for path, content in disk.survive(fate, random.Random(1000 * cut_at + number)).items():
                found = started / path.relative_to(place)
                found.parent.mkdir(parents=True, exist_ok=True)
                found.write_bytes(content)
            url = f"sqlite:///{started}/ledger.db"
            with open_ledger(url, started / "log", signer, lambda: 1e9) as ledger:
                count = len(list(ledger.events()))
                assert acknowledged <= count <= acknowledged + 1, (cut_at, fate)
                assert ledger.append(Event("noted", "note", "eve")).seq == count + 1
            report = verify_audit(started / "log", keys, url)
            assert report.passed, (cut_at, fate, report)
        shutil.rmtree(place)
    assert cuts >= 15
    seen("cut points", cuts + 1)
    seen("states after a loss", (cuts + 1) * (2 + 2 * REPETITIONS))
