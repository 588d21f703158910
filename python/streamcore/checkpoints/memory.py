"""Checkpoints in memory: for tests, and for runs that need not be resumed."""

from __future__ import annotations

import itertools
import threading
from typing import TYPE_CHECKING

from streamcore.errors import ClaimError
from streamcore.protocols import CheckpointKey, Claim

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = ["MemoryCheckpointStore"]


class MemoryCheckpointStore:
    """A `CheckpointStore` that lives as long as the object.

    One owner holds a mapping at a time, with as many of its shards as it claims; it may claim a shard again, which makes the older token
    void. Thread-safe.

    Args:
        checkpoints: blobs to begin with. A store made from another one's `rows` is what a restarted process would find.

    Example:
        >>> store = MemoryCheckpointStore()
        >>> key = CheckpointKey("mapping", "stream", "shardId-000000000000")
        >>> claim = store.claim(key, "me")
        >>> store.save([(claim.token, b"checkpoint")])
        [True]
        >>> store.release(claim.token)
        >>> store.claim(key, "you").checkpoint
        b'checkpoint'
    """

    def __init__(self, checkpoints: Mapping[CheckpointKey, bytes] | None = None) -> None:
        self._lock = threading.Lock()
        self._blobs: dict[CheckpointKey, bytes] = dict(checkpoints or {})
        self._claims: dict[str, tuple[CheckpointKey, str]] = {}  # token: (key, owner); at most one token a key
        self._numbers = itertools.count(1)

    def claim(self, key: CheckpointKey, owner: str) -> Claim:
        """Take the checkpoint for `owner`.

        Raises:
            ClaimError: another owner holds the mapping.
        """
        with self._lock:
            for held, holder in self._claims.values():
                if held.mapping_uuid == key.mapping_uuid and holder != owner:
                    raise ClaimError(f"mapping {key.mapping_uuid} is held by {holder!r} in this process; stop it first")
            self._claims = {token: claim for token, claim in self._claims.items() if claim[0] != key}
            token = str(next(self._numbers))
            self._claims[token] = (key, owner)
            identities = {kept.stream_identity for kept in self._blobs if kept.mapping_uuid == key.mapping_uuid}
            return Claim(self._blobs.get(key), token, tuple(sorted(identities - {key.stream_identity})))

    def save(self, checkpoints: Sequence[tuple[str, bytes]]) -> list[bool]:
        """Store blobs under their tokens; False for each whose token is void."""
        with self._lock:
            saved = []
            for token, blob in checkpoints:
                held = self._claims.get(token)
                if held is not None:
                    self._blobs[held[0]] = bytes(blob)
                saved.append(held is not None)
            return saved

    def release(self, token: str) -> None:
        """Give a claim up. A void token is ignored."""
        with self._lock:
            self._claims.pop(token, None)

    def rows(self) -> dict[CheckpointKey, bytes]:
        """Return a copy of all checkpoints."""
        with self._lock:
            return dict(self._blobs)

    def close(self) -> None:
        """Give every claim up. Safe to call twice."""
        with self._lock:
            self._claims.clear()
