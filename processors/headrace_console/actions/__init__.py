"""What can be asked for on the console: every module here with a list `ACTIONS`. Nothing else names a new one."""

from __future__ import annotations

import importlib
import pkgutil

from headrace_console.action import ConsoleAction


def actions() -> dict[str, ConsoleAction]:
    """By name."""
    found: dict[str, ConsoleAction] = {}
    for module in pkgutil.iter_modules(__path__):
        for action in getattr(importlib.import_module(f"{__name__}.{module.name}"), "ACTIONS", ()):
            found[action.name] = action
    return found
