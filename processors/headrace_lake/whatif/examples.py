"""Where examples end under two policies, and what batches are cut: one partition of examples curated by both, side by side.

Knows curate's state and events.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from msgspec import Struct, json

from headrace_lake.log import LogRecord
from headrace_lake.whatif.merged import MergedExamples
from headrace_lake.whatif.report import (
    NO_EXAMPLE,
    WITHDRAWN,
    BatchCut,
    BucketSide,
    BucketTrial,
    ExampleFlip,
    ExampleSide,
    ExamplesTrial,
    Largest,
    flows_of,
)
from headrace_lake.whatif.sides import PolicyTrial
from headrace_lake.whatif.spool import Spool
from headrace_processors.curate.state import CurateBucket, ExampleRecord, example_key
from headrace_schemas.events import BatchReady, ExampleRejected
from headrace_schemas.ids import derive_id
from headrace_streams.runtime.fold_runner import FoldRunner
from headrace_streams.runtime.step import Processed

_READY, _REJECTED = (str(kind.__struct_config__.tag) for kind in (BatchReady, ExampleRejected))
LEARNT = ("learnt", "to be learnt")
_FATES: Mapping[str, tuple[str, str]] = {  # of an example that is to be learnt, and of one that is to be avoided
    "open": ("to be learnt", "to be avoided"),
    "cut": ("learnt", "avoided"),
    "test": ("test row", "prompt to be graded"),
    "validation": ("validation row", "validation row"),
    "waiting": ("waits for another voice", "waits for another voice"),
    "provisional": ("waits until it is final", "waits until it is final"),
    "past": ("left a full pool", "left a full pool"),
    "withdrawn": (WITHDRAWN, WITHDRAWN),
    "retracted": (WITHDRAWN, WITHDRAWN),
    "erased": (WITHDRAWN, WITHDRAWN),
}


class _Member(Struct):
    example_id: str
    role: str


class _Data(Struct):
    """What is read of curate's events here."""

    batch_id: str = ""
    bucket: str = ""
    cause: str = ""
    members: list[_Member] = []
    example_id: str = ""
    reason: str = ""
    rule: str = ""


class _Event(Struct):
    type: str
    data: _Data


_EVENT = json.Decoder(_Event)


class _Rejected(NamedTuple):
    reason: str
    rule: str


class _Curated:
    """What one policy has done in a partition."""

    def __init__(self) -> None:
        self.rejected: dict[str, _Rejected] = {}  # the newest, by example
        self.reasons: Counter[str] = Counter()
        self.opened: dict[str, int | None] = {}  # by bucket
        self.buckets: dict[str, BucketSide] = {}
        self.cuts: dict[str, list[tuple[str, str]]] = {}  # by bucket: digest over the members of each batch, and its id
        self.places: dict[str, int] = {}  # where the newest record of an example lies; of the recorded side alone

    def copied(self) -> _Curated:
        """For a policy that takes over now."""
        copy = _Curated()
        copy.rejected, copy.opened = dict(self.rejected), dict(self.opened)
        return copy

    def take_over(self) -> None:
        """What was counted before another policy took over counts for neither."""
        self.reasons, self.buckets, self.cuts = Counter(), {}, {}

    def take(self, processed: Processed, now: int, offset: int | None) -> None:
        for made in processed.produced:
            if made.topic not in ("rejections", "batches"):
                continue
            event = _EVENT.decode(made.value)
            if event.type == _REJECTED:
                self.reasons[event.data.reason] += 1
                self.rejected[event.data.example_id] = _Rejected(event.data.reason, event.data.rule)
                if offset is not None:
                    self.places.setdefault(event.data.example_id, offset)
            elif event.type == _READY:
                self._cut(event.data, now)
        for key, value in processed.changes.items():
            if type(value) is CurateBucket:
                self.opened[value.name] = value.opened_ms
            elif offset is not None and type(value) is ExampleRecord and value.offset >= 0:
                self.places[example_key(key)[1]] = value.offset

    def _cut(self, batch: _Data, now: int) -> None:
        opened = self.opened.get(batch.bucket)
        members = sorted(f"{member.role} {member.example_id}" for member in batch.members)
        seconds = None if opened is None else (now - opened) / 1000
        cut = BatchCut(now, batch.cause, len(members), seconds, derive_id("members", batch.bucket, *members))
        learnt = sum(member.role == "train" for member in batch.members)
        self.buckets.setdefault(batch.bucket, BucketSide()).take(cut, learnt)
        self.cuts.setdefault(batch.bucket, []).append((cut.digest, batch.batch_id))


class ExamplesTally:
    """What all partitions came to."""

    def __init__(self, top: int, bucket: str | None, spool: Spool) -> None:
        self.trial = ExamplesTrial()
        self.largest = Largest(top)
        self.before: Counter[str] = Counter()  # rejected examples by reason
        self.after: Counter[str] = Counter()
        self.batches: dict[str, BucketTrial] = {}
        self.only_before: set[str] = set()  # ids of recorded batches that the new policy does not cut with these members
        self.bucket = bucket
        self._spool = spool
        self._flows: Counter[tuple[str, str]] = Counter()

    def compare(self, example_id: str, interaction_id: str, place: str, old: ExampleSide | None, new: ExampleSide | None) -> None:
        """Counts one example."""
        if self.bucket is not None and self.bucket not in {side.bucket for side in (old, new) if side is not None}:
            return
        before = NO_EXAMPLE if old is None else old.fate or ""
        after = NO_EXAMPLE if new is None else new.fate or ""
        self.trial.examples += 1
        self._flows[before, after] += 1
        if before == after:
            return
        self.trial.flips += 1
        stake = max(abs(side.reward or 0.0) for side in (old, new) if side is not None)
        size = stake + ((before in LEARNT) != (after in LEARNT))  # what is learnt by one alone comes first
        if self.largest.takes(size):
            why = [f"{name}: {side.rule or side.fate}" for name, side in (("before", old), ("after", new)) if side is not None]
            self.largest.offer(ExampleFlip(interaction_id, example_id, size, why, old, new, place or None))

    def finish(self) -> None:
        """Joins what is in one bucket under one policy and in another, or in none, under the other."""
        for example_id, interaction_id, place, old, new in self._spool.joined_halves():
            self.compare(example_id, interaction_id, place, old, new)
        self.trial.flows, self.trial.largest = flows_of(self._flows), self.largest.flips()


