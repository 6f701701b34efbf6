"""A server on a free port, in a thread."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import urllib3

from airlora.delivery import ReportStore, ServerPlan, SignedRepository, make_app, publish_stream
from airlora.testing.local_server import serving
from delivery import STREAMS, cuts_of, make_repository


@dataclass
class Served:
    url: str
    repository: SignedRepository
    reports: ReportStore

    def ask(self, path: str, method: str = "GET", **options: object) -> urllib3.BaseHTTPResponse:
        return urllib3.request(method, self.url + path, retries=False, timeout=20.0, **options)  # type: ignore[arg-type]


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Callable[..., Served]]:
    with contextlib.ExitStack() as stack:

        def start(**plan: object) -> Served:
            repository = make_repository(tmp_path)
            publish_stream(repository, STREAMS[0], cuts=cuts_of(STREAMS[0]))
            reports = ReportStore(tmp_path / "reports.sqlite")
            stack.callback(reports.close)
            app = make_app(ServerPlan(repository.folder, reports, **plan))  # type: ignore[arg-type]
            return Served(stack.enter_context(serving(app)), repository, reports)

        yield start
