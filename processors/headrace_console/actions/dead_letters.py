"""Redrive: dead letters' records published once more, each once. Knows the read model of letters and what redrives them."""

from __future__ import annotations

import msgspec

from headrace_console.action import ActionAnswer, ActionEffect, ActionField, ActionRefused, ActionRequest, ConsoleAction
from headrace_console.page import PLACE, PageMissing, PageRequest
from headrace_lake.read_models.dead_letter_view import group_of, preview, wanted_of
from headrace_streams.dead_letters.letters import LetterFilter
from headrace_streams.dead_letters.redrive import RedriveFailed, redrive
from headrace_streams.dead_letters.repair import Edit, WrongEdit
from headrace_streams.settings import Settings


def _wanted(subject: str) -> LetterFilter:
    """The letters that a subject means: one record's by its place, or a group's. PageMissing when it is neither."""
    if PLACE.fullmatch(subject):
        return LetterFilter(at=(subject,))
    group = group_of(subject)
    if not group:
        raise PageMissing(f"{subject!r} is neither a record's place nor a group of dead letters")
    return wanted_of(group)


def _effect(asked: PageRequest, subject: str) -> ActionEffect:
    wanted = _wanted(subject)
    found = preview(asked.lake, wanted)
    if not found.letters and not found.older:
        raise PageMissing(f"there is no dead letter {subject!r}, at this cut")
    lines = [f"{found.letters:,} letters are meant; {found.before:,} were redriven before, and nothing is done to them."]
    lines.append(f"As they are, {found.fit:,} records would be taken by intake and published once more.")
    if found.older:
        lines.append(
            f"That is of the newest letters; {found.older:,} are older, and those of them that are meant are redriven too."
        )
    lines += [f"{count:,} would be refused again and are not sent: {why}." for why, count in sorted(found.unfit.items())]
    lines.append("A record goes back where it came from, marked; without a time of its own it gets the one at which it came.")
    field = ActionField("changes", "Change fields first, one a line, such as data.scale=[0,10] (null removes)", long=True)
    return ActionEffect(lines=lines, fields=[field])


def _edit(text: str) -> Edit:
    changes = {}
    for line in filter(None, map(str.strip, text.splitlines())):
        path, equals, value = line.partition("=")
        try:
            changes[path.strip()] = msgspec.json.decode(value.strip().encode())
        except (msgspec.MsgspecError, UnicodeEncodeError):
            equals = ""
        if not equals:
            raise ActionRefused(f"{line[:80]!r}: a change is FIELD=JSON, such as data.score=4")
    return Edit(fields=changes)


async def _perform(settings: Settings, request: ActionRequest) -> ActionAnswer:
    edit = _edit(request.fields.get("changes", ""))
    try:
        report = await redrive(settings, _wanted(request.subject), edit, reason=request.reason, requested_by=request.requested_by)
    except WrongEdit as error:
        raise ActionRefused(str(error)) from error
    except RedriveFailed as error:
        return ActionAnswer(well=False, text=str(error))
    counts = f"{len(report.redriven):,} of {report.letters:,} redriven, {len(report.before):,} were before"
    unfit = "".join(f"; {count:,} would be refused again: {why}" for why, count in report.unfit.most_common())
    places = "".join(f"; {at} is {place}" for at, place in report.redriven[:3])
    return ActionAnswer(well=bool(report.redriven), text=counts + places + unfit)


ACTIONS = [
    ConsoleAction(name="redrive", title="Redrive", subject="dead letters", right="operator", effect=_effect, perform=_perform)
]
