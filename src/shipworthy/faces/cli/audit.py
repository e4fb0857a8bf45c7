"""`shipworthy audit`: entries, anchors, proofs, and a database made again from the log."""

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

import click
from rich.markup import escape
from rich.progress import track

from shipworthy.faces.cli.options import command
from shipworthy.faces.cli.show import Face
from shipworthy.faces.wiring import open_parts, open_to_read
from shipworthy.kernel.errors import ConflictError, StorageError
from shipworthy.ledger.audit import prove as make_proof
from shipworthy.ledger.events import Event
from shipworthy.ledger.rebuild import rebuild_database
from shipworthy.security.hook import ask_command, split_command
from shipworthy.security.keys import load_public_keys
from shipworthy.workflows.audit import FORMATS, Format, export_entries
from shipworthy.workflows.gate import permit
from shipworthy.workflows.layout import Project
from shipworthy.workflows.principals import TOKEN_VARIABLE, acting
from shipworthy.workflows.project import hold_project

MAX_SEQ = 2**53  # more than a log can hold, and what every database can ask for


@click.group("audit")
def audit() -> None:
    """Entries, anchors, proofs, and the database made again from the log."""


@command("list")
@click.option(
    "--after",
    type=click.IntRange(min=0, max=MAX_SEQ),
    default=None,
    metavar="SEQ",
    help="From the entry behind SEQ on.",
)
@click.option("--limit", type=click.IntRange(min=1), default=20, metavar="N", help="At most N.", show_default=True)
def list_entries(root: Path, face: Face, after: int | None, limit: int) -> int:
    """Show who did what: the newest entries, or those behind SEQ."""
    with open_to_read(root, "audit list") as ledger:
        size = 0 if ledger.checkpoint is None else ledger.checkpoint.size
        found = list(ledger.events(after=max(size - limit, 0) if after is None else after, limit=limit))
    face.result(
        {"entries": [json.loads(entry.to_bytes()) for entry in found], "next": found[-1].seq if found else after or 0}
    )
    if not face.as_json:
        rows = [
            [f"{entry.seq:,}", entry.time[:19].replace("T", " "), entry.actor, entry.verb, entry.object, entry.rule]
            for entry in found
        ]
        face.table(["entry", "when", "who", "did", "to", "by the rule"], rows)
    return 0


@command("export")
@click.option(
    "--format", "form", type=click.Choice(list(FORMATS)), default="jsonl", show_default=True, help="Of a line."
)
@click.option(
    "--after", type=click.IntRange(min=0, max=MAX_SEQ), default=0, metavar="SEQ", help="Only entries behind SEQ."
)
@click.option(
    "--out", default=None, type=click.Path(path_type=Path), metavar="FILE", help="Not there before; default: stdout."
)
def export(root: Path, face: Face, form: Format, after: int, out: Path | None) -> int:
    """Write the entries for another system: JSON lines, OCSF, or CEF."""
    with open_parts(root) as parts:
        permit(parts, acting(parts, os.environ), "audit export")
        size = parts.ledger.checkpoint.size if parts.ledger.checkpoint else 0
        lines: Iterator[str] = export_entries(parts.ledger, form, after)
        if sys.stderr.isatty() and out is not None:
            lines = iter(track(lines, "exporting", max(size - after, 0), console=face.err, transient=True))
        with _destination(out) as stream:
            count = 0
            for line in lines:
                stream.write(f"{line}\n")
                count += 1
    if out is not None:
        face.result({"file": str(out), "format": form, "entries": count, "next": size})
        if not face.as_json:
            face.say(f"{escape(str(out))}: {count:,} entries. The next time: --after {size}")
    return 0


@contextmanager
def _destination(out: Path | None) -> Iterator[TextIO]:
    """Where to write; a file of ours is whole or not there."""
    if out is None:
        yield sys.stdout
        return
    if out.exists():
        raise ConflictError(f"{out} exists; name another file, or remove it")
    draft = out.with_name(f".{out.name}.draft")
    try:
        with open(draft, "x", encoding="utf-8") as stream:
            yield stream
        draft.rename(out)
    except OSError as error:
        raise StorageError(f"{out} cannot be written ({error.strerror})") from None
    finally:
        draft.unlink(missing_ok=True)


@command("anchor")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--command", "hook", default=None, metavar="WORDS", help="Then give it to this program, on its stdin.")
def anchor(root: Path, face: Face, file: Path, hook: str | None) -> int:
    """Write the newest signed checkpoint to FILE (or into a folder), to be kept elsewhere."""
    with open_parts(root) as parts:
        principal = acting(parts, os.environ)
        rule = permit(parts, principal, "audit anchor")
        path = parts.ledger.export_anchor(file, principal.actor)
        found = parts.ledger.anchors()[-1]
        if hook is not None:
            words = split_command("--command", hook)
            ask_command("--command", words, path.read_bytes())
            body = {"size": found["size"], "command": words[0]}
            parts.ledger.append(Event("anchor.sent", f"anchor:{found['size']}", principal.actor, body, rule))
    face.result({"file": str(path), "entries": found["size"], "root": found["root"]})
    if not face.as_json:
        face.say(f"{path}: checkpoint over {found['size']:,} entries. Keep it where this machine's users cannot write.")
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


for _command in (list_entries, export, anchor, prove, rebuild):
    audit.add_command(_command)
