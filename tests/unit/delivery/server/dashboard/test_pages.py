"""The page over a served repository."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import urllib3
from playwright.sync_api import Browser, Page, sync_playwright

from airlora.delivery import (
    DeviceReport,
    ReportStore,
    Rollout,
    ServerPlan,
    Tokens,
    add_tenant,
    dashboard_routes,
    make_app,
    publish_stream,
    read_overview,
)
from airlora.testing.local_server import serving
from delivery import STREAMS, cuts_of, make_repository

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@pytest.fixture
def plan(tmp_path: Path) -> Iterator[ServerPlan]:
    repository = make_repository(tmp_path)
    publish_stream(repository, STREAMS[0], cuts=cuts_of(STREAMS[0]))
    reports = ReportStore(tmp_path / "reports.sqlite")
    yield ServerPlan(repository.folder, reports, Rollout(percent=20, first=("canary",)))
    reports.close()


@pytest.fixture
def url(plan: ServerPlan) -> Iterator[str]:
    with serving(make_app(plan, pages=dashboard_routes(plan))) as address:
        yield address


def page(url: str, path: str = "/") -> str:
    answer = urllib3.request("GET", url + path, timeout=20.0, retries=False)
    assert answer.status == 200
    return answer.data.decode()


def test_an_empty_repository_has_a_page(tmp_path: Path) -> None:
    repository = make_repository(tmp_path)
    plan = ServerPlan(repository.folder, ReportStore(":memory:"))
    with serving(make_app(plan, pages=dashboard_routes(plan))) as address:
        text = page(address)
    assert "No release has been published yet." in text
    assert "No device has reported yet" in text
    assert "<svg" not in text


def test_releases_devices_and_rollout_are_shown(plan: ServerPlan, url: str) -> None:
    plan.reports.add(
        "pump-7", DeviceReport(version=1, wanted_version=1, complete=True, accuracy=0.9, bytes_fetched=13579)
    )
    plan.reports.add("pump-8", DeviceReport(version=1, wanted_version=2, seconds=4.25, deadline_s=30))
    text = page(url)
    assert f"{len(STREAMS[0]):,}" in text
    assert "90.0%" in text
    assert "20 % of the devices, always canary" in text
    assert "4.2 s of 30 s" in text
    assert "not the newest" in text
    assert text.count("<svg") == 1
    # Nothing comes from elsewhere.
    assert not re.findall(r'(?:src|href)="(?:https?:)?//', text)


def test_notes_of_devices_are_escaped(plan: ServerPlan, url: str) -> None:
    plan.reports.add("pump-7", DeviceReport(note="<script>alert(1)</script>"))
    text = page(url)
    assert "<script>alert" not in text
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in text


def test_headers_forbid_foreign_scripts(url: str) -> None:
    headers = urllib3.request("GET", url, timeout=20.0).headers
    assert "default-src 'none'" in headers["Content-Security-Policy"]
    assert headers["X-Content-Type-Options"] == "nosniff"


def test_a_change_sends_an_event(plan: ServerPlan, url: str) -> None:
    answer = urllib3.request("GET", f"{url}/events", preload_content=False, timeout=20.0)
    assert b"event: change" in answer.read1(200)
    plan.reports.add("pump-9", DeviceReport())
    assert b"event: change" in answer.read1(200)
    assert "pump-9" in page(url, "/fragment")
    answer.close()


def test_an_expiring_timestamp_is_shown(plan: ServerPlan, tmp_path: Path) -> None:
    overview = read_overview(plan)
    assert not overview.is_expiring
    assert read_overview(plan, now_s=1e11).is_expiring
    assert [row.tenant for row in overview.releases] == [""]


def test_each_tenant_has_its_own_row(tmp_path: Path) -> None:
    repository = make_repository(tmp_path)
    add_tenant(repository, "acme")
    publish_stream(repository, STREAMS[1], tenant="acme")
    overview = read_overview(ServerPlan(repository.folder, ReportStore(":memory:")))
    assert [(row.tenant, row.manifest.version) for row in overview.releases] == [("acme", 1)]


@pytest.fixture
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        yield browser
        browser.close()


@pytest.fixture
def browser_page(browser: Browser) -> Page:
    return browser.new_page(viewport={"width": 390, "height": 800})


@pytest.mark.skipif(CHROMIUM is None, reason="needs chromium")
def test_an_operator_opens_the_dashboard_with_a_token(plan: ServerPlan, browser: Browser, tmp_path: Path) -> None:
    (tmp_path / "tokens").write_text("@eve operator-0123456789\npump-7 0123456789abcdef0\n")
    plan = replace(plan, tokens=Tokens(tmp_path / "tokens"))
    with serving(make_app(plan, pages=dashboard_routes(plan))) as address:
        for password, status in (("operator-0123456789", 200), ("0123456789abcdef0", 403), ("wrong", 401)):
            context = browser.new_context(http_credentials={"username": "anybody", "password": password})
            view = context.new_page()
            answer = view.goto(address, wait_until="load")
            assert answer is not None
            assert answer.status == status
            if status == 200:
                # What the page asks for by itself is let through too.
                view.get_by_role("status").get_by_text("live", exact=True).wait_for()
                plan.reports.add("pump-7", DeviceReport(version=1, wanted_version=1, complete=True))
                view.get_by_text("pump-7").wait_for()
            context.close()


@pytest.mark.skipif(CHROMIUM is None, reason="needs chromium")
def test_a_phone_browser_shows_live_changes(plan: ServerPlan, url: str, browser_page: Page) -> None:
    errors: list[str] = []
    browser_page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
    browser_page.goto(url, wait_until="load")
    browser_page.get_by_role("status").get_by_text("live", exact=True).wait_for()
    plan.reports.add("pump-7", DeviceReport(version=1, wanted_version=1, complete=True, accuracy=0.9, bytes_fetched=99))
    browser_page.get_by_text("pump-7").wait_for()
    # Nothing is wider than the screen, and all tables can be reached by the keyboard.
    assert browser_page.evaluate("document.documentElement.scrollWidth") <= 390
    reached = set()
    for _ in range(6):
        browser_page.keyboard.press("Tab")
        reached.add(browser_page.evaluate("document.activeElement.getAttribute('aria-label')"))
    assert {"table of releases", "table of devices"} <= reached
    assert [error for error in errors if "favicon" not in error] == []
