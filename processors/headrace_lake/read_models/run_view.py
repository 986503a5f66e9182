"""Runs of a lake: how far each is, how its loss fell, what it went on from, what it ended with. Knows the events of runs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
from msgspec import Struct

from headrace_lake.lineage import RecordPlace
from headrace_lake.query import LakeQuery
from headrace_lake.read_models.paging import NEWEST_FIRST, PAGE, PageCursor, page_of
from headrace_lake.read_models.recorded import RecordedEvent, recorded, recorded_at
from headrace_lake.views import event, table_of
from headrace_schemas.derived import TrainingStart
from headrace_schemas.events import TrainingCompleted, TrainingFailed, TrainingProgressed, TrainingStarted

POINTS = 2000  # of one run that are read, the newest
DRAWN = 240  # points of a curve
OVERLAID = 6  # runs in one picture


class RunSummary(Struct, frozen=True, kw_only=True):
    """A run in a list. `state`: training, trained, failed or held; `eta_s`: seconds that it still takes at its pace, a guess."""

    run_id: str
    batch_id: str
    bucket: str
    place: str
    started_ms: int
    last_ms: int
    state: str
    phase: str | None = None
    step: int | None = None
    steps: int | None = None
    loss: float | None = None
    validation_loss: float | None = None
    tokens_per_second: float | None = None
    attempt: int | None = None
    attempts: int | None = None
    error: str | None = None
    seconds: float | None = None
    version_id: str | None = None
    eta_s: float | None = None


class RunList(Struct, frozen=True, kw_only=True):
    """Runs, newest first."""

    rows: list[RunSummary]
    below: str | None = None


class RunPoint(Struct, frozen=True, kw_only=True):
    """What a run said at a step."""

    step: int
    attempt: int
    phase: str
    appended_ms: int
    loss: float
    validation_loss: float | None = None
    learning_rate: float | None = None
    gradient_norm: float | None = None
    tokens_per_second: float | None = None


class RunView(Struct, frozen=True, kw_only=True):
    """One run. `points`: of its curve, thinned out evenly to what is drawn; `others`: of runs that are drawn over it."""

    summary: RunSummary
    pins: dict[str, Any]
    hyperparameters: dict[str, Any]
    rehearsal: int
    policy_digests: dict[str, str]
    points: list[RunPoint]
    points_total: int
    attempts: list[str]
    notes: list[str]
    left_out: dict[str, dict[str, int]]
    shortened: dict[str, dict[str, int]]
    others: dict[str, list[RunPoint]]
    siblings: list[str]


def run_list(lake: LakeQuery, bucket: str | None = None, below: PageCursor | None = None, *, page: int = PAGE) -> RunList:
    """The newest runs, of one bucket or of all."""
    where, parameters = page_of(event("training.started"), bucket, below)
    started = lake.all(
        f"SELECT run_id, epoch_ms(appended_at), partition, log_offset FROM {table_of('runs')} WHERE {where} "
        f"{NEWEST_FIRST} LIMIT {page + 1}",
        parameters,
    )
    shown = started[:page]
    told = _told(lake, [row[0] for row in shown])
    rows = [summary for run_id in dict.fromkeys(row[0] for row in shown) if (summary := _summary(told.get(run_id, [])))]
    further = str(PageCursor(*shown[-1][1:])) if len(started) > page else None
    return RunList(rows=rows, below=further)


def run_view(lake: LakeQuery, run_id: str, others: Sequence[str] = ()) -> RunView | None:
    """One run, and the curves of others beside it; None where there is none of that id."""
    ids = [run_id, *[other for other in dict.fromkeys(others) if other != run_id][: OVERLAID - 1]]
    told = _told(lake, ids, progress=POINTS)
    events = told.get(run_id, [])
    summary = _summary(events)
    if summary is None:
        return None
    start = next(each.event.data for each in events if isinstance(each.event, TrainingStarted))
    points = _points(events)
    ends = [each.event for each in events if isinstance(each.event, TrainingCompleted)]
    siblings = lake.all(
        f"SELECT DISTINCT run_id FROM {table_of('runs')} WHERE {event('training.started')} AND bucket = $bucket "
        "AND run_id <> $id ORDER BY run_id LIMIT 20",
        {"bucket": start.bucket, "id": run_id},
    )
    return RunView(
        summary=summary,
        pins=_pins(start),
        hyperparameters=start.hyperparameters,
        rehearsal=len(start.rehearsal),
        policy_digests=start.policy_digests,
        points=thinned(points),
        points_total=len(points),
        attempts=[
            f"attempt {each.event.data.attempts}: {each.event.data.error}"
            for each in events
            if isinstance(each.event, TrainingFailed)
        ],
        notes=list(ends[-1].data.notes or []) if ends else [],
        left_out=(ends[-1].data.left_out or {}) if ends else {},
        shortened=(ends[-1].data.shortened or {}) if ends else {},
        others={name: thinned(_points(told[name])) for name in ids[1:] if name in told},
        siblings=[row[0] for row in siblings],
    )


def thinned(points: Sequence[RunPoint], most: int = DRAWN) -> list[RunPoint]:
    """`most` points at even distances, the last among them."""
    if len(points) <= most:
        return list(points)
    last = len(points) - 1
    return [points[round(number * last / (most - 1))] for number in range(most)]


def _told(lake: LakeQuery, ids: Sequence[str], progress: int = 2) -> dict[str, list[RecordedEvent]]:
    """The events of each run: all but progress, and of that the newest."""
    if not ids:
        return {}
    ends = recorded(
        lake,
        "runs",
        f"{event('training.started', 'training.completed', 'training.failed')} AND list_contains($ids, run_id)",
        {"ids": list(ids)},
    )
    newest = lake.all(
        f"SELECT partition, log_offset FROM {table_of('runs')} WHERE {event('training.progressed')} "
        "AND list_contains($ids, run_id) QUALIFY row_number() OVER "
        f"(PARTITION BY run_id ORDER BY partition, log_offset DESC) <= {int(progress)}",
        {"ids": list(ids)},
    )
    told: dict[str, list[RecordedEvent]] = {}
    for each in sorted([*ends, *recorded_at(lake, "runs", [RecordPlace("runs", *row) for row in newest])]):
        told.setdefault(each.event.data.run_id, []).append(each)  # type: ignore[union-attr]
    return told


def _summary(events: Sequence[RecordedEvent]) -> RunSummary | None:
    started = [each for each in events if isinstance(each.event, TrainingStarted)]
    if not started:
        return None
    first, last = started[0], events[-1]
    assert isinstance(first.event, TrainingStarted)
    start = first.event.data
    known: dict[str, Any] = {}
    state = "training"
    progress = [each for each in events if isinstance(each.event, TrainingProgressed)]
    for each in events:
        match each.event:
            case TrainingProgressed(data=said):
                known |= {
                    "phase": said.phase, "step": said.step, "steps": said.steps, "loss": said.loss, "attempt": said.attempt,
                    "tokens_per_second": said.tokens_per_second or known.get("tokens_per_second"),
                    "validation_loss": said.validation_loss or known.get("validation_loss"),
                }  # fmt: skip
                state = "training"
            case TrainingCompleted(data=done):
                state = "trained"
                known |= {"seconds": done.seconds, "version_id": done.version_id, "error": None}
            case TrainingFailed(data=failed):
                state = "failed" if failed.attempts else "held"
                known |= {"attempts": failed.attempts, "error": failed.error}
    if state == "training" and len(progress) > 1:
        known["eta_s"] = _eta(progress[-2], progress[-1])
    return RunSummary(
        run_id=start.run_id,
        batch_id=start.batch_id,
        bucket=start.bucket,
        place=str(first.place),
        started_ms=first.appended_ms,
        last_ms=last.appended_ms,
        state=state,
        **known,
    )


def _eta(before: RecordedEvent, after: RecordedEvent) -> float | None:
    """At the pace between two words of a run."""
    assert isinstance(before.event, TrainingProgressed)
    assert isinstance(after.event, TrainingProgressed)
    one, other = before.event.data, after.event.data
    steps, seconds = other.step - one.step, (after.appended_ms - before.appended_ms) / 1000
    return seconds / steps * max(0, other.steps - other.step) if steps > 0 and seconds > 0 else None


def _points(events: Sequence[RecordedEvent]) -> list[RunPoint]:
    return [
        RunPoint(
            step=each.event.data.step,
            attempt=each.event.data.attempt,
            phase=each.event.data.phase,
            appended_ms=each.appended_ms,
            loss=each.event.data.loss,
            validation_loss=each.event.data.validation_loss,
            learning_rate=each.event.data.learning_rate,
            gradient_norm=each.event.data.gradient_norm,
            tokens_per_second=each.event.data.tokens_per_second,
        )
        for each in events
        if isinstance(each.event, TrainingProgressed)
    ]


def _pins(start: TrainingStart) -> dict[str, Any]:
    """What the run was pinned to, by name; what was not is left out."""
    said = msgspec.to_builtins(start)
    names = (
        "seed",
        "method",
        "base",
        "parent_adapter",
        "parent_release_id",
        "learner_adapter",
        "optimiser",
        "base_identity",
        "surroundings",
    )
    pins = {name.replace("_", " "): said[name] for name in names if said.get(name) is not None}
    if start.heads:
        pins["earlier heads that are compared"] = len(start.heads)
    if start.withdrawn:
        pins["withdrawn before it began"] = len(start.withdrawn)
    return pins
