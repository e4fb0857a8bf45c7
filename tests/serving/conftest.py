"""A tiny signed release, deployed on disk, and the real server in its own process."""

import contextlib
import http.client
import json
import os
import signal
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from shipworthy.bundle.deployment import write_access, write_bundle, write_deployment, write_payload
from shipworthy.bundle.format import (
    STATEMENT_MEDIA,
    Access,
    AccessToken,
    Baselines,
    ColumnBaseline,
    ContextField,
    DeployedRelease,
    Deployment,
    DerivedField,
    FallbackRule,
    FeatureField,
    Policy,
    ReleasePredicate,
    ReleaseStatement,
    Schema,
    Subject,
)
from shipworthy.kernel.digest import digest_bytes
from shipworthy.security.keys import SigningKey
from shipworthy.security.signing import sign_envelope
from shipworthy.security.tokens import mint_token
from shipworthy.serving.settings import ServerSettings

collect_ignore = ["kserve_client.py"]  # it runs in an environment of its own

SYSTEM = "loans"
CLASSES = ("0", "1")


def linear_model(weights: list[float], bias: float = 0.0) -> bytes:
    """ONNX: softmax of [0, weights . features + bias], a missing feature counts 0."""
    k = len(weights)
    matrix = np.zeros((k, 2), dtype=np.float32)
    matrix[:, 1] = weights
    graph = helper.make_graph(
        [
            helper.make_node("IsNaN", ["features"], ["missing"]),
            helper.make_node("Where", ["missing", "zero", "features"], ["filled"]),
            helper.make_node("MatMul", ["filled", "w"], ["product"]),
            helper.make_node("Add", ["product", "b"], ["logits"]),
            helper.make_node("Softmax", ["logits"], ["probabilities"], axis=1),
        ],
        "linear",
        [helper.make_tensor_value_info("features", TensorProto.FLOAT, ["N", k])],
        [helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["N", 2])],
        [
            onnx.numpy_helper.from_array(matrix, "w"),
            onnx.numpy_helper.from_array(np.array([0.0, bias], dtype=np.float32), "b"),
            onnx.numpy_helper.from_array(np.array(0.0, dtype=np.float32), "zero"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    return bytes(model.SerializeToString())


def loans_schema() -> Schema:
    return Schema(
        system=SYSTEM,
        features=(
            FeatureField(name="income", kind="float", low=0, high=1000),
            FeatureField(name="debt", kind="float", low=0, high=1000, outside="clip"),
            FeatureField(name="purpose", kind="category", values=("purchase", "refinance")),
            FeatureField(name="score", kind="int", low=1, high=6, missing="allow"),
            FeatureField(name="owner", kind="bool", missing="allow"),
            FeatureField(name="region", kind="category", values=("n", "s"), unknown="missing", missing="allow"),
            FeatureField(name="age", kind="int", low=18, high=99, outside="review"),
        ),
        context=(
            ContextField(name="applicant", kind="text", role="subject"),
            ContextField(name="applied_at", kind="datetime", role="time"),
            ContextField(name="sex", kind="category", role="protected", values=("f", "m")),
        ),
        derived=(DerivedField(name="ratio", kind="float", expression="100 * debt / income", low=0, high=300),),
        columns=("income", "debt", "purpose", "score", "owner", "region", "age", "ratio"),
    )


WEIGHTS = [0.01, -0.005, 0.2, 0.1, 0.3, -0.1, 0.0, -0.01]


def loans_policy(**changes: Any) -> Policy:
    fields: dict[str, Any] = {
        "task": "binary",
        "classes": CLASSES,
        "positive": "1",
        "actions": {"1": "approve", "0": "refer"},
        "threshold": 0.5,
        "fallback_rules": (FallbackRule(condition="ratio > 45", action="refuse"),),
        "fallback_otherwise": "refer",
        "timeout_s": 1.0,
        "reasons": 3,
    }
    return Policy(**{**fields, **changes})


def loans_baselines() -> Baselines:
    references = (5.0, 2.0, 0.0, 3.0, 1.0, 0.0, 40.0, 40.0)
    return Baselines(
        columns=tuple(
            ColumnBaseline(name=name, rows=100, missing=0, reference=reference)
            for name, reference in zip(loans_schema().columns, references, strict=True)
        )
    )


def good_request(**changes: Any) -> dict[str, Any]:
    inputs = {
        "income": 50.0,
        "debt": 10,
        "purpose": "purchase",
        "score": 4,
        "owner": True,
        "region": "n",
        "age": 40,
        **changes,
    }
    return {"inputs": inputs, "context": {"applicant": "a1", "applied_at": "2026-01-31T09:30:00Z", "sex": "f"}}


@dataclass
class Place:
    """A project's state folder with keys, and what was deployed there."""

    root: Path
    key: SigningKey = field(default_factory=lambda: SigningKey.from_seed("test", bytes(range(32))))
    generation: int = 0
    token: str = ""

    @property
    def live(self) -> Path:
        return self.root / "live" / "local"

    @property
    def records(self) -> Path:
        return self.root / "records" / "local"

    @property
    def spool(self) -> Path:
        return self.root / "elsewhere"

    @property
    def keys(self) -> Path:
        return self.root / "keys"

    def settings(self, **changes: Any) -> ServerSettings:
        fields: dict[str, Any] = {
            "live": str(self.live),
            "records": str(self.records),
            "keys": str(self.keys),
            "port": 0,
            "open": True,
        }
        return ServerSettings(**{**fields, **changes})

    def publish(
        self,
        version: int,
        *,
        model: bytes | dict[str, bytes] | None = None,
        schema: Schema | None = None,
        policy: Policy | None = None,
        baselines: Baselines | None = None,
    ) -> DeployedRelease:
        """Sign a release of an ONNX model, or of the files of a Python model."""
        self.key.public.write_public(self.keys / "test.pub")
        files = {
            **(model if isinstance(model, dict) else {"model.onnx": model or linear_model(WEIGHTS)}),
            "schema.json": msgspec.json.encode(schema or loans_schema()),
            "policy.json": msgspec.json.encode(policy or loans_policy()),
            "baselines.json": msgspec.json.encode(baselines or loans_baselines()),
        }
        directory = self.root / f"payload-{version}-{time.monotonic_ns()}"
        payload = write_payload(directory, SYSTEM, (policy or loans_policy()).task, files)
        release = self.sign(version, payload)
        contents = {path.name: path.read_bytes() for path in directory.iterdir()}
        write_bundle(self.live, release, contents)
        return DeployedRelease(release=f"{SYSTEM}:{version}", digest=digest_bytes(release), payload=payload, share=1.0)

    def sign(self, version: int, payload: str) -> bytes:
        nothing = digest_bytes(b"")
        statement = ReleaseStatement(
            subject=(Subject(name=f"{SYSTEM}:{version}", digest={"sha256": payload.removeprefix("sha256:")}),),
            predicate=ReleasePredicate(
                system=SYSTEM,
                version=version,
                payload=payload,
                contract=nothing,
                code=nothing,
                snapshot=nothing,
                run="run_1",
                verdicts=nothing,
                card=nothing,
                bill_of_materials=nothing,
                author="test",
                created="2026-01-01T00:00:00Z",
            ),
        )
        return sign_envelope(msgspec.json.encode(statement), STATEMENT_MEDIA, self.key)

    def deploy(self, *releases: DeployedRelease, generation: int | None = None) -> None:
        self.generation = self.generation + 1 if generation is None else generation
        deployment = Deployment(
            system=SYSTEM, environment="local", generation=self.generation, salt="s", releases=releases
        )
        write_deployment(self.live, deployment, self.key)

    def mint(
        self, scopes: tuple[str, ...] = (f"predict:{SYSTEM}",), expires: float | None = None, **limits: Any
    ) -> str:
        """A token that is then the only one."""
        token, stored = mint_token(os.urandom(32))
        self.allow(AccessToken(name="test", hash=stored, scopes=scopes, expires=expires, **limits))
        return token

    def allow(self, *tokens: AccessToken) -> None:
        """Replace the access file."""
        self.generation += 1
        write_access(self.live, Access(environment="local", generation=self.generation, tokens=tokens), self.key)


@dataclass
class Running:
    """The server's process."""

    process: subprocess.Popen[str]
    host: str
    port: int
    stderr: Path
    tls: ssl.SSLContext | None = None  # a caller's
    grpc: str = ""  # address of its gRPC port

    def connect(self, timeout_s: float = 20) -> http.client.HTTPConnection:
        if self.tls is None:
            return http.client.HTTPConnection(self.host, self.port, timeout=timeout_s)
        return http.client.HTTPSConnection(self.host, self.port, timeout=timeout_s, context=self.tls)

    def call(
        self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None
    ) -> tuple[int, Any, dict[str, str]]:
        connection = self.connect()
        content = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        try:
            connection.request(method, path, content, headers or {})
            response = connection.getresponse()
            raw = response.read()
        finally:
            connection.close()
        is_json = "json" in (response.getheader("content-type") or "")
        return response.status, json.loads(raw) if is_json else raw, dict(response.getheaders())

    def predict(self, body: Any, headers: dict[str, str] | None = None) -> tuple[int, Any]:
        status, document, _ = self.call("POST", f"/v1/systems/{SYSTEM}/predict", body, headers)
        return status, document

    @property
    def workers(self) -> list[int]:
        """Process ids of the workers."""
        pid = self.process.pid
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]

    @property
    def resident_mb(self) -> float:
        """Memory of supervisor and workers."""
        texts = [Path(f"/proc/{pid}/status").read_text() for pid in (self.process.pid, *self.workers)]
        lines = [line for text in texts for line in text.splitlines() if line.startswith("VmRSS")]
        return sum(int(line.split()[1]) for line in lines) / 1024

    def stop(self, number: int = signal.SIGTERM) -> int:
        """End the server; by SIGKILL, supervisor and workers alike."""
        workers = self.workers if number == signal.SIGKILL and self.process.poll() is None else []
        for pid in (self.process.pid, *workers) if self.process.returncode is None else ():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)
        code = self.process.wait(15)
        while any(is_alive(pid) for pid in workers):
            time.sleep(0.001)
        if self.process.stdout is not None:
            self.process.stdout.close()
        return code


