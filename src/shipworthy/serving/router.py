"""Which release answers a request: sticky by subject, else key, else id, as the deployment's shares say."""

import hashlib
from collections.abc import Callable, Sequence
from typing import Literal

import msgspec

from shipworthy.bundle.format import Schema
from shipworthy.serving.decode import RequestDecoder, Sample
from shipworthy.serving.live import LiveState
from shipworthy.serving.servable import Servable

Unit = Literal["subject", "key", "request"]
STICKY: dict[Unit, tuple[str, ...]] = {"subject": ("subject", "key"), "key": ("key",), "request": ()}


def choose_release(shares: Sequence[float], salt: str, unit: str) -> int:
    """The place in `shares` that `unit` falls on; the same unit falls on the same place under one salt.

    Growing a share moves units to it and none away from it, as long as the order stays.

    Args:
        shares: of traffic, each 0 to 1, sum 1.
        salt: of the deployment.
        unit: subject, key or id of the request.

    >>> choose_release([1.0], "s", "anybody")
    0
    """
    digest = hashlib.blake2b(f"{salt}\x00{unit}".encode("utf-8", "surrogatepass"), digest_size=8).digest()
    point = int.from_bytes(digest) / 2**64
    total = 0.0
    for place, share in enumerate(shares):
        total += share
        if point < total:
            return place
    return max(place for place, share in enumerate(shares) if share > 0)


def unit_of(schema: Schema, sample: Sample, declared: Unit) -> str | None:
    """What keeps a request's release: its subject, else its key, else its id, from what is declared on.

    None if it carries none of them.
    """
    for role in STICKY[declared]:
        for place, field in enumerate(schema.context):
            if field.role == role and sample.context is not None:
                value = msgspec.structs.astuple(sample.context)[place]
                if value is not None and value is not msgspec.UNSET:
                    return str(value)
    return sample.id


def route(
    state: LiveState, decode: Callable[[RequestDecoder], Sample], name: Callable[[], str]
) -> tuple[Servable, Sample]:
    """The release that answers a request, and the request in its schema.

    Args:
        state: what is live.
        decode: reads the request by a release's decoder.
        name: of a request that carries nothing to keep its release by; called where traffic is shared.

    Raises:
        InvalidRequestError: with every problem of the request.
    """
    primary, deployment = state.primary, state.deployment
    sample = decode(primary.decoder)
    if len(state.servables) == 1:
        return primary, sample
    unit = unit_of(primary.schema, sample, deployment.unit)
    shares = [release.share for release in deployment.releases]
    servable = state.servables[choose_release(shares, deployment.salt, name() if unit is None else unit)]
    return servable, sample if servable is primary else decode(servable.decoder)
