"""What a device puts up with on a link, and the time that it goes by."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from airlora.errors import SettingsError

__all__ = ["Clock", "LinkLimits"]


@dataclass(frozen=True)
class Clock:
    """Time, so that tests need not wait.

    Args:
        now_s: Seconds of a clock that never goes back.
        sleep: Waits for so many seconds.
    """

    now_s: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep


@dataclass(frozen=True)
class LinkLimits:
    """What a device puts up with.

    Args:
        connect_timeout_s: For a connection.
        stall_timeout_s: Without a single byte.
        least_rate_bps: Slower than that for `patience_s` is given up: bit/s; 0: never.
        patience_s: See there.
        max_rate_bps: To leave room for others, bit/s; None: no limit.
        max_attempts: Failures in a row; any verified progress counts anew.
        first_wait_s: Before the second attempt, at most; it doubles each time, and a random share of it is waited.
        longest_wait_s: At most that.
    """

    connect_timeout_s: float = 10.0
    stall_timeout_s: float = 30.0
    least_rate_bps: float = 100.0
    patience_s: float = 60.0
    max_rate_bps: float | None = None
    max_attempts: int = 6
    first_wait_s: float = 0.5
    longest_wait_s: float = 30.0

    def __post_init__(self) -> None:
        for name in ("connect_timeout_s", "stall_timeout_s", "patience_s", "first_wait_s", "longest_wait_s"):
            if not 0 < getattr(self, name) < float("inf"):
                raise SettingsError.of(name, getattr(self, name), "seconds, above 0")
        if self.max_rate_bps is not None and not 0 < self.max_rate_bps < float("inf"):
            raise SettingsError.of("max_rate_bps", self.max_rate_bps, "bit/s, above 0")
        if self.max_attempts < 1:
            raise SettingsError.of("max_attempts", self.max_attempts, "1 or more")
