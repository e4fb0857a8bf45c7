"""`init`: a table becomes a project with a contract and training code that work as they stand. Never asks."""

import math
import re
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import polars as pl

from shipworthy.contract.data_section import Source
from shipworthy.contract.parse import parse_contract
from shipworthy.contract.types import Contract
from shipworthy.data.accept import judge_batch
from shipworthy.data.detection import detect_dialect
from shipworthy.data.findings.find import find_all
from shipworthy.data.guesses import Inference
from shipworthy.data.infer import infer
from shipworthy.data.names import identifier
from shipworthy.data.numerals import Written, detect_numerals, spoken, words_for_null
from shipworthy.data.sources.dialect import Dialect
from shipworthy.data.sources.excel import sheet_names
from shipworthy.data.sources.files import DELTA_LOG, fixed_part
from shipworthy.data.sources.read import SourceRead, read_file
from shipworthy.data.split import split
from shipworthy.data.validate import Validated, validate
from shipworthy.kernel.errors import ConflictError, ContractError, DataError, InternalError, StorageError, UsageError
from shipworthy.workflows.layout import CONTRACT_FILE
from shipworthy.workflows.templates import GITIGNORE, Draft, contract_text, train_text

TRAIN_FILE = "train.py"
DATA_DIRECTORY = "data"
SHOWN_COLUMNS = 5  # in a note
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
        data: files, directories, patterns or Delta tables with the same columns.
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
    inputs, inference, notes = _understood(_read(data), target, time, key, protected)
    frame = _frame(inputs)
    sources = {each.read.name: _source(each, directory) for each in inputs}
    draft = Draft(_system(directory), sources, _split_by(inference), USUAL_QUARANTINE_PERCENT)
    reads = [each.read for each in inputs]
    draft, validated, more = _tried(draft, inference, reads, frame)
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
        review=(*notes, *_questions(_parsed(draft, inference, frame), validated), *inference.review, *more),
    )


def _questions(contract: Contract, validated: Validated) -> list[str]:
    """What a person should be asked about the rows; codes among numbers are in the inference's own review."""
    places = split(contract, validated.accepted, contract.training.seed)
    return [found.words for found in find_all(contract, validated.accepted, places) if found.kind != "sentinel"]


# --- reading


@dataclass(frozen=True, slots=True)
class _Input:
    """One thing that was named with --data, and how it is written."""

    place: Path
    dialect: Dialect
    read: SourceRead

    @property
    def is_text(self) -> bool:
        """Whether its numbers are texts."""
        return self.dialect.format in ("csv", "tsv")


def _read(data: Sequence[Path]) -> list[_Input]:
    if not data:
        raise UsageError("no data: name at least one file with --data")
    inputs: list[_Input] = []
    for path in data:
        words = re.sub(r"[*?\[].*", "", path.name).split(".")[0] or fixed_part(path).name
        name = _free(identifier(words, 1).lower(), [each.read.name for each in inputs])
        dialect = detect_dialect(path)
        inputs.append(_Input(path, dialect, read_file(name, path, dialect)))
    first = inputs[0].read
    for read in (each.read for each in inputs[1:]):
        if read.frame.columns != first.frame.columns:
            odd = sorted(set(read.frame.columns) ^ set(first.frame.columns)) or ["their order"]
            raise UsageError(
                f"{read.path} and {first.path} differ in columns ({', '.join(odd[:5])}); init takes one table, also "
                "in several files; join others first, or later in data.prepare"
            )
    return inputs


def _frame(inputs: Sequence[_Input]) -> pl.DataFrame:
    return pl.concat([each.read.frame for each in inputs], how="vertical_relaxed")


def _read_again(inputs: Sequence[_Input], **changes: Any) -> list[_Input]:
    """The text files, read in a dialect that is known better now."""
    return [
        _Input(each.place, dialect, read_file(each.read.name, each.place, dialect)) if each.is_text else each
        for each in inputs
        for dialect in [replace(each.dialect, **changes)]
    ]


def _understood(
    inputs: list[_Input], target: str, time: str | None, key: str | None, protected: Sequence[str]
) -> tuple[list[_Input], Inference, list[str]]:
    """The inputs read as they are most likely meant, what they hold, and notes on how they are written."""
    frame = _frame(inputs)
    written = detect_numerals(frame) if any(each.is_text for each in inputs) else Written()
    nulls = words_for_null(frame, written.numerals)
    numbers = frozenset(written.numbers)
    if nulls or not written.numerals.is_plain:
        inputs = _read_again(inputs, numerals=written.numerals, numbers=numbers, nulls=nulls)
        frame = _frame(inputs)
    names = {original: name for each in inputs for name, original in each.read.names.items()}
    columns = (
        _resolved(target, frame, names),
        _resolved(time, frame, names) if time else None,
        _resolved(key, frame, names) if key else None,
        [_resolved(name, frame, names) for name in protected],
    )
    inference = infer(frame, *columns)
    meant = _numbers(inference)
    if not written.numerals.is_plain and meant != numbers:  # what the contract does not call a number stays as written
        inputs = _read_again(inputs, numbers=meant)
        inference = infer(_frame(inputs), *columns)
    return inputs, inference, list(_dialect_notes(inputs, written, nulls))


