"""The chain rebuilt from signals says what the live stages said, each thing once."""

from __future__ import annotations

import asyncio
import json
import random
import weakref
from collections import Counter
from typing import Any

import pytest

from headrace_lake.rebuild import Signal, rebuild, signals_in_order
from headrace_processors.reward import erasure
from headrace_processors.stages import STAGES
from headrace_schemas.codec import RECORD_LIMIT
from headrace_streams.runtime.fold_runner import FoldRunner
from headrace_streams.runtime.step import Produced
from headrace_streams.testing import written_headers
from support.memory_log import MemoryLog
from support.memory_ring import MemoryRing
from support.rebuild_at_once import rebuilt_at_once
from support.signals import event as ring_event

STAGE = {stage.name: stage for stage in STAGES}
BODIES = {stage.name: stage.policy().model_dump(mode="json") for stage in STAGES}


def event(number: int, kind: str, data: dict[str, Any]) -> bytes:
    envelope = {"specversion": "1.0", "id": f"e{number}", "source": "agent:test", "type": f"headrace.{kind}.v1"}
    return json.dumps({**envelope, "time": f"2026-09-01T00:00:{number:02}Z", "data": data}).encode()


def test_signal_that_grew_beyond_what_publishers_may_send_counts() -> None:
    """Scrubbing may lengthen a record."""
    log = MemoryLog(1)
    said = {"interaction_id": "a", "agent": {"name": "x"}, "artifact_type": "sql", "model": "m", "prompt": "p"}
    long = event(0, "interaction.recorded", {**said, "output": "o" * RECORD_LIMIT})
    log.append("signals", 0, b"a", long, written_headers("signals"))
    feedback = event(1, "feedback.recorded", {"interaction_id": "a", "kind": "success", "score": 100})
    log.append("signals", 0, b"a", feedback, written_headers("signals"))

    async def examples() -> list[str]:
        return [made.topic async for made in rebuild(log, [STAGE["reward"]], BODIES)]

    assert asyncio.run(examples()) == ["examples"]


def test_what_the_chain_writes_to_its_own_input_is_not_applied_twice() -> None:
    """A preference that is retracted is retracted on the other side too: by reward, on signals, which it also reads."""
    log = MemoryLog(1)
    for number, name in enumerate("ab"):
        said = {
            "interaction_id": name,
            "agent": {"name": "x"},
            "artifact_type": "sql",
            "model": "m",
            "prompt": name,
            "output": "o",
        }
        log.append("interactions", 0, None, event(number, "interaction.recorded", said))
    log.append("feedback", 0, None, event(2, "feedback.recorded", {"interaction_id": "a", "kind": "preference", "over": ["b"]}))
    log.append("feedback", 0, None, event(3, "feedback.retracted", {"interaction_id": "a", "feedback_id": "e2"}))
    for name in ("intake", "reward"):
        log.run(STAGE[name], BODIES[name])
    live = [record.value for topic in ("examples", "rejections") for record in log.records.get((topic, 0), [])]

    async def everything() -> list[bytes]:
        return [made.value async for made in rebuild(log, [STAGE["reward"]], BODIES) if made.topic != "signals"]

    rebuilt = asyncio.run(everything())
    kinds = [json.loads(value or b"")["type"].split(".", 1)[1] for value in rebuilt]
    assert kinds == ["example.rewarded.v1", "example.rewarded.v1", "example.withdrawn.v1", "example.withdrawn.v1"]
    ids = [sorted(json.loads(value or b"")["id"] for value in values) for values in (rebuilt, live)]
    assert ids[0] == ids[1]


