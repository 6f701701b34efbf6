"""What a device and an `airlora serve` tell each other; a static server knows nothing of it, and that is no error."""

from __future__ import annotations

import json
import re
from typing import Any

from airlora.delivery.device.answers import HttpError
from airlora.delivery.device.link import HttpLink, Patience
from airlora.errors import NetworkError, SettingsError

__all__ = ["may_proceed", "send_report", "verify_device"]

MAX_ANSWER_BYTES = 4096

STATIC_STATUS = frozenset({404, 405, 501})
"""What servers of files answer to what is no file."""


def verify_device(name: str) -> str:
    """Return a device's name; raises `SettingsError` if it is not allowed."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", name):
        raise SettingsError.of("device", name, "1 to 64 of letters, digits, dot, dash and underscore")
    return name


def may_proceed(link: HttpLink, patience: Patience, url: str, device: str, *, version: int, stream: str) -> str | None:
    """Return why a device should wait with a release; None: it need not, or the server has nothing to say of that.

    Args:
        link: The server.
        patience: With it.
        url: Of the repository.
        device: Who asks.
        version: Of the release.
        stream: Its digest.

    Raises:
        NetworkError: No answer came, or the server refuses to give one: that is no leave to go on.
    """
    question = f"{url.rstrip('/')}/v1/devices/{device}/proceed?version={version}&stream={stream}"
    while True:
        answer = b""
        try:
            for chunk in link.get(question):
                answer += chunk
                if len(answer) > MAX_ANSWER_BYTES:
                    return None
            break
        except NetworkError as error:
            if _is_static(error):
                return None
            patience.failed(error)
    patience.progress()
    try:
        value = json.loads(answer)
    except (ValueError, RecursionError):
        return None
    if not isinstance(value, dict) or value.get("proceed") is not False:
        return None
    why = str(value.get("why", ""))[:200]
    return why if why.isprintable() and why else "the server holds it back"


def send_report(link: HttpLink, url: str, device: str, report: dict[str, Any]) -> bool:
    """Tell how a visit went, and return whether that is done with; a visit is as good without."""
    try:
        link.post(f"{url.rstrip('/')}/v1/devices/{device}/reports", json.dumps(report).encode())
    except NetworkError as error:
        return _is_static(error)
    return True


def _is_static(error: NetworkError) -> bool:
    """Whether the server has files alone, and nobody who would ever listen."""
    return isinstance(error, HttpError) and error.status in STATIC_STATUS
