"""HTTP over sockets that stall, lie or break off."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from airlora.delivery import HttpLink, LinkLimits
from airlora.delivery.device.answers import HttpError
from airlora.errors import NetworkError

Serve = Callable[[list[bytes | float]], str]


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Start a server that gives every connection the same: bytes, and seconds of silence between them."""
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


def fetch(url: str, *, deadline_s: float = 60.0, limits: LinkLimits | None = None, **part: int) -> bytes:
    link = HttpLink(limits or LinkLimits(), time.monotonic() + deadline_s)
    return b"".join(link.get(url, **part))


def test_a_silent_server_does_not_outlast_the_deadline(serve: Serve) -> None:
    url = serve([head(Content_Length=100), b"a" * 50, 20.0, b"a" * 50])
    began = time.monotonic()
    with pytest.raises(NetworkError):
        fetch(url, deadline_s=1.0)
    assert time.monotonic() - began < 10.0


def test_a_server_that_says_nothing_at_all(serve: Serve) -> None:
    with pytest.raises(NetworkError, match="timed out"):
        fetch(serve([20.0]), limits=LinkLimits(stall_timeout_s=0.2))


def test_a_server_that_begins_to_stall(serve: Serve) -> None:
    url = serve([head(Content_Length=100), b"a" * 50, 20.0])
    with pytest.raises(NetworkError, match="timed out"):
        fetch(url, limits=LinkLimits(stall_timeout_s=0.2))


def test_an_answer_that_breaks_off(serve: Serve) -> None:
    with pytest.raises(NetworkError):
        fetch(serve([head(Content_Length=100), b"a" * 50]))
    with pytest.raises(NetworkError, match="50 bytes too early"):
        fetch(serve([head(Connection="close"), b"a" * 50]), start=0, stop=100)


def test_a_server_without_ranges_is_skipped_through(serve: Serve) -> None:
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
def test_answers_that_are_not_what_was_asked_for(serve: Serve, answer: bytes, says: str) -> None:
    with pytest.raises(HttpError, match=says):
        fetch(serve([answer]), start=3, stop=7)


@pytest.mark.parametrize("answer", [b"", b"garbage\r\n\r\n", b"HTTP/9.9 what\r\n\r\n", b"\x00" * 100])
def test_answers_that_are_no_http(serve: Serve, answer: bytes) -> None:
    with pytest.raises(NetworkError) as error:
        fetch(serve([answer]))
    assert "\n" not in str(error.value)


def test_more_than_was_asked_for_is_left(serve: Serve) -> None:
    answer = head("206 Partial Content", Content_Range="bytes 3-6/10", Content_Length=1000) + b"a" * 1000
    assert fetch(serve([answer]), start=3, stop=7) == b"aaaa"


def test_waits_that_servers_ask_for_are_kept_within_limits(serve: Serve) -> None:
    with pytest.raises(HttpError) as error:
        fetch(serve([head("503 Busy", Retry_After=7, Content_Length=0)]))
    assert (error.value.wait_s, error.value.is_passing) == (7.0, True)


def test_nobody_is_there() -> None:
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
def test_who_drips_does_not_outlast_the_deadline(serve: Serve, script: list[bytes | float]) -> None:
    """Each byte is within the time that a read may take; all of them are not within the deadline."""
    began = time.monotonic()
    with pytest.raises(NetworkError, match=r"deadline|redirects"):
        fetch(serve(script), deadline_s=0.7)
    assert time.monotonic() - began < 5.0


def test_who_drips_is_given_up_without_a_deadline(serve: Serve) -> None:
    limits = LinkLimits(least_rate_bps=1000.0, patience_s=0.5)
    for script in ([b"HTTP/1.1 200 OK\r\nX-Slow: ", *DRIP], [head("200 OK"), *DRIP]):
        with pytest.raises(NetworkError, match="slower than 1000"):
            fetch(serve(script), limits=limits)
    # Bytes before the start, from a server without ranges, are bytes that have to come too.
    with pytest.raises(NetworkError, match="slower than 1000"):
        fetch(serve([head(Content_Length=1000), *DRIP]), limits=limits, start=900)


def test_the_answer_to_a_report_is_not_waited_for(serve: Serve) -> None:
    link = HttpLink()
    began = time.monotonic()
    link.post(serve([head("200 OK", Content_Length=10_000_000), *DRIP]), b"{}")
    assert time.monotonic() - began < 5.0


def test_headers_without_end(serve: Serve) -> None:
    with pytest.raises(NetworkError, match="bytes of headers"):
        fetch(serve([b"HTTP/1.1 100 Continue\r\n\r\n" * 20_000]))


@pytest.mark.parametrize("wait", ["\xb2", "-1", "1e9", "Wed, 21 Oct 2026 07:28:00 GMT", "9" * 30, ""])
def test_waits_that_are_no_number_are_left(serve: Serve, wait: str) -> None:
    answer = f"HTTP/1.1 503 Busy\r\nRetry-After: {wait}\r\nContent-Length: 0\r\n\r\n".encode("latin-1")
    with pytest.raises(HttpError) as error:
        fetch(serve([answer]))
    assert error.value.wait_s is None


def test_redirects_are_followed_without_the_token(serve: Serve) -> None:
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
    link = HttpLink(token="0123456789abcdef0")  # noqa: S106
    assert b"".join(link.get(serve([head("302 Found", Location=there, Content_Length=0)]))) == b"ok"
    assert b"".join(link.get(there)) == b"ok"
    goal.close()
    assert [b"Bearer" in request for request in seen] == [False, True]


@pytest.mark.parametrize("place", ["file:///etc/passwd", "ftp://example.org/x", "/x"])
def test_redirects_that_are_not_followed(serve: Serve, place: str) -> None:
    with pytest.raises(NetworkError, match="not followed|more than 3 redirects|is no address"):
        fetch(serve([head("302 Found", Location=place, Content_Length=0)]))


@pytest.mark.parametrize("place", ["http://[", "http://[bad]/", "//[::1", "https://[1:2"])
def test_a_redirect_to_no_address(serve: Serve, place: str) -> None:
    with pytest.raises(NetworkError, match="is no address"):
        fetch(serve([head("302 Found", Location=place, Content_Length=0)]))


def test_the_addresses_of_a_host_share_the_time(monkeypatch: pytest.MonkeyPatch, serve: Serve) -> None:
    """Silent ones first: a listener whose queue is full answers nobody."""
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
    # One that answers is reached behind one that does not.
    monkeypatch.setattr(socket, "getaddrinfo", addresses([ports[0], good]))
    assert fetch("http://many.example/x", deadline_s=6.0) == b"ok"
    for each in (*silent, *callers):
        each.close()


def test_a_flood_behind_the_last_byte_is_cut_off(serve: Serve) -> None:
    flood = [b"X: y\r\n" * 2000] * 100
    url = serve([head(Transfer_Encoding="chunked") + b"1\r\na\r\n0\r\n", *flood, 30.0])
    began = time.monotonic()
    with pytest.raises(NetworkError, match="bytes came for 1 of content|broken|line"):
        fetch(url)
    assert time.monotonic() - began < 15.0
