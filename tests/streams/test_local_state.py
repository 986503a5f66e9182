"""Local state against a dict: whatever a crash leaves of its file is a state from which the changelog goes on."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace_streams.runtime import local_state
from headrace_streams.runtime.local_state import LocalState, remove_old

Change = dict[str, bytes | None]
KEYS = st.sampled_from(["", "a", "b", "ü", "\udcff", "k" * 600])
CHANGES = st.dictionaries(KEYS, st.none() | st.binary(max_size=40), max_size=4)


def opened(folder: Path, owner: str = "ours") -> LocalState:
    local = LocalState(folder, "count/signals/0", owner)
    assert local.open()
    return local


def started(folder: Path, owner: str = "ours") -> LocalState:
    local = opened(folder, owner)
    assert local.load() is None
    local.restart(0)
    return local


def kept_in(folder: Path, owner: str = "ours") -> object:
    """What a next start finds."""
    local = opened(folder, owner)
    try:
        return local.load()
    finally:
        local.close()


def rewritten(local: LocalState) -> None:
    """Waits for the thread that rewrites."""
    assert local._rewriting is not None
    local._rewriting._thread.join()
    local.tidy(0)


def apply(state: dict[str, bytes], change: Change) -> None:
    for key, value in change.items():
        if value is None:
            state.pop(key, None)
        else:
            state[key] = value


@given(
    st.lists(
        st.tuples(st.just("append"), CHANGES)
        | st.tuples(st.just("append"), CHANGES)
        | st.tuples(st.just("restart"), st.none())
        | st.tuples(st.just("rewrite"), st.booleans())
        | st.tuples(st.just("cut"), st.integers(1, 200))
        | st.tuples(st.just("garble"), st.integers(1, 200)),
        max_size=25,
    )
)
@settings(max_examples=200)
def test_with_the_tail_of_the_changelog_it_is_the_whole_state(steps: list[tuple[str, object]]) -> None:
    changelog: list[Change] = []

    def caught_up(folder: Path) -> LocalState:
        local, state = opened(folder), {}
        kept = local.load()
        if kept is None:
            local.restart(0)
        else:
            assert kept.at_ms == kept.offset * 10
            state = dict(kept.values)
        for offset in range(0 if kept is None else kept.offset, len(changelog)):
            apply(state, changelog[offset])
            local.append(changelog[offset], offset + 1, (offset + 1) * 10)
        expected: dict[str, bytes] = {}
        for change in changelog:
            apply(expected, change)
        assert state == expected
        return local

    with TemporaryDirectory() as parent, pytest.MonkeyPatch.context() as patch:
        patch.setattr(local_state, "FRAME_BYTES", 60)
        folder = Path(parent) / "task"
        local = caught_up(folder)
        for what, argument in steps:
            if what == "append":
                changelog.append(argument)  # type: ignore[arg-type]
                local.append(argument, len(changelog), len(changelog) * 10)  # type: ignore[arg-type]
            elif what == "rewrite":
                before = local._size
                local.tidy(local_state.REWRITE_MS * 100)
                if local._rewriting is not None:
                    if argument:  # something comes meanwhile
                        changelog.append({"a": b"meanwhile"})
                        local.append(changelog[-1], len(changelog), len(changelog) * 10)
                    rewritten(local)
                    assert local._size <= before + 80
            else:
                local.close()
                path = folder / "values"
                size = path.stat().st_size
                if what == "cut":
                    os.truncate(path, max(0, size - argument))  # type: ignore[operator]
                elif what == "garble":
                    place = max(0, size - argument)  # type: ignore[operator]
                    content = bytearray(path.read_bytes())
                    if content:
                        content[place] ^= 0xFF
                    path.write_bytes(bytes(content))
                local = caught_up(folder)
        local.close()
        caught_up(folder).close()


def test_what_all_is_known_to_be_of_is_said_of_the_whole_only(tmp_path: Path) -> None:
    local = started(tmp_path)
    local.append({"a": b"1"}, 1, 1, "form")
    assert kept_form(tmp_path, local) == "form"
    local = opened(tmp_path)
    local.load()
    local.append({"b": b"?"}, 2, 2)
    assert kept_form(tmp_path, local) == ""
    local = opened(tmp_path)
    local.load()
    local.append({}, 2, 2, "form")
    local.tidy(local_state.REWRITE_MS + 1)
    rewritten(local)
    assert kept_form(tmp_path, local) == "form"


def kept_form(folder: Path, local: LocalState) -> str:
    local.close()
    local = opened(folder)
    kept = local.load()
    local.close()
    assert kept is not None
    return kept.form


def test_a_file_of_zeros_is_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """What a power cut leaves of a file whose length was written and whose content was not."""
    started(tmp_path).close()
    (tmp_path / "values").write_bytes(bytes(100))
    local = opened(tmp_path)
    assert local.load() is None
    assert "its last 100 bytes are damaged" in caplog.text
    local.restart(0)
    local.append({"a": b"1"}, 1, 1)
    local.close()
    assert kept_in(tmp_path) == ({"a": b"1"}, 1, 1, "")


def test_what_is_anothers_is_not_taken(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    local = started(tmp_path, "theirs")
    local.append({"a": b"1"}, 1, 1)
    local.close()
    local = opened(tmp_path)
    assert local.load() is None
    assert "is of theirs, not of ours" in caplog.text
    local.restart(0)
    local.close()
    assert kept_in(tmp_path, "theirs") is None


def test_what_an_older_version_wrote_is_made_anew(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(local_state, "_FORM", "headrace local state 1")
        local = started(tmp_path)
        local.append({"a": b"1"}, 1, 1)
        local.close()
    assert kept_in(tmp_path) is None
    assert "has the form 'headrace local state 1', not 'headrace local state 2': it is made anew" in caplog.text


def test_a_folder_is_one_holders(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    first = started(tmp_path)
    second = LocalState(tmp_path, "count/signals/0", "ours")
    assert not second.open()
    assert "is another process's" in caplog.text
    assert second.load() is None
    second.restart(0)
    second.append({"a": b"2"}, 9, 9)
    second.close()
    first.append({"a": b"1"}, 1, 1)
    first.close()
    assert kept_in(tmp_path) == ({"a": b"1"}, 1, 1, "")


def test_a_folder_that_cannot_be_made_stops_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").write_bytes(b"")
    local = LocalState(tmp_path / "file" / "task", "count/signals/0", "ours")
    assert not local.open()
    assert "is given up" in caplog.text
    assert len(caplog.records) == 1


def test_a_full_disk_gives_it_up_and_leaves_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    local = started(tmp_path)
    assert local._file is not None
    full = open("/dev/full", "ab", buffering=0)  # noqa: SIM115
    local._file.close()
    local._file = full
    with caplog.at_level(logging.WARNING):
        local.append({"a": b"1" * 10_000}, 1, 1)
        local.append({"a": b"2"}, 2, 2)
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "No space left" in caplog.text
    assert not (tmp_path / "values").exists()
    assert kept_in(tmp_path) is None


def test_much_that_was_replaced_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local_state, "REWRITE_BYTES", 5000)
    local = started(tmp_path)
    for number in range(100):
        local.append({"a": b"%d" % number * 50}, number + 1, 0)
        local.tidy(0)
        if local._rewriting is not None:
            rewritten(local)
    assert local._size < 6000
    local.close()
    assert kept_in(tmp_path) == ({"a": b"99" * 50}, 100, 0, "")


def test_what_was_deleted_is_gone_from_the_file_within_a_day(tmp_path: Path) -> None:
    local = started(tmp_path)
    local.append({"a": b"private", "b": b"kept"}, 1, 1)
    local.append({"a": None}, 2, 2)
    local.tidy(local_state.REWRITE_MS)
    assert local._rewriting is None
    assert b"private" in (tmp_path / "values").read_bytes()
    local.tidy(local_state.REWRITE_MS + 1)
    rewritten(local)
    assert b"private" not in (tmp_path / "values").read_bytes()
    local.close()
    assert kept_in(tmp_path) == ({"b": b"kept"}, 2, 2, "")


def test_what_nobody_goes_by_any_more_is_removed(tmp_path: Path) -> None:
    for name in ("old", "held", "new"):
        started(tmp_path / name).close()
    os.utime(tmp_path / "old" / "values", (1, 1))
    holder = opened(tmp_path / "held")
    os.utime(tmp_path / "held" / "values", (1, 1))
    remove_old(tmp_path, 3600)
    assert [name for name in ("old", "held", "new") if (tmp_path / name / "values").exists()] == ["held", "new"]
    holder.close()
    remove_old(tmp_path / "missing", 3600)
