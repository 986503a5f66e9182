"""Events of a lake as read models take them: typed, with their places, few at a time. Knows the lake's columns, no page.

A page costs what it shows, not what there is: places are found in narrow columns, and only then are values read, of a bounded
number of records.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from headrace_lake.lineage import RecordPlace
from headrace_lake.query import LakeQuery
from headrace_lake.views import event, read, table_of
from headrace_processors.stages import STAGES
from headrace_schemas.derived import RulesActivation
from headrace_schemas.events import Event, RulesActivated
from headrace_streams import release_log
from headrace_streams.kafka.reader import decode_or_none
from headrace_streams.policy import Policy
from headrace_streams.runtime.stage import FoldStage

STAGE = {stage.name: stage for stage in STAGES}


class RecordedEvent(NamedTuple):
    """An event as it lies on the log. `origin`: who wrote it, of which record: `stage/topic/partition/offset/ordinal`."""

    place: RecordPlace
    appended_ms: int
    event: Event
    origin: str
    value: bytes

    @property
    def source(self) -> RecordPlace | None:
        """The input record that a stage made it of."""
        parts = self.origin.split("/")
        if len(parts) != 5 or not (parts[2].isdigit() and parts[3].isdigit()):
            return None
        return RecordPlace(parts[1], int(parts[2]), int(parts[3]))


def recorded(
    lake: LakeQuery,
    topic: str,
    where: str,
    parameters: Mapping[str, Any] | None = None,
    *,
    limit: int = 1000,
    newest: bool = False,
) -> list[RecordedEvent]:
    """The first (or the `newest`) `limit` events of a topic for which `where` holds, in the order of the log."""
    places = places_where(lake, topic, f"event_type IS NOT NULL AND ({where})", parameters, limit=limit, newest=newest)
    return recorded_at(lake, topic, places)


def recorded_at(lake: LakeQuery, topic: str, places: Iterable[RecordPlace]) -> list[RecordedEvent]:
    """The events at `places` of a topic, in the order of the log; what is no event is left out."""
    rows = read_at(
        lake,
        topic,
        sorted(set(places)),
        "t.partition, t.log_offset, epoch_ms(t.appended_at), coalesce(t.origin, ''), t.value, t.odd",
        "AND t.value IS NOT NULL ORDER BY t.appended_at, t.partition, t.log_offset",
    )
    found: list[RecordedEvent] = []
    for partition, offset, appended_ms, origin, text, odd in rows:
        value = lake.opener.opened(text, odd).encode()
        if (decoded := decode_or_none(value)) is not None:
            found.append(RecordedEvent(RecordPlace(topic, partition, offset), appended_ms, decoded, origin, value))
    return found


def places_where(
    lake: LakeQuery,
    topic: str,
    where: str,
    parameters: Mapping[str, Any] | None = None,
    *,
    limit: int,
    newest: bool = True,
) -> list[RecordPlace]:
    """Where the newest (or the first) `limit` records of a topic lie for which `where` holds, in that order."""
    order = "DESC" if newest else "ASC"
    rows = lake.all(
        f"SELECT partition, log_offset FROM {table_of(topic)} WHERE {where} "
        f"ORDER BY appended_at {order}, partition {order}, log_offset {order} LIMIT {int(limit)}",
        parameters,
    )
    return [RecordPlace(topic, *row) for row in rows]


def read_at(
    lake: LakeQuery, topic: str, places: Sequence[RecordPlace], columns: str, ending: str = "", **parameters: Any
) -> list[tuple[Any, ...]]:
    """`columns` of the records `t` of a topic that lie at `places`. `ending`: further conditions and the order, in SQL."""
    if not places:
        return []
    lake.keep("wanted", places)
    offsets = [place.offset for place in places]
    return lake.all(
        f"SELECT {columns} FROM {table_of(topic)} t JOIN wanted w ON w.partition = t.partition AND w.log_offset = t.log_offset "
        f"WHERE t.log_offset BETWEEN $first AND $last {ending}",
        {"first": min(offsets), "last": max(offsets), **parameters},
    )


def decision_of(answer: RecordedEvent) -> release_log.Decision:
    """What an answer of the release stage says."""
    decision = release_log.decision_of(answer.event)
    assert decision is not None
    return decision


class TaskPolicy(NamedTuple):
    """The rules of a task from `activation.from_offset` of its input on, and where that stands on the log."""

    stage: FoldStage
    activation: RulesActivation
    place: RecordPlace

    @property
    def policy(self) -> Policy:
        """The policy as its rule version read it. ValueError for one that this code can't read."""
        rules = self.stage.versions[self.activation.version]
        return self.stage.policy.model_validate({**rules.absent, **self.activation.body})


def rules_of_task(
    lake: LakeQuery, stage: str, topic: str, partition: int, upto: int | None = None, *, most: int = 1000
) -> list[TaskPolicy]:
    """The last rules that were in force for a task up to an input offset, or ever, in the order of their offsets."""
    before = "" if upto is None else f"AND try_cast({read('data.from_offset')} AS BIGINT) <= {int(upto)}"
    where, task = f"{event('rules.activated')} AND key = $key {before}", {"key": f"{stage}/{topic}/{partition}"}
    found = recorded(lake, "rules", where, task, limit=most, newest=True)
    rules = [TaskPolicy(STAGE[stage], each.event.data, each.place) for each in found if isinstance(each.event, RulesActivated)]
    return sorted(rules, key=lambda each: (each.activation.from_offset, each.place))


def in_force(rules: Sequence[TaskPolicy], offset: int) -> TaskPolicy | None:
    """Those that decided about an input record."""
    return next((each for each in reversed(rules) if each.activation.from_offset <= offset), None)
