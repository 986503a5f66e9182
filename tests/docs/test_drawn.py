"""What README and the pages show of the code's tables is what the tables say, and says it anew when a table changes."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal

import drawn
import pytest
from msgspec.structs import replace
from pydantic import BaseModel, Field

from headrace_lake.manifest import LAKE_TOPICS
from headrace_schemas.topics import TOPICS
from headrace_schemas.topology import TOPOLOGY
from headrace_streams.policy import Policy
from headrace_streams.settings import Settings
from support.readme import README


def test_every_page_is_current(capsys: pytest.CaptureFixture[str]) -> None:
    code = drawn.main(["--check"])
    assert (code, capsys.readouterr().err) == (0, "")


def test_every_drawing_is_shown_somewhere() -> None:
    pages = "".join(path.read_text(encoding="utf-8") for path in drawn.pages())
    assert [name for name in drawn.BLOCKS if f"<!-- drawn: {name} -->" not in pages] == []


def test_a_changed_table_makes_a_page_stale_and_drawing_repairs_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "README.md").write_text(README)
    monkeypatch.setattr(drawn, "ROOT", tmp_path)
    assert drawn.main(["--check"]) == 0
    moved = [replace(stage, inputs=("elsewhere",)) if stage.name == "link" else stage for stage in TOPOLOGY]
    monkeypatch.setattr(drawn, "TOPOLOGY", moved)
    assert drawn.main(["--check"]) == 1
    assert capsys.readouterr().err == "README.md: not current; run `make docs-generate`\n"
    assert drawn.main([]) == 0
    assert "elsewhere -> link" in (tmp_path / "README.md").read_text()
    assert drawn.main(["--check"]) == 0


def test_a_block_that_cannot_be_drawn_is_an_error() -> None:
    with pytest.raises(KeyError, match="rung"):
        drawn.drawn("<!-- drawn: rung -->\n<!-- /drawn -->")


def test_the_table_of_topics_and_the_table_of_stages_agree_on_who_writes() -> None:
    said = {(writer, topic.name) for topic in TOPICS for writer in topic.writers if writer not in drawn.OUTSIDERS}
    of_every_stage = {(stage.name, topic) for stage in TOPOLOGY for topic in ("rules", "dead-letters")}
    ticks = {("curate", "examples"), ("link", "refs"), ("attribute", "sessions")}  # time passes on their own input
    keys = {("intake", "keys")}  # before it folds, and no decision of its fold
    assert said == {(stage.name, topic) for stage in TOPOLOGY for topic in stage.outputs} | of_every_stage | ticks | keys


class Inner(Policy):
    """What is inside."""

    share: float = Field(0.5, gt=0, le=1, description="a share")


class Outer(Policy):
    """What is set."""

    kind: Literal["one", "other"] = Field("one", description="a kind")
    size: int | None = Field(None, ge=1, le=5000, description="a size")
    pairs: tuple[tuple[int, float], ...] = Field(((1, 2.0),), description="pairs")
    inner: Inner = Inner()
    named: dict[str, Inner] = Field(default_factory=dict, description="by name")


def test_every_key_of_a_policy_is_said_in_words() -> None:
    assert list(drawn.keys_of(Outer)) == [
        ("kind", "`one`, `other`", '`"one"`', "a kind"),
        ("size", "whole number from 1 to 5000", "", "a size"),
        ("pairs", "list of (whole number, number)", "`[[1, 2.0]]`", "pairs"),
        ("inner", "table", "", "What is inside."),
        ("inner.share", "number above 0 to 1", "`0.5`", "a share"),
        ("named.NAME", "tables", "", "by name"),
        ("named.NAME.share", "number above 0 to 1", "`0.5`", "a share"),
    ]


@pytest.mark.parametrize("model", [Settings, *drawn.policies().values()])
def test_every_key_that_people_may_set_says_what_it_means(model: type[BaseModel]) -> None:
    assert model.__doc__
    assert [key.name for key in drawn.keys_of(model) if not key.meaning] == []


def test_the_page_of_the_lake_names_every_topic_that_it_holds() -> None:
    held = (
        (drawn.ROOT / "docs" / "lake.md")
        .read_text(encoding="utf-8")
        .partition("Every committed record of ")[2]
        .partition(". Not ")[0]
    )
    assert re.findall(r"`([^`]+)`", held) == list(LAKE_TOPICS)
