"""The audit log for other systems: entries as JSON lines, in OCSF, or in CEF.

Source: OCSF 1.3 (class 6003, API Activity); ArcSight Common Event Format 0.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from typing import Any, Literal

from shipworthy import __version__
from shipworthy.kernel.digest import canonical_json
from shipworthy.ledger.events import Entry
from shipworthy.ledger.store import Ledger
from shipworthy.ledger.tree import leaf_hash

Format = Literal["jsonl", "ocsf", "cef"]

API_ACTIVITY = 6003  # OCSF: somebody called something that does something
OTHER, CREATE, READ, UPDATE, DELETE = 99, 1, 2, 3, 4  # OCSF: activities of that class
SUCCESS, FAILURE = 1, 2
INFORMATIONAL, MEDIUM = 1, 3

_ACTIVITIES: Mapping[str, int] = {  # last word of an entry's verb -> activity
    "added": CREATE,
    "published": CREATE,
    "minted": CREATE,
    "created": CREATE,
    "opened": CREATE,
    "started": CREATE,
    "exported": READ,
    "changed": UPDATE,
    "set": UPDATE,
    "rotated": UPDATE,
    "revoked": DELETE,
}
_HEADER = re.compile(r"([\\|])")
_VALUE = re.compile(r"([\\=])")


def export_entries(ledger: Ledger, form: Format, after: int) -> Iterator[str]:
    """The entries behind seq `after`, each a line without its end; constant memory."""
    write = FORMATS[form]
    for entry in ledger.events(after=after):
        yield write(entry)


def to_json_line(entry: Entry) -> str:
    """The entry as the log has it, and the hash under which it stands in the tree."""
    content = entry.to_bytes()
    return canonical_json({"entry": content.decode(), "leaf": leaf_hash(content).hex()}).decode()


def to_ocsf(entry: Entry) -> str:
    """The entry as an OCSF event."""
    denied = entry.verb == "access.denied"
    activity = _ACTIVITIES.get(entry.verb.rpartition(".")[2], OTHER)
    kind, _, name = entry.actor.partition(":")
    operation = str(entry.body.get("verb", entry.verb)) if entry.verb.startswith("access.") else entry.verb
    event: dict[str, Any] = {
        "category_uid": 6,
        "category_name": "Application Activity",
        "class_uid": API_ACTIVITY,
        "class_name": "API Activity",
        "activity_id": activity,
        "type_uid": API_ACTIVITY * 100 + activity,
        "severity_id": MEDIUM if denied else INFORMATIONAL,
        "status_id": FAILURE if denied else SUCCESS,
        "time": _milliseconds(entry),
        "message": f"{entry.actor} {entry.verb} {entry.object}",
        "metadata": {
            "version": "1.3.0",
            "uid": str(entry.seq),
            "product": {"name": "Shipworthy", "vendor_name": "Shipworthy", "version": __version__},
        },
        "actor": {"user": {"name": name or kind, "type": kind if name else "Unknown"}},
        "api": {"operation": operation, "service": {"name": "shipworthy"}},
        "src_endpoint": {"name": "unknown"},  # the log keeps who, not from where
        "resources": [{"name": entry.object, "type": entry.object.partition(":")[0]}],
        "unmapped": {"rule": entry.rule, "leaf": leaf_hash(entry.to_bytes()).hex(), "body": dict(entry.body)},
    }
    return canonical_json(event).decode()


def to_cef(entry: Entry) -> str:
    """The entry as a line of CEF."""
    denied = entry.verb == "access.denied"
    operation = str(entry.body.get("verb", entry.verb)) if entry.verb.startswith("access.") else entry.verb
    header = [
        "Shipworthy",
        "Shipworthy",
        __version__,
        entry.verb,
        f"{entry.verb} {entry.object}",
        "6" if denied else "3",
    ]
    fields = {
        "externalId": str(entry.seq),
        "rt": str(_milliseconds(entry)),
        "suser": entry.actor.removeprefix("user:"),
        "act": operation,
        "outcome": "failure" if denied else "success",
        "cs1Label": "object",
        "cs1": entry.object,
        "cs2Label": "rule",
        "cs2": entry.rule,
    }
    extension = " ".join(f"{name}={_escaped(value, _VALUE)}" for name, value in fields.items())
    return f"CEF:0|{'|'.join(_escaped(part, _HEADER) for part in header)}|{extension}"


def _escaped(text: str, special: re.Pattern[str]) -> str:
    return special.sub(r"\\\1", text).replace("\r", "\\r").replace("\n", "\\n")


def _milliseconds(entry: Entry) -> int:
    return round(datetime.fromisoformat(entry.time).timestamp() * 1000)


FORMATS: Mapping[Format, Callable[[Entry], str]] = {"jsonl": to_json_line, "ocsf": to_ocsf, "cef": to_cef}
