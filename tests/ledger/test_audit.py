"""The audit: whatever is changed is found, and the first bad entry is named."""

import os
import random
import shutil
import sqlite3
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from shipworthy.kernel.errors import IntegrityError, NotFoundError
from shipworthy.ledger.audit import AuditReport, check_proof, prove, verify_audit
from shipworthy.ledger.checkpoint import read_note
from shipworthy.ledger.events import Entry, Event
from shipworthy.ledger.files import LocalDisk
from shipworthy.ledger.log import Log, entries_path, tile_path
from shipworthy.ledger.store import open_ledger
from shipworthy.ledger.tree import TILE_WIDTH
from shipworthy.security.keys import PublicKey, SigningKey
from tests.conftest import Seen

TAMPERS = int(os.environ.get("SHIPWORTHY_SOAK", "300"))
SIZE = 600
ANCHORED = 560  # the exported checkpoint


class HastyDisk(LocalDisk):
    """Does not wait for the disk: these tests cut no power."""

    def sync(self, path: Path) -> None:
        pass

    def sync_directory(self, path: Path) -> None:
        pass


@dataclass
class Place:
    """A copy of a ledger for an attacker to play with; `old` is how it looked at `ANCHORED` - 60 entries."""

    root: Path
    keys: dict[str, PublicKey]

    @property
    def log(self) -> Path:
        return self.root / "log"

    @property
    def database(self) -> Path:
        return self.root / "ledger.db"

    def url(self) -> str:
        return f"sqlite:///{self.database}"

    def audit(self) -> AuditReport:
        return verify_audit(self.log, self.keys, self.url(), [self.root / "anchors"])

    def entries(self) -> list[bytes]:
        files = range(-(-SIZE // TILE_WIDTH))
        return [line for index in files for line in entries_path(self.log, index).read_bytes().splitlines()]

    def sql(self, statement: str, *values: object) -> None:
        connection = sqlite3.connect(self.database)
        with connection:
            assert connection.execute(statement, values).rowcount == 1
        connection.close()

    def edit(self, path: Path, change: Callable[[bytes], bytes]) -> None:
        path.write_bytes(change(path.read_bytes()))

    def edit_lines(self, index: int, change: Callable[[list[bytes]], list[bytes]]) -> None:
        self.edit(entries_path(self.log, index), lambda content: b"".join(change(content.splitlines(keepends=True))))

    def rewrite(self, entries: list[bytes]) -> None:
        """Make entries, tiles and database agree with `entries`, as one would who lacks only the key."""
        forged = Log(self.root / "forged", LocalDisk())
        forged.stage(entries)
        forged.publish()
        for part in ("entries", "tile"):
            shutil.rmtree(self.log / part)
            shutil.copytree(self.root / "forged" / part, self.log / part)
        connection = sqlite3.connect(self.database)
        with connection:
            connection.execute("DELETE FROM events")
            for seq, line in enumerate(entries, start=1):
                entry = Entry.from_bytes(line)
                connection.execute(
                    "INSERT INTO events VALUES (?,?,?,?,?)", (seq, seq, entry.verb, entry.object, line.decode())
                )
        connection.close()

    def roll_back(self, *parts: str) -> None:
        for part in parts:
            old, new = self.root / "old" / part, self.root / part
            if old.is_dir():
                shutil.rmtree(new)
                shutil.copytree(old, new)
            else:
                shutil.copy(old, new)


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory, signer: SigningKey) -> Path:
    root = tmp_path_factory.mktemp("template")
    (root / "anchors").mkdir()
    clock = iter(range(10**9, 10**10))
    url, disk = f"sqlite:///{root}/ledger.db", HastyDisk()
    with open_ledger(url, root / "log", signer, lambda: float(next(clock)), disk=disk) as ledger:

        def fill(until: int) -> None:
            while (number := ledger.checkpoint.size if ledger.checkpoint else 0) < until:
                if number % 50 == 10:
                    generation = ledger.next_generation("local")
                    body = {"environment": "local", "generation": generation}
                    ledger.append(Event("deployment.set", f"deployment:local:{generation}", "ada", body))
                else:
                    links = [{"parent": f"note:{number}", "relation": "from", "child": f"note:{number + 1}"}]
                    ledger.append(Event("noted", f"note:{number}", "ada", {"number": number, "links": links}))

        fill(ANCHORED - 60)
        copy_database(root / "ledger.db", root / "old.db")
        shutil.copytree(root / "log", root / "old" / "log")
        shutil.move(root / "old.db", root / "old" / "ledger.db")
        fill(ANCHORED)
        ledger.export_anchor(root / "anchors", "ada")
        fill(SIZE)
    return root


def copy_database(source: Path, target: Path) -> None:
    one, two = sqlite3.connect(source), sqlite3.connect(target)
    one.backup(two)
    one.close()
    two.close()


@pytest.fixture
def place(template: Path, tmp_path: Path, keys: dict[str, PublicKey]) -> Place:
    shutil.copytree(template, tmp_path / "place")
    return Place(tmp_path / "place", keys)


def test_an_untouched_ledger_passes_and_says_how_far_it_is_anchored(place: Place) -> None:
    report = place.audit()
    assert report == AuditReport(
        entries=SIZE,
        root=read_note(place.log / "checkpoint").checkpoint.root.hex(),
        first_bad=None,
        problems=(),
        trust="anchored",
        anchored=ANCHORED,
        first_time="2001-09-09T01:46:40.000Z",
        last_time="2001-09-09T01:56:39.000Z",
    )
    assert report.passed
    assert verify_audit(place.log, place.keys).trust == "local"


def flip(content: bytes, at: int) -> bytes:
    return content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :]


