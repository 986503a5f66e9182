"""Dead letters as pages show them: grouped, listed, one with the field marked, and what a redrive would do. Knows the lake.

Letters are read as events and sorted here: to take their fields out of the JSON by SQL, publishers from the base64 inside, cost
half a millisecond a letter.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any
from urllib.parse import parse_qsl, urlencode

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from headrace_lake.lineage import RecordPlace
from headrace_lake.query import LakeQuery
from headrace_lake.read_models.recorded import places_where, read_at
from headrace_lake.views import event, table_of
from headrace_schemas.derived import DeadLetter, Redrive
from headrace_schemas.events import RecordRedriven, RecordRejected
from headrace_schemas.times import rfc3339
from headrace_streams.dead_letters.letters import LetterFilter, LetterRow, at_of, groups, marked, row_of
from headrace_streams.dead_letters.repair import Edit, Unfit, repaired
from headrace_streams.kafka.reader import decode_or_none

NEWEST = 2_000  # letters that a page is of
GROUPS, ROWS = 100, 50
PREVIEWED = 5_000  # letters of which a preview says what would become of them: 0.1 ms each
CHUNK = 1_000  # letters that are in memory at once where all are looked at
FILTERS = ("topic", "code", "field", "source")
_LETTERS = "dead-letters"
_TABLE, _REJECTED, _REDRIVEN = table_of(_LETTERS), event("record.rejected"), event("record.redriven")
SAMPLE = f"SELECT key FROM {_TABLE} WHERE {_REJECTED} ORDER BY appended_at DESC LIMIT 3"


class RedrivePreview(Struct, frozen=True, kw_only=True):
    """What a redrive of some letters would do: `letters` that are meant, `before` of them redriven earlier; of the others `fit`
    would be taken, `unfit` would not, by why. `older`: letters before those that were looked at, of which nothing is said."""

    letters: int
    before: int
    fit: int
    unfit: Mapping[str, int]
    older: int = 0


def letter_groups(lake: LakeQuery, given: Mapping[str, str]) -> dict[str, Any]:
    """The newest letters by topic, code, publisher and field, the most frequent first; and the newest of those that are meant."""
    wanted, filters = wanted_of(given), {name: given[name] for name in FILTERS if name in given}
    total = lake.run(f"SELECT count(*) FROM {_TABLE} WHERE {_REJECTED}").rows[0][0]
    redriven = _redriven(lake)
    rows = [
        replace(row, redriven=redriven.get(row.at))
        for row, _ in _letters(lake, places_where(lake, _LETTERS, _REJECTED, limit=NEWEST))
        if wanted.takes(row)
    ]
    rows.sort(key=lambda row: (row.timestamp, row.at))
    grouped = groups(rows)
    listed = [
        {
            **msgspec.structs.asdict(group),
            "subject": subject_of(
                {"topic": group.topic, "code": group.code, "field": group.field or "", "source": group.source or ""}
            ),
        }
        for group in grouped[:GROUPS]
    ]
    return {
        "filters": filters,
        "subject": subject_of(filters),
        "total": total,
        "looked_at": min(total, NEWEST),
        "groups": listed,
        "more_groups": len(grouped) > GROUPS,
        "letters": [_listed(row) for row in reversed(rows[-ROWS:])],
        "more": len(rows) > ROWS,
    }


def letter_view(lake: LakeQuery, at: str) -> dict[str, Any] | None:
    """One letter whole: the record as text in three pieces, before, in and behind what is wrong; None when there is none."""
    places = lake.all(
        f"SELECT partition, log_offset, epoch_ms(appended_at) FROM {_TABLE} WHERE {_REJECTED} AND key = $at "
        "ORDER BY appended_at DESC LIMIT 1",
        {"at": at},
    )
    found = list(_letters(lake, [RecordPlace(_LETTERS, *row[:2]) for row in places]))
    if not found:
        return None
    row, letter = found[0]
    shown = marked(letter)
    start, end = (0, 0) if shown.span is None else shown.span[:2]
    again = _redriven(lake, at).get(at)
    return {
        "at": at,
        "letter": {"topic": _LETTERS, "partition": places[0][0], "offset": places[0][1], "appended_ms": places[0][2]},
        "error": {"code": letter.error.code, "field": letter.error.field, "message": letter.error.message},
        "publisher": row.source,
        "headers": [[name, "" if value is None else value] for name, value in letter.headers],
        "key_base64": letter.key_base64,
        "part": shown.part,
        "what": None if shown.span is None else shown.span.what,
        "pieces": [shown.text[:start], shown.text[start:end], shown.text[end:]],
        "redriven": None if again is None else {**msgspec.to_builtins(again), "published": at_of(again.published)},
    }


def preview(lake: LakeQuery, wanted: LetterFilter) -> RedrivePreview:
    """What a redrive would do to the letters that are `wanted`, as they are, of the newest PREVIEWED."""
    where, values = (f"{_REJECTED} AND key = $at", {"at": wanted.at[0]}) if wanted.at else (_REJECTED, {})
    [(there,)] = lake.all(f"SELECT count(*) FROM {_TABLE} WHERE {where}", values)
    places = places_where(lake, _LETTERS, where, values, limit=PREVIEWED)
    redriven, letters, before, fit, unfit = _redriven(lake), 0, 0, 0, Counter[str]()
    now_ms = time.time_ns() // 1_000_000
    for row, letter in _letters(lake, places):
        if not wanted.takes(row):
            continue
        letters += 1
        if row.at in redriven:
            before += 1
        elif isinstance(made := repaired(letter, Edit(), now_ms), Unfit):
            unfit[made.why] += 1
        else:
            fit += 1
    return RedrivePreview(letters=letters, before=before, fit=fit, unfit=dict(unfit), older=there - len(places))


def wanted_of(given: Mapping[str, str]) -> LetterFilter:
    """The filter that a page's query asks for; an empty one of `field` or `source` asks for those without."""
    return msgspec.convert({name: given[name] for name in FILTERS if name in given}, LetterFilter)


