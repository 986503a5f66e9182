"""Examples, and one example: its reward term by term, why it was rejected, where it went. Knows their read models."""

from __future__ import annotations

from headrace_console.page import ConsolePage, PageRequest, there
from headrace_lake.read_models.example_list import ExampleFilter, ExampleList, example_list
from headrace_lake.read_models.example_view import ExampleView, example_view
from headrace_lake.read_models.paging import PageCursor


def examples(asked: PageRequest) -> ExampleList:
    return example_list(asked.lake, ExampleFilter.read(asked.query), PageCursor.read(asked.query.get("below", "")))


def example(asked: PageRequest) -> ExampleView:
    name = asked.names["id"]
    found = example_view(asked.lake, name, asked.whole_number("revision", 0, 0, 10**9) or None)
    return there(found, "example and no interaction", name)


PAGES = [
    ConsolePage(
        path="/examples",
        title="Examples",
        about="What interactions are worth: searched, filtered and counted by agent, rater and side.",
        model=examples,
        template="examples.html",
        group="Data",
        order=2,
    ),
    ConsolePage(
        path="/examples/{id:.+}",
        title="Example",
        about="One example: its reward term by term, its revisions, why it was rejected, where it went.",
        model=example,
        template="example.html",
        sample="SELECT example_id FROM examples GROUP BY example_id ORDER BY max(appended_at) DESC, example_id",
    ),
]
