"""Tokens: minted and revoked in the ledger, and compiled into the signed file that each data plane reads.

`live/ENV/access` holds what the table of permissions leaves of every token in that environment, so that the data
plane asks the same rules without a database.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from shipworthy.bundle.deployment import read_access, write_access
from shipworthy.bundle.format import Access, AccessToken
from shipworthy.kernel.errors import ConflictError, IntegrityError, NotFoundError, UsageError
from shipworthy.ledger.events import Event
from shipworthy.ledger.store import Ledger
from shipworthy.security.access import EVERY, ROLES, Principal, Target, check_scope, decide
from shipworthy.security.keys import load_public_keys
from shipworthy.security.tokens import mint_token
from shipworthy.workflows.gate import permit, system_of
from shipworthy.workflows.project import Parts

WORKDAY_S = 8 * 3600.0  # a token that a command prints to try things with
LONGEST_S = 366 * 86400.0  # of a token: what never expires is never looked at
DATA_PLANE_VERBS = ("predict", "tell")


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What a new token is to be good for."""

    scopes: tuple[str, ...] = (f"{EVERY}:{EVERY}",)
    environment: str = EVERY
    for_s: float = LONGEST_S
    per_second: float | None = None
    per_day: int | None = None


def create_token(parts: Parts, principal: Principal, owner: str, wanted: Wanted) -> tuple[str, dict[str, Any]]:
    """Mint a token that stands for the principal `owner`, narrowed to what is wanted; shown once, kept as a hash.

    Raises:
        AccessError: `principal` may not manage users.
        NotFoundError: there is no principal `owner`.
        UsageError: a scope, the duration or a limit makes no sense.
    """
    rule = permit(parts, principal, "token create", name=f"principal:{owner}", subject=owner)
    known = parts.ledger.find_latest("principal", owner)
    if known is None or not known["roles"]:
        raise NotFoundError(f"there is no principal {owner!r}; `shipworthy user add {owner} --role ROLE` makes it")
    if not 0 < wanted.for_s <= LONGEST_S:
        raise UsageError("a token ends within a year: --expires 90d")
    for limit, value in (("--rate", wanted.per_second), ("--quota", wanted.per_day)):
        if value is not None and value <= 0:
            raise UsageError(f"{limit} is {value}; it must be above 0")
    token, event = minted(
        parts,
        principal,
        rule,
        owner=owner,
        expires=parts.now() + wanted.for_s,
        scopes=[check_scope(scope) for scope in wanted.scopes],
        environment=wanted.environment,
        per_second=wanted.per_second,
        per_day=wanted.per_day,
    )
    parts.ledger.append(event)
    refresh_everywhere(parts)
    return token, dict(event.body)


def revoke_token(parts: Parts, principal: Principal, name: str, reason: str) -> dict[str, Any]:
    """Make the token called `name` worthless: here at once, on running data planes within a second.

    Raises:
        AccessError: `principal` may not manage users.
        NotFoundError: there is no such token.
        ConflictError: it is revoked already.
    """
    rule = permit(parts, principal, "token revoke", name=f"token:{name}")
    found = [body for body in parts.ledger.tokens() if body["name"] == name]
    if not found:
        raise NotFoundError(f"there is no token {name!r}; `shipworthy token list` shows all")
    if parts.ledger.find_latest("token", name) is not None:
        raise ConflictError(f"the token {name} is revoked already")
    event = revocation(principal, rule, found[0], reason)
    parts.ledger.append(event)
    refresh_everywhere(parts)
    return dict(event.body)


def grant_token(parts: Parts, environment: str, system: str) -> str:
    """A token of the machine's user, to predict and to tell outcomes in `environment` for eight hours; recorded.

    The caller has passed the gate; its rule is that of `parts`.
    """
    owner = Principal(parts.actor.removeprefix("user:"), frozenset(ROLES))
    token, event = minted(
        parts,
        owner,
        parts.rule,
        owner="",
        expires=parts.now() + WORKDAY_S,
        scopes=[f"{verb}:{system}" for verb in DATA_PLANE_VERBS],
        environment=environment,
    )
    parts.ledger.append(event)
    refresh_access(parts, environment)
    return token


def minted(
    parts: Parts,
    principal: Principal,
    rule: str,
    *,
    owner: str,
    expires: float,
    scopes: Sequence[str] = (f"{EVERY}:{EVERY}",),
    environment: str = EVERY,
    per_second: float | None = None,
    per_day: int | None = None,
) -> tuple[str, Event]:
    """A new token, and the event that makes it one; an empty `owner` is the machine's user."""
    token, digest = mint_token(parts.entropy(32))
    name = f"{owner or 'serve'}-{digest[:8]}"
    body: dict[str, Any] = {
        "name": name,
        "hash": digest,
        "principal": owner,
        "scopes": sorted(scopes),
        "environment": environment,
        "expires": expires,
        "per_second": per_second,
        "per_day": per_day,
    }
    return token, Event("token.minted", f"token:{name}", principal.actor, body, rule)


