"""`headrace init`: what it writes loads, with every default uncommented to the same values; it never writes over anything."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

from headrace_cli import init as init_command
from headrace_cli.main import invoke
from headrace_cli.toml_template import render
from headrace_processors import policy_file
from headrace_streams.pip_line import pip_line
from headrace_streams.settings import Settings, load
from headrace_trainer import policy as trainer_policy

Output = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def uncommented(path: Path) -> str:
    """With each `#key = value` in force; `# text` stays a comment."""
    text = re.sub(r"^#(?! )", "", path.read_text(encoding="utf-8"), flags=re.MULTILINE)
    path.write_text(text, encoding="utf-8")
    return text


def keys(model_or_values: object, prefix: str = "") -> set[str]:
    if not isinstance(model_or_values, dict):
        return set()
    return {f"{prefix}{name}" for name in model_or_values} | {
        inner for name, value in model_or_values.items() for inner in keys(value, f"{prefix}{name}.")
    }


def test_both_files_load_as_they_are_and_the_settings_name_the_policy(tmp_path: Path, capsys: Output) -> None:
    assert invoke(["init"]) == 0
    assert capsys.readouterr().out.startswith("wrote policy.toml and headrace.toml\n")
    loaded = load()
    assert loaded.settings == Settings(policy=tmp_path / "policy.toml")
    assert policy_file.load(loaded.settings.policy).model_copy(update={"train": {}}) == policy_file.Policies()
    assert trainer_policy.load(loaded.settings.policy) == trainer_policy.TrainerPolicy()
    assert invoke(["config"]) == 0


def test_with_every_line_uncommented_all_keys_have_their_defaults(tmp_path: Path) -> None:
    assert invoke(["init"]) == 0
    settings = tomllib.loads(uncommented(tmp_path / "headrace.toml"))
    policy = tomllib.loads(uncommented(tmp_path / "policy.toml"))
    assert load().settings == Settings(policy=tmp_path / "policy.toml")
    assert policy_file.load(tmp_path / "policy.toml").model_copy(update={"train": {}}) == policy_file.Policies()
    trainer = trainer_policy.load(tmp_path / "policy.toml")
    assert trainer == trainer_policy.TrainerPolicy()
    assert keys(settings) == keys(Settings().model_dump(exclude_none=True)) | {"policy"}
    expected = policy_file.Policies().model_dump(exclude_none=True) | {"train": trainer.model_dump(exclude_none=True)}
    assert keys(policy) == keys(expected)


def test_every_key_is_there_also_one_that_is_not_set_by_default(tmp_path: Path) -> None:
    assert invoke(["init"]) == 0
    text = (tmp_path / "policy.toml").read_text() + (tmp_path / "headrace.toml").read_text()
    everything = {**policy_file.Policies().model_dump(), "train": trainer_policy.TrainerPolicy().model_dump()}
    for dotted in keys(everything) | keys(Settings().model_dump()):
        name = dotted.rpartition(".")[2]
        assert re.search(rf"^(#?{name} = |# {name}: |#?\[.*\b{name}\])", text, re.MULTILINE), dotted


def test_what_flags_say_is_filled_in(tmp_path: Path) -> None:
    bases = ["--base", "tiny-sql=models/tiny-sql", "--base", "org/big.v2=org/big=7b"]
    assert invoke(["init", "new", "--bootstrap", "kafka:1234", "--deployment", "ours", *bases]) == 0
    settings = load({}, tmp_path / "new" / "headrace.toml").settings
    assert (settings.bootstrap, settings.deployment) == ("kafka:1234", "ours")
    weights = {name: base.weights for name, base in trainer_policy.load(tmp_path / "new" / "policy.toml").bases.items()}
    assert weights == {"tiny-sql": "models/tiny-sql", "org/big.v2": "org/big=7b"}


def test_a_folder_of_weights_is_found_from_the_new_file(tmp_path: Path) -> None:
    (tmp_path / "models" / "tiny").mkdir(parents=True)
    for folder in (".", "elsewhere"):
        assert invoke(["init", folder, "--base", "tiny=models/tiny"]) == 0
        found = trainer_policy.load(tmp_path / folder / "policy.toml").bases["tiny"].weights
        assert found == str(tmp_path / "models" / "tiny")


@pytest.mark.parametrize("there", ["policy.toml", "headrace.toml"])
def test_nothing_is_overwritten_and_not_even_the_other_file_is_written(tmp_path: Path, there: str, capsys: Output) -> None:
    folder = tmp_path / "new"
    folder.mkdir()
    (folder / there).write_text("mine")
    assert invoke(["init", "new"]) == 1
    said = capsys.readouterr()
    assert (said.out, said.err.count("\n")) == ("", 1)
    assert f"new/{there} is there already" in said.err
    assert {path.name: path.read_text() for path in folder.iterdir()} == {there: "mine"}


def test_a_file_that_cannot_be_written_takes_the_other_back(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="file"):
        init_command.write_new({tmp_path / "a.toml": "a", tmp_path / "file" / "b.toml": "b"})
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["--base", "tiny"], 2, "'--base': 'tiny' is not NAME=WEIGHTS"),
        (["--base", "=w"], 2, "'--base': '=w' is not NAME=WEIGHTS"),
        (["--base", "a=b", "--base", "a=c"], 2, "'a' is given as 'b' and as 'c'"),
        (["--deployment", "a.b"], 2, "deployment = 'a.b' (from --deployment)"),
        (["file"], 2, "'file' is a file"),
        (["file/inner"], 4, "file/inner: Not a directory"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(
    tmp_path: Path, arguments: list[str], code: int, said: str, capsys: Output
) -> None:
    (tmp_path / "file").touch()
    assert invoke(["init", *arguments]) == code
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_missing_library_is_one_line_and_nothing_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Output
) -> None:
    module = tmp_path / "modules" / "needy.py"
    module.parent.mkdir()
    module.write_text("import a_library_that_nobody_has\n")
    monkeypatch.syspath_prepend(module.parent)
    monkeypatch.setattr(init_command, "POLICIES", (("needy:Policies", ""),))
    assert invoke(["init", "new"]) == 2
    said = f"headrace init needs a_library_that_nobody_has, which is not installed: {pip_line('all')}\n"
    assert capsys.readouterr().err == said
    assert not (tmp_path / "new").exists()


def test_a_key_that_the_template_never_saw_is_written_with_what_its_model_says() -> None:
    from pydantic import BaseModel, Field

    class Row(BaseModel):
        name: str = Field(description="who")
        share: float | None = Field(None, gt=0, description="how much")

    class Made(BaseModel):
        """A model."""

        text: str = Field('say "hi"\n', description="a text")
        limit: int | None = Field(None, ge=1, description="at most so many")
        rows: tuple[Row, ...] = Field((), description="in order")
        by_name: dict[str, Row] = Field(default_factory=dict)

    assert render(Made(), "made", {"by_name": {"a b": {"share": 0.5}}}) == (
        "[made]\n# A model.\n\n"
        '# A text.\n#text = "say \\"hi\\"\\n"\n\n'
        "# limit: At most so many. Whole number from 1. Not set.\n\n"
        "# In order.\n# A table [[made.rows]] for each, with:\n"
        "#   name: Who. Required.\n#   share: How much. Number above 0. Not set.\n#rows = []\n\n"
        "[made.by_name]\n# A table [made.by_name.NAME] for each, with:\n"
        "#   name: Who. Required.\n#   share: How much. Number above 0. Not set.\n\n"
        '[made.by_name."a b"]\nshare = 0.5\n'
    )
