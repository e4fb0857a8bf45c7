"""`init`: a table becomes a project with a contract and training code that work as they stand. Never asks."""

import math
import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import polars as pl

from shipworthy.contract.parse import parse_contract
from shipworthy.contract.types import Contract
from shipworthy.data.infer import Inference, infer
from shipworthy.data.leaks import find_suspects
from shipworthy.data.sources import SourceRead, identifier, read_file
from shipworthy.data.split import split
from shipworthy.data.validate import Validated, judge_batch, validate
from shipworthy.kernel.errors import ConflictError, ContractError, DataError, InternalError, StorageError, UsageError
from shipworthy.workflows.layout import CONTRACT_FILE
from shipworthy.workflows.templates import GITIGNORE, Draft, contract_text, train_text

TRAIN_FILE = "train.py"
DATA_DIRECTORY = "data"
USUAL_QUARANTINE_PERCENT = 5
QUARANTINE_ROOM = 1.5  # times what was seen, where that is more than usual


@dataclass(frozen=True, slots=True)
class InitReport:
    """What was inferred and written, and what a person should look at."""

    directory: Path
    inference: Inference
    system: str
    rows: int
    quarantined: int
    reasons: dict[str, int]  # of quarantined rows
    written: tuple[str, ...]  # relative to the directory
    kept: tuple[str, ...]  # existed already, and were not touched
    review: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """The document that `init --json` prints."""
        found = self.inference
        return {
            "directory": str(self.directory),
            "system": self.system,
            "target": {"column": found.target, "type": found.task, "values": found.classes, "positive": found.positive},
            "rows": self.rows,
            "quarantined": self.quarantined,
            "reasons": self.reasons,
            "columns": [
                {"name": guess.name, "place": guess.place, "type": guess.kind, "why": guess.why}
                for guess in found.columns
            ],
            "written": self.written,
            "kept": self.kept,
            "review": self.review,
        }


def init(
    directory: Path,
    data: Sequence[Path],
    target: str,
    time: str | None = None,
    key: str | None = None,
    protected: Sequence[str] = (),
) -> InitReport:
    """Write `shipworthy.yaml`, `train.py` and `.gitignore` into `directory`, made if need be.

    Files outside the directory are copied into its `data/`. Nothing that exists is overwritten.

    Args:
        directory: the project.
        data: files with the same columns; CSV, TSV, JSON lines or Parquet.
        target: the column to predict, as in the file or as an identifier.
        time: when a row came to be; guessed when None.
        key: names a row; guessed when None.
        protected: columns that part people in groups; more are guessed.

    Raises:
        ConflictError: the directory has a contract already.
        UsageError: a named column does not exist or cannot be what it is said to be; files of other columns.
        SourceError, DataError: the data cannot be read or learnt from.
        StorageError: the directory cannot be written.
    """
    if (directory / CONTRACT_FILE).exists():
        raise ConflictError(f"{directory / CONTRACT_FILE} exists; change it by hand, or choose another directory")
    reads = _read(data)
    frame = pl.concat([read.frame for read in reads], how="vertical_relaxed")
    names = {original: name for read in reads for name, original in read.names.items()}
    inference = infer(
        frame,
        _resolved(target, frame, names),
        _resolved(time, frame, names) if time else None,
        _resolved(key, frame, names) if key else None,
        [_resolved(name, frame, names) for name in protected],
    )
    sources = {read.name: _place(directory, read.path) for read in reads}
    draft = Draft(_system(directory), sources, _split_by(inference), USUAL_QUARANTINE_PERCENT)
    draft, validated, notes = _tried(draft, inference, reads, frame)
    written, kept = _write(directory, draft, inference, reads)
    return InitReport(
        directory=directory,
        inference=inference,
        system=draft.system,
        rows=validated.rows,
        quarantined=validated.quarantined.height,
        reasons=validated.reasons,
        written=written,
        kept=kept,
        review=(*_suspects(inference, frame), *inference.review, *notes),
    )


def _suspects(inference: Inference, frame: pl.DataFrame) -> list[str]:
    """Features that know too much, as questions; a target of numbers is not judged."""
    if inference.task == "regression":
        return []
    kinds = {guess.name: guess.kind for guess in inference.placed("feature")}
    return [str(suspect) for suspect in find_suspects(frame, kinds, inference.target)]


# --- reading


