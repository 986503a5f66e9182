"""Dead letters as people look at them: listed, filtered, grouped, the offending field marked. Knows the topic, writes nothing."""

from __future__ import annotations

import base64
from collections.abc import AsyncGenerator, Iterable
from contextlib import aclosing
from typing import Any

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from headrace_schemas.derived import DeadLetter, Locator, Redrive
from headrace_schemas.events import RecordRedriven, RecordRejected
from headrace_schemas.json_spans import TextSpan, span_of
from headrace_schemas.sealed_fields import SEALED, NotSealable
from headrace_streams.kafka.clients import BrokerUnavailable, TopicMissing
from headrace_streams.kafka.reader import Reader, decode_or_none
from headrace_streams.runtime.provenance import Headers
from headrace_streams.runtime.sealing import HEADER, KeyMissing, is_erased, owner_of
from headrace_streams.sealing.cipher import NotOpened
from headrace_streams.sealing.opening import Opener
from headrace_streams.settings import Settings

TOPIC = "dead-letters"
MESSAGE = 300  # characters of an error that a list keeps
_SOURCE = msgspec.json.Decoder(dict[str, msgspec.Raw])


class LetterRow(Struct, frozen=True, kw_only=True):
    """A dead letter without its record. `source`: who published it, as far as that can be read; `bytes`: of the record's value;
    `partition_kept`, `offset_kept`: where the letter itself lies; `redriven`: what came of it."""

    topic: str
    partition: int
    offset: int
    timestamp: int
    code: str
    field: str | None
    message: str
    source: str | None
    bytes: int
    partition_kept: int
    offset_kept: int
    redriven: Redrive | None = None

    @property
    def at(self) -> str:
        return at_of(self)


class LetterFilter(Struct, frozen=True, kw_only=True):
    """Which letters are meant: all that match each thing that is given. `at`: topic/partition/offset of records; times in ms."""

    at: tuple[str, ...] = ()
    topic: str | None = None
    code: str | None = None
    field: str | None = None
    source: str | None = None
    since_ms: int | None = None
    until_ms: int | None = None
    waiting: bool = False  # only those that were not redriven

    def takes(self, row: LetterRow) -> bool:
        return (
            (not self.at or row.at in self.at)
            and self.topic in (None, row.topic)
            and self.code in (None, row.code)
            and (self.field is None or self.field == (row.field or ""))
            and (self.source is None or self.source == (row.source or ""))
            and (self.since_ms is None or row.timestamp >= self.since_ms)
            and (self.until_ms is None or row.timestamp < self.until_ms)
            and not (self.waiting and row.redriven is not None)
        )


class LetterGroup(Struct, frozen=True, kw_only=True):
    """Dead letters of one topic, code, source and field. `first`, `last`: append times in ms; `newest` names one."""

    topic: str
    code: str
    source: str | None
    field: str | None
    letters: int
    redriven: int
    first: int
    last: int
    newest: str
    message: str


class MarkedRecord(Struct, frozen=True, kw_only=True):
    """A record as text, and where in it the offending field stands. `part`: the value, a header by its name, or nothing."""

    text: str
    part: str | None
    span: TextSpan | None


async def rows(settings: Settings, wanted: LetterFilter | None = None) -> list[LetterRow]:
    """Every letter that is kept and wanted, by the append time of the record that it holds. Their records are not kept."""
    found: dict[str, LetterRow] = {}
    redriven: dict[str, Redrive] = {}
    async with aclosing(_records(settings)) as records:
        async for record, event in records:
            if isinstance(event, RecordRedriven):
                redriven.setdefault(at_of(event.data), event.data)
            elif isinstance(event, RecordRejected):
                row = row_of(event.data, record.partition, record.offset)
                found[row.at] = row
    for at, redrive in redriven.items():
        if at in found:
            found[at] = replace(found[at], redriven=redrive)
    chosen = [row for row in found.values() if wanted is None or wanted.takes(row)]
    return sorted(chosen, key=lambda row: (row.timestamp, row.topic, row.partition, row.offset))


async def letter(settings: Settings, at: str) -> tuple[LetterRow, DeadLetter] | None:
    """The newest letter of the record at `at` (topic/partition/offset), whole; None when there is none."""
    found = await rows(settings, LetterFilter(at=(at,)))
    if not found:
        return None
    letters = LetterReader(settings)
    async with aclosing(Reader(settings).read_at(TOPIC, found[-1].partition_kept, [found[-1].offset_kept])) as records:
        async for record in records:
            if isinstance(event := await letters.event(record), RecordRejected):
                return found[-1], event.data
    return None


def row_of(letter: DeadLetter, partition: int, offset: int) -> LetterRow:
    """What a list keeps of a letter that lies at that partition and offset of its topic."""
    value = letter.value_base64 or ""
    return LetterRow(
        topic=letter.topic,
        partition=letter.partition,
        offset=letter.offset,
        timestamp=letter.timestamp,
        code=letter.error.code,
        field=letter.error.field,
        message=" ".join(letter.error.message.split())[:MESSAGE],
        source=source_of(letter),
        bytes=len(value) * 3 // 4 - value[-2:].count("="),
        partition_kept=partition,
        offset_kept=offset,
    )


