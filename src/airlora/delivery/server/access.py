"""ASGI middleware of every request: tokens, rate limits, metrics and the access log."""

from __future__ import annotations

import base64
import binascii
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

__all__ = ["CALLER", "AccessMiddleware", "Metrics", "Tokens", "parse_rate"]

logger = logging.getLogger(__name__)

CALLER = "airlora.caller"
"""Key of the `Caller` in a request's scope, if the server has tokens."""

OPEN_PATHS = ("/healthz",)
"""Paths that need no token."""

FILES = frozenset({"metadata", "targets", "streams"})
"""Request kinds that every device may use."""

FAILED_RATE = parse("60/minute")
"""Largest rate of requests with a wrong token from one address."""


@dataclass(frozen=True)
class Caller:
    """Owner of a token.

    Args:
        name: Name of the device or operator.
        is_operator: Whether the caller may read the reports of all devices.
    """

    name: str
    is_operator: bool = False


class Tokens:
    """Tokens of devices and operators, sent as bearer token or as password of HTTP basic authentication.

    Args:
        path: File with lines `DEVICE TOKEN` for devices and `@OPERATOR TOKEN` for operators.  Empty lines and lines
            that start with # are ignored.

    Raises:
        SettingsError: The file is missing, has no token, or contains another line.
    """

    def __init__(self, path: Path) -> None:
        self._callers: dict[str, Caller] = {}
        text = read_bytes(path, "tokens", SettingsError).decode("utf-8", errors="replace")
        for number, line in enumerate(text.splitlines(), 1):
            words = line.split()
            if not words or words[0].startswith("#"):
                continue
            if len(words) != 2 or len(words[1]) < 16:
                raise SettingsError(
                    f"tokens {path}: line {number}: allowed is DEVICE TOKEN or @OPERATOR TOKEN, with a token of 16 or "
                    "more characters"
                )
            self._callers[_digest(words[1])] = Caller(words[0].removeprefix("@"), words[0].startswith("@"))
        if not self._callers:
            raise SettingsError(f"tokens {path}: the file contains no token")

    def caller(self, authorization: str | None) -> Caller | None:
        """Return the owner of the token in an `Authorization` header, or None for an unknown token."""
        wanted = _digest(_token(authorization or ""))
        found = None
        # Every digest is compared, so that the time taken reveals nothing about the tokens.
        for digest, caller in self._callers.items():
            if hmac.compare_digest(digest, wanted):
                found = caller
        return found


def _token(authorization: str) -> str:
    kind, _, value = authorization.partition(" ")
    if kind.lower() == "bearer":
        return value.strip()
    if kind.lower() == "basic":
        try:
            return base64.b64decode(value, validate=True).decode().partition(":")[2]
        except (binascii.Error, ValueError):
            return ""
    return ""


def _digest(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()


def parse_rate(text: str) -> RateLimitItem:
    """Return a rate such as `600/minute`; raises `SettingsError`."""
    try:
        return parse(text)
    except ValueError:
        raise SettingsError.of("rate", text, "a number of requests per time, such as 600/minute") from None


@dataclass
class Metrics:
    """Metrics for Prometheus.  Requests are labelled by kind, not by path, so that the number of series is bounded."""

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


class AccessMiddleware:
    """ASGI middleware that checks tokens and rates, counts requests and logs them.

    Args:
        app: Application behind the middleware.
        metrics: Metrics to update.
        tokens: Tokens that requests must carry.  None allows requests without a token.
        rate: Largest request rate of one device, or of one address if there are no tokens.  None sets no limit.
    """

    def __init__(
        self, app: ASGIApp, metrics: Metrics, *, tokens: Tokens | None = None, rate: RateLimitItem | None = None
    ) -> None:
        self._app, self._metrics, self._tokens, self._rate = app, metrics, tokens, rate
        self._limiter = FixedWindowRateLimiter(MemoryStorage())

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Refuse the request or pass it to the application, then count and log it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began, kind, status, sent = time.perf_counter(), kind_of(scope["path"]), 500, 0
        address = (scope.get("client") or ("-",))[0]

        async def count(message: Message) -> None:
            nonlocal status, sent
            if message["type"] == "http.response.start":
                status = message["status"]
            elif message["type"] == "http.response.body":
                sent += len(message.get("body", b""))
            await send(message)

        try:
            refused = self._refused(scope, kind, address)
            await (refused or self._app)(scope, receive, count)
        finally:
            seconds = time.perf_counter() - began
            self._metrics.requests.labels(kind, str(status)).inc()
            self._metrics.sent.labels(kind).inc(sent)
            self._metrics.seconds.labels(kind).observe(seconds)
            caller = scope.get(CALLER)
            who = address if caller is None else caller.name
            logger.info("%s %s %s %d %d %.3f", who, scope["method"], scope["path"], status, sent, seconds)

    def _refused(self, scope: Scope, kind: str, address: str) -> ASGIApp | None:
        """Return the response that refuses a request, or None if the request may pass."""
        if scope["path"] in OPEN_PATHS:
            return None
        who = address
        if self._tokens is not None:
            caller = self._tokens.caller(Headers(scope=scope).get("authorization"))
            is_for_devices = kind in FILES or kind == "api"
            if caller is None:
                # Requests with a valid token from the same address still pass: many devices may share a proxy.
                if not self._limiter.hit(FAILED_RATE, "failed", address):
                    return self._too_many(FAILED_RATE, "failed", address)
                ways = "Bearer" if is_for_devices else 'Basic realm="airlora", charset="UTF-8"'
                return _plain(401, "requires a token", {"WWW-Authenticate": ways})
            scope[CALLER], who = caller, caller.name
            if not (caller.is_operator or is_for_devices):
                return _plain(403, "requires the token of an operator", {})
        if self._rate is not None and not self._limiter.hit(self._rate, who):
            return self._too_many(self._rate, who)
        return None

    def _too_many(self, rate: RateLimitItem, *who: str) -> ASGIApp:
        reset = self._limiter.get_window_stats(rate, *who).reset_time
        return _plain(429, "too many requests", {"Retry-After": str(max(1, round(reset - time.time())))})


def kind_of(path: str) -> str:
    """Return the kind of a request by its path.

    Examples:
        >>> kind_of("/streams/abc.airs"), kind_of("/v1/devices/x"), kind_of("/wp-login.php")
        ('streams', 'api', 'other')
    """
    first = path.strip("/").partition("/")[0]
    return {"metadata": "metadata", "targets": "targets", "streams": "streams", "v1": "api", "healthz": "health"}.get(
        first, "other"
    )


def _plain(status: int, text: str, headers: Mapping[str, str]) -> ASGIApp:
    return PlainTextResponse(text + "\n", status, headers=dict(headers))
