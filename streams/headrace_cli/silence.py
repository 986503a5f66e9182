"""`headrace silence`: who should speak and does not, and until when nobody wants to be told. Knows the command's words only: who
is missed the worker's observer says, on `assessments`.
"""

from __future__ import annotations

import time
from typing import Any

import click

from headrace_cli.common import NO, USAGE, CliError, common, emit, run, who
from headrace_cli.plain_output import visible
from headrace_streams.settings import Settings

HOURS = 24.0


@click.group("silence")
def silence() -> None:
    """Adapters, agents, raters, buckets and tasks that are missed, as a worker says once a minute."""


@silence.command("list")
@click.option("--muted", is_flag=True, help="Those, too, that nobody wants to be told of now.")
@common
def list_(settings: Settings, as_json: bool, muted: bool) -> int:
    """Each that is open: kind, who, since when, what was expected, what was seen. Exit 1 when there is one that is not muted."""
    from headrace_streams.kafka.reader import Reader
    from headrace_streams.silences import described, read_silences

    now_ms = time.time_ns() // 1_000_000
    found = [described(each, now_ms) for each in run(read_silences(Reader(settings)))]
    shown = [row for row in found if muted or not row["muted"]]
    for row in shown:
        if as_json:
            emit(row)
            continue
        told = f"  muted until {row['mute']['until']}: {row['mute']['reason']}" if row["muted"] else ""
        click.echo(visible(f"{row['kind']}  {row['subject']}  since {row['since']}{told}"))
        click.echo(visible(f"    expected {row['expected']}; seen: {row['seen']} ([silence] {row['policy_key']})"))
    if not shown and not as_json:
        click.echo("nobody is missed")
    return NO if any(not row["muted"] for row in found) else 0


@silence.command("mute")
@click.argument("kind")
@click.argument("subject")
@click.option("--until", metavar="TIME", help="RFC 3339; one that has passed ends a mute.")
@click.option("--hours", type=click.FloatRange(min=0.01, max=24 * 365), help=f"Or from now on for so long; {HOURS:g} by default.")
@click.option("--reason", required=True, help="Why, for people.")
@common
def mute(settings: Settings, as_json: bool, kind: str, subject: str, until: str | None, hours: float | None, reason: str) -> None:
    """Nobody is told of SUBJECT's silence until a time; the word, with its reason, stands in the log."""
    from headrace_schemas.times import parse_ns, rfc3339
    from headrace_streams.silences import KINDS
    from headrace_streams.silences import mute as say

    found: Any = kind
    if kind not in KINDS:
        raise CliError(USAGE, f"headrace silence mute: {kind!r} is no kind of silence; there are {', '.join(KINDS)}")
    if until is not None and hours is not None:
        raise CliError(USAGE, "headrace silence mute: --until or --hours, not both")
    if until is None:
        until = rfc3339(time.time_ns() // 1_000_000 + round((hours or HOURS) * 3_600_000))
    try:
        parse_ns(until)
    except (ValueError, OverflowError):
        raise CliError(USAGE, f"--until: no RFC 3339 time with an offset, such as 2026-11-27T08:00:00Z: {until!r}") from None
    event = run(say(settings, found, subject, until, reason, who()))
    if as_json:
        return emit({"id": event.id, "kind": kind, "subject": subject, "until": until})
    click.echo(visible(f"{kind} {subject} is muted until {until}"))
