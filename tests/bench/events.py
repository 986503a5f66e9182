"""Interactions and feedback of about the size that real ones have (1.5 KB and 0.4 KB), for measurements without real data."""

from __future__ import annotations

import random

from headrace_schemas.canonical import canonical

WORDS = """select from where order customer total join on group by having limit count name city product price""".split()  # noqa: SIM905
PHRASE = 5  # words
_DRAW = random.Random(7)
# Texts are put together from phrases: word by word an event took 0.2 ms, and whoever published was slower than a worker.
PHRASES = [" ".join(_DRAW.choice(WORDS) + str(_DRAW.randrange(100)) for _ in range(PHRASE)) for _ in range(10_000)]


def interaction(draw: random.Random, number: int) -> bytes:
    data = {
        "interaction_id": f"i{number}",
        "agent": {"name": "bot", "role": "analyst", "version": "7"},
        "artifact_type": draw.choice(["sql", "code", "docs"]),
        "model": "small",
        "prompt": _text(draw, 90),
        "output": _text(draw, 60),
        "context": _text(draw, 40),
        "session_id": f"s{number // 5}",
        "latency_ms": 1234.5,
        "usage": {"input_tokens": 321, "output_tokens": 45},
        "attributes": {"region": "eu", "retry": False},
    }
    return _event("interaction", f"i{number}", data)


def feedback(draw: random.Random, number: int) -> bytes:
    right = draw.random() < 0.6
    data = {
        "feedback_id": f"f{number}",
        "interaction_id": f"i{number}",
        "kind": "success" if right else "validation_failure",
        "score": 100 if right else draw.choice([0, 20, 40]),
        "principal": {"id": f"p{number % 7}", "kind": "test"},
        "comment": _text(draw, 8),
    }
    return _event("feedback", f"f{number}", data)


def _text(draw: random.Random, words: int) -> str:
    return " ".join(draw.choices(PHRASES, k=max(1, words // PHRASE)))


def _event(kind: str, name: str, data: object) -> bytes:
    return canonical(
        {
            "specversion": "1.0",
            "id": name,
            "source": "agent:bench",
            "type": f"headrace.{kind}.recorded.v1",
            "time": "2026-01-01T00:00:00Z",
            "data": data,
        }
    )
