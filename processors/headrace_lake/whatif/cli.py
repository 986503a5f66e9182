"""`headrace whatif`: another policy over the recorded log, as a table or JSON. Knows the trial and its report."""

from __future__ import annotations

import sys
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from headrace_cli.common import CliError, common, emit, progress, run
from headrace_cli.plain_output import control
from headrace_lake.dataset_cli import time_ms
from headrace_lake.lake_cli import BAR_SECONDS, LINE_SECONDS, bar, folder_of, lake_option
from headrace_lake.manifest import MANIFEST
from headrace_lake.whatif.report import BucketSide, ExampleFlip, FateFlow, WhatIfReport
from headrace_schemas.root_error import NO, USAGE
from headrace_streams.settings import Settings

if TYPE_CHECKING:
    from headrace_lake.log import Log

_CLOCK_RECORDS = 100  # between looks at the clock
_FIGURE = 40  # characters of a policy's value that are shown
_READ = ("signals", "examples", "outcomes")


@click.command()
@click.option(
    "--policy", type=click.Path(dir_okay=False, path_type=Path), required=True, help="The policy file that is to be tried."
)
@click.option(
    "--against",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Compare with this policy file, not with what was recorded.",
)
@click.option("--since", metavar="TIME", help="As if the new policy had taken over at this RFC 3339 time.")
@click.option("--bucket", help="Count this bucket alone.")
@click.option("--no-texts", is_flag=True, help="Say nothing of what was asked and answered.")
@click.option("--top", type=click.IntRange(1, 1000), default=10, show_default=True, help="Largest flips that are shown.")
@click.option(
    "--from", "source", type=click.Choice(["lake", "log"]), help="Where to read; the lake where there is one, else the log."
)
@lake_option
@common
def whatif(
    settings: Settings,
    as_json: bool,
    policy: Path,
    against: Path | None,
    since: str | None,
    bucket: str | None,
    no_texts: bool,
    top: int,
    source: str | None,
    folder: Path | None,
) -> None:
    """What another policy would have made of the recorded log: which rewards, rejections, batches and releases flip, and why.

    Signals, examples and outcomes are folded in their recorded order, by the policies that were recorded and by the new one.
    Nothing is written, and no run is repeated: release answers the evaluations that there are. What the policies of intake and
    link would have done to what was published is not tried."""
    from headrace_processors import policy_file

    bodies = policy_file.load(policy).bodies()
    others = None if against is None else policy_file.load(against).bodies()
    if folder is not None and source == "log":
        raise CliError(USAGE, "--lake goes with --from lake")
    shown = _Progress()
    report, read_from = run(_tried(settings, bodies, others, time_ms("since", since), bucket, top, source, folder, shown))
    shown.done()
    for flip in [*report.rewards.largest, *report.examples.largest] if no_texts else ():
        flip.texts = None
    if bucket is not None and not report.examples.examples:
        raise CliError(NO, f"bucket {bucket!r} has no example under either policy: `headrace status` lists the buckets")
    if as_json:
        emit({"policy": str(policy), "against": None if against is None else str(against), "from": read_from, **told_of(report)})
        return
    click.echo(f"{policy} instead of {against or 'what was recorded'}, over {read_from}")
    for line in lines_of(report):
        click.echo(line)


async def _tried(
    settings: Settings,
    bodies: Any,
    against: Any,
    since_ms: int | None,
    bucket: str | None,
    top: int,
    source: str | None,
    folder: Path | None,
    shown: _Progress,
) -> tuple[WhatIfReport, str]:
    from headrace_lake.kafka_log import KafkaLog
    from headrace_lake.keys import OpenedLog
    from headrace_lake.whatif.trial import WhatIf
    from headrace_processors.stages import STAGES

    async with _log(settings, source, folder) as (log, total, read_from):
        shown.total = total
        opened = OpenedLog(log, KafkaLog(settings))  # a lake has no keys
        trial = WhatIf(opened, STAGES, bodies, against=against, since_ms=since_ms, bucket=bucket, top=top, told=shown.told)
        return await trial.run(), read_from


@asynccontextmanager
async def _log(settings: Settings, source: str | None, folder: Path | None) -> AsyncIterator[tuple[Log, int, str]]:
    """What is read, how many records that are at most, and its name."""
    place = folder_of(settings, folder)
    if source == "lake" or folder is not None or (source is None and (place.path / MANIFEST).exists()):
        from headrace_lake.lake_cli import told_of as told_of_lake
        from headrace_lake.lake_log import LakeLog

        with place.open() as manifest:
            total = sum(segment.records for segment in manifest.segments if segment.topic in _READ)
            yield LakeLog(place, manifest), total, f"the lake up to {told_of_lake(manifest)['cut_at']}"
        return
    from headrace_lake.kafka_log import KafkaLog

    log = KafkaLog(settings)
    spans = [span for topic in _READ for span in (await log.spans(topic)).values()]
    yield log, sum(span.end - span.begin for span in spans), "the log"


class _Progress:
    """A bar on standard error."""

    def __init__(self) -> None:
        self.total = 0
        self._began = self._shown = time.monotonic()
        self._every = BAR_SECONDS if sys.stderr.isatty() else LINE_SECONDS

    def told(self, records: int) -> None:
        if records % _CLOCK_RECORDS or (now := time.monotonic()) - self._shown < self._every:
            return
        self._shown = now
        rate = records / max(now - self._began, 1e-9)
        left = max(0, self.total - records)
        progress(f"{bar(records / max(self.total, 1))} {records} of at most {self.total} records, {left / rate:.0f} s left")

    def done(self) -> None:
        if sys.stderr.isatty():
            control("\r\033[K")


