"""The supervisor: accepts connections, hands each to the worker that has the fewest, and replaces workers that fail.

It loads no model and reads no request, so nothing that a caller or a model does reaches it. A worker that crashes is
replaced at once, one that gives no sign of life is killed, one whose model hangs or whose memory grows answers on
until its successor does. Connections that no worker has taken yet are kept, and handed to the next one.
"""

import fcntl
import logging
import os
import selectors
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, Literal

import msgspec

from shipworthy.kernel.errors import ConflictError, StorageError
from shipworthy.serving.channel import NAME_TAKEN, STUCK_S, Sign, Signs, hand
from shipworthy.serving.settings import ServerSettings
from shipworthy.serving.tally import counts_alone, read_tally, write_restarts, write_tally

BACKLOG = 1024
MAX_AT_ONCE = 64  # connections accepted in one turn
TICK_S = 0.05
START_S = 60.0  # for a worker to load its release
SILENT_S = 1.0  # without a sign a worker's loop hangs
STUCK_GRACE_S = 0.8  # for a worker whose model hangs to say goodbye: its answers take no longer
DRAIN_S = 12.0  # for any other; it drains within 10 s
WEIGH_S = 1.0  # between two looks at the memory
STEADY_S = 10.0  # a worker that answered longer is nothing to be wary of
FIRST_DELAY_S, MAX_DELAY_S = 0.1, 30.0  # between workers that do not start, hang or grow; doubled each time
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
LOCK = ".server.lock"
PREFIX = "shipworthy-"

Reason = Literal["crash", "silent", "stuck", "memory"]

_log = logging.getLogger("shipworthy.serving")


class _Worker:
    """One process and its line."""

    def __init__(self, name: str, process: "subprocess.Popen[bytes]", line: socket.socket, clock: float) -> None:
        self.name = name
        self.process = process
        self.line = line
        self.signs = Signs()
        self.sign: Sign | None = None  # the latest; None until it can answer
        self.seen = clock  # when that came
        self.started = clock
        self.handed = 0
        self.kept: deque[socket.socket] = deque()  # handed, and not said to be taken
        self.told_to_stop = False
        self.kill_at: float | None = None

    @property
    def load(self) -> int:
        return (0 if self.sign is None else self.sign.connections) + len(self.kept)


class _Slot:
    """A place for one worker, and how often it was filled in vain."""

    def __init__(self) -> None:
        self.worker: _Worker | None = None
        self.retiring: _Worker | None = None  # answers on until `worker` does
        self.failures = 0  # in a row, of workers that did not live long
        self.not_before = 0.0


