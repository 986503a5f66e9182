"""What the train stage reads beside its input: members by locator, earlier batches and what became of their examples, pins of a
run, answers of the release stage. Knows what to ask the log, decides nothing.
"""

from __future__ import annotations

import base64
import hashlib
import logging
from collections.abc import AsyncIterator, Collection, Iterable, Mapping, Sequence
from contextlib import aclosing
from types import MappingProxyType

import msgspec

from headrace_schemas.derived import Batch, DeadLetter, Member, ModelVersion, PositionSkip, PromptMember, TrainingStart
from headrace_schemas.events import (
    BatchReady,
    EvaluationCompleted,
    ModelVersionCreated,
    PositionSkipped,
    RecordRejected,
    TrainingStarted,
)
from headrace_schemas.ids import derive_id
from headrace_schemas.selection import is_negative, learnt_members, run_members, training_members, watched
from headrace_streams import release_log
from headrace_streams.kafka import clients
from headrace_streams.kafka.reader import KafkaRecord, Reader, decode_or_none, event_of
from headrace_streams.sealing.opening import Opener
from headrace_trainer.data.members import MemberKey, key_of
from headrace_trainer.stage.rehearsal import LatestRevisions
from headrace_trainer.stage.standing import LearnerStanding, after
from headrace_trainer.stage.taken_back import LearnerVersions, VersionOrigin, by_adapter, version_origin

log = logging.getLogger("headrace")


async def values_of(reader: Reader, members: Iterable[Member | PromptMember]) -> dict[MemberKey, bytes]:
    """Record values at the members' locators, opened if they are sealed; a locator without a record, or to another topic than
    that of examples, is left out. Digests are not checked here. Refused without the key of one that is sealed."""
    wanted: dict[tuple[str, int], dict[int, list[MemberKey]]] = {}
    for member in members:
        if member.locator.topic != "examples":
            continue
        offsets = wanted.setdefault((member.locator.topic, member.locator.partition), {})
        offsets.setdefault(member.locator.offset, []).append(key_of(member))
    values: dict[MemberKey, bytes] = {}
    opener = Opener(reader.settings)
    for (topic, partition), offsets in wanted.items():
        async for record in reader.read_at(topic, partition, sorted(offsets)):
            if record.value is not None:
                value = await opener.opened(topic, record.value, record.headers)
                values.update((key, value) for key in offsets[record.offset])
    return values


class _Head(msgspec.Struct):
    """As much of an example's or withdrawal's data as is kept of it."""

    example_id: str
    revision: int
    prompt_group: str = ""
    reward: float = 0.0
    train: bool = False
    reason: str | None = None


class _Envelope(msgspec.Struct):
    type: str
    data: msgspec.Raw


_envelopes = msgspec.json.Decoder(_Envelope)
_heads = msgspec.json.Decoder(_Head)


