"""What a person writes in `[train]` is taken as it stands, or refused in one line that names file, key and value."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import BaseModel

from headrace_streams.policy import PolicyError
from headrace_trainer import policy
from headrace_trainer.policy import load


@pytest.mark.parametrize(
    ("body", "named"),
    [
        ("[train.defaults]\nbatch_rows = 8", "train.defaults.batch_rows"),
        ("[train.defaults]\nmax_sequence_tokens = 4", "train.defaults.max_sequence_tokens = 4"),
        ("[train.buckets.'sql/tiny']\nmax_tokens = 64", "train.buckets.sql/tiny.max_tokens"),
        ("[train]\nattempts = 0", "train.attempts = 0"),
    ],
)
def test_a_wrong_key_or_value_is_one_line(tmp_path: Path, body: str, named: str) -> None:
    path = tmp_path / "policy.toml"
    path.write_text(body)
    with pytest.raises(PolicyError) as refused:
        load(path)
    assert str(refused.value).startswith(f"policy file {path}: {named}")
    assert "\n" not in str(refused.value)


def test_a_bucket_overrides_field_by_field(tmp_path: Path) -> None:
    path = tmp_path / "policy.toml"
    path.write_text("[train.defaults]\nrows_per_step = 4\nr = 2\n[train.buckets.'sql/tiny']\nr = 6\n")
    hyper = load(path).hyperparameters("sql/tiny")
    assert (hyper.rows_per_step, hyper.r) == (4, 6)
    assert load(path).hyperparameters("docs/tiny").r == 2


def test_every_key_says_what_it_is() -> None:
    models = [model for model in vars(policy).values() if isinstance(model, type) and issubclass(model, BaseModel)]
    silent = [
        f"{model.__name__}.{name}" for model in models for name, field in model.model_fields.items() if not field.description
    ]
    assert policy.Hyperparameters in models
    assert silent == []
