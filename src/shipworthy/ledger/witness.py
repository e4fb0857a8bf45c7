"""The database as a witness: its copy of the entries, and the state that it derives from them."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
from sqlalchemy import Connection, Table, select

from shipworthy.kernel.errors import ShipworthyError
from shipworthy.ledger import tables
from shipworthy.ledger.database import Database, sqlite_path
from shipworthy.ledger.events import Entry
from shipworthy.ledger.files import LocalDisk
from shipworthy.ledger.log import entries_path, split_entries
from shipworthy.ledger.projections import PROJECTIONS, project
from shipworthy.ledger.tree import TILE_WIDTH

Problem = tuple[int | None, str]  # the entry it blames, and what is wrong

_State = dict[str, dict[tuple[object, ...], dict[str, Any]]]  # table -> primary key -> row

_decode = msgspec.json.Decoder(Entry).decode


def is_there(url: str) -> bool:
    """Whether there is a database to compare; of a server it is assumed."""
    path = sqlite_path(url)
    return path is None or path.exists()


def compare_database(url: str, log: Path, size: int) -> Iterator[Problem]:
    """Where the database differs from the first `size` entries of the log; each kind of difference once."""
    if not is_there(url):
        path = sqlite_path(url)
        yield None, f"{path} is missing; `shipworthy audit rebuild` makes it anew from the log."
        return
    try:
        database = Database(url)
        try:
            with database.read() as connection:
                yield from _compare(connection, log, size)
        finally:
            database.close()
    except ShipworthyError as error:
        yield None, str(error)


def _compare(connection: Connection, log: Path, size: int) -> Iterator[Problem]:
    columns = tables.events.c
    query = select(columns.seq, columns.verb, columns.object, columns.entry).order_by(columns.seq)
    rows = connection.execution_options(yield_per=TILE_WIDTH).execute(query)
    state: _State = {table.name: {} for table in tables.metadata.sorted_tables}
    disk = LocalDisk()
    for index in range(-(-size // TILE_WIDTH)):
        base = index * TILE_WIDTH
        for seq, line in enumerate(
            split_entries(disk.read(entries_path(log, index)) or b"")[: size - base], start=base + 1
        ):
            row = rows.fetchone()
            if row is None or row[0] != seq:
                yield seq, f"Entry {seq} is missing in the database."
                return
            if row[3].encode() != line:
                yield seq, f"Entry {seq} of the database differs from the log."
                return
            try:
                entry = _decode(line)
            except msgspec.MsgspecError as error:
                yield seq, f"Entry {seq} is not an entry: {error}."
                return
            if row[1] != entry.verb or row[2] != entry.object:
                yield seq, f"Entry {seq} is filed under another verb or object in the database."
            _replay(state, entry)
    if (row := rows.fetchone()) is not None:
        yield row[0], f"The database has entry {row[0]}, which the log does not have."
    for table in tables.metadata.sorted_tables:
        if table is not tables.events:
            yield from _compare_state(connection, table, state[table.name])


def _replay(state: _State, entry: Entry) -> None:
    if entry.verb not in PROJECTIONS and "artefacts" not in entry.body and "links" not in entry.body:
        return
    for row in project(entry):
        key = tuple(row.values[column.name] for column in row.table.primary_key)
        rows = state[row.table.name]
        if row.again == "replace" or key not in rows:
            rows[key] = dict(row.values)


def _compare_state(
    connection: Connection, table: Table, expected: dict[tuple[object, ...], dict[str, Any]]
) -> Iterator[Problem]:
    seen = 0
    for row in connection.execute(select(table)).mappings():
        values = dict(row)
        key = tuple(values[column.name] for column in table.primary_key)
        if (wanted := expected.get(key)) is None:
            yield values["seq"], f"Table {table.name} has a row that no entry made: {key}."
        elif wanted != values:
            yield wanted["seq"], f"Table {table.name} differs from entry {wanted['seq']}: {key}."
        seen += wanted is not None
    if seen < len(expected):
        keys = {tuple(row) for row in connection.execute(select(*table.primary_key))}
        for key, wanted in expected.items():
            if key not in keys:
                yield wanted["seq"], f"Table {table.name} lacks what entry {wanted['seq']} made: {key}."
