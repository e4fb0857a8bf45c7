"""Sources under way: all are found at the same time, and a broken one is answered as the contract says.

What a source held when it was last read, and what is kept of it, is its latest word in the ledger; so a read happened
when its event is there, and not before.
"""

import shutil
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from shipworthy.contract.data_section import Source
from shipworthy.contract.quantities import format_duration
from shipworthy.contract.types import Contract
from shipworthy.data.sources.attempts import Deadline, Pace, keep_trying, run_together
from shipworthy.data.sources.files import DELTA_LOG, digest_files, find_files
from shipworthy.data.sources.found import Found, Kept
from shipworthy.kernel.errors import DeadlineError, ShipworthyError, SourceError, UnavailableError
from shipworthy.ledger.events import Event, format_time
from shipworthy.workflows.fingerprints import Fingerprints
from shipworthy.workflows.layout import Project
from shipworthy.workflows.project import Parts
from shipworthy.workflows.shipping import Shipping

if TYPE_CHECKING:
    from shipworthy.data.sources.downloads import Downloads
    from shipworthy.data.sources.incremental import Shelf
    from shipworthy.data.sources.read import SourceRead

SOURCE = "source"  # kind of thing in the ledger
_UNREADABLE = "its rows cannot be read; the command that reads them says why"
_BROKEN = (SourceError, UnavailableError, DeadlineError)  # what a source can be blamed for


@dataclass(frozen=True, slots=True)
class Broken:
    """A source that cannot be read or breaks a promise, and what stands in for it."""

    reason: str  # for who runs the command; it may show a row
    recorded: str  # the same for the ledger, which holds no rows
    policy: str  # without, or last_good
    digest: str | None  # of the rows that are used instead
    since: float | None  # Unix seconds: when those were read

    def to_json(self) -> dict[str, Any]:
        """How events say it."""
        since = None if self.since is None else format_time(self.since)
        return {"policy": self.policy, "reason": self.recorded, "digest": self.digest, "since": since}


@dataclass(slots=True)
class Gathered:
    """The sources of one `ship`: as they stand, and as they were before."""

    found: dict[str, Found]
    broken: dict[str, Broken]
    known: Mapping[str, Mapping[str, Any]]  # source -> the latest word on it
    shelves: "Callable[[str], Shelf]"
    downloads: "Downloads | None"  # None: nothing is fetched
    reads: "dict[str, SourceRead]" = field(default_factory=dict)  # as far as rows were needed

    @property
    def digests(self) -> dict[str, str]:
        """The digest of what is used of each source; none of one that is done without."""
        found = {name: source.digest for name, source in self.found.items() if name not in self.broken}
        return found | {name: broken.digest for name, broken in self.broken.items() if broken.digest is not None}

    def origins(self, names: Collection[str] | None = None) -> list[str]:
        """The lineage's nodes of all that is used, or of what is used of the sources `names`."""
        wanted = self.found.keys() if names is None else names
        used = [found.origins for name, found in self.found.items() if name in wanted and name not in self.broken]
        nodes = [f"{node}@{digest}" for origins in used for node, digest in origins.items()]
        broken = {name: it.digest for name, it in self.broken.items() if name in wanted}
        return nodes + [f"source:{name}@{digest}" for name, digest in broken.items() if digest is not None]

    @property
    def stand_ins(self) -> dict[str, list[str | None]]:
        """What an ingest of broken sources depends on beside the digests."""
        return {name: [broken.policy, broken.digest] for name, broken in self.broken.items()}


def describe_stand_in(broken: Mapping[str, Any]) -> str:
    """What stands in for a source, in words.

    >>> describe_stand_in({"policy": "without", "since": None})
    'it is done without'
    """
    return "it is done without" if broken["policy"] == "without" else f"rows of {broken['since']} are used"


@contextmanager
def gathering(shipping: Shipping, fingerprints: Fingerprints, pace: Pace | None = None) -> Iterator[Gathered]:
    """The sources as they stand, for the time of one `ship`.

    Args:
        shipping: what is shipped.
        fingerprints: digests of files.
        pace: time and chance of attempts; None for the real ones.

    Raises:
        UsageError: a secret is not set, or an address cannot be used.
        SourceError: sources are broken that the contract does not go on without; all are named.
        StorageError: the disk is full.
    """
    contract, parts = shipping.contract, shipping.parts
    known = {str(body[SOURCE]): body for body in parts.ledger.latest(SOURCE)}
    fetches = any(source.url is not None for source in contract.data.sources.values())
    fleeting = parts.project.work / "downloads"  # where rows are encrypted no copy is left behind
    lasting = parts.project.state / "cache" / "downloads"
    seals = shipping.seals_with is not None
    for left in (fleeting, *([lasting] if seals else [])):
        shutil.rmtree(left, ignore_errors=True)
    downloads = _open_downloads(fleeting if seals else lasting) if fetches else None
    gathered = Gathered({}, {}, known, partial(_shelf, parts.project, seals), downloads)
    try:
        _find_all(shipping, gathered, fingerprints, pace or _real_pace(parts))
        yield gathered
    finally:
        shutil.rmtree(fleeting, ignore_errors=True)


