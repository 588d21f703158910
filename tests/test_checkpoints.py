"""Checkpoint stores: claims, fencing, crashes, and files that are not as they should be."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import resource
import shutil
import signal
import socket
import sqlite3
import stat
import subprocess
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from streamcore.checkpoints.memory import MemoryCheckpointStore
from streamcore.checkpoints.sqlite import SqliteCheckpointStore
from streamcore.errors import CheckpointError, ClaimError, ForkError
from streamcore.protocols import CheckpointKey, CheckpointStore

if TYPE_CHECKING:
    from collections.abc import Iterator

KEY = CheckpointKey("8485113b-d6b3-5c6b-9ccc-2bf3d2737018", "created 1", "shardId-000000000000")
SECOND = CheckpointKey(KEY.mapping_uuid, "created 1", "shardId-000000000001")
REMADE = CheckpointKey(KEY.mapping_uuid, "created 2", "shardId-000000000000")
OTHER = CheckpointKey("14e0db71-5d35-4eb5-b481-8945cf9d10c2", "created 1", "shardId-000000000000")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state.sqlite"


@pytest.fixture(params=["memory", "sqlite"])
def store(request: pytest.FixtureRequest, path: Path) -> Iterator[MemoryCheckpointStore | SqliteCheckpointStore]:
    with contextlib.closing(MemoryCheckpointStore() if request.param == "memory" else SqliteCheckpointStore(path)) as made:
        yield made


def refusal(path: Path, *, read_only: bool = False) -> str:
    with pytest.raises(CheckpointError) as caught:
        SqliteCheckpointStore(path, read_only=read_only)
    assert str(path) in str(caught.value)
    return str(caught.value)


def contents(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir() if file.is_file()}


# What both stores do


def test_what_is_saved_is_found_again(store: CheckpointStore) -> None:
    claim = store.claim(KEY, "me")
    assert (claim.checkpoint, claim.other_identities) == (None, ())
    assert store.save([(claim.token, b"1")]) == [True]
    assert store.save([(claim.token, b"2")]) == [True]
    store.release(claim.token)
    assert store.claim(KEY, "you").checkpoint == b"2"


def test_one_save_serves_many_shards(store: CheckpointStore) -> None:
    tokens = [store.claim(key, "me").token for key in (KEY, SECOND, OTHER)]
    assert store.save([]) == []
    assert store.save([(tokens[0], b"a"), ("no token", b"b"), (tokens[2], b"c")]) == [True, False, True]
    assert [store.claim(key, "me").checkpoint for key in (KEY, SECOND, OTHER)] == [b"a", None, b"c"]


def test_other_incarnations_of_the_stream_are_named(store: CheckpointStore) -> None:
    for key in (KEY, SECOND, OTHER):
        store.save([(store.claim(key, "me").token, b"x")])
    claim = store.claim(REMADE, "me")
    assert (claim.checkpoint, claim.other_identities) == (None, ("created 1",))
    # A claim alone leaves nothing to be named.
    assert store.claim(KEY, "me").other_identities == ()


def test_a_later_claim_makes_the_older_token_void(store: CheckpointStore) -> None:
    older = store.claim(KEY, "me").token
    newer = store.claim(KEY, "me").token
    assert store.save([(older, b"older"), (newer, b"newer")]) == [False, True]
    store.release(older)  # ignored
    assert store.save([(newer, b"newest")]) == [True]


def test_a_released_token_is_void(store: CheckpointStore) -> None:
    token = store.claim(KEY, "me").token
    store.release(token)
    store.release(token)
    assert store.save([(token, b"x")]) == [False]


def test_a_mapping_has_one_owner(store: CheckpointStore) -> None:
    tokens = [store.claim(key, "me").token for key in (KEY, SECOND)]
    for key in (KEY, SECOND, REMADE):
        with pytest.raises(ClaimError, match=r"stop"):
            store.claim(key, "you")
    store.claim(OTHER, "you")
    store.release(tokens[0])
    with pytest.raises(ClaimError):
        store.claim(KEY, "you")  # one shard is still held
    store.release(tokens[1])
    store.claim(KEY, "you")


def test_a_store_may_be_used_by_many_threads(store: CheckpointStore) -> None:
    tokens = {key: store.claim(key, "me").token for key in (KEY, SECOND, OTHER)}
    saved: list[bool] = []

    def save(key: CheckpointKey) -> None:
        for number in range(20):
            saved.extend(store.save([(tokens[key], str(number).encode())]))

    threads = [threading.Thread(target=save, args=(key,)) for key in tokens]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert saved == [True] * 60
    assert {store.claim(key, "me").checkpoint for key in tokens} == {b"19"}


def test_closing_twice_is_allowed(store: CheckpointStore) -> None:
    store.claim(KEY, "me")
    store.close()
    store.close()


class AgainstModel(RuleBasedStateMachine):
    """Claims, saves and releases in any order, beside a dictionary. A void token never saves, a valid one always does."""

    store: CheckpointStore
    keys = st.sampled_from([KEY, SECOND, REMADE, OTHER])
    owners = st.sampled_from(["me", "you"])

    @initialize()
    def start(self) -> None:
        self.store = self.make()
        self.blobs: dict[CheckpointKey, bytes] = {}
        self.valid: dict[CheckpointKey, tuple[str, str]] = {}  # key: (token, owner)
        self.tokens: list[str] = []

    def make(self) -> CheckpointStore:
        return MemoryCheckpointStore()

    @rule(key=keys, owner=owners)
    def claim(self, key: CheckpointKey, owner: str) -> None:
        if any(held.mapping_uuid == key.mapping_uuid and holder != owner for held, (_, holder) in self.valid.items()):
            with pytest.raises(ClaimError):
                self.store.claim(key, owner)
            return
        claim = self.store.claim(key, owner)
        assert claim.checkpoint == self.blobs.get(key)
        others = {kept.stream_identity for kept in self.blobs if kept.mapping_uuid == key.mapping_uuid} - {key.stream_identity}
        assert set(claim.other_identities) == others
        assert claim.token not in self.tokens
        self.valid[key] = (claim.token, owner)
        self.tokens.append(claim.token)

    @rule(data=st.data(), blob=st.binary(max_size=20))
    def save(self, data: st.DataObject, blob: bytes) -> None:
        tokens = data.draw(st.lists(st.sampled_from(self.tokens), unique=True)) if self.tokens else []
        holding = {token: key for key, (token, _) in self.valid.items()}
        assert self.store.save([(token, blob) for token in tokens]) == [token in holding for token in tokens]
        self.blobs |= {holding[token]: blob for token in tokens if token in holding}

    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        if self.tokens:
            token = data.draw(st.sampled_from(self.tokens))
            self.store.release(token)
            self.valid = {key: held for key, held in self.valid.items() if held[0] != token}

    def teardown(self) -> None:
        self.store.close()


class SqliteAgainstModel(AgainstModel):
    """The same, and the process may end at any time."""

    folder: Path

    def make(self) -> CheckpointStore:
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir()
        return SqliteCheckpointStore(self.folder / "state.sqlite")

    @rule()
    def begin_anew(self) -> None:
        self.store.close()
        self.store = SqliteCheckpointStore(self.folder / "state.sqlite")
        self.valid.clear()

    @invariant()
    def holds_what_was_saved(self) -> None:
        with contextlib.closing(SqliteCheckpointStore(self.folder / "state.sqlite", read_only=True)) as reader:
            assert {row.key: row.blob for row in reader.rows()} == self.blobs


TestMemoryAgainstModel = AgainstModel.TestCase
TestMemoryAgainstModel.settings = settings(max_examples=60, deadline=None)


def test_sqlite_against_the_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SqliteAgainstModel, "folder", tmp_path / "model", raising=False)
    case = SqliteAgainstModel.TestCase
    case.settings = settings(max_examples=25, stateful_step_count=20, deadline=None)
    case().runTest()


def test_a_memory_store_can_begin_with_the_rows_of_another() -> None:
    crashed = MemoryCheckpointStore()
    crashed.save([(crashed.claim(KEY, "me").token, b"x")])
    assert MemoryCheckpointStore(crashed.rows()).claim(KEY, "you").checkpoint == b"x"


# Claims of other stores and other processes

# Claims the key and says how that went; "hold" then waits for its end, "race" first waits for a line.
CLAIMER = """
import sys
from streamcore.checkpoints.sqlite import SqliteCheckpointStore
from streamcore.errors import ClaimError
from streamcore.protocols import CheckpointKey

