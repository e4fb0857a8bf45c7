"""`shipworthy consume`: messages of a broker answered as the server would answer them."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import msgspec
from rich.markup import escape

from shipworthy.faces.cli.entry import Entered, enter, keep_digests, on_ledger, refuse_denied
from shipworthy.faces.cli.options import command, spool_option
from shipworthy.faces.cli.serve import check_spool
from shipworthy.faces.cli.show import Face
from shipworthy.serving.messages.settings import ConsumerSettings, check_consumer_settings, place_of, resolve_url
from shipworthy.workflows.layout import Project
from shipworthy.workflows.serve import find_target

if TYPE_CHECKING:  # it needs the ledger, which a serving machine may lack
    from shipworthy.workflows.project import Parts

STOP_S = 25.0  # the consumer drains within 20 s
FIRST_DELAY_S, MAX_DELAY_S = 0.1, 30.0  # before one that ended is started again; doubled while they do not live long
STEADY_S = 10.0  # one that lived longer is nothing to be wary of


@command("consume")
@click.argument("queue", metavar="QUEUE")
@click.option("--url", required=True, metavar="URL", help="The broker: amqps://HOST/VHOST; secrets as ${NAME}.")
@click.option("--answers", required=True, metavar="QUEUE", help="Where answers and problems go.")
@click.option("--dead-letter", default="", metavar="QUEUE", help="Where requests go that cannot be answered.")
@click.option("--env", "environment", default="local", metavar="ENV", help="Whose release answers.", show_default=True)
@click.option("--create", is_flag=True, help="Declare the queues.")
@click.option("--prefetch", default=512, metavar="N", help="Messages here at once, at most.", show_default=True)
@click.option("--window", default=50_000, metavar="N", help="Answers remembered by their id.", show_default=True)
@click.option("--metrics-port", type=int, default=None, metavar="PORT", help="Metrics and health, on loopback.")
@spool_option
def consume(
    root: Path,
    face: Face,
    queue: str,
    url: str,
    answers: str,
    dead_letter: str,
    environment: str,
    create: bool,
    prefetch: int,
    window: int,
    metrics_port: int | None,
    spool: Path | None,
) -> int:
    """Answer the requests in QUEUE of a broker (AMQP 0.9.1, such as RabbitMQ), each id once, until stopped (Ctrl-C)."""
    project = Project(root)
    settings = ConsumerSettings(
        live=str(project.live(environment)),
        records=str(project.records(environment)),
        keys=str(project.public_keys),
        spool="" if spool is None else str(spool.absolute()),
        url=url,
        queue=queue,
        answers=answers,
        dead_letter=dead_letter,
        create=create,
        prefetch=prefetch,
        window=window,
        metrics_port=metrics_port,
    )
    check_consumer_settings(settings)
    place = place_of(resolve_url(url, os.environ))
    project.require()
    found = on_ledger(face, root, lambda parts: enter(parts, "consume", environment))
    entered = found if isinstance(found, Entered) else None
    if entered is None:
        refuse_denied(root, "consume", environment)
        if found is not None:
            face.note(f"The ledger cannot be written: {found}")
    check_spool(settings, find_target(project, environment), face)
    if entered is not None:
        on_ledger(face, root, lambda parts: _record(parts, entered, environment, place, settings))
    code = _Keeper(settings, face).run()
    if entered is not None:
        on_ledger(face, root, lambda parts: keep_digests(parts, entered, environment))
    return code


class _Keeper:
    """Keeps one consumer running, in a process that loads nothing else, until told to stop."""

    def __init__(self, settings: ConsumerSettings, face: Face) -> None:
        words = ["-m", "shipworthy.serving.messages.process", "--with-parent", "--settings"]
        self._argv = [sys.executable, *words, msgspec.json.encode(settings).decode()]
        self._settings = settings
        self._face = face
        self._child: subprocess.Popen[bytes] | None = None
        self._stopping = threading.Event()

    def run(self) -> int:
        """The exit code: 0 if told to stop, 1 if the first one never came to take messages."""
        before = {number: signal.signal(number, self._stop) for number in (signal.SIGTERM, signal.SIGINT)}
        has_begun, failures = False, 0
        try:
            while not self._stopping.is_set():
                began = time.monotonic()
                is_ready = self._run_one(is_first=not has_begun)
                if self._stopping.is_set() or not (has_begun or is_ready):
                    break
                has_begun = True
                failures = 1 if time.monotonic() - began > STEADY_S else failures + 1
                delay = min(FIRST_DELAY_S * 2 ** (failures - 1), MAX_DELAY_S)
                self._face.note(f"the consumer ended; another one starts in {delay:g} s")
                self._stopping.wait(delay)
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
        return 0 if self._stopping.is_set() else 1

    def _run_one(self, *, is_first: bool) -> bool:
        """Run a consumer to its end; whether it came to take messages."""
        child = subprocess.Popen(self._argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True)
        self._child = child
        if self._stopping.is_set():
            child.terminate()
        try:
            line = child.stdout.readline() if child.stdout else b""
            if line and is_first:
                _announce(self._face, json.loads(line), self._settings)
            child.wait()
        finally:
            _end(child)
        return bool(line)

    def _stop(self, number: int, frame: Any) -> None:
        self._stopping.set()
        if self._child is not None:
            self._child.send_signal(signal.SIGTERM)


def _end(child: "subprocess.Popen[bytes]") -> None:
    if child.poll() is None:
        child.terminate()
        try:
            child.wait(STOP_S)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()
    for pipe in (child.stdin, child.stdout):
        if pipe is not None:
            pipe.close()


def _record(parts: "Parts", entered: Entered, environment: str, place: str, settings: ConsumerSettings) -> None:
    from shipworthy.workflows.planes import Start, record_start

    tls = "tls 1.2+" if place.startswith("amqps:") else "off"
    start = Start("messages", f"{place} {settings.queue}", environment, tls, "the broker's", False)
    record_start(replace(parts, rule=entered.rule), entered.actor, start)


def _announce(face: Face, document: dict[str, Any], settings: ConsumerSettings) -> None:
    if face.as_json:
        sys.stdout.write(json.dumps(document | {"pid": os.getpid()}) + "\n")
        sys.stdout.flush()
        return
    where = f"{escape(settings.queue)} at {escape(document['broker'])}"
    face.say(f"[bold]{escape(document['release'])}[/] answers the messages of {where} (Ctrl-C stops it).")
    face.say(f"Answers and problems go to {escape(settings.answers)}; {document['remembered']:,} ids are remembered.")
    if document["metrics"]:
        face.say(f"Metrics: {document['metrics']}/metrics")
    sys.stdout.flush()
