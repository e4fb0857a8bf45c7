"""`shipworthy data log` and what follows from it: versions of the data, looked at, named and thinned out."""

import os
from pathlib import Path
from typing import Any

import click
from rich.markup import escape
from rich.text import Text

from shipworthy.data.diff import ColumnChange, Difference, SchemaChange
from shipworthy.faces.cli.options import command
from shipworthy.faces.cli.show import Face, lookup_words, number
from shipworthy.faces.wiring import open_parts, open_to_read
from shipworthy.workflows.history import LATEST, Listed, find_version, list_history
from shipworthy.workflows.layout import Project
from shipworthy.workflows.moments import parse_moment
from shipworthy.workflows.principals import acting
from shipworthy.workflows.project import hold_project, read_contract
from shipworthy.workflows.retention import Compaction, compact_data
from shipworthy.workflows.snapshots import compare, describe, export_version
from shipworthy.workflows.tags import tag_version, untag_version

SHOWN_COLUMNS = 8  # of the first rows; `--json` has all
SIGNIFICANT = 0.05  # p-values above it say that few rows differ as much by chance
EFFECT_STYLES = {"small": "yellow", "medium": "bold yellow", "large": "bold red"}

_at = click.option("--at", "at", default=None, metavar="TIME", help="The version that was the newest at that time.")


@command("log")
@click.option("--limit", default=20, metavar="N", type=click.IntRange(min=1), help="At most N.", show_default=True)
def log(root: Path, face: Face, limit: int) -> int:
    """List the versions, newest first.

    Each with what it changed against the one before, which sources were new, and what refers to it.
    """
    project = Project(root)
    with open_to_read(root, "data log") as ledger:
        system = read_contract(project).system
        listed = list_history(project, ledger, system)
    shown = listed[::-1][:limit]
    face.result(
        {"system": system, "versions": [version.to_json() for version in shown], "more": len(listed) > len(shown)}
    )
    if face.as_json:
        return 0
    if not listed:
        face.say(f"No version yet; run: shipworthy ship --project {escape(str(root))}")
        return 0
    headings = ["version", "digest", "taken", "rows", "against the one before", "new sources", "referred to by"]
    face.table(headings, [_line(version) for version in shown], title=f"{system}: {_count(len(listed), 'version')}")
    if len(listed) > len(shown):
        face.say(f"{len(listed) - len(shown):,} older; see --limit.")
    if len(listed) > 1:
        face.say(f"Next: shipworthy data diff {listed[-2].version} {listed[-1].version}")
    return 0


@command("diff")
@click.argument("old", metavar="A")
@click.argument("new", metavar="B", default=LATEST)
@click.option("--all", "everything", is_flag=True, help="Also the columns in which nothing changed.")
def show_diff(root: Path, face: Face, old: str, new: str, everything: bool) -> int:
    """Tell what became of version A in B.

    Columns, rows by the contract's key, and how far each column's distribution moved. B is by default the latest.
    """
    project = Project(root)
    with open_to_read(root, "data diff") as ledger:
        contract = read_contract(project)
        listed = list_history(project, ledger, contract.system)
    before, after = find_version(listed, old), find_version(listed, new)
    found = compare(project, contract, before, after)
    face.result({"system": contract.system, "old": before.to_json(), "new": after.to_json(), **found.to_json()})
    if not face.as_json:
        face.say(f"[bold]{contract.system}[/]: {_name(before)} to {_name(after)}")
        _say_difference(face, found, everything)
    return 0


@command("show")
@click.argument("version", default=LATEST)
@_at
@click.option("--rows", default=5, metavar="N", type=click.IntRange(min=0, max=1000), show_default=True,
              help="First rows; personal columns are masked.")  # fmt: skip
def show(root: Path, face: Face, version: str, at: str | None, rows: int) -> int:
    """Show what is in a version.

    By default the latest: its columns and how they are distributed, quality, sources, what refers to it, first rows.
    """
    project = Project(root)
    with open_to_read(root, "data show") as ledger:
        contract = read_contract(project)
        listed = list_history(project, ledger, contract.system)
        found = find_version(listed, version, None if at is None else parse_moment(at, "--at"))
        described = describe(project, ledger, contract, found, rows)
    face.result({"system": contract.system, **described})
    if not face.as_json:
        _say_version(face, contract.system, found, described)
    return 0


@command("tag")
@click.argument("version")
@click.argument("name")
def tag(root: Path, face: Face, version: str, name: str) -> int:
    """Call VERSION by NAME; it is kept as long as it has one."""
    with open_parts(root) as parts:
        body = tag_version(parts, acting(parts, os.environ), version, name)
    face.result(body)
    if not face.as_json:
        face.say(f"{escape(name)} is version {body['version']} ({body['digest'][7:19]}).")
    return 0


