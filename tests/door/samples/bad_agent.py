"""An agent with mistakes: each line that ends with `# wrong: …` must be an error of a type checker, and no other. Never run."""

from __future__ import annotations

import headrace


def answer(recorder: headrace.Recorder, releases: headrace.Releases) -> None:
    call = recorder.interaction(artifact_type="sql", model="m", prompt="p", output="o")
    recorder.interaction(artifact_typ="sql", model="m", prompt="p", output="o")  # wrong: misspelt field
    recorder.interaction(artifact_type="sql", model="m", output="o")  # wrong: no prompt
    recorder.interaction(artifact_type="sql", model="m", prompt="p", output="o", latency_ms="fast")  # wrong: text for a number
    recorder.interaction(artifact_type="sql", model="m", prompt=7, output="o")  # wrong: a number for a text
    recorder.interaction(artifact_type="sql", model="m", prompt="p", output="o", refs=["OPS-7"])  # wrong: a text for a pair
    recorder.interaction(artifact_type="sql", model="m", prompt="p", output="o", error={"typ": "x"})  # wrong: misspelt inside
    recorder.interaction(artifact_type="sql", model="m", prompt="p", output="o", parent=3)  # wrong: a number for a call
    recorder.feedback(call, score=100)  # wrong: no kind
    recorder.feedback(call, kind="success", score="good")  # wrong: text for a number
    recorder.feedback(call, kind="success", scores=100)  # wrong: misspelt field
    recorder.feedback(call, kind="success", principal={"id": "ci"})  # wrong: no kind of principal
    print(releases.current("sql/m").digest)  # wrong: there may be none


async def answer_async(recorder: headrace.AsyncRecorder) -> None:
    await recorder.interaction(artifact_type="sql", model="m", promt="p", output="o")  # wrong: misspelt field
    await recorder.feedback("i-1", kind=None)  # wrong: no kind
