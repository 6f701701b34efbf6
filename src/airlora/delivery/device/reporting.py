"""Requests of a device to `airlora serve`: may it install a release, and the report of a visit.

A server of static files answers neither, which is no error: the device then installs what it wants.
"""

from __future__ import annotations

import json
from typing import Any

from airlora.delivery.device.transport import HttpError, RetryPolicy, Transport, fetch_file
from airlora.delivery.protocol import PROCEED_PATH, REPORTS_PATH
from airlora.delivery.repository.manifest import Manifest
from airlora.errors import NetworkError

__all__ = ["fetch_hold_reason", "send_report"]

MAX_ANSWER_BYTES = 4096

STATIC_STATUS = frozenset({404, 405, 501})
"""HTTP status codes of servers that serve files only."""


def fetch_hold_reason(
    transport: Transport, retries: RetryPolicy, url: str, device: str, manifest: Manifest
) -> str | None:
    """Return why the server holds a device back from a release. None if the device may install it.

    Args:
        transport: Transport of the visit.
        retries: Retries of the visit.
        url: Address of the repository.
        device: Name of the device.
        manifest: Manifest of the release.

    Raises:
        NetworkError: The server did not answer or refused the question. The device must not proceed then.
    """
    query = f"version={manifest.version}&stream={manifest.stream.digest}"
    question = f"{url.rstrip('/')}{PROCEED_PATH.format(device=device)}?{query}"
    try:
        answer, _ = fetch_file(transport, question, retries, max_bytes=MAX_ANSWER_BYTES, can_resume=False)
    except HttpError as error:
        if error.status in STATIC_STATUS:
            return None
        raise
    try:
        value = json.loads(answer) if len(answer) <= MAX_ANSWER_BYTES else None
    except (ValueError, RecursionError):
        return None
    if not isinstance(value, dict) or value.get("proceed") is not False:
        return None
    why = str(value.get("why", ""))[:200]
    return why if why.isprintable() and why else "the server holds it back"


def send_report(transport: Transport, url: str, device: str, report: dict[str, Any]) -> bool:
    """Send the report of a visit and return whether it needs no second attempt.

    Args:
        transport: Transport of the visit.
        url: Address of the repository.
        device: Name of the device.
        report: Fields of a `DeviceReport`.
    """
    try:
        transport.post(f"{url.rstrip('/')}{REPORTS_PATH.format(device=device)}", json.dumps(report).encode())
    except NetworkError as error:
        return isinstance(error, HttpError) and error.status in STATIC_STATUS
    return True
