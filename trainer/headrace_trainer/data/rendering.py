"""How an example becomes text for a model: the prompt that a served model meets, and what it has to say then, up to its stop.
Knows chat templates of transformers tokenizers; no tokens but the ids that stop, no torch.

With a chat template the prompt is what the template makes of the messages, the completion what it adds for the assistant's
answer, up to the first token that ends an answer. Without one both are as `headrace_schemas.plain_chat` says.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import datetime
from typing import Any, NamedTuple

from headrace_schemas.chat import answer_of, changed_message, changed_tool, conversation, has_references, text_of
from headrace_schemas.chat_template import (
    THOUGHT_END,
    THOUGHT_TAGS,
    MessageDict,
    PromptForm,
    PromptLost,
    TokenizerTemplate,
    answer_forms,
    missing,
    template_prompt,
)
from headrace_schemas.derived import Content
from headrace_schemas.inputs import Message, Output
from headrace_schemas.plain_chat import plain_answer, plain_prompt, reads_back
from headrace_trainer.data.escapes import SpecialTokens

_OPENED = re.compile(rf"<(?P<tag>{'|'.join(THOUGHT_TAGS)})>\s*\Z")
_THOUGHT_MARKUP = [f"<{slash}{tag}>" for tag in THOUGHT_TAGS for slash in ("", "/")]
_MARK = "Qx0xQ"


class Rendered(NamedTuple):
    """`prompt` and `completion` join to what the served model meets and says; `stop` is the token behind them. Special tokens in
    somebody's text are escaped with `mark`. `question`: where in the prompt the last text of the user begins."""

    prompt: str
    completion: str
    stop: int
    question: int = 0
    mark: str | None = None


class ChatRenderer:
    """Renders for one tokenizer. `stops`: what ends an answer, the first is the tokenizer's own."""

    def __init__(self, tokenizer: Any, stops: Sequence[int] = ()) -> None:
        self.tokenizer, self.special = tokenizer, SpecialTokens(tokenizer)
        self.stops = tuple(stops) or (tokenizer.eos_token_id,)
        self._stop_texts: dict[str, int] = {str(tokenizer.convert_ids_to_tokens(stop)): stop for stop in self.stops}

    def render(self, content: Content, target: Output | None = None, now: datetime | None = None) -> Rendered:
        """Prompt and completion of `content` (completion of `target`, by default the content's own), as at `now` for templates
        that write the date. PromptLost when something of it cannot be said to this base."""
        wanted = content.target if target is None else target
        if has_references(wanted):
            raise PromptLost("answer_has_references", "the answer holds a reference, which is no text")
        answer, messages = answer_of(wanted), conversation(content.prompt, content.context)
        tools = list(content.tools or ())
        question = next((text_of(each) for each in reversed(conversation(content.prompt)) if each.role == "user"), "").strip()
        if not plain_answer(answer).strip():
            raise PromptLost("answer_empty", "the answer is empty")
        if not self.tokenizer.chat_template:
            if answer.tool_calls and not reads_back(answer):
                raise PromptLost("call_unreadable", "a call of the answer cannot be read back out of its text")
            prompt = plain_prompt(messages, tools)
            return Rendered(prompt, plain_answer(answer), self.stops[0], _position(question, prompt))
        mark = self.special.mark_for(_texts([*messages, answer], tools))
        messages = [changed_message(each, lambda text: self.special.escape(text, mark)) for each in messages]
        answer = changed_message(answer, lambda text: self.special.escape(text, mark, _THOUGHT_MARKUP))
        tools = [changed_tool(each, lambda text: self.special.escape(text, mark)) for each in tools]
        template = _Template(self.tokenizer, now)
        form = template_prompt(template, messages, tools)
        completion, stop = self._completion(template, form, answer)
        return Rendered(form.text, completion, stop, _position(self.special.escape(question, mark), form.text), mark)

    def _completion(self, template: _Template, form: PromptForm, answer: Message) -> tuple[str, int]:
        trouble: PromptLost | None = None
        for each in answer_forms(answer):
            try:
                turn = template.turn(form, each)
            except Exception as error:  # a template is somebody's program
                trouble = trouble or PromptLost("template_refused", f"the chat template says {type(error).__name__}: {error}")
                continue
            if turn is None:  # it writes the history of an answer otherwise than it asks for it
                if "tool_calls" in each:
                    continue
                turn = continued(form.text, each["content"], each["content"])
            lost = missing(
                [each], None, turn, lambda marked, _: template.turn(form, marked[0]) or marked[0]["content"], thoughts=True
            )
            if lost is None:
                return self._ended(turn, template, form)
            trouble = PromptLost("answer_lost", f"the chat template drops {lost}")
        raise trouble or PromptLost("answer_lost", "the chat template writes an answer otherwise than it asks for it")

    def _ended(self, turn: str, template: _Template, form: PromptForm) -> tuple[str, int]:
        """Up to the first stop; nothing after it is ever generated. A turn that the template ends by what stops nobody ends where
        its text does."""
        found = [(at, stop) for text, stop in self._stop_texts.items() if (at := turn.find(text)) >= 0]
        if found:
            at, stop = min(found)
            return turn[:at], stop
        ended = template.turn(form, {"role": "assistant", "content": _MARK}) or ""
        tail = ended.rpartition(_MARK)[2]
        return turn.removesuffix(tail), self.stops[0]


class _Template(TokenizerTemplate):
    """Also what it writes for an answer."""

    def turn(self, form: PromptForm, answer: MessageDict) -> str | None:
        """What it writes behind the prompt for an answer; None when the prompt is not what it goes on from."""
        whole = self([*form.messages, answer], form.tools, asks=False)
        if whole.startswith(form.text):
            return continued("", answer["content"], whole[len(form.text) :])
        opened = _OPENED.search(form.text)
        if opened is None or not whole.startswith(form.text[: opened.start()]):
            return None
        return continued(form.text, answer["content"], whole[opened.start() :])


def continued(prompt: str, text: str, written: str) -> str:
    """What follows `prompt` for the answer `text`, of which a template has `written` a turn, in most cases without its thought.
    A thought that the prompt opened goes on where the answer has one, and is closed at once where it has none."""
    opened, ended = _OPENED.search(prompt), THOUGHT_END.search(text)
    if opened is None:
        if ended is None or ended[0] in written:
            return written
        return text[: ended.end()] + _blank(text[ended.end() :]) + written.lstrip()
    start, end = f"<{opened['tag']}>", f"</{opened['tag']}>"
    whole = written if end in written else text
    thought = whole.lstrip()
    thought = thought[len(start) :].removeprefix("\n") if thought.startswith(start) else whole
    if end in written:
        return thought
    if end not in thought:
        return f"\n{end}\n\n{written.lstrip()}"
    thought, _, rest = thought.partition(end)
    return thought + end + _blank(rest) + written.lstrip()


def _position(question: str, prompt: str) -> int:
    """Where the question begins; at the beginning when there is none, or it is written otherwise."""
    return max(0, prompt.rfind(question)) if question else 0


def _blank(text: str) -> str:
    """The white space at the beginning."""
    return text[: len(text) - len(text.lstrip())]


def _texts(messages: Sequence[Message], tools: Sequence[Any]) -> list[str]:
    texts: list[str] = []

    def note(text: str) -> str:
        texts.append(text)
        return text

    for message in messages:
        changed_message(message, note)
    for tool in tools:
        changed_tool(tool, note)
    return texts
