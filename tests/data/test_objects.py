"""Object stores: a real one (rclone), and one that refuses, dawdles and lies."""

import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest

from shipworthy.contract.data_section import ObjectStore, Source
from shipworthy.data.sources.address import find_address
from shipworthy.data.sources.attempts import Deadline
from shipworthy.data.sources.downloads import Downloads
from shipworthy.data.sources.found import Found
from shipworthy.data.sources.incremental import Shelf
from shipworthy.data.sources.objects import find_objects
from shipworthy.data.sources.remote import Places, find_remote, look_at
from shipworthy.kernel.digest import digest_bytes
from shipworthy.kernel.errors import DeadlineError, SourceError, UnavailableError, UsageError
from tests.data.stores import KEY, SECRET, Store, storing
from tests.data.web import Web, answer, serving


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    with storing(tmp_path_factory.mktemp("s3") / "objects") as store:
        yield store


@pytest.fixture
def downloads(tmp_path: Path) -> Downloads:
    return Downloads.open(tmp_path / "downloads")


def find(url: str, downloads: Downloads, environ: dict[str, str], seconds: float = 30, **keys: object) -> Found:
    source = Source.model_validate({"url": url, **keys})
    places = Places(environ, downloads, Shelf(downloads.folder / "shelf", None))
    return find_remote("loans", source, places, None, Deadline(time.monotonic() + seconds, time.monotonic))


def test_an_object_is_read_and_its_age_known(store: Store, downloads: Downloads):
    file = store.put("one/loans.csv", "a,b\n001,1\n")
    found = find("s3://one/loans.csv", downloads, {**store.environ})
    assert found.digest == digest_bytes(b"a,b\n001,1\n")
    assert found.read().frame.rows() == [("001", "1")]
    assert found.changed == int(file.stat().st_mtime)


def test_keys_can_stand_in_the_contract_as_names(store: Store, downloads: Downloads):
    store.put("named/loans.csv", "a\n1\n")
    keys = {"endpoint": store.url, "access_key": "${MY_KEY}", "secret_key": "${MY_SECRET}"}
    environ = {"MY_KEY": KEY, "MY_SECRET": SECRET}
    assert find("s3://named/loans.csv", downloads, environ, store=keys).read().rows == 1


def test_all_below_a_prefix_are_one_table_and_only_new_ones_are_fetched(store: Store, downloads: Downloads):
    environ = {**store.environ}
    store.put("many/loans/2026-01.csv", "a,b\n1,x\n")
    store.put("many/loans/2026-02.csv", "a,b\n2,y\n")
    store.put("many/loans/_SUCCESS", "")
    store.put("many/loans/_marks.csv", "of,others\n1,2\n")
    store.put("many/other/2026-03.csv", "c\n1\n")
    first = find("s3://many/loans/", downloads, environ)
    assert first.read().frame.rows() == [("1", "x"), ("2", "y")]
    assert list(first.origins) == ["url:s3://many/loans/2026-01.csv", "url:s3://many/loans/2026-02.csv"]
    downloads.save({origin.removeprefix("url:") for origin in first.origins})

    copies = {path: path.stat().st_ino for path in downloads.folder.glob("*.csv")}
    store.put("many/loans/2026-03.csv", "b,a\nz,3\n")
    second = find("s3://many/loans/", Downloads.open(downloads.folder), environ)
    assert second.read().frame.rows() == [("1", "x"), ("2", "y"), ("3", "z")]
    assert {path: path.stat().st_ino for path in copies} == copies
    assert len(list(downloads.folder.glob("*.csv"))) == 3
    assert second.digest != first.digest


def test_objects_of_other_columns_are_refused_by_name(store: Store, downloads: Downloads):
    store.put("odd/a.csv", "a,b\n1,x\n")
    store.put("odd/b.csv", "a,c\n1,x\n")
    with pytest.raises(SourceError, match=r"^s3://odd/b\.csv: its columns are not those of s3://odd/a\.csv \(b, c\)"):
        find("s3://odd/", downloads, {**store.environ}).read()


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("s3://empty/", "there are no objects below it|there is no such bucket or object"),
        ("s3://empty/none.csv", r"there is no such bucket or object; correct the URL"),
        ("s3://nowhere/none.csv", r"there is no such bucket or object; correct the URL"),
    ],
)
def test_what_is_not_there_is_said(store: Store, downloads: Downloads, url: str, message: str):
    (store.folder / "empty").mkdir(exist_ok=True)
    with pytest.raises(SourceError, match=message):
        find(url, downloads, {**store.environ})


