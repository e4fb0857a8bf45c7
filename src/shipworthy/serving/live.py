"""What is live: the two signed files of an environment, and the releases that they name, verified and loaded.

Everything comes from local disk. A file that does not hold is refused and the last good state stands.
"""

import logging
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from shipworthy.bundle.deployment import ACCESS, DEPLOYMENT, bundle_path, read_access, read_deployment
from shipworthy.bundle.format import Access, AccessToken, DeployedRelease, Deployment
from shipworthy.bundle.verify import VerifiedPayload, verify_bundle
from shipworthy.kernel.errors import IntegrityError, NotFoundError, ShipworthyError
from shipworthy.security.keys import PublicKey, load_public_keys
from shipworthy.security.vault import Vault
from shipworthy.serving.last_good import (
    LastGood,
    by_share,
    find_last_good,
    keep_last_good,
    read_answered,
    say_unfit,
    version_of,
)
from shipworthy.serving.runtimes.runtime import Runtime
from shipworthy.serving.servable import Servable, load_servable

_log = logging.getLogger("shipworthy.serving")

Signature = tuple[tuple[int, int, int] | None, ...]


@dataclass(frozen=True, slots=True, eq=False)
class LiveState:
    """One consistent state: a deployment, its releases in memory, and who may call."""

    deployment: Deployment
    servables: tuple[Servable, ...]  # in the order of `deployment.releases`
    access_generation: int  # 0: nobody may call
    tokens: Mapping[str, AccessToken]  # by hash
    last_good: LastGood | None = None

    @property
    def primary(self) -> Servable:
        """The release with the largest share of traffic."""
        shares = [release.share for release in self.deployment.releases]
        return self.servables[shares.index(max(shares))]

    @property
    def loaded(self) -> tuple[Servable, ...]:
        """All releases in memory: those that answer, and the last good one."""
        last = None if self.last_good is None else self.last_good.servable
        return self.servables if last is None else (*self.servables, last)

    @property
    def answered(self) -> tuple[DeployedRelease, ...]:
        """What may be the last good release of the state after this one, the likeliest first."""
        open_now = {servable.digest for servable in self.servables if servable.breaker.state != "closed"}
        now = by_share(release for release in self.deployment.releases if release.digest not in open_now)
        return now if self.last_good is None else (*now, self.last_good.deployed)

    @property
    def stand_ins(self) -> dict[Servable, Servable]:
        """Who answers for a release whose model cannot: the newest of those in memory that are older, if it fits."""
        found = {}
        for servable in self.servables:
            older = [other for other in self.loaded if int(other.version) < int(servable.version)]
            newest = max(older, key=lambda other: int(other.version), default=None)
            if servable.policy.fallback_last_good and newest is not None and say_unfit(servable, newest) is None:
                found[servable] = newest
        return found

    @property
    def last_good_words(self) -> dict[str, object]:
        """Who stands in for whom, and why the last good release does not; by the names of releases."""
        pairs = {servable.release: other.release for servable, other in self.stand_ins.items()}
        return {"stands_in": pairs, "refused": None if self.last_good is None else self.last_good.refused}

    @property
    def last_good_ready(self) -> dict[str, bool]:
        """Whether each release can stand in that should."""
        refused = {self.last_good.deployed.release} if self.last_good and self.last_good.refused else set()
        return dict.fromkeys(refused, False) | {other.release: True for other in self.stand_ins.values()}


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
    answered: Sequence[DeployedRelease] = (),
) -> LiveState:
    """The state that the files on disk describe; releases that `last` holds are not loaded again.

    Args:
        live: `live/ENV`.
        keys: directory of the public keys to believe.
        make_runtime: loads a model.
        last: the state that now answers.
        vault: opens bundles that are sealed, and seals records where a policy asks for it.
        files: directory of the two files, where it is not `live`.
        answered: what may be the last good release, the likeliest first.

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
    loaded = {} if last is None else {servable.digest: servable for servable in last.loaded}

    def load(release: DeployedRelease) -> Servable:
        return _load(live, release, deployment, known, make_runtime, loaded, vault)

    servables = tuple(map(load, deployment.releases))
    if vault is not None and any(servable.policy.encryption == "at_rest" for servable in servables):
        vault.check_seals()  # now rather than at the first record
    access = _load_access(files, live.name, known, last)
    return LiveState(
        deployment=deployment,
        servables=servables,
        access_generation=0 if access is None else access.generation,
        tokens={} if access is None else {token.hash: token for token in access.tokens},
        last_good=_load_last_good(find_last_good(answered, deployment), servables, load, loaded),
    )


def _load_last_good(
    found: DeployedRelease | None,
    servables: Sequence[Servable],
    load: Callable[[DeployedRelease], Servable],
    loaded: Mapping[str, Servable],
) -> LastGood | None:
    """It is in memory only where it would be asked; that it cannot be loaded keeps nothing else from answering."""
    oldest = min(servables, key=lambda servable: version_of(servable.release))
    if found is None or not oldest.policy.fallback_last_good:
        return None if found is None else LastGood(found)
    try:
        servable = load(found)
    except (ShipworthyError, OSError) as error:
        _log.warning("no last good release stands behind %s: %s", oldest.release, error)
        code = error.code if isinstance(error, ShipworthyError) else "storage"
        return LastGood(found, refused=f"{found.release} cannot be loaded ({code})")
    unfit = say_unfit(oldest, servable)
    if unfit is None:
        _log.info("%s answers where %s cannot", found.release, oldest.release)
        return LastGood(found, servable)
    _log.warning("no last good release stands behind %s: %s", oldest.release, unfit)
    if found.digest not in loaded:  # one that answers still is closed when it does so no more
        servable.runtime.close()
    return LastGood(found, refused=unfit)


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
    answered = read_answered(good, load_public_keys(keys), live.name)
    try:
        return load_live(live, keys, make_runtime, None, vault, answered=answered), None
    except IntegrityError as error:
        try:
            state = load_live(live, keys, make_runtime, None, vault, files=good, answered=answered)
        except ShipworthyError:
            raise error from None
        return state, str(error)


def keep_good(live: Path, signature: Signature, good: Path, last: LastGood | None) -> None:
    """Keep the two files from which a server answers, for one that starts when newer ones do not hold.

    Beside them which release is the last good one, for a worker that starts.

    Args:
        live: `live/ENV`.
        signature: of the files that were loaded; if they have changed since, nothing is kept.
        good: where to; made if missing. A disk that refuses costs this copy and nothing else.
        last: the last good release.
    """
    with suppress(OSError):
        good.mkdir(parents=True, exist_ok=True)
        contents = {name: (live / name).read_bytes() for name in (DEPLOYMENT, ACCESS) if (live / name).exists()}
        if read_signature(live) != signature:
            return
        keep_last_good(good, last)  # first: those who answer now could not be told from it afterwards
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
