"""`headrace lake` and `headrace sql`: the read model of a deployment, fed and asked. Knows this package."""

from __future__ import annotations

import asyncio
import gc
import sys
import time
from collections.abc import Sequence
from contextlib import aclosing, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from headrace_cli.common import NO, USAGE, CliError, common, emit, note, progress, run
from headrace_cli.plain_output import control
from headrace_lake.manifest import LakeFolder, Manifest, Place
from headrace_streams.settings import Settings

if TYPE_CHECKING:
    from headrace_lake.text_opener import TextOpener

CELL = 60  # characters of a value in a table
COLLECT = (
    50_000,
    10,
    20,
)  # objects more than before, and so on: records make no cycles, looking for them was 4 % of a feeder's samples
BAR_SECONDS = 0.2  # between two states of the progress bar on a terminal
LINE_SECONDS = 5.0  # between lines of progress where no terminal rewrites one

lake_option = click.option(
    "--lake",
    "folder",
    type=click.Path(file_okay=False, path_type=Path),
    help="The lake's folder; in the data folder unless given.",
)


open_option = click.option("--open", "opening", is_flag=True, help="Open sealed texts: for who may read topic keys.")


def text_opener(settings: Settings) -> TextOpener:
    """What --open opens with. CliError for who may not read `keys`, and without the library."""
    from headrace_lake.opening import opener_of

    return run(opener_of(settings))


def folder_of(settings: Settings, folder: Path | None) -> LakeFolder:
    """Where a deployment's lake lies."""
    return LakeFolder(folder or settings.data_dir / "lake" / settings.deployment)


@click.group()
def lake() -> None:
    """The read model: the log as Parquet files at one cut, for SQL, data sets and lineage."""


@lake.command()
@lake_option
@click.option("--once", is_flag=True, help="End at what is on the log now.")
@click.option("--until", metavar="CUT", help="End at a release, an RFC 3339 time, or TOPIC/PARTITION=OFFSET[,…].")
@click.option("--every", type=click.FloatRange(min=0.2), default=5.0, show_default=True, help="Seconds between cuts.")
@click.option("--check", "thorough", is_flag=True, help="First read every segment and compare it with its digest.")
@common
def follow(
    settings: Settings, as_json: bool, folder: Path | None, once: bool, until: str | None, every: float, thorough: bool
) -> None:
    """Read the log into the lake, from where it stands, and go on until stopped (Ctrl-C, or a signal).

    One process feeds a lake; any number read it meanwhile, each at one cut. It can be killed at any moment: what it has written
    is exact. Segments that are damaged or missing are made anew from the log; a folder of another deployment is refused."""
    if once and until is not None:
        raise CliError(USAGE, "--once or --until, not both")
    place = folder_of(settings, folder)
    shown = _Shown(as_json)
    with place.fed():
        manifest = run(_follow(settings, place, once, until, every, thorough, shown))
    shown.done(manifest)


async def _follow(
    settings: Settings, place: LakeFolder, once: bool, until: str | None, every: float, thorough: bool, shown: _Shown
) -> Manifest:
    from headrace_lake.feeder import Feeder
    from headrace_lake.kafka_log import KafkaLog

    gc.collect()
    gc.freeze()
    gc.set_threshold(*COLLECT)
    log = KafkaLog(settings)
    feeder = Feeder(log, place, place.bound(settings.deployment, await log.cluster_id()), every=every)
    await feeder.prepare(thorough=thorough, told=note)
    ends = await feeder.ends() if once else None if until is None else await _ends(log, until)
    with suppress(asyncio.CancelledError):
        async with aclosing(feeder.feed(ends)) as steps:
            async for step in steps:
                shown.show(step)
    return feeder.manifest


