"""What came of what, over a lake: from a release down to the very records that were published, and from a record up to releases.

An edge says that one record was made of another, whichever way it is gone, so both ways are inverse to each other:

    release > version, evaluation    the version and the evaluation that it names
    version > batch, run             whose run made it
    batch   > example, drawn prompt  members, and rows that versions are compared on; by revision and place
    run     > example                rows of earlier batches that it repeats
    example > signal                 all that was said of its interaction up to the signal that led to this revision, without
                                     what was not taken (duplicates, conflicts)
    drawn prompt > signal            the interaction that it was drawn from
    signal  > published record       of `interactions` or `feedback`, that intake made it of; for feedback that came by a foreign
                                     id through `refs`, by source and id of the event; for what was derived of feedback on a
                                     session, by what it says that it was derived of

What a version has from the adapter that it goes on from is told apart (`inherited`). Knows the edges, decides nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from headrace_lake.query import LakeQuery
from headrace_lake.views import DECISIONS, KIND, MEMBERS, event, literal, says, table_of

PUBLISHED = ("interactions", "feedback")  # raw, so not in a lake: here the way ends
FEW = 40  # ids that a query names: of more than that most segments have some


class RecordPlace(NamedTuple):
    """Where a record lies on the log."""

    topic: str
    partition: int
    offset: int

    def __str__(self) -> str:
        return f"{self.topic}/{self.partition}/{self.offset}"


class LineageRecord(NamedTuple):
    """A record in a lineage: what it is, its id, and what there is to say of it."""

    place: RecordPlace
    kind: str
    id: str
    note: str = ""


class LineageEdge(NamedTuple):
    """`upper` was made of `lower`; `how`: the part that it has in it."""

    upper: RecordPlace
    lower: RecordPlace
    how: str = ""


class Lineage(NamedTuple):
    """What was found from `subjects` on, in one direction. `inherited`: releases whose adapter goes on from one that was reached
    (up), or versions that theirs goes on from (down)."""

    subjects: list[RecordPlace]
    records: dict[RecordPlace, LineageRecord]
    edges: list[LineageEdge]
    inherited: list[LineageRecord]

    def of(self, kind: str) -> list[LineageRecord]:
        """Those of one kind, in the order of the log."""
        return sorted(record for record in self.records.values() if record.kind == kind)


_KINDS = {  # topic -> (kind, which of its records, their id, what there is to say)
    "releases.history": (
        "release",
        DECISIONS,
        "release_id",
        "split_part(event_type, '.', 3) || ': ' || try(value->>'$.data.reason')",
    ),
    "versions": ("version", event("model_version.created"), "version_id", "try(value->>'$.data.adapter.digest')"),
    "outcomes": ("evaluation", event("evaluation.completed"), "evaluation_id", "''"),
    "runs": ("run", event("training.started"), "run_id", "''"),
    "batches": ("batch", event("batch.ready"), "batch_id", "'cut for ' || try(value->>'$.data.cause')"),
    "examples": (
        "example",
        event("example.rewarded", "prompt.drawn"),
        "example_id",
        "if(revision IS NULL, 'a drawn prompt', 'revision ' || revision)",
    ),
    "signals": ("signal", "event_type IS NOT NULL", "event_id", KIND),
}
_SEARCHED = ("releases.history", "versions", "outcomes", "runs", "batches", "examples")  # for an id, in this order


def _rows(topic: str) -> str:
    return f"(SELECT * FROM {table_of(topic)} WHERE {_KINDS[topic][1]})"


def _made_of(alias: str) -> str:
    """Partition and offset of the input record that a record's origin names."""
    at = [f"split_part({alias}.origin, '/', {number})" for number in (3, 4)]
    return f"try_cast({at[0]} AS INTEGER), try_cast({at[1]} AS BIGINT)"


def _here(alias: str) -> str:
    return f"JOIN reached r ON r.partition = {alias}.partition AND r.log_offset = {alias}.log_offset"


