"""What the console shows of learning, as read models over a lake: the figures are those of the events, every page is bounded."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs

from headrace_lake.learning_state import learning_state
from headrace_lake.query import LakeQuery, opened
from headrace_lake.read_models import example_view as example_module
from headrace_lake.read_models.example_list import ExampleFilter, ExampleRow, FilterRefused, example_list
from headrace_lake.read_models.example_view import example_view
from headrace_lake.read_models.paging import CursorRefused, PageCursor
from headrace_lake.read_models.recorded import recorded
from headrace_lake.read_models.reward_terms import reward_explanation
from headrace_lake.read_models.text_diff import word_diff
from headrace_schemas.canonical import rounded
from headrace_schemas.events import ExampleRewarded
from support.memory_ring import MemoryRing, lake_of
from support.signals import event


@pytest.fixture(scope="module")
def ring() -> MemoryRing:
    ring = MemoryRing(3)
    for number in range(3):
        publish_odd(ring, number)
        ring.round(22)
    return ring


def publish_odd(ring: MemoryRing, number: int) -> None:
    """What the ring's own agents don't do: the same once more, a poor score, praise and blame, something that is taken back."""
    data = {"agent": {"name": "bot-9"}, "artifact_type": "sql", "model": "tiny", "prompt": "how many?", "output": "select 1 + 1"}
    for name, score in (("same-a", 95), ("same-b", 96), ("poor", 60), ("taken", 90), ("both", 85)):
        interaction_id = f"{name}-{number}"
        more = {} if name.startswith("same") else {"prompt": f"how many of {name}?", "prompt_group": f"odd-{name}-{number}"}
        more = {"prompt_group": f"odd-same-{number}", "prompt": f"how many {number}?"} | more
        said = {"interaction_id": interaction_id, "kind": "rating", "score": score, "principal": {"id": "ann", "kind": "human"}}
        ring.publish(
            "interactions",
            event("interaction.recorded", data | more | {"interaction_id": interaction_id}, id=interaction_id),
        )
        ring.publish(
            "feedback",
            event(
                "feedback.recorded", said | {"kind": "explicit_positive", "comment": f"fine, {name}"}, id=f"f-{interaction_id}"
            ),
        )
        if name == "both":
            blame = {"interaction_id": interaction_id, "kind": "explicit_negative", "principal": {"id": "ben", "kind": "human"}}
            ring.publish("feedback", event("feedback.recorded", blame, id=f"g-{interaction_id}"))
    before = f"taken-{number - 1}"  # which is an example by now, if there is one
    ring.publish("interactions", event("interaction.retracted", {"interaction_id": before}, id=f"r-{before}"))


def test_every_reward_of_a_lake_is_explained_by_the_fold_run_again_over_its_signals(lake: LakeQuery) -> None:
    published = recorded(lake, "examples", "event_type = 'headrace.example.rewarded.v1'")
    assert len(published) > 40
    for each in published:
        assert isinstance(each.event, ExampleRewarded)
        found = reward_explanation(lake, each)
        assert found.agrees, found.differs
        assert found.trace is not None
        assert rounded(found.trace.terms[-1].total) == each.event.data.reward
        assert [voice.voice for voice in found.voices] == found.trace.voices
        assert all(voice.statements for voice in found.voices)
        assert found.policy_digest
        assert found.from_offset is not None


def test_a_reward_whose_signals_are_not_all_there_is_not_said_to_agree(lake: LakeQuery) -> None:
    one = recorded(lake, "examples", "event_type = 'headrace.example.rewarded.v1'", limit=1)[0]
    found = reward_explanation(lake, one, [])
    assert not found.agrees
    assert found.differs is not None
    assert "does not hold signals/" in found.differs


def test_a_reward_whose_texts_are_sealed_is_not_computed_from_what_stands_in_for_them(lake: LakeQuery) -> None:
    one = recorded(lake, "examples", "event_type = 'headrace.example.rewarded.v1'", limit=1)[0]
    assert isinstance(one.event, ExampleRewarded)
    content = structs.replace(one.event.data.content, prompt="[sealed]", output="[sealed]", target="[sealed]")
    event = structs.replace(one.event, data=structs.replace(one.event.data, content=content))
    found = reward_explanation(lake, one._replace(event=event))
    assert (found.agrees, found.trace) == (False, None)
    assert found.differs == "its texts are sealed: for who may read topic keys"


@given(st.text(), st.text())
def test_a_word_diff_has_both_texts_whole(before: str, after: str) -> None:
    parts = word_diff(before, after)
    assert "".join(part.text for part in parts if part.kind != "added") == before
    assert "".join(part.text for part in parts if part.kind != "removed") == after


def test_a_word_diff_says_what_somebody_corrected() -> None:
    parts = word_diff("select count(*) from orders", "select sum(total) from orders")
    told = [(part.kind, part.text) for part in parts if part.kind != "same"]
    assert told[0] == ("removed", "count")
    assert ("added", "sum") in told
    assert parts[-1].text.endswith(" from orders")
    assert word_diff("same", "same")[0].kind == "same"


def rewarded(lake: LakeQuery) -> dict[str, tuple[int, int]]:
    """Newest revision and number of revisions of each example, from the events."""
    found: dict[str, tuple[int, int]] = {}
    for each in recorded(lake, "examples", "event_type = 'headrace.example.rewarded.v1'", limit=10_000):
        assert isinstance(each.event, ExampleRewarded)
        data = each.event.data
        found[data.example_id] = (
            max(found.get(data.example_id, (0, 0))[0], data.revision),
            found.get(data.example_id, (0, 0))[1] + 1,
        )
    return found


def pages_of(lake: LakeQuery, wanted: ExampleFilter, page: int) -> list[ExampleRow]:
    rows: list[ExampleRow] = []
    below = None
    for _ in range(1000):
        found = example_list(lake, wanted, below, page=page)
        rows += found.rows
        if found.below is None:
            return rows
        below = PageCursor.read(found.below)
    raise AssertionError("the pages never end")


@pytest.mark.parametrize("page", [1, 7, 50])
def test_the_pages_of_examples_have_every_revision_once_newest_first(lake: LakeQuery, page: int) -> None:
    rows = pages_of(lake, ExampleFilter(), page)
    assert Counter(row.example_id for row in rows) == {name: count for name, (_, count) in rewarded(lake).items()}
    assert len({row.place for row in rows}) == len(rows)
    assert [row.appended_ms for row in rows] == sorted((row.appended_ms for row in rows), reverse=True)


def test_a_filter_of_examples_lets_pass_what_it_says(lake: LakeQuery) -> None:
    rows = pages_of(lake, ExampleFilter(), 50)
    agent, rater = rows[0].agent, next(row.principals[0] for row in rows if row.principals)
    cases: list[tuple[ExampleFilter, Callable[[ExampleRow], bool]]] = [
        (ExampleFilter(agent=agent), lambda row: row.agent == agent),
        (ExampleFilter(rater=rater), lambda row: rater in row.principals),
        (ExampleFilter(min_reward=0.5), lambda row: row.reward >= 0.5),
        (ExampleFilter(split="train", max_reward=0.0), lambda row: row.split == "train" and row.reward <= 0),
        (ExampleFilter(bucket="sql/none"), lambda row: False),
        (ExampleFilter(text="OF KIND 7?"), lambda row: "of kind 7?" in row.prompt),
        (ExampleFilter(since="2100-01-01T00:00:00Z"), lambda row: False),
    ]
    for wanted, holds in cases:
        found = pages_of(lake, wanted, 5)
        assert [row.place for row in found] == [row.place for row in rows if holds(row)], wanted
    assert rows[0].state is not None
    facets = example_list(lake, ExampleFilter()).facets
    assert facets["agent"] == Counter(row.agent for row in rows)


def test_states_of_examples_are_those_of_their_records(lake: LakeQuery) -> None:
    rows = pages_of(lake, ExampleFilter(), 50)
    told = {row.state.state for row in rows if row.state is not None}
    assert {"in a batch", "withdrawn", "rejected", "superseded"} <= told
    for row in rows:
        assert row.state is not None
        if row.state.state == "rejected":
            assert row.state.reason
        if row.state.state == "in a batch":
            assert learning_state(lake, row.interaction_id).state not in ("withdrawn", "rejected", "in an open bucket")


@pytest.mark.parametrize(
    ("query", "message"),
    [({"min_reward": "much"}, "min_reward='much': no number"), ({"since": "yesterday"}, "since: ")],
)
def test_a_filter_that_is_none_is_named(query: dict[str, str], message: str) -> None:
    with pytest.raises(FilterRefused, match=message):
        ExampleFilter.read(query)


@pytest.mark.parametrize("text", ["1", "1-2", "1-2-x", "-1-2-3", "1-2-99999999999999999999", "1-2-3; DROP"])
def test_a_cursor_that_no_page_wrote_is_refused(text: str) -> None:
    with pytest.raises(CursorRefused, match="no place in a list"):
        PageCursor.read(text)
    assert PageCursor.read("") is None
    assert str(PageCursor.read("5-2-3")) == "5-2-3"


def test_an_example_shows_all_that_is_known_of_it(lake: LakeQuery) -> None:
    rows = {row.interaction_id: row for row in pages_of(lake, ExampleFilter(), 50)}
    corrected = [name for name, row in rows.items() if row.corrected]
    assert corrected
    for interaction_id in [*list(rows)[:6], corrected[0]]:
        view = example_view(lake, interaction_id)
        assert view is not None
        assert view == example_view(lake, rows[interaction_id].example_id)
        assert view.reward is not None
        assert view.reward.agrees
        numbers = [each.revision for each in view.revisions]
        assert numbers == sorted(numbers)
        assert {each.place for each in view.revisions} <= {each.place for each in view.timeline}
        if view.correction is not None:
            assert "".join(part.text for part in view.correction if part.kind != "added") == view.output
            assert "".join(part.text for part in view.correction if part.kind != "removed") == view.target
        assert (view.correction is not None) == (interaction_id in corrected)
    both = example_view(lake, "both-1")
    assert both is not None
    assert len(both.revisions) == 2
    assert both.revisions[1].changed[:2] == ["reward", "quality"]
    assert example_view(lake, "both-1", 1) != both
    assert example_view(lake, "no such id") is None


def test_of_an_example_with_more_revisions_than_are_shown_the_newest_are(
    lake: LakeQuery, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = example_view(lake, "both-1")
    assert whole is not None
    monkeypatch.setattr(example_module, "REVISIONS", 1)
    view = example_view(lake, "both-1")
    assert view is not None
    assert view.revision == whole.revision == 2
    assert [each.revision for each in view.revisions] == [2]


def test_a_twin_is_looked_for_in_the_newest_rejections_alone(lake: LakeQuery, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(example_module, "TWINNED", 0)
    views = [view for name in ("same-a-1", "same-b-1") if (view := example_view(lake, name)) is not None and view.rejections]
    [why] = views[0].rejections
    assert (why.reason, why.twin, why.note) == ("duplicate", None, "a twin is looked for in the newest rejections alone")


def test_an_interaction_of_which_nothing_was_said_has_a_page(ring: MemoryRing, lake: LakeQuery) -> None:
    silent = next(f"i-{number}" for number in range(1, 67) if learning_state(lake, f"i-{number}").state == "waiting for feedback")
    view = example_view(lake, silent)
    assert view is not None
    assert view.example_id is None
    assert view.state.state == "waiting for feedback"
    assert view.output.startswith("select count(*)")


def test_an_interaction_of_which_only_others_speak_has_a_page(tmp_path: Path) -> None:
    ring = MemoryRing(1)
    said = {"interaction_id": "to come", "kind": "success", "score": 90}
    ring.publish("feedback", event("feedback.recorded", said, id="early"))
    ring.round(1, odd=False)
    with opened(lake_of(ring.log, tmp_path / "lake"), seconds=120) as lake:
        view = example_view(lake, "to come")
        assert view is not None
        assert view.state.state == "waiting for its interaction"
        assert (view.prompt, view.output, view.example_id) == ([], "", None)
        assert [entry.kind for entry in view.timeline] == ["feedback.recorded"]


def test_a_rejection_says_rule_figure_and_bound(lake: LakeQuery) -> None:
    view = example_view(lake, "poor-1")
    assert view is not None
    [why] = view.rejections
    assert (why.reason, why.figure, why.value, why.bound, why.policy_key) == ("low_score", "score", 60.0, 70.0, "train_above")
    assert why.rule == "a target that nobody corrected has a score above 70"


def test_a_duplicate_is_shown_beside_its_twin(lake: LakeQuery) -> None:
    views = [view for name in ("same-a-1", "same-b-1") if (view := example_view(lake, name)) is not None and view.rejections]
    [view] = views
    [why] = view.rejections
    assert why.reason == "duplicate"
    assert why.twin is not None
    other = "same-b-1" if view.interaction_id == "same-a-1" else "same-a-1"
    twin = example_view(lake, other)
    assert twin is not None
    assert (why.twin.example_id, why.twin.similarity) == (twin.example_id, 1.0)
    assert [part.kind for part in why.twin.target] == ["same"]


def test_a_near_duplicate_is_shown_beside_what_it_is_like_with_the_figure_and_the_bound(tmp_path: Path) -> None:
    ring = MemoryRing(7, target=50.0)
    ring.bodies["curate"]["near_duplicate"] = 0.85
    text = "list every customer of the northern region who has ordered at least once since the beginning of the year"
    for name, prompt in (("first", text), ("second", text + ".")):
        data = {
            "interaction_id": name, "agent": {"name": "bot"}, "artifact_type": "sql", "model": "tiny", "prompt": prompt,
            "output": "select * from customers where region = 'north' and orders > 0", "prompt_group": "near",
        }  # fmt: skip
        ring.publish("interactions", event("interaction.recorded", data, id=name))
        said = {"interaction_id": name, "kind": "success", "score": 90}
        ring.publish("feedback", event("feedback.recorded", said, id=f"f-{name}"))
    ring.round(2, odd=False)
    with opened(lake_of(ring.log, tmp_path / "lake"), seconds=120) as lake:
        views = [view for name in ("first", "second") if (view := example_view(lake, name)) is not None]
        [(view, why)] = [(view, why) for view in views for why in view.rejections]
        assert (why.reason, why.figure, why.bound) == ("near_duplicate", "similarity", 0.85)
        assert why.twin is not None
        assert {view.example_id, why.twin.example_id} == {each.example_id for each in views}
        assert why.value == why.twin.similarity
        assert isinstance(why.value, float)
        assert 0.85 <= why.value < 1
        assert {part.text for part in why.twin.prompt if part.kind != "same"} == {"."}