def swap(lines: list[bytes], one: int, two: int) -> list[bytes]:
    lines = list(lines)
    lines[one], lines[two] = lines[two], lines[one]
    return lines


def forge(entries: list[bytes], seq: int) -> list[bytes]:
    return [*entries[: seq - 1], entries[seq - 1].replace(b'"ada"', b'"eve"'), *entries[seq:]]


def resign(place: Place) -> None:
    """Sign the checkpoint with another key."""
    other = SigningKey.from_seed("eve", b"e" * 32)
    log = Log(place.root / "resigned", LocalDisk(), other)
    log.stage(place.entries())
    log.publish()
    shutil.copy(place.root / "resigned" / "checkpoint", place.log / "checkpoint")


def fork(place: Place) -> None:
    """Roll everything back, then go on differently with the true key."""
    place.roll_back("log", "ledger.db")
    signer = SigningKey.from_seed("signer", bytes(range(32)))
    with open_ledger(place.url(), place.log, signer, lambda: 2e9) as ledger:
        ledger.append_all([Event("noted", "note:other", "eve") for _ in range(100)])


DIRECTED: list[tuple[str, Callable[[Place], object], int | None]] = [
    ("an entry changed", lambda p: p.edit_lines(1, lambda ls: [*ls[:3], flip(ls[3], 20), *ls[4:]]), 260),
    ("an entry deleted", lambda p: p.edit_lines(0, lambda ls: ls[:9] + ls[10:]), 10),
    ("an entry inserted", lambda p: p.edit_lines(0, lambda ls: [*ls[:9], b"{}\n", *ls[9:]]), 10),
    ("two entries swapped", lambda p: p.edit_lines(1, lambda ls: swap(ls, 4, 7)), 261),
    ("the end cut", lambda p: p.edit_lines(2, lambda ls: ls[:-10]), SIZE - 9),
    ("the last byte cut", lambda p: p.edit(entries_path(p.log, 2), lambda c: c[:-1]), SIZE),
    ("an entry put behind the end", lambda p: p.edit_lines(2, lambda ls: [*ls, ls[-1]]), SIZE + 1),
    ("a file of entries removed", lambda p: entries_path(p.log, 1).unlink(), 257),
    ("an entry changed in every place but the signed ones", lambda p: p.rewrite(forge(p.entries(), 300)), 300),
    ("an entry deleted in every place", lambda p: p.rewrite(p.entries()[:299] + p.entries()[300:]), 300),
    ("an entry inserted in every place", lambda p: p.rewrite([*p.entries()[:300], *p.entries()[299:]]), 301),
    ("entries swapped in every place", lambda p: p.rewrite(swap(p.entries(), 41, 480)), 42),
    ("the last entry deleted in every place", lambda p: p.rewrite(p.entries()[:-1]), SIZE),
    ("a leaf's hash changed", lambda p: p.edit(tile_path(p.log, 0, 1), lambda c: flip(c, 5 * 32)), 262),
    ("an inner hash changed", lambda p: p.edit(tile_path(p.log, 1, 0), lambda c: flip(c, 32)), 257),
    ("the checkpoint's root changed", lambda p: p.edit(p.log / "checkpoint", lambda c: flip(c, 50)), None),
    ("the checkpoint signed by a stranger", resign, None),
    ("the checkpoint unsigned", lambda p: p.edit(p.log / "checkpoint", lambda c: c[: c.index(b"\n\n") + 2]), None),
    ("the log removed", lambda p: shutil.rmtree(p.log), 1),
    ("the log removed, and the database with it", lambda p: (shutil.rmtree(p.log), p.database.unlink()), 1),
    ("the checkpoint removed", lambda p: (p.log / "checkpoint").unlink(), 1),
    ("an older checkpoint put back", lambda p: p.roll_back("log/checkpoint"), ANCHORED - 59),
    ("the whole log rolled back", lambda p: p.roll_back("log"), ANCHORED - 59),
    ("log and database rolled back", lambda p: p.roll_back("log", "ledger.db"), ANCHORED - 59),
    ("another history with the true key", fork, 1),
    ("a row changed", lambda p: p.sql("UPDATE events SET entry=replace(entry,'ada','eve') WHERE seq=77"), 77),
    ("a row deleted", lambda p: p.sql("DELETE FROM events WHERE seq=78"), 78),
    ("a row added", lambda p: p.sql("INSERT INTO events SELECT 601,1,verb,object,'{}' FROM events WHERE seq=1"), 601),
    ("a row filed elsewhere", lambda p: p.sql("UPDATE events SET verb='other' WHERE seq=79"), 79),
    ("a state changed", lambda p: p.sql("UPDATE deployments SET body='{}' WHERE generation=3"), 111),
    ("a state deleted", lambda p: p.sql("DELETE FROM deployments WHERE generation=4"), 161),
    ("a state added", lambda p: p.sql("INSERT INTO links VALUES ('a','from','b',5)"), 5),
]  # fmt: skip