def _pair(alias: str) -> str:
    return f"{alias}.partition, {alias}.log_offset"


def _ids(upper: str, lower: str, name: str, up: bool) -> str:
    """Edges of records that name the same id."""
    return (
        f"SELECT {_pair('u')}, {_pair('l')}, '' FROM {_rows(upper)} u JOIN {_rows(lower)} l "
        f"ON u.{name} = l.{name} AND u.bucket = l.bucket {_here('l' if up else 'u')}"
    )


def _members(lake: LakeQuery, topic: str, up: bool) -> str:
    """Edges of batches or runs to the revisions that they name, where they say that these lie."""
    some = "(u.partition, u.log_offset) IN (SELECT (partition, log_offset) FROM reached)"
    if up:
        ids = _ids_of(lake, "examples", "example_id")
        one_by_one = " OR ".join(f"list_contains(u.example_ids, {literal(name)})" for name in ids[:FEW])
        some = f"({one_by_one or 'false'})" if len(ids) <= FEW else f"list_has_any(u.example_ids, {literal(ids)})"
    pools = {
        "batches": (("members", ""), ("test_pool", "compared on"), ("validation_pool", ""), ("prompts", "asked")),
        "runs": (("rehearsal", "repeated"),),
    }[topic]
    named = f"WITH chosen AS MATERIALIZED (SELECT u.* FROM {_rows(topic)} u WHERE {some}) " + " UNION ALL ".join(
        f"SELECT u.partition, u.log_offset, '{how}' AS how, "
        f"unnest(from_json(try(u.value->'$.data.{name}'), '{MEMBERS}')) AS m FROM chosen u"
        for name, how in pools
    )
    how = "if(u.how <> '', u.how, if(m.role = 'negative', 'avoided', if(m.split = 'train', 'learnt', m.split)))"
    return (
        f"SELECT {_pair('u')}, {_pair('l')}, {how} FROM ({named}) u JOIN {_rows('examples')} l "
        'ON l.partition = m.locator.partition AND l.log_offset = m.locator."offset" AND l.example_id = m.example_id '
        f"AND coalesce(l.revision, 1) = m.revision {_here('l') if up else ''}"
    )


def _said(lake: LakeQuery, up: bool) -> str:
    """Edges of examples to what was said of their interaction until then, and of drawn prompts to the interaction alone. Each of
    the three is asked for those interactions alone: of a few ids segments say whether they have them."""
    ids = _ids_of(lake, "signals" if up else "examples", "interaction_id")
    lake.keep_texts("about", ids)
    some = f"interaction_id IN {literal(ids, '()')}" if 0 < len(ids) <= FEW else "interaction_id IN (SELECT text FROM about)"
    refused = f"SELECT ({_made_of('x')}) FROM {table_of('rejections')} x WHERE x.{event('signal.rejected')} AND x.{some}"
    made = f"SELECT *, ({_made_of('e')}) AS last FROM {_rows('examples')} e WHERE e.origin LIKE 'reward/signals/%' AND e.{some}"
    signals = f"(SELECT * FROM {_rows('signals')} s WHERE s.{some})"
    return (
        f"SELECT {_pair('u')}, {_pair('l')}, '' FROM ({made}) u JOIN {signals} l ON l.interaction_id = u.interaction_id "
        f"AND l.partition = u.last[1] AND l.log_offset <= u.last[2] {_here('l' if up else 'u')} "
        "WHERE (u.revision IS NOT NULL OR l.log_offset = u.last[2]) AND (l.partition, l.log_offset) NOT IN "
        f"(SELECT x FROM ({refused}) AS t(x) WHERE x[1] IS NOT NULL AND x[2] IS NOT NULL)"
    )


def _ids_of(lake: LakeQuery, topic: str, column: str) -> list[str]:
    """Of the reached records."""
    found = lake.all(f"SELECT DISTINCT u.{column} FROM {_rows(topic)} u {_here('u')} WHERE u.{column} IS NOT NULL ORDER BY 1")
    return [name for (name,) in found]


