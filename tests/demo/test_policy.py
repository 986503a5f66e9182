"""The demo's policy is the default one but for what is named with its reason, and both packages accept it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

import headrace_processors.policy_file
import headrace_trainer.policy
from headrace_demo.run.folder import Place
from headrace_demo.run.policy import BUCKETS, OVERRIDES, Override, key_names, targets
from headrace_processors.policy_file import Policies
from headrace_trainer.policy import TrainerPolicy


def leaves(body: Any, *path: str) -> Iterator[tuple[tuple[str, ...], Any]]:
    if isinstance(body, dict) and body:
        for name, value in body.items():
            yield from leaves(value, *path, name)
    else:
        yield path, body


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    place = Place(tmp_path_factory.mktemp("demo"), seed=7)
    place.settings("127.0.0.1:1")
    return place


def test_nothing_else_differs_from_the_defaults(place: Place) -> None:
    decided, default = headrace_processors.policy_file.load(place.policy), Policies()
    trained, trainer = headrace_trainer.policy.load(place.policy).body(), TrainerPolicy().body()
    assert set(trained.pop("bases")) == {"tiny-sql"}
    assert set(trained.pop("graders")) == {"sql", "docs"}
    told = dict(leaves({**decided.bodies(), "train": trained}))
    usual = dict(leaves({**default.bodies(), "train": trainer}))
    drawn = (("curate", "graded"), ("reward", "draw", "artifact_types"))  # follow from graders that need no reference
    assert [told[path] for path in drawn] == [["docs", "sql"]] * 2
    differing = {path: value for path, value in told.items() if usual.get(path) != value and path not in drawn}
    assert differing == {tuple(key_names(override.key)): override.value for override in OVERRIDES}


@pytest.mark.parametrize("override", OVERRIDES, ids=lambda override: override.key)
def test_every_override_says_why_and_what_the_default_is(override: Override) -> None:
    assert override.value != override.default
    assert len(override.reason) > 20
    assert f"{override.key} = " in str(override)
    assert override.reason in str(override)
    assert max(map(len, str(override).splitlines())) <= 80


def test_the_trainer_uses_the_base_and_the_graders_of_the_run(place: Place) -> None:
    trained = headrace_trainer.policy.load(place.policy)
    assert trained.bases["tiny-sql"].weights == str(place.base)
    assert trained.graders["sql"].options == {"database": str(place.database)}
    assert trained.graders["docs"].options == {}
    decided = headrace_processors.policy_file.load(place.policy)
    assert targets() == {bucket: decided.curate.effective_target(bucket) for bucket in BUCKETS}


def test_a_dotted_key_is_read_as_toml_reads_it() -> None:
    assert key_names('curate.targets."sql/tiny-sql"') == ["curate", "targets", "sql/tiny-sql"]
    assert key_names('train.buckets."a.b".r') == ["train", "buckets", "a.b", "r"]
