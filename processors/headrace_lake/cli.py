"""`headrace status`, `replay` and `positions`: what the log says, for people. Knows the readers of this package."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import aclosing, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import msgspec

from headrace_cli.common import NO, USAGE, CliError, common, emit, note, run, who
from headrace_schemas.selection import counts_text
from headrace_streams.settings import Settings

if TYPE_CHECKING:
    from headrace_streams.kafka.reader import Reader

BEHIND_SECONDS = 300.0  # that a record may wait before its task is behind


@click.command()
@click.option(
    "--behind",
    type=click.FloatRange(min=0),
    default=BEHIND_SECONDS,
    show_default=True,
    help="Seconds that a record may wait before its task is behind.",
)
@click.option("--wait", type=click.FloatRange(min=0), default=0.0, help="Seconds to wait until all is well, if it is not.")
@common
def status(settings: Settings, as_json: bool, behind: float, wait: float) -> int:
    """Every stage: lag and each counter; every bucket and how full it is; what is served; and what is wrong.

    Exit 1 when something is: a task is refused, started again and again, absent or behind, a training failed or is held, the
    counters of a stage don't add up, somebody who should speak is missed (`headrace silence`). Reads the log, and what workers
    let their consumer groups know of their tasks: it works from anywhere, with no worker running, too."""
    from headrace_lake.feedback_status import SHOWN_APART, FeedbackStatus

    deadline = time.monotonic() + wait
    while True:
        found = run(status_report(settings, behind))
        if not found["troubles"] or time.monotonic() >= deadline:
            break
        time.sleep(1.0)
    code = NO if found["troubles"] else 0
    if as_json:
        emit(found)
        return code
    for stage in found["stages"]:
        counters = "  ".join(f"{name} {count}" for name, count in stage["counters"].items() if not name.startswith(SHOWN_APART))
        click.echo(f"{stage['stage']:8} lag {stage['lag']:<7} in {stage['records']:<9} {counters}")
    if found["feedback"]:
        click.echo("\nfeedback")
    for joins in found["feedback"]:
        click.echo(f"  {joins['stage']:8} {msgspec.convert(joins, FeedbackStatus)}")
    click.echo("\nbuckets" if found["buckets"] else "\nno bucket yet")
    for bucket in found["buckets"]:
        full = f"{bucket['fill']:.1f} of {bucket['target']:.0f}"
        click.echo(f"  {bucket['bucket']:30} {full:16} batches {bucket['batches']:<4} {bucket['note']}")
    for run_ in found["retrains"]:
        click.echo(
            f"\n{run_['bucket']} waits to be trained from {run_['begins'] or 'the base'}, without {run_['examples']} examples "
            "that were taken back"
        )
    if found["left_out"]:
        click.echo("\nleft out of the last run")
    for name, counts in found["left_out"].items():
        click.echo(f"  {name:30} {counts_text(counts)}")
    if found["ungraded"]:
        click.echo("\nanswers of the last evaluation without a grade, which count as 0")
    for name, counts in found["ungraded"].items():
        click.echo(f"  {name:30} {', '.join(f'{count} {why}' for why, count in counts.items())}")
    click.echo("\nserved" if found["served"] else "\nnothing is released yet: every bucket serves its base")
    for release in found["served"]:
        click.echo(f"  {release['bucket']:30} #{release['sequence']:<4} {release['adapter'] or 'the base'}  {release['reason']}")
    click.echo("\nwrong" if found["troubles"] else "\nnothing is wrong")
    for trouble in found["troubles"]:
        click.echo(f"  {trouble['kind']:12}{trouble['what']}: {' '.join(trouble['detail'].split())}")
    return code


async def status_report(settings: Settings, behind_seconds: float) -> dict[str, Any]:
    """What `headrace status --json` prints: stages, tasks, buckets, what is served, and what is wrong."""
    from headrace_lake.batches import newest_counts, newest_ungraded, waiting_retrains
    from headrace_lake.feedback_status import feedback_status
    from headrace_lake.kafka_log import KafkaLog
    from headrace_lake.log import events_of
    from headrace_lake.status import stage_status, task_statuses, watched_values
    from headrace_lake.troubles import batch_troubles, failed_batches, group_of, silence_troubles, stage_troubles, task_troubles
    from headrace_processors.curate.state import BUCKET, describe_buckets
    from headrace_schemas.events import BatchRetryRequested, TrainingCompleted, TrainingFailed
    from headrace_schemas.topology import TOPOLOGY
    from headrace_streams.kafka.groups import group_view
    from headrace_streams.release_log import adapter_digest, served
    from headrace_streams.runtime.status import decode_note
    from headrace_streams.silences import described, read_silences

    log = KafkaLog(settings)
    tasks = await task_statuses(log, TOPOLOGY, time.time_ns() // 1_000_000)
    stages = [stage_status(stage, tasks) for stage in TOPOLOGY]
    names = {stage.name: group_of(settings.deployment, stage.name) for stage in TOPOLOGY}
    views = {name: await group_view(settings, name) for name in dict.fromkeys(names.values())}
    groups = {stage: views[name] for stage, name in names.items()}
    # Manifests and progress are what these topics are large by, and nothing is asked of them here.
    runs = [event async for event in events_of(log, "runs", kinds=(TrainingCompleted, TrainingFailed))]
    failed = failed_batches(runs, [])
    if failed:
        failed = failed_batches(runs, [event async for event in events_of(log, "batches", kinds=(BatchRetryRequested,))])
    now_ms = time.time_ns() // 1_000_000
    silences = list(await read_silences(log))
    troubles = [
        *task_troubles(tasks, groups, behind_seconds),
        *batch_troubles(failed),
        *stage_troubles(stages),
        *silence_troubles(silences, now_ms),
    ]
    return {
        "deployment": settings.deployment,
        "well": not troubles,
        "troubles": [msgspec.structs.asdict(trouble) for trouble in troubles],
        "stages": [msgspec.structs.asdict(stage) for stage in stages],
        "feedback": [msgspec.structs.asdict(joins) for joins in map(feedback_status, stages) if joins is not None],
        "tasks": [
            {
                "stage": task.stage,
                "topic": task.topic,
                "partition": task.partition,
                "next_offset": task.next_offset,
                "lag": task.lag,
                "waited_seconds": task.waited_seconds,
                "worker": groups[task.stage].assigned.get((task.topic, task.partition)),
                "note": msgspec.to_builtins(decode_note(groups[task.stage].metadata.get((task.topic, task.partition), ""))),
            }
            for task in tasks
        ],
        "retrains": [
            {"bucket": run.bucket, "batch_id": run.batch_id, "begins": run.begins, "examples": len(run.without or ())}
            for run in await waiting_retrains(
                log, {task.partition: task.next_offset or 0 for task in tasks if task.stage == "train"}
            )
        ],
        "left_out": newest_counts(runs),
        "ungraded": await newest_ungraded(log),
        "silences": [described(each, now_ms) for each in silences],
        "failed_batches": [msgspec.structs.asdict(failure) for failure in failed.values()],
        "buckets": [bucket async for state in watched_values(log, tasks, "curate", BUCKET) for bucket in describe_buckets(state)],
        "served": [
            {
                "bucket": bucket,
                "release_id": release.release_id,
                "sequence": release.sequence,
                "adapter": adapter_digest(release),
                "reason": release.reason,
            }
            for bucket, release in sorted((await served(log)).items())
        ],
    }


@click.command()
@click.option("--verify", "verifying", is_flag=True, help="Fold the recorded inputs again and compare: exit 1 on a difference.")
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), help="Rebuild from signals into this folder.")
@click.option("--until", metavar="RELEASE-OR-TIME", help="With --out: only signals appended up to this release or RFC 3339 time.")
@click.option("--allow-not-comparable", is_flag=True, help="With --verify: exit 0 though rules of some spans are not known here.")
@common
def replay(
    settings: Settings, as_json: bool, verifying: bool, out: Path | None, until: str | None, allow_not_comparable: bool
) -> int:
    """Repeat what the stages decided, from the log alone.

    --verify runs each stage over its recorded input, under the rule versions and policies that the log names, and demands its
    outputs byte for byte; exit 1 on a difference, and where this code does not have the rules of a span. --out chains the
    stages from signals in the order of event time, under the policy of the settings, and writes what they say as JSON lines."""
    if verifying == (out is not None):
        raise CliError(USAGE, "headrace replay takes either --verify or --out DIR")
    if out is not None:
        return run(_rebuild(settings, out, until, as_json))
    if until is not None:
        raise CliError(USAGE, "--until goes with --out")
    return run(_verify(settings, as_json, allow_not_comparable))


async def _verify(settings: Settings, as_json: bool, allow_not_comparable: bool) -> int:
    from headrace_lake.kafka_log import KafkaLog
    from headrace_lake.recorded_outputs import DERIVED
    from headrace_lake.verify import verify
    from headrace_processors.stages import STAGES

    reports = await verify(KafkaLog(settings), STAGES, topics=DERIVED)
    for stage, report in reports.items():
        if as_json:
            emit(
                {
                    "stage": stage,
                    "records": report.records,
                    "equal": report.outputs,
                    "expired": report.expired,
                    "erased": report.erased,
                    "notes": report.notes,
                    "not_comparable": [span._asdict() for span in report.not_comparable],
                    "differences": [difference._asdict() for difference in report.differences],
                }
            )
            continue
        expired = f", {report.expired} no longer kept" if report.expired else ""
        erased = f", {report.erased} of erased texts" if report.erased else ""
        click.echo(f"{stage:8} {report.records} records folded, {report.outputs} outputs equal{expired}{erased}")
        for line in [*report.notes, *map(str, report.not_comparable)]:
            click.echo(f"         {line}")
    if not any(report.tasks or report.differences for report in reports.values()):
        raise CliError(NO, f"deployment {settings.deployment!r}: no stage has ever run here, so there is nothing to verify")
    if differences := [difference for report in reports.values() for difference in report.differences]:
        note(f"headrace: the log is not what its rules make of it, first difference: {differences[0]}")
        return NO
    if spans := [span for report in reports.values() for span in report.not_comparable]:
        records = sum(span.records for span in spans)
        note(
            f"headrace: {records} records can't be compared by this code (--allow-not-comparable accepts that), first: {spans[0]}"
        )
        return 0 if allow_not_comparable else NO
    return 0


async def _rebuild(settings: Settings, out: Path, until: str | None, as_json: bool) -> int:
    from headrace_lake.kafka_log import KafkaLog
    from headrace_lake.rebuild import rebuild
    from headrace_processors import policy_file
    from headrace_processors.stages import STAGES

    log = KafkaLog(settings)
    newest_ms = None if until is None else await until_ms(log, until)
    out.mkdir(parents=True, exist_ok=True)
    counts: Counter[str] = Counter()
    bodies = policy_file.load(settings.policy).bodies()
    files: dict[str, Any] = {}
    try:
        async for produced in rebuild(log, STAGES, bodies, until_ms=newest_ms):
            if produced.topic not in files:
                files[produced.topic] = (out / f"{produced.topic}.jsonl").open("wb")
            await asyncio.to_thread(files[produced.topic].write, produced.value + b"\n")
            counts[produced.topic] += 1
    finally:
        for file in files.values():
            file.close()
    if as_json:
        emit(dict(counts))
    else:
        click.echo(f"{out}: " + (", ".join(f"{count} {topic}" for topic, count in sorted(counts.items())) or "no signals"))
    return 0


async def until_ms(reader: Reader, until: str) -> int:
    """ms since the epoch of an RFC 3339 time, or of the record that answered with release `until`."""
    from headrace_schemas.times import parse_ns
    from headrace_streams.release_log import filter_of

    with suppress(ValueError):
        return parse_ns(until) // 1_000_000
    taken = await filter_of(reader, "releases.history")
    async with aclosing(reader.read_topic("releases.history")) as records:
        async for record in records:
            decision = taken.decision(record)
            if decision is not None and decision.data.release_id == until:
                return int(record.timestamp)
    raise CliError(NO, f"{until!r} is neither an RFC 3339 time nor a release of this deployment")


@click.group()
def positions() -> None:
    """Where every task stands, and its state made anew from the log."""


@positions.command("list")
@common
def list_positions(settings: Settings, as_json: bool) -> None:
    """Each task's next offset, lag, rule version, policy digest and state version, from the end of its changelog."""
    from headrace_lake.kafka_log import KafkaLog
    from headrace_lake.status import task_statuses
    from headrace_schemas.topology import TOPOLOGY

    for task in run(task_statuses(KafkaLog(settings), TOPOLOGY, time.time_ns() // 1_000_000)):
        name, position = f"{task.stage}/{task.topic}/{task.partition}", task.position
        rules = None if position is None else position.rules
        if as_json:
            emit(
                {
                    "task": name,
                    "next_offset": task.next_offset,
                    "lag": task.lag,
                    "rule_version": rules and rules.version,
                    "policy_digest": rules and rules.digest,
                    "state_version": position and position.state_version,
                }
            )
        elif position is None or rules is None:
            click.echo(f"{name:28} never ran, lag {task.lag}")
        else:
            versions = f"rules {rules.version} {rules.digest[:15]}  state {position.state_version}"
            click.echo(f"{name:28} next {task.next_offset:<9} lag {task.lag:<7} {versions}")


@positions.command()
@click.argument("task", metavar="TASK")
@common
def rebuild(settings: Settings, as_json: bool, task: str) -> None:
    """Make the state of TASK (stage/topic/partition) anew by folding its whole input again, and replace its changelog.

    For a task that is refused because its state can't be read, or its changelog is lost. Outputs are not written again. Stop the
    worker first, or its task takes the state back in the middle; exit 1 when the log no longer has what the state was made of."""
    from headrace_lake.kafka_log import KafkaLog
    from headrace_lake.positions import rebuild_state
    from headrace_processors.stages import STAGES

    stage, topic, number = _task(task, STAGES)
    rebuilt = run(rebuild_state(settings, KafkaLog(settings), stage, topic, number))
    if as_json:
        return emit(rebuilt._asdict())
    click.echo(
        f"{task}: {rebuilt.records} records folded; {rebuilt.keys} state keys, {rebuilt.changed} of them other than before, "
        f"{rebuilt.removed} gone"
    )


@positions.command()
@click.argument("task", metavar="TASK")
@click.option("--to", metavar="OFFSET", required=True, help="Where to go on: an offset, `start` (of what is kept) or `end`.")
@click.option("--reason", required=True, help="Why; it is kept on the log.")
@click.option("--yes", is_flag=True, help="Do it; without this only what would be left out is said.")
@common
def skip(settings: Settings, as_json: bool, task: str, to: str, reason: str, yes: bool) -> int:
    """Let TASK (stage/topic/partition) go on behind input that it has not read. What is left out is lost for it.

    For a task that is refused because its position is outside the log. An event on `rules` says what was left out, and verify
    leaves it out too. Exit 1 without --yes, and where the offset is beyond the log's end or not behind the position."""
    from headrace_lake import positions as hand
    from headrace_schemas.topology import TOPOLOGY

    if to not in ("start", "end") and not to.isdigit():
        raise CliError(USAGE, f"--to {to!r} is no offset: a number, `start` or `end`")
    stage, topic, number = _task(task, TOPOLOGY)
    found = run(hand.skip(settings, stage, topic, number, to, reason=reason, requested_by=who(), really=yes))
    if as_json:
        emit({"task": task, "from_offset": found.start, "to_offset": found.end, "removed": found.removed, "skipped": yes})
    else:
        left = f"offsets {found.start} to {found.end - 1}, of which the log no longer has {found.removed}"
        click.echo(f"{task}: {'left out' if yes else 'would leave out'} {left}")
    if not yes:
        note("headrace: nothing was changed: --yes does it")
    return 0 if yes else NO


def _task(task: str, stages: Sequence[Any]) -> tuple[Any, str, int]:
    """The stage, topic and partition that a TASK argument names."""
    name, _, rest = task.partition("/")
    topic, _, number = rest.rpartition("/")
    stage = next((stage for stage in stages if stage.name == name and topic in stage.inputs), None)
    if stage is None or not number.isdigit():
        known = ", ".join(f"{stage.name}/{topic}/N" for stage in stages for topic in stage.inputs)
        raise CliError(USAGE, f"TASK {task!r} is none of these: {known}")
    return stage, topic, int(number)
