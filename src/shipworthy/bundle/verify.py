"""Verification: nothing of a payload or bundle is used before its digest and signature hold.

Every file is opened once, without following links, and the bytes that were hashed are the bytes returned: what
changes on disk afterwards changes nothing here.
"""

import errno
import os
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeVar

import msgspec

from shipworthy.bundle.format import (
    COMPANIONS,
    DATA,
    DOCUMENTS,
    LOOKUPS,
    ONNX,
    RELEASE_TYPE,
    SOURCE,
    STATEMENT_MEDIA,
    STATEMENT_TYPE,
    Baselines,
    LookupTable,
    Manifest,
    Policy,
    ReleaseStatement,
    Schema,
    are_payload_files,
)
from shipworthy.kernel.digest import digest_bytes
from shipworthy.kernel.errors import AccessError, Fault, IntegrityError
from shipworthy.security.keys import PublicKey
from shipworthy.security.signing import open_envelope
from shipworthy.security.vault import Vault, is_sealed

MANIFEST = "manifest.json"
RELEASE = "release.json"
PAYLOAD = "payload"
MAX_DOCUMENT_BYTES = 16 * 2**20  # of one JSON file; 10,000 columns of baselines fit
MAX_LOOKUPS_BYTES = 256 * 2**20  # of the tables of all lookups; a server takes about six times that in memory
MAX_MODEL_BYTES = 2 * 2**30  # ONNX's own limit of one protobuf

_Document = TypeVar("_Document")


@dataclass(frozen=True, slots=True)
class PythonModel:
    """A model that is Python: never loaded in the process that verified it."""

    source: bytes  # model.py
    data: Mapping[str, bytes]  # what its `load` is given, by name


@dataclass(frozen=True, slots=True)
class VerifiedPayload:
    """A payload whose every byte is the manifest's."""

    digest: str  # of manifest.json
    manifest: Manifest
    schema: Schema
    policy: Policy
    baselines: Baselines
    model: bytes | PythonModel  # ONNX, or what the contract declares to be Python
    lookups: Mapping[str, LookupTable] = field(default_factory=dict)  # by name, those of the schema

    def as_recorded(self) -> "VerifiedPayload":
        """The same, for requests that carry what was looked up, as records and snapshots do."""
        return replace(self, schema=self.schema.as_recorded(), lookups={})


@dataclass(frozen=True, slots=True)
class VerifiedBundle:
    """A release whose statement a known key signed, with the payload that it names."""

    digest: str  # of release.json
    statement: ReleaseStatement
    payload: VerifiedPayload

    @property
    def release(self) -> str:
        """The release's name, such as `mortgage-approval:7`."""
        return f"{self.statement.predicate.system}:{self.statement.predicate.version}"


def verify_payload(directory: Path, digest: str | None = None, vault: Vault | None = None) -> VerifiedPayload:
    """Read the payload in `directory`; every file is the manifest's, and there is no other.

    Args:
        directory: holds `manifest.json` and the files that it names.
        digest: what the manifest's digest must be; None only where the payload is not yet part of a release.
        vault: opens files that are sealed; the manifest is always of what they hold.

    Raises:
        AccessError: a file is sealed, and its key is not here.
        IntegrityError: a file is missing, extra, changed, swapped or not a plain file; names it.
    """
    with _open_directory(directory) as handle:
        return _verify_payload(handle, directory, digest, vault)


