"""`headrace batches`: what became of each batch, and to have one trained again. Reads the log; decides nothing."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Literal

import click
import msgspec
from msgspec import Struct

from headrace_cli.common import NO, CliError, common, emit, run, who
from headrace_lake.log import Log, LogRecord
from headrace_schemas.derived import Batch, BatchRetryRequest
from headrace_schemas.events import (
    BatchReady,
    BatchRetryRequested,
    EvaluationCompleted,
    Event,
    TrainingCompleted,
    TrainingFailed,
    TrainingStarted,
)
from headrace_schemas.selection import counts_text
from headrace_streams.kafka.reader import decode_or_none
from headrace_streams.settings import Settings

Counts = dict[str, dict[str, int]]
BatchState = Literal["waits", "training", "trained", "failed", "held"]


class BatchRow(Struct, kw_only=True):
    """A batch and what became of it. `waits`: nothing was begun, or it was asked for again; `held`: its rows wait for a run that
    has weights for its base; `error`: of the last run that failed; `left_out` and `shortened`: rows of the last run that ended,
    by side and reason; `notes`: what stood in its way."""

    batch_id: str
    bucket: str
    members: int
    state: BatchState = "waits"
    attempts: int = 0
    error: str | None = None
    version_id: str | None = None
    left_out: Counts | None = None
    shortened: Counts | None = None
    notes: list[str] | None = None


def rows_of(batches: Iterable[Event], runs: Iterable[Event]) -> list[BatchRow]:
    """The batches in their order, as the events of both topics tell of them."""
    rows: dict[str, BatchRow] = {}
    asked: dict[str, int] = {}
    for event in batches:
        if isinstance(event, BatchReady):
            batch = event.data
            rows.setdefault(batch.batch_id, BatchRow(batch_id=batch.batch_id, bucket=batch.bucket, members=len(batch.members)))
        elif isinstance(event, BatchRetryRequested):
            asked[event.data.batch_id] = asked.get(event.data.batch_id, 0) + 1
    return with_runs(rows, asked, runs)


def with_runs(rows: dict[str, BatchRow], asked: Mapping[str, int], runs: Iterable[Event]) -> list[BatchRow]:
    """Batches, of which nothing is known but that they were cut, with what became of them. `asked`: how often each was asked for
    again."""
    ended: dict[str, int] = {}
    for event in runs:
        if not isinstance(event, TrainingStarted | TrainingCompleted | TrainingFailed):
            continue
        row = rows.get(event.data.batch_id)
        if row is None:
            continue
        if isinstance(event, TrainingStarted):
            row.state = "training"
        elif isinstance(event, TrainingCompleted):
            row.state, row.version_id, row.error = "trained", event.data.version_id, None
            row.left_out, row.shortened, row.notes = event.data.left_out, event.data.shortened, event.data.notes
        else:
            row.attempts, row.error = event.data.attempts, event.data.error
            row.state = "failed" if event.data.attempts else "held"
        if not isinstance(event, TrainingStarted):
            ended[row.batch_id] = ended.get(row.batch_id, 0) + 1
    for batch_id, row in rows.items():
        if row.state in ("failed", "held", "trained") and asked.get(batch_id, 0) >= ended[batch_id]:  # trained: without what
            # was taken back, once more
            row.state = "waits"
    return list(rows.values())


async def waiting_retrains(log: Log, trained: Mapping[int, int]) -> list[BatchRetryRequest]:
    """Runs without what was taken back that were asked for and have not ended. `trained`: by partition of `batches`, the offset
    up to which the trainer has answered: what lies behind that is all that is read."""
    waiting = []
    for partition, offset in trained.items():
        async for record in log.read("batches", partition, offset):
            event = decode_or_none(record.value, record.headers)
            if isinstance(event, BatchRetryRequested) and event.data.without is not None:
                waiting.append(event.data)
    return waiting


def newest_counts(runs: Iterable[Event]) -> dict[str, Counts]:
    """Of each bucket whose last run that ended left something out: how many rows, by side and reason."""
    newest = {event.data.bucket: event.data.left_out for event in runs if isinstance(event, TrainingCompleted)}
    return {bucket: counts for bucket, counts in newest.items() if counts}


async def newest_ungraded(log: Log) -> dict[str, dict[str, int]]:
    """Of each bucket whose newest evaluation had answers that got no grade: how many, by what the grader did. Only the newest are
    decoded: an evaluation has each group of each head."""
    newest: dict[bytes | None, LogRecord] = {}
    for partition in range(await log.partitions("outcomes")):
        async for record in log.read("outcomes", partition):
            if b"headrace.evaluation.completed.v1" in (record.value or b""):
                newest[record.key] = record
    events = (decode_or_none(record.value, record.headers) for record in newest.values())
    evaluations = (event.data for event in events if isinstance(event, EvaluationCompleted))
    return {evaluation.bucket: evaluation.ungraded for evaluation in evaluations if evaluation.ungraded}


@click.group()
def batches() -> None:
    """What was cut to be trained, what became of it, and to have it trained again."""


@batches.command("list")
@common
def list_(settings: Settings, as_json: bool) -> None:
    """Every batch: waits, training, trained, failed or held, and why."""
    for row in run(_rows(settings)):
        if as_json:
            emit(msgspec.to_builtins(row))
        else:
            why = f"  {' '.join(row.error.split())}" if row.error else f"  version {row.version_id}" if row.version_id else ""
            why += f"  left out: {counts_text(row.left_out)}" if row.left_out else ""
            click.echo(f"{row.batch_id}  {row.bucket:30} {row.members:>5} members  {row.state:8}{why}")


@batches.command()
@click.argument("batch", metavar="BATCH")
@common
def show(settings: Settings, as_json: bool, batch: str) -> None:
    """One batch: what became of it, and what it was cut of."""
    row = _row(run(_rows(settings)), batch)
    cut = run(_batch(settings, row))
    found: dict[str, Any] = {**msgspec.to_builtins(row), "statistics": msgspec.to_builtins(cut.statistics)}
    if as_json:
        return emit(found)
    for name in ("left_out", "shortened"):
        found[name] = counts_text(found[name]) or None
    for name, value in found.items():
        click.echo(f"{name}: {'-' if value is None else value}")


@batches.command()
@click.argument("batch", metavar="BATCH")
@click.option("--reason", help="Why; it stands in the request.")
@common
def retry(settings: Settings, as_json: bool, batch: str, reason: str | None) -> None:
    """Have a batch that failed, or is held for want of weights, trained once more, by the policy as it is then.

    Exit 1 for a batch that was trained, or that waits anyway."""
    from headrace_streams.kafka.publisher import publish, requested

    row = _row(run(_rows(settings)), batch)
    if row.state not in ("failed", "held"):
        raise CliError(NO, f"batch {batch} did not fail: {row.state}")
    data = msgspec.structs.replace(run(_asked_last(settings, row)), reason=reason, requested_by=who())
    event = requested(BatchRetryRequested, data)
    run(publish(settings, event))
    if as_json:
        emit({"batch_id": row.batch_id, "bucket": row.bucket, "request_id": event.id})
    else:
        click.echo(f"{row.batch_id} waits to be trained again; `headrace batches list` shows what becomes of it")


def _row(rows: Iterable[BatchRow], batch: str) -> BatchRow:
    row = next((row for row in rows if row.batch_id == batch), None)
    if row is None:
        raise CliError(NO, f"there is no batch {batch}: `headrace batches list` shows all")
    return row


async def _rows(settings: Settings) -> list[BatchRow]:
    from headrace_streams.kafka.reader import Reader

    reader = Reader(settings)
    cut = [event async for event in reader.events("batches")]
    return rows_of(cut, [event async for event in reader.events("runs")])


async def _asked_last(settings: Settings, row: BatchRow) -> BatchRetryRequest:
    from headrace_streams.kafka.reader import Reader

    of_it = Reader(settings).events("batches", key=row.bucket, containing=row.batch_id.encode())
    return asked_again(row, [event async for event in of_it])


def asked_again(row: BatchRow, batches: Iterable[Event]) -> BatchRetryRequest:
    """The same run as was asked for last: what was to be left out of it still is."""
    asked = BatchRetryRequest(bucket=row.bucket, batch_id=row.batch_id)
    for event in batches:
        if isinstance(event, BatchRetryRequested) and event.data.batch_id == row.batch_id:
            asked = event.data
    return asked


async def _batch(settings: Settings, row: BatchRow) -> Batch:
    from headrace_streams.kafka.reader import Reader

    found = [
        event.data
        async for event in Reader(settings).events("batches", key=row.bucket, containing=row.batch_id.encode())
        if isinstance(event, BatchReady) and event.data.batch_id == row.batch_id
    ]
    return found[0]
