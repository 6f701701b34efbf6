"""HTTP over sockets that stall, lie or break."""

from __future__ import annotations

import http.server
import logging
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from airlora.delivery import DownloadLimits, HttpTransport
from airlora.delivery.device.transport import HttpError
from airlora.errors import NetworkError, SettingsError

Serve = Callable[[list[bytes | float]], str]


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Start a server that answers every connection with a script of bytes and of seconds of silence."""
    listeners: list[socket.socket] = []

    def start(script: list[bytes | float]) -> str:
        listener = socket.create_server(("127.0.0.1", 0))
        listeners.append(listener)

        def answer(connection: socket.socket) -> None:
            with connection:
                connection.recv(4096)
                for part in script:
                    if isinstance(part, bytes):
                        try:
                            connection.sendall(part)
                        except OSError:
                            return
                    else:
                        time.sleep(part)

        def accept() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                threading.Thread(target=answer, args=(connection,), daemon=True).start()

        threading.Thread(target=accept, daemon=True).start()
        return f"http://127.0.0.1:{listener.getsockname()[1]}/x"

    yield start
    for listener in listeners:
        listener.close()


def head(status: str = "200 OK", **headers: object) -> bytes:
    lines = [f"HTTP/1.1 {status}", *(f"{name.replace('_', '-')}: {value}" for name, value in headers.items())]
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


def fetch(url: str, *, deadline_s: float = 60.0, limits: DownloadLimits | None = None, **part: int) -> bytes:
    transport = HttpTransport(limits, deadline_s=deadline_s)
    return b"".join(transport.get(url, **part))


def test_a_silent_server_does_not_exceed_the_deadline(serve: Serve) -> None:
    url = serve([head(Content_Length=100), b"a" * 50, 20.0, b"a" * 50])
    began = time.monotonic()
    with pytest.raises(NetworkError):
        fetch(url, deadline_s=1.0)
    assert time.monotonic() - began < 10.0


def test_a_server_that_never_answers_times_out(serve: Serve) -> None:
    with pytest.raises(NetworkError, match="timed out"):
        fetch(serve([20.0]), limits=DownloadLimits(stall_timeout_s=0.2))


def test_a_server_that_stalls_in_the_body_times_out(serve: Serve) -> None:
    url = serve([head(Content_Length=100), b"a" * 50, 20.0])
    with pytest.raises(NetworkError, match="timed out"):
        fetch(url, limits=DownloadLimits(stall_timeout_s=0.2))


def test_a_truncated_answer_is_an_error(serve: Serve) -> None:
    with pytest.raises(NetworkError):
        fetch(serve([head(Content_Length=100), b"a" * 50]))
    with pytest.raises(NetworkError, match="50 bytes early"):
        fetch(serve([head(Connection="close"), b"a" * 50]), start=0, stop=100)


def test_a_server_without_ranges_is_supported(serve: Serve) -> None:
    url = serve([head(Content_Length=10), b"0123456789"])
    assert fetch(url, start=3, stop=7) == b"3456"
    assert fetch(url, start=8) == b"89"


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (head("206 Partial Content", Content_Range="bytes 0-3/10", Content_Length=4) + b"0123", "not from byte 3"),
        (head("206 Partial Content", Content_Length=4) + b"0123", "not from byte 3"),
        (head("416 Range Not Satisfiable", Content_Length=0), "HTTP 416"),
        (head("304 Not Modified"), "HTTP 304"),
        (head("500 Oops", Content_Length=0), "HTTP 500"),
    ],
)
def test_answers_without_the_requested_range_are_errors(serve: Serve, answer: bytes, says: str) -> None:
    with pytest.raises(HttpError, match=says):
        fetch(serve([answer]), start=3, stop=7)


@pytest.mark.parametrize("answer", [b"", b"garbage\r\n\r\n", b"HTTP/9.9 what\r\n\r\n", b"\x00" * 100])
def test_answers_that_are_not_http_are_one_line_errors(serve: Serve, answer: bytes) -> None:
    with pytest.raises(NetworkError) as error:
        fetch(serve([answer]))
    assert "\n" not in str(error.value)


def test_bytes_beyond_the_requested_range_are_ignored(serve: Serve) -> None:
    answer = head("206 Partial Content", Content_Range="bytes 3-6/10", Content_Length=1000) + b"a" * 1000
    assert fetch(serve([answer]), start=3, stop=7) == b"aaaa"


def test_the_retry_after_header_is_read(serve: Serve) -> None:
    with pytest.raises(HttpError) as error:
        fetch(serve([head("503 Busy", Retry_After=7, Content_Length=0)]))
    assert (error.value.retry_after_s, error.value.is_transient) == (7.0, True)


def test_an_unreachable_server_is_a_network_error() -> None:
    with pytest.raises(NetworkError, match="refused"):
        fetch("http://127.0.0.1:9/x")
    with pytest.raises(NetworkError):
        fetch("http://no.such.host.invalid/x")


DRIP: list[bytes | float] = [part for _ in range(400) for part in (b"x", 0.05)]


@pytest.mark.parametrize(
    "script",
    [
        [b"HTTP/1.1 200 OK\r\nX-Slow: ", *DRIP],
        [head("302 Found", Location="/elsewhere", Content_Length=1000), *DRIP],
        [head("200 OK", Connection="close"), *DRIP],
        [b"HTTP/1.0 200 OK\r\n\r\n", *DRIP],
        [head(Content_Length=1000), *DRIP],
    ],
    ids=["headers", "redirect", "close", "http1.0", "body"],
)
def test_a_dripping_server_does_not_exceed_the_deadline(serve: Serve, script: list[bytes | float]) -> None:
    began = time.monotonic()
    with pytest.raises(NetworkError, match=r"deadline|redirects"):
        fetch(serve(script), deadline_s=0.7)
    assert time.monotonic() - began < 5.0


def test_a_dripping_server_is_slower_than_the_minimum_rate(serve: Serve) -> None:
    limits = DownloadLimits(min_rate_bps=1000.0, min_rate_grace_s=0.5)
    for script in ([b"HTTP/1.1 200 OK\r\nX-Slow: ", *DRIP], [head("200 OK"), *DRIP]):
        with pytest.raises(NetworkError, match="slower than 1000"):
            fetch(serve(script), limits=limits)
    # Bytes before the start count too, from a server without ranges.
    with pytest.raises(NetworkError, match="slower than 1000"):
        fetch(serve([head(Content_Length=1000), *DRIP]), limits=limits, start=900)


def test_the_body_of_the_answer_to_a_report_is_not_read(serve: Serve) -> None:
    transport = HttpTransport()
    began = time.monotonic()
    transport.post(serve([head("200 OK", Content_Length=10_000_000), *DRIP]), b"{}")
    assert time.monotonic() - began < 5.0


def test_endless_headers_are_an_error(serve: Serve) -> None:
    with pytest.raises(NetworkError, match="bytes for a body of 0"):
        fetch(serve([b"HTTP/1.1 100 Continue\r\n\r\n" * 20_000]))


@pytest.mark.parametrize("wait", ["\xb2", "-1", "1e9", "Wed, 21 Oct 2026 07:28:00 GMT", "9" * 30, ""])
def test_an_invalid_retry_after_header_is_ignored(serve: Serve, wait: str) -> None:
    answer = f"HTTP/1.1 503 Busy\r\nRetry-After: {wait}\r\nContent-Length: 0\r\n\r\n".encode("latin-1")
    with pytest.raises(HttpError) as error:
        fetch(serve([answer]))
    assert error.value.retry_after_s is None


def test_redirects_to_another_server_do_not_get_the_token(serve: Serve) -> None:
    seen: list[bytes] = []
    goal = socket.create_server(("127.0.0.1", 0))

    def answer() -> None:
        for _ in range(2):
            connection, _ = goal.accept()
            with connection:
                seen.append(connection.recv(4096))
                connection.sendall(head(Content_Length=2, Connection="close") + b"ok")

    threading.Thread(target=answer, daemon=True).start()
    there = f"http://127.0.0.1:{goal.getsockname()[1]}/y"
    transport = HttpTransport(token="0123456789abcdef0")  # noqa: S106
    assert b"".join(transport.get(serve([head("302 Found", Location=there, Content_Length=0)]))) == b"ok"
    assert b"".join(transport.get(there)) == b"ok"
    goal.close()
    assert [b"Bearer" in request for request in seen] == [False, True]


@pytest.mark.parametrize("place", ["file:///etc/passwd", "ftp://example.org/x", "/x"])
def test_redirects_to_other_schemes_and_loops_are_refused(serve: Serve, place: str) -> None:
    with pytest.raises(NetworkError, match="not allowed|more than 3 redirects|not an address"):
        fetch(serve([head("302 Found", Location=place, Content_Length=0)]))


@pytest.mark.parametrize("place", ["http://[", "http://[bad]/", "//[::1", "https://[1:2"])
def test_a_redirect_to_an_invalid_address_is_refused(serve: Serve, place: str) -> None:
    with pytest.raises(NetworkError, match="not an address"):
        fetch(serve([head("302 Found", Location=place, Content_Length=0)]))


def test_the_addresses_of_a_host_share_the_connect_timeout(monkeypatch: pytest.MonkeyPatch, serve: Serve) -> None:
    silent = [socket.socket() for _ in range(3)]
    callers = []
    for listener in silent:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for _ in range(3):
            caller = socket.socket()
            caller.setblocking(False)
            caller.connect_ex(listener.getsockname())
            callers.append(caller)
    good = int(serve([head(Content_Length=2) + b"ok"]).rpartition(":")[2].partition("/")[0])
    ports = [listener.getsockname()[1] for listener in silent]

    def addresses(ports: list[int]) -> object:
        return lambda *_, **__: [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port)) for port in ports]

    began = time.monotonic()
    monkeypatch.setattr(socket, "getaddrinfo", addresses(ports))
    with pytest.raises(NetworkError):
        fetch("http://many.example/x", deadline_s=1.5)
    assert time.monotonic() - began < 1.5 + 1.0
    # An address that answers is reached after a silent one.
    monkeypatch.setattr(socket, "getaddrinfo", addresses([ports[0], good]))
    assert fetch("http://many.example/x", deadline_s=6.0) == b"ok"
    for each in (*silent, *callers):
        each.close()


def test_endless_trailers_are_an_error(serve: Serve) -> None:
    flood = [b"X: y\r\n" * 2000] * 100
    url = serve([head(Transfer_Encoding="chunked") + b"1\r\na\r\n0\r\n", *flood, 30.0])
    began = time.monotonic()
    with pytest.raises(NetworkError, match="bytes for a body of 1"):
        fetch(url)
    assert time.monotonic() - began < 15.0


def test_a_slow_tls_handshake_does_not_exceed_the_deadline(serve: Serve) -> None:
    url = serve([b"\x16\x03\x03\x40\x00", *DRIP]).replace("http:", "https:")
    began = time.monotonic()
    with pytest.raises(NetworkError, match="deadline"):
        fetch(url, deadline_s=0.7)
    assert time.monotonic() - began < 5.0


class CountingHandler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    connections: list[object]
    is_closing = False

    def setup(self) -> None:
        super().setup()
        self.connections.append(self.client_address)

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"ok")
        self.close_connection = self.is_closing

    def log_message(self, *_: object) -> None:
        pass


@pytest.mark.parametrize(("is_closing", "num_connections"), [(False, 1), (True, 3)])
def test_a_connection_is_reused_until_the_server_closes_it(*, is_closing: bool, num_connections: int) -> None:
    handler = type("Handler", (CountingHandler,), {"connections": [], "is_closing": is_closing})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    transport, url = HttpTransport(), f"http://127.0.0.1:{server.server_address[1]}/x"
    for _ in range(3):
        assert b"".join(transport.get(url)) == b"ok"
        time.sleep(0.1)
    server.shutdown()
    server.server_close()
    assert len(handler.connections) == num_connections


def test_the_token_appears_neither_in_logs_nor_in_errors(serve: Serve, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "airlora")
    url = serve([head("403 Forbidden", Content_Length=0)]).replace("http://", "http://user:password@")
    with pytest.raises(HttpError):
        b"".join(HttpTransport(token="0123456789abcdef0").get(url))  # noqa: S106
    assert "GET http://127.0.0.1" in caplog.text
    assert "0123456789abcdef0" not in caplog.text
    assert "password" not in caplog.text
    with pytest.raises(SettingsError, match="token: allowed are printable ASCII characters"):
        HttpTransport(token="secret\n")  # noqa: S106


def test_a_file_without_certificates_is_refused(tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_text("no certificate")
    for name in ("ca.pem", "missing.pem"):
        with pytest.raises(SettingsError, match=f"certificates .*{name}"):
            HttpTransport(ca_file=str(tmp_path / name))


@pytest.mark.parametrize("body", [b"5\r\nab", b"2\r\nab\r\n", b"zz\r\n"])
def test_a_truncated_chunked_answer_is_an_error(serve: Serve, body: bytes) -> None:
    with pytest.raises(NetworkError):
        fetch(serve([head(Transfer_Encoding="chunked") + body]))
