"""Values of a request, read as `data.values` and `data.datetimes` read them from a table."""

import re
from collections.abc import Collection
from datetime import UTC, datetime, timedelta
from functools import cache
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from shipworthy.contract.expression_text import SPACES
from shipworthy.contract.expressions import MISSING
from shipworthy.kernel.errors import IntegrityError

EARLIEST_YEAR, LATEST_YEAR, LATEST_ZONED_YEAR = 1000, 9999, 2099  # as `data.datetimes` has them
_LEAP = "60"  # a second that RFC 3339 knows and Python does not
_ISO = re.compile(
    r"(?P<day>\d{4}-\d\d-\d\d)"
    r"(?:[ T](?P<minute>\d\d:\d\d)(?::(?P<second>\d\d)(?P<fraction>\.\d+)?)?(?P<offset>[Zz]|[+-]\d\d(?::?\d\d)?)?)?",
    re.ASCII,
)


def clean_text(text: str, values: Collection[str] = ()) -> str | None:
    """`text` without blanks around it; None for a word that means missing and is none of `values`.

    >>> clean_text(" purchase "), clean_text("NA"), clean_text("NA", {"NA"})
    ('purchase', None, 'NA')
    """
    trimmed = text.strip(SPACES)
    return None if trimmed in MISSING and trimmed not in values else trimmed


@cache
def find_zone(name: str | None) -> ZoneInfo | None:
    """The IANA time zone; None for UTC.

    Raises:
        IntegrityError: there is no such zone.
    """
    if name is None:
        return None
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise IntegrityError(f"The payload names the time zone {name!r}, which this machine does not know.") from None


def read_datetime(text: str, zone: ZoneInfo | None) -> datetime | None:
    """The moment on the clock of `zone` (None: UTC); None where `text` is not ISO 8601 or no such moment exists.

    A text without offset is local time; of an hour that the clock shows twice it is the first, and one that the
    clock skips does not exist.

    >>> read_datetime("2026-01-31T09:30:00Z", ZoneInfo("Europe/Vienna")).hour
    10
    """
    found = _ISO.fullmatch(text)
    if found is None:
        return None
    try:
        return _moment(found, zone)
    except (ValueError, OverflowError):  # a day, hour or offset that is not, or beyond the calendar
        return None


def _moment(found: re.Match[str], zone: ZoneInfo | None) -> datetime | None:
    second, offset = found["second"] or "00", found["offset"]
    extra = timedelta(seconds=1) if second == _LEAP else timedelta()
    fraction = (found["fraction"] or ".0")[:7]  # microseconds; finer digits are cut
    written = f"{found['day']}T{found['minute'] or '00:00'}:{'59' if extra else second}{fraction.ljust(7, '0')}"
    local = datetime.fromisoformat(written) + extra
    if offset is None:
        moment = _exists(local, zone)
    else:
        moment = (local - _shift(offset)).replace(tzinfo=UTC)
        local = moment.replace(tzinfo=None)
    if moment is None or not (
        local.year >= EARLIEST_YEAR and moment.year <= (LATEST_ZONED_YEAR if zone else LATEST_YEAR)
    ):
        return None
    return moment if zone is None else moment.astimezone(zone)


def _exists(local: datetime, zone: ZoneInfo | None) -> datetime | None:
    if zone is None:
        return local.replace(tzinfo=UTC)
    moment = local.replace(tzinfo=zone).astimezone(UTC)
    return moment if moment.astimezone(zone).replace(tzinfo=None) == local else None


def _shift(offset: str) -> timedelta:
    if offset in "Zz":
        return timedelta()
    hours, minutes = int(offset[1:3]), int(offset[-2:]) if len(offset) > 3 else 0
    if hours > 23 or minutes > 59:
        raise ValueError(offset)
    shift = timedelta(hours=hours, minutes=minutes)
    return -shift if offset[0] == "-" else shift
