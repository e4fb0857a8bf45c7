"""The process of a worker: starts from local disk, answers what it is handed, drains when told to stop."""

import argparse
import asyncio
import gc
import logging
import os
import signal
import socket
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import uvloop

from shipworthy.bundle.verify import VerifiedPayload
from shipworthy.kernel.errors import ConflictError, ShipworthyError
from shipworthy.records.disk import Disk
from shipworthy.records.spool import open_spool
from shipworthy.records.write import SegmentWriter
from shipworthy.security.vault import DATA_KEYS, Vault
from shipworthy.serving.channel import NAME_TAKEN, Sign, tell
from shipworthy.serving.counters import Counters
from shipworthy.serving.intake import Intake
from shipworthy.serving.live import LiveState, Signature, keep_good, read_signature, start_live
from shipworthy.serving.outcomes import OutcomeLog
from shipworthy.serving.path import PathSettings, PredictionPath
from shipworthy.serving.protocol import Connection
from shipworthy.serving.records_watch import RecordsWatch
from shipworthy.serving.runtimes.load import load_runtime
from shipworthy.serving.runtimes.rehearsed import FailingRuntime
from shipworthy.serving.runtimes.runtime import Runtime
from shipworthy.serving.servable import WARM_ROWS
from shipworthy.serving.settings import ServerSettings, traces_url
from shipworthy.serving.watch import GOOD, REFUSED, require_spool, watch_live
from shipworthy.serving.worker import Worker

BEAT_S = 0.05  # between signs of life
SWEEP_S = 1.0
QUIET_S = 0.3  # for callers who keep connections to be told with their next answer that it was the last
DRAIN_S = 10.0  # for answers under way when told to stop

if TYPE_CHECKING:
    from shipworthy.serving.traces import Tracing

_log = logging.getLogger("shipworthy.serving")


@dataclass(frozen=True, slots=True)
class Post:
    """Where a worker stands: its name, its line to the supervisor and the server's folder."""

    name: str
    line: socket.socket
    run: Path


def work(
    settings: ServerSettings,
    post: Post,
    make_runtime: Callable[[VerifiedPayload], Runtime] = load_runtime,
    disk: Disk | None = None,
) -> None:
    """Answer what the supervisor hands down until told to stop; blocks.

    Args:
        settings: of the server.
        post: of this worker.
        make_runtime: loads a model.
        disk: where records are written.

    Raises:
        UsageError, AccessError: the certificate is not right, there is no key, or no spool and one is asked for.
        NotFoundError: nothing is deployed.
        IntegrityError: what is deployed does not hold.
        ConflictError: another process writes records under this name.
        StorageError: records cannot be written.
    """
    signature = read_signature(Path(settings.live))  # before: what changes while loading is noticed
    vault = Vault(Path(settings.keys) / DATA_KEYS, os.environ)
    good = Path(settings.records) / GOOD
    state, refused = start_live(Path(settings.live), Path(settings.keys), make_runtime, vault, good)
    require_spool(state, settings)
    if refused is None:
        keep_good(Path(settings.live), signature, good, state.last_good)
    else:
        _log.error("refused, the last good state answers: %s", refused)
    writer = SegmentWriter(
        Path(settings.records),
        Path(settings.live).name,
        post.name,
        now=time.time,
        monotonic=time.monotonic,
        disk=disk,
        vault=vault,
        spool=open_spool(Path(settings.spool), Path(settings.records)) if settings.spool else None,
        sharers=settings.workers,
    )
    try:
        uvloop.run(_work(settings, post, state, signature, make_runtime, writer, vault, is_old=refused is not None))
    finally:
        writer.close()


async def _work(
    settings: ServerSettings,
    post: Post,
    state: LiveState,
    signature: Signature,
    make_runtime: Callable[[VerifiedPayload], Runtime],
    writer: SegmentWriter,
    vault: Vault,
    *,
    is_old: bool,
) -> None:
    loop = asyncio.get_running_loop()
    live = Path(settings.live)
    counters = Counters()
    names = PathSettings(live.name, post.name, time.time, time.monotonic, os.urandom)
    path = PredictionPath(loop, writer, counters, names)
    outcomes = _open_outcomes(settings, post.name, loop, counters, vault)
    records = RecordsWatch(writer)
    tracing = _open_traces(settings, post.name, state)
    begin_span = None if tracing is None else tracing.begin
    worker = Worker(
        settings, post.name, post.run, loop, state, path, counters, time.time, records, outcomes, begin_span
    )
    if is_old:
        worker.refused = REFUSED
        counters.deployments_refused += 1
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)

    def sign() -> None:
        tell(post.line, Sign(len(worker.connections) + intake.adopting, intake.taken, worker.late_s))

    accept = partial(Connection, worker, time.monotonic)
    handshake_s = settings.receive_timeout_s
    intake = Intake(loop, post.line, accept, settings.binding.tls, time.time, handshake_s, sign, stop.set)
    intake.open()
    worker.certificate_expires = intake.expires
    calls = await _open_grpc(worker, settings)
    gc.collect()
    gc.freeze()
    sign()
    beat = loop.create_task(_beat(worker, intake, sign))
    watch = loop.create_task(watch_live(worker, settings, make_runtime, signature, vault))
    await stop.wait()
    watch.cancel()
    await asyncio.gather(_drain(worker, intake), *([calls.stop(DRAIN_S)] if calls else []))
    beat.cancel()
    path.stop(1.0)
    records.stop(1.0)
    if outcomes is not None:
        outcomes.close()
    worker.leave_tally()
    if tracing is not None:
        tracing.stop()


