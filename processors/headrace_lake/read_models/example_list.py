"""Examples of a lake as a list with facets: newest first, filtered, a bounded number looked through for one page. Knows the
lake's columns; what became of each is looked up for those that are shown.
"""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec
from msgspec import Struct

from headrace_lake.dataset_filter import DatasetFilter, FilterFields, derived_alone
from headrace_lake.lineage import RecordPlace
from headrace_lake.query import LakeQuery, QueryRefused
from headrace_lake.read_models.paging import NEWEST_FIRST, PAGE, PageCursor, next_page, page_of
from headrace_lake.read_models.recorded import read_at
from headrace_lake.views import event, mentions, table_of
from headrace_schemas.events import ExampleRewarded
from headrace_schemas.inputs import Output, Text
from headrace_schemas.splits import split_of
from headrace_schemas.text import render
from headrace_schemas.times import parse_ns
from headrace_streams.kafka.reader import decode_or_none

WINDOW = 10_000  # revisions that are looked through for one page, with a filter,
PORTION = 2_500  # so many at a time, until there are enough
FACETS = 1_000  # the same without one: what the facets are of
PREVIEW = 200  # characters of a text in a list
FACET_ROWS = 12

_FIELDS = {
    "agent": "$.data.agent.name",
    "role": "$.data.agent.role",
    "group": "$.data.prompt_group",
    "reward": "$.data.reward",
    "quality": "$.data.quality",
    "score": "$.data.score",
    "voices": "$.data.voices",
    "contradicted": "$.data.contradicted",
    "event_time": "$.data.event_time",
    "principals": "$.data.principals",
    "correction": "$.data.components.correction",
    "adapter": "$.data.adapter",
    "difficulty": "$.data.components.difficulty",
    "derived": "$.data.derived",
}


class FilterRefused(QueryRefused):
    """A filter in an address that is none; the message names it."""


class ExampleFilter(DatasetFilter, frozen=True, kw_only=True):
    """Every field that is given must hold. `bucket` and `text`, what prompt, output or target contain, whatever its case, are
    asked in the query, all others of what a row says."""

    bucket: str | None = None
    text: str | None = None

    @classmethod
    def read(cls, query: Mapping[str, str]) -> ExampleFilter:
        """The filter in the query of an address. FilterRefused."""
        given: dict[str, Any] = {name: query[name] for name in cls.__struct_fields__ if query.get(name)}
        for name in ("min_reward", "max_reward"):
            if name in given:
                try:
                    given[name] = float(given[name])
                except ValueError:
                    raise FilterRefused(f"{name}={given[name]!r}: no number") from None
        for name in ("since", "before"):
            if name in given:
                try:
                    parse_ns(given[name])
                except ValueError as error:
                    raise FilterRefused(f"{name}: {error}") from None
        if given.get("derived") not in (None, "without", "only"):
            raise FilterRefused(f"derived={given['derived']!r}: without, or only")
        return cls(**given)

    def given(self) -> dict[str, str]:
        """Name and value of what is asked for."""
        named = ((name, getattr(self, name)) for name in self.__struct_fields__)
        return {name: f"{value:g}" if isinstance(value, float) else value for name, value in named if value is not None}

    def command(self) -> str | None:
        """The command that writes what the filter lets pass, of what was cut, to a file; None without a bucket."""
        if self.bucket is None:
            return None
        options = [
            f"--{name.replace('_', '-')} {_quoted(value)}"
            for name, value in self.given().items()
            if name not in ("bucket", "text") and value != "test"
        ]
        return " ".join(["headrace dataset", _quoted(self.bucket), *options, "--out FOLDER"])

    def _reads_values(self) -> bool:
        return any(name != "bucket" for name in self.given())


class ExampleState(Struct, frozen=True, kw_only=True):
    """What became of an example, as the records that name its id say: `state` in two words, and why."""

    state: str
    reason: str = ""
    newest_revision: int | None = None
    batches: list[str] = []


class ExampleRow(Struct, kw_only=True):
    """One revision of an example."""

    example_id: str
    revision: int
    interaction_id: str
    bucket: str
    split: str
    agent: str
    role: str | None
    reward: float
    quality: float
    score: float | None
    voices: int
    contradicted: bool
    corrected: bool
    difficulty: float
    event_time: str
    appended_ms: int
    place: str
    adapter: str | None = None
    principals: list[str] = []
    derived: int = 0  # of the voices
    prompt: str = ""
    target: str = ""
    state: ExampleState | None = None


class ExampleList(Struct, kw_only=True):
    """One page. `looked_through`: revisions that were asked, of which `matching` pass the filter; `below`: where the next page
    goes on, None at the end. `facets`: of what matches, counts by value, the most first."""

    filter: ExampleFilter
    rows: list[ExampleRow]
    looked_through: int
    matching: int
    facets: dict[str, dict[str, int]]
    below: str | None = None
    command: str | None = None


