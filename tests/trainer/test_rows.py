"""Rows hold their limit without losing the question, and what cannot be said to a base is left out, counted by reason."""

import unicodedata
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from headrace_schemas.derived import Content, Example
from headrace_schemas.inputs import ContextItem, Message, RefPart, TextPart, Tool, ToolCall
from headrace_streams.runtime.sealing import Opened
from headrace_trainer.data.escapes import SpecialTokens
from headrace_trainer.data.members import MemberKey, MemberRefused, key_of
from headrace_trainer.data.rendering import ChatRenderer
from headrace_trainer.data.rows import KEPT_OF_ANSWER, RowTokeniser, RowUnfit, TokenisedExample
from support import chat_styles, training_data

_TOKENIZERS: dict[Path, object] = {}


def tokenizer_in(folder: Path) -> object:
    if folder not in _TOKENIZERS:
        _TOKENIZERS[folder] = AutoTokenizer.from_pretrained(folder)
    return _TOKENIZERS[folder]


def _composed(text: str) -> str:
    """As the tokenizer reads it (NFC), without white space."""
    return "".join(unicodedata.normalize("NFC", text).split())


def _made(tokeniser: RowTokeniser, example: Example) -> TokenisedExample | str:
    """What it makes, or why it makes nothing."""
    try:
        return tokeniser.example(example, 1.0)
    except RowUnfit as error:
        return error.reason


def test_rendering_with_a_template(tiny_base: Path) -> None:
    renderer = ChatRenderer(AutoTokenizer.from_pretrained(tiny_base))
    content = Content(prompt="two?", output="", target="2", context=[ContextItem(content="one is 1"), ContextItem(content="x")])
    rendered = renderer.render(content)
    assert rendered.prompt == "<|im_start|>user\none is 1\n\nx\n\ntwo?<|im_end|>\n<|im_start|>assistant\n"
    assert (rendered.completion, rendered.stop) == ("2", renderer.tokenizer.eos_token_id)
    assert rendered.prompt[rendered.question :].startswith("two?")
    chat = Content(
        prompt=[
            Message(role="system", content="be short"),
            Message(role="user", content=[TextPart(text="two"), TextPart(text="?")]),
        ],
        output="",
        target=Message(role="assistant", content="2"),
        tools=[Tool(name="add", parameters={"type": "object"})],
    )
    assert renderer.render(chat).prompt == (  # the template has no place for tools
        '<|im_start|>system\nbe short\n\ntools:\n{"name":"add","parameters":{"type":"object"}}<|im_end|>\n'
        "<|im_start|>user\ntwo\n?<|im_end|>\n<|im_start|>assistant\n"
    )


def test_rendering_without_a_template(plain_base: Path) -> None:
    renderer = ChatRenderer(AutoTokenizer.from_pretrained(plain_base))
    rendered = renderer.render(Content(prompt="two?", output="", target="2"))
    assert (rendered.prompt, rendered.completion, rendered.stop) == ("two?\n", "2", renderer.tokenizer.eos_token_id)
    chat = Content(prompt=[Message(role="system", content="a"), Message(role="user", content="b")], output="", target="2")
    assert renderer.render(chat).prompt == "system: a\n\nuser: b\n"


def test_a_template_is_told_the_time_that_is_pinned(tiny_base: Path) -> None:
    tokenizer: Any = AutoTokenizer.from_pretrained(tiny_base)
    tokenizer.chat_template = "{{ strftime_now('%Y-%m-%d %H:%M') }}\n" + tokenizer.chat_template
    content = Content(prompt="two?", output="", target="2")
    rendered = ChatRenderer(tokenizer).render(content, now=datetime(2026, 11, 21, 9, 30, tzinfo=UTC))
    assert rendered.prompt.startswith("2026-11-21 09:30\n")
    example = training_data.example(1, content=content, event_time="2026-11-20T23:30:00-02:00")
    row = RowTokeniser(tokenizer, 200).example(example, 1.0).row
    assert tokenizer.decode(row.prompt).startswith("2026-11-21 01:30\n")


