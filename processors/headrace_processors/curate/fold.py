"""Curate: which examples are worth learning, and when a bucket of them is worth a run. A pure fold over `examples`.

Decides in this order (step.py): is the revision new, is the example good for something (filters.py), is its content new, and is
it another than those that are open (near_duplicates.py); then what is not on the train side goes to a pool of the bucket (test,
validation, prompts), if its target is not learnt from, and everything else into the open bucket, which is cut when its fill
reaches the target (thresholds.py), unless what is served satisfies all requirements or is already good enough.

A duplicate is the later one; when the earlier leaves, the later comes in with its next revision. "Good enough" is asked of
answers by the bucket's own base since what is served last changed: how well another model does says nothing about the learner.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Any

from msgspec import Struct
from msgspec.structs import replace

from headrace_processors.curate import assessed, changelog, events, filters
from headrace_processors.curate import state as curate_state
from headrace_processors.curate.appraisal import Appraisal, appraise
from headrace_processors.curate.policy import NEWEST, CuratePolicy
from headrace_processors.curate.state import ASSESSED, BUCKET, AssessedBucket, CurateBucket, ExampleRecord
from headrace_processors.curate.step import CurateRules, CurateStep
from headrace_schemas.events import (
    ClockTicked,
    ExampleRewarded,
    ExampleSettled,
    ExampleWithdrawn,
    PromptDrawn,
    RequirementsTracked,
)
from headrace_schemas.examples import decode_example
from headrace_schemas.topics import DAY_MS
from headrace_streams.runtime.sealing import owner_of as sealed_with
from headrace_streams.runtime.stage import Fold, Headers, Record, Step, Write


class _Ahead(Struct):
    """What was found out about a record before its turn."""

    value: bytes
    headers: Headers
    event: Any
    appraisal: Appraisal | None = None  # of an example only


class CurateFold(Fold):
    """The fold under one policy, as `stage.Fold` describes it. `examples` in; `rejections` and `batches` out."""

    gauged = BUCKET
    texts_meet = True  # duplicates, and when a bucket is full

    def __init__(self, policy: CuratePolicy, digest: str, *, version: int) -> None:
        """`digest` is that of the policy body as recorded, which today's model need not have."""
        self._rules = CurateRules(version, policy, filters.rules(policy, version), {"curate": digest})
        self._keep_ms = None if policy.keep_days is None else round(policy.keep_days * DAY_MS)
        self._settle_ms = round(policy.settle_after_days * DAY_MS)
        self._ahead: dict[int, _Ahead] = {}  # by the identity of a value, which lives as long as it stands there

    def look_ahead(self, records: Sequence[tuple[bytes, Headers]]) -> None:
        """Reads and appraises them at once: a call of numpy costs about as much for one text as for many. What goes wrong here
        goes wrong again, and is told of, when it is the record's turn."""
        self._ahead = {}
        examples: list[_Ahead] = []
        for value, headers in records:
            with suppress(Exception):
                event = decode_example(value, headers)
                self._ahead[id(value)] = ahead = _Ahead(value, headers, event)
                if isinstance(event, ExampleRewarded):
                    examples.append(ahead)
        with suppress(Exception):
            appraised = appraise(self._rules.policy, self._rules.version, [(ahead.event.data, ahead.value) for ahead in examples])
            for ahead, appraisal in zip(examples, appraised, strict=True):
                ahead.appraisal = appraisal

    def step(self, state: Mapping[str, Any], record: Record) -> Step:
        ahead = self._ahead.pop(id(record.value), None)
        if ahead is not None and ahead.headers != record.headers:
            ahead = None
        event = decode_example(record.value, record.headers) if ahead is None else ahead.event
        step = CurateStep(self._rules, state, record, getattr(event, "traceparent", None))
        match event:
            case ExampleRewarded(data=example):
                step.count(step.rewarded(example, None if ahead is None else ahead.appraisal))
            case PromptDrawn(data=prompt):
                step.count(step.drawn(prompt))
            case ExampleSettled(data=settlement):
                step.settled(settlement)
                step.count("settled")
            case ExampleWithdrawn(data=withdrawal):
                step.withdrawn(withdrawal)
                step.count("withdrawn")
            case RequirementsTracked(data=tracking):
                step.tracked(tracking)
                step.count("tracked")
            case ClockTicked(data=tick):
                for example_id in tick.examples or ():
                    if (known := step.state.example(tick.bucket, example_id)) is not None and self._is_due(known, record.now):
                        step.due(tick.bucket, example_id, known)
                step.ticked(tick.bucket)
                step.count("ticks")
            case _:
                raise ValueError(f"{type(event).__name__}: not an event that curate decides about")
        step.age()
        owner = sealed_with(record.topic, record.headers)
        if owner is not None and isinstance(event, ExampleRewarded):
            key = curate_state.key_of_example(event.data.bucket, event.data.example_id)
            return step.finished()._replace(owners={key: owner})
        return step.finished()

    def stand_in(self, key: str, value: bytes) -> bytes:
        """An example without its sketch, from which pieces of its texts could be guessed."""
        return changelog.dump(replace(changelog.load(key, value), sketch=b""))

    def load(self, key: str, value: bytes) -> Any:
        return changelog.load(key, value)

    def dump(self, key: str, value: Any) -> bytes:
        return changelog.dump(value)

    def derive(self, state: Mapping[str, Any]) -> Mapping[str, Any]:
        return curate_state.derive(state)

    def gauges(self, key: str, value: Any) -> tuple[str, Mapping[str, float]]:
        return value.name, curate_state.bucket_gauges(value)

    def deadline(self, key: str, value: Any) -> int | None:
        """When an open bucket reaches the age limit, when an example that waits is taken, when another is forgotten, and when it
        is said how a bucket stands."""
        kind = type(value)  # three times as fast as `isinstance`, and asked of every change
        if kind is AssessedBucket:
            return assessed.due_ms(value)
        return self._due_ms(value) if kind is ExampleRecord else value.due_ms if kind is CurateBucket else None

    def overdue(self, state: Mapping[str, Any], keys: Sequence[str], now: int) -> Sequence[Write]:
        """One tick, however many buckets are due: it lets time pass for all. One for each bucket with examples that are due,
        which names them: a fold that looked through all examples would do so at every record."""
        examples: dict[str, list[str]] = {}
        buckets: list[str] = []
        for key in keys:
            value = state[key]
            if isinstance(value, CurateBucket):
                buckets.append(value.name)
            elif isinstance(value, AssessedBucket):
                examples.setdefault(key.removeprefix(ASSESSED), [])
            else:
                bucket, example_id = curate_state.example_key(key)
                examples.setdefault(bucket, []).append(example_id)
        named = examples or {buckets[0]: []}
        return [events.tick("examples", bucket, ids, now) for bucket, ids in named.items()]

    def _due_ms(self, example: ExampleRecord) -> int | None:
        if not example.seen_ms or example.status == "open":  # what version 1 wrote is not timed: it stays
            return None
        after = self._settle_ms if example.status == "waiting" else self._keep_ms
        return None if after is None else example.seen_ms + after

    def _is_due(self, example: ExampleRecord, now_ms: int) -> bool:
        due_ms = self._due_ms(example)
        return due_ms is not None and due_ms <= now_ms


def build(body: Mapping[str, Any], digest: str, version: int = NEWEST) -> CurateFold:
    """The fold under a policy body; `digest` names it in what is written."""
    return CurateFold(CuratePolicy.model_validate(body), digest, version=version)


build_1 = partial(build, version=1)
build_2 = partial(build, version=2)
build_3 = partial(build, version=3)
build_4 = partial(build, version=4)