@pytest.mark.parametrize(("change", "first_bad"), [case[1:] for case in DIRECTED], ids=[case[0] for case in DIRECTED])
def test_a_known_attack_is_found_where_it_starts(
    place: Place, change: Callable[[Place], object], first_bad: int | None
) -> None:
    change(place)
    report = place.audit()
    assert not report.passed
    assert report.first_bad == first_bad


def random_tamper(place: Place, chance: random.Random) -> int | None:
    """Change one thing anywhere; answers the first bad entry where it is one."""
    kind = chance.choice(["flip", "delete", "insert", "swap", "cut", "forge", "row", "tile", "checkpoint"])
    seq = chance.randrange(1, SIZE)
    index, inside = divmod(seq - 1, TILE_WIDTH)
    if kind == "flip":
        path = entries_path(place.log, index)
        content = bytearray(path.read_bytes())
        bit = chance.randrange(len(content) * 8)
        content[bit // 8] ^= 1 << bit % 8
        seq = index * TILE_WIDTH + path.read_bytes()[: bit // 8].count(b"\n") + 1
        path.write_bytes(content)
    elif kind == "delete":
        place.edit_lines(index, lambda lines: lines[:inside] + lines[inside + 1 :])
    elif kind == "insert":
        place.edit_lines(index, lambda lines: [*lines[:inside], b'{"x":1}\n', *lines[inside:]])
    elif kind == "swap":
        last = min(SIZE - index * TILE_WIDTH, TILE_WIDTH) - 1
        if inside == last:
            inside, seq = inside - 1, seq - 1
        other = chance.randrange(inside + 1, last + 1)
        place.edit_lines(index, lambda lines: swap(lines, inside, other))
    elif kind == "cut":
        place.edit_lines(index, lambda lines: lines[:inside])
    elif kind == "forge":
        place.rewrite(forge(place.entries(), seq))
    elif kind == "row":
        place.sql("UPDATE events SET entry=entry||' ' WHERE seq=?", seq)
    elif kind == "tile":
        place.edit(tile_path(place.log, 0, index), lambda content: flip(content, inside * 32 + chance.randrange(32)))
    else:
        place.edit(place.log / "checkpoint", lambda content: flip(content, chance.randrange(len(content) - 1)))
        return None
    return seq


@pytest.mark.timeout(36_000)
def test_random_tampers_are_all_found_and_the_first_bad_entry_named(
    template: Path, tmp_path: Path, keys: dict[str, PublicKey], seen: Seen
) -> None:
    for seed in range(TAMPERS):
        shutil.copytree(template, tmp_path / str(seed), ignore=shutil.ignore_patterns("old"))
        place = Place(tmp_path / str(seed), keys)
        expected = random_tamper(place, random.Random(seed))
        alone = verify_audit(place.log, keys, None, [place.root / "anchors"])  # without the database's help
        report = place.audit() if alone.passed else alone
        assert not report.passed, seed
        if expected is not None:
            assert report.first_bad == expected, (seed, report)
        shutil.rmtree(place.root)
    seen("tampers found", TAMPERS)


def test_a_proof_stands_alone(place: Place) -> None:
    for seq in (1, 256, 257, SIZE):
        assert check_proof(prove(place.log, seq), place.keys).seq == seq
    for seq in (0, SIZE + 1):
        with pytest.raises(NotFoundError, match="no entry"):
            prove(place.log, seq)


def test_a_changed_proof_proves_nothing(place: Place) -> None:
    proof = prove(place.log, 300)
    other = prove(place.log, 301)
    path = proof["path"]
    assert isinstance(path, list)
    for change in (
        {"entry": other["entry"]},
        {"seq": 301},
        {"seq": True},
        {"path": path[1:]},
        {"path": path[::-1]},
        {"path": ["!"]},
        {"path": ["AAAA"]},
        {"checkpoint": str(proof["checkpoint"]).replace("600", "601")},
        {"checkpoint": ""},
        {"entry": None},
    ):
        with pytest.raises(IntegrityError):
            check_proof(proof | change, place.keys)
    with pytest.raises(IntegrityError, match="not signed by a key known here"):
        check_proof(proof, {})


def test_an_anchor_that_is_no_anchor_is_said_so(place: Place) -> None:
    (place.root / "anchors" / "note").write_text("something else")
    report = place.audit()
    assert "is not a checkpoint" in report.problems[0]
    assert report.first_bad is None


def test_an_anchor_of_another_ledger_is_said_so(place: Place, tmp_path: Path, signer: SigningKey) -> None:
    with open_ledger(f"sqlite:///{tmp_path}/other.db", tmp_path / "other", signer, lambda: 1e9) as ledger:
        ledger.append(Event("noted", "note:other", "bob"))
        path = ledger.export_anchor(tmp_path / "anchor", "bob")
        assert ledger.anchors() == [
            {"size": 1, "root": read_note(path).checkpoint.root.hex(), "file": "anchor"},
        ]
    report = verify_audit(place.log, place.keys, None, [path])
    assert "is of another log" in report.problems[0]


def test_an_unsigned_log_is_accepted_only_by_who_knows_no_key(tmp_path: Path, keys: dict[str, PublicKey]) -> None:
    with open_ledger(f"sqlite:///{tmp_path}/l.db", tmp_path / "log", None, lambda: 1e9) as ledger:
        ledger.append(Event("noted", "note", "ada"))
    assert verify_audit(tmp_path / "log", {}).trust == "unsigned"
    assert verify_audit(tmp_path / "log", {}).passed
    assert not verify_audit(tmp_path / "log", keys).passed


def test_a_missing_database_is_said_so_and_blames_no_entry(place: Place) -> None:
    place.database.unlink()
    report = place.audit()
    assert "is missing" in report.problems[0]
    assert report.first_bad is None
    assert not place.database.exists()
