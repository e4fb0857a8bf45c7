"""Replays the past as traffic: requests in the order of their time, truths when they became known.

What is sent is what a caller would send: the prepared row without its truth, by the thin client to the served
endpoint. After each stretch the control plane is told the time, and judges what was known by then.
"""

import http.client
import json
import time
from bisect import bisect_left
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Self
from urllib.parse import urlsplit

from shipworthy.client import Client, Prediction
from shipworthy.kernel.errors import RefusedError, UnavailableError

BATCH = 500  # requests in one call: two runs of the model, so that none waits long for its turn
DAY_S = 86_400.0
PATIENCE_S = 30.0  # for a control plane that is just being started again


@dataclass(frozen=True, slots=True)
class Event:
    """One row of the past."""

    time: float  # Unix seconds: when it was asked
    known: float  # Unix seconds: when its truth became known
    request: dict[str, Any]
    truth: str | None  # None: it never came


@dataclass(slots=True)
class Tally:
    """What was sent so far."""

    sent: int = 0
    told: int = 0
    refused: int = 0  # of those sent, because they did not fit the contract
    never: int = 0  # of those sent, whose truth never came
    done: list[dict[str, Any]] = field(default_factory=list)  # what control did

    def acts(self, kind: str) -> list[str]:
        """The words of what control did of one kind, such as `rollout`."""
        return [act["words"] for act in self.done if act["act"] == kind]


class Replay:
    """The past, sent stretch by stretch.

    Args:
        events: in the order of their time.
        client: of the served endpoint; closed on leaving.
        control: address of the control plane.
        token: of a principal who may set its clock.
        environment: whose clock.
    """

    def __init__(self, events: list[Event], client: Client, control: str, token: str, environment: str) -> None:
        self.tally = Tally()
        self._events = events
        self._late = sorted((event for event in events if event.truth is not None), key=lambda event: event.known)
        self._client = client
        self._address = urlsplit(control)
        self._token = token
        self._environment = environment
        self._at = events[0].time if events else 0.0
        self._sent = 0
        self._told = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()

    def count_before(self, until: float) -> int:
        """How many requests are still to be sent before `until`, Unix seconds."""
        return bisect_left(self._events, until, key=lambda event: event.time) - self._sent

    def run(self, until: float, step_s: float) -> Iterator[list[dict[str, Any]]]:
        """Send everything before `until` (Unix seconds), `step_s` at a time; what control did after each stretch."""
        self.tick(self._at)  # what was deployed meanwhile answers before the first request
        while self._at < until:
            end = min(self._at // DAY_S * DAY_S + step_s, until)
            self._send(end)
            self._tell(end)
            done = self.tick(end)
            self.tally.done += done
            self._at = end
            yield done

    def finish(self, until: float) -> None:
        """Let the time go on to `until` without traffic, so that the last truths come."""
        self._tell(until)
        self.tally.done += self.tick(until)

    def tick(self, as_of: float) -> list[dict[str, Any]]:
        """Tell the control plane the time; what it did, once the server answers accordingly.

        Telling it again changes nothing, so a control plane that was killed meanwhile is simply told again.
        """
        moment = datetime.fromtimestamp(as_of, UTC).isoformat().replace("+00:00", "Z")
        body = json.dumps({"as_of": moment, "env": self._environment})
        told = self._patiently(lambda: self._post(body))
        self._patiently(lambda: self._settled(int(told["generation"])))
        done: list[dict[str, Any]] = told["done"]
        return done

    def _patiently(self, act: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        deadline = time.monotonic() + PATIENCE_S
        while True:
            try:
                return act()
            except (OSError, http.client.HTTPException) as error:
                if time.monotonic() > deadline:
                    raise UnavailableError(f"the replay cannot go on: {error or type(error).__name__}") from None
                time.sleep(0.02)

    def _settled(self, generation: int) -> dict[str, Any]:
        state = self._client.health()
        if state["generation"] < generation:
            raise http.client.HTTPException(f"the server is at generation {state['generation']}, not {generation}")
        return state

    def _send(self, end: float) -> None:
        last = self._sent
        while last < len(self._events) and self._events[last].time < end:
            last += 1
        for start in range(self._sent, last, BATCH):
            part = self._events[start : min(start + BATCH, last)]
            answers = self._client.predict_many([event.request for event in part])
            self.tally.refused += sum(not isinstance(answer, Prediction) for answer in answers)
            self.tally.sent += len(part)
            self.tally.never += sum(event.truth is None for event in part)
        self._sent = last

    def _tell(self, end: float) -> None:
        last = self._told
        while last < len(self._late) and self._late[last].known < end:
            last += 1
        for start in range(self._told, last, BATCH):
            part = self._late[start : min(start + BATCH, last)]
            self._client.tell_outcomes(
                [{"id": event.request["id"], "value": event.truth, "time": event.known} for event in part]
            )
            self.tally.told += len(part)
        self._told = last

    def _post(self, body: str) -> dict[str, Any]:
        connection = http.client.HTTPConnection(self._address.hostname or "", self._address.port, timeout=120)
        try:
            headers = {"Content-Type": "application/json", "Authorization": f"Bearer {self._token}"}
            connection.request("POST", "/api/clock", body, headers)
            response = connection.getresponse()
            answer: dict[str, Any] = json.loads(response.read())
        finally:
            connection.close()
        if response.status >= 500:
            raise http.client.HTTPException(f"status {response.status}")
        if response.status != 200:
            raise RefusedError(f"the control plane refused: {answer.get('detail', response.status)}")
        return answer
