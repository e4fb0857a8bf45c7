"""`shipworthy backup`: a project in one file, and back."""

import os
from pathlib import Path

import click
from rich.markup import escape

from shipworthy.faces.cli.options import command
from shipworthy.faces.cli.show import Face
from shipworthy.faces.wiring import open_parts
from shipworthy.workflows.backup import create_backup, restore_backup
from shipworthy.workflows.principals import acting
from shipworthy.workflows.project import hold_project


@click.group("backup")
def backup() -> None:
    """A project in one file, and back."""


@command("create")
@click.argument("file", type=click.Path(path_type=Path))
def create(root: Path, face: Face, file: Path) -> int:
    """Write everything of the project that cannot be made again to FILE; private keys are not in it."""
    with open_parts(root) as parts, face.err.status("copying"):
        principal = acting(parts, os.environ)
        with hold_project(parts.project, "backup create"):
            done = create_backup(parts, principal, file)
    face.result(done)
    if not face.as_json:
        face.say(f"{escape(str(file))}: {done['files']:,} files, {done['size_bytes'] / 1e6:,.1f} MB, {done['digest']}.")
        face.say("Private keys are not in it: copy `*.key` of the key directory elsewhere (see docs/keys.md).")
    return 0


@command("restore")
@click.argument("file", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.argument("directory", type=click.Path(path_type=Path))
def restore(root: Path, face: Face, file: Path, directory: Path) -> int:  # noqa: ARG001 (a new folder is made)
    """Make the project anew in DIRECTORY from FILE, and prove that it is whole; else nothing is left behind."""
    with face.err.status("restoring"):
        done = restore_backup(file, directory)
    face.result(done)
    if not face.as_json:
        face.say(f"{escape(str(directory))}: {done['files']:,} files; the database was made from {done['entries']:,}")
        face.say(f"entries; all {done['proofs']} proofs hold. Private keys and your data files are to be put back.")
    return 0


for _command in (create, restore):
    backup.add_command(_command)
