"""Of the tasks that a version is tested on, how many it learnt from, where digests of whole prompts told the same task apart."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from headrace.publishing import EventFactory
from headrace_processors.reward import fold as reward
from headrace_schemas.derived import Example
from headrace_schemas.splits import split_of
from support.signals import StageRun, events_on

TASKS = 400
TRIES = 3
SHOPS = ("Oslo", "Bergen", "Paris", "Lyon", "Rome", "Porto", "Ghent", "Graz")
THINGS = ("customers", "orders", "returns", "invoices", "refunds", "parcels", "visits")
WANTED = ("list", "count", "sum up", "rank", "compare", "chart", "explain", "export")

Call = dict[str, Any]
Tries = Iterator[Call]


def question(task: int) -> str:
    shop, task = SHOPS[task % 8], task // 8
    return f"Please {WANTED[task % 8]} the {THINGS[task // 8 % 7]} of our shop in {shop}."


def retries(task: int, parents: list[Any]) -> Tries:
    """The same question, then the answer and what was wrong with it, each a child of the try before."""
    messages = [{"role": "user", "content": question(task)}]
    for number in range(TRIES):
        yield {"prompt": list(messages), "parent": parents[-1] if parents else None, "attempt": number + 1}
        messages += [
            {"role": "assistant", "content": f"SELECT {number}"},
            {"role": "user", "content": f"That failed: no such column c{number}. Try again."},
        ]


def sessions(task: int, _: list[Any]) -> Tries:
    """The same of an agent that names its sessions and no parent."""
    for call in retries(task, []):
        yield {**call, "session_id": f"session-{task}"}


def retrieval(task: int, _: list[Any]) -> Tries:
    """What is retrieved differs from day to day: as the context, in the system's message, or in the question itself."""
    for number in range(TRIES):
        found = f"Document {number * 7 + task}: orders have a customer, an item and, since revision {number}, a voucher."
        prompt: Any = question(task)
        if task % 3 == 1:
            prompt = [{"role": "system", "content": f"Use only this.\n{found}"}, {"role": "user", "content": prompt}]
        elif task % 3 == 2:
            prompt = f"Context:\n{found}\n\nQuestion: {prompt}"
        yield {"prompt": prompt, "context": None if task % 3 == 1 else found}


def dates(task: int, _: list[Any]) -> Tries:
    for today in ("Today is 2026-11-24.", "Today is 2026-11-25.", "Today is 2026-12-01."):
        yield {"prompt": f"{today}\n{question(task)}"}


def spelling(task: int, _: list[Any]) -> Tries:
    text = question(task)
    for prompt in (text, text.lower().rstrip("."), text.upper().replace(" ", "  ") + "!"):
        yield {"prompt": prompt}


def leaked(situation: Callable[[int, list[Any]], Tries], version: int) -> float:
    """Share of the tasks with a row on the test side that have one on the train side too."""
    events = EventFactory("bot")
    stage = StageRun(reward.build({}, "", version), "signals")
    asked: dict[str, int] = {}
    for task in range(TASKS):
        calls: list[Any] = []
        for fields in situation(task, calls):
            parent = fields.pop("parent", None)
            common = {"artifact_type": "sql", "model": "tiny", "output": "select 1"}
            recorded, call = events.interaction({**common, **fields}, None, None, parent)
            calls.append(call)
            asked[call.interaction_id] = task
            stage.feed(recorded.value, events.feedback(call, {"kind": "success", "score": 90}, None, None).value)
    sides: dict[int, set[str]] = {}
    for event in events_on(stage.outputs, "examples"):
        example: Example = event.data  # type: ignore[assignment]
        sides.setdefault(asked[example.interaction_id], set()).add(split_of(example.bucket, example.prompt_group))
    tested = [found for found in sides.values() if "test" in found]
    assert len(sides) == TASKS
    assert len(tested) > TASKS // 20
    return sum("train" in found for found in tested) / len(tested)


@pytest.mark.parametrize("situation", [retries, sessions, retrieval, dates, spelling])
def test_a_task_that_is_tested_on_is_not_learnt_from(situation: Callable[[int, list[Any]], Tries]) -> None:
    assert leaked(situation, 3) <= 0.02
    assert leaked(situation, 2) > 0.5, "as it was, so that the situation is one"
