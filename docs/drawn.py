"""Draws what README and these pages show of the code's own tables, between `<!-- drawn: NAME -->` and `<!-- /drawn -->`.

`python docs/drawn.py` writes, `--check` only says (exit 1) which pages are not current. What a key of a policy or a setting
means is its description; what an event or a table of the policy file means is its docstring.
"""

from __future__ import annotations

import inspect
import json
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, get_args, get_origin

import click
import yaml
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from headrace_cli.allowed_values import allowed
from headrace_cli.main import COMMANDS, headrace
from headrace_lake.views import COMPOSED, VIEWS
from headrace_processors.curate.filters import rules
from headrace_processors.curate.policy import CuratePolicy
from headrace_processors.policy_file import Policies
from headrace_schemas.errors import CODES
from headrace_schemas.generate import kept_for
from headrace_schemas.topics import ANYBODY, OBSERVER, OPERATOR, TOPICS, Topic
from headrace_schemas.topology import DEAD, TOPOLOGY
from headrace_streams.monitoring import metrics
from headrace_streams.runtime.meters import StageMeter
from headrace_streams.runtime.status import RestoreReport, SlotReport, TaskReport, WorkerReport
from headrace_streams.settings import Settings
from headrace_trainer.policy import TrainerPolicy

ROOT = Path(__file__).parents[1]
EXAMPLES = ROOT / "docs" / "examples"
OUTSIDERS = {ANYBODY: "agents, people", OPERATOR: "operators", OBSERVER: "the worker's observer"}
COMMON = ("--bootstrap", "--deployment", "--config", "--json", "--help")  # options that nearly every command has
_DRAWN = re.compile(r"(<!-- drawn: ([\w-]+) -->\n).*?(<!-- /drawn -->)", re.DOTALL)


class Key(NamedTuple):
    """One key of a policy or a setting: dotted name, what may stand there, default ("" for none) and meaning."""

    name: str
    allowed: str
    default: str
    meaning: str


def ring() -> str:
    """What flows where, one line a stage: inputs -> stage -> outputs."""
    flows = [("", name, [topic.name for topic in TOPICS if writer in topic.writers]) for writer, name in OUTSIDERS.items()]
    flows += [(", ".join(stage.inputs), stage.name, list(stage.outputs)) for stage in TOPOLOGY]
    read, named = max(len(inputs) for inputs, _, _ in flows), max(len(name) for _, name, _ in flows)
    lines = [
        f"{inputs:>{read}} {'->' if inputs else '  '} {name:<{named}} -> {', '.join(outputs)}" for inputs, name, outputs in flows
    ]
    return fenced("text", lines)


def ring_diagram() -> str:
    """The same as a diagram: topics are boxes, stages are round."""
    lines = ["flowchart LR"]
    for writer, name in OUTSIDERS.items():
        lines += [f"    {writer}([{name}]) --> {_node(topic.name)}" for topic in TOPICS if writer in topic.writers]
    for stage in TOPOLOGY:
        lines += [f"    {_node(topic)} --> {stage.name}(({stage.name}))" for topic in stage.inputs]
        lines += [f"    {_node(topic)} -.-> {stage.name}" for topic in stage.lookups]
        lines += [f"    {stage.name} --> {_node(topic)}" for topic in stage.outputs]
    return fenced("mermaid", lines)


def topics() -> str:
    rows = [(f"`{topic.name}`", topic.key, _kept(topic), topic.description) for topic in TOPICS]
    return table(("topic", "key", "kept", "what"), rows)


def events() -> str:
    """Every event type, where it is first written and by whom."""
    rows: dict[str, tuple[str, str, str, str]] = {}
    for topic in sorted(TOPICS, key=lambda topic: topic.compacted):
        for event in topic.events:
            name = str(event.__struct_config__.tag)
            writers = ", ".join(OUTSIDERS.get(writer, writer) for writer in topic.writers)
            rows.setdefault(name, (f"`{name}`", f"`{topic.name}`", writers, inspect.getdoc(event) or ""))
    return table(("type", "topic", "topic's writers", "what it says"), rows.values())


def codes() -> str:
    return table(("code", "what is wrong"), [(f"`{code}`", meaning) for code, meaning in CODES.items()])


def rejections() -> str:
    """Why curate takes no example: reason, and what holds of one that it takes, with the figures of the default policy."""
    return table(("reason", "an example is taken only if"), [(f"`{name}`", rule) for name, rule in rules(CuratePolicy()).items()])


