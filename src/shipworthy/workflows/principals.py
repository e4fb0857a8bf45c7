"""Principals: people and services that the ledger knows, their roles, and as whom a command acts."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from shipworthy.kernel.errors import AccessError, ConflictError, NotFoundError, UsageError
from shipworthy.ledger.events import Event
from shipworthy.ledger.store import Ledger
from shipworthy.security.access import EVERY, ROLES, Principal, check_roles
from shipworthy.security.tokens import hash_token, is_token, matches_token
from shipworthy.workflows.gate import permit
from shipworthy.workflows.project import Parts
from shipworthy.workflows.tokens import minted, refresh_everywhere, revocation

TOKEN_VARIABLE = "SHIPWORTHY_TOKEN"  # noqa: S105 (a name, not a secret)
TOKEN_S = 90 * 86400.0  # a quarter: long enough for scripts, short enough to be forgotten safely

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9.@_-]{0,63}")


def add_principal(
    parts: Parts, principal: Principal, name: str, roles: tuple[str, ...], systems: tuple[str, ...] = (EVERY,)
) -> str:
    """Make a principal of `name` with `roles`; its token, which is shown once and kept only as a hash.

    Args:
        parts: of the project.
        principal: who does it.
        name: of the new one.
        roles: at least one.
        systems: which are its own; `*` is every one.

    Raises:
        AccessError: `principal` may not manage users, or would give itself a role.
        UsageError: the name cannot be one, or a role is unknown.
        ConflictError: there is one of that name.
    """
    rule = permit(parts, principal, "user add", name=f"principal:{name}", subject=name)
    body: dict[str, Any] = {
        "name": check_principal_name(name),
        "roles": _roles(name, roles),
        "systems": sorted(systems),
    }
    known = parts.ledger.find_latest("principal", name)
    if known is not None and known["roles"]:
        raise ConflictError(f"there is a principal {name!r} already; `shipworthy user list` shows its roles")
    body["revision"] = 1 if known is None else known["revision"] + 1
    token, event = minted(parts, principal, rule, owner=name, expires=parts.now() + TOKEN_S)
    verb = "principal.added" if known is None else "principal.changed"
    parts.ledger.append_all([Event(verb, f"principal:{name}", principal.actor, body, rule), event])
    refresh_everywhere(parts)
    return token


def change_principal(
    parts: Parts, principal: Principal, name: str, roles: tuple[str, ...], systems: tuple[str, ...] | None = None
) -> dict[str, Any]:
    """Give the principal other roles, and other systems if given; its tokens are good for those from now on.

    Raises:
        AccessError: `principal` may not manage users, or would change itself.
        NotFoundError: there is no such principal.
        UsageError: a role is unknown.
    """
    rule = permit(parts, principal, "user set", name=f"principal:{name}", subject=name)
    known = _known(parts.ledger, name)
    body = {
        **known,
        "roles": _roles(name, roles),
        "systems": sorted(systems or known.get("systems", [EVERY])),
        "revision": known["revision"] + 1,
    }
    parts.ledger.append(Event("principal.changed", f"principal:{name}", principal.actor, body, rule))
    refresh_everywhere(parts)
    return body


def remove_principal(parts: Parts, principal: Principal, name: str, reason: str) -> None:
    """Take every role from the principal and revoke its tokens; what it did stays on record.

    Raises:
        AccessError: `principal` may not manage users.
        NotFoundError: there is no such principal.
    """
    rule = permit(parts, principal, "user remove", name=f"principal:{name}", subject=name)
    known = _known(parts.ledger, name)
    body = {**known, "roles": [], "reason": reason, "revision": known["revision"] + 1}
    revoked = [
        revocation(principal, rule, token, reason)
        for token in parts.ledger.tokens()
        if token.get("principal") == name and parts.ledger.find_latest("token", token["name"]) is None
    ]
    parts.ledger.append_all([Event("principal.changed", f"principal:{name}", principal.actor, body, rule), *revoked])
    refresh_everywhere(parts)


def find_principal(ledger: Ledger, token: str, now: float) -> Principal:
    """Whom a token stands for, and what it leaves of their roles.

    Raises:
        AccessError: nobody: it is no token, unknown, revoked, expired, or of no principal.
    """
    known = ledger.find_token(hash_token(token)) if is_token(token) else None
    if (
        known is None
        or not matches_token(token, known["hash"])
        or not known.get("principal")
        or known["expires"] <= now
        or ledger.find_latest("token", known["name"]) is not None
    ):
        raise AccessError("the token is not valid here: unknown, expired, revoked, or not of a person or service")
    return principal_called(ledger, known["principal"], known.get("scopes"))


def principal_called(ledger: Ledger, name: str, scopes: Sequence[str] | None = None) -> Principal:
    """The principal of that name as the ledger has it, narrowed to `scopes`.

    Raises:
        NotFoundError: there is none, or it was removed.
    """
    body = _known(ledger, name)
    return Principal(
        name,
        frozenset(body["roles"]),
        frozenset(body.get("systems", [EVERY])),
        frozenset(scopes or [f"{EVERY}:{EVERY}"]),
    )


def acting(parts: Parts, environment: Mapping[str, str]) -> Principal:
    """As whom a command acts. Raises as `acting_on`."""
    return acting_on(parts.ledger, environment, parts.actor, parts.now())


def acting_on(ledger: Ledger, environment: Mapping[str, str], actor: str, now: float) -> Principal:
    """As whom a command acts: whom `SHIPWORTHY_TOKEN` stands for, else the machine's user, who owns the project.

    The owner of an embedded project holds all roles, and still never approves what they authored.

    Raises:
        AccessError: the token is not valid.
    """
    token = environment.get(TOKEN_VARIABLE, "")
    if token:
        return find_principal(ledger, token, now)
    return owner_of(actor)


def owner_of(actor: str) -> Principal:
    """The machine's user, as whom commands on an embedded project act."""
    return Principal(actor.removeprefix("user:"), frozenset(ROLES))


def principals(ledger: Ledger) -> list[dict[str, Any]]:
    """Everybody whom the ledger knows."""
    return [
        {"name": body["name"], "roles": body["roles"], "systems": body.get("systems", [EVERY])}
        for body in ledger.latest("principal")
        if body["roles"]
    ]


def check_principal_name(name: str) -> str:
    """`name`, if a principal can be called so.

    Raises:
        UsageError: it cannot.
    """
    if not _NAME.fullmatch(name):
        raise UsageError(f"a principal cannot be called {name!r}; use up to 64 letters, digits, '.', '@', '_' and '-'")
    return name


def _roles(name: str, roles: tuple[str, ...]) -> list[str]:
    if not roles:
        raise UsageError(f"{name} needs a role: {', '.join(ROLES)}")
    return sorted(check_roles(roles))


def _known(ledger: Ledger, name: str) -> dict[str, Any]:
    body = ledger.find_latest("principal", name)
    if body is None or not body["roles"]:
        raise NotFoundError(f"there is no principal {name!r}; `shipworthy user list` shows everybody")
    return body
