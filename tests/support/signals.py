"""Events as others publish them, and a run of a stage over them record by record, for the tests of the stages."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from headrace_schemas.codec import decode, encode
from headrace_schemas.delays import DELAY
from headrace_schemas.events import Event
from headrace_schemas.times import rfc3339
from headrace_schemas.topology import FEEDBACK, INTERACTIONS, LABELS
from headrace_streams.runtime.stage import DERIVED, Fold, Record, Step, Write

START_MS = 1_790_000_000_000
MINUTE_MS = 60_000


def at(minute: float) -> str:
    return rfc3339(START_MS + int(minute * MINUTE_MS))


def event(
    kind: str, data: dict[str, Any], *, id: str = "e1", source: str = "agent:test", minute: float = 0, **more: Any
) -> bytes:
    """`kind` is the middle of the type: `interaction.recorded`."""
    return msgspec.json.encode(
        {
            "specversion": "1.0",
            "id": id,
            "source": source,
            "type": f"headrace.{kind}.v1",
            "time": at(minute),
            "data": data,
            **more,
        }
    )


def interaction(name: str = "i1", *, minute: float = 0, **data: Any) -> bytes:
    fields = {
        "interaction_id": name,
        "agent": {"name": "bot"},
        "artifact_type": "sql",
        "model": "tiny",
        "prompt": "how many?",
        "output": "select 1",
        **data,
    }
    return event("interaction.recorded", fields, id=f"interaction-{name}", minute=minute)


def feedback(name: str = "f1", about: str | None = "i1", kind: str = "success", /, *, minute: float = 1, **data: Any) -> bytes:
    fields = {"feedback_id": name, "kind": kind, **data}
    if about is not None:
        fields["interaction_id"] = about
    return event("feedback.recorded", fields, id=f"feedback-{name}", source="people:test", minute=minute)


def feedback_retracted(name: str = "f1", about: str = "i1", *, minute: float = 2) -> bytes:
    fields = {"feedback_id": name, "interaction_id": about}
    return event("feedback.retracted", fields, id=f"unsaid-{name}-{about}", source="people:test", minute=minute)


def interaction_retracted(name: str = "i1", *, minute: float = 3) -> bytes:
    return event("interaction.retracted", {"interaction_id": name}, id=f"retracted-{name}", minute=minute)


def subject_erased(subject: str, *, minute: float = 4) -> bytes:
    return event("subject.erased", {"data_subject": subject}, id=f"erased-{subject}", minute=minute)


FIGURES = (INTERACTIONS, FEEDBACK, DELAY, LABELS)


def without_figures(counters: Mapping[str, int]) -> dict[str, int]:
    """Counters without those of joins, delays and labels."""
    return {name: count for name, count in counters.items() if not name.startswith(FIGURES)}


def accounted(counters: Mapping[str, int]) -> bool:
    """Whether every record that came in is in one counter."""
    return sum(count for name, count in without_figures(counters).items() if name != "in") == counters.get("in", 0)


class StageRun:
    """One partition of one stage: state, counters and outputs after each record, as a driver would keep them.

    `through_dump`: state is stored and read back between any two records, as if the task had been restarted.
    """

    def __init__(self, fold: Fold, topic: str, *, through_dump: bool = False) -> None:
        self.fold, self.topic, self.through_dump = fold, topic, through_dump
        self.state: dict[str, Any] = {}
        self.counters: Counter[str] = Counter()
        self.figures: Counter[str] = Counter()  # of joins, delays and labels, which count no records
        self.outputs: list[Write] = []
        self.records = 0

    def feed(self, *values: bytes | None, headers: Iterable[tuple[str, bytes]] = (), key: bytes | None = None) -> list[Write]:
        """What the values put out, all together."""
        before = len(self.outputs)
        for value in values:
            now = START_MS + self.records
            record = Record(self.topic, 0, self.records, now, now, key, value, tuple(headers))
            self.apply(self.fold.step(self.state, record))
        return self.outputs[before:]

    def apply(self, step: Step) -> None:
        self.records += 1
        for key, value in step.changes.items():
            if value is None:
                self.state.pop(key, None)
            else:
                self.state[key] = value
        if self.through_dump:
            self.state = {key: self.fold.load(key, value) for key, value in self.dumped().items()}
            self.state.update(self.fold.derive(self.state))
        self.counters.update(without_figures(step.counters))
        self.figures.update({name: count for name, count in step.counters.items() if name.startswith(FIGURES)})
        self.counters = Counter({name: count for name, count in self.counters.items() if count})
        self.outputs += step.outputs

    @property
    def deadlines(self) -> list[int]:
        """Fold times (ms) until which the state waits, ascending."""
        return sorted(self.fold.deadlines(self.state).values())

    def dumped(self) -> dict[str, bytes]:
        return {key: self.fold.dump(key, value) for key, value in self.state.items() if not key.startswith(DERIVED)}


def events_on(outputs: Iterable[Write], topic: str) -> list[Event]:
    return [event_of(output) for output in outputs if output.topic == topic]


def event_of(output: Write) -> Event:
    return decode(output.value) if isinstance(output.value, bytes) else decode(encode(output.value))


def tree_of(output: Write) -> Mapping[str, Any]:
    """As plain JSON, with what the events don't know."""
    value = output.value if isinstance(output.value, bytes) else encode(output.value)
    tree: Mapping[str, Any] = msgspec.json.decode(value)
    return tree
