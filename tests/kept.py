"""A destination that tests look into."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from streamcore import Discard


class Kept:
    """Fails as often as it is told, then keeps what it is sent."""

    def __init__(self, failures: int = 0) -> None:
        self.failures = failures
        self.sent: list[Discard] = []

    def send(self, discard: Discard) -> None:
        if self.failures:
            self.failures -= 1
            raise OSError(errno.ENETDOWN, "the network is down")
        self.sent.append(discard)

    def close(self) -> None:
        pass