def read_all(shipping: Shipping, gathered: Gathered) -> "tuple[dict[str, SourceRead], list[str]]":
    """The rows of every source, and the names of those that turned out broken only now.

    Raises:
        SourceError: as for `gathering`.
    """
    failures: dict[str, ShipworthyError] = {}
    unreadable: list[str] = []
    for name, source in shipping.contract.data.sources.items():
        shipping.tell("ingest", f"reading {source.path or name}")
        if name in gathered.broken:
            continue
        try:
            read = gathered.found[name].read()
        except _BROKEN as error:
            failures[name] = error
            unreadable.append(name)
            continue
        wrong = _wrong_count(source, read.rows)
        if wrong is None:
            gathered.reads[name] = read
        else:
            failures[name] = SourceError(f"{source.path or source.url}: {wrong}")
    if failures:
        _answer(shipping, gathered, failures, unreadable)
    sources = shipping.contract.data.sources
    reads = {name: gathered.reads.get(name) or _stand_in(name, source, gathered) for name, source in sources.items()}
    return reads, list(failures)


def settle(shipping: Shipping, gathered: Gathered, late: Mapping[str, Any]) -> None:
    """Keep what the next read builds on, and record what was read: from now on it has been.

    Args:
        shipping: what is shipped; the ingest is done.
        gathered: its sources.
        late: sources that the ingest found broken, when it was done.
    """
    for name, source in shipping.contract.data.sources.items():
        if name in gathered.broken or name in late or not _is_followed(source):
            continue
        body = _body_of_read(name, source, gathered)
        if body is not None:
            _append(shipping.parts, "source.read", name, body, gathered.known.get(name))
            gathered.shelves(name).keep_only(_held(body))
    if gathered.downloads is not None and not gathered.broken:  # what is broken may come back as it was
        places = {place for found in gathered.found.values() for place in found.origins}
        gathered.downloads.save({place.removeprefix("url:") for place in places})


def _open_downloads(folder: Path) -> "Downloads":
    from shipworthy.data.sources.downloads import Downloads  # nothing is fetched in most projects

    return Downloads.open(folder)


def _shelf(project: Project, seals: bool, name: str) -> "Shelf":
    from shipworthy.data.sources.incremental import Shelf  # as above

    return Shelf(project.sources / name, project.vault, seals)


def _real_pace(parts: Parts) -> Pace:
    return Pace(time.monotonic, time.sleep, lambda: int.from_bytes(parts.entropy(6)) / 2**48)


# --- found, all at the same time


def _find_all(shipping: Shipping, gathered: Gathered, fingerprints: Fingerprints, pace: Pace) -> None:
    sources = shipping.contract.data.sources
    results = run_together(
        {
            name: partial(
                keep_trying,
                partial(_find, shipping, gathered, fingerprints, name, source),
                place=source.path or source.url or name,
                retries=source.retries,
                timeout_s=source.timeout,
                pace=pace,
            )
            for name, source in sources.items()
        }
    )
    failures: dict[str, ShipworthyError] = {}
    unreadable: list[str] = []
    for name, result in results.items():
        if isinstance(result, ShipworthyError):
            failures[name] = result
            if sources[name].query is not None and isinstance(result, SourceError):
                unreadable.append(name)
            continue
        gathered.found[name] = result
        stale = _stale(sources[name], result, shipping.parts.now())
        if stale is not None:
            failures[name] = SourceError(stale)
    if failures:
        _answer(shipping, gathered, failures, unreadable)


def _find(
    shipping: Shipping, gathered: Gathered, fingerprints: Fingerprints, name: str, source: Source, deadline: Deadline
) -> Found:
    if source.path is not None:
        return find_file(shipping.parts.project, shipping.contract, fingerprints, name, source)
    if gathered.downloads is None:
        raise AssertionError("a source with a url needs a place for downloads")  # pragma: no cover
    from shipworthy.data.sources.dialect import (
        number_columns,  # the engines, which a project of files does not need here
    )
    from shipworthy.data.sources.remote import Places, find_remote

    kept = (gathered.known.get(name) or {}).get("kept")
    shelf = gathered.shelves(name)
    before = Kept(**{**kept, "parts": tuple(kept["parts"])}) if kept and shelf.folder.is_dir() else None
    places = Places(shipping.environment, gathered.downloads, shelf, number_columns(shipping.contract))
    return find_remote(name, source, places, before, deadline)


