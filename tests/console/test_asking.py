"""What is asked for on the pages Dead letters, Silence and Review: previews from the lake, and requests on a real broker."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import pytest

from headrace_console.action import ActionAnswer, ActionEffect, ActionRefused, ActionRequest
from headrace_console.actions import releasing, review, trying
from headrace_lake.manifest import LakeFolder
from headrace_lake.read_models.review_view import REVIEW
from headrace_streams import requests
from headrace_streams.dead_letters.repair import REDRIVEN
from headrace_streams.learnt import RetractedRows
from headrace_streams.requests import Touched
from headrace_streams.runtime.provenance import Provenance, origin
from headrace_streams.settings import Settings
from support.browser import tab
from support.console import HOSTILE, ServedConsole, form_of, hostile_ring, served
from support.live import publish, read_ended

if TYPE_CHECKING:
    from playwright.sync_api import Browser


def test_dead_letters_are_grouped_and_a_group_leads_to_its_letters(site: ServedConsole) -> None:
    model = json.loads(site.ask("/dead-letters?format=json").text)
    codes = {group["code"]: group for group in model["groups"]}
    assert {"wrong_type", "not_json"} <= codes.keys()
    wrong = next(group for group in model["groups"] if group["field"] == "data.interaction_id")
    assert (wrong["topic"], wrong["source"]) == ("interactions", "agent:test")
    narrowed = json.loads(site.ask(f"/dead-letters?{wrong['subject']}&format=json").text)
    assert [group["letters"] for group in narrowed["groups"]] == [wrong["letters"]]
    assert {letter["field"] for letter in narrowed["letters"]} == {"data.interaction_id"}
    assert json.loads(site.ask("/dead-letters?code=nonsense&format=json").text)["groups"] == []


def test_a_letter_shows_its_record_with_the_field_marked(site: ServedConsole) -> None:
    letters = json.loads(site.ask("/dead-letters?field=data.interaction_id&format=json").text)["letters"]
    model = json.loads(site.ask(f"/dead-letters/{letters[0]['at']}?format=json").text)
    assert model["what"] == "field"
    assert json.loads(model["pieces"][1]).keys() == {"x"}
    assert json.loads("".join(model["pieces"]))["type"] == "headrace.interaction.recorded.v1"
    assert "<mark>" in site.ask(f"/dead-letters/{letters[0]['at']}").text
    assert site.ask("/dead-letters/interactions/0/999999").status == 404
    assert site.ask("/dead-letters/nonsense").status == 404


def test_a_redrive_says_beforehand_what_it_would_do(site: ServedConsole) -> None:
    page = site.ask("/do/redrive?subject=" + quote("field=data.interaction_id"))
    assert page.status == 200
    assert "0 records would be taken by intake" in page.text
    assert "would be refused again and are not sent: wrong_type" in page.text
    assert site.ask("/do/redrive?subject=nonsense").status == 404
    assert site.ask("/do/redrive?subject=code%3Dnothing").status == 404


def test_silence_shows_who_is_missed_who_is_muted_and_who_speaks(site: ServedConsole) -> None:
    model = json.loads(site.ask("/silence?format=json").text)
    assert model["open"]
    assert model["muted"]
    assert model["ended"]
    assert all(each["mute"]["reason"] for each in model["muted"])
    assert not {each["subject"] for each in model["open"]} & {each["subject"] for each in model["muted"]}
    assert model["raters"][0]["times"] == 9
    assert model["agents"] == []  # a table of another form
    subject = f"{model['open'][0]['kind']} {model['open'][0]['subject']}"
    assert "in no count, no alert" in site.ask(f"/do/mute?subject={quote(subject)}").text
    assert site.ask("/do/mute?subject=rater_stopped%20nobody").status == 404


def test_review_puts_the_uncertain_first_and_the_sample_apart(site: ServedConsole) -> None:
    model = json.loads(site.ask("/review?format=json").text)
    worth = [each["worth"] for each in model["queue"]]
    assert worth == sorted(worth, reverse=True)
    assert model["example"]["example_id"] == model["queue"][0]["example_id"]
    sample = json.loads(site.ask("/review?sample=1&format=json").text)
    assert all(each["sampled"] for each in sample["queue"])
    assert site.ask("/review?example=nonsense").status == 404


@pytest.mark.parametrize(
    ("action", "what"), [("retract", "interactions"), ("forget", "data_subject"), ("rate", "no such interaction")]
)
def test_taking_back_says_in_numbers_what_it_touches(site: ServedConsole, action: str, what: str) -> None:
    known = "hostile-0" if action != "forget" else "somebody"
    page = site.ask(f"/do/{action}?subject={known}")
    assert page.status == 200, page.text
    assert re.search(r"\d+ (examples|interactions|words)", page.text) or "words are said" in page.text
    if action != "forget":
        assert site.ask(f"/do/{action}?subject=nonsense").status == 404


def test_forgetting_follows_what_is_sealed_as_the_command_does(site: ServedConsole, monkeypatch: pytest.MonkeyPatch) -> None:
    steps: list[Any] = []

    async def sealed(_: Settings, subject: str) -> set[str]:
        steps.append(("sealed", subject))
        return {"i-1"}

    async def publishes(_: Settings, event: Any) -> None:
        steps.append((event.id, event.source, event.data.data_subject))

    async def touched(_: Settings, **asked: Any) -> Touched:
        steps.append(asked)
        return Touched([], [], [], [], [], [], [], [])

    for name, stand_in in (("_sealed_interactions", sealed), ("publish", publishes), ("touched", touched)):
        monkeypatch.setattr(requests, name, stand_in)
    form = {**form_of(site.ask("/do/forget?subject=somebody").text), "typed": "somebody"}
    assert "published; 0 examples" in site.ask("/do/forget", form=form).text
    assert steps == [
        ("sealed", "somebody"),
        (form["request_id"], "console:tester", "somebody"),
        {"data_subject": "somebody", "interactions": {"i-1"}},
    ]


@pytest.fixture
def asking(lake: LakeFolder, settings: Settings) -> Iterator[ServedConsole]:
    with served(lake, settings) as console:
        yield console


async def records(settings: Settings, topic: str) -> list[tuple[bytes | None, dict[str, bytes]]]:
    return [(record.value, dict(record.headers)) for record in await read_ended(settings, topic)]


@pytest.fixture
def reviewed(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What a review would have published; nothing is."""
    said: list[Any] = []

    async def publishes(_: Settings, event: Any) -> None:
        said.append(event.data)

    monkeypatch.setattr(review, "publish", publishes)
    return said


