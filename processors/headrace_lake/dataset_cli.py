"""`headrace dataset`: a bucket's training data as files, with a card. Knows the parts of this package that make it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, get_args

import click

from headrace_cli.common import FAILED, NO, USAGE, CliError, Function, common, emit, note, run
from headrace_lake.dataset import DatasetError, Format, Rule
from headrace_lake.log import Log
from headrace_streams.settings import Settings


def source_options(command: Function) -> Function:
    """Where a command reads, for `opened_log`; `check_source` says whether both go together."""
    source = click.option(
        "--from", "source", type=click.Choice(["log", "lake"]), default="log", show_default=True, help="Where to read."
    )
    folder = click.option(
        "--lake", "folder", type=click.Path(file_okay=False, path_type=Path), help="With --from lake: its folder."
    )
    return source(folder(command))


def check_source(source: str, folder: Path | None) -> None:
    """CliError for a lake's folder that would not be read."""
    if folder is not None and source != "lake":
        raise CliError(USAGE, "--lake goes with --from lake")


@click.command()
@click.argument("bucket")
@click.option("--format", "form", type=click.Choice(get_args(Format)), default="chat", show_default=True, help="Kind of file.")
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), required=True, help="Folder to write into.")
@click.option("--release", metavar="R", help="Exactly the rows that trained this release, without what was withdrawn since.")
@click.option("--rule", type=click.Choice(["1", "2"]), default="2", show_default=True, help="By which rule a row is written.")
@click.option("--as-of", metavar="TIME", help="What one would have known at this RFC 3339 time.")
@source_options
@click.option("--agent", help="Only what this agent did.")
@click.option("--role", help="Only what agents of this role did.")
@click.option("--rater", metavar="ID", help="Only what this principal was heard on: its id, or kind:id.")
@click.option("--split", type=click.Choice(["train", "validation"]), help="Only this side.")
@click.option("--min-reward", type=float, help="Least reward.")
@click.option("--max-reward", type=float, help="Largest reward.")
@click.option("--since", metavar="TIME", help="Only events of this RFC 3339 time or later.")
@click.option("--before", metavar="TIME", help="Only events before this one.")
@click.option(
    "--derived",
    type=click.Choice(["without", "only"]),
    help="Without, or only, that of which derivations alone speak, and nobody.",
)
@common
def dataset(
    settings: Settings,
    as_json: bool,
    bucket: str,
    form: Format,
    out: Path,
    release: str | None,
    rule: str,
    as_of: str | None,
    source: str,
    folder: Path | None,
    **wanted: Any,
) -> None:
    """Write the training data of BUCKET (artifact_type/base) to a file, with a card beside it, and print its digest.

    Without --release: all that was ever cut into a batch, at its newest revision, without what was withdrawn since.

    chat and parquet hold what is learnt; alpaca the same, without rows that call tools; dpo answers that are better than others
    to the same prompt, and corrections over what they corrected; kto answers with whether they are right. Negatives that were cut
    with the batch stand in dpo and kto. The digest is of the rows before they take a form: all formats of a data set have one.

    Rule 1 is how rows were written before they held tools, arguments as objects and references: it makes digests of then."""
    from headrace_lake import dataset_files
    from headrace_lake.dataset import rows_digest, rows_of
    from headrace_lake.dataset_card import DatasetCard, card
    from headrace_lake.dataset_filter import DatasetFilter

    check_source(source, folder)
    filters = DatasetFilter(**wanted)
    for name in ("since", "before"):
        time_ms(name, getattr(filters, name))
    written: Rule = 1 if rule == "1" else 2
    try:
        selected, read_from = run(_selected(settings, bucket, release, time_ms("as-of", as_of), source, folder))
    except DatasetError as error:
        raise CliError(FAILED, str(error)) from error
    if (gone := selected.withdrawn + selected.erased) and release is not None:
        note(f"headrace: {gone} rows that trained release {release} were withdrawn or erased since and are left out")
    learnt, avoided = filters.apply(selected.learnt), filters.apply(selected.avoided)
    if not learnt and not (avoided and form in ("dpo", "kto")):
        none = "nothing is left of it" if gone else "has no batch yet: `headrace status` lists the buckets"
        raise CliError(NO, f"bucket {bucket!r} {'has no row that the filters let pass' if selected.learnt else none}")
    rows, examples = rows_of(learnt, written), learnt
    if form == "alpaca":
        file = dataset_files.write_alpaca(learnt, out)
    elif form == "dpo" or form == "kto":
        examples = [*learnt, *avoided]
        file = (dataset_files.write_dpo if form == "dpo" else dataset_files.write_kto)(learnt, avoided, out)
    else:
        file = dataset_files.DatasetFile(dataset_files.write(rows, out, form), len(rows), {})
    about = DatasetCard(
        deployment=settings.deployment,
        bucket=bucket,
        form=form,
        rows=file.rows,
        digest=rows_digest(rows),
        rule=written,
        source=read_from,
        release=release,
        as_of=as_of,
        filters=filters.given(),
        left_out={"filters": len(selected.learnt) - len(learnt), **file.left_out},
    )
    dataset_files.write_text(out, "dataset-card.md", card(about, selected, examples))
    if file.left_out:
        note("headrace: left out: " + ", ".join(f"{count} for {reason}" for reason, count in file.left_out.items()))
    found = {"file": str(file.path), "rows": file.rows, "digest": about.digest, "rule": written, "members": selected.members}
    if as_json:
        emit(found)
    else:
        click.echo(f"{found['file']}: {found['rows']} rows, {found['digest']}")


async def _selected(
    settings: Settings, bucket: str, release: str | None, as_of_ms: int | None, source: str, folder: Path | None
) -> tuple[Any, str]:
    """What the data set is made of, and where that was read."""
    from headrace_lake.as_of import LogAsOf
    from headrace_lake.dataset import bucket_examples, release_examples
    from headrace_streams.signing import trusted_keys

    async with opened_log(settings, source, folder) as (log, read_from):
        if as_of_ms is not None:
            log = LogAsOf(log, as_of_ms)
        if release is None:
            return await bucket_examples(log, bucket), read_from
        return await release_examples(log, bucket, release, trusted_keys(settings)), read_from


@asynccontextmanager
async def opened_log(settings: Settings, source: str, folder: Path | None) -> AsyncIterator[tuple[Log, str]]:
    """The log or a lake, its sealed records opened, and what it is called. A lake has no keys, so that what is erased on the
    broker is erased in it."""
    from headrace_lake.kafka_log import KafkaLog
    from headrace_lake.keys import OpenedLog

    broker = KafkaLog(settings)
    if source == "log":
        yield OpenedLog(broker, broker), "the log"
        return
    from headrace_lake.lake_cli import folder_of, told_of
    from headrace_lake.lake_log import LakeLog

    place = folder_of(settings, folder)
    with place.open() as manifest:
        yield OpenedLog(LakeLog(place, manifest), broker), f"a lake up to {told_of(manifest)['cut_at']}"


def time_ms(name: str, text: str | None) -> int | None:
    """ms since the epoch of option --`name`. CliError for what is no time."""
    from headrace_schemas.times import parse_ns

    try:
        return None if text is None else parse_ns(text) // 1_000_000
    except ValueError as error:
        raise CliError(USAGE, f"--{name} {text!r} is no RFC 3339 time with an offset, e.g. 2026-11-26T12:00:00Z") from error
