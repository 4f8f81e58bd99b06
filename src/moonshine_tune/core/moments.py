"""Moments as tables and logs write them: ISO 8601, or seconds or milliseconds since 1970."""

from datetime import UTC, datetime

# Seconds from 2001 on, and milliseconds: smaller numbers are lengths or counts.
_EARLIEST_S, _LATEST_S = 1e9, 1e11


def seconds_since_1970(value: object) -> float | None:
    """A moment in seconds since 1970 (UTC); None where the value is none.

    A time without a zone counts as UTC: moments of one log are only compared with each other.
    """
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        return None
    text = value.strip() if isinstance(value, str) else format(value, ".17g")
    try:
        number = float(text)
    except ValueError:
        return _seconds_of_date(text)
    for unit in (1, 1e3, 1e6):
        if _EARLIEST_S <= number / unit < _LATEST_S:
            return number / unit
    # `20240501` is a date, and no number of seconds.
    return _seconds_of_date(text)


def _seconds_of_date(text: str) -> float | None:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return None
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