def verify_bundle(
    directory: Path, keys: Mapping[str, PublicKey], digest: str | None = None, vault: Vault | None = None
) -> VerifiedBundle:
    """Read the bundle in `directory`: statement signed by one of `keys`, payload as the statement says.

    Beside `release.json` and `payload/` only such files may lie there as the statement binds by digest: the
    verdicts, the card, the bill of materials, the contract, the code.

    Args:
        directory: the bundle.
        keys: whom to believe, by keyid.
        digest: what the digest of `release.json` must be, if known.
        vault: opens files that are sealed.

    Raises:
        AccessError: a file is sealed, and its key is not here.
        IntegrityError: anything does not hold; names the file.
    """
    with _open_directory(directory) as handle:
        envelope = _read_file(handle, RELEASE, directory, MAX_DOCUMENT_BYTES)
        found = digest_bytes(envelope)
        statement = _open_statement(envelope, directory, keys)
        if digest is not None and found != digest:
            raise IntegrityError(
                f"{directory / RELEASE} is the release {statement.predicate.system}:{statement.predicate.version} with "
                f"digest {found}; {digest} was expected.",
                "swapped",
            )
        with _open_directory(directory / PAYLOAD, PAYLOAD, handle) as inner:
            payload = _verify_payload(inner, directory / PAYLOAD, statement.predicate.payload, vault)
        _check_companions(handle, directory, statement)
    system = statement.predicate.system
    if payload.manifest.system != system:
        raise IntegrityError(
            f"{directory}: the payload is of system {payload.manifest.system}, the release of {system}.", "swapped"
        )
    return VerifiedBundle(digest=found, statement=statement, payload=payload)


def decode_document(content: bytes, kind: type[_Document], place: Path) -> _Document:
    """`content` as strictly typed JSON.

    Raises:
        IntegrityError: it is not what `kind` says.
    """
    try:
        return msgspec.json.decode(content, type=kind)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
        raise IntegrityError(f"{place} is not a valid {kind.__name__}: {error}.") from None


def open_payload_file(content: bytes, place: Path, vault: Vault | None) -> bytes:
    """The plain content of a payload's file, which may be sealed; not yet compared with the manifest.

    Raises:
        AccessError: it is sealed, and its key is not here.
        IntegrityError: it is sealed, and was changed or cut.
    """
    if not is_sealed(content):
        return content
    if vault is None:
        raise AccessError(f"{place} is encrypted, and this process was given no key for it.")
    return vault.open(content, payload_context(place.name), place)


def payload_context(name: str) -> str:
    """What a payload's file is sealed as."""
    return f"payload/{name}"


def _open_statement(envelope: bytes, directory: Path, keys: Mapping[str, PublicKey]) -> ReleaseStatement:
    place = directory / RELEASE
    try:
        content = open_envelope(envelope, STATEMENT_MEDIA, keys)
    except IntegrityError as error:
        raise IntegrityError(f"{place}: {error}", error.fault) from None
    statement = decode_document(content, ReleaseStatement, place)
    if statement.type != STATEMENT_TYPE or statement.predicate_type != RELEASE_TYPE:
        raise IntegrityError(f"{place} is a {statement.predicate_type!r} statement, not a release.", "swapped")
    subjects = {f"sha256:{subject.digest.get('sha256')}" for subject in statement.subject}
    if statement.predicate.payload not in subjects:
        raise IntegrityError(f"{place}: its subject is not the payload {statement.predicate.payload} that it binds.")
    return statement


def _check_companions(handle: int, directory: Path, statement: ReleaseStatement) -> None:
    bound = {name: str(getattr(statement.predicate, field)) for name, field in COMPANIONS.items()}
    for name in sorted(set(os.listdir(handle)) - {RELEASE, PAYLOAD}):
        if name not in bound:
            raise IntegrityError(
                f"{directory / name} is not part of the release; remove it or restore the bundle.", "extra"
            )
        found = digest_bytes(_read_file(handle, name, directory, MAX_DOCUMENT_BYTES))
        if found != bound[name]:
            fault: Fault = "swapped" if found in bound.values() else "changed"
            raise IntegrityError(f"{directory / name} has digest {found}; the release says {bound[name]}.", fault)


