"""The control plane's process: the control loop, the API and the console, on one ledger.

`python -m shipworthy.faces.control_process` reads its settings as one JSON line from standard input, prints one JSON
line with its address, and ends when standard input does: with the process that started it.
"""

import json
import logging
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import msgspec

from shipworthy.engines.lifeline import end_with_parent
from shipworthy.faces.control_settings import ControlSettings
from shipworthy.faces.oidc import Provider
from shipworthy.faces.oidc_settings import CALLBACK, read_oidc_settings
from shipworthy.faces.wiring import open_parts
from shipworthy.kernel.errors import ConflictError, ShipworthyError, UsageError
from shipworthy.security.access import ROLES, Principal
from shipworthy.security.binding import Tls, check_binding
from shipworthy.security.tls import check_tls, files_state, server_context
from shipworthy.workflows.control import Control, Done
from shipworthy.workflows.project import Parts

ANYWHERE = ("0.0.0.0", "::")  # noqa: S104 (every address of the machine, so none that a browser could ask)
TICK_S = 1.0  # between two looks at what is due
_log = logging.getLogger("shipworthy.control")


class Loop:
    """The control loop in a thread: one step a second, and whenever a clock is set.

    Args:
        parts: of the project.
        is_manual: whether windows and canaries are judged only as of times that are told.
        tell: called with what was done.
        look_around: called before each step.
    """

    def __init__(
        self, parts: Parts, is_manual: bool, tell: Callable[[Done], None], look_around: Callable[[], None]
    ) -> None:
        self._parts = parts
        self._control = Control(parts, os.environ, is_manual=is_manual)
        self._is_manual = is_manual
        self._tell = tell
        self._look_around = look_around
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._complaint: str | None = None
        self._thread = threading.Thread(target=self._run, name="control", daemon=True)

    def start(self) -> None:
        """Begin to step."""
        self._thread.start()

    def stop(self) -> None:
        """End after the step under way."""
        self._stop.set()
        self._thread.join(10.0)

    def tick(self, environment: str | None, as_of: float | None) -> dict[str, Any]:
        """Take one step now; with `as_of` it is the clock of a manual loop.

        Raises:
            ConflictError: the loop goes by the wall clock.
        """
        if as_of is not None and not self._is_manual:
            raise ConflictError("this control loop goes by the wall clock; start it with --clock manual for a replay")
        names = [environment] if environment else self._control.environments()
        with self._lock:
            done = [act for name in names for act in self._control.step(name, as_of)]
        for act in done:
            self._tell(act)
        generations = [self._parts.ledger.next_generation(name) - 1 for name in names]
        return {
            "done": [{"environment": act.environment, "act": act.act, "words": act.words} for act in done],
            "generation": max(generations, default=0),
        }

    def _run(self) -> None:
        while not self._stop.wait(TICK_S):
            self._look_around()
            try:
                with self._lock:
                    done = [act for name in self._control.environments() for act in self._control.step(name)]
                for act in done:
                    self._tell(act)
                self._complaint = None
            except ShipworthyError as error:
                self._complain(str(error))
            except Exception:  # noqa: BLE001 (a worker loop: logged, and the next step is due)
                _log.exception("a step of the control loop failed")

    def _complain(self, text: str) -> None:
        if text != self._complaint:  # once, not each second
            self._complaint = text
            _log.error("%s", text)


class Certificate:
    """What the listener proves itself with; read again when its files are replaced, for the connections that follow."""

    def __init__(self, tls: Tls) -> None:
        check_tls(tls, time.time())
        self.context = server_context(tls)
        self._tls = tls
        self._state = files_state(tls)

    def renew(self) -> None:
        """Take on a replaced certificate; one that is wrong is said once, and the old one stays."""
        state = files_state(self._tls)
        if state == self._state:
            return
        self._state = state
        try:
            check_tls(self._tls, time.time())
            self.context.load_cert_chain(self._tls.cert, self._tls.key)
        except (ShipworthyError, OSError) as error:
            _log.error("the certificate was not renewed: %s", error)


def run(settings: ControlSettings, ready: Callable[[str], None]) -> None:
    """Serve until SIGTERM or SIGINT; blocks.

    Raises:
        ConflictError: the port is taken.
    """
    import uvicorn  # FastAPI and uvicorn take half a second that no other command should pay

    from shipworthy.faces.api import SERVER_SETTINGS, make_app

    root, binding = Path(settings.project), settings.binding
    check_binding(binding)
    certificate = None if binding.tls is None else Certificate(binding.tls)
    with open_parts(root) as parts:
        loop = Loop(parts, settings.clock == "manual", _show, certificate.renew if certificate else lambda: None)
        owner = Principal(parts.actor.removeprefix("user:"), frozenset(ROLES))
        listener = _listen(settings)
        host = f"[{settings.host}]" if ":" in settings.host else settings.host
        address = f"{binding.scheme}://{host}:{listener.getsockname()[1]}"
        app = make_app(
            lambda: nullcontext(parts),
            owner=owner,
            tick=loop.tick,
            one_time=settings.one_time,
            hosts=(*settings.allowed_hosts, host),
            provider=_provider(settings, address),
            tls=binding.mode,
            log=str(parts.project.log),
        )
        secured: dict[str, Any] = {} if certificate is None else {"ssl_context_factory": lambda *_: certificate.context}
        server = uvicorn.Server(uvicorn.Config(app, **SERVER_SETTINGS, **secured))
        loop.start()
        ready(address)
        try:
            server.run(sockets=[listener])
        finally:
            loop.stop()


def _provider(settings: ControlSettings, address: str) -> Provider | None:
    if not settings.oidc:
        return None
    found = read_oidc_settings(settings.oidc, os.environ)
    if not found.redirect_uri and settings.host in ANYWHERE:
        raise UsageError(f"{settings.oidc}: redirect_uri is missing: {settings.host} is no address to come back to")
    return Provider(found, found.redirect_uri or address + CALLBACK, now=time.time, entropy=os.urandom)


def _listen(settings: ControlSettings) -> socket.socket:
    listener = socket.socket(socket.AF_INET6 if ":" in settings.host else socket.AF_INET, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((settings.host, settings.port))
        listener.listen()  # who connects before the loop runs waits, instead of being refused
    except OSError as error:
        listener.close()
        raise ConflictError(
            f"Port {settings.port} of {settings.host} cannot be listened on ({error.strerror}); choose another port."
        ) from None
    return listener


def _show(act: Done) -> None:
    if act.act in ("alert", "rollout", "deliver"):
        _log.warning("%s %s: %s", act.environment, act.act, act.words)


def main() -> int:
    """Run the control plane; its settings hold a secret, so they are not on the command line."""
    logging.basicConfig(stream=sys.stderr, level=logging.WARNING, format="%(asctime)s %(levelname)s %(message)s")
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        settings = msgspec.json.decode(sys.stdin.buffer.readline(), type=ControlSettings)
        end_with_parent()
        run(settings, _announce)
    except KeyboardInterrupt:
        return 0
    except (ShipworthyError, msgspec.MsgspecError) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


def _announce(address: str) -> None:
    sys.stdout.write(json.dumps({"address": address, "pid": os.getpid(), "time": time.time()}) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
