"""What may stand at a key of a policy or a setting, in words, from the JSON Schema of its model. Knows no key."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def allowed(about: Mapping[str, Any]) -> str:
    """What a JSON Schema allows, in words."""
    if "enum" in about or "const" in about:
        return ", ".join(f"`{value}`" for value in about.get("enum", [about.get("const")]))
    if "anyOf" in about:
        return " or ".join(allowed(choice) for choice in about["anyOf"] if choice.get("type") != "null")
    kind = about.get("type")
    if kind in ("integer", "number"):
        return " ".join(["whole number" if kind == "integer" else "number", *_bounds(about)])
    if kind == "array":
        items = [allowed(item) for item in about.get("prefixItems", ())]
        return f"({', '.join(items)})" if items else f"list of {allowed(about['items'])}"
    if kind == "object":
        values = about["additionalProperties"]
        return f"table: name = {allowed(values) if isinstance(values, dict) and values else 'any value'}"
    return {"string": "text", "boolean": "`true`, `false`"}.get(str(kind), "any value")


def _bounds(about: Mapping[str, Any]) -> list[str]:
    words = {"minimum": "from {}", "exclusiveMinimum": "above {}", "maximum": "to {}", "exclusiveMaximum": "below {}"}
    return [words[name].format(f"{about[name]:.15g}") for name in words if name in about]
