"""Events from another Kafka client than ours, without keys, by the contract only: they come out right, and all are counted."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Consumer, Producer

from headrace_streams.settings import Settings
from support.oracle import example_by_the_rules
from support.ring import Ring

pytestmark = [pytest.mark.kafka, pytest.mark.timeout(600)]

TYPES = {"interactions": "headrace.interaction.recorded.v1", "feedback": "headrace.feedback.recorded.v1"}


@pytest.fixture
def ring(settings: Settings, tmp_path: Path) -> Iterator[Ring]:
    with Ring(settings, tmp_path / "ring") as ring:
        ring.start("worker")
        yield ring


class Outsider:
    """Publishes and reads with confluent-kafka and json."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.producer = Producer({"bootstrap.servers": settings.bootstrap, "message.max.bytes": 4_000_000})
        self.published = 0

    def raw(self, topic: str, value: bytes | None, headers: list[tuple[str, Any]] | None = None) -> None:
        self.producer.produce(f"{self.settings.deployment}.{topic}", value, headers=headers)
        self.producer.poll(0)
        self.published += 1
        if self.published % 2000 == 0:
            self.producer.flush()

    def say(self, topic: str, event_id: str, time: str, data: dict[str, Any], binary: bool = False) -> None:
        envelope = {"specversion": "1.0", "id": event_id, "source": "outsider", "type": TYPES[topic], "time": time}
        if binary:
            headers = [(f"ce_{name}", value.encode()) for name, value in envelope.items()]
            self.raw(topic, json.dumps(data).encode(), [*headers, ("content-type", b"application/json")])
        else:
            self.raw(topic, json.dumps({**envelope, "data": data}).encode())

    def read(self, topic: str) -> list[dict[str, Any]]:
        consumer = Consumer(
            {
                "bootstrap.servers": self.settings.bootstrap,
                "group.id": f"{self.settings.deployment}.outsider",
                "auto.offset.reset": "earliest",
                "enable.auto.commit": False,
                "isolation.level": "read_committed",
                "enable.partition.eof": True,
            }
        )
        consumer.subscribe([f"{self.settings.deployment}.{topic}"])
        found, ended = [], 0
        while ended < self.settings.partitions:
            message = consumer.poll(30)
            assert message is not None, f"{topic}: nothing for 30 s"
            error, value = message.error(), message.value()
            if error is not None:
                assert error.name() == "_PARTITION_EOF", error
                ended += 1
            else:
                assert value is not None
                found.append(json.loads(value))
        consumer.close()
        return found


def test_what_comes_out_is_what_the_contract_says(settings: Settings, ring: Ring) -> None:
    draw = random.Random(4)
    outsider = Outsider(settings)
    interactions: dict[str, dict[str, Any]] = {}
    statements: dict[str, list[tuple[str, str, dict[str, Any]]]] = {}
    events = []
    for number in range(200):
        name = f"call-{number}"
        interactions[name] = {
            "interaction_id": name,
            "agent": {"name": "bot", "role": None},
            "artifact_type": draw.choice(["code", "sql", "erd", "docs"]),
            "model": draw.choice(["m1", "org/m2"]),
            "prompt": "word " * draw.randint(1, 1500),
            "output": "answer",
            "context": draw.choice([None, "background " * draw.randint(1, 1500)]),
            "attempt": 1.0,
            "something_unknown": {"kept": [1, None]},
        }
        events.append(("interactions", name, "2026-01-01T00:00:00Z", interactions[name]))
        for turn in range(draw.randint(0, 4)):
            said: dict[str, Any] = {
                "feedback_id": f"f{turn}",
                "interaction_id": name,
                "kind": draw.choice(
                    ["success", "explicit_positive", "validation_failure", "explicit_negative", "rating", "odd_kind"]
                ),
                "score": draw.choice([None, 0, 40, 100, 3]),
                "principal": draw.choice([None, {"id": "ann", "kind": "human"}, {"id": "ci", "kind": "test"}]),
                "name": draw.choice([None, "lint"]),
            }
            if said["score"] == 3:
                said["scale"] = [1, 5]
            time = f"2026-01-02T{draw.randint(0, 23):02}:{draw.randint(0, 59):02}:00.{turn}+02:00"
            statements.setdefault(name, []).append((time, "outsider", said))
            events.append(("feedback", f"{name}-f{turn}", time, said))
    draw.shuffle(events)  # feedback before its interaction, and everything out of order
    for topic, event_id, time, data in events:
        for _ in range(draw.choice([1, 1, 1, 2])):
            outsider.say(topic, event_id, time, data, binary=draw.random() < 0.3)
    outsider.producer.flush()
    ring.wait(published=outsider.published)

    newest = {event["data"]["interaction_id"]: event["data"] for event in outsider.read("examples")}
    assert newest.keys() == statements.keys()
    for name, example in newest.items():
        expected = example_by_the_rules(interactions[name], statements[name])
        for field, value in expected.items():
            found = example[field]
            assert math.isclose(found, value, rel_tol=1e-9, abs_tol=1e-12) if isinstance(value, float) else found == value, (
                name,
                field,
            )
    assert outsider.read("dead-letters") == []
    assert outsider.read("signals")[0]["specversion"] == "1.0"


