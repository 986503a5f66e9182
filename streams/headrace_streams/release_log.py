"""What the release stage decided, as the log tells it: every decision, what is served now, decisions as they come. One place for
all who ask: commands, lake, trainer and the door. Decides nothing, and takes from the stage's topics only what the stage wrote.
"""

from __future__ import annotations

import logging
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
from headrace_streams import signing
from headrace_streams.kafka.partitioner import partition_for
from headrace_streams.kafka.reader import KafkaRecord, Reader, decode_or_none
from headrace_streams.runtime.provenance import writer_of
from headrace_streams.signing import TrustedKeys

log = logging.getLogger("headrace.releases")

_MOST_SAID = 100  # lines of a reader about records that are not the stage's

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


class ReleaseFilter:
    """Takes the release stage's records from one of its topics and leaves out what somebody else has put there: by another hand,
    under another key, in another partition, without a signature of a trusted key (where there are any), or with a sequence that
    does not rise. Records of a partition come in their order.

    What is left out is counted in `skipped` and said once for each reason and bucket. Without keys it keeps out what was put
    there without knowing better; who writes exactly as the stage does is kept out by rights (`headrace topics acls`)."""

    def __init__(self, partitions: int, topic: str, trusted: TrustedKeys | None = None) -> None:
        self.skipped = 0
        self._partitions, self._topic, self._trusted = partitions, topic, trusted
        self._seen: dict[int, int] = {}  # the last offset of each partition: a reader that starts anew may read some again
        self._sequences: dict[str, tuple[int, str]] = {}  # by bucket: the last sequence and its release
        self._said: set[tuple[str, str]] = set()

    def decision(self, record: KafkaRecord) -> Decision | None:
        """The decision in a record; None for one that is left out, and for the same record or decision once more."""
        if record.offset <= self._seen.get(record.partition, -1):
            return None
        self._seen[record.partition] = record.offset
        decision = decision_of(decode_or_none(record.value))  # by no header: a signature covers the value
        reason = self._wrong(record, decision)
        if reason is not None:
            self._skip(record, reason)
            return None
        assert decision is not None
        data = decision.data
        last, release_id = self._sequences.get(data.bucket, (0, ""))
        if data.release_id == release_id:
            return None
        if data.sequence <= last:
            self._skip(record, f"its sequence {data.sequence} is not behind {last}")
            return None
        self._sequences[data.bucket] = data.sequence, data.release_id
        return decision

    def _wrong(self, record: KafkaRecord, decision: Decision | None) -> str | None:
        if decision is None:
            return "it is no decision"
        bucket = decision.data.bucket
        if (writer := writer_of(record.headers)) != "release":
            return "it does not say who wrote it" if writer is None else f"it was written by {writer[:40]!r}"
        if record.key != bucket.encode():
            return f"its key is not its bucket {bucket!r}"
        if record.partition != partition_for(record.key, self._partitions):
            return f"bucket {bucket!r} does not belong into its partition"
        if self._trusted is not None:
            return self._trusted.fault(self._topic, record.key, record.value, record.headers)
        return None

    def _skip(self, record: KafkaRecord, reason: str) -> None:
        self.skipped += 1
        key = (record.key or b"").decode(errors="replace")[:200]
        if (key, reason) not in self._said and len(self._said) < _MOST_SAID:
            self._said.add((key, reason))
            place = f"{record.topic}/{record.partition} at {record.offset}"
            log.error("%s (key %r) is not the release stage's and is skipped: %s", place, key, reason)


async def filter_of(reader: Reader, topic: str) -> ReleaseFilter:
    """What takes the decisions from `topic`, with the keys that the reader's settings trust. SettingsError for one that can't be
    used."""
    return ReleaseFilter(await reader.partitions(topic), topic, signing.trusted_keys(reader.settings))


async def history(reader: Reader) -> list[Decision]:
    """Every decision that was ever made, bucket by bucket in order."""
    taken = await filter_of(reader, "releases.history")
    decisions = [decision async for record in reader.read_topic("releases.history") if (decision := taken.decision(record))]
    return sorted(decisions, key=lambda decision: (decision.data.bucket, decision.data.sequence))


async def follow(
    reader: Reader, bucket: str | None = None, *, since: Literal["start", "end"] = "start"
) -> AsyncGenerator[list[Decision], None]:
    """Every decision from the first one on, or from now on, as they come; of all buckets, or of those that share a partition
    with `bucket`. Yields as `Reader.follow` does; never ends by itself."""
    partition = None if bucket is None else await reader.partition_of("releases.history", bucket)
    taken = await filter_of(reader, "releases.history")
    async with aclosing(reader.follow("releases.history", partition=partition, since=since)) as batches:
        async for records in batches:
            yield [decision for record in records if (decision := taken.decision(record)) is not None]


async def served(reader: Reader, bucket: str | None = None) -> dict[str, ReleaseDecision]:
    """What is served now, by bucket; of one bucket only when `bucket` is given. A bucket that is not in it serves its base."""
    now: dict[str, ReleaseDecision] = {}
    taken = await filter_of(reader, "releases")
    partition = None if bucket is None else await reader.partition_of("releases", bucket)
    source = reader.read_topic("releases") if partition is None else reader.read_partition("releases", partition)
    async with aclosing(source) as records:
        async for record in records:
            decision = taken.decision(record)
            if decision is not None and decision.kind in CHANGES and bucket in (None, decision.data.bucket):
                now[decision.data.bucket] = decision.data
    return now


def adapter_digest(release: ReleaseDecision | None) -> str | None:
    """Digest of the adapter that a release serves; None for the base."""
    return release.adapter.digest if release is not None and release.adapter is not None else None
