"""What a device and an `airlora serve` tell each other; a static server knows nothing of it, and that is no error."""

from __future__ import annotations

import json
import re
from typing import Any

from airlora.edge.link import HttpLink
from airlora.errors import NetworkError, SettingsError

__all__ = ["may_proceed", "send_report", "verify_device"]

MAX_ANSWER_BYTES = 4096


def verify_device(name: str) -> str:
    """Return a device's name; raises `SettingsError` if it is not allowed."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", name):
        raise SettingsError.of("device", name, "1 to 64 of letters, digits, dot, dash and underscore")
    return name


def may_proceed(link: HttpLink, url: str, device: str, version: int) -> str | None:
    """Return why a device should wait with a release; None: it need not, or nobody answers."""
    answer = b""
    try:
        for chunk in link.get(f"{url.rstrip('/')}/v1/devices/{device}/proceed?version={version}"):
            answer += chunk
            if len(answer) > MAX_ANSWER_BYTES:
                return None
        value = json.loads(answer)
    except (NetworkError, ValueError, RecursionError):
        return None
    if not isinstance(value, dict) or value.get("proceed") is not False:
        return None
    why = str(value.get("why", ""))[:200]
    return why if why.isprintable() and why else "the server holds it back"


def send_report(link: HttpLink, url: str, device: str, report: dict[str, Any]) -> bool:
    """Tell how a visit went, and return whether somebody took it; a visit is as good without."""
    try:
        link.post(f"{url.rstrip('/')}/v1/devices/{device}/reports", json.dumps(report).encode())
    except NetworkError:
        return False
    return True
