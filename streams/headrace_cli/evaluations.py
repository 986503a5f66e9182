"""`headrace evaluations`: what was evaluated, and both answers to each test row. Knows evaluations and the form of samples;
decides nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import click

from headrace_cli.common import NO, CliError, common, emit, note, run
from headrace_streams.settings import Settings

if TYPE_CHECKING:
    from headrace_schemas.derived import Evaluation
    from headrace_streams.evaluation_samples import EvaluationSample

T = TypeVar("T")

_OUTCOMES = ("win", "loss", "tie", "left-out")
_CLIPPED = 400  # characters of an answer in a line for people


@click.group()
def evaluations() -> None:
    """Evaluations of model versions, and their samples: what version and served said to each test row."""


@evaluations.command("list")
@click.option("--bucket", metavar="BUCKET", help="Only those of this bucket.")
@common
def list_(settings: Settings, as_json: bool, bucket: str | None) -> None:
    """One line each, oldest first per bucket: version, figures, samples."""
    rows = _of(settings, lambda evaluation: _row(evaluation) if bucket in (None, evaluation.bucket) else None)
    for row in sorted(rows, key=lambda row: str(row["bucket"])):
        if as_json:
            emit(row)
            continue
        wins = "" if row["wins"] is None else f"  {row['wins']} wins, {row['losses']} losses, {row['ties']} ties"
        kept = f"samples {row['samples']['sha256']}" if row["samples"] else "no samples"
        click.echo(f"{row['bucket']}  {row['version_id']}  loss gain {row['loss_gain']:.4g} of {row['n']}{wins}  {kept}")


@evaluations.command()
@click.argument("version", metavar="VERSION")
@click.option("--only", type=click.Choice(_OUTCOMES), help="Only rows with this outcome.")
@click.option("--head", metavar="VERSION", help="Instead of the version's own rows those of this earlier head, or of `all`.")
@click.option("-n", "limit", type=click.IntRange(min=1), help="At most so many rows.")
@common
def samples(settings: Settings, as_json: bool, version: str, only: str | None, head: str | None, limit: int | None) -> None:
    """Both answers to each test row of the newest evaluation of VERSION (or of an evaluation's id), with grades and losses.

    Exit 1 when there are none: no evaluation, none kept, or removed since."""
    import msgspec

    found = _of(settings, lambda each: each if version in (each.version_id, each.evaluation_id) else None)
    if not found:
        raise CliError(NO, f"no evaluation of {version}: `headrace evaluations list` names all")
    evaluation = next((each for each in reversed(found) if each.samples is not None), None)
    if evaluation is None:
        raise CliError(
            NO, f"no evaluation of {version} kept samples (train.evaluation.samples_mb of the policy, or an older trainer)"
        )
    rows = [each for each in _read(settings, evaluation) if _wanted(each, only, head)]
    counts = {outcome: sum(_outcome(each) == outcome for each in rows) for outcome in _OUTCOMES}
    for row in rows[:limit]:
        if as_json:
            emit({**msgspec.to_builtins(row), "outcome": _outcome(row)})
        else:
            click.echo("\n".join(_lines(row)))
    if not as_json:
        told = ", ".join(f"{count} {outcome}" for outcome, count in counts.items() if count) or "no rows"
        note(f"{evaluation.bucket}, evaluation {evaluation.evaluation_id}: {told}")


@evaluations.command()
@click.argument("digests", metavar="DIGEST...", nargs=-1, required=True)
@common
def remove(settings: Settings, as_json: bool, digests: tuple[str, ...]) -> int:
    """Remove samples from the store of the settings, for good. Exit 1 when one was not there."""
    from headrace_streams.adapter_store import Store

    store = Store(settings.store)
    removed = {digest: store.remove_samples(digest) for digest in digests}
    for digest, there in removed.items():
        if as_json:
            emit({"sha256": digest, "removed": there})
        else:
            click.echo(f"{digest}  {'removed' if there else f'not in the store {store.name}'}")
    return 0 if all(removed.values()) else NO


def _of(settings: Settings, told: Callable[[Evaluation], T | None]) -> list[T]:
    """What is told of each evaluation, in the order of the log, but for those of which it is None."""
    from headrace_streams import requests

    async def read() -> list[T]:
        return [found async for each in requests.evaluations(settings) if (found := told(each)) is not None]

    return run(read())


def _row(evaluation: Evaluation) -> dict[str, Any]:
    import msgspec

    versus = evaluation.comparison
    return {
        "evaluation_id": evaluation.evaluation_id, "version_id": evaluation.version_id, "bucket": evaluation.bucket,
        "adapter": evaluation.adapter.digest, "n": versus.n, "loss_gain": versus.loss_gain.value, "wins": versus.wins,
        "losses": versus.losses, "ties": versus.ties, "samples": msgspec.to_builtins(evaluation.samples),
    }  # fmt: skip


def _read(settings: Settings, evaluation: Evaluation) -> Sequence[EvaluationSample]:
    from headrace_streams.adapter_files import AdapterRefused
    from headrace_streams.adapter_store import Store
    from headrace_streams.evaluation_samples import FILE_BYTES, read

    assert evaluation.samples is not None
    digest, store = evaluation.samples.sha256, Store(settings.store)
    try:
        content = store.samples(digest, FILE_BYTES)
    except AdapterRefused as error:
        raise CliError(NO, f"{error}: removed, too old to be kept, or is the setting store not that of the trainer?") from error
    return read(content, digest)


def _wanted(sample: EvaluationSample, only: str | None, head: str | None) -> bool:
    return (head == "all" or sample.head == head) and only in (None, _outcome(sample))


def _outcome(sample: EvaluationSample) -> str | None:
    return "left-out" if sample.left_out else sample.outcome


def _lines(sample: EvaluationSample) -> list[str]:
    """A row for people."""
    where = " ".join(filter(None, [sample.suite and f"suite {sample.suite}", sample.head and f"head {sample.head}"]))
    named = f"{sample.example_id} revision {sample.revision}  group {sample.group}  {where}".rstrip()
    first = f"{_outcome(sample) or 'not told':<8}  {named}"
    if sample.left_out:
        return [f"{first}  {sample.left_out}"]
    sides = (
        ("version", sample.answer, sample.grade, sample.loss, sample.ungraded),
        ("served", sample.served_answer, sample.served_grade, sample.served_loss, sample.served_ungraded),
    )
    return [first, *(_side(*side, cut=sample.cut == "bytes") for side in sides)]


def _side(name: str, answer: str | None, grade: float | None, loss: float | None, ungraded: str | None, *, cut: bool) -> str:
    figures = [f"grade {grade:g}" if grade is not None else "", f"loss {loss:.4g}" if loss is not None else ""]
    text = "(not kept)" if answer is None and cut else "" if answer is None else repr(answer[:_CLIPPED])
    why = f"  ({' '.join(ungraded.split())[:_CLIPPED]})" if ungraded else ""
    return f"  {name:<8}{', '.join(filter(None, figures))}  {text}{why}".rstrip()
