"""What serving a payload takes, measured in the real server: latency under open load, memory, processor time, size.

The server is the product's own, started as a process of its own from a bundle signed with a key that is thrown
away; it validates, decides and records as it does in production. Load and server share this machine.
"""

import json
import math
import os
import secrets
import select
import subprocess
import sys
from base64 import b64encode
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from urllib.parse import urlsplit

import msgspec
import numpy as np
import polars as pl
from numpy.typing import NDArray

from shipworthy.bundle.deployment import write_access, write_bundle, write_deployment
from shipworthy.bundle.format import (
    STATEMENT_MEDIA,
    Access,
    DeployedRelease,
    Deployment,
    ReleasePredicate,
    ReleaseStatement,
    Subject,
)
from shipworthy.bundle.verify import VerifiedPayload, verify_payload
from shipworthy.contract.types import Contract
from shipworthy.data.columns import encode
from shipworthy.evaluation.load import Load, drive, post
from shipworthy.evaluation.measure import run_policy
from shipworthy.evaluation.processes import usage
from shipworthy.gates.evidence import BudgetMeasurement
from shipworthy.kernel.digest import digest_bytes
from shipworthy.kernel.errors import EvidenceError, UnavailableError
from shipworthy.security.datakeys import make_data_key
from shipworthy.security.keys import SigningKey
from shipworthy.security.master import COMMAND_SETTING, KEY_BYTES, KEY_SETTING
from shipworthy.security.signing import sign_envelope
from shipworthy.security.vault import DATA_KEYS
from shipworthy.serving.decode import InvalidRequestError, RequestDecoder
from shipworthy.serving.lookups import EPOCH

ENVIRONMENT = "measured"
SECONDS = 2.0  # of load
MIN_REQUESTS = 400  # enough for a bound of the 99th percentile that is not the slowest request of all
MIN_RPS = 100.0  # a lower declared rate is measured at this one, which is harder and takes seconds, not minutes
MAX_REQUESTS = 200_000  # of one measurement, whatever the rate
DISTINCT_ROWS = 2000  # sent in turn
WARM_REQUESTS = 100  # before the clock starts
START_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 15.0
ANSWER_TOLERANCE = 1e-5  # between a batch and a single run in float32


@dataclass(frozen=True, slots=True)
class RunningServer:
    """A server process that answers."""

    address: tuple[str, int]
    pid: int


def measure_budget(
    contract: Contract, payload: Path, test: pl.DataFrame, work: Path, *, seconds: float = SECONDS
) -> BudgetMeasurement:
    """Serve the payload and send it test rows at the contract's `at_rps`, whether or not it keeps up.

    Every answer is compared with that of the offline policy on the same row; a fallback's answer counts as none.

    Args:
        contract: with `gates.budget`; without it the rate is MIN_RPS.
        payload: directory of the payload.
        test: accepted rows, at least one.
        work: an empty directory for the server's files, removed by the caller.
        seconds: how long the load lasts, > 0.

    Raises:
        EvidenceError: there is no row to send.
        UnavailableError: the server does not start, or ends.
    """
    if test.height == 0:
        raise EvidenceError("the test part has no rows; nothing can be sent to the server (training.split.test)")
    verified = verify_payload(payload)
    sample = test.head(DISTINCT_ROWS)
    documents = list(request_documents(contract, sample))
    matrix = encode(contract, sample)
    if verified.lookups:
        documents, matrix = _as_looked_up(verified, documents)
    bodies = [json.dumps(document).encode() for document in documents]
    requests = [post(f"/v1/systems/{contract.system}/predict", body, {}) for body in bodies]
    rate = max(float(contract.gates.budget.at_rps), MIN_RPS) if contract.gates.budget is not None else MIN_RPS
    count = min(max(math.ceil(rate * seconds), MIN_REQUESTS), MAX_REQUESTS)
    timeout_s = verified.policy.timeout_s + 1
    with served(verified, payload, work) as server:
        drive(server.address, _in_turn(requests, WARM_REQUESTS), rate=rate, timeout_s=timeout_s)
        before = usage(server.pid)
        load = drive(server.address, _in_turn(requests, count), rate=rate, timeout_s=timeout_s)
        after = usage(server.pid)
    latencies = np.where(_is_fallback(load), math.inf, load.latencies_ms)
    return BudgetMeasurement(
        latencies_ms=latencies,
        at_rps=rate,
        rps=load.rps,
        errors=int(np.isinf(latencies).sum()),
        seconds=load.seconds,
        cpu_seconds=after.cpu_seconds - before.cpu_seconds,
        memory_bytes=after.memory_bytes,
        size_bytes=sum(entry.size_bytes for entry in verified.manifest.files.values()),
        wrong=count_wrong(load, verified, matrix),
    )


