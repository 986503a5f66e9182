"""What the stages keep in their changelogs, byte for byte as it was first written: state outlives the code that wrote it.

`goldens/state/{stage}.jsonl` has a line `[state key, value]` for each kind of value, one with every field set and one with none
that may be absent; `{stage}.{n}.jsonl` has those of an older state version. Names in the code may change; those in these files
may not. A value that is no JSON stands as `{"base64": …}`.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from headrace_processors.attribute.state import ReportContent, SessionState
from headrace_processors.link.state import ForeignId
from headrace_processors.reward.state import InteractionContent, InteractionState
from headrace_processors.stages import STAGES
from headrace_schemas.derived import InteractionSketch
from headrace_streams.runtime.stage import Fold, FoldStage
from support.state_goldens import GOLDENS, read

STATEFUL = [pytest.param(stage, id=stage.name) for stage in STAGES if (GOLDENS / f"{stage.name}.jsonl").exists()]


OLDER = [pytest.param(path, id=path.stem) for path in sorted(GOLDENS.glob("*.*.jsonl"))]
# What the state holds as bytes, by the beginning of its key.
AS_BYTES: dict[str, type[msgspec.Struct]] = {
    "interaction/": InteractionState,
    "content/": InteractionContent,
    '["jira","OPS-7"]': ForeignId,
    '["jira","OPS:8"]': ForeignId,
    '["jira","OPS-10"]': ForeignId,
    '["jira","OPS-11"]': ForeignId,
    '["s-1"]': SessionState,
    '["s-3"]': SessionState,
    '["s-3","people:test","r1"]': ReportContent,
    '["s-3","i1"]': InteractionSketch,
}


def fold_of(stage: FoldStage) -> Fold:
    return stage.newest(stage.policy().model_dump(mode="json"))


def values_of(stage: FoldStage) -> list[tuple[str, bytes]]:
    return read(GOLDENS / f"{stage.name}.jsonl")


def decoded(key: str, value: Any) -> Any:
    kind = next((kind for begins, kind in AS_BYTES.items() if key.startswith(begins)), None)
    return msgspec.json.decode(value, type=kind) if isinstance(value, bytes) and kind is not None else value


def structs_in(value: Any) -> Iterator[msgspec.Struct]:
    if isinstance(value, msgspec.Struct):
        yield value
        value = [getattr(value, name) for name in value.__struct_fields__]
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list | tuple):
        for inner in value:
            yield from structs_in(inner)


def test_every_stage_with_state_has_goldens() -> None:
    assert {path.name.partition(".")[0] for path in GOLDENS.iterdir()} == {stage.name for stage in STAGES} - {
        "intake"
    }  # which keeps none


@pytest.mark.parametrize("stage", STATEFUL)
def test_a_state_value_is_read_and_written_as_it_was(stage: FoldStage) -> None:
    fold = fold_of(stage)
    for key, value in values_of(stage):
        assert fold.dump(key, fold.load(key, value)) == value


@pytest.mark.parametrize("stage", STATEFUL)
def test_the_goldens_set_every_field_of_the_state(stage: FoldStage) -> None:
    """A field that no golden has could be renamed without anybody noticing."""
    fold = fold_of(stage)
    fields: set[tuple[str, str]] = set()
    written: set[tuple[str, str]] = set()
    for key, value in values_of(stage):
        for struct in structs_in(decoded(key, fold.load(key, value))):
            for field in msgspec.structs.fields(struct):
                fields.add((type(struct).__name__, field.name))
                if getattr(struct, field.name) not in (field.default, field.default_factory, [], {}):
                    written.add((type(struct).__name__, field.name))
    assert fields == written


@pytest.mark.parametrize("path", OLDER)
def test_a_state_value_of_an_older_version_is_read_by_its_rules_and_becomes_one_of_today(path: Path) -> None:
    name, _, form = path.stem.partition(".")
    [stage] = [stage for stage in STAGES if stage.name == name]
    body, new = stage.policy().body(), fold_of(stage)
    read_by = [stage.build(version, body, "") for version in stage.versions if stage.state_version_of(version) == int(form)]
    for key, value in read(path):
        assert all(old.dump(key, old.load(key, value)) == value for old in read_by)
        for today, upcast in stage.upcast_state(int(form), {key: value}).items():
            assert new.dump(today, new.load(today, upcast)) == upcast