def find_file(project: Project, contract: Contract, fingerprints: Fingerprints, name: str, source: Source) -> Found:
    """Look what the files of a source hold now.

    Raises:
        UnavailableError: there are none, or they cannot be read.
    """
    path = project.root / (source.path or "")
    try:
        digest, digests = _digest_files(path, source, fingerprints)
        changed = max(file.stat().st_mtime for file in digests)
    except (SourceError, OSError) as error:
        raise UnavailableError(str(error)) from None  # it may come yet

    def read() -> "SourceRead":
        from shipworthy.data.sources.dialect import number_columns  # as above
        from shipworthy.data.sources.read import read_source

        return read_source(name, source, project.root, digest=digest, numbers=number_columns(contract))

    return Found(digest, read, changed, {f"file:{_relative(file, project)}": one for file, one in digests.items()})


def _digest_files(path: Path, source: Source, fingerprints: Fingerprints) -> tuple[str, dict[Path, str]]:
    """The digest of what a path names, and that of each file; a Delta table is one."""
    if (path / DELTA_LOG).is_dir():
        from shipworthy.data.sources.delta import delta_digest  # as above

        digest = delta_digest(path, source.version)
        return digest, {path: digest}
    digests = {file: fingerprints.digest(file) for file in find_files(path)}
    return digest_files(path, digests.__getitem__), digests


def _relative(file: Path, project: Project) -> Path:
    return file.relative_to(project.root) if file.is_relative_to(project.root) else file


# --- promises


def _stale(source: Source, found: Found, now: float) -> str | None:
    """What is wrong with the age of a source, if anything."""
    if source.age is None:
        return None
    place = source.path or source.url
    if found.changed is None:
        return f"{place}: does not say how old it is; remove age, or use accept.age with a time column"
    age = now - found.changed
    if age <= source.age.at_most:
        return None
    allowed = format_duration(source.age.at_most)
    return f"{place}: is {_rounded(age)} old; {allowed} are allowed (age.at_most)"


def _rounded(seconds: float) -> str:
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.3g}{unit}"
    return f"{seconds:.3g}s"


def _wrong_count(source: Source, rows: int) -> str | None:
    """What is wrong with the number of rows of a source, if anything."""
    limits = source.rows
    if limits is not None and limits.at_least is not None and rows < limits.at_least:
        return f"has {rows:,} rows; at least {limits.at_least:,} are promised (rows.at_least)"
    if limits is not None and limits.at_most is not None and rows > limits.at_most:
        return f"has {rows:,} rows; at most {limits.at_most:,} are promised (rows.at_most)"
    return None


# --- what stands in for a broken source


def _answer(
    shipping: Shipping, gathered: Gathered, failures: Mapping[str, ShipworthyError], unreadable: Collection[str]
) -> None:
    """Take what the contract says stands in for each source that failed; refuse, naming all, if one has nothing.

    Args:
        shipping: what is shipped.
        gathered: its sources.
        failures: how each failed.
        unreadable: those whose failure may show a row, which the ledger must not hold.
    """
    refused: dict[str, ShipworthyError] = {}
    for name, error in failures.items():
        if not isinstance(error, _BROKEN):
            refused[name] = error
            continue
        source = shipping.contract.data.sources[name]
        recorded = f"{source.path or source.url}: {_UNREADABLE}" if name in unreadable else str(error)
        answer = _choose(name, source, gathered, str(error), recorded)
        if isinstance(answer, Broken):
            gathered.broken[name] = answer
        else:
            refused[name] = answer
        if _is_followed(source):
            policy = answer.policy if isinstance(answer, Broken) else "refuse"
            _record_broken(shipping.parts, name, source, recorded, policy, gathered)
    if refused:
        lines = [f"source {name}: {error}" for name, error in refused.items()]
        ours = [error for error in refused.values() if not isinstance(error, _BROKEN)]
        kind = type(ours[0]) if ours else SourceError
        raise kind("\n".join(lines))


def _choose(name: str, source: Source, gathered: Gathered, reason: str, recorded: str) -> Broken | SourceError:
    known = gathered.known.get(name)
    if source.broken == "refuse":
        return SourceError(reason)
    if source.broken == "last_good":
        held = [] if known is None else _held(known, last_good=True)
        if known is None or not held or not gathered.shelves(name).has(held):
            return SourceError(f"{reason}; there is no last good read that could be used")
        return Broken(reason, recorded, "last_good", str(known["digest"]), float(known["read_at"]))
    if known is None or known.get("empty") is None or not gathered.shelves(name).has([known["empty"]]):
        return SourceError(f"{reason}; it was never read, so its columns are not known and prepare cannot do without")
    return Broken(reason, recorded, "without", None, float(known["read_at"]))


