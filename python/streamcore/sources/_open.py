"""Opens the source that a text names, as `--source` has it. One place decides which kind it is."""

from __future__ import annotations

from typing import TYPE_CHECKING

from streamcore._streams import StreamOption
from streamcore.errors import ConfigError

if TYPE_CHECKING:
    from streamcore.protocols import Source

__all__ = ["open_source", "recorded"]

_RECORDED = ("file:", "record:")


def recorded(text: str) -> bool:
    """Return whether the text names recorded data: a file on this machine, and no stream."""
    return text.startswith(_RECORDED)


def open_source(text: str, *, region: str | None = None, endpoint_url: str | None = None, profile: str | None = None) -> Source:
    """Return the source that `text` names. A stream is not called yet.

    Args:
        text: `kinesis:NAME`, `dynamodb:TABLE`, the ARN of one or of a consumer; `file:PATH?key=COLUMN`; `record:PATH`.
        region: where a stream of AWS is, if it is given by name.
        endpoint_url: its server.
        profile: a profile of the shared configuration files, for a stream of AWS.

    Raises:
        ConfigError: the text names no source, or an option cannot be right.
        SourceError: the file cannot be read.
    """
    # Only the kind that is read is loaded.
    if (stream := StreamOption.parse(text)) is not None:
        return stream.open(region=region, endpoint_url=endpoint_url, profile=profile)
    if text.startswith("file:"):
        from streamcore.sources.file import parse_file_source  # noqa: PLC0415

        return parse_file_source(text)
    if text.startswith("record:"):
        from streamcore.sources.recording import parse_record_source  # noqa: PLC0415

        return parse_record_source(text)
    message = f"must be kinesis:NAME, dynamodb:TABLE, the ARN of one, file:PATH?key=COLUMN or record:PATH, not {text!r}"
    raise ConfigError(message, parameter="source")
