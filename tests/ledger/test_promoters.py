"""Many processes promote at once: one wins each round, and nothing is lost."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from shipworthy.ledger.audit import verify_audit
from shipworthy.ledger.store import open_ledger
from shipworthy.security.keys import PublicKey, SigningKey
from tests.conftest import Seen

ROUNDS = int(os.environ.get("SHIPWORTHY_SOAK", "8"))
PROMOTERS = 16 if "SHIPWORTHY_SOAK" in os.environ else 4  # each is a process with its own database connection
PROMOTER = """
import sys
from pathlib import Path
from shipworthy.kernel.errors import ConflictError
from shipworthy.ledger.events import Event
from shipworthy.ledger.store import open_ledger
from shipworthy.security.keys import SigningKey

name, url, log = sys.argv[1:]
signer = SigningKey.from_seed("signer", bytes(range(32)))
with open_ledger(url, Path(log), signer, lambda: 1e9, timeout_s=60) as ledger:
    print("ready", flush=True)
    for line in sys.stdin:
        generation = int(line)
        body = {"environment": "local", "generation": generation, "by": name}
        try:
            ledger.append(Event("deployment.set", f"deployment:local:{generation}", name, body))
            print("won", flush=True)
        except ConflictError as error:
            print("lost", error, flush=True)
"""


@pytest.mark.timeout(36_000)
def test_of_promoters_at_once_one_wins_each_round(
    tmp_path: Path, signer: SigningKey, keys: dict[str, PublicKey], seen: Seen
) -> None:
    url, log = f"sqlite:///{tmp_path}/ledger.db", tmp_path / "log"
    promoters = {f"promoter-{number}": start(f"promoter-{number}", url, log) for number in range(PROMOTERS)}
    winners = []
    try:
        for process in promoters.values():
            assert answer(process) == "ready"
        for generation in range(1, ROUNDS + 1):
            for process in promoters.values():
                assert process.stdin is not None
                process.stdin.write(f"{generation}\n")
                process.stdin.flush()
            answers = {name: answer(process) for name, process in promoters.items()}
            won = [name for name, said in answers.items() if said == "won"]
            assert len(won) == 1, answers
            winners += won
            for name, said in answers.items():
                assert name in won or f"local is at generation {generation}" in said, said
    finally:
        for process in promoters.values():
            process.kill()
            process.communicate()
    with open_ledger(url, log, signer, lambda: 1e9) as ledger:
        promoted = list(ledger.events(verb="deployment.set"))
        assert [entry.body["generation"] for entry in promoted] == list(range(1, ROUNDS + 1))
        assert [entry.actor for entry in promoted] == winners
        assert ledger.next_generation("local") == ROUNDS + 1
    assert verify_audit(log, keys, url).passed
    seen("rounds", ROUNDS)
    seen("promoters", PROMOTERS)
    seen("promoters that ever won", len(set(winners)))


def start(name: str, url: str, log: Path) -> "subprocess.Popen[str]":
    argv = [sys.executable, "-c", PROMOTER, name, url, str(log)]
    return subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def answer(process: "subprocess.Popen[str]") -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()
