"""Saves checkpoints: one commit for all shards that have changed."""

from __future__ import annotations

import logging
import threading
from typing import TYPE_CHECKING

from streamcore._job import backoff_ms
from streamcore._log import is_told, of_error
from streamcore.errors import CheckpointError, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable

    from streamcore._streamcore import Engine
    from streamcore.protocols import CheckpointStore, Clock

_log = logging.getLogger("streamcore.worker")

# How often to look whether a closed shard is complete: its children wait for the save, so it comes sooner than the interval says.
_GLANCE_MS = 20


class Saver:
    """Takes snapshots of the engine and stores them.

    `save` may be called by any thread; one save runs at a time. A failing store is tried again, after 0.2 s doubling to 30 s, and
    said once for each doubling.
    """

    def __init__(
        self,
        engine: Engine,
        store: CheckpointStore,
        clock: Clock,
        *,
        interval_ms: int,
        on_end: Callable[[int], None],
        on_lost: Callable[[int], None],
    ) -> None:
        self._engine = engine
        self._store = store
        self._clock = clock
        self._interval_ms = interval_ms
        self._on_end = on_end
        self._on_lost = on_lost
        self._lock = threading.Lock()
        self._tokens: dict[int, str] = {}
        self._due = 0
        self._kick = threading.Event()
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None
        self._failures = 0
        self._expired: dict[int, int] = {}  # records that the log has told of, by shard
        self.error: BaseException | None = None
        self.ending: set[int] = set()
        self.checkpoints = 0
        self.commits = 0
        self.saved_at = 0  # when all that was done was last known to be saved
        self.lost = 0
        self.failed_saves = 0

    def own(self, handle: int, token: str) -> None:
        """Save the shard under this token from now on."""
        self._tokens[handle] = token

    def save(self, now: int) -> bool:
        """Save what has changed. Returns whether nothing is left unsaved because of the store."""
        with self._lock:
            return self._save(now)

    def _save(self, now: int) -> bool:
        self._due = now + (self._interval_ms or _GLANCE_MS)
        tokens = self._tokens
        snapshots = [snapshot for snapshot in self._engine.checkpoints() if snapshot.shard in tokens]
        if not snapshots:
            self.saved_at = now
            return True
        try:
            saved = self._store.save([(tokens[snapshot.shard], snapshot.blob) for snapshot in snapshots])
        except Exception as error:  # noqa: BLE001 - whatever it is, saving is tried again
            self._failures += 1
            self.failed_saves += 1
            self.error = error
            pause = backoff_ms(self._failures)
            self._due = now + pause
            if is_told(self._failures):
                unexpected = not isinstance(error, CheckpointError | OSError)
                text = "checkpoints could not be saved (%d times in a row), next try in %.1f s: %s"
                fields = of_error(error, failures=self._failures, retryInMs=pause)
                _log.log(
                    logging.ERROR if unexpected else logging.WARNING,
                    text,
                    self._failures,
                    pause / 1000,
                    error,
                    exc_info=unexpected,
                    extra=fields,
                )
            return False
        if self._failures:
            text = "checkpoints are saved again after %d failures"
            _log.warning(text, self._failures, extra={"failures": self._failures})
        self._failures = 0
        self.error = None
        self.commits += 1
        self.saved_at = now
        for snapshot, kept in zip(snapshots, saved, strict=True):
            handle = snapshot.shard
            try:
                if kept:
                    self._engine.saved(handle, snapshot.version)
                    self.checkpoints += 1
                    if snapshot.expired != self._expired.get(handle, 0):
                        self._say_expired(handle, snapshot.expired)
                    if snapshot.ended:
                        self._leave(handle)
                        self._on_end(handle)
                else:
                    self.lost += 1
                    del tokens[handle]  # it is void
                    self._leave(handle)
                    self._on_lost(handle)
            except UsageError:
                # The shard was removed by another thread between the snapshot and here.
                _log.debug("shard %d was gone when its checkpoint was saved", handle)
        return True

    def _say_expired(self, handle: int, expired: int) -> None:
        """Tell of the records that the stream's retention has ended since the last save: nothing else does."""
        count = expired - self._expired.get(handle, 0)
        self._expired[handle] = expired
        shard = self._engine.stats(handle)
        text = "mapping %s, shard %s: %d records have expired: the stream keeps them no longer, and they were not done"
        fields = {"mappingUuid": shard.mapping_uuid, "shardId": shard.shard_id, "count": count}
        _log.warning(text, shard.mapping_uuid, shard.shard_id, count, extra=fields)

    def _leave(self, handle: int) -> None:
        self.ending.discard(handle)
        self._expired.pop(handle, None)

    def forget(self, handle: int) -> None:
        """Give the claim of a shard up whose end is saved; where the store fails, at the end of the run."""
        token = self._tokens.get(handle)
        if token is None:
            return  # the run is at its end
        try:
            self._store.release(token)
        except Exception as error:  # noqa: BLE001 - whatever it is, what was to be saved is saved
            _log.warning("the claim of a shard that is done could not be given up: %s", error, extra=of_error(error))
        else:
            self._tokens.pop(handle, None)

    def ready(self, now: int) -> bool:
        """Return whether a save is due: the interval is over, or a closed shard is complete."""
        return now >= self._due or (not self._failures and self._engine.unsaved_ends > 0)

    def step(self, now: int) -> bool:
        """Save if a save is due. Returns whether anything was saved."""
        if not self.ready(now):
            return False
        before = self.commits
        self.save(now)
        return self.commits != before

    def next_due(self) -> int:
        """Return when the next save is due."""
        return self._due

    def hurry(self) -> None:
        """Have the thread save now."""
        self._kick.set()

    def start(self) -> None:
        """Save in a thread until `stop`."""
        thread = self._thread = threading.Thread(target=self._run, name="streamcore-save", daemon=True)
        thread.start()

    def _run(self) -> None:
        clock = self._clock
        while not self._stopping.is_set():
            pause = max(self._due - clock.now_ms(), 1)
            kicked = self._kick.wait((min(pause, _GLANCE_MS) if self.ending else pause) / 1000)
            self._kick.clear()
            now = clock.now_ms()
            if not self._stopping.is_set() and (kicked or self.ready(now)):
                self.save(now)

    def stop(self) -> None:
        """End the thread. What has not been saved yet is left to `save`."""
        self._stopping.set()
        self._kick.set()
        if self._thread is not None:
            self._thread.join(5)

    def release(self) -> None:
        """Give every claim up.

        Raises:
            Exception: the first of what the store raised; the other claims are given up all the same.
        """
        failed: list[Exception] = []
        while self._tokens:
            try:
                self._store.release(self._tokens.popitem()[1])
            except Exception as error:  # noqa: BLE001 - raised below
                failed.append(error)
        if failed:
            raise failed[0]
