"""A job is a function of its pins and members: the same bytes in any process, killed or not, and a clear failure otherwise."""

import asyncio
import fcntl
import gc
import os
import pickle
import signal
import subprocess
import sys
import time
import weakref
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from msgspec import structs
from transformers import AutoTokenizer, OPTConfig, OPTForCausalLM

from headrace_schemas.canonical import sha256
from headrace_schemas.derived import Content, ServedReference
from headrace_streams.adapter_store import Store
from headrace_trainer.data.members import MemberRefused
from headrace_trainer.job import run as job
from headrace_trainer.job.process import JobFailed, in_child
from headrace_trainer.job.run import run
from headrace_trainer.model import lora
from headrace_trainer.model.lora import AdapterInvalid
from headrace_trainer.policy import EvaluationPolicy, GraderPolicy, RequirementPolicy
from headrace_trainer.spec import JobProgress, JobSpec
from support import training_data
from support.training import in_process

TRAIN = [training_data.recorded(number) for number in range(24)]
WATCH = [training_data.recorded(number, "validation") for number in range(30, 34)]
TESTS = [training_data.recorded(number, "test") for number in range(40, 72)]
EARLIER = [training_data.recorded(number) for number in range(80, 86)]
BATCH = training_data.batch([made.member for made in (*TRAIN, *WATCH)], [made.member for made in TESTS])
VALUES = training_data.values(*TRAIN, *WATCH, *TESTS, *EARLIER)


@pytest.fixture
def spec(tiny_base: Path, tmp_path: Path) -> JobSpec:
    start = training_data.start(BATCH, rehearsal=[made.member for made in EARLIER])
    return JobSpec(start, BATCH, str(tiny_base), VALUES, tmp_path / "run", threads=1, checkpoint_seconds=0.0)


