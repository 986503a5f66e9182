"""Dead letters as pages show them: grouped, listed, one with the field marked, and what a redrive would do. Knows the lake."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import parse_qsl, urlencode

from msgspec import Struct

from headrace_lake.query import LakeQuery
from headrace_lake.views import event, table_of
from headrace_schemas.derived import DeadLetter
from headrace_schemas.events import RecordRejected
from headrace_streams.dead_letters.letters import LetterFilter, marked, row_of
from headrace_streams.dead_letters.repair import Edit, Unfit, repaired
from headrace_streams.kafka.reader import decode_or_none

GROUPS, ROWS, PREVIEW = 200, 50, 1000
FILTERS = ("topic", "code", "field", "source")
_COLUMN = {"topic": "input", "code": "code", "field": "field", "source": "publisher"}
_AT = "input || '/' || input_partition || '/' || input_offset"
_REDRIVEN = (
    f"LEFT JOIN (SELECT {_AT} AS again, min(appended_at) AS redriven_at, any_value(published_topic || '/' || published_partition "
    "|| '/' || published_offset) AS published, any_value(reason) AS why, any_value(requested_by) AS who FROM redriven "
    f"GROUP BY ALL) ON again = {_AT}"
)
SAMPLE = f"SELECT {_AT} FROM dead_letters ORDER BY appended_at DESC LIMIT 3"


class RedrivePreview(Struct, frozen=True, kw_only=True):
    """What a redrive of some letters would do: `letters` that are meant, `before` of them redriven earlier; of the `looked_at`
    others `fit` would be taken, `unfit` would not, by why."""

    letters: int
    before: int
    looked_at: int
    fit: int
    unfit: Mapping[str, int]


def letter_groups(lake: LakeQuery, given: Mapping[str, str]) -> dict[str, Any]:
    """Letters by topic, code, publisher and field, the most frequent first, and the newest of those that are meant."""
    where, values = narrowed(given)
    groups = lake.run(
        "SELECT input, code, field, publisher, count(*) AS letters, count(again) AS redriven, min(appended_at) AS first_at, "
        f"max(appended_at) AS last_at, arg_max(message, appended_at) AS message FROM dead_letters {_REDRIVEN} WHERE {where} "
        f"GROUP BY ALL ORDER BY letters DESC, input, code, field, publisher LIMIT {GROUPS + 1}",
        values,
    ).dicts()
    newest = lake.run(
        f"SELECT {_AT} AS record_at, appended_at, code, field, publisher, message, published, redriven_at "
        f"FROM dead_letters {_REDRIVEN} WHERE {where} ORDER BY appended_at DESC, record_at LIMIT {ROWS + 1}",
        values,
    ).dicts()
    for group in groups:
        group["subject"] = subject_of({name: group[column] or "" for name, column in _COLUMN.items()})
    return {
        "filters": {name: given[name] for name in FILTERS if name in given},
        "groups": groups[:GROUPS],
        "more_groups": len(groups) > GROUPS,
        "letters": newest[:ROWS],
        "more": len(newest) > ROWS,
    }


def letter_view(lake: LakeQuery, at: str) -> dict[str, Any] | None:
    """One letter whole: the record as text in three pieces, before, in and behind what is wrong; None when there is none."""
    found = lake.run(
        "SELECT topic, partition, log_offset, appended_at, published, redriven_at, why, who "
        f"FROM dead_letters {_REDRIVEN} WHERE {_AT} = $at ORDER BY appended_at DESC LIMIT 1",
        {"at": at},
    ).dicts()
    if not found:
        return None
    row = found[0]
    letters = _letters(lake, [(row["partition"], row["log_offset"])])
    if not letters:
        return None
    letter = letters[0]
    shown = marked(letter)
    start, end = (0, 0) if shown.span is None else shown.span[:2]
    return {
        "at": at,
        "letter": {name: row[name] for name in ("topic", "partition", "log_offset", "appended_at")},
        "error": {"code": letter.error.code, "field": letter.error.field, "message": letter.error.message},
        "publisher": row_of(letter, 0, 0).source,
        "headers": [[name, "" if value is None else value] for name, value in letter.headers],
        "key_base64": letter.key_base64,
        "part": shown.part,
        "what": None if shown.span is None else shown.span.what,
        "pieces": [shown.text[:start], shown.text[start:end], shown.text[end:]],
        "redriven": None
        if row["published"] is None
        else {name: row[name] for name in ("published", "redriven_at", "why", "who")},
    }


def preview(lake: LakeQuery, wanted: LetterFilter, given: Mapping[str, str]) -> RedrivePreview:
    """What a redrive would do to the letters of `given` (or of `wanted.at`) as they are. Looks at PREVIEW of them at the most."""
    where, values = narrowed(given)
    if wanted.at:
        where, values = f"{_AT} = $at", {"at": wanted.at[0]}
    counted = lake.run(f"SELECT count(*), count(again) FROM dead_letters {_REDRIVEN} WHERE {where}", values).rows[0]
    waiting = lake.run(
        f"SELECT partition, log_offset FROM dead_letters {_REDRIVEN} WHERE {where} AND again IS NULL "
        f"ORDER BY appended_at DESC LIMIT {PREVIEW}",
        values,
    ).rows
    now_ms, unfit, fit = time.time_ns() // 1_000_000, Counter[str](), 0
    for letter in _letters(lake, waiting):
        made = repaired(letter, Edit(), now_ms)
        if isinstance(made, Unfit):
            unfit[made.why] += 1
        else:
            fit += 1
    return RedrivePreview(letters=counted[0], before=counted[1], looked_at=len(waiting), fit=fit, unfit=dict(unfit))


def narrowed(given: Mapping[str, str]) -> tuple[str, dict[str, str]]:
    """A condition over the view, and its values; an empty filter asks for what has none."""
    asked = {name: given[name] for name in FILTERS if name in given}
    conditions = [f"coalesce({_COLUMN[name]}, '') = ${name}" for name in asked]
    return " AND ".join(conditions) or "true", asked


def subject_of(given: Mapping[str, str]) -> str:
    """A group as one text, which `group_of` reads again."""
    return urlencode({name: given[name] for name in FILTERS if name in given})


def group_of(subject: str) -> dict[str, str]:
    """The filters of a group; none for a text that names no group."""
    return {name: value for name, value in parse_qsl(subject, keep_blank_values=True) if name in FILTERS}


def _letters(lake: LakeQuery, places: Sequence[Sequence[Any]]) -> list[DeadLetter]:
    """The letters that lie at (partition, offset) of their topic."""
    if not places:
        return []
    listed = ", ".join(f"({int(partition)}, {int(offset)})" for partition, offset in places)
    where = f"{event('record.rejected')} AND (partition, log_offset) IN ({listed})"
    rows = lake.run(f"SELECT value FROM {table_of('dead-letters')} WHERE {where}").rows
    events = [decode_or_none(str(row[0]).encode()) for row in rows if row[0] is not None]
    return [found.data for found in events if isinstance(found, RecordRejected)]
