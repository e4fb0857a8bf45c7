"""`shipworthy contract`: its JSON Schema, and the Open Data Contract Standard in both directions."""

import dataclasses
import json
import shlex
from collections.abc import Sequence
from pathlib import Path

import click
from rich.markup import escape

from shipworthy.faces.cli.main import DONE
from shipworthy.faces.cli.options import command
from shipworthy.faces.cli.show import Face
from shipworthy.workflows.layout import CONTRACT_FILE, Project
from shipworthy.workflows.standards import export_odcs, import_odcs


@click.group("contract")
def contract() -> None:
    """The contract's schema, and other tools' contracts."""


@contract.command("schema")
@click.option("--json", is_flag=True, expose_value=False, help="As everywhere; the schema is JSON anyway.")
def schema() -> int:
    """Print the JSON Schema that an editor checks shipworthy.yaml with."""
    from shipworthy.contract.schema import json_schema

    click.echo(json.dumps(json_schema(), indent=2))
    return DONE


@command("export")
@click.option(
    "--odcs",
    "path",
    type=click.Path(dir_okay=False, path_type=Path),
    required=True,
    metavar="FILE",
    help="Where the document is written.",
)
def export(root: Path, face: Face, path: Path) -> int:
    """Write the contract as an Open Data Contract Standard document, for catalogues and other tools."""
    exported = export_odcs(Project(root), path)
    face.result({"file": str(path), "own": list(exported.own)})
    if not face.as_json:
        face.say(f"{escape(str(path))}: ODCS {exported.document['apiVersion']}, version {exported.document['version']}")
        _list(face, "Carried as Shipworthy's own properties, which other tools do not read", exported.own)
    return DONE


@command("import")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--target", metavar="COL", help="The column to predict, where the document does not say.")
def read(root: Path, face: Face, file: Path, target: str | None) -> int:
    """Write the contract that an Open Data Contract Standard document describes, and list what to review."""
    report = import_odcs(root, file, target)
    face.result({"directory": str(root), **dataclasses.asdict(report)})
    if not face.as_json:
        face.say(f"{report.columns} columns; written to {escape(str(root))}: {escape(', '.join(report.written))}")
        _list(face, "Assumed, for the document does not tell", report.assumed)
        _list(face, "Left out, for a contract has no place for it", report.left_out)
        place = escape(shlex.quote(str(root)))
        face.say(f"Next: read {escape(str(root / CONTRACT_FILE))}, then run: shipworthy check --project {place}")
    return DONE


def _list(face: Face, heading: str, lines: Sequence[str]) -> None:
    if lines:
        face.say(f"{heading}:")
        for line in lines:
            face.say(f"  - {escape(line)}")


contract.add_command(export)
contract.add_command(read)
