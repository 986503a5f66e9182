"""Members become rows only when the record is the one that the manifest names; rehearsal takes what still holds."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs
from transformers import AutoTokenizer

from headrace_schemas.canonical import sha256
from headrace_schemas.codec import encode
from headrace_schemas.derived import Content
from headrace_schemas.events import TrainingStarted
from headrace_schemas.inputs import ContextItem, Message, TextPart, Tool
from headrace_streams.runtime.step import DERIVED_LIMIT
from headrace_trainer.data.rendering import render
from headrace_trainer.data.rows import (
    PINNED_LIMIT,
    MemberRefused,
    Newest,
    RowUnfit,
    rehearsal_rows,
    row_of,
    to_learn,
    to_watch,
    verify,
    without,
)
from headrace_trainer.data.rows import lessons as lessons_of
from support import lessons


def test_a_member_is_what_the_manifest_says() -> None:
    one, other = lessons.made(1), lessons.made(2)
    assert verify(one.member, one.value) == one.example
    with pytest.raises(MemberRefused, match=f"{one.member.example_id} revision 1 at examples/0/1.*{sha256(other.value)}"):
        verify(one.member, other.value)
    with pytest.raises(MemberRefused, match="no such record"):
        verify(one.member, None)


def test_a_record_that_is_no_such_example_is_refused() -> None:
    one, two = lessons.made(1), lessons.made(1, revision=2)
    wrong = type(one.member)(**{**{f: getattr(one.member, f) for f in one.member.__struct_fields__}, "sha256": sha256(two.value)})
    with pytest.raises(MemberRefused, match="another's"):
        verify(wrong, two.value)


def test_roles_and_splits() -> None:
    members = [
        lessons.made(1).member,
        lessons.made(2, role="negative").member,
        lessons.made(3, "validation").member,
        lessons.made(4, "test").member,
        lessons.made(5, weight=0.0).member,
    ]
    assert to_learn(members) == members[:1]
    assert to_watch(members) == members[2:3]


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
    example = lessons.example(1, content=Content(prompt=prompt, output="", target=target))
    whole, row = row_of(tokenizer, example, 1.0, 10**6), row_of(tokenizer, example, 1.0, limit)
    assert row.length <= limit
    assert row.prompt
    assert whole.prompt[-len(row.prompt) :] == row.prompt
    assert whole.completion[: len(row.completion)] == row.completion
    assert (row.prompt, row.completion) == (whole.prompt, whole.completion) or row.length == limit


_CACHE: dict[Path, object] = {}


def _tokenizer(folder: Path) -> object:
    if folder not in _CACHE:
        _CACHE[folder] = AutoTokenizer.from_pretrained(folder)
    return _CACHE[folder]


def test_rehearsal_is_a_share_of_all_rows_and_the_same_for_anybody() -> None:
    batch = lessons.batch(lessons.made(number).member for number in range(30))
    pool = [lessons.made(number).member for number in range(20, 90)]
    rows = rehearsal_rows(batch, pool, 0.25)
    assert len(rows) == 10  # a quarter of 40
    assert rows == rehearsal_rows(batch, pool[::-1], 0.25)
    assert not {row.example_id for row in rows} & {member.example_id for member in batch.members}
    assert rehearsal_rows(batch, pool, 0.0) == []
    assert len(rehearsal_rows(batch, pool, 0.9)) == 60  # no more than there are
    whole = rehearsal_rows(batch, pool[20:], 0.25, whole=pool[10:20])
    assert {member.example_id for member in pool[10:20]} <= {row.example_id for row in whole}
    assert len(whole) == 10 + round(40 / 3)


def test_rehearsal_follows_revisions_and_leaves_out_what_was_withdrawn() -> None:
    newest = Newest()

    def saw(made: lessons.Made, offset: int) -> None:
        learnable = made.example.train and made.example.reward > 0
        newest.saw(made.example.example_id, made.example.revision, learnable, offset, made.value)

    old = [lessons.made(number) for number in range(6)]
    for made in old[:5]:
        saw(made, made.member.locator.offset)
    better = lessons.made(1, revision=2, offset=77)
    saw(better, 77)
    newest.withdrew(old[2].example.example_id, 2, for_ever=True)
    saw(old[2], 90)  # a late repeat brings nothing back
    saw(lessons.made(3, revision=2, reward=-0.4), 91)
    saw(lessons.made(4, revision=2, train=False), 92)
    saw(lessons.made(0), 93)  # an older or equal revision changes nothing
    assert newest.current([made.member for made in (*old, old[0])]) == [old[0].member, better.member]


def test_feedback_that_was_taken_back_may_come_again_and_an_erased_subject_not() -> None:
    newest, first, second = Newest(), lessons.made(1), lessons.made(1, revision=3, offset=9)
    name = first.example.example_id
    newest.saw(name, 1, True, 1, first.value)
    newest.withdrew(name, 2, for_ever=False)
    assert newest.current([first.member]) == []
    assert newest.gone([first.member]) == [name]
    newest.saw(name, 3, True, 9, second.value)
    assert newest.current([first.member]) == [second.member]
    assert newest.gone([first.member]) == []
    newest.withdrew(name, 4, for_ever=True)
    newest.withdrew(name, 5, for_ever=False)
    newest.saw(name, 6, True, 10, second.value)
    assert newest.current([first.member]) == []
    assert newest.gone([lessons.made(2).member, first.member, first.member]) == [name]


def test_a_run_reads_nothing_of_what_was_withdrawn_since_the_cut() -> None:
    members, tests = [lessons.made(number).member for number in range(3)], [lessons.made(7, "test").member]
    batch = lessons.batch(members, tests)
    left = without(batch, [members[1].example_id, tests[0].example_id])
    assert (left.members, left.test_pool, left.batch_id) == ([members[0], members[2]], [], batch.batch_id)
    assert without(batch, None) == batch


def test_pins_fit_into_a_record_however_much_waited_for_weights() -> None:
    batch, member = lessons.batch(lessons.made(number).member for number in range(10)), lessons.made(99).member
    place = structs.replace(member.locator, partition=1000, offset=10**12)
    longest = structs.replace(member, weight=0.123456789012, difficulty=0.123456789012, split="train", locator=place)
    waited = [structs.replace(longest, example_id=f"{number:032}") for number in range(40_000)]
    rows = rehearsal_rows(batch, waited[:5000], 0.9, whole=waited)
    assert {row.example_id for row in rows} == {member.example_id for member in waited[-PINNED_LIMIT:]}
    start = lessons.start(batch, rehearsal=rows)
    event = TrainingStarted(specversion="1.0", id="s", source="headrace:train", data=start)
    assert len(encode(event)) < 0.9 * DERIVED_LIMIT
    assert len(rehearsal_rows(batch, waited, 0.9999)) == PINNED_LIMIT


def test_what_the_template_refuses_is_left_out(tiny_base: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_base)
    tokenizer.chat_template = (
        "{% for message in messages %}{% if message.role == 'developer' %}{{ raise_exception('no such role') }}{% endif %}"
        "{{ message.content }}{% endfor %}"
    )
    odd = lessons.made(1, content=Content(prompt=[Message(role="developer", content="a")], output="", target="2"))
    plain = lessons.made(2)
    with pytest.raises(RowUnfit, match=f"{odd.example.example_id} revision 1: .* TemplateError: no such role"):
        row_of(tokenizer, odd.example, 1.0, 100)
    values = {(made.member.example_id, 1): made.value for made in (odd, plain)}
    made = lessons_of(tokenizer, [odd.member, plain.member], values, 100)
    assert [lesson.example for lesson in made] == [plain.example]
