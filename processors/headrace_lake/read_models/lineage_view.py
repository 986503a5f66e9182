"""What something is made of, or what came of it: what `headrace explain` and `impact` print with `--json`, and the console shows.
Knows the lake's lineage and states.
"""

from __future__ import annotations

from msgspec import Struct

from headrace_lake.learning_state import LearningState, learning_state
from headrace_lake.lineage import Lineage, LineageRecord, RecordPlace, places_of, published_fate, trace
from headrace_lake.query import LakeQuery
from headrace_lake.views import table_of

_ABOUT = ("interaction", "example", "signal", "event", "published")


class LineageNode(Struct, frozen=True, kw_only=True):
    """A record in a lineage."""

    kind: str
    id: str
    place: str
    note: str = ""


class LineageLink(Struct, frozen=True, kw_only=True):
    """`upper` was made of `lower`; `how`: the part that it has in it."""

    upper: str
    lower: str
    how: str = ""


class LineageView(Struct, frozen=True, kw_only=True):
    """One way through a lineage from an id. `state`: of the interaction that it is about, if it is one; `fate`: why nothing came
    of a published record; `inherited`: what goes on from it, or it from, by adapters."""

    id: str
    kind: str
    state: LearningState | None
    fate: str | None
    records: list[LineageNode]
    edges: list[LineageLink]
    inherited: list[LineageNode]


def lineage_view(
    lake: LakeQuery, name: str, *, up: bool, state: LearningState | None = None
) -> tuple[LineageView, Lineage] | None:
    """All that `name` was made of, or (`up`) all that came of it, and the lineage itself; None where the lake has no such id.
    `state`: of its interaction, where that is known already."""
    kind, places = places_of(lake, name)
    found = trace(lake, places, up=up) if places else None
    if found is None or not (found.edges or found.records):
        return None
    came_of_it = found if up or kind != "published" else trace(lake, places, up=True)
    fate = published_fate(lake, places[0]) if kind == "published" and not came_of_it.edges else None
    about = _interaction(lake, found) if kind in _ABOUT else None
    view = LineageView(
        id=name,
        kind=kind,
        state=state if about is None or state is not None else learning_state(lake, about),
        fate=fate,
        records=[_node(record) for record in sorted(found.records.values())],
        edges=[LineageLink(upper=str(edge.upper), lower=str(edge.lower), how=edge.how) for edge in found.edges],
        inherited=[_node(record) for record in found.inherited],
    )
    return view, found


def _interaction(lake: LakeQuery, found: Lineage) -> str | None:
    """The interaction that the subjects are about, if it is one."""
    first = min((place for place in found.records if place.topic in ("signals", "examples")), default=None)
    return None if first is None else _interaction_at(lake, first)


def _interaction_at(lake: LakeQuery, place: RecordPlace) -> str | None:
    rows = lake.all(
        f"SELECT interaction_id FROM {table_of(place.topic)} WHERE partition = $partition AND log_offset = $offset",
        {"partition": place.partition, "offset": place.offset},
    )
    return rows[0][0] if rows else None


def _node(record: LineageRecord) -> LineageNode:
    return LineageNode(kind=record.kind, id=record.id, place=str(record.place), note=record.note)
