"""`headrace explain` and `headrace impact`: what something is made of, and what came of it. Knows the lake's lineage."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click
import msgspec

from headrace_cli.common import NO, CliError, common, emit, note
from headrace_lake.lake_cli import folder_of, lake_option, open_option, text_opener
from headrace_streams.settings import Settings

if TYPE_CHECKING:
    from headrace_lake.lineage import Lineage, LineageRecord, RecordPlace

SHOWN = 20  # records below one that are shown without --all
SECONDS = 120.0


@click.command()
@lake_option
@click.argument("name", metavar="ID")
@click.option("--all", "whole", is_flag=True, help="Show every record, not the first few below each.")
@open_option
@common
def explain(settings: Settings, as_json: bool, folder: Path | None, name: str, whole: bool, opening: bool) -> None:
    """What a release, version, batch, example or interaction is made of, down to the records that were published.

    ID is one of theirs, or TOPIC/PARTITION/OFFSET. Of an interaction and an example it also says what became of it, and why: it
    waits for feedback, was rejected, lies in an open bucket, in a batch, was learnt, was withdrawn. Reads the lake alone; exit 1
    for an id that it does not have."""
    _show(settings, as_json, folder, name, whole, up=False, opening=opening)


@click.command()
@lake_option
@click.argument("name", metavar="EVENT")
@click.option("--all", "whole", is_flag=True, help="Show every record, not the first few above each.")
@open_option
@common
def impact(settings: Settings, as_json: bool, folder: Path | None, name: str, whole: bool, opening: bool) -> None:
    """What came of an event, up to the releases that have learnt from it, and those that go on from their adapters.

    EVENT is its id, an interaction's, a feedback's or an example's, or TOPIC/PARTITION/OFFSET of what was published. Reads the
    lake alone; exit 1 for one that it does not have."""
    _show(settings, as_json, folder, name, whole, up=True, opening=opening)


def _show(settings: Settings, as_json: bool, folder: Path | None, name: str, whole: bool, *, up: bool, opening: bool) -> None:
    from headrace_lake.query import opened
    from headrace_lake.read_models.lineage_view import lineage_view

    place = folder_of(settings, folder)
    opener = text_opener(settings) if opening else None
    with opened(place, seconds=SECONDS) as lake:
        lake.opener = opener or lake.opener
        both = lineage_view(lake, name, up=up)
    if both is None:
        raise CliError(NO, f"{name!r}: {place.path} has no such release, batch, example, interaction or event")
    view, found = both
    if as_json:
        emit(msgspec.to_builtins(view))
        return
    state, fate = view.state, view.fate
    if state is not None:
        where = f"  ({state.place})" if state.place else ""
        click.echo(f"interaction {state.interaction_id}: {state.state}: {state.reason}{where}")
        if state.answered is not None and state.answered.matches is not None:
            click.echo(f"{'' if state.answered.matches else 'NOT SERVED THEN: '}{state.answered.note}")
    if fate is not None:
        click.echo(fate)
    for line in _tree(found, up, whole):
        click.echo(line)
    for record in found.inherited:
        click.echo(f"{'inherited by' if up else 'goes on from'} {_line(record)}")
    counts = Counter(record.kind for record in found.records.values())
    note(", ".join(f"{count} {name}{'s' if count > 1 and name != 'published' else ''}" for name, count in counts.items()))


def _line(record: LineageRecord) -> str:
    if record.kind == "published":
        return f"published  {record.place}"
    return f"{record.kind} {record.id}  {record.note}  {record.place}".replace("    ", "  ")


def _tree(found: Lineage, up: bool, whole: bool) -> Iterator[str]:
    """Indented lines, each record once: what is shown already is not shown again below another."""
    below: dict[RecordPlace, list[tuple[RecordPlace, str]]] = {}
    for edge in found.edges:
        start, end = (edge.lower, edge.upper) if up else (edge.upper, edge.lower)
        below.setdefault(start, []).append((end, edge.how))
    seen: set[RecordPlace] = set()

    def lines(place: RecordPlace, how: str, depth: int) -> Iterator[str]:
        record = found.records.get(place)
        if record is None:
            return
        seen.add(place)
        yield f"{'  ' * depth}{_line(record)}" + (f"  [{how}]" if how else "")
        children = [(end, part) for end, part in sorted(below.get(place, ())) if end not in seen]
        shown = children if whole else children[:SHOWN]
        for end, part in shown:
            if end not in seen:
                yield from lines(end, part, depth + 1)
        if len(children) > len(shown):
            yield f"{'  ' * (depth + 1)}… and {len(children) - len(shown)} more (--all)"

    for place in found.subjects:
        if place not in seen:
            yield from lines(place, "", 0)
