"""`headrace releases` and the commands that ask for something: promote, rollback, revoke, pause, resume, retract, forget.

Knows requests and their answers; the decision is the release stage's.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from headrace_cli.common import FAILED, NO, OK, USAGE, CliError, common, emit, note, run, who
from headrace_streams.settings import Settings

if TYPE_CHECKING:
    from headrace_schemas.derived import Measure, ModelVersion
    from headrace_streams.release_log import Decision
    from headrace_streams.requests import Touched


@click.group(invoke_without_command=True)
@click.option("--follow", is_flag=True, help="Go on with each answer as it comes.")
@click.option("--all", "everything", is_flag=True, help="Also what was declined, paused and resumed.")
@common
@click.pass_context
def releases(ctx: click.Context, settings: Settings, as_json: bool, follow: bool, everything: bool) -> None:
    """List releases, oldest first per bucket; what is served now is marked with *."""
    if ctx.invoked_subcommand is None:
        _list(settings, as_json, follow, everything)


@releases.command("list")
@click.option("--follow", is_flag=True, help="Go on with each answer as it comes.")
@click.option("--all", "everything", is_flag=True, help="Also what was declined, paused and resumed.")
@common
def list_(settings: Settings, as_json: bool, follow: bool, everything: bool) -> None:
    """The same as `headrace releases`."""
    _list(settings, as_json, follow, everything)


@releases.command()
@click.argument("release", metavar="RELEASE")
@common
def show(settings: Settings, as_json: bool, release: str) -> None:
    """One answer of the release stage with the evaluation behind it."""
    import msgspec

    from headrace_streams import release_log, requests
    from headrace_streams.kafka.reader import Reader

    decision = next((found for found in run(release_log.history(Reader(settings))) if found.data.release_id == release), None)
    if decision is None:
        raise CliError(NO, f"no release {release}: `headrace releases --all` names all")
    evaluation_id = decision.data.evaluation_id
    evaluation = run(requests.evaluation(settings, evaluation_id)) if evaluation_id else None
    if as_json:
        return emit({**_row(decision), "evaluation": msgspec.to_builtins(evaluation)})
    for name, value in _row(decision).items():
        if name == "adapter" and value:
            click.echo(f"adapter: {value['digest']} ({value['size_bytes']} bytes, {value['uri']})")
        else:
            click.echo(f"{name}: {_plain(value)}")
    if evaluation is not None:
        for metric in sorted({*evaluation.candidate, *evaluation.incumbent}):
            then, now = _measure(evaluation.incumbent.get(metric)), _measure(evaluation.candidate.get(metric))
            click.echo(f"evaluation {metric}: {then} -> {now}")


def _list(settings: Settings, as_json: bool, follow: bool, everything: bool) -> None:
    from headrace_streams import release_log
    from headrace_streams.kafka.reader import Reader

    async def show_all() -> None:
        if follow:  # what is served changes while we print: no marks
            async for batch in release_log.follow(Reader(settings)):
                for decision in batch:
                    show_one(decision, None)
            return
        now = {release.release_id for release in (await release_log.served(Reader(settings))).values()}
        for decision in await release_log.history(Reader(settings)):
            show_one(decision, decision.data.release_id in now)

    def show_one(decision: Decision, served: bool | None) -> None:
        if not everything and decision.kind not in release_log.CHANGES:
            return
        if as_json:
            emit(_row(decision) if served is None else {**_row(decision), "served": served})
        else:
            click.echo(f"{'*' if served else ' '} {_line(decision)}")

    run(show_all())


Function = Callable[..., Any]


def _asking(function: Function) -> Function:
    """Options of all commands that wait for an answer."""
    again = "Id of an earlier request whose answer was lost: it is asked, and answered, once."
    function = click.option("--request-id", metavar="ID", help=again)(function)
    function = click.option("--reason", help="Why; it stands in the answer.")(function)
    function = click.option("--timeout", type=click.FloatRange(min=0), default=30.0, show_default=True, help="Seconds.")(function)
    return functools.wraps(function)(common(function))


@click.command()
@click.argument("version", metavar="VERSION")
@click.option("--anyway", is_flag=True, help="Though it has learnt what was taken back since; the answer says so.")
@_asking
def promote(
    settings: Settings, as_json: bool, version: str, anyway: bool, reason: str | None, request_id: str | None, timeout: float
) -> int:
    """Ask that a model version be served. Exit 1 when it is declined, or has learnt what was taken back since."""
    from headrace_schemas.derived import PromoteRequest
    from headrace_schemas.events import PromoteRequested
    from headrace_streams.learnt import learnt_taken_back

    versions = _versions(settings)
    made = [known for known in versions if known.version_id == version]
    if not made:
        raise CliError(NO, f"no model version {version}: `headrace tail versions --from start --no-follow` shows all")
    learnt = str(run(learnt_taken_back(settings, made[0], versions)))
    if learnt and not anyway:
        raise CliError(NO, f"version {version} {learnt}: the next run leaves that out; to serve this one say --anyway")
    if learnt:
        reason = f"{reason or 'anyway'} (it {learnt})"
    data = PromoteRequest(bucket=made[0].bucket, version_id=version, reason=reason, requested_by=who())
    return _ask(settings, as_json, timeout, request_id, PromoteRequested, data)


@click.command()
@click.argument("bucket", metavar="BUCKET")
@click.option("--to", metavar="RELEASE", help='A release that was served before, or "base". Default: the one before.')
@_asking
def rollback(
    settings: Settings, as_json: bool, bucket: str, to: str | None, reason: str | None, request_id: str | None, timeout: float
) -> int:
    """Ask that an earlier release, or the base, be served again. Exit 1 when it is declined."""
    from headrace_schemas.derived import RollbackRequest
    from headrace_schemas.events import RollbackRequested

    data = RollbackRequest(bucket=bucket, release_id=to, reason=reason, requested_by=who())
    return _ask(settings, as_json, timeout, request_id, RollbackRequested, data)


@click.command()
@click.argument("digest", metavar="DIGEST")
@_asking
def revoke(settings: Settings, as_json: bool, digest: str, reason: str | None, request_id: str | None, timeout: float) -> int:
    """Ask that an adapter never be served again; if it is served, the release before it takes its place."""
    from headrace_schemas.derived import RevokeRequest
    from headrace_schemas.events import RevokeRequested
    from headrace_streams import release_log
    from headrace_streams.kafka.reader import Reader

    buckets = {version.bucket for version in _versions(settings) if version.adapter.digest == digest}
    buckets |= {
        decision.data.bucket
        for decision in run(release_log.history(Reader(settings)))
        if release_log.adapter_digest(decision.data) == digest
    }
    if not buckets:
        raise CliError(NO, f"no version and no release has the adapter {digest} (sha256: and 64 hex digits)")
    codes = []
    for bucket in sorted(buckets):  # each is asked, whatever became of those before: nobody may go on serving it
        data = RevokeRequest(bucket=bucket, adapter=digest, reason=reason, requested_by=who())
        try:
            codes.append(_ask(settings, as_json, timeout, request_id, RevokeRequested, data))
        except CliError as error:
            note(f"headrace: {error.message}")
            codes.append(error.exit_code)
    return max(codes)


@click.command()
@click.argument("bucket", metavar="BUCKET")
@_asking
def pause(settings: Settings, as_json: bool, bucket: str, reason: str | None, request_id: str | None, timeout: float) -> int:
    """Ask that nothing be promoted in a bucket until it is resumed; what a person asks for still is."""
    from headrace_schemas.derived import SwitchRequest
    from headrace_schemas.events import PauseRequested

    _check_bucket(settings, bucket)
    return _ask(
        settings, as_json, timeout, request_id, PauseRequested, SwitchRequest(bucket=bucket, reason=reason, requested_by=who())
    )


@click.command()
@click.argument("bucket", metavar="BUCKET")
@_asking
def resume(settings: Settings, as_json: bool, bucket: str, reason: str | None, request_id: str | None, timeout: float) -> int:
    """Ask that promotions of a bucket go on."""
    from headrace_schemas.derived import SwitchRequest
    from headrace_schemas.events import ResumeRequested

    _check_bucket(settings, bucket)
    return _ask(
        settings, as_json, timeout, request_id, ResumeRequested, SwitchRequest(bucket=bucket, reason=reason, requested_by=who())
    )


@click.command()
@click.argument("interaction", metavar="INTERACTION")
@click.option("--reason", help="Why.")
@common
def retract(settings: Settings, as_json: bool, interaction: str, reason: str | None) -> int:
    """Take an interaction back: it is not learnt from any more. Lists the releases that have learnt from it, and the versions
    that were never released.

    Samples of evaluations that hold answers to it are removed from the store of the settings. Exit 3 when they can't be."""
    from headrace_streams import requests

    return _show_touched(settings, as_json, f"interaction {interaction}", requests.retract, interaction, reason)


