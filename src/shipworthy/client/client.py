"""Calls a served system over HTTP.

>>> client = Client("http://127.0.0.1:8080", system="loans")
>>> client.system
'loans'
"""

import http.client
import json
import ssl
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self
from urllib.parse import quote, urlsplit

from shipworthy.kernel.errors import (
    AccessError,
    NotFoundError,
    RefusedError,
    RequestError,
    UnavailableError,
    UsageError,
)

RETRY_STATUS = (429, 503)  # the server says that it did not answer; nothing else is safe to send again
_REFUSALS = {401: AccessError, 403: AccessError, 404: NotFoundError}


@dataclass(frozen=True, slots=True)
class FieldProblem:
    """One field that the server did not accept."""

    field: str
    expected: str
    got: str | None = None


class InvalidRequestError(RequestError):
    """The server did not accept the request; `problems` names every field at fault."""

    def __init__(self, message: str, problems: tuple[FieldProblem, ...]) -> None:
        self.problems = problems
        super().__init__(message)


@dataclass(frozen=True, slots=True)
class Prediction:
    """One answer."""

    prediction: str | float | None
    decision: str | float
    prediction_id: str
    source: str  # model or fallback
    handling: str  # automatic or review
    release: str
    probability: dict[str, float] | None = None
    interval: tuple[float, float] | None = None
    confidence: float | None = None
    warnings: tuple[str, ...] = ()
    reasons: dict[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class OutcomeProblem:
    """One outcome that the server did not take."""

    index: int  # in what was told, from 0
    field: str
    expected: str
    got: str | None = None


@dataclass(frozen=True, slots=True)
class OutcomeReport:
    """What became of the outcomes that were told."""

    accepted: int  # on the server's disk
    problems: tuple[OutcomeProblem, ...] = ()


class Client:
    """A caller of one system. Keeps one connection; not to be shared between threads.

    Args:
        address: such as `https://models.example.com`.
        system: the system's name.
        token: sent as bearer token, if given.
        timeout_s: for one attempt.
        retries: how often to try again when that is safe: the connection was refused, the server answered 503 or 429
            (and asked for a wait of at most `timeout_s`), or the request carries an `id`, under which a repetition
            counts once.
        sleep: waits between attempts.
        ca: PEM file of the authorities to believe, of an https address; None: those of this machine.
        client_cert: PEM files of a certificate and its key, where the server asks for them.

    Raises:
        UsageError: the address is not one of HTTP, or a certificate is not right.
        NotFoundError: there is no such certificate.
    """

    def __init__(
        self,
        address: str,
        *,
        system: str,
        token: str | None = None,
        timeout_s: float = 10.0,
        retries: int = 2,
        sleep: Callable[[float], None] = time.sleep,
        ca: Path | None = None,
        client_cert: tuple[Path, Path] | None = None,
    ) -> None:
        parts = urlsplit(address)
        if parts.scheme not in ("http", "https") or parts.hostname is None:
            raise UsageError(f"{address!r} is not an address such as https://models.example.com.")
        self.system = system
        if parts.scheme == "http" and (ca is not None or client_cert is not None):
            raise UsageError(f"certificates are for an https address; {address!r} is not one.")
        self._tls = _tls_context(ca, client_cert) if parts.scheme == "https" else None
        self._host, self._port = parts.hostname, parts.port
        self._timeout_s = timeout_s
        self._retries = retries
        self._sleep = sleep
        self._root = parts.path.rstrip("/")
        self._base = f"{self._root}/v1/systems/{quote(system, safe='')}"
        self._headers = {"content-type": "application/json"}
        if token is not None:
            self._headers["authorization"] = f"Bearer {token}"
        self._connection: http.client.HTTPConnection | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def predict(
        self,
        inputs: Mapping[str, Any],
        *,
        context: Mapping[str, Any] | None = None,
        id: str | None = None,
        reasons: bool = False,
    ) -> Prediction:
        """Predict for one request.

        Args:
            inputs: feature -> value.
            context: what is recorded with it.
            id: idempotency key; makes a repetition after a lost connection safe.
            reasons: whether to ask for reasons.

        Raises:
            InvalidRequestError: the server did not accept it; names every field.
            AccessError: no valid token, or it does not allow this.
            NotFoundError: the server does not serve this system.
            UnavailableError: no answer, or the server cannot answer now.
        """
        answer = self._call("predict", _request(inputs, context, id, reasons), is_repeatable=id is not None)
        return _prediction(answer)

    def predict_many(self, requests: Sequence[Mapping[str, Any]]) -> list[Prediction | InvalidRequestError]:
        """Predict for up to 10,000 requests, each `{"inputs", "context"?, "id"?}`; a bad one does not lose the others.

        Raises:
            As `predict`, if the whole list is refused.
        """
        is_repeatable = all(request.get("id") is not None for request in requests)
        answers = self._call("predict", list(requests), is_repeatable=is_repeatable)
        return [_invalid(answer) if "status" in answer else _prediction(answer) for answer in answers]

    def tell_outcomes(self, outcomes: Sequence[Mapping[str, Any]]) -> OutcomeReport:
        """Tell what came true of up to 10,000 predictions; on the server's disk when this returns.

        Telling again has no effect, so a lost answer is simply asked for again.

        Args:
            outcomes: each `{"id", "value", "time"?}`: the id of the request or of the prediction; the class as text,
                or the number; when it was known, RFC 3339 or Unix seconds (default: now).

        Raises:
            InvalidRequestError: none was accepted; names every field at fault.
            AccessError: no valid token, or it does not allow this.
            NotFoundError: the server does not serve this system, or takes no outcomes.
            UnavailableError: no answer, or the server cannot record them now.
        """
        answer = self._call("outcomes", list(outcomes), is_repeatable=True)
        problems = (
            OutcomeProblem(problem["index"], problem["field"], problem["expected"], problem.get("got"))
            for problem in answer["problems"]
        )
        return OutcomeReport(answer["accepted"], tuple(problems))

    def health(self) -> dict[str, Any]:
        """Whether the server answers predictions, by which releases and which generation of the deployment.

        Raises:
            OSError, http.client.HTTPException: no answer; nothing is tried again.
        """
        try:
            _, answer, _ = self._exchange("GET", f"{self._root}/v2/health/ready", None)
        except (OSError, http.client.HTTPException):
            self.close()
            raise
        return dict(answer)

    def _call(self, act: str, document: Any, *, is_repeatable: bool) -> Any:
        body = json.dumps(document, allow_nan=False).encode()
        wait_s = 0.0
        for attempt in range(self._retries + 1):
            is_last = attempt == self._retries
            try:
                status, answer, wait_s = self._exchange("POST", f"{self._base}/{act}", body)
            except ssl.SSLCertVerificationError as error:
                self.close()
                raise UnavailableError(
                    f"{self._host} cannot prove who it is: {error.verify_message}; give `ca`, the file of the "
                    "authority that vouches for it."
                ) from None
            except ConnectionRefusedError as error:
                self.close()
                if is_last:
                    raise UnavailableError(f"{self._host} does not listen: {error}.") from None
            except (OSError, http.client.HTTPException) as error:
                self.close()
                if is_last or not is_repeatable:
                    raise UnavailableError(f"{self._host} did not answer: {error or type(error).__name__}.") from None
            else:
                if status == 200:
                    return answer
                if status not in RETRY_STATUS or is_last or wait_s > self._timeout_s:
                    raise _refusal(status, answer, wait_s)
            self._sleep(max(wait_s, 0.1 * 2**attempt))
            wait_s = 0.0
        raise UnavailableError(f"{self._host} was not called: retries is {self._retries}; it must be 0 or more.")

    def _exchange(self, method: str, path: str, body: bytes | None) -> tuple[int, Any, float]:
        """Status, document, and the seconds that a caller has to wait who sent too much."""
        if self._connection is None:
            self._connection = self._connect()
        self._connection.request(method, path, body, self._headers)
        response = self._connection.getresponse()
        content = response.read()
        if response.will_close:
            self.close()
        asked = response.getheader("retry-after") or ""
        wait_s = float(asked) if response.status == 429 and asked.isdecimal() else 0.0
        try:
            return response.status, json.loads(content), wait_s
        except ValueError:
            return response.status, {"detail": f"the answer is not JSON (status {response.status})"}, wait_s

    def _connect(self) -> http.client.HTTPConnection:
        if self._tls is None:
            return http.client.HTTPConnection(self._host, self._port, timeout=self._timeout_s)
        return http.client.HTTPSConnection(self._host, self._port, timeout=self._timeout_s, context=self._tls)


def _tls_context(ca: Path | None, client_cert: tuple[Path, Path] | None) -> ssl.SSLContext:
    names = ", ".join(str(path) for path in (ca, *(client_cert or ())) if path is not None)
    try:
        context = ssl.create_default_context(cafile=ca)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        if client_cert is not None:
            context.load_cert_chain(*client_cert)
    except FileNotFoundError:
        raise NotFoundError(f"{names}: not all of these files are there.") from None
    except OSError as error:  # ssl.SSLError is one
        raise UsageError(f"{names}: cannot be used ({error}); give PEM files, and a key of its certificate.") from None
    return context


def _request(
    inputs: Mapping[str, Any], context: Mapping[str, Any] | None, id: str | None, reasons: bool
) -> dict[str, Any]:
    request: dict[str, Any] = {"inputs": dict(inputs)}
    if context is not None:
        request["context"] = dict(context)
    if id is not None:
        request["id"] = id
    if reasons:
        request["reasons"] = True
    return request


def _prediction(answer: Mapping[str, Any]) -> Prediction:
    known = {name: answer[name] for name in Prediction.__slots__ if name in answer}
    known["warnings"] = tuple(answer.get("warnings", ()))
    if known.get("interval") is not None:
        known["interval"] = tuple(known["interval"])
    return Prediction(**known)


def _invalid(problem: Mapping[str, Any]) -> InvalidRequestError:
    fields = tuple(
        FieldProblem(error["field"], error["expected"], error.get("got")) for error in problem.get("errors", ())
    )
    lines = [str(problem.get("detail", "The request was refused."))]
    lines += [f"{field.field}: expected {field.expected}{_got(field)}" for field in fields]
    return InvalidRequestError("\n".join(lines), fields)


def _got(field: FieldProblem) -> str:
    return "" if field.got is None else f", got {field.got}"


def _refusal(status: int, problem: Any, wait_s: float) -> Exception:
    detail = problem.get("detail", "") if isinstance(problem, dict) else ""
    if status in _REFUSALS:
        return _REFUSALS[status](f"{detail} (status {status})")
    if status == 429:
        return RefusedError(f"{detail} (status 429; it may be tried again in {wait_s:g} s)")
    if 400 <= status < 500:
        return _invalid(problem if isinstance(problem, dict) else {})
    return UnavailableError(f"The server cannot answer: {detail} (status {status})")
