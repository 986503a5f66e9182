"""`headrace evaluate --suite`: a model is asked a suite, and what comes of it is a table. Knows the parts that do it."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import click
import msgspec

from headrace_cli.common import NO, OK, emit, end_progress, note, progress, run
from headrace_schemas.selection import counts_text
from headrace_streams.settings import Settings
from headrace_trainer.artifacts.source import ModelSource, source_of
from headrace_trainer.evaluation.metrics import METRICS, Slice, slices
from headrace_trainer.policy import load
from headrace_trainer.suites import Suite, path_of, read

_MEMORY = 1e6  # of a table's column: bytes as MB


class SuiteOptions(NamedTuple):
    """What the command was told."""

    device: str = "auto"
    release: str | None = None
    adapter: Path | None = None
    base: str | None = None
    embedding_model: Path | None = None
    max_new_tokens: int | None = None
    min_success: float | None = None


def evaluate_suite(settings: Settings, as_json: bool, named: str, options: SuiteOptions) -> int:
    """Exit code: 0, or 1 where fewer checks pass than were asked for. PolicyError for a suite that is wrong."""
    suite = read(path_of(named))
    source = run(source_of(settings, options.release, options.adapter, options.base))
    found = _asked(settings, suite, source, options)
    table = slices(found.answers)
    success = table[0].metrics.get("success")
    end_progress()
    if as_json:
        emit(
            {
                "suite": suite.name, "sha256": suite.content_digest, "base": source.base, "adapter": source.digest,
                "release": options.release, "tasks": len(found.answers), "left_out": found.left_out, "ungraded": found.ungraded,
                "metrics": {metric.name: {"needs": metric.needs, "direction": metric.direction, "unit": metric.unit}
                            for metric in METRICS},
                "slices": msgspec.to_builtins(table), "answers": msgspec.to_builtins(found.answers),
            }
        )  # fmt: skip
    else:
        for line in lines(table):
            click.echo(line)
        for what, counts in (("left out", found.left_out), ("ungraded", found.ungraded)):
            if counts:
                note(f"{what}: {counts_text({'tasks': counts})}")
    if options.min_success is not None and (success is None or success < options.min_success):
        note(f"success {0 if success is None else success:.3g} is below {options.min_success:g}")
        return NO
    return OK


def _asked(settings: Settings, suite: Suite, source: ModelSource, options: SuiteOptions) -> Any:
    from headrace_trainer.evaluation.suite_run import ask, embedder
    from headrace_trainer.model import lora
    from headrace_trainer.model.base import load_base
    from headrace_trainer.model.hub import folder_of
    from headrace_trainer.model.precision import device_for, precision_for

    policy, device = load(settings.policy), device_for(options.device)
    precision = precision_for("auto", device)
    embed = None if options.embedding_model is None else embedder(str(options.embedding_model))
    folder = folder_of(source.loading, lambda done, whole: progress(f"download {done / 1e6:.0f}/{whole / 1e6:.0f} MB"))
    loading = source.loading
    base = load_base(
        str(folder.path), device=device, precision=precision, attn_implementation=loading.attn_implementation,
        trust_remote_code=loading.trust_remote_code, quantisation=loading.quantisation,
    )  # fmt: skip
    model = base.model if source.adapter is None else lora.load(base.model, source.adapter)
    room = {} if options.max_new_tokens is None else {"max_new_tokens": options.max_new_tokens}
    return ask(
        model, base, suite, adapter=None if source.adapter is None else "default",
        policy=policy.evaluation.model_copy(update=room), precision=precision, embed=embed,
        on_task=lambda done, whole: progress(f"task {done}/{whole}"),
    )  # fmt: skip


def lines(table: list[Slice]) -> list[str]:
    """A row per slice, a column per metric that anything is known of."""
    names = [metric.name for metric in METRICS if any(metric.name in each.metrics for each in table)]
    heads = ["peak_mb" if name == "peak_memory" else name for name in names]
    rows = [["slice", "n", *heads]]
    for each in table:
        label = each.by if not each.value else f"{each.by} {each.value}"
        rows.append([label, str(each.n), *(_shown(name, each.metrics.get(name)) for name in names)])
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return [
        "  ".join(
            cell.ljust(width) if column == 0 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    ]


def _shown(name: str, value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value / _MEMORY:.0f}" if name == "peak_memory" else f"{value:.3g}"
