"""`headrace dead-letters`: what could not be processed, and why. Knows the topic `dead-letters` only."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING, Any

import click

from headrace_cli.common import NO, CliError, common, emit, run
from headrace_streams.settings import Settings

if TYPE_CHECKING:
    from headrace_schemas.derived import DeadLetter


@click.group("dead-letters")
def dead_letters() -> None:
    """Records that could not be processed, whole, with the error. They are named topic/partition/offset."""


@dead_letters.command("list")
@click.option("-n", "limit", type=click.IntRange(min=1), help="Only the last so many.")
@click.option("--topic", help="Only those that came in on this topic.")
@click.option("--code", help="Only those with this error code.")
@common
def list_(settings: Settings, as_json: bool, limit: int | None, topic: str | None, code: str | None) -> None:
    """One line each, oldest first: where, when, error code, field, message."""
    from headrace_schemas.times import rfc3339
    from headrace_streams.kafka.clients import short_name

    letters = run(_read(settings))
    if topic is not None:
        letters = [letter for letter in letters if letter.topic == short_name(settings, topic)]
    if code is not None:
        letters = [letter for letter in letters if letter.error.code == code]
    for letter in letters[-limit:] if limit else letters:
        row = {"at": _at(letter), "time": rfc3339(letter.timestamp)} | _error(letter)
        if as_json:
            emit(row)
        else:
            click.echo(f"{row['at']}  {row['time']}  {row['code']}  {row['field'] or '-'}  {' '.join(row['message'].split())}")


@dead_letters.command()
@click.argument("at", metavar="TOPIC/PARTITION/OFFSET")
@common
def show(settings: Settings, as_json: bool, at: str) -> None:
    """The whole record: error, key, headers, value."""
    import msgspec

    from headrace_streams.kafka.clients import short_name

    wanted = short_name(settings, at)
    letter = next((letter for letter in reversed(run(_read(settings))) if _at(letter) == wanted), None)
    if letter is None:
        raise CliError(NO, f"no dead letter {at}: `headrace dead-letters list` names all")
    if as_json:
        return emit(msgspec.to_builtins(letter))
    for name, value in {"at": _at(letter), **_error(letter), "key": _text(letter.key_base64)}.items():
        click.echo(f"{name}: {value}")
    for header, encoded in letter.headers:
        click.echo(f"header {header}: {_text(encoded)}")
    click.echo(_text(letter.value_base64))


async def _read(settings: Settings) -> list[DeadLetter]:
    """All dead letters that are kept, by the append time of the record that they hold."""
    from headrace_schemas.events import RecordRejected
    from headrace_streams.kafka.reader import Reader

    letters = [event.data async for event in Reader(settings).events("dead-letters") if isinstance(event, RecordRejected)]
    return sorted(letters, key=lambda letter: (letter.timestamp, letter.topic, letter.partition, letter.offset))


def _at(letter: DeadLetter) -> str:
    return f"{letter.topic}/{letter.partition}/{letter.offset}"


def _error(letter: DeadLetter) -> dict[str, Any]:
    return {"code": letter.error.code, "field": letter.error.field, "message": letter.error.message}


def _text(encoded: str | None) -> str:
    """Bytes for people: text where it is text, else its Python form."""
    if encoded is None:
        return "null"
    content = base64.b64decode(encoded)
    try:
        return content.decode()
    except UnicodeDecodeError:
        return repr(content)
