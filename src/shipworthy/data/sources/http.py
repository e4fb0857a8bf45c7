"""HTTP: a file of a web server, fetched whole or not at all, and only if it changed.

Certificates are verified, redirects are few and never from https to http, no proxy is asked, and no message repeats
an address, which may be secret.
"""

import base64
import email.utils
import http.client
import socket
import ssl
import urllib.parse
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, replace

from shipworthy.data.sources.address import Address
from shipworthy.data.sources.attempts import Deadline
from shipworthy.data.sources.downloads import Download, Downloads, judge_size, size_in_words
from shipworthy.kernel.errors import DeadlineError, SourceError, UnavailableError

MAX_REDIRECTS = 5
SUFFIXES = (".csv", ".tsv", ".txt", ".jsonl", ".ndjson", ".json", ".parquet", ".arrow", ".feather", ".xlsx")
TYPES = {  # of a file whose address ends without a suffix
    "text/csv": ".csv",
    "text/tab-separated-values": ".tsv",
    "application/x-ndjson": ".jsonl",
    "application/jsonl": ".jsonl",
    "application/vnd.apache.parquet": ".parquet",
    "application/vnd.apache.arrow.file": ".arrow",
}
_CHUNK_BYTES = 1 << 18
_CONNECT_S = 10.0
_REDIRECTS = (301, 302, 303, 307, 308)
_PASSING = (408, 425, 429, *range(500, 600))  # answers that may be another a little later


@dataclass(frozen=True, slots=True)
class _Answer:
    """An answer of which the head has been read."""

    response: http.client.HTTPResponse
    socket: socket.socket  # which http.client lets go of early
    deadline: Deadline
    place: str

    def header(self, name: str) -> str | None:
        """What a header says."""
        return self.response.getheader(name)

    @property
    def length(self) -> int | None:
        """How many bytes the server promised."""
        text = self.header("Content-Length")
        return int(text) if text is not None and text.isascii() and text.isdigit() else None

    def chunks(self) -> Iterator[bytes]:
        """The body, in pieces, which must be as long as was promised."""
        received = 0
        while True:
            self.socket.settimeout(self.deadline.left_s)
            chunk = self.response.read1(_CHUNK_BYTES)
            if not chunk:
                break
            received += len(chunk)
            yield chunk
        if self.length is not None and received != self.length:
            raise UnavailableError(
                f"{self.place}: the answer broke off after {received:,} of {self.length:,} bytes; run it again"
            )


def fetch(address: Address, downloads: Downloads, deadline: Deadline, *, most_bytes: int) -> Download:
    """The file at an address; the copy of before if the server says that it is still the same.

    Args:
        address: of kind `http`.
        downloads: where copies lie.
        deadline: for the whole of it.
        most_bytes: a larger file is refused.

    Raises:
        UnavailableError: no answer, or one that says so; it may be there a little later.
        DeadlineError: it takes too long.
        SourceError: there is no such file, it is refused, too large, or redirected too often.
        StorageError: the disk is full.
    """
    place, before = address.written, downloads.find(address.written)
    headers = {} if before is None or before.tag is None else {"If-None-Match": before.tag}
    with _following(address, headers, deadline) as answer:
        if answer.response.status == 304 and before is not None:
            return downloads.note(replace(before, modified=_modified(answer) or before.modified))
        if answer.length is not None:
            judge_size(place, answer.length, most_bytes)
        with downloads.draft(place, most_bytes) as draft:
            for chunk in answer.chunks():
                draft.write(chunk)
            suffix = suffix_of(urllib.parse.urlsplit(address.url).path) or _suffix_of_type(answer)
            return downloads.keep(draft, suffix, modified=_modified(answer), tag=answer.header("ETag"))


def reach(address: Address, deadline: Deadline) -> str:
    """How a file answers when it is asked for, in words; its content is not read.

    Raises:
        UnavailableError, DeadlineError, SourceError: as for `fetch`.
    """
    with _following(address, {}, deadline) as answer:
        size = "" if answer.length is None else f", {size_in_words(answer.length)}"
        return f"reachable{size}"


def suffix_of(path: str) -> str:
    """What tells the kind of the file at a path.

    >>> suffix_of("/a/loans.CSV.gz"), suffix_of("/a/loans")
    ('.csv.gz', '')
    """
    name = path.rsplit("/", 1)[-1].lower()
    packed = ".gz" if name.endswith(".gz") else ""
    found = next((suffix for suffix in SUFFIXES if name.removesuffix(".gz").endswith(suffix)), "")
    return found + packed


def _suffix_of_type(answer: _Answer) -> str:
    return TYPES.get((answer.header("Content-Type") or "").partition(";")[0].strip().lower(), "")


def _modified(answer: _Answer) -> float | None:
    with suppress(TypeError, ValueError):
        return email.utils.parsedate_to_datetime(answer.header("Last-Modified") or "").timestamp()
    return None