def test_the_same_pins_give_the_same_digest(spec: JobSpec, tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    here = run(spec)
    there, steps = in_process(replace(spec, folder=tmp_path / "other"))
    assert there is not None
    killed = replace(spec, folder=tmp_path / "killed")
    assert in_process(killed, kill_at=1)[0] is None
    resumed, _ = in_process(killed)
    assert resumed is not None
    digests = {store.put(result.folder).digest for result in (here, there, resumed)}
    assert len(digests) == 1
    assert len({store.put(result.optimiser).digest for result in (here, there, resumed) if result.optimiser}) == 1
    assert here.optimiser
    assert {path.name for path in here.optimiser.iterdir()} == {"optimiser.safetensors"}
    assert here.report == there.report == resumed.report
    assert (here.rows, here.warm_started) == (30, False)
    assert here.report.comparison.loss_gain.low > 0
    assert {progress.phase for progress in steps} >= {"training", "validation", "evaluation"}
    other = run(replace(spec, start=training_data.start(BATCH, seed=8), folder=tmp_path / "seed"))
    assert store.put(other.folder).digest not in digests


def test_the_trained_model_is_gone_before_the_saved_one_is_loaded(spec: JobSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two bases at once would be more than was told; what holds one by a circle holds it until somebody collects."""
    load, alive = job.load, []
    models: list[weakref.ref[Any]] = []

    def watched(*arguments: Any, **named: Any) -> Any:
        alive.append(sum(model() is not None for model in models))
        base = load(*arguments, **named)
        models.append(weakref.ref(base.model))
        return base

    monkeypatch.setattr(job, "load", watched)
    gc.collect()
    gc.disable()  # when it comes by itself is chance
    try:
        run(spec)
    finally:
        gc.enable()
    assert alive == [0, 0]


def test_a_process_that_is_killed_while_it_looks_at_a_base_says_nothing_of_the_base() -> None:
    with pytest.raises(JobFailed, match=r"ended with signal 9") as ended:
        asyncio.run(in_child(signal.raise_signal, signal.SIGKILL))
    assert (ended.value.cause, ended.value.killed) == ("surroundings", True)
    with pytest.raises(JobFailed, match=r"is torch installed") as ended:
        asyncio.run(in_child(signal.raise_signal, signal.SIGSEGV))
    assert ended.value.cause == "unknown"


def test_rows_are_cut_to_what_the_model_reaches(spec: JobSpec, tmp_path: Path) -> None:
    """TrainingOutcome positions end: a longer row would be an index error in every batch that it comes into."""
    folder = tmp_path / "opt"
    tokenizer = AutoTokenizer.from_pretrained(spec.weights)
    tokenizer.save_pretrained(folder)
    config = OPTConfig(
        vocab_size=len(tokenizer), max_position_embeddings=40, hidden_size=16, ffn_dim=32, num_hidden_layers=1,
        num_attention_heads=2, word_embed_proj_dim=16, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    OPTForCausalLM(config).save_pretrained(folder)
    long = training_data.recorded(99, content=Content(prompt="more?", context="a b c d e f g " * 20, output="", target="1"))
    start = training_data.start(BATCH, rehearsal=[long.member])
    values = {**VALUES, (long.member.example_id, 1): long.value}
    grader = GraderPolicy(name="support.graders:same")
    evaluation = EvaluationPolicy(generate="always", max_new_tokens=48)
    result = run(replace(spec, weights=str(folder), start=start, values=values, grader=grader, evaluation=evaluation))
    assert result.rows == 25


def test_answers_that_a_grader_gave_no_grade_are_counted_in_the_evaluation(spec: JobSpec) -> None:
    evaluation = EvaluationPolicy(generate="always", max_new_tokens=2)
    report = run(replace(spec, grader=GraderPolicy(name="support.graders:raises"), evaluation=evaluation)).report
    assert report.ungraded == {"raised": 2 * report.comparison.n}
    assert report.comparison.n > 0
    assert (report.candidate["success"].value, report.incumbent["success"].value) == (0.0, 0.0)


def test_what_a_kill_left_of_an_adapter_is_no_part_of_the_next(spec: JobSpec, tmp_path: Path) -> None:
    (spec.folder / "adapter").mkdir(parents=True)
    (spec.folder / "adapter" / ".tmpXchULx").write_bytes(b"half")  # as the library names what it is writing
    stored = Store(tmp_path / "store").put(run(spec).folder)
    assert {file.path for file in stored.files} == {"adapter_config.json", "adapter_model.safetensors"}


def test_a_checkpoint_of_other_pins_is_not_gone_on_from(spec: JobSpec, tmp_path: Path) -> None:
    """A log that was begun anew on kept data: the same batch and so the same run id, under another policy."""

    def stop(progress: JobProgress) -> None:
        if progress.step == 3:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        run(spec, stop)
    assert (spec.folder / "checkpoint.safetensors").exists()
    other = replace(spec, start=training_data.start(BATCH, seed=8))
    store = Store(tmp_path / "store")
    mixed, clean = run(other), run(replace(other, folder=tmp_path / "clean"))
    assert store.put(mixed.folder).digest == store.put(clean.folder).digest


def test_it_goes_on_from_what_is_served_unless_layers_are_gone(spec: JobSpec, tmp_path: Path) -> None:
    first = run(spec)
    more = replace(spec, parent=first.folder, folder=tmp_path / "second", start=training_data.start(BATCH, run_id="r2"))
    second = run(more)
    assert second.warm_started
    assert second.report.incumbent["loss"] == first.report.candidate["loss"]
    learnt = first.report.incumbent["loss"].value - first.report.candidate["loss"].value
    assert second.report.candidate["loss"].value < first.report.candidate["loss"].value + 0.2 * learnt
    wider = training_data.HYPER.model_copy(update={"r": 6}).to_wire()
    grown = run(replace(more, start=training_data.start(BATCH, hyperparameters=wider, run_id="r3"), folder=tmp_path / "third"))
    assert grown.warm_started
    assert grown.report.candidate["loss"].value < first.report.candidate["loss"].value + 0.2 * learnt
    fewer = training_data.HYPER.model_copy(update={"target_modules": ("q_proj",)}).to_wire()
    anew = run(replace(more, start=training_data.start(BATCH, hyperparameters=fewer, run_id="r4"), folder=tmp_path / "fourth"))
    assert not anew.warm_started
    assert anew.report.incumbent["loss"] == first.report.candidate["loss"]


def test_an_adapter_is_evaluated_without_training(spec: JobSpec, tmp_path: Path) -> None:
    first = run(spec)
    again = run(replace(spec, candidate=first.folder, folder=tmp_path / "again"))
    assert again.report == first.report
    assert again.training is None


def test_success_and_requirements(spec: JobSpec) -> None:
    grader = GraderPolicy(name="support.graders:always", options={"grade": 80})
    wanted = [RequirementPolicy(name="works", metric="success", target=0.9)]
    evaluation = EvaluationPolicy(max_new_tokens=16)
    result = run(replace(spec, grader=grader, requirements=wanted, evaluation=evaluation))
    assert result.report.candidate["success"].value == 1.0
    assert result.report.requirements[0].satisfied
    assert result.report.comparison.ties == 32


def test_a_wrong_member_is_refused_by_name(spec: JobSpec) -> None:
    name = (TRAIN[3].member.example_id, 1)
    wrong = replace(spec, values={**VALUES, name: TRAIN[4].value})
    with pytest.raises(MemberRefused, match=sha256(TRAIN[4].value)):
        run(wrong)
    with pytest.raises(JobFailed, match=f"MemberRefused: member {name[0]}"):
        in_process(wrong)


def test_failures_say_what_is_wrong(spec: JobSpec, tmp_path: Path) -> None:
    with pytest.raises(JobFailed, match=r"BaseMissing: .*no-such-base"):
        in_process(replace(spec, weights=str(tmp_path / "no-such-base")))
    (tmp_path / "bad").mkdir()
    with pytest.raises(AdapterInvalid, match=r"adapter_config\.json"):
        run(replace(spec, parent=tmp_path / "bad"))


ORPHAN = """
import asyncio, pickle, sys
from headrace_trainer.job.process import JobProcess

async def follow():
    async for event in JobProcess(pickle.load(open(sys.argv[1], "rb"))).events():
        pass

if __name__ == "__main__":
    asyncio.run(follow())
"""


@pytest.mark.slow(seconds=6)
def test_a_job_dies_with_its_trainer(spec: JobSpec, tmp_path: Path) -> None:
    endless = training_data.HYPER.model_copy(update={"steps": 20_000}).to_wire()
    (tmp_path / "spec").write_bytes(pickle.dumps(replace(spec, start=training_data.start(BATCH, hyperparameters=endless))))
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    trainer = subprocess.Popen([sys.executable, "-c", ORPHAN, str(tmp_path / "spec")], env=environment)
    deadline = time.monotonic() + 60
    while not (spec.folder / "checkpoint.safetensors").exists():
        assert time.monotonic() < deadline
        assert trainer.poll() is None
        time.sleep(0.02)
    trainer.kill()
    trainer.wait()
    deadline = time.monotonic() + 60
    with open(spec.folder / "lock") as file:
        while True:  # the job holds the lock as long as it lives
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                assert time.monotonic() < deadline
                time.sleep(0.02)


def test_saved_files_name_no_machine(spec: JobSpec) -> None:
    config = lora.config_of(run(spec).folder)
    assert config["base_model_name_or_path"] == "tiny"
    assert config["target_modules"] == sorted(config["target_modules"])
    assert "peft_version" not in config


def test_a_job_goes_on_from_the_learner_and_compares_earlier_heads_and_what_was_served_before(
    spec: JobSpec, tmp_path: Path
) -> None:
    served = run(replace(spec, folder=tmp_path / "served")).folder
    start = structs.replace(spec.start, watched=ServedReference())
    learner = run(replace(spec, folder=tmp_path / "learner", parent=served)).folder
    result = run(replace(spec, start=start, folder=tmp_path / "next", parent=served, learner=learner, heads={"v2": learner}))
    assert result.warm_started
    assert [head.version_id for head in result.report.heads] == ["v2", ""]
    older, newest = ([group.loss_gain or 0.0 for group in head.groups] for head in result.report.heads)
    assert len(older) == len(newest) == len(TESTS)
    assert older != newest
    assert result.report.watched is not None
    assert sum(group.loss_gain or 0.0 for group in result.report.watched) > 0, "what is served loses less than the base before it"
    again = run(replace(spec, folder=tmp_path / "again", candidate=result.folder, parent=served))
    assert sum(newest) / len(newest) == pytest.approx(again.report.comparison.loss_gain.value)