def request_documents(contract: Contract, rows: pl.DataFrame) -> Iterator[dict[str, object]]:
    """Each row as a caller would send it: features, and the context that the rows carry; missing values left out."""
    asked = [name for name, feature in contract.features.items() if feature.lookup is None]
    context = [name for name in contract.context if name in rows.columns]
    for row in rows.iter_rows(named=True):
        document: dict[str, object] = {"inputs": _given(row, asked)}
        if context:
            document["context"] = _given(row, context)
        yield document


def _as_looked_up(
    payload: VerifiedPayload, documents: list[dict[str, object]]
) -> tuple[list[dict[str, object]], NDArray[np.float32]]:
    """The requests that are answered when all of the tables is known, and the model's rows of them.

    What a row of the past looked up then is no longer in the tables, so the server's answers are held against what
    they give now.
    """
    decoder = RequestDecoder(payload.schema, payload.policy.fallback_rules, payload.lookups)
    known = [lookup.known_us for lookup in decoder.lookups if lookup.known_us is not None]
    times = [field.name for field in payload.schema.context if field.role == "time"]
    now = {times[0]: (EPOCH + timedelta(microseconds=max(known))).isoformat()} if known else {}
    answered, rows = [], []
    for document in documents:
        context = document.get("context")
        asked = {**document, "context": {**(context if isinstance(context, dict) else {}), **now}} if now else document
        with suppress(InvalidRequestError):
            rows.append(decoder.decode_object(asked).floats)
            answered.append(asked)
    if not answered:
        names = ", ".join(lookup.field.name for lookup in decoder.lookups)
        raise EvidenceError(
            f"none of {len(documents):,} test rows finds what it needs in the tables of {names} as a release would "
            "carry them; take newer rows into their sources, or let the features be missing"
        )
    return answered, np.array(rows, dtype=np.float32)


@contextmanager
def served(
    payload: VerifiedPayload, directory: Path, work: Path, *, workers: int | None = None
) -> Iterator[RunningServer]:
    """The product's server with this payload, in a process of its own, until the block ends.

    Args:
        payload: verified content of `directory`.
        directory: of the payload.
        work: an empty directory for the server's files.
        workers: of the server; None: as the payload's policy says.

    Raises:
        UnavailableError: the server does not start; says its last words.
    """
    live = write_live(payload, directory, work)
    (work / "records").mkdir(parents=True)
    settings = {
        "live": str(live),
        "records": str(work / "records"),
        "spool": str(work / "spool"),  # for policies that ask for one
        "keys": str(work / "keys"),
        "port": 0,
        "open": True,
        "workers": payload.policy.workers if workers is None else workers,
    }
    environment = dict(os.environ)
    if payload.policy.encryption == "at_rest":  # what it costs is measured too, under keys that are thrown away
        environment |= {COMMAND_SETTING: "", KEY_SETTING: b64encode(secrets.token_bytes(KEY_BYTES)).decode()}
        make_data_key(work / "keys" / DATA_KEYS, environment, 0.0)
    command = [sys.executable, "-m", "shipworthy.serving.server", "--settings", json.dumps(settings)]
    errors = work / "server.err"
    with errors.open("wb") as stderr:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=stderr, env=environment
        )
    try:
        yield _wait_until_ready(process, errors)
    finally:
        _stop(process)


