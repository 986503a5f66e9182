"""What became of one interaction, in one plain sentence with its reason, from the records of a lake. Decides nothing itself."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from msgspec import Struct

from headrace_lake.lineage import Lineage, RecordPlace, trace
from headrace_lake.query import LakeQuery
from headrace_lake.served_then import ServedAnswer, answered_by
from headrace_lake.views import KIND, table_of

State = Literal[
    "unknown", "waiting for its interaction", "waiting for feedback", "expired", "withdrawn", "rejected",
    "in an open bucket", "in a batch", "compared on", "watched", "avoided", "learnt", "released",
]  # fmt: skip
LEARNT = frozenset({"learnt", "repeated"})  # edges by which something is learnt from an example


class LearningState(Struct, frozen=True, kw_only=True):
    """`state` of an interaction, and why. `releases`: those that have learnt from its newest or an older revision, also where it
    was withdrawn since; `place` is of the record that says so; `answered`: who really served, None where nobody knows it."""

    interaction_id: str
    state: State
    reason: str
    place: str | None = None
    example_id: str | None = None
    revision: int | None = None
    releases: list[str] = []
    answered: ServedAnswer | None = None


def learning_state(lake: LakeQuery, interaction_id: str) -> LearningState:
    """The state at the lake's cut."""
    return state_and_lineage(lake, interaction_id)[0]


def state_and_lineage(lake: LakeQuery, interaction_id: str) -> tuple[LearningState, Lineage | None]:
    """The same with what was made of its example, if there is one."""

    found: Lineage | None = None

    def state(kind: State, reason: str, place: RecordPlace | None = None, **more: Any) -> tuple[LearningState, Lineage | None]:
        at = None if place is None else str(place)
        known = {"answered": answered_by(lake, interaction_id), **more}
        return LearningState(interaction_id=interaction_id, state=kind, reason=reason, place=at, **known), found

    said = _records(lake, "signals", interaction_id)
    told = _records(lake, "examples", interaction_id)
    kinds = {row["event"] for row in said}
    prompts = {row["example_id"] for row in told if row["event"] == "prompt.drawn"}
    if not told:
        if not said:
            return state("unknown", "the lake has no record of it: is it published, and is the lake up to date?")
        last = _place("signals", said[-1])
        if "interaction.expired" in kinds:
            return state("expired", "nothing was heard of it for as long as the policy waits", last)
        if "interaction.retracted" in kinds:
            return state("withdrawn", "retracted before it became an example", last)
        if "interaction.recorded" not in kinds:
            return state("waiting for its interaction", f"{len(said)} records speak of it, none of them is the interaction", last)
        return state("waiting for feedback", "nobody has said yet how good it is", last)
    drawn = [row for row in told if row["example_id"] in prompts]
    settled = {(row["example_id"], row["revision"]) for row in told if row["event"] == "example.settled"}
    told = [row for row in told if row["example_id"] not in prompts and row["event"] != "example.settled"]
    if not told:
        return state(*_prompt(lake, interaction_id, drawn))
    newest = told[-1]
    places = [_place("examples", row) for row in told if row["event"] == "example.rewarded"]
    found = trace(lake, places, up=True)
    releases = [record.id for record in _learnt(found).of("release") if record.note.startswith("promoted")]
    known = {"example_id": newest["example_id"], "revision": newest["revision"], "releases": releases}
    place = _place("examples", newest)
    if newest["event"] == "example.withdrawn":
        since = f"; releases had learnt from it: {', '.join(releases)}" if releases else ""
        return state("withdrawn", f"{newest['reason']}{since}", place, **known)
    if used := _use(found):
        return state(*used, **known)
    for rejected in _rejections(lake, interaction_id, newest):
        reason = f"{rejected['reason']} (the rule: {rejected['rule']})"
        return state("rejected", reason, _place("rejections", rejected), **known)
    open_ = f"{newest['bucket']} has not been cut with it yet"
    if newest["maturity"] == "provisional" and (newest["example_id"], newest["revision"]) not in settled:
        open_ += "; its label is provisional: more may be said, and by policy curate waits until it is final"
    return state("in an open bucket", open_, place, **known)


