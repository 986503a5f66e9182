"""Batches, and one batch. Knows their read models."""

from __future__ import annotations

from headrace_console.page import ConsolePage, PageRequest, there
from headrace_lake.read_models.batch_list import BatchList, BatchView, batch_list, batch_view
from headrace_lake.read_models.paging import PageCursor


def batches(asked: PageRequest) -> BatchList:
    return batch_list(asked.lake, asked.query.get("bucket") or None, PageCursor.read(asked.query.get("below", "")))


def batch(asked: PageRequest) -> BatchView:
    name = asked.names["id"]
    return there(batch_view(asked.lake, name, asked.whole_number("from", 0, 0, 10**7)), "batch", name)


PAGES = [
    ConsolePage(
        path="/batches",
        title="Batches",
        about="What was cut to be trained, why, and what became of it.",
        model=batches,
        template="batches.html",
        group="Learning",
        order=1,
    ),
    ConsolePage(
        path="/batches/{id}",
        title="Batch",
        about="One batch: its cause, its rows by side, role and difficulty, its runs.",
        model=batch,
        template="batch.html",
        sample="SELECT batch_id FROM batches ORDER BY appended_at DESC, batch_id",
    ),
]
