"""Fetching over a link that may be slow, break, stall or lie: timeouts, bounded retries, ranges, a rate limit.

What comes is only bytes: who asks verifies them.  Headers, redirects and answers that nobody wants are within the same
limits as what is wanted.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from urllib.parse import urljoin, urlsplit

import urllib3
from urllib3.exceptions import HTTPError, LocationValueError

from airlora.delivery.device.answers import HttpError, refusal, verify_answer
from airlora.delivery.device.limits import Clock, LinkLimits
from airlora.delivery.device.paced import paced_context, paced_pools
from airlora.errors import NetworkError, SettingsError
from airlora.files import read_bytes

__all__ = ["Clock", "HttpLink", "LinkLimits", "Patience"]

CHUNK_BYTES = 16 * 1024

LEAST_TIMED_BYTES = 1000
"""Before so many, a rate is a guess."""

REDIRECTS = frozenset({301, 302, 303, 307, 308})
MAX_REDIRECTS = 3

MAX_HEADER_BYTES = 128 * 1024
"""Of an answer, before its body begins."""


@dataclass
class HttpLink:
    """One server, over HTTP.

    Args:
        limits: See `LinkLimits`.
        end_s: When to stop whatever is going on, in the clock's seconds; infinite: never.
        clock: Time.
        token: Sent as bearer token.
        ca_file: Certificates to trust in the place of the system's.
        num_bytes: What has come so far: bodies of answers.
        timed_bytes: Of them those that came after the first bytes of their answer.
        busy_s: Seconds that these took.

    Raises:
        SettingsError: `ca_file` cannot be read.
    """

    limits: LinkLimits = field(default_factory=LinkLimits)
    end_s: float = float("inf")
    clock: Clock = field(default_factory=Clock)
    token: str | None = None
    ca_file: str | None = None
    num_bytes: int = 0
    timed_bytes: int = 0
    busy_s: float = 0.0

    def __post_init__(self) -> None:
        if self.ca_file is not None:
            read_bytes(self.ca_file, "certificates", SettingsError)
        context = paced_context()
        if self.ca_file is None:
            context.load_default_certs()
        self._pool = urllib3.PoolManager(retries=False, ca_certs=self.ca_file, ssl_context=context)
        self._pool.pool_classes_by_scheme = dict(paced_pools(self))
        self._asked_s, self._raw_bytes, self._body_bytes, self._is_header = 0.0, 0, 0, False
        self._why: str | None = None
        self._known_tag: str | None = None
        self._tag: str | None = None

    @property
    def left_s(self) -> float:
        """Seconds until the deadline, 0 or more."""
        return max(0.0, self.end_s - self.clock.now_s())

    @property
    def rate_bps(self) -> float | None:
        """Bit/s seen so far, waits for answers left out; None before enough came to tell."""
        if self.timed_bytes < LEAST_TIMED_BYTES or self.busy_s <= 0:
            return None
        return 8 * self.timed_bytes / self.busy_s

    def get(self, url: str, *, start: int = 0, stop: int | None = None) -> Iterator[bytes]:
        """Yield the bytes from `start` to before `stop` of what lies at a URL, as they come.

        Raises:
            HttpError: The server says no, or answers with another part.
            NetworkError: It cannot be reached, broke off, stalled, is too slow, or the deadline has come.
        """
        began = last = self.clock.now_s()
        came = 0
        for chunk in self._bytes(url, start, stop):
            now = self.clock.now_s()
            self._body_bytes += len(chunk)
            if came:
                self.timed_bytes += len(chunk)
                self.busy_s += now - last
            came += len(chunk)
            self.num_bytes += len(chunk)
            yield chunk
            self._leave_room(began, came)
            last = self.clock.now_s()
            # What is done with the bytes, and a wait of our own, is no time of the link's.
            self._asked_s += last - now
            if self.left_s <= 0:
                raise NetworkError(f"{url}: the deadline has come")

    def get_if_changed(
        self, url: str, tag: str | None, patience: Patience, *, max_bytes: int
    ) -> tuple[bytes, str | None] | None:
        """Return a small file and its entity tag, or None if it is still the one with the tag that is known.

        After a break it is gone on with; what was put together of two versions is for the caller to notice.

        Args:
            url: Of the file.
            tag: Known of it from before.
            patience: With the link.
            max_bytes: Of it; it is cut off behind.

        Raises:
            NetworkError: As `get`.
        """
        content = b""
        while True:
            self._known_tag = None if content else tag
            try:
                for chunk in self.get(url, start=len(content)):
                    content += chunk
                    if len(content) > max_bytes:
                        break
            except NetworkError as error:
                if isinstance(error, HttpError) and error.status == 304 and tag is not None:
                    return None
                patience.failed(error)
                continue
            finally:
                self._known_tag = None
            patience.progress()
            return content, self._tag

    def post(self, url: str, body: bytes) -> None:
        """Send a JSON object, once; raises `NetworkError` as `get` does."""
        answer = self._ask("POST", url, {"Content-Type": "application/json"}, body)
        # Nobody reads what it says.
        answer.close()
        if answer.status >= 300:
            raise refusal(url, answer)

    def prepare(self) -> None:
        """Do what a visit can do before it keeps others from the state: nothing, on a link of this kind."""

    def forget(self, url: str, start: int) -> None:
        """Take note that what came of a URL at `start` was not what was signed: here it is asked for anew anyway."""

    def before_connect(self) -> float:
        """Return how many seconds a connection may take; raises `TimeoutError` at the deadline."""
        return min(self.before_read(), self.limits.connect_timeout_s)

    def before_read(self) -> float:
        """Return how many seconds a read of the socket may take; raises `TimeoutError` at the deadline."""
        if self.left_s <= 0:
            self._why = "the deadline has come"
            raise TimeoutError(self._why)
        return min(self.limits.stall_timeout_s, self.left_s)

    def after_read(self, num_bytes: int) -> None:
        """Count what came, of headers too; raises `TimeoutError` if it comes too slowly or without end."""
        self._raw_bytes += num_bytes
        took, least = self.clock.now_s() - self._asked_s, self.limits.least_rate_bps
        if took > self.limits.patience_s and 8 * self._raw_bytes < least * took:
            self._why = f"{8 * self._raw_bytes / took:.0f} bit/s, slower than {least:g}"
        elif self._is_header and self._raw_bytes > MAX_HEADER_BYTES:
            self._why = f"more than {MAX_HEADER_BYTES} bytes of headers"
        elif self._raw_bytes > 2 * (self._body_bytes + MAX_HEADER_BYTES):
            self._why = f"{self._raw_bytes} bytes came for {self._body_bytes} of content"
        else:
            return
        raise TimeoutError(self._why)

    def _reason(self, error: Exception) -> str:
        if self._why is None and self.left_s <= 0:
            return "the deadline has come"
        return self._why or _reason(error)

    def _begin(self) -> None:
        self._asked_s, self._raw_bytes, self._body_bytes = self.clock.now_s(), 0, 0
        self._is_header, self._why = True, None

    def _ask(
        self, method: str, url: str, headers: dict[str, str], body: bytes | None = None, *, with_token: bool = True
    ) -> urllib3.BaseHTTPResponse:
        """Return an answer whose body is still to be read; raises `NetworkError`."""
        headers = {"User-Agent": "airlora-edge", **headers}
        if with_token and self.token is not None:
            headers["Authorization"] = f"Bearer {self.token}"
        if self.left_s <= 0:
            raise NetworkError(f"{url}: the deadline has come")
        self._begin()
        try:
            return self._pool.request(
                method,
                url,
                body=body,
                headers=headers,
                preload_content=False,
                timeout=self._timeout(),
                retries=False,
                redirect=False,
            )
        except (HTTPError, LocationValueError, OSError) as error:
            raise NetworkError(f"{url}: {self._reason(error)}") from error
        finally:
            self._is_header = False

    def _get(self, url: str, headers: dict[str, str]) -> urllib3.BaseHTTPResponse:
        """Follow redirects, without the token where they lead to another server; their bodies are not read."""
        place, with_token = url, True
        for _ in range(MAX_REDIRECTS + 1):
            answer = self._ask("GET", place, headers, with_token=with_token)
            target = answer.headers.get("Location")
            if answer.status not in REDIRECTS or target is None:
                return answer
            answer.close()
            before = urlsplit(place)
            try:
                place = urljoin(place, target)
                after = urlsplit(place)
            except ValueError:
                raise NetworkError(f"{url}: leads to {target[:100]!r}, which is no address") from None
            is_safe = after.scheme == "https" or before.scheme == "http"
            if after.scheme not in ("http", "https") or not is_safe:
                raise NetworkError(f"{url}: leads to {place[:100]}, which is not followed")
            with_token = with_token and after[:2] == before[:2]
        raise NetworkError(f"{url}: more than {MAX_REDIRECTS} redirects")

    def _timeout(self) -> urllib3.Timeout:
        left_s = max(self.left_s, 0.001)
        return urllib3.Timeout(
            connect=min(self.limits.connect_timeout_s, left_s), read=min(self.limits.stall_timeout_s, left_s)
        )

    def _bytes(self, url: str, start: int, stop: int | None) -> Iterator[bytes]:
        is_part = start > 0 or stop is not None
        headers = {"Accept-Encoding": "identity"}
        if is_part:
            headers["Range"] = f"bytes={start}-{'' if stop is None else stop - 1}"
        if self._known_tag is not None:
            headers["If-None-Match"] = self._known_tag
        answer = self._get(url, headers)
        self._tag = answer.headers.get("ETag")
        try:
            skip = verify_answer(url, answer, is_part=is_part, start=start)
            wanted = None if stop is None else stop - start
            while wanted is None or wanted > 0:
                chunk = answer.read1(CHUNK_BYTES, decode_content=False)
                if not chunk:
                    break
                skipped = min(skip, len(chunk))
                self._body_bytes += skipped
                skip, chunk = skip - skipped, chunk[skipped:]
                if wanted is not None:
                    chunk = chunk[:wanted]
                    wanted -= len(chunk)
                if chunk:
                    yield chunk
            if wanted:
                raise NetworkError(f"{url}: ended {wanted} bytes too early")
        except (HTTPError, OSError) as error:
            raise NetworkError(f"{url}: {self._reason(error)}") from error
        finally:
            # What was not read to its end cannot be used for the next request.
            answer.close()

    def _leave_room(self, began: float, came: int) -> None:
        if self.limits.max_rate_bps is not None:
            ahead_s = 8 * came / self.limits.max_rate_bps - (self.clock.now_s() - began)
            if ahead_s > 0:
                self.clock.sleep(min(ahead_s, self.left_s))


@dataclass
class Patience:
    """Counts failures in a row, and waits longer after each.

    Args:
        link: Whose limits and clock.
        random: Source of the share that is waited, so that a fleet does not come back all at once.
    """

    link: HttpLink
    random: random.Random = field(default_factory=random.Random)
    failures: int = 0

    def progress(self) -> None:
        """Begin to count anew."""
        self.failures = 0

    def failed(self, error: NetworkError) -> None:
        """Wait before the next attempt; raises `error` if there is to be none."""
        self.failures += 1
        limits = self.link.limits
        if isinstance(error, HttpError) and not error.is_passing:
            raise error
        if self.failures >= limits.max_attempts:
            raise NetworkError(f"{error}; given up after {self.failures} attempts") from error
        longest = min(limits.longest_wait_s, limits.first_wait_s * 2.0 ** (self.failures - 1))
        wait_s = longest * self.random.random()
        if isinstance(error, HttpError) and error.wait_s is not None:
            wait_s = max(wait_s, min(error.wait_s, limits.longest_wait_s))
        if wait_s >= self.link.left_s:
            raise error
        self.link.clock.sleep(wait_s)


def _reason(error: Exception) -> str:
    """Return what went wrong without the objects that urllib3 names."""
    inner = getattr(error, "reason", None) or error
    text = str(inner).rpartition("): ")[2] or type(inner).__name__
    return text[:200].lower()
