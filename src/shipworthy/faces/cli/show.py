"""How results are shown: one JSON document for machines, or words and tables for people."""

import json
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from rich.cells import cell_len
from rich.console import Console
from rich.markup import escape
from rich.table import Column, Table
from rich.text import Text

from shipworthy.kernel.errors import ContractError

NAME_WIDTH = 48  # of a first column that is kept whole: ids, releases and gates are not longer
OUTCOME_STYLES = {"pass": "green", "fail": "bold red", "insufficient": "yellow", "not applicable": "dim"}


class Face:
    """Where a command's words go: messages to stderr, results to stdout; `--json` makes stdout one document."""

    def __init__(self, as_json: bool) -> None:
        self.as_json = as_json
        self.out = Console(highlight=False, soft_wrap=True)
        self.err = Console(stderr=True, highlight=False, soft_wrap=True)

    def say(self, text: str = "") -> None:
        """A line for people; on stderr when stdout belongs to JSON."""
        (self.err if self.as_json else self.out).print(text)

    def note(self, text: str) -> None:
        """A line of progress, on stderr."""
        self.err.print(text, style="dim")

    def result(self, document: Mapping[str, Any]) -> None:
        """The machine's answer; nothing without `--json`."""
        if self.as_json:
            sys.stdout.write(json.dumps(document, indent=2, ensure_ascii=False) + "\n")

    def table(self, headings: Sequence[str], rows: Sequence[Sequence[str | Text]], title: str | None = None) -> None:
        """A table for people; what names a row stands first, whole."""
        columns = [Column(heading, overflow="fold") for heading in headings]  # a cut name could be another's
        widest = max((cell_len(str(row[0])) for row in rows), default=0)
        if columns and widest <= NAME_WIDTH:
            columns[0].no_wrap = True  # so that it can be copied
        table = Table(*columns, title=title, title_justify="left", box=None, pad_edge=False, padding=(0, 2, 0, 0))
        for row in rows:
            table.add_row(*(Text(cell) if isinstance(cell, str) else cell for cell in row))
        console = Console(highlight=False, stderr=self.as_json, width=max(100, self.out.width))
        console.print(table)

    def error(self, code: str, message: str) -> None:
        """An error, for both."""
        self.result({"error": {"code": code, "message": message}})
        self.err.print(f"[bold red]error:[/] {escape(message)}")

    def contract_error(self, error: ContractError) -> None:
        """Every problem of a contract, a line each."""
        problems = [
            {"file": p.file, "line": p.line, "column": p.column, "key": p.key, "message": p.message}
            for p in error.problems
        ]
        self.result({"error": {"code": error.code, "message": str(error), "problems": problems}})
        for problem in error.problems:
            place = f"{problem.file}:{problem.line}:{problem.column}:"
            key = f" [bold]{escape(problem.key)}[/]:" if problem.key else ""
            self.err.print(f"[cyan]{escape(place)}[/]{key} {escape(problem.message)}")
        count = len(error.problems)
        self.err.print(f"[bold red]error:[/] {count} problem{'s' if count != 1 else ''} in the contract")


def outcome_text(outcome: str) -> Text:
    """A verdict's outcome in its colour."""
    return Text(outcome, style=OUTCOME_STYLES.get(outcome, ""))


def number(value: float | None, digits: int = 4) -> str:
    """A measured value as people read it.

    >>> number(0.123456), number(103912.4), number(400)
    ('0.1235', '103,912', '400')
    """
    if value is None:
        return "-"
    if value == int(value) and abs(value) < 1e15:
        return f"{int(value):,}"
    return f"{value:.{digits}g}" if abs(value) < 10**digits else f"{value:,.0f}"


def lookup_words(counts: Mapping[str, int]) -> str:
    """What became of the rows that looked something up in one lookup.

    >>> counts = {"found": 7, "not_found": 2, "too_old": 1, "keys": 4, "undated": 0, "repeated": 0, "unfit": 3}
    >>> lookup_words(counts)
    '7 of 10 rows found, 2 not, 1 too old; 4 keys go with the release, 3 values of them against the contract left out'
    """
    rows = counts["found"] + counts["not_found"] + counts["too_old"]
    words = f"{counts['found']:,} of {rows:,} rows found"
    words += f", {counts['not_found']:,} not" if counts["not_found"] else ""
    words += f", {counts['too_old']:,} too old" if counts["too_old"] else ""
    words += f"; {counts['keys']:,} keys go with the release"
    words += f", {counts['unfit']:,} values of them against the contract left out" if counts["unfit"] else ""
    words += f"; {counts['undated']:,} rows of it without key or time" if counts["undated"] else ""
    return words + (f"; {counts['repeated']:,} with key and time of a later row" if counts["repeated"] else "")
