"""Serving one row: our server, guards on and each record on disk, against the same server answering a constant.

`python bench/serving.py [--seconds S] [--rounds R]` prints requests/s, p50 and p99 at 1, 16 and 64 connections, CPU,
memory, the time from start to first answer, and what it costs to ask for a token, to use TLS, to give reasons with each
answer and to tell rows unlike the training rows; with the extra `bench`, also what an expert writes with FastAPI,
uvicorn (uvloop, httptools) and ONNX Runtime on the same model, without guards or records. The server has one core and
the load another, where there are two; `wrk` makes the load where it is installed. Rounds take turns between the servers
and the median counts: compare ratios within one run.
"""

import argparse
import asyncio
import http.client
import json
import math
import os
import shutil
import signal
import ssl
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import lightgbm
import msgspec
import numpy as np
import uvloop
from onnxmltools import convert_lightgbm
from onnxmltools.convert.common.data_types import FloatTensorType

from shipworthy.bundle.deployment import write_access, write_bundle, write_deployment, write_payload
from shipworthy.bundle.format import (
    STATEMENT_MEDIA,
    Access,
    AccessToken,
    Baselines,
    ColumnBaseline,
    DeployedRelease,
    Deployment,
    FeatureField,
    Novelty,
    NoveltyColumn,
    Policy,
    ReleasePredicate,
    ReleaseStatement,
    Schema,
    Subject,
)
from shipworthy.evaluation.processes import family, usage
from shipworthy.kernel.digest import digest_bytes
from shipworthy.security.keys import SigningKey
from shipworthy.security.signing import sign_envelope
from shipworthy.security.tokens import mint_token
from shipworthy.security.vault import Vault
from shipworthy.serving.settings import ServerSettings
from shipworthy.stats.novelty import fit_precision, number_marginal

FEATURES = 23
CONNECTIONS = (1, 16, 64)
MLSERVER_NAME = "MLServer + ONNX Runtime"
TOKEN, TOKEN_HASH = mint_token(bytes(32))
CONSTANT = """
import asyncio, sys, json, uvloop
from shipworthy.serving.heads import Heads
from shipworthy.serving.protocol import Connection
class Constant:
    heads = Heads()
    def admit(self, exchange): return (lambda exchange, body: exchange.respond(200, BODY)), 1 << 20
    def opened(self, connection): return True
    def closed(self, connection): pass
    def responded(self, status): pass
    def hold(self, size_bytes): return True
BODY = b'{"prediction":"1"}'
async def main():
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Connection(Constant(), loop.time), "127.0.0.1", 0)
    print(json.dumps({"address": "http://127.0.0.1:%d" % server.sockets[0].getsockname()[1]}), flush=True)
    await asyncio.Event().wait()
uvloop.run(main())
"""
FASTAPI = """
import json, socket, sys
import numpy as np, onnxruntime, uvicorn
from fastapi import FastAPI
from pydantic import create_model
names = ["f%02d" % i for i in range(23)]
Inputs = create_model("Inputs", **{name: (float, ...) for name in names})
Request = create_model("Request", inputs=(Inputs, ...))
options = onnxruntime.SessionOptions(); options.intra_op_num_threads = 1
session = onnxruntime.InferenceSession(sys.argv[1], options)
app = FastAPI()
@app.post("/v1/systems/bench/predict")
async def predict(request: Request):
    row = np.array([[getattr(request.inputs, name) for name in names]], dtype=np.float32)
    p = session.run(None, {"features": row})[0][0]
    return {"prediction": str(int(p[1] > 0.5)), "probability": {"0": float(p[0]), "1": float(p[1])}}
sock = socket.socket(); sock.bind(("127.0.0.1", 0)); sock.listen(1024)
print(json.dumps({"address": "http://127.0.0.1:%d" % sock.getsockname()[1]}), flush=True)
config = uvicorn.Config(app, loop="uvloop", http="httptools", workers=1, log_level="error", access_log=False)
uvicorn.Server(config).run(sockets=[sock])
"""
MLSERVER = """
import json
import numpy as np, onnxruntime
from mlserver import MLModel
from mlserver.types import InferenceResponse, ResponseOutput
class OnnxModel(MLModel):
    async def load(self):
        options = onnxruntime.SessionOptions(); options.intra_op_num_threads = 1
        self._session = onnxruntime.InferenceSession(self.settings.parameters.uri, options)
        return True
    async def predict(self, payload):
        tensor = payload.inputs[0]
        rows = np.array(tensor.data.root, dtype=np.float32).reshape(tensor.shape)
        p = self._session.run(None, {"features": rows})[0]
        output = ResponseOutput(name="probabilities", shape=list(p.shape), datatype="FP32", data=p.ravel().tolist())
        return InferenceResponse(model_name=self.name, outputs=[output])
"""
START_MLSERVER = """
import json, os, socket, subprocess, sys, time, urllib.request
ports = []
for _ in range(3):
    with socket.socket() as free: free.bind(("127.0.0.1", 0)); ports.append(free.getsockname()[1])
settings = {"host": "127.0.0.1", "http_port": ports[0], "grpc_port": ports[1], "metrics_port": ports[2]}
settings |= {"parallel_workers": 0, "debug": False, "use_structured_logging": False, "load_models_at_startup": True}
os.chdir(sys.argv[1]); json.dump(settings, open("settings.json", "w"))
words = [sys.executable, "-c", "from mlserver.cli import main; main()", "start", "."]
server = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
while server.poll() is None:
    try: urllib.request.urlopen("http://127.0.0.1:%d/v2/models/bench/ready" % ports[0]); break
    except OSError: time.sleep(0.05)
print(json.dumps({"address": "http://127.0.0.1:%d" % ports[0]}), flush=True)
server.wait()
"""
WRK = """
wrk.method = "POST"
wrk.headers["content-type"] = "application/json"
wrk.headers["authorization"] = "Bearer %s"
wrk.body = [==[%s]==]
function done(summary, latency, requests)
  local errors = summary.errors
  io.write(string.format('{"requests": %%d, "us": %%d, "p50": %%d, "p99": %%d, "bad": %%d}',
    summary.requests, summary.duration, latency:percentile(50), latency:percentile(99),
    errors.connect + errors.read + errors.write + errors.status + errors.timeout))
end
"""


