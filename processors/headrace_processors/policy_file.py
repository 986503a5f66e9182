"""The policy file: one TOML file with a table per stage, read once at the edge. Knows TOML and the policies; no fold.

    [curate]
    target_effective_size = 300
    [release]
    mode = "manual"

A table or key that is not there keeps its default. `[train]` is passed on as it is: the trainer types it.
"""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError

from headrace_processors.policy import CuratePolicy, IntakePolicy, LinkPolicy, Policy, ReleasePolicy, RewardPolicy
from headrace_streams.settings import SettingsError


class PolicyError(SettingsError):
    """The policy file can't be read or says something wrong. One line: file, field, value."""


class Policies(Policy):
    """All policies of a deployment. `train` is raw: the trainer's package knows what may stand in it."""

    intake: IntakePolicy = IntakePolicy()
    link: LinkPolicy = LinkPolicy()
    reward: RewardPolicy = RewardPolicy()
    curate: CuratePolicy = CuratePolicy()
    release: ReleasePolicy = ReleasePolicy()
    train: dict[str, Any] = Field(default_factory=dict)

    def bodies(self) -> dict[str, dict[str, Any]]:
        """Stage name -> the JSON form of its policy, as `Stage.build` and `RulesActivated` take it; train's too."""
        stages = (self.intake, self.link, self.reward, self.curate, self.release)
        names = ("intake", "link", "reward", "curate", "release")
        return {**{name: policy.body() for name, policy in zip(names, stages, strict=True)}, "train": dict(self.train)}


def load(path: Path | str | None) -> Policies:
    """The policies of a file, or the defaults without one. PolicyError when the file is missing or wrong."""
    if path is None:
        return Policies()
    try:
        given = tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise PolicyError(f"policy = {str(path)!r}: {' '.join(str(error).split())}") from error
    try:
        return Policies.model_validate(given)
    except ValidationError as error:
        raise PolicyError(f"policy file {path}: {_line(error)}") from error


def _line(error: ValidationError) -> str:
    """The first fault as `curate.age_limit_days = -1: Input should be greater than 0`."""
    fault = error.errors(include_url=False)[0]
    unknown = fault["type"] == "extra_forbidden"
    message = "there is no such field" if unknown else fault["msg"].removeprefix("Value error, ")
    value = repr(fault["input"])
    return f"{'.'.join(map(str, fault['loc']))} = {value if len(value) <= 80 else value[:77] + '...'}: {message}"
