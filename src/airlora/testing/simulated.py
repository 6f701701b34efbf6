"""A repository on disk behind a link whose rate changes, in virtual time: for experiments on thousands of links."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from airlora.delivery.device.answers import HttpError
from airlora.delivery.device.link import Clock, HttpLink, LinkLimits
from airlora.errors import NetworkError

__all__ = ["SimulatedLink", "VirtualTime"]

CHUNK_BYTES = 100
STEP_S = 0.05
"""Of virtual time, where the rate is nothing."""


class VirtualTime:
    """A clock that moves only when somebody waits.

    Args:
        now_s: Where it begins.
    """

    def __init__(self, now_s: float = 0.0) -> None:
        self.now_s = now_s

    @property
    def clock(self) -> Clock:
        """What a link takes for a clock."""
        return Clock(now_s=lambda: self.now_s, sleep=self.sleep)

    def sleep(self, seconds: float) -> None:
        """Let time pass."""
        self.now_s += seconds


class SimulatedLink(HttpLink):
    """A link without sockets.

    Args:
        folder: The repository.
        rate_at_bps: Bit/s at a time of the virtual clock; 0 where there is no reception.
        time: The clock.
        deadline_s: From now.
        delay_s: Before each answer begins.
        overhead_bytes: Of each answer beside what was asked for: headers, acknowledgements.
        limits: What the device puts up with.
    """

    def __init__(
        self,
        folder: Path,
        rate_at_bps: Callable[[float], float],
        *,
        time: VirtualTime | None = None,
        deadline_s: float = float("inf"),
        delay_s: float = 0.0,
        overhead_bytes: int = 0,
        limits: LinkLimits | None = None,
    ) -> None:
        self.time = time or VirtualTime()
        super().__init__(limits or LinkLimits(), self.time.now_s + deadline_s, self.time.clock)
        self.folder, self.rate_at_bps = folder, rate_at_bps
        self.delay_s, self.overhead_bytes = delay_s, overhead_bytes

    def _bytes(self, url: str, start: int, stop: int | None) -> Iterator[bytes]:
        if self.left_s <= 0:
            raise NetworkError(f"{url}: the deadline has come")
        path = url.partition("://")[2].partition("/")[2]
        self._begin()
        self._is_header = False
        self.time.sleep(self.delay_s)
        self._carry(url, self.overhead_bytes)
        for piece in self._content(url, path, start, stop):
            for at in range(0, len(piece), CHUNK_BYTES):
                chunk = piece[at : at + CHUNK_BYTES]
                self._carry(url, len(chunk))
                yield chunk

    def _content(self, url: str, path: str, start: int, stop: int | None) -> Iterator[bytes]:
        file = self.folder / path
        if not file.is_file():
            raise HttpError(f"{url}: HTTP 404", 404)
        yield file.read_bytes()[start:stop]

    def _carry(self, url: str, num_bytes: int) -> None:
        """Let the time pass that so many bytes take."""
        left_bits, silent_s = 8.0 * num_bytes, 0.0
        while left_bits > 0:
            rate = self.rate_at_bps(self.time.now_s)
            needed_s = left_bits / rate if rate > 0 else float("inf")
            step_s = min(STEP_S, needed_s)
            self.time.sleep(step_s)
            left_bits = 0.0 if needed_s <= STEP_S else left_bits - rate * step_s
            silent_s = silent_s + step_s if rate <= 0 else 0.0
            if self.left_s <= 0:
                raise NetworkError(f"{url}: the deadline has come")
            if silent_s >= self.limits.stall_timeout_s:
                raise NetworkError(f"{url}: nothing came for {silent_s:.0f} s")
        try:
            self.after_read(num_bytes)
        except TimeoutError as error:
            raise NetworkError(f"{url}: {error}") from error
