"""`loadtest`: the deployed release in a server of its own, at the declared peak, and what it takes to hold it."""

import json
import math
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shipworthy.bundle.deployment import bundle_path
from shipworthy.bundle.verify import PAYLOAD, verify_payload
from shipworthy.contract.parse import parse_contract
from shipworthy.contract.types import Contract
from shipworthy.evaluation.budget import served
from shipworthy.evaluation.load import Load, drive, post
from shipworthy.evaluation.processes import usage
from shipworthy.evaluation.sizing import Sizing, propose_size
from shipworthy.kernel.errors import NotFoundError, UsageError
from shipworthy.workflows.layout import CONTRACT_FILE, Project
from shipworthy.workflows.serve import example_requests, find_bundle

DISTINCT = 500  # requests, sent in turn
WINDOW_S = 10.0  # of which each has its own 99th percentile
MAX_RPS, MAX_SECONDS = 20_000.0, 3600.0
STEADY = 1.5  # a window's 99th percentile may exceed the median one's by this factor

Tell = Callable[[float, float], None]  # seconds done, of all


@dataclass(frozen=True, slots=True)
class Window:
    """What callers saw in a part of the time."""

    seconds: float
    rps: float  # really sent
    errors: int  # requests that the model did not answer
    p50_ms: float
    p99_ms: float  # from the intended send time; a request without an answer counts as endless


@dataclass(frozen=True, slots=True)
class LoadReport:
    """How a release held a rate."""

    release: str
    at_rps: float
    workers: int
    windows: tuple[Window, ...]
    requests: int
    errors: int
    p99_ms: float
    cpu_us_per_request: float
    memory_bytes: int
    sizing: Sizing

    @property
    def is_steady(self) -> bool:
        """Whether every request was answered by the model, at the rate asked for, and no window was much slower."""
        slowest = max(window.p99_ms for window in self.windows)
        usual = float(np.median([window.p99_ms for window in self.windows]))
        return self.errors == 0 and slowest <= STEADY * usual and all(w.rps >= 0.9 * self.at_rps for w in self.windows)

    def to_json(self) -> dict[str, Any]:
        """The document that `loadtest --json` prints; an endless latency is null."""
        document = asdict(self) | {"steady": self.is_steady, "p99_ms": _finite(self.p99_ms)}
        for window in document["windows"]:
            window |= {name: _finite(window[name]) for name in ("p50_ms", "p99_ms")}
        return document


def hold_peak(
    project: Project, environment: str, *, rate: float | None, seconds: float, workers: int | None, tell: Tell
) -> LoadReport:
    """Serve what is deployed in `environment` on a port of its own and send it requests as training saw them.

    Args:
        project: whose release.
        environment: where it is deployed; its own server is left alone.
        rate: requests per second; None: `gates.budget.at_rps` of the contract.
        seconds: how long.
        workers: of the server; None: `serving.workers` of the contract.
        tell: told of each window.

    Raises:
        NotFoundError: nothing is deployed.
        IntegrityError: what is deployed does not hold.
        UsageError: a number that cannot be, or no rate is declared.
        UnavailableError: the server does not start, or ends.
    """
    contract = _contract(project)
    rate = _rate(contract, rate)
    if not 1 <= seconds <= MAX_SECONDS:
        raise UsageError(f"--seconds {seconds:g}: a load lasts 1 to {MAX_SECONDS:g} s")
    bundle = find_bundle(project, environment)
    directory = bundle_path(project.live(environment), bundle.digest) / PAYLOAD
    payload = verify_payload(directory, vault=project.vault)
    path = f"/v1/systems/{payload.schema.system}/predict"
    requests = [post(path, json.dumps(each).encode(), {}) for each in example_requests(bundle, DISTINCT)]
    count = payload.policy.workers if workers is None else workers
    timeout_s = payload.policy.timeout_s + 1
    windows: list[Window] = []
    latencies: list[NDArray[np.float64]] = []
    with (
        tempfile.TemporaryDirectory(prefix="shipworthy-load-") as work,
        served(payload, directory, Path(work), workers=count) as server,
    ):
        drive(server.address, requests[:100], rate=min(rate, 100.0), timeout_s=timeout_s)  # warm
        before = usage(server.pid)
        for start in np.arange(0.0, seconds, WINDOW_S).tolist():
            lasts = min(WINDOW_S, seconds - start)
            sent = [requests[number % len(requests)] for number in range(math.ceil(rate * lasts))]
            load = drive(server.address, sent, rate=rate, timeout_s=timeout_s)
            windows.append(_look(load))
            latencies.append(_latencies(load))
            tell(start + lasts, seconds)
        after = usage(server.pid)
    together = np.concatenate(latencies)
    cpu_seconds = after.cpu_seconds - before.cpu_seconds
    price = contract.cost.usd_per_core_hour
    return LoadReport(
        release=bundle.release,
        at_rps=rate,
        workers=count,
        windows=tuple(windows),
        requests=len(together),
        errors=sum(window.errors for window in windows),
        p99_ms=_quantile(together, 0.99),
        cpu_us_per_request=cpu_seconds / len(together) * 1e6,
        memory_bytes=after.memory_bytes,
        sizing=propose_size(rate, cpu_seconds, len(together), after.memory_bytes, count, price),
    )


def _latencies(load: Load) -> NDArray[np.float64]:
    """From the intended send time; endless where the model did not answer."""
    by_model = np.array([b'"source":"model"' in body for body in load.bodies])
    return np.where((load.statuses == 200) & by_model, load.latencies_ms, math.inf)


def _look(load: Load) -> Window:
    latencies = _latencies(load)
    errors = int(np.isinf(latencies).sum())
    return Window(load.seconds, load.rps, errors, _quantile(latencies, 0.5), _quantile(latencies, 0.99))


def _quantile(latencies: NDArray[np.float64], share: float) -> float:
    """An observed one, so that endless ones do not mix with others."""
    return float(np.quantile(latencies, share, method="higher"))


def _contract(project: Project) -> Contract:
    path = project.root / CONTRACT_FILE
    try:
        text = path.read_text()
    except OSError:
        raise NotFoundError(f"{path} is not there; run: shipworthy init") from None
    return parse_contract(text, CONTRACT_FILE)


def _rate(contract: Contract, rate: float | None) -> float:
    budget = contract.gates.budget
    if rate is None:
        if budget is None:
            raise UsageError(f"{CONTRACT_FILE} declares no peak (gates.budget.at_rps); give --rps")
        rate = float(budget.at_rps)
    if not 1 <= rate <= MAX_RPS:
        raise UsageError(f"--rps {rate:g}: 1 to {MAX_RPS:g} requests/s can be sent from one machine")
    return rate


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
