"""Delivery of alerts to webhooks: one POST of a small JSON document, and the schedule of attempts.

At least once: who is killed between the answer and its event sends again, under the same id. Only the contract's
addresses are called, no redirect is followed, no proxy asked, and no message repeats an address, which may be secret.
"""

import base64
import http.client
import json
import re
import socket
import ssl
import time
import urllib.parse
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from shipworthy.kernel.digest import Json

TIMEOUT_S = 5.0  # a receiver that takes longer would hold up the control loop
FIRST_PAUSE_S, LONGEST_PAUSE_S = 1.0, 300.0  # doubling in between
MAX_ATTEMPTS = 10  # about 14 minutes; the alert itself stays open and visible
MAX_STATUS_BYTES = 1024
_STATUS = re.compile(rb"HTTP/1\.[01] ([1-5]\d\d)\b")
_VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")


@dataclass(frozen=True, slots=True)
class Attempt:
    """How one attempt ended; without an error it was delivered."""

    error: str | None = None


def alert_document(alert: Mapping[str, Any], system: str) -> dict[str, Json]:
    """What a webhook gets, with the attributes of a CloudEvent; `data` is the alert without its deliveries.

    The id stays the same when an attempt is repeated, and differs when the alert opens, gets worse or closes.

    Source: CloudEvents 1.0.2 (github.com/cloudevents/spec).
    """
    closed = alert["state"] == "closed"
    data = {name: value for name, value in alert.items() if name not in ("deliveries", "revision")}
    return {
        "specversion": "1.0",
        "id": f"{alert['alert']}:{'closed' if closed else alert['severity']}",
        "source": f"shipworthy/{system}/{alert['environment']}",
        "type": f"shipworthy.alert.{'closed' if closed else 'opened'}",
        "subject": f"{alert['kind']}/{alert['about']}",
        "time": alert["closed"] if closed else alert["last_seen"],
        "datacontenttype": "application/json",
        "data": {"system": system, **data},
    }


def deliver(
    document: Mapping[str, Json],
    webhook: str,
    environ: Mapping[str, str],
    *,
    timeout_s: float = TIMEOUT_S,
    key: str = "alerts.webhooks",
    token: str | None = None,
    path: str = "/",
) -> Attempt:
    """POST `document` to `webhook`; whatever goes wrong is told in words, never raised.

    Args:
        document: as `alert_document` makes it.
        webhook: an address as the contract writes it.
        environ: where `${NAME}` is looked up.
        timeout_s: for connecting, and again for sending and the answer.
        key: of the contract, that names the address.
        token: a bearer token, as `${NAME}`.
        path: of an address that has none.
    """
    unset = [name for name in _VARIABLE.findall(f"{webhook} {token or ''}") if not environ.get(name)]
    if unset:
        return Attempt(f"the environment variable {unset[0]} is not set ({key})")
    address = _VARIABLE.sub(lambda found: environ[found[1]], webhook)
    bearer = _VARIABLE.sub(lambda found: environ[found[1]], token or "")
    parts = _parted(address)
    if isinstance(parts, str):
        return Attempt(f"{parts} ({key})")
    if not bearer.isprintable():
        return Attempt(f"the token is malformed: it holds a line break ({key})")
    if parts.path in ("", "/"):
        parts = parts._replace(path=path)
    try:
        status = _post(parts, json.dumps(document, allow_nan=False).encode(), timeout_s, bearer)
    except TimeoutError:
        return Attempt(f"no answer within {timeout_s:g} s")
    except ssl.SSLError as error:
        return Attempt(f"no secure connection: {error.reason or 'the certificate is not accepted'}")
    except OSError as error:
        return Attempt(f"no connection: {error.strerror or 'the host is not known'}")
    except (http.client.HTTPException, ValueError):
        return Attempt("what answered does not speak HTTP, or the address is malformed")
    return Attempt(None if 200 <= status < 300 else _refusal(status, key))


