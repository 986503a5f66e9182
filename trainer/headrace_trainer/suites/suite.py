"""Suites of tasks that every evaluation asks: what people write into a TOML file, and how a task is asked. Knows no model.

A suite stands beside the rows that feedback gives: nobody learns from it, its tasks are the same at every evaluation, and a
protected one is what may not get worse. Long suites keep their tasks in a file of JSON lines beside, a task a line.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import msgspec
import orjson
from pydantic import Field, ValidationError

from headrace_schemas.canonical import digest
from headrace_schemas.derived import Components, Content, Example, Weights
from headrace_schemas.ids import derive_id
from headrace_schemas.inputs import Agent
from headrace_streams.policy import Policy, PolicyError, read_policy_file
from headrace_streams.settings import first_fault
from headrace_trainer.policy import SHIPPED_SUITES, SuitePolicy
from headrace_trainer.suites.check import Check, Level

MOST_TASKS = 500  # of all suites of a bucket: an evaluation names each of them for each head, and is one record
_TIME = "2026-01-01T00:00:00Z"  # what a template is told that writes the date: the same at every evaluation


class SuiteCall(Policy):
    """A call of a tool in a message."""

    id: str = Field("call", description="id of the call, which the tool's message answers")
    name: str = Field(min_length=1, description="name of the tool")
    arguments: dict[str, Any] = Field(default_factory=dict, description="its arguments")


class SuiteMessage(Policy):
    """A message as interactions have it."""

    role: Literal["system", "developer", "user", "assistant", "tool"] = Field(description="who speaks")
    content: str | None = Field(None, description="what is said")
    tool_calls: tuple[SuiteCall, ...] | None = Field(None, min_length=1, description="calls that it asks for")
    tool_call_id: str | None = Field(None, description="the call that a tool's message answers")


class SuiteTool(Policy):
    """A tool that the model may call."""

    name: str = Field(min_length=1, description="its name")
    description: str | None = Field(None, description="what the model is told about it")
    parameters: dict[str, Any] | None = Field(None, description="JSON Schema of its arguments")


class SuiteTask(Policy):
    """One task: what is asked, and what would be right, unless the artifact type's grader knows that without being told."""

    name: str = Field(min_length=1, max_length=200, description="its name in the suite")
    messages: tuple[SuiteMessage, ...] = Field(min_length=1, description="what is asked")
    context: str | None = Field(None, description="what was retrieved or attached")
    tools: tuple[SuiteTool, ...] | None = Field(None, min_length=1, description="tools that may be called")
    reference: str | SuiteMessage | None = Field(
        None, description="a right answer: its loss is measured, and the grader is told it as target"
    )
    wrong: str | None = Field(None, description="an answer that must not pass: it tests the check, nobody is told it")
    check: Check | None = Field(None, description="how an answer is checked; absent: by the grader of the artifact type")
    level: Level | None = Field(None, description="how difficult it is")
    language: str | None = Field(None, min_length=1, description="in which an answer is written: python, sql, english")
    artifact_type: str | None = Field(None, min_length=1, description="of the answer, for tables; absent: the suite's")


