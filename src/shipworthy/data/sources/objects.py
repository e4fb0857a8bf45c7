"""Object stores that speak S3: an object, or all objects below a prefix; those that did not change are not fetched."""

import re
import urllib.parse
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import obstore
from obstore.exceptions import BaseError, PermissionDeniedError, UnauthenticatedError
from obstore.store import S3Store

from shipworthy.contract.data_section import ObjectStore
from shipworthy.data.sources.address import Address, fill
from shipworthy.data.sources.attempts import Deadline
from shipworthy.data.sources.downloads import Download, Downloads, judge_size, size_in_words
from shipworthy.data.sources.http import suffix_of
from shipworthy.kernel.errors import DeadlineError, SourceError, UnavailableError, UsageError

if TYPE_CHECKING:
    from obstore.store import S3Credential

_CHUNK_BYTES = 1 << 20
_CONNECT_S = 10.0
_STATUS = re.compile(r"non-2xx status code: (\d{3})")
_REASON = re.compile(r"<Code>(\w{1,60})</Code>")
_ABSENT = "there is no such bucket or object; correct the URL (a prefix ends with /)"
_PASSING = ("408", "429", "5")  # how the status of an answer begins that may be another a little later


@dataclass(frozen=True, slots=True)
class Objects:
    """One or more objects of a bucket."""

    address: Address
    bucket: str
    key: str  # of the object, or the prefix, which ends with / or is empty
    settings: Mapping[str, str] = field(repr=False)  # endpoint and keys

    @property
    def is_prefix(self) -> bool:
        """Whether it means everything below."""
        return not self.key or self.key.endswith("/")

    def place(self, key: str) -> str:
        """How one object is called."""
        return f"{self.address.written.removesuffix(self.key)}{key}" if self.is_prefix else self.address.written


def find_objects(address: Address, store: ObjectStore | None, environ: Mapping[str, str]) -> Objects:
    """Bucket, key and settings of an address.

    Args:
        address: of kind `objects`: `s3://BUCKET/KEY`, or `s3://BUCKET/PREFIX/`.
        store: what the contract says of the store; what it leaves out stands in the environment, as AWS names it.
        environ: where `${NAME}` and AWS's variables stand.

    Raises:
        UsageError: no bucket is named, a variable is not set, or there is an access key and no secret one.
    """
    parts = urllib.parse.urlsplit(address.url)
    if not parts.netloc or "@" in parts.netloc or parts.query or parts.fragment:
        raise UsageError(f"{address.written}: is no address of objects; write s3://BUCKET/KEY or s3://BUCKET/PREFIX/")
    written = (store or ObjectStore()).model_dump()
    settings = {}
    for name, variable in _VARIABLES.items():
        if written.get(name) is not None:
            settings[name] = fill(written[name], environ)
        elif environ.get(variable):
            settings[name] = environ[variable]
    settings.setdefault("region", "us-east-1")
    if ("access_key" in settings) != ("secret_key" in settings):
        raise UsageError(
            f"{address.written}: an access key needs its secret key; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
        )
    if "session_token" in settings and written["access_key"] is not None:
        del settings["session_token"]  # it belongs to the environment's own key
    return Objects(address, parts.netloc, urllib.parse.unquote(parts.path.removeprefix("/")), settings)


_VARIABLES = {
    "endpoint": "AWS_ENDPOINT_URL",
    "region": "AWS_REGION",
    "access_key": "AWS_ACCESS_KEY_ID",
    "secret_key": "AWS_SECRET_ACCESS_KEY",
    "session_token": "AWS_SESSION_TOKEN",
}


def fetch(objects: Objects, downloads: Downloads, deadline: Deadline, *, most_bytes: int) -> list[Download]:
    """The objects, in the order of their keys; copies of before of those that are still the same.

    Objects whose name begins with `_` or `.` are marks of those who write, and left out; so are empty ones below a
    prefix.

    Args:
        objects: which.
        downloads: where copies lie. What an attempt that failed has fetched is not fetched again.
        deadline: for the whole of it.
        most_bytes: all together may not be larger.

    Raises:
        UnavailableError: no answer, or one that says so; it may be there a little later.
        DeadlineError: it takes too long.
        SourceError: there is no such object, it is refused, or too large.
        StorageError: the disk is full.
    """
    store = _open(objects, deadline)
    found = _listed(store, objects, deadline)
    judge_size(objects.address.written, sum(meta["size"] for meta in found), most_bytes)
    return [_fetch_one(store, objects, meta, downloads, deadline) for meta in found]


def reach(objects: Objects, deadline: Deadline) -> str:
    """How many objects there are, in words; none is read.

    Raises:
        UnavailableError, DeadlineError, SourceError: as for `fetch`.
    """
    found = _listed(_open(objects, deadline), objects, deadline)
    size = size_in_words(sum(meta["size"] for meta in found))
    return f"reachable, {len(found):,} object{'' if len(found) == 1 else 's'}, {size}"