@dataclass
class Result:
    """What one number of connections gave."""

    rate: float
    p50_ms: float
    p99_ms: float
    cpu_us: float  # of the server, for each request


def build_model() -> bytes:
    chance = np.random.default_rng(7)
    rows = chance.normal(size=(5000, FEATURES)).astype(np.float32)
    truth = (rows[:, :5].sum(axis=1) + chance.normal(size=5000) > 0).astype(int)
    booster = lightgbm.LGBMClassifier(n_estimators=100, num_leaves=31, n_jobs=1, verbose=-1).fit(rows, truth)
    model = convert_lightgbm(
        booster, initial_types=[("features", FloatTensorType([None, FEATURES]))], zipmap=False, target_opset=15
    )
    del model.graph.output[0]  # the labels
    name = model.graph.output[0].name
    for node in model.graph.node:
        node.output[:] = ["probabilities" if output == name else output for output in node.output]
        node.input[:] = ["probabilities" if output == name else output for output in node.input]
    model.graph.output[0].name = "probabilities"
    return bytes(model.SerializeToString())


def deploy(
    root: Path, model: bytes, durability: str, vault: Vault | None = None, *, reasons: int = 0, told: bool = False
) -> ServerSettings:
    names = tuple(f"f{i:02d}" for i in range(FEATURES))
    schema = Schema(
        system="bench",
        features=tuple(FeatureField(name=name, kind="float", low=-100, high=100) for name in names),
        context=(),
        derived=(),
        columns=names,
    )
    policy = Policy(
        task="binary",
        classes=("0", "1"),
        positive="1",
        threshold=0.5,
        fallback_otherwise="0",
        timeout_s=1.0,
        durability=durability,  # type: ignore[arg-type]
        encryption="off" if vault is None else "at_rest",
        reasons=reasons,
        reasons_always=reasons > 0,
        out_of_distribution="warn" if told else "off",
    )
    columns = tuple(ColumnBaseline(name=name, rows=1, missing=0, reference=0.0) for name in names)
    files = {
        "model.onnx": model,
        "schema.json": msgspec.json.encode(schema),
        "policy.json": msgspec.json.encode(policy),
        "baselines.json": msgspec.json.encode(
            Baselines(columns=columns, novelty=learn_novelty(names) if told else None)
        ),
    }
    key = SigningKey.from_seed("bench", bytes(32))
    key.public.write_public(root / "keys" / "bench.pub")
    payload = write_payload(root / "payload", "bench", "binary", files)
    nothing = digest_bytes(b"")
    statement = ReleaseStatement(
        subject=(Subject(name="bench:1", digest={"sha256": payload.removeprefix("sha256:")}),),
        predicate=ReleasePredicate(
            system="bench",
            version=1,
            payload=payload,
            contract=nothing,
            code=nothing,
            snapshot=nothing,
            run="run",
            verdicts=nothing,
            card=nothing,
            bill_of_materials=nothing,
            author="bench",
            created="2026-01-01T00:00:00Z",
        ),
    )
    release = sign_envelope(msgspec.json.encode(statement), STATEMENT_MEDIA, key)
    live = root / "live" / "local"
    files = {path.name: path.read_bytes() for path in (root / "payload").iterdir()}
    write_bundle(live, release, files, vault=vault)
    deployed = DeployedRelease(release="bench:1", digest=digest_bytes(release), payload=payload, share=1.0)
    write_deployment(
        live,
        Deployment(system="bench", environment="local", generation=1, salt="s", releases=(deployed,)),
        key,
    )
    token = AccessToken(name="bench", hash=TOKEN_HASH, scopes=("predict:bench",), expires=2e9)
    write_access(live, Access(environment="local", generation=1, tokens=(token,)), key)
    return ServerSettings(
        live=str(live), records=str(root / "records" / "local"), keys=str(root / "keys"), port=0, open=True
    )


