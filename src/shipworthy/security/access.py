"""Who may do what: one table, denied by default.

An act is allowed when one of the principal's roles stands in the row of its action; what is not in the table is
nobody's.
"""

from dataclasses import dataclass

from shipworthy.kernel.errors import AccessError, UsageError

ROLES = ("data-scientist", "ml-engineer", "platform", "security", "risk", "business", "auditor", "service")
_PEOPLE = frozenset(ROLES) - {"service"}

PERMISSIONS: dict[str, frozenset[str]] = {  # action -> the roles that may
    "read": _PEOPLE,
    "ship": frozenset({"data-scientist", "ml-engineer"}),
    "approve": frozenset({"ml-engineer", "risk", "business", "security", "platform"}),  # in the role that is owed
    "waive": frozenset({"risk", "business"}),
    "deploy": frozenset({"ml-engineer", "platform"}),
    "rollback": frozenset({"ml-engineer", "platform", "security", "risk", "business"}),
    "review": frozenset({"business", "risk", "data-scientist"}),
    "acknowledge": frozenset({"data-scientist", "ml-engineer", "platform", "security"}),
    "outcomes": frozenset({"data-scientist", "ml-engineer", "service"}),
    "score": frozenset({"data-scientist", "ml-engineer", "service"}),
    "control": frozenset({"platform", "service"}),
    "manage users": frozenset({"platform", "security"}),
}


@dataclass(frozen=True, slots=True)
class Principal:
    """A person or service, as authenticated."""

    name: str
    roles: frozenset[str]

    @property
    def actor(self) -> str:
        """How events name it."""
        return f"user:{self.name}"


def authorise(principal: Principal, action: str) -> str:
    """The rule that allows the act, for its event.

    Raises:
        AccessError: none does.

    >>> authorise(Principal("ruth", frozenset({"risk"})), "rollback")
    'risk may rollback'
    """
    allowed = PERMISSIONS.get(action, frozenset())
    mine = sorted(principal.roles & allowed)
    if not mine:
        roles = ", ".join(sorted(principal.roles)) or "no role"
        raise AccessError(
            f"{principal.name} ({roles}) may not {action}; "
            + (f"that needs one of: {', '.join(sorted(allowed))}" if allowed else "nobody may")
        )
    return f"{mine[0]} may {action}"


def check_roles(roles: tuple[str, ...]) -> frozenset[str]:
    """The roles, if each is known.

    Raises:
        UsageError: one is not.
    """
    unknown = [role for role in roles if role not in ROLES]
    if unknown:
        raise UsageError(f"there is no role {unknown[0]!r}; the roles are {', '.join(ROLES)}")
    return frozenset(roles)
