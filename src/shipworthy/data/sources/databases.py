"""Databases of the user: the rows of a query, some at a time, and a table written whole or not at all.

SQLite and PostgreSQL, named by URL. A secret stands in the environment, named as `${NAME}`; no message repeats it.
"""

import re
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

import polars as pl
import sqlalchemy as sa

from shipworthy.data.sources.attempts import Deadline
from shipworthy.data.sources.block import Block
from shipworthy.kernel.digest import digest_json
from shipworthy.kernel.errors import (
    ConflictError,
    DeadlineError,
    SourceError,
    StorageError,
    UnavailableError,
    UsageError,
)

DRIVERS = {"sqlite": "sqlite", "postgresql": "postgresql+psycopg", "postgres": "postgresql+psycopg"}
BATCH_ROWS = 32_768
_CONNECT_S = 10.0
_EXACT_WHOLE = 2**53  # from here on float64 skips whole numbers
_VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")
_TABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,62}")


@dataclass(frozen=True, slots=True)
class Query:
    """A query on a database."""

    url: str  # as it was written, with `${NAME}` for secrets
    text: str
    environ: Mapping[str, str] = field(repr=False)
    since: "Since | None" = None
    timeout_s: float | None = None  # for connecting, and for each batch of rows

    @property
    def place(self) -> str:
        """The database, without secrets."""
        return self.url

    @property
    def digest(self) -> str:
        """Of the words, not of the rows."""
        return digest_json([self.url, self.text])


@dataclass(frozen=True, slots=True)
class Since:
    """Rows from a value of a column on, that value among them."""

    column: str
    value: Any  # as the database gave it


@dataclass(frozen=True, slots=True)
class Target:
    """A table of a database, which is to be written."""

    url: str  # as it was written
    table: str
    environ: Mapping[str, str] = field(repr=False)


def is_database(place: str) -> bool:
    """Whether a place is named by a URL.

    >>> is_database("sqlite:///loans.db"), is_database("${LOANS_URL}"), is_database("loans.csv")
    (True, True, False)
    """
    return "://" in place or _VARIABLE.fullmatch(place) is not None


def stream_query(query: Query) -> Generator[Block, None, None]:
    """The rows of a query, in one transaction that cannot write.

    Raises:
        UsageError: the URL cannot be used.
        SourceError: the database cannot be reached, or does not answer the query.
    """
    with _connected(query.url, query.environ, SourceError, must_exist=True, timeout_s=query.timeout_s) as connection:
        if connection.dialect.name == "sqlite":
            connection.exec_driver_sql("PRAGMA query_only = ON")
            connection.rollback()
        options = {"postgresql_readonly": True} if connection.dialect.name == "postgresql" else {}
        connection = connection.execution_options(stream_results=True, yield_per=BATCH_ROWS, **options)
        result = connection.exec_driver_sql(*_statement(query, connection.dialect.name))
        if not result.returns_rows:
            raise SourceError(f"{query.place}: the query gives no rows; write a SELECT")
        with closing(result):
            names = list(result.keys())
            for rows in result.partitions(BATCH_ROWS):
                yield Block.whole(_frame(names, [tuple(row) for row in rows]))


def read_query(query: Query, deadline: Deadline) -> pl.DataFrame | None:
    """All rows of a query in memory; None if there are none.

    Raises:
        UsageError: the URL cannot be used.
        UnavailableError: the database cannot be reached, or is gone in the middle; it may be there a little later.
        DeadlineError: it takes too long.
        SourceError: it does not answer the query, or with what no type of the contract reads.
    """
    frames: list[pl.DataFrame] = []
    with closing(stream_query(replace(query, timeout_s=deadline.left_s))) as blocks:
        for block in blocks:
            _judge_kinds(block.frame, query.place)
            frames.append(block.frame)
            _ = deadline.left_s
    return concat_exactly(frames, query.place) if frames else None


