"""Versions, and one version against what was served. Knows their read models."""

from __future__ import annotations

from headrace_console.page import ConsolePage, PageRequest, there
from headrace_lake.read_models.paging import PageCursor
from headrace_lake.read_models.version_view import VersionList, VersionView, version_list, version_view


def versions(asked: PageRequest) -> VersionList:
    return version_list(asked.lake, asked.query.get("bucket") or None, PageCursor.read(asked.query.get("below", "")))


def version(asked: PageRequest) -> VersionView:
    outcome, offset = asked.query.get("outcome", "win"), asked.whole_number("from", 0, 0, 10**7)
    return there(version_view(asked.lake, asked.settings, asked.names["id"], outcome, offset), "version", asked.names["id"])


PAGES = [
    ConsolePage(
        path="/versions",
        title="Versions",
        about="Adapters that were made, each against what was served, and what release said of it.",
        model=versions,
        template="versions.html",
        group="Learning",
        order=3,
    ),
    ConsolePage(
        path="/versions/{id}",
        title="Version",
        about="One version: figures with intervals, the gate as conditions, answers won, lost and tied.",
        model=version,
        template="version.html",
        sample="SELECT version_id FROM versions ORDER BY appended_at DESC, version_id",
    ),
]
