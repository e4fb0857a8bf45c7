"""Deploy: a release to the environment `local`; its bundle first, then the signed deployment file."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from shipworthy.bundle.deployment import bundle_path, write_bundle, write_deployment
from shipworthy.bundle.format import DeployedRelease, Deployment
from shipworthy.bundle.verify import PAYLOAD, RELEASE
from shipworthy.kernel.errors import IntegrityError
from shipworthy.ledger.events import Event
from shipworthy.workflows.project import Parts


def deploy_local(parts: Parts, system: str, released: Mapping[str, Any], current: Mapping[str, Any] | None) -> int:
    """Give all of local's traffic to a release; its bundle first, then the signed deployment file."""
    live = parts.project.live("local")
    source = bundle_path(parts.project.releases, released["digest"])
    copy_bundle(source, live, released["digest"])
    generation = 1 if current is None else int(current["generation"]) + 1
    deployed = DeployedRelease(
        release=released["release"], digest=released["digest"], payload=released["payload"], share=1.0
    )
    deployment = Deployment(
        system=system,
        environment="local",
        generation=generation,
        salt=parts.entropy(8).hex() if current is None else str(current["salt"]),
        releases=(deployed,),
    )
    node = f"deployment:local:{generation}"
    body = {
        **msgspec.to_builtins(deployment),
        "links": [{"parent": f"release:{released['release']}", "relation": "deployed", "child": node}],
    }
    parts.ledger.append(Event("deployment.set", node, parts.actor, body))
    write_deployment(live, deployment, parts.key)
    return generation


def write_local(parts: Parts, current: Mapping[str, Any]) -> None:
    """Write the deployment that the ledger knows, which a stopped or damaged machine did not."""
    live = parts.project.live("local")
    deployment = msgspec.convert({key: value for key, value in current.items() if key != "links"}, Deployment)
    for release in deployment.releases:
        copy_bundle(bundle_path(parts.project.releases, release.digest), live, release.digest)
    write_deployment(live, deployment, parts.key)


def copy_bundle(source: Path, live: Path, digest: str) -> None:
    """Put a bundle below `live/ENV`, durable before it returns."""
    payload = {file.name: file.read_bytes() for file in (source / PAYLOAD).iterdir()}
    companions = {file.name: file.read_bytes() for file in source.iterdir() if file.is_file() and file.name != RELEASE}
    written = write_bundle(live, (source / RELEASE).read_bytes(), payload, companions)
    if written != bundle_path(live, digest):
        raise IntegrityError(f"{source} is not the bundle of {digest}; run `shipworthy verify`")
