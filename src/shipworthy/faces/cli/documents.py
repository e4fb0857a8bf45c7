"""Commands that print a document: `card`."""

from pathlib import Path

import click

from shipworthy.faces.cli.options import command
from shipworthy.faces.cli.show import Face
from shipworthy.faces.wiring import open_to_read
from shipworthy.workflows.inspect import find_release, release_directory, release_name
from shipworthy.workflows.layout import Project


@command("card")
@click.argument("release", required=False)
def card(root: Path, face: Face, release: str | None) -> int:
    """Print the model card of RELEASE, by default of the newest."""
    project = Project(root)
    with open_to_read(root, "card") as ledger:
        found = find_release(ledger, release)
        text = (release_directory(project, found) / "card.md").read_text()
    face.result({"release": release_name(found), "card": text})
    if not face.as_json:
        click.echo(text)
    return 0