def spoilt(draw: random.Random, good: bytes) -> tuple[bytes | None, list[tuple[str, Any]] | None]:
    """A record that is wrong in one of many ways, or by chance still right."""
    way = draw.randrange(12)
    if way == 0:
        return None, None
    if way == 1:
        return draw.randbytes(draw.randint(1, 2000)), None
    if way == 2:
        return b"[" * draw.choice([10, 100, 100_000]), None
    if way == 3:
        return good.replace(b'"bot"', b"1" * 30), None
    if way == 4:
        return good.replace(b'"bot"', b"NaN"), None
    if way == 5:
        return good.replace(b"answer", b"\\ud800"), None
    if way == 6:
        return good, [("ce_id", None), ("\udcff".encode("utf-8", "surrogateescape").decode("latin-1"), b"\xff")]
    if way == 7:
        return b'{"x":"' + b"y" * draw.choice([10, 1024 * 1024, 1024 * 1024 + 5]) + b'"}', None
    if way == 8:
        return good[: draw.randrange(len(good))], None
    if way == 9:
        cut = bytearray(good)
        cut[draw.randrange(len(cut))] = draw.randrange(256)
        return bytes(cut), None
    if way == 10:
        return good.replace(b'"data": {', b'"data": {"deep": ' + b'{"a":' * 70 + b"1" + b"}" * 70 + b", "), None
    return good.replace(b"2026-01-01", draw.choice([b"2026-13-41", b"1999-01-01", b"2099-01-01", b"yesterday"])), None


def test_ten_thousand_fuzzed_records_are_all_counted(settings: Settings, ring: Ring) -> None:
    draw = random.Random(17)
    outsider = Outsider(settings)
    data = {"agent": {"name": "bot"}, "artifact_type": "sql", "model": "m", "prompt": "p", "output": "answer"}
    heavy = 0
    for number in range(10_000):
        topic = draw.choice(["interactions", "feedback"])
        fields = (
            {**data, "interaction_id": f"i{number}"}
            if topic == "interactions"
            else {"interaction_id": f"i{number}", "kind": "success"}
        )
        envelope = {"specversion": "1.0", "id": f"e{number}", "source": "s", "type": TYPES[topic], "time": "2026-01-01T00:00:00Z"}
        value, headers = spoilt(draw, json.dumps({**envelope, "data": fields}).encode())
        if value is not None and len(value) > 50_000:
            heavy += 1
            if heavy > 40:  # a few megabytes of those are enough
                value = value[:1000]
        outsider.raw(topic, value, headers)
    outsider.producer.flush()
    counters = ring.wait(published=outsider.published)
    assert outsider.published == 10_000
    assert counters["intake"]["in"] == 10_000 == counters["intake"]["signals"] + counters["intake"]["dead"]
    dead = outsider.read("dead-letters")
    assert len(dead) == counters["intake"]["dead"] > 5_000
    assert {letter["data"]["error"]["code"] for letter in dead}.isdisjoint({"stage_error"})
    places = [(letter["data"]["topic"], letter["data"]["partition"], letter["data"]["offset"]) for letter in dead]
    assert len(set(places)) == len(places)