@pytest.mark.kafka
def test_a_review_is_feedback_and_nothing_else(asking: ServedConsole, settings: Settings) -> None:
    page = asking.ask("/review").text
    form = {**form_of(page), "score": "2", "corrected": "select 5", "reason": "wrong table"}
    for _ in range(2):  # a double click
        answer = asking.ask("/do/rate", form=form)
        assert "published; it counts" in answer.text, answer.text
    published = asyncio.run(records(settings, "feedback"))
    data = [json.loads(value or b"")["data"] for value, _ in published]
    assert [(said["kind"], said["score"], said["scale"], said["corrected_output"]) for said in data] == [
        ("user_correction", 2.0, [1.0, 5.0], "select 5")
    ]
    assert (data[0]["name"], data[0]["comment"], data[0]["interaction_id"]) == (REVIEW, "wrong table", form["subject"])
    assert data[0]["principal"]["kind"] == "human"
    for topic in ("interactions", "outcomes", "assessments", "dead-letters"):
        assert asyncio.run(records(settings, topic)) == []


@pytest.mark.kafka
def test_a_mute_a_retraction_and_an_erasure_are_events_with_their_words(asking: ServedConsole, settings: Settings) -> None:
    model = json.loads(asking.ask("/silence?format=json").text)
    subject = f"{model['open'][0]['kind']} {model['open'][0]['subject']}"
    form = {**form_of(asking.ask(f"/do/mute?subject={quote(subject)}").text), "until": "2030-01-01T00:00:00Z", "reason": "away"}
    assert "muted until" in asking.ask("/do/mute", form=form).text
    assert "no RFC 3339 time" in asking.ask("/do/mute", form={**form, "request_id": "0" * 32, "until": "soon"}).text
    (muted,) = [json.loads(value or b"")["data"] for value, _ in asyncio.run(records(settings, "assessments"))]
    assert (muted["subject"], muted["reason"], muted["until"]) == (model["open"][0]["subject"], "away", "2030-01-01T00:00:00Z")

    for action, name in (("retract", "hostile-1"), ("forget", "somebody")):
        dialog = asking.ask(f"/do/{action}?subject={name}").text
        assert ('name="reason"' in dialog) == (action == "retract")  # the event of an erasure keeps no words
        form = {**form_of(dialog), "typed": "other"} | ({"reason": "they asked"} if action == "retract" else {})
        assert "can&#39;t be undone" in asking.ask(f"/do/{action}", form=form).text
        assert "published; 0 examples" in asking.ask(f"/do/{action}", form={**form, "typed": name}).text
    values = [json.loads(value or b"") for value, _ in asyncio.run(records(settings, "interactions"))]
    assert sorted((value["type"], value["source"], value["data"].get("reason")) for value in values) == [
        ("headrace.interaction.retracted.v1", "console:tester", "they asked"),
        ("headrace.subject.erased.v1", "console:tester", None),
    ]


