"""The log by topic, partition and offset: a list with filters, and one record whole. Knows columns, no event's meaning."""

from __future__ import annotations

import json
from datetime import UTC
from typing import Any

from headrace_console.page import PLACE, ConsolePage, PageMissing, PageRequest, number_in
from headrace_lake.manifest import LAKE_TOPICS
from headrace_lake.segment import IDS
from headrace_lake.views import KIND, table_of
from headrace_schemas.topology import TOPOLOGY

ROWS = 50
# Raw texts, for the privacy role: nothing is scrubbed in them.
RAW = {"dead-letters": ("key_base64", "value_base64", "headers")}
_SHOWN = ", ".join(("topic", "partition", "log_offset", "appended_at", f"{KIND} AS kind", "key", "origin", *IDS))
_OLDER = "(appended_at, partition, log_offset) < (make_timestamp($at * 1000), $partition, $offset)"


def records(asked: PageRequest) -> dict[str, Any]:
    """Records of a topic, the newest first: `type`, `stage` (which wrote it), `partition` and `bucket` narrow it, `before` (ms,
    partition, offset) goes on behind a page."""
    topic = asked.names["topic"]
    if topic not in LAKE_TOPICS:
        raise PageMissing(f"the lake has no topic {topic!r}: it has {', '.join(LAKE_TOPICS)}")
    given = {name: asked.query[name] for name in ("type", "stage", "partition", "bucket") if asked.query.get(name)}
    conditions, values = ["true"], dict[str, Any]()
    if "type" in given:
        conditions.append("event_type = $type")
        values["type"] = f"headrace.{given['type']}.v1"
    if "stage" in given:
        conditions.append("starts_with(origin, $stage)")
        values["stage"] = f"{given['stage']}/"
    if (number := number_in(given.get("partition", ""), 9)) is not None:
        conditions.append("partition = $number")
        values["number"] = number
    if "bucket" in given:
        conditions.append("bucket = $bucket")
        values["bucket"] = given["bucket"]
    narrowed = " AND ".join(conditions)
    before = [number_in(part, 15) for part in asked.query.get("before", "").split(",")]
    older = _OLDER if len(before) == 3 and None not in before else "true"
    page = dict(zip(("at", "partition", "offset"), before, strict=True)) if older == _OLDER else {}
    found = asked.lake.run(
        f"SELECT {_SHOWN} FROM {table_of(topic)} WHERE {narrowed} AND {older} "
        f"ORDER BY appended_at DESC, partition DESC, log_offset DESC LIMIT {ROWS + 1}",
        {**values, **page},
    ).dicts()
    types = asked.lake.run(
        "SELECT kind, CAST(sum(records) AS BIGINT) AS records FROM activity WHERE topic = $topic GROUP BY 1 ORDER BY 2 DESC, 1",
        {"topic": topic},
    ).dicts()
    last = found[ROWS - 1] if len(found) > ROWS else None
    return {
        "topic": topic,
        "topics": list(LAKE_TOPICS),
        "filters": given,
        "types": types,
        "stages": [stage.name for stage in TOPOLOGY],
        "records": found[:ROWS],
        "next": None if last is None else f"{_ms(last['appended_at'])},{last['partition']},{last['log_offset']}",
    }


def record(asked: PageRequest) -> dict[str, Any]:
    """One record: where it lies, who wrote it from what, and all that it says."""
    place = asked.names["place"]
    found = record_at(asked, place)
    if found is None:
        partition = place.rpartition("/")[0]
        cut = asked.manifest.cut.get(partition)
        where = f"it has {partition} up to {cut}" if cut is not None else f"it has no {partition}"
        raise PageMissing(f"the lake has no record {place}: {where}, and between records lie markers")
    return found


def record_at(asked: PageRequest, place: str) -> dict[str, Any] | None:
    """A record of the lake by its place; None for one that it does not have."""
    named = PLACE.fullmatch(place)
    if named is None or named[1] not in LAKE_TOPICS:
        return None
    topic = named[1]
    rows = asked.lake.run(
        f"SELECT {_SHOWN}, event_id, source, value, odd FROM {table_of(topic)} "
        "WHERE partition = $partition AND log_offset = $offset",
        {"partition": int(named[2]), "offset": int(named[3])},
    ).dicts()
    if not rows:
        return None
    found = rows[0]
    value, odd = found.pop("value"), found.pop("odd")
    found["odd"] = odd is not None
    event = _object(value if value is None else asked.lake.opener.opened(value, odd))
    data = event.get("data") if isinstance(event, dict) else None
    if isinstance(data, dict) and not asked.visitor.may("privacy"):
        data |= {name: "(raw: for the role privacy)" for name in RAW.get(topic, ()) if name in data}
    return {"record": found, "made_of": _made_of(found["origin"]), "event": event}


def _object(value: str | None) -> Any:
    """What a record says, as a tree; the text itself where it is none."""
    if value is None:
        return None
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        return value


def _made_of(origin: str | None) -> dict[str, Any] | None:
    """Which stage wrote a record, and from which record: `stage/topic/partition/offset/ordinal`."""
    parts = (origin or "").split("/")
    if len(parts) < 4 or not (parts[2].isdigit() and parts[3].isdigit()):
        return {"stage": parts[0]} if parts[0] else None
    return {"stage": parts[0], "topic": parts[1], "partition": int(parts[2]), "offset": int(parts[3])}


def _ms(moment: Any) -> int:
    return int(moment.replace(tzinfo=UTC).timestamp() * 1000)


PAGES = [
    ConsolePage(
        path="/records/{topic:[a-z.-]+}",
        title="Records",
        about="The log, record by record: a topic's newest first, by type, stage, bucket and partition.",
        model=records,
        template="records.html",
        sample="SELECT DISTINCT topic FROM records",
        live=False,
    ),
    ConsolePage(
        path="/records/{place:[a-z.-]+/[0-9]+/[0-9]+}",
        title="Record",
        about="One record of the log, whole, with who wrote it from which other one.",
        model=record,
        template="record.html",
        sample="SELECT topic || '/' || partition || '/' || log_offset FROM (SELECT * FROM dead_letters LIMIT 2) UNION ALL "
        "SELECT topic || '/' || partition || '/' || log_offset FROM (SELECT * FROM examples LIMIT 2) UNION ALL "
        "SELECT topic || '/' || partition || '/' || log_offset FROM (SELECT * FROM releases LIMIT 2)",
        live=False,
    ),
]
