"""What is special about the file: crashes, torn pages, one process at a time, its size."""

import os
import random
import resource
import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from serve.stores.places import MemoryPlace, SqlitePlace, record, snapshot

from ntm_serve.errors import OwnedElsewhere, SettingsFault, StoreDamaged, StoreUnavailable
from ntm_serve.store import Ending
from ntm_serve.stores import sqlite_file, sqlite_log
from ntm_serve.stores.sqlite import SqliteStore

# Commits to some sessions for as long as it lives, and says after each call how far they are.
WRITER = """
import sys
from pathlib import Path
from ntm_serve.store import Commit, Head, LogRecord, Snapshot
from ntm_serve.stores.sqlite import SqliteStore
store = SqliteStore(Path(sys.argv[1]))
claims = [store.claim(f"s{number}", owner="writer", now_s=0.0) for number in range(8)]
step = claims[0][1].next_step
while True:
    record = LogRecord(step, step + 1, b"%d" % step * 20)
    shot = Snapshot(step + 1, b"%d" % (step + 1) * 500) if step % 16 == 15 else None
    commits = [Commit(claim, 0.0, [record], shot, shot and shot.step) for claim, _ in claims]
    assert not any(store.commit(commits))
    if step % 7 == 0:
        store.sync()
    step += 1
    print(step, flush=True)
"""


# Restarts a session and makes some steps, again and again, and says after each time which life it was. All that is
# of one life says so.
RESTARTER = """
import sys
from pathlib import Path
from ntm_serve.store import Commit, LogRecord, Snapshot
from ntm_serve.stores.sqlite import SqliteStore
store = SqliteStore(Path(sys.argv[1]))
claim, session = store.claim("s", owner="restarter", now_s=0.0)
life = int(session.snapshots[0].payload)
while True:
    life += 1
    step = life * 5 % 11
    store.restart(claim, Snapshot(step, b"%d" % life), used_at_s=0.0)
    for first in range(step, step + life % 7):
        assert store.commit([Commit(claim, 0.0, [LogRecord(first, first + 1, b"%d" % life)])]) == [None]
    print(life, flush=True)
"""


OPENER = """
import sys
from pathlib import Path
from ntm_serve.stores.sqlite import SqliteStore
SqliteStore(Path(sys.argv[1]))
"""


