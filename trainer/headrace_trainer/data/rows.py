"""How an example becomes a row of tokens for a base's tokenizer, or is left out for a reason that is counted. Knows no Kafka, no
torch, not which members a run uses."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from functools import partial
from typing import Any, NamedTuple

from msgspec import structs

from headrace_schemas.chat_template import PromptLost
from headrace_schemas.derived import Example, Member, PromptMember
from headrace_schemas.root_error import HeadraceError
from headrace_schemas.times import NANOS, parse_ns
from headrace_streams.runtime.sealing import is_erased
from headrace_trainer.data.members import RecordValues, key_of, verify, verify_prompt
from headrace_trainer.data.rendering import ChatRenderer, Rendered

log = logging.getLogger("headrace")

_SOME_ANSWER = "-"  # stands where an answer would, in rows of which only the prompt is used

# Of an answer that does not fit, its beginning is still a lesson; less than half of it teaches how to stop short.
KEPT_OF_ANSWER = 0.5


class RowUnfit(HeadraceError):
    """An example that this base's tokenizer and chat template make no row of; `reason` for counting: template_refused,
    message_lost, answer_lost, answer_empty, answer_has_references, call_unreadable, question_too_long, answer_too_long,
    erased."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class TokenRow(NamedTuple):
    """One example as tokens; `weight` > 0 counts on each completion token's loss."""

    example_id: str
    prompt: tuple[int, ...]
    completion: tuple[int, ...]
    weight: float = 1.0

    @property
    def length(self) -> int:
        return len(self.prompt) + len(self.completion)

    @property
    def padded(self) -> int:
        """Its tokens, as it is the only row."""
        return self.length

    @property
    def size(self) -> int:
        """What it counts in a loss, beside its weight: its completion tokens."""
        return len(self.completion)


class TokenisedExample(NamedTuple):
    """A row together with the example it was made from. `shortened`: what did not fit, the head of the prompt (`prompt`) or the
    end of the answer (`answer`). `scored`: its completion is an answer that should be given, so that its loss says something.
    `drawn`: it is there whatever was said of the answer to it."""

    row: TokenRow
    example: Example
    shortened: str | None = None
    scored: bool = True
    drawn: bool = False


class UnfitExample(NamedTuple):
    """An example of which no row was made, and the reason as it is counted."""

    example: Example
    reason: str


class TokenisedMembers(NamedTuple):
    """Rows in the order of their members; how many members were left out, by reason, which, and how many rows shortened, by
    what."""

    examples: list[TokenisedExample]
    left_out: dict[str, int]
    shortened: dict[str, int]
    unfit: list[UnfitExample]


