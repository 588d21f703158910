"""`streamcore state`: look at positions, and move them."""

from __future__ import annotations

import json
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from streamcore._streamcore import Checkpoint
from streamcore.checkpoints.sqlite import SqliteCheckpointStore
from streamcore.errors import CheckpointError, ConfigError

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Sequence

    from streamcore.checkpoints.sqlite import CheckpointRow

__all__ = ["export", "parse_position", "rewind", "show"]


def show(arguments: argparse.Namespace, write: Callable[[str], object]) -> int:
    """Write the positions as a table, or as one JSON object."""
    rows = [_described(row) for row in _rows(arguments.file)]
    if arguments.json:
        write(json.dumps({"checkpoints": rows}))
        return 0
    if not rows:
        write(f"{arguments.file} holds no checkpoints yet")
        return 0
    table = [("MAPPING", "SHARD", "POSITION", "SAVED", "STREAM")]
    table += [(row["mapping_uuid"], row["shard_id"], _position(row), row["saved_at"], row["stream_identity"]) for row in rows]
    widths = [max(len(line[column]) for line in table) for column in range(len(table[0]))]
    for line in table:
        write("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())
    return 0


def export(arguments: argparse.Namespace, write: Callable[[str], object]) -> int:
    """Write each checkpoint as one line of JSON."""
    for row in _rows(arguments.file):
        write(json.dumps(_described(row)))
    return 0


def rewind(arguments: argparse.Namespace, write: Callable[[str], object]) -> int:
    """Move positions: the next run begins there. Refused while a process runs the mapping.

    Raises:
        ConfigError: the position or the choice of checkpoints is not allowed.
        ClaimError: a live process holds the mapping; nothing was changed.
        CheckpointError: the file cannot be read or written.
    """
    start, timestamp_ms, sequence_number = parse_position(arguments.to)
    _require_file(arguments.file)
    store = SqliteCheckpointStore(arguments.file)
    try:
        rows = _chosen(store.rows(), arguments)
        if sequence_number is not None and len(rows) > 1:
            raise ConfigError("a sequence number belongs to one shard; say which with --shard")
        for row in rows:
            blob = Checkpoint.rewound(row.blob, start, timestamp_ms=timestamp_ms, sequence_number=sequence_number)
            store.put(row.key, blob)
            write(f"{row.key.shard_id}: {_position(_inspected(blob))}")
    finally:
        store.close()
    return 0


def parse_position(text: str) -> tuple[Any, int | None, str | None]:
    """Read what `--to` says: start, time in milliseconds, sequence number.

    Decimal text is a sequence number, anything else that is no name an ISO 8601 time; without a zone it is UTC.

    Raises:
        ConfigError: it is none of these.

    Example:
        >>> parse_position("2013-01-01T05:00:00Z")
        ('AT_TIMESTAMP', 1357016400000, None)
        >>> parse_position("4711")
        ('AFTER_SEQUENCE_NUMBER', None, '4711')
    """
    if text == "TRIM_HORIZON":
        return text, None, None
    if text == "LATEST":
        return text, time.time_ns() // 1_000_000, None
    if text.isascii() and text.isdigit():
        return "AFTER_SEQUENCE_NUMBER", None, text
    try:
        instant = datetime.fromisoformat(text)
    except ValueError:
        message = f"--to must be TRIM_HORIZON, LATEST, a time such as 2026-01-31T12:00:00Z, or a sequence number, not {text!r}"
        raise ConfigError(message) from None
    if instant.tzinfo is None:
        instant = instant.replace(tzinfo=UTC)
    return "AT_TIMESTAMP", round(instant.timestamp() * 1000), None


def _require_file(file: str) -> None:
    if not Path(file).exists():
        message = f"there is no state file {file}"
        raise CheckpointError(message)


def _rows(file: str) -> list[CheckpointRow]:
    _require_file(file)
    store = SqliteCheckpointStore(file, read_only=True)
    try:
        return store.rows()
    finally:
        store.close()


def _chosen(rows: Sequence[CheckpointRow], arguments: argparse.Namespace) -> list[CheckpointRow]:
    if not rows:
        message = f"{arguments.file} holds no checkpoints; a run begins where --starting-position says"
        raise ConfigError(message)
    mappings = sorted({row.key.mapping_uuid for row in rows})
    if arguments.mapping is not None and arguments.mapping not in mappings:
        message = f"there is no mapping {arguments.mapping}; there are: {', '.join(mappings)}"
        raise ConfigError(message)
    if arguments.mapping is None and len(mappings) > 1:
        message = f"the file holds several mappings; say which with --mapping: {', '.join(mappings)}"
        raise ConfigError(message)
    chosen = [row for row in rows if arguments.mapping in (None, row.key.mapping_uuid)]
    if arguments.shard is not None:
        shards = sorted({row.key.shard_id for row in chosen})
        if arguments.shard not in shards:
            message = f"there is no shard {arguments.shard}; there are: {', '.join(shards)}"
            raise ConfigError(message)
        chosen = [row for row in chosen if row.key.shard_id == arguments.shard]
    return chosen


def _inspected(blob: bytes) -> dict[str, Any]:
    return Checkpoint.inspect(blob)


def _described(row: CheckpointRow) -> dict[str, Any]:
    saved_at = datetime.fromtimestamp(row.saved_at_ms / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    return {
        "mapping_uuid": row.key.mapping_uuid,
        "stream_identity": row.key.stream_identity,
        "shard_id": row.key.shard_id,
        "saved_at": saved_at,
        **_inspected(row.blob),
    }


def _position(checkpoint: dict[str, Any]) -> str:
    if checkpoint["ended"]:
        return "ended"
    if checkpoint["watermark"] is not None:
        return f"after {checkpoint['watermark']}"
    start, timestamp = checkpoint["starting_position"], checkpoint["starting_position_timestamp_ms"]
    if timestamp is None:
        return f"at {start}"
    return f"at {start} {datetime.fromtimestamp(timestamp / 1000, UTC).isoformat(timespec='milliseconds').replace('+00:00', 'Z')}"
