"""Runs, and one run with its curves. Knows their read models."""

from __future__ import annotations

from headrace_console.page import ConsolePage, PageRequest, there
from headrace_lake.read_models.paging import PageCursor
from headrace_lake.read_models.run_view import RunList, RunView, run_list, run_view


def runs(asked: PageRequest) -> RunList:
    return run_list(asked.lake, asked.query.get("bucket") or None, PageCursor.read(asked.query.get("below", "")))


def run(asked: PageRequest) -> RunView:
    others = [name for name in asked.query.get("with", "").split(",") if name]
    return there(run_view(asked.lake, asked.names["id"], others), "run", asked.names["id"])


PAGES = [
    ConsolePage(
        path="/runs",
        title="Runs",
        about="Trainings: how far each is, how fast, how it ended, and why it failed.",
        model=runs,
        template="runs.html",
        group="Learning",
        order=2,
    ),
    ConsolePage(
        path="/runs/{id}",
        title="Run",
        about="One training: loss on training and validation rows, learning rate, attempts and their errors.",
        model=run,
        template="run.html",
        sample="SELECT run_id FROM runs WHERE kind = 'started' GROUP BY run_id ORDER BY max(appended_at) DESC, run_id",
    ),
]
