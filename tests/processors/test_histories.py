"""What a rule version decided once it decides for ever: each recorded history, folded by today's code, gives the recorded bytes.

A test here that fails says that a decision, or what is written about it, has changed: then the stage needs a new rule version
with a history of its own, and the old version must go on doing what its history says.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path

import msgspec
import pytest
from msgspec.structs import replace

from headrace_processors.stages import STAGES
from headrace_streams.runtime.journal import POSITION_KEY
from headrace_streams.runtime.stage import FoldStage
from support import histories
from support.histories import (
    FOLDER,
    Activation,
    End,
    Entry,
    History,
    HistoryError,
    Line,
    Output,
    current,
    differences,
    path_of,
    record,
    text_of,
    unrecorded,
)

STAGE = {stage.name: stage for stage in STAGES}
FILES = [pytest.param(path, id=path.stem) for path in sorted(FOLDER.glob("*.jsonl"))]
read = cache(histories.read)


def first(stage: str) -> History:
    return read(path_of(stage, 1))


def test_every_rule_version_of_the_stage_table_has_a_recorded_history() -> None:
    lines = unrecorded(STAGES)
    assert not lines, "\n".join(lines)


@pytest.mark.parametrize("path", FILES)
def test_todays_code_does_what_the_recorded_code_did(path: Path) -> None:
    history = read(path)
    assert path_of(history.head.stage, history.head.version) == path
    assert {rules.version for rules in history.activations} == {history.head.version}
    found = differences(history, STAGE[history.head.stage])
    assert not found, "\n".join(map(str, found[:20]))


@pytest.mark.parametrize("path", FILES)
def test_state_that_was_recorded_is_read_and_written_as_the_same_bytes(path: Path) -> None:
    history = read(path)
    stage, rules = STAGE[history.head.stage], history.activations[-1]
    fold = stage.build(rules.version, rules.body, rules.digest)
    for end in history.ends:
        for key, value in current(end, stage).items():
            assert key == POSITION_KEY or fold.dump(key, fold.load(key, value)) == value, key


@pytest.mark.parametrize("path", FILES)
def test_a_file_says_nothing_but_the_history_that_is_read_from_it(path: Path) -> None:
    assert read(path).encode() == path.read_bytes()


# An altered twin: the first line that holds `old`, in the part of the history that is meant, says `new`.

Alteration = Callable[[Line, str, str], Line]


def input_value(line: Line, old: str, new: str) -> Line:
    return replace(line, value=text_of(line.value).replace(old, new, 1)) if isinstance(line, Entry) else line


def output_value(line: Line, old: str, new: str) -> Line:
    return _outputs(line, old, lambda output: [replace(output, value=text_of(output.value).replace(old, new, 1))])


def output_key(line: Line, old: str, new: str) -> Line:
    return _outputs(line, old, lambda output: [replace(output, key=new)])


def output_header(line: Line, old: str, new: str) -> Line:
    return _outputs(line, old, lambda output: [replace(output, headers=(*output.headers, (new, new)))])


def output_removed(line: Line, old: str, _: str) -> Line:
    return _outputs(line, old, lambda output: [])


def output_repeated(line: Line, old: str, _: str) -> Line:
    return _outputs(line, old, lambda output: [output, output])


def _outputs(line: Line, old: str, altered: Callable[[Output], list[Output]]) -> Line:
    if not isinstance(line, Entry):
        return line
    number = next((number for number, output in enumerate(line.outputs) if old in text_of(output.value)), None)
    if number is None:
        return line
    return replace(line, outputs=(*line.outputs[:number], *altered(line.outputs[number]), *line.outputs[number + 1 :]))


def changelog_value(line: Line, old: str, new: str) -> Line:
    key = _key_of(line, old)
    if not isinstance(line, End) or key is None:
        return line
    return replace(line, changelog={**line.changelog, key: text_of(line.changelog[key]).replace(old, new, 1)})


def changelog_key_removed(line: Line, old: str, _: str) -> Line:
    key = _key_of(line, old)
    if not isinstance(line, End) or key is None:
        return line
    return replace(line, changelog={name: value for name, value in line.changelog.items() if name != key})


def _key_of(line: Line, old: str) -> str | None:
    changelog = line.changelog if isinstance(line, End) else {}
    return next((key for key, value in changelog.items() if old in text_of(value)), None)


def policy(line: Line, old: str, new: str) -> Line:
    if not isinstance(line, Activation):
        return line
    body = msgspec.json.decode(msgspec.json.encode(line.rules.body).decode().replace(old, new, 1))
    return replace(line, rules=replace(line.rules, body=body))


ALTERATIONS = [
    ("intake", output_value, "[secret]", "[hidden]"),
    ("intake", input_value, "Answer in SQL.", "Answer in Latin."),
    ("intake", output_removed, "interaction.linked", ""),
    ("intake", output_repeated, "interaction.linked", ""),
    ("intake", output_key, "user_correction", "!"),
    ("intake", output_header, "user_correction", "more"),
    ("intake", changelog_value, '"dead":', '"dead":1'),
    ("intake", policy, '"scrub":["email","secret"]', '"scrub":["email"]'),
    ("link", output_value, '"interaction_id":"a2"', '"interaction_id":"a1"'),
    ("link", input_value, '"id":"OPS-8"', '"id":"OPS-9"'),
    ("link", output_removed, "rating", ""),
    ("link", output_repeated, "rating", ""),
    ("link", output_key, "rating", "!"),
    ("link", output_header, "rating", "more"),
    ("link", changelog_value, '"size":', '"size":1'),
    ("link", changelog_value, '"resolved":', '"resolved":1'),
    ("link", changelog_key_removed, '"size":', ""),
    ("link", policy, '"waiting":4', '"waiting":7'),
    ("attribute", output_value, '"share":0.5', '"share":0.6'),
    ("attribute", input_value, '"score":80', '"score":81'),
    ("attribute", output_removed, "feedback.retracted", ""),
    ("attribute", output_repeated, "feedback.retracted", ""),
    ("attribute", output_key, "feedback.retracted", "!"),
    ("attribute", output_header, "feedback.retracted", "more"),
    ("attribute", changelog_value, '"touched":1', '"touched":2'),
    ("attribute", changelog_value, '"credited":', '"credited":1'),
    ("attribute", changelog_key_removed, '"members":', ""),
    ("attribute", policy, '"decay":0.25', '"decay":0.26'),
    ("reward", output_value, '"contradicted":true', '"contradicted":false'),
    ("reward", input_value, '"kind":"explicit_negative"', '"kind":"explicit_positive"'),
    ("reward", output_removed, "signal.rejected", ""),
    ("reward", output_repeated, "signal.rejected", ""),
    ("reward", output_key, "example.withdrawn", "!"),
    ("reward", output_header, "example.withdrawn", "more"),
    ("reward", changelog_value, '"revision":2', '"revision":3'),
    ("reward", changelog_value, '"applied":', '"applied":1'),
    ("reward", changelog_key_removed, '"ended":"erased"', ""),
    ("reward", policy, '"squash":"clip"', '"squash":"tanh"'),
    ("curate", output_value, '"weight":1.', '"weight":0.'),
    ("curate", input_value, '"bucket":"erd/tiny"', '"bucket":"erd/mini"'),
    ("curate", output_removed, "batch.ready", ""),
    ("curate", output_repeated, "batch.ready", ""),
    ("curate", output_key, "example.superseded", "!"),
    ("curate", output_header, "example.superseded", "more"),
    ("curate", changelog_value, '"status":"cut"', '"status":"open"'),
    ("curate", changelog_value, '"admitted":', '"admitted":1'),
    ("curate", changelog_key_removed, '"status":"erased"', ""),
    ("curate", policy, '"target_effective_size":8', '"target_effective_size":9'),
    ("release", output_value, '"sequence":4', '"sequence":5'),
    ("release", input_value, '"wins":40', '"wins":4'),
    ("release", output_removed, "release.promoted", ""),
    ("release", output_repeated, "release.promoted", ""),
    ("release", output_key, "requirements.tracked", "!"),
    ("release", output_header, "requirements.tracked", "more"),
    ("release", changelog_value, '"serving":"', '"serving":"0'),
    ("release", changelog_value, '"answered":', '"answered":1'),
    ("release", changelog_key_removed, '"release_id":', ""),
    ("release", policy, '"min_gain":0.05', '"min_gain":0.01'),
]


def altered(history: History, alteration: Alteration, old: str, new: str) -> tuple[History, Line]:
    """The history with the first line altered that can be, and that line as it was."""
    for number, line in enumerate(history.lines):
        other = alteration(line, old, new)
        if other != line:
            return History((*history.lines[:number], other, *history.lines[number + 1 :])), line
    raise AssertionError(f"nothing in the history of {history.head.stage} holds {old}")


@pytest.mark.parametrize(
    ("stage", "alteration", "old", "new"),
    [pytest.param(*row, id=f"{row[0]}-{row[1].__name__}-{number}") for number, row in enumerate(ALTERATIONS)],
)
def test_an_altered_twin_is_found_where_it_was_altered(stage: str, alteration: Alteration, old: str, new: str) -> None:
    twin, line = altered(first(stage), alteration, old, new)
    found = differences(twin, STAGE[stage])
    assert found
    where = {difference[:3] for difference in found}
    offsets = {difference.offset for difference in found}
    match line:
        case Entry() if alteration is input_value:
            assert where == {(stage, line.topic, line.partition)}
            assert all(offset is None or offset >= line.offset for offset in offsets)
        case Entry():
            assert where == {(stage, line.topic, line.partition)}
            assert offsets == {line.offset}
        case Activation(rules):
            assert where == {(stage, rules.topic, rules.partition)}
            assert all(offset is None or offset >= rules.from_offset for offset in offsets)
        case End():
            assert where == {(stage, line.topic, line.partition)}
            [difference] = found
            assert difference.field.startswith(("state ", "position."))


def test_a_difference_names_stage_partition_offset_and_field() -> None:
    twin, line = altered(first("reward"), output_value, '"contradicted":true', '"contradicted":false')
    assert isinstance(line, Entry)
    [difference] = differences(twin, STAGE["reward"])
    assert str(difference) == (
        f"reward over signals/{line.partition}@{line.offset}: outputs[0].value.data.contradicted: expected False, found True"
    )


def pretended(stage: FoldStage, version: int) -> FoldStage:
    return replace(stage, versions={**stage.versions, version: stage.versions[1]})


def test_a_rule_version_without_a_history_says_how_to_record_one(tmp_path: Path) -> None:
    [line] = unrecorded([pretended(STAGE["link"], 9)])
    assert line.startswith("link: rule version 9 has no recorded history link.v9.jsonl")
    assert "python -m support.histories record link" in line


def test_the_history_of_a_new_rule_version_is_recorded_over_the_input_of_the_one_before(tmp_path: Path) -> None:
    (tmp_path / "curate.v1.jsonl").write_bytes(path_of("curate", 1).read_bytes())
    version = STAGE["curate"].version + 1
    stage = pretended(STAGE["curate"], version)
    path = record(stage, folder=tmp_path)
    made = histories.read(path)
    assert (path.name, made.head.version) == (f"curate.v{version}.jsonl", version)
    assert {rules.version for rules in made.activations} == {version}
    assert [entry.value for entry in made.entries] == [entry.value for entry in first("curate").entries]
    assert not differences(made, stage)


def test_a_recorded_history_is_never_overwritten(tmp_path: Path) -> None:
    recorded = path_of("link", STAGE["link"].version)
    path = tmp_path / recorded.name
    path.write_bytes(recorded.read_bytes())
    with pytest.raises(HistoryError, match=rf"{recorded.name}: recorded already"):
        record(STAGE["link"], folder=tmp_path)
    assert path.read_bytes() == recorded.read_bytes()


def test_what_is_no_history_is_named_by_file_and_line(tmp_path: Path) -> None:
    path = tmp_path / "inputs.jsonl"
    path.write_text('{"line":"history","stage":"link","version":1,"partitions":{}}\n{"line":"sentence"}\n')
    with pytest.raises(HistoryError, match=r"inputs\.jsonl:2: no line of a history: Invalid value 'sentence'"):
        histories.read(path)
    path.write_bytes(b"")
    with pytest.raises(HistoryError, match=r"inputs\.jsonl: no history"):
        histories.read(path)


def test_there_is_nothing_to_record_without_input(tmp_path: Path) -> None:
    with pytest.raises(HistoryError, match="link: no history"):
        record(STAGE["link"], folder=tmp_path)
    with pytest.raises(HistoryError, match="a history of reward, not of link"):
        record(STAGE["link"], folder=tmp_path, inputs=path_of("reward", 1))
    assert not list(tmp_path.iterdir())
