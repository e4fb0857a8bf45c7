"""Unseal: one encrypted file of the state, decrypted for a person who may see what is in it; recorded."""

from pathlib import Path
from typing import Any

from shipworthy.bundle.verify import PAYLOAD, payload_context
from shipworthy.data.snapshot import sealed_context
from shipworthy.kernel.digest import digest_bytes
from shipworthy.kernel.errors import ConflictError, NotFoundError, StorageError, UsageError
from shipworthy.ledger.artefacts import artefact_context
from shipworthy.ledger.events import Event
from shipworthy.security.access import Principal
from shipworthy.security.files import create_durably
from shipworthy.security.vault import SEALED_SUFFIX, is_sealed
from shipworthy.workflows.gate import permit
from shipworthy.workflows.layout import Project
from shipworthy.workflows.project import Parts
from shipworthy.workflows.quarantine import quarantine_context
from shipworthy.workflows.replay import replayed_context


def unseal(parts: Parts, principal: Principal, file: Path, destination: Path) -> dict[str, Any]:
    """Decrypt `file`, which lies below the project's state, into `destination`, readable to its owner alone.

    Raises:
        AccessError: `principal` may not see single decisions, or the key is not here.
        UsageError: `file` is not encrypted, or holds records, which other commands show.
        NotFoundError: there is no such file.
        ConflictError: `destination` exists.
        IntegrityError: it was changed.
        StorageError: `destination` cannot be written.
    """
    rule = permit(parts, principal, "key open")
    try:
        content = file.read_bytes()
    except OSError as error:
        raise NotFoundError(f"{file}: cannot be read ({error.strerror})") from None
    context = context_of(parts.project, file)
    if not is_sealed(content):
        raise UsageError(f"{file} is not encrypted; read it as it is")
    if destination.exists():
        raise ConflictError(f"{destination} exists; nothing is replaced")
    plain = parts.project.vault.open(content, context, file)
    body = {"file": context, "digest": digest_bytes(plain)}
    parts.ledger.append(Event("rows.opened", f"sealed:{context}", principal.actor, body, rule))
    try:
        if not create_durably(destination, plain, mode=0o600):
            raise ConflictError(f"{destination} exists; nothing is replaced")
    except OSError as error:
        raise StorageError(f"{destination}: cannot be written ({error.strerror})") from None
    return {"file": str(file), "out": str(destination), "size_bytes": len(plain)}


def context_of(project: Project, file: Path) -> str:
    """As what the file was sealed, by its place.

    Raises:
        UsageError: it does not lie where something is sealed.
    """
    try:
        below = file.resolve().relative_to(project.state.resolve()).parts
    except ValueError:
        below = ()
    name = below[-1] if below else ""
    match below:
        case ("replayed", _):
            return replayed_context(name.removesuffix(f".parquet{SEALED_SUFFIX}"))
        case ("quarantine", _):
            return quarantine_context(name.removesuffix(f".csv{SEALED_SUFFIX}"))
        case ("tables", _, _):
            return sealed_context(f"sha256:{name.partition('-')[2].removesuffix('.parquet')}")
        case ("blobs", first, rest):
            return artefact_context(f"sha256:{first}{rest}")
        case (*_, folder, _) if folder == PAYLOAD:
            return payload_context(name)
    raise UsageError(
        f"{file}: files of .shipworthy/quarantine, tables, blobs and payload/ are opened; records are shown by "
        "`shipworthy lineage` and `shipworthy review`"
    )
