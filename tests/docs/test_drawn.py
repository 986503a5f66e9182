"""What README and the pages show of the code's tables is what the tables say, and says it anew when a table changes."""

from __future__ import annotations

from pathlib import Path

import drawn
import pytest
from msgspec.structs import replace

from headrace_schemas.topics import TOPICS
from headrace_schemas.topology import TOPOLOGY
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
    ticks = {("curate", "examples")}  # time passes on its own input
    assert said == {(stage.name, topic) for stage in TOPOLOGY for topic in stage.outputs} | of_every_stage | ticks


def test_what_a_policy_allows_is_said_in_words() -> None:
    keys = {key.name: key for key in drawn.keys_of(drawn.policies()["curate"])}
    assert keys["threshold"].allowed == "`effective`, `tiered`"
    assert keys["open_limit"].allowed == "whole number from 1 to 5000"
    assert keys["open_limit"].default == "`1000`"
    assert keys["age_limit_days"].meaning == "days of fold time since a bucket opened, after which aged_target is enough"
    assert keys["tiered.low"].allowed == "number above 0 to 5000"
