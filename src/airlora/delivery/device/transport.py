"""Interface between the device agent and the network: transports, their limits and retries.

A `Transport` moves bytes and verifies nothing: its callers check digests and signatures. `HttpTransport` asks a web
server, `BroadcastTransport` listens to a broadcast and `SimulatedTransport` reads a folder in virtual time.
"""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Protocol

from airlora.errors import NetworkError, SettingsError

__all__ = [
    "Clock",
    "DownloadLimits",
    "HttpError",
    "Response",
    "RetryPolicy",
    "TransferMonitor",
    "Transport",
    "fetch_file",
    "printable",
]

log = logging.getLogger(__name__)

TRANSIENT_STATUS = frozenset({408, 425, 429, 500, 502, 503, 504})
"""HTTP status codes after which a request is repeated."""

MIN_TIMED_BYTES = 1000
"""Received bytes below which no rate is reported."""

MAX_OVERHEAD_BYTES = 128 * 1024
"""Maximum bytes of a request besides twice its body, such as those of handshake, headers and trailers."""


class HttpError(NetworkError):
    """Answer whose HTTP status is not that of the requested content.

    Args:
        message: Error message.
        status: HTTP status code.
        retry_after_s: Seconds that the server asks to wait before the next attempt. None if it asks for no wait.
    """

    def __init__(self, message: str, status: int, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.status, self.retry_after_s = status, retry_after_s

    @property
    def is_transient(self) -> bool:
        """Whether the same request may succeed later."""
        return self.status in TRANSIENT_STATUS


@dataclass(frozen=True)
class Clock:
    """Source of time, replaced by virtual time in simulations.

    Args:
        now_s: Function that returns the seconds of a monotonic clock.
        sleep: Function that waits for a number of seconds.
    """

    now_s: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep


@dataclass(frozen=True)
class DownloadLimits:
    """Timeouts, rate limits and retries of a device.

    Args:
        connect_timeout_s: Maximum seconds until a connection is established.
        stall_timeout_s: Maximum seconds without a received byte.
        min_rate_bps: Minimum mean rate of a request in bit/s. 0 accepts every rate.
        min_rate_grace_s: Seconds after which a request that is slower than `min_rate_bps` is aborted.
        max_rate_bps: Maximum rate in bit/s, which leaves capacity to others. None for no maximum.
        max_attempts: Number of consecutive failures after which a visit ends. A verified segment resets the count.
        initial_backoff_s: Maximum wait before the second attempt. The maximum doubles with every failure, and the
            actual wait is a random share of it.
        max_backoff_s: Upper bound of the doubled wait in seconds.

    Raises:
        SettingsError: A value is out of range.
    """

    connect_timeout_s: float = 10.0
    stall_timeout_s: float = 30.0
    min_rate_bps: float = 100.0
    min_rate_grace_s: float = 60.0
    max_rate_bps: float | None = None
    max_attempts: int = 6
    initial_backoff_s: float = 0.5
    max_backoff_s: float = 30.0

    def __post_init__(self) -> None:
        for name in ("connect_timeout_s", "stall_timeout_s", "min_rate_grace_s", "initial_backoff_s", "max_backoff_s"):
            if not 0 < getattr(self, name) < float("inf"):
                raise SettingsError.of(name, getattr(self, name), "seconds, above 0")
        if self.max_rate_bps is not None and not 0 < self.max_rate_bps < float("inf"):
            raise SettingsError.of("max_rate_bps", self.max_rate_bps, "bit/s, above 0")
        if self.max_attempts < 1:
            raise SettingsError.of("max_attempts", self.max_attempts, "1 or more")


class TransferMonitor:
    """Deadline, limits and measured rate of a transport.

    For every request a transport calls `start_request`, then `before_read` and `after_read` around each read. `count`
    wraps the body.

    Args:
        limits: Timeouts and rate limits. None uses the defaults of `DownloadLimits`.
        deadline_s: Seconds from now until every transfer is aborted. None for no deadline.
        clock: Source of time. None uses the system's monotonic clock.

    Attributes:
        end_s: Time of the deadline on the clock, infinite without one.
        num_bytes: Bytes of all bodies that have been received.
    """

    def __init__(
        self, limits: DownloadLimits | None = None, *, deadline_s: float | None = None, clock: Clock | None = None
    ) -> None:
        self.limits, self.clock = limits or DownloadLimits(), clock or Clock()
        self.num_bytes, self._timed_bytes, self._timed_s = 0, 0, 0.0
        self.set_deadline(deadline_s)
        self.start_request()

    def set_deadline(self, deadline_s: float | None) -> None:
        """Set the deadline to a number of seconds from now. None removes it."""
        self.end_s = float("inf") if deadline_s is None else self.clock.now_s() + deadline_s

    @property
    def left_s(self) -> float:
        """Seconds until the deadline, at least 0."""
        return max(0.0, self.end_s - self.clock.now_s())

    @property
    def rate_bps(self) -> float | None:
        """Measured rate in bit/s without the waits for answers. None before enough bytes were received."""
        if self._timed_bytes < MIN_TIMED_BYTES or self._timed_s <= 0:
            return None
        return 8 * self._timed_bytes / self._timed_s

    def verify_time_left(self, url: str) -> None:
        """Raise `NetworkError` at the deadline."""
        if self.left_s <= 0:
            raise NetworkError(f"{url}: deadline reached")

    def start_request(self) -> None:
        """Reset the byte counts and the time of the current request."""
        self._request_s, self._raw_bytes, self._body_bytes = self.clock.now_s(), 0, 0

    def before_read(self) -> float:
        """Return the maximum seconds for one read or write; raise `TimeoutError` at the deadline."""
        if self.left_s <= 0:
            raise TimeoutError("deadline reached")
        return min(self.limits.stall_timeout_s, self.left_s)

    def after_read(self, num_bytes: int) -> None:
        """Count received bytes, headers and TLS records included.

        Args:
            num_bytes: Number of bytes of the last read.

        Raises:
            TimeoutError: The request is slower than the minimum rate, or has too many bytes besides its body.
        """
        self._raw_bytes += num_bytes
        elapsed_s, min_rate_bps = self.clock.now_s() - self._request_s, self.limits.min_rate_bps
        if elapsed_s > self.limits.min_rate_grace_s and 8 * self._raw_bytes < min_rate_bps * elapsed_s:
            raise TimeoutError(f"{8 * self._raw_bytes / elapsed_s:.0f} bit/s, slower than {min_rate_bps:g} bit/s")
        if self._raw_bytes > 2 * self._body_bytes + MAX_OVERHEAD_BYTES:
            raise TimeoutError(f"received {self._raw_bytes} bytes for a body of {self._body_bytes}")

    def skip(self, num_bytes: int) -> None:
        """Count bytes of a body that the transport drops."""
        self._body_bytes += num_bytes

    def count(self, url: str, chunks: Iterable[bytes], *, is_timed: bool = True) -> Iterator[bytes]:
        """Yield the chunks of a body, at most at the maximum rate.

        Args:
            url: Address for error messages.
            chunks: Chunks of the body.
            is_timed: Whether the chunks count for `rate_bps`.

        Raises:
            NetworkError: The deadline was reached.
        """
        began_s = last_s = self.clock.now_s()
        num_bytes = 0
        for chunk in chunks:
            now_s = self.clock.now_s()
            self._body_bytes += len(chunk)
            if num_bytes and is_timed:
                self._timed_bytes += len(chunk)
                self._timed_s += now_s - last_s
            num_bytes += len(chunk)
            self.num_bytes += len(chunk)
            yield chunk
            if self.limits.max_rate_bps is not None:
                ahead_s = 8 * num_bytes / self.limits.max_rate_bps - (self.clock.now_s() - began_s)
                if ahead_s > 0:
                    self.clock.sleep(min(ahead_s, self.left_s))
            last_s = self.clock.now_s()
            # The time of the caller and of the wait above does not make the request slow.
            self._request_s += last_s - now_s
            self.verify_time_left(url)


@dataclass(frozen=True)
class Response:
    """Body of a successful answer. Iteration yields its chunks.

    Args:
        chunks: Chunks of the body. Reading them raises `NetworkError` when the transfer fails.
        etag: Entity tag of the complete file. None if the transport has none.
    """

    chunks: Iterator[bytes]
    etag: str | None = None

    def __iter__(self) -> Iterator[bytes]:
        return self.chunks


class Transport(Protocol):
    """Source of the files of a repository during one visit.

    Attributes:
        monitor: Deadline, limits and byte counts.
    """

    monitor: TransferMonitor

    def prepare(self) -> None:
        """Do what a visit can do before it locks the device's state. By default this is nothing.

        Raises:
            NetworkError: The repository cannot be reached.
            TrustError: Metadata of the device cannot be trusted.
        """
        return

    def get(self, url: str, *, start: int = 0, stop: int | None = None, etag: str | None = None) -> Response:
        """Return a range of a file.

        Args:
            url: Address of the file.
            start: First byte of the range.
            stop: End of the range, exclusive. None for the end of the file.
            etag: Entity tag of the version that the caller holds. None requests the file unconditionally.

        Raises:
            HttpError: The file does not exist, is unchanged (status 304) or is refused.
            NetworkError: The transfer failed, stalled or is too slow, or the deadline was reached.
        """

    def post(self, url: str, body: bytes) -> None:
        """Send a JSON object once; raise `NetworkError` as `get` does."""

    def discard(self, url: str, start: int) -> None:  # noqa: ARG002
        """Drop cached bytes of a file. By default there are none.

        Args:
            url: Address of the file.
            start: Position at which the bytes failed verification.
        """
        return


@dataclass
class RetryPolicy:
    """Bounded retries with random exponential backoff.

    Args:
        monitor: Monitor that supplies the limits, the clock and the deadline.
        random: Generator of the share of each wait, so that the devices of a fleet do not retry at the same time.
        num_failures: Number of consecutive failures.
    """

    monitor: TransferMonitor
    random: random.Random = field(default_factory=random.Random)
    num_failures: int = 0

    def reset(self) -> None:
        """Set the number of consecutive failures to zero."""
        self.num_failures = 0

    def wait(self, error: NetworkError) -> None:
        """Count a failure and wait before the next attempt.

        The wait is random, from 0 to a maximum that doubles with each failure, up to `DownloadLimits.max_backoff_s`.
        It is not shorter than the wait that the server asks for (Retry-After), within the same limit.

        Args:
            error: Error of the failed attempt.

        Raises:
            NetworkError: `error` is an HTTP error that another attempt would repeat, the attempts are used up, or the
                deadline comes before the end of the wait.
        """
        self.num_failures += 1
        limits = self.monitor.limits
        if isinstance(error, HttpError) and not error.is_transient:
            raise error
        if self.num_failures >= limits.max_attempts:
            raise NetworkError(f"{error}; stopped after {self.num_failures} attempts") from error
        longest_s = min(limits.max_backoff_s, limits.initial_backoff_s * 2.0 ** (self.num_failures - 1))
        wait_s = longest_s * self.random.random()
        if isinstance(error, HttpError) and error.retry_after_s is not None:
            wait_s = max(wait_s, min(error.retry_after_s, limits.max_backoff_s))
        if wait_s >= self.monitor.left_s:
            raise error
        log.debug("attempt %d failed, next in %.1f s: %s", self.num_failures, wait_s, printable(error))
        self.monitor.clock.sleep(wait_s)


def fetch_file(
    transport: Transport,
    url: str,
    retries: RetryPolicy,
    *,
    max_bytes: int,
    etag: str | None = None,
    can_resume: bool = True,
) -> tuple[bytes, str | None]:
    """Return a small file and its entity tag.

    Args:
        transport: Transport that fetches the file.
        url: Address of the file.
        retries: Retries of the visit.
        max_bytes: Size after which the download stops. The result is longer than this if the file is.
        etag: Entity tag of the version that the caller holds. None requests the file unconditionally.
        can_resume: Whether a retry continues after the bytes received so far. False for files that may change.

    Raises:
        HttpError: The server refused the request. Status 304 means that the file still has the tag `etag`.
        NetworkError: The retries are used up, or the deadline was reached.
    """
    content = b""
    while True:
        try:
            response = transport.get(url, start=len(content), etag=None if content else etag)
            for chunk in response:
                content += chunk
                if len(content) > max_bytes:
                    break
        except NetworkError as error:
            retries.wait(error)
            content = content if can_resume else b""
            continue
        retries.reset()
        return content, response.etag


def printable(text: object) -> str:
    r"""Return text for a log message, without control characters and with at most 500 characters.

    Examples:
        >>> printable("release\n\x1b[31m 7")
        'release  [31m 7'
    """
    return "".join(letter if letter.isprintable() else " " for letter in str(text)[:500])
