"""The public testing kit: a fold that keeps the contract passes, one for each way of breaking it is caught and named."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import pytest

from headrace_schemas.events import InteractionRecorded, SignalRejected
from headrace_streams import testing
from headrace_streams.runtime.stage import Fold, FoldStage, Record, RuleVersion, Step, Write
from headrace_streams.testing import MemoryTask, check_fold, event
from support.counting import COUNTING, CountingFold, CountingPolicy

INTERACTION = {
    "interaction_id": "i1",
    "agent": {"name": "bot"},
    "artifact_type": "sql",
    "model": "m",
    "prompt": "p",
    "output": "o",
}


class Remembering(CountingFold):
    """Counts each value once: what a fold looks like that knows repetitions."""

    def step(self, state: Mapping[str, Any], record: Record) -> Step:
        text = (record.value or b"").decode()
        if text in state:
            return Step((), {}, {"counted": 1})
        step = super().step({}, record)
        return step._replace(changes={text: 1})


class ChangesStateItself(Remembering):
    def step(self, state: Mapping[str, Any], record: Record) -> Step:
        assert isinstance(state, dict)
        state["seen"] = 1
        return super().step({}, record)


class DependsOnTheCall(Remembering):
    calls = itertools.count()

    def step(self, state: Mapping[str, Any], record: Record) -> Step:
        return super().step(state, record)._replace(changes={f"call {next(self.calls)}": 1})


class RemembersInItself(Remembering):
    """Forgets at a restart where it began."""

    first: int | None = None

    def step(self, state: Mapping[str, Any], record: Record) -> Step:
        if self.first is None:
            self.first = record.now
        return Step((), {"age": record.now - self.first}, {"counted": 1})


class LosesOnTheWay(Remembering):
    def load(self, key: str, value: bytes) -> Any:
        return int(value) + 1


class ReloadsOtherwise(Remembering):
    def reload(self, key: str, value: bytes) -> Any:
        return 0


class CountsTwice(Remembering):
    def step(self, state: Mapping[str, Any], record: Record) -> Step:
        return super().step(state, record)._replace(counters={"counted": 2})


class CountsElsewhere(Remembering):
    def step(self, state: Mapping[str, Any], record: Record) -> Step:
        return super().step(state, record)._replace(counters={"other": 1})


class WritesElsewhere(Remembering):
    def step(self, state: Mapping[str, Any], record: Record) -> Step:
        return super().step(state, record)._replace(outputs=[Write("batches", "k", b"{}")])


class TakesTheRuntimesKey(Remembering):
    def step(self, state: Mapping[str, Any], record: Record) -> Step:
        return super().step(state, record)._replace(changes={"@position": 1})


class WaitsOnlyWhileItLives(Remembering):
    steps = 0

    def step(self, state: Mapping[str, Any], record: Record) -> Step:
        self.steps += 1
        return super().step(state, record)

    def deadline(self, key: str, value: Any) -> int | None:
        return testing.START_MS if self.steps > 2 else None


class DependsOnOrder(Remembering):
    def step(self, state: Mapping[str, Any], record: Record) -> Step:
        step = super().step(state, record)
        return step._replace(changes={**step.changes, "first": next(iter(state), "none")} if step.changes else {})

    def dump(self, key: str, value: Any) -> bytes:
        return str(value).encode()

    def load(self, key: str, value: bytes) -> Any:
        return value.decode() if key == "first" else int(value)


HOUR_MS = 3_600_000


class Forgetting(Remembering):
    """Forgets a value an hour after it came."""

    def step(self, state: Mapping[str, Any], record: Record) -> Step:
        if record.value is not None and b"clock.ticked" in record.value:
            due = [key for key, at in state.items() if at <= record.now]
            return Step((), dict.fromkeys(due), {"counted": 1})
        step = super().step(state, record)
        return step._replace(changes=dict.fromkeys(step.changes, record.now + HOUR_MS))

    def deadline(self, key: str, value: Any) -> int | None:
        return int(value)

    def overdue(self, state: Mapping[str, Any], keys: Sequence[str], now: int) -> list[Write]:
        return [Write("signals", keys[0], event("headrace.clock.ticked.v1", {"bucket": keys[0], "time": str(now)}))]


class ForgetsNothing(Forgetting):
    def step(self, state: Mapping[str, Any], record: Record) -> Step:
        step = super().step(state, record)
        return step if record.value is None or b"clock.ticked" not in record.value else step._replace(changes={})


class TellsOthers(Forgetting):
    def overdue(self, state: Mapping[str, Any], keys: Sequence[str], now: int) -> list[Write]:
        return [write._replace(topic="batches") for write in super().overdue(state, keys, now)]


class TellsOtherwise(Forgetting):
    calls = itertools.count()

    def overdue(self, state: Mapping[str, Any], keys: Sequence[str], now: int) -> list[Write]:
        return [Write("signals", f"{next(self.calls)}", b"clock.ticked")]


class Indexed(Remembering):
    """Keeps a derived key current and makes it anew after a restart."""

    def step(self, state: Mapping[str, Any], record: Record) -> Step:
        step = super().step(state, record)
        return step._replace(changes={**step.changes, "~keys": len({*state, *step.changes} - {"~keys"})})

    def derive(self, state: Mapping[str, Any]) -> Mapping[str, Any]:
        return {"~keys": len(state)} if state else {}


class ForgetsItsIndex(Indexed):
    def derive(self, state: Mapping[str, Any]) -> Mapping[str, Any]:
        return {}


def stage_of(fold: type[Fold]) -> FoldStage:
    return msgspec.structs.replace(COUNTING, versions={1: RuleVersion(fold)})


VALUES = [b"one", b"two", b"one", b"three", b"explode", b"explode"]


def test_a_fold_that_keeps_the_contract_passes() -> None:
    check_fold(stage_of(Remembering), "signals", VALUES)
    check_fold(stage_of(Forgetting), "signals", VALUES)


def test_a_derived_key_is_not_written_and_is_there_again_after_a_restart() -> None:
    check_fold(stage_of(Indexed), "signals", VALUES)
    task = MemoryTask(stage_of(Indexed), "signals")
    processed = task.feed(b"one")
    assert "~keys" in processed.changes
    assert "~keys" not in {*processed.dumped, *task.dumped()}


@pytest.mark.parametrize(
    ("fold", "says"),
    [
        (ChangesStateItself, "record 0: the step changed state itself differs: seen: expected None, found b'1'"),
        (DependsOnTheCall, "record 0: the same step again differs: changes"),
        (RemembersInItself, "record 1: after a restart differs: changes: expected .'age': 1000., found .'age': 0."),
        (DependsOnOrder, "record 1: with the state in another order differs: changes: .*'first': 'one'.*'first': 'first'"),
        (ForgetsNothing, r"deadlines of \['one'\] passed: what it wrote does not move the deadlines of \['one'\]"),
        (TellsOthers, r"deadlines of \['one'\] passed: writes to \['batches'\], which is not its input"),
        (TellsOtherwise, r"deadlines of \['one'\] passed: it writes other events when asked again"),
        (WaitsOnlyWhileItLives, "after a restart other keys wait for time to pass"),
        (ForgetsItsIndex, "derived state after a restart differs: ~keys: expected 1, found None"),
        (LosesOnTheWay, "state that was dumped and loaded differs: one: expected b'1', found b'2'"),
        (ReloadsOtherwise, "state that was dumped and reloaded differs: one: expected b'1', found b'0'"),
        (CountsTwice, "1 records, but the counters add up to 2"),
        (CountsElsewhere, r"counters \['other'\] are none of counting's"),
        (WritesElsewhere, r"writes to \['batches'\], which the topology does not name as outputs of counting"),
        (TakesTheRuntimesKey, r"state keys that begin with @ are the runtime's: \['@position'\]"),
        (CountingFold, "record 0, again: state differs: key: expected b'1', found b'2'"),
    ],
)
def test_each_way_of_breaking_it_is_named(fold: type[Fold], says: str) -> None:
    with pytest.raises(AssertionError, match=says):
        check_fold(stage_of(fold), "signals", VALUES)


def test_a_stage_that_passes_repetitions_on_says_so() -> None:
    check_fold(COUNTING, "signals", VALUES, repeats=False)


def test_a_task_in_memory_is_fed_restarted_and_asked() -> None:
    task = MemoryTask(COUNTING, "signals", CountingPolicy(step=2))
    (first,) = task.feed(b"x", key=b"k").produced
    assert (first.topic, first.key) == ("rejections", b"k")
    assert msgspec.json.decode(first.value, type=SignalRejected).data.event_id == "2"
    task.feed(b"explode")
    assert task.counters == {"in": 2, "counted": 1, "dead": 1}
    task.restart()
    task.feed(b"x", key=b"k")
    assert task.dumped() == {"k": b"4"}
    assert task.deadlines == {}


def test_time_passes_in_a_task_as_in_a_live_one_without_input() -> None:
    task = MemoryTask(stage_of(Forgetting), "signals")
    task.feed(b"one")
    task.feed(b"two")
    one, two = testing.START_MS + HOUR_MS, testing.START_MS + HOUR_MS + testing.STEP_MS
    assert task.deadlines == {"one": one, "two": two}
    assert (task.overdue(one - 1), task.let_pass(one - 1)) == ((), [])
    (ticked,) = task.let_pass(one)
    assert ticked.changes == {"one": None}
    assert task.deadlines == {"two": two}


def test_time_never_runs_backwards_in_a_task() -> None:
    task = MemoryTask(COUNTING, "signals")
    task.feed(b"x", at_ms=testing.START_MS + 60_000)
    late = task.next_record(b"x")
    assert (late.timestamp, late.now) == (testing.START_MS + testing.STEP_MS, testing.START_MS + 60_000)


def test_a_topic_that_is_no_input_is_refused() -> None:
    with pytest.raises(ValueError, match="topic 'batches' is no input of stage 'counting'"):
        MemoryTask(COUNTING, "batches")


@pytest.mark.kafka
@pytest.mark.slow(seconds=6)
def test_a_local_kafka_has_every_topic_and_goes_with_its_block() -> None:
    import headrace
    from headrace_streams.local_kafka.process import status

    with testing.local_kafka() as settings:
        with headrace.Recorder(settings.bootstrap, deployment=settings.deployment, agent="bot") as recorder:
            recorder.interaction(artifact_type="sql", model="m", prompt="p", output="o", interaction_id="i1")
        (interaction,) = testing.published(settings, "interactions")
        assert isinstance(interaction, InteractionRecorded)
        assert interaction.data.interaction_id == "i1"
        kafka = settings.data_dir.parent / "kafka"
        assert status(kafka) is not None
    assert not kafka.exists()


def test_an_event_by_hand_is_what_the_contract_reads() -> None:
    value = event("headrace.interaction.recorded.v1", INTERACTION, time="2026-11-25T10:00:00Z", subject="s")
    read = msgspec.json.decode(value, type=InteractionRecorded)
    assert (read.id, read.source, read.data.output) == ("e1", "test", "o")