class Catalogue:
    """Earlier batches of a partition and what became of their examples; follows `batches` and `examples` from call to call."""

    def __init__(self, reader: Reader, partition: int) -> None:
        self._reader, self._partition = reader, partition
        self._latest = LatestRevisions()
        self._groups: dict[str, tuple[bytes, ...]] = {}  # by example: all that it was ever in
        self._batches: list[tuple[int, Batch]] = []
        self._next: dict[str, int] = {}  # offset by topic/partition

    async def refresh(self, bucket: str) -> None:
        """Reads on to the present end of both topics. `bucket` tells where its examples are."""
        async for record in self._new_records("batches", self._partition):
            event = event_of(record)
            if isinstance(event, BatchReady):
                self._batches.append((record.offset, event.data))
        async for record in self._new_records("examples", await self._reader.partition_of("examples", bucket)):
            self._note(record)

    async def _new_records(self, topic: str, partition: int) -> AsyncIterator[KafkaRecord]:
        key = f"{topic}/{partition}"
        async for record in self._reader.read_partition(topic, partition, self._next.get(key, 0)):
            yield record
            self._next[key] = record.offset + 1

    def _note(self, record: KafkaRecord) -> None:
        try:
            envelope = _envelopes.decode(record.value)
            if envelope.type == "headrace.example.rewarded.v1":
                data = _heads.decode(envelope.data)
                self._latest.add(
                    data.example_id, data.revision, data.train and data.reward > 0, record.offset, record.value,
                    avoidable=data.train and data.reward < 0,
                )  # fmt: skip
                group = hashlib.blake2b(data.prompt_group.encode(errors="replace"), digest_size=12).digest()
                if group not in (known := self._groups.get(data.example_id, ())):
                    self._groups[data.example_id] = (*known, group)
            elif envelope.type == "headrace.example.withdrawn.v1":
                data = _heads.decode(envelope.data)
                self._latest.withdraw(data.example_id, data.revision, for_ever=data.reason != "feedback_retracted")
        except (msgspec.MsgspecError, TypeError, RecursionError):
            return  # not written by us; the members that a manifest names are verified when they are loaded

    def earlier_members(self, bucket: str, before: int, *, avoids: bool = False) -> list[Member]:
        """Members to learn of the bucket's batches before offset `before`, at their latest revision; also those to avoid."""
        batches = [batch for offset, batch in self._batches if offset < before and batch.bucket == bucket]
        return self._latest.current(member for batch in batches for member in learnt_members(batch.members, avoids))

    def group_of(self, example_id: str) -> str:
        """A digest of the prompt group of an example."""
        return self._groups[example_id][0].hex() if example_id in self._groups else example_id

    def members_of_new_groups(self, batch: Batch, before: int, *, avoided: bool = False) -> list[Member]:
        """Members to learn of a batch whose prompt groups stand in no batch of the bucket before offset `before`, withdrawn rows
        and failed runs included: no version that was made of those can know them. Negatives taught nobody, unless an objective
        `avoided` them."""
        earlier = [each for offset, each in self._batches if offset < before and each.bucket == batch.bucket]
        named = (member for each in earlier for member in (*each.members, *each.test_pool))
        seen = {
            group for member in named if avoided or not is_negative(member) for group in self._groups.get(member.example_id, ())
        }
        found = ((member, self._groups.get(member.example_id, ())) for member in training_members(batch.members))
        return [member for member, groups in found if groups and not seen & set(groups)]

    def withdrawn_of(self, batch: Batch, without: Collection[str] = ()) -> list[str]:
        """Members, rows of the pools and prompts of a batch that were withdrawn since it was cut, or are among `without`."""
        rows = (*watched(batch), *batch.test_pool, *(batch.prompts or ()))
        return sorted({*self._latest.withdrawn(rows), *(row.example_id for row in rows if row.example_id in without)})

    async def chain(self, bucket: str, newest: Mapping[str, VersionOrigin] = MappingProxyType({})) -> LearnerVersions:
        """Versions of the bucket, `newest` with them, and what their runs learnt; looked up only where something of its batches
        was taken back."""
        batches = {batch.batch_id: batch for _, batch in self._batches if batch.bucket == bucket}
        named = (member for batch in batches.values() for member in learnt_members(batch.members, avoids=True))
        taken_back = self._latest.withdrawn(named)  # who did not learn from bad answers is clean of them
        if not taken_back:
            return LearnerVersions({}, {}, ())
        made = [(version.adapter.digest, version_origin(version)) for version in await versions_of(self._reader, bucket)]
        versions = by_adapter([*made, *newest.items()])
        wanted = {version.run_id for version in versions.values()}
        learnt: dict[str, frozenset[str]] = {}
        started = self._reader.events("runs", key=bucket, containing=b"headrace.training.started.v1")
        async with aclosing(started) as events:
            async for event in events:
                if isinstance(event, TrainingStarted) and event.data.run_id in wanted and event.data.batch_id in batches:
                    learnt[event.data.run_id] = _learnt(batches[event.data.batch_id], event.data)
        return LearnerVersions(versions, learnt, taken_back)

    def batches_after(self, bucket: str, batch_ids: Sequence[str], before: int) -> list[str]:
        """Batches of the bucket behind the last of the named ones (all, when none is named) and before offset `before`."""
        own = [(offset, batch.batch_id) for offset, batch in self._batches if batch.bucket == bucket and offset < before]
        last = max((offset for offset, batch_id in own if batch_id in batch_ids), default=-1)
        return [batch_id for offset, batch_id in own if offset > last]

    def members_of(self, batch_ids: Sequence[str], *, avoids: bool = False) -> list[Member]:
        """The same of the named batches."""
        batches = [batch for _, batch in self._batches if batch.batch_id in batch_ids]
        return self._latest.current(member for batch in batches for member in learnt_members(batch.members, avoids))


def _learnt(batch: Batch, start: TrainingStart) -> frozenset[str]:
    """Ids of the examples that a run with these pins learns from."""
    members = run_members(batch, start)
    return frozenset(member.example_id for member in (*members.training, *members.rehearsal))