def example_list(lake: LakeQuery, wanted: ExampleFilter, below: PageCursor | None = None, *, page: int = PAGE) -> ExampleList:
    """The newest revisions that pass a filter, `page` of them, below a place."""
    most = WINDOW if wanted._reads_values() else FACETS
    window, places = _window(lake, wanted.bucket, below, most), list[tuple[int, int, int]]()
    matching: list[ExampleRow] = []
    while len(places) < len(window) and len(matching) <= page:
        portion = window[len(places) : len(places) + PORTION]
        places += portion
        matching += wanted.passing(_rows(lake, portion, wanted), _fields)
    shown = matching[:page]
    further = next_page(shown, more=len(matching) > page)
    if further is None and len(places) == most:
        further = str(PageCursor(*places[-1]))
    _complete(lake, shown)
    return ExampleList(
        filter=wanted,
        rows=shown,
        looked_through=len(places),
        matching=len(matching),
        facets=_facets(matching),
        below=further,
        command=wanted.command(),
    )


def newest_rows(lake: LakeQuery, wanted: ExampleFilter, most: int) -> list[ExampleRow]:
    """The `most` newest revisions of a bucket (or of all) that pass a filter, without their texts and states."""
    return wanted.passing(_rows(lake, _window(lake, wanted.bucket, None, most), wanted), _fields)


def _fields(row: ExampleRow) -> FilterFields:
    derived = derived_alone(row.voices, row.derived)
    return FilterFields(row.agent, row.role, row.split, row.reward, row.principals, row.event_time, derived)


def _window(lake: LakeQuery, bucket: str | None, below: PageCursor | None, most: int) -> list[tuple[int, int, int]]:
    where, parameters = page_of(event("example.rewarded"), bucket, below)
    return [
        (row[0], row[1], row[2])
        for row in lake.all(
            f"SELECT epoch_ms(appended_at), partition, log_offset FROM {table_of('examples')} WHERE {where} "
            f"{NEWEST_FIRST} LIMIT {int(most)}",
            parameters,
        )
    ]


def _rows(lake: LakeQuery, places: Sequence[tuple[int, int, int]], wanted: ExampleFilter) -> list[ExampleRow]:
    """Rows of revisions, newest first, without their texts. Those that do not even have the words of the filter are left out
    before their JSON is read."""
    words = {name: value for name in ("agent", "role", "rater") if (value := getattr(wanted, name)) is not None}
    conditions = [f"AND {mentions(name, 't.value')}" for name in words]
    if wanted.text:
        words["text"] = wanted.text
        conditions.append("AND contains(lower(try(t.value->>'$.data.content')), lower($text))")
    paths = ", ".join(f"'{path}'" for path in _FIELDS.values())
    found = read_at(
        lake,
        "examples",
        [RecordPlace("examples", partition, offset) for _, partition, offset in places],
        "t.example_id, t.revision, t.interaction_id, t.bucket, epoch_ms(t.appended_at), t.partition, t.log_offset, "
        f"try(json_extract_string(t.value, [{paths}]))",
        f"{' '.join(conditions)} ORDER BY t.appended_at DESC, t.partition DESC, t.log_offset DESC",
        **words,
    )
    return [row for each in found if (row := _row(each)) is not None]


def _row(found: tuple[Any, ...]) -> ExampleRow | None:
    example_id, revision, interaction_id, bucket, appended_ms, partition, offset, fields = found
    said = dict(zip(_FIELDS, fields or (), strict=False))
    if example_id is None or bucket is None or said.get("reward") is None:
        return None
    listed = said["principals"]
    return ExampleRow(
        example_id=example_id,
        revision=revision or 1,
        interaction_id=interaction_id or "",
        bucket=bucket,
        split=split_of(bucket, said["group"] or ""),
        agent=said["agent"] or "",
        role=said["role"],
        reward=float(said["reward"]),
        quality=float(said["quality"] or 0),
        score=_float(said["score"]),
        voices=int(said["voices"] or 0),
        contradicted=said["contradicted"] == "true",
        corrected=said["correction"] is not None,
        difficulty=float(said["difficulty"] or 0),
        event_time=said["event_time"] or "",
        appended_ms=appended_ms,
        place=f"examples/{partition}/{offset}",
        adapter=said["adapter"],
        principals=_strings(listed),
        derived=int(said["derived"] or 0),
    )


