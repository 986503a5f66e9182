"""The demo's policy: what has to be named (bases, graders), and what differs from the defaults, each with its reason. Starts
nothing; `tests/demo/test_policy.py` holds that nothing else differs.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

from headrace_demo.names import DOCS, MODEL, SQL
from headrace_processors.policy_file import Policies
from headrace_trainer.policy import TrainerPolicy

MAIN = f"{SQL}/{MODEL}"
OTHER = f"{DOCS}/{MODEL}"
BUCKETS = (MAIN, OTHER)


class Override(NamedTuple):
    """A key of the policy by its dotted name, a value that is not the default, and why."""

    key: str
    value: Any
    reason: str

    @property
    def default(self) -> Any:
        """What holds without it."""
        found: Any = {**Policies().bodies(), "train": TrainerPolicy().body()}
        for name in key_names(self.key):
            found = found.get(name)
        return _TARGET if found is None else found

    def __str__(self) -> str:
        """For people, on two lines."""
        return f"  {self.key} = {_toml(self.value)}, not {_toml(self.default)}\n      {self.reason}"


_SELF_RELIANT = "needs_reference = false, execution = true"  # it reads the question; so prompts are drawn for it
_TARGET = Policies().curate.target_effective_size  # of a bucket that curate.targets does not name
OVERRIDES = (
    Override(f'curate.targets."{MAIN}"', 400, "a batch of 64 has 6 new groups of evidence: release 1 took six of them"),
    Override("train.evaluation.max_new_tokens", 72, "as many as the agent takes; rambling to the end costs four times that"),
    Override("train.defaults.learning_rate", 5e-3, "0.0002 moves nothing in a model this small: 3.5 % right before and after"),
)


def targets() -> dict[str, float]:
    """At which effective size each bucket is cut."""
    given = {override.key: override.value for override in OVERRIDES}
    return {bucket: given.get(f'curate.targets."{bucket}"', _TARGET) for bucket in BUCKETS}


def policy_text(base: Path, database: Path) -> str:
    """The policy file of a run: base and graders by their places, and `OVERRIDES`."""
    place = _toml(database)
    options = f"options = {{ database = {place} }}, folders = [{place}]"
    lines = [
        "# Written by `headrace demo`. What is not here keeps its default.",
        f"train.bases.{MODEL}.weights = {_toml(base)}",
        f'train.graders.{SQL} = {{ name = "demo-sql", {options}, {_SELF_RELIANT} }}',
        f'train.graders.{DOCS} = {{ name = "headrace_demo.shop.grade:grade_description", {_SELF_RELIANT} }}',
        "",
        "# Not the default, and why:",
    ]
    lines += [f"{override.key} = {_toml(override.value)}  # {override.reason}" for override in OVERRIDES]
    return "\n".join(lines) + "\n"


def key_names(key: str) -> list[str]:
    """Of a dotted TOML key: `a."b/c".d` -> a, b/c, d."""
    names: list[str] = []
    for number, part in enumerate(key.split('"')):
        names += [part] if number % 2 else filter(None, part.split("."))
    return names


def _toml(value: Any) -> str:
    return json.dumps(str(value) if isinstance(value, Path) else value)  # JSON's texts, numbers and booleans are TOML's
