"""AWS Lambda's event source mappings as an engine: what runs between a stream and a function.

Everything public is here or in one of the modules named in the README. Importing the package starts no thread, opens no file, sets no
handler and loads nothing but itself: each name is loaded when it is first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from streamcore._interpret import interpret
    from streamcore._streamcore import (
        Batch,
        Checkpoint,
        ChildShard,
        Columns,
        Discard,
        Engine,
        FilterCriteria,
        Finished,
        Offered,
        Outcome,
        Page,
        ShardStats,
        Wait,
        Want,
        Window,
        __version__,
    )
    from streamcore.checkpoints.memory import MemoryCheckpointStore
    from streamcore.checkpoints.sqlite import SqliteCheckpointStore
    from streamcore.destinations.aws import S3Destination, SnsDestination, SqsDestination
    from streamcore.destinations.file import FileDestination
    from streamcore.errors import (
        CheckpointError,
        ClaimError,
        ConfigError,
        DeliveryError,
        EngineBrokenError,
        ForkError,
        FunctionUnavailableError,
        PageError,
        SourceError,
        SourceUnavailableError,
        StreamcoreError,
        UsageError,
    )
    from streamcore.functions.local import LocalFunction, takes_batch
    from streamcore.functions.processes import ProcessFunction
    from streamcore.functions.remote import LambdaFunction
    from streamcore.functions.runtime import RuntimeFunction
    from streamcore.mapping import EventSourceMapping
    from streamcore.protocols import (
        Answer,
        CheckpointKey,
        CheckpointStore,
        Claim,
        Clock,
        Destination,
        Fetched,
        Function,
        ShardDescription,
        ShardReader,
        Source,
        Start,
        StreamDescription,
        Wakeup,
    )
    from streamcore.recording import RecordedFunction
    from streamcore.sources._dynamodb_page import dynamodb_page
    from streamcore.sources.dynamodb import DynamoDBStreamsSource
    from streamcore.sources.fanout import FanOutSource
    from streamcore.sources.file import FileSource
    from streamcore.sources.kinesis import KinesisSource
    from streamcore.sources.memory import MemoryStream
    from streamcore.sources.recording import RecordingSource
    from streamcore.worker import StuckBatch, Summary, SystemClock, Totals, Worker, WorkerStats

# Where each name is loaded from when it is first used; the imports above are for type checkers, and a test compares the two.
_HOME = {
    **dict.fromkeys(
        (
            "Batch",
            "Checkpoint",
            "ChildShard",
            "Columns",
            "Discard",
            "Engine",
            "FilterCriteria",
            "Finished",
            "Offered",
            "Outcome",
            "Page",
            "ShardStats",
            "Wait",
            "Want",
            "Window",
            "__version__",
        ),
        "streamcore._streamcore",
    ),
    "MemoryCheckpointStore": "streamcore.checkpoints.memory",
    "SqliteCheckpointStore": "streamcore.checkpoints.sqlite",
    "FileDestination": "streamcore.destinations.file",
    **dict.fromkeys(("S3Destination", "SnsDestination", "SqsDestination"), "streamcore.destinations.aws"),
    **dict.fromkeys(
        (
            "CheckpointError",
            "ClaimError",
            "ConfigError",
            "DeliveryError",
            "EngineBrokenError",
            "ForkError",
            "FunctionUnavailableError",
            "PageError",
            "SourceError",
            "SourceUnavailableError",
            "StreamcoreError",
            "UsageError",
        ),
        "streamcore.errors",
    ),
    **dict.fromkeys(("LocalFunction", "takes_batch"), "streamcore.functions.local"),
    "LambdaFunction": "streamcore.functions.remote",
    "ProcessFunction": "streamcore.functions.processes",
    "RuntimeFunction": "streamcore.functions.runtime",
    "interpret": "streamcore._interpret",
    "EventSourceMapping": "streamcore.mapping",
    **dict.fromkeys(
        (
            "Answer",
            "CheckpointKey",
            "CheckpointStore",
            "Claim",
            "Clock",
            "Destination",
            "Fetched",
            "Function",
            "ShardDescription",
            "ShardReader",
            "Source",
            "Start",
            "StreamDescription",
            "Wakeup",
        ),
        "streamcore.protocols",
    ),
    "RecordedFunction": "streamcore.recording",
    "dynamodb_page": "streamcore.sources._dynamodb_page",
    "DynamoDBStreamsSource": "streamcore.sources.dynamodb",
    "FileSource": "streamcore.sources.file",
    "FanOutSource": "streamcore.sources.fanout",
    "KinesisSource": "streamcore.sources.kinesis",
    "MemoryStream": "streamcore.sources.memory",
    "RecordingSource": "streamcore.sources.recording",
    **dict.fromkeys(("StuckBatch", "Summary", "SystemClock", "Totals", "Worker", "WorkerStats"), "streamcore.worker"),
}

__all__ = [
    "Answer",
    "Batch",
    "Checkpoint",
    "CheckpointError",
    "CheckpointKey",
    "CheckpointStore",
    "ChildShard",
    "Claim",
    "ClaimError",
    "Clock",
    "Columns",
    "ConfigError",
    "DeliveryError",
    "Destination",
    "Discard",
    "DynamoDBStreamsSource",
    "Engine",
    "EngineBrokenError",
    "EventSourceMapping",
    "FanOutSource",
    "Fetched",
    "FileDestination",
    "FileSource",
    "FilterCriteria",
    "Finished",
    "ForkError",
    "Function",
    "FunctionUnavailableError",
    "KinesisSource",
    "LambdaFunction",
    "LocalFunction",
    "MemoryCheckpointStore",
    "MemoryStream",
    "Offered",
    "Outcome",
    "Page",
    "PageError",
    "ProcessFunction",
    "RecordedFunction",
    "RecordingSource",
    "RuntimeFunction",
    "S3Destination",
    "ShardDescription",
    "ShardReader",
    "ShardStats",
    "SnsDestination",
    "Source",
    "SourceError",
    "SourceUnavailableError",
    "SqliteCheckpointStore",
    "SqsDestination",
    "Start",
    "StreamDescription",
    "StreamcoreError",
    "StuckBatch",
    "Summary",
    "SystemClock",
    "Totals",
    "UsageError",
    "Wait",
    "Wakeup",
    "Want",
    "Window",
    "Worker",
    "WorkerStats",
    "__version__",
    "dynamodb_page",
    "interpret",
    "takes_batch",
]


def __getattr__(name: str) -> object:
    home = _HOME.get(name)
    if home is None:
        raise AttributeError(f"module 'streamcore' has no attribute {name!r}")
    import importlib  # noqa: PLC0415 - importing streamcore loads nothing but itself

    value: object = getattr(importlib.import_module(home), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
