"""Telling lineage: OpenLineage events of the runs in the ledger, to the contract's receiver or into a file.

The ledger is the queue: what was told is remembered by the number of its entry, so a receiver that was away gets
everything once it is back. Whoever is stopped between an event and that note tells it again, with the same run id.
"""

import json
import os
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from shipworthy.bundle.deployment import replace_file
from shipworthy.contract.types import Contract, Lineage, is_receiver
from shipworthy.governance.openlineage import Setting, run_events
from shipworthy.kernel.digest import digest_json
from shipworthy.kernel.errors import ConflictError, NotFoundError, ShipworthyError
from shipworthy.ledger.store import Ledger
from shipworthy.monitoring.deliver import deliver, pause_after
from shipworthy.workflows.layout import Project
from shipworthy.workflows.project import hold_file, read_contract

KEY = "lineage.openlineage"
API = "/api/v1/lineage"  # where receivers of OpenLineage listen
PATIENCE_S = 1.0  # that a command waits for the receiver at its end
AT_ONCE = 500  # runs told by one command that waits no longer
STATE_FILE = "openlineage.json"

Pairs = list[tuple[int, list[dict[str, Any]]]]  # entry's number, events of its run


@dataclass(frozen=True, slots=True)
class Told:
    """What a receiver has been told."""

    receiver: str = ""  # digest of its name in the contract; another one is told everything
    after: int = 0  # the last entry whose run it knows
    failures: int = 0  # in a row
    next_at: float = 0.0  # Unix seconds: not tried before


@dataclass(frozen=True, slots=True)
class Telling:
    """How it went."""

    events: int  # told
    waiting: int  # runs that are not told
    error: str | None = None  # in words, without the address
    is_news: bool = False  # it went well the time before

    def __str__(self) -> str:
        """What a person is told of a failure."""
        runs = "1 run is" if self.waiting == 1 else f"{self.waiting:,} runs are"
        return (
            f"the OpenLineage receiver was not told: {self.error}; {runs} kept and told later, or now by "
            "`shipworthy lineage --send`"
        )


def _all_lines(project: Project, ledger: Ledger) -> Iterator[str]:
    """Every run's events, one JSON document a line; of the same ledger the same."""
    for _, events in run_events(ledger.events(), _setting(project, ledger, read_contract(project))):
        yield from map(_line, events)


def write_events(project: Project, ledger: Ledger, path: Path) -> int:
    """Write every run's events to `path`, atomically; how many.

    Raises:
        StorageError: it cannot be written.
    """
    lines = list(_all_lines(project, ledger))
    replace_file(path, "".join(lines).encode())
    return len(lines)


def tell_lineage(
    project: Project,
    ledger: Ledger,
    environ: Mapping[str, str],
    now: Callable[[], float],
    *,
    contract: Contract | None = None,
    patience_s: float | None = PATIENCE_S,
) -> Telling | None:
    """Tell the contract's receiver of the runs that it does not know; None where there is none, or nothing to do.

    Args:
        project: whose runs they are.
        ledger: of the project.
        environ: where `${NAME}` is looked up.
        now: Unix seconds.
        contract: names the receiver; the project's if None.
        patience_s: how long to wait for it; what is left is told next time. None: until all is told, also when a
            pause after a failure has not ended.
    """
    contract = contract or read_contract(project)
    place = contract.lineage.openlineage
    if place is None:
        return None
    try:
        with hold_file(project, "openlineage.lock", f"process {os.getpid()}", "{holder} tells lineage"):
            told = _read_told(project, place)
            if patience_s is not None and now() < told.next_at:
                return None
            limit = None if patience_s is None else AT_ONCE
            pairs = _pending(_setting(project, ledger, contract), ledger, told.after, limit)
            return _tell(project, contract.lineage, told, pairs, environ, now, patience_s) if pairs else None
    except ConflictError:  # somebody is telling it
        return None


def require_receiver(project: Project) -> str:
    """The receiver that the contract names, as it writes it.

    Raises:
        NotFoundError: it names none.
    """
    place = read_contract(project).lineage.openlineage
    if place is None:
        raise NotFoundError("the contract names no receiver; add `lineage: {openlineage: https://…}` or a file")
    return place


