"""Signs that nobody gave as feedback: what is seen in a session, that it is marked, weak, found again and taken back."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace_processors.attribute.derivation import Derivation, DerivationOptions, SessionReport, SessionSign, SessionTurn
from headrace_processors.attribute.policy import AttributePolicy
from headrace_processors.attribute.state import REPORTS, SIGNS, WORDS
from headrace_processors.curate.policy import CuratePolicy
from headrace_processors.intake.policy import IntakePolicy
from headrace_processors.policy_file import PolicyError, load
from headrace_processors.reward.policy import RewardPolicy
from headrace_processors.sketches import COMPARED, containment, overlap, sketch_of
from headrace_processors.stages import STAGES
from headrace_schemas.codec import decode
from headrace_schemas.events import ExampleRewarded, FeedbackRecorded, FeedbackRetracted
from headrace_streams.runtime.step import Processed
from headrace_streams.testing import START_MS, MemoryTask
from support.examples import GROUPS, examples_of
from support.signals import event, feedback, interaction, interaction_retracted, subject_erased

DAY = 86_400_000
STAGE = {stage.name: stage for stage in STAGES}
ALL: dict[str, Any] = {"rephrased": {}, "kept": {}, "undone": {}}
OUTPUT = "def total(rows): return sum(row.price * row.count for row in rows if row.count > 0) # all of them but returns"
OTHER = "import csv\nimport sys\n\nwith open(sys.argv[1]) as file:\n    rows = list(csv.DictReader(file))\nprint(len(rows))"


def task(**derive: Any) -> MemoryTask:
    return MemoryTask(STAGE["attribute"], "sessions", AttributePolicy.model_validate({"derive": derive or ALL}))


def told(*values: bytes, **policy: Any) -> list[bytes]:
    """What intake passes on to sessions."""
    policy = {"sessions": True, "sketches": True, **policy}
    stages = {topic: MemoryTask(STAGE["intake"], topic, IntakePolicy(**policy)) for topic in ("interactions", "feedback")}
    found = []
    for value in values:
        topic = "feedback" if b'"headrace.feedback.' in value else "interactions"
        produced = stages[topic].feed(value, at_ms=START_MS + DAY).produced
        assert "dead-letters" not in {each.topic for each in produced}, produced
        found += [each.value for each in produced if each.topic == "sessions"]
    return found


def turn(name: str, minute: float, prompt: str = "", output: str = "select 1", **data: Any) -> bytes:
    fields = {"session_id": "s1", "prompt": prompt or f"question {name}", "output": output, **data}
    return interaction(name, minute=minute, **fields)


def report(name: str, minute: float, content: str, of: str = "total.py", **data: Any) -> bytes:
    fields = {"session_id": "s1", "name": of, "content": content, **data}
    return feedback(name, None, "content_reported", minute=minute, **fields)


def undo(name: str, minute: float, **data: Any) -> bytes:
    return feedback(name, None, "undone", minute=minute, session_id="s1", **data)


def unreported(name: str) -> bytes:
    return event("feedback.retracted", {"feedback_id": name, "session_id": "s1"}, id=f"u{name}", source="people:test", minute=99)


def left(name: str) -> bytes:
    return event("session.left", {"session_id": "s1", "interaction_id": name}, id=f"l{name}", source="headrace:reward")


class Derived:
    """What stands of what was derived."""

    def __init__(self) -> None:
        self.standing: dict[str, FeedbackRecorded] = {}
        self.seen: set[str] = set()

    def take(self, *processed: Processed) -> None:
        for produced in (each for one in processed for each in one.produced):
            found = decode(produced.value, produced.headers)
            assert isinstance(found, FeedbackRecorded | FeedbackRetracted), found
            feedback_id = found.data.feedback_id or ""
            if isinstance(found, FeedbackRecorded):
                assert feedback_id not in self.seen
                self.seen.add(feedback_id)
                self.standing[feedback_id] = found
            else:
                assert self.standing.pop(feedback_id).data.interaction_id == found.data.interaction_id

    @property
    def signs(self) -> dict[str, set[str]]:
        """Interactions by kind."""
        found: dict[str, set[str]] = {}
        for each in self.standing.values():
            found.setdefault(each.data.kind, set()).add(each.data.interaction_id or "")
        return found

    @property
    def facts(self) -> list[tuple[Any, ...]]:
        """All that may not depend on the order of arrival."""
        found = []
        for each in self.standing.values():
            source = each.data.attributed_from
            assert source is not None
            found.append((each.data.kind, each.data.interaction_id, source.derived_by, *(source.causes or ()), each.time))
        return sorted(found)


def run(stage: MemoryTask, *values: bytes) -> Derived:
    signs = Derived()
    for value in values:
        signs.take(stage.feed(value))
    return signs


def signs_of(*values: bytes, **derive: Any) -> dict[str, set[str]]:
    return run(task(**derive), *told(*values)).signs


# rephrased


def test_a_question_that_is_asked_again_in_other_words_says_that_the_answer_was_no_good() -> None:
    again = turn("i2", 3, "please show me total sales by region for march")
    found = run(task(), *told(turn("i1", 1, "show me the total sales by region for march"), again))
    [derived] = found.standing.values()
    assert (derived.data.interaction_id, derived.data.kind, derived.data.name) == ("i1", "rephrased", "derived:rephrased")
    assert derived.source == "headrace:attribute"
    assert derived.data.principal is None
    source = derived.data.attributed_from
    assert source is not None
    assert (source.derived_by, source.causes, source.session_id) == ("rephrased@1", ["i1", "i2"], "s1")


@pytest.mark.parametrize(
    ("second", "policy"),
    [
        (turn("i2", 3, "which customers came back in april"), {}),  # another question
        (turn("i2", 30, "total sales by region"), {}),  # long after
        (turn("i2", 3, "total sales by region"), {"within_minutes": 1}),
        (turn("i2", 3, "total sales by region", agent={"name": "reviewer"}), {}),  # somebody else was asked
        (turn("i2", 1.01, "total sales by region", latency_ms=5000), {}),  # a sample beside it: asked before the answer was there
        (turn("i2", 3, "total sales by region", session_id="s2"), {}),
        (turn("i2", 3, "total sales by month"), {"similarity": 0.9}),
    ],
)
def test_what_is_no_second_try_is_not_taken_for_one(second: bytes, policy: dict[str, Any]) -> None:
    assert signs_of(turn("i1", 1, "total sales by region"), second, rephrased=policy) == {}


def test_the_last_message_of_the_user_is_compared_and_not_what_was_said_before() -> None:
    def asked(name: str, minute: float, question: str) -> bytes:
        history = [{"role": "user", "content": "hello there, a long opening of the talk"}, {"role": "assistant", "content": "hi"}]
        return turn(name, minute, [*history, {"role": "user", "content": question}])  # type: ignore[arg-type]

    assert signs_of(asked("i1", 1, "sales by region"), asked("i2", 2, "who came back in april")) == {}
    assert signs_of(asked("i1", 1, "sales by region"), asked("i2", 2, "sales by region now")) == {"rephrased": {"i1"}}


# kept and undone


def test_an_output_that_stands_in_what_is_reported_was_kept_however_it_is_indented() -> None:
    inside = f"{OTHER}\n\n{OUTPUT.replace(' ', '  ')}\n"
    assert signs_of(turn("i1", 1, output=OUTPUT), report("r1", 5, inside)) == {"kept": {"i1"}}
    assert signs_of(turn("i1", 1, output=OUTPUT), report("r1", 5, OTHER)) == {}
    assert signs_of(turn("i1", 1, output=OUTPUT), report("r1", 5, inside), kept={"within_minutes": 2}) == {}
    assert signs_of(turn("i1", 1, output="select 1"), report("r1", 5, "select 1 from all that there is")) == {}  # by chance


def test_what_stood_there_before_was_not_made_by_the_answer() -> None:
    assert signs_of(report("r0", 0.5, OUTPUT), turn("i1", 1, output=OUTPUT), report("r1", 5, OUTPUT + OTHER)) == {}


def test_an_output_in_the_context_of_a_later_turn_was_kept() -> None:
    assert signs_of(turn("i1", 1, output=OUTPUT), turn("i2", 5, context=[{"content": OTHER + OUTPUT}])) == {"kept": {"i1"}}


def test_what_is_as_it_was_before_was_undone_and_is_kept_no_more() -> None:
    stage = task()
    values = told(report("r0", 0, OTHER), turn("i1", 1, output=OUTPUT), report("r1", 5, OTHER + OUTPUT), report("r2", 9, OTHER))
    found = run(stage, *values[:3])
    assert found.signs == {"kept": {"i1"}}
    found.take(stage.feed(values[3]))
    assert found.signs == {"undone": {"i1"}}
    [derived] = found.standing.values()
    assert derived.data.attributed_from is not None
    assert derived.data.attributed_from.causes == ["i1", "r0", "r1", "r2"]
    assert {name: count for name, count in stage.counters.items() if name.startswith("derived_") and count} == {
        "derived_undone": 1
    }


def test_an_agent_may_say_what_it_took_back_and_else_it_is_the_last() -> None:
    turns = turn("i1", 1), turn("i2", 2)
    assert signs_of(*turns, undo("u1", 3)) == {"undone": {"i2"}}
    assert signs_of(*turns, undo("u1", 3, interaction_id="i1")) == {"undone": {"i1"}}
    assert signs_of(undo("u1", 0.5), *turns) == {}


def test_an_undo_is_credited_like_any_word_where_nothing_is_derived_from_it() -> None:
    stage = MemoryTask(STAGE["attribute"], "sessions", AttributePolicy.model_validate({"credit": "last"}))
    [derived] = run(stage, *told(turn("i1", 1), undo("u1", 3), report("r1", 4, OUTPUT))).standing.values()
    assert derived.data.kind == "undone"
    assert derived.data.attributed_from is not None
    assert derived.data.attributed_from.derived_by is None
    assert (stage.counters["credited"], stage.counters["reported"]) == (1, 1)


def test_where_nobody_credits_a_word_on_a_session_is_of_the_interaction_that_it_names_or_a_dead_letter() -> None:
    """Derivations alone have sessions read, and that is no reason to credit all interactions with what is said of them."""
    stage = task()
    turns = told(turn("i1", 1), turn("i2", 2))
    named = told(feedback("w1", "i1", "explicit_negative", minute=3, session_id="s1"))
    found = run(stage, *turns, *named)
    assert found.signs == {"explicit_negative": {"i1"}}
    [derived] = found.standing.values()
    assert derived.data.attributed_from is not None
    assert derived.data.attributed_from.share == 1.0
    [unnamed] = told(feedback("w2", None, "explicit_negative", minute=3, session_id="s1"))
    [dead] = stage.feed(unnamed).produced
    error = msgspec.json.decode(dead.value)["data"]["error"]
    assert (dead.topic, error["code"], error["field"]) == ("dead-letters", "missing", "data.interaction_id")


# what is made of it, and taken back


STORY = told(
    report("r0", 0, OTHER),
    turn("i1", 1, "write the total of all rows", OUTPUT),
    turn("i2", 3, "write the total of all the rows", OUTPUT),
    report("r1", 5, OTHER + OUTPUT),
    undo("u1", 6, interaction_id="i1"),
    turn("i3", 7, context=OUTPUT),
)


@given(st.permutations(STORY), st.integers(0, 5))
def test_what_stands_does_not_depend_on_the_order_of_arrival(story: list[bytes], restart: int) -> None:
    stage, found = task(), Derived()
    for number, value in enumerate(story):
        found.take(stage.feed(value))
        if number == restart:
            stage.restart()
        counted = Counter({name: count for name, count in stage.counters.items() if not name.startswith("derived_")})
        assert counted["in"] == sum(count for name, count in counted.items() if name != "in")
    assert found.facts == run(task(), *STORY).facts
    assert set(found.signs) == {"rephrased", "kept", "undone"}
    assert sum(count for name, count in stage.counters.items() if name.startswith("derived_")) == len(found.standing)


@given(st.permutations([*STORY, told(unreported("r1"))[0]]))
def test_what_was_seen_in_something_that_is_retracted_is_taken_back_whichever_came_first(story: list[bytes]) -> None:
    found = run(task(), *story)
    without = [value for value in STORY if b'"r1"' not in value]
    assert found.facts == run(task(), *without).facts


@given(st.permutations(STORY), st.sampled_from(["i1", "i2", "i3"]))
def test_what_was_seen_in_an_interaction_that_is_retracted_is_taken_back(story: list[bytes], name: str) -> None:
    stage = task()
    found = run(stage, *story, left(name))
    assert name not in {part for fact in found.facts for part in fact}
    assert f'["s1","{name}"]' not in stage.dumped()
    found.take(stage.feed(story[0]), stage.feed(left(name)))  # delivered once more
    assert name not in {part for fact in found.facts for part in fact}


@given(st.lists(st.sampled_from([*STORY, left("i2"), *told(unreported("r1"))]), max_size=16))
def test_the_same_log_gives_the_same_bytes_again(values: list[bytes]) -> None:
    one, other = task(), task()
    for value in values:
        assert one.feed(value).produced == other.feed(value).produced
        other.restart()
    assert one.dumped() == other.dumped()


def test_what_is_derived_anew_has_an_id_of_its_own() -> None:
    """A retraction is for ever: feedback of the same id would never count again."""
    stage = task()
    found = run(stage, *told(turn("i1", 1, "sales by region"), turn("i3", 5, "sales by region")))
    [first] = found.standing
    found.take(*map(stage.feed, told(turn("i2", 3, "who came back"))))
    assert found.standing == {}
    found.take(stage.feed(left("i2")))
    assert found.signs == {"rephrased": {"i1"}}
    assert [*found.standing] != [first]


def test_what_is_known_of_reports_and_turns_is_bounded_and_what_was_seen_in_them_stands_until_they_are_retracted() -> None:
    stage = task()
    kept = told(turn("i1", 1, output=OUTPUT), report("r1", 2, OUTPUT, of="first"), turn("i2", 2.5, context=OUTPUT))
    found = run(stage, *kept)
    found.take(*map(stage.feed, told(*(report(f"x{number}", 3 + number, OTHER, of=f"f{number}") for number in range(40)))))
    found.take(*map(stage.feed, told(*(turn(f"t{number}", 50 + number) for number in range(80)))))
    assert found.signs == {"kept": {"i1"}}
    assert len(found.standing) == 1  # seen in something else as well, it would be said twice
    assert sum('"people:test"' in key for key in stage.dumped()) == REPORTS
    assert len(stage.dumped()) == REPORTS + 64 + 1
    found.take(stage.feed(left("i1")))
    assert found.standing == {}


def test_a_report_that_is_known_no_more_is_taken_back_of_a_session_that_is_full_of_words() -> None:
    policy = AttributePolicy.model_validate({"derive": ALL, "credit": "last"})
    stage = MemoryTask(STAGE["attribute"], "sessions", policy)
    found = run(stage, *told(turn("i1", 1, output=OUTPUT), report("r1", 2, OUTPUT, of="first")))
    for value in told(*(report(f"x{number}", 3 + number, OTHER, of=f"f{number}") for number in range(REPORTS))):
        found.take(stage.feed(value))
    for number in range(WORDS):  # before the first turn, so that nobody is credited
        found.take(stage.feed(told(feedback(f"w{number}", None, "success", minute=0, session_id="s1"))[0]))
    assert found.signs == {"kept": {"i1"}}
    found.take(stage.feed(told(unreported("r1"))[0]))
    assert found.signs == {}


def chatter(turns: Sequence[SessionTurn], reports: Sequence[SessionReport], options: DerivationOptions) -> list[SessionSign]:
    """Of each turn in each that is not it."""
    pairs = ((one, other) for one in turns for other in turns if one is not other)
    return [SessionSign(one.interaction_id, one.time_ns, (one.interaction_id, other.interaction_id)) for one, other in pairs]


CHATTER = Derivation("chatter", 1, chatter)


def test_of_more_signs_than_are_known_none_is_found_anew_with_each_record() -> None:
    stage, found = task(chatter={"rule": f"{__name__}:CHATTER"}), Derived()
    for value in told(*(turn(f"i{number}", number) for number in range(20))):
        found.take(stage.feed(value))
    assert len(found.standing) == SIGNS
    again = stage.feed(report_of_nothing())
    assert again.produced == [], "20 turns have 380 pairs"


def report_of_nothing() -> bytes:
    (value,) = told(report("r1", 30, "nothing of this stands anywhere else"))
    return value


def test_an_expired_session_leaves_nothing_behind() -> None:
    stage = task()
    run(stage, *STORY, *told(unreported("u1")))
    stage.let_pass(START_MS + 200 * DAY)
    assert stage.dumped() == {}
    assert stage.counters["ticks"] == 1


def test_what_is_not_derived_any_more_is_taken_back_as_the_session_goes_on() -> None:
    stage = task()
    found = run(stage, *told(turn("i1", 1, "sales by region"), turn("i2", 3, "sales by region")))
    off = AttributePolicy.model_validate({"derive": {"rephrased": {"enabled": False}}})
    stage.activate(off)
    assert found.signs == {"rephrased": {"i1"}}
    found.take(*map(stage.feed, told(turn("i3", 4, "who came back"))))
    assert found.standing == {}


# a team's own


def long_talk(turns: Sequence[SessionTurn], reports: Sequence[SessionReport], options: DerivationOptions) -> list[SessionSign]:
    most = int(options.options.get("turns", 2))
    return [SessionSign(turns[-1].interaction_id, turns[-1].time_ns, (turns[-1].interaction_id,))] if len(turns) > most else []


LONG_TALK = Derivation("long_talk", 3, long_talk)


def test_a_team_plugs_in_a_derivation_of_its_own() -> None:
    row = {"rule": f"{__name__}:LONG_TALK", "options": {"turns": 1}}
    stage = task(weary=row)
    [derived] = run(stage, *told(turn("i1", 1), turn("i2", 2))).standing.values()
    assert (derived.data.interaction_id, derived.data.kind) == ("i2", "weary")
    assert derived.data.attributed_from is not None
    assert derived.data.attributed_from.derived_by == "long_talk@3"


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"rule": "nobody.knows:it"}, "derivation 'nobody.knows:it'"),
        ({"rule": ".knows:it"}, "derivation '.knows:it': TypeError"),
        ({"rule": "it:"}, "derivation 'it:'"),
        ({"rule": "nowhere"}, "is not installed; there are kept, rephrased, undone"),
        ({"rule": f"{__name__}:DAY"}, "is a int, not a Derivation"),
        ({"rule": f"{__name__}:LONG_TALK", "version": 2}, "version = 2: installed is 3"),
    ],
)
def test_a_derivation_that_is_not_there_is_one_clear_line(tmp_path: Any, row: dict[str, Any], message: str) -> None:
    file = tmp_path / "policy.toml"
    lines = "\n".join(f"{key} = {value!r}" for key, value in row.items())
    file.write_text(f"[attribute.derive.weary]\n{lines}\n")
    with pytest.raises(PolicyError, match=message):
        load(file)


def test_one_table_of_the_file_is_enough_and_the_log_names_what_was_installed(tmp_path: Any) -> None:
    file = tmp_path / "policy.toml"
    file.write_text("[attribute.derive.rephrased]\nsimilarity = 0.7\n")
    policies = load(file)
    assert (policies.intake.sessions, policies.intake.sketches, policies.reward.sessions) == (True, True, True)
    [(name, row)] = policies.bodies()["attribute"]["derive"].items()
    assert (name, row["version"], row["within_minutes"], row["similarity"]) == ("rephrased", 1, 10.0, 0.7)
    file.write_text("[attribute.derive.rephrased]\nenabled = false\n")
    off = load(file)
    assert (off.intake.sessions, off.intake.sketches, off.reward.sessions) == (None, None, None)


# what is told


def test_no_text_is_put_on_sessions_and_nothing_private_leaves_a_trace_in_a_sketch() -> None:
    [joined, reported] = told(turn("i1", 1, "write to ada@example.org", OUTPUT), report("r1", 2, f"{OUTPUT} ada@example.org"))
    for value in (joined, reported):
        assert b"total" not in msgspec.json.encode({**msgspec.json.decode(value)["data"], "name": ""})
    sketch = msgspec.json.decode(joined)["data"]["sketch"]
    assert sketch["question"] == sketch_of("write to [EMAIL_1]", words=1, room=128)
    assert "content" not in msgspec.json.decode(reported)["data"]
    [alone] = told(turn("i1", 1), sketches=False)
    assert msgspec.json.decode(alone)["data"] == {"session_id": "s1", "interaction_id": "i1"}


@pytest.mark.parametrize(
    ("value", "sessions", "code", "field"),
    [
        (feedback("r1", None, "content_reported", session_id="s1"), True, "bad_value", "data.content"),
        (feedback("r1", None, "content_reported", session_id="s1", content=7), True, "bad_value", "data.content"),
        (feedback("r1", "i1", "content_reported", content="x"), True, "missing", "data.session_id"),
        (feedback("r1", "i1", "content_reported", content="x", session_id="s1"), False, "missing", "data.session_id"),
    ],
)
def test_a_report_that_says_nothing_is_a_dead_letter(value: bytes, sessions: bool, code: str, field: str) -> None:
    stage = MemoryTask(STAGE["intake"], "feedback", IntakePolicy(sessions=sessions, sketches=sessions))
    [produced] = stage.feed(value, at_ms=START_MS + DAY).produced
    error = msgspec.json.decode(produced.value)["data"]["error"]
    assert (produced.topic, error["code"], error["field"]) == ("dead-letters", code, field)


@given(st.text(max_size=80), st.text(max_size=80), st.sampled_from([1, 3]))
def test_sketches_of_short_texts_are_exact(one: str, other: str, words: int) -> None:
    first, second = sketch_of(one, words=words, room=128), sketch_of(other, words=words, room=128)
    assert overlap(first, second) == overlap(second, first)
    if first is not None:
        assert overlap(first, first) == 1
    assert 0 <= containment(first, second) <= 1


def test_a_part_is_found_in_a_whole_that_is_much_longer_than_its_sketch() -> None:
    words = [f"w{number}" for number in range(20_000)]
    whole = sketch_of(" ".join(words), words=3, room=2048)
    part, foreign = (sketch_of(" ".join(text), words=3, room=128) for text in (words[5000:5400], ["x", *words[::2][:400]]))
    assert containment(part, whole) > 0.9
    assert containment(foreign, whole) < 0.1
    assert overlap(sketch_of(" ".join(words), words=3, room=128), whole) == 1
    assert sketch_of("x " * COMPARED, words=1, room=1) == sketch_of("x", words=1, room=1)


# reward


def seen(kind: str = "rephrased", name: str = "d1") -> bytes:
    source = {"session_id": "s1", "feedback_id": name, "share": 1.0, "derived_by": f"{kind}@1", "causes": ["i1", "i2"]}
    return feedback(name, "i1", kind, name=f"derived:{kind}", attributed_from=source)


def credited(share: float, name: str = "c1", kind: str = "explicit_positive") -> bytes:
    return feedback(name, "i1", kind, attributed_from={"session_id": "s1", "feedback_id": "f", "share": share})


def test_what_was_derived_is_a_weak_voice_of_its_own_and_marked() -> None:
    [alone] = examples_of(interaction(), seen())
    assert alone["components"]["feedback"] == pytest.approx(0.25 * -0.4)
    assert (alone["voices"], alone["derived"], alone["quality"]) == (1, 1, 0)
    assert alone["reward"] < 0
    assert "score" not in alone
    beside = examples_of(interaction(), feedback("f1", score=90), seen())[-1]
    [direct] = examples_of(interaction(), feedback("f1", score=90))
    assert beside["components"]["feedback"] == pytest.approx((0.3 - 0.25 * 0.4) / 1.25)
    assert (beside["quality"], beside["score"], beside["contradicted"]) == (direct["quality"], 90, False)
    assert "derived" not in direct


def test_quality_hears_it_where_policy_says_so_and_weight_nothing_is_not_heard() -> None:
    [heard] = examples_of(interaction(), seen(), derived_in_quality=True)
    assert heard["quality"] < 0
    assert heard["derived"] == 1
    assert examples_of(interaction(), seen(), derived={"rephrased": {"weight": 0}}) == []
    [own] = examples_of(interaction(), seen("weary"), derived={"weary": {"bonus": 1.0, "weight": 0.5}})
    assert own["components"]["feedback"] == 0.5


def test_weak_voices_that_agree_come_to_a_whole_one_and_not_to_more() -> None:
    examples = examples_of(interaction(), *(seen(name=f"d{number}") for number in range(8)))
    found = [example["components"]["feedback"] for example in examples]
    assert found == pytest.approx([-0.1, -0.2, -0.3, *[-0.4] * 5])


def test_a_small_share_moves_a_whole_voice_by_little() -> None:
    """The mean of products made a whole voice of any share: 1 and a hundredth of 1 came to half."""
    whole = feedback("f1", "i1", "explicit_positive")
    found = examples_of(interaction(), whole, credited(0.01))[-1]
    assert found["components"]["feedback"] == pytest.approx(0.4)
    found = examples_of(interaction(), whole, credited(0.01, kind="explicit_negative"))[-1]
    assert found["components"]["feedback"] == pytest.approx((0.4 - 0.01) / 1.01)


@given(st.permutations([interaction(), feedback("f1", score=90), seen(), seen("kept", "d2"), credited(0.5)]))
def test_the_order_in_which_it_is_heard_does_not_matter(values: list[bytes]) -> None:
    found = examples_of(*values)[-1]
    expected = examples_of(interaction(), feedback("f1", score=90), seen(), seen("kept", "d2"), credited(0.5))[-1]
    names = ("quality", "reward", "components", "voices", "derived", "score")
    assert [found[name] for name in names] == [expected[name] for name in names]


@pytest.mark.parametrize(
    "ends",
    [
        [interaction(session_id="s1", data_subject="bob"), interaction_retracted("i1")],
        [interaction_retracted("i1"), interaction(session_id="s1", data_subject="bob")],
        [interaction(session_id="s1", data_subject="bob"), feedback(), subject_erased("bob")],
        [subject_erased("bob"), interaction(session_id="s1", data_subject="bob")],
    ],
)
def test_a_session_hears_once_of_an_interaction_that_has_ended(ends: list[bytes]) -> None:
    for told_so in (True, None):
        stage = MemoryTask(STAGE["reward"], "signals", RewardPolicy(sessions=told_so))
        produced = [each for value in (*ends, *ends) for each in stage.feed(value).produced if each.topic == "sessions"]
        assert [(each.key, msgspec.json.decode(each.value)["data"]) for each in produced] == (
            [(b"s1", {"session_id": "s1", "interaction_id": "i1"})] if told_so else []
        )


def test_a_session_hears_of_an_interaction_that_had_expired() -> None:
    stage = MemoryTask(STAGE["reward"], "signals", RewardPolicy(sessions=True))
    stage.feed(interaction(session_id="s1"))
    stage.feed(feedback())
    stage.let_pass(START_MS + 200 * DAY)
    produced = stage.feed(interaction_retracted("i1")).produced
    assert [each.topic for each in produced] == ["examples", "sessions"]


# curate


def example(number: int, test: bool, **said: Any) -> bytes:
    """An example of one group, of the wanted side."""
    group = GROUPS["test" if test else "train"][number]
    stage = MemoryTask(STAGE["reward"], "signals")
    stage.feed(
        interaction(f"i{number}", prompt_group=group, prompt=f"a question {number}", output=f"select {number} from things")
    )
    [produced] = stage.feed(feedback(f"f{number}", f"i{number}", said.pop("kind", "success"), **said)).produced
    assert isinstance(decode(produced.value), ExampleRewarded)
    return produced.value


@pytest.mark.parametrize(("implicit", "counters"), [("learn", {"admitted": 1, "rejected": 1}), ("judge", {"admitted": 2})])
def test_what_nobody_said_may_be_learnt_from_and_judges_only_where_policy_says_so(
    implicit: Any, counters: dict[str, int]
) -> None:
    stage = MemoryTask(STAGE["curate"], "examples", CuratePolicy(implicit=implicit))
    source = {"session_id": "s1", "feedback_id": "d", "share": 1.0, "derived_by": "kept@1", "causes": ["x"]}
    produced = []
    for number, test in enumerate((False, True)):
        produced += stage.feed(example(number, test, kind="kept", attributed_from=source)).produced
    assert {name: stage.counters[name] for name in ("admitted", "rejected") if stage.counters.get(name)} == counters
    reasons = [msgspec.json.decode(each.value)["data"]["reason"] for each in produced if each.topic == "rejections"]
    assert reasons == (["implicit"] if implicit == "learn" else [])
