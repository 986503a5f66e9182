"""The card of a data set: what is in it, where it comes from, what was left out. Pure; knows no file format.

It is a page for people, written beside the data; nothing reads it again.
"""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from msgspec import Struct

from headrace_cli.plain_output import markdown
from headrace_lake.dataset import DatasetExample, Selected
from headrace_lake.dataset_filter import derived_alone


class DatasetCard(Struct, frozen=True, kw_only=True):
    """What a card says beside what the examples themselves say. `left_out`: how many, by reason."""

    deployment: str
    bucket: str
    form: str
    rows: int
    digest: str
    rule: int
    source: str  # of the rows: the log, or a lake up to a time
    release: str | None = None
    as_of: str | None = None
    filters: Mapping[str, str] = {}
    left_out: Mapping[str, int] = {}


def card(about: DatasetCard, selected: Selected, written: Sequence[DatasetExample]) -> str:
    """The page, in Markdown. `written` are the examples whose rows are in the file."""
    examples = [one.example for one in written]
    rewards = [example.reward for example in examples]
    times = sorted(example.event_time for example in examples)
    facts: dict[str, object] = {
        "bucket": about.bucket,
        "deployment": about.deployment,
        "release": about.release or "none: all that was ever cut, at its newest revision",
        "as of": about.as_of or "now",
        "read from": about.source,
        "format": f"{about.form}, {about.rows} rows, rule {about.rule}",
        "digest of the rows": about.digest,
        "digest of the members": selected.members or "-",
        "filters": ", ".join(f"{name} = {value}" for name, value in about.filters.items()) or "none",
        "event times": f"{times[0]} to {times[-1]}" if times else "-",
        "reward": _spread(rewards),
    }
    lines = [f"# {markdown(about.bucket)}", "", *_table(("", ""), facts.items()), "", "## Coverage", ""]
    counted: dict[str, Counter[str]] = {
        "split": Counter(one.member.split for one in written),
        "agent": Counter(example.agent.name for example in examples),
        "role": Counter(example.agent.role or "-" for example in examples),
        "answered by": Counter(example.model for example in examples),
        "corrected": Counter(_yes(example.content.target != example.content.output) for example in examples),
        "derived alone": Counter(_yes(derived_alone(example.voices, example.derived)) for example in examples),
        "heard": Counter(who.partition(":")[0] for example in examples for who in example.principals or ["nobody by name:"]),
    }
    for name, counts in counted.items():
        lines.append(f"- {name}: " + (", ".join(f"{markdown(what)} {count}" for what, count in counts.most_common(12)) or "-"))
    lines += ["", "## Left out", ""]
    left_out = {
        "withdrawn since (retracted, erased)": selected.withdrawn,
        "erased (the keys of their texts are gone)": selected.erased,
        **about.left_out,
    }
    lines += [f"- {markdown(what)}: {count}" for what, count in left_out.items() if count] or ["- nothing"]
    models = ", ".join(markdown(name) for name in sorted({example.model for example in examples})) or "-"
    subjects = sum(example.data_subject is not None for example in examples)
    lines += [
        "",
        "## Erasure",
        "",
        f"{subjects} of {len(examples)} examples name a data subject, and {selected.erased} rows that were cut are erased. What "
        "was retracted or erased up to the cut is not in the "
        "file; what is erased later still is, until the data set is made anew.",
        "",
        "## Licence",
        "",
        "Headrace knows no licence of these texts: prompts and corrections are of those who published them, and the terms of "
        f"each model that answered ({models}) say what may be learnt from its outputs.",
        "",
        "## Policies",
        "",
    ]
    named = sorted({(stage, found) for digests in selected.policies for stage, found in digests.items()})
    lines += [f"- {stage}: {found}" for stage, found in named] or ["- none are named"]
    return "\n".join(lines) + "\n"


def _spread(values: Sequence[float]) -> str:
    if len(values) < 2:
        return ", ".join(f"{value:.3g}" for value in values) or "-"
    low, middle, high = statistics.quantiles(values, n=4)
    return f"{min(values):.3g} to {max(values):.3g}, quartiles {low:.3g}, {middle:.3g}, {high:.3g}"


def _yes(value: bool) -> str:
    return "yes" if value else "no"


def _table(heading: Iterable[str], rows: Iterable[tuple[str, object]]) -> list[str]:
    def row(cells: Iterable[object]) -> str:
        return "| " + " | ".join(markdown(str(cell)) for cell in cells) + " |"

    return [row(heading), "|---|---|", *(row(cells) for cells in rows)]
