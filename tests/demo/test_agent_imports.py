"""The agent is an outside user: it, and what it stands on, import nothing of the project but the door."""

from __future__ import annotations

import ast
from pathlib import Path

import headrace_demo

HERE = Path(headrace_demo.__file__).parent
ALLOWED = {"headrace", "headrace_demo", "duckdb", "torch", "transformers", "peft"}


def imports_of(module: str) -> set[str]:
    path = HERE.joinpath(*module.split("."))
    tree = ast.parse((path / "__init__.py" if path.is_dir() else path.with_suffix(".py")).read_text())
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
            if HERE.parent.joinpath(*node.module.split(".")).is_dir():
                found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def test_the_agent_imports_only_the_door() -> None:
    import sys

    waiting, seen = ["agent.agent"], set()
    while waiting:
        module = waiting.pop()
        if module in seen:
            continue
        seen.add(module)
        for name in imports_of(module):
            root, _, rest = name.partition(".")
            assert root in ALLOWED or root in sys.stdlib_module_names, f"headrace_demo.{module} imports {name}"
            assert not (root == "headrace" and rest), f"headrace_demo.{module} reaches behind the door: {name}"
            if root == "headrace_demo" and rest:
                waiting.append(rest)
    assert {"agent.agent", "agent.serve", "shop.grade", "shop.questions"} <= seen