def due_channels(alert: Mapping[str, Any], now: float, channels: Sequence[str]) -> list[str]:
    """The webhooks to which this alert is to be sent now; those that the contract no longer names are left out."""
    deliveries: Mapping[str, Any] = alert["deliveries"]
    return [
        channel
        for channel in channels
        if channel in deliveries and deliveries[channel]["state"] == "due" and deliveries[channel]["next_at"] <= now
    ]


def record_attempt(alert: Mapping[str, Any], channel: str, attempt: Attempt, now: float) -> tuple[str, dict[str, Any]]:
    """The event that tells how an attempt ended: delivered, due again after a pause, or given up.

    Args:
        alert: its latest word.
        channel: the webhook, as the contract writes it.
        attempt: how it ended.
        now: wall clock, Unix seconds.
    """
    attempts = alert["deliveries"][channel]["attempts"] + 1
    if attempt.error is None:
        state, next_at = "delivered", None
    elif attempts >= MAX_ATTEMPTS:
        state, next_at = "given up", None
    else:
        state, next_at = "due", now + pause_after(attempts)
    told = {"state": state, "attempts": attempts, "next_at": next_at, "error": attempt.error}
    deliveries = {**alert["deliveries"], channel: told}
    return "alert.delivered", {**alert, "deliveries": deliveries, "revision": alert["revision"] + 1}


def pause_after(attempts: int) -> float:
    """Seconds to wait after so many failed attempts.

    >>> [pause_after(attempts) for attempts in (1, 2, 3, 9, 100)]
    [1.0, 2.0, 4.0, 256.0, 300.0]
    """
    return float(min(FIRST_PAUSE_S * 2 ** min(attempts - 1, 30), LONGEST_PAUSE_S))


def _parted(address: str) -> urllib.parse.SplitResult | str:
    """The parts of an address, or what is wrong with it."""
    if not address.isprintable() or " " in address:
        return "the address is malformed: it holds a blank or a line break"
    try:
        parts = urllib.parse.urlsplit(address)
        port = parts.port
    except ValueError:
        return "the address is malformed"
    if parts.scheme not in ("http", "https") or not parts.hostname or port == 0:
        return "the address is not an http or https address"
    return parts


def _post(parts: urllib.parse.SplitResult, body: bytes, timeout_s: float, bearer: str = "") -> int:
    """The status of the answer."""
    host, port = parts.hostname or "", parts.port
    connection: http.client.HTTPConnection
    if parts.scheme == "https":
        connection = http.client.HTTPSConnection(host, port, timeout=timeout_s, context=ssl.create_default_context())
    else:
        connection = http.client.HTTPConnection(host, port, timeout=timeout_s)
    headers = {"Content-Type": "application/json", "User-Agent": "shipworthy", "Connection": "close"}
    if parts.username is not None:
        pair = ":".join(urllib.parse.unquote(part or "") for part in (parts.username, parts.password))
        headers["Authorization"] = f"Basic {base64.b64encode(pair.encode()).decode()}"
    if bearer:
        headers["Authorization"] = f"Bearer {bearer}"
    target = urllib.parse.urlunsplit(("", "", parts.path or "/", parts.query, ""))
    try:
        connection.connect()
        deadline = time.monotonic() + timeout_s
        connection.request("POST", target, body, headers)
        return _status(connection.sock, deadline)
    finally:
        with suppress(OSError):
            connection.close()


def _status(connection: socket.socket, deadline: float) -> int:
    """The status of an answer, which must be whole by the deadline, however slowly its bytes drip."""
    head = b""
    while b"\n" not in head and len(head) < MAX_STATUS_BYTES:
        connection.settimeout(max(deadline - time.monotonic(), 0.001))
        received = connection.recv(MAX_STATUS_BYTES)
        if not received:
            break
        head += received
    found = _STATUS.match(head)
    if found is None:
        raise http.client.BadStatusLine("no status")
    return int(found[1])


def _refusal(status: int, key: str) -> str:
    who = "webhook" if key == "alerts.webhooks" else "receiver"
    if 300 <= status < 400:
        return f"the {who} answered {status}: redirects are not followed; write the new address into the contract"
    return f"the {who} answered {status}"
