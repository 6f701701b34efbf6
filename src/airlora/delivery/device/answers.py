"""What a server's answer says before its content, and what is wrong with it."""

from __future__ import annotations

import re

import urllib3

from airlora.errors import NetworkError

__all__ = ["HttpError", "refusal", "verify_answer"]

RETRIED_STATUS = frozenset({408, 425, 429, 500, 502, 503, 504})


class HttpError(NetworkError):
    """The server answered, but not with what was asked for.

    Args:
        message: What is wrong.
        status: HTTP's number.
        wait_s: How long the server asks to wait before the next attempt, if it does.
    """

    def __init__(self, message: str, status: int, wait_s: float | None = None) -> None:
        super().__init__(message)
        self.status, self.wait_s = status, wait_s

    @property
    def is_passing(self) -> bool:
        """Whether it is worth asking again."""
        return self.status in RETRIED_STATUS


def verify_answer(url: str, answer: urllib3.BaseHTTPResponse, *, is_part: bool, start: int) -> int:
    """Return how many bytes to skip: all before `start` from a server that knows no ranges."""
    if answer.status == 206 and is_part:
        place = answer.headers.get("Content-Range", "")
        if not place.startswith(f"bytes {start}-"):
            raise HttpError(f"{url}: answered with part {place!r}, not from byte {start}", answer.status)
        return 0
    if answer.status == 200:
        return start
    raise refusal(url, answer)


def refusal(url: str, answer: urllib3.BaseHTTPResponse) -> HttpError:
    """Return an answer that is none as an error."""
    wait = answer.headers.get("Retry-After", "")
    wait_s = float(wait) if re.fullmatch(r"[0-9]{1,6}", wait) else None
    return HttpError(f"{url}: HTTP {answer.status}", answer.status, wait_s)