def groups(found: Iterable[LetterRow]) -> list[LetterGroup]:
    """Letters by topic, code, source and field, the most frequent first."""
    grouped: dict[tuple[str, str, str | None, str | None], list[LetterRow]] = {}
    for row in found:
        grouped.setdefault((row.topic, row.code, row.source, row.field), []).append(row)
    made = [
        LetterGroup(
            topic=topic,
            code=code,
            source=source,
            field=field,
            letters=len(own),
            redriven=sum(row.redriven is not None for row in own),
            first=min(row.timestamp for row in own),
            last=max(row.timestamp for row in own),
            newest=own[-1].at,
            message=own[-1].message,
        )
        for (topic, code, source, field), own in grouped.items()
    ]
    return sorted(made, key=lambda group: (-group.letters, group.topic, group.code, group.source or "", group.field or ""))


def source_of(letter: DeadLetter) -> str | None:
    """Who published a record, as its event says; None where that can't be read."""
    for name, encoded in letter.headers:
        if name == "ce_source" and encoded is not None:
            return base64.b64decode(encoded).decode(errors="replace")[:200]
    try:
        source = msgspec.json.decode(_SOURCE.decode(content(letter.value_base64) or b"")["source"])
    except (msgspec.MsgspecError, UnicodeDecodeError, KeyError, RecursionError):
        return None
    return source[:200].encode(errors="replace").decode() if isinstance(source, str) else None


def marked(letter: DeadLetter) -> MarkedRecord:
    """The record's value as text (bytes that are no UTF-8 as \\xNN), and where the field that is wrong stands."""
    value = content(letter.value_base64)
    text = "null" if value is None else value.decode(errors="backslashreplace")
    field = letter.error.field
    if value is None or letter.error.code == "stage_error":
        return MarkedRecord(text=text, part=None, span=None)
    if any(name.startswith("ce_") for name, _ in letter.headers):  # binary mode: attributes stand in headers, the value is data
        if field is not None and not field.startswith("data"):
            return MarkedRecord(text=text, part=f"header ce_{field}", span=None)
        field = None if field is None else field.removeprefix("data").removeprefix(".") or None
    span = span_of(text, field)
    return MarkedRecord(text=text, part=None if span is None else "value", span=span)


def at_of(place: DeadLetter | LetterRow | Locator | Redrive) -> str:
    """topic/partition/offset"""
    return f"{place.topic}/{place.partition}/{place.offset}"


def content(encoded: str | None) -> bytes | None:
    """Bytes that a letter holds in base64."""
    return None if encoded is None else base64.b64decode(encoded)


def headers_of(letter: DeadLetter) -> list[tuple[str, Any]]:
    """Headers of the record that a letter holds."""
    return [(name, content(text)) for name, text in letter.headers]


class LetterReader:
    """Reads records of the topic as events, opened where they are sealed and their keys may be read."""

    def __init__(self, settings: Settings) -> None:
        self._opener = Opener(settings)
        self._has_keys = True

    async def event(self, record: Any) -> RecordRejected | RecordRedriven | None:
        """The event in a record; a letter that can't be opened as it lies there, which says of what kind its error is. None for
        what is neither, and for a letter that is no base64."""
        value = None if record.value is None else await self._opened(TOPIC, record.value, record.headers)
        event = decode_or_none(value, record.headers)
        if isinstance(event, RecordRejected):
            try:
                return replace(event, data=await self._whole(event.data))
            except ValueError:
                return None
        return event if isinstance(event, RecordRedriven) else None

    async def _whole(self, letter: DeadLetter) -> DeadLetter:
        """A letter whose record had been sealed before it became one, with that record as it was. ValueError for no base64."""
        value, headers, _ = content(letter.value_base64), headers_of(letter), content(letter.key_base64)
        if value is None or owner_of(letter.topic, headers) is None:
            return letter
        opened = await self._opened(letter.topic, value, headers)
        if opened is value or is_erased(opened):
            return letter
        kept = [pair for pair in letter.headers if pair[0] != HEADER]
        return replace(letter, value_base64=base64.b64encode(opened).decode(), headers=kept)

    async def _opened(self, topic: str, value: bytes, headers: Headers) -> bytes:
        """As it was given where it can't be opened."""
        if self._has_keys:
            try:
                return await self._opener.opened(topic, value, headers)
            except (KeyMissing, NotOpened, NotSealable):
                pass
            except (TopicMissing, BrokerUnavailable):
                self._has_keys = False  # this principal may not read them, or there are none
        return value


def is_sealed(letter: DeadLetter) -> bool:
    """Whether a letter's record is sealed with a key that is erased, or that may not be read here."""
    return letter.error.message == SEALED or owner_of(letter.topic, headers_of(letter)) is not None


Kept = tuple[Any, RecordRejected | RecordRedriven]


async def _records(settings: Settings) -> AsyncGenerator[Kept, None]:
    letters = LetterReader(settings)
    async with aclosing(Reader(settings).read_topic(TOPIC)) as records:
        async for record in records:
            if (event := await letters.event(record)) is not None:
                yield record, event