def _stand_in(name: str, source: Source, gathered: Gathered) -> "SourceRead":
    """The rows that were read last, or none of the same columns."""
    import polars as pl

    from shipworthy.data.sources.incremental import restore
    from shipworthy.data.sources.read import PLACED_SCHEMA, SourceRead
    from shipworthy.data.sources.remote import watermark_of

    known, broken, shelf = gathered.known[name], gathered.broken[name], gathered.shelves(name)
    malformed = pl.DataFrame(schema=PLACED_SCHEMA)
    if broken.policy == "without":
        frame = shelf.get(known["empty"])
    elif known["kept"] is not None:
        kept = Kept(**{**known["kept"], "parts": tuple(known["kept"]["parts"])})
        frame = restore(source.url or name, watermark_of(source), kept, shelf)
    else:
        frame = shelf.get(known["good"]["frame"])
        if known["good"]["malformed"] is not None:
            malformed = shelf.get(known["good"]["malformed"])
    place = Path(source.path or source.url or name)
    rows = frame.height + malformed.height
    return SourceRead(name, frame, place, broken.digest or "", int(frame.estimated_size()), rows, malformed)


# --- the ledger's word


def _is_followed(source: Source) -> bool:
    """Whether the ledger has a word on each read: of files that promise nothing the snapshot's says all."""
    return source.url is not None or source.broken != "refuse" or source.age is not None or source.rows is not None


def _body_of_read(name: str, source: Source, gathered: Gathered) -> dict[str, Any] | None:
    """The word on a read; None if that of before still holds."""
    found, known = gathered.found[name], gathered.known.get(name)
    kept = None if found.kept is None else {**asdict(found.kept), "parts": list(found.kept.parts)}
    body = {
        SOURCE: name,
        "state": "read",
        "place": source.path or source.url,
        "digest": found.digest,
        "kept": kept,
        "good": None,
        "empty": None,
    }
    keeps_good = source.broken == "last_good" and kept is None
    if (
        known is not None
        and known["state"] == "read"
        and all(known[key] == body[key] for key in ("place", "digest", "kept"))
    ):
        has_good = bool(known["good"]) == keeps_good and bool(known["empty"]) == (source.broken == "without")
        held = _held(known)
        if has_good and (not held or gathered.shelves(name).has(held)):
            return None
    shelf = gathered.shelves(name)
    if keeps_good or source.broken == "without":
        read = gathered.reads.get(name) or found.read()
        if keeps_good:
            malformed = shelf.put(read.malformed) if read.malformed.height else None
            body["good"] = {"frame": shelf.put(read.frame), "malformed": malformed}
        else:
            body["empty"] = shelf.put(read.frame.clear())
    rows = gathered.reads[name].rows if name in gathered.reads else None
    return {**body, "rows": rows, "new_rows": found.new_rows, "changed": found.changed}


def _held(body: Mapping[str, Any], *, last_good: bool = False) -> list[str]:
    """The files that a word on a source refers to; those of its last good rows alone, if so asked."""
    kept, good = body.get("kept"), body.get("good")
    held = [*(kept["parts"] if kept else ()), *((good["frame"], good["malformed"]) if good else ())]
    return [digest for digest in (*held, None if last_good else body.get("empty")) if digest is not None]


def _record_broken(parts: Parts, name: str, source: Source, reason: str, policy: str, gathered: Gathered) -> None:
    known = gathered.known.get(name)
    if known is not None and (known["state"], known.get("reason"), known.get("policy")) == ("broken", reason, policy):
        return  # it has been said
    blank = {SOURCE: name, "digest": None, "kept": None, "good": None, "empty": None, "read_at": None, "rows": None}
    body = {
        **(blank if known is None else known),
        "place": source.path or source.url,
        "state": "broken",
        "reason": reason,
        "policy": policy,
    }
    _append(parts, "source.broken", name, body, known)


def _append(parts: Parts, verb: str, name: str, body: dict[str, Any], known: Mapping[str, Any] | None) -> None:
    now = parts.now()
    revision = 1 + (0 if known is None else int(known["revision"]))
    times = {"read_at": now} if verb == "source.read" else {"broken_at": now}
    parts.ledger.append(
        Event(verb, f"{SOURCE}:{name}", parts.actor, {**body, **times, "revision": revision}, parts.rule)
    )
