"""Files of web servers: whole or not at all, only if they changed, and each refusal says what to do."""

import gzip
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest

from shipworthy.contract.data_section import Source
from shipworthy.data.sources.address import find_address
from shipworthy.data.sources.attempts import Deadline
from shipworthy.data.sources.downloads import Download, Downloads
from shipworthy.data.sources.http import fetch, reach
from shipworthy.data.sources.incremental import Shelf
from shipworthy.data.sources.remote import Places, find_remote
from shipworthy.kernel.digest import digest_bytes
from shipworthy.kernel.errors import DeadlineError, SourceError, UnavailableError, UsageError
from tests.certificates import Authority
from tests.data.web import Web, answer, serving

CSV = b"a,b\n001,1\n002,2\n"


@pytest.fixture
def web() -> Iterator[Web]:
    with serving() as web:
        yield web


@pytest.fixture
def downloads(tmp_path: Path) -> Downloads:
    return Downloads.open(tmp_path / "downloads")


def soon(seconds: float = 20) -> Deadline:
    return Deadline(time.monotonic() + seconds, time.monotonic)


def get(url: str, downloads: Downloads, seconds: float = 20, most_bytes: int = 10**6, **environ: str) -> Download:
    return fetch(find_address(url, environ), downloads, soon(seconds), most_bytes=most_bytes)


def files(downloads: Downloads) -> list[str]:
    return sorted(path.name for path in downloads.folder.glob("*")) if downloads.folder.is_dir() else []


def test_a_file_is_kept_under_its_digest_and_read_with_every_column_as_text(web: Web, downloads: Downloads):
    web.page("/loans.csv", answer(200, CSV, Last_Modified="Tue, 01 Jan 2030 00:00:00 GMT"))
    url = f"{web.url}/loans.csv"
    places = Places({}, downloads, Shelf(downloads.folder / "shelf", None))
    found = find_remote("loans", Source(url=url), places, None, soon())
    assert (found.digest, found.changed, found.origins) == (
        digest_bytes(CSV),
        1893456000.0,
        {f"url:{url}": digest_bytes(CSV)},
    )
    assert files(downloads) == [f"{digest_bytes(CSV)[7:]}.csv"]
    assert found.read().frame.rows() == [("001", "1"), ("002", "2")]


@pytest.mark.parametrize(
    ("path", "kind", "name"),
    [("/a.csv.gz", "", ".csv.gz"), ("/export", "text/csv; charset=utf-8", ".csv"), ("/x", "text/html", "")],
)
def test_the_kind_of_file_is_told_by_the_address_else_by_the_server(
    web: Web, downloads: Downloads, path: str, kind: str, name: str
):
    web.page(path, answer(200, gzip.compress(CSV), Content_Type=kind))
    assert get(f"{web.url}{path}?x=1", downloads).path.name == f"{digest_bytes(gzip.compress(CSV))[7:]}{name}"


def test_what_did_not_change_is_not_fetched_again(web: Web, downloads: Downloads):
    web.page("/a.csv", answer(200, CSV, ETag='"one"'), answer(304), answer(200, b"a\n3\n", ETag='"two"'))
    url = f"{web.url}/a.csv"
    first = get(url, downloads)
    downloads.save({url})
    again = Downloads.open(downloads.folder)
    assert get(url, again) == first
    assert web.asked[1][1]["If-None-Match"] == '"one"'
    assert get(url, again).digest == digest_bytes(b"a\n3\n")
    again.save({url})
    assert files(again) == [f"{digest_bytes(b'a' + bytes([10]) + b'3' + bytes([10]))[7:]}.csv", "seen.json"]


def test_what_a_killed_run_left_half_done_is_removed(web: Web, downloads: Downloads):
    downloads.folder.mkdir()
    (downloads.folder / ".draft-0123").write_bytes(b"a,b\n1")
    assert files(Downloads.open(downloads.folder)) == []