def query_columns(query: Query) -> tuple[str, ...]:
    """The columns that a query gives; the database is asked for no row.

    Raises:
        UsageError, UnavailableError, SourceError: as for `read_query`.
    """
    with _connected(query.url, query.environ, SourceError, must_exist=True, timeout_s=query.timeout_s) as connection:
        (text,) = _statement(query, connection.dialect.name)
        limited = f"SELECT * FROM (\n{_bare(text)}\n) AS shipworthy_source LIMIT 0"  # noqa: S608  # the user's own
        return tuple(connection.exec_driver_sql(limited).keys())


def concat_exactly(frames: list[pl.DataFrame], place: str) -> pl.DataFrame:
    """The frames below each other: a column that is text in one is text in all, a number stays the same number.

    Raises:
        SourceError: a whole number cannot be the fraction that its column elsewhere is.
    """
    whole = pl.concat(frames, how="vertical_relaxed")
    for column, kind in whole.schema.items():
        parts = [frame[column] for frame in frames if frame.schema[column].is_integer()] if kind.is_float() else []
        if any((part.abs() > _EXACT_WHOLE).any() for part in parts):
            raise SourceError(
                f"{place}: column {column!r} holds fractions and whole numbers above 2^53; cast it to text in the query"
            )
    return whole


def _statement(query: Query, dialect: str) -> tuple[Any, ...]:
    """The text and its bound values, as the driver takes them; psycopg reads a single % as the start of a value."""
    is_sqlite = dialect == "sqlite"
    text = query.text if is_sqlite else query.text.replace("%", "%%")
    if query.since is None:
        return (text,)
    name = query.since.column.replace('"', '""')
    value = "?" if is_sqlite else "%s"
    return f'SELECT * FROM (\n{_bare(text)}\n) AS shipworthy_source WHERE "{name}" >= {value}', (query.since.value,)  # noqa: S608  # the user's own


def _bare(text: str) -> str:
    return text.strip().rstrip(";")


def _judge_kinds(frame: pl.DataFrame, place: str) -> None:
    for column, kind in frame.schema.items():
        if kind.is_nested() or kind in (pl.Duration, pl.Time, pl.Binary, pl.Object):
            raise SourceError(f"{place}: column {column!r} holds {kind}; cast it to text or a number in the query")


def judge_target(target: Target) -> None:
    """Refuse what cannot be the name of a table.

    Raises:
        UsageError: says what may.
    """
    if not _TABLE.fullmatch(target.table):
        raise UsageError(f"--table {target.table!r}: name it with letters, digits and _, 63 at most")


def count_rows(target: Target) -> int | None:
    """How many rows the table has; None if there is none.

    Raises:
        UsageError: the URL cannot be used.
        StorageError: the database cannot be reached.
    """
    with _connected(target.url, target.environ, StorageError) as connection:
        if not sa.inspect(connection).has_table(target.table):
            return None
        return int(connection.execute(sa.select(sa.func.count()).select_from(sa.table(target.table))).scalar_one())


def write_table(
    target: Target,
    schema: Mapping[str, pl.DataType],
    frames: Iterable[pl.DataFrame],
    *,
    replace: bool,
) -> None:
    """Make the table of all frames, in one transaction: until its end nobody sees a row.

    Args:
        target: which table.
        schema: its columns.
        frames: the rows, some at a time.
        replace: whether a table of this name is dropped, in the same transaction.

    Raises:
        UsageError: the URL cannot be used.
        ConflictError: there is a table of this name.
        StorageError: the database cannot be reached or refuses.
    """
    table = sa.Table(target.table, sa.MetaData(), *[sa.Column(name, _type_of(kind)) for name, kind in schema.items()])
    with _connected(target.url, target.environ, StorageError) as connection:
        if connection.dialect.name == "sqlite":
            connection.exec_driver_sql("BEGIN IMMEDIATE")  # or its driver would commit each definition by itself
        if replace:
            table.drop(connection, checkfirst=True)
        elif sa.inspect(connection).has_table(target.table):
            raise ConflictError(f"{target.url} has a table {target.table}; add --replace, or name another with --table")
        table.create(connection)
        for frame in frames:
            if frame.height:
                connection.execute(table.insert(), frame.to_dicts())
        connection.commit()


