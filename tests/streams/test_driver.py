"""The pure half of both drivers: addressing, provenance, limits, and what becomes of a record that a fold can't bear."""

from __future__ import annotations

import base64
import math
import tracemalloc
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import Struct
from msgspec.structs import replace

from headrace_schemas.codec import decode
from headrace_schemas.events import ExampleRewarded, RecordRejected
from headrace_schemas.topics import MIB
from headrace_streams.kafka.partitioner import partition_for
from headrace_streams.kafka.unpacking import UnreadValue
from headrace_streams.runtime import micro_batch
from headrace_streams.runtime.fold_runner import FoldRunner
from headrace_streams.runtime.micro_batch import MicroBatch
from headrace_streams.runtime.provenance import Provenance, provenance_of
from headrace_streams.runtime.stage import Fold, Headers, Record, RuleVersion, Step, StoredRecord, Write
from headrace_streams.runtime.step import DERIVED_LIMIT, STATE_LIMIT, SurroundingsFailed, process
from support.counting import COUNTING, CountingFold
from support.examples import example

COUNTS = {"signals": 2, "rejections": 4, "dead-letters": 3}


def record(value: bytes | None, key: bytes | None = b"k", offset: int = 7) -> Record:
    return Record("signals", 1, offset, 1_790_000_000_000, 1_790_000_000_005, key, value, (("x", b"\x00"),))


class Odd(CountingFold):
    """Does what the test asks for."""

    def __init__(self, step: Step | Exception, dumped: bytes | None = b"1") -> None:
        """`dumped` None: as a fold dumps that says nothing about it."""
        super().__init__({}, "")
        self.answer, self.dumped = step, dumped

    def step(self, state: Mapping[str, Any], record: Record) -> Step:
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer

    def dump(self, key: str, value: Any) -> bytes:
        return Fold.dump(self, key, value) if self.dumped is None else self.dumped


class Sums(Struct):
    """A state value."""

    total: float
    parts: list[float]


def weighed(reward: float) -> ExampleRewarded:
    """An event whose number may be none."""
    return ExampleRewarded(specversion="1.0", id="x", source="headrace:odd", data=example(1, reward=reward))


def test_output_carries_key_partition_and_provenance() -> None:
    done = process("counting", COUNTING.newest({"step": 1}), {}, record(b"x"), COUNTS)
    [produced] = done.produced
    assert (produced.topic, produced.key, produced.partition) == ("rejections", b"k", partition_for(b"k", 4))
    assert dict(produced.headers) == {
        "content-type": b"application/cloudevents+json",
        "headrace-origin": b"counting/signals/1/7/0",
    }
    assert (done.changes, done.dumped, done.counters) == ({"k": 1}, {"k": b"1"}, {"in": 1, "counted": 1})


def test_everywhere_goes_to_each_partition_with_its_own_ordinal() -> None:
    step = Step([Write("rejections", "k", b"a", everywhere=True), Write("rejections", "k", b"b")])
    produced = process("odd", Odd(step), {}, record(b"x"), COUNTS).produced
    assert [item.partition for item in produced] == [0, 1, 2, 3, partition_for(b"k", 4)]
    sources = [provenance_of(item.headers) for item in produced]
    assert sources == [Provenance("odd", "signals", 1, 7, ordinal) for ordinal in range(5)]


def test_deleted_key_is_a_tombstone() -> None:
    done = process("odd", Odd(Step(changes={"gone": None, "kept": 1})), {"gone": 1}, record(b"x"), COUNTS)
    assert done.dumped == {"gone": None, "kept": b"1"}


@pytest.mark.parametrize(
    ("fold", "says"),
    [
        (Odd(RuntimeError("no idea")), "RuntimeError: no idea"),
        (Odd(ValueError("bad text \ud800")), "ValueError: bad text ?"),
        (Odd(Step([Write("rejections", "k", b"x" * (2 * 1024 * 1024))])), "ValueError: output to rejections has 2097152 bytes"),
        (Odd(Step([Write("nowhere", "k", b"x")])), "KeyError"),
        (Odd(Step([Write("rejections", "\ud800", b"x")])), "UnicodeEncodeError"),
        (Odd(Step(changes={"big": 1}), b"x" * (STATE_LIMIT + 1)), "ValueError: state of 'big' has"),
        (Odd(RecursionError("too deep")), "RecursionError: too deep"),
        (Odd(Step(changes={"kept": Sums(1.0, [2.0, math.nan])}), None), "DecodeError: parts.1: a number that is not finite"),
        (Odd(Step([Write("rejections", "k", weighed(-math.inf))])), "DecodeError: data.reward: a number that is not finite"),
    ],
    ids=[
        "raises",
        "surrogate",
        "output over the topic's limit",
        "unknown topic",
        "bad key",
        "state over its limit",
        "too deep",
        "state without a number",
        "output without a number",
    ],
)
def test_stage_error_is_a_dead_letter_and_changes_nothing(fold: Odd, says: str) -> None:
    done = process("odd", fold, {}, record(b"\x00value"), COUNTS)
    assert (done.changes, done.dumped, done.counters) == ({}, {}, {"in": 1, "dead": 1})
    [produced] = done.produced
    assert (produced.topic, produced.key) == ("dead-letters", b"signals/1/7")
    event = decode(produced.value)
    assert isinstance(event, RecordRejected)
    assert event.data.error.code == "stage_error"
    assert event.data.error.message.startswith(says)
    assert base64.b64decode(event.data.value_base64 or "") == b"\x00value"
    assert (event.data.topic, event.data.partition, event.data.offset) == ("signals", 1, 7)


