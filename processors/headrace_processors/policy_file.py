"""The policy file: one TOML file with a table per stage, read once at the edge. Knows the policies; no fold.

    [curate]
    target_effective_size = 300
    [release]
    mode = "manual"

A table or key that is not there keeps its default. `[train]` is passed on as it is: the trainer types it. Of it only this is
read here: whose answers are graded without a reference, for `[reward.draw] artifact_types` and `[curate] graded` where they say
nothing. And where `[intake] sessions` says nothing it is whether `[attribute]` credits or derives anything; `[intake] sketches`
and `[reward] sessions`: whether it derives. What a stage is given, and what the log says that it was given, is the list: a fold
knows no trainer.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import Field

from headrace_processors.attribute.policy import AttributePolicy
from headrace_processors.curate.policy import CuratePolicy
from headrace_processors.intake.policy import NOT_BOTH, IntakePolicy
from headrace_processors.link.policy import LinkPolicy
from headrace_processors.observer.policy import SilencePolicy
from headrace_processors.quality_policy import QualityPolicy
from headrace_processors.release.policy import ReleasePolicy
from headrace_processors.reward.policy import RewardPolicy
from headrace_streams.policy import Policy, PolicyError, parse_policy, read_policy_file

__all__ = ["Policies", "PolicyError", "load"]


class Policies(Policy):
    """All policies of a deployment. `train` is raw: the trainer's package knows what may stand in it. `silence` and `quality` are
    no stage's."""

    intake: IntakePolicy = IntakePolicy()
    link: LinkPolicy = LinkPolicy()
    attribute: AttributePolicy = AttributePolicy()
    reward: RewardPolicy = RewardPolicy()
    curate: CuratePolicy = CuratePolicy()
    release: ReleasePolicy = ReleasePolicy()
    silence: SilencePolicy = SilencePolicy()
    quality: QualityPolicy = QualityPolicy()
    train: dict[str, Any] = Field(default_factory=dict)

    def bodies(self) -> dict[str, dict[str, Any]]:
        """Stage name -> the JSON form of its policy, as `Stage.build` and `RulesActivated` take it; train's too."""
        stages = (self.intake, self.link, self.attribute, self.reward, self.curate, self.release)
        names = ("intake", "link", "attribute", "reward", "curate", "release")
        return {**{name: policy.body() for name, policy in zip(names, stages, strict=True)}, "train": dict(self.train)}


def load(path: Path | str | None) -> Policies:
    """The policies of a file, or the defaults without one. PolicyError when the file is missing or wrong."""
    policies = parse_policy(Policies, read_policy_file(path), f"policy file {path}")
    graded, reward, curate = _graded(policies.train), policies.reward, policies.curate
    if graded and reward.draw.artifact_types is None:
        draw = reward.draw.model_copy(update={"artifact_types": graded})
        reward = reward.model_copy(update={"draw": draw})
    if graded and curate.graded is None:
        curate = curate.model_copy(update={"graded": graded})
    intake, derives = policies.intake, bool(policies.attribute.derivations)
    wanted = {"sessions": derives or policies.attribute.credit != "off", "sketches": derives}
    told = {key: True for key, told in wanted.items() if told and getattr(intake, key) is None}  # else nobody need know
    if told:
        who = "attribute.derive" if derives else "attribute.credit"
        if intake.seal != "none":
            raise PolicyError(f"policy file {path}: {who}: {NOT_BOTH}; with intake.seal = {intake.seal!r} it must be off")
        intake = parse_policy(IntakePolicy, {**intake.body(), **told}, f"policy file {path}", f"{who}, intake.")
    if derives and reward.sessions is None:
        reward = reward.model_copy(update={"sessions": True})
    return policies.model_copy(update={"intake": intake, "reward": reward, "curate": curate})


def _graded(train: dict[str, Any]) -> tuple[str, ...]:
    """Artifact types with a grader that needs no reference, if every answer is graded. What is wrong with the table is for the
    trainer to say."""
    graders, evaluation = train.get("graders"), train.get("evaluation")
    if not isinstance(graders, dict) or (isinstance(evaluation, dict) and evaluation.get("generate", "always") != "always"):
        return ()
    return tuple(
        sorted(name for name, grader in graders.items() if isinstance(grader, dict) and grader.get("needs_reference") is False)
    )