@command("untag")
@click.argument("name")
def untag(root: Path, face: Face, name: str) -> int:
    """Take the tag NAME away; that it stood there stays on record."""
    with open_parts(root) as parts:
        body = untag_version(parts, acting(parts, os.environ), name)
    face.result(body)
    if not face.as_json:
        face.say(f"Version {body['version']} ({body['digest'][7:19]}) is not called {escape(name)} any more.")
    return 0


@command("export")
@click.argument("version")
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
@_at
def export(root: Path, face: Face, version: str, file: Path, at: str | None) -> int:
    """Write all rows of VERSION to FILE.

    FILE is new and ends in .parquet or .csv. Personal columns are in it too; who exported it is on record.
    """
    with open_parts(root) as parts:
        moment = None if at is None else parse_moment(at, "--at")
        body = export_version(parts, acting(parts, os.environ), version, file, moment)
    face.result(body)
    if not face.as_json:
        face.say(f"{body['rows']:,} rows of version {body['version']} are in {escape(body['file'])}.")
    return 0


@command("compact")
@click.option("--dry-run", is_flag=True, help="Only say what would be removed.")
def compact(root: Path, face: Face, dry_run: bool) -> int:
    """Remove old versions, as `data.keep` says.

    Never the newest, nor one that a release or a tag refers to. Files that no version needs are removed as well.
    """
    with open_parts(root) as parts, face.err.status("compacting"):
        principal = acting(parts, os.environ)
        with hold_project(parts.project, "data compact"):
            done = compact_data(parts, principal, dry_run=dry_run)
    face.result(done.to_json())
    if not face.as_json:
        _say_compaction(face, done)
    return 0


def _line(version: Listed) -> list[str]:
    references = [*version.tags, *version.releases, *(f"serving {place}" for place in version.serving)]
    if version.removed is not None:
        references = [f"removed {version.removed.time[:10]}"]
    return [
        str(version.version),
        version.digest[7:19],
        version.time[:19].replace("T", " "),
        "-" if version.rows is None else f"{version.rows:,}",
        "; ".join(_news(version)) or "-",
        ", ".join(version.new_sources) or "-",
        ", ".join(references) or "-",
    ]


def _news(version: Listed) -> list[str]:
    """What a version changed, as far as the log says without reading rows."""
    words = []
    if version.since is not None:
        rows = f"{version.since:+,} rows" if version.since else "as many rows"
        words.append(f"{rows}, appended" if version.appended else rows)
    words += [
        f"{sign}{name}" for word, sign in (("added", "+"), ("removed", "-")) for name in version.schema.get(word, ())
    ]
    words += [f"{name}: {kinds[0]} to {kinds[1]}" for name, kinds in version.schema.get("retyped", {}).items()]
    return [*words, *(["encrypted"] if version.encrypted else [])]


def _name(version: Listed) -> str:
    return f"version {version.version} ({version.digest[7:19]}, {version.time[:10]})"


def _say_difference(face: Face, found: Difference, everything: bool) -> None:
    _say_schema(face, found.schema)
    rows = found.rows
    told = [
        f"{rows.added:,} added",
        f"{rows.removed:,} removed",
        *([] if rows.changed is None else [f"{rows.changed:,} changed"]),
        *(["in another order"] if rows.is_reordered else []),
    ]
    how = f"told apart by {', '.join(rows.key)}" if rows.key else "compared as they are, for there is no key"
    if rows.note:
        how = f"compared as they are, for {rows.note}"
    face.say(f"Rows: {rows.before:,} to {rows.after:,}: {', '.join(told)} ({escape(how)}).")
    for word, keys in rows.examples.items():
        if keys:
            face.say(f"  {word}, such as {escape(', '.join(keys))}")
    shown = [column for column in found.columns if everything or _has_changed(column)]
    if shown:
        shown.sort(key=lambda column: -(column.effect or 0.0))
        headings = ["column", "cells changed", "missing", "typical", "effect", ""]
        face.table(headings, [_column_line(column) for column in shown], title="Columns, most different first")
    hidden = len(found.columns) - len(shown)
    if hidden:
        face.say(f"Nothing changed in {_count(hidden, 'column')}; see --all.")


def _say_schema(face: Face, schema: SchemaChange) -> None:
    if schema.is_none:
        face.say("Columns: the same.")
        return
    words = [
        *(f"+ {name} ({kind})" for name, kind in schema.added.items()),
        *(f"- {name} ({kind})" for name, kind in schema.removed.items()),
        *(f"{name}: {before} to {after}" for name, (before, after) in schema.retyped.items()),
        *(["in another order"] if schema.is_reordered else []),
    ]
    face.say(f"Columns: {escape('; '.join(words))}.")