class Suite(Policy):
    """A suite as its file says it."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9_.-]{0,63}$", description="its name in evaluations")
    protected: bool = Field(True, description="whether a version that is worse on it may not be served by itself")
    role: str | None = Field(None, min_length=1, description="of the agent that such tasks are for")
    artifact_type: str | None = Field(None, min_length=1, description="of the answers, for tables")
    system: str | None = Field(None, min_length=1, description="said before every task that has no system message")
    file: str | None = Field(None, min_length=1, description="instead of tasks: a file of JSON lines beside, a task a line")
    tasks: tuple[SuiteTask, ...] = Field(min_length=1, max_length=MOST_TASKS, description="what is asked")

    @property
    def has_checks(self) -> bool:
        return any(task.check is not None for task in self.tasks)

    @cached_property
    def _by_name(self) -> dict[str, SuiteTask]:
        return {task.name: task for task in self.tasks}

    def task_of(self, example: Example) -> SuiteTask:
        """The task that one of `examples` was made of."""
        return self._by_name[example.interaction_id.removeprefix(f"suite:{self.name}:")]

    @property
    def content_digest(self) -> str:
        """Of what it says, however it is written down."""
        return digest(self.model_dump(mode="json", exclude_defaults=True, exclude={"file"}))

    def examples(self, bucket: str) -> list[Example]:
        """Its tasks, in their order, as the rows of a bucket have them. Without a reference target and output are empty."""
        return [self._example(task, bucket) for task in self.tasks]

    def _example(self, task: SuiteTask, bucket: str) -> Example:
        reference = "" if task.reference is None else _plain(task.reference)
        messages = task.messages
        if self.system is not None and not any(message.role == "system" for message in messages):
            messages = (SuiteMessage(role="system", content=self.system), *messages)
        content = {"prompt": _plain(messages), "output": reference, "target": reference, "context": task.context}
        if task.tools is not None:
            content["tools"] = _plain(task.tools)
        return Example(
            example_id=derive_id("suite", self.name, task.name),
            revision=1,
            interaction_id=f"suite:{self.name}:{task.name}",
            bucket=bucket,
            artifact_type=bucket.partition("/")[0],
            model="suite",
            agent=Agent(name="suite"),
            prompt_group=f"suite:{self.name}:{task.name}",
            content=msgspec.convert(content, Content),
            quality=0.0,
            reward=0.0,
            components=Components(validation=0.0, feedback=0.0, difficulty=0.0, multiplier=1.0),
            weights=Weights(balance=1.0),
            contradicted=False,
            voices=0,
            event_time=_TIME,
            train=False,
        )


def _plain(value: Any) -> Any:
    """Models as plain values, without what is absent."""
    if isinstance(value, tuple):
        return [_plain(each) for each in value]
    return value.model_dump(mode="json", exclude_none=True) if isinstance(value, Policy) else value


def together(suites: Sequence[Suite]) -> list[Suite]:
    """The suites of one bucket. PolicyError when two have one name, or they have too many tasks together."""
    names = Counter(suite.name for suite in suites)
    if twice := [name for name, count in names.items() if count > 1]:
        raise PolicyError(f"train.suites: two suites of a bucket are called {twice[0]!r}: name one of them otherwise")
    if (tasks := sum(len(suite.tasks) for suite in suites)) > MOST_TASKS:
        raise PolicyError(f"train.suites: the suites of a bucket have {tasks} tasks, {MOST_TASKS} are the most")
    return list(suites)


def shipped() -> list[str]:
    """Names of the suites that come with the package."""
    return sorted(path.stem for path in SHIPPED_SUITES.glob("*.toml"))


def path_of(named: str) -> Path:
    """The file of a suite that is named by its file or, if it comes with the package, by its name. PolicyError when it is
    neither."""
    if Path(named).is_file():
        return Path(named)
    if named in shipped():
        return SHIPPED_SUITES / f"{named}.toml"
    raise PolicyError(f"suite {named!r}: there is no such file, and the package brings {', '.join(shipped())}")


def read(path: Path | str) -> Suite:
    """The suite in a TOML file. PolicyError names file, line where it is known, task and field."""
    try:
        tree = read_policy_file(path)
    except PolicyError as error:
        raise PolicyError(f"suite file {str(error).partition(' = ')[2]}") from error
    where = Path(path)
    lines = None
    if isinstance(name := tree.get("file"), str):
        if "tasks" in tree:
            raise PolicyError(f"suite file {path}: file = {name!r}: it has tasks of its own, too; leave one of them out")
        where = Path(path).parent / name
        lines = _tasks_of(path, where)
        tree = {**tree, "tasks": [task for _, task in lines]}
    try:
        suite = Suite.model_validate(tree)
    except ValidationError as error:
        raise PolicyError(_fault(error, tree, Path(path), where, lines)) from error
    twice = [name for name, count in Counter(task.name for task in suite.tasks).items() if count > 1]
    if twice:
        raise PolicyError(f"suite file {where}: task {twice[0]!r}: there are two of that name")
    return suite


def _tasks_of(suite: Path | str, path: Path) -> list[tuple[int, Any]]:
    """Line number and value of each line that is not blank."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise PolicyError(f"suite file {suite}: file = {path.name!r}: {' '.join(str(error).split())}") from error
    tasks = []
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            try:
                tasks.append((number, orjson.loads(line)))
            except orjson.JSONDecodeError as error:
                raise PolicyError(f"suite file {path} line {number}: {error!s}: {line[:80]!r}") from error
    return tasks


def read_all(named: Sequence[SuitePolicy]) -> dict[str, Suite]:
    """The suites that a policy names, by file. PolicyError for what `read` refuses, and for suites that the buckets of a glob
    can't be asked together."""
    found = {each.file: read(each.file) for each in named}
    for glob in dict.fromkeys(each.bucket for each in named):
        together([found[each.file] for each in named if each.bucket in (glob, "*")])
    return found


def _fault(error: ValidationError, tree: dict[str, Any], path: Path, where: Path, lines: list[tuple[int, Any]] | None) -> str:
    """The first fault, with the line and the name of its task, or its number where it has none."""
    said, place = first_fault(error), error.errors(include_url=False)[0]["loc"]
    if len(place) < 2 or place[0] != "tasks" or not isinstance(place[1], int):
        return f"suite file {path}{_line_of(path, place)}: {said}"
    task = tree["tasks"][place[1]]
    name = task.get("name") if isinstance(task, dict) else None
    called = repr(name) if isinstance(name, str) else f"number {place[1] + 1}"
    line = f" line {lines[place[1]][0]}" if lines is not None else _line_of(path, place)
    return f"suite file {where}{line}: task {called}: {said.removeprefix(f'tasks.{place[1]}').lstrip('.')}"


def _line_of(path: Path, place: tuple[int | str, ...]) -> str:
    """ " line 7" of a TOML file, as near as its text tells: of the key, or of the head of its task; "" when it does not tell."""
    text = path.read_text(encoding="utf-8").split("\n")
    heads = [number for number, line in enumerate(text, 1) if line.strip().startswith("[[tasks]]")]
    first, last = 1, len(text)
    if len(place) > 1 and place[0] == "tasks" and isinstance(place[1], int):
        if place[1] >= len(heads):
            return ""
        first = heads[place[1]]
        last = heads[place[1] + 1] - 1 if place[1] + 1 < len(heads) else len(text)
        place = place[2:]
    key = str(place[0]) if place else ""
    for number in range(first, last + 1):
        if key and text[number - 1].split("=")[0].strip() == key:
            return f" line {number}"
    return f" line {first}" if first > 1 else ""
