"""Try another policy over the recorded log. Knows the run; publishes nothing."""

from __future__ import annotations

import tempfile
import tomllib
from pathlib import Path

from headrace_console.action import ActionAnswer, ActionEffect, ActionField, ActionRefused, ActionRequest, ConsoleAction
from headrace_console.page import PageRequest
from headrace_console.whatif_run import TrialAsked, TrialRunning, run_of
from headrace_processors import policy_file
from headrace_schemas.times import parse_ns
from headrace_streams.policy import PolicyError
from headrace_streams.settings import Settings

_READ = ("signals", "examples", "outcomes")


def _effect(asked: PageRequest, subject: str) -> ActionEffect:
    records = sum(segment.records for segment in asked.manifest.segments if segment.topic in _READ)
    seen = run_of(asked.settings).seen()
    current = ("" if seen.asked is None else seen.asked.policy) or _own(asked.settings)
    lines = [
        f"It folds up to {records:,} recorded signals, examples and outcomes, under the recorded policies and under this one.",
        "Nothing is written to the log, and nothing is trained. One trial runs at a time; what the last one found is replaced.",
    ]
    if seen.running is not None:
        lines.append("One is under way.")
    fields = [
        ActionField("policy", "Policy (TOML)", value=current, long=True),
        ActionField("since", "As if it had taken over at (RFC 3339 time; nothing: from the beginning)"),
        ActionField("bucket", "Count this bucket alone (nothing: all)"),
        ActionField("lake", "Lake", value=str(asked.folder), choices=[str(asked.folder)]),
    ]
    return ActionEffect(lines=lines, fields=fields)


async def _perform(settings: Settings, request: ActionRequest) -> ActionAnswer:
    given = {name: request.fields.get(name, "").strip() for name in ("since", "bucket")}
    policy = request.fields.get("policy", "").replace("\r\n", "\n")
    check_rules(policy, settings)
    _check(policy, given["since"])
    if not given["bucket"].isprintable():
        raise ActionRefused(f"{given['bucket']!r}: no bucket has a name like that")
    asked = TrialAsked(policy=policy, by=request.requested_by, reason=request.reason, **given)
    try:
        run_of(settings).start(asked, Path(request.fields["lake"]), settings.deployment)
    except TrialRunning as error:
        raise ActionRefused(str(error)) from error
    return ActionAnswer(well=True, text="It has begun: the page What-if says how far it is, and what it finds.")


def check_rules(policy: str, settings: Settings) -> None:
    """ActionRefused for a policy that names code which the deployment's own does not: to read it would import that, here."""
    for rule in sorted(_modules(policy) - _modules(_own(settings))):
        raise ActionRefused(
            f"policy: attribute.derive: rule {rule!r}: a console loads no module that its own policy file does not name: try it "
            "with `headrace whatif`"
        )


def _own(settings: Settings) -> str:
    """The text of the deployment's policy file; empty where there is none."""
    path = None if settings.policy is None else Path(settings.policy)
    return path.read_text(encoding="utf-8", errors="replace") if path is not None and path.exists() else ""


def _modules(policy: str) -> set[str]:
    """Rules `module:attribute` of a policy; none of a text that is no TOML, which others say."""
    try:
        rows = tomllib.loads(policy)["attribute"]["derive"].values()
    except (tomllib.TOMLDecodeError, KeyError, TypeError, AttributeError, RecursionError):
        return set()
    rules = [row.get("rule") for row in rows if isinstance(row, dict)]
    return {rule for rule in rules if isinstance(rule, str) and ":" in rule}


def _check(policy: str, since: str) -> None:
    """ActionRefused for what can't be tried."""
    with tempfile.NamedTemporaryFile("w", encoding="utf-8", suffix=".toml") as file:
        file.write(policy)
        file.flush()
        try:
            policy_file.load(file.name)
        except PolicyError as error:
            text = str(error).replace(f"policy file {file.name}", "policy").replace(f"policy = {file.name!r}", "policy")
            raise ActionRefused(text) from error
    try:
        if since:
            parse_ns(since)
    except ValueError as error:
        raise ActionRefused(f"{since!r} is no RFC 3339 time with an offset, e.g. 2026-11-26T12:00:00Z") from error


ACTIONS = [
    ConsoleAction(
        name="whatif",
        title="Try another policy",
        subject="on the recorded log",
        right="operator",
        effect=_effect,
        perform=_perform,
        reason="Why, shown with what it finds",
    )
]