_BY_INTAKE = "f.origin LIKE 'intake/%/%/%/%'"
_OF_SESSION = event("session_feedback.recorded", "session_feedback.retracted")
# From a signal to what was published: whose origin names that (s the signal's, f a record's that it came by), how f is found, for
# which signals, and how the edge is called.
_WAYS = (
    ("s", "", "s.origin LIKE 'intake/%/%/%/%'", ""),
    (
        "f",
        f"JOIN {table_of('refs')} f ON f.event_id = s.event_id AND f.source = s.source AND f.event_type = s.event_type "
        f"AND {_BY_INTAKE}",
        "s.origin LIKE 'link/%'",
        "by a foreign id",
    ),
    (  # credited anew when an interaction turned up, it was still derived of what was said, whatever its origin names
        "f",
        f"JOIN {table_of('sessions')} f ON f.key = try(s.value->>'$.data.attributed_from.session_id') AND f.source = s.source "
        "AND try(f.value->>'$.data.feedback_id') = try(s.value->>'$.data.attributed_from.feedback_id') "
        f"AND f.{event('session_feedback.recorded')} AND {_BY_INTAKE}",
        "s.origin LIKE 'attribute/%'",
        "by its session",
    ),
    (  # what a derivation saw: in interactions of the session, and in what was reported of it
        "f",
        f"JOIN {table_of('sessions')} f ON f.key = try(s.value->>'$.data.attributed_from.session_id') "
        "AND list_contains(try(CAST(s.value->'$.data.attributed_from.causes' AS VARCHAR[])), "
        "coalesce(try(f.value->>'$.data.feedback_id'), try(f.value->>'$.data.interaction_id'))) "
        f"AND (f.{event('session.joined')} OR f.{event('session_feedback.recorded')}) AND {_BY_INTAKE}",
        "s.origin LIKE 'attribute/%'",
        "seen by a derivation",
    ),
    (  # taken back, it names nothing that it was derived of
        "f",
        f"JOIN {table_of('sessions')} f ON (f.partition, f.log_offset) = ({_made_of('s')}) "
        f"AND f.{event('session_feedback.retracted')} AND {_BY_INTAKE}",
        "s.origin LIKE 'attribute/sessions/%'",
        "by its session",
    ),
)


def _published(lake: LakeQuery, places: Sequence[RecordPlace], up: bool) -> list[LineageEdge]:
    """Edges of signals to what was published, at the reached `places`: signals, or (`up`) records `published`."""
    selects = []
    for alias, found_by, where, how in _WAYS:
        at = _here("s")
        if up and len(places) <= FEW:  # what begins with `a/` lies from `a/` on and before `a0`
            starts = (f"intake/{place}" for place in places)
            begins = " OR ".join(f"({alias}.origin >= '{start}/' AND {alias}.origin < '{start}0')" for start in starts)
            at, where = "", f"({begins}) AND {where}"
        elif up:
            at = (
                f"JOIN published p ON p.topic = split_part({alias}.origin, '/', 2) "
                f"AND (p.partition, p.log_offset) = ({_made_of(alias)})"
            )
        selects.append(
            f"SELECT {_pair('s')}, split_part({alias}.origin, '/', 2), {_made_of(alias)}, '{how}' "
            f"FROM {table_of('signals')} s {found_by} {at} WHERE {where}"
        )
    return [
        LineageEdge(RecordPlace("signals", *row[:2]), RecordPlace(*row[2:5]), row[5])
        for row in lake.all(" UNION ".join(selects))
        if row[2] in PUBLISHED and row[3] is not None and row[4] is not None
    ]