def opened_elsewhere(path):
    """What another process that opens the file says."""
    command = [sys.executable, "-c", OPENER, str(path)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def said_until_killed(program, path, lines):
    """The last number that the program said; it is killed when it has said so many."""
    with subprocess.Popen([sys.executable, "-c", program, str(path)], stdout=subprocess.PIPE, text=True) as process:
        for _ in range(lines):
            said = int(process.stdout.readline())
        process.kill()
        # What it said before it was killed counts as well.
        return max([said, *map(int, process.stdout.read().split())])


def copied(place, folder):
    """The files as they are at this moment, as if the power of the process had gone: a place of their own."""
    folder.mkdir()
    for file in place.path.parent.glob(f"{place.path.name}*"):
        shutil.copy(file, folder)
    return SqlitePlace(folder / place.path.name)


@contextmanager
def file_size_limited(to_bytes):
    """As if the disk were full."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (to_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def churn(replica, rounds, seed=0):
    """Commits to 20 sessions with now and then a snapshot, an end, or a restart; yields after each round."""
    random_of = random.Random(seed)
    claims = {number: replica.create(f"s{number}") for number in range(20)}
    steps = dict.fromkeys(claims, 0)
    for _ in range(rounds):
        commits = []
        for number in random_of.sample(range(20), 8):
            first, end = steps[number], steps[number] + random_of.randint(1, 3)
            keep = random_of.choice([None, None, None, None, end, end - 4])
            shot = None if keep is None else snapshot(end, bytes(random_of.randint(0, 9000)))
            commits.append(replica.commit_of(claims[number], record(first, end, bytes(100)), snapshot=shot, keep=keep))
            steps[number] = end
        assert not any(replica.store.commit(commits))
        if random_of.random() < 0.05:
            number = random_of.randrange(20)
            assert replica.end(claims[number], Ending.CLOSED) is None
            claims[number], steps[number] = replica.create(f"s{number}"), 0
        elif random_of.random() < 0.2:
            number = random_of.randrange(20)
            steps[number] = max(0, steps[number] + random_of.randint(-9, 9))
            replica.restart(claims[number], snapshot(steps[number]))
        yield


# Crashes


def test_after_kill_9_every_acknowledged_commit_is_there(sqlite_place):
    creator = sqlite_place.replica("creator")
    for number in range(8):
        creator.create(f"s{number}")
    for lines in (1, 20, 300):
        sqlite_place.close()
        acknowledged = said_until_killed(WRITER, sqlite_place.path, lines)
        for number in range(8):
            session = sqlite_place.store().read(f"s{number}")
            assert session.next_step in (acknowledged, acknowledged + 1)
            assert all(one.payload == b"%d" % one.first_step * 20 for one in session.records)
            assert all(one.payload == b"%d" % one.step * 500 for one in session.snapshots)
    assert acknowledged >= 321


def test_after_kill_9_a_session_that_restarts_is_in_one_life_alone(sqlite_place):
    creator = sqlite_place.replica("creator")
    creator.create("s", start=snapshot(0, b"0"))
    for lines in (1, 1, 2, 3, 5, 8, 200, 50):
        sqlite_place.close()
        acknowledged = said_until_killed(RESTARTER, sqlite_place.path, lines)
        session = sqlite_place.store().read("s")
        lives = [int(one.payload) for one in (*session.snapshots, *session.records)]
        assert lives[0] in (acknowledged, acknowledged + 1)
        assert set(lives) == {lives[0]}
        assert session.snapshots[0].step == lives[0] * 5 % 11
        counted = sqlite_place.store().statistics()
        assert (counted.sessions, counted.snapshots, counted.records) == (1, 1, len(session.records))
        assert counted.payload_bytes == len(b"%d" % lives[0]) * len(lives)
    assert acknowledged >= 270


def test_at_whatever_moment_it_ends_it_is_found_as_it_was(sqlite_place, tmp_path, monkeypatch):
    for name, value in (("FLUSH_RECORDS", 60), ("SWEEP_BYTES_MIN", 3000), ("SWEEP_ROWS", 40)):
        monkeypatch.setattr(sqlite_log, name, value)
    model, real = MemoryPlace().replica("a"), sqlite_place.replica("a")
    for moment, _ in enumerate(zip(churn(model, 200), churn(real, 200), strict=True)):
        if moment % 9 == 0:
            with closing(copied(sqlite_place, tmp_path / f"{moment}")) as crashed:
                store = crashed.store()
                names = [[line.session_id for line in one.list(after="", limit=50)] for one in (store, model.store)]
                assert names[0] == names[1]
                for number in range(20):
                    expected = replace(model.store.read(f"s{number}"), owner="", epoch=0)
                    assert store.read(f"s{number}") == expected
                counted = [replace(one.statistics(), stored_bytes=0) for one in (store, model.store)]
                assert counted[0] == counted[1]


def test_a_restarted_server_has_its_sessions_at_once_and_claims_of_before_are_lost(sqlite_place):
    before = sqlite_place.replica("a")
    claim = before.create("s")
    before.commit(claim, record(0, 2))
    sqlite_place.close()
    after = sqlite_place.replica("b")
    later, session = after.claim("s")
    assert (session.next_step, later.epoch > claim.epoch) == (2, True)
    assert isinstance(after.commit(claim, record(2, 3)), OwnedElsewhere)


def test_to_sync_is_to_have_the_disk_take_the_log_while_others_write(sqlite_place, monkeypatch):
    a = sqlite_place.replica("a")
    claim = a.create("s")
    synced = []

    def fsync(number):
        synced.append(Path(f"/proc/self/fd/{number}").readlink().name)
        if synced[-1].endswith("-wal"):
            assert a.commit(claim, record(len(synced), len(synced) + 1)) is None

    assert a.commit(claim, record(0, 1), record(1, 2)) is None
    monkeypatch.setattr(os, "fsync", fsync)
    a.store.sync()
    assert synced == [sqlite_place.path.parent.name, "sessions.db-wal"]
    assert a.store.read("s").next_step == 3


def test_the_log_of_a_busy_store_stays_short_where_somebody_tidies(sqlite_place, monkeypatch):
    monkeypatch.setattr(sqlite_file, "CHECKPOINT_ROWS", 1000)
    a = sqlite_place.replica("a")
    claims = [a.create(f"s{number}") for number in range(16)]
    wal = sqlite_place.path.with_name("sessions.db-wal")
    sizes = []
    for first in range(0, 2000, 100):
        for step in range(first, first + 100):
            assert not any(a.store.commit([a.commit_of(claim, record(step, step + 1)) for claim in claims]))
        a.store.tidy()
        sizes.append(wal.stat().st_size)
    assert sizes[-1] == sizes[1], "it begins anew, and does not grow"
    assert sqlite_place.path.stat().st_size > 500_000
    assert a.store.read("s15").next_step == 2000


def test_where_the_disk_is_full_nothing_is_kept_and_the_store_goes_on(sqlite_place):
    a = sqlite_place.replica("a")
    claim = a.create("s")
    assert a.commit(claim, record(0, 1)) is None
    with file_size_limited(sqlite_place.path.with_name("sessions.db-wal").stat().st_size):
        with pytest.raises(StoreUnavailable, match=r"sessions\.db: "):
            a.commit(claim, record(1, 2, bytes(100_000)), snapshot=snapshot(2))
        for method in (lambda: a.create("t"), lambda: a.restart(claim, snapshot(1, bytes(100_000)))):
            with pytest.raises(StoreUnavailable):
                method()
    assert a.commit(claim, record(1, 2)) is None
    assert [one.end_step for one in a.store.read("s").records] == [1, 2]
    assert a.store.statistics().sessions == 1


def test_a_call_that_fails_in_its_midst_leaves_nothing_behind(sqlite_place):
    a = sqlite_place.replica("a")
    claim = a.create("s")
    with pytest.raises(UnicodeEncodeError):
        a.end(claim, Ending.CLOSED, "half of a pair: \ud800")
    assert a.commit(claim, record(0, 1), snapshot=snapshot(1)) is None
    assert a.store.statistics().sessions == 1


def test_a_commit_of_more_records_than_one_statement_takes_is_kept_whole_or_not_at_all(sqlite_place):
    a = sqlite_place.replica("a")
    claim = a.create("s")
    records = [record(step, step + 1, bytes(1000)) for step in range(1000)]
    with file_size_limited(sqlite_place.path.with_name("sessions.db-wal").stat().st_size + 500_000):
        with pytest.raises(StoreUnavailable):
            a.commit(claim, *records)
        assert a.store.read("s").next_step == 0
    sqlite_place.close()
    a = sqlite_place.replica("a")
    claim, session = a.claim("s")
    assert list(session.records) == []
    assert a.commit(claim, *records) is None
    assert list(a.store.read("s").records) == records


# One process


def test_another_process_is_told_who_has_the_file_and_what_to_do(sqlite_place):
    sqlite_place.store()
    with pytest.raises(SettingsFault, match=r"another process has .*sessions\.db open .*; stop that server"):
        SqliteStore(sqlite_place.path)
    said = opened_elsewhere(sqlite_place.path)
    assert said.returncode != 0
    assert f"SettingsFault: store: another process has {sqlite_place.path} open" in said.stderr
    sqlite_place.close()
    assert opened_elsewhere(sqlite_place.path).returncode == 0
    sqlite_place.store()


def test_a_copy_can_be_made_while_it_is_open(sqlite_place, tmp_path):
    a = sqlite_place.replica("a")
    a.commit(a.create("s"), record(0, 3))
    with closing(sqlite3.connect(sqlite_place.path)) as source, closing(sqlite3.connect(tmp_path / "copy.db")) as copy:
        source.backup(copy)
    with closing(SqlitePlace(tmp_path / "copy.db")) as place:
        assert place.store().read("s").next_step == 3


# Files that are not what was left there


def some_sessions(place):
    """What is in a file of a few hundred pages, by name."""
    a = place.replica("a")
    for number in range(20):
        claim = a.create(f"s{number}")
        for step in range(40):
            assert a.commit(claim, record(step, step + 1, b"%d" % number * 50)) is None
        a.commit(claim, snapshot=snapshot(30, b"%d" % number * 6000))
    sessions = {f"s{number}": replace(a.store.read(f"s{number}"), owner="", epoch=0) for number in range(20)}
    place.close()
    return sessions


@pytest.mark.parametrize("part", [0.2, 0.5, 0.9, 0.99])
def test_a_torn_file_is_damaged_and_never_another_session(sqlite_place, part):
    sessions = some_sessions(sqlite_place)
    size = sqlite_place.path.stat().st_size
    with sqlite_place.path.open("r+b") as file:
        file.truncate(int(size * part) // 4096 * 4096)
    assert_damaged_or_as_it_was(sqlite_place, sessions)


@pytest.mark.parametrize("seed", range(4))
def test_a_file_with_pages_of_noise_is_damaged_and_never_another_session(sqlite_place, seed):
    sessions = some_sessions(sqlite_place)
    random_of = random.Random(seed)
    pages = sqlite_place.path.stat().st_size // 4096
    with sqlite_place.path.open("r+b") as file:
        for page in random_of.sample(range(1, pages), pages // 4):
            file.seek(4096 * page)
            file.write(random_of.randbytes(4096))
    assert_damaged_or_as_it_was(sqlite_place, sessions)


def assert_damaged_or_as_it_was(place, sessions):
    """Snapshots without their checksums are the caller's to check, so noise in them may pass; their number not."""
    damaged = 0
    try:
        store = place.store()
    except StoreDamaged:
        return
    for session_id, expected in sessions.items():
        try:
            found = store.read(session_id)
        except StoreDamaged:
            damaged += 1
        else:
            assert (found.next_step, len(found.records)) == (expected.next_step, len(expected.records))
            assert [one.step for one in found.snapshots] == [one.step for one in expected.snapshots]
    assert damaged > 0


@pytest.mark.parametrize(
    "harm",
    [
        "DELETE FROM records WHERE first_step = 5 AND session = 2",
        "DELETE FROM records WHERE end_step = 40 AND session = 2",
        "DELETE FROM records WHERE first_step = 0 AND session = 2",
        "UPDATE records SET end_step = 7 WHERE end_step = 6 AND session = 2",
        "UPDATE progress SET next_step = 41 WHERE session = 2",
        "DELETE FROM progress WHERE session = 2",
        "DELETE FROM records WHERE session = 2",
        "DELETE FROM snapshots WHERE session = 2",
        "UPDATE sessions SET ending = 'TIRED' WHERE number = 2",
    ],
)
def test_a_session_of_which_something_is_missing_is_damaged_and_its_neighbours_are_not(sqlite_place, harm):
    some_sessions(sqlite_place)
    with closing(sqlite3.connect(sqlite_place.path)) as file, file:
        assert file.execute(harm).rowcount > 0
    b = sqlite_place.replica("b")
    for ask in (b.store.read, b.claim):
        with pytest.raises(StoreDamaged):
            ask("s1")
    assert [b.claim(f"s{number}")[1].next_step for number in (0, 2, 19)] == [40, 40, 40]


def test_a_file_of_something_else_is_refused_and_left_alone(tmp_path):
    foreign = tmp_path / "foreign.db"
    with closing(sqlite3.connect(foreign)) as file, file:
        file.execute("CREATE TABLE theirs (x)")
    with pytest.raises(SettingsFault, match="got another program's database"):
        SqliteStore(foreign)
    later = tmp_path / "later.db"
    SqliteStore(later).close()
    with closing(sqlite3.connect(later)) as file, file:
        file.execute("PRAGMA user_version = 99")
    with pytest.raises(SettingsFault, match=r"expected version 1 of the tables in .*, got version 99"):
        SqliteStore(later)
    text = tmp_path / "text.db"
    text.write_text("this is no database" * 1000)
    with pytest.raises(StoreDamaged, match="file is not a database"):
        SqliteStore(text)
    assert text.read_text() == "this is no database" * 1000


def test_a_path_that_cannot_be_used_is_a_fault_of_settings(tmp_path):
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file" / "sessions.db", tmp_path):
        with pytest.raises(SettingsFault, match=r"store: .*expected a path that this process may write"):
            SqliteStore(path)
    SqliteStore(tmp_path / "new" / "folder" / "sessions.db").close()


def test_a_closed_store_is_unavailable(sqlite_place):
    store = sqlite_place.store()
    sqlite_place.close()
    with pytest.raises(StoreUnavailable):
        store.read("s")


# Size


def test_churn_does_not_make_the_file_grow(sqlite_place, monkeypatch):
    monkeypatch.setattr(sqlite_log, "SWEEP_BYTES_MIN", 20_000)
    monkeypatch.setattr(sqlite_log, "VACUUM_PAGES", 16)
    a = sqlite_place.replica("a")
    payload = 0
    claims = [a.create(f"s{number}") for number in range(50)]
    for step in range(400):
        shot = snapshot(step + 1, bytes(3000)) if step % 20 == 19 else None
        commits = [
            a.commit_of(claim, record(step, step + 1, bytes(500)), snapshot=shot, keep=shot and shot.step)
            for claim in claims
        ]
        assert not any(a.store.commit(commits))
        payload += 500 * len(claims)
    statistics = a.store.statistics()
    sqlite_place.close()
    size = sqlite_place.path.stat().st_size
    assert payload == 10_000_000
    assert statistics.payload_bytes == 50 * 3000
    # What lives, what may stay unswept, the records between two sweeps, and a quarter of free pages.
    assert size < 1.5 * statistics.payload_bytes + 20_000 + 50 * 20 * 600 + 4096 * 200


def test_sessions_that_ended_make_room(sqlite_place, monkeypatch):
    monkeypatch.setattr(sqlite_log, "SWEEP_BYTES_MIN", 20_000)
    monkeypatch.setattr(sqlite_log, "VACUUM_PAGES", 16)
    a = sqlite_place.replica("a")
    claims = [a.create(f"s{number}") for number in range(100)]
    assert not any(a.store.commit([a.commit_of(one, record(0, 1, bytes(20_000))) for one in claims]))
    for claim in claims:
        assert a.end(claim, Ending.CLOSED) is None
    for number in range(20):
        a.create(f"t{number}")
        a.commit(a.claim(f"t{number}")[0], record(0, 1))
    sqlite_place.close()
    assert sqlite_place.path.stat().st_size < 200_000
