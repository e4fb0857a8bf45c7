"""`serve`: what is deployed, verified, with an example of a request. Needs no ledger."""

import random
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from itertools import islice
from typing import Any

from msgspec import UNSET

from shipworthy.bundle.deployment import bundle_path, read_deployment
from shipworthy.bundle.format import ColumnBaseline, ContextField, FeatureField, Schema
from shipworthy.bundle.verify import VerifiedBundle, VerifiedPayload, verify_bundle
from shipworthy.contract.patterns import Pattern
from shipworthy.kernel.errors import NotFoundError
from shipworthy.security.keys import load_public_keys
from shipworthy.serving.decode import InvalidRequestError, RequestDecoder
from shipworthy.serving.lookups import EPOCH
from shipworthy.workflows.layout import Project

EXAMPLE_TRIES = 2000  # of rows, where the middle one is refused
LARGEST = 2.0**62  # that an int and a float32 can hold

Field = FeatureField | ContextField


@dataclass(frozen=True, slots=True)
class Target:
    """What a server of an environment will answer for."""

    system: str
    release: str
    example: dict[str, Any]  # a request that is answered
    workers: int = 1  # as the contract declares
    worker_memory_bytes: int = 0  # 0: no limit
    needs_spool: bool = False  # records wait there whose disk refuses

    @property
    def path(self) -> str:
        """The plain endpoint."""
        return f"/v1/systems/{self.system}/predict"


def find_target(project: Project, environment: str) -> Target:
    """What is deployed in `environment`, verified.

    Raises:
        NotFoundError: nothing is.
        IntegrityError: what is deployed does not hold.
    """
    bundle = find_bundle(project, environment)
    policy = bundle.payload.policy
    return Target(
        bundle.payload.schema.system,
        bundle.release,
        example_request(bundle),
        policy.workers,
        policy.worker_memory_bytes,
        policy.when_full == "spool",
    )


def find_bundle(project: Project, environment: str) -> VerifiedBundle:
    """The release that is deployed in `environment`, verified; of several, the first.

    Raises:
        NotFoundError: nothing is.
        IntegrityError: what is deployed does not hold.
    """
    live = project.live(environment)
    keys = load_public_keys(project.public_keys)
    try:
        deployment = read_deployment(live, keys)
    except NotFoundError:
        raise NotFoundError(f"nothing is deployed in {environment}; run `shipworthy ship` first") from None
    if not deployment.releases:
        raise NotFoundError(f"nothing is deployed in {environment}; run `shipworthy ship` first")
    return verify_bundle(bundle_path(live, deployment.releases[0].digest), keys, vault=project.vault)


def example_request(bundle: VerifiedBundle) -> dict[str, Any]:
    """A request that the server answers: in the middle of what the model was trained on, where rules allow it.

    Where checks or ranges of derived columns refuse the middle, rows of values that training saw are tried, the same
    ones each time.
    """
    payload = bundle.payload
    decoder = RequestDecoder(payload.schema, payload.policy.fallback_rules, payload.lookups)
    columns = {column.name: column for column in payload.baselines.columns}
    middle = _request(payload.schema, lambda field: _middle(field, columns.get(field.name)))
    if not decoder.lookups and _is_answered(decoder, middle):
        return middle
    return next(_seen_requests(payload, decoder), middle)


def example_requests(bundle: VerifiedBundle, count: int) -> list[dict[str, Any]]:
    """Up to `count` requests of values that training saw, at least one; the same ones each time."""
    payload = bundle.payload
    decoder = RequestDecoder(payload.schema, payload.policy.fallback_rules, payload.lookups)
    return list(islice(_seen_requests(payload, decoder), count)) or [example_request(bundle)]


def _seen_requests(payload: VerifiedPayload, decoder: RequestDecoder) -> Iterator[dict[str, Any]]:
    """Requests that are answered, of values that training saw."""
    columns = {column.name: column for column in payload.baselines.columns}
    chance = random.Random(0)  # noqa: S311 (an example is no secret)
    for _ in range(EXAMPLE_TRIES):
        request = _request(payload.schema, lambda field: _seen(field, columns.get(field.name), chance))
        _set_keys(request, decoder, chance)
        if _is_answered(decoder, request):
            yield request


def _set_keys(request: dict[str, Any], decoder: RequestDecoder, chance: random.Random) -> None:
    """Let the request look up what is there, at a moment when all of it was known."""
    names = {field.name for field in decoder.schema.context}
    for lookup in decoder.lookups:
        if lookup:
            key = chance.choice(lookup.keys)
            for name, value in zip(lookup.field.key, key if isinstance(key, tuple) else (key,), strict=True):
                request.setdefault("context" if name in names else "inputs", {})[name] = value
    known = [lookup.known_us for lookup in decoder.lookups if lookup.known_us is not None]
    clock = next((field.name for field in decoder.schema.context if field.role == "time"), None)
    if known and clock is not None:
        request.setdefault("context", {})[clock] = (
            f"{EPOCH + timedelta(microseconds=max(known) + 999_999):%Y-%m-%dT%H:%M:%SZ}"
        )


def _is_answered(decoder: RequestDecoder, request: dict[str, Any]) -> bool:
    try:
        decoder.decode_object(request)
    except InvalidRequestError:
        return False
    return True


def _request(schema: Schema, draw: Callable[[Field], Any]) -> dict[str, Any]:
    read = " ".join(column.expression for column in schema.derived)
    needed = [field for field in schema.context if field.required or re.search(rf"\b{field.name}\b", read)]
    inputs = {field.name: draw(field) for field in schema.asked}
    context = {field.name: draw(field) for field in needed}
    request: dict[str, Any] = {"inputs": {name: value for name, value in inputs.items() if value is not None}}
    return request | ({"context": context} if context else {})


def _middle(field: Field, seen: ColumnBaseline | None) -> Any:
    reference = None if seen is None else seen.reference
    if reference is None and isinstance(field, FeatureField) and field.missing == "allow":
        return None
    return _value(field, reference or 0.0, "2026-01-01T12:00:00Z")


def _seen(field: Field, seen: ColumnBaseline | None, chance: random.Random) -> Any:
    """Any value that training may have seen."""
    moment = f"2026-{chance.randint(1, 12):02}-{chance.randint(1, 28):02}T{chance.randint(0, 23):02}:00:00Z"
    low, high = field.low, field.high
    number = chance.uniform(0.0 if low is None else low, (low or 0.0) + 1.0 if high is None else high)
    if field.values:
        number = chance.randrange(len(field.values))
    elif seen is not None and seen.edges:
        number = chance.choice(seen.edges)
    elif field.kind == "bool":
        number = chance.randrange(2)
    return _value(field, number, moment)


def _value(field: Field, number: float, moment: str) -> Any:
    """`number` as a value of the field, within its bounds; a category's is its code."""
    match field.kind:
        case "category":
            return (field.values or (f"example-{field.name}",))[int(number)]
        case "bool":
            return bool(number)
        case "text" if field.pattern is not UNSET:
            return Pattern(field.pattern).example
        case "text":
            return f"example-{field.name}"
        case "datetime":
            return moment
    low = -LARGEST if field.low is None else field.low
    high = LARGEST if field.high is None else field.high
    number = min(max(number, low), high)
    short = float(f"{number:.6g}")
    return round(number) if field.kind == "int" else short if low <= short <= high else number