async def _ends(log: Any, until: str) -> dict[Place, int]:
    """The cut that --until names."""
    from headrace_lake.cli import until_ms
    from headrace_lake.manifest import LAKE_TOPICS

    if "=" not in until:
        return dict(await log.offsets_at(LAKE_TOPICS, await until_ms(log, until) + 1))
    ends = {place: span.end for place, span in (await log.offsets(LAKE_TOPICS)).items()}
    for part in until.split(","):
        name, _, offset = part.strip().partition("=")
        topic, _, partition = name.rpartition("/")
        if not (partition.isdigit() and offset.isdigit() and (topic, int(partition)) in ends):
            raise CliError(USAGE, f"--until {part!r}: not TOPIC/PARTITION=OFFSET of a topic that a lake holds")
        ends[topic, int(partition)] = min(ends[topic, int(partition)], int(offset))
    return ends


class _Shown:
    """Progress on standard error: a line that is written over on a terminal, or one now and then."""

    def __init__(self, as_json: bool) -> None:
        self._json, self._terminal, self._at, self._last = as_json, sys.stderr.isatty(), 0.0, (0, 0.0)

    def show(self, step: Any) -> None:
        now = time.monotonic()
        if now - self._at < (BAR_SECONDS if self._terminal else LINE_SECONDS):
            return
        self._at = now
        records, seconds = self._last
        rate = (step.records - records) / max(step.seconds - seconds, 1e-9)
        self._last = step.records, step.seconds
        done = step.records / max(step.records + step.left, 1)
        text = f"{bar(done)} {step.records} records, {step.left} to come, {rate:.0f}/s"
        if step.left and rate:
            text += f", {step.left / rate:.0f} s left"
        progress(text)

    def done(self, manifest: Manifest) -> None:
        if self._terminal:
            control("\r\033[K")
        told = told_of(manifest)
        if self._json:
            emit(told)
        else:
            click.echo(
                f"{told['records']} records in {told['segments']} segments, {told['bytes'] / 2**20:.1f} MiB; cut {told['cut_at']}"
            )


def bar(done: float, width: int = 24) -> str:
    """A progress bar at a share of the work."""
    full = int(min(1.0, done) * width)
    return f"[{'#' * full}{'.' * (width - full)}] {done:4.0%}"


def told_of(manifest: Manifest) -> dict[str, Any]:
    """What a manifest says in figures; `cut_at` is the newest append time in it."""
    from headrace_schemas.times import rfc3339

    newest = max((segment.last_ms for segment in manifest.segments), default=None)
    return {
        "deployment": manifest.deployment,
        "cluster": manifest.cluster,
        "records": sum(segment.records for segment in manifest.segments),
        "segments": len(manifest.segments),
        "bytes": sum(segment.size_bytes for segment in manifest.segments),
        "raw_bytes": sum(segment.raw_bytes for segment in manifest.segments),
        "cut_at": None if newest is None else rfc3339(newest),
        "cut": manifest.cut,
    }


@lake.command("status")
@lake_option
@click.option("--check", "thorough", is_flag=True, help="Read every segment and compare it with its digest.")
@common
def lake_status(settings: Settings, as_json: bool, folder: Path | None, thorough: bool) -> int:
    """What the lake holds, topic by topic, how far it is behind the log, and what is wrong with it: then exit 1."""
    place = folder_of(settings, folder)
    with place.open(whole=False) as manifest:
        faults = {
            segment.file: fault for segment in manifest.segments if (fault := place.fault(segment, thorough=thorough)) is not None
        }
        behind = run(_behind(settings, manifest))
    topics: dict[str, dict[str, int]] = {}
    for segment in manifest.segments:
        counts = topics.setdefault(segment.topic, {"records": 0, "segments": 0, "bytes": 0})
        counts["records"] += segment.records
        counts["segments"] += 1
        counts["bytes"] += segment.size_bytes
    found = {"folder": str(place.path), **told_of(manifest), "topics": topics, "behind": behind, "faults": faults}
    if as_json:
        emit(found)
    else:
        for topic, counts in topics.items():
            click.echo(
                f"{topic:18} {counts['records']:>9} records {counts['segments']:>5} segments {counts['bytes'] / 2**20:>9.1f} MiB"
            )
        late = "the log can't be reached" if behind is None else f"{behind} offsets behind the log"
        click.echo(f"{place.path}: {found['records']} records up to {found['cut_at']}, {late}")
        for name, fault in faults.items():
            click.echo(f"{name}: {fault}: `headrace lake follow` makes it anew from the log")
    return NO if faults else 0