def trace(lake: LakeQuery, subjects: Iterable[RecordPlace], *, up: bool) -> Lineage:
    """All that `subjects` were made of, or (`up`) all that was made of them."""
    subjects = sorted(set(subjects))
    reached: dict[str, set[RecordPlace]] = {}
    for place in subjects:
        reached.setdefault(place.topic, set()).add(place)
    edges: set[LineageEdge] = set()

    def take(found: Iterable[LineageEdge]) -> None:
        for edge in found:
            end = edge.upper if up else edge.lower
            edges.add(edge)
            reached.setdefault(end.topic, set()).add(end)

    if up and (published := [place for topic in PUBLISHED for place in reached.get(topic, ())]):
        lake.keep("published", published)
        take(_published(lake, published, up))
    for upper, lower, edges_of in _way(up):
        if start := reached.get(lower if up else upper):
            lake.keep("reached", start)
            rows = lake.all(edges_of(lake))
            take(LineageEdge(RecordPlace(upper, *row[:2]), RecordPlace(lower, *row[2:4]), row[4] or "") for row in rows)
    if not up and reached.get("signals"):
        lake.keep("reached", reached["signals"])
        take(_published(lake, sorted(reached["signals"]), up))
    records = {record.place: record for topic in reached for record in _described(lake, topic, reached[topic])}
    return Lineage(subjects, records, sorted(edges), _inherited(lake, records.values(), up))


def _way(up: bool) -> list[tuple[str, str, Callable[[LakeQuery], str]]]:
    """(upper topic, lower topic, the query for edges between them at the reached places), in the order of the way down, or up."""
    down: list[tuple[str, str, Callable[[LakeQuery], str]]] = [
        ("releases.history", "versions", lambda _: _ids("releases.history", "versions", "version_id", up)),
        ("releases.history", "outcomes", lambda _: _ids("releases.history", "outcomes", "evaluation_id", up)),
        ("versions", "batches", lambda _: _ids("versions", "batches", "batch_id", up)),
        ("versions", "runs", lambda _: _ids("versions", "runs", "run_id", up)),
        ("batches", "examples", lambda lake: _members(lake, "batches", up)),
        ("runs", "examples", lambda lake: _members(lake, "runs", up)),
        ("examples", "signals", lambda lake: _said(lake, up)),
    ]
    return down[::-1] if up else down


def _described(lake: LakeQuery, topic: str, places: Iterable[RecordPlace]) -> list[LineageRecord]:
    if topic not in _KINDS:
        return [LineageRecord(place, "published", str(place)) for place in places]
    kind, _, name, note = _KINDS[topic]
    lake.keep("reached", places)
    found = lake.all(f"SELECT {_pair('u')}, u.{name}, {note} FROM {_rows(topic)} u {_here('u')}")
    return [LineageRecord(RecordPlace(topic, *row[:2]), kind, row[2] or "", row[3] or "") for row in found]


def _inherited(lake: LakeQuery, records: Iterable[LineageRecord], up: bool) -> list[LineageRecord]:
    known = {record.id for record in records if record.kind == "version"}
    if not known:
        return []
    versions = lake.all(
        "SELECT v.partition, v.log_offset, v.version_id, (v.bucket, try(v.value->>'$.data.adapter.digest')), "
        f"(v.bucket, try(v.value->>'$.data.parent_adapter')) FROM {_rows('versions')} v ORDER BY v.partition, v.log_offset"
    )
    ends = {row[3] if up else row[4] for row in versions if row[2] in known}  # adapters that others go on from, or that they do
    inherited = []
    for row in versions if up else reversed(versions):  # a parent is on the log before those that go on from it
        if row[2] not in known and (row[4] if up else row[3]) in ends:
            inherited.append(row[2])
            ends.add(row[3] if up else row[4])
    if not up:
        told = (row for row in versions if row[2] in inherited)
        return [LineageRecord(RecordPlace("versions", *row[:2]), "version", row[2], row[3][1] or "") for row in told]
    kind, _, name, note = _KINDS["releases.history"]
    found = lake.all(
        f"SELECT {_pair('u')}, u.{name}, {note} FROM {_rows('releases.history')} u WHERE list_contains($versions, u.version_id)",
        {"versions": inherited},
    )
    return [LineageRecord(RecordPlace("releases.history", *row[:2]), kind, row[2], row[3] or "") for row in found]


