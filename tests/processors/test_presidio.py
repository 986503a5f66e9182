"""The optional backend: a version in the policy, one line where it is not there, and only what it has checked is taken."""

from __future__ import annotations

import sys
from importlib import metadata, util
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from headrace_processors.intake import fold as intake
from headrace_processors.intake.policy import IntakePolicy
from headrace_processors.intake.scrub.presidio import PACKAGE
from support.signals import StageRun, interaction, tree_of


class PatternRecognizer:
    """As presidio's: finds its word, sure of it when it stands in capitals."""

    supported_entities = ("BASE",)
    word = ""

    def analyze(self, text: str, entities: Any, nlp_artifacts: Any) -> list[SimpleNamespace]:
        start = text.lower().find(self.word)
        sure = text[start : start + len(self.word)].isupper()
        entity = self.supported_entities[0]
        end = start + len(self.word)
        return [] if start < 0 else [SimpleNamespace(start=start, end=end, score=1.0 if sure else 0.5, entity_type=entity)]


class Badge(PatternRecognizer):
    supported_entities, word = ("STAFF_BADGE",), "badge"


class Mail(PatternRecognizer):
    supported_entities, word = ("EMAIL_ADDRESS",), "mail"


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> None:
    package, predefined = ModuleType("presidio_analyzer"), ModuleType("presidio_analyzer.predefined_recognizers")
    package.PatternRecognizer = predefined.PatternRecognizer = PatternRecognizer  # type: ignore[attr-defined]
    predefined.Badge, predefined.Mail = Badge, Mail  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "presidio_analyzer", package)
    monkeypatch.setitem(sys.modules, "presidio_analyzer.predefined_recognizers", predefined)
    version = metadata.version
    monkeypatch.setattr(metadata, "version", lambda name: "9.8.7" if name == PACKAGE else version(name))


@pytest.mark.usefixtures("installed")
def test_what_the_backend_has_checked_becomes_a_placeholder_of_its_kind() -> None:
    stage = StageRun(intake.build({"presidio": "9.8.7"}, ""), "interactions")
    stage.feed(interaction(prompt="BADGE of a@b.org", output="badge, MAIL"))
    data = tree_of(stage.outputs[0])["data"]
    assert (data["prompt"], data["output"]) == ("[STAFF_BADGE_1] of [EMAIL_1]", "badge, MAIL")
    assert stage.counters == {"signals": 1, "scrubbed_staff_badge": 1, "scrubbed_email": 1}


@pytest.mark.usefixtures("installed")
def test_another_version_than_the_policys_is_refused_in_one_line() -> None:
    with pytest.raises(
        ValueError, match=r"presidio = '1.2.3': installed is 9.8.7; pip install presidio-analyzer==1.2.3"
    ) as caught:
        intake.build({"presidio": "1.2.3"}, "")
    assert "\n" not in str(caught.value)


def test_without_the_library_the_line_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> str:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "version", missing)
    with pytest.raises(ValueError, match=r"presidio = '2.2.366': it is not installed; pip install .*\[presidio\]"):
        intake.build({"presidio": "2.2.366"}, "")


def test_the_version_is_part_of_the_policys_digest() -> None:
    assert IntakePolicy(presidio="1").digest != IntakePolicy(presidio="2").digest != IntakePolicy().digest


@pytest.mark.skipif(util.find_spec("presidio_analyzer") is None, reason="needs the extra presidio")
def test_the_real_library_finds_what_it_is_there_for() -> None:
    stage = StageRun(intake.build({"scrub": [], "presidio": metadata.version(PACKAGE)}, ""), "interactions")
    stage.feed(interaction(prompt="pay 4111 1111 1111 1111 or order 4111 1111 1111 1112"))
    assert tree_of(stage.outputs[0])["data"]["prompt"] == "pay [CARD_1] or order 4111 1111 1111 1112"
