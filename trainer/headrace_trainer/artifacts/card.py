"""The card beside what was exported: what it is, where it comes from, how it was measured, notes on its licence. Knows facts that
others have read, no log."""

from __future__ import annotations

import json
from pathlib import Path
from typing import NamedTuple

from headrace_cli.plain_output import markdown
from headrace_schemas.derived import Batch, Evaluation, ModelVersion
from headrace_schemas.selection import counts_text
from headrace_trainer.artifacts.source import ModelSource

_LICENCES = ("LICENSE", "LICENSE.txt", "LICENSE.md", "LICENCE", "NOTICE")


class ReleaseLineage(NamedTuple):
    """What the log says of a release; None where it says nothing, or nothing was asked."""

    version: ModelVersion | None = None
    evaluation: Evaluation | None = None
    batch: Batch | None = None


def card(source: ModelSource, lineage: ReleaseLineage, form: str, files: list[Path], base_folder: Path | None) -> str:
    """Markdown with a header as model hubs read it. What a log or an adapter's folder says is shown as text."""
    head = [
        "---",
        f"base_model: {json.dumps(source.base)}",
        "library_name: " + ("peft" if form == "adapter" else "transformers"),
        "---",
    ]
    parts = [
        *head,
        "",
        f"# {markdown(_title(source))}",
        "",
        "Exported by Headrace. Judge it by the evaluation below, on your own tasks.",
    ]
    parts += [
        "",
        "## Files",
        "",
        f"Form: {form}.",
        "",
        *(f"- {markdown(path.name)}, {path.stat().st_size:,} bytes" for path in files),
    ]
    parts += ["", "## Lineage", "", *(f"- {markdown(name)}: {markdown(value)}" for name, value in _lineage(source, lineage))]
    parts += ["", "## Data", "", *_data(lineage)]
    parts += ["", "## Evaluation", "", *_evaluation(lineage.evaluation)]
    parts += ["", "## Licence", "", *_licence(source, base_folder)]
    return "\n".join([*parts, ""])


def _title(source: ModelSource) -> str:
    if source.decision is None:
        return f"An adapter of {source.base}" if source.adapter is not None else source.base
    return f"{source.decision.data.bucket}, release {source.decision.data.sequence}"


def _lineage(source: ModelSource, lineage: ReleaseLineage) -> list[tuple[str, str]]:
    found: list[tuple[str, str]] = [("base", source.base)]
    if source.decision is not None:
        data = source.decision.data
        found += [("release", data.release_id), ("decided", data.reason), ("adapter", source.digest or "none")]
        found += [(f"policy of {stage}", digest) for stage, digest in sorted(data.policy_digests.items())]
    elif source.adapter is not None:
        found.append(("adapter", f"a folder of whoever exported it ({source.adapter.name}); the log was not asked"))
    if (version := lineage.version) is not None:
        identity = version.base_identity.digest if version.base_identity is not None else "not recorded"
        found += [
            ("version", version.version_id), ("batch", version.batch_id), ("run", version.run_id),
            ("identity of the base", identity), ("went on from", version.parent_adapter or "the base"),
            ("method", f"{version.method}, {json.dumps(version.hyperparameters, sort_keys=True)}"),
            ("rows", f"{version.rows}, {version.tokens} tokens with repetitions, {version.seconds:.0f} s"),
        ]  # fmt: skip
    return found


def _data(lineage: ReleaseLineage) -> list[str]:
    batch, version = lineage.batch, lineage.version
    if batch is None:
        return ["Not known here."]
    figures = batch.statistics
    found = [
        f"- examples: {figures.examples} to be learnt, {figures.negatives} to be avoided; "
        f"effective size {figures.effective_size:.1f}",
        f"- mean reward: {figures.mean_reward:.3f} (-1 to 1)",
    ]
    if figures.left_out:
        found.append(f"- left out since the batch before: {markdown(counts_text({'examples': figures.left_out}))}")
    if version is not None and version.dataset_digest is not None:
        found.append(f"- digest of the data set: {version.dataset_digest} (`headrace dataset --release` writes it again)")
    found.append(f"- its quality, with targets: `headrace quality {batch.batch_id}`")
    return [
        *found,
        "",
        "The rows are interactions of agents, with feedback of people and checks, after scrubbing and withdrawals.",
    ]


def _evaluation(evaluation: Evaluation | None) -> list[str]:
    if evaluation is None:
        return ["Not known here."]
    rows = ["| metric | this | served before | rows |", "|---|---|---|---|"]
    for name, ours in sorted(evaluation.candidate.items()):
        theirs = evaluation.incumbent.get(name)
        before = "-" if theirs is None else f"{theirs.value:.4g}"
        rows.append(f"| {markdown(name)} | {ours.value:.4g} [{ours.low:.4g}, {ours.high:.4g}] | {before} | {ours.n} |")
    return rows


def _licence(source: ModelSource, base_folder: Path | None) -> list[str]:
    there = [name for name in _LICENCES if base_folder is not None and (base_folder / name).is_file()]
    held = f"its files {', '.join(there)} go on to hold" if there else "no licence file lies beside its weights: look it up there"
    return [
        f"What is made of a model is under that model's licence, in most cases with its name and notices kept: base "
        f"{markdown(source.base)}, {held}.",
        "The rights in the training rows are those of whoever wrote them; this card gives none.",
    ]