@contextmanager
def _connected(
    url: str,
    environ: Mapping[str, str],
    failure: Callable[[str], Exception],
    *,
    must_exist: bool = False,
    timeout_s: float | None = None,
) -> Iterator[sa.Connection]:
    resolved = _resolve(url, environ)
    path = resolved.database if resolved.drivername == "sqlite" else None
    if must_exist and path is not None and not Path(path).is_file():
        raise SourceError(f"{url}: there is no such file; correct the path")
    engine = sa.create_engine(resolved, poolclass=sa.NullPool, connect_args=_limits(path is not None, timeout_s))
    passing = failure if timeout_s is None else UnavailableError  # who sets a time tries again
    try:
        with engine.connect() as connection:
            yield connection
    except (sa.exc.OperationalError, sa.exc.InterfaceError) as error:
        if "statement timeout" in str(error.orig):
            raise DeadlineError(f"{url}: it takes too long") from None
        raise passing(f"{url}: {_first_line(error)}") from None
    except sa.exc.DBAPIError as error:
        raise failure(f"{url}: {_first_line(error)}") from None
    except (sa.exc.SQLAlchemyError, ImportError) as error:
        raise failure(f"{url}: {type(error).__name__}") from None
    finally:
        engine.dispose()


def _limits(is_sqlite: bool, timeout_s: float | None) -> dict[str, Any]:
    """How long the driver waits."""
    if timeout_s is None:
        return {}
    if is_sqlite:
        return {"timeout": timeout_s}  # for a lock
    milliseconds = max(int(timeout_s * 1000), 1)
    return {
        "connect_timeout": max(int(min(timeout_s, _CONNECT_S)), 2),  # libpq takes 1 for 2
        "tcp_user_timeout": milliseconds,
        "options": f"-c statement_timeout={milliseconds}",
    }


def _resolve(url: str, environ: Mapping[str, str]) -> sa.URL:
    unset = [name for name in _VARIABLE.findall(url) if not environ.get(name)]
    if unset:
        raise UsageError(f"{url}: the environment variable {unset[0]} is not set")
    is_whole = _VARIABLE.fullmatch(url) is not None
    filled = _VARIABLE.sub(lambda found: environ[found[1]] if is_whole else quote(environ[found[1]], safe=""), url)
    try:
        parsed, written = sa.make_url(filled), None if is_whole else sa.make_url(url)
    except (sa.exc.ArgumentError, ValueError):
        raise UsageError(
            f"{url}: is no address of a database; write sqlite:///FILE or postgresql://HOST/NAME"
        ) from None
    if written is not None and written.password and not _VARIABLE.search(str(written.password)):
        hidden = written.render_as_string(hide_password=True)
        raise UsageError(f"{hidden}: a password stands in the URL; put it in the environment and write ${{NAME}}")
    driver = DRIVERS.get(parsed.drivername)
    if driver is None:
        raise UsageError(f"{url}: databases are sqlite:///FILE and postgresql://HOST/NAME")
    return parsed.set(drivername=driver)


def _frame(names: list[str], rows: list[tuple[Any, ...]]) -> pl.DataFrame:
    columns = []
    for name, values in zip(names, zip(*rows, strict=True), strict=True):
        series = pl.Series(name, values, strict=False)
        if isinstance(series.dtype, pl.Decimal):
            series = series.cast(pl.Float64)
        elif series.dtype == pl.Object:  # such as a UUID
            series = pl.Series(name, [None if value is None else str(value) for value in values], dtype=pl.String)
        columns.append(series)
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise SourceError(f"the query gives two columns named {twice[0]!r}; name one otherwise with AS")
    return pl.DataFrame(columns)


def _type_of(kind: pl.DataType) -> Any:
    if kind.is_float() or kind.is_decimal():
        return sa.Double()
    if kind.is_integer():
        return sa.BigInteger()
    if kind == pl.Boolean:
        return sa.Boolean()
    if isinstance(kind, pl.Datetime):
        return sa.DateTime(timezone=kind.time_zone is not None)
    return sa.Date() if kind == pl.Date else sa.Text()


def _first_line(error: sa.exc.DBAPIError) -> str:
    return (str(error.orig).strip().splitlines() or [type(error.orig).__name__])[0]