class RowTokeniser:
    """Makes rows of at most `max_sequence_tokens` for one tokenizer. `stops`: the tokens that end an answer (the tokenizer's own,
    unless they are given), the first of them where a template ends an answer by none."""

    def __init__(self, tokenizer: Any, max_sequence_tokens: int, stops: Sequence[int] = ()) -> None:
        self._tokenizer, self._limit = tokenizer, max_sequence_tokens
        self._renderer = ChatRenderer(tokenizer, stops)

    def members(self, members: Iterable[Member], values: RecordValues) -> TokenisedMembers:
        """Verified and tokenised, without those that the base cannot take: one odd example must not fail its batch, nor by
        rehearsal all later ones. MemberRefused."""
        made = []
        for member in members:
            value = values.get(key_of(member))
            example = verify(member, value)
            made.append((example, partial(_erased, example) if is_erased(value) else partial(self._lesson, example, member)))
        return _made(made)

    def prompts(self, members: Iterable[PromptMember], values: RecordValues) -> TokenisedMembers:
        """The same for prompts without a reference. MemberRefused."""
        made = []
        for member in members:
            value = values.get(key_of(member))
            example = verify_prompt(member, value)
            question = partial(self.question, example, drawn=member.drawn)
            made.append((example, partial(_erased, example) if is_erased(value) else question))
        return _made(made)

    def _lesson(self, example: Example, member: Member) -> TokenisedExample:
        return self.example(example, member.weight)._replace(scored=member.role == "train")

    def example(self, example: Example, weight: float) -> TokenisedExample:
        """The prompt is tokenised as a served model meets it, the completion as what follows it. Of a row that is too long the
        head of the prompt goes first, up to the question; then the end of the answer. RowUnfit when it makes none."""
        where = f"example {example.example_id} revision {example.revision}"
        try:
            text = self._renderer.render(example.content, now=_time_of(example))
        except PromptLost as error:
            raise RowUnfit(error.reason, f"{where}: {error}") from error
        except Exception as error:  # one odd example must not fail its batch
            raise RowUnfit("template_refused", f"{where}: {type(error).__name__}: {error}") from error
        prompt, completion = self._tokens(text)
        if not prompt or len(completion) < 2:  # a stop alone is no lesson
            raise RowUnfit("answer_empty" if prompt else "message_lost", f"{where}: its prompt or target has no tokens")
        shortened = None
        if len(prompt) + len(completion) > self._limit:
            begins = prompt[:1] if prompt[0] == self._tokenizer.bos_token_id else []  # stays: no model is asked without it
            question = len(begins) + len(prompt) - max(len(begins), self._tokens_before(text, prompt))
            room = self._limit - question
            if room < 1:
                raise RowUnfit("question_too_long", f"{where}: its question takes {question} of {self._limit} tokens")
            if len(completion) > room:
                if room < KEPT_OF_ANSWER * len(completion):
                    raise RowUnfit(
                        "answer_too_long", f"{where}: beside its question {room} of {len(completion)} tokens of its answer fit"
                    )
                completion, shortened = completion[:room], "answer"
            else:
                shortened = "prompt"
            kept = min(len(prompt), self._limit - len(completion)) - len(begins)
            prompt = [*begins, *prompt[len(prompt) - kept :]]
        row = TokenRow(example.example_id, tuple(prompt), tuple(completion), weight)
        return TokenisedExample(row, example, shortened)

    def question(self, example: Example, *, drawn: bool = False) -> TokenisedExample:
        """The prompt of an example whose target says nothing, as a served model meets it. RowUnfit."""
        content = structs.replace(example.content, target=_SOME_ANSWER)
        row = self.example(structs.replace(example, content=content), 1.0)
        return row._replace(example=example, scored=False, drawn=drawn)

    def _tokens(self, text: Rendered) -> tuple[list[int], list[int]]:
        """Of prompt and completion with its stop. Where prompt and completion together are other tokens at the joint than apart,
        the prompt is what the model meets, and the completion goes on from there."""
        prompt, whole = self._ids(text.prompt, text.mark), self._ids(text.prompt + text.completion, text.mark)
        if whole[: len(prompt)] == prompt:
            return prompt, [*whole[len(prompt) :], text.stop]
        special = self._renderer.special
        plain = not self._tokenizer.chat_template
        apart = special.continuation(text.completion) if plain else special.encode(text.completion, text.mark, follows=True)
        return prompt, [*apart, text.stop]

    def _ids(self, text: str, mark: str | None) -> list[int]:
        """With a template its special tokens alone; without one as the tokenizer begins a text, with no special token out of it
        and none at its end: some end every text."""
        if self._tokenizer.chat_template:
            return self._renderer.special.encode(text, mark)
        ids = list(self._tokenizer(text, split_special_tokens=True)["input_ids"])
        return ids[:-1] if len(ids) > 1 and ids[-1] in (self._tokenizer.eos_token_id, self._tokenizer.sep_token_id) else ids

    def _tokens_before(self, text: Rendered, prompt: list[int]) -> int:
        """How many tokens of the prompt may go: those before its question."""
        head = text.prompt[: text.question]
        before = self._ids(head, text.mark) if head else []
        same = 0
        while same < min(len(before), len(prompt)) and before[same] == prompt[same]:
            same += 1
        return same


def _time_of(example: Example) -> datetime:
    """What a template that writes the date is told: the time of what was asked, which is pinned with the example."""
    return datetime.fromtimestamp(parse_ns(example.event_time) / NANOS, UTC)


def _erased(example: Example) -> TokenisedExample:
    where = f"example {example.example_id} revision {example.revision}"
    raise RowUnfit("erased", f"{where}: the key of its texts was erased")


def _made(rows: Iterable[tuple[Example, Callable[[], TokenisedExample]]]) -> TokenisedMembers:
    """The rows that can be made, and what became of the others."""
    examples: list[TokenisedExample] = []
    unfit: list[UnfitExample] = []
    left_out, shortened = Counter[str](), Counter[str]()
    for example, make in rows:
        try:
            made = make()
        except RowUnfit as error:
            left_out[error.reason] += 1
            unfit.append(UnfitExample(example, error.reason))
            if left_out[error.reason] == 1:  # the others are in the count
                log.warning("left out: %s", error)
            continue
        examples.append(made)
        if made.shortened is not None:
            shortened[made.shortened] += 1
    return TokenisedMembers(examples, dict(left_out), dict(shortened), unfit)