class Supervisor:
    """Listens, and keeps `settings.workers` workers running.

    Args:
        settings: where and how; checked.
        program: what starts a worker, without its arguments.
        clock: monotonic seconds.
    """

    def __init__(
        self, settings: ServerSettings, program: Sequence[str], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._settings = settings
        self._program = list(program)
        self._clock = clock
        self._selector = selectors.DefaultSelector()
        self._listening: list[socket.socket] = []
        self._reserved: list[socket.socket] = []  # on the gRPC port, where the workers listen
        self._waiting: deque[socket.socket] = deque()  # accepted while nobody could take them
        self._slots = [_Slot() for _ in range(settings.workers)]
        self._leaving: list[_Worker] = []  # told to stop
        self._restarts: Counter[str] = Counter()
        self._taken_names: set[str] = set()
        self._run = Path()
        self._stopping = False
        self._was_ready = False
        self._due = 0.0  # for the next look at the workers
        self._weighed = 0.0

    def run(self, ready: Callable[..., None]) -> int:
        """Serve until told to stop; the exit code.

        Args:
            ready: told the address, and that of gRPC if there is one, once the first worker can answer.

        Raises:
            ConflictError: the port cannot be had, or another server writes these records.
            StorageError: records cannot be written.
        """
        guard = _lock(Path(self._settings.records))
        self._listen()
        self._reserve()
        self._run = _make_run(guard)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._ask_to_stop)
        try:
            return self._watch(ready)
        finally:
            self._close()
            os.close(guard)

    def _ask_to_stop(self, number: int, frame: Any) -> None:
        self._stopping = True

    # --- the loop

    def _watch(self, ready: Callable[..., None]) -> int:
        for slot in self._slots:
            self._start(slot)
        while not self._stopping:
            for key, _ in self._selector.select(max(0.0, self._due - self._clock())):
                key.data()
            if not self._was_ready and any(worker.sign is not None for worker in self._workers()):
                self._was_ready = True
                ready(*self._addresses())
            if self._clock() >= self._due:
                self._due = self._clock() + TICK_S
                if not self._look():
                    return 1
        return self._stop()

    def _addresses(self) -> list[str]:
        settings = self._settings
        host = f"[{settings.host}]" if ":" in settings.host else settings.host
        http = f"{settings.binding.scheme}://{host}:{self._listening[0].getsockname()[1]}"
        return [http] if settings.grpc_port is None else [http, f"{host}:{settings.grpc_port}"]

    def _workers(self) -> list[_Worker]:
        both = [worker for slot in self._slots for worker in (slot.worker, slot.retiring)]
        return [worker for worker in both if worker is not None]

    def _look(self) -> bool:
        """Replace what failed; False if the first workers could not start."""
        clock = self._clock()
        is_weighing = clock - self._weighed >= WEIGH_S
        for slot in self._slots:
            if slot.worker is not None and slot.worker.process.poll() is not None:
                if not self._was_ready and slot.worker.process.returncode != NAME_TAKEN:
                    return False  # it has said why
                self._bury(slot, slot.worker, "crash")
            if slot.retiring is not None and slot.retiring.process.poll() is not None:
                self._forget(slot.retiring)
                slot.retiring = None
            if slot.worker is not None:
                self._judge(slot, slot.worker, clock, is_weighing=is_weighing)
            if slot.worker is None and clock >= slot.not_before:
                self._start(slot)
            self._relieve(slot, clock)
        if is_weighing:
            self._weighed = clock
        self._see_off(clock)
        self._hand_waiting()
        return True

    def _judge(self, slot: _Slot, worker: _Worker, clock: float, *, is_weighing: bool) -> None:
        if worker.sign is None:
            if clock - worker.started > START_S:
                _log.error("worker %s did not start within %g s", worker.name, START_S)
                worker.process.kill()
            return
        if clock - worker.seen > SILENT_S:
            _log.error("worker %s gives no sign of life; it is killed", worker.name)
            worker.process.kill()
            worker.process.wait()
            self._bury(slot, worker, "silent")
        elif slot.retiring is None and clock >= slot.not_before:
            if worker.sign.late_s > STUCK_S:
                self._succeed(slot, worker, "stuck")
            elif is_weighing and self._is_too_large(worker):
                self._succeed(slot, worker, "memory")

    def _is_too_large(self, worker: _Worker) -> bool:
        limit = self._settings.worker_memory_bytes
        return bool(limit) and resident_bytes(worker.process.pid) > limit

    def _bury(self, slot: _Slot, worker: _Worker, reason: Reason) -> None:
        """A worker has ended by itself, or had to be."""
        if worker.process.returncode == NAME_TAKEN:
            self._taken_names.add(worker.name)
        else:
            _log.error("worker %s ended (%s); it is replaced", worker.name, worker.process.returncode)
            self._count(slot, worker, reason)
        slot.worker = None
        self._forget(worker)

    def _succeed(self, slot: _Slot, worker: _Worker, reason: Reason) -> None:
        """Start a successor; the worker answers until that does."""
        _log.error("worker %s is replaced: %s", worker.name, reason)
        self._count(slot, worker, reason)
        slot.retiring, slot.worker = worker, None
        if self._clock() >= slot.not_before:
            self._start(slot)

    def _count(self, slot: _Slot, worker: _Worker, reason: Reason) -> None:
        clock = self._clock()
        slot.failures = 1 if clock - worker.started > STEADY_S else slot.failures + 1
        is_sudden = reason == "crash" and worker.sign is not None  # it answered: the next one may as well
        if slot.failures > 1 and not is_sudden:
            slot.not_before = clock + min(FIRST_DELAY_S * 2 ** (slot.failures - 2), MAX_DELAY_S)
        self._restarts[reason] += 1
        write_restarts(self._run, self._restarts)

    def _relieve(self, slot: _Slot, clock: float) -> None:
        """Let the retiring worker go once its successor answers."""
        worker = slot.retiring
        if worker is None or slot.worker is None or slot.worker.sign is None:
            return
        is_stuck = worker.sign is not None and worker.sign.late_s > STUCK_S
        slot.retiring = None
        self._dismiss(worker, clock + (STUCK_GRACE_S if is_stuck else DRAIN_S))

    def _dismiss(self, worker: _Worker, kill_at: float) -> None:
        worker.told_to_stop = True
        worker.kill_at = kill_at
        worker.process.terminate()
        self._leaving.append(worker)

    def _see_off(self, clock: float) -> None:
        for worker in tuple(self._leaving):
            if worker.process.poll() is None and worker.kill_at is not None and clock > worker.kill_at:
                worker.process.kill()
                worker.process.wait()
            if worker.process.poll() is not None:
                self._leaving.remove(worker)
                self._forget(worker)

    def _forget(self, worker: _Worker) -> None:
        """Close its line; what it had not taken waits for another."""
        self._deafen(worker.line)
        worker.line.close()
        write_tally(self._run, worker.name, counts_alone(read_tally(self._run, worker.name)))
        self._waiting.extendleft(reversed(worker.kept))
        worker.kept.clear()

    def _deafen(self, one: socket.socket) -> None:
        if one in self._selector.get_map():
            self._selector.unregister(one)

    # --- connections

    def _listen(self) -> None:
        settings = self._settings
        port = settings.port
        try:
            for family, _, _, _, address in dict.fromkeys(
                socket.getaddrinfo(settings.host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
            ):
                listening = socket.create_server((address[0], port), family=family, backlog=BACKLOG)
                listening.setblocking(False)
                self._listening.append(listening)
                port = int(listening.getsockname()[1])
        except OSError as error:
            self._close_listening()
            raise ConflictError(
                f"Port {settings.port} of {settings.host} cannot be listened on ({error.strerror}); choose another "
                "port or address."
            ) from None

    def _reserve(self) -> None:
        """Have the gRPC port while this server runs: its workers listen there side by side, other servers may not."""
        settings = self._settings
        port = settings.grpc_port
        if port is None:
            return
        try:
            for family, _, _, _, address in dict.fromkeys(
                socket.getaddrinfo(settings.host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
            ):
                self._reserved.append(_reserve(family, str(address[0]), port))
                port = int(self._reserved[-1].getsockname()[1])
        except OSError as error:
            self._close_listening()
            raise ConflictError(
                f"Port {settings.grpc_port} of {settings.host} cannot be listened on for gRPC ({error.strerror}); "
                "choose another --grpc-port."
            ) from None
        self._settings = msgspec.structs.replace(settings, grpc_port=port)

    def _accept(self, listening: socket.socket) -> None:
        for _ in range(MAX_AT_ONCE):
            try:
                connection, _ = listening.accept()
            except OSError:  # no more now, or it went before it was taken
                return
            if not self._hand(connection):
                self._waiting.append(connection)
                self._mind_the_door()
                return

    def _mind_the_door(self) -> None:
        """Accept only while accepted connections find a worker; more wait in the kernel's queue, none is refused."""
        is_open = not self._waiting and any(worker.sign is not None for worker in self._workers())
        for listening in self._listening:
            if not is_open:
                self._deafen(listening)
            elif listening not in self._selector.get_map():
                self._selector.register(listening, selectors.EVENT_READ, partial(self._accept, listening))

    def _hand(self, connection: socket.socket) -> bool:
        """Give it to the worker with the fewest; False if none takes it now."""
        clock = self._clock()
        able = [worker for worker in self._workers() if worker.sign is not None and clock - worker.seen < SILENT_S / 2]
        healthy = [worker for worker in able if worker.sign is not None and worker.sign.late_s <= STUCK_S]
        for worker in sorted(healthy or able, key=lambda one: one.load):
            if hand(worker.line, connection):
                worker.kept.append(connection)
                worker.handed += 1
                return True
        return False

    def _hand_waiting(self) -> None:
        while self._waiting and self._hand(self._waiting[0]):
            self._waiting.popleft()
        self._mind_the_door()

    def _hear(self, worker: _Worker) -> None:
        try:
            content = worker.line.recv(65536)
        except OSError:
            content = b""
        if not content:  # the process ends, or has
            self._deafen(worker.line)
            self._due = self._clock()
            return
        sign = worker.signs.feed(content)
        if sign is None:
            return
        worker.sign, worker.seen = sign, self._clock()
        while worker.kept and worker.handed - len(worker.kept) < sign.taken:
            worker.kept.popleft().close()
        self._hand_waiting()

    # --- processes

    def _start(self, slot: _Slot) -> None:
        used = {worker.name for worker in (*self._workers(), *self._leaving)} | self._taken_names
        name = next(name for name in (f"w{number}" for number in range(10**6)) if name not in used)
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        with theirs:
            settings = msgspec.json.encode(self._settings).decode()
            arguments = [
                "--settings",
                settings,
                "--name",
                name,
                "--line",
                str(theirs.fileno()),
                "--run",
                str(self._run),
            ]
            process = subprocess.Popen(
                [*self._program, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                pass_fds=(theirs.fileno(),),
            )
        ours.setblocking(False)
        worker = _Worker(name, process, ours, self._clock())
        self._selector.register(ours, selectors.EVENT_READ, lambda: self._hear(worker))
        slot.worker = worker

    def _stop(self) -> int:
        """Let every worker drain; 0 if none had to be killed."""
        self._close_listening()
        for connection in self._waiting:
            connection.close()
        end = self._clock() + DRAIN_S
        workers = [*self._workers(), *self._leaving]
        for worker in workers:
            worker.process.terminate()
        while any(worker.process.poll() is None for worker in workers) and self._clock() < end:
            for key, _ in self._selector.select(TICK_S):
                key.data()
        return 0 if all(worker.process.poll() == 0 for worker in workers) else 1

    def _close_listening(self) -> None:
        for listening in self._listening:
            self._deafen(listening)
            listening.close()
        for reserved in self._reserved:
            reserved.close()
        self._listening, self._reserved = [], []

    def _close(self) -> None:
        for worker in (*self._workers(), *self._leaving):
            if worker.process.poll() is None:
                worker.process.kill()
                worker.process.wait()
            worker.line.close()
        self._close_listening()
        self._selector.close()
        shutil.rmtree(self._run, ignore_errors=True)


def _reserve(family: socket.AddressFamily, host: str, port: int) -> socket.socket:
    """A socket bound to a port that was free, which sockets of this user may then share; it takes no connections.

    Raises:
        OSError: the port is taken.
    """
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # what lingers of connections does not count
        probe.bind((host, port))
        port = int(probe.getsockname()[1])
    reserved = socket.socket(family, socket.SOCK_STREAM)
    try:
        reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        reserved.bind((host, port))
    except OSError:
        reserved.close()
        raise
    return reserved


def resident_bytes(pid: int) -> int:
    """Memory of a process that is in use now; 0 if it is gone or the system does not say.

    Source: proc_pid_statm(5).
    """
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * PAGE_BYTES
    except (OSError, IndexError):
        return 0


def _make_run(guard: int) -> Path:
    """A folder for what the workers share; that of a server that was killed is removed, for the lock names it."""
    before = Path(os.fsdecode(os.pread(guard, os.fstat(guard).st_size, 0)))
    with suppress(OSError):
        if before.name.startswith(PREFIX) and before.stat().st_uid == os.geteuid():
            shutil.rmtree(before)
    run = Path(tempfile.mkdtemp(prefix=PREFIX))
    with suppress(OSError):
        os.ftruncate(guard, 0)
        os.pwrite(guard, os.fsencode(run), 0)
    return run


def _lock(records: Path) -> int:
    try:
        records.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(records / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise StorageError(f"{records} cannot be written: {error.strerror}; mend the disk.") from None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        raise ConflictError(f"{records}: another server writes records here; stop it first.") from None
    return descriptor