@pytest.mark.parametrize(
    "error",
    [OSError(24, "Too many open files"), MemoryError(), ModuleNotFoundError("No module named 'x'"), TimeoutError()],
    ids=lambda error: type(error).__name__,
)
def test_what_the_surroundings_lack_is_no_records_fault(error: Exception) -> None:
    with pytest.raises(SurroundingsFailed, match=rf"^odd at signals/1/7: {type(error).__name__}: ") as raised:
        process("odd", Odd(error), {}, record(b"x"), COUNTS)
    assert raised.value.__cause__ is error


@pytest.mark.parametrize(
    ("value", "headers", "size"),
    [
        (b"x" * (7 * MIB), (), 7 * MIB),
        (b"x", [("a" * (9 * MIB), b"")], 9 * MIB + 3),
        (b"x", [("\x01" * (2 * MIB), b"")], 2 * MIB + 3),
        (b"x", [("", None)] * 1_000_000, 2_000_001),
    ],
    ids=["value", "header's name", "name that JSON escapes", "headers without number"],
)
def test_record_that_no_dead_letter_can_hold_stays_where_it_is(value: bytes, headers: Headers, size: int) -> None:
    too_large = record(value)._replace(headers=headers)
    [produced] = process("odd", Odd(RuntimeError("no")), {}, too_large, COUNTS).produced
    event = decode(produced.value)
    assert isinstance(event, RecordRejected)
    assert (event.data.key_base64, event.data.value_base64, event.data.headers) == (None, None, [])
    assert event.data.error.message == f"RuntimeError: no (record of {size + 1} bytes not carried)"


def test_what_no_dead_letter_can_hold_is_not_written_to_find_that_out() -> None:
    too_large = record(b"x" * (50 * MIB))
    tracemalloc.start()
    process("odd", Odd(RuntimeError("no")), {}, too_large, COUNTS)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < MIB


@pytest.mark.parametrize(
    ("key", "headers"), [(None, ()), (b"k", [("a", b"x"), ('q"\x01é', None), ("", b"")])], ids=["bare", "key and headers"]
)
def test_the_size_of_a_dead_letter_is_judged_to_the_byte(key: bytes | None, headers: Headers) -> None:
    def letter(size: int) -> tuple[int, bool]:
        made = record(b"x" * size, key)._replace(headers=headers)
        [produced] = process("odd", Odd(RuntimeError("no")), {}, made, COUNTS).produced
        return len(produced.value), b"value_base64" in produced.value

    least, _ = letter(3 * MIB)
    most = 3 * MIB + (DERIVED_LIMIT - least) // 4 * 3  # three bytes more are four characters more
    length, carried = letter(most)
    assert carried
    assert DERIVED_LIMIT - 4 < length <= DERIVED_LIMIT
    assert not letter(most + 1)[1]


def test_a_value_that_was_not_read_is_a_dead_letter_of_every_stage_and_no_fold_sees_it() -> None:
    unread = record(UnreadValue("over_limit", "record: 9 bytes"))
    processed = process("odd", Odd(AssertionError("a fold was asked")), {}, unread, COUNTS)
    [produced] = processed.produced
    event = decode(produced.value)
    assert isinstance(event, RecordRejected)
    assert (event.data.error.code, event.data.error.message) == ("over_limit", "record: 9 bytes")
    assert (event.data.key_base64, event.data.value_base64, event.data.headers) == (None, None, [])
    assert processed.counters == {"in": 1, "dead": 1}


def test_large_record_is_carried_whole_where_a_dead_letter_holds_it() -> None:
    [produced] = process("odd", Odd(RuntimeError("no")), {}, record(b"x" * (5 * MIB)), COUNTS).produced
    event = decode(produced.value)
    assert isinstance(event, RecordRejected)
    assert base64.b64decode(event.data.value_base64 or "") == b"x" * (5 * MIB)


@pytest.mark.parametrize(
    ("sizes", "seen"),
    [([10] * 100, 64), ([100_000] * 100, 2), ([MIB, 1, 1], 1), ([1, MIB, 1], 1), ([], 0)],
    ids=["by number", "by bytes", "at least one", "none that is too large", "none"],
)
def test_what_a_fold_is_shown_ahead_is_bounded(sizes: list[int], seen: int) -> None:
    values = [bytes(size) for size in sizes]
    assert looked_ahead(values) == (seen, values[:seen])


