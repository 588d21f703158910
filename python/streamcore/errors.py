"""What can go wrong, one class for each thing a caller can do about it.

The engine raises these from Rust too; facts are attributes, never parts of the message to search for.
"""

from __future__ import annotations

__all__ = [
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
]


class StreamcoreError(Exception):
    """Base of every error that streamcore raises on purpose."""


class ConfigError(StreamcoreError, ValueError):
    """A parameter has a value that is not allowed.

    `code` is the error code of Lambda's own API (`InvalidParameterValueException` or `ValidationException`), `parameter`
    the parameter's name in snake case, or None where the fault is between several.
    """

    def __init__(self, message: str, *, code: str = "InvalidParameterValueException", parameter: str | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.parameter = parameter


class PageError(StreamcoreError, ValueError):
    """A page could not be read. Nothing was taken in.

    `offset` is the byte of the body where reading stopped, or for records handed over one by one the index of the record.
    """

    def __init__(self, message: str, offset: int) -> None:
        super().__init__(message)
        self.offset = offset

    def __reduce__(self) -> tuple[type[PageError], tuple[str, int]]:
        return type(self), (str(self), self.offset)


class SourceError(StreamcoreError):
    """A source cannot be read: a broken line, an unknown column, a missing file, a stream that was made anew."""


class SourceUnavailableError(SourceError):
    """A stream cannot be read now, and may be readable again later.

    A permission or a key is missing, credentials have expired, the stream is deleted or not active, or its server is gone. At a
    mapping's first contact with its stream this ends the run, as every `SourceError` does. Later the mapping is kept: reading is tried
    again, ever more slowly, and the mapping's status says why.

    `code` is the error code of the service, None where it gave none; `action` the IAM action that was refused or failed, as
    `kinesis:GetRecords`, or None.
    """

    def __init__(self, message: str, *, code: str | None = None, action: str | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.action = action


class DeliveryError(StreamcoreError, OSError):
    """A discard could not be delivered; the worker tries again.

    `code` is the error code of the service, or the name of what broke on the way to it, `action` the IAM action of the call, as
    `sqs:SendMessage`.
    """

    def __init__(self, message: str, *, code: str | None = None, action: str | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.action = action


class FunctionUnavailableError(StreamcoreError):
    """A function behind the Lambda API cannot be asked for now: a permission is missing, credentials have expired, or its server is gone.

    It is raised at first contact only. Later the batch waits and is tried again, and the mapping's status says why.

    `code` is the error code of the service or the name of what broke on the way to it, `action` the IAM action.
    """

    def __init__(self, message: str, *, code: str | None = None, action: str | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.action = action


class UsageError(StreamcoreError, RuntimeError):
    """A call that the life cycle does not allow: an unknown shard, a ticket finished twice, an update while batches run."""


class CheckpointError(StreamcoreError):
    """A checkpoint or a state file is not ours, damaged, from a newer version, or could not be written."""


class ClaimError(CheckpointError):
    """Another worker holds the checkpoint that was asked for."""


class ForkError(StreamcoreError, RuntimeError):
    """The process was forked after the object was made; make a new one in the child."""


class EngineBrokenError(StreamcoreError, RuntimeError):
    """An earlier call failed inside the engine, which is a bug. Its state is not to be trusted; go on from the last checkpoint."""
