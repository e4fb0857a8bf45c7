"""The file that says which OpenID provider is believed, and what its groups may do here.

TOML, so that it can be reviewed like code; the client's secret alone stays in the environment.
"""

import os
import re
import stat
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from shipworthy.contract.expressions import did_you_mean
from shipworthy.kernel.errors import AccessError, NotFoundError, UsageError
from shipworthy.security.access import EVERY, ROLES
from shipworthy.security.binding import is_loopback

CALLBACK = "/login/callback"  # where the provider sends a browser back to
MAX_FILE_BYTES = 1 << 20

_SECRET = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")
_KEYS = (
    "issuer",
    "client_id",
    "client_secret",
    "audience",
    "redirect_uri",
    "scopes",
    "name_claim",
    "groups_claim",
    "systems",
    "roles",
)


@dataclass(frozen=True, slots=True)
class OidcSettings:
    """Whom the control plane believes about who somebody is."""

    issuer: str
    client_id: str
    client_secret: str  # empty: a public client, which PKCE alone protects
    audience: str  # of tokens that are sent to the API
    redirect_uri: str  # empty: this plane's own address
    scopes: tuple[str, ...]  # asked for at sign-in
    name_claim: str
    groups_claim: str
    systems: frozenset[str]  # that are everybody's own who signs in
    roles: Mapping[str, tuple[str, ...]]  # group -> roles


def read_oidc_settings(path: str, environment: Mapping[str, str]) -> OidcSettings:
    """What the file says.

    Args:
        path: of the TOML file.
        environment: has the secret.

    Raises:
        NotFoundError: there is no such file, or the secret's variable is not set.
        AccessError: the file cannot be read, or anybody on this machine could change it.
        UsageError: a key is missing, unknown or not what it must be.
    """
    try:
        fields = tomllib.loads(_read(path))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} is not TOML: {error}") from None
    for key in fields:
        if key not in _KEYS:
            raise UsageError(f"{path}: {key}: there is no such key{did_you_mean(key, _KEYS) or _of(_KEYS)}")
    reader = _Reader(path, fields)
    client_id = reader.text("client_id")
    return OidcSettings(
        issuer=_check_url(path, "issuer", reader.text("issuer")),
        client_id=client_id,
        client_secret=_secret(path, reader.text("client_secret", ""), environment),
        audience=reader.text("audience", client_id),
        redirect_uri=_check_redirect(path, reader.text("redirect_uri", "")),
        scopes=_check_scopes(path, reader.texts("scopes", ["openid"])),
        name_claim=reader.text("name_claim", "sub"),
        groups_claim=reader.text("groups_claim", "groups"),
        systems=frozenset(reader.texts("systems", [EVERY])),
        roles=_roles(path, fields.get("roles")),
    )


@dataclass(frozen=True, slots=True)
class _Reader:
    path: str
    fields: Mapping[str, Any]

    def text(self, key: str, default: str | None = None) -> str:
        value = self.fields.get(key, default)
        if value is None:
            raise UsageError(f"{self.path}: {key} is missing; it is a text")
        if not isinstance(value, str) or (not value and default != ""):
            shown = "" if key == "client_secret" else f", not {value!r}"
            raise UsageError(f"{self.path}: {key} must be a text that is not empty{shown}")
        return value

    def texts(self, key: str, default: list[str]) -> tuple[str, ...]:
        return _texts(self.path, key, self.fields.get(key, default))


def _texts(path: str, key: str, value: Any) -> tuple[str, ...]:
    if not isinstance(value, list) or not value or not all(isinstance(item, str) and item for item in value):
        raise UsageError(f'{path}: {key} must be a list of texts, such as ["a", "b"], not {value!r}')
    return tuple(value)


def _roles(path: str, table: Any) -> Mapping[str, tuple[str, ...]]:
    if not isinstance(table, dict) or not table:
        raise UsageError(f'{path}: [roles] is missing: without it nobody may do anything; such as "ml-team" = ["risk"]')
    found = {}
    for group, value in table.items():
        found[group] = _texts(path, f"roles.{group}", value)
        for role in found[group]:
            if role not in ROLES:
                raise UsageError(
                    f"{path}: roles.{group}: there is no role {role!r}{did_you_mean(role, ROLES) or _of(ROLES)}"
                )
    return found


def _secret(path: str, written: str, environment: Mapping[str, str]) -> str:
    if not written:
        return ""
    found = _SECRET.fullmatch(written)
    if found is None:  # what stands there is not repeated: it may be the secret
        raise UsageError(f'{path}: client_secret must name a variable, such as "${{OIDC_SECRET}}"; no secret in a file')
    if not environment.get(found[1]):
        raise NotFoundError(f"{path}: client_secret names the variable {found[1]}, which is not set; set it")
    return environment[found[1]]


def _check_url(path: str, key: str, url: str) -> str:
    try:
        parts = urlsplit(url)
        host = parts.hostname or ""
        _ = parts.port
    except ValueError:
        host, parts = "", urlsplit("")
    if not host or parts.query or parts.fragment or parts.username or re.search(r"[\s\\]", url):
        raise UsageError(f"{path}: {key} must be an address such as https://login.example.com, not {url!r}")
    if parts.scheme != "https" and not (parts.scheme == "http" and is_loopback(host)):
        raise UsageError(f"{path}: {key} must be https (http only on this machine), not {url!r}")
    return url


def _check_redirect(path: str, url: str) -> str:
    if url and urlsplit(_check_url(path, "redirect_uri", url)).path != CALLBACK:
        raise UsageError(f"{path}: redirect_uri must end in {CALLBACK}, not {url!r}; the console answers there")
    return url


def _check_scopes(path: str, scopes: tuple[str, ...]) -> tuple[str, ...]:
    if "openid" not in scopes:
        raise UsageError(f'{path}: scopes must have "openid": without it the provider says nothing of who somebody is')
    return scopes


def _read(path: str) -> str:
    try:
        with open(path, "rb") as file:
            if os.fstat(file.fileno()).st_mode & stat.S_IWOTH:
                raise AccessError(f"{path}: anybody can change who may do what; make it yours with chmod o-w")
            return file.read(MAX_FILE_BYTES).decode()
    except FileNotFoundError:
        raise NotFoundError(f"{path}: there is no such file; --oidc names it") from None
    except AccessError:
        raise
    except OSError as error:
        raise AccessError(f"{path} cannot be read ({error.strerror}); --oidc names it") from None


def _of(names: tuple[str, ...]) -> str:
    return f"; there are {', '.join(names)}"
