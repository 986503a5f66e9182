"""How many tested tasks are also learnt from, by what agents do to a prompt between one attempt at a task and the next.

    python tests/real/leakage.py --data FOLDER [--only NAME …] [--tasks 3000]

Each task is a prompt of the corpora that is asked three times, without a prompt group of its own, and where they have too few,
the same prompt of another part of a system; every answer, taken from the corpora, is right. What the folds cut and put into the
test pool is compared by task: a tenth of them is tested. Writes nothing; exits 1 when more than 2 % of the tested tasks of a
situation are trained on.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).parent.parent))

from headrace_schemas.groups import question_group
from headrace_schemas.selection import training_members
from real import corpora
from real.corpora import Said
from real.in_process import folded

MOST = 0.02
ATTEMPTS = 3
LONGEST = 400  # characters of a question
ERRORS = ("NameError: name 'x' is not defined", "AssertionError: expected 3", "TypeError: 'int' object is not callable")
Fields = dict[str, Any]


def asked(question: str, system: str | None = None, **more: Any) -> Fields:
    turns = [{"role": "user", "content": question}]
    return {"prompt": turns if system is None else [{"role": "system", "content": system}, *turns], **more}


def retried(question: str, attempt: int, pick: random.Random, task: str) -> Fields:
    """The conversation so far, with what went wrong, in one session."""
    turns = [{"role": "user", "content": question}]
    for _ in range(attempt):
        error = f"That fails with {pick.choice(ERRORS)}. Try again."
        turns += [{"role": "assistant", "content": f"attempt {pick.random()}"}, {"role": "user", "content": error}]
    return {"prompt": turns, "session_id": f"session {task}"}


def retried_by_parent(question: str, attempt: int, pick: random.Random, task: str) -> Fields:
    """The error in the text of the prompt; the agent says whose retry it is, and the door hands the group on."""
    text = question if not attempt else f"{question}\nYour last answer failed: {pick.choice(ERRORS)} ({pick.random()})"
    return {"prompt": text, **({"prompt_group": question_group(question)} if attempt else {})}


def retried_in_one_text(question: str, attempt: int, pick: random.Random, task: str) -> Fields:
    """The same, and nobody says anything: no rule can know."""
    text = question if not attempt else f"{question}\nYour last answer failed: {pick.choice(ERRORS)} ({pick.random()})"
    return asked(text)


def retrieved(question: str, attempt: int, pick: random.Random, task: str) -> Fields:
    found = " ".join(pick.choice(WORDS) for _ in range(60))
    return asked(question, f"Use these pages:\n{found}", context=found if attempt % 2 else None)


def dated(question: str, attempt: int, pick: random.Random, task: str) -> Fields:
    day = f"2026-{1 + attempt:02}-{pick.randint(1, 28):02}"
    return asked(f"Today is {day}.\n{question}") if int(task) % 2 else asked(question, f"Today is {day}.")


def respelt(question: str, attempt: int, pick: random.Random, task: str) -> Fields:
    changes: list[Callable[[str], str]] = [str.upper, str.lower, lambda text: f"{text} !", lambda text: text.replace(" ", "  ")]
    return asked(changes[attempt % len(changes)](question))


SITUATIONS = {
    "retries that show the error, in a session": retried,
    "retries that show the error, by parent": retried_by_parent,
    "retries that show the error, in one text (no rule can know)": retried_in_one_text,
    "retrieval": retrieved,
    "today's date": dated,
    "case, blanks, punctuation": respelt,
}
PARTS = ("", "billing", "search", "shipping", "reports", "accounts")
WORDS = ("index", "table", "column", "join", "query", "order", "value", "error", "page", "total", "city", "price", "item")


def tasks_of(lines: Iterable[Fields], wanted: int) -> list[str]:
    """Different questions of the corpora, then the same about another part."""
    questions = list(dict.fromkeys(str(line["prompt"])[:LONGEST] for line in lines))
    return [f"About {part}: {each}" if part else each for part in PARTS for each in questions][:wanted]


def leakage(questions: Sequence[str], answers: Sequence[str], situation: Callable[..., Fields]) -> tuple[int, int, int]:
    """Tasks that are tested, those of them that are learnt from too, and tasks that are learnt from."""
    pick = random.Random(1)
    said: list[Said] = []
    of_task: dict[str, int] = {}
    for attempt in range(ATTEMPTS):
        for number, question in enumerate(questions):
            identity = f"{number}:{attempt}"
            of_task[identity] = number
            # No answer comes twice: a target that is learnt from leaves the test side.
            answer = f"{answers[(number * ATTEMPTS + attempt) % len(answers)]}\n{pick.getrandbits(64):x}"
            fields = {"artifact_type": "code", "model": "another", "output": answer, "interaction_id": identity}
            fields |= situation(question, attempt, pick, str(number))
            said.append(Said("interaction", fields, None))
            said.append(Said("feedback", {"interaction_id": identity, "kind": "success", "score": 100}, None))
    # The base itself did not answer: what is right in 95 of 100 cases is not cut.
    found = folded(said, {"curate": {"decay_per_day": 1.0}, "reward": {"bases": [{"base": "small"}]}})
    task_of = {example.example_id: of_task[example.interaction_id] for example in found.examples.values()}
    learnt = {task_of[member.example_id] for batch in found.batches for member in training_members(batch.members)}
    tested = {task_of[member.example_id] for batch in found.batches for member in batch.test_pool}
    return len(tested), len(tested & learnt), len(learnt)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with *.jsonl.gz")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="these corpora (without .jsonl.gz)")
    parser.add_argument("--tasks", type=int, default=3000)
    parser.add_argument("--json", action="store_true", help="one JSON object a situation")
    given = parser.parse_args()
    files = corpora.corpora(given.data)
    said = (line for name in given.only or files for line in corpora.said(name, files[name]))
    lines = [line.fields for line in said if line.kind == "interaction"]
    questions = tasks_of(lines, given.tasks)
    answers = list(dict.fromkeys(str(line["output"])[:LONGEST] for line in lines))
    random.Random(1).shuffle(answers)
    bad = 0
    for name, situation in SITUATIONS.items():
        tested, both, learnt = leakage(questions, answers, situation)
        share = both / max(1, tested)
        bad += share > MOST and "no rule" not in name
        row = {"situation": name, "tested": tested, "learnt": learnt, "both": both, "share": round(share, 4)}
        print(json.dumps(row) if given.json else f"{name:62}{tested:>5} tested {learnt:>5} learnt {both:>4} both {share:>7.1%}")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
