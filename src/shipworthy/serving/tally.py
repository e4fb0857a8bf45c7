"""What workers have counted, put together: each leaves its tally in the server's folder, where the others read it.

Counts of a worker that ended stay; a worker that is started under its name goes on from them.
"""

import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec

FRESH_S = 5.0  # a tally that is older is of a worker that ended: what it counted stays, what it was does not
SUFFIX = ".tally"
RESTARTS = "restarts"
ASKED = "asked"


class Tally(msgspec.Struct, kw_only=True, omit_defaults=True):
    """Counts, which add up, and states, of which the worst is shown."""

    answers: dict[str, int] = {}  # `source handling`
    fallbacks: dict[str, int] = {}  # by cause
    stood_in: dict[str, int] = {}  # of those, by the last good release that answered
    responses: dict[int, int] = {}  # by HTTP status
    grpc_responses: dict[str, int] = {}  # by `method code`
    refusals: dict[str, int] = {}  # of the gate, by reason
    breaker_opened: dict[str, int] = {}  # by release
    latency: list[int] = []  # by bucket
    latency_sum_s: float = 0.0
    runs: int = 0
    run_rows: int = 0
    records: int = 0
    records_spooled: int = 0
    records_dropped: int = 0
    records_refused: int = 0
    outcomes: int = 0
    deployments_refused: int = 0
    overloaded: int = 0
    unlike: int = 0
    segments_fenced: int = 0

    spool_bytes: int = 0
    is_disk_refusing: bool = False  # the records'
    connections: int = 0
    breaker_open: dict[str, bool] = {}  # by release
    is_ready: bool = False
    workers: int = 0  # that are alive
    seen: float = 0.0  # monotonic seconds


_COUNTED = ("answers", "fallbacks", "stood_in", "responses", "grpc_responses", "refusals", "breaker_opened")
_SUMMED = (
    "latency_sum_s",
    "runs",
    "run_rows",
    "records",
    "records_spooled",
    "records_dropped",
    "records_refused",
    "outcomes",
    "deployments_refused",
    "overloaded",
    "unlike",
    "segments_fenced",
    "spool_bytes",
    "connections",
    "workers",
)


def add(one: Tally, other: Tally) -> Tally:
    """Both together.

    >>> add(Tally(runs=2, answers={"model automatic": 1}), Tally(runs=3, is_ready=True)).runs
    5
    """
    fields: dict[str, Any] = {name: _add_counts(getattr(one, name), getattr(other, name)) for name in _COUNTED}
    fields |= {name: getattr(one, name) + getattr(other, name) for name in _SUMMED}
    pairs = zip(one.latency or [0] * len(other.latency), other.latency or [0] * len(one.latency), strict=True)
    releases = {*one.breaker_open, *other.breaker_open}
    return Tally(
        **fields,
        latency=[mine + theirs for mine, theirs in pairs],
        breaker_open={
            name: one.breaker_open.get(name, False) or other.breaker_open.get(name, False) for name in releases
        },
        is_ready=one.is_ready or other.is_ready,
        is_disk_refusing=one.is_disk_refusing or other.is_disk_refusing,
        seen=max(one.seen, other.seen),
    )


def _add_counts(one: Mapping[Any, int], other: Mapping[Any, int]) -> dict[Any, int]:
    return {key: one.get(key, 0) + other.get(key, 0) for key in {**one, **other}}


def counts_alone(tally: Tally) -> Tally:
    """Without the states: what stays of a worker that ended."""
    return msgspec.structs.replace(
        tally, connections=0, breaker_open={}, is_ready=False, is_disk_refusing=False, spool_bytes=0, workers=0
    )


def write_tally(run: Path, name: str, tally: Tally) -> None:
    """Leave a worker's tally; a disk that refuses costs its neighbours' view of it and nothing else."""
    _replace(run / f"{name}{SUFFIX}", msgspec.msgpack.encode(tally))


def read_tally(run: Path, name: str) -> Tally:
    """What a worker of this name counted before; nothing if there was none."""
    return _read(run / f"{name}{SUFFIX}")


def ask_tallies(run: Path) -> None:
    """Ask every worker for its tally as it is now."""
    _replace(run / ASKED, b"")


def last_asked(run: Path) -> int:
    """When tallies were asked for last, ns of the file's time; 0: never."""
    try:
        return os.stat(run / ASKED).st_mtime_ns
    except OSError:
        return 0


def read_others(run: Path, name: str, clock: float) -> list[Tally]:
    """The tallies of the workers that have other names.

    Args:
        run: the server's folder.
        name: of the worker that asks.
        clock: monotonic seconds.
    """
    tallies = [_read(path) for path in sorted(run.glob(f"*{SUFFIX}")) if path.name != f"{name}{SUFFIX}"]
    return [tally if clock - tally.seen < FRESH_S else counts_alone(tally) for tally in tallies]


def write_restarts(run: Path, restarts: Mapping[str, int]) -> None:
    """Leave how often workers were replaced, by reason."""
    _replace(run / RESTARTS, msgspec.msgpack.encode(dict(restarts)))


def read_restarts(run: Path) -> dict[str, int]:
    """How often workers were replaced, by reason."""
    try:
        return msgspec.msgpack.decode((run / RESTARTS).read_bytes(), type=dict[str, int])
    except (OSError, msgspec.MsgspecError):
        return {}


def _read(path: Path) -> Tally:
    try:
        return msgspec.msgpack.decode(path.read_bytes(), type=Tally)
    except (OSError, msgspec.MsgspecError):
        return Tally()


def _replace(path: Path, content: bytes) -> None:
    draft = path.with_name(f".{path.name}.draft")  # not SUFFIX, by which tallies are found
    with suppress(OSError):
        draft.write_bytes(content)
        os.replace(draft, path)
