"""`headrace trainer`, `headrace train` and `headrace evaluate`. Torch is loaded when a command runs, not for `--help`."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from headrace_cli.common import NO, USAGE, CliError, common, emit, end_progress, note, progress, run
from headrace_cli.web import site, web
from headrace_streams.settings import Settings

if TYPE_CHECKING:
    from headrace_streams.monitoring.site import Site
    from headrace_trainer.policy import TrainerPolicy
    from headrace_trainer.stage.bases import CheckedBase
    from headrace_trainer.stage.by_hand import JobSummary

_folder = click.Path(exists=True, file_okay=False, path_type=Path)
_device = click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda or cuda:N.")


@click.command()
@click.option("--once", is_flag=True, help="Train the batches that wait now, then exit.")
@_device
@click.option(
    "--check", is_flag=True, help="Only look at every base of the policy: load it, train a step, ask it once; then exit."
)
@web
@common
def trainer(
    settings: Settings, as_json: bool, once: bool, device: str, check: bool, web_port: int | None, web_host: str
) -> int | None:
    """Run the train stage: each batch becomes an adapter and an evaluation, in order, exactly once. With a web port it also waits
    for topics that are not there yet. With --check no Kafka is needed, and the exit code is 1 when a base cannot be trained."""
    if check:
        return _print_checked(run(_check(settings, device)), as_json)
    if once and web_port is not None:
        raise CliError(USAGE, "--web-port is for a trainer that goes on; --once ends by itself")
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(message)s")
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)
    with contextlib.suppress(asyncio.CancelledError):
        run(_serve(settings, once, device, None if web_port is None else site(settings, web_port, web_host)))
    return None


async def _check(settings: Settings, device: str) -> list[CheckedBase]:
    from headrace_trainer.stage.bases import look_at
    from headrace_trainer.stage.context import context_of

    return await look_at(await context_of(settings, device), progress, whole=True)


def _print_checked(found: list[CheckedBase], as_json: bool) -> int:
    """0 when every base can be trained, also when there is none."""
    import msgspec

    end_progress()
    for checked in found:
        if as_json:
            emit(msgspec.to_builtins(checked))
            continue
        click.echo(f"{checked.base:<12} {checked.weights}")
        rows: dict[str, Any] = {}
        if checked.identity is not None:
            rows |= {"identity": checked.identity.digest, "revision": checked.identity.revision or "-"}
        if (report := checked.report) is not None:
            rows |= {
                "architecture": f"{report.architecture}, {report.parameters / 1e6:.1f} M parameters, {report.format}",
                "trained": f"{report.trained / 1e6:.2f} M in {report.layers}", "template": "yes" if report.template else "none",
                "stops": ", ".join(report.stops), "memory": report.memory, "one step": f"loss {report.loss:.4f} nats a token",
                "answer": repr(report.answer), "seconds": round(report.seconds, 1),
            }  # fmt: skip
            rows |= {f"note {number}": note for number, note in enumerate(report.notes, 1)}
        if checked.error is not None:
            rows["not"] = checked.error
        for name, value in rows.items():
            click.echo(f"  {name:<12} {value}")
    if not found and not as_json:
        note("the policy maps no base: name some in [train.bases]")
    return NO if any(checked.error is not None for checked in found) else 0


async def _serve(settings: Settings, once: bool, device: str, web_site: Site | None) -> None:
    from headrace_streams.process_end import when_told
    from headrace_streams.signing import trusted_keys
    from headrace_trainer.evaluation.grader import find
    from headrace_trainer.policy import load
    from headrace_trainer.suites import read_all

    policy = load(settings.policy)
    for grader in policy.graders.values():
        find(grader.name)
    read_all(policy.suites)
    trusted_keys(settings)  # what is wrong with them is said once, here
    task = asyncio.current_task()
    assert task is not None
    with when_told({signal.SIGTERM: task.cancel, signal.SIGINT: None}):
        await _run(settings, policy, once, device, web_site)


async def _run(settings: Settings, policy: TrainerPolicy, once: bool, device: str, web_site: Site | None) -> None:
    from headrace_streams.runtime.startup import wait_for_topics
    from headrace_streams.runtime.supervisor import MakeTask, Supervisor
    from headrace_trainer.job.process import probe_hardware
    from headrace_trainer.stage.bases import check_at_start
    from headrace_trainer.stage.context import TrainerContext
    from headrace_trainer.stage.task import TRAIN, TrainTask

    context: TrainerContext
    tasks: dict[str, MakeTask] = {"batches": lambda _topic, partition: TrainTask(context, partition)}
    supervisor = Supervisor(settings, f"{settings.deployment}.trainer", tasks)
    if web_site is not None:
        web_site.serve(supervisor.describe)
    supervisor.waits("for a process to load the libraries of training")
    context = TrainerContext(settings, policy, await probe_hardware(device, policy.threads, policy.processes))
    logging.getLogger("headrace").info(
        "trainer of %s on %s, device %s", settings.deployment, settings.bootstrap, context.hardware.device
    )
    await check_at_start(context, supervisor.waits)
    if not once:
        await wait_for_topics(settings, [TRAIN.topology], patient=web_site is not None, note=supervisor.waits)
        return await supervisor.run()
    for partition in range(await context.reader.partitions("batches")):
        await TrainTask(context, partition, once=True).run()


@click.command()
@click.argument("batch")
@_device
@common
def train(settings: Settings, as_json: bool, batch: str, device: str) -> int:
    """Train one batch in the foreground and evaluate it. Nothing is published: with the pins that the log has for the batch, the
    adapter's digest is that of the recorded version (exit 1 if not)."""
    from headrace_trainer.stage.by_hand import train_batch

    summary = run(train_batch(settings, batch, device, progress))
    return _print(summary, as_json)


