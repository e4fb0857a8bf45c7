"""Signing keys are made, followed and revoked while a project serves; what is not believed any more is named."""

import json
import shutil
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest

from shipworthy.bundle.deployment import read_deployment, write_deployment
from shipworthy.faces.wiring import open_parts
from shipworthy.kernel.errors import ConflictError, IntegrityError, NotFoundError, UsageError
from shipworthy.ledger.audit import verify_audit
from shipworthy.ledger.checkpoint import read_note
from shipworthy.ledger.events import Event
from shipworthy.security.keyring import active_name, choose_active
from shipworthy.security.keys import create_key, key_directory, load_key, load_public_keys
from shipworthy.workflows.keys import (
    create_signing_key,
    list_keys,
    revoke_signing_key,
    rotate_data_key,
    rotate_master_key,
    rotate_signing_key,
)
from shipworthy.workflows.layout import Project
from shipworthy.workflows.principals import acting
from shipworthy.workflows.project import Parts
from shipworthy.workflows.verify import verify_ring
from tests.stories.conftest import Done

Run = Callable[..., Done]
ASKED = {"inputs": {"income": 61.5, "debt": 3.5, "purpose": "car"}}
REASON = "the laptop was stolen"


@pytest.fixture
def parts(project: Path, home: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> Iterator[Parts]:
    """The shipped project, open as a long-lived process has it."""
    monkeypatch.setenv("XDG_CONFIG_HOME", home["XDG_CONFIG_HOME"])
    with open_parts(project) as found:
        yield replace(found, rule="test")


def rotate(parts: Parts, home: dict[str, str], to: str | None = None) -> dict[str, Any]:
    return rotate_signing_key(parts, acting(parts, {}), home, to)


def signer_of(parts: Parts) -> str:
    """Name of the key that signed the log's checkpoint."""
    signer = read_note(parts.project.log / "checkpoint").signer(load_public_keys(parts.project.public_keys))
    assert signer is not None
    paths = [path for path in parts.project.public_keys.glob("*.pub") if signer.to_pem() == path.read_bytes()]
    return paths[0].stem


def test_a_server_answers_through_rotation_and_revocation_and_starts_again_after_them(
    project: Path, shipworthy: Run, serving: Callable[..., Any], home: dict[str, str]
) -> None:
    def run(*words: str | Path) -> dict[str, Any]:
        done = shipworthy("key", *words, "--project", project, "--json")
        assert done.code == 0, done.err
        return done.document

    with serving(project) as server:
        assert server.post(ASKED)[0] == 200
        rotated = run("rotate")
        assert rotated["signed_anew"] == ["local/deployment", "local/access"]
        revoked = run("revoke", rotated["before"], "--reason", REASON)
        assert revoked["standing"] == ["release loans:1"]
        threading.Event().wait(0.3)  # a replaced file is noticed within 100 ms
        assert server.post(ASKED)[0] == 200
        assert json.loads(server.get("/v2/health/ready")[1])["refused"] is None
    with serving(project) as server:
        assert server.post(ASKED)[0] == 200
    verified = shipworthy("verify", "--project", project, "--json")
    assert verified.code == 0, verified.out
    states = {key["name"]: (key["state"], key["words"]) for key in run("list")["signing"]}
    assert states[rotated["name"]] == ("active", "")
    assert states[rotated["before"]][0] == "revoked"
    assert REASON in states[rotated["before"]][1]


def test_who_held_the_ledger_open_goes_on_with_the_new_key(parts: Parts, home: dict[str, str], project: Path) -> None:
    before = active_name(parts.project.public_keys, home)
    assert signer_of(parts) == before
    with open_parts(project) as other:
        done = rotate(other, home)
    parts.ledger.append(Event("noted.it", "system:loans", "user:x", {}))
    assert signer_of(parts) == done["name"] != before
    report = verify_audit(parts.project.log, load_public_keys(parts.project.public_keys))
    assert report.passed, report.problems


def test_a_deployment_signed_by_a_revoked_key_is_refused_by_name(parts: Parts, home: dict[str, str]) -> None:
    done = rotate(parts, home)
    old = load_key(key_directory(home), done["before"])
    revoke_signing_key(parts, acting(parts, {}), home, done["before"], REASON)
    live, keys = parts.project.live("local"), load_public_keys(parts.project.public_keys)
    deployment = read_deployment(live, keys)
    write_deployment(live, msgspec.structs.replace(deployment, generation=99), old)
    with pytest.raises(
        IntegrityError, match=rf"live/local/deployment: It is signed by key {old.name}, revoked on .*stolen"
    ):
        read_deployment(live, keys)


def test_a_log_of_before_signed_by_a_revoked_key_is_refused(parts: Parts, home: dict[str, str], tmp_path: Path) -> None:
    shutil.copytree(parts.project.log, tmp_path / "before")
    done = rotate(parts, home)
    revoke_signing_key(parts, acting(parts, {}), home, done["before"], REASON)
    keys = load_public_keys(parts.project.public_keys)
    assert verify_audit(parts.project.log, keys).passed
    report = verify_audit(tmp_path / "before", keys)
    assert "signed by key" in report.problems[0]
    assert "revoked on" in report.problems[0]


def test_an_anchor_of_before_still_vouches_for_the_log(parts: Parts, home: dict[str, str], tmp_path: Path) -> None:
    anchor = parts.ledger.export_anchor(tmp_path / "anchor", "user:x")
    done = rotate(parts, home)
    told = revoke_signing_key(parts, acting(parts, {}), home, done["before"], REASON)
    assert [what for what in told["standing"] if what.startswith("anchor")]
    report = verify_audit(parts.project.log, load_public_keys(parts.project.public_keys), anchors=[anchor])
    assert (report.passed, report.trust) == (True, "anchored"), report.problems


def test_a_rotation_that_was_stopped_is_finished_and_makes_no_third_key(parts: Parts, home: dict[str, str]) -> None:
    ring = parts.project.public_keys
    create_key(key_directory(home), "begun").public.write_public(ring / "begun.pub")
    choose_active(ring, "begun")  # and the machine stopped here
    assert rotate(parts, home)["name"] == "begun"
    assert len(list(ring.glob("*.pub"))) == 2
    assert rotate(parts, home)["name"] == "begun-2"


def test_a_ring_that_says_otherwise_than_the_log_is_found(parts: Parts, home: dict[str, str]) -> None:
    done = rotate(parts, home)
    ring = parts.project.public_keys
    public = (ring / f"{done['before']}.pub").read_bytes()
    revoke_signing_key(parts, acting(parts, {}), home, done["before"], REASON)
    kept = (ring / "revoked" / f"{done['before']}.json").read_bytes()

    def problem() -> str:
        return str(verify_ring(parts.project, parts.ledger).problem)

    assert problem() == "None"
    (ring / "revoked" / f"{done['before']}.json").unlink()
    (ring / f"{done['before']}.pub").write_bytes(public)
    assert "is revoked in the log, and" in problem()
    more = json.loads(kept) | {"stands": ["00" * 32, *json.loads(kept)["stands"]]}
    (ring / "revoked" / f"{done['before']}.json").write_text(json.dumps(more))
    assert "still stands was changed" in problem()
    (ring / "revoked" / f"{done['before']}.json").write_bytes(kept)
    create_key(key_directory(home), "third").public.write_public(ring / "third.pub")
    choose_active(ring, "third")
    assert f"{done['name']} signs as the log has it, third as" in problem()


def test_what_makes_no_sense_of_keys_is_refused_and_changes_nothing(
    parts: Parts, home: dict[str, str], tmp_path: Path
) -> None:
    who, ring = acting(parts, {}), parts.project.public_keys
    active = str(active_name(ring, home))
    before = {path: path.read_bytes() for path in ring.rglob("*") if path.is_file()}

    def refused(error: type[Exception], words: str, act: Callable[[], Any]) -> None:
        with pytest.raises(error, match=words):
            act()

    refused(ConflictError, "is the key that signs; run `shipworthy key rotate` first",
            lambda: revoke_signing_key(parts, who, home, active, REASON))  # fmt: skip
    refused(NotFoundError, "there is no key 'other'", lambda: revoke_signing_key(parts, who, home, "other", REASON))
    refused(UsageError, "needs a reason", lambda: revoke_signing_key(parts, who, home, "other", " "))
    refused(NotFoundError, "there is no key 'other'", lambda: rotate(parts, home, "other"))
    refused(ConflictError, "signs already", lambda: rotate(parts, home, active))
    refused(UsageError, "cannot be named", lambda: rotate(parts, home, "../other"))
    refused(NotFoundError, "nothing is encrypted here", lambda: rotate_master_key(parts, who, home))
    refused(ConflictError, "there is a key", lambda: create_signing_key(parts, who, home, active, None))
    refused(ConflictError, "in the ring under another name",
            lambda: create_signing_key(parts, who, home, "again", ring / f"{active}.pub"))  # fmt: skip
    assert {path: path.read_bytes() for path in ring.rglob("*") if path.is_file()} == before


SIGNER = """\
import sys
from pathlib import Path
from cryptography.hazmat.primitives.serialization import load_pem_private_key
key = load_pem_private_key(Path(sys.argv[1]).read_bytes(), None)
sys.stdout.buffer.write(key.sign(sys.stdin.buffer.read()))
"""


@contextmanager
def apart(tmp_path: Path) -> Iterator[tuple[Path, dict[str, str]]]:
    """A key whose private half lies where no key directory is: its public half, and the setting that signs with it."""
    key = create_key(tmp_path / "apart", "hsm")
    (tmp_path / "signer.py").write_text(SIGNER)
    key.public.write_public(tmp_path / "hsm.pub")
    yield (
        tmp_path / "hsm.pub",
        {"SHIPWORTHY_SIGNING_COMMAND": f"{sys.executable} {tmp_path / 'signer.py'} {tmp_path / 'apart' / 'hsm.key'}"},
    )


def test_a_key_behind_a_command_signs_log_and_deployment(
    parts: Parts, home: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with apart(tmp_path) as (public, setting):
        create_signing_key(parts, acting(parts, {}), home, "hsm", public)
        with pytest.raises(NotFoundError, match=r"does not hold the private key of .*hsm\.pub"):
            rotate(parts, home, "hsm")
        monkeypatch.setenv(*next(iter(setting.items())))
        done = rotate(parts, home | setting, "hsm")
        assert (done["holder"], signer_of(parts)) == ("command", "hsm")
        hsm = {key["name"]: key for key in list_keys(parts.project, home | setting)["signing"]}["hsm"]
        assert (hsm["state"], hsm["holder"]) == ("active", "command")
        monkeypatch.delenv("SHIPWORTHY_SIGNING_COMMAND")
        with pytest.raises(NotFoundError, match="set SHIPWORTHY_SIGNING_COMMAND"), open_parts(parts.project.root):
            pass


def test_keys_are_listed_as_a_table_and_nothing_secret_is_shown(
    parts: Parts, home: dict[str, str], shipworthy: Run
) -> None:
    who = acting(parts, {})
    rotate_data_key(parts, who, home)
    rotate_data_key(parts, who, home)
    rotate_master_key(parts, who, home)
    project: Project = parts.project
    secrets = [path.read_text() for path in key_directory(home).iterdir()]
    shown = [shipworthy("key", "list", "--project", project.root, *more) for more in ((), ("--json",))]
    assert [done.code for done in shown] == [0, 0]
    for text in (done.out + done.err for done in shown):
        assert not [line for secret in secrets for line in secret.splitlines() if len(line) > 30 and line in text]
    states = [key["state"] for key in shown[1].document["data"]]
    assert states == ["retired", "active"]
    assert "a file of yours" in shown[0].out
    verbs = [entry.verb for entry in parts.ledger.events() if entry.verb.startswith("key.")]
    assert verbs == ["key.created", "key.created", "key.rotated", "key.rotated"]
