"""Promote, roll back, revoke, pause, resume: asked of the release stage, which decides. Knows its requests and the lake."""

from __future__ import annotations

from typing import Any

from headrace_console.action import ActionAnswer, ActionEffect, ActionField, ActionRefused, ActionRequest, ConsoleAction
from headrace_console.page import PageMissing, PageRequest
from headrace_schemas.codec import decode, encode
from headrace_schemas.derived import PromoteRequest, RevokeRequest, RollbackRequest, SwitchRequest
from headrace_schemas.errors import DecodeError
from headrace_schemas.events import PauseRequested, PromoteRequested, ResumeRequested, RevokeRequested, RollbackRequested
from headrace_streams import requests
from headrace_streams.kafka.publisher import requested
from headrace_streams.learnt import learnt_taken_back
from headrace_streams.settings import Settings

PATIENCE_SECONDS = 20.0  # for the stage's answer
_SERVED = (
    "SELECT release_id, sequence, adapter, version_id, kind FROM releases WHERE bucket = $bucket "
    "AND kind IN ('promoted', 'rolled_back', 'revoked') ORDER BY sequence DESC, log_offset DESC LIMIT 1"
)


async def ask(settings: Settings, bucket: str, kind: type[Any], data: Any, request: ActionRequest) -> ActionAnswer:
    """One request to the release stage and its answer, as commands ask: once, whatever is clicked twice."""
    event = requested(kind, data, request.request_id)
    try:
        decode(encode(event))
    except DecodeError as error:
        raise ActionRefused(error.message) from error
    try:
        decision = await requests.ask(settings, bucket, event, PATIENCE_SECONDS, repeated=True)
    except requests.NoAnswer:
        text = f"nobody has answered within {PATIENCE_SECONDS:g} s: is a worker running? The request stands, and is done once"
        return ActionAnswer(well=False, pending=True, text=text)
    text = f"{bucket} #{decision.data.sequence}: {decision.kind.replace('_', ' ')}: {decision.data.reason}"
    return ActionAnswer(well=decision.kind != "declined", text=text, refers=[("release", decision.data.release_id)])


def _served(asked: PageRequest, bucket: str) -> str:
    found = asked.lake.run(_SERVED, {"bucket": bucket}).dicts()
    if not found or found[0]["adapter"] is None:
        return f"{bucket} serves its base now."
    return f"{bucket} serves #{found[0]['sequence']} now, version {found[0]['version_id']}."


def _exists(asked: PageRequest, bucket: str) -> None:
    if not asked.lake.run("SELECT 1 FROM records WHERE bucket = $bucket LIMIT 1", {"bucket": bucket}).rows:
        raise PageMissing(f"there is no bucket {bucket!r}")


def _promotion(asked: PageRequest, subject: str) -> ActionEffect:
    found = asked.lake.run(
        "SELECT bucket, trained_rows, adapter FROM versions WHERE version_id = $version", {"version": subject}
    ).dicts()
    if not found:
        raise PageMissing(f"there is no version {subject!r}")
    bucket = found[0]["bucket"]
    compared = asked.lake.run(
        "SELECT compared, loss_gain, loss_gain_low, loss_gain_high FROM evaluations WHERE version_id = $version "
        "ORDER BY appended_at DESC LIMIT 1",
        {"version": subject},
    ).dicts()
    lines = [
        _served(asked, bucket),
        f"Agents of {bucket} would take version {subject}, learnt from {found[0]['trained_rows']} rows.",
    ]
    if compared and compared[0]["loss_gain"] is not None:
        gain = "{loss_gain:.3g} [{loss_gain_low:.3g}, {loss_gain_high:.3g}]".format(**compared[0])
        lines.append(f"Its last comparison: loss gain {gain} on {compared[0]['compared']} rows.")
    field = ActionField("anyway", "Also if it has learnt what was taken back since", choices=["", "yes"])
    return ActionEffect(lines=lines, bucket=bucket, fields=[field])


