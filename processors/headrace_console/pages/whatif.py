"""What another policy would have made of the recorded log, and which policies there were. Knows reports and the lake."""

from __future__ import annotations

import json
from typing import Any

import msgspec

from headrace_console.page import ConsolePage, PageMissing, PageRequest
from headrace_console.whatif_run import run_of
from headrace_lake.views import table_of
from headrace_lake.whatif.report import changed_keys

_CHANGES = 200  # of policies that are listed, the newest


def whatif(asked: PageRequest) -> dict[str, Any]:
    """The last trial: what was tried, how far it is, and its report as `headrace whatif --json` prints it."""
    seen = run_of(asked.settings).seen()
    wanted = asked.query.get("flip")
    return {**msgspec.to_builtins(seen), "flip": _flip(asked, seen.report, wanted) if wanted else None}


def _flip(asked: PageRequest, report: dict[str, Any] | None, wanted: str) -> dict[str, Any]:
    """One example of the last trial under both policies, with its texts as the lake has them now."""
    parts = [] if report is None else [report[part]["largest"] for part in ("rewards", "examples")]
    found = [each for largest in parts for each in largest if each["example_id"] == wanted]
    if not found:
        raise PageMissing(f"the last trial has no example {wanted!r} among its largest flips")
    one: dict[str, Any] = {
        "interaction_id": found[0]["interaction_id"],
        "example_id": wanted,
        "place": next((each["place"] for each in found if each.get("place")), None),
        "why": list(dict.fromkeys(why for each in found for why in each.get("why", ()))),
        "content": _content(asked, wanted),
    }
    for side in ("before", "after"):
        sides = [each[side] for each in found if each.get(side)]
        one[side] = {name: value for each in sides for name, value in each.items() if value is not None} if sides else None
    return one


def _content(asked: PageRequest, example_id: str) -> dict[str, Any] | None:
    rows = asked.lake.run(
        f"SELECT value, odd FROM {table_of('examples')} WHERE example_id = $example "
        "AND event_type = 'headrace.example.rewarded.v1' ORDER BY log_offset DESC LIMIT 1",
        {"example": example_id},
    ).rows
    if not rows or rows[0][0] is None:
        return None
    content: dict[str, Any] | None = json.loads(asked.lake.opener.opened(*rows[0])).get("data", {}).get("content")
    return content


def policies(asked: PageRequest) -> dict[str, Any]:
    """Which policy held for each stage since when, the newest first, and what each changed of the one before."""
    rows = asked.lake.run(
        "SELECT stage, rule_version, digest, min(appended_at) AS since, max(appended_at) AS last_activated, "
        "count(DISTINCT (input, input_partition)) AS tasks, "
        "any_value(body) AS body FROM policies GROUP BY stage, rule_version, digest ORDER BY since, stage"
    ).dicts()
    before: dict[str, dict[str, Any]] = {}
    listed = []
    for row in rows:
        body = _body(row.pop("body"))
        old = before.get(row["stage"])
        changes = [] if old is None else [{"key": key, "before": a, "after": b} for key, a, b in changed_keys(old["body"], body)]
        listed.append(
            {
                **row,
                "first": old is None,
                "rules_before": None if old is None or old["rule_version"] == row["rule_version"] else old["rule_version"],
                "changes": changes,
                "body": body,
            }
        )
        before[row["stage"]] = {"body": body, "rule_version": row["rule_version"]}
    current = {stage: known["body"] for stage, known in before.items()}
    for each in listed:
        each["holds"] = each["body"] == current[each["stage"]]
        each["body"] = each["body"] if each["holds"] else None
    return {"policies": listed[::-1][:_CHANGES], "more": max(0, len(listed) - _CHANGES)}


def _body(value: Any) -> dict[str, Any]:
    body = json.loads(value) if isinstance(value, str) else value
    return body if isinstance(body, dict) else {}


PAGES = [
    ConsolePage(
        path="/what-if",
        title="What-if",
        about="Another policy over the recorded log: what would flip, by how much, and why.",
        model=whatif,
        template="whatif.html",
        group="Tools",
        order=20,
        uses_status=True,
    ),
    ConsolePage(
        path="/policies",
        title="Policies",
        about="Which policy held for each stage since when, and what each changed.",
        model=policies,
        template="policies.html",
        group="Tools",
        order=30,
    ),
]
