"""Which rows of earlier batches a run trains on again, and what `examples` says of them now. Pure; knows no Kafka, no tokens."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from msgspec import structs

from headrace_schemas.canonical import sha256
from headrace_schemas.derived import Batch, Member, PromptMember
from headrace_schemas.ids import derive_id
from headrace_schemas.selection import learnt_members

# Pinned rows of a run: as many as a record of `runs` holds, with room. A base may be without weights for a long time.
PINNED_LIMIT = 16_000


def rehearsal_rows(
    batch: Batch,
    pool: Sequence[Member],
    share: float,
    whole: Sequence[Member] = (),
    *,
    avoids: bool = False,
    chosen_by: Callable[[str], str] = str,
) -> list[Member]:
    """Rows of earlier batches to train on again: all of `whole`, and of `pool` so many that they make `share` of all rows; no
    more than `PINNED_LIMIT`, of `whole` the last.

    Chosen by a digest of batch and example, so that anybody chooses the same; rows that are in the batch anyway are left out.
    `avoids`: bad answers are learnt from, too; `chosen_by`: of an example, what it is chosen together with.
    """
    present = {member.example_id for member in batch.members}
    unseen = [member for member in learnt_members(whole, avoids) if member.example_id not in present]
    chosen = {member.example_id: member for member in unseen[-PINNED_LIMIT:]}
    rows = len(learnt_members(batch.members, avoids)) + len(chosen)
    wanted = min(round(rows * share / (1 - share)), PINNED_LIMIT - len(chosen))
    candidates = [
        member for member in learnt_members(pool, avoids) if member.example_id not in present and member.example_id not in chosen
    ]
    candidates.sort(key=lambda member: derive_id("rehearsal", batch.batch_id, chosen_by(member.example_id)))
    return sorted([*chosen.values(), *candidates[:wanted]], key=lambda member: member.example_id)


class LatestRevisions:
    """What `examples` says now of every example on it, in the order of offsets: its latest revision, or withdrawn.

    Feed it every record of a bucket's partition; `current` turns the members of an old batch into rows for today. It keeps a
    digest only where a member's own would be out of date.
    """

    def __init__(self) -> None:
        self._latest: dict[str, _Revision | None] = {}  # None: retracted or erased

    def add(self, example_id: str, revision: int, learnable: bool, offset: int, value: bytes, *, avoidable: bool = False) -> None:
        """`learnable`: it may be trained on and is worth something; `avoidable`: it may, and is worth less than nothing; `value`:
        the record's."""
        known = self._latest.get(example_id)
        if known is None and example_id in self._latest:
            return  # retracted or erased: for ever
        if known is None or revision > known.number:
            self._latest[example_id] = _Revision(revision, learnable, offset, sha256(value) if revision > 1 else None, avoidable)

    def withdraw(self, example_id: str, revision: int, *, for_ever: bool) -> None:
        """`for_ever`: retracted or erased; else only its feedback was taken back, and a later revision brings it back."""
        if for_ever:
            self._latest[example_id] = None
        elif example_id not in self._latest or self._latest[example_id] is not None:
            self._latest[example_id] = _Revision(revision, False, -1, None)

    def withdrawn(self, members: Iterable[Member | PromptMember]) -> list[str]:
        """Ids of those that are withdrawn now, for whatever reason: where only the feedback was taken back, an erasure that
        comes later finds nothing to withdraw and is not told."""
        known = {member.example_id for member in members} & self._latest.keys()
        return sorted(each for each in known if (revision := self._latest[each]) is None or revision.offset < 0)

    def current(self, members: Iterable[Member]) -> list[Member]:
        """Members at their latest revision (weight and split stay), each example once; without those that were withdrawn, may
        not be trained on any more or are no longer worth it."""
        chosen: dict[str, Member] = {}
        for member in members:
            latest = self._latest.get(member.example_id)
            if latest is None or not (latest.avoidable if member.role == "negative" else latest.learnable):
                continue
            if latest.digest is not None and latest.number > member.revision:
                locator = structs.replace(member.locator, offset=latest.offset)
                member = structs.replace(member, revision=latest.number, sha256=latest.digest, locator=locator)
            chosen[member.example_id] = member
        return list(chosen.values())


class _Revision(NamedTuple):
    """`offset` -1: its feedback was taken back; `digest` None: a first revision, whose member has it."""

    number: int
    learnable: bool
    offset: int
    digest: str | None
    avoidable: bool = False
