"""The outbox: what it accepted is on disk, in order, once, and never more than it may hold."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from headrace_streams.outbox.outbox import Destination, Outbox, OutboxError, OutboxFull

HERE, THERE = Destination("shop", "kafka1:9092,kafka2:9092"), Destination("shop", "elsewhere:9092")


@pytest.fixture(params=["file", "memory"])
def outbox(request: pytest.FixtureRequest, tmp_path: Path) -> Outbox:
    return Outbox(tmp_path / "outbox.db" if request.param == "file" else None, max_rows=100, max_bytes=10_000)


def fill(outbox: Outbox, count: int) -> list[int]:
    return [outbox.append("feedback", b"k", b"v%d" % number) for number in range(count)]


def test_entries_come_back_in_order_until_they_are_delivered(outbox: Outbox) -> None:
    seqs = fill(outbox, 5)
    assert seqs == sorted(set(seqs))
    assert [entry.value for entry in outbox.waiting()] == [b"v0", b"v1", b"v2", b"v3", b"v4"]
    assert [entry.seq for entry in outbox.waiting(limit=2)] == seqs[:2]
    outbox.delivered(outbox.waiting()[:2])
    outbox.delivered(outbox.waiting(limit=0))
    assert (outbox.pending, outbox.oldest, outbox.newest) == (3, seqs[2], seqs[-1])
    outbox.delivered(outbox.waiting())
    assert (outbox.pending, outbox.oldest, outbox.newest) == (0, None, seqs[-1])
    assert fill(outbox, 1)[0] > seqs[-1], "a seq is never used again"


def test_no_byte_of_what_was_delivered_stays_in_the_file(tmp_path: Path) -> None:
    outbox, held = Outbox(tmp_path / "outbox.db"), "marked-text"

    def files_with_it() -> list[str]:
        return [path.name for path in tmp_path.iterdir() if held.encode() in path.read_bytes()]

    for number in range(40):
        outbox.append("feedback", b"k", f"{held} {number}".encode() * 200)
    assert files_with_it()
    outbox.delivered(outbox.waiting())
    assert files_with_it() == [], "while it is open"
    outbox.append("feedback", b"k", held.encode())
    outbox.delivered(outbox.waiting())
    outbox.close()
    assert files_with_it() == []


def test_a_reader_of_another_process_does_not_hold_up_who_records(tmp_path: Path) -> None:
    outbox, reader = Outbox(tmp_path / "outbox.db"), sqlite3.connect(tmp_path / "outbox.db", isolation_level=None)
    outbox.append("feedback", b"k", b"v")
    reader.execute("BEGIN")
    assert reader.execute("SELECT count(*) FROM waiting").fetchone() == (1,)
    entries = outbox.waiting()
    try:
        clearing = threading.Thread(target=lambda: outbox.delivered(entries))
        clearing.start()
        clearing.join(10)
        assert not clearing.is_alive(), "it waits for the reader, and whoever appends waits for it"
    finally:
        reader.close()
        clearing.join()
    assert outbox._database.connection.execute("PRAGMA busy_timeout").fetchone() == (30_000,), "of all else"
    outbox.close()


def test_a_window_is_limited_by_size_but_never_empty(outbox: Outbox) -> None:
    for _ in range(4):
        outbox.append("feedback", b"", b"x" * 1000)
    assert len(outbox.waiting(size=2500)) == 3
    assert len(outbox.waiting(size=1)) == 1


def test_full_by_rows_or_bytes_accepts_nothing_until_there_is_room(outbox: Outbox) -> None:
    fill(outbox, 100)
    with pytest.raises(OutboxFull, match="100 records"):
        fill(outbox, 1)
    assert outbox.pending == 100
    outbox.delivered(outbox.waiting()[:1])
    fill(outbox, 1)
    outbox.delivered(outbox.waiting())
    outbox.append("feedback", b"", b"x" * 9_000)
    with pytest.raises(OutboxFull, match="9000 bytes"):
        outbox.append("feedback", b"", b"x" * 1_001)
    outbox.append("feedback", b"", b"x" * 1_000)


def test_what_is_refused_steps_aside_and_can_come_back(outbox: Outbox) -> None:
    fill(outbox, 3)
    outbox.refuse(outbox.waiting()[1], "MessageSizeTooLarge")
    assert [entry.value for entry in outbox.waiting()] == [b"v0", b"v2"]
    [refusal] = outbox.refusals()
    assert (refusal.entry.value, refusal.error, outbox.refused, outbox.pending) == (b"v1", "MessageSizeTooLarge", 1, 2)
    assert outbox.requeue() == 1
    assert [entry.value for entry in outbox.waiting()] == [b"v0", b"v2", b"v1"]
    assert (outbox.refused, outbox.pending) == (0, 3)


def test_another_start_finds_what_was_left(tmp_path: Path) -> None:
    first = Outbox(tmp_path / "outbox.db")
    fill(first, 3)
    first.delivered(first.waiting()[:1])
    first.close()
    with pytest.raises(OutboxError, match="closed"):
        fill(first, 1)
    with pytest.raises(OutboxError, match="closed"):
        _ = first.pending
    second = Outbox(tmp_path / "outbox.db")
    assert (second.pending, [entry.value for entry in second.waiting()]) == (2, [b"v1", b"v2"])


def test_accepts_that_wait_together_share_a_commit(tmp_path: Path) -> None:
    outbox = Outbox(tmp_path / "outbox.db")
    commits: list[str] = []
    outbox._database.connection.set_trace_callback(lambda sql: commits.append(sql) if sql == "COMMIT" else None)
    with ThreadPoolExecutor(32) as pool:
        with outbox._database.lock:  # as if a commit were running: everybody else queues up behind it
            futures = [pool.submit(outbox.append, "feedback", b"k", b"%d" % number) for number in range(32)]
            while len(outbox._database._tickets) < 32:
                threading.Event().wait(0.001)
        seqs = [future.result() for future in futures]
    assert len(set(seqs)) == outbox.pending == 32
    assert len(commits) == 1


def test_a_full_outbox_refuses_only_those_who_do_not_fit(tmp_path: Path) -> None:
    outbox = Outbox(tmp_path / "outbox.db", max_rows=50)
    with ThreadPoolExecutor(16) as pool:
        futures = [pool.submit(outbox.append, "feedback", b"k", b"v") for _ in range(80)]
        failed = [future for future in futures if isinstance(future.exception(), OutboxFull)]
    assert (len(failed), outbox.pending) == (30, 50)


AS_MANY_AS_FIT = """
import sys
from headrace_streams.outbox.outbox import Outbox, OutboxFull
outbox, accepted = Outbox(sys.argv[1], max_rows=500), 0
try:
    while True:
        outbox.append("feedback", b"k", b"v")
        accepted += 1
