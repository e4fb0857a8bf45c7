"""Traffic: which releases answer in an environment, with which share; in the ledger, then in the server's file.

The bundle is written first, then the ledger, then the signed deployment file: a stop in between leaves the old
deployment serving, and `repair` writes the file that the ledger knows.
"""

from collections.abc import Sequence

import msgspec

from shipworthy.bundle.deployment import bundle_path, read_deployment, write_bundle, write_deployment
from shipworthy.bundle.format import DeployedRelease, Deployment
from shipworthy.bundle.verify import PAYLOAD, RELEASE
from shipworthy.kernel.digest import digest_json
from shipworthy.kernel.errors import IntegrityError, NotFoundError
from shipworthy.ledger.events import Event
from shipworthy.security.keys import load_public_keys
from shipworthy.workflows.layout import Project
from shipworthy.workflows.project import Parts


def set_traffic(
    parts: Parts,
    actor: str,
    rule: str,
    environment: str,
    releases: Sequence[DeployedRelease],
    *,
    unit: str | None = None,
    also: Sequence[Event] = (),
    salt_of: int | None = None,
    reason: str | None = None,
) -> int:
    """Record the next deployment together with the events `also`, all or none, then write the server's file.

    Args:
        parts: of the project.
        actor: who does it.
        rule: that allows it.
        environment: whose traffic.
        releases: with their shares; the growing one first, so that growing moves no caller away from it.
        unit: what sticks; as before by default.
        also: recorded in the same transaction.
        salt_of: number of a new rollout, which parts the callers anew; as before by default.
        reason: kept with the deployment.

    Raises:
        ConflictError: somebody else deployed meanwhile; nothing was changed.
    """
    live = parts.project.live(environment)
    for release in releases:
        copy_bundle(parts.project, environment, release.digest)
    current = parts.ledger.current_deployment(environment)
    generation = 1 if current is None else int(current["generation"]) + 1
    deployment = Deployment(
        system=releases[0].release.rpartition(":")[0],
        environment=environment,
        generation=generation,
        salt=_salt(environment, salt_of, releases) if current is None or salt_of is not None else str(current["salt"]),
        releases=tuple(releases),
        unit=unit or ("subject" if current is None else current.get("unit", "subject")),  # type: ignore[arg-type]
    )
    node = f"deployment:{environment}:{generation}"
    links = [{"parent": f"release:{item.release}", "relation": "deployed", "child": node} for item in releases]
    body = {**msgspec.to_builtins(deployment), "links": links} | ({} if reason is None else {"reason": reason})
    parts.ledger.append_all([*also, Event("deployment.set", node, actor, body, rule)])
    write_deployment(live, deployment, parts.key)
    return generation


def repair(parts: Parts, environment: str, *, anew: bool = False) -> bool:
    """Write the deployment that the ledger knows where the server's file is another; whether it was written.

    A machine that stopped between ledger and file is carried on by this. With `anew` it is written whatever the file
    says, so that the key that is active now has signed it.
    """
    current = parts.ledger.current_deployment(environment)
    if current is None or (not anew and live_generation(parts.project, environment) == current["generation"]):
        return False
    known = {name: current[name] for name in Deployment.__struct_fields__ if name in current}
    deployment = msgspec.convert(known, Deployment)
    for release in deployment.releases:
        copy_bundle(parts.project, environment, release.digest)
    write_deployment(parts.project.live(environment), deployment, parts.key)
    return True


def live_generation(project: Project, environment: str) -> int | None:
    """The generation that a server of the environment would read; None if it would read none."""
    try:
        return read_deployment(project.live(environment), load_public_keys(project.public_keys)).generation
    except (NotFoundError, IntegrityError):
        return None


def copy_bundle(project: Project, environment: str, digest: str) -> None:
    """Put a release's bundle below `live/ENV`, durable before it returns."""
    source, live = bundle_path(project.releases, digest), project.live(environment)
    try:
        payload = {file.name: file.read_bytes() for file in (source / PAYLOAD).iterdir()}
        companions = {
            file.name: file.read_bytes() for file in source.iterdir() if file.is_file() and file.name != RELEASE
        }
        written = write_bundle(live, (source / RELEASE).read_bytes(), payload, companions)
    except FileNotFoundError as error:
        raise NotFoundError(f"{error.filename} is missing; restore the release's bundle from a copy") from None
    if written != bundle_path(live, digest):
        raise IntegrityError(f"{source} is not the bundle of {digest}; run `shipworthy verify`")


def _salt(environment: str, number: int | None, releases: Sequence[DeployedRelease]) -> str:
    """Parts the callers of each rollout anew, and the same rollout of the same payloads always alike."""
    return digest_json([environment, number, [release.payload for release in releases]])[7:23]
