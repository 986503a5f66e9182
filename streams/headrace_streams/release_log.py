"""What the release stage decided, as the log tells it: every decision, what is served now, decisions as they come. One place for
all who ask: commands, lake, trainer and the door. Decides nothing.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Literal, NamedTuple

from headrace_schemas.derived import ReleaseDecision
from headrace_schemas.events import (
    Event,
    ReleaseDeclined,
    ReleasePaused,
    ReleasePromoted,
    ReleaseResumed,
    ReleaseRevoked,
    ReleaseRolledBack,
)
from headrace_streams.kafka.reader import Reader, event_of

Kind = Literal["promoted", "declined", "rolled_back", "revoked", "paused", "resumed"]
CHANGES: tuple[Kind, ...] = ("promoted", "rolled_back", "revoked")
"""The kinds that change what is served."""

_KINDS: dict[type, Kind] = {
    ReleasePromoted: "promoted",
    ReleaseDeclined: "declined",
    ReleaseRolledBack: "rolled_back",
    ReleaseRevoked: "revoked",
    ReleasePaused: "paused",
    ReleaseResumed: "resumed",
}


class Decision(NamedTuple):
    """One decision: how it came out, when, and what it said."""

    kind: Kind
    time: str
    data: ReleaseDecision


def decision_of(event: Event | None) -> Decision | None:
    """The decision in an event; None for another event."""
    kind = _KINDS.get(type(event))
    if kind is None or event is None:
        return None
    return Decision(kind, event.time or "", event.data)  # type: ignore[arg-type]


async def history(reader: Reader) -> list[Decision]:
    """Every decision that was ever made, bucket by bucket in order."""
    decisions = [decision async for event in reader.events("releases.history") if (decision := decision_of(event))]
    return sorted(decisions, key=lambda decision: (decision.data.bucket, decision.data.sequence))


async def follow(
    reader: Reader, bucket: str | None = None, *, since: Literal["start", "end"] = "start"
) -> AsyncGenerator[list[Decision], None]:
    """Every decision from the first one on, or from now on, as they come; of all buckets, or of those that share a partition
    with `bucket`. Yields as `Reader.follow` does; never ends by itself."""
    partition = None if bucket is None else await reader.partition_of("releases.history", bucket)
    async with aclosing(reader.follow("releases.history", partition=partition, since=since)) as batches:
        async for records in batches:
            yield [decision for record in records if (decision := decision_of(event_of(record))) is not None]


async def served(reader: Reader, bucket: str | None = None) -> dict[str, ReleaseDecision]:
    """What is served now, by bucket; of one bucket only when `bucket` is given. A bucket that is not in it serves its base."""
    now: dict[str, ReleaseDecision] = {}
    async for event in reader.events("releases", key=bucket):
        decision = decision_of(event)
        if decision is not None and decision.kind in CHANGES and bucket in (None, decision.data.bucket):
            now[decision.data.bucket] = decision.data
    return now


def adapter_digest(release: ReleaseDecision | None) -> str | None:
    """Digest of the adapter that a release serves; None for the base."""
    return release.adapter.digest if release is not None and release.adapter is not None else None