except OutboxFull:
    print(accepted)
"""


def test_the_bounds_hold_for_all_processes_together(tmp_path: Path) -> None:
    mine = Outbox(tmp_path / "outbox.db", max_rows=500)
    fill(mine, 10)
    command = [sys.executable, "-c", AS_MANY_AS_FIT, str(tmp_path / "outbox.db")]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    accepted = [int(process.communicate(timeout=60)[0]) for process in processes]
    assert sum(accepted) == 490
    assert (mine.pending, mine.newest) == (500, 500)
    with pytest.raises(OutboxFull, match="500 records, 1010 bytes"):
        fill(mine, 1)
    mine.delivered(mine.waiting(limit=3))
    assert fill(mine, 3) == [501, 502, 503]


def test_a_seq_is_not_used_again_by_the_next_start_either(tmp_path: Path) -> None:
    first = Outbox(tmp_path / "outbox.db")
    fill(first, 3)
    first.delivered(first.waiting()[1:])
    first.close()
    second = Outbox(tmp_path / "outbox.db")
    assert (second.newest, fill(second, 1)) == (3, [4])


BETWEEN = {
    "appended": "fill(1)",
    "appended and sent": "fill(1); outbox.delivered(outbox.waiting()[-1:])",
    "appended much": "fill(250)",
    "sent all": "outbox.delivered(outbox.waiting())",
    "appended and sent all": "fill(1); outbox.delivered(outbox.waiting())",
}


@pytest.mark.parametrize("done", BETWEEN.values(), ids=BETWEEN)
def test_what_another_process_did_meanwhile_is_known_at_the_next_append(tmp_path: Path, done: str) -> None:
    program = f"""