@given(
    context=st.text(max_size=80), prompt=st.text(min_size=1, max_size=60), target=st.text(min_size=1, max_size=60),
    limit=st.integers(8, 90), templated=st.booleans(),
)  # fmt: skip
def test_rows_hold_their_limit_and_keep_their_question(
    tiny_base: Path, plain_base: Path, context: str, prompt: str, target: str, limit: int, templated: bool
) -> None:
    tokenizer = tokenizer_in(tiny_base if templated else plain_base)
    example = training_data.example(1, content=Content(prompt=prompt, output="", target=target, context=context))
    whole = _made(RowTokeniser(tokenizer, 10**6), example)
    if isinstance(whole, str):
        assert (whole, target.strip()) == ("answer_empty", "")
        return
    made = _made(RowTokeniser(tokenizer, limit), example)
    if isinstance(made, str):
        assert made in ("question_too_long", "answer_too_long")
        assert whole.row.length > limit
        return
    row, shortened = made.row, made.shortened
    assert row.length <= limit
    assert whole.shortened is None
    assert (shortened is None) == (row == whole.row)
    assert whole.row.prompt[-len(row.prompt) :] == row.prompt
    assert whole.row.completion[: len(row.completion)] == row.completion
    assert _composed(prompt) in _composed(tokenizer.decode(row.prompt))  # type: ignore[attr-defined]
    assert len(row.completion) >= KEPT_OF_ANSWER * len(whole.row.completion)
    assert shortened == "answer" or row.completion == whole.row.completion


@pytest.mark.parametrize("style", ["llama 2", "gemma", "none, spaced"])
def test_what_follows_has_no_space_that_a_tokenizer_puts_before_what_stands_alone(style: str) -> None:
    tokenizer = chat_styles.tokenizer_of(style)
    alone = tokenizer("user", add_special_tokens=False)["input_ids"]
    assert tokenizer.convert_ids_to_tokens(alone)[0].startswith("▁")
    follows = SpecialTokens(tokenizer).continuation("user")
    assert not tokenizer.convert_ids_to_tokens(follows)[0].startswith("▁")
    assert tokenizer.decode([*alone, *follows]) == "useruser"


def test_a_completion_that_would_merge_with_its_prompt_goes_on_from_the_prompt_as_it_is() -> None:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        special_tokens=["<|end|>"], initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    tokenizer.train_from_iterator(["a\n\nb\n\nc\n\n"] * 9, trainer)
    fast: Any = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|end|>")
    assert len(fast("\n\n")["input_ids"]) == 1
    row = (
        RowTokeniser(fast, 100)
        .example(training_data.example(1, content=Content(prompt="why?", output="", target="\nso")), 1.0)
        .row
    )
    assert list(row.prompt) == fast("why?\n")["input_ids"]
    assert fast.decode(row.completion) == "\nso<|end|>"


def test_a_prompt_that_loses_its_head_keeps_the_token_that_begins_every_text() -> None:
    tokenizer = chat_styles.tokenizer_of("gemma")
    tokeniser = RowTokeniser(tokenizer, 60, chat_styles.stops_of("gemma"))
    content = Content(prompt="how deep?", output="", target="deep", context="a lake in the north. " * 20)
    made = tokeniser.example(training_data.example(1, content=content), 1.0)
    assert (made.shortened, made.row.length) == ("prompt", 60)
    assert made.row.prompt[0] == tokenizer.bos_token_id
    assert made.row.prompt.count(tokenizer.bos_token_id) == 1
    assert tokenizer.decode(made.row.prompt).endswith("how deep?<end_of_turn>\n<start_of_turn>model\n")


