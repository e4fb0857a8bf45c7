"""The live files of an environment, watched: what replaces them is loaded beside, and answers between two ticks."""

import asyncio
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from shipworthy.bundle.verify import VerifiedPayload
from shipworthy.kernel.errors import InternalError, ShipworthyError, StorageError, UsageError
from shipworthy.security.vault import Vault
from shipworthy.serving.counters import Counters
from shipworthy.serving.lane import Lane
from shipworthy.serving.live import LiveState, Signature, keep_good, load_live, read_signature
from shipworthy.serving.runtimes.runtime import Runtime

POLL_S = 0.05  # a replaced file is noticed within 100 ms
GOOD = ".good"  # below records/ENV, which the server may write: the files that it last answered from
REFUSED = "a newer deployment or access file was refused"

LET_GO_S = 1.0  # beside the deadlines of a row that waits and of the run before it, for a release that answers no more

_log = logging.getLogger("shipworthy.serving")


class Places(Protocol):
    """Where things are, of the settings of a server or a consumer."""

    @property
    def live(self) -> str:
        """Directory live/ENV."""

    @property
    def records(self) -> str:
        """Directory records/ENV."""

    @property
    def keys(self) -> str:
        """Directory of public keys."""

    @property
    def spool(self) -> str:
        """Directory on another volume; empty: there is none."""


class Answering(Protocol):
    """Whoever answers from a live state."""

    state: LiveState
    refused: str | None  # why a newer deployment does not answer
    counters: Counters

    def switch(self, state: LiveState) -> None:
        """Answer from `state` on from the next request."""


async def watch_live(
    answering: Answering,
    places: Places,
    make_runtime: Callable[[VerifiedPayload], Runtime],
    signature: Signature,
    vault: Vault,
) -> None:
    """Notice replaced files, load beside, switch between two ticks; for ever.

    Args:
        answering: what is switched.
        places: of its files.
        make_runtime: loads a model.
        signature: of the files that were loaded.
        vault: opens bundles that are sealed.
    """
    live, good = Path(places.live), Path(places.records) / GOOD
    loop = asyncio.get_running_loop()
    loader = Lane("loader")
    while True:
        await asyncio.sleep(POLL_S)
        found = read_signature(live)
        if found == signature:
            continue
        signature = found
        done: asyncio.Future[LiveState] = loop.create_future()
        last = answering.state
        loader.submit(lambda last=last, done=done: _load_beside(loop, places, make_runtime, last, vault, done))  # type: ignore[misc]
        try:
            state = await done
            answering.switch(state)
            _let_go(last, state)
            keep_good(live, signature, good, state.last_good)
            _log.info("generation %s answers", answering.state.deployment.generation)
        except ShipworthyError as error:
            answering.counters.deployments_refused += 1
            answering.refused = f"{REFUSED} ({error.code})"
            _log.error("refused, the last good state answers: %s", error)


def _let_go(last: LiveState, state: LiveState) -> None:
    """Close the models of releases that are not needed any more, once what they were asked is answered."""
    loop = asyncio.get_running_loop()
    for servable in last.loaded:
        if servable not in state.loaded:
            loop.call_later(LET_GO_S + 2 * servable.policy.timeout_s, servable.runtime.close)


def _load_beside(
    loop: asyncio.AbstractEventLoop,
    places: Places,
    make_runtime: Callable[[VerifiedPayload], Runtime],
    last: LiveState,
    vault: Vault,
    done: "asyncio.Future[LiveState]",
) -> None:
    live = Path(places.live)
    try:
        state = load_live(live, Path(places.keys), make_runtime, last, vault, answered=last.answered)
        require_spool(state, places)
    except ShipworthyError as error:
        loop.call_soon_threadsafe(done.set_exception, error)
    except OSError as error:
        loop.call_soon_threadsafe(done.set_exception, StorageError(f"{live} cannot be read: {error.strerror}."))
    except Exception as error:  # noqa: BLE001 (a worker loop: the last good state answers on)
        _log.exception("loading failed")
        loop.call_soon_threadsafe(done.set_exception, InternalError(f"{live} cannot be loaded: {error}"))
    else:
        loop.call_soon_threadsafe(done.set_result, state)


def require_spool(state: LiveState, places: Places) -> None:
    """Refuse a release that counts on a spool where there is none.

    Raises:
        UsageError: records.when_full says spool, and none was given.
    """
    for servable in state.servables:
        if servable.policy.when_full == "spool" and not places.spool:
            cure = "start again with --spool DIR, a folder on another volume"
            raise UsageError(f"{servable.release} keeps records in a spool when their disk refuses; {cure}.")