import sys
from headrace_streams.outbox.outbox import Outbox
outbox = Outbox(sys.argv[1])
def fill(count):
    for _ in range(count): outbox.append("feedback", b"k", b"v")
{done}
print(outbox.newest)
"""
    mine = Outbox(tmp_path / "outbox.db", max_rows=300)
    for _ in range(3):
        fill(mine, 3)
        theirs = int(run(program, tmp_path / "outbox.db"))
        assert fill(mine, 2) == [theirs + 1, theirs + 2]
        waiting = mine.waiting(limit=1000)
        assert mine.pending == len(waiting)
        mine.delivered(waiting)
    fill(mine, 300)
    with pytest.raises(OutboxFull, match="300 records"):
        fill(mine, 1)


def test_another_process_that_binds_an_empty_file_is_noticed_at_the_next_append(tmp_path: Path) -> None:
    program = """
import sys
from headrace_streams.outbox.outbox import Destination, Outbox
Outbox(sys.argv[1], destination=Destination("shop", "elsewhere:9092"))
"""
    mine = Outbox(tmp_path / "outbox.db", destination=HERE)
    fill(mine, 3)
    mine.delivered(mine.waiting())
    fill(mine, 1)
    mine.delivered(mine.waiting())
    run(program, tmp_path / "outbox.db")
    with pytest.raises(OutboxError, match="for shop at elsewhere:9092, not for shop at kafka1"):
        fill(mine, 1)
    assert Outbox(tmp_path / "outbox.db").pending == 0


VERSION_1 = """
CREATE TABLE waiting (seq INTEGER PRIMARY KEY AUTOINCREMENT, topic TEXT NOT NULL, key BLOB NOT NULL, value BLOB NOT NULL);
CREATE TABLE refused (seq INTEGER PRIMARY KEY, topic TEXT NOT NULL, key BLOB NOT NULL, value BLOB NOT NULL, error TEXT NOT NULL);
CREATE TABLE totals (id INTEGER PRIMARY KEY CHECK (id = 1), entries INTEGER NOT NULL, bytes INTEGER NOT NULL);
CREATE TABLE destination (id INTEGER PRIMARY KEY CHECK (id = 1), name TEXT NOT NULL);
INSERT INTO waiting VALUES (4, 'feedback', 'k', 'v4'), (5, 'feedback', 'k', 'v5');
DELETE FROM waiting WHERE seq = 5;
INSERT INTO totals VALUES (1, 1, 3);
PRAGMA application_id=0x48445243;
PRAGMA user_version=1;
"""


def test_a_file_of_version_1_is_gone_on_with_and_a_start_writes_nothing_to_it(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "outbox.db") as old:
        old.executescript(VERSION_1)
    old.close()
    first = Outbox(tmp_path / "outbox.db")
    assert (first.pending, first.oldest, first.newest) == (1, 4, 5)
    assert first._database.connection.execute("PRAGMA user_version").fetchone() == (1,)
    assert fill(first, 2) == [6, 7]
    first.delivered(first.waiting()[:1])
    assert (first.pending, first.newest) == (2, 7)
    first.close()
    second = Outbox(tmp_path / "outbox.db", max_bytes=9)
    assert (second.pending, second.newest, fill(second, 1)) == (2, 7, [8])
    with pytest.raises(OutboxFull, match="3 records, 9 bytes"):
        fill(second, 1)


def test_one_sends_and_another_takes_over(tmp_path: Path) -> None:
    first, second = Outbox(tmp_path / "outbox.db"), Outbox(tmp_path / "outbox.db")
    assert first.try_to_send()
    assert first.try_to_send()
    assert not second.try_to_send()
    fill(second, 2)
    assert first.pending == second.pending == 2, "but both accept"
    first.close()
    assert second.try_to_send()


def test_the_lock_goes_with_a_killed_process(tmp_path: Path) -> None:
    program = """
