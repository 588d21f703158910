"""Taking a lock that busy threads want. No test sleeps or measures time: a thread that finds the lock taken does what the test says."""

from __future__ import annotations

import sys
import threading

from streamcore._lock import when_free


def test_a_thread_that_waits_does_not_get_the_lock_before_it_runs() -> None:
    """While the other thread is about to look again, the lock is free, and whoever runs takes it as often as they like."""
    found_taken, look_again = threading.Semaphore(0), threading.Semaphore(0)

    def pause() -> None:
        found_taken.release()
        assert look_again.acquire(timeout=60)

    lock, got = threading.Lock(), threading.Event()

    def wait_for_it() -> None:
        with when_free(lock, pause):
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
    assert not lock.locked()


def test_one_thread_at_a_time_has_it() -> None:
    lock, total, count = threading.Lock(), [0], 3000
    interval = sys.getswitchinterval()
    # Threads lose the interpreter within the lock, too.
    sys.setswitchinterval(1e-6)
    try:

        def add() -> None:
            for _ in range(count):
                with when_free(lock):
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


def test_an_interrupt_while_waiting_leaves_the_lock_to_its_holder() -> None:
    lock = threading.Lock()

    def interrupt() -> None:
        raise KeyboardInterrupt

    with lock:
        try:
            with when_free(lock, interrupt):
                raise AssertionError
        except KeyboardInterrupt:
            assert lock.locked()
    assert not lock.locked()
