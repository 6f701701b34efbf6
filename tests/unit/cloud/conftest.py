"""A server on a free port, in a thread."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import urllib3
import uvicorn

from airlora.cloud import ReportStore, ServerPlan, make_app
from airlora.release import SignedRepository, publish_stream
from delivery import STREAMS, cuts_of, make_repository


@dataclass
class Served:
    url: str
    repository: SignedRepository
    reports: ReportStore

    def ask(self, path: str, method: str = "GET", **options: object) -> urllib3.BaseHTTPResponse:
        return urllib3.request(method, self.url + path, retries=False, timeout=20.0, **options)  # type: ignore[arg-type]


@contextlib.contextmanager
def running(app: object) -> Iterator[str]:
    server = uvicorn.Server(uvicorn.Config(app, log_level="critical", access_log=False))  # type: ignore[arg-type]
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        try:
            while not server.started:
                time.sleep(0.01)
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join(20)


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Callable[..., Served]]:
    with contextlib.ExitStack() as stack:

        def start(**plan: object) -> Served:
            repository = make_repository(tmp_path)
            publish_stream(repository, STREAMS[0], cuts=cuts_of(STREAMS[0]))
            reports = ReportStore(tmp_path / "reports.sqlite")
            stack.callback(reports.close)
            app = make_app(ServerPlan(repository.folder, reports, **plan))  # type: ignore[arg-type]
            return Served(stack.enter_context(running(app)), repository, reports)

        yield start
