"""What a consumer of messages is told when it starts. Secrets come from the environment and are never kept here."""

import re
from collections.abc import Mapping
from importlib.util import find_spec
from urllib.parse import parse_qs, quote, urlsplit

import msgspec

from shipworthy.kernel.errors import MissingExtraError, UsageError
from shipworthy.security.binding import is_loopback

MAX_PREFETCH = 4096
MAX_QUEUE_BYTES = 255  # AMQP's short string
SCHEMES = ("amqp", "amqps")

_VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")


class ConsumerSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where messages come from, where replies go, and where everything else is."""

    live: str  # directory live/ENV
    records: str  # directory records/ENV
    keys: str  # directory of public keys
    spool: str = ""  # directory on another volume where records wait whose disk refuses; empty: there is none
    url: str  # of the broker, with ${NAME} for its secrets
    queue: str  # of requests
    answers: str  # queue of answers and problems
    dead_letter: str = ""  # queue of what cannot be answered; empty: none
    create: bool = False  # declare the queues
    prefetch: int = 512  # messages that may be here unacknowledged
    window: int = 50_000  # answers that are remembered by their id
    metrics_port: int | None = None  # on loopback; None: none, 0: any free one


def place_of(url: str) -> str:
    """Scheme, host and port of a broker's address, without user, password and path.

    >>> place_of("amqps://ada:secret@broker.example.com/loans?cafile=ca.pem")
    'amqps://broker.example.com'
    >>> place_of("${BROKER_URL}")
    '${BROKER_URL}'
    """
    scheme, mark, rest = url.partition("://")
    if not mark:
        return url if _VARIABLE.fullmatch(url) else "the broker"
    return f"{scheme}://{re.split('[/?#]', rest.rpartition('@')[2])[0]}"


def check_consumer_settings(settings: ConsumerSettings) -> None:
    """Refuse what cannot work.

    Raises:
        UsageError: an address with a literal password, a queue's name, or a number that cannot be.
        MissingExtraError: the client of the protocol is not installed.
    """
    _check_literal(settings.url)
    names = {"QUEUE": settings.queue, "--answers": settings.answers, "--dead-letter": settings.dead_letter}
    for what, name in names.items():
        if (not name and what != "--dead-letter") or len(name.encode()) > MAX_QUEUE_BYTES:
            raise UsageError(f"{what} {name!r} is no queue's name: it has 1 to {MAX_QUEUE_BYTES} bytes.")
    given = [name for name in names.values() if name]
    if len(set(given)) < len(given):
        raise UsageError(f"requests, answers and dead letters need a queue each; got {', '.join(given)}.")
    if not 1 <= settings.prefetch <= MAX_PREFETCH:
        raise UsageError(f"--prefetch {settings.prefetch}: it is 1 to {MAX_PREFETCH}.")
    if settings.window < settings.prefetch:
        raise UsageError(
            f"--window {settings.window} is less than --prefetch {settings.prefetch}: what the broker gives out again "
            "would not be known."
        )
    if find_spec("aiormq") is None:
        raise MissingExtraError("consume needs aiormq, which is not installed; run: pip install 'shipworthy[amqp]'")


def _check_literal(url: str) -> None:
    password = url.partition("://")[2].rpartition("@")[0].partition(":")[2]
    if password and not _VARIABLE.search(password):
        raise UsageError("--url holds a password; keep it in the environment and write ${NAME} in its place.")


def resolve_url(url: str, environ: Mapping[str, str]) -> str:
    """The broker's address with its secrets.

    Args:
        url: with ${NAME}; one that stands for a user or password is taken as it is, any other is part of an address.
        environ: where those are.

    Raises:
        UsageError: a variable is not set, or the address is none of AMQP's.
    """
    unset = [name for name in _VARIABLE.findall(url) if not environ.get(name)]
    if unset:
        raise UsageError(f"the environment variable {unset[0]} is not set (--url)")
    user, mark, rest = url.rpartition("@")
    user = _VARIABLE.sub(lambda found: quote(environ[found[1]], safe=""), user)  # a password may hold any character
    address = user + mark + _VARIABLE.sub(lambda found: environ[found[1]], rest)
    try:
        parts = urlsplit(address)
        is_right = parts.scheme in SCHEMES and bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:
        is_right = False
    if not is_right:
        raise UsageError(f"--url {place_of(url)} is no address of a broker: amqps://USER:PASSWORD@HOST/VHOST.")
    if parse_qs(parts.query).get("no_verify_ssl", ["0"]) != ["0"]:
        raise UsageError("--url asks not to verify the broker's certificate; name its authority with ?cafile=FILE.")
    return address


def is_in_the_clear(address: str) -> bool:
    """Whether password and requests would cross a network as they are."""
    parts = urlsplit(address)
    return parts.scheme == "amqp" and not is_loopback(parts.hostname or "")
