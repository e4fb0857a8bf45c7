"""The example that `serve` prints is answered, whatever the contract asks."""

import http.client
import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from shipworthy.bundle.format import (
    CheckField,
    ColumnBaseline,
    ContextField,
    DerivedField,
    FeatureField,
    Policy,
    Schema,
)
from shipworthy.bundle.verify import verify_bundle
from shipworthy.security.keys import load_public_keys
from shipworthy.workflows.serve import example_request, find_target
from tests.serving.conftest import CLASSES, SYSTEM, Place, linear_model, loans_policy

FEATURES = (
    FeatureField(name="amount", kind="float", low=-3, high=0),
    FeatureField(name="exact", kind="float", low=0.12345678, high=0.12345679),
    FeatureField(name="steps", kind="int", low=-7, high=-2),
    FeatureField(name="big", kind="int"),
    FeatureField(name="flag", kind="bool"),
    FeatureField(name="kind", kind="category", values=("a", "b")),
    FeatureField(name="note", kind="text"),
    FeatureField(name="due", kind="datetime", zone="Europe/Vienna"),
    FeatureField(name="spare", kind="float", missing="allow"),
)
CONTEXT = (
    ContextField(name="row", kind="text", role="key", required=True),
    ContextField(name="number", kind="int", role="subject", required=True, low=5, high=9),
    ContextField(name="at", kind="datetime", role="time", zone="Asia/Kolkata"),
    ContextField(name="group", kind="category", role="protected", values=("x", "y"), required=True),
    ContextField(name="share", kind="float", role="slice", required=True, low=0.5, high=1),
    ContextField(name="new", kind="bool", role="slice", required=True),
    ContextField(name="left", kind="float", role="slice"),
)
DERIVED = (
    DerivedField(name="hour", kind="int", expression="hour(at)"),
    DerivedField(name="ratio", kind="float", expression="amount / steps", low=0.2, high=0.3, outside="reject"),
)
COLUMNS = ("amount", "exact", "steps", "big", "flag", "kind", "spare", "hour", "ratio")


def schema(**changes: Any) -> Schema:
    checks = (CheckField(name="few", condition="steps > -6 and (kind == 'b' or flag) and hour(due) < 12"),)
    return Schema(
        **{
            "system": SYSTEM,
            "features": FEATURES,
            "context": CONTEXT,
            "derived": DERIVED,
            "columns": COLUMNS,
            "checks": checks,
            **changes,
        }
    )


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


@pytest.fixture
def address(place: Place) -> Iterator[str]:
    policy = Policy(task="binary", classes=CLASSES, positive="1", threshold=0.5, fallback_otherwise="0", timeout_s=1.0)
    place.deploy(place.publish(1, model=linear_model([0.1] * len(COLUMNS)), schema=schema(), policy=policy))
    settings = msgspec.json.encode(place.settings()).decode()
    command = [sys.executable, "-m", "shipworthy.serving.server", "--settings", settings]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    yield json.loads(process.stdout.readline())["address"].removeprefix("http://")
    process.send_signal(signal.SIGKILL)
    process.wait(10)
    process.stdout.close()


def test_the_example_of_every_kind_is_answered_by_the_model(place: Place, address: str) -> None:
    project = SimpleNamespace(live=lambda _: place.live, public_keys=place.keys, vault=None)
    target = find_target(project, "local")
    connection = http.client.HTTPConnection(address, timeout=20)
    connection.request("POST", target.path, json.dumps(target.example), {"content-type": "application/json"})
    response = connection.getresponse()
    answer = json.loads(response.read())
    connection.close()
    assert (response.status, answer.get("source"), answer.get("warnings")) == (200, "model", [])
    assert set(target.example["context"]) == {"row", "number", "at", "group", "share", "new"}


def test_the_example_is_the_same_each_time_and_the_middle_where_it_may_be(place: Place) -> None:
    release = place.publish(
        1,
        model=linear_model([0.1] * 7),
        schema=schema(derived=(), columns=COLUMNS[:7], checks=()),
        policy=loans_policy(fallback_rules=()),
    )
    (bundle,) = [verify_bundle(path, load_public_keys(place.keys)) for path in (place.live / "bundles").iterdir()]
    assert release.digest == bundle.digest
    middles = {"amount": -1.5, "steps": -4.0, "big": 2.0**62, "flag": 1.0, "kind": 1.0, "spare": None}
    baselines = tuple(ColumnBaseline(name=name, rows=1, missing=0, reference=at) for name, at in middles.items())
    payload = msgspec.structs.replace(bundle.payload.baselines, columns=baselines)
    known = SimpleNamespace(
        payload=SimpleNamespace(
            schema=bundle.payload.schema, policy=bundle.payload.policy, baselines=payload, lookups={}
        )
    )
    request = example_request(known)
    assert request == example_request(known)
    assert request["inputs"] == {
        "amount": -1.5,
        "exact": 0.12345678,
        "steps": -4,
        "big": 2**62,
        "flag": True,
        "kind": "b",
        "note": "example-note",
        "due": "2026-01-01T12:00:00Z",
    }
