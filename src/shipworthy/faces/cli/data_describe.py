"""`shipworthy data describe`: a snapshot in words that other tools read."""

from pathlib import Path

import click
from rich.markup import escape

from shipworthy.faces.cli.main import DONE
from shipworthy.faces.cli.options import command
from shipworthy.faces.cli.show import Face
from shipworthy.faces.wiring import open_to_read
from shipworthy.workflows.describe import describe_croissant
from shipworthy.workflows.layout import Project


@command("describe")
@click.argument("version", required=False)
@click.option(
    "--croissant",
    "path",
    type=click.Path(dir_okay=False, path_type=Path),
    required=True,
    metavar="FILE",
    help="Where the description is written, JSON-LD.",
)
def describe(root: Path, face: Face, version: str | None, path: Path) -> int:
    """Describe a snapshot, by default the newest, as a Croissant data set that other tools load."""
    project = Project(root)
    with open_to_read(root, "data describe") as ledger:
        described = describe_croissant(project, ledger, version, path)
    face.result(
        {
            "file": str(path),
            "snapshot": described.snapshot,
            "version": described.version,
            "rows": described.rows,
            "fields": len(described.fields),
            "files": [file.path for file in described.files],
        }
    )
    if not face.as_json:
        count = len(described.files)
        files = "1 Parquet file" if count == 1 else f"{count} Parquet files"
        face.say(
            f"{escape(str(path))}: version {described.version}, {described.rows:,} rows of "
            f"{len(described.fields)} fields in {files}"
        )
    return DONE
