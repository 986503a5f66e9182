"""Reads the folder of real interactions with real feedback, line by line, into the fields of the contract. Knows no Kafka.

`positive` and `negative` are explicit_*, `neutral` is a rating of 50, lists are joined by newlines. A `ts` is an event time where
it is one (ISO without offset is UTC; numbers below the year 2000 are seconds of a chat, no time of day).
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from headrace_streams.testing import event

KINDS = {"positive": "explicit_positive", "negative": "explicit_negative", "neutral": "rating"}
INPUTS = {"interaction": "interactions", "feedback": "feedback"}
YEAR_2000 = 946_684_800


class Said(NamedTuple):
    """One line: `fields` as the Recorder takes them, `time` RFC 3339 or None."""

    kind: str  # interaction or feedback
    fields: dict[str, Any]
    time: str | None


def published(said: Said, name: str, agent: str = "corpus") -> tuple[str, bytes]:
    """Topic and value of a line as an agent publishes it, as the event `name`."""
    data = {"agent": {"name": agent}, **said.fields} if said.kind == "interaction" else said.fields
    value = event(f"headrace.{said.kind}.recorded.v1", data, id=name, source="agent:corpus", time=said.time)
    return INPUTS[said.kind], value


def corpora(data: Path) -> dict[str, Path]:
    """Name -> file, sorted by name."""
    return {path.name.removesuffix(".jsonl.gz"): path for path in sorted(data.glob("*.jsonl.gz"))}


def lines(path: Path) -> Iterator[dict[str, Any]]:
    with gzip.open(path, "rt", encoding="utf-8") as file:
        for line in file:
            yield json.loads(line)


def said(name: str, path: Path) -> Iterator[Said]:
    """Every row, in order. Interaction ids are prefixed with the corpus, so that corpora could share a deployment."""
    for number, row in enumerate(lines(path)):
        yield _interaction(name, row) if row["kind"] == "interaction" else _feedback(name, row, number)


def _interaction(name: str, row: dict[str, Any]) -> Said:
    fields = {
        "interaction_id": f"{name}:{row['id']}",
        "artifact_type": row["artifact"],
        "model": row["model"],
        "prompt": _joined(row["prompt"]),
        "output": _joined(row["output"]),
        "context": _joined(row["context"]) if row.get("context") else None,
        "prompt_group": row["group"][:200],
        "attempt": row.get("attempt"),
        "latency_ms": row.get("latency_ms"),
        "session_id": row.get("session"),
        "attributes": {key: row[key] for key in ("strategy", "source") if row.get(key)} or None,
    }
    return Said("interaction", {key: value for key, value in fields.items() if value is not None}, _time(row.get("ts")))


def _feedback(name: str, row: dict[str, Any], number: int) -> Said:
    kind = KINDS.get(row["type"], row["type"])
    score = 50 if row["type"] == "neutral" else row.get("score")
    principal = {"id": str(row["annotator"]), "kind": "human"} if row.get("annotator") else None
    fields = {
        "feedback_id": f"{name}:{number}",
        "interaction_id": f"{name}:{row['interaction']}",
        "kind": kind,
        "score": score,
        "corrected_output": _joined(row["corrected"]) if row.get("corrected") else None,
        "comment": _joined(row["text"])[:16_000] if row.get("text") else None,
        "principal": principal,
    }
    return Said("feedback", {key: value for key, value in fields.items() if value is not None}, _time(row.get("ts")))


def _joined(value: Any) -> Any:
    return "\n".join(str(part) for part in value) if isinstance(value, list) else value


def _time(value: str | float | None) -> str | None:
    if value is None:
        return None
    if isinstance(value, int | float):
        return None if value < YEAR_2000 else datetime.fromtimestamp(value, UTC).isoformat()
    return value if value[-1] == "Z" or "+" in value[10:] else value + "Z"
