"""Who may do what: one function, three tables, denied by default.

`VERBS` says which action each verb of CLI, API, console and data plane is; `PERMISSIONS` says which roles an action
takes and how far each reaches. What stands in neither is nobody's.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from shipworthy.kernel.errors import AccessError, UsageError

ROLES = ("data-scientist", "ml-engineer", "platform", "security", "risk", "business", "auditor", "service")
PUBLIC = "public"  # the action of what anyone may do
EVERY = "*"  # of systems, and of verbs in a scope
LOCAL = "local"  # the environment to try things in

Reach = Literal["local", "own", "any"]
"""How far a role reaches: its own systems' `local` environment, its own systems, or every system."""

PERMISSIONS: Mapping[str, Mapping[str, Reach]] = {  # action -> role -> reach; what is not here is denied
    "read": {
        "data-scientist": "own",
        "ml-engineer": "own",
        "platform": "any",
        "security": "any",
        "risk": "any",
        "business": "own",
        "auditor": "any",
    },
    "read decisions": {  # single answers with their inputs, which may be personal
        "data-scientist": "local",
        "ml-engineer": "local",
        "risk": "own",
        "business": "own",
        "service": "own",
    },
    "read audit": {
        "ml-engineer": "own",
        "platform": "any",
        "security": "any",
        "risk": "any",
        "business": "own",
        "auditor": "any",
    },
    "ship": {"data-scientist": "own", "ml-engineer": "own", "service": "own"},
    "approve": {  # in the role that the contract names
        "ml-engineer": "own",
        "platform": "own",
        "security": "own",
        "risk": "own",
        "business": "own",
    },
    "waive": {"risk": "own", "business": "own"},
    "deploy": {"ml-engineer": "own", "platform": "any"},
    "rollback": {"ml-engineer": "own", "platform": "any", "security": "any", "risk": "own", "business": "own"},
    "predict": {"ml-engineer": "local", "service": "own"},
    "tell outcomes": {"data-scientist": "local", "ml-engineer": "local", "business": "own", "service": "own"},
    "review": {"data-scientist": "local", "risk": "own", "business": "own"},
    "acknowledge": {"data-scientist": "own", "ml-engineer": "own", "platform": "any", "security": "any"},
    "operate": {"ml-engineer": "own", "platform": "any", "service": "own"},
    "manage users": {"security": "any"},
    "manage keys": {"platform": "any", "security": "any"},
    "recover": {"platform": "any", "security": "any"},
}


@dataclass(frozen=True, slots=True)
class Verb:
    """What a verb takes."""

    action: str  # of PERMISSIONS, or public
    is_recorded: bool = False  # it changes something or shows personal data: each decision is an event
    never: Literal["", "author", "self"] = ""  # separation of duties: whose hand it must not be


VERBS: Mapping[str, Verb] = {
    # on files of the caller's own, or on nothing that is anybody's
    "init": Verb(PUBLIC),
    "check": Verb(PUBLIC),
    "demo": Verb(PUBLIC),
    "contract schema": Verb(PUBLIC),
    "contract export": Verb(PUBLIC),
    "contract import": Verb(PUBLIC),
    "verify": Verb(PUBLIC),  # takes the public key alone
    "audit prove": Verb(PUBLIC),  # as verify
    "health": Verb(PUBLIC),
    "sign in": Verb(PUBLIC),
    # reading
    "status": Verb("read"),
    "quality": Verb("read"),
    "loadtest": Verb("read"),  # of a server of its own, on the caller's machine
    "alerts": Verb("read"),
    "data health": Verb("read"),
    "lineage": Verb("read"),
    "data describe": Verb("read"),
    "card": Verb("read"),
    "data log": Verb("read"),
    "data diff": Verb("read"),
    "data show": Verb("read"),  # personal columns masked
    "user list": Verb("read"),
    "token list": Verb("read"),
    "key list": Verb("read"),
    "sign out": Verb("read"),
    "review list": Verb("read decisions", is_recorded=True),
    "review show": Verb("read decisions", is_recorded=True),
    "data export": Verb("read decisions", is_recorded=True),  # rows as they are
    "audit list": Verb("read audit"),
    "audit export": Verb("read audit", is_recorded=True),
    "audit anchor": Verb("read audit", is_recorded=True),
    # changing
    "ship": Verb("ship", is_recorded=True),
    "data tag": Verb("ship", is_recorded=True),
    "data untag": Verb("ship", is_recorded=True),
    "approve": Verb("approve", is_recorded=True, never="author"),
    "waive": Verb("waive", is_recorded=True, never="author"),
    "deploy": Verb("deploy", is_recorded=True),
    "rollback": Verb("rollback", is_recorded=True),
    "data quarantine": Verb("ship", is_recorded=True),  # who may ship the rows may see them
    "data replay": Verb("ship", is_recorded=True),
    "score": Verb("predict", is_recorded=True),
    "outcomes": Verb("tell outcomes", is_recorded=True),
    "review claim": Verb("review", is_recorded=True),
    "review decide": Verb("review", is_recorded=True),
    "alerts acknowledge": Verb("acknowledge", is_recorded=True),
    "serve": Verb("operate", is_recorded=True),
    "consume": Verb("operate", is_recorded=True),
    "up": Verb("operate", is_recorded=True),
    "control": Verb("operate", is_recorded=True),
    "records compact": Verb("operate", is_recorded=True),
    "data compact": Verb("operate", is_recorded=True),
    "user add": Verb("manage users", is_recorded=True, never="self"),
    "user set": Verb("manage users", is_recorded=True, never="self"),
    "user remove": Verb("manage users", is_recorded=True),
    "token create": Verb("manage users", is_recorded=True),
    "token revoke": Verb("manage users", is_recorded=True),
    "key create": Verb("manage keys", is_recorded=True),
    "key rotate": Verb("manage keys", is_recorded=True),
    "key revoke": Verb("manage keys", is_recorded=True),
    "key open": Verb("read decisions", is_recorded=True),  # decrypts rows for a person
    "backup create": Verb("recover", is_recorded=True),
    "backup restore": Verb(PUBLIC),  # into a new folder of the caller's own
    "audit rebuild": Verb("recover", is_recorded=True),
    # the data plane, where each answer is a record and refusals are counted
    "predict": Verb("predict"),
    "tell": Verb("tell outcomes"),
}
NEVER = {"author": "nobody signs for their own work", "self": "nobody grants themselves"}


