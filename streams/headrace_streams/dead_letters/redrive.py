"""Publishes dead letters' records once more, each once. Knows Kafka's transactions; what is published is `repair.py`'s.

A record and the event that says so (`headrace.record.redriven.v1`, behind its letter) are one transaction under one transactional
id of the deployment: who begins fences whoever was at it, and reads what was redriven before only when nothing of that hangs.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Iterable, Sequence
from contextlib import aclosing

from msgspec import Struct

from headrace_schemas.cloudevents import STRUCTURED
from headrace_schemas.codec import encode
from headrace_schemas.derived import DeadLetter, Locator, Redrive
from headrace_schemas.events import RecordRedriven, RecordRejected
from headrace_schemas.ids import derive_id
from headrace_schemas.root_error import FAILED, HeadraceError
from headrace_schemas.topics import REDRIVE, key_of
from headrace_streams.dead_letters.letters import TOPIC, LetterFilter, LetterReader, LetterRow, at_of, rows
from headrace_streams.dead_letters.repair import REPAIRABLE, Edit, RepairedRecord, Unfit, repaired
from headrace_streams.kafka.publisher import AtomicPublisher, TransactionFailed, publishing_atomically, requested
from headrace_streams.kafka.reader import Reader
from headrace_streams.runtime.writers import UNKNOWN_WRITER, refusal
from headrace_streams.settings import Settings

PORTION = 200  # letters of one transaction, or fewer of many bytes
PORTION_BYTES = 4 * 1024 * 1024
SETTLE_SECONDS = 20.0  # longer than any transaction of ours may stay open


class RedriveFailed(HeadraceError):
    """A redrive that ended before its end; what it had committed stays, and the next one goes on behind it."""

    exit_code = FAILED


class RedriveReport(Struct, kw_only=True):
    """What a redrive did, or would do. `letters`: that were meant; `redriven`: where each record was and where it lies now (`to`
    is None in a preview); `before`: those that had been redriven earlier; `unfit`: how many can't be, by why, with an example;
    `missing`: names of none."""

    letters: int = 0
    redriven: list[tuple[str, str | None]] = []
    before: list[LetterRow] = []
    unfit: Counter[str] = Counter()
    examples: dict[str, str] = {}
    missing: list[str] = []


async def preview(settings: Settings, wanted: LetterFilter, edit: Edit) -> RedriveReport:
    """What `redrive` would do now. Publishes nothing."""
    report, waiting = await _meant(settings, wanted)
    async with aclosing(_portions(settings, waiting)) as portions:
        async for portion in portions:
            for letter, _ in _fit(portion, edit, report):
                report.redriven.append((at_of(letter), None))
    return report


async def redrive(
    settings: Settings,
    wanted: LetterFilter,
    edit: Edit,
    *,
    reason: str,
    requested_by: str | None,
    told: Callable[[RedriveReport], None] = lambda report: None,
) -> RedriveReport:
    """Publishes each wanted letter's record, unless it was before; `told` after each transaction. RedriveFailed when another
    redrive takes over, BrokerUnavailable, or WrongEdit."""
    topics = (TOPIC, *REPAIRABLE)
    async with publishing_atomically(settings, REDRIVE, *topics) as publisher:
        await _settled(settings)
        report, waiting = await _meant(settings, wanted)
        async with aclosing(_portions(settings, waiting)) as portions:
            async for portion in portions:
                fit = list(_fit(portion, edit, report))
                if not fit:
                    continue
                try:
                    report.redriven += await _published(publisher, fit, reason, requested_by)
                except TransactionFailed as error:
                    message = f"{len(report.redriven)} records were redriven, then {error}; say it again for the rest"
                    raise RedriveFailed(message) from error
                told(report)
    return report


async def _published(
    publisher: AtomicPublisher,
    fit: Sequence[tuple[DeadLetter, RepairedRecord]],
    reason: str,
    requested_by: str | None,
) -> list[tuple[str, str | None]]:
    """One transaction: the records, and behind their letters where each lies now."""
    async with publisher.transaction():
        sent = [
            await publisher.send(record.topic, record.key, record.value, headers=record.headers, partition=record.partition)
            for _, record in fit
        ]
        places = await asyncio.gather(*sent)
        marks = []
        moved: list[tuple[str, str | None]] = []
        for (letter, record), place in zip(fit, places, strict=True):
            published = Locator(topic=record.topic, partition=place.partition, offset=place.offset)
            event = _event(letter, record, published, reason, requested_by)
            marks.append(await publisher.send(TOPIC, key_of(TOPIC, event), encode(event), headers=[STRUCTURED]))
            moved.append((at_of(letter), at_of(published)))
        await asyncio.gather(*marks)
    return moved


def _event(
    letter: DeadLetter, record: RepairedRecord, published: Locator, reason: str, requested_by: str | None
) -> RecordRedriven:
    return requested(
        RecordRedriven,
        Redrive(
            topic=letter.topic,
            partition=letter.partition,
            offset=letter.offset,
            published=published,
            edited=list(record.edited) or None,
            reason=reason,
            requested_by=requested_by,
        ),
        derive_id("redriven", at_of(letter)),
    )


async def _settled(settings: Settings) -> None:
    """Waits until nothing hangs below what the topic's ends were when this redrive had fenced the one before."""
    reader, deadline = Reader(settings), time.monotonic() + SETTLE_SECONDS
    written = await reader.written(TOPIC)
    while True:
        spans = await reader.spans(TOPIC)
        if all(spans[partition].end >= end for partition, end in written.items()):
            return
        if time.monotonic() > deadline:
            raise RedriveFailed(f"a transaction hangs in {TOPIC}: nothing is redriven until it has ended")
        await asyncio.sleep(0.2)


