"""Releases, and one release. Knows their read models."""

from __future__ import annotations

from headrace_console.page import ConsolePage, PageRequest, there
from headrace_lake.read_models.paging import PageCursor
from headrace_lake.read_models.release_view import ReleaseList, ReleaseView, release_list, release_view
from headrace_lake.views import DECISIONS, table_of


def releases(asked: PageRequest) -> ReleaseList:
    return release_list(asked.lake, asked.query.get("bucket") or None, PageCursor.read(asked.query.get("below", "")))


def release(asked: PageRequest) -> ReleaseView:
    return there(release_view(asked.lake, asked.names["id"]), "release", asked.names["id"])


PAGES = [
    ConsolePage(
        path="/releases",
        title="Releases",
        about="What each bucket serves, and every answer of release before it.",
        model=releases,
        template="releases.html",
        group="Serving",
        order=1,
    ),
    ConsolePage(
        path="/releases/{id}",
        title="Release",
        about="One release: why, what changed, the verdict, its chain, and whether it is really served and does better.",
        model=release,
        template="release.html",
        sample=f"SELECT release_id FROM {table_of('releases.history')} WHERE {DECISIONS} ORDER BY appended_at DESC, release_id",
    ),
]