@pytest.mark.kafka
def test_a_redrive_of_letters_publishes_them_once(asking: ServedConsole, settings: Settings) -> None:
    """The letters of the lake, on the broker; fixed by a change of the field that is wrong."""
    for record in hostile_ring().log.of("dead-letters"):
        source = Provenance("intake", "interactions", 0, record.offset, 0)
        asyncio.run(publish(settings, "dead-letters", 0, [(record.key, record.value)], list(origin(source))))
    subject = "field=data.interaction_id"
    form = form_of(asking.ask(f"/do/redrive?subject={quote(subject)}").text)
    form |= {"changes": 'data.interaction_id="mended-1"', "reason": "ids are strings"}
    answer = asking.ask("/do/redrive", form=form).text
    count = len(HOSTILE)
    assert f"{count} of {count} redriven, 0 were before" in answer, answer
    first = asyncio.run(records(settings, "interactions"))
    assert first
    assert all(REDRIVEN in headers for _, headers in first)
    again = {**form, "request_id": "1" * 32}
    assert "were before" in asking.ask("/do/redrive", form=again).text
    assert asyncio.run(records(settings, "interactions")) == first


def test_a_form_that_is_sent_again_with_other_words_is_not_answered_as_if_they_counted(
    site: ServedConsole, reviewed: list[Any]
) -> None:
    form = {**form_of(site.ask("/review").text), "score": "2", "corrected": "", "reason": "first"}
    for _ in range(2):
        assert "published; it counts" in site.ask("/do/rate", form=form).text
    for other in ({"score": "5"}, {"reason": "second"}, {"subject": "hostile-1"}):
        answer = site.ask("/do/rate", form={**form, **other}).text
        assert "published; it counts" not in answer
        assert "this form has been sent before, with other words" in answer
    assert [each.score for each in reviewed] == [2.0]


def test_a_review_is_done_by_keys(chromium: Browser, site: ServedConsole, reviewed: list[Any]) -> None:
    with tab(chromium, site) as shown:
        shown.open("/review")
        shown.page.keyboard.press("c")
        assert shown.page.evaluate("document.activeElement.name") == "corrected"
        shown.page.keyboard.type("4 is typed, not pressed")
        shown.page.get_by_role("heading", name="Review").click()
        shown.page.keyboard.press("4")
        shown.page.get_by_text("published; it counts").wait_for()
        shown.page.keyboard.press("n")
        shown.page.get_by_role("heading", name="Review").wait_for()
        assert shown.faults == []
    assert [(each.score, each.corrected_output) for each in reviewed] == [(4.0, "4 is typed, not pressed")]


def test_a_policy_that_is_tried_loads_no_code_but_that_of_the_deployments_own(tmp_path: Path) -> None:
    """A module named in a form would be imported in the console's process."""
    own = tmp_path / "policy.toml"
    own.write_text('[attribute.derive.mine]\nrule = "team.signs:MINE"\nenabled = false')
    settings = Settings(policy=str(own))
    for policy in (own.read_text(), "[attribute.derive.kept]\n", "[attribute", "[attribute]\nderive = 1"):
        trying.check_rules(policy, settings)
    with pytest.raises(ActionRefused, match="rule 'antigravity:it': a console loads no module that its own policy"):
        trying.check_rules('[attribute.derive.kept]\nrule = "antigravity:it"', settings)
    with pytest.raises(ActionRefused, match="rule 'team"):
        trying.check_rules(own.read_text(), Settings())


@pytest.mark.parametrize(
    ("said", "reason"), [("", None), ("yes", "a trial (it has learnt 2 examples that were taken back since)")]
)
def test_a_version_that_has_learnt_what_was_taken_back_is_served_only_if_that_is_said(
    said: str, reason: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str | None] = []

    async def made(_: Settings) -> list[Any]:
        return [SimpleNamespace(version_id="v1")]

    async def learnt(*_: Any) -> RetractedRows:
        return RetractedRows(2, [])

    async def answered(_: Settings, bucket: str, kind: type[Any], data: Any, request: ActionRequest) -> ActionAnswer:
        asked.append(data.reason)
        return ActionAnswer(well=True, text=bucket)

    monkeypatch.setattr(requests, "versions", made)
    monkeypatch.setattr(releasing, "learnt_taken_back", learnt)
    monkeypatch.setattr(releasing, "ask", answered)
    request = ActionRequest(
        subject="v1", reason="a trial", requested_by="ann", request_id="r", fields={"anyway": said},
        effect=ActionEffect(lines=[], bucket="sql/tiny"),
    )  # fmt: skip
    promote = next(action for action in releasing.ACTIONS if action.name == "promote")

    async def perform() -> ActionAnswer:
        return await promote.perform(Settings(), request)

    with ThreadPoolExecutor(1) as other:  # a browser of another test may have a loop in this thread
        done = other.submit(lambda: asyncio.run(perform()))
    if reason is None:
        with pytest.raises(ActionRefused, match="version v1 has learnt 2 examples that were taken back since"):
            done.result()
    else:
        assert done.result().well
    assert asked == ([] if reason is None else [reason])
