"""What is held out is never learnt: by the base, in a batch, in rehearsal."""

from __future__ import annotations

import itertools
from collections import Counter
from pathlib import Path

import pytest

from headrace_demo.base_model import build as base
from headrace_demo.base_model.recipe import Recipe
from headrace_demo.shop import database as shop
from headrace_demo.shop import questions
from headrace_demo.shop.families import FAMILIES
from headrace_demo.shop.questions import is_held_out

SEED = 3


@pytest.fixture(scope="module")
def values() -> dict[str, tuple[str, ...]]:
    own = shop.shop_of(SEED)
    return questions.slot_values(own.cities, own.people, own.products)


def test_a_quarter_of_the_combinations_is_held_out_in_any_paraphrase(values: dict[str, tuple[str, ...]]) -> None:
    keys = [key for _, key, _ in questions.combinations(values)]
    share = sum(map(is_held_out, keys)) / len(keys)
    assert 0.2 < share < 0.3
    assert len(keys) == len(set(keys))


def test_the_two_sides_share_no_combination_no_question_and_no_sql(values: dict[str, tuple[str, ...]]) -> None:
    learnt = list(questions.training_questions(values, SEED))
    kept = questions.held_out_questions(values, SEED, 240)
    for side in ("combination", "text", "sql"):
        assert not {getattr(question, side) for question in learnt} & {getattr(question, side) for question in kept}
    assert not any(question.held_out for question in learnt)
    assert all(question.held_out for question in kept)
    assert len({question.text for question in kept}) == 240
    assert len({question.text for question in learnt}) == len(learnt) > 1600


def test_the_exam_asks_all_families_and_is_the_same_each_time(values: dict[str, tuple[str, ...]]) -> None:
    kept = questions.held_out_questions(values, SEED, 240)
    assert kept == questions.held_out_questions(values, SEED, 240)
    assert Counter(question.family for question in kept) == dict.fromkeys((family.name for family in FAMILIES), 12)


def test_the_base_never_sees_a_question_of_the_shop(values: dict[str, tuple[str, ...]]) -> None:
    asked = list(questions.combinations(values))
    sql = {questions.ask(family, key, filled, 0).sql for family, key, filled in asked}
    texts = {
        questions.ask(family, key, filled, number).text
        for family, key, filled in asked
        for number in range(len(family.paraphrases))
    }
    pairs = base.corpus_of(Recipe(seed=SEED))
    assert len(pairs) == Recipe(seed=SEED).pairs
    assert not sql & {answer for _, answer in pairs}
    assert not texts & {question for question, _ in pairs}


def test_the_references_can_be_executed_and_say_something(tmp_path: Path, values: dict[str, tuple[str, ...]]) -> None:
    with shop.open_shop(shop.create(tmp_path / "shop.duckdb", SEED)) as connection:
        found = [connection.execute(q.sql).fetchall() for q in itertools.islice(questions.training_questions(values, SEED), 400)]
    empty = sum(rows in ([], [(0,)], [(None,)]) for rows in found)
    assert empty < 40  # else a wrong answer could be right by saying nothing


def test_a_shop_is_its_seed(tmp_path: Path) -> None:
    assert shop.rows_of(shop.shop_of(5)) == shop.rows_of(shop.shop_of(5))
    assert shop.rows_of(shop.shop_of(5)) != shop.rows_of(shop.shop_of(6))