def _verify_payload(handle: int, directory: Path, digest: str | None, vault: Vault | None) -> VerifiedPayload:
    listing = _read_file(handle, MANIFEST, directory, MAX_DOCUMENT_BYTES)
    found = digest_bytes(listing)
    manifest = decode_document(listing, Manifest, directory / MANIFEST)
    if not are_payload_files(manifest.files):
        named = ", ".join(sorted(manifest.files))
        wanted = f"{ONNX}, or {SOURCE} with its data, beside {', '.join(DOCUMENTS)}"
        raise IntegrityError(f"{directory / MANIFEST} names {named}; a payload has {wanted}.")
    extra = sorted(set(os.listdir(handle)) - {MANIFEST, *manifest.files})
    if extra:
        raise IntegrityError(
            f"{directory / extra[0]} is not in the manifest; remove it or restore the payload.", "extra"
        )
    model_first = sorted(manifest.files, key=lambda name: name in DOCUMENTS)
    contents = {name: _read_entry(handle, name, directory, manifest, vault) for name in model_first}
    if digest is not None and found != digest:  # whole in itself, so another payload's
        raise IntegrityError(f"{directory / MANIFEST} has digest {found}; {digest} was expected.", "swapped")
    policy = decode_document(contents["policy.json"], Policy, directory / "policy.json")
    if (SOURCE in contents) != bool(policy.model_memory_bytes):
        raise IntegrityError(f"{directory / 'policy.json'} is not of a model of the payload's kind.", "swapped")
    schema = decode_document(contents["schema.json"], Schema, directory / "schema.json")
    return VerifiedPayload(
        digest=found,
        manifest=manifest,
        schema=schema,
        policy=policy,
        baselines=decode_document(contents["baselines.json"], Baselines, directory / "baselines.json"),
        model=_model(contents),
        lookups=_lookups(contents.get(LOOKUPS), schema, directory / LOOKUPS),
    )


def _lookups(content: bytes | None, schema: Schema, place: Path) -> dict[str, LookupTable]:
    if content is None and not schema.looked_up:
        return {}
    try:
        tables = {} if content is None else msgspec.msgpack.decode(content, type=dict[str, LookupTable])
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
        raise IntegrityError(f"{place} does not hold tables of lookups: {error}.") from None
    if tables.keys() != {lookup.name for lookup in schema.looked_up}:
        named = ", ".join(lookup.name for lookup in schema.looked_up) or "none"
        raise IntegrityError(f"{place} has the tables {', '.join(tables) or 'of none'}; schema.json names {named}.")
    return tables


def _model(contents: Mapping[str, bytes]) -> bytes | PythonModel:
    if ONNX in contents:
        return contents[ONNX]
    data = {name.removeprefix(DATA): content for name, content in contents.items() if name.startswith(DATA)}
    return PythonModel(contents[SOURCE], data)


def _read_entry(handle: int, name: str, directory: Path, manifest: Manifest, vault: Vault | None) -> bytes:
    entry = manifest.files[name]
    limit = MAX_MODEL_BYTES if name == ONNX or name.startswith(DATA) else MAX_DOCUMENT_BYTES
    limit = MAX_LOOKUPS_BYTES if name == LOOKUPS else limit
    content = open_payload_file(_read_file(handle, name, directory, limit + limit // 1000), directory / name, vault)
    found = digest_bytes(content)
    fault: Fault = "swapped" if found in {other.digest for other in manifest.files.values()} else "changed"
    if len(content) != entry.size_bytes:
        raise IntegrityError(
            f"{directory / name} has {len(content)} bytes; the manifest says {entry.size_bytes}.", fault
        )
    if found != entry.digest:
        raise IntegrityError(f"{directory / name} has digest {found}; the manifest says {entry.digest}.", fault)
    return content


@contextmanager
def _open_directory(directory: Path, name: str | None = None, parent: int | None = None) -> Iterator[int]:
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | os.O_NOFOLLOW
    try:
        handle = os.open(name or directory, flags, dir_fd=parent)
    except OSError as error:
        raise IntegrityError(
            f"{directory} is missing, a link, or not a directory ({error.strerror}).", _fault_of(error)
        ) from None
    try:
        yield handle
    finally:
        os.close(handle)


def _read_file(handle: int, name: str, directory: Path, limit: int) -> bytes:
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK  # a pipe must not hold us
    try:
        descriptor = os.open(name, flags, dir_fd=handle)
    except OSError as error:
        raise IntegrityError(
            f"{directory / name} is missing, a link, or unreadable ({error.strerror}).", _fault_of(error)
        ) from None
    with open(descriptor, "rb") as file:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise IntegrityError(f"{directory / name} is not a plain file.")
        content = file.read(limit + 1)
    if len(content) > limit:
        raise IntegrityError(f"{directory / name} has more than {limit} bytes.")
    return content


def _fault_of(error: OSError) -> Fault:
    return "missing" if error.errno == errno.ENOENT else "changed"
