"""From verdicts to a release: a signed statement that binds payload, verdicts, card, contract and code together."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import msgspec

from shipworthy.bundle.deployment import write_bundle
from shipworthy.bundle.format import (
    COMPANIONS,
    STATEMENT_MEDIA,
    ReleasePredicate,
    ReleaseStatement,
    Subject,
)
from shipworthy.bundle.model_signing import MODEL_SIGNATURE, sign_model
from shipworthy.bundle.verify import MANIFEST, verify_payload
from shipworthy.kernel.digest import digest_bytes
from shipworthy.kernel.errors import IntegrityError
from shipworthy.security.keys import Signer
from shipworthy.security.model_key import ModelKey
from shipworthy.security.signing import sign_envelope
from shipworthy.security.vault import Vault

CARD, VERDICTS, BILL, CONTRACT, CODE, _ = COMPANIONS


@dataclass(frozen=True, slots=True, kw_only=True)
class Documents:
    """What travels beside a payload, each bound by its digest."""

    contract: bytes  # the contract's text
    code: bytes  # of the training entry's file
    verdicts: bytes  # JSON
    card: bytes  # Markdown
    bill: bytes  # CycloneDX JSON

    def files(self) -> dict[str, bytes]:
        """Content by file name in the bundle."""
        return {
            CARD: self.card,
            VERDICTS: self.verdicts,
            BILL: self.bill,
            CONTRACT: self.contract,
            CODE: self.code,
        }


@dataclass(frozen=True, slots=True)
class Release:
    """A signed release, whole, in memory."""

    name: str  # `mortgage-approval:7`
    digest: str  # of release.json
    envelope: bytes  # content of release.json
    statement: ReleaseStatement
    payload: Mapping[str, bytes]  # files with manifest.json
    companions: Mapping[str, bytes]


def publish(
    payload: Path,
    payload_digest: str,
    documents: Documents,
    *,
    system: str,
    version: int,
    snapshot: str,
    run: str,
    author: str,
    created: str,
    key: Signer,
    model_key: ModelKey | None = None,
) -> Release:
    """Verify the payload, bind it and the documents in one statement, and sign that.

    Args:
        payload: the payload's folder.
        payload_digest: what its digest must be.
        documents: what travels beside it.
        system: the system's name, as in the payload.
        version: from 1; the ledger gives the next one.
        snapshot: digest of the rows trained on.
        run: id of the training.
        author: who ships.
        created: RFC 3339, UTC.
        key: signs the statement.
        model_key: signs the payload's files once more, in the format of OpenSSF Model Signing.

    Raises:
        IntegrityError: the payload is not the one of that digest, or another system's.
    """
    manifest = verify_payload(payload, payload_digest).manifest
    if manifest.system != system:
        raise IntegrityError(f"{payload} is a payload of {manifest.system}; a release of {system} cannot hold it.")
    name = f"{system}:{version}"
    companions = documents.files()
    if model_key is not None:
        digests = {MANIFEST: payload_digest, **{file: entry.digest for file, entry in manifest.files.items()}}
        companions[MODEL_SIGNATURE] = sign_model(name, digests, model_key)
    predicate = ReleasePredicate(
        system=system,
        version=version,
        payload=payload_digest,
        contract=digest_bytes(documents.contract),
        code=digest_bytes(documents.code),
        snapshot=snapshot,
        run=run,
        verdicts=digest_bytes(documents.verdicts),
        card=digest_bytes(documents.card),
        bill_of_materials=digest_bytes(documents.bill),
        author=author,
        created=created,
        model_signature=digest_bytes(companions[MODEL_SIGNATURE]) if MODEL_SIGNATURE in companions else "",
    )
    subject = Subject(name=name, digest={"sha256": payload_digest.removeprefix("sha256:")})
    statement = ReleaseStatement(subject=(subject,), predicate=predicate)
    envelope = sign_envelope(msgspec.json.encode(statement), STATEMENT_MEDIA, key)
    files = {file: (payload / file).read_bytes() for file in (MANIFEST, *manifest.files)}
    return Release(name, digest_bytes(envelope), envelope, statement, files, companions)


def place(release: Release, live: Path, vault: Vault | None = None) -> Path:
    """Put the release's bundle below `live/ENV`, durable before it returns; one already there is left as it is.

    With a `vault` the payload's files lie there encrypted; every digest is of what they hold.

    Returns:
        The bundle's folder: `release.json`, `payload/` and the documents.

    Raises:
        StorageError: the disk refused.
    """
    return write_bundle(live, release.envelope, release.payload, release.companions, vault=vault)
