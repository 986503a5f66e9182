"""Who is silent, as a page shows it: expected against seen, muted by whom, and who speaks. Knows the lake, not who is missed."""

from __future__ import annotations

from typing import Any

from headrace_lake.query import LakeQuery
from headrace_lake.views import event, table_of
from headrace_schemas.events import TrafficObserved
from headrace_streams.kafka.reader import decode_or_none
from headrace_streams.silences import SilenceBook, described

EVENTS, SPEAKERS, PAST = 5_000, 50, 20
_TABLE = table_of("assessments")


def silence_view(lake: LakeQuery, now_ms: int) -> dict[str, Any]:
    """Open silences, the longest first; those that are over, the newest first; agents, raters and buckets of the observer's last
    table, who has been silent for longest first."""
    book = SilenceBook()
    kinds = event("silence.raised", "silence.ended", "silence.muted")
    rows = lake.run(
        f"SELECT value FROM (SELECT * FROM {_TABLE} WHERE {kinds} ORDER BY appended_at DESC LIMIT {EVENTS}) "
        "ORDER BY appended_at, partition, log_offset"
    ).rows
    for (value,) in rows:
        book.take(decode_or_none(str(value).encode()))
    ended = lake.run(
        "SELECT kind, subject, since, event_time AS ended FROM silences WHERE said = 'headrace.silence.ended.v1' "
        f"ORDER BY appended_at DESC LIMIT {PAST}"
    ).dicts()
    open_ = [described(each, now_ms) for each in book]
    return {
        "open": [each for each in open_ if not each["muted"]],
        "muted": [each for each in open_ if each["muted"]],
        "ended": ended,
        **_speakers(lake),
    }


def _speakers(lake: LakeQuery) -> dict[str, Any]:
    """Who speaks, as the observer last put it on the log."""
    found = lake.run(
        f"SELECT value, appended_at FROM {_TABLE} WHERE {event('traffic.observed')} ORDER BY appended_at DESC LIMIT 1"
    ).rows
    seen = decode_or_none(str(found[0][0]).encode()) if found else None
    if not isinstance(seen, TrafficObserved) or not isinstance(seen.data.body, dict):
        return {"observed_at": None, "agents": [], "raters": [], "buckets": []}
    body = seen.data.body
    return {
        "observed_at": found[0][1],
        **{kind: _listed(body.get(kind), ("last_ms", "times", "pause_ms")) for kind in ("agents", "raters")},
        "buckets": _listed(body.get("buckets"), ("last_ms", "answers", "unspoken", "spoken_ms")),
    }


def _listed(table: Any, columns: tuple[str, ...]) -> list[dict[str, Any]]:
    """Rows of a table by name, whoever has been silent for longest first."""
    if not isinstance(table, dict):
        return []
    rows = [
        {"name": name, **{column: row.get(column) for column in columns}} for name, row in table.items() if isinstance(row, dict)
    ]
    return sorted(rows, key=lambda row: (row["last_ms"] or 0, row["name"]))[:SPEAKERS]
