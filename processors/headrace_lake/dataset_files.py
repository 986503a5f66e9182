"""The files of a data set, one form each: chat, alpaca, dpo, kto, parquet. Knows libraries' columns, chooses no example.

Every column has one type in all rows: what has a form of its own in each row (arguments and parameters of tools) is JSON text, or
readers of tables clash over it: `datasets` 4.5 refused a file in which a parameter's default was a number here and a text there.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from headrace_lake.dataset import DatasetExample, DatasetRow, Format
from headrace_schemas.canonical import canonical, digest
from headrace_schemas.chat import answer_dict, context_text, messages_of, plain_message, tool_dicts
from headrace_schemas.inputs import Message

PAIR_GAP = 0.2  # in quality, of two answers to one prompt: ten points of a hundred. Nearer ones say little


class DatasetFile(NamedTuple):
    """What was written: rows in it, and how many examples could not be written in this form, by reason."""

    path: Path
    rows: int
    left_out: dict[str, int]


def write(rows: Sequence[DatasetRow], out: Path, form: Format) -> Path:
    """Writes `rows` as `out/train.jsonl` (one {"messages": […], …} a line) or `out/train.parquet`, whole or not at all."""
    if form == "parquet":
        return _whole(out, "train.parquet", _parquet(rows))
    tree: list[dict[str, Any]] = msgspec.to_builtins(rows)
    return _lines(out, [{**row, "messages": flat(row["messages"]), "tools": _text(row["tools"])} for row in tree])


def write_alpaca(examples: Iterable[DatasetExample], out: Path) -> DatasetFile:
    """{instruction, input, output, system, history}: what it can't say (tools, references that stand alone) is left out."""
    lines, left_out = [], 0
    for example, member in examples:
        line = _alpaca(example.content.prompt, example.content.context, example.content.target)
        if line is None or example.content.tools:
            left_out += 1
        else:
            lines.append({**line, "example_id": example.example_id, "split": member.split, "weight": member.weight})
    return DatasetFile(_lines(out, lines), len(lines), {"tools": left_out} if left_out else {})


def _alpaca(prompt: Any, context: Any, target: Any) -> dict[str, Any] | None:
    messages = [Message(role="user", content=prompt)] if isinstance(prompt, str) else [plain_message(each) for each in prompt]
    answer = Message(role="assistant", content=target) if isinstance(target, str) else plain_message(target)
    if any(message.role == "tool" or message.tool_calls for message in (*messages, answer)):
        return None
    system = "\n\n".join(str(message.content) for message in messages if message.role in ("system", "developer"))
    turns = [message for message in messages if message.role in ("user", "assistant")]
    if not turns or turns[-1].role != "user" or len(turns) % 2 == 0:
        return None
    history = [[str(asked.content), str(said.content)] for asked, said in zip(turns[:-1:2], turns[1::2], strict=True)]
    if [turn.role for turn in turns] != ["user", "assistant"] * len(history) + ["user"]:
        return None
    return {
        "instruction": str(turns[-1].content),
        "input": context_text(context),
        "output": str(answer.content or ""),
        "system": system,
        "history": history,
    }


class Preference(NamedTuple):
    """One answer over another to one prompt; `margin`: by how much, as a share of 1. `kind`: correction or answers."""

    prompt: list[dict[str, Any]]
    chosen: dict[str, Any]
    rejected: dict[str, Any]
    margin: float
    kind: str
    of: list[str]
    tools: list[dict[str, Any]] | None
    split: str


def preferences(learnt: Sequence[DatasetExample], avoided: Sequence[DatasetExample]) -> Iterator[Preference]:
    """A correction over the output that it corrected, by how unlike they are; and of the answers to one prompt the best over each
    whose quality is lower by more than PAIR_GAP, by that gap. Only within one side of the split."""
    groups: dict[str, list[DatasetExample]] = {}
    for one in (*learnt, *avoided):
        content = one.example.content
        if content.target != content.output:
            yield Preference(
                messages_of(content.prompt, content.context), answer_dict(content.target), answer_dict(content.output),
                1.0 if one.example.components.correction is None else one.example.components.correction,
                "correction", [one.example.example_id], tool_dicts(content.tools), one.member.split,
            )  # fmt: skip
        else:
            asked = [messages_of(content.prompt, content.context), tool_dicts(content.tools), one.member.split]
            groups.setdefault(digest(asked), []).append(one)
    for group in groups.values():
        best = max(group, key=lambda one: (one.example.quality, one.example.example_id))
        content = best.example.content
        for other in group:
            gap = best.example.quality - other.example.quality
            if gap > PAIR_GAP and other.example.content.output != content.output:
                yield Preference(
                    messages_of(content.prompt, content.context), answer_dict(content.output),
                    answer_dict(other.example.content.output), gap / 2, "answers",
                    [best.example.example_id, other.example.example_id], tool_dicts(content.tools), best.member.split,
                )  # fmt: skip


