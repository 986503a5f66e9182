"""`headrace quality`: how good the data of a batch is, and a sample of it that people judge. Knows the parts that do it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
import msgspec

from headrace_cli.common import NO, OK, USAGE, CliError, common, emit, note, run, who
from headrace_lake.dataset import DatasetExample, exact_examples
from headrace_lake.dataset_cli import check_source, opened_log, source_options
from headrace_lake.log import Log, events_of
from headrace_lake.quality import BatchQuality, feedback_of, quality_of, sample_of
from headrace_processors import policy_file
from headrace_schemas.canonical import canonical
from headrace_schemas.derived import Batch
from headrace_schemas.events import BatchReady, ExampleRewarded, FeedbackRecorded
from headrace_schemas.selection import is_training, watched
from headrace_streams.settings import Settings

_file = click.Path(dir_okay=False, path_type=Path)


@click.command()
@click.argument("batch", metavar="BATCH")
@click.option("--sample", type=_file, help="Write a share of the rows (policy: quality.looked_at) for people to judge.")
@click.option("--read", "judged", type=_file, help="Read such a file back: what people filled in becomes their feedback.")
@click.option("--rater", metavar="ID", help="With --read: who judged. Default: the user.")
@source_options
@common
def quality(
    settings: Settings, as_json: bool, batch: str, sample: Path | None, judged: Path | None, rater: str | None, source: str,
    folder: Path | None,
) -> int:  # fmt: skip
    """Measure the data of BATCH against the targets of the policy: coverage, entropy, what was corrected, contradicted, verified
    and looked at, agreement, duplicates, style. Exit 1 when a target is not met."""
    if sample is not None and judged is not None:
        raise CliError(USAGE, "--sample and --read: give one of them")
    if sample is not None and sample.exists():
        raise CliError(USAGE, f"--sample {sample}: it is there already, maybe with what people filled in; name a new file")
    check_source(source, folder)
    policy = policy_file.load(settings.policy).quality
    wants_roles = judged is None and not policy.roles  # they are asked of all examples of the bucket
    cut, rows, roles = run(_read(settings, batch, source, folder, wants_roles))
    if judged is not None:
        told = feedback_of(judged.read_text(encoding="utf-8").split("\n"), cut, rows, rater or who() or "reviewer")
        run(_publish(settings, [each.feedback for each in told]))
        if as_json:
            emit({"batch_id": cut.batch_id, "feedback": len(told)})
        else:
            click.echo(f"{len(told)} judged rows of {cut.batch_id} are feedback now")
        return OK
    if sample is not None:
        chosen = sample_of(cut, rows, policy.looked_at)
        sample.write_bytes(b"".join(canonical(row) + b"\n" for row in chosen))
        note(f"{len(chosen)} of {len(rows)} rows in {sample}: fill in score, kind, corrected_output or comment, then --read it")
    found = quality_of(cut, rows, policy, roles)
    if as_json:
        emit({**msgspec.to_builtins(found), "missed": found.missed})
    else:
        for line in lines(found):
            click.echo(line)
    return NO if found.missed else OK


def lines(found: BatchQuality) -> list[str]:
    """The figures for people."""
    said = [f"{found.batch_id}  {found.bucket}  {found.rows} rows"]
    for each in found.figures:
        value = "-" if each.value is None else f"{each.value:.3f}"
        verdict = "" if each.met is None else "met" if each.met else "not met"
        target = "" if each.target is None else f">= {each.target:g}"
        said.append(f"  {each.name:<14}{value:>6}  {target:<8}{verdict:<9}{each.meaning}")
    for name in ("task_types", "roles", "styles", "dropped"):
        if counts := getattr(found, name):
            listed = ", ".join(f"{key} {count}" for key, count in sorted(counts.items(), key=lambda item: (-item[1], item[0])))
            said.append(f"  {name.replace('_', ' '):<14}{listed}")
    return said


async def _read(
    settings: Settings, batch_id: str, source: str, folder: Path | None, wants_roles: bool
) -> tuple[Batch, list[DatasetExample], set[str]]:
    async with opened_log(settings, source, folder) as (log, _):
        return await batch_examples(log, batch_id, wants_roles=wants_roles)


async def batch_examples(log: Log, batch_id: str, *, wants_roles: bool = True) -> tuple[Batch, list[DatasetExample], set[str]]:
    """A batch, what is learnt of it as it was cut (without what nobody can open any more), and if wanted the roles that its
    bucket ever had. CliError when there is no such batch; DatasetError for a row that is not where the batch says."""
    cut: Batch | None = None
    async for event in events_of(log, "batches", kinds=[BatchReady]):
        if isinstance(event, BatchReady) and event.data.batch_id == batch_id:
            cut = event.data
    if cut is None:
        raise CliError(NO, f"there is no batch {batch_id}: `headrace batches list` shows all")
    members = [member for member in watched(cut) if is_training(member)]
    values, _ = await exact_examples(log, members)
    rows = [DatasetExample(values[each.sha256], each) for each in members if each.sha256 in values]
    if not wants_roles:
        return cut, rows, set()
    roles = {
        event.data.agent.role or event.data.agent.name
        async for event in events_of(log, "examples", key=cut.bucket, kinds=[ExampleRewarded])
        if isinstance(event, ExampleRewarded) and event.data.bucket == cut.bucket
    }
    return cut, rows, roles


async def _publish(settings: Settings, feedback: list[Any]) -> None:
    from headrace_streams.kafka.publisher import publish, requested

    said = [requested(FeedbackRecorded, each, id=each.feedback_id, source="headrace:quality") for each in feedback]
    await publish(settings, *said)
