"""How an example becomes a row of tokens for a base's tokenizer. Knows no Kafka, no torch, not which members a run uses."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import Any, NamedTuple

from headrace_schemas.derived import Example, Member
from headrace_schemas.root_error import HeadraceError
from headrace_trainer.data.members import RecordValues, key_of, verify
from headrace_trainer.data.rendering import render

log = logging.getLogger("headrace")


class RowUnfit(HeadraceError):
    """An example that this base's tokenizer and chat template make no row of: a role that it does not know, no tokens …"""


class TokenRow(NamedTuple):
    """One example as tokens; `weight` > 0 counts on each completion token's loss."""

    example_id: str
    prompt: tuple[int, ...]
    completion: tuple[int, ...]
    weight: float = 1.0

    @property
    def length(self) -> int:
        return len(self.prompt) + len(self.completion)


class TokenisedExample(NamedTuple):
    """A row together with the example it was made from."""

    row: TokenRow
    example: Example


def tokenise_members(
    tokenizer: Any, members: Iterable[Member], values: RecordValues, max_sequence_tokens: int
) -> list[TokenisedExample]:
    """Verified and tokenised, in the order of `members`, without those that the base cannot take: one odd example must not
    fail its batch, nor by rehearsal all later ones. MemberRefused."""
    tokenised = []
    for member in members:
        example = verify(member, values.get(key_of(member)))
        try:
            tokenised.append(TokenisedExample(tokenise(tokenizer, example, member.weight, max_sequence_tokens), example))
        except RowUnfit as error:
            log.warning("left out: %s", error)
    return tokenised


def tokenise(tokenizer: Any, example: Example, weight: float, max_sequence_tokens: int) -> TokenRow:
    """Prompt and completion are tokenised apart, as generation will meet them. Of a row over `max_sequence_tokens` the head of
    the prompt goes first, then the end of the completion; at least one token of the prompt stays. RowUnfit when it makes none."""
    where = f"example {example.example_id} revision {example.revision}"
    try:
        text = render(tokenizer, example.content)
    except Exception as error:  # a template is somebody's program
        raise RowUnfit(f"{where}: the chat template says {type(error).__name__}: {error}") from error
    prompt = tokenizer(text.prompt, add_special_tokens=not tokenizer.chat_template)["input_ids"]
    if not tokenizer.chat_template and prompt and prompt[-1] == tokenizer.eos_token_id:
        prompt = prompt[:-1]  # some tokenizers end every text
    completion = tokenizer(text.completion, add_special_tokens=False)["input_ids"][: max_sequence_tokens - 1]
    if not prompt or not completion:
        raise RowUnfit(f"{where}: its prompt or target has no tokens")
    return TokenRow(example.example_id, tuple(prompt[-(max_sequence_tokens - len(completion)) :]), tuple(completion), weight)
