"""How an answer to a task is checked, as a suite's file says it. Knows no way to run anything: that is `evaluation.checks`.

A check says what is right without being shown an answer: values that calls give, rows that a query gives, what holds of a JSON
answer. So an answer that is right otherwise than the reference passes, and no text is compared where something can be run.
"""

from __future__ import annotations

import ast
import re
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, model_validator

from headrace_streams.policy import Policy

Level = Literal["easy", "medium", "hard"]


def _compiles(code: str) -> str:
    try:
        ast.parse(code)
    except SyntaxError as error:
        raise ValueError(f"no Python: {error.msg}, line {error.lineno}") from error
    return code


def _is_expression(text: str) -> str:
    try:
        ast.parse(text, mode="eval")
    except SyntaxError as error:
        raise ValueError(f"no Python expression: {error.msg}") from error
    return text


def _is_pattern(text: str) -> str:
    try:
        re.compile(text)
    except re.error as error:
        raise ValueError(f"{text!r} is no regular expression: {error}") from error
    return text


Code = Annotated[str, AfterValidator(_compiles)]
Expression = Annotated[str, Field(min_length=1), AfterValidator(_is_expression)]
Pattern = Annotated[str, AfterValidator(_is_pattern)]


class Case(Policy):
    """An expression over what the answer defines, and what it gives or raises."""

    run: Expression = Field(description="a Python expression over what the answer defines")
    gives: Any = Field(None, description="its value, as JSON has it: a tuple is a list")
    raises: str | None = Field(None, description="instead: the name of the exception, or of one that it is derived from")


class PythonCheck(Policy):
    """The answer is Python: it is run, and so are the cases over it."""

    kind: Literal["python"]
    setup: Code = Field("", description="code that is run before the answer")
    cases: tuple[Case, ...] = Field(min_length=1, description="all must give or raise what they say")


class TestsCheck(Policy):
    """The answer is tests (functions `test_…` with asserts): they pass on what is right and fail on all that is broken."""

    kind: Literal["tests"]
    right: Annotated[str, Field(min_length=1), AfterValidator(_compiles)] = Field(
        description="Python that is right; what it defines is there for the tests"
    )
    broken: tuple[Code, ...] = Field(min_length=1, description="the same with a fault each")


class SqlCheck(Policy):
    """The answer is one SELECT: it gives these rows over these tables."""

    kind: Literal["sql"]
    tables: str = Field(min_length=1, description="SQL that makes and fills the tables")
    rows: tuple[tuple[Any, ...], ...] = Field(description="what comes back")
    ordered: bool = Field(False, description="whether their order counts")


class JsonCheck(Policy):
    """The answer is a JSON value, alone or in a fenced block, of which something holds."""

    kind: Literal["json"]
    holds: tuple[Expression, ...] = Field(min_length=1, description="Python expressions over `answer`, all true")


class NumberCheck(Policy):
    """The last number of the answer."""

    kind: Literal["number"]
    value: float = Field(description="what it is")
    within: float = Field(1e-9, ge=0, description="how far from it is near enough")


class TextCheck(Policy):
    """What the answer says: case and white space don't count."""

    kind: Literal["text"]
    equals: tuple[str, ...] = Field((), description="it is one of these, but for a full stop at its end")
    matches: tuple[Pattern, ...] = Field((), description="regular expressions that are all found in it")
    without: tuple[Pattern, ...] = Field((), description="regular expressions of which none is found in it")

    @model_validator(mode="after")
    def _says_something(self) -> TextCheck:
        if not (self.equals or self.matches or self.without):
            raise ValueError("it checks nothing: give equals, matches or without")
        return self


Check = Annotated[
    PythonCheck | TestsCheck | SqlCheck | JsonCheck | NumberCheck | TextCheck, Field(discriminator="kind")
]  # fmt: skip