@click.command()
@click.argument("subject", metavar="SUBJECT")
@common
def forget(settings: Settings, as_json: bool, subject: str) -> int:
    """Erase a person's data (the `data_subject` of interactions). Lists the releases that have learnt from it, and the versions
    that were never released.

    Samples of evaluations that hold answers to it are removed from the store of the settings. Exit 3 when they can't be."""
    from headrace_streams import requests

    return _show_touched(settings, as_json, f"data subject {subject}", requests.forget, subject)


def _show_touched(settings: Settings, as_json: bool, what: str, work: Callable[..., Any], *arguments: Any) -> int:
    from headrace_schemas.errors import DecodeError

    try:
        asked_by = who()  # the events have no place for it but their source
        touched: Touched = run(work(settings, *arguments, source=None if asked_by is None else f"command:{asked_by}"))
    except DecodeError as error:
        raise CliError(USAGE, error.message) from error
    removed, code = _without_samples(settings, touched)
    if as_json:
        emit(
            {
                "examples": touched.example_ids,
                "batches": touched.batch_ids,
                "releases": [_touched_row(decision, touched) for decision in touched.releases],
                "inherited": [_touched_row(decision, touched) for decision in touched.inherited],
                "possible": [_touched_row(decision, touched) for decision in touched.possible],
                "samples": removed,
                "retrains": [{"bucket": run.bucket, "batch": run.batch_id, "begins": run.begins} for run in touched.retrains],
                "heads": [
                    {"version_id": head.version_id, "bucket": head.bucket, "adapter": head.adapter.digest}
                    for head in touched.heads
                ],
            }
        )
        return code
    note(f"{what}: published; {len(touched.example_ids)} examples, {len(touched.batch_ids)} batches so far")
    for decisions, how in (
        (touched.releases, "trained on it"),
        (touched.inherited, "built on an adapter that was"),
        (touched.possible, "may have rehearsed it: its run is no longer on the log"),
    ):
        for decision in decisions:
            click.echo(f"{'*' if decision.data.release_id in touched.served else ' '} {_line(decision)}  ({how})")
    for head in touched.heads:
        click.echo(f"  {head.bucket}  {head.version_id}  {head.adapter.digest}  (never released; nothing goes on from it)")
    for run_ in touched.retrains:
        click.echo(f"  {run_.bucket}  waits to be trained without it, from {run_.begins or 'the base'}")
    if touched.served:
        note("those with * are served now; `headrace revoke DIGEST` takes an adapter out of service")
    return code


