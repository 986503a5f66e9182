"""Release under two policies: recorded evaluations and requests answered by both. Knows release's answers, not its state.

What is compared was measured: no run is repeated. Once the new policy serves something else in a bucket, later evaluations
there compare with what it would not serve; it calls them stale, and nobody can know what it would have said.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Set

from msgspec import Struct, json

from headrace_lake.log import LogRecord
from headrace_lake.whatif.report import NO_ANSWER, ReleaseFlip, ReleasesTrial, flows_of
from headrace_lake.whatif.sides import PolicyTrial
from headrace_streams.release_log import CHANGES
from headrace_streams.runtime.step import Produced

_PREFIX, _SUFFIX = "headrace.release.", ".v1"


class _Decision(Struct):
    release_id: str = ""
    sequence: int = 0
    bucket: str = ""
    request_id: str = ""
    reason: str = ""
    version_id: str | None = None
    batch_ids: list[str] = []


class _Answer(Struct):
    type: str
    data: _Decision

    @property
    def kind(self) -> str:
        """`promoted`, or `declined: no_gain`."""
        kind = self.type.removeprefix(_PREFIX).removesuffix(_SUFFIX)
        return f"{kind}: {self.data.reason.partition(':')[0]}" if kind == "declined" else kind


_ANSWER = json.Decoder(_Answer)
_SILENT = _Answer(NO_ANSWER, _Decision(reason=NO_ANSWER))


class ReleasesTally:
    """What all partitions came to. `not_cut`: batches that the new policy does not cut."""

    def __init__(self, top: int, bucket: str | None, not_cut: Set[str]) -> None:
        self.trial = ReleasesTrial()
        self._top, self._bucket, self._not_cut = top, bucket, not_cut
        self._flows: Counter[tuple[str, str]] = Counter()

    def compare(self, before: _Answer | None, after: _Answer | None) -> None:
        """`before` or `after` is None where a policy has answered the request already, and the other has forgotten that."""
        before, after = before or _SILENT, after or _SILENT
        trial, decision = self.trial, before.data if before is not _SILENT else after.data
        if self._bucket not in (None, decision.bucket):
            return
        trial.answers += 1
        self._flows[before.kind, after.kind] += 1
        same = decision.version_id == after.data.version_id or before.kind not in CHANGES
        if before.kind == after.kind and same:
            return
        unknowable = after.data.reason.startswith("stale") and not before.data.reason.startswith("stale")
        trial.flips, trial.unknowable = trial.flips + (not unknowable), trial.unknowable + unknowable
        if len(trial.flipped) < self._top:
            flip = ReleaseFlip(
                decision.bucket,
                decision.request_id,
                decision.sequence,
                decision.version_id or after.data.version_id,
                before.kind,
                after.kind,
                before.data.reason,
                after.data.reason,
                unknowable,
                not any(batch_id in self._not_cut for batch_id in decision.batch_ids),
            )
            trial.flipped.append(flip)

    def finish(self) -> None:
        self.trial.flows = flows_of(self._flows)


def run_release(trial: PolicyTrial, tally: ReleasesTally, record: LogRecord) -> None:
    """One record of outcomes."""
    if trial.is_skipped(record):
        return
    trial.activate(record)
    if trial.after is None:
        trial.before.run(record)
        return
    list(trial.pass_time(record))
    after = _answer(trial.after.run(record).produced)
    before = _answer(trial.before.run(record).produced)
    if before is not None or after is not None:
        tally.compare(before, after)


def _answer(produced: Iterable[Produced]) -> _Answer | None:
    return next((_ANSWER.decode(made.value) for made in produced if made.topic == "releases.history"), None)