def write_dpo(learnt: Sequence[DatasetExample], avoided: Sequence[DatasetExample], out: Path) -> DatasetFile:
    """{prompt, chosen, rejected, margin}, each of the first three a list of messages, and tools as JSON text."""
    found = list(preferences(learnt, avoided))
    used = {name for one in found for name in one.of}
    alone = sum(one.example.example_id not in used for one in (*learnt, *avoided))
    lines = [
        {
            "prompt": flat(one.prompt),
            "chosen": flat([one.chosen]),
            "rejected": flat([one.rejected]),
            "margin": one.margin,
            "tools": _text(one.tools),
            "kind": one.kind,
            "example_ids": one.of,
            "split": one.split,
        }
        for one in found
    ]
    return DatasetFile(_lines(out, lines), len(lines), {"nothing to compare with": alone} if alone else {})


def write_kto(learnt: Sequence[DatasetExample], avoided: Sequence[DatasetExample], out: Path) -> DatasetFile:
    """{prompt, completion, label}: what is learnt is desirable, negatives and outputs that were corrected are not."""
    lines = []
    for one in (*learnt, *avoided):
        content, good = one.example.content, one.member.role == "train"
        said = [(content.target, True)] if good else [(content.output, False)]
        if good and content.target != content.output:
            said.append((content.output, False))
        lines += [
            {
                "prompt": flat(messages_of(content.prompt, content.context)),
                "completion": flat([answer_dict(output)]),
                "label": label,
                "tools": _text(tool_dicts(content.tools)),
                "example_id": one.example.example_id,
                "split": one.member.split,
                "weight": one.member.weight,
            }
            for output, label in said
        ]
    return DatasetFile(_lines(out, lines), len(lines), {})


def flat(messages: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Messages whose every field is a text in every row: arguments of calls are JSON text, as OpenAI's interface has them."""
    return [
        {
            "role": message["role"],
            "content": message["content"] or "",
            **(
                {
                    "tool_calls": [
                        {**call, "function": {**call["function"], "arguments": _arguments(call["function"]["arguments"])}}
                        for call in message["tool_calls"]
                    ]
                }
                if message.get("tool_calls")
                else {}
            ),
            **({"tool_call_id": message["tool_call_id"]} if message.get("tool_call_id") else {}),
        }
        for message in messages
    ]


def _arguments(arguments: Any) -> str:
    return arguments if isinstance(arguments, str) else canonical(arguments).decode()


def _text(tools: list[dict[str, Any]] | None) -> str | None:
    return canonical(tools).decode() if tools else None


def write_text(out: Path, name: str, text: str) -> Path:
    """Writes `out/name`, whole or not at all."""
    return _whole(out, name, text.encode())


def _lines(out: Path, rows: Sequence[Any]) -> Path:
    return _whole(out, "train.jsonl", b"".join(canonical(row) + b"\n" for row in rows))


def _whole(out: Path, name: str, content: bytes) -> Path:
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out) as scratch:
        made = Path(scratch) / name
        made.write_bytes(content)
        return made.replace(out / name)


def _parquet(rows: Sequence[DatasetRow]) -> bytes:
    """`messages` becomes a list of {role, content}; whatever else a message holds is JSON in `extra`. `tools` is JSON: a table
    would give each tool the parameters of all."""
    import pyarrow
    import pyarrow.parquet

    tree: list[dict[str, Any]] = msgspec.to_builtins(rows)
    for row in tree:
        row["messages"] = [
            {
                "role": message["role"],
                "content": message["content"],
                "extra": canonical({name: value for name, value in message.items() if name not in ("role", "content")}).decode(),
            }
            for message in row["messages"]
        ]
        row["tools"] = _text(row["tools"])
    text, number = pyarrow.string(), pyarrow.float64()
    message = pyarrow.struct([("role", text), ("content", text), ("extra", text)])
    types: dict[str, Any] = dict.fromkeys(DatasetRow.__struct_fields__, text)
    types |= {"revision": pyarrow.int64(), "weight": number, "reward": number, "quality": number}
    types["messages"] = pyarrow.list_(message)
    sink = pyarrow.BufferOutputStream()
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(tree, schema=pyarrow.schema(list(types.items()))), sink)
    content: bytes = sink.getvalue().to_pybytes()
    return content
