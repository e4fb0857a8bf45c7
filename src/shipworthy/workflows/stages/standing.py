"""Standing: rows of the newest snapshot that stay as they are, because files were only added to those they came from.

What was found of them is kept and added to: the rows themselves are not read again, but for columns that rules over all
rows need. Findings are looked for again once a tenth was added.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import polars as pl

from shipworthy import __version__
from shipworthy.contract.types import Contract
from shipworthy.data.origins import read_origins
from shipworthy.data.profile import Profile, edges_of, merge_profiles, profile_frame, unpack_profile
from shipworthy.data.schema_change import MOST_VALUES, Schema, SourceKind
from shipworthy.data.snapshot import End, Snapshot, end_of, extend, read_some
from shipworthy.data.sources.files import file_name, find_files
from shipworthy.data.sources.read import FileRead, SourceRead
from shipworthy.data.stream import Before, Streamed
from shipworthy.data.validate import Validated, most_frequent, summed
from shipworthy.kernel.digest import Json, digest_json
from shipworthy.kernel.errors import ConflictError, ShipworthyError
from shipworthy.workflows.observing import Past, personal_columns
from shipworthy.workflows.replay import replayed_digests
from shipworthy.workflows.shipping import Shipping
from shipworthy.workflows.sources import Gathered
from shipworthy.workflows.stages.streams import files_of, streamed_source

KIND = "standing"  # of the artefact that says what a snapshot's rows came from
_WIDER: Mapping[SourceKind, Sequence[SourceKind]] = {"whole number": ("number", "text")}
ADDED = 0.1  # of the bytes on which findings were made: more new ones are looked at with all others


@dataclass(frozen=True, slots=True, eq=False)
class Standing:
    """The rows of the newest snapshot, and the files that they came from."""

    body: Mapping[str, Any]  # of the snapshot's event
    noted: Mapping[str, Any]  # of the artefact
    base: Snapshot
    end: End
    before: Before
    kept: Profile
    schema: Schema
    origins: pl.DataFrame
    held: pl.DataFrame | None  # in quarantine, as text

    @property
    def findings(self) -> list[Any]:
        """Those of the rows that were looked at last."""
        return list(self.body["findings"])

    def fits(self, schema: Schema) -> bool:
        """Whether columns of new files are of the kinds of before; if not, all rows tell what kind they are of."""
        pairs = ((kind, self.schema.columns.get(name)) for name, kind in schema.columns.items())
        return all(kind in (before, "empty") or before in _WIDER.get(kind, ("text",)) for kind, before in pairs)

    def joined(self, streamed: Streamed, name: str) -> Streamed:
        """New rows beside those that stand, as far as the source and its columns go."""
        values = {
            column: tuple(sorted({*known, *streamed.schema.values[column]}))
            for column, known in self.schema.values.items()
            if column in streamed.schema.values
        }
        schema = Schema(self.schema.columns, {key: found for key, found in values.items() if len(found) <= MOST_VALUES})
        rows = streamed.read.rows + int(self.body["observed"]["read"][name])
        return replace(streamed, read=replace(streamed.read, rows=rows), schema=schema)

    def fresh(self, reads: Mapping[str, SourceRead]) -> dict[str, SourceRead]:
        """The reads without the files that stand."""
        return {name: replace(read, files=read.files[len(self.before.files) :]) for name, read in reads.items()}

    def whole(self, contract: Contract, fresh: Validated) -> Validated:
        """All rows, as far as a batch is judged by them; of the accepted ones only times, and a target of numbers."""
        is_number = contract.target.type == "regression"
        names = [*contract.context_by_role("time"), *([contract.target.column] if is_number else ())]
        return replace(
            fresh,
            accepted=self._accepted(names, fresh.accepted),
            quarantined=pl.DataFrame(height=self.body["quarantined"] + fresh.quarantined.height),
            reasons=most_frequent(summed([self.body["reasons"], fresh.reasons])),
            noted=summed([self.body["noted"], fresh.noted]),
            checks=summed([self.noted["checks"], fresh.checks]),
        )

    def _accepted(self, names: Sequence[str], fresh: pl.DataFrame) -> pl.DataFrame:
        if not names:
            return pl.DataFrame(height=self.base.rows + fresh.height)
        return pl.concat([self.before.held(names), fresh.select(names)])

    def quarantined(self, fresh: pl.DataFrame) -> pl.DataFrame:
        """All rows in quarantine, those that could not be parted in fields last."""
        if self.held is None:
            return fresh
        lists = [name for name, kind in fresh.schema.items() if kind == pl.List(pl.String)]
        texts = fresh.with_columns(pl.col(name).list.join("; ") for name in lists).select(pl.all().cast(pl.String))
        every = pl.concat([self.held, texts])
        is_parted = every.to_series(0).is_not_null()
        return pl.concat([every.filter(is_parted), every.filter(~is_parted)])

    def profile(self, contract: Contract, fresh: pl.DataFrame) -> Profile:
        """Of all rows. Of personal columns no hashes are kept, so those are read."""
        personal = [name for name in personal_columns(contract) if name in fresh.columns]
        public = [name for name in fresh.columns if name not in personal]
        known = {name: self.kept[name] for name in public}
        merged = merge_profiles([known, profile_frame(fresh.select(public), edges_of(known))])
        if personal:
            rows = pl.concat([self.before.held(personal), fresh.select(personal)])
            merged = {**merged, **profile_frame(rows, personal=personal)}
        return {name: merged[name] for name in fresh.columns}

    def extended(self, fresh: pl.DataFrame) -> Snapshot:
        """The snapshot of all rows.

        Raises:
            ConflictError: somebody else wrote a version meanwhile.
        """
        taken = extend(self.base, self.end, fresh)
        if taken is None:
            raise ConflictError(f"{self.base.path}: others wrote a version meanwhile; run it again")
        return taken


def find_standing(shipping: Shipping, gathered: Gathered, past: Sequence[Past]) -> Standing | None:
    """What stands of the newest snapshot; None where all rows are to be read."""
    contract, parts = shipping.contract, shipping.parts
    name = streamed_source(contract)
    if name is None or not past or name in gathered.broken or shipping.seals_with is not None:
        return None
    body = past[-1].body
    made = {item["kind"]: item["digest"] for item in body.get("artefacts", ())}
    if KIND not in made or replayed_digests(parts.ledger):
        return None
    try:
        noted = json.loads(parts.artefacts.get_bytes(made[KIND]))
        path = parts.project.root / (contract.data.sources[name].path or "")
        files = _standing_files(noted, path, files_of(gathered.found[name].origins, parts.project.root))
        base = Snapshot(body["digest"], body["version"], body["rows"], parts.project.tables / contract.system)
        if files is None or noted["key"] != _key(shipping) or (end := end_of(base)) is None:
            return None
        base = replace(base, version=end.table.version())  # the same rows, perhaps in fewer files
        kept = unpack_profile(json.loads(parts.artefacts.get_bytes(made["sketches"])))
        origins = read_origins(parts.artefacts.get_bytes(made["origins"]))
    except ShipworthyError:  # something of it is lost: `verify` tells of that
        return None
    has_edges = all(column.edges for column in kept.values() if column.moments is not None)
    held = None if body["quarantine"] is None else parts.project.root / body["quarantine"]
    if not has_edges or (held is not None and not held.is_file()):
        return None

    def columns(names: Sequence[str]) -> pl.DataFrame:
        found = read_some(base, names)
        if found is None:
            raise ConflictError(f"{base.path}: version {base.version} was removed meanwhile; run it again")
        return found

    return Standing(
        body,
        noted,
        base,
        end,
        Before(files, dict(noted["names"]), body["formats"], past[-1].schemas[name].columns, columns),
        kept,
        past[-1].schemas[name],
        origins,
        None if held is None else pl.read_csv(held, infer_schema=False),
    )


def note_standing(
    shipping: Shipping, streamed: Streamed, checks: Mapping[str, int], rows: int, standing: Standing | None
) -> dict[str, Json]:
    """What the artefact says: on what rows `find_standing` can build, and what is not in the snapshot's event."""
    files: list[Json] = [[file.name, file.digest, file.rows, file.size_bytes] for file in streamed.read.files]
    looked = {"bytes": sum(file.size_bytes for file in streamed.read.files), "rows": rows}
    return {
        "key": _key(shipping),
        "files": files,
        "names": [list(pair) for pair in streamed.read.names.items()],  # in their order, which JSON objects lose
        "checks": dict(checks),
        "looked": looked if standing is None else standing.noted["looked"],
    }


def _key(shipping: Shipping) -> str:
    """Of all that makes rows what they become, but the rows."""
    return digest_json({"shipworthy": __version__, "polars": pl.__version__, "contract": shipping.sections("ingest")})


def _standing_files(noted: Mapping[str, Any], path: Path, digests: Mapping[Path, str]) -> tuple[FileRead, ...] | None:
    """The files that were read, if they are the first of those that are there and the others are little beside them."""
    files = find_files(path)
    if not 0 < len(noted["files"]) < len(files):
        return None
    known = []
    for file, (name, digest, rows, size_bytes) in zip(files, noted["files"], strict=False):
        if file_name(path, file) != name or digests.get(file) != digest:
            return None
        known.append(FileRead(file, name, digest, size_bytes, rows, None))
    looked = noted["looked"]["bytes"]
    total = sum(file.stat().st_size for file in files)
    return tuple(known) if total <= (1 + ADDED) * looked else None