def subject_of(given: Mapping[str, str]) -> str:
    """A group as one text, which `group_of` reads again."""
    return urlencode({name: given[name] for name in FILTERS if name in given})


def group_of(subject: str) -> dict[str, str]:
    """The filters of a group; none for a text that names no group."""
    return {name: value for name, value in parse_qsl(subject, keep_blank_values=True) if name in FILTERS}


def _listed(row: LetterRow) -> dict[str, Any]:
    return {
        "at": row.at,
        "came": rfc3339(row.timestamp),
        "code": row.code,
        "field": row.field,
        "publisher": row.source,
        "message": row.message,
        "published": None if row.redriven is None else at_of(row.redriven.published),
    }


def _letters(lake: LakeQuery, places: Sequence[RecordPlace]) -> Iterator[tuple[LetterRow, DeadLetter]]:
    """The letters that lie there, some at a time."""
    for start in range(0, len(places), CHUNK):
        rows = read_at(lake, _LETTERS, places[start : start + CHUNK], "t.partition, t.log_offset, t.value, t.odd")
        for partition, offset, value, odd in rows:
            found = decode_or_none(lake.opener.opened(str(value), odd).encode())
            if isinstance(found, RecordRejected):
                yield row_of(found.data, partition, offset), found.data


def _redriven(lake: LakeQuery, at: str | None = None) -> dict[str, Redrive]:
    """What came of letters, by the places of their records."""
    only, values = ("AND key = $at", {"at": at}) if at is not None else ("", {})
    rows = lake.all(f"SELECT value FROM {_TABLE} WHERE {_REDRIVEN} {only} ORDER BY appended_at DESC", values)
    found = [event for (value,) in rows if isinstance(event := decode_or_none(str(value).encode()), RecordRedriven)]
    return {at_of(each.data): each.data for each in found}