def _numbers(inference: Inference) -> frozenset[str]:
    """The columns that the contract will call numbers."""
    numbers = {guess.name for guess in inference.placed("feature") if guess.kind in ("float", "int")}
    return frozenset(numbers | ({inference.target} if inference.task == "regression" else set()))


def _dialect_notes(inputs: Sequence[_Input], written: Written, nulls: Sequence[str]) -> Iterator[str]:
    for each in inputs:
        if each.dialect.encoding == "windows-1252":
            yield f"{each.place}: is not UTF-8 and read as windows-1252; look whether its texts are right"
        if each.dialect.format == "excel":
            others = [name for name in sheet_names(each.read.files[0].path) if name != each.dialect.sheet]
            if others:
                yield f"{each.place}: the sheet {each.dialect.sheet!r} is read; it also has {', '.join(others[:20])}"
    if nulls:
        words = " and ".join(map(repr, nulls))
        yield f"data.sources: {words} among numbers is taken for no value, in every column"
    if not written.numerals.is_plain:
        yield (
            f"data.sources: numbers are read as {written.numerals.example} ({spoken(written.numerals)}), as in "
            f"{', '.join(written.columns[:SHOWN_COLUMNS])}"
        )
    for name in written.unclear:
        yield (
            f"{name}: whether its sign parts decimals or thousands cannot be told; declare decimal and thousands at "
            "its source, and the column as a number"
        )
    if written.apart:
        yield (
            f"numbers are written in different ways ({', '.join(written.apart[:SHOWN_COLUMNS])} unlike others), so "
            "none is declared: write them alike to have them all as features"
        )


def _source(each: _Input, directory: Path) -> Source:
    """What the contract says of an input; the delimiter only where its format does not say it."""
    dialect = each.dialect
    implied = {"csv": ",", "tsv": "\t"}.get(dialect.format or "")
    return Source.model_validate(
        {
            "path": _place(directory, each.place),
            "format": dialect.format,
            "delimiter": None if dialect.delimiter == implied else dialect.delimiter,
            "encoding": dialect.encoding,
            "decimal": dialect.numerals.decimal,
            "thousands": dialect.numerals.thousands or None,
            "nulls": dialect.nulls,
            "sheet": dialect.sheet,
        }
    )


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
    """Where the project finds a file: where it lies, or in `data/`, where it will be copied.

    Of a pattern it is where its fixed part lies, and the rest of the pattern.
    """
    fixed = path if path.exists() else fixed_part(path)
    rest = () if path.exists() else path.parts[len(fixed.parts) :]
    inside, root = fixed.resolve(), directory.resolve()
    if inside.is_relative_to(root):
        return (inside.relative_to(root) / Path(*rest)).as_posix()
    return (Path(DATA_DIRECTORY) / (fixed.name or fixed.resolve().name) / Path(*rest)).as_posix()


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
        for read, source in zip(reads, draft.sources.values(), strict=True):
            written += _copy(read, directory, Path(source.path or ""))
        for name, text in texts.items():
            if name not in kept:
                (directory / name).write_text(text, encoding="utf-8")
                written.append(name)
    except OSError as error:
        raise StorageError(
            f"{directory}: cannot be written ({error.strerror or error}); give yourself the right, or choose another"
        ) from error
    return tuple(written), kept


def _copy(read: SourceRead, directory: Path, place: Path) -> list[str]:
    """Copy what lies outside of the directory to its place in it; what was written, relative to the directory."""
    if (read.path / DELTA_LOG).is_dir():
        return _copy_table(read.path, directory, place)
    single = read.files[0].path == read.path
    root = place if read.path.is_dir() else fixed_part(place)
    written = []
    for file in read.files:
        target = place if single else root / file.name
        if _copy_file(file.path, directory / target):
            written.append(target.as_posix())
    return written


def _copy_file(path: Path, place: Path) -> bool:
    if path.resolve() == place.resolve():
        return False
    if place.exists() and place.read_bytes() != path.read_bytes():
        raise ConflictError(f"{place} exists with other content; move it away, or rename {path.name}")
    place.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(path, place)
    return True


def _copy_table(path: Path, directory: Path, place: Path) -> list[str]:
    if path.resolve() == (directory / place).resolve():
        return []
    if (directory / place).exists():
        raise ConflictError(f"{directory / place} exists; move it away, or rename {path.name}")
    shutil.copytree(path, directory / place)
    return [place.as_posix()]
