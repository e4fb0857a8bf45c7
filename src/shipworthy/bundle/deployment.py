"""Writing what a server reads, so that a power loss at any moment leaves the old or the new, whole.

The order is: files of the bundle synced, its directories synced, renamed into place, parent synced; then the
deployment's draft synced, renamed over the old one, directory synced; only then acknowledge.
"""

import os
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import msgspec

from shipworthy.bundle.files import LOCAL_DISK, Disk
from shipworthy.bundle.format import (
    ACCESS_MEDIA,
    DEPLOYMENT_MEDIA,
    Access,
    Deployment,
    FileEntry,
    Manifest,
    Task,
    are_payload_files,
)
from shipworthy.bundle.verify import MANIFEST, MAX_DOCUMENT_BYTES, PAYLOAD, RELEASE, decode_document, payload_context
from shipworthy.kernel.digest import digest_bytes
from shipworthy.kernel.errors import AccessError, IntegrityError, NotFoundError, StorageError
from shipworthy.security.keys import PublicKey, Signer
from shipworthy.security.signing import open_envelope, sign_envelope
from shipworthy.security.vault import Vault

DEPLOYMENT = "deployment"
ACCESS = "access"
BUNDLES = "bundles"
SHARE_TOLERANCE = 1e-9  # of the sum of shares, which are decimal fractions

_Document = TypeVar("_Document", Deployment, Access)


def bundle_path(live: Path, digest: str) -> Path:
    """Where the bundle of a release with this digest lies below `live/ENV`."""
    return live / BUNDLES / digest.removeprefix("sha256:")


def write_payload(directory: Path, system: str, task: Task, files: Mapping[str, bytes]) -> str:
    """Write `files` and their manifest to the new or empty `directory`, synced; returns the payload's digest.

    Same input, same bytes, same digest.

    Raises:
        ValueError: `files` are not exactly those of a payload.
        StorageError: the disk refused.
    """
    if not are_payload_files(files):
        raise ValueError(f"no payload has exactly the files {', '.join(sorted(files))}")
    entries = {name: FileEntry(digest=digest_bytes(files[name]), size_bytes=len(files[name])) for name in sorted(files)}
    listing = msgspec.json.encode(Manifest(system=system, task=task, files=entries))
    with _as_storage_error(directory):
        _write_tree(LOCAL_DISK, directory, {**files, MANIFEST: listing})
    return digest_bytes(listing)


def write_bundle(
    live: Path,
    release: bytes,
    payload: Mapping[str, bytes],
    companions: Mapping[str, bytes] | None = None,
    *,
    vault: Vault | None = None,
    disk: Disk = LOCAL_DISK,
) -> Path:
    """Put a bundle below `live/ENV`, durable before it returns; one that is there already is left as it is.

    Args:
        live: directory of the environment, `live/ENV`; made if missing.
        release: the signed statement, content of `release.json`.
        payload: files of the payload with its `manifest.json`.
        companions: further files that the statement binds, such as the card.
        vault: seals the payload's files, which then lie encrypted; None: they are written as they are given.
        disk: where to write.

    Raises:
        AccessError: there is no key to seal with.
        StorageError: the disk refused.
    """
    target = bundle_path(live, digest_bytes(release))
    draft = target.parent / f".draft-{secrets.token_hex(8)}"
    with _as_storage_error(target):
        made = disk.make_directory(target.parent)
        for parent in dict.fromkeys([*made, live.parent, live, target.parent]):  # made before, perhaps not synced
            disk.sync_directory(parent)
        if target.is_dir():
            return target
        try:
            _write_tree(disk, draft / PAYLOAD, payload if vault is None else _sealed(payload, vault))
            _write_tree(disk, draft, {RELEASE: release, **(companions or {})})
            disk.rename(draft, target)
        except OSError as error:
            disk.remove(draft)
            if isinstance(error, AccessError):
                raise
            if not target.is_dir():  # another writer was as fast with the same bytes
                raise
        disk.sync_directory(target.parent)
    return target


