"""Which examples of a data set are wanted: by agent, role, reward, time, rater, side and who spoke. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple, TypeVar

from msgspec import Struct

from headrace_lake.dataset import DatasetExample
from headrace_schemas.times import parse_ns

_Row = TypeVar("_Row")


def derived_alone(voices: int, derived: int | None) -> bool:
    """Whether of an example, with so many voices and so many of them `derived`, derivations alone speak."""
    return 0 < voices <= (derived or 0)


class FilterFields(NamedTuple):
    """What a filter asks of an example; `heard`: the principals that were; `derived`: as `derived_alone` says."""

    agent: str
    role: str | None
    split: str
    reward: float
    heard: Sequence[str]
    event_time: str
    derived: bool = False


class DatasetFilter(Struct, frozen=True, kw_only=True):
    """Every field that is given must hold. Times are RFC 3339 and of the event: `since` counts in, `before` does not. `rater`: a
    principal that was heard, as its id or as kind:id. `derived`: `without` those of which derivations alone speak, or `only`
    them."""

    agent: str | None = None
    role: str | None = None
    rater: str | None = None
    split: str | None = None
    min_reward: float | None = None
    max_reward: float | None = None
    since: str | None = None
    before: str | None = None
    derived: str | None = None

    def given(self) -> dict[str, str]:
        """Name and value of what is asked for."""
        named = ((name, getattr(self, name)) for name in self.__struct_fields__)
        return {name: str(value) for name, value in named if value is not None}

    def apply(self, examples: Iterable[DatasetExample]) -> list[DatasetExample]:
        return self.passing(examples, _fields)

    def passing(self, rows: Iterable[_Row], fields: Callable[[_Row], FilterFields]) -> list[_Row]:
        """Those of `rows` that it lets pass, by what `fields` says of each."""
        since, before = (None if text is None else parse_ns(text) for text in (self.since, self.before))
        return [row for row in rows if self._holds(fields(row), since, before)]

    def _holds(self, said: FilterFields, since: int | None, before: int | None) -> bool:
        time = parse_ns(said.event_time) if since is not None or before is not None else 0
        return (
            self.agent in (None, said.agent)
            and self.role in (None, said.role)
            and self.split in (None, said.split)
            and (self.rater is None or any(self.rater in (who, who.partition(":")[2]) for who in said.heard))
            and (self.min_reward is None or said.reward >= self.min_reward)
            and (self.max_reward is None or said.reward <= self.max_reward)
            and (since is None or time >= since)
            and (before is None or time < before)
            and (self.derived is None or said.derived is (self.derived == "only"))
        )


def _fields(one: DatasetExample) -> FilterFields:
    said = one.example
    derived = derived_alone(said.voices, said.derived)
    heard = said.principals or []
    return FilterFields(said.agent.name, said.agent.role, one.member.split, said.reward, heard, said.event_time, derived)
