"""HTTP transport with absolute deadlines.

The timeout of a socket bounds a single read: a server that sends a byte now and then never exceeds it, be it in a
handshake, in headers, in a redirect or in a body. `_Socket` therefore asks the `TransferMonitor` before and after every
read. It decrypts TLS itself, on top of these reads, because a TLS record of up to 16 KiB is readable only as a whole: a
slow link would exceed the stall timeout although bytes arrive. A timer that closes a standard TLS socket cannot tell
these two cases apart.
"""

from __future__ import annotations

import http.client
import io
import logging
import re
import socket
import ssl
import time
from collections.abc import Iterator
from typing import Any, cast
from urllib.parse import urljoin

from urllib3.util import Url, parse_url

from airlora.delivery.device.transport import DownloadLimits, HttpError, Response, TransferMonitor, Transport, printable
from airlora.errors import NetworkError, SettingsError

__all__ = ["HttpTransport"]

log = logging.getLogger(__name__)

CHUNK_BYTES = 16 * 1024

MAX_REDIRECTS = 3
REDIRECT_STATUS = frozenset({301, 302, 303, 307, 308})

DEFAULT_PORTS = {"http": 80, "https": 443}


class HttpTransport(Transport):
    """Transport over HTTP and HTTPS with byte ranges, redirects and persistent connections.

    Args:
        limits: Timeouts and rate limits. None uses the defaults of `DownloadLimits`.
        deadline_s: Seconds from now until every transfer is aborted. None for no deadline.
        token: Bearer token of every request. Redirects to another server do not get it. None sends no token.
        ca_file: File of the CA certificates (PEM) that replace the system's. None trusts the system's.

    Attributes:
        monitor: Deadline, limits and byte counts.

    Raises:
        SettingsError: `ca_file` is missing or holds no certificates, or `token` is not printable ASCII.
    """

    def __init__(
        self,
        limits: DownloadLimits | None = None,
        *,
        deadline_s: float | None = None,
        token: str | None = None,
        ca_file: str | None = None,
    ) -> None:
        if token is not None and not (token.isascii() and token.isprintable()):
            raise SettingsError("token: allowed are printable ASCII characters")
        self.monitor = TransferMonitor(limits, deadline_s=deadline_s)
        self._token, self._tls = token, _tls_context(ca_file)
        self._idle: dict[tuple[str, str, int], _Connection] = {}

    def get(self, url: str, *, start: int = 0, stop: int | None = None, etag: str | None = None) -> Response:
        """Return a range of a file; see `Transport.get`."""
        is_range = start > 0 or stop is not None
        headers = {} if etag is None else {"If-None-Match": etag}
        if is_range:
            headers["Range"] = f"bytes={start}-{'' if stop is None else stop - 1}"
        connection = self._follow_redirects(url, headers)
        status, found = connection.answer.status, connection.answer.headers.get("Content-Range", "")
        if status != 200 and not (status == 206 and is_range):
            connection.close()
            raise _status_error(url, connection.answer)
        if status == 206 and not found.startswith(f"bytes {start}-"):
            connection.close()
            raise HttpError(f"{url}: HTTP 206 with Content-Range {found!r}, not from byte {start}", status)
        # A server without ranges sends the bytes before the start too.
        body = self._body(url, connection, start if status == 200 else 0, None if stop is None else stop - start)
        return Response(self.monitor.count(url, body), connection.answer.headers.get("ETag"))

    def post(self, url: str, body: bytes) -> None:
        """Send a JSON object once; see `Transport.post`. The body of the answer is not read."""
        connection = self._request("POST", url, {"Content-Type": "application/json"}, body)
        connection.close()
        if connection.answer.status >= 300:
            raise _status_error(url, connection.answer)

    def _request(
        self, method: str, url: str, headers: dict[str, str], body: bytes | None = None, *, with_token: bool = True
    ) -> _Connection:
        """Send a request and return the answer, which has been read up to its body."""
        self.monitor.verify_time_left(url)
        self.monitor.start_request()
        headers = {"User-Agent": "airlora-edge", **headers}
        if with_token and self._token is not None:
            headers["Authorization"] = f"Bearer {self._token}"
        connection = None
        try:
            target = parse_url(url)
            log.debug("%s %s, range %s", method, printable(target._replace(auth=None)), headers.get("Range"))
            connection = self._idle.pop(_origin(target), None)
            if connection is None or not connection.socket.is_alive():
                connection = _Connection(target, self.monitor, self._tls)
            connection.request(method, target, headers, body)
        except (http.client.HTTPException, OSError, ValueError) as error:
            if connection is not None:
                connection.close()
            raise self._network_error(url, error) from error
        log.debug("HTTP %d, length %s", connection.answer.status, connection.answer.length)
        return connection

    def _follow_redirects(self, url: str, headers: dict[str, str]) -> _Connection:
        address, with_token = url, True
        for _ in range(MAX_REDIRECTS + 1):
            connection = self._request("GET", address, headers, with_token=with_token)
            target = connection.answer.headers.get("Location")
            if connection.answer.status not in REDIRECT_STATUS or target is None:
                return connection
            connection.close()
            try:
                before, address = parse_url(address), urljoin(address, target)
                after = parse_url(address)
                is_allowed = after.scheme in DEFAULT_PORTS and (before.scheme, after.scheme) != ("https", "http")
                with_token = with_token and is_allowed and _origin(before) == _origin(after)
            except ValueError:
                raise NetworkError(f"{url}: redirect to {target[:100]!r}, which is not an address") from None
            if not is_allowed:
                raise NetworkError(f"{url}: redirect to {address[:100]!r}, which is not allowed")
        raise NetworkError(f"{url}: more than {MAX_REDIRECTS} redirects")

    def _body(self, url: str, connection: _Connection, skip: int, num_wanted: int | None) -> Iterator[bytes]:
        answer, is_reusable = connection.answer, False
        try:
            while num_wanted is None or num_wanted > 0:
                chunk = answer.read1(CHUNK_BYTES)
                if not chunk:
                    break
                num_skipped = min(skip, len(chunk))
                self.monitor.skip(num_skipped)
                skip, chunk = skip - num_skipped, chunk[num_skipped:][:num_wanted]
                if num_wanted is not None:
                    num_wanted -= len(chunk)
                if chunk:
                    yield chunk
            if missing := answer.length if num_wanted is None else num_wanted:
                raise NetworkError(f"{url}: the answer ended {missing} bytes early")
            is_reusable = answer.isclosed() or answer.length == 0
        except (http.client.HTTPException, OSError) as error:
            raise self._network_error(url, error) from error
        finally:
            if is_reusable and not answer.will_close:
                answer.close()
                self._idle[connection.origin] = connection
            else:
                connection.close()

    def _network_error(self, url: str, error: Exception) -> NetworkError:
        if self.monitor.left_s <= 0:
            return NetworkError(f"{url}: deadline reached")
        text = getattr(error, "strerror", None) or str(error) or type(error).__name__
        return NetworkError(f"{url}: {text[:200].lower()}")


