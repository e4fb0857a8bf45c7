"""The process of a consumer: takes messages from a broker until told to stop, and finds the broker when it was lost.

`python -m shipworthy.serving.messages.process --settings JSON` starts it and prints one JSON line once messages come.
"""

import argparse
import asyncio
import gc
import logging
import os
import signal
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import uvloop

from shipworthy.bundle.verify import VerifiedPayload
from shipworthy.engines.lifeline import end_with_parent
from shipworthy.kernel.errors import ShipworthyError, StorageError, UnavailableError
from shipworthy.records.disk import Disk
from shipworthy.records.spool import open_spool
from shipworthy.records.write import SegmentWriter
from shipworthy.security.vault import DATA_KEYS, Vault
from shipworthy.serving.counters import Counters, render_metrics
from shipworthy.serving.earlier import EarlierAnswers, recall
from shipworthy.serving.lane import Lane
from shipworthy.serving.live import LiveState, Signature, keep_good, read_signature, start_live
from shipworthy.serving.messages.consumer import Consumer, Reply
from shipworthy.serving.messages.counters import MessageCounters, render_message_metrics
from shipworthy.serving.messages.metrics_port import MetricsPort
from shipworthy.serving.messages.settings import (
    ConsumerSettings,
    check_consumer_settings,
    is_in_the_clear,
    place_of,
    resolve_url,
)
from shipworthy.serving.messages.suspects import Suspects
from shipworthy.serving.path import PathSettings, PredictionPath
from shipworthy.serving.records_watch import RecordsWatch
from shipworthy.serving.runtimes.load import load_runtime
from shipworthy.serving.runtimes.runtime import Runtime
from shipworthy.serving.watch import GOOD, REFUSED, require_spool, watch_live

if TYPE_CHECKING:  # it takes the extra `amqp`
    from shipworthy.serving.messages.amqp import Delivery, Link

WORKER = "consume"  # who writes the records
SUSPECTS = ".consume-running"  # below records/ENV: ids that are being run
LOOK_S = 0.1  # between looks at the model, which may hang
SWEEP_S = 1.0
DRAIN_S = 10.0  # for what is under way when told to stop
FIRST_PAUSE_S, MAX_PAUSE_S = 0.2, 10.0  # between attempts to connect; doubled each time
STUCK = 76  # exit code of a consumer whose model hangs: another process may go on

_log = logging.getLogger("shipworthy.serving")


def consume(
    settings: ConsumerSettings,
    url: str,
    ready: Callable[[dict[str, object]], None],
    make_runtime: Callable[[VerifiedPayload], Runtime] = load_runtime,
    disk: Disk | None = None,
) -> int:
    """Answer messages until told to stop (SIGTERM, SIGINT); blocks; the exit code.

    Args:
        settings: checked.
        url: of the broker, with its secrets.
        ready: told what is consumed, once messages come.
        make_runtime: loads a model.
        disk: where records are written.

    Raises:
        UsageError, AccessError: no key, no spool and one is asked for, or the broker refuses the user.
        NotFoundError: nothing is deployed, or a queue is missing.
        IntegrityError: what is deployed does not hold, or a record is damaged.
        ConflictError: another process consumes here, or a queue is declared otherwise.
        StorageError: records cannot be written.
    """
    live, records = Path(settings.live), Path(settings.records)
    signature = read_signature(live)  # before: what changes while loading is noticed
    vault = Vault(Path(settings.keys) / DATA_KEYS, os.environ)
    state, refused = start_live(live, Path(settings.keys), make_runtime, vault, records / GOOD)
    require_spool(state, settings)
    if refused is None:
        keep_good(live, signature, records / GOOD, state.last_good)
    else:
        _log.error("refused, the last good state answers: %s", refused)
    spool = open_spool(Path(settings.spool), records) if settings.spool else None
    writer = SegmentWriter(
        records, live.name, WORKER, now=time.time, monotonic=time.monotonic, disk=disk, vault=vault, spool=spool
    )
    try:
        suspects = Suspects(records / SUSPECTS)
    except OSError as error:
        writer.close()
        raise StorageError(f"{records} cannot be written: {error.strerror}; mend the disk.") from None
    try:
        earlier = recall(records, WORKER, settings.window, vault, spool=spool)
        suspects.end([name for name in suspects.names if earlier.find(name) is not None])  # it was recorded
        process = _Process(settings, url, state, writer, earlier, suspects, ready)
        return uvloop.run(process.run(signature, make_runtime, vault, is_old=refused is not None))
    finally:
        suspects.close()
        writer.close()


