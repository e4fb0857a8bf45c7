"""Datetimes: the format of a text column is found once, and every row is held to it."""

from dataclasses import dataclass

import polars as pl

SAMPLE_ROWS = 2000  # enough to tell day from month; the whole column is then held to one format
FEW_ROWS = 100  # of the sample, on which the formats that read none of it are set aside
EARLIEST_YEAR, LATEST_YEAR = 1000, 9999  # a year of two digits read by %Y gives 13, which nobody means
LATEST_ZONED_YEAR = 2099  # tables of time zones end there, and readers differ on what comes after
_DATES = ("%Y-%m-%d", "%Y/%m/%d", "%d.%m.%Y", "%m/%d/%Y", "%d/%m/%Y", "%m/%d/%y", "%d/%m/%y", "%d-%b-%Y", "%d-%m-%Y")
_TIMES = ("", " %H:%M", " %H:%M:%S%.f", "T%H:%M", "T%H:%M:%S%.f")
_OFFSETS = (" %H:%M%#z", "T%H:%M%#z", " %H:%M:%S%.f%#z", "T%H:%M:%S%.f%#z")
FORMATS: tuple[str, ...] = tuple(
    date + time for date in _DATES for time in (*_TIMES, *_OFFSETS) if "T" not in time or date == "%Y-%m-%d"
)
_DATE = r"\d\s*[-/.]\s*[+-]?\w+\s*[-/.]\s*[+-]?\d"  # what any of them reads has


@dataclass(frozen=True, slots=True)
class Format:
    """How a column writes its datetimes."""

    pattern: str  # strftime; `%.f` is an optional fraction, `%#z` an offset
    share: float  # of the sampled texts that it reads, 0 to 1
    ambiguous: bool  # another order of day and month reads as many


def detect_format(texts: pl.Series) -> Format | None:
    """The format that reads most of the texts, or None when none reads any.

    >>> detect_format(pl.Series(["2026-03-01", "2026-03-02"])).pattern
    '%Y-%m-%d'
    """
    sample = _sample(texts)
    dates = sample.filter(sample.str.contains(_DATE))
    if not len(dates):
        return None
    few = dates.gather_every(max(1, len(dates) // FEW_ROWS))
    likely = [pattern for pattern in FORMATS if _count(few, pattern)] or FORMATS
    counts = dict.fromkeys(FORMATS, 0) | {pattern: _count(dates, pattern) for pattern in likely}
    best = max(FORMATS, key=lambda pattern: counts[pattern])
    if not counts[best]:
        return None
    twin = best.replace("%m/%d", "%d/%m")
    return Format(best, counts[best] / len(sample), twin != best and counts[twin] == counts[best])


def parse_datetimes(texts: pl.Expr, pattern: str, zone: str | None) -> pl.Expr:
    """Instants in UTC, microseconds; null where a text is not of the format or its local time does not exist.

    A text without an offset is local time in `zone` (UTC when None); of an hour that a clock shows twice it
    is the first. With a zone, years end at 2099.
    """
    parsed = texts.str.to_datetime(pattern, strict=False, time_unit="us")
    instants = parsed if "z" in pattern else localise(parsed, zone)
    years = (parsed.dt.year() >= EARLIEST_YEAR) & (
        instants.dt.year() <= (LATEST_YEAR if zone is None else LATEST_ZONED_YEAR)
    )
    return pl.when(years).then(instants)


def localise(values: pl.Expr, zone: str | None) -> pl.Expr:
    """Local times of `zone` as instants in UTC."""
    local = values.dt.replace_time_zone(zone or "UTC", non_existent="null", ambiguous="earliest")
    return local.dt.convert_time_zone("UTC")


def _sample(texts: pl.Series) -> pl.Series:
    known = texts.drop_nulls()
    return known.gather_every(max(1, len(known) // SAMPLE_ROWS)).head(SAMPLE_ROWS).str.strip_chars()


def _count(sample: pl.Series, pattern: str) -> int:
    parsed = sample.to_frame("text").select(parse_datetimes(pl.col("text"), pattern, None)).to_series()
    return len(parsed) - parsed.null_count()
