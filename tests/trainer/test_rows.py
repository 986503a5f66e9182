"""An example becomes a row as the base's tokenizer and template want it, within a limit of tokens, or is left out."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoTokenizer

from headrace_schemas.derived import Content
from headrace_schemas.inputs import ContextItem, Message, TextPart, Tool
from headrace_trainer.data.members import key_of
from headrace_trainer.data.rendering import render
from headrace_trainer.data.rows import RowUnfit, tokenise, tokenise_members
from support import training_data


def test_rendering_with_a_template(tiny_base: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_base)
    content = Content(prompt="two?", output="", target="2", context=[ContextItem(content="one is 1"), ContextItem(content="x")])
    assert render(tokenizer, content) == (
        "<|im_start|>user\none is 1\n\nx\n\ntwo?<|im_end|>\n<|im_start|>assistant\n",
        "2<|im_end|>",
    )
    chat = Content(
        prompt=[
            Message(role="system", content="be short"),
            Message(role="user", content=[TextPart(text="two"), TextPart(text="?")]),
        ],
        output="",
        target=Message(role="assistant", content="2"),
        tools=[Tool(name="add", parameters={"type": "object"})],
    )
    prompt, completion = render(tokenizer, chat)
    assert prompt == "<|im_start|>system\nbe short<|im_end|>\n<|im_start|>user\ntwo?<|im_end|>\n<|im_start|>assistant\n"
    assert completion == "2<|im_end|>"


def test_rendering_without_a_template(plain_base: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(plain_base)
    assert render(tokenizer, Content(prompt="two?", output="", target="2")) == ("two?\n", "2<|im_end|>")
    chat = Content(prompt=[Message(role="system", content="a"), Message(role="user", content="b")], output="", target="2")
    assert render(tokenizer, chat).prompt == "system: a\n\nuser: b\n"


def test_a_target_that_holds_the_end_token_is_cut_there(tiny_base: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_base)
    assert render(tokenizer, Content(prompt="a", output="", target="b<|im_end|>c")).completion == "b<|im_end|>"


@given(prompt=st.text(min_size=1, max_size=80), target=st.text(min_size=1, max_size=80), limit=st.integers(8, 60))
def test_rows_hold_their_limit_and_keep_the_end_of_the_prompt(plain_base: Path, prompt: str, target: str, limit: int) -> None:
    tokenizer = _tokenizer(plain_base)
    example = training_data.example(1, content=Content(prompt=prompt, output="", target=target))
    whole, row = tokenise(tokenizer, example, 1.0, 10**6), tokenise(tokenizer, example, 1.0, limit)
    assert row.length <= limit
    assert row.prompt
    assert whole.prompt[-len(row.prompt) :] == row.prompt
    assert whole.completion[: len(row.completion)] == row.completion
    assert (row.prompt, row.completion) == (whole.prompt, whole.completion) or row.length == limit


_TOKENIZERS: dict[Path, object] = {}


def _tokenizer(folder: Path) -> object:
    if folder not in _TOKENIZERS:
        _TOKENIZERS[folder] = AutoTokenizer.from_pretrained(folder)
    return _TOKENIZERS[folder]


def test_what_the_template_refuses_is_left_out(tiny_base: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_base)
    tokenizer.chat_template = (
        "{% for message in messages %}{% if message.role == 'developer' %}{{ raise_exception('no such role') }}{% endif %}"
        "{{ message.content }}{% endfor %}"
    )
    odd = training_data.recorded(1, content=Content(prompt=[Message(role="developer", content="a")], output="", target="2"))
    plain = training_data.recorded(2)
    with pytest.raises(RowUnfit, match=f"{odd.example.example_id} revision 1: .* TemplateError: no such role"):
        tokenise(tokenizer, odd.example, 1.0, 100)
    values = {key_of(recorded.member): recorded.value for recorded in (odd, plain)}
    tokenised = tokenise_members(tokenizer, [odd.member, plain.member], values, 100)
    assert [each.example for each in tokenised] == [plain.example]