def _origin(target: Url) -> tuple[str, str, int]:
    if target.scheme not in DEFAULT_PORTS or not target.host:
        raise ValueError("not an http or https address")
    return target.scheme, target.host, target.port or DEFAULT_PORTS[target.scheme]


def _status_error(url: str, answer: http.client.HTTPResponse) -> HttpError:
    wait = answer.headers.get("Retry-After", "")
    return HttpError(
        f"{url}: HTTP {answer.status}", answer.status, float(wait) if re.fullmatch(r"[0-9]{1,6}", wait) else None
    )


def _tls_context(ca_file: str | None) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    if ca_file is None:
        context.load_default_certs()
        return context
    try:
        context.load_verify_locations(ca_file)
    except OSError as error:
        raise SettingsError(f"certificates {ca_file}: {(error.strerror or str(error)).lower()}") from error
    return context


class _Connection:
    """Connection to one server that carries one request at a time.

    Attributes:
        origin: Scheme, host and port of the server.
        answer: Answer to the last request. Its body may be unread.
    """

    answer: http.client.HTTPResponse

    def __init__(self, target: Url, monitor: TransferMonitor, tls: ssl.SSLContext) -> None:
        self.origin = scheme, host, port = _origin(target)
        host = host.strip("[]")
        timeout_s = min(monitor.before_read(), monitor.limits.connect_timeout_s)
        self.socket = _Socket(_connect(host, port, timeout_s), monitor)
        if scheme == "https":
            self.socket.start_tls(tls, host)
        self._http = http.client.HTTPConnection(host, port)
        self._http.sock = cast(socket.socket, self.socket)

    def request(self, method: str, target: Url, headers: dict[str, str], body: bytes | None) -> None:
        """Send a request, and read status and headers of the answer into `answer`.

        Args:
            method: HTTP method.
            target: Address with the path and the query of the request.
            headers: Headers besides `Host`.
            body: Body of the request. None sends no body.

        Raises:
            OSError: The connection broke, stalled, is too slow or reached the deadline.
            http.client.HTTPException: The answer is not valid HTTP.
        """
        self._http.request(method, target.request_uri, body, {"Host": str(target.netloc), **headers})
        self.answer = self._http.getresponse()

    def close(self) -> None:
        self.socket.disconnect()


