"""Pages of the dashboard: `/`, its changing part at `/fragment`, and server-sent events about changes at `/events`.

The pages load nothing from other servers, are readable without scripts, and are read-only.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from importlib import resources
from pathlib import Path

import jinja2
from anyio import to_thread
from sse_starlette import EventSourceResponse
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Route

from airlora.delivery.server.app import ServerPlan
from airlora.delivery.server.dashboard.figure import accuracy_figure
from airlora.delivery.server.dashboard.overview import read_overview
from airlora.errors import AirloraError

__all__ = ["dashboard_routes"]

POLL_S = 1.0
"""Interval between two checks for changes, s."""

HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": (
        "default-src 'none'; style-src 'unsafe-inline'; script-src 'self'; connect-src 'self'; base-uri 'none'; "
        "form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}


def dashboard_routes(plan: ServerPlan) -> list[Route]:
    """Return the routes of the dashboard for the argument `pages` of `make_app`."""
    pages = _Pages(plan)
    return [
        Route("/", pages.whole),
        Route("/fragment", pages.fragment),
        Route("/events", pages.events),
        Route("/dashboard.js", pages.script),
    ]


class _Pages:
    def __init__(self, plan: ServerPlan) -> None:
        self._plan = plan
        self._templates = jinja2.Environment(
            loader=jinja2.PackageLoader("airlora.delivery.server.dashboard"),
            autoescape=True,
            undefined=jinja2.StrictUndefined,
        )

    async def whole(self, _request: Request) -> Response:
        return await to_thread.run_sync(self._render, "page.html.j2")

    async def fragment(self, _request: Request) -> Response:
        return await to_thread.run_sync(self._render, "live.html.j2")

    async def script(self, _request: Request) -> Response:
        text = (resources.files(__package__) / "dashboard.js").read_text(encoding="utf-8")
        return Response(text, media_type="text/javascript", headers={"Cache-Control": "no-cache"})

    async def events(self, _request: Request) -> Response:
        return EventSourceResponse(self._changes(), ping=15)

    async def _changes(self) -> AsyncIterator[dict[str, str]]:
        seen: object = None
        while True:
            state = await to_thread.run_sync(self._stamp)
            if state != seen:
                seen = state
                yield {"event": "change", "data": "1"}
            await asyncio.sleep(POLL_S)

    def _stamp(self) -> tuple[int, int]:
        path: Path = self._plan.repository / "metadata" / "timestamp.json"
        return self._plan.reports.last_id(), path.stat().st_mtime_ns if path.exists() else 0

    def _render(self, template: str) -> Response:
        try:
            overview = read_overview(self._plan)
        except AirloraError as error:
            return Response(f"{error}\n", 503, media_type="text/plain", headers=HEADERS)
        page = self._templates.get_template(template).render(overview=overview, figure=accuracy_figure(overview))
        return HTMLResponse(page, headers=HEADERS)