def published_fate(lake: LakeQuery, place: RecordPlace) -> str:
    """Why nothing came of a published record, as far as a lake knows."""
    prefix = f"intake/{place.topic}/{place.partition}/{place.offset}/"
    for topic, what in (
        ("dead-letters", "it is a dead letter"),
        ("refs", "it waits for its foreign id to be linked"),
        ("sessions", "no interaction of its session is credited with it"),
    ):
        found = lake.all(
            f"SELECT u.value, u.odd, u.partition, u.log_offset FROM {table_of(topic)} u WHERE starts_with(u.origin, $prefix)",
            {"prefix": prefix},
        )
        if found:
            from headrace_schemas.events import RecordRejected
            from headrace_streams.kafka.reader import decode_or_none  # with the client, which an answer does without elsewhere

            value, odd, partition, offset = found[0]
            letter = decode_or_none(lake.opener.opened(str(value), odd).encode())
            why = f": {letter.data.error.code}: {letter.data.error.message}" if isinstance(letter, RecordRejected) else ""
            return f"{place}: {what}{why} ({RecordPlace(topic, partition, offset)})"
    return f"{place}: nothing in the lake came of it: is it up to date?"


def places_of(lake: LakeQuery, name: str) -> tuple[str, list[RecordPlace]]:
    """(kind, records) that an id means: a release's, version's, evaluation's, run's, batch's, example's, an interaction's (its
    examples, or its signals while there are none), an event's; or `topic/partition/offset`. Feedback on a session, and what waits
    for a foreign id, is what was published of it. ("", []) where there is none."""
    if (place := _place(name)) is not None:
        if place.topic in PUBLISHED:
            return "published", [place]
        return _KINDS[place.topic][0], [record.place for record in _described(lake, place.topic, [place])]
    for topic in _SEARCHED:
        kind, _, column, _ = _KINDS[topic]
        if found := _found(lake, topic, f"u.{column} = $name", name):
            return kind, found
    if found := _found(lake, "examples", "u.interaction_id = $name", name):
        return "interaction", found
    if found := _found(lake, "signals", "u.interaction_id = $name", name):
        return "interaction", found
    waits = ("refs", event("feedback.recorded")), ("sessions", _OF_SESSION)
    for by_id in (True, False):  # one by the event's id is found without reading what it says
        said = "event_id = $name" if by_id else f"{{}} AND {says('data.feedback_id', 'name')}"
        if found := _found(lake, "signals", said.format(event("feedback.recorded")), name):
            return "event", found
        held = lake.all(
            " UNION ".join(
                f"SELECT split_part(u.origin, '/', 2), {_made_of('u')} FROM {table_of(topic)} u "
                f"WHERE u.origin LIKE 'intake/feedback/%/%/%' AND {said.format(kind)}"
                for topic, kind in waits
            )
            + " ORDER BY ALL",
            {"name": name},
        )
        if held:
            return "published", [RecordPlace(*row) for row in held]
    return "", []


def _place(name: str) -> RecordPlace | None:
    topic, _, partition = name.rpartition("/")[0].rpartition("/")
    offset = name.rpartition("/")[2]
    known = topic in (*_KINDS, *PUBLISHED) and partition.isdecimal() and offset.isdecimal()
    return RecordPlace(topic, int(partition), int(offset)) if known else None


def _found(lake: LakeQuery, topic: str, where: str, name: str) -> list[RecordPlace]:
    found = lake.all(f"SELECT {_pair('u')} FROM {_rows(topic)} u WHERE {where}", {"name": name})
    return [RecordPlace(topic, *row) for row in found]