def stages() -> str:
    rows = [
        (f"`{stage.name}`", _names(stage.inputs), _names(stage.lookups), _names(stage.outputs), stage.description)
        for stage in TOPOLOGY
    ]
    return table(("stage", "reads", "looks up", "writes", "what"), rows)


def counters() -> str:
    """What the input records of a stage are counted as."""
    return table(("stage", "counters"), [(f"`{stage.name}`", _names((*stage.counters, DEAD))) for stage in TOPOLOGY])


class ExportedMetric(NamedTuple):
    """One metric as it is exported: full name, kind, labels beside `deployment`, meaning."""

    name: str
    kind: str
    labels: tuple[str, ...]
    meaning: str


def exported() -> list[ExportedMetric]:
    """Every metric of ours, from a report that has one of everything."""
    figures = dict.fromkeys(metrics.BUCKET_GAUGES, 1.0)
    task = TaskReport(
        stage="reward", topic="signals", partition=0, phase="running", lag=1, lag_seconds=1.0, now=1, partitions=1, committed=1.0,
        restore=RestoreReport(seconds=1.0, records=1, keys=1, bytes=1), buckets=1, gauges={"b": figures},
    )  # fmt: skip
    slot = SlotReport(topic="signals", partition=0, task=task, restarts=0, error=None, ended=None)
    meter = StageMeter()
    meter.restarted("fenced")
    meter.trained("trained", 1.0)
    meter.dead["stage_error"] = meter.outputs["examples"] = 1
    report = WorkerReport(group="g", broker="b", away=None, tasks=[slot], silences={"agent_stopped": 1})
    found = []
    for family in metrics.families(report, {("reward", "signals"): meter}, "d"):
        names = [label for label in family.samples[0].labels if label not in ("deployment", "le")]
        kind = "gauge" if family.type == "info" else family.type
        suffix = {"counter": "_total", "info": "_info"}.get(family.type, "")
        found.append(ExportedMetric(family.name + suffix, kind, tuple(names), family.documentation))
    return found


def metrics_table() -> str:
    rows = [(f"`{metric.name}`", metric.kind, _names(metric.labels), metric.meaning) for metric in exported()]
    return table(("metric", "kind", "labels", "what"), rows)


def alerts() -> str:
    """The alert rules: after how long, how bad, where the runbook is."""
    rules = yaml.safe_load((ROOT / "deploy" / "prometheus" / "alerts.yml").read_text(encoding="utf-8"))["groups"][0]["rules"]
    rows = []
    for rule in rules:
        section = rule["annotations"]["runbook_url"].partition("#")[2]
        rows.append((f"`{rule['alert']}`", rule.get("for", ""), rule["labels"]["severity"], f"[{section}](runbook.md#{section})"))
    return table(("alert", "after", "severity", "runbook"), rows)


def settings() -> str:
    return keys(Settings, "setting")


def policy() -> str:
    """Every key of every table of the policy file."""
    parts = []
    for name, model in policies().items():
        parts += [f"\n## [{name}]\n", _said(model), "", keys(model, "key")]
    return "\n".join(parts)


def policy_tables() -> str:
    return table(("table", "what it sets"), [(f"`[{name}]`", _said(model)) for name, model in policies().items()])


def keys(model: type[BaseModel], kind: str) -> str:
    """A table of the keys of a model; `kind` says what they are called."""
    rows = [(f"`{key.name}`", key.allowed, key.default, key.meaning) for key in keys_of(model)]
    return table((kind, "value", "default", "what"), rows)


def views() -> str:
    """Each view of the lake, what it holds, and its example query."""
    told = [(view.name, view.description, view.example) for view in VIEWS]
    told += [(name, description, example) for name, (description, _, example) in COMPOSED.items()]
    parts = [f"**`{name}`**: {what}. {question}\n\n{fenced('sql', [sql])}" for name, what, (question, sql) in told]
    return "\n" + "\n\n".join(part.rstrip() for part in parts) + "\n"


def commands() -> str:
    """Every command with its help, arguments and options."""
    parts = [table(("command", "what"), [(f"`headrace {name}`", entry.help) for name, entry in COMMANDS.items()])]
    context = click.Context(headrace, info_name="headrace")
    for name in COMMANDS:
        command = headrace.get_command(context, name)
        assert command is not None
        parts += _command(command, click.Context(command, info_name=name, parent=context))
    return "\n".join(parts)


def example(language: str, name: str) -> str:
    """A publisher as it stands."""
    return fenced(language, (EXAMPLES / language / name).read_text(encoding="utf-8").splitlines())


