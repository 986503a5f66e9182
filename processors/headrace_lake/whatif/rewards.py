"""Rewards under two policies: one partition of signals folded by both, side by side. Knows reward's events, not its state."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from msgspec import Struct, json

from headrace_lake.log import LogRecord
from headrace_lake.whatif.report import ExampleFlip, ExampleSide, Largest, RewardsTrial, term_differences
from headrace_lake.whatif.sides import PolicyTrial
from headrace_lake.whatif.spool import Instead, Spool
from headrace_schemas.events import ExampleRewarded, ExampleWithdrawn, SignalRejected
from headrace_streams.runtime.step import Produced

_REWARDED, _WITHDRAWN, _REJECTED = (
    str(kind.__struct_config__.tag) for kind in (ExampleRewarded, ExampleWithdrawn, SignalRejected)
)


class _Weights(Struct):
    balance: float | None = None


class _Data(Struct):
    """What is read of an event here: no text."""

    example_id: str = ""
    interaction_id: str = ""
    bucket: str = ""
    revision: int = 0
    reward: float | None = None
    quality: float | None = None
    score: float | None = None
    components: dict[str, float | None] | None = None
    weights: _Weights | None = None
    reason: str = ""


class _Event(Struct):
    type: str
    data: _Data


_EVENT = json.Decoder(_Event)
_Standing = dict[str, tuple[str, ExampleSide]]  # example id -> interaction id, newest revision


class RewardsTally:
    """What all partitions came to."""

    def __init__(self, top: int, bucket: str | None) -> None:
        self.trial = RewardsTrial()
        self.largest = Largest(top)
        self.before: Counter[str] = Counter()  # rejected signals by reason
        self.after: Counter[str] = Counter()
        self.bucket = bucket

    def compare(self, before: _Standing, after: _Standing) -> None:
        """Takes in where a partition's examples ended."""
        trial = self.trial
        for example_id in sorted(before.keys() | after.keys()):  # sums of floats depend on their order
            _, old = before.get(example_id, ("", None))
            _, new = after.get(example_id, ("", None))
            if self.bucket is not None and self.bucket not in {side.bucket for side in (old, new) if side is not None}:
                continue
            trial.before += old is not None
            trial.after += new is not None
            if old is new or old == new:
                continue
            change = self._counted(old, new)
            if change is None or not self.largest.takes(abs(change)):
                continue
            interaction_id = (before.get(example_id) or after[example_id])[0]
            why = ["an example under the recorded policy only"] if new is None else ["an example under the new policy only"]
            if old is not None and new is not None:
                why = term_differences(old, new)
            self.largest.offer(ExampleFlip(interaction_id, example_id, abs(change), why, old, new))

    def _counted(self, old: ExampleSide | None, new: ExampleSide | None) -> float | None:
        """Counts an example that differs; by how much, or None where it differs in nothing that counts."""
        trial = self.trial
        if old is None or new is None:
            side = old or new
            assert side is not None
            trial.lost, trial.gained = trial.lost + (new is None), trial.gained + (old is None)
            return side.reward or 0.0
        change = (new.reward or 0.0) - (old.reward or 0.0)
        if change:
            trial.higher, trial.lower = trial.higher + (change > 0), trial.lower + (change < 0)
            trial.sign += (old.reward or 0.0) * (new.reward or 0.0) <= 0
            trial.total_change += change
        elif old.bucket != new.bucket:
            trial.moved += 1
        elif old.balance != new.balance:
            trial.weights += 1
        else:
            return None
        return change


class RewardTask:
    """A partition of signals."""

    def __init__(self, trial: PolicyTrial, tally: RewardsTally, spool: Spool) -> None:
        self._trial, self._tally, self._spool = trial, tally, spool
        self._before: _Standing = {}
        self._after: _Standing = {}
        self._behind: dict[int, int] = {}  # partition of examples -> the last signal that the recorded policy wrote there for

    def run(self, record: LogRecord) -> None:
        trial = self._trial
        if trial.is_skipped(record):
            return
        if trial.activate(record):
            self._after = dict(self._before)
        self._tally.trial.signals += 1
        if trial.after is None:
            self._take(self._before, trial.before.run(record).produced, None)
            return
        written = [made for processed in trial.pass_time(record) for made in processed.produced]
        written += trial.after.run(record).produced
        recorded = trial.before.run(record).produced
        if [made[:4] for made in recorded] == [made[:4] for made in written]:  # whatever their headers say
            for example_id, standing in self._take(self._before, recorded, self._tally.before).items():
                _put(self._after, example_id, standing)
            self._tally.after.update(_reasons(recorded))
        else:
            self._take(self._before, recorded, self._tally.before)
            self._take(self._after, written, self._tally.after)
            self._keep(record, recorded, written)
        for made in recorded:
            if made.topic == "examples":
                self._behind[made.partition] = record.offset

    def finish(self) -> None:
        if self._trial.after is None:  # it never took over here
            self._after = self._before
        self._tally.compare(self._before, self._after)

    def _take(
        self, standing: _Standing, produced: Iterable[Produced], rejected: Counter[str] | None
    ) -> dict[str, tuple[str, ExampleSide] | None]:
        """Notes what examples stand, and what was rejected; what was noted of examples."""
        noted: dict[str, tuple[str, ExampleSide] | None] = {}
        for made in produced:
            if made.topic == "rejections" and rejected is not None:
                rejected.update(_reasons([made]))
            if made.topic != "examples":
                continue
            event = _EVENT.decode(made.value)
            data = event.data
            if event.type == _WITHDRAWN and data.example_id in standing:
                noted[data.example_id] = None
            elif event.type == _REWARDED:
                balance = None if data.weights is None else data.weights.balance
                side = ExampleSide(data.bucket, data.reward, data.quality, data.score, balance, data.components, data.revision)
                noted[data.example_id] = data.interaction_id, side
        for example_id, value in noted.items():
            _put(standing, example_id, value)
        return noted

    def _keep(self, record: LogRecord, recorded: Sequence[Produced], written: Sequence[Produced]) -> None:
        """Puts what differs on `examples` aside, partition by partition."""
        old = {made.partition for made in recorded if made.topic == "examples"}
        new = {made.partition for made in written if made.topic == "examples"}
        for partition in sorted(old | new):
            outputs = [made for made in written if (made.topic, made.partition) == ("examples", partition)]
            behind = self._behind.get(partition, -1)
            row = Instead(record.partition, record.offset, record.timestamp, behind, partition in old, outputs)
            self._spool.put(partition, row)
            for made in outputs:
                event = _EVENT.decode(made.value)
                if event.type == _REWARDED:
                    self._spool.put_content(event.data.example_id, made.value)


def _put(standing: _Standing, example_id: str, value: tuple[str, ExampleSide] | None) -> None:
    if value is None:
        standing.pop(example_id, None)
    else:
        standing[example_id] = value


def _reasons(produced: Iterable[Produced]) -> list[str]:
    events = [_EVENT.decode(made.value) for made in produced if made.topic == "rejections"]
    return [event.data.reason for event in events if event.type == _REJECTED]
