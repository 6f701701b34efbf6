"""The HTTP server of a repository: files with ranges and caching, and an API for devices.

| path | content |
|---|---|
| `/metadata/`, `/targets/`, `/streams/` | static files of the repository |
| `/healthz` | health of the server |
| `/metrics` | metrics for Prometheus |
| `GET /v1/devices` | newest report of every device |
| `GET /v1/devices/NAME` | reports of one device |
| `POST /v1/devices/NAME/reports` | a new report of a device |
| `GET /v1/devices/NAME/proceed?version=N&stream=DIGEST` | whether the rollout allows the device to install a release |

If the server has tokens, `/`, `/metrics` and `/v1/devices` need the token of an operator.  The token of a device gives
access to the files and to the device's own reports.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from anyio import to_thread
from limits import RateLimitItem
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Scope

from airlora.delivery.server.access import CALLER, AccessMiddleware, Metrics, Tokens
from airlora.delivery.server.reports import DEVICE_NAME, DeviceReport, ReportStore
from airlora.delivery.server.rollout import Rollout
from airlora.errors import ReleaseError, SettingsError

__all__ = ["ServerPlan", "make_app", "verify_repository_folder"]

MAX_REPORT_BYTES = 16 * 1024

IMMUTABLE = "max-age=31536000, immutable, no-transform"
"""Cache directives of files whose name contains a version or a digest, so that their content never changes."""

REVALIDATE = "no-cache, no-transform"


@dataclass(frozen=True)
class ServerPlan:
    """Options of the server.

    Args:
        repository: Folder of the repository.
        reports: Store of the devices' reports.
        rollout: Staged rollout of new releases.
        tokens: Tokens that requests must carry.  None allows requests without a token.
        rate: Largest request rate of one device.  None sets no limit.
    """

    repository: Path
    reports: ReportStore
    rollout: Rollout = field(default_factory=Rollout)
    tokens: Tokens | None = None
    rate: RateLimitItem | None = None


class _Files(StaticFiles):
    """Static files of one folder, without the temporary files of interrupted writes.

    Args:
        directory: The folder.
        is_private: Whether shared caches must not store the files, because they would serve them without a token.
    """

    def __init__(self, directory: Path, *, is_private: bool) -> None:
        super().__init__(directory=directory)
        self._immutable = f"{'private' if is_private else 'public'}, {IMMUTABLE}"

    def file_response(
        self, full_path: str | os.PathLike[str], stat_result: os.stat_result, scope: Scope, status_code: int = 200
    ) -> Response:
        name = os.path.basename(full_path)
        if name.startswith("."):
            raise HTTPException(404)
        answer = super().file_response(full_path, stat_result, scope, status_code)
        answer.headers["Cache-Control"] = (
            REVALIDATE if name == "timestamp.json" or name.endswith("bundle.z") else self._immutable
        )
        if name.endswith((".airs", ".z")):
            answer.headers["Content-Type"] = "application/octet-stream"
        return answer


def verify_repository_folder(folder: Path) -> None:
    """Raise `ReleaseError` unless a folder holds a repository."""
    if not (folder / "metadata" / "1.root.json").is_file():
        raise ReleaseError(
            f"{folder}: not a repository (no metadata/1.root.json); create one by `airlora repo init {folder}`"
        )


def make_app(plan: ServerPlan, *, pages: Sequence[Route] = ()) -> ASGIApp:
    """Return the server as an ASGI application.

    Args:
        plan: Options of the server.
        pages: Additional routes, such as those of the dashboard.  The same access rules apply to them.

    Raises:
        ReleaseError: The folder holds no repository.
    """
    verify_repository_folder(plan.repository)
    metrics = Metrics()
    api = _Api(plan, metrics)
    routes = [
        *(
            Mount(f"/{name}", _Files(plan.repository / name, is_private=plan.tokens is not None))
            for name in ("metadata", "targets", "streams")
        ),
        Route("/healthz", api.health),
        Route("/metrics", api.metrics),
        Route("/v1/devices", api.devices),
        Route("/v1/devices/{device}", api.device),
        Route("/v1/devices/{device}/reports", api.report, methods=["POST"]),
        Route("/v1/devices/{device}/proceed", api.proceed),
        *pages,
    ]
    app = Starlette(routes=routes, exception_handlers={HTTPException: _refusal})
    return AccessMiddleware(app, metrics, tokens=plan.tokens, rate=plan.rate)


async def _refusal(_request: Request, error: Exception) -> Response:
    status = error.status_code if isinstance(error, HTTPException) else 500
    detail = error.detail if isinstance(error, HTTPException) else "internal error"
    # Caches must not store a 404: the next root's file does not exist yet, but may exist tomorrow.
    return PlainTextResponse(f"{detail}\n", status, headers={"Cache-Control": REVALIDATE})


class _Api:
    def __init__(self, plan: ServerPlan, metrics: Metrics) -> None:
        self._plan, self._metrics = plan, metrics

    async def health(self, _request: Request) -> Response:
        ok = (self._plan.repository / "metadata" / "timestamp.json").is_file()
        return JSONResponse({"status": "ok" if ok else "no repository"}, 200 if ok else 503)

    async def metrics(self, _request: Request) -> Response:
        return Response(generate_latest(self._metrics.registry), media_type=CONTENT_TYPE_LATEST)

    async def devices(self, request: Request) -> Response:
        caller = request.scope.get(CALLER)
        if caller is not None and not caller.is_operator:
            raise HTTPException(403, "requires the token of an operator")
        return JSONResponse(await to_thread.run_sync(self._plan.reports.latest))

    async def device(self, request: Request) -> Response:
        device = _device(request)
        found = await to_thread.run_sync(self._plan.reports.of_device, device)
        if not found:
            raise HTTPException(404, f"device {device} has not reported")
        return JSONResponse(found)

    async def report(self, request: Request) -> Response:
        device = _device(request)
        body = b""
        async for chunk in request.stream():
            body += chunk
            if len(body) > MAX_REPORT_BYTES:
                raise HTTPException(413, f"report larger than {MAX_REPORT_BYTES} bytes")
        try:
            report = DeviceReport.from_bytes(body)
        except SettingsError as error:
            raise HTTPException(422, str(error)) from error
        try:
            await to_thread.run_sync(self._plan.reports.add, device, report)
        except SettingsError as error:
            raise HTTPException(507, str(error)) from error
        self._metrics.reports.labels(str(report.failed).lower()).inc()
        return Response(status_code=204)

    async def proceed(self, request: Request) -> Response:
        device, asked = _device(request), request.query_params
        text, stream = asked.get("version", ""), asked.get("stream", "")
        if not re.fullmatch(r"[0-9]{1,15}", text):
            raise HTTPException(422, f"version = {text[:40]!r}: allowed is a whole number")
        if not re.fullmatch(r"[0-9a-f]{64}", stream):
            raise HTTPException(422, f"stream = {stream[:80]!r}: allowed is a digest of 64 hexadecimal digits")
        may, why = await to_thread.run_sync(self._plan.rollout.decide, device, int(text), stream, self._plan.reports)
        return JSONResponse({"proceed": may, "why": why}, headers={"Cache-Control": "no-store"})


def _device(request: Request) -> str:
    """Return the device in the path, if the caller is this device, an operator, or needs no token."""
    device: str = request.path_params["device"]
    if not re.fullmatch(DEVICE_NAME, device):
        raise HTTPException(422, "a device name has 1 to 64 letters, digits, dots, dashes and underscores")
    caller = request.scope.get(CALLER)
    if caller is not None and not caller.is_operator and caller.name != device:
        raise HTTPException(403, f"the token belongs to another device than {device}")
    return device