def test_a_copy_that_was_changed_is_refused_and_fetched_anew(web: Web, downloads: Downloads):
    web.page("/a.csv", answer(200, CSV, ETag='"one"'))
    url = f"{web.url}/a.csv"
    places = Places({}, downloads, Shelf(downloads.folder / "shelf", None))
    found = find_remote("a", Source(url=url), places, None, soon())
    next(downloads.folder.glob("*.csv")).write_bytes(CSV.replace(b"1", b"9"))
    with pytest.raises(SourceError, match="was changed; run it again to fetch it anew"):
        found.read()
    web.page("/a.csv", answer(200, CSV))
    find_remote("a", Source(url=url), places, None, soon()).read()
    assert "If-None-Match" not in web.asked[-1][1]


def test_what_is_wrong_in_the_file_is_said_of_its_address(web: Web, downloads: Downloads):
    web.page("/a.csv", answer(200, b"a,b\n1,\xff\n"))
    places = Places({}, downloads, Shelf(downloads.folder / "shelf", None))
    found = find_remote("a", Source(url=f"{web.url}/a.csv"), places, None, soon())
    with pytest.raises(SourceError, match=rf"^{web.url}/a\.csv line 2, byte 3: 0xff is not UTF-8"):
        found.read()


def short(request: BaseHTTPRequestHandler) -> None:
    request.send_response(200)
    request.send_header("Content-Length", "1000")
    request.end_headers()
    request.wfile.write(CSV)


def short_chunks(request: BaseHTTPRequestHandler) -> None:
    request.wfile.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\na,b\n1\r\n9\r\nab")


def drip(request: BaseHTTPRequestHandler) -> None:
    request.send_response(200)
    request.send_header("Content-Length", "1000")
    request.end_headers()
    for _ in range(1000):
        request.wfile.write(b"a")
        request.wfile.flush()
        time.sleep(0.05)


def nonsense(request: BaseHTTPRequestHandler) -> None:
    request.wfile.write(b"220 mail.example.org ESMTP\r\n")


