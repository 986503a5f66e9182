"""`headrace dead-letters`: what could not be processed, why, and once more after a fix. Knows the command's words only: what
letters are, and how they are redriven, headrace_streams.dead_letters does.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from headrace_cli.common import NO, USAGE, CliError, common, emit, note, progress, run, who
from headrace_cli.plain_output import visible
from headrace_streams.settings import Settings

if TYPE_CHECKING:
    from headrace_schemas.derived import DeadLetter
    from headrace_streams.dead_letters.letters import LetterFilter, LetterRow, MarkedRecord
    from headrace_streams.dead_letters.redrive import RedriveReport

Function = TypeVar("Function", bound=Callable[..., Any])
CONTEXT = 60  # characters before and behind a field that is marked
LISTED = 20  # of many, what is printed for people


def _filters(function: Function) -> Function:
    """The options by which letters are chosen."""
    decorated: Any = function
    for option in (
        click.option("--until", metavar="TIME", help="Only of records appended before this RFC 3339 time."),
        click.option("--since", metavar="TIME", help="Only of records appended at this RFC 3339 time or later."),
        click.option("--source", help="Only of this publisher, as its events say; '' for those that say none."),
        click.option("--field", help="Only those with this field wrong; '' for whole records."),
        click.option("--code", help="Only those with this error code."),
        click.option("--topic", help="Only those that came in on this topic."),
    ):
        decorated = option(decorated)
    return decorated  # type: ignore[no-any-return]


@click.group("dead-letters")
def dead_letters() -> None:
    """Records that could not be processed, whole, with the error. They are named topic/partition/offset."""


@dead_letters.command("list")
@click.option("-n", "limit", type=click.IntRange(min=1), help="Only the last so many.")
@click.option("--waiting", is_flag=True, help="Only those that were not redriven.")
@_filters
@common
def list_(settings: Settings, as_json: bool, limit: int | None, waiting: bool, **filters: Any) -> None:
    """One line each, oldest first: where, when, error code, field, message."""
    from headrace_schemas.times import rfc3339

    letters = _rows(settings, _filter(settings, waiting=waiting, **filters))
    for row in letters[-limit:] if limit else letters:
        if as_json:
            emit(_row(row))
            continue
        now = f"  -> {_now(row)}" if row.redriven else ""
        click.echo(
            f"{row.at}  {rfc3339(row.timestamp)}  {visible(row.code)}  {visible(row.field or '-')}  {visible(row.message)}{now}"
        )


@dead_letters.command("groups")
@click.option("--waiting", is_flag=True, help="Only those that were not redriven.")
@_filters
@common
def groups(settings: Settings, as_json: bool, waiting: bool, **filters: Any) -> None:
    """How many by topic, error code, publisher and field, the most frequent first, each with its newest message."""
    import msgspec

    from headrace_schemas.times import rfc3339
    from headrace_streams.dead_letters.letters import groups as grouped

    for group in grouped(_rows(settings, _filter(settings, waiting=waiting, **filters))):
        if as_json:
            times = {"first": rfc3339(group.first), "last": rfc3339(group.last)}
            emit({**msgspec.structs.asdict(group), **times})
            continue
        again = f", {group.redriven} redriven" if group.redriven else ""
        names = [group.topic, group.code, group.field or "-", group.source or "no source"]
        click.echo(f"{group.letters:>6}{again}  {visible('  '.join(names))}  last {rfc3339(group.last)} {group.newest}")
        click.echo(f"        {visible(group.message)}")


@dead_letters.command()
@click.argument("at", metavar="TOPIC/PARTITION/OFFSET")
@common
def show(settings: Settings, as_json: bool, at: str) -> None:
    """The whole record: error, key, headers, value, and where in it the field is that is wrong."""
    import msgspec

    from headrace_streams.dead_letters.letters import letter, marked
    from headrace_streams.kafka.clients import short_name

    found = run(letter(settings, short_name(settings, at)))
    if found is None:
        raise CliError(NO, f"no dead letter {at}: `headrace dead-letters list` names all")
    row, whole = found
    record = marked(whole)
    if as_json:
        place = {"part": record.part, **(record.span._asdict() if record.span else {})}
        return emit({**msgspec.to_builtins(whole), "marked": place, "redriven": msgspec.to_builtins(row.redriven)})
    _show(row, whole, record)


def _show(row: LetterRow, whole: DeadLetter, record: MarkedRecord) -> None:
    error = whole.error
    for name, value in {"at": row.at, "code": error.code, "field": error.field, "message": error.message}.items():
        click.echo(f"{name}: {visible(str(value))}")
    click.echo(f"key: {_text(whole.key_base64)}")
    for header, encoded in whole.headers:
        click.echo(f"header {visible(header)}: {_text(encoded)}")
    if row.redriven is not None:
        edited = f", edited {', '.join(row.redriven.edited)}" if row.redriven.edited else ""
        click.echo(visible(f"redriven: {_now(row)} by {row.redriven.requested_by}: {row.redriven.reason}{edited}"))
    if record.span is not None:
        start, end, what = record.span
        before, behind = record.text[max(0, start - CONTEXT) : start], record.text[end : end + CONTEXT]
        inside = record.text[start:end] if end - start <= 2 * CONTEXT else record.text[start : start + 2 * CONTEXT] + "…"
        said = {"field": "wrong", "missing": "missing in", "broken": "no JSON from here"}[what]
        click.echo(f"{said}: {visible(f'{before}»{inside}«{behind}')}")
    elif record.part is not None:
        click.echo(f"wrong: {record.part}")
    click.echo(visible(record.text, lines=True))


@dead_letters.command()
@click.argument("at", metavar="[TOPIC/PARTITION/OFFSET]...", nargs=-1)
@_filters
@click.option("--all", "everything", is_flag=True, help="Every letter, where nothing else says which are meant.")
@click.option(
    "--set", "changes", metavar="FIELD=JSON", multiple=True, help="Another value of a field, such as data.score=4; null removes."
)
@click.option(
    "--value",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Another value of the whole record (structured mode), for one letter.",
)
@click.option("--dry-run", is_flag=True, help="Only say what would be redriven.")
@click.option("--reason", help="Why, for people; it stands in the log.")
@common
def redrive(
    settings: Settings,
    as_json: bool,
    at: tuple[str, ...],
    everything: bool,
    changes: tuple[str, ...],
    value: Path | None,
    dry_run: bool,
    reason: str | None,
    **filters: Any,
) -> int:
    """Publish records once more after a fix, each once, whoever asks how often.

    Chosen by name or by filters. A record goes back to its input topic as it was, but for what --set or --value say, with the
    header headrace-redriven; where its publisher gave no time, with the time that it came at then. What intake would refuse
    again is not sent, and counted. What link or reward could not process is published as intake had passed it on. Exit 1 when
    nothing was redriven."""
    from headrace_streams.dead_letters import redrive as redriving
    from headrace_streams.dead_letters.repair import Edit

    if not (at or everything or any(filters.values())):
        raise CliError(USAGE, "headrace dead-letters redrive: name letters, filter them, or say --all")
    if not dry_run and not reason:
        raise CliError(USAGE, "headrace dead-letters redrive: --reason: say why, or --dry-run")
    if value is not None and len(at) != 1:
        raise CliError(USAGE, "headrace dead-letters redrive: --value is of one letter: name it")
    try:
        whole = None if value is None else value.read_bytes()
    except OSError as error:
        raise CliError(USAGE, f"headrace dead-letters redrive: --value {value}: {error.strerror}") from error
    edit = Edit(fields=dict(map(_change, changes)), value=whole)
    wanted = _filter(settings, at=at, **filters)
    if dry_run:
        report = run(redriving.preview(settings, wanted, edit))
    else:

        def told(report: RedriveReport) -> None:
            if len(report.redriven) < report.letters:
                progress(f"{len(report.redriven)} of {report.letters} redriven")

        work = redriving.redrive(settings, wanted, edit, reason=reason or "", requested_by=who(), told=told)
        report = run(work)
    if as_json:
        emit(_report(report, dry_run))
    else:
        _say(report, dry_run)
    if report.missing:
        note(f"headrace: no dead letter {', '.join(report.missing)}: `headrace dead-letters list` names all")
    return 0 if report.redriven and not report.missing else NO


def _say(report: RedriveReport, dry_run: bool) -> None:
    for at, place in report.redriven[:LISTED]:
        click.echo(f"{at} would be redriven" if place is None else f"{at} -> {place}")
    if len(report.redriven) > LISTED:
        click.echo(f"… and {len(report.redriven) - LISTED} more")
    for row in report.before[:LISTED]:
        click.echo(visible(f"{row.at} was redriven before: it is {_now(row)}"))
    for why, count in report.unfit.most_common():
        click.echo(visible(f"{count} not redriven, {why}: {report.examples[why]}"))
    said = "would be redriven" if dry_run else "redriven"
    counts = f"{len(report.before)} were before, {report.unfit.total()} can't be"
    click.echo(f"{len(report.redriven)} of {report.letters} {said}; {counts}")


def _report(report: RedriveReport, dry_run: bool) -> dict[str, Any]:
    return {
        "dry_run": dry_run,
        "letters": report.letters,
        "redriven": [{"at": at, "published": place} for at, place in report.redriven],
        "before": [{"at": row.at, "published": _now(row)} for row in report.before],
        "not_redriven": [
            {"why": why, "count": count, "example": report.examples[why]} for why, count in report.unfit.most_common()
        ],
    }


def _rows(settings: Settings, wanted: LetterFilter) -> list[LetterRow]:
    from headrace_streams.dead_letters.letters import rows

    return run(rows(settings, wanted))


def _filter(
    settings: Settings,
    *,
    at: tuple[str, ...] = (),
    topic: str | None,
    code: str | None,
    field: str | None,
    source: str | None,
    since: str | None,
    until: str | None,
    waiting: bool = False,
) -> LetterFilter:
    from headrace_streams.dead_letters.letters import LetterFilter
    from headrace_streams.kafka.clients import short_name

    return LetterFilter(
        at=tuple(short_name(settings, name) for name in at),
        topic=None if topic is None else short_name(settings, topic),
        code=code,
        field=field,
        source=source,
        since_ms=_ms("--since", since),
        until_ms=_ms("--until", until),
        waiting=waiting,
    )


def _ms(option: str, time: str | None) -> int | None:
    from headrace_schemas.times import parse_ns

    try:
        return None if time is None else parse_ns(time) // 1_000_000
    except (ValueError, OverflowError):
        raise CliError(USAGE, f"{option}: no RFC 3339 time with an offset, such as 2026-11-26T08:00:00Z: {time!r}") from None


def _change(text: str) -> tuple[str, Any]:
    import msgspec

    path, equals, value = text.partition("=")
    try:
        if equals and path:
            return path, msgspec.json.decode(value.encode())
    except (msgspec.MsgspecError, UnicodeEncodeError):
        pass
    raise CliError(USAGE, f"--set: FIELD=JSON, such as data.score=4 or data.kind='\"rating\"'; it is {text!r}")


def _row(row: LetterRow) -> dict[str, Any]:
    import msgspec

    from headrace_schemas.times import rfc3339

    told = {"at": row.at, "time": rfc3339(row.timestamp), "code": row.code, "field": row.field, "message": row.message}
    return {**told, "source": row.source, "bytes": row.bytes, "redriven": msgspec.to_builtins(row.redriven)}


def _now(row: LetterRow) -> str:
    """Where a redriven record lies now."""
    from headrace_streams.dead_letters.letters import at_of

    return "" if row.redriven is None else at_of(row.redriven.published)


def _text(encoded: str | None) -> str:
    """Bytes for people: text where it is text, else its Python form."""
    from headrace_streams.dead_letters.letters import content

    found = content(encoded)
    if found is None:
        return "null"
    try:
        return visible(found.decode())
    except UnicodeDecodeError:
        return repr(found)