def learn_novelty(names: tuple[str, ...]) -> Novelty:
    """What tells rows unlike the model's; the one that is asked is not beyond the limit."""
    rows = np.random.default_rng(7).normal(size=(5000, FEATURES)).astype(np.float32)
    marginals = tuple(number_marginal(rows[:, at]) for at in range(FEATURES))
    columns = tuple(NoveltyColumn(name=name, **asdict(one)) for name, one in zip(names, marginals, strict=True))
    precision = tuple(map(tuple, fit_precision(marginals, rows).tolist()))
    return Novelty(columns=columns, precision=precision, limit=1e9, share=0.005, rows=5000)


class Caller(asyncio.Protocol):
    """One connection that sends the next request when the answer has come."""

    def __init__(self, request: bytes, latencies: list[float]) -> None:
        self.request, self.latencies = request, latencies
        self.buffer = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin."""
        self.transport = transport
        self.send()

    def send(self) -> None:
        """Send the next request."""
        self.sent = time.perf_counter()
        self.transport.write(self.request)  # type: ignore[attr-defined]

    def data_received(self, data: bytes) -> None:
        """Note the answer's latency."""
        self.buffer += data
        head, found, body = self.buffer.partition(b"\r\n\r\n")
        if not found:
            return
        assert head.startswith(b"HTTP/1.1 200"), self.buffer
        length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
        if len(body) >= length:
            self.buffer = b""
            self.latencies.append(time.perf_counter() - self.sent)
            self.send()


def make_certificate(root: Path) -> tuple[str, str]:
    """A certificate that vouches for itself, and its key."""
    cert, key = root / "bench.pem", root / "bench.key"
    words = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "60"]
    words += ["-subj", "/CN=localhost", "-keyout", str(key), "-out", str(cert)]
    subprocess.run(words, check=True, capture_output=True)
    key.chmod(0o600)
    return str(cert), str(key)


