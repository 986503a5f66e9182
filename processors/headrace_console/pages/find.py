"""One box for any id, reference, digest or offset: what it names, what became of it, and every record that has it."""

from __future__ import annotations

import re
from typing import Any

from headrace_console.page import PLACE, ConsolePage, PageRequest
from headrace_console.pages.records import record_at
from headrace_lake.learning_state import learning_state
from headrace_lake.manifest import LAKE_TOPICS
from headrace_lake.segment import IDS
from headrace_lake.views import KIND, says, table_of

ROWS = 40
_NAMED = ("release", "version", "batch", "run", "evaluation", "example", "interaction", "bucket")
_COLUMNS = ("key", "event_id", *IDS)
_MANY = ("signals", "examples", "rejections", "refs")
_FEW: tuple[str, ...] = tuple(topic for topic in LAKE_TOPICS if topic not in _MANY)
_SEARCHES = (
    (_FEW, _COLUMNS),
    (_MANY, ("interaction_id", "example_id")),
    (_MANY, ("event_id", "data_subject")),
    (("refs",), ("key",)),
)
_SHOWN = f"topic, partition, log_offset, appended_at, {KIND} AS kind, " + ", ".join(IDS)


def find(asked: PageRequest) -> dict[str, Any]:
    """Of `what`: the record, if it is a place; what is called so, by kind; records that name it, the newest first; its state, if
    it is an interaction or an example, and why."""
    what = asked.query.get("what", "").strip()[:400]
    found: dict[str, Any] = {"what": what, "record": None, "names": [], "records": [], "state": None, "more": False}
    if not what:
        return found
    if PLACE.fullmatch(what):
        return {**found, "record": record_at(asked, what)}
    rows = _by_id(asked, what) or _by_reference(asked, what)
    kinds = [kind for kind in _NAMED if any(row.get(_column(kind)) == what for row in rows)]
    interaction = next((row["interaction_id"] for row in rows if what in (row["interaction_id"], row["example_id"])), None)
    return {
        **found,
        "names": [{"kind": kind, "id": what} for kind in kinds],
        "records": rows[:ROWS],
        "more": len(rows) > ROWS,
        "state": None if interaction is None else learning_state(asked.lake, interaction),
    }


def _column(kind: str) -> str:
    return kind if kind == "bucket" else f"{kind}_id"


def _by_id(asked: PageRequest, what: str) -> list[dict[str, Any]]:
    """Records that have it as an id, or as their key. Where there are many records, first the columns that people mostly ask for,
    and each by itself: segments say of one value whether they may have it, of this or that they don't."""
    for topics, columns in _SEARCHES:
        conditions = [f"{name} = $what" for name in columns]
        if found := _inside(asked, topics, [" OR ".join(conditions)] if topics is _FEW else conditions, what):
            return found
    return []


def _by_reference(asked: PageRequest, what: str) -> list[dict[str, Any]]:
    """Records that name it inside: an adapter by the beginning of its digest, a foreign id, feedback."""
    digest = what.removeprefix("sha256:")
    if re.fullmatch(r"[0-9a-f]{6,64}", digest):
        topics, path, value = ("versions", "releases.history"), "$.data.adapter.digest", f"sha256:{digest}"
        rows = _inside(asked, topics, [f"starts_with(try(value->>'{path}'), $what)"], value)
        if rows:
            return rows
    rows = _inside(asked, ("signals",), [says("data.feedback_id", "what")], what)
    return rows or _inside(asked, ("refs",), [says("data.ref.id", "what")], what)


def _inside(asked: PageRequest, topics: tuple[str, ...], conditions: list[str], what: str) -> list[dict[str, Any]]:
    """Records for which one of the conditions holds."""
    selects = [f"SELECT {_SHOWN} FROM {table_of(topic)} WHERE {condition}" for topic in topics for condition in conditions]
    return asked.lake.run(f"{' UNION '.join(selects)} ORDER BY appended_at DESC LIMIT {ROWS + 1}", {"what": what}).dicts()


PAGES = [
    ConsolePage(
        path="/find",
        title="Find",
        about="Any id, reference, digest or topic/partition/offset, in one box.",
        model=find,
        template="find.html",
        group="Tools",
        order=1,
        live=False,
    )
]
