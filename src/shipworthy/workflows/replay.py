"""`data replay`: rows of the quarantine that a person fixed, validated again and kept for every later snapshot.

They are a source of their own, `.shipworthy/replayed/`: each file is named by the digest of its rows and counts once an
event of the ledger names it, with who replayed it. Replaying the same rows again adds nothing.
"""

import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from shipworthy.bundle.deployment import replace_file
from shipworthy.contract.types import Contract
from shipworthy.data.replay import is_known, source_columns
from shipworthy.data.snapshot import content_digest
from shipworthy.data.sources.read import SourceRead, read_file
from shipworthy.data.validate import Validated, validate
from shipworthy.kernel.errors import AccessError, DataError, IntegrityError
from shipworthy.ledger.events import Event
from shipworthy.ledger.store import Ledger
from shipworthy.security.access import Principal
from shipworthy.security.vault import SEALED_SUFFIX, Vault
from shipworthy.workflows.gate import permit
from shipworthy.workflows.layout import Project
from shipworthy.workflows.project import Parts, read_contract
from shipworthy.workflows.quarantine import keep_rows

REPLAYED = "data.replayed"


@dataclass(frozen=True, slots=True)
class ReplayReport:
    """What became of the rows of one file."""

    file: str
    digest: str | None  # of the rows that were taken; None: there were none
    taken: int
    known: int  # replayed before
    refused: int
    reasons: dict[str, int]  # of the refused ones
    quarantine: str | None  # where these are, with their reasons

    def to_json(self) -> dict[str, Any]:
        """The document that `data replay --json` prints."""
        return {name: getattr(self, name) for name in self.__slots__}


def replay(parts: Parts, principal: Principal, file: Path) -> ReplayReport:
    """Take the good rows of `file` for every later snapshot.

    Args:
        parts: of the project.
        principal: who replays.
        file: with the contract's columns, such as a file of the quarantine with rows corrected; others are passed over.

    Raises:
        AccessError: `principal` may not ship; or there is no key to encrypt with.
        SourceError: the file cannot be read.
        DataError: it lacks a column of the contract.
        StorageError: the disk refused.
    """
    rule = permit(parts, principal, "data replay")
    contract, project = read_contract(parts.project), parts.project
    vault = project.vault if contract.encryption == "at_rest" else None
    read = read_file("replayed", file)
    frame, unread = _filled(contract, read)
    validated = validate(contract, frame, malformed=unread if unread.height else None)
    bad = (validated.quarantined.to_series(0).drop_nulls() - 1).cast(pl.UInt32)  # the first column is the row's number
    good = frame.filter(pl.repeat(True, frame.height, dtype=pl.Boolean, eager=True).scatter(bad, False))
    rows = good.select(pl.col(name).cast(pl.String) for name in source_columns(contract))
    known = pl.repeat(False, rows.height, dtype=pl.Boolean, eager=True)
    for earlier in replayed_frames(project, parts.ledger, vault):
        known |= is_known(contract, validated.accepted, validate(contract, earlier).accepted)
    rows = rows.filter(~known)
    refused = keep_rows(project.quarantine, f"replay-{read.digest[7:19]}", validated.quarantined, vault)
    digest = _keep(project, rows, vault) if rows.height else None
    if digest is not None:
        body = {
            "digest": digest,
            "file": file.name,
            "rows": rows.height,
            "refused": validated.quarantined.height,
            "links": [{"parent": f"file:{file.name}@{read.digest}", "relation": "replayed", "child": node_of(digest)}],
        }
        parts.ledger.append(Event(REPLAYED, node_of(digest), principal.actor, body, rule))
    return ReplayReport(
        file=str(file),
        digest=digest,
        taken=rows.height,
        known=int(known.sum()),
        refused=validated.quarantined.height,
        reasons=dict(validated.reasons),
        quarantine=None if refused is None else str(refused.relative_to(project.root)),
    )


def _filled(contract: Contract, read: SourceRead) -> tuple[pl.DataFrame, pl.DataFrame]:
    """The contract's columns of the rows that hold something in them, and the other rows."""
    frame = read.frame.select(name for name in source_columns(contract) if name in read.frame.columns)
    if not frame.width:
        return read.frame, read.malformed
    is_empty = frame.select(pl.all_horizontal(pl.all().is_null())).to_series()
    lines = is_empty.arg_true().cast(pl.Int64) + 2  # behind the header
    empty = pl.DataFrame({"line": lines}).with_columns(text=pl.lit(""), reason=pl.lit("row: nothing in the columns"))
    return frame.filter(~is_empty), pl.concat([read.malformed, empty], how="diagonal")


def node_of(digest: str) -> str:
    """The replayed rows of this digest in lineage."""
    return f"replayed:{digest}"


def replayed_digests(ledger: Ledger) -> list[str]:
    """What was replayed, in the order in which it was; each once."""
    return list(dict.fromkeys(str(entry.body["digest"]) for entry in ledger.events(verb=REPLAYED)))


def replayed_frames(project: Project, ledger: Ledger, vault: Vault | None) -> list[pl.DataFrame]:
    """The rows that were replayed, as texts.

    Raises:
        IntegrityError: a file is gone or was changed.
        AccessError: it is encrypted, and its key is not here.
    """
    return [_read(project, digest, vault) for digest in replayed_digests(ledger)]


def validated_replays(project: Project, ledger: Ledger, contract: Contract, vault: Vault | None) -> Validated | None:
    """What the contract as it is now makes of all that was replayed; None where nothing was."""
    frames = replayed_frames(project, ledger, vault)
    if not frames:
        return None
    try:
        return validate(contract, pl.concat(frames, how="diagonal"))
    except DataError as error:
        raise DataError(f"rows that were replayed: {error}") from None


def _path(project: Project, digest: str, vault: Vault | None) -> Path:
    return project.replayed / f"{digest[7:]}.parquet{SEALED_SUFFIX if vault is not None else ''}"


def replayed_context(name: str) -> str:
    """What a file of replayed rows is sealed as."""
    return f"replayed/{name}"


def _keep(project: Project, rows: pl.DataFrame, vault: Vault | None) -> str:
    digest = content_digest(rows)
    buffer = io.BytesIO()
    rows.write_parquet(buffer)
    content = buffer.getvalue()
    path = _path(project, digest, vault)
    replace_file(path, content if vault is None else vault.seal(content, replayed_context(digest[7:])))
    return digest


def _read(project: Project, digest: str, vault: Vault | None) -> pl.DataFrame:
    for opens in (vault, None) if vault is not None else (None, project.vault):
        path = _path(project, digest, opens)
        if not path.is_file():
            continue
        try:
            content = (
                path.read_bytes()
                if opens is None
                else opens.open(path.read_bytes(), replayed_context(digest[7:]), path)
            )
            frame = pl.read_parquet(io.BytesIO(content))
        except AccessError:
            raise
        except (OSError, pl.exceptions.PolarsError) as error:
            raise IntegrityError(f"{path}: the replayed rows cannot be read ({error}); restore the file") from None
        if content_digest(frame) != digest:
            raise IntegrityError(f"{path}: the replayed rows were changed; restore the file")
        return frame
    raise IntegrityError(f"{_path(project, digest, vault)}: the replayed rows are gone; restore the file from a backup")
