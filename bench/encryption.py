"""What encryption at rest costs: serving, snapshots, loading a payload; each against the same thing in the open.

`python -m bench.encryption [--seconds S] [--rounds R]` prints ratios of one run, medians of rounds that take turns.
"""

import argparse
import os
import shutil
import statistics
import sys
import tempfile
import time
from base64 import b64encode
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import msgspec
import numpy as np
import polars as pl
from bench.serving import CONNECTIONS, FEATURES, TOKEN, build_model, deploy, measure, median, split_cores

from shipworthy.bundle.deployment import bundle_path, read_deployment
from shipworthy.bundle.verify import verify_bundle
from shipworthy.contract.types import Contract
from shipworthy.data.snapshot import Snapshot, read, take
from shipworthy.records.write import SegmentWriter
from shipworthy.security.datakeys import make_data_key
from shipworthy.security.keys import load_public_keys
from shipworthy.security.master import KEY_SETTING
from shipworthy.security.vault import Vault

ROWS = 500_000
RECORD = bytes(600)  # a record of 23 features has about as many


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=3.0, help="for each number of connections")
    parser.add_argument("--rounds", type=int, default=3, help="how often each is measured")
    arguments = parser.parse_args()
    os.environ[KEY_SETTING] = b64encode(os.urandom(32)).decode()
    root = Path(tempfile.mkdtemp(prefix="bench-"))
    try:
        serving(root, arguments.seconds, arguments.rounds)
        records(root, arguments.rounds)
        snapshots(root, arguments.rounds)
        payloads(root, arguments.rounds)
    finally:
        shutil.rmtree(root)


def new_vault(root: Path) -> Vault:
    make_data_key(root / "keys" / "data", os.environ, time.time())
    return Vault(root / "keys" / "data", os.environ)


def serving(root: Path, seconds: float, rounds: int) -> None:
    model = build_model()
    inputs = {f"f{i:02d}": round(i * 0.37 - 3, 2) for i in range(FEATURES)}
    body = msgspec.json.encode({"inputs": inputs})
    head = "POST /v1/systems/bench/predict HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
    request = f"{head}authorization: Bearer {TOKEN}\r\ncontent-length: {len(body)}\r\n\r\n".encode() + body
    commands = {}
    for durability in ("sync", "async"):
        for name in ("open", "sealed"):
            place = root / durability / name
            settings = deploy(place, model, durability, new_vault(place) if name == "sealed" else None)
            settings_text = msgspec.json.encode(settings).decode()
            commands[durability, name] = [
                sys.executable, "-m", "shipworthy.serving.server", "--settings", settings_text
            ]  # fmt: skip
    cores = split_cores()
    of_server = None if cores is None else cores[0]
    if cores is not None:
        os.sched_setaffinity(0, cores[1])
    runs = [
        {key: measure(command, request, seconds, of_server)[0] for key, command in commands.items()}
        for _ in range(rounds)
    ]
    for durability in ("sync", "async"):
        for connections in CONNECTIONS:
            plain, sealed = (
                median([run[durability, name][connections] for run in runs]) for name in ("open", "sealed")
            )
            print(
                f"serving, records {durability}, {connections:2} connections: {sealed.rate:,.0f} of {plain.rate:,.0f} "
                f"req/s ({sealed.rate / plain.rate:.2f}), p99 {sealed.p99_ms:.2f} of {plain.p99_ms:.2f} ms "
                f"({sealed.p99_ms / plain.p99_ms:.2f}), CPU {sealed.cpu_us:.0f} of {plain.cpu_us:.0f} us"
            )


def timed(act: Callable[[], object]) -> float:
    began = time.perf_counter()
    act()
    return time.perf_counter() - began


def compare(rounds: int, plain: Callable[[int], object], sealed: Callable[[int], object]) -> tuple[float, float]:
    """Medians in s of both, which take turns."""
    pairs = [(timed(lambda at=at: plain(at)), timed(lambda at=at: sealed(at))) for at in range(rounds)]  # type: ignore[misc]
    return statistics.median(one for one, _ in pairs), statistics.median(two for _, two in pairs)


def records(root: Path, rounds: int) -> None:
    vault = new_vault(root)
    for rows in (1, 16, 256):
        group = [RECORD] * rows

        def write(name: str, seal: bool, group: list[bytes] = group, rows: int = rows) -> Callable[[int], None]:
            folder = root / "records" / f"{name}-{rows}"
            clocks = (time.time, time.monotonic)
            writer = SegmentWriter(folder, "local", "w0", now=clocks[0], monotonic=clocks[1], vault=vault)

            def act(_: int) -> None:
                for _ in range(4096 // rows):
                    writer.append(group, sync=False, seal=seal)

            return act

        plain, sealed = compare(3 * rounds, write("open", False), write("sealed", True))
        print(
            f"a commit of {rows:3} records, without its sync: {sealed / 4096 * rows * 1e6:6.1f} us against "
            f"{plain / 4096 * rows * 1e6:6.1f} us in the open"
        )


def snapshots(root: Path, rounds: int) -> None:
    chance = np.random.default_rng(3)
    numbers = {f"n{at:02d}": chance.normal(size=ROWS) for at in range(10)}
    frame = pl.DataFrame({"id": [f"row-{at}" for at in range(ROWS)], **numbers})
    megabytes = frame.estimated_size("mb")
    vault, contract = new_vault(root), cast(Contract, SimpleNamespace(system="bench"))
    taken: dict[str, Snapshot] = {}

    def write(name: str, key: Vault | None) -> Callable[[int], None]:
        def act(at: int) -> None:
            taken[name] = take(contract, frame, root / "tables" / f"{name}-{at}", key)

        return act

    one, two = compare(rounds, write("open", None), write("sealed", vault))
    print(f"a snapshot of {ROWS:,} rows, written: {megabytes / two:.0f} MB/s sealed, {megabytes / one:.0f} as a table")
    one, two = compare(rounds, lambda _: read(taken["open"]), lambda _: read(taken["sealed"], vault))
    print(f"the same, read: {megabytes / two:.0f} MB/s sealed, {megabytes / one:.0f} as a table")


def payloads(root: Path, rounds: int) -> None:
    model = os.urandom(200 * 2**20)
    places = {}
    for name in ("open", "sealed"):
        place = root / "payloads" / name
        vault = new_vault(place)
        deploy(place, model, "off", vault if name == "sealed" else None)
        live, keys = place / "live" / "local", load_public_keys(place / "keys")
        path = bundle_path(live, read_deployment(live, keys).releases[0].digest)
        places[name] = (path, keys, vault)

    def verify(name: str) -> Callable[[int], object]:
        path, keys, vault = places[name]
        return lambda _: verify_bundle(path, keys, vault=vault)

    one, two = compare(rounds, verify("open"), verify("sealed"))
    print(f"a payload of 200 MiB, read and verified: {two:.2f} s sealed, {one:.2f} s in the open ({two / one:.2f})")


if __name__ == "__main__":
    main()
