"""The agent is an outside user: it, and what it stands on, import nothing of the project but the door."""

from __future__ import annotations

import ast
from pathlib import Path

import headrace_demo

HERE = Path(headrace_demo.__file__).parent
ALLOWED = {"headrace", "headrace_demo", "duckdb", "torch", "transformers", "peft"}


def imports_of(module: str) -> set[str]:
    tree = ast.parse((HERE / f"{module}.py").read_text())
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
            if node.module == "headrace_demo":
                found |= {f"headrace_demo.{alias.name}" for alias in node.names}
    return found


def test_the_agent_imports_only_the_door() -> None:
    import sys

    waiting, seen = ["agent"], set()
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
    assert {"agent", "serve", "grade", "questions"} <= seen