import sys, time
from headrace_streams.outbox.outbox import Outbox
outbox = Outbox(sys.argv[1])
assert outbox.try_to_send()
outbox.append("feedback", b"k", b"from the other")
print("locked", flush=True)
time.sleep(60)
"""
    with subprocess.Popen([sys.executable, "-c", program, str(tmp_path / "outbox.db")], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"locked\n"
        mine = Outbox(tmp_path / "outbox.db")
        assert not mine.try_to_send()
        process.kill()
        process.wait()
    assert mine.try_to_send()
    assert [entry.value for entry in mine.waiting()] == [b"from the other"]


def test_other_files_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("not a database, but long enough to look at its first bytes " * 4)
    with pytest.raises(OutboxError, match=r"notes\.txt"):
        Outbox(tmp_path / "notes.txt")
    with sqlite3.connect(tmp_path / "theirs.db") as theirs:
        theirs.execute("CREATE TABLE waiting (x)")
    with pytest.raises(OutboxError, match="another kind"):
        Outbox(tmp_path / "theirs.db")
    with pytest.raises(OutboxError, match="nowhere"):
        Outbox(tmp_path / "nowhere" / "outbox.db")


def test_only_the_owner_may_read_it(tmp_path: Path) -> None:
    outbox = Outbox(tmp_path / "outbox.db")
    fill(outbox, 1)
    assert {path.stat().st_mode & 0o077 for path in tmp_path.iterdir()} == {0}


def test_a_disk_that_fails_accepts_nothing(tmp_path: Path) -> None:
    outbox = Outbox(tmp_path / "outbox.db")
    fill(outbox, 1)
    outbox._database.connection.execute("PRAGMA max_page_count=8")
    with pytest.raises(OutboxFull, match="disk is full"):
        outbox.append("feedback", b"k", b"x" * 100_000)
    outbox._database.connection.execute("PRAGMA max_page_count=100000")
    assert outbox.pending == 1
    fill(outbox, 1)
    assert outbox.pending == 2


def run(program: str, *arguments: object, code: int = 0) -> str:
    """Runs `program` in a process of its own, which must end with `code`; what it printed."""
    done = subprocess.run([sys.executable, "-c", program, *map(str, arguments)], capture_output=True, text=True, timeout=60)
    assert done.returncode == code, done.stderr
    return done.stdout


TWO_IN_ONE = """
import os, signal, subprocess, sys
from headrace_streams.outbox.outbox import Outbox
first, second = Outbox(sys.argv[1]), Outbox(sys.argv[2])
opened_and_closed = "import sys; from headrace_streams.outbox.outbox import Outbox; Outbox(sys.argv[1]).close()"
subprocess.run([sys.executable, "-c", opened_and_closed, sys.argv[1]], check=True)
for number in range(100):
    (first, second)[number % 2].append("feedback", b"k", b"%d" % number)
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize("other", ["outbox.db", "link.db"])
def test_two_in_one_process_keep_what_they_accepted_while_others_come_and_go(tmp_path: Path, other: str) -> None:
    (tmp_path / "link.db").symlink_to(tmp_path / "outbox.db")
    run(TWO_IN_ONE, tmp_path / "outbox.db", tmp_path / other, code=-9)
    assert [entry.value for entry in Outbox(tmp_path / "outbox.db").waiting()] == [b"%d" % number for number in range(100)]


