"""Which members a run learns from, watches and is tested on, from its manifest and pins. Pure; knows no records and no tokens.

The trainer and `headrace dataset --release` both ask here, so that a data set is what trained its release.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple, TypeVar

from msgspec import structs

from headrace_schemas.canonical import digest
from headrace_schemas.derived import Batch, Member, PromptMember, TrainingStart

M = TypeVar("M", Member, PromptMember)


class RunMembers(NamedTuple):
    """The members of a run, each list in the order of its manifest; those that were withdrawn before it began are in none."""

    training: list[Member]  # the batch's own that are learnt from, bad answers among them where the run learns from those
    rehearsal: list[Member]  # of earlier batches, learnt from again
    validation: list[Member]  # what early stopping looks at
    test: list[Member]  # what candidate and incumbent are compared on
    prompts: list[PromptMember]  # and what they are asked without a reference: graded, never a loss

    def all(self) -> list[Member | PromptMember]:
        return [*self.training, *self.rehearsal, *self.validation, *self.test, *self.prompts]


def counts_text(counts: Mapping[str, Mapping[str, int]] | None) -> str:
    """Counts of rows by side and reason, in words: `training: 2 answer_empty, 1 message_lost; test: …`."""
    sides = (
        f"{side}: {', '.join(f'{count} {reason}' for reason, count in found.items())}" for side, found in (counts or {}).items()
    )
    return "; ".join(sides)


def run_members(batch: Batch, start: TrainingStart) -> RunMembers:
    """What the run with the pins `start` uses of `batch`."""
    used = without_withdrawn(batch, start.withdrawn)
    learnt = learnt_members(used.members, bool(start.avoids))
    seen = [member for member in watched(used) if _is_watched(member, bool(start.avoids))]
    return RunMembers(learnt, start.rehearsal, seen, used.test_pool, used.prompts or [])


def dataset_members(batch: Batch, start: TrainingStart) -> list[Member]:
    """What a data set of the run holds, in the order of the manifest and then of the pins: all that it learnt from or watched."""
    used, avoids = without_withdrawn(batch, start.withdrawn), bool(start.avoids)
    named = (*watched(used), *start.rehearsal)
    return [member for member in named if is_learnt(member, avoids) or _is_watched(member, avoids)]


def members_digest(members: Iterable[Member]) -> str:
    """One digest for what a run learnt from and watched: ids, revisions, digests of the records, roles, weights and sides, in
    their order, wherever they lie. Two data sets of equal members are equal, whatever form they are written in."""
    return digest([[one.example_id, one.revision, one.sha256, one.role, one.weight, one.split] for one in members])


def watched(batch: Batch) -> list[Member]:
    """Members and rows of the validation pool."""
    return [*batch.members, *(batch.validation_pool or ())]


def is_training(member: Member) -> bool:
    """Its target is learnt from: role train, split train, a weight above zero."""
    return member.role == "train" and member.split == "train" and member.weight > 0


def is_validation(member: Member) -> bool:
    """Early stopping looks at it: role train, split validation."""
    return member.role == "train" and member.split == "validation"


def is_negative(member: Member) -> bool:
    """Its output is to be avoided: the rejected side of pairs. Never of the test side."""
    return member.role == "negative" and member.split != "test"


def is_avoided(member: Member) -> bool:
    """An objective that learns from bad answers learns from it: a negative, split train, a weight above zero."""
    return member.role == "negative" and member.split == "train" and member.weight > 0


def is_learnt(member: Member, avoids: bool) -> bool:
    """A run learns from it: to say so, or, if its objective `avoids`, not to."""
    return is_training(member) or (avoids and is_avoided(member))


def _is_watched(member: Member, avoids: bool) -> bool:
    return is_validation(member) or (avoids and member.role == "negative" and member.split == "validation")


def learnt_members(members: Iterable[Member], avoids: bool) -> list[Member]:
    """What a run learns from: what is to be learnt, and what is to be avoided, if its objective `avoids`."""
    return [member for member in members if is_learnt(member, avoids)]


def training_members(members: Iterable[Member]) -> list[Member]:
    return [member for member in members if is_training(member)]


def validation_members(members: Iterable[Member]) -> list[Member]:
    return [member for member in members if is_validation(member)]


def without_withdrawn(batch: Batch, withdrawn: Sequence[str] | None) -> Batch:
    """The batch as a run uses it: the manifest stays as it was cut, but what was withdrawn since is not read."""
    ids = frozenset(withdrawn or ())
    return structs.replace(
        batch,
        members=_left(batch.members, ids),
        test_pool=_left(batch.test_pool, ids),
        validation_pool=None if batch.validation_pool is None else _left(batch.validation_pool, ids),
        prompts=None if batch.prompts is None else _left(batch.prompts, ids),
    )


def _left(listed: Sequence[M], withdrawn: frozenset[str]) -> list[M]:
    return [member for member in listed if member.example_id not in withdrawn]
