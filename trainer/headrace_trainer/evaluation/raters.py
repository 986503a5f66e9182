"""Whether a grader would judge what it has taught itself. Knows whom feedback came from, no models.

A grader that asks a model has that model's taste. Where it alone rated what was learnt, a head that pleases it more has shown
nothing else; one that runs, parses or compares answers has no taste to please.
"""

from __future__ import annotations

from collections.abc import Iterable

from headrace_schemas.derived import Example
from headrace_trainer.policy import GraderPolicy

_MODELS = ("agent", "validator")  # kinds of principals that may be models; the others are people, and tests


def self_graded(policy: GraderPolicy, learnt: Iterable[Example]) -> str | None:
    """Why a grader's grades say nothing about a head that has learnt these rows; None when they do: it executes, or somebody else
    rated one of them too, or nobody said who rated it."""
    if policy.execution:
        return None
    names, rows = {policy.name, *policy.raters}, 0
    for example in learnt:
        raters = [principal.partition(":") for principal in example.principals or ()]
        if not raters or not all(kind in _MODELS and name in names for kind, _, name in raters):
            return None
        rows += 1
    if not rows:
        return None
    return (
        f"self_graded: grader {policy.name!r} asks a model (execution = false in its policy) and is all who rated the "
        f"{rows} rows that were learnt"
    )