@contextmanager
def _following(address: Address, headers: dict[str, str], deadline: Deadline) -> Iterator[_Answer]:
    """The answer at the end of the redirects, which is 200 or, with `If-None-Match`, 304."""
    url, place = address.url, address.written
    with _network_faults(place):
        for _ in range(MAX_REDIRECTS + 1):
            parts = _parted(url, place)
            with closing(_connect(parts, place, deadline)) as connection:
                sent = {**_ALWAYS, **headers, **_authorization(parts)}
                target = urllib.parse.urlunsplit(("", "", parts.path or "/", parts.query, ""))
                held = connection.sock
                connection.request("GET", target, headers=sent)
                with connection.getresponse() as response:
                    answer = _Answer(response, held, deadline, place)
                    if response.status not in _REDIRECTS:
                        _judge_status(answer, place, conditional="If-None-Match" in headers)
                        yield answer
                        return
                    url = _next(url, answer, place)
    raise SourceError(f"{place}: redirects more than {MAX_REDIRECTS} times; write the address at their end")


_ALWAYS = {"User-Agent": "shipworthy", "Accept": "*/*", "Accept-Encoding": "identity", "Connection": "close"}


@contextmanager
def _network_faults(place: str) -> Iterator[None]:
    """Say in words how a connection failed."""
    try:
        yield
    except ssl.SSLCertVerificationError as error:
        raise SourceError(f"{place}: its certificate is not accepted ({error.verify_message})") from None
    except ssl.SSLError as error:
        raise UnavailableError(f"{place}: no secure connection ({error.reason or 'it broke off'})") from None
    except socket.gaierror:
        raise UnavailableError(f"{place}: the host is not known; correct its name, or look at the network") from None
    except (UnavailableError, DeadlineError):
        raise
    except TimeoutError:
        raise DeadlineError(f"{place}: it takes too long") from None
    except ConnectionError as error:
        raise UnavailableError(f"{place}: no connection ({error.strerror or 'it broke off'})") from None
    except http.client.IncompleteRead:
        raise UnavailableError(f"{place}: the answer broke off; run it again") from None
    except (http.client.HTTPException, ValueError) as error:
        if isinstance(error, SourceError):
            raise
        raise UnavailableError(f"{place}: what answers does not speak HTTP") from None


def _parted(url: str, place: str) -> urllib.parse.SplitResult:
    if not url.isprintable() or " " in url:
        raise SourceError(f"{place}: the address holds a blank or a line break; write %20 for a blank")
    try:
        parts = urllib.parse.urlsplit(url)
        port = parts.port
    except ValueError:
        raise SourceError(f"{place}: the address is malformed") from None
    if parts.scheme not in ("http", "https") or not parts.hostname or port == 0:
        raise SourceError(f"{place}: is, or redirects to, what is no http or https address")
    return parts


def _connect(parts: urllib.parse.SplitResult, place: str, deadline: Deadline) -> http.client.HTTPConnection:
    host, timeout_s = parts.hostname or "", min(deadline.left_s, _CONNECT_S)
    connection: http.client.HTTPConnection
    if parts.scheme == "https":
        connection = http.client.HTTPSConnection(
            host, parts.port, timeout=timeout_s, context=ssl.create_default_context()
        )
    else:
        connection = http.client.HTTPConnection(host, parts.port, timeout=timeout_s)
    try:
        connection.connect()
    except TimeoutError:
        raise UnavailableError(f"{place}: no connection within {timeout_s:.3g} s") from None
    except OSError as error:
        if isinstance(error, ssl.SSLError | socket.gaierror | ConnectionError):
            raise
        raise UnavailableError(f"{place}: no connection ({error.strerror or 'it broke off'})") from None
    connection.sock.settimeout(deadline.left_s)
    return connection


def _authorization(parts: urllib.parse.SplitResult) -> dict[str, str]:
    if parts.username is None:
        return {}
    pair = ":".join(urllib.parse.unquote(part or "") for part in (parts.username, parts.password))
    return {"Authorization": f"Basic {base64.b64encode(pair.encode()).decode()}"}


def _next(url: str, answer: _Answer, place: str) -> str:
    """Where a redirect leads; user and password stay behind, unless it stays on the host."""
    location = answer.header("Location")
    if not location:
        raise SourceError(f"{place}: redirects ({answer.response.status}) without saying where to")
    before, after = urllib.parse.urlsplit(url), urllib.parse.urlsplit(urllib.parse.urljoin(url, location))
    if before.scheme == "https" and after.scheme != "https":
        raise SourceError(f"{place}: redirects from https to {after.scheme or 'nowhere'}, which is not followed")
    if (after.scheme, after.hostname, after.port) == (before.scheme, before.hostname, before.port):
        user, at, _ = before.netloc.rpartition("@")
        after = after._replace(netloc=f"{user}{at}{after.netloc.rpartition('@')[2]}")
    return urllib.parse.urlunsplit(after)


def _judge_status(answer: _Answer, place: str, *, conditional: bool) -> None:
    status = answer.response.status
    if status == 200 or (status == 304 and conditional):
        return
    if status in _PASSING:
        wait = answer.header("Retry-After") or ""
        raise UnavailableError(f"{place}: answers {status}", wait_s=float(wait) if wait.isdecimal() else None)
    if status in (401, 403, 407):
        raise SourceError(f"{place}: refuses ({status}); give the right user and secret in the URL, as ${{NAME}}")
    if status in (404, 410):
        raise SourceError(f"{place}: there is no such file (it answers {status}); correct the URL")
    raise SourceError(f"{place}: answers {status}, not a file")
