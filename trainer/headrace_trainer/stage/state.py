"""State of the train stage: a batch under way, and what is known of a bucket. Data; decides nothing."""

from __future__ import annotations

from msgspec import Struct

from headrace_schemas.derived import BaseIdentity, TrainingStart


class TrainingRun(Struct, frozen=True):
    """A batch under way: its pins, and the errors of its failed attempts. State key `run:<batch id>`."""

    start: TrainingStart
    errors: tuple[str, ...] = ()


class TrainBucket(Struct, frozen=True, omit_defaults=True):
    """State key `bucket:<bucket>`. `waits_for`: the evaluation that release must answer before the next batch; `untrained`:
    batches that came while the base had no weights or was another one, to be learnt in the next run; `base`: what the base was in
    the last run."""

    waits_for: str | None = None
    untrained: tuple[str, ...] = ()
    base: BaseIdentity | None = None