def _prompt(lake: LakeQuery, interaction_id: str, told: Sequence[dict[str, Any]]) -> tuple[State, str, RecordPlace]:
    """What became of an interaction of which there is a drawn prompt and no example."""
    newest = told[-1]
    place = _place("examples", newest)
    if newest["event"] == "example.withdrawn":
        return "withdrawn", newest["reason"], place
    if batches := trace(lake, [place], up=True).of("batch"):
        return "compared on", "versions are asked its prompt; nothing is learnt from it", batches[-1].place
    why = next((row["reason"] for row in _rejections(lake, interaction_id, newest)), None)
    kept = "waits to be named by a batch" if why is None else f"is not kept: {why}"
    return "waiting for feedback", f"nobody has said yet how good it is; its prompt was drawn for tests, and {kept}", place


def _learnt(found: Lineage) -> Lineage:
    """The part of it that leads up by what was learnt from."""
    edges = [edge for edge in found.edges if edge.how in LEARNT]
    new = {edge.upper for edge in edges}
    reached = set(new)
    while new:
        step = [edge for edge in found.edges if edge.lower in new]
        edges, new = edges + step, {edge.upper for edge in step} - reached
        reached |= new
    records = {place: record for place, record in found.records.items() if place in reached}
    return found._replace(records=records, edges=edges)


def _use(found: Lineage) -> tuple[State, str, RecordPlace] | None:
    """What the furthest of the records is that was made of an example; None while there is no batch."""
    how = {edge.how for edge in found.edges if edge.lower.topic == "examples"}
    if how & LEARNT:
        found = _learnt(found)
    batches, runs, versions, releases = (found.of(kind) for kind in ("batch", "run", "version", "release"))
    if not batches and not runs:
        return None
    last = (batches or runs)[-1]
    if not how & LEARNT:
        if "avoided" in how:
            return "avoided", "a negative: only a run by dpo or kto learns from it, as what to avoid", last.place
        side: State = "watched" if "validation" in how else "compared on"
        what = "trainings are watched on it" if side == "watched" else "it is on the test side, versions are compared on it"
        return side, f"{what}; nothing is learnt from it", last.place
    for release in reversed(releases):
        if release.note.startswith("promoted"):
            return "released", f"release {release.id} has learnt from it", release.place
    if versions:
        answer = f": {releases[-1].note}" if releases else ", which waits for its answer"
        return "learnt", f"version {versions[-1].id} has learnt from it{answer}", versions[-1].place
    return "in a batch", f"batch {last.id} waits to be trained, or failed: `headrace batches show {last.id}`", last.place


def _rejections(lake: LakeQuery, interaction_id: str, of: dict[str, Any]) -> list[dict[str, Any]]:
    """Of the example, or of the drawn prompt, in the revision that a row says: both stand under their interaction."""
    found = (row for row in _records(lake, "rejections", interaction_id) if row["event"] == "example.rejected")
    return [row for row in found if (row["example_id"], row["revision"]) == (of["example_id"], of["revision"] or 1)]


def _records(lake: LakeQuery, topic: str, interaction_id: str) -> list[dict[str, Any]]:
    columns = ("partition", "log_offset", "event", "example_id", "revision", "bucket", "reason", "rule", "maturity")
    found = lake.all(
        f"SELECT partition, log_offset, {KIND}, example_id, revision, bucket, "
        "try(value->>'$.data.reason'), try(value->>'$.data.rule'), try(value->>'$.data.maturity') "
        f"FROM {table_of(topic)} WHERE interaction_id = $id AND event_type IS NOT NULL ORDER BY partition, log_offset",
        {"id": interaction_id},
    )
    return [dict(zip(columns, row, strict=True)) for row in found]


def _place(topic: str, row: dict[str, Any]) -> RecordPlace:
    return RecordPlace(topic, row["partition"], row["log_offset"])