def test_outboxes_of_one_process_share_a_connection_until_the_last_is_closed(tmp_path: Path) -> None:
    first, second = Outbox(tmp_path / "outbox.db"), Outbox(f"{tmp_path}/../{tmp_path.name}/outbox.db")
    connection = first._database.connection
    assert second._database.connection is connection
    first.close()
    first.close()
    fill(second, 1)
    second.close()
    with pytest.raises(sqlite3.ProgrammingError, match="closed"):
        connection.execute("SELECT 1")
    assert Outbox(tmp_path / "outbox.db").pending == 1


def test_a_forgotten_outbox_neither_sends_nor_holds_the_file(tmp_path: Path) -> None:
    kept = Outbox(tmp_path / "outbox.db")
    assert Outbox(tmp_path / "outbox.db").try_to_send()
    assert kept.try_to_send()
    assert len(kept._database.users) == 1


def test_both_sides_of_a_fork_go_on_with_outboxes_that_share_a_file(tmp_path: Path) -> None:
    program = """
import os, sqlite3, sys
from headrace_streams.outbox.outbox import Outbox
first, second = Outbox(sys.argv[1]), Outbox(sys.argv[1])
assert first.try_to_send()
before = first._database.connection
child = os.fork()
try:
    before.execute("SELECT 1")
    raise SystemExit("an open connection has crossed the fork")
except sqlite3.ProgrammingError:
    pass
for number in range(50):
    (first, second)[number % 2].append("feedback", b"k", b"child" if child == 0 else b"parent")
assert first._database is second._database
third = Outbox(sys.argv[1])
third.append("feedback", b"k", b"after")
for outbox in (first, second, third):
    outbox.close()
if child:
    assert os.waitpid(child, 0)[1] == 0
"""
    run(program, tmp_path / "outbox.db")
    assert Outbox(tmp_path / "outbox.db").pending == 102


FULL_DISK = """
import resource, sys
from headrace_streams.outbox.outbox import Outbox, OutboxError

def room(size):
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))

room(40_000)  # as much as SQLite needs to read
outbox = Outbox(sys.argv[1])
room(0)
assert outbox.try_to_send()
window = outbox.waiting(limit=50)
assert len(window) == 50
try:
    outbox.delivered(window)
except OutboxError as error:
    print(error)
print(outbox.waiting()[0].seq, outbox.oldest, outbox.pending, outbox.unwritten)
room(resource.RLIM_INFINITY)
outbox.append("feedback", b"k", b"now there is room")
print(outbox.waiting()[0].seq, outbox.oldest, outbox.pending, outbox.unwritten)
"""


def test_on_a_full_disk_what_waits_is_sent_and_what_was_acknowledged_is_remembered(tmp_path: Path) -> None:
    program = """
import os, sys
from headrace_streams.outbox.outbox import Outbox
outbox = Outbox(sys.argv[1])
for number in range(100):
    outbox.append("feedback", b"k", b"x" * 1000)
os._exit(0)
"""
    run(program, tmp_path / "outbox.db")
    complaint, full, room = run(FULL_DISK, tmp_path / "outbox.db").splitlines()
    assert "can't be written" in complaint
    assert full == "51 51 50 50"
    assert room == "51 51 51 0"
    assert Outbox(tmp_path / "outbox.db").pending == 51


def test_only_another_sender_means_another_sender(tmp_path: Path) -> None:
    outbox = Outbox(tmp_path / "outbox.db")
    (tmp_path / "outbox.db.sender").mkdir()
    with pytest.raises(OutboxError, match=r"outbox\.db\.sender can't be locked"):
        outbox.try_to_send()


