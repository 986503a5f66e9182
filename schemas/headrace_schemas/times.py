"""RFC 3339 text <-> integers since the epoch. Reads no clock."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

_RFC3339 = re.compile(
    r"(\d{4})-(\d{2})-(\d{2})[Tt ](\d{2}):(\d{2}):(\d{2})(?:\.(\d{1,9}))?(?:([Zz])|([+-])(\d{2}):(\d{2}))",
    re.ASCII,
)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
NANOS = 1_000_000_000


def parse_ns(text: str) -> int:
    """Nanoseconds since the epoch. ValueError when `text` is no RFC 3339 date-time with offset (up to 9 fractional digits)."""
    match = _RFC3339.fullmatch(text)
    if match is None:
        raise ValueError(f"not an RFC 3339 time with offset: {text!r}")
    year, month, day, hour, minute, second = (int(part) for part in match.groups()[:6])
    leap = second == 60  # allowed by RFC 3339; counted as the first instant of the next minute
    moment = datetime(year, month, day, hour, minute, 59 if leap else second, tzinfo=UTC)
    offset = timedelta()
    if match[9]:
        hours, minutes = int(match[10]), int(match[11])
        if hours > 23 or minutes > 59:
            raise ValueError(f"not a time offset: {text!r}")
        offset = timedelta(hours=hours, minutes=minutes) * (-1 if match[9] == "-" else 1)
    since = moment - _EPOCH - offset + timedelta(seconds=1 if leap else 0)
    whole = since.days * 86400 + since.seconds
    return whole * NANOS + (0 if leap else int((match[7] or "").ljust(9, "0")))


def rfc3339(ms: int) -> str:
    """`2026-11-21T10:00:00.123Z` for milliseconds since the epoch."""
    moment = _EPOCH + timedelta(milliseconds=ms)
    return moment.strftime("%Y-%m-%dT%H:%M:%S.") + f"{ms % 1000:03d}Z"