mode, path, *key = sys.argv[1:]
store = SqliteCheckpointStore(path)
if mode == "race":
    print("ready", flush=True)
    sys.stdin.readline()
try:
    claim = store.claim(CheckpointKey(*key), "a claimer")
    assert store.save([(claim.token, b"theirs")]) == [True]
    print("claimed", flush=True)
except ClaimError as error:
    print(error, flush=True)
sys.stdin.read()
"""


@contextlib.contextmanager
def claimer(path: Path, key: CheckpointKey = KEY, mode: str = "hold") -> Iterator[subprocess.Popen[str]]:
    parts = (key.mapping_uuid, key.stream_identity, key.shard_id)
    command = [sys.executable, "-c", CLAIMER, mode, str(path), *parts]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def said(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def test_a_second_process_is_refused_and_told_who_holds_the_mapping(path: Path) -> None:
    with claimer(path) as holder:
        assert said(holder) == "claimed"
        store = SqliteCheckpointStore(path)
        with pytest.raises(ClaimError) as caught:
            store.claim(KEY, "me")
        for fact in (str(path), KEY.mapping_uuid, f"process {holder.pid} on host {socket.gethostname()}", "a claimer"):
            assert fact in str(caught.value)
        with pytest.raises(ClaimError):
            store.put(KEY, b"moved")
        store.claim(OTHER, "me")  # another mapping is free
        store.close()


def test_after_kill_9_the_claim_succeeds_at_once(path: Path) -> None:
    store = SqliteCheckpointStore(path)
    for _ in range(3):
        with claimer(path) as holder:
            assert said(holder) == "claimed"
            with pytest.raises(ClaimError):
                store.claim(KEY, "me")
            os.kill(holder.pid, signal.SIGKILL)
            holder.wait()
            claim = store.claim(KEY, "me")
            assert claim.checkpoint == b"theirs"
            store.release(claim.token)
    store.close()


def test_of_processes_that_race_for_a_mapping_one_gets_it(path: Path) -> None:
    with contextlib.ExitStack() as stack:
        claimers = [stack.enter_context(claimer(path, mode="race")) for _ in range(4)]
        assert [said(process) for process in claimers] == ["ready"] * 4
        for process in claimers:
            assert process.stdin is not None
            process.stdin.write("go\n")
            process.stdin.flush()
        answers = [said(process) for process in claimers]
        assert answers.count("claimed") == 1, answers
        assert sum("is in use by" in answer for answer in answers) == 3, answers


def test_another_store_of_the_same_process_is_refused_too(path: Path) -> None:
    first, second = SqliteCheckpointStore(path), SqliteCheckpointStore(path)
    token = first.claim(KEY, "me").token
    with pytest.raises(ClaimError, match=f"process {os.getpid()}"):
        second.claim(KEY, "me")
    second.claim(OTHER, "me")
    first.release(token)
    second.claim(KEY, "me")
    with pytest.raises(ClaimError):
        first.claim(KEY, "me")
    first.close()
    second.close()


def test_a_store_that_closes_does_not_free_the_claims_of_another(path: Path) -> None:
    # POSIX frees all locks of a process on a file when it closes any descriptor of it.
    first = SqliteCheckpointStore(path)
    first.claim(KEY, "me")
    second = SqliteCheckpointStore(path)
    second.close()
    SqliteCheckpointStore(path, read_only=True).close()
    with claimer(path) as other:
        assert "is in use by" in said(other)
    first.close()
    with claimer(path) as other:
        assert said(other) == "claimed"


def test_a_link_to_the_file_is_the_same_file(path: Path, tmp_path: Path) -> None:
    store = SqliteCheckpointStore(path)
    store.claim(KEY, "me")
    link = tmp_path / "link.sqlite"
    link.symlink_to(path)
    with claimer(link) as other:
        assert "is in use by" in said(other)
    store.close()


def test_where_the_lock_file_was_deleted_the_older_token_is_void(path: Path) -> None:
    store = SqliteCheckpointStore(path)
    token = store.claim(KEY, "me").token
    Path(f"{path}.lock").unlink()
    with claimer(path) as other:
        assert said(other) == "claimed"
        assert store.save([(token, b"mine")]) == [False]
        assert [row.blob for row in store.rows()] == [b"theirs"]
    store.close()


def test_a_position_that_was_moved_by_hand_makes_the_token_void(path: Path) -> None:
    store = SqliteCheckpointStore(path)
    token = store.claim(KEY, "me").token
    Path(f"{path}.lock").unlink()  # or `put` would be refused
    with contextlib.closing(SqliteCheckpointStore(path)) as other:
        other.put(KEY, b"moved")
    assert store.save([(token, b"mine")]) == [False]
    store.close()


def test_stores_of_one_file_share_one_descriptor_of_the_lock_file(path: Path) -> None:
    def opened() -> int:
        links = Path("/proc/self/fd").iterdir()
        return sum(str(link.readlink()) == f"{path}.lock" for link in links if link.is_symlink())

    stores = [SqliteCheckpointStore(path) for _ in range(3)]
    assert opened() == 1
    for store in stores:
        store.close()
    assert opened() == 0


def _use_after_fork(store: SqliteCheckpointStore, path: Path, answers: Any, released: Any) -> None:
    try:
        store.rows()
    except ForkError as error:
        answers.put(str(error))
    store.close()
    fresh = SqliteCheckpointStore(path)
    try:
        fresh.claim(KEY, "child")
    except ClaimError:
        answers.put("refused")
    released.wait()
    fresh.claim(KEY, "child")
    answers.put("claimed")
    fresh.close()


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_forked_child_has_neither_the_store_nor_the_claim(path: Path) -> None:
    store = SqliteCheckpointStore(path)
    token = store.claim(KEY, "me").token
    context = multiprocessing.get_context("fork")
    answers, released = context.Queue(), context.Event()
    child = context.Process(target=_use_after_fork, args=(store, path, answers, released))
    child.start()
    assert "made before this process was forked" in answers.get()
    assert answers.get() == "refused"
    assert store.save([(token, b"still mine")]) == [True]
    store.release(token)
    released.set()
    assert answers.get() == "claimed"
    child.join()
    store.close()


def test_a_saved_checkpoint_outlives_kill_9_whenever_it_comes(path: Path) -> None:
    """A process that saves without a pause is killed after each of several saves it has confirmed."""
    program = """
