"""Names: each column of a file becomes an identifier, so that `sepal length (cm)` is `sepal_length_cm`."""

import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from shipworthy.data.sources.files import shown
from shipworthy.kernel.errors import SourceError

LONGEST = 128  # characters of an identifier


def identifier(name: str, position: int) -> str:
    """The column name that stands for `name`, the column at `position` (from 1) of a file.

    >>> identifier("sepal length (cm)", 1), identifier("", 3), identifier("2020 total", 4)
    ('sepal_length_cm', 'column_3', '_2020_total')
    """
    plain = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode()
    words = re.sub(r"[^A-Za-z0-9_]+", " ", plain).strip().replace(" ", "_")
    if not words.strip("_"):
        return f"column_{position}"
    return f"_{words}"[:LONGEST] if words[0].isdigit() else words[:LONGEST]


def identifiers(columns: Sequence[str], path: Path) -> dict[str, str]:
    """The identifier of each column, with the column's name in the file.

    Raises:
        SourceError: two columns have one name.
    """
    judge_distinct(columns, path)
    names: dict[str, str] = {}
    for position, column in enumerate(columns, 1):
        name = identifier(column, position)
        if name in names:
            raise SourceError(
                f"{path} line 1: columns {shown(names[name])} and {shown(column)} both become {name}; rename one"
            )
        names[name] = column
    return names


def judge_distinct(columns: Sequence[str], path: Path) -> None:
    """Refuse a header that has one name twice; names that are empty do not count.

    Raises:
        SourceError: names the column.
    """
    twice = [name for name, count in Counter(columns).items() if name and count > 1]
    if twice:
        raise SourceError(f"{path} line 1: two columns are named {shown(twice[0])}; rename or remove one")
