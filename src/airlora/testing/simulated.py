"""Transport in virtual time: a folder served at a rate that changes, for experiments with thousands of links."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from airlora.delivery.device.transport import Clock, DownloadLimits, HttpError, Response, TransferMonitor, Transport
from airlora.errors import NetworkError

__all__ = ["Server", "SimulatedTransport", "VirtualTime", "folder_server"]

CHUNK_BYTES = 100

STEP_S = 0.05
"""Maximum step of the virtual time in seconds."""

Server = Callable[[str, int, int | None], Iterator[bytes]]
"""Function of a path below the repository, the first byte and the exclusive end that yields a range of the file.

It raises `HttpError` for a refused request and `NetworkError` for a broken connection.
"""


class VirtualTime:
    """Time that advances only by waiting.

    Args:
        now_s: Initial time in seconds.
    """

    def __init__(self, now_s: float = 0.0) -> None:
        self.now_s = now_s

    @property
    def clock(self) -> Clock:
        """Clock that a transport takes."""
        return Clock(now_s=lambda: self.now_s, sleep=self.sleep)

    def sleep(self, seconds: float) -> None:
        """Advance the time."""
        self.now_s += seconds


def folder_server(folder: Path) -> Server:
    """Return a server of the files in a folder. Other paths have status 404."""

    def serve(path: str, start: int, stop: int | None) -> Iterator[bytes]:
        file = folder / path
        if not file.is_file():
            raise HttpError(f"{path}: HTTP 404", 404)
        yield file.read_bytes()[start:stop]

    return serve


class SimulatedTransport(Transport):
    """Transport without sockets in virtual time.

    Args:
        server: Folder of the repository, or a function that serves its files.
        rate_at_bps: Function of the virtual time in seconds that returns the rate in bit/s. 0 stands for an outage.
        time: Virtual time. None starts at 0.
        deadline_s: Seconds from now until every request fails. None for no deadline.
        delay_s: Seconds before each answer begins.
        overhead_bytes: Bytes of each answer besides the body, such as headers and acknowledgements.
        limits: Limits of the device. None uses the defaults of `DownloadLimits`.

    Attributes:
        monitor: Deadline, limits and byte counts.
        time: Virtual time.
    """

    def __init__(
        self,
        server: Path | Server,
        rate_at_bps: Callable[[float], float],
        *,
        time: VirtualTime | None = None,
        deadline_s: float | None = None,
        delay_s: float = 0.0,
        overhead_bytes: int = 0,
        limits: DownloadLimits | None = None,
    ) -> None:
        self.time = time or VirtualTime()
        self.monitor = TransferMonitor(limits, deadline_s=deadline_s, clock=self.time.clock)
        self._serve = folder_server(server) if isinstance(server, Path) else server
        self._rate_at_bps, self._delay_s, self._overhead_bytes = rate_at_bps, delay_s, overhead_bytes

    def get(self, url: str, *, start: int = 0, stop: int | None = None, etag: str | None = None) -> Response:  # noqa: ARG002
        """Return a range of a file; see `Transport.get`. Entity tags are ignored."""
        return Response(self.monitor.count(url, self._body(url, start, stop)))

    def post(self, url: str, body: bytes) -> None:  # noqa: ARG002
        """Raise `HttpError`: the server has files only."""
        raise HttpError(f"{url}: HTTP 405", 405)

    def _body(self, url: str, start: int, stop: int | None) -> Iterator[bytes]:
        self.monitor.verify_time_left(url)
        self.monitor.start_request()
        self.time.sleep(self._delay_s)
        self._advance(url, self._overhead_bytes)
        for content in self._serve(url.partition("://")[2].partition("/")[2], start, stop):
            for at in range(0, len(content), CHUNK_BYTES):
                chunk = content[at : at + CHUNK_BYTES]
                self._advance(url, len(chunk))
                yield chunk

    def _advance(self, url: str, num_bytes: int) -> None:
        """Advance the time by the duration of a transfer."""
        left_bits, silent_s = 8.0 * num_bytes, 0.0
        while left_bits > 0:
            rate_bps = self._rate_at_bps(self.time.now_s)
            needed_s = left_bits / rate_bps if rate_bps > 0 else float("inf")
            step_s = min(STEP_S, needed_s)
            self.time.sleep(step_s)
            left_bits = 0.0 if needed_s <= STEP_S else left_bits - rate_bps * step_s
            silent_s = silent_s + step_s if rate_bps <= 0 else 0.0
            self.monitor.verify_time_left(url)
            if silent_s >= self.monitor.limits.stall_timeout_s:
                raise NetworkError(f"{url}: timed out after {silent_s:.0f} s without a byte")
        try:
            self.monitor.after_read(num_bytes)
        except TimeoutError as error:
            raise NetworkError(f"{url}: {error}") from error
