"""Suites of tasks: those that people write, and those that come with the package. Knows no model."""

from headrace_trainer.suites.suite import (
    MOST_TASKS,
    Suite,
    SuiteCall,
    SuiteMessage,
    SuiteTask,
    SuiteTool,
    path_of,
    read,
    read_all,
    shipped,
    together,
)

__all__ = [
    "MOST_TASKS",
    "Suite",
    "SuiteCall",
    "SuiteMessage",
    "SuiteTask",
    "SuiteTool",
    "path_of",
    "read",
    "read_all",
    "shipped",
    "together",
]
