"""Moments as people type them."""

from datetime import UTC, datetime

from shipworthy.kernel.errors import UsageError


def parse_moment(text: str, where: str) -> float:
    """Unix seconds of a date or datetime in ISO 8601; UTC where no offset is given.

    Args:
        text: such as `2013-05-01` or `2013-05-01T12:00:00-04:00`.
        where: the option or field, for the message.

    Raises:
        UsageError: it is neither.

    >>> parse_moment("1970-01-02", "--as-of")
    86400.0
    """
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise UsageError(f"{where}: {text!r} is no time; write 2013-05-01 or 2013-05-01T12:00:00Z") from None
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