def told_of(report: WhatIfReport) -> dict[str, Any]:
    """The report as JSON has it."""
    import msgspec

    told: dict[str, Any] = msgspec.to_builtins(report)
    for trial in told["batches"]:
        for side in ("before", "after"):
            fills = trial[side]["fills"]
            trial[side]["mean_fill_seconds"] = trial[side]["fill_seconds"] / fills if fills else None
    return {**told, "flips": report.flips}


def lines_of(report: WhatIfReport) -> Iterator[str]:
    """The report for people."""
    for change in report.policies:
        yield f"  {change.stage}.{change.key}  {_value(change.before)} -> {_value(change.after)}"
    if not report.policies:
        yield "  no key of reward, curate or release differs"
    yield from (f"  note: {text}" for text in report.notes)
    if report.since is not None:
        yield f"  as if it had taken over at {report.since}"
    yield ""
    yield from _rewards(report)
    yield ""
    yield from _examples(report)
    yield ""
    yield from _batches(report)
    yield ""
    yield from _releases(report)


def _rewards(report: WhatIfReport) -> Iterator[str]:
    rewards = report.rewards
    if not rewards.tried:
        yield "rewards    the policy of reward is the one that held: none flips"
        return
    changed = rewards.higher + rewards.lower
    mean = f", on average by {rewards.total_change / changed:+.4g}" if changed else ""
    yield f"rewards    {rewards.before} examples before, {rewards.after} after"
    yield f"           {rewards.higher} higher, {rewards.lower} lower{mean}; {rewards.sign} change sign"
    others = f"{rewards.moved} in another bucket, {rewards.weights} weigh otherwise"
    yield f"           {rewards.gained} gained, {rewards.lost} lost, {others}"
    yield from _flips(rewards.largest)


def _examples(report: WhatIfReport) -> Iterator[str]:
    examples = report.examples
    yield f"examples   {examples.flips} of {examples.examples} end elsewhere"
    yield from _flows(examples.flows, examples.examples)
    reasons = sorted(report.rejections.before.keys() | report.rejections.after.keys())
    pairs = {reason: (report.rejections.before.get(reason, 0), report.rejections.after.get(reason, 0)) for reason in reasons}
    if changed := {reason: pair for reason, pair in pairs.items() if pair[0] != pair[1]}:
        yield "rejections " + ", ".join(f"{reason} {before} -> {after}" for reason, (before, after) in changed.items())
    yield from _flips(examples.largest)


def _batches(report: WhatIfReport) -> Iterator[str]:
    if not report.batches:
        yield "batches    none under either policy"
        return
    yield f"{'batches':40} {'before':>7} {'after':>7} {'the same':>9}   time to fill on average    open at the end"
    for trial in report.batches:
        old, new = trial.before, trial.after
        fills = f"{_span(old.mean_fill_seconds):>10} -> {_span(new.mean_fill_seconds):10}"
        yield f"  {trial.bucket:38} {old.batches:>7} {new.batches:>7} {trial.same:>9}   {fills}   {_open(old)} -> {_open(new)}"


def _releases(report: WhatIfReport) -> Iterator[str]:
    releases = report.releases
    if not releases.tried:
        yield "releases   the policy of release is the one that held: none flips"
        return
    unknown = f", {releases.unknowable} can't be known (something else would have been served)" if releases.unknowable else ""
    yield f"releases   {releases.flips} of {releases.answers} answers flip{unknown}"
    yield from _flows(releases.flows, releases.answers)
    for flip in releases.flipped:
        unsure = "  (can't be known)" if flip.unknowable else ""
        cut = "" if flip.batch_cut else "  (its batch would not have been cut)"
        yield f"  {flip.bucket} #{flip.sequence}: {flip.before_reason} -> {flip.after_reason}{unsure}{cut}"


def _flows(flows: Sequence[FateFlow], total: int) -> Iterator[str]:
    for flow in flows:
        if flow.before != flow.after:
            yield f"  {flow.before:32} -> {flow.after:32} {flow.examples:>7}"
    stay = sum(flow.examples for flow in flows if flow.before == flow.after)
    if total:
        yield f"  {'stay as they were':68} {stay:>7}"


def _flips(flips: Sequence[ExampleFlip]) -> Iterator[str]:
    for flip in flips:
        old, new = (None if side is None else side.reward for side in (flip.before, flip.after))
        yield f"  {flip.interaction_id}  {flip.bucket}  {_value(old)} -> {_value(new)}  " + "; ".join(flip.why)
        if flip.texts is not None:
            yield f"      {_short(flip.texts.prompt)}  =>  {_short(flip.texts.target or flip.texts.output)}"


def _open(side: BucketSide) -> str:
    return f"{side.fill:.1f} of {side.target:g}"


def _span(seconds: float | None) -> str:
    if seconds is None:
        return "never"
    for limit, size, name in ((120, 1, "s"), (7200, 60, "min"), (172_800, 3600, "h")):
        if seconds < limit:
            return f"{seconds / size:.1f} {name}"
    return f"{seconds / 86_400:.1f} d"


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= 60 else line[:59] + "…"


def _value(value: Any) -> str:
    text = "none" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)
    return text if len(text) <= _FIGURE else text[: _FIGURE - 1] + "…"