def write_live(payload: VerifiedPayload, directory: Path, work: Path) -> Path:
    """A `live/ENV` directory whose only release is this payload, signed with a new key that nobody keeps."""
    key = SigningKey.from_seed("thrown-away", secrets.token_bytes(32))
    (work / "keys").mkdir(parents=True)
    key.public.write_public(work / "keys" / "thrown-away.pub")
    live = work / "live" / ENVIRONMENT
    live.mkdir(parents=True)
    system = payload.manifest.system
    envelope = sign_envelope(msgspec.json.encode(_statement(system, payload.digest)), STATEMENT_MEDIA, key)
    files = {path.name: path.read_bytes() for path in directory.iterdir()}
    write_bundle(live, envelope, files)
    release = DeployedRelease(release=f"{system}:1", digest=digest_bytes(envelope), payload=payload.digest, share=1.0)
    deployment = Deployment(
        system=system, environment=ENVIRONMENT, generation=1, salt=secrets.token_hex(16), releases=(release,)
    )
    write_deployment(live, deployment, key)
    write_access(live, Access(environment=ENVIRONMENT, generation=1, tokens=()), key)
    return live


def _statement(system: str, payload: str) -> ReleaseStatement:
    nothing = digest_bytes(b"")
    predicate = ReleasePredicate(
        system=system,
        version=1,
        payload=payload,
        contract=nothing,
        code=nothing,
        snapshot=nothing,
        run="measured",
        verdicts=nothing,
        card=nothing,
        bill_of_materials=nothing,
        author="measured",
        created="1970-01-01T00:00:00Z",
    )
    subject = Subject(name=f"{system}:1", digest={"sha256": payload.removeprefix("sha256:")})
    return ReleaseStatement(subject=(subject,), predicate=predicate)


def _wait_until_ready(process: subprocess.Popen[bytes], errors: Path) -> RunningServer:
    if process.stdout is None:
        raise UnavailableError("the server's output is not connected")
    readable, _, _ = select.select([process.stdout], [], [], START_TIMEOUT_S)
    line = process.stdout.readline() if readable else b""
    if not line:
        said = errors.read_text(errors="replace").strip().splitlines()
        raise UnavailableError(f"the server did not start: {said[-1] if said else 'it said nothing'}")
    ready = json.loads(line)
    address = urlsplit(ready["address"])
    return RunningServer((address.hostname or "127.0.0.1", int(address.port or 0)), int(ready["pid"]))


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(STOP_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    if process.stdout is not None:
        process.stdout.close()


def _in_turn(requests: Sequence[bytes], count: int) -> list[bytes]:
    return [requests[number % len(requests)] for number in range(count)]


def _given(row: dict[str, object], names: list[str]) -> dict[str, object]:
    return {name: _plain(row[name]) for name in names if row.get(name) is not None}


def _plain(value: object) -> object:
    return value if isinstance(value, str | bool | int | float) else _text(value)


def _text(value: object) -> str:
    moment = getattr(value, "isoformat", None)
    return str(value) if moment is None else str(moment())


def _is_fallback(load: Load) -> NDArray[np.bool_]:
    return np.array([b'"source":"fallback"' in body for body in load.bodies], dtype=np.bool_)


def count_wrong(load: Load, payload: VerifiedPayload, matrix: NDArray[np.float32]) -> int:
    """How many of the model's answers are not those of the offline policy on the same row.

    Args:
        load: its n-th request carried row n modulo the rows of `matrix`.
        payload: what was served.
        matrix: of the distinct rows.
    """
    decisions = run_policy(payload, matrix)
    wrong = 0
    for number, (status, body) in enumerate(zip(load.statuses, load.bodies, strict=True)):
        if status != 200 or b'"source":"fallback"' in body:
            continue
        row = number % len(matrix)
        answer = json.loads(body)
        if decisions.probability is None:
            given, expected = np.array([answer["prediction"]]), np.array([decisions.prediction[row]], dtype=np.float64)
        else:
            given = np.array([answer["probability"][label] for label in payload.policy.classes])
            expected = decisions.probability[row]
        wrong += not np.allclose(given, expected, rtol=ANSWER_TOLERANCE, atol=ANSWER_TOLERANCE)
    return wrong