FAULTS = {
    "no such file": (answer(404), SourceError, r"there is no such file \(it answers 404\); correct the URL"),
    "refused": (answer(403), SourceError, r"refuses \(403\); give the right user and secret in the URL"),
    "its own fault": (answer(500), UnavailableError, "answers 500$"),
    "another answer": (answer(204), SourceError, "answers 204, not a file"),
    "not changed since never": (answer(304), SourceError, "answers 304, not a file"),
    "a body that breaks off": (short, UnavailableError, r"broke off after 16 of 1,000 bytes; run it again"),
    "chunks that break off": (short_chunks, UnavailableError, "the answer broke off; run it again"),
    "a slow body": (drip, DeadlineError, "it takes too long"),
    "no HTTP": (nonsense, UnavailableError, "does not speak HTTP"),
    "a file too large": (answer(200, b"a" * 2_000_000), SourceError, r"larger than 1 MB; allow more with size"),
    "a length too large": (answer(200, b"", Content_Length="2000000"), SourceError, "larger than 1 MB"),
    "a loop": (answer(302, Location="/a.csv"), SourceError, "redirects more than 5 times"),
    "a redirect to nowhere": (answer(302), SourceError, r"redirects \(302\) without saying where to"),
    "a redirect to a file": (answer(302, Location="file:///etc/passwd"), SourceError, "no http or https address"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_refusal_names_the_address_and_leaves_nothing(web: Web, downloads: Downloads, fault: str):
    respond, kind, message = FAULTS[fault]
    web.page("/a.csv", respond)
    with pytest.raises(kind, match=message) as caught:
        get(f"{web.url}/a.csv", downloads, seconds=1 if fault == "a slow body" else 20)
    assert str(caught.value).startswith(f"{web.url}/a.csv: ") or fault == "a slow body"
    assert files(downloads) == []


def test_a_redirect_is_followed_and_takes_no_secret_to_another_host(web: Web, downloads: Downloads):
    with serving() as other:
        other.page("/b.csv", answer(200, CSV))
        web.page("/a.csv", answer(307, Location="/c.csv"))
        web.page("/c.csv", answer(302, Location=f"{other.url}/b.csv"))
        url = f"http://ann:${{SECRET}}@127.0.0.1:{web.port}/a.csv"
        assert get(url, downloads, SECRET="p/w").digest == digest_bytes(CSV)
        assert [headers.get("Authorization") for _, headers in web.asked] == ["Basic YW5uOnAvdw=="] * 2
        assert "Authorization" not in other.asked[0][1]


def test_who_asks_for_patience_is_heard(web: Web, downloads: Downloads):
    web.page("/a.csv", answer(429, Retry_After="7"))
    with pytest.raises(UnavailableError) as caught:
        get(f"{web.url}/a.csv", downloads)
    assert caught.value.wait_s == 7


def test_a_host_that_is_not_known_or_not_there(downloads: Downloads):
    with pytest.raises(UnavailableError, match=r"no-such-host\.invalid/a: the host is not known; correct its name"):
        get("http://no-such-host.invalid/a", downloads)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with pytest.raises(UnavailableError, match=r"no connection \(Connection refused\)"):
        get(f"http://127.0.0.1:{port}/a", downloads)


def test_a_certificate_that_nobody_vouches_for_is_refused(
    downloads: Downloads, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    authority = Authority(tmp_path)
    pair = authority.issue("server")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pair.cert, pair.key)
    with serving(context) as web:
        web.page("/a.csv", answer(200, CSV))
        web.page("/down.csv", answer(302, Location="http://127.0.0.1:1/a.csv"))
        url = f"https://127.0.0.1:{web.port}"
        with pytest.raises(SourceError, match="its certificate is not accepted"):
            get(f"{url}/a.csv", downloads)
        monkeypatch.setenv("SSL_CERT_FILE", str(authority.cert))
        assert get(f"{url}/a.csv", downloads).digest == digest_bytes(CSV)
        with pytest.raises(SourceError, match="redirects from https to http, which is not followed"):
            get(f"{url}/down.csv", downloads)


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("ftp://host/a.csv", "scheme 'ftp' is not read; the schemes are http, https, s3,"),
        ("${LOANS_URL}", r"^\$\{LOANS_URL\}: the environment variable LOANS_URL is not set"),
        ("https://ann:hunter2@host/a.csv", r"ann:\*\*\*@host/a.csv: a password stands in the URL"),
        ("${NOWHERE}", "what it names is not read"),
    ],
)
def test_an_address_that_cannot_be_used_shows_no_secret(url: str, message: str):
    with pytest.raises(UsageError, match=message) as caught:
        find_address(url, {"NOWHERE": "hunter2"})
    assert "hunter2" not in str(caught.value)


def test_a_look_reads_no_body(web: Web):
    web.page("/a.csv", answer(200, b"", Content_Length="123456789"))
    assert reach(find_address(f"{web.url}/a.csv", {}), soon()) == "reachable, 123 MB"


def test_a_full_disk_is_said(web: Web, tmp_path: Path):
    """In a process of its own: the limit on what it may write stands for the disk."""
    web.page("/a.csv", answer(200, b"a\n" + b"1\n" * 200_000))
    code = """
import resource, signal, sys, time
from pathlib import Path
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
from shipworthy.data.sources.address import find_address
from shipworthy.data.sources.attempts import Deadline
from shipworthy.data.sources.downloads import Downloads
from shipworthy.data.sources.http import fetch
from shipworthy.kernel.errors import StorageError
try:
    fetch(find_address(sys.argv[1], {}), Downloads(Path(sys.argv[2])), Deadline(time.monotonic() + 60, time.monotonic),
          most_bytes=10**9)
except StorageError as error:
    print(error)
print(sorted(path.name for path in Path(sys.argv[2]).iterdir()))
"""
    done = subprocess.run(
        [sys.executable, "-c", code, f"{web.url}/a.csv", str(tmp_path)], capture_output=True, text=True, check=True
    )
    assert done.stdout == (
        f"{tmp_path}: the disk is full while {web.url}/a.csv is fetched; make room and run it again\n[]\n"
    )
