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
        self._identities: dict[str, set[str]] = {}  # by mapping, of the blobs
        for key in self._blobs:
            self._identities.setdefault(key.mapping_uuid, set()).add(key.stream_identity)
        self._claims: dict[str, CheckpointKey] = {}  # by token; at most one a key
        self._tokens: dict[CheckpointKey, str] = {}
        self._owners: dict[str, tuple[str, int]] = {}  # by mapping: the owner and how many claims it has
        self._numbers = itertools.count(1)

    def claim(self, key: CheckpointKey, owner: str) -> Claim:
        """Take the checkpoint for `owner`.

        Raises:
            ClaimError: another owner holds the mapping.
        """
        with self._lock:
            holder, claims = self._owners.get(key.mapping_uuid, (owner, 0))
            if holder != owner:
                raise ClaimError(f"mapping {key.mapping_uuid} is held by {holder!r} in this process; stop it first")
            void = self._tokens.pop(key, None)
            if void is None:
                self._owners[key.mapping_uuid] = (owner, claims + 1)
            else:
                del self._claims[void]
            token = self._tokens[key] = str(next(self._numbers))
            self._claims[token] = key
            identities = self._identities.get(key.mapping_uuid, set())
            return Claim(self._blobs.get(key), token, tuple(sorted(identities - {key.stream_identity})))

    def save(self, checkpoints: Sequence[tuple[str, bytes]]) -> list[bool]:
        """Store blobs under their tokens; False for each whose token is void."""
        with self._lock:
            saved = []
            for token, blob in checkpoints:
                key = self._claims.get(token)
                if key is not None:
                    self._blobs[key] = bytes(blob)
                    self._identities.setdefault(key.mapping_uuid, set()).add(key.stream_identity)
                saved.append(key is not None)
            return saved

    def release(self, token: str) -> None:
        """Give a claim up. A void token is ignored."""
        with self._lock:
            key = self._claims.pop(token, None)
            if key is None:
                return
            del self._tokens[key]
            owner, claims = self._owners.pop(key.mapping_uuid)
            if claims > 1:
                self._owners[key.mapping_uuid] = (owner, claims - 1)

    def rows(self) -> dict[CheckpointKey, bytes]:
        """Return a copy of all checkpoints."""
        with self._lock:
            return dict(self._blobs)

    def close(self) -> None:
        """Give every claim up. Safe to call twice."""
        with self._lock:
            self._claims.clear()
            self._tokens.clear()
            self._owners.clear()
