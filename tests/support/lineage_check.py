"""Lineage of rows that releases have learnt from, checked both ways down to what was published. Reads a log and its lake."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from typing import Any, NamedTuple

from headrace_lake.lineage import PUBLISHED, RecordPlace, trace
from headrace_lake.query import LakeQuery
from headrace_schemas.codec import decode
from headrace_schemas.events import BatchReady, ExampleRewarded, ModelVersionCreated, ReleasePromoted
from support.memory_log import MemoryLog


class CheckedRows(NamedTuple):
    """Rows that were looked at, records that were published below them, releases above these, and what is not as it should be."""

    rows: int
    published: int
    releases: int
    faults: list[str]


def learnt_rows(log: MemoryLog) -> list[tuple[RecordPlace, RecordPlace]]:
    """Every (release, example) of a release's batch."""
    batches = {each.data.batch_id: each.data for _, each in _events(log, "batches") if isinstance(each, BatchReady)}
    versions = {
        each.data.version_id: each.data.batch_id for _, each in _events(log, "versions") if isinstance(each, ModelVersionCreated)
    }
    return [
        (at, RecordPlace("examples", member.locator.partition, member.locator.offset))
        for at, each in _events(log, "releases.history")
        if isinstance(each, ReleasePromoted)
        for member in batches[versions[each.data.version_id or ""]].members
    ]


def check_rows(log: MemoryLog, lake: LakeQuery, count: int, seed: int) -> CheckedRows:
    """`count` rows drawn among all that releases learnt from: what `explain` goes down to is what `impact` goes up from, on the
    same edges, and where the way ends the bytes are those that were published."""
    rows = learnt_rows(log)
    drawn = random.Random(seed).sample(rows, min(count, len(rows)))
    below = {release: trace(lake, [release], up=False) for release in {release for release, _ in drawn}}
    faults: list[str] = []
    ends: set[RecordPlace] = set()
    above: set[RecordPlace] = set()
    for release, example in drawn:
        down = trace(lake, [example], up=False)
        published = [place for place in down.records if place.topic in PUBLISHED]
        if example not in below[release].records or not set(down.records) <= set(below[release].records):
            faults.append(f"{example} or what it is made of is not below {release}")
        if not published:
            faults.append(f"nothing that was published is below {example}")
        faults += [fault for place in published if (fault := _bytes_fault(log, example, place)) is not None]
        for place in published:
            up = trace(lake, [place], up=True)
            if not {example, release} <= set(up.records):
                faults.append(f"{example} or {release} is not above {place}")
            if not {edge for edge in down.edges if edge.lower == place} <= set(up.edges):
                faults.append(f"the edges at {place} are others upwards than downwards")
            above |= {record.place for record in up.of("release")}
        ends |= set(published)
    return CheckedRows(len(drawn), len(ends), len(above), faults)


def _bytes_fault(log: MemoryLog, example: RecordPlace, place: RecordPlace) -> str | None:
    """What is wrong with a published record below an example; None where it is the one that was published of its interaction."""
    raw = log.records[place.topic, place.partition][place.offset].value or b""
    rewarded = decode(log.records[example.topic, example.partition][example.offset].value)
    assert isinstance(rewarded, ExampleRewarded)
    said: dict[str, Any] = json.loads(raw)["data"]
    if place.topic == "interactions" and said["interaction_id"] != rewarded.data.interaction_id:
        return f"{place} is of {said['interaction_id']}, {example} of {rewarded.data.interaction_id}"
    about: Sequence[Any] = [said.get("interaction_id"), *(said.get("over") or ())]
    if said.get("interaction_id") is not None and rewarded.data.interaction_id not in about:
        return f"{place} says nothing of {rewarded.data.interaction_id}"
    return None


def _events(log: MemoryLog, topic: str) -> list[tuple[RecordPlace, Any]]:
    return [(RecordPlace(*record[:3]), decode(record.value)) for record in log.of(topic)]
