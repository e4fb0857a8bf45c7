"""Timetable and weather to one row for each scheduled flight, with what is known two hours before it is due to leave.

Nothing that is known only later becomes a feature: no real departure or arrival time, no time in the air.
"""

import polars as pl

LATE_MINUTES = 15  # later than this counts as late
KNOWN_BEFORE_H = 2  # the question is asked this long before the scheduled departure
DUE = pl.datetime(*(pl.col(part).cast(pl.Int32) for part in ("year", "month", "day", "hour")))  # New York's clock


def prepare(sources):
    weather = sources["weather"].select(
        "origin",
        (DUE + pl.duration(hours=KNOWN_BEFORE_H)).alias("due"),  # what was measured two hours before
        *("temp", "humid", "wind_speed", "precip", "pressure", "visib"),
    )
    weather = weather.unique(["origin", "due"], keep="first", maintain_order=True)
    delay = pl.col("arr_delay").cast(pl.Float64, strict=False)
    return (
        sources["flights"]
        .with_columns(DUE.alias("due"))
        .join(weather, on=["origin", "due"], how="left", maintain_order="left")
        .select(
            "flight_id",
            pl.format("{}{}/{}", "carrier", "flight", pl.col("due").dt.date()).alias("flight"),
            pl.col("due").dt.strftime("%Y-%m-%dT%H:%M:%S").alias("scheduled"),
            pl.col("due").dt.weekday().cast(pl.String).alias("weekday"),
            *("hour", "carrier", "origin", "dest", "tailnum", "distance"),
            *("temp", "humid", "wind_speed", "precip", "pressure", "visib"),
            (delay > LATE_MINUTES).cast(pl.Int8).cast(pl.String).alias("late"),  # missing where it never arrived
        )
    )
