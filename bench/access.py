"""What it costs to ask who may: the data plane's gate for each request, the control plane's decision for each act.

`python bench/access.py [--calls N] [--rounds R]` prints us per call, the median of the rounds.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

from shipworthy.bundle.format import AccessToken
from shipworthy.security.access import Principal, Target, decide
from shipworthy.security.tokens import mint_token
from shipworthy.serving.gate import Gate
from shipworthy.serving.protocol import Exchange

GOALS_US = {"gate, token seen before": 1.0, "decision, allowed": 20.0, "decision, denied": 20.0}


def make_gate(tokens: int, **changes: Any) -> tuple[Gate, list[bytes]]:
    minted = [mint_token(number.to_bytes(32)) for number in range(tokens)]
    scopes = ("predict:loans", "tell:loans")
    gate = Gate(time.time, time.monotonic)
    gate.replace(
        "loans",
        [
            AccessToken(name=f"t{n}", hash=digest, scopes=scopes, expires=2e9, principal=f"p{n}", **changes)
            for n, (_, digest) in enumerate(minted)
        ],
    )
    return gate, [b"Bearer " + token.encode() for token, _ in minted]


def exchange_with(header: bytes) -> Exchange:
    exchange = Exchange(SimpleNamespace(address="192.0.2.1"), 0.0)  # type: ignore[arg-type]
    exchange.headers = {b"host": b"localhost", b"authorization": header}
    return exchange


def cases() -> dict[str, Callable[[], object]]:
    gate, headers = make_gate(1000)
    limited, limited_headers = make_gate(1, per_second=1e9, per_day=10**9)
    known, unknown, metered = map(exchange_with, (headers[500], b"Bearer guess", limited_headers[0]))
    named = Gate(time.time, time.monotonic, hosts=("models.example.com",))

    def first_time() -> None:
        gate._known.clear()
        gate.check_caller(known, "predict")

    def charged() -> None:
        limited.check_caller(metered, "predict")
        limited.charge(metered, 1)

    engineer = Principal("ruth", frozenset({"ml-engineer", "risk"}), frozenset({"loans", "cards"}))
    target = Target("loans", "production")
    assert decide(engineer, "deploy", target).allowed
    return {
        "gate, token seen before": lambda: gate.check_caller(known, "predict"),
        "gate, with rate and quota": charged,
        "gate, token not seen before": first_time,
        "gate, unknown token": lambda: gate.check_caller(unknown, "predict"),
        "gate, name of the server": lambda: named.check_host(known),
        "decision, allowed": lambda: decide(engineer, "deploy", target),
        "decision, denied": lambda: decide(engineer, "user add", target),
        "an empty call": lambda: None,
    }


def measure(call: Callable[[], object], calls: int) -> float:
    """Microseconds for each call."""
    began = time.perf_counter()
    for _ in range(calls):
        call()
    return (time.perf_counter() - began) / calls * 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--calls", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=7)
    arguments = parser.parse_args()
    print(f"{'':30}{'us per call':>12}{'goal':>8}")
    for name, call in cases().items():
        took = statistics.median(measure(call, arguments.calls) for _ in range(arguments.rounds))
        goal = GOALS_US.get(name)
        print(f"{name:30}{took:>12.2f}{'' if goal is None else f'{goal:g}':>8}")


if __name__ == "__main__":
    main()