class _Socket(io.RawIOBase):
    """Connected socket whose reads and writes stay within the limits of a monitor, with or without TLS.

    `http.client` closes its sockets and files after every answer. `close` therefore does nothing; `disconnect` closes.
    """

    def __init__(self, raw: socket.socket, monitor: TransferMonitor) -> None:
        super().__init__()
        self._raw, self._monitor = raw, monitor
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls: ssl.SSLObject | None = None

    def start_tls(self, context: ssl.SSLContext, host: str) -> None:
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_hostname=host)
        try:
            self._run_tls(self._tls.do_handshake)
        except BaseException:
            self.disconnect()
            raise

    def sendall(self, data: bytes) -> None:
        if self._tls is None:
            self._send(data)
            return
        while data:
            data = data[self._run_tls(self._tls.write, data) :]

    def makefile(self, _mode: str) -> io.BufferedReader:
        return io.BufferedReader(self)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        if self._tls is None:
            return self._receive_into(buffer)
        try:
            return int(self._run_tls(self._tls.read, len(buffer), buffer))
        except (ssl.SSLZeroReturnError, ssl.SSLEOFError):
            return 0

    def close(self) -> None:
        pass

    def disconnect(self) -> None:
        self._raw.close()

    def is_alive(self) -> bool:
        """Return whether the idle connection is open and silent; otherwise disconnect."""
        self._raw.settimeout(0.0)
        try:
            self._raw.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return True
        except OSError:
            pass
        self.disconnect()
        return False

    def _run_tls(self, operation: Any, *arguments: Any) -> Any:
        """Return the result of an operation of the TLS object, with the sends and receives that it needs."""
        while True:
            try:
                result = operation(*arguments)
            except ssl.SSLWantReadError:
                self._send(self._outgoing.read())
                buffer = bytearray(CHUNK_BYTES)
                num_bytes = self._receive_into(buffer)
                if num_bytes:
                    self._incoming.write(buffer[:num_bytes])
                else:
                    self._incoming.write_eof()
            else:
                self._send(self._outgoing.read())
                return result

    def _send(self, data: bytes) -> None:
        if data:
            self._raw.settimeout(self._monitor.before_read())
            self._raw.sendall(data)

    def _receive_into(self, buffer: Any) -> int:
        self._raw.settimeout(self._monitor.before_read())
        num_bytes = self._raw.recv_into(buffer)
        self._monitor.after_read(num_bytes)
        return num_bytes


def _connect(host: str, port: int, timeout_s: float) -> socket.socket:
    """Return a connection to one address of a host; the addresses share the timeout."""
    end_s = time.monotonic() + timeout_s
    last_error = OSError(f"{host} has no address")
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    for index, (family, kind, protocol, _, address) in enumerate(found):
        candidate = socket.socket(family, kind, protocol)
        try:
            candidate.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            candidate.settimeout(max(0.001, (end_s - time.monotonic()) / (len(found) - index)))
            candidate.connect(address)
        except OSError as error:
            candidate.close()
            last_error = error
        else:
            return candidate
    raise last_error
