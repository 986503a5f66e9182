"""What an example is worth by the published rules alone, for feedback without corrections. Imports nothing of headrace."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

BONUS = {"success": 0.3, "explicit_positive": 0.4, "validation_failure": -0.5, "explicit_negative": -1.0}
COMPLEXITY = {"code": 0.8, "architecture": 0.7, "workflows": 0.6, "api_docs": 0.5, "erd": 0.3}


def example_by_the_rules(
    interaction: Mapping[str, Any], feedbacks: Iterable[tuple[str | int, str, Mapping[str, Any]]]
) -> dict[str, Any]:
    """The example of an interaction's `data` and of [(event time, source, `data`)] of its feedback."""
    voices: dict[tuple[str, str | None], dict[str, Any]] = {}
    for _, source, feedback in sorted(feedbacks, key=lambda each: (each[0], each[2]["feedback_id"])):
        who = feedback.get("principal")
        voice = voices.setdefault((who["id"], feedback.get("name")) if who else (source, feedback["feedback_id"]), {})
        voice["kind"] = feedback["kind"]
        if feedback.get("score") is not None:
            low, high = feedback.get("scale") or (0, 100)
            voice["score"] = (feedback["score"] - low) / (high - low) * 100
    terms = [
        (math.tanh((voice["score"] - 50) / 50) if "score" in voice else 0.0, BONUS.get(voice["kind"], 0.0))
        for voice in voices.values()
    ]
    opinion = sum(validation for validation, _ in terms) / len(terms) + sum(feedback for _, feedback in terms) / len(terms)
    difficulty = (
        0.5 * COMPLEXITY.get(interaction["artifact_type"], 0.5)
        + 0.3 * min(1, len(interaction["prompt"]) / 5000)
        + 0.2 * min(1, len(interaction.get("context") or "") / 10000)
    )
    signs = {total > 0 for total in map(sum, terms) if total}
    return {
        "bucket": f"{interaction['artifact_type']}/{interaction['model']}",
        "quality": math.tanh(opinion),
        "reward": math.tanh(opinion * (1 + 1.5 * difficulty)),
        "voices": len(voices),
        "contradicted": len(signs) == 2,
    }
