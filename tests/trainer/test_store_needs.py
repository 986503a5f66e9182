"""What the log still needs of a store stays; what nothing needs may go."""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from headrace_schemas.derived import HeadReference, ModelVersion, ServedReference, TrainingStart
from headrace_streams.adapter_files import AdapterRefused
from headrace_streams.adapter_store import Holding, Store, fetch
from headrace_streams.release_log import Decision
from headrace_trainer.store_cli import prunable, removed
from headrace_trainer.store_needs import SamplesOf, StoreLog, needs_of
from support.examples import BUCKET
from support.outcomes import ReleaseRun, adapter, digest, groups, looked, promote, revoke, roll_back

ENOUGH, FEW = [1.0] * 20, [0.0] * 3


def version(name: str, **changed: Any) -> ModelVersion:
    fields: dict[str, Any] = {
        "version_id": name, "bucket": BUCKET, "artifact_type": "sql", "base": "tiny", "adapter": adapter(name),
        "batch_id": f"b-{name}", "run_id": f"r-{name}", "method": "lora", "hyperparameters": {}, "rows": 1, "tokens": 1,
        "seconds": 1.0, "optimiser": digest(f"optimiser of {name}"),
    }  # fmt: skip
    return ModelVersion(**{**fields, **changed})


def start(name: str, **pins: Any) -> TrainingStart:
    return TrainingStart(
        run_id=f"r-{name}", batch_id=f"b-{name}", bucket=BUCKET, base="tiny", seed=1, method="lora", hyperparameters={},
        rehearsal=[], policy_digests={}, **pins,
    )  # fmt: skip


def told(*records: bytes, versions: str, starts: list[TrainingStart] | None = None, revoked: str = "") -> StoreLog:
    """A log of these requests of release and of versions called by single letters."""
    stage = ReleaseRun(rule="evidence")
    decisions = []
    for record in records:
        kind, answer = stage.answer(record)
        decisions.append(Decision("rolled_back" if kind == "rolledback" else kind, "", answer))  # type: ignore[arg-type]
    names = list(versions)
    return StoreLog(
        [version(name) for name in names],
        [SamplesOf(digest(f"samples of {name}"), name) for name in names],
        decisions,
        starts or [],
        {f"r-{name}" for name in names},
        {(BUCKET, digest(name)) for name in revoked},
    )


def gone(log: StoreLog, **how: Any) -> set[str]:
    """What of the log's versions is not needed: `a`, `a+` its optimiser's state, `a?` its samples."""
    needs = needs_of(log, **how)
    marks = {"": "", "optimiser of ": "+", "samples of ": "?"}
    found = {
        f"{one.version_id}{mark}" for one in log.versions for what, mark in marks.items()
        if digest(f"{what}{one.version_id}") not in needs.needed
    }  # fmt: skip
    assert needs.named.keys() == {digest(f"{what}{one.version_id}") for one in log.versions for what in marks}
    return found


def test_what_was_declined_and_left_behind_may_go_with_its_moments_and_samples() -> None:
    harmful = looked("a", a=groups("a", ENOUGH * 2, loss=-1.0))
    assert gone(told(harmful, looked("b", b=groups("b", FEW)), versions="ab")) == {"a", "a+", "a?"}


def test_heads_that_wait_and_the_newest_version_stay() -> None:
    waiting = (looked("a", a=groups("a", FEW)), looked("b", a=groups("b", FEW), b=groups("b", FEW)))
    assert gone(told(*waiting, versions="abc")) == set(), "nobody has answered the third yet"


def test_all_that_was_ever_released_stays_but_moments_only_where_a_run_may_go_on() -> None:
    records = (looked("a", a=groups("a", ENOUGH)), promote("a"), looked("b", None, b=groups("b", FEW)), promote("b", id="p2"))
    log = told(*records, looked("c", None, c=groups("c", FEW)), promote("c", id="p3"), versions="abc")
    assert gone(log) == {"a+"}, "what was served before is watched, and a roll-back would begin there"
    assert digest("a") in needs_of(log).needed


def test_what_a_run_on_the_log_has_pinned_stays() -> None:
    harmful = (looked(name, **{name: groups(name, ENOUGH * 2, loss=-1.0)}) for name in "abcdef")  # type: ignore[arg-type]
    pinned = [
        start("b", learner_adapter=digest("a"), optimiser=digest("optimiser of a")),
        start("c", parent_adapter=digest("b"), heads=[HeadReference(version_id="c", adapter=digest("c"))]),
        start("d", watched=ServedReference(adapter=digest("d"))),
    ]
    assert gone(told(*harmful, versions="abcdef", starts=pinned)) == {"b+", "c+", "d+", "e", "e+", "e?"}