@dataclass(frozen=True, slots=True)
class Principal:
    """A person or service, as authenticated."""

    name: str
    roles: frozenset[str]
    systems: frozenset[str] = frozenset({EVERY})  # which are its own
    scopes: frozenset[str] = frozenset({f"{EVERY}:{EVERY}"})  # `VERB:SYSTEM`, what its token leaves of its roles

    @property
    def actor(self) -> str:
        """How events name it."""
        return f"user:{self.name}"


@dataclass(frozen=True, slots=True)
class Target:
    """What an act is about."""

    system: str
    environment: str | None = None
    name: str = ""  # the node that the event names; by default the system's
    author: str | None = None  # actor who made it, where that matters
    subject: str | None = None  # name of the principal that is acted upon

    @property
    def node(self) -> str:
        """How events name it."""
        return self.name or f"system:{self.system or 'unknown'}"


@dataclass(frozen=True, slots=True)
class Decision:
    """Allowed or denied, and by which rule."""

    allowed: bool
    rule: str


def decide(principal: Principal, verb: str, target: Target) -> Decision:
    """Whether `principal` may do `verb` to `target`, and the rule that says so. Pure.

    >>> decide(Principal("ruth", frozenset({"risk"})), "rollback", Target("loans"))
    Decision(allowed=True, rule='risk may rollback')
    >>> decide(Principal("ruth", frozenset({"risk"})), "deploy", Target("loans")).rule
    'deploy needs ml-engineer or platform'
    """
    entry = VERBS.get(verb)
    if entry is None:
        return Decision(False, "no rule names this verb")
    if entry.action == PUBLIC:
        return Decision(True, f"anyone may {verb}")
    if not _is_in_scope(principal.scopes, verb, target.system):
        return Decision(False, "the token is not for this verb and system")
    if entry.never == "author" and target.author == principal.actor:
        return Decision(False, NEVER["author"])
    if entry.never == "self" and target.subject == principal.name:
        return Decision(False, NEVER["self"])
    allowed = PERMISSIONS[entry.action]
    is_own = EVERY in principal.systems or target.system in principal.systems
    for role in ROLES:
        if role in principal.roles and role in allowed:
            reach = allowed[role]
            if reach == "any" or (is_own and (reach == "own" or target.environment == LOCAL)):
                return Decision(True, f"{role} may {entry.action}")
    return Decision(False, _why_not(principal, entry.action, is_own))


def authorise(principal: Principal, verb: str, target: Target) -> str:
    """The rule that allows the act.

    Raises:
        AccessError: none does.
    """
    decision = decide(principal, verb, target)
    if not decision.allowed:
        raise denial(principal, verb, decision)
    return decision.rule


def denial(principal: Principal, verb: str, decision: Decision) -> AccessError:
    """What somebody is told who was denied."""
    roles = ", ".join(sorted(principal.roles)) or "no role"
    return AccessError(f"{principal.name} ({roles}) may not do `{verb}`: {decision.rule}")


def check_roles(roles: tuple[str, ...]) -> frozenset[str]:
    """The roles, if each is known.

    Raises:
        UsageError: one is not.
    """
    unknown = [role for role in roles if role not in ROLES]
    if unknown:
        raise UsageError(f"there is no role {unknown[0]!r}; the roles are {', '.join(ROLES)}")
    return frozenset(roles)


def check_scope(scope: str) -> str:
    """The scope, if it is `VERB:SYSTEM` with a verb of the table, or `*` for either.

    Raises:
        UsageError: it is not.
    """
    verb, colon, system = scope.rpartition(":")
    if not colon or not system or (verb != EVERY and verb not in VERBS):
        raise UsageError(
            f"a scope is VERB:SYSTEM, such as predict:loans or '{EVERY}:loans', not {scope!r}; "
            f"the verbs are {', '.join(VERBS)}"
        )
    return scope


def _is_in_scope(scopes: frozenset[str], verb: str, system: str) -> bool:
    return any(f"{which}:{where}" in scopes for which in (verb, EVERY) for where in (system, EVERY))


def _why_not(principal: Principal, action: str, is_own: bool) -> str:
    allowed = PERMISSIONS[action]
    mine = principal.roles & set(allowed)
    if mine and not is_own:
        return "the system is not one of theirs"
    if mine:
        return f"{' or '.join(sorted(mine))} may {action} in {LOCAL} only"
    return f"{action} needs {' or '.join(role for role in ROLES if role in allowed)}"
