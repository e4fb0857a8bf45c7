"""What is live: the two signed files of an environment, and the releases that they name, verified and loaded.

Everything comes from local disk. A file that does not hold is refused and the last good state stands.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from shipworthy.bundle.deployment import ACCESS, DEPLOYMENT, bundle_path, read_access, read_deployment
from shipworthy.bundle.format import Access, AccessToken, DeployedRelease, Deployment
from shipworthy.bundle.verify import verify_bundle
from shipworthy.kernel.errors import IntegrityError, NotFoundError
from shipworthy.security.keys import PublicKey, load_public_keys
from shipworthy.security.vault import Vault
from shipworthy.serving.runtimes.runtime import Runtime
from shipworthy.serving.servable import Servable, load_servable

Signature = tuple[tuple[int, int, int] | None, ...]


@dataclass(frozen=True, slots=True, eq=False)
class LiveState:
    """One consistent state: a deployment, its releases in memory, and who may call."""

    deployment: Deployment
    servables: tuple[Servable, ...]  # in the order of `deployment.releases`
    access_generation: int  # 0: nobody may call
    tokens: Mapping[str, AccessToken]  # by hash

    @property
    def primary(self) -> Servable:
        """The release with the largest share of traffic."""
        shares = [release.share for release in self.deployment.releases]
        return self.servables[shares.index(max(shares))]


def read_signature(live: Path) -> Signature:
    """What changes when one of the two files is replaced: inode, size and time of each."""
    return tuple(_stat(live / name) for name in (DEPLOYMENT, ACCESS))


def load_live(
    live: Path,
    keys: Path,
    make_runtime: Callable[[bytes], Runtime],
    last: LiveState | None,
    vault: Vault | None = None,
) -> LiveState:
    """The state that the files on disk describe; releases that `last` holds are not loaded again.

    Args:
        live: `live/ENV`.
        keys: directory of the public keys to believe.
        make_runtime: loads a model.
        last: the state that now answers.
        vault: opens bundles that are sealed, and seals records where a policy asks for it.

    Raises:
        AccessError: something is or has to be sealed, and the key is not here.
        NotFoundError: nothing is deployed.
        IntegrityError: a file is not what its signer wrote, of another environment, or older than what was seen.
    """
    known = load_public_keys(keys)
    deployment = read_deployment(live, known)
    if deployment.environment != live.name:
        raise IntegrityError(
            f"{live / DEPLOYMENT} is of environment {deployment.environment}, not {live.name}.", "swapped"
        )
    if not deployment.releases:
        raise NotFoundError(f"{live / DEPLOYMENT} names no release: nothing is deployed there.")
    if last is not None and _goes_back(last.deployment, deployment):
        seen = last.deployment.generation
        raise IntegrityError(
            f"{live / DEPLOYMENT} has generation {deployment.generation}; {seen} was seen already.", "replayed"
        )
    loaded = {} if last is None else {servable.digest: servable for servable in last.servables}
    servables = tuple(
        _load(live, release, deployment, known, make_runtime, loaded, vault) for release in deployment.releases
    )
    if vault is not None and any(servable.policy.encryption == "at_rest" for servable in servables):
        vault.check_seals()  # now rather than at the first record
    access = _load_access(live, known, last)
    return LiveState(
        deployment=deployment,
        servables=servables,
        access_generation=0 if access is None else access.generation,
        tokens={} if access is None else {token.hash: token for token in access.tokens},
    )


def _goes_back(seen: Deployment, found: Deployment) -> bool:
    return found.generation < seen.generation or (found.generation == seen.generation and found != seen)


def _load(
    live: Path,
    release: DeployedRelease,
    deployment: Deployment,
    keys: Mapping[str, PublicKey],
    make_runtime: Callable[[bytes], Runtime],
    loaded: Mapping[str, Servable],
    vault: Vault | None,
) -> Servable:
    if release.digest in loaded:
        return loaded[release.digest]
    directory = bundle_path(live, release.digest)
    bundle = verify_bundle(directory, keys, release.digest, vault)
    if (bundle.release, bundle.payload.digest) != (release.release, release.payload):
        raise IntegrityError(f"{directory} holds {bundle.release}; the deployment names {release.release}.", "swapped")
    if bundle.payload.schema.system != deployment.system:
        raise IntegrityError(
            f"{directory} is of system {bundle.payload.schema.system}, not {deployment.system}.", "swapped"
        )
    return load_servable(bundle, make_runtime)


def _load_access(live: Path, keys: Mapping[str, PublicKey], last: LiveState | None) -> Access | None:
    try:
        access = read_access(live, keys)
    except NotFoundError:
        return None  # nobody may call
    if access.environment != live.name:
        raise IntegrityError(f"{live / ACCESS} is of environment {access.environment}, not {live.name}.", "swapped")
    if last is not None and access.generation < last.access_generation:
        raise IntegrityError(
            f"{live / ACCESS} has generation {access.generation}; {last.access_generation} was seen already.",
            "replayed",
        )
    return access


def _stat(path: Path) -> tuple[int, int, int] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return (status.st_ino, status.st_size, status.st_mtime_ns)
