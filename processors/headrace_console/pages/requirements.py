"""Requirements of every bucket. Knows their read model."""

from __future__ import annotations

from headrace_console.page import ConsolePage, PageRequest
from headrace_lake.read_models.requirement_view import RequirementList, requirement_list


def requirements(asked: PageRequest) -> RequirementList:
    return requirement_list(asked.lake, asked.whole_number("start", 0, 0, 10**6))


PAGES = [
    ConsolePage(
        path="/requirements",
        title="Requirements",
        about="What is asked of each bucket: current, target, since when it is met, which release moved it.",
        model=requirements,
        template="requirements.html",
        group="Serving",
        order=2,
    )
]