def test_what_was_revoked_goes_if_asked_for_whoever_names_it_but_not_while_it_is_served_or_a_run_needs_it() -> None:
    records = [looked("a", a=groups("a", ENOUGH)), revoke("a"), looked("b", b=groups("b", FEW)), promote("b")]
    log = told(*records, versions="ab", revoked="a", starts=[start("b", learner_adapter=digest("a"))])
    assert gone(log) == {"a+"}
    assert gone(log, with_revoked=True) == {"a", "a+", "a?"}
    assert gone(log._replace(ended=set()), with_revoked=True) == {"a+"}, "a run that has not ended would wait for it for ever"
    assert gone(log._replace(revoked={(BUCKET, digest("b"))}), with_revoked=True) == {"a+"}, "it is served"
    elsewhere = replace(version("a"), bucket="other/tiny")
    assert "a" not in gone(log._replace(versions=[*log.versions, elsewhere]), with_revoked=True), "another bucket may serve it"


def test_a_roll_back_leads_to_an_adapter_that_is_still_there() -> None:
    records = (looked("a", a=groups("a", ENOUGH)), looked("b", None, b=groups("b", FEW)), promote("b"), roll_back())
    needed = needs_of(told(*records, versions="ab")).needed
    assert {digest("a"), digest("b")} <= needed.keys()
    assert needed[digest("a")] == f"served in {BUCKET}"


def test_only_what_is_old_enough_and_ours_goes() -> None:
    now = datetime(2026, 11, 26, tzinfo=UTC)
    log = told(looked("a", a=groups("a", ENOUGH * 2, loss=-1.0)), looked("b", b=groups("b", FEW)), versions="ab")
    old = [
        Holding("adapter", digest(name), size, now - timedelta(days=8)) for size, name in enumerate(("a", "b", "optimiser of a"))
    ]
    young = Holding("samples", digest("samples of a"), 9, now)
    strange = Holding("adapter", digest("of another deployment"), 7, now - timedelta(days=800))
    before = now - timedelta(days=7)
    found = prunable([*old, young, strange], needs_of(log), before=before)
    assert [each.holding.digest for each in found] == [digest("optimiser of a"), digest("a")]
    assert found[0].name == f"optimiser of version a of {BUCKET}"
    with_unnamed = prunable([*old, young, strange], needs_of(log), before=before, unnamed=True)
    assert with_unnamed[0].holding == strange


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (folder := tmp_path / "adapter").mkdir()
    (folder / "adapter_config.json").write_text("{}")
    return folder


def test_a_store_lists_what_it_holds_and_forgets_an_adapter(tmp_path: Path, folder: Path) -> None:
    store = Store(tmp_path / "store")
    assert store.holdings() == []
    put = store.put(folder)
    (tmp_path / "samples").write_bytes(b"PAR1")
    samples = store.put_samples(tmp_path / "samples")
    (tmp_path / "store" / "adapters" / "not-ours").mkdir()
    (tmp_path / "store" / "adapters" / "not-ours" / "file").write_text("x")
    found = {(each.kind, each.digest): each.size_bytes for each in store.holdings()}
    manifest = len(store.manifest(put.digest))
    assert found == {("adapter", put.digest): 2 + manifest, ("samples", samples): 4}
    assert store.remove_adapter(put.digest)
    assert not store.remove_adapter(put.digest)
    with pytest.raises(AdapterRefused):
        fetch(store, put.digest, tmp_path / "cache")
    assert [each.kind for each in store.holdings()] == ["samples"]


def test_what_is_stored_once_more_is_young_again(tmp_path: Path, folder: Path) -> None:
    store = Store(tmp_path / "store")
    put = store.put(folder)
    for file in (tmp_path / "store").rglob("*"):
        os.utime(file, (1e9, 1e9))
    assert store.holdings()[0].written < datetime.now(UTC) - timedelta(days=1)
    assert store.put(folder) == put
    assert store.holdings()[0].written > datetime.now(UTC) - timedelta(days=1), "a run that made it again is about to name it"


def test_what_is_stored_anew_between_the_listing_and_the_removal_stays(tmp_path: Path, folder: Path) -> None:
    store = Store(tmp_path / "store")
    (tmp_path / "samples").write_bytes(b"PAR1")
    put, samples = store.put(folder), store.put_samples(tmp_path / "samples")
    for path in (tmp_path / "store").rglob("*"):
        os.utime(path, (1_700_000_000, 1_700_000_000))
    before = datetime.now(UTC) - timedelta(days=7)
    listed = store.holdings()
    assert all(each.written < before for each in listed)
    store.put(folder)
    store.put_samples(tmp_path / "samples")
    assert [removed(store, each, before) for each in listed] == [False, False]
    assert {each.digest for each in store.holdings()} == {put.digest, samples}
    assert [removed(store, each, datetime.now(UTC) + timedelta(days=1)) for each in listed] == [True, True]
    assert store.holdings() == []
