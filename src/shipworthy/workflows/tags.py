"""Tags: names that people give to versions of the data, which are kept for them."""

import re
from typing import Any

from shipworthy.kernel.errors import ConflictError, NotFoundError, UsageError
from shipworthy.ledger.events import Event
from shipworthy.security.access import Principal
from shipworthy.workflows.gate import permit
from shipworthy.workflows.history import LATEST, PREFIX, find_version, list_history
from shipworthy.workflows.project import Parts, read_contract

_TAG = re.compile(r"[A-Za-z][A-Za-z0-9._-]{0,63}")
_HEXADECIMAL = re.compile(r"[0-9a-f]+")


def tag_version(parts: Parts, principal: Principal, version: str, name: str) -> dict[str, Any]:
    """Call a version `name`, so that it is kept and can be asked for; a tag never moves by itself.

    Raises:
        AccessError: the principal may not.
        NotFoundError: there is no such version, or it was removed.
        UsageError: the name cannot be one.
        ConflictError: it stands on another version.
    """
    rule = permit(parts, principal, "data tag", name=f"tag:{name}")
    if not _TAG.fullmatch(name) or name == LATEST or (len(name) >= PREFIX and _HEXADECIMAL.fullmatch(name)):
        raise UsageError(
            f"a version cannot be called {name!r}; begin with a letter, then up to 63 letters, digits, '.', '_' and "
            f"'-', and neither {LATEST!r} nor what could be a digest"
        )
    system = read_contract(parts.project).system
    found = find_version(list_history(parts.project, parts.ledger, system), version)
    known = parts.ledger.find_latest("tag", name)
    if known is not None and known["digest"] is not None:
        if (known["digest"], known["system"]) == (found.digest, system):
            return known
        raise ConflictError(
            f"{name!r} is version {known['version']} of {known['system']}; take it away first: "
            f"shipworthy data untag {name}"
        )
    body = {
        "name": name,
        "system": system,
        "digest": found.digest,
        "version": found.version,
        "revision": 1 if known is None else known["revision"] + 1,
    }
    parts.ledger.append(Event("snapshot.tagged", f"tag:{name}", principal.actor, body, rule))
    return body


def untag_version(parts: Parts, principal: Principal, name: str) -> dict[str, Any]:
    """Take a tag away; what it said before, that it said so stays on record.

    Raises:
        AccessError: the principal may not.
        NotFoundError: there is no such tag.
    """
    rule = permit(parts, principal, "data untag", name=f"tag:{name}")
    known = parts.ledger.find_latest("tag", name)
    if known is None or known["digest"] is None:
        raise NotFoundError(f"no version is called {name!r}; `shipworthy data log` shows the tags")
    body = {**known, "digest": None, "revision": known["revision"] + 1}
    parts.ledger.append(Event("snapshot.untagged", f"tag:{name}", principal.actor, body, rule))
    return known
