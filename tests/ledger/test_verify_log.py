"""The verifier that stands alone: fewer than a hundred lines, nothing of ours, and it finds what we find."""

import json
import random
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from shipworthy.ledger.audit import prove
from shipworthy.ledger.events import Event
from shipworthy.ledger.log import entries_path
from shipworthy.ledger.store import open_ledger
from tests.ledger.conftest import SIGNER, Clock

SCRIPT = Path(__file__).parents[2] / "docs" / "verify_log.py"
ENTRIES = 700  # two whole tiles and a part


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A log with an anchor that was exported half way."""
    root = tmp_path_factory.mktemp("log")
    with open_ledger(f"sqlite:///{root}/ledger.db", root / "log", SIGNER, Clock()) as ledger:
        for start in range(0, ENTRIES, 50):
            ledger.append_all([Event("thing.done", f"thing:{start + at}", "user:ann") for at in range(50)])
            if start == 300:
                ledger.export_anchor(root / "anchor", "user:ann")
    SIGNER.public.write_public(root / "signer.pub")
    return root


def run(*words: object) -> tuple[int, str]:
    done = subprocess.run([sys.executable, SCRIPT, *map(str, words)], capture_output=True, text=True, check=False)
    assert "Traceback" not in done.stderr, done.stderr
    return done.returncode, done.stdout + done.stderr


def test_it_is_short_and_imports_nothing_of_ours():
    text = SCRIPT.read_text()
    assert len(text.splitlines()) < 100
    assert "import shipworthy" not in text
    assert "from shipworthy" not in text


def test_a_good_log_holds_and_so_does_its_anchor(place: Path):
    code, words = run(place / "log", place / "signer.pub", "--anchor", place / "anchor")
    assert (code, "1 anchors" in words) == (0, True)
    assert f"holds: {ENTRIES + 1} entries" in run(place / "log", place / "signer.pub")[1]


@pytest.mark.parametrize("seq", [1, 256, 257, 513, 700, 701])
def test_a_proof_of_ours_holds_there(place: Path, tmp_path: Path, seq: int):
    proof = prove(place / "log", seq)
    (tmp_path / "proof").write_text(json.dumps(proof))
    assert run("--proof", tmp_path / "proof", place / "signer.pub")[0] == 0
    (tmp_path / "proof").write_text(json.dumps({**proof, "entry": str(proof["entry"]).replace("ann", "bob")}))
    assert run("--proof", tmp_path / "proof", place / "signer.pub")[0] == 1


def test_what_was_changed_cut_or_signed_by_another_is_found(place: Path, tmp_path: Path):
    chance = random.Random(2)
    for number in range(6):
        log = tmp_path / f"log-{number}"
        shutil.copytree(place / "log", log)
        path = entries_path(log, chance.randrange(3))
        content = bytearray(path.read_bytes())
        at = content.index(b"thing:") + 6
        content[at] = content[at] ^ 1
        path.write_bytes(bytes(content) if number % 2 else bytes(content[: len(content) // 2]) + b"\n")
        code, words = run(log, place / "signer.pub")
        assert (code, "BROKEN" in words) == (1, True)
    (tmp_path / "other.pub").write_bytes(type(SIGNER).from_seed("other", b"x" * 32).public.to_pem())
    assert "not signed by a key that was given" in run(place / "log", tmp_path / "other.pub")[1]
