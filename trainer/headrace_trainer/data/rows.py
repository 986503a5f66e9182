"""Which rows a run uses, and how a record becomes one: members verified by digest, rehearsal from earlier batches. Knows no
Kafka; tokens come from the base's tokenizer.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from msgspec import structs

from headrace_schemas.canonical import sha256
from headrace_schemas.codec import DecodeError, decode
from headrace_schemas.derived import Batch, Example, Member
from headrace_schemas.events import ExampleRewarded
from headrace_schemas.ids import derive_id
from headrace_schemas.root_error import HeadraceError
from headrace_trainer.data.rendering import render
from headrace_trainer.spec import Name, Row

log = logging.getLogger("headrace")

# Pinned rows of a run: as many as a record of `runs` holds, with room. A base may be without weights for a long time.
PINNED_LIMIT = 16_000


class MemberRefused(HeadraceError):
    """A record that is not the one that the manifest names."""


class RowUnfit(HeadraceError):
    """An example that this base's tokenizer and chat template make no row of: a role that it does not know, no tokens …"""


class Lesson(NamedTuple):
    """A row together with the example it was made from."""

    row: Row
    example: Example


def name_of(member: Member) -> Name:
    return member.example_id, member.revision


def verify(member: Member, value: bytes | None) -> Example:
    """The example of `member` out of the record found at its locator. MemberRefused unless it is that very record."""
    place = f"{member.locator.topic}/{member.locator.partition}/{member.locator.offset}"
    named = f"member {member.example_id} revision {member.revision} at {place}"
    if value is None:
        raise MemberRefused(f"{named}: there is no such record")
    if (found := sha256(value)) != member.sha256:
        raise MemberRefused(f"{named}: the record is {found}, the manifest says {member.sha256}")
    try:
        event = decode(value)
    except DecodeError as error:
        raise MemberRefused(f"{named}: {error}") from error
    if not isinstance(event, ExampleRewarded) or (event.data.example_id, event.data.revision) != name_of(member):
        raise MemberRefused(f"{named}: the record is another's")
    return event.data


def to_learn(members: Iterable[Member]) -> list[Member]:
    """Members whose target is learnt from: role train, split train, a weight above zero."""
    return [member for member in members if member.role == "train" and member.split == "train" and member.weight > 0]


def to_watch(members: Iterable[Member]) -> list[Member]:
    """Members that early stopping looks at: role train, split validation."""
    return [member for member in members if member.role == "train" and member.split == "validation"]


def lessons(tokenizer: Any, members: Iterable[Member], values: Mapping[Name, bytes], max_tokens: int) -> list[Lesson]:
    """Verified and tokenised, in the order of `members`, without those that the base cannot take: one odd example must not
    fail its batch, nor by rehearsal all later ones."""
    made = []
    for member in members:
        example = verify(member, values.get(name_of(member)))
        try:
            made.append(Lesson(row_of(tokenizer, example, member.weight, max_tokens), example))
        except RowUnfit as error:
            log.warning("left out: %s", error)
    return made


def row_of(tokenizer: Any, example: Example, weight: float, max_tokens: int) -> Row:
    """Prompt and completion are tokenised apart, as generation will meet them. Of a row over `max_tokens` the head of the
    prompt goes first, then the end of the completion; at least one token of the prompt stays. RowUnfit when it makes none."""
    named = f"example {example.example_id} revision {example.revision}"
    try:
        text = render(tokenizer, example.content)
    except Exception as error:  # a template is somebody's program
        raise RowUnfit(f"{named}: the chat template says {type(error).__name__}: {error}") from error
    prompt = tokenizer(text.prompt, add_special_tokens=not tokenizer.chat_template)["input_ids"]
    if not tokenizer.chat_template and prompt and prompt[-1] == tokenizer.eos_token_id:
        prompt = prompt[:-1]  # some tokenizers end every text
    completion = tokenizer(text.completion, add_special_tokens=False)["input_ids"][: max_tokens - 1]
    if not prompt or not completion:
        raise RowUnfit(f"{named}: its prompt or target has no tokens")
    return Row(example.example_id, tuple(prompt[-(max_tokens - len(completion)) :]), tuple(completion), weight)