BLOCKS: Mapping[str, Callable[[], str]] = {
    "ring": ring,
    "ring-diagram": ring_diagram,
    "topics": topics,
    "events": events,
    "codes": codes,
    "rejections": rejections,
    "stages": stages,
    "counters": counters,
    "settings": settings,
    "policy": policy,
    "policy-tables": policy_tables,
    "commands": commands,
    "views": views,
    "metrics": metrics_table,
    "alerts": alerts,
    "example-python": partial(example, "python", "agent.py"),
    "example-typescript": partial(example, "typescript", "publish.ts"),
    "example-java": partial(example, "java", "Publish.java"),
}


def drawn(page: str) -> str:
    """The page with every block drawn anew. KeyError names a block that is none of BLOCKS."""
    return _DRAWN.sub(lambda found: f"{found[1]}{BLOCKS[found[2]]().rstrip()}\n{found[3]}", page)


def pages() -> list[Path]:
    return [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def main(arguments: list[str]) -> int:
    """Writes the pages, or with `--check` says which are not what they should be."""
    stale = [path for path in pages() if path.read_text(encoding="utf-8") != drawn(path.read_text(encoding="utf-8"))]
    for path in stale:
        if "--check" in arguments:
            print(f"{path.relative_to(ROOT)}: not current; run `make docs-generate`", file=sys.stderr)
        else:
            path.write_text(drawn(path.read_text(encoding="utf-8")), encoding="utf-8")
    return 1 if stale and "--check" in arguments else 0


def policies() -> dict[str, type[BaseModel]]:
    """The tables of the policy file: name -> model."""
    fields = Policies.model_fields.items()
    return {name: TrainerPolicy if name == "train" else _models(field.annotation)[0] for name, field in fields}


def keys_of(model: type[BaseModel], prefix: str = "") -> Iterator[Key]:
    """Every key of a model, those of models inside it with a dotted name."""
    schema = model.model_json_schema()
    for name, field in model.model_fields.items():
        inner, about = _models(field.annotation), schema["properties"][name]
        if inner:
            several = {"object": ".NAME", "array": "[]"}.get(about.get("type", ""), "")
            yield Key(f"{prefix}{name}{several}", "tables" if several else "table", "", field.description or _said(inner[0]))
            yield from keys_of(inner[0], f"{prefix}{name}{several}.")
        else:
            yield Key(prefix + name, allowed(about), _default(field), field.description or "")


def fenced(language: str, lines: Iterable[str]) -> str:
    return "\n".join([f"```{language}", *lines, "```"])


def table(heading: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    heading = tuple(heading)
    cells = [heading, ("---",) * len(heading), *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |" for row in cells)


def _said(model: type[BaseModel]) -> str:
    """The docstring of the class itself."""
    return " ".join((vars(model).get("__doc__") or "").split())


def _models(annotation: Any) -> list[type[BaseModel]]:
    """The models inside a type: itself, or what a list or a table of it holds."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for inner in get_args(annotation) for model in _models(inner)]


def _default(field: FieldInfo) -> str:
    """As JSON. What depends on the machine is not shown: only tables have a default that is made."""
    value = field.get_default(call_default_factory=True) if get_origin(field.annotation) is dict else field.default
    if value is None or value is PydanticUndefined:
        return ""
    shown = json.dumps(value, ensure_ascii=False)
    return f"`{shown}`" if len(shown) <= 200 else f"{len(value)} values"


def _command(command: click.Command, context: click.Context) -> Iterator[str]:
    depth = context.command_path.count(" ") + 1
    yield f"\n{'#' * depth} {context.command_path}\n"
    yield inspect.cleandoc(command.help or "")
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            inner = command.get_command(context, name)
            assert inner is not None
            yield from _command(inner, click.Context(inner, info_name=name, parent=context))
        return
    yield "\n" + fenced("text", [" ".join([context.command_path, *command.collect_usage_pieces(context)])])
    options = [o for o in command.params if isinstance(o, click.Option) and not set(o.opts) & set(COMMON)]
    if options:
        yield "\n" + table(("option", "what"), [_option(option, context) for option in options])


def _option(option: click.Option, context: click.Context) -> tuple[str, str]:
    names, meaning = option.get_help_record(context) or ("", "")
    return f"`{names}`", meaning


def _kept(topic: Topic) -> str:
    return "compacted" if topic.compacted else kept_for(topic)


def _names(names: Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)


def _node(topic: str) -> str:
    return f"{topic.replace('.', '_').replace('-', '_')}[{topic}]"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