def test_what_a_base_cannot_take_is_left_out_and_counted_by_reason(tiny_base: Path, caplog: pytest.LogCaptureFixture) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_base)
    tokenizer.chat_template = (
        "{% for m in messages %}{% if 'odd' in m.content %}{{ raise_exception('too odd') }}{% endif %}<|im_start|>{{ m.role }} "
        "{{ '' if m.role == 'assistant' and 'secret' in m.content else m.content }}<|im_end|>{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant {% endif %}"
    )
    image: list[TextPart | RefPart] = [RefPart(media_type="image/png", uri="s3://a/b.png")]
    contents = {
        1: Content(prompt="an odd one", output="", target="2"),
        2: Content(prompt="odd again", output="", target="2"),
        3: Content(prompt="draw", output="", target=Message(role="assistant", content=image)),
        4: Content(prompt="say nothing", output="", target="  "),
        5: Content(prompt="word " * 400, output="", target="2"),
        6: Content(prompt="2?", output="", target="two " * 400),
        7: Content(prompt="2?", output="", target="two"),
        8: Content(prompt="2?", output="", target="two", context="long " * 400),
        9: Content(prompt="2?", output="", target="a secret"),
        10: Content(prompt="2?", output="", target="1 2 3 4 " * 14),
    }
    records = [training_data.recorded(number, content=content) for number, content in contents.items()]
    made = RowTokeniser(tokenizer, 100).members(
        [record.member for record in records], {key_of(record.member): record.value for record in records}
    )
    assert made.left_out == {
        "template_refused": 2, "answer_has_references": 1, "answer_empty": 1, "question_too_long": 1, "answer_too_long": 1,
        "answer_lost": 1,
    }  # fmt: skip
    assert made.shortened == {"prompt": 1, "answer": 1}
    assert [each.example for each in made.examples] == [records[place - 1].example for place in (7, 8, 10)]
    assert sum(made.left_out.values()) + len(made.examples) == len(records)
    said = [line for line in caplog.messages if "too odd" in line]
    assert len(said) == 1, "each reason is said once"
    assert f"{records[0].example.example_id} revision 1" in said[0]


def test_a_call_that_no_text_can_hold_is_left_out_on_a_base_without_a_template(plain_base: Path) -> None:
    tokeniser = RowTokeniser(tokenizer_in(plain_base), 200)
    for name, arguments in (("look(", {}), ("look", "{broken"), ("look at", {"x": 1})):
        answer = Message(role="assistant", tool_calls=[ToolCall(id="c", name=name, arguments=arguments)])
        with pytest.raises(RowUnfit) as refused:
            tokeniser.example(training_data.example(1, content=Content(prompt="a", output="", target=answer)), 1.0)
        assert refused.value.reason == "call_unreadable"


def test_what_nothing_can_write_is_left_out_and_fails_no_batch(plain_base: Path) -> None:
    wide = Message(role="assistant", tool_calls=[ToolCall(id="c", name="look", arguments={"n": 10**30})])
    text = Message(
        role="assistant", tool_calls=[ToolCall(id="c", name="look", arguments='{"n": 1000000000000000000000000000000}')]
    )
    for answer, reason in ((wide, "template_refused"), (text, "call_unreadable")):
        with pytest.raises(RowUnfit) as refused:
            RowTokeniser(tokenizer_in(plain_base), 200).example(
                training_data.example(1, content=Content(prompt="a", output="", target=answer)), 1.0
            )
        assert refused.value.reason == reason


def test_a_row_whose_key_was_erased_is_left_out_and_one_that_is_opened_is_verified_by_what_lies_on_the_log(
    plain_base: Path,
) -> None:
    records = [training_data.recorded(number, content=Content(prompt="two?", output="", target="2")) for number in (1, 2)]
    members = [record.member for record in records]
    values: dict[MemberKey, bytes] = {}
    for record, erased in zip(records, (False, True), strict=True):
        values[key_of(record.member)] = Opened(record.value, record.value, "interaction/i1", erased=erased)
    made = RowTokeniser(tokenizer_in(plain_base), 200).members(members, values)
    assert (len(made.examples), made.left_out) == (1, {"erased": 1})
    opened = values[key_of(members[0])]
    other = Opened(opened, opened + b" ", "interaction/i1", erased=False)
    with pytest.raises(MemberRefused, match="the manifest says"):
        RowTokeniser(tokenizer_in(plain_base), 200).members(members[:1], {key_of(members[0]): other})
