"""The audit log as other systems read it."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from shipworthy.ledger.events import Entry
from shipworthy.ledger.tree import leaf_hash
from shipworthy.workflows.audit import export_entries, to_cef, to_json_line, to_ocsf
from tests.faces.life import make_project

# What OCSF 1.3 requires of class 6003, API Activity, with its base event; source: schema.ocsf.io/1.3.0
OCSF_REQUIRED = {
    "activity_id", "actor", "api", "category_uid", "class_uid", "metadata", "severity_id", "src_endpoint", "time",
    "type_uid",
}  # fmt: skip
DENIED = Entry(
    9, "2026-01-02T03:04:05.678Z", "user:ann", "access.denied", "release:loans:1", "deploy needs platform",
    {"verb": "deploy", "action": "deploy", "system": "loans", "roles": ["risk"]},
)  # fmt: skip
HOSTILE = Entry(
    10, "2026-01-02T03:04:05.678Z", "user:a|b=c\\d", "thing.done", "thing:x|y=z\\ end", "", {"text": "a\nb"}
)


def test_a_line_of_json_is_the_entry_with_the_hash_that_the_tree_has():
    line = json.loads(to_json_line(DENIED))
    assert Entry.from_bytes(line["entry"]) == DENIED
    assert line["leaf"] == leaf_hash(line["entry"].encode()).hex()


def test_an_ocsf_event_has_what_its_class_requires():
    event = json.loads(to_ocsf(DENIED))
    assert event.keys() >= OCSF_REQUIRED
    assert event["type_uid"] == event["class_uid"] * 100 + event["activity_id"]
    assert (event["status_id"], event["severity_id"], event["time"]) == (2, 3, 1767323045678)
    assert event["metadata"].keys() >= {"product", "version"}
    assert event["api"]["operation"] == "deploy"
    assert event["actor"]["user"] == {"name": "ann", "type": "user"}
    allowed = json.loads(to_ocsf(Entry(1, DENIED.time, "user:ann", "token.revoked", "token:x", "r", {})))
    assert (allowed["status_id"], allowed["activity_id"]) == (1, 4)


def fields(line: str) -> tuple[list[str], dict[str, str]]:
    """As a SIEM parses it."""
    parts = re.split(r"(?<!\\)\|", line)
    header, extension = parts[:7], "|".join(parts[7:])
    pairs = re.findall(r"(\w+)=((?:\\.|[^=\\])*?)(?= \w+=|$)", extension)
    return header, {name: re.sub(r"\\(.)", r"\1", value) for name, value in pairs}


@pytest.mark.parametrize("entry", [DENIED, HOSTILE])
def test_a_line_of_cef_is_read_back_whatever_the_names_hold(entry: Entry):
    line = to_cef(entry)
    assert "\n" not in line
    header, found = fields(line)
    assert len(header) == 7
    assert header[0] == "CEF:0"
    assert found["cs1"] == entry.object
    assert found["suser"] == entry.actor.removeprefix("user:")
    assert found["externalId"] == str(entry.seq)


@pytest.mark.parametrize("form", ["jsonl", "ocsf", "cef"])
def test_every_entry_is_exported_once_and_from_where_one_left_off(tmp_path: Path, form: Any):
    from shipworthy.ledger.events import Event

    with make_project(tmp_path, lambda: 1_767_323_045.0)() as parts:
        parts.ledger.append_all([Event("thing.done", f"thing:{at}", "user:ann") for at in range(30)])
        assert len(list(export_entries(parts.ledger, form, 0))) == 30
        assert len(list(export_entries(parts.ledger, form, 25))) == 5