class CurateTask:
    """A partition of examples. `wanted`: flips that were found already, by example, which learn here where their record lies."""

    def __init__(
        self, trial: PolicyTrial, tally: ExamplesTally, spool: Spool, wanted: Mapping[str, Sequence[ExampleFlip]]
    ) -> None:
        self._trial, self._tally, self._spool, self._wanted = trial, tally, spool, wanted
        self._merged = MergedExamples(spool, trial.before.partition)
        self._before, self._after = _Curated(), _Curated()
        self._last = -1
        self._show(())

    def run(self, window: Sequence[LogRecord]) -> None:
        if self._trial.before.fold is not None:
            self._trial.before.look_ahead(window)
        instead = [self._merged.instead_of(record) for record in window]
        self._show([other for others in instead for other in others])
        for record, others in zip(window, instead, strict=True):
            self._last = record.offset
            skipped = self._trial.is_skipped(record)
            if not skipped and self._trial.activate(record):
                self._after = self._before.copied()
                self._before.take_over()
            for other in others:
                self._step(other, run=not (skipped and other is record))
            if not skipped:
                processed = self._trial.before.run(record)
                self._before.take(processed, self._trial.before.now, record.offset)

    def _show(self, records: Sequence[LogRecord]) -> None:
        """What the new policy is to be given next."""
        self._coming, self._at, self._seen = records, 0, 0

    def _step(self, record: LogRecord, *, run: bool = True) -> None:
        """One record under the new policy, if that is in force."""
        after, at = self._trial.after, self._at
        self._at += 1
        if after is None or not run:
            return
        if at >= self._seen:
            self._seen = at + max(1, after.look_ahead(self._coming[at:]))
        for processed in self._trial.pass_time(record):
            self._after.take(processed, after.now, None)
        processed = after.run(record)
        self._after.take(processed, after.now, None)

    def finish(self) -> None:
        rest = self._merged.rest(self._last + 1)
        if rest and self._trial.after is None:
            self._trial.activate(rest[0])
        self._show(rest)
        for record in rest:
            self._step(record)
        before, after = self._trial.before, self._trial.after or self._trial.before
        if self._trial.after is None:
            self._after = self._before
        self._compare(before, after)
        self._count_batches(before, after)

    def _compare(self, before: FoldRunner, after: FoldRunner) -> None:
        for key, record in before.state.items():
            if type(record) is not ExampleRecord or record.status == "drawn":
                continue
            bucket, example_id = example_key(key)
            place = f"examples/{before.partition}/{offset}" if (offset := self._before.places.get(example_id)) is not None else ""
            for flip in self._wanted.get(example_id, ()):
                flip.place = place or None
            old = _side(bucket, record, self._before.rejected.get(example_id))
            other = after.state.get(key)
            if other is None:
                self._spool.put_half(example_id, record.interaction_id, place, old, after=False)
            else:
                new = _side(bucket, other, self._after.rejected.get(example_id))
                self._tally.compare(example_id, record.interaction_id, place, old, new)
        for key, record in after.state.items():
            if type(record) is ExampleRecord and record.status != "drawn" and key not in before.state:
                bucket, example_id = example_key(key)
                new = _side(bucket, record, self._after.rejected.get(example_id))
                self._spool.put_half(example_id, record.interaction_id, "", new, after=True)

    def _count_batches(self, before: FoldRunner, after: FoldRunner) -> None:
        tally = self._tally
        for runner, curated, reasons in ((before, self._before, tally.before), (after, self._after, tally.after)):
            if tally.bucket is None:
                reasons.update(curated.reasons)
            for value in runner.state.values():
                if type(value) is CurateBucket:
                    side = curated.buckets.setdefault(value.name, BucketSide())
                    side.open, side.fill, side.target = value.train.size, value.fill, value.target
        for name in sorted(self._before.buckets.keys() | self._after.buckets.keys()):
            if tally.bucket in (None, name):
                old, new = (curated.buckets.get(name) or BucketSide() for curated in (self._before, self._after))
                cut, others = self._before.cuts.get(name, []), {digest for digest, _ in self._after.cuts.get(name, [])}
                tally.only_before |= {batch_id for digest, batch_id in cut if digest not in others}
                tally.batches[name] = BucketTrial(name, old, new, sum(digest in others for digest, _ in cut))


def _side(bucket: str, record: ExampleRecord, rejected: _Rejected | None) -> ExampleSide:
    if record.status == "rejected":
        reason = "unknown" if rejected is None else rejected.reason
        rule = None if rejected is None else f"{rejected.reason}: {rejected.rule}"
        return ExampleSide(bucket, record.reward, revision=record.revision, fate=f"rejected: {reason}", rule=rule)
    fate = _FATES[record.status][record.role == "negative"]
    return ExampleSide(bucket, record.reward, revision=record.revision, fate=fate)
