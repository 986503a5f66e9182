"""Who spoke when, as signals, examples and releases tell it: a table of last times. Pure; reads few fields of events.

The table is bounded: of each kind the `MOST` that spoke last are kept. Times are append times in ms.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import msgspec
from msgspec import Struct

from headrace_schemas.times import parse_ns
from headrace_schemas.topics import HOUR_MS

MOST = 2_000  # agents, raters and buckets that are kept, each
ADAPTERS = 8  # of a bucket: those that answered last
RELEASES = 20  # of a bucket
LATE_MS = 10 * 60_000  # an answer that is older than that when it comes says nothing of what is served now

SpeakerKind = Literal["agent", "rater"]


class Speaker(Struct):
    """An agent or a rater. `pause_ms`: the longest that it ever made."""

    first_ms: int
    last_ms: int
    times: int = 1
    pause_ms: int = 0

    def speaks(self, at_ms: int) -> None:
        self.pause_ms = max(self.pause_ms, at_ms - self.last_ms)
        self.last_ms = max(self.last_ms, at_ms)
        self.times += 1


class AnsweredAdapter(Struct):
    """An adapter that answered in a bucket; `others`: answers when it was not what was served, of the last hour that had any."""

    first_ms: int
    last_ms: int
    times: int = 0
    others: int = 0
    others_since_ms: int = 0
    others_last_ms: int = 0
    expected: str = ""
    interaction_id: str = ""


class BucketTraffic(Struct):
    """A bucket: answers since somebody last spoke of one, by which adapter ("" for the base), what was served from when on."""

    first_ms: int
    last_ms: int = 0
    answers: int = 0  # by its own base
    unspoken: int = 0
    spoken_ms: int | None = None
    adapters: dict[str, AnsweredAdapter] = {}
    releases: list[tuple[int, str, str]] = []  # (from when on, adapter, release id), ascending

    def served(self, at_ms: int, swap_ms: int) -> set[str]:
        """The adapters that may have answered at a time: what was served then, and what still was so little before."""
        found, before = set(), ""
        for since_ms, adapter, _ in self.releases:
            if since_ms > at_ms:
                break
            if since_ms > at_ms - swap_ms:
                found.add(before)
            before = adapter
        return found | {before}


class Traffic(Struct):
    """The table. `dropped`: how many were left out for want of room."""

    agents: dict[str, Speaker] = {}
    raters: dict[str, Speaker] = {}
    buckets: dict[str, BucketTraffic] = {}
    dropped: int = 0


class _Named(Struct):
    name: str
    role: str | None = None


class _Rater(Struct):
    id: str
    kind: str


class _Said(Struct):
    """What is read of `data`, of whatever event."""

    interaction_id: str | None = None
    agent: _Named | None = None
    artifact_type: str | None = None
    model: str | None = None
    adapter: Any = None
    experiment: Any = None
    principal: _Rater | None = None
    bucket: str | None = None
    release_id: str | None = None
    voices: int = 0


class _Event(Struct):
    type: str
    data: _Said
    time: str | None = None


_DECODER = msgspec.json.Decoder(_Event)
_CHANGES = ("headrace.release.promoted.v1", "headrace.release.rolled_back.v1", "headrace.release.revoked.v1")


def fold_traffic(
    traffic: Traffic,
    value: bytes | None,
    at_ms: int,
    base_of: Callable[[str, str, str | None], str],
    swap_ms: int,
) -> None:
    """Takes one record of `signals`, `examples` or `releases.history`, appended at `at_ms`, into the table. What is none is left
    out. `base_of`: which base learns of (artifact type, model, role)."""
    try:
        event = _DECODER.decode(value or b"")
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return
    data = event.data
    match event.type:
        case "headrace.interaction.recorded.v1" if data.agent is not None and data.artifact_type and data.model:
            _speaks(traffic.agents, data.agent.name, at_ms, traffic)
            base = base_of(data.artifact_type, data.model, data.agent.role)
            bucket = _bucket(traffic, f"{data.artifact_type}/{base}", at_ms)
            bucket.last_ms = max(bucket.last_ms, at_ms)
            bucket.unspoken += 1
            if data.model == base and data.experiment is None:
                adapter = data.adapter if isinstance(data.adapter, str) else ""
                _answered(bucket, adapter, data.interaction_id or "", event.time, at_ms, swap_ms)
        case "headrace.feedback.recorded.v1" if data.principal is not None:
            _speaks(traffic.raters, f"{data.principal.kind}:{data.principal.id}", at_ms, traffic)
        case "headrace.example.rewarded.v1" if data.bucket and data.voices:
            bucket = _bucket(traffic, data.bucket, at_ms)
            bucket.spoken_ms, bucket.unspoken = max(bucket.spoken_ms or 0, at_ms), 0
        case kind if kind in _CHANGES and data.bucket:
            adapter = data.adapter.get("digest", "") if isinstance(data.adapter, dict) else ""
            bucket = _bucket(traffic, data.bucket, at_ms)
            if not bucket.releases or bucket.releases[-1][0] <= at_ms:
                bucket.releases = [*bucket.releases, (at_ms, str(adapter), data.release_id or "")][-RELEASES:]


def _answered(bucket: BucketTraffic, adapter: str, interaction_id: str, time: str | None, at_ms: int, swap_ms: int) -> None:
    bucket.answers += 1
    found = bucket.adapters.get(adapter)
    if found is None:
        found = bucket.adapters[adapter] = AnsweredAdapter(at_ms, at_ms)
        _bound(bucket.adapters, ADAPTERS)
    found.times, found.last_ms = found.times + 1, max(found.last_ms, at_ms)
    answered_ms = _event_ms(time, at_ms)
    served = bucket.served(answered_ms, swap_ms)
    if adapter in served or at_ms - answered_ms > LATE_MS:
        return
    if at_ms - found.others_since_ms > HOUR_MS:
        found.others, found.others_since_ms = 0, at_ms
    found.others, found.others_last_ms = found.others + 1, at_ms
    found.expected, found.interaction_id = bucket.served(answered_ms, 0).pop(), interaction_id


def _event_ms(time: str | None, at_ms: int) -> int:
    try:
        return at_ms if time is None else parse_ns(time) // 1_000_000
    except (ValueError, OverflowError):
        return at_ms


def _bucket(traffic: Traffic, name: str, at_ms: int) -> BucketTraffic:
    found = traffic.buckets.get(name)
    if found is None:
        found = traffic.buckets[name] = BucketTraffic(at_ms, adapters={}, releases=[])
        traffic.dropped += _bound(traffic.buckets, MOST)
    return found


def _speaks(speakers: dict[str, Speaker], name: str, at_ms: int, traffic: Traffic) -> None:
    found = speakers.get(name)
    if found is not None:
        found.speaks(at_ms)
    else:
        speakers[name] = Speaker(at_ms, at_ms)
        traffic.dropped += _bound(speakers, MOST)


def _bound(table: dict[str, Any], most: int) -> int:
    """Leaves out whoever spoke longest ago, a tenth at a time, of a table with more than it may have; how many."""
    if len(table) <= most:
        return 0
    gone = sorted(table, key=lambda name: (table[name].last_ms, name))[: max(1, most // 10)]
    for name in gone:
        del table[name]
    return len(gone)