def test_a_fold_is_not_shown_what_was_not_read() -> None:
    assert looked_ahead([UnreadValue("over_limit", "too large"), None, b"x"]) == (3, [b"x"])


def looked_ahead(values: Sequence[Any]) -> tuple[int, list[bytes]]:
    """How many records a runner has looked at, and the values that its fold was shown."""
    shown: list[bytes] = []

    class Watching(CountingFold):
        def look_ahead(self, records: Sequence[tuple[bytes, Headers]]) -> None:
            shown.extend(value for value, _ in records)

    runner = FoldRunner(replace(COUNTING, versions={1: RuleVersion(Watching)}), "signals", 1, COUNTS)
    runner.activate_newest({"step": 1})
    return runner.look_ahead([record(value) for value in values]), shown


OURS = (("content-type", b"application/cloudevents+json"), ("headrace-origin", b"intake/interactions/0/3/0"))
FOREIGN = (("content-type", b"application/cloudevents+json"), ("headrace-origin", b"somebody"))
STEPS: dict[bytes, Step | Exception] = {
    b"nothing": Step(),
    b"two": Step([Write("rejections", "a", b"1"), Write("rejections", "b", b"2")], {"a": 1, "~derived": 2}, {"counted": 2}),
    b"gone": Step(changes={"a": None, "never": None}),
    b"everywhere": Step([Write("rejections", "k", b"a"), Write("rejections", "k", b"b", everywhere=True)], {"b": 3}),
    b"event": Step([Write("rejections", "k", weighed(0.5))]),
    b"too large": Step([Write("rejections", "k", bytes(DERIVED_LIMIT + 1))], {"a": 9}, {"counted": 1}),
    b"large state": Step(changes={"a": bytes(STATE_LIMIT + 1)}),
    b"not finite": Step(changes={"c": Sums(math.inf, [])}),
    b"nowhere": Step([Write("there is none", "k", b"1")]),
    b"raises": RuntimeError("told to"),
}


class Told(CountingFold):
    """Does what a record's value says."""

    def step(self, state: Mapping[str, Any], record: Record) -> Step:
        said = STEPS[record.value or b"nothing"]
        if isinstance(said, Exception):
            raise said
        return said

    def dump(self, key: str, value: Any) -> bytes:
        return value if isinstance(value, bytes) else Fold.dump(self, key, value)

    def deadline(self, key: str, value: Any) -> int | None:
        return value if isinstance(value, int) else None


TOLD = replace(COUNTING, versions={1: RuleVersion(Told, checks_writers=True)})
stored = st.builds(
    Record,
    st.just("signals"),
    st.just(1),
    st.integers(0, 10**6),
    st.integers(0, 99),
    st.just(0),
    st.none() | st.just(b"k"),
    st.none() | st.sampled_from(sorted(STEPS)) | st.just(UnreadValue("corrupt", "batch: its checksum is wrong (not carried)")),
    st.sampled_from([OURS, OURS, OURS, FOREIGN, (), (*OURS, ("x", b"y"))]),
)


@settings(max_examples=50, deadline=None)
@given(st.lists(stored, max_size=12), st.integers(1, 5))
def test_records_in_a_row_do_what_each_does_by_itself(records: list[Record], most: int) -> None:
    def runner() -> FoldRunner:
        made = FoldRunner(TOLD, "signals", 1, COUNTS)
        made.activate_newest({"step": 1})
        made.watch(60_000)
        return made

    alone, together, one, many = runner(), runner(), MicroBatch(), MicroBatch()
    for each in records:
        one.add(each.timestamp, alone.run(each))
    backlog: deque[StoredRecord] = deque(records)
    while backlog:
        before = len(backlog)
        assert together.fold_into(many, backlog, most, math.inf) == before - len(backlog) == min(most, before)
    assert {**vars(one), "began": 0} == {**vars(many), "began": 0}
    for name in ("state", "counters", "now"):
        assert getattr(alone, name) == getattr(together, name)
    assert list(alone.counters) == list(together.counters)
    assert alone.deadlines is not None
    assert together.deadlines is not None
    assert alone.deadlines.earliest == together.deadlines.earliest


def test_folding_in_a_row_ends_in_time_and_with_a_full_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    runner = FoldRunner(COUNTING, "signals", 1, COUNTS)
    runner.activate_newest({"step": 1})
    backlog: deque[StoredRecord] = deque(record(b"x", offset=offset) for offset in range(9))
    assert runner.fold_into(MicroBatch(), backlog, 9, -math.inf) == 1
    monkeypatch.setattr(micro_batch, "BATCH_RECORDS", 3)
    assert runner.fold_into(MicroBatch(), backlog, 9, math.inf) == 3
    assert len(backlog) == 5
