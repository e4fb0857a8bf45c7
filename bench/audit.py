"""The audit log: what an append costs beside its fsync, and how long a million entries take to verify.

`python -m bench.audit [ENTRIES]`. Goals: a million entries verified in 5 s; an append at most 10 us an
entry over its fsync.
"""

import os
import sys
import tempfile
import time
from pathlib import Path

from shipworthy.ledger.audit import check_proof, prove, verify_audit
from shipworthy.ledger.events import Event, record
from shipworthy.ledger.files import LocalDisk
from shipworthy.ledger.log import Log
from shipworthy.security.keys import SigningKey

BATCH = 256
NOW = 1_763_800_000.0


class Unsynced(LocalDisk):
    """To build the log quickly: nothing here is lost but time."""

    def sync(self, path: Path) -> None:
        """Not at all."""

    def sync_directory(self, path: Path) -> None:
        """Not at all."""


def main(entries: int) -> None:
    signer = SigningKey.from_seed("bench", bytes(32))
    keys = {signer.public.keyid: signer.public}
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder, "log")
        root.mkdir()
        log = Log(root, Unsynced(), signer)
        spent, size = 0.0, 0
        for start in range(0, entries, BATCH):
            batch = [_entry(seq) for seq in range(start + 1, min(start + BATCH, entries) + 1)]
            size = len(batch[0])
            started = time.perf_counter()
            log.stage(batch)
            log.publish()
            spent += time.perf_counter() - started
        print(f"entries of {size} bytes, appended by {BATCH} without fsync: {spent / entries * 1e6:.2f} us each")
        started = time.perf_counter()
        report = verify_audit(root, keys)
        seconds = time.perf_counter() - started
        assert report.passed, report.problems
        print(f"verified {entries:,} entries in {seconds:.2f} s: {seconds / entries * 1e6:.2f} s a million")
        seqs = range(1, entries, max(entries // 200, 1))
        started = time.perf_counter()
        proofs = [prove(root, seq) for seq in seqs]
        made = time.perf_counter()
        for proof in proofs:
            check_proof(proof, keys)
        checked = time.perf_counter()
        print(f"a proof is made in {(made - started) / len(seqs) * 1e6:.0f} us", end=", ")
        print(f"checked in {(checked - made) / len(seqs) * 1e6:.0f} us")


def _entry(seq: int) -> bytes:
    body = {"environment": "production", "generation": seq, "note": os.urandom(24).hex()}
    return record(
        Event("deployment.set", f"deployment:production:{seq}", "user:ann", body, "rule"), seq, NOW
    ).to_bytes()


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000)
