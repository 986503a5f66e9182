"""Lineage of anything, both ways. Knows the read model that `headrace explain` and `impact` print."""

from __future__ import annotations

from msgspec import Struct

from headrace_console.page import ConsolePage, PageMissing, PageRequest
from headrace_lake.read_models.lineage_view import LineageView, lineage_view


class LineageWays(Struct, frozen=True, kw_only=True):
    """`made_of`: what `headrace explain ID --json` prints; `came_of_it`: `headrace impact ID --json`. None where there is nothing
    that way."""

    id: str
    made_of: LineageView | None
    came_of_it: LineageView | None


def lineage(asked: PageRequest) -> LineageWays:
    name = asked.names["id"]
    down = lineage_view(asked.lake, name, up=False)
    up = lineage_view(asked.lake, name, up=True, state=None if down is None else down[0].state)
    if down is None and up is None:
        raise PageMissing(f"nothing is called {name!r}, at this cut")
    return LineageWays(id=name, made_of=down and down[0], came_of_it=up and up[0])


PAGES = [
    ConsolePage(
        path="/lineage/{id:.+}",
        title="Lineage",
        about="What something is made of, down to the records that were published, and what came of it, up to releases.",
        model=lineage,
        template="lineage.html",
        sample="SELECT interaction_id FROM examples GROUP BY interaction_id ORDER BY max(appended_at) DESC, 1 LIMIT 3",
    )
]