class _Process:
    """What one consumer is made of, in its event loop."""

    def __init__(
        self,
        settings: ConsumerSettings,
        url: str,
        state: LiveState,
        writer: SegmentWriter,
        earlier: EarlierAnswers,
        suspects: Suspects,
        ready: Callable[[dict[str, object]], None],
    ) -> None:
        self._settings = settings
        self._url = url
        self._state = state
        self._writer = writer
        self._earlier = earlier
        self._suspects = suspects
        self._ready = ready
        self._counters = Counters()
        self._counts = MessageCounters()
        self._records = RecordsWatch(writer)
        self._has_begun = False
        self._is_stopping = False
        self._link: Link | None = None

    async def run(
        self, signature: Signature, make_runtime: Callable[[VerifiedPayload], Runtime], vault: Vault, *, is_old: bool
    ) -> int:
        loop = asyncio.get_running_loop()
        sync = _Sync(loop, self._writer)
        environment = Path(self._settings.live).name
        names = PathSettings(environment, WORKER, time.time, time.monotonic, os.urandom, is_patient=True)
        path = PredictionPath(loop, self._writer, self._counters, names)
        self._consumer = Consumer(self._state, path, self._earlier, self._suspects, sync, self._counters, self._counts)
        if is_old:
            self._consumer.refused = REFUSED
            self._counters.deployments_refused += 1
        port = MetricsPort(self._render, self._health)
        self._metrics = None if self._settings.metrics_port is None else await port.listen(self._settings.metrics_port)
        stop = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop.set)
        gc.collect()
        gc.freeze()
        watch = loop.create_task(watch_live(self._consumer, self._settings, make_runtime, signature, vault))
        consuming = loop.create_task(self._consume())
        code = await self._oversee(stop, consuming, port)
        watch.cancel()
        path.stop(1.0)
        sync.stop(1.0)
        self._records.stop(1.0)
        _log.info("stopped: %s", _summary(self._counts))
        return code

    async def _oversee(self, stop: asyncio.Event, consuming: "asyncio.Task[None]", port: MetricsPort) -> int:
        """Wait until told to stop, or until the model hangs; then let what is under way end."""
        loop = asyncio.get_running_loop()
        swept = loop.time()
        while not (stop.is_set() or consuming.done() or self._consumer.is_stuck):
            await asyncio.wait({consuming}, timeout=LOOK_S)
            if loop.time() - swept > SWEEP_S:
                swept = loop.time()
                self._records.look()
                port.sweep()
        is_stuck = self._consumer.is_stuck
        self._is_stopping = True
        if self._link is not None:
            self._link.end()
        elif not consuming.done():
            consuming.cancel()
        done, _ = await asyncio.wait({consuming}, timeout=DRAIN_S)
        if not done:
            consuming.cancel()
            await asyncio.wait({consuming}, timeout=DRAIN_S)
        if consuming.done() and not consuming.cancelled() and (error := consuming.exception()) is not None:
            raise error
        if is_stuck:
            _log.error("the model hangs; another process goes on")
        return STUCK if is_stuck else 0

    async def _consume(self) -> None:
        """Connect, take messages, and connect again when the broker is lost; what is wrong the first time is raised."""
        from shipworthy.serving.messages.amqp import open_link

        pause = FIRST_PAUSE_S
        while not self._is_stopping:
            published = self._counts.published
            try:
                link = await open_link(self._settings, self._url)
                self._begin(link)
                try:
                    await self._pump(link)
                finally:
                    self._link, self._counts.is_connected = None, False
                    await link.close()
            except ShipworthyError as error:
                if not self._has_begun and not isinstance(error, UnavailableError):
                    raise
                if self._counts.published > published:
                    pause = FIRST_PAUSE_S
                _log.warning("%s; tried again in %g s", error, pause)
                await asyncio.sleep(pause)
                pause = min(2 * pause, MAX_PAUSE_S)

    def _begin(self, link: "Link") -> None:
        self._link = link
        self._counts.is_connected = True
        self._counts.connects += 1
        _log.info("messages of %s are answered by %s", self._settings.queue, self._consumer.state.primary.release)
        if self._has_begun:
            return
        self._has_begun = True
        self._ready(
            {
                "broker": place_of(self._url),
                "queue": self._settings.queue,
                "answers": self._settings.answers,
                "dead_letter": self._settings.dead_letter or None,
                "release": self._consumer.state.primary.release,
                "remembered": self._consumer.remembered,
                "metrics": self._metrics,
                "pid": os.getpid(),
            }
        )

    async def _pump(self, link: "Link") -> None:
        """Answer what is there while the replies before are being published."""
        publishing: asyncio.Task[None] | None = None
        try:
            while deliveries := await link.take(self._consumer.limit):
                replies = await self._consumer.answer([delivery.message for delivery in deliveries])
                if publishing is not None:
                    await publishing  # in order: a message's acknowledgement is that of all before it too
                publishing = asyncio.create_task(self._publish(link, deliveries, replies))
            if publishing is not None:
                await publishing
        finally:
            if publishing is not None and not publishing.done():
                publishing.cancel()
                await asyncio.wait({publishing})
            if publishing is not None and not publishing.cancelled():
                publishing.exception()  # seen: the loss that it tells of is known

    async def _publish(self, link: "Link", deliveries: "list[Delivery]", replies: list[Reply]) -> None:
        try:
            self._counts.dead += await link.reply(deliveries, replies)
        except UnavailableError as error:
            link.fail(error)
            raise
        self._counts.published += len(replies)

    def _render(self) -> bytes:
        breakers = {servable.release: servable.breaker for servable in self._consumer.state.loaded}
        tally = self._counters.tally(refusals={}, breakers=breakers, is_ready=self._is_ready)
        tally.spool_bytes = self._records.spool_bytes
        tally.segments_fenced = self._records.times_fenced
        tally.is_disk_refusing = not self._records.is_writable
        state = self._consumer.state
        generation = state.deployment.generation
        common = render_metrics(
            tally,
            state.primary.release,
            generation,
            restarts={},
            certificate_expires=None,
            last_good=state.last_good_ready,
        )
        return common + render_message_metrics(self._counts, self._consumer.remembered)

    @property
    def _is_ready(self) -> bool:
        return self._counts.is_connected and not self._is_stopping

    def _health(self) -> tuple[bool, object]:
        state = self._consumer.state
        return self._is_ready, {
            "ready": self._is_ready,
            "releases": [release.release for release in state.deployment.releases],
            "generation": state.deployment.generation,
            "refused": self._consumer.refused,
            "records": self._records.words,
            "breakers": {servable.release: servable.breaker.state for servable in state.loaded},
            "last_good": state.last_good_words,
        }