@pytest.mark.parametrize("other", [THERE, Destination("test", HERE.bootstrap)])
@pytest.mark.parametrize("kept", ["waiting", "refused"])
def test_what_was_written_for_one_destination_is_not_sent_to_another_unless_told(
    tmp_path: Path, other: Destination, kept: str
) -> None:
    first = Outbox(tmp_path / "outbox.db", destination=HERE)
    fill(first, 1)
    if kept == "refused":
        first.refuse(first.waiting()[0], "why")
    first.close()
    with pytest.raises(OutboxError) as caught:
        Outbox(tmp_path / "outbox.db", destination=other)
    assert str(HERE) in str(caught.value)
    assert str(other) in str(caught.value)
    assert "\n" not in str(caught.value)
    Outbox(tmp_path / "outbox.db", destination=Destination("shop", "kafka0:9092, kafka2:9092")).close()  # one in common
    Outbox(tmp_path / "outbox.db", destination=other, rebind=True).close()
    with pytest.raises(OutboxError, match="holds records for"):
        Outbox(tmp_path / "outbox.db", destination=HERE)


def test_an_empty_outbox_is_anybodys_and_who_was_there_before_notices(tmp_path: Path) -> None:
    first = Outbox(tmp_path / "outbox.db", destination=HERE)
    fill(first, 1)
    first.delivered(first.waiting())
    second = Outbox(tmp_path / "outbox.db", destination=THERE)
    fill(second, 1)
    for use in (first.waiting, first.requeue, lambda: fill(first, 1)):
        with pytest.raises(OutboxError, match="for shop at elsewhere:9092, not for shop at kafka1"):
            use()
    assert second.pending == 1


def test_an_outbox_from_before_is_bound_by_its_next_start(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "outbox.db") as old:
        old.executescript(f"{VERSION_1}; DROP TABLE destination; PRAGMA user_version = 0;")
    old.close()
    Outbox(tmp_path / "outbox.db", destination=HERE).close()
    with pytest.raises(OutboxError, match="holds records for"):
        Outbox(tmp_path / "outbox.db", destination=THERE)


@pytest.mark.parametrize("replaced", [False, True])
def test_nothing_is_accepted_into_a_file_that_is_no_longer_there(tmp_path: Path, replaced: bool) -> None:
    path = tmp_path / "outbox.db"
    outbox = Outbox(path)
    fill(outbox, 1)
    for file in tmp_path.iterdir():
        file.unlink()
    if replaced:
        path.touch()
    with pytest.raises(OutboxError, match="removed or replaced"):
        fill(outbox, 1)
    new = Outbox(path)
    assert fill(new, 1) == [1]
    outbox.close()
    assert (tmp_path / "outbox.db-wal").exists(), "the old one has not taken the new one's log away"
    assert Outbox(path)._database is new._database


def test_what_is_acknowledged_is_written_down_at_the_end(tmp_path: Path) -> None:
    outbox = Outbox(tmp_path / "outbox.db")
    fill(outbox, 3)
    outbox._database.connection.execute("PRAGMA query_only = 1")
    with pytest.raises(OutboxError, match="can't be written"):
        outbox.delivered(outbox.waiting()[:2])
    outbox._database.connection.execute("PRAGMA query_only = 0")
    outbox.close()
    assert [entry.value for entry in Outbox(tmp_path / "outbox.db").waiting()] == [b"v2"]


COME_AND_GO = """
import sys, threading
from headrace_streams.outbox.outbox import Outbox

def work():
    for turn in range(10):
        first, second = Outbox(sys.argv[1]), Outbox(sys.argv[1])
        for number in range(20):
            (first, second)[number % 2].append("feedback", b"k", b"%d" % number)
        first.close()
        if turn % 2:
            second.close()

threads = [threading.Thread(target=work) for _ in range(3)]
for thread in threads: thread.start()
for thread in threads: thread.join()
"""


def test_nothing_is_lost_when_outboxes_of_several_threads_and_processes_come_and_go(tmp_path: Path) -> None:
    command = [sys.executable, "-c", COME_AND_GO, str(tmp_path / "outbox.db")]
    processes = [subprocess.Popen(command) for _ in range(3)]
    assert [process.wait(60) for process in processes] == [0, 0, 0]
    outbox = Outbox(tmp_path / "outbox.db")
    assert (outbox.pending, len(outbox.waiting(limit=10_000))) == (1800, 1800)
