"""What every request passes: tokens, a rate per device, metrics, a log."""

from __future__ import annotations

import hashlib
import hmac
import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from limits import RateLimitItem, parse
from limits.storage import MemoryStorage
from limits.strategies import FixedWindowRateLimiter
from prometheus_client import CollectorRegistry, Counter, Histogram
from starlette.datastructures import Headers
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from airlora.errors import SettingsError
from airlora.files import read_bytes

__all__ = ["Gate", "Metrics", "Tokens", "parse_rate"]

log = logging.getLogger("airlora.cloud")

OPEN_PATHS = ("/healthz",)
"""Asked for by who has no token."""


class Tokens:
    """Who may ask, by bearer token.

    Args:
        path: A file of lines `DEVICE TOKEN`; empty lines and those that start with # do not count.

    Raises:
        SettingsError: The file is missing, or a line of it is something else.
    """

    def __init__(self, path: Path) -> None:
        self._devices: dict[str, str] = {}
        text = read_bytes(path, "tokens", SettingsError).decode("utf-8", errors="replace")
        for number, line in enumerate(text.splitlines(), 1):
            words = line.split()
            if not words or words[0].startswith("#"):
                continue
            if len(words) != 2 or len(words[1]) < 16:
                raise SettingsError(f"tokens {path}: line {number}: allowed is DEVICE TOKEN, a token of 16 or more")
            self._devices[_digest(words[1])] = words[0]
        if not self._devices:
            raise SettingsError(f"tokens {path}: holds none")

    def device(self, authorization: str | None) -> str | None:
        """Return whose token an `Authorization` header holds; None: nobody's."""
        kind, _, token = (authorization or "").partition(" ")
        if kind.lower() != "bearer":
            return None
        found = None
        wanted = _digest(token.strip())
        # All are compared, and by digest: how long it takes says nothing.
        for digest, device in self._devices.items():
            if hmac.compare_digest(digest, wanted):
                found = device
        return found


def _digest(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()


def parse_rate(text: str) -> RateLimitItem:
    """Return a rate such as `600/minute`; raises `SettingsError`."""
    try:
        return parse(text)
    except ValueError:
        raise SettingsError.of("rate", text, "a number per time, such as 600/minute") from None


@dataclass
class Metrics:
    """What Prometheus asks for; paths are told by their kind, so that their number is bounded."""

    registry: CollectorRegistry = field(default_factory=CollectorRegistry)

    def __post_init__(self) -> None:
        labels = ("kind", "status")
        self.requests = Counter("airlora_requests", "Requests answered.", labels, registry=self.registry)
        self.sent = Counter("airlora_sent_bytes", "Bytes of bodies sent.", ("kind",), registry=self.registry)
        self.seconds = Histogram(
            "airlora_request_seconds",
            "Seconds until a request was answered.",
            ("kind",),
            buckets=(0.001, 0.01, 0.1, 1.0, 10.0, 100.0, 1000.0),
            registry=self.registry,
        )
        self.reports = Counter("airlora_reports", "Reports of devices.", ("failed",), registry=self.registry)


class Gate:
    """An ASGI middleware.

    Args:
        app: What is behind it.
        metrics: Counted here.
        tokens: Who may ask; None: everybody.
        rate: Requests of one device, or of one address where there are no tokens; None: any number.
    """

    def __init__(
        self, app: ASGIApp, metrics: Metrics, *, tokens: Tokens | None = None, rate: RateLimitItem | None = None
    ) -> None:
        self._app, self._metrics, self._tokens, self._rate = app, metrics, tokens, rate
        self._limiter = FixedWindowRateLimiter(MemoryStorage())

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, by what is behind the gate if it lets it through."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began, kind, status, sent = time.perf_counter(), kind_of(scope["path"]), 500, 0

        async def count(message: Message) -> None:
            nonlocal status, sent
            if message["type"] == "http.response.start":
                status = message["status"]
            elif message["type"] == "http.response.body":
                sent += len(message.get("body", b""))
            await send(message)

        device = None
        try:
            refused, device = self._refused(scope)
            await (refused or self._app)(scope, receive, count)
        finally:
            seconds = time.perf_counter() - began
            self._metrics.requests.labels(kind, str(status)).inc()
            self._metrics.sent.labels(kind).inc(sent)
            self._metrics.seconds.labels(kind).observe(seconds)
            who = device or (scope.get("client") or ("-",))[0]
            log.info("%s %s %s %d %d %.3f", who, scope["method"], scope["path"], status, sent, seconds)

    def _refused(self, scope: Scope) -> tuple[ASGIApp | None, str | None]:
        """Return the answer of the gate itself, if it lets nobody through, and who asks."""
        device = None
        if scope["path"] in OPEN_PATHS:
            return None, None
        if self._tokens is not None:
            device = self._tokens.device(Headers(scope=scope).get("authorization"))
            if device is None:
                return _plain(401, "a token is needed", {"WWW-Authenticate": "Bearer"}), None
            scope["airlora.device"] = device
        if self._rate is not None:
            who = device or (scope.get("client") or ("-",))[0]
            if not self._limiter.hit(self._rate, who):
                reset = self._limiter.get_window_stats(self._rate, who).reset_time
                wait = max(1, round(reset - time.time()))
                return _plain(429, "too many requests", {"Retry-After": str(wait)}), device
        return None, device


def kind_of(path: str) -> str:
    """Return what a path asks for, in one word.

    >>> kind_of("/streams/abc.airs"), kind_of("/v1/devices/x"), kind_of("/wp-login.php")
    ('streams', 'api', 'other')
    """
    first = path.strip("/").partition("/")[0]
    return {"metadata": "metadata", "targets": "targets", "streams": "streams", "v1": "api", "healthz": "health"}.get(
        first, "other"
    )


def _plain(status: int, text: str, headers: Mapping[str, str]) -> ASGIApp:
    return PlainTextResponse(text + "\n", status, headers=dict(headers))