def write_deployment(live: Path, deployment: Deployment, key: Signer, *, disk: Disk = LOCAL_DISK) -> None:
    """Sign `deployment` and replace `live/ENV/deployment` atomically; durable before it returns.

    The bundles that it names must lie there already.

    Raises:
        IntegrityError: shares do not sum to 1, or a bundle is missing.
        StorageError: the disk refused.
    """
    _check_shares(deployment, live / DEPLOYMENT)
    for release in deployment.releases:
        if not (bundle_path(live, release.digest) / RELEASE).is_file():
            raise IntegrityError(
                f"{bundle_path(live, release.digest)} is missing; write the bundle of {release.release}.",
                "missing",
            )
    envelope = sign_envelope(msgspec.json.encode(deployment), DEPLOYMENT_MEDIA, key)
    replace_file(live / DEPLOYMENT, envelope, disk=disk)


def read_deployment(live: Path, keys: Mapping[str, PublicKey]) -> Deployment:
    """The deployment of an environment, if one of `keys` signed it.

    Raises:
        NotFoundError: nothing is deployed.
        IntegrityError: not signed by a known key, malformed, or shares do not sum to 1.
    """
    deployment = _read_signed(live / DEPLOYMENT, DEPLOYMENT_MEDIA, Deployment, keys)
    _check_shares(deployment, live / DEPLOYMENT)
    return deployment


def write_access(live: Path, access: Access, key: Signer) -> None:
    """Sign `access` and replace `live/ENV/access` atomically; durable before it returns."""
    replace_file(live / ACCESS, sign_envelope(msgspec.json.encode(access), ACCESS_MEDIA, key))


def read_access(live: Path, keys: Mapping[str, PublicKey]) -> Access:
    """Who may call the data plane, if one of `keys` signed it.

    Raises:
        NotFoundError: there is no access file: nobody may call.
        IntegrityError: not signed by a known key, or malformed.
    """
    return _read_signed(live / ACCESS, ACCESS_MEDIA, Access, keys)


def replace_file(path: Path, content: bytes, *, disk: Disk = LOCAL_DISK) -> None:
    """Replace `path` by `content` at once: draft synced, renamed, directory synced.

    Raises:
        StorageError: the disk refused; the old content stands.
    """
    draft = path.with_name(f".{path.name}-{secrets.token_hex(8)}")
    with _as_storage_error(path):
        for parent in disk.make_directory(path.parent):
            disk.sync_directory(parent)
        try:
            disk.write_new(draft, content)
            disk.sync(draft)
            disk.rename(draft, path)
        except OSError:
            disk.remove(draft)
            raise
        disk.sync_directory(path.parent)


def _read_signed(path: Path, media: str, kind: type[_Document], keys: Mapping[str, PublicKey]) -> _Document:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    except FileNotFoundError:
        raise NotFoundError(f"{path} is missing: nothing is deployed there.") from None
    except OSError as error:
        raise IntegrityError(f"{path} is a link or unreadable ({error.strerror}).") from None
    with open(descriptor, "rb") as file:
        envelope = file.read(MAX_DOCUMENT_BYTES)
    try:
        content = open_envelope(envelope, media, keys)
    except IntegrityError as error:
        raise IntegrityError(f"{path}: {error}", error.fault) from None
    return decode_document(content, kind, path)


def _check_shares(deployment: Deployment, place: Path) -> None:
    total = sum(release.share for release in deployment.releases)
    if any(not 0 <= release.share <= 1 for release in deployment.releases) or abs(total - 1) > SHARE_TOLERANCE:
        raise IntegrityError(f"{place}: the shares of traffic sum to {total}; they must be 0 to 1 and sum to 1.")


def _sealed(payload: Mapping[str, bytes], vault: Vault) -> dict[str, bytes]:
    """All but the manifest, which holds digests and sizes."""
    return {
        name: content if name == MANIFEST else vault.seal(content, payload_context(name))
        for name, content in payload.items()
    }


def _write_tree(disk: Disk, directory: Path, files: Mapping[str, bytes]) -> None:
    made = disk.make_directory(directory)
    for name, content in files.items():
        disk.write_new(directory / name, content)
        disk.sync(directory / name)
    for changed in dict.fromkeys([directory, directory.parent, *made]):
        disk.sync_directory(changed)


@contextmanager
def _as_storage_error(place: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if isinstance(error, AccessError):
            raise
        raise StorageError(f"{place} cannot be written: {error.strerror}; free space or mend its rights.") from None
