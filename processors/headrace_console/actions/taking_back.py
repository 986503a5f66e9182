"""Retract and forget: published as anybody would, with what it has gone into so far. Knows the lake."""

from __future__ import annotations

from collections.abc import Awaitable

from headrace_console.action import ActionAnswer, ActionEffect, ActionRefused, ActionRequest, ConsoleAction
from headrace_console.page import PageMissing, PageRequest
from headrace_schemas.errors import DecodeError
from headrace_streams import requests
from headrace_streams.requests import Touched
from headrace_streams.settings import Settings

_WENT = (
    "SELECT count(DISTINCT examples.example_id), count(DISTINCT members.batch_id), count(DISTINCT versions.version_id), "
    "count(DISTINCT releases.release_id) FROM examples LEFT JOIN members ON members.example_id = examples.example_id "
    "LEFT JOIN versions ON versions.batch_id = members.batch_id "
    "LEFT JOIN releases ON releases.version_id = versions.version_id AND releases.kind = 'promoted' WHERE "
)


def _went(asked: PageRequest, column: str, subject: str) -> list[str]:
    examples, batches, versions, releases = asked.lake.run(f"{_WENT} examples.{column} = $it", {"it": subject}).rows[0]
    return [
        f"It has gone into {examples} examples, {batches} batches, {versions} versions and {releases} releases so far, directly.",
        "It leaves open buckets and all later training; the answer names the releases that have learnt from it.",
    ]


def _retraction(asked: PageRequest, subject: str) -> ActionEffect:
    known = "SELECT 1 FROM interactions WHERE interaction_id = $it LIMIT 1"
    if not asked.lake.run(known, {"it": subject}).rows:
        raise PageMissing(f"there is no interaction {subject!r}, at this cut")
    return ActionEffect(lines=_went(asked, "interaction_id", subject))


def _forgetting(asked: PageRequest, subject: str) -> ActionEffect:
    known = "SELECT count(*) FROM interactions WHERE data_subject = $it"
    count = asked.lake.run(known, {"it": subject}).rows[0][0]
    if not subject:
        raise PageMissing("whom to forget is to be named: the data_subject of interactions")
    lines = [f"{count:,} interactions name {subject!r}, at this cut; those of before that come later are taken back too."]
    return ActionEffect(lines=[*lines, *_went(asked, "data_subject", subject)])


async def _retract(settings: Settings, request: ActionRequest) -> ActionAnswer:
    return await _answered(requests.retract(settings, request.subject, request.reason, **_asked_by(request)))


async def _forget(settings: Settings, request: ActionRequest) -> ActionAnswer:
    return await _answered(requests.forget(settings, request.subject, **_asked_by(request)))


def _asked_by(request: ActionRequest) -> dict[str, str]:
    return {"id": request.request_id, "source": f"console:{request.requested_by}"}  # the events have no place for who asked


async def _answered(work: Awaitable[Touched]) -> ActionAnswer:
    try:
        touched = await work
    except DecodeError as error:
        raise ActionRefused(error.message) from error
    decisions = [*touched.releases, *touched.inherited, *touched.possible]
    text = f"published; {len(touched.example_ids)} examples, {len(touched.batch_ids)} batches, {len(decisions)} releases"
    if touched.served:
        text += f", {len(touched.served)} of them served now: revoke those that must go"
    if touched.retrains:
        text += f"; {len(touched.retrains)} buckets wait to be trained without it"
    if touched.samples:
        text += f"; {len(touched.samples)} files of samples hold answers to it: `headrace evaluations remove`"
    return ActionAnswer(well=True, text=text, refers=[("release", decision.data.release_id) for decision in decisions[:10]])


ACTIONS = [
    ConsoleAction(
        name="retract",
        title="Retract",
        subject="interaction",
        right="operator",
        effect=_retraction,
        perform=_retract,
        final=True,
    ),
    ConsoleAction(
        name="forget",
        title="Forget",
        subject="data subject",
        right="privacy",
        effect=_forgetting,
        perform=_forget,
        final=True,
        reason="",  # words about somebody who is to be forgotten would stay
    ),
]
