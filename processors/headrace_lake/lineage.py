"""Where a derived record came from: its provenance headers. Knows no topic and no event."""

from __future__ import annotations

from typing import NamedTuple

from headrace_streams.runtime.stage import Headers


class Provenance(NamedTuple):
    """Coordinates of the input record that a derived record was made of; `ordinal` numbers what that one made."""

    stage: str
    topic: str
    partition: int
    offset: int
    ordinal: int


def provenance_of(headers: Headers) -> Provenance | None:
    """The provenance of a derived record; None for records that no stage derived from an input."""
    named = dict(headers)
    try:
        return Provenance(
            named["headrace-stage"].decode(),
            named["headrace-topic"].decode(),
            int(named["headrace-partition"]),
            int(named["headrace-offset"]),
            int(named["headrace-ordinal"]),
        )
    except (KeyError, ValueError):
        return None