def revocation(principal: Principal, rule: str, token: Mapping[str, Any], reason: str) -> Event:
    """The event that makes a token worthless."""
    body = {"name": token["name"], "hash": token["hash"], "state": "revoked", "reason": reason, "revision": 1}
    return Event("token.revoked", f"token:{token['name']}", principal.actor, body, rule)


def tokens(ledger: Ledger, now: float) -> list[dict[str, Any]]:
    """Every token with its state; never the token, nor its hash."""
    found = []
    for body in ledger.tokens():
        gone = ledger.find_latest("token", body["name"])
        state = "revoked" if gone else "expired" if body["expires"] <= now else "valid"
        shown = {name: body.get(name) for name in ("name", "principal", "scopes", "environment", "expires")}
        found.append(shown | {"per_second": body.get("per_second"), "per_day": body.get("per_day"), "state": state})
    return found


def refresh_everywhere(parts: Parts) -> None:
    """Compile the access file of every environment that has one or serves."""
    live = parts.project.state / "live"
    for place in sorted(path for path in live.glob("*") if path.is_dir()):
        refresh_access(parts, place.name)


def is_access_behind(parts: Parts, environment: str) -> bool:
    """Whether `live/ENV/access` says something else than the ledger and the table."""
    current = _current(parts, environment)
    return current is None or current.environment != environment or current.tokens != _wanted(parts, environment)


def refresh_access(parts: Parts, environment: str, *, anew: bool = False) -> None:
    """Write what the ledger and the table say into `live/ENV/access`, if it says something else, or `anew`.

    The file's generation is the number of entries that the ledger has, which no change of who may call leaves as it
    was: a server that saw a later one refuses an older file.
    """
    if anew or is_access_behind(parts, environment):
        checkpoint, current = parts.ledger.checkpoint, _current(parts, environment)
        generation = max(checkpoint.size if checkpoint else 1, current.generation if current else 0)
        access = Access(environment=environment, generation=generation, tokens=_wanted(parts, environment))
        write_access(parts.project.live(environment), access, parts.key)


def _wanted(parts: Parts, environment: str) -> tuple[AccessToken, ...]:
    """What the file is to hold: the ledger's tokens; and, where the ledger is younger than the file, those it forgot.

    A ledger that was lost and begun anew knows of nobody, and who called before is not to be locked out by that.
    """
    compiled, current, checkpoint = _compiled(parts, environment), _current(parts, environment), parts.ledger.checkpoint
    if current is None or current.generation <= (checkpoint.size if checkpoint else 0):
        return compiled
    known, now = {token.hash for token in compiled}, parts.now()
    kept = [token for token in current.tokens if token.hash not in known and (token.expires or now + 1) > now]
    revoked = {body["hash"] for body in parts.ledger.latest("token")}
    return (*(token for token in kept if token.hash not in revoked), *compiled)


def _current(parts: Parts, environment: str) -> Access | None:
    """What a server would read; None if it would read nothing, or refuse it."""
    try:
        return read_access(parts.project.live(environment), load_public_keys(parts.project.public_keys))
    except (NotFoundError, IntegrityError):  # whoever wrote it, it is replaced by what the ledger says
        return None


def _compiled(parts: Parts, environment: str) -> tuple[AccessToken, ...]:
    """The tokens that open anything in `environment`, with what they open."""
    ledger, now = parts.ledger, parts.now()
    target = Target(system_of(parts.project, ledger), environment)
    revoked = {body["name"] for body in ledger.latest("token")}
    holders = {body["name"]: body for body in ledger.latest("principal")}
    found = []
    for body in ledger.tokens():
        if body["name"] in revoked or body["expires"] <= now:
            continue
        if body.get("environment", EVERY) not in (EVERY, environment):
            continue
        holder = holders.get(body.get("principal") or "")
        if holder is None and body.get("principal"):
            continue
        roles, systems = (ROLES, [EVERY]) if holder is None else (holder["roles"], holder.get("systems", [EVERY]))
        scopes = frozenset(body.get("scopes") or [f"{EVERY}:{EVERY}"])
        who = Principal(body.get("principal") or "", frozenset(roles), frozenset(systems), scopes)
        opens = tuple(f"{verb}:{target.system}" for verb in DATA_PLANE_VERBS if decide(who, verb, target).allowed)
        if opens:
            found.append(
                AccessToken(
                    name=body["name"],
                    hash=body["hash"],
                    scopes=opens,
                    expires=body["expires"],
                    principal=who.name,
                    per_second=body.get("per_second"),
                    per_day=body.get("per_day"),
                )
            )
    return tuple(found)
