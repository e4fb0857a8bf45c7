"""`shipworthy key`: what signs, what encrypts, and what is not believed any more."""

import os
from pathlib import Path
from typing import Any

import click
from rich.markup import escape
from rich.text import Text

from shipworthy.faces.cli.options import command
from shipworthy.faces.cli.show import Face
from shipworthy.faces.wiring import open_parts, open_to_read
from shipworthy.kernel.errors import UsageError
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
from shipworthy.workflows.unseal import unseal

STATE_STYLES = {"active": "green", "revoked": "bold red", "destroyed": "bold red"}
HELD_BY = {"file": "a file of yours", "command": "the signing command", "elsewhere": "not here"}


@click.group("key")
def key() -> None:
    """What signs, what encrypts, and what is not believed any more."""


@command("create")
@click.argument("name")
@click.option(
    "--public", type=click.Path(path_type=Path), default=None, metavar="FILE",
    help="A public key, PEM, whose private half a signing command has.",
)  # fmt: skip
def create(root: Path, face: Face, name: str, public: Path | None) -> int:
    """Add a signing key called NAME to the ring; `key rotate --to NAME` lets it sign."""
    with open_parts(root) as parts:
        made = create_signing_key(parts, acting(parts, os.environ), os.environ, name, public)
    face.result(made)
    if not face.as_json:
        face.say(f"{escape(name)} ({made['keyid'][:16]}) is believed here; `shipworthy key rotate --to` lets it sign.")
    return 0


@command("list")
def list_all(root: Path, face: Face) -> int:
    """Show every key of the project: what signs, what encrypts, and in which state."""
    with open_to_read(root, "key list"):
        found = list_keys(Project(root), os.environ)
    face.result(found)
    if face.as_json:
        return 0
    rows = [[item["name"], _state(item["state"]), item["keyid"][:16], _holder(item)] for item in found["signing"]]
    face.table(["signs", "state", "keyid", "private half"], rows)
    if found["data"]:
        face.say()
        rows = [[item["name"], _state(item["state"]), item["created"][:10], item["master"]] for item in found["data"]]
        face.table(["encrypts", "state", "since", "wrapped by"], rows)
    return 0


@command("rotate")
@click.option("--to", default=None, metavar="NAME", help="A key of the ring; by default a new one is made.")
@click.option("--data", "is_data", is_flag=True, help="A new data key: what is written from now on is encrypted by it.")
@click.option("--master", "is_master", is_flag=True, help="Wrap every data key by the master key that is set now.")
def rotate(root: Path, face: Face, to: str | None, is_data: bool, is_master: bool) -> int:
    """Let another key sign from now on, or encrypt; what the one before did stays good."""
    if (to is not None) + is_data + is_master > 1:
        raise UsageError("--to, --data and --master are three rotations; give one at a time")
    with open_parts(root) as parts:
        principal = acting(parts, os.environ)
        if is_data:
            done = rotate_data_key(parts, principal, os.environ)
            words = f"{done['name']} encrypts from now on; what was encrypted before stays readable."
        elif is_master:
            done = rotate_master_key(parts, principal, os.environ)
            words = f"{done['wraps']} data keys are wrapped by {done['master']}; keep a copy of the master key apart."
        else:
            done = rotate_signing_key(parts, principal, os.environ, to)
            words = _rotated(done)
    face.result(done)
    if not face.as_json:
        face.say(escape(words))
    return 0


@command("revoke")
@click.argument("name")
@click.option(
    "--reason", required=True, metavar="TEXT", help="Why; shown whenever something that it signed is refused."
)
def revoke(root: Path, face: Face, name: str, reason: str) -> int:
    """Believe the signing key NAME no more, but for what the audit log has that it signed."""
    with open_parts(root) as parts:
        done = revoke_signing_key(parts, acting(parts, os.environ), os.environ, name, reason)
    face.result(done)
    if face.as_json:
        return 0
    face.say(f"{escape(name)} is not believed any more. What it signed and the log has still stands:")
    for what in done["standing"] or ["nothing"]:
        face.say(f"  {escape(what)}")
    face.say("Delete its private half wherever it is; nothing here needs it.")
    return 0


@command("open")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--out", required=True, type=click.Path(path_type=Path), metavar="FILE", help="Where; not there before.")
def open_file(root: Path, face: Face, file: Path, out: Path) -> int:
    """Decrypt FILE of the project's state: rows in quarantine, a snapshot (Parquet), an artefact, a payload's file."""
    with open_parts(root) as parts:
        done = unseal(parts, acting(parts, os.environ), file, out)
    face.result(done)
    if not face.as_json:
        face.say(
            f"{escape(str(out))}: {done['size_bytes']:,} bytes, readable to you alone. Remove it when it has served."
        )
    return 0


def _rotated(done: dict[str, Any]) -> str:
    anew = f" Signed anew: {', '.join(done['signed_anew'])}." if done["signed_anew"] else ""
    stays = (
        f" {done['before']} stays believed; `shipworthy key revoke {done['before']}` ends that."
        if done["before"]
        else ""
    )
    return f"{done['name']} signs from now on.{anew}{stays}"


def _state(state: str) -> Text:
    return Text(state, style=STATE_STYLES.get(state, "dim"))


def _holder(item: dict[str, Any]) -> str:
    return str(item["words"]) if item["state"] == "revoked" else HELD_BY[item["holder"]]


for _command in (create, list_all, rotate, revoke, open_file):
    key.add_command(_command)