async def _meant(settings: Settings, wanted: LetterFilter) -> tuple[RedriveReport, list[LetterRow]]:
    found = await rows(settings, wanted)
    before = [row for row in found if row.redriven is not None]
    known = {row.at for row in found}
    missing = [at for at in wanted.at if at not in known]
    report = RedriveReport(letters=len(found), redriven=[], before=before, unfit=Counter(), examples={}, missing=missing)
    return report, [row for row in found if row.redriven is None]


async def _portions(settings: Settings, waiting: Sequence[LetterRow]) -> AsyncGenerator[list[DeadLetter | LetterRow], None]:
    """The letters of `waiting`, whole, some at a time, in its order; the row itself of one that no stage wrote."""
    reader, opened = Reader(settings), LetterReader(settings)
    for portion in _sized(waiting):
        letters: dict[tuple[int, int], DeadLetter | LetterRow] = {}
        for partition in sorted({row.partition_kept for row in portion}):
            own = {row.offset_kept: row for row in portion if row.partition_kept == partition}
            async with aclosing(reader.read_at(TOPIC, partition, sorted(own))) as records:
                async for record in records:
                    event = await opened.event(record)
                    ours = refusal(TOPIC, record.value, record.headers) is None
                    row = own[record.offset]
                    letters[partition, record.offset] = event.data if ours and isinstance(event, RecordRejected) else row
        yield [found for row in portion if (found := letters.get((row.partition_kept, row.offset_kept))) is not None]


def _sized(waiting: Sequence[LetterRow]) -> Iterable[list[LetterRow]]:
    portion: list[LetterRow] = []
    size = 0
    for row in waiting:
        if portion and (len(portion) == PORTION or size + row.bytes > PORTION_BYTES):
            yield portion
            portion, size = [], 0
        portion.append(row)
        size += row.bytes
    if portion:
        yield portion


def _fit(
    portion: Iterable[DeadLetter | LetterRow], edit: Edit, report: RedriveReport
) -> Iterable[tuple[DeadLetter, RepairedRecord]]:
    """Those that can be published; the others are counted."""
    now_ms = time.time_ns() // 1_000_000
    for letter in portion:
        if isinstance(letter, LetterRow):
            made: RepairedRecord | Unfit = Unfit(why=UNKNOWN_WRITER, message="no stage wrote this letter")
        else:
            made = repaired(letter, edit, now_ms)
        if isinstance(made, Unfit):
            report.unfit[made.why] += 1
            report.examples.setdefault(made.why, f"{at_of(letter)}: {made.message}")
        elif isinstance(letter, DeadLetter):
            yield letter, made
