"""Reads the time of a record from text."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING

from streamcore.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["time_reader"]

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND = timedelta(milliseconds=1)
_NUMBER = re.compile(r"[+-]?[0-9]{1,20}(\.[0-9]{1,20})?([eE][+-]?[0-9]{1,2})?", re.ASCII)
_SECONDS_MIN, _SECONDS_MAX = 100_000_000, 4_102_444_800  # 1973-03-03 and 2100-01-01
_EPOCH_NAMES = {"epoch_s": 1000, "epoch_ms": 1}


def time_reader(time_format: str | None) -> Callable[[str], int]:
    """Return a function from the text of a time to milliseconds since the Unix epoch; it raises ValueError with a reason.

    Without a format a number is epoch seconds or milliseconds, told apart by size where both lie between March 1973 and the year 2099;
    everything else is ISO 8601. A time without a zone is UTC. Fractions of a millisecond are dropped.

    >>> read = time_reader(None)
    >>> read("2013-01-01T10:00:00Z") == read("1357034400") == read("1357034400000") == read("2013-01-01 05:00-05:00")
    True

    Raises:
        ConfigError: the format is none that is known.
    """
    if time_format is None:
        return _any
    if time_format in _EPOCH_NAMES:
        scale = _EPOCH_NAMES[time_format]
        return lambda text: _number(text, scale)
    if time_format == "iso8601":
        return _iso
    if "%" in time_format:
        return lambda text: _millis(_strptime(text, time_format))
    raise ConfigError(
        f'time_format must be iso8601, epoch_s, epoch_ms or a strptime pattern such as "%d.%m.%Y %H:%M", not {time_format!r}',
        parameter="time_format",
    )


def _any(text: str) -> int:
    if _NUMBER.fullmatch(text) is None:
        return _iso(text)
    number = Decimal(text)
    if _SECONDS_MIN <= number < _SECONDS_MAX:
        return _number(text, 1000)
    if _SECONDS_MIN * 1000 <= number < _SECONDS_MAX * 1000:
        return _number(text, 1)
    raise ValueError("the number could mean several things; say which with time_format=epoch_s, epoch_ms or a pattern such as %Y%m%d")


def _number(text: str, scale: int) -> int:
    if _NUMBER.fullmatch(text) is None:
        raise ValueError("not a number")
    return int(Decimal(text) * scale // 1)


def _iso(text: str) -> int:
    try:
        return _millis(datetime.fromisoformat(text))
    except ValueError:
        raise ValueError("not an ISO 8601 time such as 2013-01-01T10:00:00Z; another form can be told with time_format") from None


def _strptime(text: str, time_format: str) -> datetime:
    try:
        return datetime.strptime(text, time_format)  # noqa: DTZ007  (a time without a zone is UTC, see _millis)
    except ValueError:
        raise ValueError(f"does not fit time_format {time_format!r}") from None


def _millis(time: datetime) -> int:
    if time.tzinfo is None:
        time = time.replace(tzinfo=UTC)
    return (time - _EPOCH) // _MILLISECOND
