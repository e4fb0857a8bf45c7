"""The last good release: the one that answered before those that answer now, and was not taken back.

A release is taken back by deploying an older one, so only a release that is older than all that answer can be the last
good one. The name of it is kept on the server's disk, for a worker that starts anew.
"""

import os
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import msgspec

from shipworthy.bundle.deployment import read_deployment
from shipworthy.bundle.format import DeployedRelease, Deployment, Policy, Schema
from shipworthy.kernel.errors import ShipworthyError
from shipworthy.security.keys import PublicKey
from shipworthy.serving.servable import Servable

LAST_GOOD = "last-good"  # beside the signed files that were last answered from


@dataclass(frozen=True, slots=True, eq=False)
class LastGood:
    """The last good release, in memory where a policy asks for it."""

    deployed: DeployedRelease
    servable: Servable | None = None  # None: nobody asks for it, or it is refused
    refused: str | None = None  # why it cannot stand in


def version_of(release: str) -> int:
    """The version in a release's name.

    >>> version_of("mortgage-approval:7")
    7
    """
    return int(release.rpartition(":")[2])


def by_share(releases: Iterable[DeployedRelease]) -> tuple[DeployedRelease, ...]:
    """Those that had the most traffic first."""
    return tuple(sorted(releases, key=lambda release: -release.share))


def find_last_good(answered: Iterable[DeployedRelease], deployment: Deployment) -> DeployedRelease | None:
    """The first of those that answered that is older than each release of the deployment; None if there is none.

    Args:
        answered: before, the likeliest first.
        deployment: that answers now.
    """
    oldest = min(version_of(release.release) for release in deployment.releases)
    return next((release for release in answered if version_of(release.release) < oldest), None)


def read_answered(good: Path, keys: Mapping[str, PublicKey], environment: str) -> tuple[DeployedRelease, ...]:
    """What servers of an environment answered from before, as `find_last_good` takes it; nothing if nobody knows.

    Args:
        good: where the files that were last answered from are kept.
        keys: whom to believe.
        environment: of the server.
    """
    answered: tuple[DeployedRelease, ...] = ()
    with suppress(ShipworthyError):
        deployment = read_deployment(good, keys)
        if deployment.environment == environment:
            answered = by_share(deployment.releases)
    with suppress(OSError, ValueError):
        kept = msgspec.json.decode((good / LAST_GOOD).read_bytes(), type=DeployedRelease)
        version_of(kept.release)  # nobody signed this file: what it names is verified when it is loaded
        return (*answered, kept)
    return answered


def keep_last_good(good: Path, last: LastGood | None) -> None:
    """Keep its name and digest below `good`, or that there is none.

    Raises:
        OSError: the disk refuses.
    """
    if last is None:
        (good / LAST_GOOD).unlink(missing_ok=True)
        return
    draft = good / f".{LAST_GOOD}.{os.getpid()}"
    draft.write_bytes(msgspec.json.encode(last.deployed))
    os.replace(draft, good / LAST_GOOD)


def say_unfit(asked: Servable, other: Servable) -> str | None:
    """Why `other` cannot answer for `asked`; None if it can."""
    if asked.policy.task != other.policy.task or not _answers(other.policy) <= _answers(asked.policy):
        return f"{other.release} decides between other actions than {asked.release}"
    theirs = _meanings(other.schema)
    changed = [name for name, meaning in _meanings(asked.schema).items() if theirs.get(name, meaning) != meaning]
    if changed:
        return f"{changed[0]} has another unit or zone in {other.release} than in {asked.release}"
    return None


def _answers(policy: Policy) -> frozenset[str | None]:
    """All that may stand as `decision`; None: any number."""
    named = {policy.actions.get(label, label) for label in policy.classes} | {band.action for band in policy.bands}
    review = set() if policy.review_answer is None else {policy.review_answer}
    return frozenset({*named, *review} if named else {None, *review})


def _meanings(schema: Schema) -> dict[str, tuple[str | None, str | None]]:
    features = {field.name: (field.unit, field.zone) for field in schema.features}
    return features | {field.name: (None, field.zone) for field in schema.context}
