"""HTTP over sockets that stall, lie or break off."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from airlora.edge import HttpLink, LinkLimits
from airlora.edge.link import HttpError
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