def is_alive(pid: int) -> bool:
    """Whether any thread of a process runs, and so may hold its sockets.

    One that ended is listed until whoever inherited it takes note, and its first thread may be a zombie before the
    others are gone.
    """
    try:
        is_zombie = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
        return not is_zombie or len(list(Path(f"/proc/{pid}/task").iterdir())) > 1
    except OSError:
        return False


def start_server(settings: ServerSettings, stderr: Path, script: Path | None = None) -> Running:
    program = ["-m", "shipworthy.serving.server"] if script is None else [str(script)]
    command = [sys.executable, *program, "--settings", msgspec.json.encode(settings).decode()]
    with open(stderr, "ab") as log:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True)
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line:
        process.wait(10)
        process.stdout.close()
        raise RuntimeError(f"the server ended with {process.returncode}: {stderr.read_text()}")
    said = json.loads(line)
    host, _, port = said["address"].partition("://")[2].rpartition(":")
    return Running(process, host, int(port), stderr, grpc=said.get("grpc", ""))


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


@pytest.fixture
def start(place: Place, tmp_path: Path) -> Iterator[Callable[..., Running]]:
    running: list[Running] = []

    def start(script: Path | None = None, **changes: Any) -> Running:
        running.append(start_server(place.settings(**changes), tmp_path / "stderr", script))
        return running[-1]

    yield start
    for server in running:
        server.stop(signal.SIGKILL)


@pytest.fixture(scope="module")
def shared_place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    place = Place(tmp_path_factory.mktemp("shared"))
    place.deploy(place.publish(1))
    return place


@pytest.fixture(scope="module")
def server(shared_place: Place) -> Iterator[Running]:
    """One server with release `loans:1` for a whole test file."""
    running = start_server(shared_place.settings(), shared_place.root / "stderr")
    yield running
    running.stop(signal.SIGKILL)
