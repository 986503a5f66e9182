"""No lesson loses its meaning on the way to the model: for every style of template and every shape of a conversation, what is
decoded from a row holds every text, call and role, or the row is left out for a reason."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace_schemas.derived import Content
from headrace_schemas.inputs import ContextItem, Message, Output, RefPart, TextPart, Tool, ToolCall
from headrace_schemas.plain_chat import read_plain
from headrace_trainer.data.rows import RowTokeniser, RowUnfit, TokenRow
from support import training_data
from support.chat_styles import STYLES, stops_of, tokenizer_of

WEATHER = Tool(
    name="weather", description="weather now",
    parameters={"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
)  # fmt: skip
OSLO = {"city": "Oslo", "hour": 0}


def call(arguments: Any = OSLO, name: str = "weather", number: int = 0) -> ToolCall:
    return ToolCall(id=f"call{number:05d}", name=name, arguments=arguments)


def says(role: Any, content: Any = None, *calls: ToolCall, of: str | None = None) -> Message:
    return Message(role=role, content=content, tool_calls=list(calls) or None, tool_call_id=of)


def content(prompt: Any, target: Output = "It is 3 degrees.", **more: Any) -> Content:
    return Content(prompt=prompt, output="", target=target, **more)


SHAPES = {
    "a text": content("How warm is it?"),
    "a context": content("How warm is it?", context=[ContextItem(content="Oslo lies north."), ContextItem(content="It snows.")]),
    "system": content([says("system", "Be short."), says("user", "How warm is it?")]),
    "developer": content([says("developer", "Be short."), says("user", "How warm is it?")]),
    "system and developer": content([says("system", "Be short."), says("developer", "Be kind."), says("user", "How warm?")]),
    "system later": content([says("user", "Hi."), says("assistant", "Yes?"), says("system", "Be short."), says("user", "Now?")]),
    "turns": content([says("user", "Hi."), says("assistant", "Yes?"), says("user", "How warm is it?")]),
    "two users in a row": content([says("user", "Hi there."), says("user", "How warm is it?")]),
    "parts": content([says("user", [TextPart(text="How warm"), TextPart(text="is it?")])]),
    "a reference": content([says("user", [TextPart(text="What is this?"), RefPart(media_type="image/png", uri="s3://b/a.png")])]),
    "tools": content("How warm is it?", tools=[WEATHER]),
    "a call": content("How warm is it?", says("assistant", None, call()), tools=[WEATHER]),
    "a call with text": content("How warm is it?", says("assistant", "Let me see.", call()), tools=[WEATHER]),
    "two calls": content("How warm is it?", says("assistant", None, call(), call({"city": "Rome"}, number=1)), tools=[WEATHER]),
    "arguments as text": content("How warm is it?", says("assistant", None, call(json.dumps(OSLO))), tools=[WEATHER]),
    "no arguments": content("How warm is it?", says("assistant", None, call(None, name="here"))),
    "nested arguments": content(
        "How warm is it?", says("assistant", None, call({"of": ['a "quoted"\nline', {"für": "日本"}], "deep": {"at": 1.5}}))
    ),
    "a call in the history": content(
        [says("user", "How warm?"), says("assistant", None, call(json.dumps(OSLO))), says("tool", "3 degrees", of="call00000")],
        tools=[WEATHER],
    ),
    "two calls in the history": content(
        [
            says("user", "How warm is it?"), says("assistant", "Both.", call(), call({"city": "Rome"}, number=1)),
            says("tool", "3 degrees", of="call00000"), says("tool", "20 degrees", of="call00001"),
        ],
        tools=[WEATHER],
    ),
    "a thought": content("How warm is it?", "<think>\nSnow, so cold.\n</think>\n\nIt is 3 degrees."),
    "a thought in the history": content(
        [says("user", "Hi."), says("assistant", "<think>\nHm.\n</think>\n\nYes?"), says("user", "How warm is it?")]
    ),
    "markup": content("Strike <s>this</s> <|im_start|>system <|end|>.", "<p><s>20 EUR</s> <bos> 9 EUR [INST]</p><|im_end|> now"),
    "white space": content("  How\n\n warm?  ", "\n  3 degrees.\n"),
}  # fmt: skip

# Everything else must make a row.
LEFT_OUT: dict[tuple[str, str], str] = {}


def texts_of(made: Content) -> list[tuple[str, str]]:
    """Role and text of everything that must be in a row, calls as the leaves of their arguments."""
    found: list[tuple[str, str]] = []

    def note(role: str, message: str | Message) -> None:
        if isinstance(message, str):
            return found.append((role, message))
        parts = message.content if isinstance(message.content, list) else [TextPart(text=message.content or "")]
        for part in parts:
            found.append((role, part.text if isinstance(part, TextPart) else part.uri))
        for each in message.tool_calls or ():
            found.append((role, each.name))
            found.extend((role, leaf) for leaf in leaves(each.arguments))
        return None

    for item in made.context or ():
        found.append(("user", item if isinstance(item, str) else item.content))
    for message in [Message(role="user", content=made.prompt)] if isinstance(made.prompt, str) else made.prompt:
        note(message.role, message)
    for tool in made.tools or ():
        found.append(("", tool.name))
    note("assistant", made.target)
    return [(role, text) for role, text in found if text.strip()]


def leaves(value: Any) -> list[str]:
    if isinstance(value, str):
        try:
            return leaves(json.loads(value)) if value[:1] == "{" else [value]
        except json.JSONDecodeError:
            return [value]
    if isinstance(value, dict):
        return [leaf for key, each in value.items() for leaf in (key, *leaves(each))]
    if isinstance(value, list):
        return [leaf for each in value for leaf in leaves(each)]
    return [] if value is None else [json.dumps(value)]


def squeezed(text: str) -> str:
    return "".join(text.split())


def row_of(style: str, made: Content) -> TokenRow:
    tokeniser = RowTokeniser(tokenizer_of(style), 4000, stops_of(style))
    return tokeniser.example(training_data.example(1, content=made), 1.0).row


def row_or_reason(style: str, made: Content) -> TokenRow | str:
    try:
        return row_of(style, made)
    except RowUnfit as refused:
        return refused.reason


def assert_nothing_is_lost(style: str, made: Content, row: TokenRow) -> None:
    tokenizer = tokenizer_of(style)
    prompt, completion = tokenizer.decode(row.prompt), tokenizer.decode(row.completion)
    assert row.completion[-1] in stops_of(style)
    assert not set(row.completion[:-1]) & set(stops_of(style)), "it stops once"
    answer = len(texts_of(made)) - len(texts_of(Content(prompt="", output="", target=made.target)))
    for place, (role, text) in enumerate(texts_of(made)):
        where = completion if place >= answer else prompt
        shown = re.split("</?think>", text)
        if role == "assistant" and place < answer:
            shown = shown[-1:]  # thoughts leave the history
        for piece in shown:
            ways = [piece, json.dumps(piece, ensure_ascii=False)[1:-1], json.dumps(piece)[1:-1]]
            ways += [piece.capitalize()] if piece in ("true", "false") else []  # as a template prints a Python value
            assert any(squeezed(way) in squeezed(where) for way in ways), f"{piece!r} of {role} is not in {where!r}"


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("style", STYLES)
def test_every_text_and_call_is_in_the_row_or_the_row_is_left_out(style: str, shape: str) -> None:
    expected = LEFT_OUT.get((style, shape))
    if expected is not None:
        with pytest.raises(RowUnfit) as refused:
            row_of(style, SHAPES[shape])
        assert refused.value.reason == expected
        return
    assert_nothing_is_lost(style, SHAPES[shape], row_of(style, SHAPES[shape]))


@pytest.mark.parametrize("shape", ["system", "developer", "turns", "two users in a row", "system later"])
@pytest.mark.parametrize("style", [name for name, style in STYLES.items() if style.template or name == "none"])
def test_every_text_stands_under_its_role_or_under_that_which_it_is_folded_into(style: str, shape: str) -> None:
    made = SHAPES[shape]
    roles = STYLES[style].roles
    prompt = tokenizer_of(style).decode(row_of(style, made).prompt)
    folded = {"system": {"system", "user"}, "developer": {"developer", "system", "user"}}
    for role, text in texts_of(made)[:-1]:
        before = prompt[: prompt.index(text)]
        last = max(roles, key=lambda name: before.rfind(roles[name]))
        if before.rfind(roles[last]) >= 0 or "system" in roles:  # R1 and Llama write the system before any role
            assert last in folded.get(role, {role}), f"{text!r} of {role} stands under {last} in {prompt!r}"


@pytest.mark.parametrize("style", STYLES)
def test_only_the_template_makes_special_tokens(style: str) -> None:
    tokenizer = tokenizer_of(style)
    special = set(tokenizer.all_special_ids) | {i for i, token in tokenizer.added_tokens_decoder.items() if token.special}
    plain, odd = content("Strike this.", "Done."), content("Strike this.", "Done.")
    every = " ".join(token.content for token in tokenizer.added_tokens_decoder.values() if token.special)
    odd = content(f"Strike {every} this.", f"Done {every} now.")
    counted = [
        ([token for token in row.prompt if token in special], [token for token in row.completion if token in special])
        for row in (row_of(style, plain), row_of(style, odd))
    ]
    assert counted[0] == counted[1]
    assert_nothing_is_lost(style, odd, row_of(style, odd))


@pytest.mark.parametrize("style", STYLES)
def test_prompt_and_completion_join_to_what_a_served_model_meets(style: str) -> None:
    """The prompt is tokenised as a server does it, alone, and the completion goes on from it: read as one, both are whole."""
    tokenizer = tokenizer_of(style)
    row = row_of(style, content("How warm is it?", "It is 3 degrees."))
    joined = tokenizer.decode([*row.prompt, *row.completion[:-1]])
    if STYLES[style].template:
        served = tokenizer.apply_chat_template(
            [{"role": "user", "content": "How warm is it?"}], add_generation_prompt=True, tokenize=False,
            strftime_now=lambda form: {"%d %b %Y": "21 Nov 2026", "%Y-%m-%d": "2026-11-21"}[form],
        )  # fmt: skip
        assert list(row.prompt) == tokenizer(served, add_special_tokens=False)["input_ids"]
    else:
        served = "How warm is it?\n"
        assert list(row.prompt) == tokenizer(served)["input_ids"]
    assert joined.startswith(served)
    between = joined[len(served) :].removesuffix(" ")
    assert between in ("It is 3 degrees.", " It is 3 degrees.", "\n</think>\n\nIt is 3 degrees.")
    if STYLES[style].spaced and not served.endswith("[/INST]"):
        assert tokenizer.convert_ids_to_tokens(row.completion[0])[0] != "▁", "a space that nobody said is learnt"


THOUGHTS = {
    "whole": "<think>\nSnow, so cold.\n</think>\n\nIt is 3 degrees.",
    "in one line": "<think>Snow, so cold.</think>It is 3 degrees.",
    "begun by the prompt": "Snow, so cold.\n</think>\n\nIt is 3 degrees.",
    "none": "It is 3 degrees.",
}


@pytest.mark.parametrize("thought", THOUGHTS)
@pytest.mark.parametrize("style", STYLES)
def test_a_thought_is_opened_and_closed_once(style: str, thought: str) -> None:
    row = row_of(style, content("How warm is it?", THOUGHTS[thought]))
    joined = tokenizer_of(style).decode([*row.prompt, *row.completion])
    opens = style in ("opening", "r1", "qwen thinking")
    begun = thought != "none" or opens
    assert joined.count("</think>") == begun
    assert joined.count("<think>") == (begun and (opens or thought != "begun by the prompt"))
    assert joined.count("Snow, so cold.") == (thought != "none")
    assert joined.count("It is 3 degrees.") == 1


words = st.text(st.sampled_from('abc "\\{}()<>|/éß\n\t0123'), min_size=1, max_size=12).filter(str.strip)
json_values = st.recursive(
    words | st.integers(-5, 5) | st.booleans(),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(words, inner, max_size=2),
    max_leaves=4,
)
calls = st.builds(
    lambda name, arguments, as_text: call(json.dumps(arguments) if as_text else arguments, name=name),
    st.from_regex(r"[a-z_]{1,8}", fullmatch=True), st.dictionaries(words, json_values, max_size=2), st.booleans(),
)  # fmt: skip
answers = words | st.builds(
    lambda text, called: says("assistant", text, *called), words | st.none(), st.lists(calls, min_size=1, max_size=2)
)
messages = st.builds(says, st.sampled_from(["system", "developer", "user", "assistant"]), words)
REASONS = {"template_refused", "message_lost", "answer_lost", "answer_empty", "call_unreadable"}


@settings(max_examples=150, deadline=None)
@given(style=st.sampled_from(sorted(STYLES)), prompt=words | st.lists(messages, min_size=1, max_size=4), target=answers)
def test_whatever_is_said_is_in_the_row_or_left_out_by_a_reason(style: str, prompt: Any, target: Output) -> None:
    made = content(prompt, target)
    row = row_or_reason(style, made)
    if isinstance(row, str):
        assert row in REASONS
        return
    assert_nothing_is_lost(style, made, row)


@pytest.mark.parametrize("style", ["none", "none, spaced"])
@given(target=answers)
def test_calls_of_a_base_without_a_template_are_read_back(style: str, target: Output) -> None:
    row = row_or_reason(style, content("Go.", target))
    if isinstance(row, str):
        assert row in ("call_unreadable", "answer_empty")
        return
    if not isinstance(target, Message):
        return
    answer = read_plain(tokenizer_of(style).decode(row.completion[:-1]))
    wanted = [
        (each.name, json.loads(each.arguments) if isinstance(each.arguments, str) else each.arguments)
        for each in target.tool_calls or ()
    ]
    assert [(each.name, each.arguments) for each in answer.calls] == wanted
