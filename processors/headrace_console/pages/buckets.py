"""Buckets, and one bucket: fill against target, why it is not cut yet, what came of late. Knows their read models."""

from __future__ import annotations

from headrace_console.page import ConsolePage, PageRequest, there
from headrace_lake.read_models.bucket_view import BucketList, BucketView, bucket_list, bucket_view


def buckets(asked: PageRequest) -> BucketList:
    return bucket_list(asked.lake, asked.manifest, asked.seen.report, asked.whole_number("start", 0, 0, 10**6))


def bucket(asked: PageRequest) -> BucketView:
    name = asked.names["name"]
    return there(bucket_view(asked.lake, asked.manifest, asked.seen.report, name), "bucket", name)


PAGES = [
    ConsolePage(
        path="/buckets",
        title="Buckets",
        about="Fill against target, quality, and what each bucket waits for before it is cut.",
        model=buckets,
        template="buckets.html",
        uses_status=True,
        group="Data",
        order=1,
    ),
    ConsolePage(
        path="/buckets/{name:.+}",
        title="Bucket",
        about="Why a bucket is not cut yet, how its rewards move, who is in it, what was rejected.",
        model=bucket,
        template="bucket.html",
        uses_status=True,
        sample="SELECT bucket FROM examples GROUP BY bucket ORDER BY count(*) DESC, bucket",
    ),
]