def test_an_erasure_is_ended_with_all_its_portions_whatever_came_of_it_live(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(erasure, "PORTION", 2)
    log = MemoryLog(1)
    for number in range(7):
        said = {
            "interaction_id": f"i{number}",
            "agent": {"name": "x"},
            "artifact_type": "sql",
            "model": "m",
            "prompt": "p",
            "output": "o",
            "data_subject": "bob",
        }
        log.append("signals", 0, b"a", event(number, "interaction.recorded", said), written_headers("signals"))
        feedback = event(number + 10, "feedback.recorded", {"interaction_id": f"i{number}", "kind": "success"})
        log.append("signals", 0, b"a", feedback, written_headers("signals"))
    log.append("signals", 0, b"a", event(30, "subject.erased", {"data_subject": "bob"}), written_headers("signals"))

    async def kinds() -> Counter[str]:
        made = [made async for made in rebuild(log, [STAGE["reward"]], BODIES)]
        return Counter(json.loads(each.value or b"")["type"].split(".", 1)[1] for each in made)

    assert asyncio.run(kinds()) == {"example.rewarded.v1": 7, "example.withdrawn.v1": 7, "erasure.continued.v1": 3}


def test_signals_come_in_the_order_of_time_and_id_and_as_they_were_recorded() -> None:
    """They are sorted on disk: keys, headers and values are those of the log."""
    log = MemoryLog(3)
    for number, (second, name) in enumerate([(5, "b"), (5, "a"), (5, "ä"), (1, "z"), (9, "a"), (5, "a")]):
        said = event(second, "interaction.retracted", {"interaction_id": name}).replace(
            f'"e{second}"'.encode(), f'"{name}"'.encode()
        )
        log.append("signals", number % 3, name.encode(), said, written_headers("signals"))
    log.append("signals", 0, None, b"no event", ())

    async def found() -> list[Signal]:
        return [signal async for signal in signals_in_order(log)]

    signals = asyncio.run(found())
    recorded = [record for records in log.records.values() for record in records if record.value != b"no event"]
    assert [signal.event_id for signal in signals] == ["z", "a", "a", "b", "ä", "a"]
    assert sorted(signal.record for signal in signals) == sorted(recorded)
    key = [(signal.time_ns, signal.event_id, signal.record.partition, signal.record.offset) for signal in signals]
    assert key == sorted(key)


def disputed(seed: int, count: int = 3) -> MemoryLog:
    """Signals of a ring, and among them preferences over what lies on other partitions, retracted again, and an erasure."""
    ring = MemoryRing(seed, partitions=count)
    ring.round(40)
    draw = random.Random(seed)
    for number in range(30):
        better, worse = draw.sample(range(1, 41), 2)
        said = {"interaction_id": f"i-{better}", "feedback_id": f"p-{number}", "kind": "preference", "over": [f"i-{worse}"]}
        ring.publish("feedback", ring_event("feedback.recorded", said, id=f"p-{number}"))
        if number % 2:
            back = {"interaction_id": f"i-{better}", "feedback_id": f"p-{number}"}
            ring.publish("feedback", ring_event("feedback.retracted", back, id=f"q-{number}"))
    ring.publish("interactions", ring_event("subject.erased", {"data_subject": "subject-1"}, id="gone"))
    ring.round(40)
    return ring.log


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_partitions_folded_one_after_the_other_say_what_all_say_at_once(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """One partition tells another that a preference was retracted, which that one has to hear in its place."""
    monkeypatch.setattr(erasure, "PORTION", 2)
    log = disputed(seed)
    expected = asyncio.run(rebuilt_at_once(log, STAGES, BODIES))
    told = [made for made in expected if made.topic == "signals" and b"feedback.retracted" in made.value]
    assert any(made.partition != json.loads(made.headers[1][1].split(b"/")[2]) for made in told)  # it does happen here

    async def everything() -> list[Produced]:
        return [made async for made in rebuild(log, STAGES, BODIES)]

    assert asyncio.run(everything()) == expected


def test_one_partition_s_state_is_in_memory_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    alive: weakref.WeakSet[FoldRunner] = weakref.WeakSet()
    most = 0

    class Counted(FoldRunner):
        def __init__(self, *arguments: Any) -> None:
            nonlocal most
            super().__init__(*arguments)
            alive.add(self)
            most = max(most, len(alive))

    monkeypatch.setattr("headrace_lake.rebuild.FoldRunner", Counted)

    async def count() -> int:
        return len([made async for made in rebuild(disputed(1), STAGES, BODIES)])

    assert asyncio.run(count()) > 100
    assert most == 1