def _pending(setting: Setting, ledger: Ledger, after: int, limit: int | None) -> Pairs:
    pairs: Pairs = []
    for pair in run_events(ledger.events(after=after), setting):
        pairs.append(pair)
        if limit is not None and len(pairs) == limit:
            break
    return pairs


def _setting(project: Project, ledger: Ledger, contract: Contract) -> Setting:
    return Setting(contract.system, contract.owner, str(project.root.resolve()), ledger.find_snapshot)


def _line(event: Mapping[str, Any]) -> str:
    return json.dumps(event, ensure_ascii=False, allow_nan=False) + "\n"


# --- to whom


def _tell(
    project: Project,
    lineage: Lineage,
    told: Told,
    pairs: Pairs,
    environ: Mapping[str, str],
    now: Callable[[], float],
    patience_s: float | None,
) -> Telling:
    post = _Post(project, lineage, told, pairs, environ, now)
    work = threading.Thread(target=post.run, name="openlineage", daemon=True)  # a name server may hang for minutes
    work.start()
    work.join(patience_s)
    return post.ended(work.is_alive())


class _Post:
    """What is told by a thread that may be left behind; it stops writing once it was."""

    def __init__(
        self,
        project: Project,
        lineage: Lineage,
        told: Told,
        pairs: Pairs,
        environ: Mapping[str, str],
        now: Callable[[], float],
    ) -> None:
        self._project = project
        self._lineage = lineage
        self._told = told
        self._pairs = pairs
        self._environ = environ
        self._now = now
        self._lock = threading.Lock()
        self._done = 0  # runs
        self._events = 0
        self._error: str | None = None
        self._left = False

    def run(self) -> None:
        """Tell one run after the other, until one fails."""
        for seq, events in self._pairs:
            error = self._send(events)
            with self._lock:
                if self._left:
                    return
                self._error = error
                if error is not None:
                    return
                self._done, self._events = self._done + 1, self._events + len(events)
                self._told = replace(self._told, after=seq)
                self._keep()

    def ended(self, is_late: bool) -> Telling:
        """Leave it, and remember when it is to be tried again."""
        with self._lock:
            self._left = True
            waiting = len(self._pairs) - self._done
            error = self._error
            if is_late and waiting and error is None:
                error = "it takes too long"
            is_news = error is not None and not self._told.failures
            if error is None:
                self._told = replace(self._told, failures=0, next_at=0.0)
            else:
                failures = 1 if self._done else self._told.failures + 1
                self._told = replace(self._told, failures=failures, next_at=self._now() + pause_after(failures))
            self._keep()
        return Telling(self._events, waiting, error, is_news)

    def _send(self, events: list[dict[str, Any]]) -> str | None:
        place = self._lineage.openlineage or ""
        if not is_receiver(place):
            return _append(self._project.root / place, "".join(map(_line, events)))
        for event in events:
            attempt = deliver(event, place, self._environ, key=KEY, token=self._lineage.token, path=API)
            if attempt.error is not None:
                return attempt.error
        return None

    def _keep(self) -> None:
        content = json.dumps(asdict(self._told)).encode()
        try:
            replace_file(self._project.state / STATE_FILE, content)
        except ShipworthyError as error:  # it is told again, with the same run ids
            self._error = self._error or f"{STATE_FILE} cannot be written ({error})"


def _append(path: Path, lines: str) -> str | None:
    """Add whole lines to a file, behind one that was torn; what went wrong, in words."""
    try:
        with path.open("ab+") as file:
            end = file.seek(0, os.SEEK_END)
            if end:
                file.seek(end - 1)
                if file.read(1) != b"\n":
                    lines = f"\n{lines}"
            file.write(lines.encode())
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        return f"{path.name} cannot be written ({error.strerror or error})"
    return None


def _read_told(project: Project, place: str) -> Told:
    receiver = digest_json(place)
    try:
        told = Told(**json.loads((project.state / STATE_FILE).read_text()))
    except (OSError, ValueError, TypeError):
        return Told(receiver)
    return told if told.receiver == receiver else Told(receiver)
