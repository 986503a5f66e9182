"""Where a field stands in a JSON text: every path that there is, and what is said of one that is not."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace_schemas.json_spans import TextSpan, span_of

NAMES = st.text('ab.[0]"\\é\n', min_size=1, max_size=4)
TREES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("abcé", min_size=1, max_size=3), inner, max_size=3),
    max_leaves=12,
)


def paths(tree: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Every path below a tree, with what stands there."""
    named = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    for name, value in named:
        here = f"{path}[{name}]" if isinstance(tree, list) else f"{path}.{name}".removeprefix(".")
        yield here, value
        yield from paths(value, here)


@given(TREES.map(lambda tree: {"data": tree}), st.sampled_from([None, 2]))
def test_every_path_leads_to_the_text_of_its_value(tree: Any, indent: int | None) -> None:
    text = json.dumps(tree, indent=indent, ensure_ascii=False)
    for path, value in paths(tree):
        found = span_of(text, path)
        assert found is not None
        assert found.what == "field"
        assert json.loads(text[found.start : found.end]) == value


@given(st.dictionaries(NAMES, st.integers(), min_size=1, max_size=4))
def test_a_name_with_dots_and_brackets_in_it_is_found_as_it_is_written(tree: dict[str, int]) -> None:
    text = json.dumps(tree)
    for name, value in tree.items():
        found = span_of(text, name)
        assert found is not None
        assert text[found.start : found.end] == str(value)


@pytest.mark.parametrize(
    ("text", "field", "expected", "what"),
    [
        ('{"data": {"a": 1}}', "data.b.c", '{"a": 1}', "missing"),
        ('{"data": [1, 2]}', "data[5]", "[1, 2]", "missing"),
        ('{"a": 1, "a": 2}', "a", "2", "field"),
        ('{"data": {"a": 1,}}', "data.a", "}", "broken"),
        ('{"a": tru}', "a", "t", "broken"),
        ("{} {}", None, "{}", "broken"),
        ("\ufeff{}", None, "\ufeff", "broken"),
        ("", None, "", "broken"),
        ('{"a": NaN}', "a", "NaN", "field"),
    ],
)
def test_what_is_not_there_or_no_json_has_a_place_too(text: str, field: str | None, expected: str, what: str) -> None:
    found = span_of(text, field)
    assert found is not None
    assert (text[found.start : found.end], found.what) == (expected, what)


@given(st.text(max_size=40), st.text(max_size=20))
def test_whatever_a_text_is_a_span_lies_within_it(text: str, field: str) -> None:
    found = span_of(text, field)
    assert found is None or 0 <= found.start <= found.end <= len(text)


def test_a_text_nested_beyond_all_limits_has_no_span() -> None:
    assert span_of("[" * 200_000, "data") in (None, TextSpan(200_000, 200_000, "broken"))
