"""The engine among threads, signals and processes: no wake-up is lost, nothing is done twice, nothing hangs."""

from __future__ import annotations

import gc
import os
import random
import signal
import subprocess
import sys
import textwrap
import threading
from collections import defaultdict
from typing import TYPE_CHECKING, Any

import pytest

from engines import NOW, mapping, numbers, one_shard, page, take, wait_until
from streamcore import Batch, Discard, Engine, Outcome, Page, Wait

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

SUCCESS, FAILURE = Outcome.success(), Outcome.failure()
# A test that fails would hang; this only bounds how long, and no test waits for it.
PATIENCE_S = 60


@pytest.fixture
def quick_switches() -> Iterator[None]:
    """Let threads take turns as often as the interpreter can."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(interval)


def run_threads(*targets: Callable[[], None]) -> None:
    """Run each in a thread to its end; the first exception is raised here."""
    failures: list[BaseException] = []

    def guard(target: Callable[[], None]) -> None:
        try:
            target()
        except BaseException as error:  # noqa: BLE001 - raised again below
            failures.append(error)

    threads = [threading.Thread(target=guard, args=[target], daemon=True) for target in targets]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE_S)
    if failures:
        raise failures[0]
    assert not [thread for thread in threads if thread.is_alive()], "a thread hangs"


def run_python(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    script = textwrap.dedent(code)
    return subprocess.run([sys.executable, "-P", "-c", script, *arguments], capture_output=True, text=True, timeout=PATIENCE_S, check=False)


# Waiting.


def test_wait_returns_at_once_when_something_is_ready_and_false_when_time_is_up() -> None:
    engine, _ = one_shard(1)
    assert engine.wait() is True
    assert engine.wait(0) is True
    batch = take(engine)
    assert [engine.wait(seconds) for seconds in (0, -5, 0.001)] == [False, False, False]
    engine.finish(batch.ticket, SUCCESS, NOW)
    assert engine.wait(0) is False


def test_a_wake_between_take_and_wait_is_seen_once() -> None:
    engine, _ = one_shard()
    wait_until(engine)
    engine.wake()
    assert engine.wait(0) is True
    assert engine.wait(0) is False
    engine.wake()
    assert engine.wait(0) is False, "this thread was not told to wait since"


def test_a_wake_of_one_engine_is_none_of_another() -> None:
    for _ in range(50):  # a new engine may stand where the old one stood
        engine = Engine()
        wait_until(engine)
        engine.wake()
        del engine
        assert Engine().wait(0) is False


def test_an_earlier_time_to_ask_again_is_seen_by_a_thread_that_was_told_of_a_later_one() -> None:
    engine, shard = one_shard(maximum_batching_window_in_seconds=60, parallelization_factor=10)
    assert wait_until(engine) is None
    engine.offer(shard, page(1), NOW)
    assert engine.wait(0) is True, "a batching window has begun after this thread was told to wait for ever"
    assert wait_until(engine) == NOW + 60_000
    engine.offer(shard, page(2), NOW + 1)
    assert engine.wait(0) is False, "a later one is no news"


def test_a_sleeper_learns_of_a_batching_window_that_begins_while_it_sleeps() -> None:
    engine, shard = one_shard(maximum_batching_window_in_seconds=60)
    told, found = threading.Event(), []

    def sleeper() -> None:
        assert wait_until(engine) is None
        told.set()
        assert engine.wait(PATIENCE_S) is True
        found.append(wait_until(engine))

    def offerer() -> None:
        told.wait(PATIENCE_S)
        engine.offer(shard, page(1), NOW)

    run_threads(sleeper, offerer)
    assert found == [NOW + 60_000]


def test_a_sleeper_learns_of_a_pause_that_is_over_before_what_it_was_told() -> None:
    engine, _ = one_shard(1)
    batch, told, found = take(engine), threading.Event(), []

    def sleeper() -> None:
        assert wait_until(engine) is None
        told.set()
        assert engine.wait(PATIENCE_S) is True
        found.append(wait_until(engine))

    def finisher() -> None:
        told.wait(PATIENCE_S)
        engine.finish(batch.ticket, FAILURE, NOW)

    run_threads(sleeper, finisher)
    assert found[0] is not None
    assert NOW < found[0] < NOW + 1000


def test_wake_wakes_every_sleeper() -> None:
    engine = Engine()
    told = threading.Barrier(9)

    def sleeper() -> None:
        wait_until(engine)
        told.wait(PATIENCE_S)
        assert engine.wait(PATIENCE_S) is True

    def waker() -> None:
        told.wait(PATIENCE_S)
        engine.wake()

    run_threads(*[sleeper] * 8, waker)


@pytest.mark.usefixtures("quick_switches")
@pytest.mark.parametrize("seed", range(4))
def test_no_wake_up_is_lost_and_each_record_is_given_once_in_order(seed: int) -> None:
    """Threads offer and take as fast as they can, and sleep without a timeout whenever there is nothing."""
    chance = random.Random(seed)
    engine = Engine(seed=seed)
    shards, pages_of_shard, keys = 4, 100, 15
    of = mapping(batch_size=chance.randint(1, 20), parallelization_factor=chance.randint(1, 10), maximum_retry_attempts=0)
    handles = [engine.add_shard(of, f"shard-{n}", now=NOW) for n in range(shards)]
    expected: dict[tuple[int, str], list[int]] = defaultdict(list)
    pages: dict[int, list[Page]] = defaultdict(list)
    for handle in handles:
        number = 0
        for _ in range(pages_of_shard):
            records = []
            for _ in range(chance.randint(1, 25)):
                number += 1
                key = f"key-{chance.randrange(keys)}"
                expected[handle, key].append(number)
                records.append((key, b"", NOW, str(number)))
            pages[handle].append(Page.from_records(records))
    given: dict[tuple[int, str], list[int]] = defaultdict(list)
    total = sum(map(len, expected.values()))
    left, lock, done = [total], threading.Lock(), threading.Event()

    def offerer(handle: int, own: random.Random) -> None:
        for offered in pages[handle]:
            assert engine.offer(handle, offered, NOW).accepted
            if own.random() < 0.1:
                engine.checkpoints()

    def taker(own: random.Random) -> None:
        while not done.is_set():
            ready = engine.take(NOW)
            if isinstance(ready, Wait):
                assert ready.at is None
                if not done.is_set():  # looked at after take: a wake before that is no news
                    engine.wait()
            else:
                assert isinstance(ready, Batch)
                # One batch of a key at a time, so this append needs no lock: were it not so, the order would be wrong.
                for record in ready.event()["Records"]:
                    given[ready.shard, record["kinesis"]["partitionKey"]].append(int(record["kinesis"]["sequenceNumber"]))
                finished = engine.finish(ready.ticket, FAILURE if own.random() < 0.2 else SUCCESS, NOW)
                for discard in finished.discards:
                    assert engine.confirm(discard.id, "delivered")
                with lock:
                    left[0] -= len(ready)
                    if left[0] == 0:
                        done.set()
                        engine.wake()

    offerers = [lambda handle=handle: offerer(handle, random.Random(f"{seed}/{handle}")) for handle in handles]
    takers = [lambda n=n: taker(random.Random(f"{seed}/taker/{n}")) for n in range(8)]
    run_threads(*offerers, *takers)
    assert given == expected, f"seed {seed}"
    engine.check_invariants()
    assert engine.held_bytes == 0
    assert [engine.stats(handle).watermark for handle in handles] == [
        str(max(number for key, got in expected.items() if key[0] == handle for number in got)) for handle in handles
    ]


@pytest.mark.usefixtures("quick_switches")
def test_one_at_a_time_is_handed_over_for_ever_without_a_timeout() -> None:
    """The tightest hand-over: one record is there at a time, and each side sleeps until the other has moved."""
    engine, shard = one_shard()
    rounds = 2000
    turn = threading.Semaphore(0)

    def offerer() -> None:
        for number in range(1, rounds + 1):
            engine.offer(shard, page(number, key="key"), NOW)
            assert turn.acquire(timeout=PATIENCE_S)

    def taker() -> None:
        got = 0
        while got < rounds:
            ready = engine.take(NOW)
            if isinstance(ready, Batch):
                engine.finish(ready.ticket, SUCCESS, NOW)
                got += 1
                turn.release()
            else:
                engine.wait()

    run_threads(offerer, taker)
    assert engine.stats(shard).succeeded == rounds


@pytest.mark.usefixtures("quick_switches")
def test_shards_come_and_go_while_others_take() -> None:
    """A batch taken while shards are added, removed and all reset can always be read and is at worst stale."""
    engine = Engine()
    done = threading.Event()
    names = iter(range(10**6))

    def owner(seed: int) -> None:
        own = random.Random(seed)
        try:
            for _ in range(150):
                shard = engine.add_shard(mapping(parallelization_factor=10), f"shard-{next(names)}", now=NOW)
                try:
                    engine.offer(shard, page(*range(1, 20)), NOW)
                    if own.random() < 0.2:
                        engine.reset()
                    elif own.random() < 0.7:
                        engine.remove(shard)
                except RuntimeError as error:
                    assert str(error) == f"there is no shard {shard}"  # noqa: PT017 - the other owner's reset came first
        finally:
            done.set()
            engine.wake()

    def taker() -> None:
        while not done.is_set():
            ready = engine.take(NOW)
            if isinstance(ready, Batch):
                assert ready.event()["Records"][0]["eventID"].startswith(ready.shard_id)
                engine.finish(ready.ticket, SUCCESS, NOW)
            elif not done.is_set():
                engine.wait(PATIENCE_S)

    run_threads(lambda: owner(1), lambda: owner(2), taker, taker)
    engine.reset()
    engine.check_invariants()
    assert engine.held_bytes == 0


def test_engines_of_one_process_share_nothing() -> None:
    first, second = Engine(seed=1), Engine(seed=1)
    shards = [engine.add_shard(mapping(), "shard", now=NOW) for engine in (first, second)]
    assert shards == [0, 0]
    called: list[str] = []
    first.set_wakeup(lambda: called.append("first"))
    second.set_wakeup(lambda: called.append("second"))
    first.offer(0, page(1), NOW)
    assert (called, second.wait(0), second.held_bytes) == (["first"], False, 0)
    assert isinstance(second.take(NOW), Wait)
    batch = take(first)
    with pytest.raises(RuntimeError, match="not in flight"):
        second.finish(batch.ticket, SUCCESS, NOW)
    second.reset()
    assert first.finish(batch.ticket, SUCCESS, NOW).stale is False


# The callback.


def test_the_callback_is_called_once_for_each_change_from_idle_to_ready() -> None:
    engine, shard = one_shard(batch_size=1)
    calls: list[int] = []
    engine.set_wakeup(lambda: calls.append(len(calls)))
    assert calls == []
    engine.offer(shard, page(1, 2, key="key"), NOW)
    engine.offer(shard, page(3, key="key"), NOW)
    assert len(calls) == 1, "it was ready already"
    for _ in range(3):
        engine.finish(take(engine).ticket, SUCCESS, NOW)
    assert len(calls) == 1, "take has not said Wait since"
    wait_until(engine)
    engine.offer(shard, Page.from_records([]), NOW)
    assert len(calls) == 1, "nothing has become ready"
    engine.offer(shard, page(4, key="key"), NOW)
    assert len(calls) == 2
    engine.finish(take(engine).ticket, FAILURE, NOW)
    wait_until(engine)
    engine.set_wakeup(None)
    engine.offer(shard, page(5), NOW)
    assert len(calls) == 2


def test_the_callback_is_called_for_an_earlier_time_to_ask_again() -> None:
    engine, shard = one_shard(maximum_batching_window_in_seconds=60)
    calls: list[int | None] = []
    engine.set_wakeup(lambda: calls.append(wait_until(engine)))
    wait_until(engine)
    engine.offer(shard, page(1), NOW)
    assert calls == [NOW + 60_000]


def test_a_callback_that_comes_late_is_called_for_what_is_ready_already() -> None:
    engine, shard = one_shard(1)
    calls: list[int] = []
    engine.set_wakeup(lambda: calls.append(1))
    assert calls == [1]
    engine.offer(shard, page(2), NOW)
    assert calls == [1]


def test_the_callback_may_call_the_engine() -> None:
    engine, shard = one_shard(batch_size=1)
    seen: list[int] = []

    def work() -> None:
        while isinstance(ready := engine.take(NOW), Batch):
            seen.extend(numbers(ready))
            engine.finish(ready.ticket, SUCCESS, NOW)
        engine.stats(shard)
        engine.set_wakeup(work)

    engine.set_wakeup(work)
    for number in range(1, 4):
        engine.offer(shard, page(number), NOW)
    assert seen == [1, 2, 3]


def test_what_a_callback_raises_is_reported_and_harms_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    reported: list[tuple[str, Any]] = []
    monkeypatch.setattr(sys, "unraisablehook", lambda report: reported.append((str(report.exc_value), report.object)))
    engine, shard = one_shard()

    def fail() -> None:
        raise ValueError("no")

    engine.set_wakeup(fail)
    assert engine.offer(shard, page(1), NOW).records == 1
    assert reported == [("no", fail)]
    engine.finish(take(engine).ticket, SUCCESS, NOW)
    wait_until(engine)
    engine.offer(shard, page(2), NOW)
    assert len(reported) == 2


def test_an_old_callback_is_dropped_without_the_lock() -> None:
    engine, shard = one_shard()
    seen: list[int] = []

    class Callback:
        def __call__(self) -> None:
            """Do nothing."""

        def __del__(self) -> None:
            seen.append(engine.stats(shard).in_flight)  # would hang if the lock were held

    engine.set_wakeup(Callback())
    engine.set_wakeup(None)
    gc.collect()
    assert seen == [0]


# Signals and processes.


def test_ctrl_c_interrupts_a_wait_on_the_main_thread() -> None:
    done = run_python("""
        import os, signal, threading
        from streamcore import Engine

        engine, waiting = Engine(), threading.Event()

        def interrupt():
            waiting.wait()
            os.kill(os.getpid(), signal.SIGINT)

        threading.Thread(target=interrupt).start()
        try:
            waiting.set()
            engine.wait()
        except KeyboardInterrupt:
            engine.take(0)
            print("interrupted")
    """)
    assert (done.returncode, done.stdout, done.stderr) == (0, "interrupted\n", "")


def test_what_a_signal_handler_raises_comes_out_of_wait() -> None:
    class HandlerError(Exception):
        pass

    def handler(*_: object) -> None:
        raise HandlerError

    old = signal.signal(signal.SIGUSR1, handler)
    try:
        engine = Engine()
        caller = threading.get_ident()
        thread = threading.Thread(target=lambda: signal.pthread_kill(caller, signal.SIGUSR1))
        with pytest.raises(HandlerError):  # noqa: PT012 - the signal may come as soon as the thread runs
            thread.start()
            engine.wait(PATIENCE_S)
        assert engine.wait(0) is False
        thread.join()
    finally:
        signal.signal(signal.SIGUSR1, old)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_every_call_in_a_forked_child_says_so_and_none_hangs() -> None:
    done = run_python("""
        import os, sys, threading, warnings
        from streamcore import Engine, EventSourceMapping, ForkError, Outcome, Page, Batch

        warnings.simplefilter("ignore")  # newer Pythons warn of threads at a fork, which is what this is about
        mapping = EventSourceMapping(starting_position="TRIM_HORIZON")
        page = Page.from_records([("key", b"data", 0, "1")])
        engine = Engine()
        shard = engine.add_shard(mapping, "shard", now=0)
        engine.offer(shard, page, 0)
        batch = engine.take(0)
        for _ in range(4):  # threads that sleep in the engine and work in it, so that its lock is held at many a fork
            threading.Thread(target=engine.wait, daemon=True).start()
        def busy():
            while True:
                engine.checkpoints()
        threading.Thread(target=busy, daemon=True).start()

        calls = {
            "add_shard": lambda: engine.add_shard(mapping, "other", now=0),
            "offer": lambda: engine.offer(shard, page, 0),
            "wants": lambda: engine.wants(shard, 0),
            "fetch_failed": lambda: engine.fetch_failed(shard),
            "end": lambda: engine.end(shard, 0),
            "take": lambda: engine.take(0),
            "finish": lambda: engine.finish(batch.ticket, Outcome.success(), 0),
            "invoke_ready": lambda: engine.invoke_ready(print, int, print),
            "confirm": lambda: engine.confirm(1, "delivered"),
            "checkpoint": lambda: engine.checkpoint(shard),
            "checkpoints": lambda: engine.checkpoints(),
            "saved": lambda: engine.saved(shard, 1),
            "pause": lambda: engine.pause(shard),
            "resume": lambda: engine.resume(shard, 0),
            "drain": lambda: engine.drain(shard, 0),
            "update": lambda: engine.update(shard, mapping, 0),
            "remove": lambda: engine.remove(shard),
            "wait": lambda: engine.wait(),
            "wake": lambda: engine.wake(),
            "set_wakeup": lambda: engine.set_wakeup(print),
            "stats": lambda: engine.stats(shard),
            "held_bytes": lambda: engine.held_bytes,
            "done": lambda: engine.done,
            "unsaved_ends": lambda: engine.unsaved_ends,
            "reset": lambda: engine.reset(),
            "trace": lambda: engine.trace(),
            "check_invariants": lambda: engine.check_invariants(),
        }
        public = {name for name in dir(Engine) if not name.startswith("_")}
        assert public == set(calls), public ^ set(calls)
        for _ in range(20):
            child = os.fork()
            if child == 0:
                missed = []
                for name, call in calls.items():
                    try:
                        call()
                    except ForkError as error:
                        assert str(error) == "the process was forked after this engine was made; make a new one in the child"
                    else:
                        missed.append(name)
                own = Engine()
                own.offer(own.add_shard(mapping, "shard", now=0), page, 0)
                good = not missed and isinstance(own.take(0), Batch) and len(batch.event()["Records"]) == 1
                print(missed, file=sys.stderr) if missed else None
                os._exit(0 if good else 1)
            assert os.waitpid(child, 0)[1] == 0
        assert engine.finish(batch.ticket, Outcome.success(), 0).stale is False
        print("forked")
    """)
    assert (done.stdout, done.stderr, done.returncode) == ("forked\n", "", 0)


@pytest.mark.parametrize("wake_at_exit", [False, True])
def test_the_interpreter_ends_while_daemon_threads_wait(wake_at_exit: bool) -> None:  # noqa: FBT001 - a parameter of the test
    done = run_python(
        """
        import sys, threading
        from streamcore import Engine

        engine, started = Engine(), threading.Barrier(9)

        def wait():
            started.wait()
            while True:
                engine.wait(0.001 if sys.argv[1] == "True" else None)

        for _ in range(8):
            threading.Thread(target=wait, daemon=True).start()
        started.wait()
        print("ended", flush=True)
        """,
        str(wake_at_exit),
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "ended\n", "")


def test_discards_are_given_once_among_threads() -> None:
    engine, shard = one_shard(maximum_record_age_in_seconds=60, batch_size=1)
    engine.offer(shard, page(*range(1, 201), key="key", arrival_ms=NOW - 60_001), NOW)
    given: list[int] = []

    def taker() -> None:
        while isinstance(ready := engine.take(NOW), Discard):
            given.append(ready.id)
            assert engine.confirm(ready.id, "delivered")

    run_threads(*[taker] * 4)
    assert len(given) == len(set(given)) == 200
    assert engine.stats(shard).watermark == "200"