def _read(data: Sequence[Path]) -> list[SourceRead]:
    if not data:
        raise UsageError("no data: name at least one file with --data")
    reads: list[SourceRead] = []
    for path in data:
        name = _free(identifier(path.name.split(".")[0], 1).lower(), [read.name for read in reads])
        reads.append(read_file(name, path))
    first = reads[0]
    for read in reads[1:]:
        if read.frame.columns != first.frame.columns:
            odd = sorted(set(read.frame.columns) ^ set(first.frame.columns)) or ["their order"]
            raise UsageError(
                f"{read.path} and {first.path} differ in columns ({', '.join(odd[:5])}); init takes one table, also "
                "in several files; join others first, or later in data.prepare"
            )
    return reads


def _free(name: str, taken: Sequence[str]) -> str:
    number = 2
    free = name
    while free in taken:
        free, number = f"{name}_{number}", number + 1
    return free


def _resolved(name: str, frame: pl.DataFrame, names: dict[str, str]) -> str:
    """The identifier of a column that may be named as in the file."""
    return name if name in frame.columns else names.get(name, name)


def _system(directory: Path) -> str:
    words = re.sub(r"[^a-z0-9]+", "-", directory.resolve().name.lower()).strip("-")
    return (words if words[:1].isalpha() else f"system-{words}".strip("-"))[:63]


def _split_by(inference: Inference) -> Literal["time", "random"]:
    return "time" if inference.placed("time") else "random"


# --- trying what will be written


def _tried(
    draft: Draft, inference: Inference, reads: Sequence[SourceRead], frame: pl.DataFrame
) -> tuple[Draft, Validated, list[str]]:
    """The draft whose contract these rows satisfy, with notes on what had to give way."""
    notes: list[str] = []
    malformed = pl.concat([read.malformed for read in reads])
    validated = validate(_parsed(draft, inference, frame), frame, malformed=malformed)
    percent = math.ceil(100 * QUARANTINE_ROOM * validated.quarantined.height / max(validated.rows, 1))
    if percent > draft.quarantined_percent:
        draft = replace(draft, quarantined_percent=min(percent, 100))
        reason = next(iter(validated.reasons))
        notes.append(
            f"data.accept.quarantined: {validated.quarantined.height} of {validated.rows} rows are quarantined, mostly "
            f"for {reason!r}; the limit is {draft.quarantined_percent}%"
        )
    contract = _parsed(draft, inference, frame)
    judge_batch(contract, validated, now=0.0)
    try:
        split(contract, validated.accepted, contract.training.seed)
    except DataError as error:
        if draft.split_by == "random":
            raise
        notes.append(f"training.split: at random, for by time {error}")
        draft = replace(draft, split_by="random")
        split(_parsed(draft, inference, frame), validated.accepted, contract.training.seed)
    return draft, validated, notes


def _parsed(draft: Draft, inference: Inference, frame: pl.DataFrame) -> Contract:
    try:
        return parse_contract(contract_text(draft, inference), CONTRACT_FILE, columns=frame.columns)
    except ContractError as error:
        raise InternalError(f"the inferred contract does not parse: {error}") from error


# --- writing


def _place(directory: Path, path: Path) -> str:
    """Where the project finds a file: where it lies, or in `data/`, where it will be copied."""
    inside = path.resolve()
    root = directory.resolve()
    return inside.relative_to(root).as_posix() if inside.is_relative_to(root) else f"{DATA_DIRECTORY}/{path.name}"


def _write(
    directory: Path, draft: Draft, inference: Inference, reads: Sequence[SourceRead]
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Write all files, the contract last: where it is, the rest is."""
    texts = {
        ".gitignore": GITIGNORE,
        TRAIN_FILE: train_text(inference.task, draft.system),
        CONTRACT_FILE: contract_text(draft, inference),
    }
    kept = tuple(name for name in texts if (directory / name).exists())
    written = []
    try:
        directory.mkdir(parents=True, exist_ok=True)
        for read, place in zip(reads, draft.sources.values(), strict=True):
            if _copy(read.path, directory / place):
                written.append(place)
        for name, text in texts.items():
            if name not in kept:
                (directory / name).write_text(text, encoding="utf-8")
                written.append(name)
    except OSError as error:
        raise StorageError(
            f"{directory}: cannot be written ({error.strerror or error}); give yourself the right, or choose another"
        ) from error
    return tuple(written), kept


def _copy(path: Path, place: Path) -> bool:
    if path.resolve() == place.resolve():
        return False
    if place.exists() and place.read_bytes() != path.read_bytes():
        raise ConflictError(f"{place} exists with other content; move it away, or rename {path.name}")
    place.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(path, place)
    return True
