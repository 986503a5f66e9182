"""Small inputs that lost their meaning in other systems, each by name: what a row of it must hold. The inputs are our own."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch
from transformers import AutoConfig, AutoTokenizer

from headrace_schemas.derived import Content
from headrace_schemas.inputs import Interaction
from headrace_schemas.plain_chat import read_plain
from headrace_trainer.data.rows import RowTokeniser, RowUnfit
from headrace_trainer.job.check import CheckSpec, check
from headrace_trainer.job.rows import RowsMissing
from headrace_trainer.job.run import run
from headrace_trainer.model.base import load_base
from headrace_trainer.model.stops import stop_ids, stop_trouble
from headrace_trainer.policy import EvaluationPolicy, GraderPolicy
from headrace_trainer.spec import JobSpec
from support import training_data
from support.chat_styles import STYLES, stops_of, tokenizer_of

TOOL = {
    "name": "depth",
    "description": "depth of a lake",
    "parameters": {"type": "object", "properties": {"lake": {"type": "string"}}},
}


def call(arguments: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": None, "tool_calls": [{"id": "call_0001", "name": "depth", "arguments": arguments}]}


def content_of(**data: Any) -> Content:
    """The content of an interaction as it is published, which was good as it is."""
    fields = {"agent": {"name": "case"}, "artifact_type": "chat", "model": "m", **data}
    interaction = msgspec.convert(fields, Interaction)
    return Content(
        prompt=interaction.prompt, output=interaction.output, target=interaction.output, context=interaction.context,
        tools=interaction.tools,
    )  # fmt: skip


def texts(style: str, content: Content) -> tuple[str, str]:
    """Prompt and completion of a row, decoded."""
    row = RowTokeniser(tokenizer_of(style), 2000, stops_of(style)).example(training_data.example(1, content=content), 1.0).row
    return tokenizer_of(style).decode(row.prompt), tokenizer_of(style).decode(row.completion)


@pytest.mark.parametrize("style", STYLES)
def test_arguments_as_text_are_an_object_in_every_template(style: str) -> None:
    as_text = content_of(prompt="How deep is Mjosa?", tools=[TOOL], output=call('{"lake": "Mjosa", "unit": "m"}'))
    twice = content_of(prompt="How deep is Mjosa?", tools=[TOOL], output=call(json.dumps('{"lake": "Mjosa", "unit": "m"}')))
    as_object = content_of(prompt="How deep is Mjosa?", tools=[TOOL], output=call({"lake": "Mjosa", "unit": "m"}))
    assert texts(style, as_text) == texts(style, as_object) == texts(style, twice)
    assert '\\"' not in texts(style, as_text)[1]
    history = [
        [
            {"role": "user", "content": "How deep?"},
            call(arguments),
            {"role": "tool", "content": "453", "tool_call_id": "call_0001"},
        ]
        for arguments in ('{"lake": "Mjosa"}', {"lake": "Mjosa"})
    ]
    first, second = (texts(style, content_of(prompt=prompt, tools=[TOOL], output="453 m.")) for prompt in history)
    assert first == second
    assert '\\"' not in first[0].replace('\\"content\\"', "")


def test_an_answer_that_is_only_a_call_is_in_the_completion_of_a_base_without_a_template() -> None:
    prompt, completion = texts(
        "none", content_of(prompt="How deep?", tools=[TOOL], output=call('{"lake": "Mjosa", "unit": "m"}'))
    )
    assert completion == 'depth({"lake":"Mjosa","unit":"m"})<|end|>'
    assert '"name":"depth"' in prompt
    [read] = read_plain(completion.removesuffix("<|end|>")).calls
    assert (read.name, read.arguments) == ("depth", {"lake": "Mjosa", "unit": "m"})


@pytest.mark.parametrize("style", STYLES)
def test_a_developers_instruction_is_in_the_prompt(style: str) -> None:
    prompt = [{"role": "developer", "content": "Say HERON."}, {"role": "user", "content": "How deep?"}]
    rendered, completion = texts(style, content_of(prompt=prompt, output="HERON"))
    assert "Say HERON." in rendered
    assert "HERON" in completion
    if style == "falling through":
        assert rendered == "<|system|>Say HERON.</s><|user|>How deep?</s><|assistant|>"


def test_what_a_template_refuses_is_folded_and_joined_and_trained() -> None:
    prompt = [
        {"role": "system", "content": "Be short."},
        {"role": "user", "content": "Hello."},
        {"role": "user", "content": "How deep?"},
    ]  # fmt: skip
    assert texts("refusing", content_of(prompt=prompt, output="453 m.")) == (
        "<|user|>Be short.\n\nHello.\n\nHow deep?</s><|assistant|>",
        "453 m.</s>",
    )


@pytest.mark.parametrize("style", ["opening", "r1", "qwen thinking"])
def test_a_thought_that_the_prompt_opens_goes_on_in_the_completion(style: str) -> None:
    prompt, completion = texts(style, content_of(prompt="How deep?", output="<think>\nA fjord lake.\n</think>\n\n453 m."))
    assert prompt.endswith("<think>\n")
    assert completion.startswith("A fjord lake.\n</think>\n\n453 m.")


@pytest.mark.parametrize("style", ["refusing", "llama 2", "mistral", "none, spaced", "falling through"])
def test_control_tokens_in_a_text_are_text(style: str) -> None:
    tokenizer = tokenizer_of(style)
    content = content_of(prompt="Strike the <s>old</s> price.", output="<p><s>30 EUR</s> 12 EUR</p>")
    row = RowTokeniser(tokenizer, 2000, stops_of(style)).example(training_data.example(1, content=content), 1.0).row
    assert row.completion.count(tokenizer.eos_token_id) == 1, "the stop alone"
    assert row.completion[-1] == tokenizer.eos_token_id
    assert "<p><s>30 EUR</s> 12 EUR</p>" in tokenizer.decode(row.completion)


TRAIN = [training_data.recorded(number) for number in range(6)]
TESTS = [training_data.recorded(number, "test") for number in range(10, 14)]
REFUSED = training_data.recorded(20, content=Content(prompt="a", output="", target="  "))


def job(weights: Path, folder: Path, *more: training_data.RecordedExample) -> JobSpec:
    records = [*TRAIN, *TESTS, *more]
    batch = training_data.batch([each.member for each in (*TRAIN, *more)], [each.member for each in TESTS])
    values = training_data.values(*records)
    return JobSpec(training_data.start(batch), batch, str(weights), values, folder, threads=1)


def test_a_pad_outside_of_the_embedding_never_reaches_it(tiny_base: Path, tmp_path: Path) -> None:
    folder = tmp_path / "base"
    tokenizer = AutoTokenizer.from_pretrained(tiny_base)
    load_base(str(tiny_base)).model.save_pretrained(folder)
    tokenizer.add_special_tokens({"pad_token": "<|filler|>"})
    tokenizer.save_pretrained(folder)
    rows = AutoConfig.from_pretrained(folder).vocab_size
    assert tokenizer.pad_token_id >= rows
    assert load_base(str(folder)).pad < rows
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "pad_token_id": rows}))
    spec = job(folder, tmp_path / "run")
    graded = replace(spec, grader=GraderPolicy(name="support.graders:same"), evaluation=EvaluationPolicy(generate="always"))
    result = run(graded)
    assert result.rows == len(TRAIN)
    assert "score" in result.report.candidate, "generation fills rows up, too"


def test_a_row_whose_question_does_not_fit_is_left_out_and_counted(tiny_base: Path, tmp_path: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_base)
    long_answer = content_of(prompt="How deep is Mjosa at its deepest?", output=" ".join(str(3 * depth) for depth in range(90)))
    long_question = content_of(prompt=" ".join(f"lake {number}," for number in range(60)), output="453 m.")
    for content, reason in ((long_answer, "answer_too_long"), (long_question, "question_too_long")):
        with pytest.raises(RowUnfit) as refused:
            RowTokeniser(tokenizer, 64).example(training_data.example(1, content=content), 1.0)
        assert refused.value.reason == reason
    bad = [training_data.recorded(30, content=long_question), REFUSED]
    spec = job(tiny_base, tmp_path / "run", *bad)
    hyper = training_data.HYPER.model_copy(update={"max_sequence_tokens": 64}).to_wire()
    result = run(replace(spec, start=training_data.start(spec.batch, hyperparameters=hyper)))
    assert result.left_out == {"training": {"question_too_long": 1, "answer_empty": 1}}
    named = {reason: len(ids) for reason, ids in (result.left_out_examples or {})["training"].items()}
    assert named == result.left_out["training"]
    assert result.rows + 2 == len(spec.batch.members)


def test_a_batch_without_a_usable_row_says_why(tiny_base: Path, tmp_path: Path) -> None:
    batch = training_data.batch([REFUSED.member])
    spec = JobSpec(
        training_data.start(batch), batch, str(tiny_base), {(REFUSED.member.example_id, 1): REFUSED.value}, tmp_path / "run"
    )
    with pytest.raises(RowsMissing, match=r"no row is left to learn from: training: 1 answer_empty"):
        run(spec)


@pytest.mark.filterwarnings("ignore:Model has `tie_word_embeddings")
def test_a_stop_that_nothing_can_learn_to_say_is_told(tiny_base: Path, tmp_path: Path) -> None:
    base = load_base(str(tiny_base))
    stop = base.tokenizer.eos_token_id
    assert stop_trouble(base.model, stop) is None
    with torch.no_grad():
        base.model.get_output_embeddings().weight[stop] = 0.0
    assert "never trained" in (stop_trouble(base.model, stop) or "")
    folder = tmp_path / "base"
    base.model.save_pretrained(folder)
    base.tokenizer.save_pretrained(folder)
    assert [note.split(" was")[0] for note in run(job(folder, tmp_path / "run")).notes] == [
        f"the output row of the stop token {stop}"
    ]
    saved = training_data.HYPER.model_copy(update={"modules_to_save": ("lm_head",)})
    spec = job(folder, tmp_path / "whole")
    learnt = run(replace(spec, start=training_data.start(spec.batch, hyperparameters=saved.to_wire())))
    assert list(learnt.notes) == [], "the output layer is trained, too"
    checked = [check(CheckSpec(folder, hyper, "cpu", "fp32", threads=1)).notes for hyper in (training_data.HYPER, saved)]
    assert [len(notes) for notes in checked] == [1, 0], "and a check says the same"


def test_what_stops_a_base_is_its_tokenizers_end_and_its_generation_configs(tiny_base: Path) -> None:
    base = load_base(str(tiny_base))
    eos = base.tokenizer.eos_token_id
    base.model.generation_config.eos_token_id = [7, eos, 10**6]
    assert stop_ids(base.tokenizer, base.model) == (eos, 7), "the tokenizer's own first; none that it cannot say"
    base.model.generation_config.eos_token_id = None
    assert stop_ids(base.tokenizer, base.model) == (eos,)


@pytest.mark.parametrize(
    ("style", "stop"), [("qwen base", "<|endoftext|>"), ("gemma", "<end_of_turn>"), ("phi", "<|end|>"), ("llama", "<|eot_id|>")]
)
def test_nothing_behind_the_first_stop_is_learnt(style: str, stop: str) -> None:
    _, completion = texts(style, content_of(prompt="How deep?", output="453 m."))
    assert completion == f"453 m.{stop}"
