"""`shipworthy audit`: anchors, proofs, and a database made again from the log."""

import json
import os
from pathlib import Path

import click
from rich.markup import escape

from shipworthy.faces.cli.options import command
from shipworthy.faces.cli.show import Face
from shipworthy.faces.wiring import open_parts
from shipworthy.ledger.audit import prove as make_proof
from shipworthy.ledger.rebuild import rebuild_database
from shipworthy.security.keys import load_public_keys
from shipworthy.workflows.gate import permit
from shipworthy.workflows.layout import Project
from shipworthy.workflows.principals import TOKEN_VARIABLE, acting
from shipworthy.workflows.project import hold_project


@click.group("audit")
def audit() -> None:
    """Anchors, proofs, and the database made again from the log."""


@command("export")
@click.argument("file", type=click.Path(path_type=Path))
def export(root: Path, face: Face, file: Path) -> int:
    """Write the newest signed checkpoint to FILE, to be kept elsewhere."""
    with open_parts(root) as parts:
        principal = acting(parts, os.environ)
        permit(parts, principal, "audit export")
        path = parts.ledger.export_anchor(file, principal.actor)
        anchor = parts.ledger.anchors()[-1]
    face.result({"file": str(path), "entries": anchor["size"], "root": anchor["root"]})
    if not face.as_json:
        face.say(
            f"{path}: checkpoint over {anchor['size']:,} entries. Keep it where this machine's users cannot write."
        )
        face.say(f"Later: shipworthy verify audit --anchor {path}")
    return 0


@command("prove")
@click.argument("seq", type=click.IntRange(min=1))
def prove(root: Path, face: Face, seq: int) -> int:  # noqa: ARG001 - a proof is JSON with and without --json
    """Print a proof that entry SEQ is in the log."""
    click.echo(json.dumps(make_proof(Project(root).log, seq), indent=2))
    return 0


@command("rebuild")
def rebuild(root: Path, face: Face) -> int:
    """Make the database again from the log; the old one is kept beside it."""
    project = Project(root)
    project.require()
    if os.environ.get(TOKEN_VARIABLE):  # a token is looked up in the database that is there
        with open_parts(root) as parts:
            permit(parts, acting(parts, os.environ), "audit rebuild")
    with hold_project(project, "audit rebuild"):
        entries = rebuild_database(project.ledger_url(os.environ), project.log, load_public_keys(project.public_keys))
    if not os.environ.get(TOKEN_VARIABLE):  # the machine's user needs none; recorded once there is a ledger again
        with open_parts(root) as parts:
            permit(parts, acting(parts, os.environ), "audit rebuild")
    face.result({"entries": entries})
    if not face.as_json:
        face.say(f"The database was made again from {entries:,} entries of {escape(str(project.log))}.")
    return 0


audit.add_command(export)
audit.add_command(prove)
audit.add_command(rebuild)
