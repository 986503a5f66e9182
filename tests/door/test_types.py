"""The door's types say what the decoder's structs say, and type checkers find an author's mistakes by them."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Required, Union, get_args, get_origin, get_type_hints, is_typeddict

import pytest
from msgspec import Struct

from headrace import fields
from headrace.recorder import AsyncRecorder, Recorder
from headrace_schemas import captured, inputs

SAMPLES = Path(__file__).parent / "samples"
PACKAGES = [Path(entry) for entry in sys.path if entry and any(Path(entry).glob("headrace*/py.typed"))]

TYPED: dict[type[Struct], Any] = {
    inputs.Agent: fields.AgentFields,
    inputs.ContextItem: fields.ContextItemFields,
    inputs.CallError: fields.CallErrorFields,
    inputs.PromptTemplate: fields.PromptTemplateFields,
    inputs.Experiment: fields.ExperimentFields,
    inputs.Principal: fields.PrincipalFields,
    captured.GenerationParameters: fields.GenerationParametersFields,
    captured.DataReference: fields.DataReferenceFields,
    inputs.Interaction: fields.InteractionFields,
    inputs.Feedback: fields.FeedbackFields,
    # What providers return is taken too, so a type checker can't know their names.
    inputs.Message: fields.Given,
    inputs.Tool: fields.Given,
    inputs.Usage: fields.Given,
    inputs.Ref: fields.Ref,
}
# Fields whose type here is wider than the struct's, by its annotation here.
WIDER: dict[tuple[type[Struct], str], Any] = {
    (inputs.Interaction, "prompt"): fields.Prompt,  # also a whole request
    (inputs.Interaction, "output"): fields.Output,  # also a whole response, or its parts
    (inputs.Feedback, "corrected_output"): fields.Output | None,
    (inputs.Interaction, "finish_reason"): str | None,  # also a provider's word
    (inputs.Principal, "kind"): str,  # so that a variable will do
    (inputs.Feedback, "scale"): Sequence[float] | None,
    (inputs.Feedback, "over"): Sequence[fields.Call | str] | None,
}
OPTIONAL_HERE = {(inputs.Interaction, "agent")}  # the Recorder knows it
NOT_HERE = {(inputs.Feedback, "under"), (inputs.Feedback, "attributed_from")}  # intake's, the attribute stage's


def typed(annotation: Any) -> Any:
    """A struct's annotation in the door's terms: no bounds, sequences for lists, typed dictionaries for structs."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return typed(arguments[0])
    if origin is Literal:
        return str
    if origin in (Union, types.UnionType):
        return Union[tuple(typed(argument) for argument in arguments)]  # noqa: UP007 - of a list that is made here
    if origin is list:
        return Sequence[typed(arguments[0])]  # type: ignore[misc]
    if origin is dict:
        return Mapping[typed(arguments[0]), typed(arguments[1])]  # type: ignore[misc]
    return TYPED.get(annotation, annotation)


def described(struct: type[Struct]) -> Iterator[tuple[str, Any, bool]]:
    """Name, annotation and whether it is required, as the door should have it."""
    hints = get_type_hints(struct, include_extras=True)
    for info in struct.__struct_fields__:
        if (struct, info) in NOT_HERE:
            continue
        required = info in _required(struct)
        kind = WIDER.get((struct, info), typed(hints[info]))
        if (struct, info) in OPTIONAL_HERE:
            required, kind = False, kind | None
        yield info, kind, required


def _required(struct: type[Struct]) -> set[str]:
    from msgspec.structs import fields as fields_of

    return {field.name for field in fields_of(struct) if field.required}


@pytest.mark.parametrize("struct", [kind for kind, here in TYPED.items() if is_typeddict(here)])
def test_the_door_takes_what_the_structs_have(struct: type[Struct]) -> None:
    here = TYPED[struct]
    hints = get_type_hints(here)
    required_here = {name for name, kind in get_type_hints(here, include_extras=True).items() if get_origin(kind) is Required}
    expected = {name: (kind, required) for name, kind, required in described(struct)}
    if struct is inputs.Interaction:  # and what is passed on without being read
        expected |= {name: (kind, required) for name, kind, required in described(captured.CapturedFields)}
    if struct is inputs.Feedback:  # which may be on a session instead
        expected |= {"session_id": (str | None, False), "content": (str | None, False)}
    assert set(hints) == set(expected)
    for name, (kind, required) in expected.items():
        assert hints[name] == kind, name
        assert (name in required_here) == required, name


@pytest.mark.parametrize("method", ["interaction", "feedback", "link", "retract", "retract_feedback", "forget"])
def test_both_recorders_take_the_same(method: str) -> None:
    ours, theirs = (getattr(kind, method).__annotations__ for kind in (Recorder, AsyncRecorder))
    assert ours == theirs


def marked() -> dict[str, set[int]]:
    """The lines with a mistake, by sample."""
    return {
        path.name: {number for number, line in enumerate(path.read_text().splitlines(), 1) if re.search(r"# wrong: \w", line)}
        for path in SAMPLES.glob("*.py")
    }


def mypy_errors(folder: Path, cache: Path) -> Iterator[tuple[str, int]]:
    config = folder / "mypy.ini"
    config.write_text("[mypy]\nstrict = true\nfollow_imports = silent\n[mypy-aiokafka.*]\nignore_missing_imports = true\n")
    environment = {**os.environ, "MYPYPATH": os.pathsep.join(map(str, PACKAGES)), "MYPY_CACHE_DIR": str(cache)}
    command = [sys.executable, "-m", "mypy", "--config-file", str(config), *map(str, SAMPLES.glob("*.py"))]
    done = subprocess.run(command, env=environment, cwd=folder, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 1, done.stdout + done.stderr
    for line in done.stdout.splitlines()[:-1]:
        found = re.match(r"(.+?):(\d+): (error|note): ", line)
        assert found, line
        if found[3] == "error":
            yield Path(found[1]).name, int(found[2])


def pyright_errors(folder: Path, _cache: Path) -> Iterator[tuple[str, int]]:
    config = folder / "pyrightconfig.json"
    settings = {"typeCheckingMode": "strict", "extraPaths": list(map(str, PACKAGES)), "include": [str(SAMPLES)]}
    config.write_text(json.dumps(settings))
    command = [sys.executable, "-m", "basedpyright", "-p", str(config), "--pythonpath", sys.executable, "--outputjson"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 1, done.stdout + done.stderr
    report = json.loads(done.stdout)
    assert report["summary"]["filesAnalyzed"] == len(marked())
    for found in report["generalDiagnostics"]:
        if found["severity"] == "error":
            yield Path(found["file"]).name, found["range"]["start"]["line"] + 1


@pytest.mark.parametrize("errors", [mypy_errors, pyright_errors])
@pytest.mark.slow(seconds=20)
def test_a_type_checker_finds_an_authors_mistakes_and_nothing_else(
    errors: Callable[[Path, Path], Iterator[tuple[str, int]]], tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    cache = request.config.cache
    assert cache is not None
    found: dict[str, set[int]] = {name: set() for name in marked()}
    for name, line in errors(tmp_path, cache.mkdir("mypy-samples")):
        found[name].add(line)
    assert found == marked()
    assert found["good_agent.py"] == set()
    assert len(found["bad_agent.py"]) == 14
