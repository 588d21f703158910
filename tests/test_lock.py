"""The lock of busy threads. No test sleeps or measures time: a thread that finds the lock taken does what the test says."""

from __future__ import annotations

import sys
import threading

import pytest

from streamcore._lock import Lock


def test_a_thread_that_waits_does_not_get_the_lock_before_it_runs() -> None:
    """While the other thread is about to look again, the lock is free, and whoever runs takes it as often as they like."""
    found_taken, look_again = threading.Semaphore(0), threading.Semaphore(0)

    def pause() -> None:
        found_taken.release()
        assert look_again.acquire(timeout=60)

    lock, got = Lock(pause), threading.Event()

    def wait_for_it() -> None:
        with lock:
            got.set()

    waits = threading.Thread(target=wait_for_it)
    with lock:
        waits.start()
        assert found_taken.acquire(timeout=60)
    for _ in range(3):
        assert lock.acquire(blocking=False)
        lock.release()
    with lock:
        look_again.release()
        assert found_taken.acquire(timeout=60)
        assert not got.is_set()
    look_again.release()
    assert got.wait(60)
    waits.join()
    assert lock.acquire(blocking=False)


def test_one_thread_at_a_time_has_it() -> None:
    lock, total, count = Lock(), [0], 3000
    interval = sys.getswitchinterval()
    # Threads lose the interpreter within the lock, too.
    sys.setswitchinterval(1e-6)
    try:

        def add() -> None:
            for _ in range(count):
                with lock:
                    before = total[0]
                    for _ in range(10):
                        pass
                    total[0] = before + 1

        threads = [threading.Thread(target=add) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)
    assert total[0] == 4 * count


def test_an_exception_gives_it_back() -> None:
    lock = Lock()
    with pytest.raises(ZeroDivisionError), lock:
        raise ZeroDivisionError
    assert lock.acquire(blocking=False)
    assert not lock.acquire(blocking=False)


def test_a_condition_waits_with_it() -> None:
    lock = Lock()
    changed = threading.Condition(lock)  # type: ignore[arg-type]  # it is not one of the two that the stub knows
    box: list[int] = []

    def put() -> None:
        with lock:
            box.append(1)
            changed.notify()

    putting = threading.Thread(target=put)
    with lock:
        putting.start()
        assert changed.wait_for(lambda: box, timeout=60)
        assert not lock.acquire(blocking=False)
    putting.join()