@click.command()
@click.argument("version", required=False)
@_device
@click.option("--publish", is_flag=True, help="Publish the evaluation, so that the release stage answers it.")
@click.option("--suite", metavar="NAME|FILE", help="Instead: ask this suite, of the package or a file.")
@click.option("--release", metavar="R", help="With --suite: the model of this release.")
@click.option("--adapter", type=_folder, help="With --suite: an adapter in a folder.")
@click.option("--base", metavar="NAME", help="With --suite: a base of the policy, a folder or a hub name.")
@click.option("--embedding-model", type=_folder, help="With --suite: an encoder whose cosine is measured, too.")
@click.option("--max-new-tokens", type=click.IntRange(min=1), help="With --suite: most tokens of an answer.")
@click.option("--min-success", type=click.FloatRange(0, 1), help="With --suite: exit 1 below this share of passed checks.")
@common
def evaluate(
    settings: Settings, as_json: bool, version: str | None, device: str, publish: bool, suite: str | None, **options: Any
) -> int:
    """Compare a model VERSION with what its bucket serves now, on the newest test pool of the bucket. With --suite: ask a model
    the tasks of a suite, and print a table of metrics per role, artifact type, language and level."""
    if suite is not None:
        from headrace_trainer.suite_cli import SuiteOptions, evaluate_suite

        if version is not None or publish:
            raise CliError(USAGE, "--suite goes with --release, --adapter or --base; no VERSION, no --publish")
        return evaluate_suite(settings, as_json, suite, SuiteOptions(device=device, **options))
    if given := [name for name, value in options.items() if value is not None]:
        raise CliError(USAGE, f"--{given[0].replace('_', '-')} goes with --suite")
    if version is None:
        raise CliError(USAGE, "which VERSION? or give --suite")
    from headrace_trainer.stage.by_hand import evaluate_version

    summary = run(evaluate_version(settings, version, device, progress, publish=publish))
    return _print(summary, as_json)


def _print(summary: JobSummary, as_json: bool) -> int:
    import msgspec

    from headrace_schemas.selection import counts_text

    end_progress()
    if as_json:
        emit(msgspec.to_builtins(summary))
    else:
        rows: dict[str, Any] = {
            "adapter": summary.adapter, "recorded": summary.recorded or "-", "rows": summary.rows, "steps": summary.steps,
            "tokens": summary.tokens, "seconds": round(summary.seconds, 1), "evaluation": summary.published or "not published",
        }  # fmt: skip
        if summary.left_out:
            rows["left out"] = counts_text(summary.left_out)
        for number, note_of_run in enumerate(summary.notes, 1):
            rows[f"note {number}"] = note_of_run
        for name, measure in summary.report.candidate.items():
            served = summary.report.incumbent.get(name)
            rows[name] = f"{measure.value:.4g} [{measure.low:.4g}, {measure.high:.4g}], n {measure.n}" + (
                f"; served {served.value:.4g} [{served.low:.4g}, {served.high:.4g}]" if served else ""
            )
        gain = summary.report.comparison.loss_gain
        rows["gain"] = f"{gain.value:.4g} [{gain.low:.4g}, {gain.high:.4g}]"
        if summary.report.comparison.wins is not None:
            versus = summary.report.comparison
            rows["wins"] = f"{versus.wins} : {versus.losses}, ties {versus.ties}, p {versus.p_value:.3g}"
        for requirement in summary.report.requirements:
            verdict = "met" if requirement.satisfied else "not met"
            rows[f"require:{requirement.name}"] = (
                f"{requirement.metric} {requirement.current} {requirement.direction} {requirement.target}: {verdict}"
            )
        for name, value in rows.items():
            click.echo(f"{name:<12} {value}")
    if summary.recorded is not None and summary.recorded != summary.adapter:
        why = summary.differs or "base and libraries are the same: another machine?"
        raise CliError(NO, f"the adapter is {summary.adapter}, the log has {summary.recorded}: {why}")
    return 0
