"""What is held out is never learnt by the base nor asked for training: combinations, and a wording of each family."""

from __future__ import annotations

import itertools
import re
from collections import Counter, defaultdict
from pathlib import Path

import pytest

from headrace_demo.base_model import build as base
from headrace_demo.base_model.recipe import Recipe
from headrace_demo.names import DOCS, SQL
from headrace_demo.shop import database as shop
from headrace_demo.shop import questions
from headrace_demo.shop.exam import ASKED, DESCRIBED, DESCRIPTIONS, KNOWN, NEW, ExamPaper
from headrace_demo.shop.families import FAMILIES
from headrace_demo.shop.questions import is_held_out

SEED = 3
PAPER = ExamPaper(SEED)


@pytest.fixture(scope="module")
def values() -> dict[str, tuple[str, ...]]:
    return questions.slot_values(shop.shop_of(SEED))


def test_a_quarter_of_the_combinations_is_held_out_in_any_paraphrase(values: dict[str, tuple[str, ...]]) -> None:
    keys = [key for _, key, _ in questions.combinations(values)]
    share = sum(map(is_held_out, keys)) / len(keys)
    assert 0.2 < share < 0.3
    assert len(keys) == len(set(keys))


def test_the_two_sides_share_no_combination_no_question_and_no_sql(values: dict[str, tuple[str, ...]]) -> None:
    learnt = list(questions.training_questions(values, SEED))
    kept = [question for kind in (SQL, DOCS) for question in PAPER.questions(kind)]
    for side in ("combination", "text", "sql"):
        assert not {getattr(question, side) for question in learnt} & {getattr(question, side) for question in kept}
    assert not any(question.held_out for question in learnt)
    assert all(question.held_out for question in kept)
    assert len({question.text for question in learnt}) == len(learnt) > 1600


def test_an_exam_asks_the_same_combinations_in_a_wording_that_is_trained_on_and_in_one_that_is_not(
    values: dict[str, tuple[str, ...]],
) -> None:
    columns = defaultdict(list)
    for question in PAPER.questions(SQL):
        columns[PAPER.columns(SQL)[question.text]].append(question)
    assert [q.combination for q in columns[KNOWN]] == [q.combination for q in columns[NEW]]
    assert len({q.combination for q in columns[KNOWN]}) == len(columns[KNOWN]) == ASKED
    filled = {key: (family, slots) for family, key, slots in questions.combinations(values)}
    for question in columns[NEW]:
        family, slots = filled[question.combination]
        assert question == questions.ask(family, question.combination, slots, None)
    for question in columns[KNOWN]:
        family, slots = filled[question.combination]
        asked = [questions.ask(family, question.combination, slots, n) for n in range(len(family.paraphrases))]
        assert question in asked


def test_the_exam_asks_all_families_and_is_the_same_each_time() -> None:
    assert PAPER.questions(SQL) == ExamPaper(SEED).questions(SQL) != ExamPaper(SEED + 1).questions(SQL)
    for kind in (SQL, DOCS):
        counts = Counter(question.family for question in PAPER.questions(kind))
        assert set(counts) == {family.name for family in FAMILIES}
        assert min(counts.values()) >= 4
    assert Counter(PAPER.columns(SQL).values()) == {KNOWN: ASKED, NEW: ASKED}
    assert Counter(PAPER.columns(DOCS).values()) == {DESCRIBED: DESCRIPTIONS}


def test_no_new_wording_is_one_that_is_trained_on_with_other_blanks_or_cases() -> None:
    def bare(text: str) -> str:
        return "".join(text.lower().split())

    trained_on = {bare(text) for family in FAMILIES for text in family.paraphrases}
    assert not {bare(family.new_wording) for family in FAMILIES} & trained_on
    for family in FAMILIES:
        for text in (*family.paraphrases, family.new_wording):
            slots = {name.replace("most_word", "most") for name in re.findall(r"{(\w+)}", text)}
            assert slots == set(family.slots), text


def test_the_base_never_sees_a_question_of_the_shop(values: dict[str, tuple[str, ...]]) -> None:
    asked = list(questions.combinations(values))
    sql = {questions.ask(family, key, filled, 0).sql for family, key, filled in asked}
    texts = {
        questions.ask(family, key, filled, number).text
        for family, key, filled in asked
        for number in (*range(len(family.paraphrases)), None)
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