def _open(objects: Objects, deadline: Deadline) -> S3Store:
    settings = objects.settings
    config: dict[str, Any] = {"region": settings["region"]}
    if "access_key" not in settings:
        config["skip_signature"] = True  # or it asks the network for a machine's own keys
    endpoint = settings.get("endpoint", "")
    if endpoint:
        config["endpoint"] = endpoint
    left = timedelta(seconds=deadline.left_s)
    return S3Store(
        objects.bucket,
        config=config,  # type: ignore[arg-type]  # a dict that is put together
        client_options={
            "allow_http": endpoint.startswith("http://"),
            "timeout": left,
            "connect_timeout": min(left, timedelta(seconds=_CONNECT_S)),
        },
        retry_config={"max_retries": 0, "retry_timeout": left},  # who calls tries again
        credential_provider=None if "skip_signature" in config else lambda: _credential(settings),
    )


def _credential(settings: Mapping[str, str]) -> "S3Credential":
    """The keys, which must not be mixed with a token that stands in the environment for others."""
    return {
        "access_key_id": settings["access_key"],
        "secret_access_key": settings["secret_key"],
        "token": settings.get("session_token"),
        "expires_at": None,
    }


def _listed(store: S3Store, objects: Objects, deadline: Deadline) -> list[dict[str, Any]]:
    place = objects.address.written
    with _store_faults(place, deadline):
        if not objects.is_prefix:
            return [dict(obstore.head(store, objects.key))]
        found = []
        for batch in obstore.list(store, objects.key or None):
            found += [dict(meta) for meta in batch]
            _ = deadline.left_s
    named = [meta for meta in found if meta["size"] and str(meta["path"]).rsplit("/", 1)[-1][:1] not in ("_", ".")]
    if not named:
        raise SourceError(f"{place}: there are no objects below it; correct bucket and prefix")
    return sorted(named, key=lambda meta: str(meta["path"]))


def _fetch_one(
    store: S3Store, objects: Objects, meta: Mapping[str, Any], downloads: Downloads, deadline: Deadline
) -> Download:
    place, size = objects.place(meta["path"]), int(meta["size"])
    modified = meta["last_modified"].timestamp()
    tag = f"{str(meta['e_tag'] or '').strip(chr(34))} {int(modified)} {size}"
    before = downloads.find(place)
    if before is not None and before.tag == tag:
        return downloads.note(replace(before, modified=modified))
    with _store_faults(place, deadline), downloads.draft(place, size) as draft:
        answer = obstore.get(store, meta["path"])
        if answer.meta["size"] != size:
            raise UnavailableError(
                f"{place}: the store lists {size:,} bytes and sends {answer.meta['size']:,}; it changes, or lies"
            )
        for chunk in answer.stream(_CHUNK_BYTES):
            _ = deadline.left_s
            draft.write(bytes(chunk))
        if draft.size_bytes != size:
            raise UnavailableError(f"{place}: the answer broke off after {draft.size_bytes:,} of {size:,} bytes")
        return downloads.keep(draft, suffix_of(meta["path"]), modified=modified, tag=tag)


@contextmanager
def _store_faults(place: str, deadline: Deadline) -> Iterator[None]:
    """Say in words how a store refused; what it sends may name more than a reader should see."""
    try:
        yield
    except FileNotFoundError:
        raise SourceError(f"{place}: {_ABSENT}") from None
    except (BaseError, ValueError) as error:
        if isinstance(error, SourceError):
            raise
        text = str(error)
        status, reason = _STATUS.search(text), _REASON.search(text)
        said = f" ({status[1] if status else ''}{f' {reason[1]}' if reason else ''})" if status else ""
        if isinstance(error, PermissionDeniedError | UnauthenticatedError) or said[2:5] in ("401", "403"):
            raise SourceError(
                f"{place}: the store refuses{said or ' (403)'}; give it the right keys: AWS_ACCESS_KEY_ID and "
                "AWS_SECRET_ACCESS_KEY, or access_key and secret_key of the source's store"
            ) from None
        if status and status[1] == "404":
            raise SourceError(f"{place}: {_ABSENT}") from None
        _judge_time(place, text, deadline)
        if not status:
            raise UnavailableError(
                f"{place}: no connection to the store, or it broke off; is the endpoint right?"
            ) from None
        kind = UnavailableError if status[1].startswith(_PASSING) else SourceError
        raise kind(f"{place}: the store answers{said}") from None


def _judge_time(place: str, text: str, deadline: Deadline) -> None:
    _ = deadline.left_s
    if "TimedOut" in text:
        raise DeadlineError(f"{place}: it takes too long")
