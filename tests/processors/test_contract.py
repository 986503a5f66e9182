"""One suite for every fold in the stage table: whatever the inputs, each is in one box, and a restart changes nothing.

A stage joins by having inputs here; a stage of the table without inputs fails the suite.
"""

from __future__ import annotations

import random
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace_processors.stages import STAGES
from headrace_schemas.topics import TOPIC_NAMES
from headrace_streams.runtime.stage import Fold, FoldStage, Record
from headrace_streams.runtime.step import Processed, process
from support.inputs_of import inputs_of
from support.signals import START_MS

PARTITIONS = dict.fromkeys(TOPIC_NAMES, 3)
STEP_MS = 20_000


class Driver:
    """What a live task does, in memory; `restart` keeps only what the changelog would hold."""

    def __init__(self, stage: FoldStage, topic: str) -> None:
        self.stage, self.topic = stage, topic
        self.policy = stage.policy().model_dump(mode="json")
        self.fold: Fold = stage.newest(self.policy)
        self.state: dict[str, Any] = {}
        self.counts: dict[str, int] = {}
        self.offset = 0

    def feed(self, value: bytes | None) -> Processed:
        now = START_MS + self.offset * STEP_MS
        record = Record(self.topic, 1, self.offset, now, now, b"key", value)
        before = self.dumped()
        done = process(self.stage.name, self.fold, self.state, record, PARTITIONS)
        assert self.dumped() == before, "a fold changes no state by itself"
        for key, changed in done.changes.items():
            assert key != "@position"
            self.state.pop(key, None) if changed is None else self.state.__setitem__(key, changed)
        for box, count in done.counters.items():
            self.counts[box] = self.counts.get(box, 0) + count
        self.offset += 1
        return done

    def dumped(self) -> dict[str, bytes]:
        return {key: self.fold.dump(key, value) for key, value in self.state.items()}

    def restart(self) -> None:
        dumped = self.dumped()
        self.fold = self.stage.newest(self.policy)
        self.state = {key: self.fold.load(key, value) for key, value in dumped.items()}
        assert self.dumped() == dumped, "what is loaded dumps to the same bytes"


SOURCES = [pytest.param(stage, topic, id=f"{stage.name}-{topic}") for stage in STAGES for topic in stage.inputs]
SEEDS = st.integers(0, 2**32)


def drawn(topic: str, seed: int, count: int) -> list[bytes | None]:
    """Records of a topic, with repetitions and a bad one here and there."""
    pick = random.Random(seed)
    vocabulary: list[bytes | None] = [*inputs_of(topic), *inputs_of(topic), b"{", None]
    return [pick.choice(vocabulary) for _ in range(count)]


@pytest.mark.parametrize(("stage", "topic"), SOURCES)
@settings(max_examples=25, deadline=None)
@given(seed=SEEDS, until=st.integers(0, 30))
def test_a_restart_anywhere_changes_nothing_and_every_input_is_in_one_box(
    stage: FoldStage, topic: str, seed: int, until: int
) -> None:
    straight, stopped = Driver(stage, topic), Driver(stage, topic)
    for number, value in enumerate(drawn(topic, seed, 30)):
        if number == until:
            stopped.restart()
        one, other = straight.feed(value), stopped.feed(value)
        assert one.produced == other.produced
        assert one.counters == other.counters
        assert straight.counts["in"] == number + 1 == sum(count for box, count in straight.counts.items() if box != "in")
        assert {*straight.counts} <= {"in", "dead", *stage.topology.counters}
        assert all(produced.topic in {*stage.outputs, "dead-letters"} for produced in one.produced)
        assert list(stopped.fold.tick_due(stopped.state)) == list(straight.fold.tick_due(straight.state))
    assert straight.dumped() == stopped.dumped()


@pytest.mark.parametrize(("stage", "topic"), SOURCES)
def test_every_kind_of_input_does_something_and_its_own_inputs_are_never_stage_errors(stage: FoldStage, topic: str) -> None:
    driver = Driver(stage, topic)
    kinds = set()
    for value in inputs_of(topic):
        kinds.add(msgspec.json.decode(value)["type"])
        for produced in driver.feed(value).produced:
            if produced.topic == "dead-letters":
                error = msgspec.json.decode(produced.value)["data"]["error"]
                assert error["code"] != "stage_error", error
    assert len(kinds) > 1


@pytest.mark.parametrize(("stage", "topic"), SOURCES)
@settings(max_examples=25, deadline=None)
@given(seed=SEEDS)
def test_an_id_of_a_stage_stands_for_one_event(stage: FoldStage, topic: str, seed: int) -> None:
    """Events that a stage passes on keep their publisher's id; those that it makes itself have one each. Intake remembers
    nothing, so what is published twice makes the same event twice; the others say nothing twice."""
    driver = Driver(stage, topic)
    found: dict[tuple[str, int, str], bytes] = {}
    for value in drawn(topic, seed, 30):
        for produced in driver.feed(value).produced:
            tree = msgspec.json.decode(produced.value)
            if tree["source"] != f"headrace:{stage.name}":
                continue
            place = (produced.topic, produced.partition, tree["id"])
            if stage.name != "intake":
                assert place not in found, tree
            assert found.setdefault(place, produced.value) == produced.value


@pytest.mark.parametrize("stage", [pytest.param(stage, id=stage.name) for stage in STAGES])
def test_a_row_of_the_table_is_whole(stage: FoldStage) -> None:
    assert {*stage.inputs, *stage.outputs} <= {*TOPIC_NAMES}
    assert stage.topology.counters
    body = stage.policy().model_dump(mode="json")
    assert stage.policy.model_validate(body) == stage.policy()
    assert stage.newest(body)
