"""What is wrong with a deployment, from what is on its log and in its groups. Pure; knows no client.

A task is refused or looping when the worker that has it says so, absent when nobody has it, behind when a record has waited for
it for too long. A batch is failed until it is asked for again or a later one of its bucket was trained.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

from msgspec import Struct

from headrace_lake.status import StageStatus, TaskStatus
from headrace_schemas.derived import TrainingFailure
from headrace_schemas.events import BatchRetryRequested, Event, TrainingCompleted, TrainingFailed
from headrace_streams.kafka.groups import GroupView
from headrace_streams.runtime.status import TaskNote, decode_note
from headrace_streams.silences import OpenSilence

LOOPING = 3  # starts within RECENT_SECONDS
TRAIN = "train"

Kind = Literal["refused", "looping", "absent", "behind", "held", "failed", "unaccounted", "unseen", "silent"]


class Trouble(Struct, frozen=True):
    """One thing that somebody should look at: of which kind, with what (a task, a stage, a batch), and what is known of it."""

    kind: Kind
    what: str
    detail: str


def group_of(deployment: str, stage: str) -> str:
    """The consumer group that shares out a stage's partitions."""
    return f"{deployment}.{'trainer' if stage == TRAIN else 'worker'}"


def task_troubles(tasks: Sequence[TaskStatus], groups: Mapping[str, GroupView], behind_seconds: float) -> list[Trouble]:
    """Of every task. `groups`: the group of each stage, by stage name."""
    found = []
    for stage in dict.fromkeys(task.stage for task in tasks):
        group = groups[stage]
        own = [task for task in tasks if task.stage == stage]
        if group.unseen is not None:
            found.append(Trouble("unseen", stage, f"nobody can say whether its tasks run: {group.unseen}"))
        else:
            found += _absent(stage, own, group)
        for task in own:
            if (trouble := _of_task(task, group, behind_seconds)) is not None:
                found.append(trouble)
    return found


def _absent(stage: str, tasks: Sequence[TaskStatus], group: GroupView) -> list[Trouble]:
    missing = [task for task in tasks if (task.topic, task.partition) not in group.assigned]
    if stage == TRAIN:  # a trainer may come now and then (`--once`): only what waits for it counts
        missing = [task for task in missing if task.lag]
    found = []
    for topic in dict.fromkeys(task.topic for task in missing):
        own = [task for task in missing if task.topic == topic]
        numbers, lag = ", ".join(str(task.partition) for task in own), sum(task.lag for task in own)
        who = "trainer" if stage == TRAIN else "worker"
        detail = (
            f"no {who} has partition{'s' if len(own) > 1 else ''} {numbers}; {lag} records wait: is `headrace {who}` running?"
        )
        found.append(Trouble("absent", f"{stage}/{topic}", detail))
    return found


def _of_task(task: TaskStatus, group: GroupView, behind_seconds: float) -> Trouble | None:
    place, name = (task.topic, task.partition), f"{task.stage}/{task.topic}/{task.partition}"
    host = group.assigned.get(place)
    note = None if host is None else decode_note(group.metadata.get(place, ""))
    if note is not None and (trouble := _noted(name, note, host or "?")) is not None:
        return trouble
    if task.stage == TRAIN or (host is None and group.unseen is None) or task.waited_seconds is None:
        return None  # a training takes its time; of what is absent the lag is said there
    if task.waited_seconds > behind_seconds:
        return Trouble("behind", name, f"{task.lag} records wait, the first of them for {task.waited_seconds:.0f} s")
    return None


def _noted(name: str, note: TaskNote, host: str) -> Trouble | None:
    if note.ended == "refused":
        return Trouble("refused", name, f"on {host}: {note.error}")
    if note.held is not None:
        return Trouble("held", name, f"on {host}: {note.held}")
    if note.recent >= LOOPING:
        return Trouble("looping", name, f"on {host}, started again {note.recent} times in ten minutes: {note.error}")
    return None


def stage_troubles(stages: Iterable[StageStatus]) -> list[Trouble]:
    """Stages whose counters don't add up to their input."""
    return [
        Trouble("unaccounted", stage.stage, f"{stage.records} input records, {sum(stage.counters.values())} in its counters")
        for stage in stages
        if not stage.accounted
    ]


def failed_batches(runs: Iterable[Event], batches: Iterable[Event]) -> dict[str, TrainingFailure]:
    """Batches whose training failed, by id, that nobody has asked for again and that no later run of the bucket has followed.
    `runs` and `batches`: events of these topics, those of a bucket in their order."""
    failed: dict[str, TrainingFailure] = {}
    asked = [event.data.batch_id for event in batches if isinstance(event, BatchRetryRequested)]
    times: dict[str, int] = {}
    for event in runs:
        if isinstance(event, TrainingFailed) and event.data.attempts:
            failed[event.data.batch_id] = event.data
            times[event.data.batch_id] = times.get(event.data.batch_id, 0) + 1
        elif isinstance(event, TrainingCompleted):
            failed = {batch: failure for batch, failure in failed.items() if failure.bucket != event.data.bucket}
    return {batch: failure for batch, failure in failed.items() if asked.count(batch) < times[batch]}


def silence_troubles(silences: Iterable[OpenSilence], now_ms: int) -> list[Trouble]:
    """Who is missed, without those that somebody has muted."""
    return [
        Trouble(
            "silent",
            f"{each.silence.kind} {each.silence.subject}",
            f"since {each.silence.since}: expected {each.silence.expected}; seen: {each.silence.seen}",
        )
        for each in silences
        if not each.is_muted(now_ms)
    ]


def batch_troubles(failed: Mapping[str, TrainingFailure]) -> list[Trouble]:
    return [
        Trouble("failed", f"batch {batch}", f"{failure.bucket}: {failure.error} (`headrace batches retry {batch}`)")
        for batch, failure in failed.items()
    ]