@pytest.mark.parametrize("url", ["s3://one/loans.csv", "s3://one/"])
def test_a_wrong_secret_is_refused_without_being_shown(store: Store, downloads: Downloads, url: str):
    store.put("one/loans.csv", "a,b\n001,1\n")
    with pytest.raises(
        SourceError, match=r"^s3://one/\S*: the store refuses \(403.*\); give it the right keys"
    ) as caught:
        find(url, downloads, {**store.environ, "AWS_SECRET_ACCESS_KEY": "hunter2"})
    assert "hunter2" not in str(caught.value)


def test_a_look_counts_objects_and_reads_none(store: Store):
    store.put("look/a.csv", "a\n1\n")
    words, columns = look_at("x", Source(url="s3://look/"), {**store.environ}, time.monotonic)
    assert (words, columns) == ("reachable, 1 object, 4 bytes", None)


@pytest.mark.parametrize(
    ("url", "environ", "message"),
    [
        ("s3:///key", {}, "is no address of objects"),
        ("s3://bucket/key?versionId=1", {}, "is no address of objects"),
        ("s3://bucket/key", {"AWS_ACCESS_KEY_ID": "x"}, "an access key needs its secret key"),
    ],
)
def test_an_address_of_no_objects_is_refused(url: str, environ: dict[str, str], message: str):
    with pytest.raises(UsageError, match=message):
        find_objects(find_address(url, environ), None, environ)


def test_a_secret_that_is_not_set_is_named():
    store = ObjectStore(access_key="${A}", secret_key="${B}")
    with pytest.raises(UsageError, match=r"the environment variable B is not set"):
        find_objects(find_address("s3://bucket/key", {}), store, {"A": "x"})


@pytest.mark.parametrize("own", [True, False])
def test_keys_of_the_contract_go_without_the_token_of_the_environment(
    liar: Web, downloads: Downloads, monkeypatch: pytest.MonkeyPatch, own: bool
):
    environ = {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b", "AWS_SESSION_TOKEN": "t", "A": "x", "B": "y"}
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    keys = {"access_key": "${A}", "secret_key": "${B}"} if own else {}
    with pytest.raises(SourceError, match="there is no such bucket or object"):
        find("s3://b/a.csv", downloads, environ, store={"endpoint": liar.url, **keys})
    headers = {name.lower(): value for name, value in liar.asked[0][1].items()}
    assert f"Credential={'x' if own else 'a'}/" in headers["authorization"]
    assert headers.get("x-amz-security-token") == (None if own else "t")


# --- a store that does wrong


@pytest.fixture
def liar() -> Iterator[Web]:
    with serving() as web:
        yield web


def head(size: int) -> "object":
    def send(request: BaseHTTPRequestHandler) -> None:
        if request.command != "HEAD":
            late_or_lying(request)
            return
        request.send_response(200)
        request.send_header("Content-Length", str(size))
        request.send_header("Last-Modified", "Tue, 01 Jan 2030 00:00:00 GMT")
        request.send_header("ETag", '"x"')
        request.end_headers()

    def late_or_lying(request: BaseHTTPRequestHandler) -> None:
        request.send_response(200)
        request.send_header("Content-Length", "8")
        request.send_header("Last-Modified", "Tue, 01 Jan 2030 00:00:00 GMT")
        request.send_header("ETag", '"x"')
        request.end_headers()
        request.wfile.write(b"a\n1")
        request.wfile.flush()
        if size == 8000:
            time.sleep(3)

    return send


FAULTS = {
    "it lies about a length": (head(9), UnavailableError, "the store lists 9 bytes and sends 8; it changes, or lies"),
    "it breaks off": (head(8), UnavailableError, "no connection to the store, or it broke off"),
    "its own fault": (answer(503), UnavailableError, r"the store answers \(503"),
    "another refusal": (answer(400), SourceError, r"the store answers \(400"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_store_that_does_wrong_is_named_and_leaves_nothing(liar: Web, downloads: Downloads, fault: str):
    respond, kind, message = FAULTS[fault]
    liar.page("/b/a.csv", respond)
    with pytest.raises(kind, match=f"^s3://b/a.csv: {message}"):
        find("s3://b/a.csv", downloads, {"AWS_ENDPOINT_URL": liar.url})
    assert not list(downloads.folder.glob("*")) if downloads.folder.is_dir() else True


def test_a_slow_store_is_cut(liar: Web, downloads: Downloads):
    liar.page("/b/a.csv", lambda _: time.sleep(3))
    with pytest.raises(DeadlineError):
        find("s3://b/a.csv", downloads, {"AWS_ENDPOINT_URL": liar.url}, seconds=0.5)


def test_no_store_at_all(downloads: Downloads):
    with pytest.raises(UnavailableError, match=r"no connection to the store, or it broke off; is the endpoint right\?"):
        find("s3://b/a.csv", downloads, {"AWS_ENDPOINT_URL": "http://127.0.0.1:1"})