def unverified() -> ssl.SSLContext:
    """TLS of a caller that believes anybody: what is measured is on this machine."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context


async def load(port: int, request: bytes, connections: int, seconds: float, tls: bool) -> list[float]:
    loop = asyncio.get_running_loop()
    latencies: list[float] = []
    made = [
        await loop.create_connection(
            lambda: Caller(request, latencies), "127.0.0.1", port, ssl=unverified() if tls else None
        )
        for _ in range(connections)
    ]
    await asyncio.sleep(0.3)
    latencies.clear()
    await asyncio.sleep(seconds)
    taken = latencies.copy()
    for transport, _ in made:
        transport.abort()
    return taken


def split_cores() -> tuple[set[int], set[int]] | None:
    """One core for the server and the others for the load, where there are as many."""
    if not hasattr(os, "sched_getaffinity"):
        return None
    first, *others = sorted(os.sched_getaffinity(0))
    return ({first}, set(others)) if others else None


def make_mlserver(root: Path, model: bytes) -> str:
    """A folder that MLServer serves."""
    root.mkdir()
    (root / "model.onnx").write_bytes(model)
    (root / "onnx_model.py").write_text(MLSERVER)
    settings = {"name": "bench", "implementation": "onnx_model.OnnxModel", "parameters": {"uri": "model.onnx"}}
    (root / "model-settings.json").write_text(json.dumps(settings))
    return str(root)


def post(path: str, body: dict[str, Any]) -> bytes:
    """One request as it goes over the wire."""
    content = json.dumps(body).encode()
    head = f"POST {path} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
    head += f"authorization: Bearer {TOKEN}\r\n"
    return f"{head}content-length: {len(content)}\r\n\r\n".encode() + content


def press(port: int, request: bytes, connections: int, seconds: float, tls: bool) -> tuple[float, float, float]:
    """Requests per second, p50 and p99 in seconds."""
    if shutil.which("wrk") is None:
        taken = sorted(uvloop.run(load(port, request, connections, seconds, tls)))
        return len(taken) / seconds, taken[len(taken) // 2], taken[int(len(taken) * 0.99)]
    with tempfile.NamedTemporaryFile("w", suffix=".lua") as script:
        script.write(WRK % (TOKEN, request.partition(b"\r\n\r\n")[2].decode()))
        script.flush()
        path = request.split(b" ", 2)[1].decode()
        address = f"{'https' if tls else 'http'}://127.0.0.1:{port}{path}"
        words = ["wrk", "-t1", f"-c{connections}", f"-d{math.ceil(seconds)}s", "-s", script.name, address]
        done = subprocess.run(words, capture_output=True, text=True, check=True, timeout=seconds + 30)
    found = json.loads(done.stdout[done.stdout.rindex("{") :])
    assert found["bad"] == 0, done.stdout
    return found["requests"] / found["us"] * 1e6, found["p50"] / 1e6, found["p99"] / 1e6


def measure(
    command: list[str], request: bytes, seconds: float, cores: set[int] | None
) -> tuple[dict[int, Result], float, float]:
    if cores is not None:
        command = ["taskset", "-c", ",".join(map(str, cores)), *command]
    started = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        address = json.loads(process.stdout.readline())["address"]
        port, tls = int(address.rpartition(":")[2]), address.startswith("https")
        connection = (
            http.client.HTTPSConnection("127.0.0.1", port, context=unverified())
            if tls
            else http.client.HTTPConnection("127.0.0.1", port)
        )
        body = request.partition(b"\r\n\r\n")[2]
        headers = {"content-type": "application/json", "authorization": f"Bearer {TOKEN}"}
        connection.request("POST", request.split(b" ", 2)[1].decode(), body, headers)
        assert connection.getresponse().status == 200
        first = time.perf_counter() - started
        connection.close()
        results = {}
        for connections in CONNECTIONS:
            before = usage(process.pid).cpu_seconds
            began = time.perf_counter()
            rate, p50, p99 = press(port, request, connections, seconds, tls)
            answered = rate * (time.perf_counter() - began)
            cpu = (usage(process.pid).cpu_seconds - before) / answered
            results[connections] = Result(rate, p50 * 1e3, p99 * 1e3, cpu * 1e6)
        resident = usage(process.pid).memory_bytes / 2**20
    finally:
        end(process)
    return results, first, resident


def end(process: subprocess.Popen[str]) -> None:
    """Kill a server and all that it started."""
    for pid in family(process.pid):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    process.wait()
    if process.stdout is not None:
        process.stdout.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=3.0, help="for each number of connections")
    parser.add_argument("--rounds", type=int, default=3, help="how often each server is measured")
    parser.add_argument("--mlserver", default="", help="a Python with mlserver and onnxruntime: measured too")
    parser.add_argument("--only", default="", help="words in the names of the servers to measure")
    arguments = parser.parse_args()
    seconds = arguments.seconds
    values = [round(i * 0.37 - 3, 2) for i in range(FEATURES)]
    request = post("/v1/systems/bench/predict", {"inputs": {f"f{i:02d}": value for i, value in enumerate(values)}})
    tensor = {"name": "features", "shape": [1, FEATURES], "datatype": "FP32", "data": values}
    requests = {MLSERVER_NAME: post("/v2/models/bench/infer", {"inputs": [tensor]})}
    root = Path(tempfile.mkdtemp(prefix="bench-"))
    model = build_model()
    (root / "model.onnx").write_bytes(model)
    python = sys.executable
    cert, key = make_certificate(root)
    servers = {"a constant": [python, "-c", CONSTANT]}
    variants: dict[str, dict[str, Any]] = {
        "sync": {},
        "sync, 2 workers": {"workers": 2},
        "sync, token": {"open": False},
        "sync, token, TLS": {"open": False, "tls_cert": cert, "tls_key": key},
        "sync, 3 reasons": {},
        "sync, strange rows": {},
        "async": {},
        "off": {},
    }
    for name, changes in variants.items():
        settings = deploy(
            root / name, model, name.partition(",")[0], reasons=3 if "reasons" in name else 0, told="strange" in name
        )
        settings = msgspec.structs.replace(settings, **changes)
        command = [python, "-m", "shipworthy.serving.server", "--settings", msgspec.json.encode(settings).decode()]
        servers[f"shipworthy, records {name}"] = command
    if find_spec("fastapi") and find_spec("uvicorn"):
        servers["FastAPI + ONNX Runtime"] = [python, "-c", FASTAPI, str(root / "model.onnx")]
    if arguments.mlserver:
        servers[MLSERVER_NAME] = [arguments.mlserver, "-c", START_MLSERVER, make_mlserver(root / "mlserver", model)]
    servers = {name: command for name, command in servers.items() if arguments.only in name}
    cores = split_cores()
    of_server = None if cores is None else cores[0]
    if cores is not None:
        os.sched_setaffinity(0, cores[1])
    rounds = [
        {name: measure(command, requests.get(name, request), seconds, of_server) for name, command in servers.items()}
        for _ in range(arguments.rounds)
    ]
    shutil.rmtree(root)
    report({name: [measured[name] for measured in rounds] for name in servers})


def median(results: list[Result]) -> Result:
    fields = [statistics.median(getattr(result, name) for result in results) for name in Result.__dataclass_fields__]
    return Result(*fields)


def report(measured: dict[str, list[tuple[dict[int, Result], float, float]]]) -> None:
    print(f"{'':37}{'req/s at 1 / 16 / 64':>24}{'p50 ms':>24}{'p99 ms':>28}{'CPU us/req':>20}{'first s':>9}{'MB':>6}")
    rates = {}
    for name, rounds in measured.items():
        results = {c: median([one[0][c] for one in rounds]) for c in CONNECTIONS}
        first, resident = (statistics.median(one[at] for one in rounds) for at in (1, 2))  # type: ignore[type-var]
        rates[name] = results
        row = [
            " / ".join(f"{results[c].rate:,.0f}" for c in CONNECTIONS),
            " / ".join(f"{results[c].p50_ms:.2f}" for c in CONNECTIONS),
            " / ".join(f"{results[c].p99_ms:.2f}" for c in CONNECTIONS),
            " / ".join(f"{results[c].cpu_us:.0f}" for c in CONNECTIONS),
        ]
        print(f"{name:37}{row[0]:>24}{row[1]:>24}{row[2]:>28}{row[3]:>20}{first:>9.2f}{resident:>6.0f}")
    ours = rates.get("shipworthy, records sync")
    for name, results in rates.items():
        if ours is not None and results is not ours:
            ratios = " / ".join(f"{ours[c].rate / results[c].rate:.2f}" for c in CONNECTIONS)
            shares = " / ".join(f"{ours[c].cpu_us / results[c].cpu_us:.2f}" for c in CONNECTIONS)
            print(f"records sync : {name:37} requests/s {ratios:>20}   CPU per request {shares:>20}")


if __name__ == "__main__":
    main()