async def versions_of(reader: Reader, bucket: str) -> list[ModelVersion]:
    """The versions of a bucket, in the order of the log."""
    async with aclosing(reader.events("versions", key=bucket)) as events:
        found = [event.data async for event in events if isinstance(event, ModelVersionCreated)]
    return [version for version in found if version.bucket == bucket]


async def started(reader: Reader, bucket: str, batch_id: str) -> TrainingStart | None:
    """The pins of a batch: the last `TrainingStarted` of it in `runs`, as a batch that failed may have been asked for again."""
    newest: TrainingStart | None = None
    async with aclosing(reader.events("runs", key=bucket, containing=batch_id.encode())) as events:
        async for event in events:
            if isinstance(event, TrainingStarted) and event.data.batch_id == batch_id:
                newest = event.data
    return newest


async def optimiser_of(reader: Reader, bucket: str, adapter: str, objective: str) -> str | None:
    """Digest of the optimiser's state at the end of the run that an adapter of the bucket is of; None when none was kept, or that
    run minimised another objective, whose gradients are of another size."""
    newest: str | None = None
    async with aclosing(reader.events("versions", key=bucket, containing=adapter.encode())) as events:
        async for event in events:
            if isinstance(event, ModelVersionCreated) and (event.data.bucket, event.data.adapter.digest) == (bucket, adapter):
                same = event.data.hyperparameters.get("objective", "sft") == objective
                newest = event.data.optimiser if same else None
    return newest


async def standing_of(reader: Reader, bucket: str) -> LearnerStanding:
    """Where the bucket's learner stands, by all that release has answered."""
    standing = LearnerStanding()
    taken = await release_log.filter_of(reader, "releases.history")
    partition = await reader.partition_of("releases.history", bucket)
    async with aclosing(reader.read_partition("releases.history", partition)) as records:
        async for record in records:
            decision = taken.decision(record)
            if decision is not None and decision.data.bucket == bucket:
                standing = after(standing, decision)
    return standing


async def batch_of(reader: Reader, partition: int, batch_id: str, before: int) -> BatchReady | None:
    """A batch of a partition of `batches` that was cut before offset `before`."""
    async with aclosing(reader.read_partition("batches", partition, 0, before)) as records:
        async for record in records:
            event = event_of(record)
            if isinstance(event, BatchReady) and event.data.batch_id == batch_id:
                return event
    return None


async def wait_until_answered(reader: Reader, bucket: str, evaluation_id: str) -> None:
    """Waits until `releases.history` answers an evaluation, or `dead-letters` or `rules` says that nobody will. The answer may be
    about an earlier head, whose own evaluation it names: it is known by the event that it answers."""
    event_id = derive_id("evaluation", evaluation_id)
    taken = await release_log.filter_of(reader, "releases.history")
    answers = clients.full_name(reader.settings, "releases.history")
    partition = await reader.partition_of("outcomes", bucket)
    async with aclosing(reader.follow("releases.history", "dead-letters", "rules")) as batches:
        async for records in batches:
            for record in records:
                if record.topic == answers:
                    decision = taken.decision(record)
                    if decision is not None and (
                        decision.data.request_id == event_id
                        or evaluation_id in (decision.data.evaluation_id, decision.data.request_id)
                    ):
                        return
                    continue
                event = event_of(record)
                if isinstance(event, RecordRejected) and evaluation_id in _evaluations(event.data):
                    log.warning("%s: evaluation %s became a dead letter: %s", bucket, evaluation_id, event.data.error.message)
                    return
                if isinstance(event, PositionSkipped) and (event.data.stage, event.data.topic) == ("release", "outcomes"):
                    left_out = event.data.partition == partition and await _left_out(reader, event.data, evaluation_id)
                    if left_out:
                        log.warning("%s: evaluation %s was skipped: %s", bucket, evaluation_id, event.data.reason)
                        return


async def _left_out(reader: Reader, skipped: PositionSkip, evaluation_id: str) -> bool:
    """Whether an evaluation was published among what release was told to leave out, or is not on the log any more."""
    async with aclosing(reader.read_partition("outcomes", skipped.partition)) as records:
        async for record in records:
            event = event_of(record)
            if isinstance(event, EvaluationCompleted) and event.data.evaluation_id == evaluation_id:
                return bool(skipped.from_offset <= record.offset < skipped.to_offset)
    return True


def _evaluations(letter: DeadLetter) -> list[str]:
    """Ids of the evaluation that a dead letter of release holds."""
    if letter.topic != "outcomes":
        return []
    event = decode_or_none(base64.b64decode(letter.value_base64 or ""))
    return [event.data.evaluation_id, event.id] if isinstance(event, EvaluationCompleted) else []
