"""Addresses of sources: what kind of place a URL names, and its secrets, which stand in the environment alone."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal
from urllib.parse import quote, urlsplit

from shipworthy.kernel.errors import UsageError

Kind = Literal["http", "objects", "database"]
KINDS: dict[str, Kind] = {
    "http": "http",
    "https": "http",
    "s3": "objects",
    "sqlite": "database",
    "postgresql": "database",
    "postgres": "database",
}
VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")


@dataclass(frozen=True, slots=True)
class Address:
    """Where a source lies."""

    written: str  # as the contract has it, with `${NAME}` for secrets: what messages and the ledger say
    url: str = field(repr=False)  # with the secrets
    kind: Kind


def find_address(written: str, environ: Mapping[str, str]) -> Address:
    """The place that `written` names.

    Args:
        written: a URL; `${NAME}` stands for a variable, as it is if it is the whole, else with `%` escapes.
        environ: where the variables stand.

    Raises:
        UsageError: a variable is not set, a password is written out, or the scheme is none that is read.
    """
    url = fill(written, environ, escape=VARIABLE.fullmatch(written) is None)
    try:
        scheme, password = urlsplit(url).scheme.lower(), urlsplit(written).password
    except ValueError:
        raise UsageError(f"{written}: is no address; write scheme://host/…") from None
    if password and not VARIABLE.search(password):
        raise UsageError(
            f"{written.replace(f':{password}@', ':***@')}: a password stands in the URL; "
            "put it in the environment and write ${NAME}"
        )
    kind = KINDS.get(scheme)
    if kind is None:
        seen = f"scheme {scheme!r}" if scheme and "://" in url else "what it names"
        raise UsageError(f"{written}: {seen} is not read; the schemes are {', '.join(KINDS)}")
    return Address(written, url, kind)


def fill(text: str, environ: Mapping[str, str], *, escape: bool = False) -> str:
    """`text` with its variables filled in.

    Raises:
        UsageError: one is not set.

    >>> fill("https://${HOST}/a", {"HOST": "example.org"})
    'https://example.org/a'
    """
    unset = [name for name in VARIABLE.findall(text) if not environ.get(name)]
    if unset:
        raise UsageError(f"{text}: the environment variable {unset[0]} is not set")
    return VARIABLE.sub(lambda found: quote(environ[found[1]], safe="") if escape else environ[found[1]], text)