import sys
from streamcore.checkpoints.sqlite import SqliteCheckpointStore
from streamcore.protocols import CheckpointKey

store = SqliteCheckpointStore(sys.argv[1])
claim = store.claim(CheckpointKey(*sys.argv[2:]), "saver")
number = int(claim.checkpoint or b"0")
while store.save([(claim.token, str(number := number + 1).encode())]) == [True]:
    print(number, flush=True)
"""
    confirmed = 0
    for saves in (1, 2, 5, 9):
        command = [sys.executable, "-c", program, str(path), KEY.mapping_uuid, KEY.stream_identity, KEY.shard_id]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            for _ in range(saves):
                confirmed = int(said(process))
            process.kill()
            assert process.stdout is not None
            rest = process.stdout.read().split("\n")
            confirmed = int(rest[-2]) if len(rest) > 1 else confirmed
        with contextlib.closing(SqliteCheckpointStore(path)) as store:
            (row,) = store.rows()
            assert int(row.blob) in (confirmed, confirmed + 1)  # the last save may have been done and not been said


# Looking and moving by hand


def test_rows_and_put(path: Path) -> None:
    with contextlib.closing(SqliteCheckpointStore(path)) as store:
        store.put(SECOND, b"second")
        token = store.claim(KEY, "me").token
        store.save([(token, b"first")])
        store.claim(REMADE, "me")  # nothing saved: no row
        rows = store.rows()
        assert [(row.key, row.blob) for row in rows] == [(KEY, b"first"), (SECOND, b"second")]
        assert all(1_600_000_000_000 < row.saved_at_ms < 10**13 for row in rows)
        with pytest.raises(ClaimError, match="is in use by"):
            store.put(SECOND, b"moved")
        store.put(OTHER, b"other")
    with contextlib.closing(SqliteCheckpointStore(path)) as store:
        store.put(KEY, b"moved")
        assert store.claim(KEY, "me").checkpoint == b"moved"


def test_looking_changes_nothing_and_makes_nothing(path: Path) -> None:
    with contextlib.closing(SqliteCheckpointStore(path)) as store:
        store.put(KEY, b"x")
    Path(f"{path}.lock").unlink()
    before = contents(path.parent)
    with contextlib.closing(SqliteCheckpointStore(path, read_only=True)) as store:
        assert [row.key for row in store.rows()] == [KEY]
        for change in (lambda: store.claim(KEY, "me"), lambda: store.put(KEY, b"y"), lambda: store.save([]), lambda: store.release("x")):
            with pytest.raises(CheckpointError, match="open for reading only"):
                change()
    assert contents(path.parent) == before
    missing = path.with_name("missing.sqlite")
    assert "does not exist" in refusal(missing, read_only=True)
    assert not missing.exists()


def test_looking_is_possible_while_a_worker_holds_the_file(path: Path) -> None:
    with claimer(path) as holder:
        assert said(holder) == "claimed"
        with contextlib.closing(SqliteCheckpointStore(path, read_only=True)) as store:
            assert [row.blob for row in store.rows()] == [b"theirs"]


def leave_a_hot_journal(path: Path) -> None:
    """Leave the file as a crash in the middle of a commit does: half written, with the journal that undoes it."""
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("PRAGMA cache_size = 1")  # pages go to the file before the commit
    connection.execute("BEGIN IMMEDIATE")
    for number in range(200):
        connection.execute("REPLACE INTO checkpoint VALUES ('m', 'i', ?, NULL, ?, 0)", (f"s{number}", b"x" * 500))
    crashed = path.with_name("crashed")
    shutil.copyfile(path, crashed)
    shutil.copyfile(f"{path}-journal", f"{crashed}-journal")
    connection.execute("ROLLBACK")
    connection.close()
    crashed.rename(path)
    Path(f"{crashed}-journal").rename(f"{path}-journal")


def test_a_file_with_half_a_commit_is_read_without_a_change(path: Path) -> None:
    with contextlib.closing(SqliteCheckpointStore(path)) as store:
        store.put(KEY, b"x")
    leave_a_hot_journal(path)
    before = contents(path.parent)
    assert len(before[path.name]) > 10_000
    with contextlib.closing(SqliteCheckpointStore(path, read_only=True)) as store:
        assert [(row.key, row.blob) for row in store.rows()] == [(KEY, b"x")]
    assert contents(path.parent) == before
    with contextlib.closing(SqliteCheckpointStore(path)) as store:
        assert store.claim(KEY, "me").checkpoint == b"x"
    assert not Path(f"{path}-journal").exists()


# Files that are not as they should be


def test_the_file_is_for_its_owner_only(path: Path) -> None:
    SqliteCheckpointStore(path).close()
    for file in (path, Path(f"{path}.lock")):
        assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_an_empty_file_becomes_a_state_file(path: Path) -> None:
    path.touch()
    assert "is not a state file" in refusal(path, read_only=True)
    SqliteCheckpointStore(path).close()
    assert path.stat().st_size > 0


def make_text(path: Path) -> None:
    path.write_text("carrier,flight\nUA,1545\n" * 100)


def make_foreign_database(path: Path) -> None:
    """A database of another program that has crashed: its last changes are in a write-ahead log."""
    work = path.with_name("work")
    with contextlib.closing(sqlite3.connect(work)) as connection:
        connection.execute("CREATE TABLE bank_account (amount)")
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("INSERT INTO bank_account VALUES (100)")
        connection.commit()
        shutil.copyfile(work, path)
        shutil.copyfile(f"{work}-wal", f"{path}-wal")
    work.unlink()


def make_newer(path: Path) -> None:
    SqliteCheckpointStore(path).close()
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA user_version = 2")


def make_incomplete(path: Path) -> None:
    SqliteCheckpointStore(path).close()
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute("DROP TABLE checkpoint")


def make_truncated(path: Path) -> None:
    with contextlib.closing(SqliteCheckpointStore(path)) as store:
        store.put(KEY, b"x" * 50_000)
    os.truncate(path, path.stat().st_size - 20_000)


def make_scribbled(path: Path) -> None:
    SqliteCheckpointStore(path).close()
    with path.open("r+b") as file:
        file.seek(4096)
        file.write(b"\xff" * 1000)


def make_inconsistent(path: Path) -> None:
    SqliteCheckpointStore(path).close()
    with path.open("r+b") as file:
        file.seek(36)  # the header's count of free pages
        file.write((7).to_bytes(4, "big"))


@pytest.mark.parametrize("read_only", [False, True])
@pytest.mark.parametrize(
    ("make", "text"),
    [
        (make_text, "is not a state file of streamcore; give the name of one, or of a new file"),
        (make_foreign_database, "is not a state file of streamcore; give the name of one, or of a new file"),
        (make_newer, "was written by a newer version of streamcore: its format is 2, this version reads 1; update streamcore"),
        (make_incomplete, "is damaged"),
        (make_truncated, "is damaged"),
        (make_scribbled, "is damaged"),
        (make_inconsistent, "is damaged"),
    ],
)
def test_a_file_that_cannot_be_used_is_refused_and_left_alone(make: Any, text: str, path: Path, *, read_only: bool) -> None:
    make(path)
    Path(f"{path}.lock").unlink(missing_ok=True)
    before = contents(path.parent)
    assert text in refusal(path, read_only=read_only)
    assert contents(path.parent) == before


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    assert "is a folder; give the name of a file in it" in refusal(tmp_path)
    assert f"the folder {tmp_path / 'no'} does not exist" in refusal(tmp_path / "no" / "state.sqlite")
    os.mkfifo(tmp_path / "fifo")
    assert "is not a regular file" in refusal(tmp_path / "fifo")


def test_a_closed_store_says_so(path: Path) -> None:
    store = SqliteCheckpointStore(path)
    store.close()
    with pytest.raises(CheckpointError, match="cannot read, the store is closed"):
        store.rows()


def test_a_file_that_another_program_has_locked(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("streamcore.checkpoints.sqlite._BUSY_TIMEOUT_SECONDS", 0.01)
    store = SqliteCheckpointStore(path)
    token = store.claim(KEY, "me").token
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(CheckpointError, match="another program has locked the file"):
            store.save([(token, b"x")])
        other.execute("ROLLBACK")
    assert store.save([(token, b"x")]) == [True]
    store.close()


# Full and read-only disks


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 KiB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = shutil.which("mount")
    if (
        mount is None
        or os.geteuid() != 0
        or subprocess.run([mount, "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(disk)], check=False).returncode
    ):
        pytest.skip("needs the right to mount; the test with a limited file size is its like")
    try:
        yield disk
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def fill(path: Path) -> None:
    with path.open("wb", buffering=0) as file:
        while True:
            file.write(b"x" * 1024)


def test_a_full_disk_stores_nothing_and_harms_nothing(small_disk: Path) -> None:
    path = small_disk / "state.sqlite"
    store = SqliteCheckpointStore(path)
    tokens = [store.claim(key, "me").token for key in (KEY, SECOND)]
    assert store.save([(tokens[0], b"a"), (tokens[1], b"b")]) == [True, True]
    filler = small_disk / "filler"
    with pytest.raises(OSError, match="No space left"):
        fill(filler)
    with pytest.raises(CheckpointError) as caught:
        store.save([(tokens[0], b"small"), (tokens[1], b"large" * 10_000)])
    assert str(path) in str(caught.value)
    assert "disk" in str(caught.value)
    assert [row.blob for row in store.rows()] == [b"a", b"b"]
    with pytest.raises(CheckpointError):
        SqliteCheckpointStore(small_disk / "new.sqlite")
    filler.unlink()
    assert store.save([(tokens[0], b"c"), (tokens[1], b"d")]) == [True, True]
    store.close()
    SqliteCheckpointStore(small_disk / "new.sqlite").close()  # what the full disk has left is no obstacle


def test_a_read_only_disk(small_disk: Path) -> None:
    path = small_disk / "state.sqlite"
    with contextlib.closing(SqliteCheckpointStore(path)) as store:
        store.put(KEY, b"x")
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    assert "may not be read and written by this user" in refusal(path)
    assert "cannot be made: Read-only file system" in refusal(small_disk / "new.sqlite")
    with contextlib.closing(SqliteCheckpointStore(path, read_only=True)) as store:
        assert [row.blob for row in store.rows()] == [b"x"]


def test_a_file_that_may_not_grow_keeps_what_it_had(path: Path) -> None:
    store = SqliteCheckpointStore(path)
    token = store.claim(KEY, "me").token
    store.save([(token, b"before")])
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, limits[1]))
    try:
        with pytest.raises(CheckpointError, match=f"{path}: cannot save"):
            store.save([(token, b"x" * 100_000)])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert [row.blob for row in store.rows()] == [b"before"]
    assert store.save([(token, b"after")]) == [True]
    store.close()
