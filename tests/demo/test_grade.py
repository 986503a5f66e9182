"""The referee: what counts as right, and that nothing an answer does can hurt."""

from __future__ import annotations

import itertools
import time
from pathlib import Path

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from headrace_demo.run.folder import Place
from headrace_demo.shop import database as shop
from headrace_demo.shop import questions
from headrace_demo.shop.families import FAMILIES
from headrace_demo.shop.grade import Referee, grade, grade_description
from headrace_demo.shop.questions import Question
from headrace_demo.shop.reading import question_of
from headrace_trainer import policy as policies
from headrace_trainer.evaluation.grader import Grader
from support import training_data

REFERENCE = "select count(*) from customers where city = 'Paris'"
QUESTION = "How many Retail customers live in Paris?"
ANSWER = "select count(*) from customers where city = 'Paris' and segment = 'Retail'"


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return shop.create(tmp_path_factory.mktemp("shop") / "shop.duckdb", seed=0)


@pytest.fixture(scope="module")
def referee(database: Path) -> Referee:
    return Referee(database)


@pytest.mark.parametrize(
    ("answer", "right"),
    [
        (REFERENCE, True),
        ("SELECT count(customer_id) FROM customers WHERE city IN ('Paris')", True),  # other text, same result
        (f"{REFERENCE};", True),
        ("select count(*) from customers", False),
        ("select count(*) from nowhere", False),
        ("selekt", False),
        ("", False),
        (f"{REFERENCE}; {REFERENCE}", False),  # one statement only
        ("delete from customers", False),
        ("attach '/tmp/other.db'", False),
        ("select * from read_csv('/etc/passwd')", False),
        ("copy customers to '/tmp/stolen.csv'", False),
        ("set threads = 8", False),
    ],
)
def test_an_answer_is_right_when_it_gives_what_the_reference_gives(referee: Referee, answer: str, right: bool) -> None:
    assert referee.right(answer, REFERENCE) is right


def test_rows_are_a_multiset_unless_the_reference_has_a_limit(referee: Referee) -> None:
    names = "select product_name from products where price < 60"
    assert referee.right(f"{names} order by price", names)
    assert not referee.right(f"{names} union all {names}", names)
    top = "select product_name from products order by price desc limit 3"
    assert not referee.right(f"select * from ({top}) order by 1", top) or not referee.right(
        f"select * from ({top}) order by 1 desc", top
    )
    assert referee.right(top.replace("desc", "DESC"), top)


def test_an_endless_answer_is_interrupted(referee: Referee) -> None:
    began = time.monotonic()
    assert not referee.right("select count(*) from range(1000000000) a, range(1000000000) b", REFERENCE)
    assert time.monotonic() - began < 30
    assert referee.right(REFERENCE, REFERENCE)


def test_a_flood_of_rows_is_wrong(referee: Referee) -> None:
    assert not referee.right("select * from range(1000000)", REFERENCE)


def test_a_reference_that_cannot_be_executed_is_an_error(referee: Referee) -> None:
    with pytest.raises(ValueError, match="reference"):
        referee.right(REFERENCE, "select nothing from nowhere")


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.text(max_size=60))
def test_no_answer_raises(referee: Referee, answer: str) -> None:
    assert referee.right(answer, REFERENCE) in (True, False)


def test_an_answer_is_graded_by_its_question_without_a_reference(database: Path) -> None:
    for right, wrong in (("Paris", "Rome"), ("Rome", "Paris")):
        asked = QUESTION.replace("Paris", right)
        assert grade(asked, ANSWER.replace("Paris", right), {}, database=str(database)) == 100.0
        assert grade(asked, ANSWER.replace("Paris", wrong), {}, database=str(database)) == 0.0
    with pytest.raises(ValueError, match="Which day is it"):
        grade("Which day is it?", ANSWER, {}, database=str(database))


def test_a_description_is_right_when_the_handbook_says_so() -> None:
    assert grade_description(ANSWER, QUESTION, {}) == 100.0
    assert grade_description(ANSWER, f"{QUESTION} ", {}) == 0.0
    assert grade_description(ANSWER.replace("Paris", "Rome"), QUESTION, {}) == 0.0
    with pytest.raises(ValueError, match="select 1"):
        grade_description("select 1", QUESTION, {})


@pytest.mark.parametrize("seed", [0, 41])
def test_every_question_and_its_sql_can_be_read_back(seed: int) -> None:
    values = questions.slot_values(shop.shop_of(seed))
    kinds: dict[tuple[str, str, int | None], Question] = {}
    for family, key, filled in questions.combinations(values):
        for number in (*range(len(family.paraphrases)), None):
            kinds.setdefault((family.name, filled[-1], number), questions.ask(family, key, filled, number))
    asked = [*kinds.values(), *itertools.islice(questions.training_questions(values, seed), 500)]
    assert {question.family for question in asked} == {family.name for family in FAMILIES}
    for question in asked:
        assert question_of(question.text) == question
        described = question_of(question.sql)
        assert described is not None
        assert (described.sql, described.description) == (question.sql, question.description)


@pytest.mark.parametrize("isolation", ["preferred", "off"])
def test_the_trainer_grades_with_it_as_the_demo_sets_it_up(tmp_path: Path, isolation: str) -> None:
    place = Place(tmp_path, seed=7)
    place.settings("127.0.0.1:1")
    shop.create(place.database, seed=0)
    policy = policies.load(place.policy).graders["sql"]
    example = training_data.example(1)
    example = msgspec.structs.replace(example, content=msgspec.structs.replace(example.content, prompt=QUESTION))
    with Grader(policy.model_copy(update={"isolation": isolation, "seconds": 20.0})) as grader:
        answers = (ANSWER, "select 1", "selekt", ANSWER)
        assert [grader.grade(answer, example) for answer in answers] == [(100.0, None), (0.0, None), (0.0, None), (100.0, None)]


def test_the_entry_point_is_installed() -> None:
    from importlib.metadata import entry_points

    (entry,) = entry_points(group="headrace.graders", name="demo-sql")
    assert entry.load() is grade
