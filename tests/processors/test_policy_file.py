"""The policy file: what it says counts, what it does not say stays, and what it says wrong is one clear line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from headrace_processors.curate.policy import TieredPolicy
from headrace_processors.policy_file import Policies, PolicyError, load
from headrace_processors.release.evidence_policy import EvidencePolicy
from headrace_processors.reward.policy import BaseMapping, DifficultyWeights, SimilarityWeights
from headrace_processors.stages import STAGES
from headrace_schemas.canonical import digest
from headrace_streams.policy import Policy
from headrace_streams.runtime.stage import FoldStage

RECORDED = Path(__file__).parents[1] / "goldens" / "policies"  # {stage}.{rule version}.json, as they stood on the log


def written(folder: Path, text: str) -> Path:
    path = folder / "policy.toml"
    path.write_text(text)
    return path


def test_without_a_file_there_are_the_defaults() -> None:
    assert load(None) == Policies()
    assert load(None).curate.target_effective_size == 64
    assert load(None).release.min_test_rows == 30


def test_a_file_changes_what_it_names(tmp_path: Path) -> None:
    text = """
[curate]
target_effective_size = 300
[curate.targets]
"sql/tiny" = 40
[release]
mode = "manual"
[train]
seed = 3
"""
    policies = load(written(tmp_path, text))
    assert (policies.curate.effective_target("sql/tiny"), policies.curate.effective_target("code/tiny")) == (40, 300)
    assert (policies.release.mode, policies.train) == ("manual", {"seed": 3})
    assert policies.reward == Policies().reward
    assert policies.curate.digest != Policies().curate.digest


def test_bodies_build_every_stage() -> None:
    bodies = load(None).bodies()
    assert {stage.name for stage in STAGES} <= set(bodies)
    for stage in STAGES:
        assert stage.newest(bodies[stage.name])
        assert stage.policy.model_validate(bodies[stage.name]).model_dump(mode="json") == bodies[stage.name]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[curate]\nage_limit_days = -1\n", "curate.age_limit_days = -1: Input should be greater than 0"),
        ("[curate]\nage = 3\n", "curate.age = 3: there is no such field"),
        ("[curat]\n", "curat = {}: there is no such field"),
        ('[release]\nmode = "x"\n', "release.mode = 'x': Input should be 'auto' or 'manual'"),
        ("[curate]\nopen_limit = 10\n", "open_limit: 10 examples can never reach a target of 64"),
        ("[curate]\ngood_enough = nan\n", "curate.good_enough = nan"),
        ("[curate\n", "Expected ']'"),
        ("[reward]\nprompt_full_chars = 0\n", "reward.prompt_full_chars = 0: Input should be greater than or equal to 1"),
        (
            "[reward.difficulty_weights]\nprompt = 0.5\n",
            "reward.difficulty_weights.context = 0.2: complexity 0.5 + prompt 0.5 + context 0.2 must be 1",
        ),
        (
            "[reward.difficulty_weights]\nprompt = 2\n",
            "reward.difficulty_weights.prompt = 2: Input should be less than or equal to 1",
        ),
        (
            "[reward.similarity_weights]\nedit = 0\noverlap = 0\n",
            "reward.similarity_weights.overlap = 0: edit is 0 too, and one of them must be above 0",
        ),
    ],
)
def test_what_is_wrong_is_one_line_with_file_field_and_value(tmp_path: Path, text: str, said: str) -> None:
    path = written(tmp_path, text)
    with pytest.raises(PolicyError) as caught:
        load(path)
    assert said in str(caught.value)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("stage", [pytest.param(stage, id=stage.name) for stage in STAGES])
def test_a_body_that_an_earlier_deployment_recorded_still_builds_its_rules(stage: FoldStage) -> None:
    body = json.loads((RECORDED / f"{stage.name}.1.json").read_text())
    assert stage.build(1, body, digest(body))


def test_every_key_says_what_it_means() -> None:
    stages = [stage.policy for stage in STAGES]
    kinds: list[type[Policy]] = [*stages, EvidencePolicy, TieredPolicy, BaseMapping, DifficultyWeights, SimilarityWeights]
    for kind in kinds:
        assert [name for name, field in kind.model_fields.items() if not field.description] == []


def test_a_missing_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(PolicyError, match=r"nowhere\.toml"):
        load(tmp_path / "nowhere.toml")


GRADERS = """
[train.graders.code]
name = "unit-tests"
needs_reference = false
[train.graders.sql]
name = "demo-sql"
[train.graders.docs]
name = "links"
needs_reference = false
"""


def test_prompts_are_drawn_of_what_has_a_grader_that_needs_no_reference(tmp_path: Path) -> None:
    policies = load(written(tmp_path, GRADERS))
    assert policies.reward.draw.artifact_types == policies.curate.graded == ("code", "docs")
    assert policies.bodies()["reward"]["draw"]["artifact_types"] == ["code", "docs"]  # as the log has it


@pytest.mark.parametrize(
    "text", ["", '[train.graders.sql]\nname = "demo-sql"', GRADERS + '[train.evaluation]\ngenerate = "passable"']
)
def test_nothing_is_drawn_where_nobody_can_grade_it(tmp_path: Path, text: str) -> None:
    policies = load(written(tmp_path, text))
    assert (policies.reward, policies.curate) == (Policies().reward, Policies().curate)


def test_what_the_file_says_of_drawing_counts_whatever_graders_there_are(tmp_path: Path) -> None:
    said = load(written(tmp_path, GRADERS + "[reward.draw]\nartifact_types = []\nshare = 0.5\n[curate]\ngraded = ['code']"))
    assert (said.reward.draw.artifact_types, said.curate.graded) == ((), ("code",))
    share = load(written(tmp_path, GRADERS + "[reward.draw]\nshare = 0.5"))
    assert (share.reward.draw.artifact_types, share.reward.draw.share) == (("code", "docs"), 0.5)
