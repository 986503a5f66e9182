"""One suite for every fold in the stage table: whatever the inputs, the contract of folds is kept.

A stage joins by having inputs here; a stage of the table without inputs fails the suite.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace_processors.stages import STAGES
from headrace_schemas.topics import TOPIC_NAMES
from headrace_streams.runtime.stage import FoldStage
from headrace_streams.testing import MemoryTask, check_fold
from support.inputs_of import inputs_of

SOURCES = [pytest.param(stage, topic, id=f"{stage.name}-{topic}") for stage in STAGES for topic in stage.inputs]
SEEDS = st.integers(0, 2**32)


def drawn(topic: str, seed: int, count: int) -> list[bytes | None]:
    """Records of a topic, with repetitions and a bad one here and there."""
    pick = random.Random(seed)
    vocabulary: list[bytes | None] = [*inputs_of(topic), *inputs_of(topic), b"{", None]
    return [pick.choice(vocabulary) for _ in range(count)]


@pytest.mark.parametrize(("stage", "topic"), SOURCES)
@settings(max_examples=25, deadline=None)
@given(seed=SEEDS)
def test_the_contract_of_folds_is_kept(stage: FoldStage, topic: str, seed: int) -> None:
    """Link passes repetitions on: reward, behind it, is the one that knows what was said before."""
    check_fold(stage, topic, drawn(topic, seed, 30), repeats=stage.name != "link")


@pytest.mark.parametrize(("stage", "topic"), SOURCES)
def test_every_kind_of_input_does_something_and_its_own_inputs_are_never_stage_errors(stage: FoldStage, topic: str) -> None:
    task = MemoryTask(stage, topic)
    kinds = set()
    for value in inputs_of(topic):
        kinds.add(msgspec.json.decode(value)["type"])
        for produced in task.feed(value).produced:
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
    task = MemoryTask(stage, topic)
    found: dict[tuple[str, int, str], bytes] = {}
    for value in drawn(topic, seed, 30):
        for produced in task.feed(value).produced:
            tree = msgspec.json.decode(produced.value)
            if tree["source"] != f"headrace:{stage.name}":
                continue
            place = (produced.topic, produced.partition, tree["id"])
            if stage.name != "intake":
                assert place not in found, tree
            assert found.setdefault(place, produced.value) == produced.value


RUN_ALL = """
from headrace_processors.stages import STAGES
from headrace_streams.testing import MemoryTask
from support.inputs_of import inputs_of
for stage in STAGES:
    for topic in stage.inputs:
        task = MemoryTask(stage, topic)
        for value in inputs_of(topic):
            print(task.feed(value).produced, task.dumped())
"""


def test_what_is_written_does_not_depend_on_the_process() -> None:
    """The order of a set of texts is another one in each."""
    path = os.pathsep.join(path for path in sys.path if path)
    written = {
        subprocess.check_output([sys.executable, "-c", RUN_ALL], env={**os.environ, "PYTHONPATH": path, "PYTHONHASHSEED": seed})
        for seed in ("1", "2", "3")
    }
    assert len(written) == 1
    assert b"headrace.example.rewarded.v1" in written.pop()


RUN_AND_TELL_IMPORTS = """
import json, sys
from headrace_processors.stages import STAGES
from headrace_streams.testing import MemoryTask
inputs = json.load(sys.stdin)
tasks = [MemoryTask(stage, topic) for stage in STAGES for topic in stage.inputs]
before = set(sys.modules)
for task in tasks:
    for value in [*inputs[task.topic], "{", None]:
        task.feed(None if value is None else value.encode())
print(*sorted(set(sys.modules) - before))
"""


def test_no_fold_imports_anything_once_its_stage_is_built() -> None:
    """A module that is missing would else show in the middle of a stream, at whatever record needs it first."""
    path = os.pathsep.join(path for path in sys.path if path)
    inputs = {topic: [value.decode() for value in inputs_of(topic)] for stage in STAGES for topic in stage.inputs}
    command = [sys.executable, "-c", RUN_AND_TELL_IMPORTS]
    told = subprocess.run(
        command, input=json.dumps(inputs), env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True, check=True
    )
    assert told.stdout.split() == []


@pytest.mark.parametrize("stage", [pytest.param(stage, id=stage.name) for stage in STAGES])
def test_a_row_of_the_table_is_whole(stage: FoldStage) -> None:
    assert {*stage.inputs, *stage.outputs} <= {*TOPIC_NAMES}
    assert stage.topology.counters
    body = stage.policy().model_dump(mode="json")
    assert stage.policy.model_validate(body) == stage.policy()
    assert stage.newest(body)
