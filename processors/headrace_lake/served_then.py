"""Who really served: what an answer names, against what was served when it was given. Knows the lake, no stage."""

from __future__ import annotations

from typing import Any

from msgspec import Struct

from headrace_lake.query import LakeQuery
from headrace_lake.views import SERVING

SWAP_MINUTES = 10  # after a release an answer may still be by what was served before: [silence] swap_minutes by default
_ANSWER = (
    "SELECT artifact_type, model, adapter, release_id, experiment, coalesce(event_time, appended_at) AS answered_at "
    "FROM interactions WHERE interaction_id = $id ORDER BY appended_at LIMIT 1"
)
_BUCKET = "SELECT bucket FROM examples WHERE interaction_id = $id LIMIT 1"
_SERVED = (
    "SELECT release_id, adapter, appended_at >= $at - to_minutes($swap) AS fresh FROM releases WHERE bucket = $bucket "
    f"AND kind IN {SERVING} AND appended_at <= $at ORDER BY sequence DESC LIMIT 2"
)


class ServedAnswer(Struct, frozen=True, kw_only=True):
    """`adapter` and `release_id` as the answer names them, `served` and `served_release` as they were then, None for the base.
    `matches`: whether the answer is by that; None where that can't be said. `note` says it in words."""

    adapter: str | None
    release_id: str | None
    served: str | None
    served_release: str | None
    matches: bool | None
    note: str


def answered_by(lake: LakeQuery, interaction_id: str) -> ServedAnswer | None:
    """Of an interaction; None where the lake has none."""
    found = lake.run(_ANSWER, {"id": interaction_id}).dicts()
    if not found:
        return None
    answer = found[0]
    known = lake.run(_BUCKET, {"id": interaction_id}).rows
    bucket = known[0][0] if known else f"{answer['artifact_type']}/{answer['model']}"
    values = {"bucket": bucket, "at": answer["answered_at"], "swap": SWAP_MINUTES}
    served = lake.run(_SERVED, values).dicts()
    now: dict[str, Any] = served[0] if served else {"adapter": None, "release_id": None, "fresh": False}
    before = served[1]["adapter"] if len(served) > 1 else None
    named = answer["adapter"]

    def said(matches: bool | None, note: str) -> ServedAnswer:
        return ServedAnswer(
            adapter=named,
            release_id=answer["release_id"],
            served=now["adapter"],
            served_release=now["release_id"],
            matches=matches,
            note=note,
        )

    if answer["model"] != bucket.partition("/")[2]:
        return said(None, f"answered by {answer['model']}, which is not the base of {bucket}")
    if answer["experiment"] is not None:
        return said(None, f"routed by the experiment {answer['experiment']}")
    if answer["release_id"] not in (None, now["release_id"]) and named == now["adapter"]:
        return said(False, f"it names the release {answer['release_id']}; served was {now['release_id'] or 'none'}")
    if named == now["adapter"]:
        return said(True, "answered by what was served then")
    if now["fresh"] and named == before:
        return said(True, f"answered by what was served until {SWAP_MINUTES} minutes before at the most")
    return said(False, f"it names {named or 'the base'}; served was {now['adapter'] or 'the base'}")