def _complete(lake: LakeQuery, rows: Sequence[ExampleRow]) -> None:
    """Texts and states of the rows that are shown."""
    if not rows:
        return
    places = [_place(row) for row in rows]
    both_texts = "try(json_extract(t.value, ['$.data.content.prompt', '$.data.content.target']))"
    sealed = "CASE WHEN try(t.value->>'$.data.sealed') IS NOT NULL THEN t.value END, t.odd"
    texts = read_at(lake, "examples", places, f"t.partition, t.log_offset, {both_texts}, {sealed}")
    by_place = {
        (partition, offset): (both or (None, None)) if value is None else _opened(lake, value, odd)
        for partition, offset, both, value, odd in texts
    }
    states = example_states(lake, {row.example_id for row in rows})
    for row, place in zip(rows, places, strict=True):
        prompt, target = by_place.get((place.partition, place.offset), (None, None))
        row.prompt, row.target = _preview(prompt), _preview(target)
        state = states[row.example_id]
        newest = state.newest_revision
        if state.state != "withdrawn" and newest is not None and newest > row.revision:
            state = ExampleState(
                state="superseded", reason=f"by revision {newest}", newest_revision=newest, batches=state.batches
            )
        row.state = state


def _opened(lake: LakeQuery, value: str, odd: bytes | None) -> tuple[str | None, str | None]:
    """Prompt and target of a sealed example, in JSON form, for whom they may be opened."""
    example = decode_or_none(lake.opener.opened(value, odd).encode())
    if not isinstance(example, ExampleRewarded):
        return None, None
    content = example.data.content
    return msgspec.json.encode(content.prompt).decode(), msgspec.json.encode(content.target).decode()


def _preview(raw: str | None) -> str:
    """The beginning of a prompt or an answer in its JSON form, as text; of a conversation its last message says most."""
    try:
        said = msgspec.json.decode(raw or '""', type=Output | Text)
    except msgspec.MsgspecError:
        return ""
    return render(said[-1] if isinstance(said, list) and said else said)[:PREVIEW]


def example_states(lake: LakeQuery, ids: Iterable[str]) -> dict[str, ExampleState]:
    """What became of each of a few examples: withdrawn, in a batch, rejected in its newest revision, or in an open bucket."""
    names = sorted(set(ids))
    newest: dict[str, tuple[int, bool]] = {}
    for example_id, revision, withdrawn in lake.all(
        f"SELECT example_id, coalesce(revision, 1), event_type = 'headrace.example.withdrawn.v1' FROM {table_of('examples')} "
        f"WHERE example_id IN (SELECT unnest($ids)) AND {event('example.rewarded', 'example.withdrawn')} "
        "ORDER BY partition, log_offset",
        {"ids": names},
    ):
        newest[example_id] = (revision, withdrawn)
    rejected = {
        (example_id, revision): (reason, kind)
        for example_id, revision, reason, kind in lake.all(
            f"SELECT example_id, revision, try(value->>'$.data.reason'), event_type FROM {table_of('rejections')} "
            f"WHERE example_id IN (SELECT unnest($ids)) AND {event('example.rejected')} ORDER BY partition, log_offset",
            {"ids": names},
        )
    }
    batches: dict[str, list[str]] = {}
    for batch_id, members in lake.all(
        f"SELECT batch_id, list_intersect(example_ids, $ids) FROM {table_of('batches')} "
        f"WHERE {event('batch.ready')} AND list_has_any(example_ids, $ids) ORDER BY appended_at, partition, log_offset",
        {"ids": names},
    ):
        for example_id in members:
            batches.setdefault(example_id, []).append(batch_id)
    return {name: _state(name, newest, rejected, batches.get(name, [])) for name in names}


def _state(
    name: str,
    newest: Mapping[str, tuple[int, bool]],
    rejected: Mapping[tuple[str, int], tuple[str, str]],
    batches: list[str],
) -> ExampleState:
    revision, withdrawn = newest.get(name, (0, False))
    known: dict[str, Any] = {"newest_revision": revision or None, "batches": batches}
    if withdrawn:
        return ExampleState(state="withdrawn", **known)
    if (name, revision) in rejected:
        return ExampleState(state="rejected", reason=rejected[name, revision][0] or "", **known)
    if batches:
        return ExampleState(state="in a batch", reason=batches[-1], **known)
    return ExampleState(state="in an open bucket" if revision else "unknown", **known)


def _facets(rows: Sequence[ExampleRow]) -> dict[str, dict[str, int]]:
    counts: dict[str, Counter[str]] = {name: Counter() for name in ("bucket", "agent", "role", "rater", "split")}
    for row in rows:
        counts["bucket"][row.bucket] += 1
        counts["agent"][row.agent] += 1
        counts["split"][row.split] += 1
        if row.role:
            counts["role"][row.role] += 1
        counts["rater"].update(row.principals)
    return {name: dict(counter.most_common(FACET_ROWS)) for name, counter in counts.items()}


def _place(row: ExampleRow) -> RecordPlace:
    _, partition, offset = row.place.split("/")
    return RecordPlace("examples", int(partition), int(offset))


def _strings(text: str | None) -> list[str]:
    try:
        return msgspec.json.decode(text, type=list[str]) if text else []
    except msgspec.MsgspecError:
        return []


def _float(text: str | None) -> float | None:
    return None if text is None else float(text)


def _quoted(text: str) -> str:
    return shlex.quote(text)