class _Sync:
    """Makes durable what `async` records wrote, in a thread of its own.

    A segment that was fenced since the last time may hold records that are lost, whoever's sync it was that failed.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, writer: SegmentWriter) -> None:
        self._loop = loop
        self._writer = writer
        self._lane = Lane("sync")
        self._fenced = writer.times_fenced

    async def __call__(self) -> None:
        """Return when it is durable.

        Raises:
            StorageError: it may not be.
        """
        done: asyncio.Future[bool] = self._loop.create_future()
        self._lane.submit(partial(self._sync, done))
        if not await done:
            raise StorageError("The records are not known to be on the disk; mend the disk.")

    def stop(self, timeout_s: float) -> None:
        """End the thread."""
        self._lane.stop(timeout_s)

    def _sync(self, done: "asyncio.Future[bool]") -> None:
        try:
            self._writer.sync()
            is_durable = self._writer.times_fenced == self._fenced
        except ShipworthyError:
            is_durable = False
        self._fenced = self._writer.times_fenced
        self._loop.call_soon_threadsafe(_tell, done, is_durable)


def _tell(done: "asyncio.Future[bool]", is_durable: bool) -> None:
    if not done.cancelled():
        done.set_result(is_durable)


def _summary(counts: MessageCounters) -> str:
    said = f"{counts.received:,} messages, {counts.answered:,} answered, {counts.repeated:,} answered before"
    return f"{said}, {counts.refused:,} refused"


def main(make_runtime: Callable[[VerifiedPayload], Runtime] = load_runtime, disk: Disk | None = None) -> int:
    """Consume, from settings on the command line; one JSON line on stdout when messages come.

    Args:
        make_runtime: loads a model.
        disk: where records are written; None: this machine's.
    """
    parser = argparse.ArgumentParser(prog="python -m shipworthy.serving.messages.process")
    parser.add_argument("--settings", required=True, help="ConsumerSettings as JSON")
    parser.add_argument("--with-parent", action="store_true", help="stop when standard input ends")
    arguments = parser.parse_args()
    if arguments.with_parent:
        end_with_parent()
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    try:
        settings = msgspec.json.decode(arguments.settings, type=ConsumerSettings)
        check_consumer_settings(settings)
        url = resolve_url(settings.url, os.environ)
        if is_in_the_clear(url):
            _log.warning("%s: the password and all messages cross the network in the clear; use amqps", place_of(url))
        return consume(settings, url, _announce, make_runtime, disk)
    except (ShipworthyError, msgspec.MsgspecError) as error:
        sys.stderr.write(f"{error}\n")
        return 1


def _announce(document: dict[str, object]) -> None:
    sys.stdout.write(msgspec.json.encode(document).decode() + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