async def _behind(settings: Settings, manifest: Manifest) -> int | None:
    """Offsets that the log has beyond the cut; None where nobody answers."""
    from headrace_lake.kafka_log import KafkaLog
    from headrace_lake.manifest import LAKE_TOPICS
    from headrace_streams.kafka.clients import BrokerUnavailable, TopicMissing

    try:
        spans = await KafkaLog(settings).offsets(LAKE_TOPICS)
    except (BrokerUnavailable, TopicMissing):
        return None
    return sum(max(0, span.end - max(span.begin, manifest.offset(place) or 0)) for place, span in spans.items())


@lake.command()
@lake_option
@common
def compact(settings: Settings, as_json: bool, folder: Path | None) -> None:
    """Make few large segments of many small ones; who reads meanwhile is not disturbed. Needs no broker, and no other feeder."""
    from headrace_lake.activity import keep_activity
    from headrace_lake.compaction import compacted

    place = folder_of(settings, folder)
    before = place.load()
    with place.fed():
        manifest = compacted(place, place.load(), fully=True)
        keep_activity(place, manifest.segments)
        place.store(manifest)
        place.remove_strangers(manifest)
    found = {"segments_before": len(before.segments), **told_of(manifest)}
    if as_json:
        emit(found)
    else:
        click.echo(
            f"{place.path}: {len(before.segments)} segments are {len(manifest.segments)} now, {found['bytes'] / 2**20:.1f} MiB"
        )


@click.command()
@lake_option
@click.argument("query")
@click.option(
    "--seconds", type=click.FloatRange(0.1, 3600), default=30.0, show_default=True, help="A query that takes longer is stopped."
)
@click.option("--rows", type=click.IntRange(1, 100_000), default=5000, show_default=True, help="Rows that are shown at most.")
@open_option
@common
def sql(settings: Settings, as_json: bool, folder: Path | None, query: str, seconds: float, rows: int, opening: bool) -> None:
    """Answer one SELECT over the lake's views, at the cut that it has now. Needs no broker, but for keys of sealed texts: with
    --open whole records (`SELECT value …`) are shown opened, and `[erased]` where their key is gone.

    `SHOW TABLES` lists the views and `DESCRIBE examples` the columns of one; the docs say what they hold, with a query each."""
    from headrace_lake.query_process import ask_apart

    found = ask_apart(folder_of(settings, folder), query, seconds=seconds, rows=rows)
    if opening:
        opened = text_opener(settings).opened
        found = found._replace(rows=[tuple(opened(one) if isinstance(one, str) else one for one in row) for row in found.rows])
    if as_json:
        for row in found.dicts():
            emit(row)
    else:
        for line in _table(found.columns, found.rows):
            click.echo(line)
    if found.more:
        wanted = "--rows shows more" if len(found.rows) == rows else "ask for fewer columns, or shorter texts"
        note(f"headrace: the first {len(found.rows)} rows; {wanted}")


def _table(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> list[str]:
    cells = [[_cell(value) for value in row] for row in rows]
    widths = [min(CELL, max(len(name), *(len(row[at]) for row in cells), 0)) for at, name in enumerate(columns)]
    lines = [[_cell(name) for name in columns], ["-" * width for width in widths], *cells]
    return ["  ".join(text[:width].ljust(width) for text, width in zip(line, widths, strict=True)).rstrip() for line in lines]


def _cell(value: Any) -> str:
    """One line of what can be printed; longer ones are cut, and whole with --json."""
    text = "" if value is None else str(value)
    text = "".join(char if char.isprintable() else " " for char in text[: CELL + 1])
    return text if len(text) <= CELL else text[: CELL - 1] + "…"