def rehearsal_rows(batch: Batch, pool: Sequence[Member], share: float, whole: Sequence[Member] = ()) -> list[Member]:
    """Rows of earlier batches to train on again: all of `whole`, and of `pool` so many that they make `share` of all rows; no
    more than `PINNED_LIMIT`, of `whole` the last.

    Chosen by a digest of batch and example, so that anybody chooses the same; rows that are in the batch anyway are left out.
    """
    present = {member.example_id for member in batch.members}
    kept = [member for member in to_learn(whole) if member.example_id not in present]
    chosen = {member.example_id: member for member in kept[-PINNED_LIMIT:]}
    rows = len(to_learn(batch.members)) + len(chosen)
    wanted = min(round(rows * share / (1 - share)), PINNED_LIMIT - len(chosen))
    rest = [member for member in to_learn(pool) if member.example_id not in present and member.example_id not in chosen]
    rest.sort(key=lambda member: derive_id("rehearsal", batch.batch_id, member.example_id))
    return sorted([*chosen.values(), *rest[:wanted]], key=lambda member: member.example_id)


class Newest:
    """What `examples` says now of every example it saw, in the order of offsets: the newest revision, or withdrawn.

    Feed it every record of a bucket's partition; `current` turns the members of an old batch into rows for today. It keeps a
    digest only where a member's own would be out of date.
    """

    def __init__(self) -> None:
        self._known: dict[str, _Standing | None] = {}

    def saw(self, example_id: str, revision: int, learnable: bool, offset: int, value: bytes) -> None:
        """`learnable`: it may be trained on and is worth something; `value`: the record's."""
        old = self._known.get(example_id)
        if old is None and example_id in self._known:
            return  # retracted or erased: for ever
        if old is None or revision > old.revision:
            self._known[example_id] = _Standing(revision, learnable, offset, sha256(value) if revision > 1 else None)

    def withdrew(self, example_id: str, revision: int, *, for_ever: bool) -> None:
        """`for_ever`: retracted or erased; else only its feedback was taken back, and a later revision brings it back."""
        if for_ever:
            self._known[example_id] = None
        elif example_id not in self._known or self._known[example_id] is not None:
            self._known[example_id] = _Standing(revision, False, -1, None)

    def gone(self, members: Iterable[Member]) -> list[str]:
        """Ids of those that are withdrawn now, for whatever reason: where only the feedback was taken back, an erasure that
        comes later finds nothing to withdraw and is not told."""
        known = {member.example_id: self._known[member.example_id] for member in members if member.example_id in self._known}
        return sorted(name for name, standing in known.items() if standing is None or standing.offset < 0)

    def current(self, members: Iterable[Member]) -> list[Member]:
        """Members at their newest revision (weight and split stay), each example once; without those that were withdrawn, may
        not be trained on any more or are no longer worth it."""
        found: dict[str, Member] = {}
        for member in members:
            standing = self._known.get(member.example_id)
            if standing is None or not standing.learnable:
                continue
            if standing.digest is not None and standing.revision > member.revision:
                locator = structs.replace(member.locator, offset=standing.offset)
                member = structs.replace(member, revision=standing.revision, sha256=standing.digest, locator=locator)
            found[member.example_id] = member
        return list(found.values())


def without(batch: Batch, withdrawn: Sequence[str] | None) -> Batch:
    """The batch as a run uses it: the manifest stays as it was cut, but what was withdrawn since is not read."""
    gone = frozenset(withdrawn or ())
    members, pool = ([row for row in rows if row.example_id not in gone] for rows in (batch.members, batch.test_pool))
    return structs.replace(batch, members=members, test_pool=pool)


class _Standing(NamedTuple):
    revision: int
    learnable: bool
    offset: int
    digest: str | None
