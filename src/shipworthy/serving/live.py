"""What is live: the two signed files of an environment, and the releases that they name, verified and loaded.

Everything comes from local disk. A file that does not hold is refused and the last good state stands.
"""

import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from shipworthy.bundle.deployment import ACCESS, DEPLOYMENT, bundle_path, read_access, read_deployment
from shipworthy.bundle.format import Access, AccessToken, DeployedRelease, Deployment
from shipworthy.bundle.verify import VerifiedPayload, verify_bundle
from shipworthy.kernel.errors import IntegrityError, NotFoundError, ShipworthyError
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
    make_runtime: Callable[[VerifiedPayload], Runtime],
    last: LiveState | None,
    vault: Vault | None = None,
    *,
    files: Path | None = None,
) -> LiveState:
    """The state that the files on disk describe; releases that `last` holds are not loaded again.

    Args:
        live: `live/ENV`.
        keys: directory of the public keys to believe.
        make_runtime: loads a model.
        last: the state that now answers.
        vault: opens bundles that are sealed, and seals records where a policy asks for it.
        files: directory of the two files, where it is not `live`.

    Raises:
        AccessError: something is or has to be sealed, and the key is not here.
        NotFoundError: nothing is deployed.
        IntegrityError: a file is not what its signer wrote, of another environment, or older than what was seen.
    """
    known = load_public_keys(keys)
    files = files or live
    deployment = read_deployment(files, known)
    if deployment.environment != live.name:
        raise IntegrityError(
            f"{files / DEPLOYMENT} is of environment {deployment.environment}, not {live.name}.", "swapped"
        )
    if not deployment.releases:
        raise NotFoundError(f"{files / DEPLOYMENT} names no release: nothing is deployed there.")
    if last is not None and _goes_back(last.deployment, deployment):
        seen = last.deployment.generation
        raise IntegrityError(
            f"{files / DEPLOYMENT} has generation {deployment.generation}; {seen} was seen already.", "replayed"
        )
    loaded = {} if last is None else {servable.digest: servable for servable in last.servables}
    servables = tuple(
        _load(live, release, deployment, known, make_runtime, loaded, vault) for release in deployment.releases
    )
    if vault is not None and any(servable.policy.encryption == "at_rest" for servable in servables):
        vault.check_seals()  # now rather than at the first record
    access = _load_access(files, live.name, known, last)
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
    make_runtime: Callable[[VerifiedPayload], Runtime],
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


def start_live(
    live: Path, keys: Path, make_runtime: Callable[[VerifiedPayload], Runtime], vault: Vault, good: Path
) -> tuple[LiveState, str | None]:
    """The state that the files on disk describe, or else the last one that a server of this environment answered from.

    Args:
        live: `live/ENV`.
        keys: directory of the public keys to believe.
        make_runtime: loads a model.
        vault: opens bundles that are sealed.
        good: where `keep_good` keeps the files.

    Returns:
        the state, and why it is not that of the files; None if it is.

    Raises:
        As `load_live`, if there is no good state either.
    """
    try:
        return load_live(live, keys, make_runtime, None, vault), None
    except IntegrityError as error:
        try:
            state = load_live(live, keys, make_runtime, None, vault, files=good)
        except ShipworthyError:
            raise error from None
        return state, str(error)


def keep_good(live: Path, signature: Signature, good: Path) -> None:
    """Keep the two files from which a server answers, for one that starts when newer ones do not hold.

    Args:
        live: `live/ENV`.
        signature: of the files that were loaded; if they have changed since, nothing is kept.
        good: where to; made if missing. A disk that refuses costs this copy and nothing else.
    """
    with suppress(OSError):
        good.mkdir(parents=True, exist_ok=True)
        contents = {name: (live / name).read_bytes() for name in (DEPLOYMENT, ACCESS) if (live / name).exists()}
        if read_signature(live) != signature:
            return
        for name, content in contents.items():
            draft = good / f".{name}.{os.getpid()}"
            draft.write_bytes(content)
            os.replace(draft, good / name)


def _load_access(files: Path, environment: str, keys: Mapping[str, PublicKey], last: LiveState | None) -> Access | None:
    try:
        access = read_access(files, keys)
    except NotFoundError:
        return None  # nobody may call
    if access.environment != environment:
        raise IntegrityError(f"{files / ACCESS} is of environment {access.environment}, not {environment}.", "swapped")
    if last is not None and access.generation < last.access_generation:
        raise IntegrityError(
            f"{files / ACCESS} has generation {access.generation}; {last.access_generation} was seen already.",
            "replayed",
        )
    return access


def _stat(path: Path) -> tuple[int, int, int] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return (status.st_ino, status.st_size, status.st_mtime_ns)