def _has_changed(column: ColumnChange) -> bool:
    return bool(column.changed or column.effect or column.missing[0] != column.missing[1])


def _column_line(column: ColumnChange) -> list[Any]:
    word = column.magnitude or ""
    is_chance = word not in ("", "none") and (column.p_value or 0.0) > SIGNIFICANT
    return [
        column.column,
        "-" if column.changed is None else f"{column.changed:,}",
        " to ".join(f"{share:.2%}" for share in column.missing) if any(column.missing) else "-",
        "-" if column.typical is None else f"{column.typical[0]} to {column.typical[1]}",
        "-" if column.effect is None else f"{column.effect:.3f}",
        Text(f"{word}, maybe by chance" if is_chance else word, style=EFFECT_STYLES.get(word, "dim")),
    ]


def _say_version(face: Face, system: str, version: Listed, found: dict[str, Any]) -> None:
    face.say(f"[bold]{system}[/], {_name(version)}: {_count(version.rows or 0, 'row')}")
    lines = [_described(column) for column in found["columns"]]
    face.table(["column", "type", "role", "missing", "distinct", "values"], lines)
    for step in found["steps"]:
        face.say(f"Step {step['step']}: {escape(step['words'])}")
    if found["future"] is not None:
        face.say(f"Future: {escape(found['future']['words'])}")
    quality = found["quality"]
    if quality["quarantined"]:
        reasons = "; ".join(f"{reason}: {count:,}" for reason, count in (quality["reasons"] or {}).items())
        face.say(f"Quarantined: {_count(quality['quarantined'], 'row')} ({escape(reasons)})")
    for name, counts in found.get("lookups", {}).items():
        face.say(f"Lookup {escape(name)}: {lookup_words(counts)}")
    for source, digest in version.sources.items():
        face.say(f"Source: {escape(source)} ({digest[7:19]})")
    for word, names in (("Tags", version.tags), ("Releases", version.releases), ("Serving", version.serving)):
        if names:
            face.say(f"{word}: {escape(', '.join(names))}")
    rows = found["first_rows"]
    if rows:
        columns = list(rows[0])
        shown = columns[:SHOWN_COLUMNS]
        title = "First rows" + (f", {len(shown)} of {len(columns)} columns" if shown != columns else "")
        face.table(shown, [[_cell(row[name]) for name in shown] for row in rows], title)


def _cell(value: object) -> str:
    return "-" if value is None else f"{value:.6g}" if isinstance(value, float) else str(value)


def _described(column: dict[str, Any]) -> list[str]:
    profile = column["profile"] or {}
    distinct = profile.get("distinct")
    return [
        column["column"],
        column["type"],
        column["role"] or "-",
        f"{column['missing']:,}",
        "-" if distinct is None else f"{distinct:,}" if profile.get("distinct_exact") else f"~{distinct:,}",
        "personal, not shown" if column["personal"] else _values(profile),
    ]


def _values(profile: dict[str, Any]) -> str:
    if profile.get("mean") is not None:
        span = f"{number(profile.get('least'))} to {number(profile.get('most'))}"
        return f"{span}, mean {number(profile['mean'])}"
    if profile.get("first") is not None:
        return f"{profile['first'][:19]} to {profile['last'][:19]}"
    if profile.get("distinct_exact") and profile.get("distinct", 0) == profile.get("rows", 0) - profile.get(
        "missing", 0
    ):
        return "all different"
    frequent = sorted(profile.get("most_frequent", {}).items(), key=lambda item: -item[1])[:3]
    return ", ".join(f"{value} {rows:,}" for value, rows in frequent) or "-"


def _say_compaction(face: Face, done: Compaction) -> None:
    if not done.keep:
        face.say("The contract keeps every version; to let old ones go: data: {keep: {versions: 30}}, or {for: 180d}.")
    would = "would be removed" if done.dry_run else "removed"
    if done.removed:
        numbers = ", ".join(str(version) for version in done.removed)
        face.say(f"{_count(len(done.removed), 'version')} {would}, as {done.keep} says: {numbers}.")
    elif done.keep:
        face.say(f"No version is to be removed, as {done.keep} says.")
    for held in done.held:
        face.say(f"Version {held.version} stays: {escape(held.by)}.")
    if done.files:
        face.say(f"{_count(done.files, 'file')} {would}, {done.freed_bytes / 1e6:,.1f} MB.")
    if done.merged:
        face.say(f"The newest version had {done.merged} files, which were merged.")
    face.say(f"{_count(done.kept, 'version')} left.")


def _count(count: int, noun: str) -> str:
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


VERBS = (log, show_diff, show, tag, untag, export, compact)
