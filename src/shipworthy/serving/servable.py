"""A release that is loaded: decoder, policy and model in one place, ready to answer."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from shipworthy.bundle.format import Policy, Schema
from shipworthy.bundle.verify import VerifiedBundle, VerifiedPayload
from shipworthy.kernel.errors import IntegrityError
from shipworthy.serving.breaker import Breaker
from shipworthy.serving.decode import Reference, RequestDecoder
from shipworthy.serving.novelty import Sentinel, load_sentinel
from shipworthy.serving.pace import MAX_RUN_ROWS, Pace
from shipworthy.serving.policy import decide
from shipworthy.serving.runtimes.runtime import Runtime

WARM_ROWS = (1, MAX_RUN_ROWS)  # smallest and largest run: allocates what the runtime keeps


@dataclass(frozen=True, slots=True, eq=False)
class Servable:
    """One release in memory."""

    release: str  # `mortgage-approval:7`
    digest: str  # of release.json
    system: str
    version: str
    schema: Schema
    policy: Policy
    decoder: RequestDecoder
    runtime: Runtime
    references: tuple[Reference, ...]  # for reasons
    pace: Pace
    sentinel: Sentinel | None = None  # where the policy asks what is unlike the training rows
    breaker: Breaker = field(default_factory=Breaker)  # kept through switches, as the release is


def load_servable(bundle: VerifiedBundle, make_runtime: Callable[[VerifiedPayload], Runtime]) -> Servable:
    """Load and warm a verified bundle.

    Raises:
        IntegrityError: schema, policy and model do not fit together.
    """
    return make_servable(bundle.payload, bundle.release, bundle.digest, make_runtime)


def make_servable(
    payload: VerifiedPayload, release: str, digest: str, make_runtime: Callable[[VerifiedPayload], Runtime]
) -> Servable:
    """Load and warm a verified payload under a release's name.

    Raises:
        IntegrityError: schema, policy and model do not fit together.
    """
    decoder = RequestDecoder(payload.schema, payload.policy.fallback_rules, payload.lookups)
    runtime = make_runtime(payload)
    pace = _warm(runtime, payload)
    sentinel = load_sentinel(payload.baselines.novelty, payload.schema)
    if sentinel is None and payload.policy.out_of_distribution != "off":
        raise IntegrityError("The payload's policy asks for what is out of distribution; its baselines cannot tell.")
    return Servable(
        release=release,
        digest=digest,
        system=payload.schema.system,
        version=release.rpartition(":")[2],
        schema=payload.schema,
        policy=payload.policy,
        decoder=decoder,
        runtime=runtime,
        pace=pace,
        sentinel=None if payload.policy.out_of_distribution == "off" else sentinel,
        references=decoder.find_references({column.name: column.reference for column in payload.baselines.columns}),
    )


def _warm(runtime: Runtime, payload: VerifiedPayload) -> Pace:
    """How fast it is, of runs on the reference row."""
    pace = Pace(payload.policy.timeout_s)
    references = {column.name: column.reference for column in payload.baselines.columns}
    row = [references.get(name) for name in payload.schema.columns]
    for rows in WARM_ROWS:
        matrix = np.tile(np.array([0.0 if value is None else value for value in row], dtype=np.float32), (rows, 1))
        began = time.monotonic()
        try:
            outputs = runtime.run(matrix)
        except Exception as error:  # noqa: BLE001 (whatever a model raises: the release is not used)
            raise IntegrityError(f"The payload's model fails on its reference row: {type(error).__name__}.") from None
        if len(decide(payload.policy, outputs, rows).valid) != rows:
            raise IntegrityError("The payload's policy does not fit its model.")
        pace.learn(rows, (time.monotonic() - began) * (1 + len(row) if payload.policy.reasons_always else 1))
    return pace
