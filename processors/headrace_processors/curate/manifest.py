"""What a batch is made of: members, weights, statistics and the id that covers them. Pure; knows no state and no policy file.

Weight of a train member: its worth, |reward|·decay·balance, over their mean, so that the train members weigh 1 on average. A
negative member weighs its worth on the same scale. Decay is seen from the newest member (decay.py). Test rows weigh 1 each.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import fsum
from typing import Literal

from headrace_processors import decay
from headrace_processors.curate.state import CurateBucket, ExampleRecord
from headrace_schemas.canonical import digest, rounded
from headrace_schemas.derived import Batch, BatchStatistics, Locator, Member, PromptMember
from headrace_schemas.ids import derive_id

Cause = Literal["target", "age", "drift", "rarity"]
Members = Mapping[str, ExampleRecord]  # by example id


def batch(
    bucket: CurateBucket,
    members: Members,
    pool: Members,
    validation: Members | None,
    prompts: Members,
    *,
    cause: Cause,
    target: float,
    per_day: float,
    floor: float,
    source: tuple[str, int],
    policy_digests: Mapping[str, str],
    left_out: Mapping[str, int] | None = None,
) -> Batch:
    """The manifest of `bucket` with its open `members` and its test `pool`, the rows of its `validation` pool where it has one,
    and `prompts` without a reference. `source`: topic and partition of the examples; `target`: the fill that was asked for when
    it was cut; `per_day` and `floor`: the decay; `left_out`: what it does not hold."""
    shares = _shares(members, per_day, floor)
    raw = worths(members, shares)
    train = [name for name, record in members.items() if record.role == "train"]
    mean = fsum(raw[name] for name in train) / len(train)
    listed = [_member(name, record, rounded(raw[name] / mean), source) for name, record in members.items()]
    tests = [_member(name, record, 1.0, source) for name, record in pool.items()]
    watched = None if validation is None else [_member(name, record, 1.0, source) for name, record in validation.items()]
    asked = [_prompt(name, record, source) for name, record in prompts.items()]
    statistics = BatchStatistics(
        examples=len(train),
        negatives=len(members) - len(train),
        effective_size=rounded(decay.effective_size([shares[name] for name in train])),
        mean_reward=rounded(fsum(members[name].reward for name in train) / len(train)),
        success_rate=bucket.success_rate(per_day)[0],
        left_out=None if left_out is None else dict(left_out),
    )
    return Batch(
        batch_id=batch_id(bucket.name, listed, tests, watched, asked),
        bucket=bucket.name,
        artifact_type=bucket.artifact_type,
        base=bucket.base,
        cause=cause,
        target=target,
        members=listed,
        test_pool=tests,
        statistics=statistics,
        policy_digests=dict(policy_digests),
        validation_pool=watched,
        prompts=asked or None,
    )


def least_worth(members: Members, per_day: float, floor: float, count: int) -> list[str]:
    """The `count` of `members`, oldest first, that weigh least; of equals the oldest."""
    worth = worths(members, _shares(members, per_day, floor))
    return sorted(members, key=lambda name: rounded(worth[name]))[:count]


def worths(members: Members, shares: Mapping[str, float]) -> dict[str, float]:
    """|reward|·decay·balance of each; `shares` are the decays."""
    return {name: abs(record.reward) * shares[name] * record.balance for name, record in members.items()}


def _shares(members: Members, per_day: float, floor: float) -> dict[str, float]:
    return dict(zip(members, decay.weights([record.time_ns for record in members.values()], per_day, floor), strict=True))


def batch_id(
    bucket: str,
    members: Sequence[Member],
    test_pool: Sequence[Member],
    validation_pool: Sequence[Member] | None = None,
    prompts: Sequence[PromptMember] = (),
) -> str:
    """32 hex digits over the bucket, its members, the rows of its pools and its prompts, if any; not over where they lie."""
    listed = [members, test_pool, *([] if validation_pool is None else [validation_pool])]
    parts: list[list[tuple[object, ...]]] = [[_identity(row) for row in rows] for rows in listed]
    if prompts:
        parts.append([(prompt.example_id, prompt.revision, prompt.sha256) for prompt in prompts])
    return derive_id("batch", bucket, digest(parts))


def _identity(row: Member) -> tuple[object, ...]:
    return row.example_id, row.revision, row.sha256, row.role, row.weight, row.difficulty, row.split


def _member(example_id: str, record: ExampleRecord, weight: float, source: tuple[str, int]) -> Member:
    assert record.role is not None
    return Member(
        example_id=example_id,
        revision=record.revision,
        sha256=f"sha256:{record.sha256.hex()}",
        role=record.role,
        weight=weight,
        difficulty=record.difficulty,
        split=record.split,
        locator=Locator(topic=source[0], partition=source[1], offset=record.offset),
    )


def _prompt(example_id: str, record: ExampleRecord, source: tuple[str, int]) -> PromptMember:
    return PromptMember(
        example_id=example_id,
        revision=record.revision,
        sha256=f"sha256:{record.sha256.hex()}",
        locator=Locator(topic=source[0], partition=source[1], offset=record.offset),
        drawn=record.status == "drawn",
    )