def _open_traces(settings: ServerSettings, name: str, state: LiveState) -> "Tracing | None":
    """What continues callers' traces; None if nobody collects them, and then nothing of it is loaded."""
    if not settings.traces:
        return None
    from shipworthy.serving.traces import Tracing

    return Tracing(traces_url(settings.traces), state.deployment.system, name)


async def _open_grpc(worker: Worker, settings: ServerSettings) -> Any:
    """The server of the gRPC port; None if there is to be none, and then nothing of it is loaded."""
    if settings.grpc_port is None:
        return None
    from shipworthy.serving.grpc_port import make_server

    server = make_server(worker, settings)
    await server.start()
    return server


def _open_outcomes(
    settings: ServerSettings, name: str, loop: asyncio.AbstractEventLoop, counters: Counters, vault: Vault
) -> OutcomeLog | None:
    if not settings.outcomes:
        return None
    return OutcomeLog(
        Path(settings.outcomes),
        Path(settings.outcomes).name,
        name,
        now=time.time,
        monotonic=time.monotonic,
        call_soon=loop.call_soon_threadsafe,
        counters=counters,
        vault=vault,
    )


async def _beat(worker: Worker, intake: Intake, sign: Callable[[], None]) -> None:
    """Give signs of life; sweep connections now and then."""
    loop = asyncio.get_running_loop()
    swept = loop.time()
    while True:
        await asyncio.sleep(BEAT_S)
        sign()
        worker.leave_tally_if_asked()
        if loop.time() - swept > SWEEP_S:
            swept = loop.time()
            worker.sweep()
            worker.audit.look()
            worker.records.look()
            intake.renew()
            worker.certificate_expires = intake.expires
            worker.leave_tally()


async def _drain(worker: Worker, intake: Intake) -> None:
    worker.is_draining = True
    intake.close()
    for connection in tuple(worker.connections):
        connection.answer_last()
    await _until_gone(worker, QUIET_S)
    for connection in tuple(worker.connections):
        connection.close_when_idle()
    await _until_gone(worker, DRAIN_S)
    for connection in tuple(worker.connections):
        connection.abort()


async def _until_gone(worker: Worker, seconds: float) -> None:
    end = asyncio.get_running_loop().time() + seconds
    while worker.connections and asyncio.get_running_loop().time() < end:
        await asyncio.sleep(0.01)


def main(make_runtime: Callable[[VerifiedPayload], Runtime] | None = None, disk: Disk | None = None) -> int:
    """Run one worker, as the supervisor starts it.

    Args:
        make_runtime: loads a model; None: as the settings say.
        disk: where records are written; None: this machine's.
    """
    parser = argparse.ArgumentParser(prog="python -m shipworthy.serving.worker_process")
    parser.add_argument("--settings", required=True, help="ServerSettings as JSON")
    parser.add_argument("--name", required=True, help="of this worker")
    parser.add_argument("--line", required=True, type=int, help="descriptor of the line to the supervisor")
    parser.add_argument("--run", required=True, type=Path, help="folder of the server's tallies")
    arguments = parser.parse_args()
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    line = socket.socket(fileno=arguments.line)
    line.setblocking(False)
    settings = msgspec.json.decode(arguments.settings, type=ServerSettings)
    try:
        work(settings, Post(arguments.name, line, arguments.run), make_runtime or _runtime(settings), disk)
    except ConflictError as error:
        sys.stderr.write(f"{error}\n")
        return NAME_TAKEN
    except ShipworthyError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


def _runtime(settings: ServerSettings) -> Callable[[VerifiedPayload], Runtime]:
    if settings.rehearse == "failure":
        return _rehearse
    return load_runtime


def _rehearse(payload: VerifiedPayload) -> Runtime:
    return FailingRuntime(load_runtime(payload), len(WARM_ROWS))


if __name__ == "__main__":
    sys.exit(main())