def _without_samples(settings: Settings, touched: Touched) -> tuple[list[dict[str, Any]], int]:
    """Removes the samples that hold answers to what was taken back; which were in the store, and the exit code."""
    from headrace_streams.adapter_files import StoreError
    from headrace_streams.adapter_store import Store

    rows: list[dict[str, Any]] = []
    if not touched.samples:
        return rows, OK
    try:
        store = Store(settings.store)
        for digest in touched.samples:
            rows.append({"sha256": digest, "removed": store.remove_samples(digest)})
    except StoreError as error:
        left = touched.samples[len(rows) :]
        note(f"headrace: {error}; to be removed where the store can be written: headrace evaluations remove {' '.join(left)}")
        return [*rows, *({"sha256": digest, "removed": False} for digest in left)], error.exit_code
    gone = sum(row["removed"] for row in rows)
    note(
        f"samples of {len(rows)} evaluations hold answers to it: {gone} removed, {len(rows) - gone} not in the store {store.name}"
    )
    return rows, OK


def _touched_row(decision: Decision, touched: Touched) -> dict[str, Any]:
    from headrace_streams.release_log import adapter_digest

    data = decision.data
    row = {"release_id": data.release_id, "bucket": data.bucket, "sequence": data.sequence, "kind": decision.kind}
    return {**row, "adapter": adapter_digest(data), "served": data.release_id in touched.served}


def _ask(settings: Settings, as_json: bool, timeout: float, request_id: str | None, kind: type[Any], data: Any) -> int:
    """Publishes the request, prints the answer; the exit code."""
    from headrace_schemas.codec import decode, encode
    from headrace_schemas.errors import DecodeError
    from headrace_streams import requests
    from headrace_streams.kafka.publisher import requested

    event = requested(kind, data, request_id)
    try:
        decode(encode(event))
    except DecodeError as error:
        raise CliError(USAGE, error.message) from error
    try:
        decision = run(requests.ask(settings, data.bucket, event, timeout, repeated=request_id is not None))
    except requests.NoAnswer as error:
        raise CliError(FAILED, str(error)) from error
    if as_json:
        emit(_row(decision))
    else:
        click.echo(_line(decision))
    return NO if decision.kind == "declined" else OK


def _versions(settings: Settings) -> list[ModelVersion]:
    from headrace_streams import requests

    return run(requests.versions(settings))


def _check_bucket(settings: Settings, bucket: str) -> None:
    """CliError when no example, batch or release has that bucket: a misspelt name must not look paused."""
    from difflib import get_close_matches

    from headrace_streams import requests

    known = run(requests.buckets(settings, bucket))
    if bucket in known:
        return
    nearest = get_close_matches(bucket, known, n=1, cutoff=0.0)
    hint = f"; did you mean {nearest[0]}?" if nearest else ": nothing was learnt here yet"
    raise CliError(NO, f"there is no bucket {bucket!r}{hint}")


def _row(decision: Decision) -> dict[str, Any]:
    import msgspec

    data: dict[str, Any] = msgspec.to_builtins(decision.data)
    return {"kind": decision.kind, "time": decision.time, **data}


def _line(decision: Decision) -> str:
    data = decision.data
    adapter = data.adapter.digest.removeprefix("sha256:")[:12] if data.adapter else "base"
    columns = (f"{data.bucket} #{data.sequence}", f"{decision.kind:<11}", data.release_id, f"{adapter:<12}", decision.time)
    return "  ".join((*columns, " ".join(data.reason.split())))


def _plain(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {entry}" for name, entry in value.items()) or "-"
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "-"
    return "-" if value is None else str(value)


def _measure(measure: Measure | None) -> str:
    return f"{measure.value:g} [{measure.low:g}, {measure.high:g}] of {measure.n}" if measure else "-"
