"""Principals: people and services that the ledger knows, their tokens, and as whom a command acts."""

from collections.abc import Mapping
from typing import Any

from shipworthy.kernel.errors import AccessError, ConflictError, NotFoundError, UsageError
from shipworthy.ledger.events import Event
from shipworthy.ledger.store import Ledger
from shipworthy.security.access import ROLES, Principal, authorise, check_roles
from shipworthy.security.tokens import hash_token, is_token, mint_token
from shipworthy.workflows.project import Parts

TOKEN_VARIABLE = "SHIPWORTHY_TOKEN"  # noqa: S105 (a name, not a secret)
TOKEN_S = 90 * 86400.0  # a quarter: long enough for scripts, short enough to be forgotten safely


def add_principal(parts: Parts, principal: Principal, name: str, roles: tuple[str, ...]) -> str:
    """Make a principal of `name` with `roles`; its token, which is shown once and kept only as a hash.

    Raises:
        AccessError: `principal` may not manage users, or would give itself a role.
        UsageError: the name cannot be one, or a role is unknown.
        ConflictError: there is one of that name.
    """
    rule = authorise(principal, "manage users")
    if not name.isascii() or not name.replace("-", "").replace(".", "").isalnum() or len(name) > 64:
        raise UsageError(f"a principal cannot be called {name!r}; use up to 64 letters, digits, '-' and '.'")
    if not roles:
        raise UsageError(f"{name} needs a role: {', '.join(ROLES)}")
    if name == principal.name:
        raise AccessError(f"{name} cannot grant roles to itself; somebody else must")
    if parts.ledger.find_latest("principal", name) is not None:
        raise ConflictError(f"there is a principal {name!r} already; `shipworthy user list` shows its roles")
    token, digest = mint_token(parts.entropy(32))
    expires = parts.now() + TOKEN_S
    parts.ledger.append_all(
        [
            Event(
                "principal.added",
                f"principal:{name}",
                principal.actor,
                {"name": name, "roles": sorted(check_roles(roles)), "revision": 1},
                rule,
            ),
            Event(
                "token.minted",
                f"token:{name}-{digest[:8]}",
                principal.actor,
                {"name": f"{name}-{digest[:8]}", "hash": digest, "principal": name, "expires": expires},
                rule,
            ),
        ]
    )
    return token


def find_principal(ledger: Ledger, token: str, now: float) -> Principal:
    """Whom a token stands for.

    Raises:
        AccessError: nobody: it is no token, unknown, expired, or of no principal.
    """
    digest = hash_token(token) if is_token(token) else ""
    known = next((body for body in ledger.tokens() if body["hash"] == digest), None)
    name = None if known is None else known.get("principal")
    if known is None or name is None or known["expires"] <= now:
        raise AccessError("the token is not valid here: unknown, expired, or not of a person or service")
    body = ledger.find_latest("principal", name)
    if body is None:
        raise NotFoundError(f"there is no principal {name!r}")
    return Principal(name, frozenset(body["roles"]))


def acting(parts: Parts, environment: Mapping[str, str]) -> Principal:
    """As whom a command acts: whom `SHIPWORTHY_TOKEN` stands for, else the machine's user, who owns the project.

    The owner of an embedded project holds all roles, and still never approves what they authored.

    Raises:
        AccessError: the token is not valid.
    """
    token = environment.get(TOKEN_VARIABLE, "")
    if token:
        return find_principal(parts.ledger, token, parts.now())
    return Principal(parts.actor.removeprefix("user:"), frozenset(ROLES))


def principals(ledger: Ledger) -> list[dict[str, Any]]:
    """Everybody whom the ledger knows."""
    return [{"name": body["name"], "roles": body["roles"]} for body in ledger.latest("principal")]