def _rollback(asked: PageRequest, subject: str) -> ActionEffect:
    _exists(asked, subject)
    earlier = asked.lake.run(
        "SELECT DISTINCT release_id, sequence FROM releases WHERE bucket = $bucket AND kind = 'promoted' ORDER BY sequence DESC",
        {"bucket": subject},
    ).rows
    choices = ["", "base", *(row[0] for row in earlier)]
    lines = [_served(asked, subject), f"It can go back to {len(earlier)} promoted releases, or to the base."]
    field = ActionField("to", "To (nothing: the release before)", choices=choices)
    return ActionEffect(lines=lines, bucket=subject, fields=[field])


def _revocation(asked: PageRequest, subject: str) -> ActionEffect:
    buckets = [row[0] for row in asked.lake.run("SELECT DISTINCT bucket FROM versions WHERE adapter = $a", {"a": subject}).rows]
    if not buckets:
        raise PageMissing(f"no version has the adapter {subject!r}")
    releases = asked.lake.run("SELECT count(DISTINCT release_id) FROM releases WHERE adapter = $a", {"a": subject}).rows[0][0]
    lines = [f"{releases} releases have this adapter; it is never served again."]
    lines += [_served(asked, bucket) for bucket in buckets]
    return ActionEffect(lines=lines, bucket=buckets[0])


def _switch(asked: PageRequest, subject: str) -> ActionEffect:
    _exists(asked, subject)
    waiting = asked.lake.run(
        "SELECT count(*) FROM versions WHERE bucket = $bucket AND version_id NOT IN (SELECT version_id FROM releases "
        "WHERE version_id IS NOT NULL)",
        {"bucket": subject},
    ).rows[0][0]
    return ActionEffect(lines=[_served(asked, subject), f"{waiting} versions have had no answer yet."], bucket=subject)


def _bucket(request: ActionRequest) -> str:
    assert request.effect.bucket is not None
    return request.effect.bucket


async def _promote(settings: Settings, request: ActionRequest) -> ActionAnswer:
    bucket, reason = _bucket(request), request.reason
    made = await requests.versions(settings)
    version = next((each for each in made if each.version_id == request.subject), None)
    learnt = "" if version is None else str(await learnt_taken_back(settings, version, made))
    if learnt and request.fields.get("anyway") != "yes":
        raise ActionRefused(
            f"version {request.subject} {learnt}: say that it is to be served though it has, or leave it to the next run"
        )
    if learnt:
        reason = f"{reason} (it {learnt})"
    data = PromoteRequest(bucket=bucket, version_id=request.subject, reason=reason, requested_by=request.requested_by)
    return await ask(settings, bucket, PromoteRequested, data, request)


async def _roll_back(settings: Settings, request: ActionRequest) -> ActionAnswer:
    to = request.fields.get("to") or None
    data = RollbackRequest(bucket=request.subject, release_id=to, reason=request.reason, requested_by=request.requested_by)
    return await ask(settings, request.subject, RollbackRequested, data, request)


async def _revoke(settings: Settings, request: ActionRequest) -> ActionAnswer:
    bucket = _bucket(request)
    data = RevokeRequest(bucket=bucket, adapter=request.subject, reason=request.reason, requested_by=request.requested_by)
    return await ask(settings, bucket, RevokeRequested, data, request)


async def _pause(settings: Settings, request: ActionRequest) -> ActionAnswer:
    data = SwitchRequest(bucket=request.subject, reason=request.reason, requested_by=request.requested_by)
    return await ask(settings, request.subject, PauseRequested, data, request)


async def _resume(settings: Settings, request: ActionRequest) -> ActionAnswer:
    data = SwitchRequest(bucket=request.subject, reason=request.reason, requested_by=request.requested_by)
    return await ask(settings, request.subject, ResumeRequested, data, request)


ACTIONS = [
    ConsoleAction(name="promote", title="Promote", subject="version", right="operator", effect=_promotion, perform=_promote),
    ConsoleAction(name="rollback", title="Roll back", subject="bucket", right="operator", effect=_rollback, perform=_roll_back),
    ConsoleAction(
        name="revoke", title="Revoke", subject="adapter", right="operator", effect=_revocation, perform=_revoke, final=True
    ),
    ConsoleAction(name="pause", title="Pause", subject="bucket", right="operator", effect=_switch, perform=_pause),
    ConsoleAction(name="resume", title="Resume", subject="bucket", right="operator", effect=_switch, perform=_resume),
]
