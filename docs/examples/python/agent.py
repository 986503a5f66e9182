"""An agent: answers with what is served now, publishes what it did and what came of it.

    python agent.py 127.0.0.1:9092

Needs the package `headrace` without extras. The outbox keeps what was accepted when the broker is away or the agent dies.
"""

from __future__ import annotations

import sys

import headrace


def answer(question: str, adapter: str | None) -> str:
    """Stands for your model; `adapter` is the folder of the adapter to answer with, None for the base alone."""
    return "select count(*) from orders"


def checked(sql: str) -> bool:
    """Stands for your tests."""
    return sql.startswith("select")


def main(bootstrap: str, deployment: str = "headrace") -> None:
    releases = headrace.Releases(bootstrap, buckets=["sql/tiny-sql"], deployment=deployment)
    release = releases.current("sql/tiny-sql")  # None before the first one
    adapter = release.fetch() if release and release.adapter else None
    question = "How many orders?"
    with headrace.Recorder(bootstrap, agent="sql-bot", outbox="outbox.db", deployment=deployment) as recorder:
        output = answer(question, str(adapter) if adapter else None)
        call = recorder.interaction(
            artifact_type="sql",
            model="tiny-sql",
            prompt=question,
            output=output,
            adapter=release.digest if release else None,
        )
        recorder.feedback(call, kind="success" if checked(output) else "validation_failure", name="unit_tests")
        print(call.interaction_id)
    releases.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
