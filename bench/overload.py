"""Five times what the model can do: what the admitted wait, how soon the others are told, how soon it is over.

`python -m bench.overload [--seconds S] [--rounds R]` gives the model of bench/serving.py 5 ms a row, and sends requests
when they are due, answered or not: half of what the model can do, five times, and half again. They come by chance
(Poisson); latency counts from the time at which a request was due. With the extra `bench` the same is done to
FastAPI + ONNX Runtime. The server has one core, the load another.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections import Counter
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import msgspec
import numpy as np
from bench.serving import FASTAPI, FEATURES, build_model, deploy, end, post, split_cores

from shipworthy.evaluation.load import Load, drive

ROW_S = 0.005
CAPACITY = 1 / ROW_S
SETTLED = 2.0  # times the usual p99: what is slower is not over it yet
TIMEOUT_S = 3.0  # to wait for answers after the last request
SLOW = """
import sys, time
from shipworthy.serving import server, worker_process
from shipworthy.serving.runtimes.onnx import OnnxRuntime
class Slow(OnnxRuntime):
    def __init__(self, payload): super().__init__(payload.model)
    def run(self, matrix):
        time.sleep(0.005 * len(matrix))
        return super().run(matrix)
if "--line" in sys.argv: sys.exit(worker_process.main(Slow))
sys.exit(server.main([__file__]))
"""


@dataclass
class Result:
    """What one round saw; milliseconds where nothing else is said."""

    usual_p99: float  # of the admitted, half of capacity being offered
    usual_refused: float  # percent
    answered: float  # requests a second, five times being offered
    admitted_p99: float
    refused_p99: float
    refused_worst: float
    recovered_s: float


SHOWN = {
    "usual_p99": "half: p99 of the admitted, ms",
    "usual_refused": "half: refused, %",
    "answered": "five times: answered, requests/s",
    "admitted_p99": "five times: p99 of the admitted, ms",
    "refused_p99": "five times: p99 of refusals, ms",
    "refused_worst": "five times: longest refusal, ms",
    "recovered_s": "half again: as usual after, s",
}


def p99(values: "np.typing.NDArray[np.float64]") -> float:
    return float(np.quantile(values, 0.99, method="higher")) if len(values) else float("nan")


def measure(
    command: list[str], request: bytes, seconds: float, cores: set[int] | None, seed: int
) -> tuple[Result, Counter[int]]:
    if cores is not None:
        command = ["taskset", "-c", ",".join(map(str, cores)), *command]
    chance = np.random.default_rng(seed)
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        port = int(json.loads(process.stdout.readline())["address"].rpartition(":")[2])

        def send(times: float, how_long_s: float) -> Load:
            rate = times * CAPACITY
            requests = [request] * int(rate * how_long_s)
            return drive(("127.0.0.1", port), requests, rate=rate, timeout_s=TIMEOUT_S, chance=chance)

        send(0.5, seconds / 4)
        usual = send(0.5, seconds)
        crowd = send(5, seconds)
        after = send(0.5, seconds)
    finally:
        end(process)
    usual_p99 = p99(usual.latencies_ms[usual.statuses == 200])
    admitted = crowd.statuses == 200
    refused = crowd.replied_ms[crowd.statuses == 503]
    late = np.flatnonzero(after.latencies_ms > SETTLED * usual_p99)
    result = Result(
        usual_p99,
        float((usual.statuses != 200).mean() * 100),
        float(admitted.sum()) / seconds,
        p99(crowd.latencies_ms[admitted]),
        p99(refused),
        float(refused.max()) if len(refused) else float("nan"),
        float(late[-1] + 1) / (0.5 * CAPACITY) if len(late) else 0.0,
    )
    return result, Counter(crowd.statuses.tolist())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=8.0, help="for each load")
    parser.add_argument("--rounds", type=int, default=3, help="how often each server is measured")
    arguments = parser.parse_args()
    request = post("/v1/systems/bench/predict", {"inputs": {f"f{i:02d}": 0.5 for i in range(FEATURES)}})
    root = Path(tempfile.mkdtemp(prefix="bench-"))
    model = build_model()
    (root / "model.onnx").write_bytes(model)
    (root / "slow.py").write_text(SLOW)
    settings = msgspec.json.encode(deploy(root, model, "sync")).decode()
    servers = {"shipworthy, records sync": [sys.executable, str(root / "slow.py"), "--settings", settings]}
    if find_spec("fastapi") and find_spec("uvicorn"):
        slow = FASTAPI.replace("import json,", "import time, json,").replace(
            "    p = session", f"    time.sleep({ROW_S})\n    p = session"
        )
        servers["FastAPI + ONNX Runtime"] = [sys.executable, "-c", slow, str(root / "model.onnx")]
    cores = split_cores()
    if cores is not None:
        os.sched_setaffinity(0, cores[1])
    rounds = [
        {
            name: measure(command, request, arguments.seconds, cores and cores[0], seed)
            for name, command in servers.items()
        }
        for seed in range(arguments.rounds)
    ]
    shutil.rmtree(root)
    print(
        f"requests/s offered: {CAPACITY / 2:.0f}, {5 * CAPACITY:.0f}, {CAPACITY / 2:.0f}; the model does {CAPACITY:.0f}"
    )
    middles = {name: median([measured[name][0] for measured in rounds]) for name in servers}
    print(f"{'':44}" + "".join(f"{name:>28}" for name in servers))
    for field, words in SHOWN.items():
        print(f"{words:44}" + "".join(f"{getattr(middle, field):>28.2f}" for middle in middles.values()))
    ratios = [middle.admitted_p99 / middle.usual_p99 for middle in middles.values()]
    print(f"{'p99 of the admitted, five times : half':44}" + "".join(f"{ratio:>28.2f}" for ratio in ratios))
    for name in servers:
        statuses = sum((measured[name][1] for measured in rounds), Counter())
        print(
            f"{name}: answers by status, five times being offered (0: none in time): {dict(sorted(statuses.items()))}"
        )


def median(results: list[Result]) -> Result:
    return Result(*(statistics.median(getattr(each, field) for each in results) for field in SHOWN))


if __name__ == "__main__":
    main()
