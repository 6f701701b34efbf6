"""What a server hands out, and what it refuses."""

from __future__ import annotations

import base64
import json
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from airlora.delivery import (
    AgentConfig,
    DeviceReport,
    HttpTransport,
    ReportStore,
    Rollout,
    StateFolder,
    Tokens,
    make_app,
    parse_rate,
    publish_stream,
    visit,
)
from airlora.errors import NetworkError, ReleaseError, SettingsError, StorageError
from delivery import FINGERPRINT, STREAMS

Serve = Callable[..., Any]


@pytest.fixture
def tokens(tmp_path: Path) -> Path:
    path = tmp_path / "tokens"
    path.write_text("# who may ask\n\npump-7 0123456789abcdef0\npump-8 fedcba98765432100\n")
    return path


def stream_path(served: Any) -> str:
    return f"/streams/{next((served.repository.folder / 'streams').iterdir()).name}"


def test_files_are_served_whole_and_in_ranges(serve: Serve) -> None:
    served = serve()
    path = stream_path(served)
    whole = served.ask(path)
    assert (whole.status, whole.data) == (200, STREAMS[0])
    assert "Content-Encoding" not in whole.headers
    part = served.ask(path, headers={"Range": "bytes=100-199", "Accept-Encoding": "gzip"})
    assert (part.status, part.data) == (206, STREAMS[0][100:200])
    assert part.headers["Content-Range"] == f"bytes 100-199/{len(STREAMS[0])}"
    assert served.ask(path, headers={"Range": "bytes=999999-"}).status == 416
    assert served.ask(path, "HEAD").headers["Content-Length"] == str(len(STREAMS[0]))


def test_the_bundle_is_requested_once(serve: Serve, tmp_path: Path) -> None:
    """A device that looks again is told in a header that nothing is new."""
    served = serve()
    folder, config = StateFolder(tmp_path / "state"), AgentConfig(served.url, base_fingerprint=FINGERPRINT)
    first = visit(folder, config, HttpTransport(), seed=0)
    transport = HttpTransport()
    again = visit(folder, config, transport, seed=0)
    assert (first.complete, again.note) == (True, "release 1 is the newest")
    assert transport.monitor.num_bytes == 0
    publish_stream(served.repository, STREAMS[1])
    assert visit(folder, config, HttpTransport(), seed=0).version == 2
    (folder.trust / "newest.bundle").write_bytes(b"nonsense")
    assert visit(folder, config, HttpTransport(), seed=0).version == 2


def test_immutable_files_are_cached_and_the_timestamp_is_revalidated(serve: Serve) -> None:
    served = serve()
    for path in (stream_path(served), "/metadata/1.root.json"):
        assert "immutable" in served.ask(path).headers["Cache-Control"]
    timestamp = served.ask("/metadata/timestamp.json")
    assert timestamp.headers["Cache-Control"] == "no-cache, no-transform"
    again = served.ask("/metadata/timestamp.json", headers={"If-None-Match": timestamp.headers["ETag"]})
    assert (again.status, again.data) == (304, b"")
    assert "no-cache" in served.ask("/metadata/99.root.json").headers["Cache-Control"]


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/metadata/",
        "/streams/..%2f..%2fkeys/.lock",
        "/targets/.hidden.tmp",
        "/v1/devices/a%20b",
        "/nothing",
        "/v2",
    ],
)
def test_other_files_are_not_served(serve: Serve, path: str) -> None:
    served = serve()
    (served.repository.folder / "targets" / ".hidden.tmp").write_text("half")
    assert served.ask(path).status in (404, 422)


def test_health_and_metrics(serve: Serve) -> None:
    served = serve()
    assert json.loads(served.ask("/healthz").data) == {"status": "ok"}
    served.ask(stream_path(served))
    text = served.ask("/metrics").data.decode()
    assert 'airlora_requests_total{kind="streams",status="200"} 1.0' in text
    assert f'airlora_sent_bytes_total{{kind="streams"}} {float(len(STREAMS[0]))}' in text
    (served.repository.folder / "metadata" / "timestamp.json").unlink()
    assert served.ask("/healthz").status == 503


def test_a_report_of_a_device_is_listed(serve: Serve, tmp_path: Path) -> None:
    served = serve()
    config = AgentConfig(served.url, base_fingerprint=FINGERPRINT, device="pump-7")
    found = visit(StateFolder(tmp_path / "state"), config, HttpTransport(), seed=0)
    assert (found.error, found.complete) == (None, True)
    (device,) = json.loads(served.ask("/v1/devices").data)
    assert (device["device"], device["version"], device["complete"]) == ("pump-7", 1, True)
    assert device["bytes_fetched"] == len(STREAMS[0])
    assert len(json.loads(served.ask("/v1/devices/pump-7").data)) == 1
    assert served.ask("/v1/devices/pump-8").status == 404


def test_a_visit_that_reached_its_deadline_still_reports(serve: Serve, tmp_path: Path) -> None:
    served = serve()
    transport = HttpTransport(deadline_s=0.001)
    found = visit(StateFolder(tmp_path / "state"), AgentConfig(served.url, device="pump-7"), transport, seed=0)
    assert isinstance(found.error, NetworkError)
    (device,) = json.loads(served.ask("/v1/devices").data)
    assert device["version"] is None
    assert device["note"]


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"", 422),
        (b"[]", 422),
        (b'{"version": -1}', 422),
        (b'{"surprise": 1}', 422),
        (b"{}", 204),
        (bytes(20_000), 413),
    ],
)
def test_malformed_reports_are_refused(serve: Serve, body: bytes, status: int) -> None:
    assert serve().ask("/v1/devices/pump-7/reports", "POST", body=body).status == status


def test_requests_need_a_valid_token(serve: Serve, tokens: Path, tmp_path: Path) -> None:
    served = serve(tokens=Tokens(tokens))
    assert served.ask("/healthz").status == 200
    for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "Basic nonsense"}):
        assert served.ask("/metadata/timestamp.json", headers=headers).status == 401
    token = "0123456789abcdef0"  # noqa: S105
    mine = {"Authorization": f"Bearer {token}"}
    assert served.ask("/metadata/timestamp.json", headers=mine).status == 200
    assert served.ask("/v1/devices/pump-7/reports", "POST", body=b"{}", headers=mine).status == 204
    assert served.ask("/v1/devices/pump-8/reports", "POST", body=b"{}", headers=mine).status == 403
    config = AgentConfig(served.url, device="pump-7")
    found = visit(StateFolder(tmp_path / "state"), config, HttpTransport(token=token), seed=0)
    assert found.complete
    found = visit(StateFolder(tmp_path / "other"), config, HttpTransport(), seed=0)
    assert isinstance(found.error, NetworkError)
    assert "401" in str(found.error)


def test_devices_and_operators_see_what_their_tokens_allow(serve: Serve, tokens: Path) -> None:
    with tokens.open("a") as file:
        file.write("@eve operator-0123456789\n")
    served = serve(tokens=Tokens(tokens))
    mine = {"Authorization": "Bearer 0123456789abcdef0"}
    browser = {"Authorization": "Basic " + base64.b64encode(b"eve:operator-0123456789").decode()}
    for headers in (mine, {"Authorization": "Bearer fedcba98765432100"}):
        device = "pump-7" if headers is mine else "pump-8"
        assert served.ask(f"/v1/devices/{device}/reports", "POST", body=b"{}", headers=headers).status == 204
    found = {
        path: (served.ask(path, headers=mine).status, served.ask(path, headers=browser).status)
        for path in ("/metrics", "/v1/devices", "/v1/devices/pump-7", "/v1/devices/pump-8", "/metadata/1.root.json")
    }
    assert found == {
        "/metrics": (403, 200),
        "/v1/devices": (403, 200),
        "/v1/devices/pump-7": (200, 200),
        "/v1/devices/pump-8": (403, 200),
        "/metadata/1.root.json": (200, 200),
    }
    # A browser asks its user for a token where it may help.
    assert "Basic" in served.ask("/metrics").headers["WWW-Authenticate"]
    assert served.ask("/metadata/1.root.json").headers["WWW-Authenticate"] == "Bearer"


def test_shared_caches_store_nothing_that_needs_a_token(serve: Serve, tokens: Path) -> None:
    served = serve(tokens=Tokens(tokens))
    mine = {"Authorization": "Bearer 0123456789abcdef0"}
    assert served.ask("/metadata/1.root.json", headers=mine).headers["Cache-Control"].startswith("private")


def test_wrong_tokens_are_rate_limited(serve: Serve, tokens: Path) -> None:
    served = serve(tokens=Tokens(tokens))
    wrong = {"Authorization": "Bearer not-this-one-either"}
    found = [served.ask("/metadata/1.root.json", headers=wrong).status for _ in range(70)]
    assert found[:60] == [401] * 60
    assert set(found[60:]) == {429}
    # Others behind the same proxy go on.
    mine = {"Authorization": "Bearer 0123456789abcdef0"}
    assert served.ask("/metadata/1.root.json", headers=mine).status == 200


def test_the_number_of_device_names_is_bounded(tmp_path: Path) -> None:
    store = ReportStore(tmp_path / "reports.sqlite", max_devices=2)
    for name in ("a", "b", "a"):
        store.add(name, DeviceReport())
    with pytest.raises(SettingsError, match="device"):
        store.add("c", DeviceReport())
    store.close()
    assert ReportStore(tmp_path / "reports.sqlite").num_devices() == 2


def test_the_total_number_of_reports_is_bounded(tmp_path: Path) -> None:
    store = ReportStore(tmp_path / "reports.sqlite", max_reports=5)
    for place in range(12):
        store.add(f"device-{place % 3}", DeviceReport(version=place))
    left = [row["version"] for name in range(3) for row in store.of_device(f"device-{name}")]
    assert sorted(left) == [7, 8, 9, 10, 11]
    store.close()


def test_reports_of_an_earlier_version_are_kept(tmp_path: Path) -> None:
    connection = sqlite3.connect(tmp_path / "reports.sqlite")
    connection.execute(
        "CREATE TABLE reports (id INTEGER PRIMARY KEY, device TEXT NOT NULL, time REAL NOT NULL,"
        " version INTEGER, wanted INTEGER, failed INTEGER NOT NULL, report TEXT NOT NULL)"
    )
    connection.execute("INSERT INTO reports VALUES (1, 'pump-7', 1.0, 1, 1, 0, '{}')")
    connection.commit()
    connection.close()
    store = ReportStore(tmp_path / "reports.sqlite")
    store.add("pump-8", DeviceReport(wanted_stream="a" * 64, failed=True))
    assert (store.num_devices(), store.outcome("a" * 64)) == (2, (1, 1))


@pytest.mark.parametrize("text", ["", "pump-7\n", "pump-7 short\n", "a b c\n"])
def test_malformed_token_files_are_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "tokens"
    path.write_text(text)
    with pytest.raises(SettingsError, match="tokens"):
        Tokens(path)


def test_requests_of_a_device_are_rate_limited(serve: Serve) -> None:
    served = serve(rate=parse_rate("3/minute"))
    found = [served.ask("/metadata/timestamp.json") for _ in range(5)]
    assert [answer.status for answer in found] == [200, 200, 200, 429, 429]
    assert 1 <= int(found[-1].headers["Retry-After"]) <= 60
    assert served.ask("/healthz").status == 200
    with pytest.raises(SettingsError, match="rate"):
        parse_rate("fast")


def test_a_rollout_starts_with_some_devices_and_stops_when_they_fail(tmp_path: Path) -> None:
    store = ReportStore(tmp_path / "reports.sqlite")
    rollout = Rollout(percent=20, first=("canary",), stop_share=0.2, min_tried=5)
    names = [f"device-{number}" for number in range(1000)]
    third, fourth = "3" * 64, "4" * 64
    chosen = [name for name in names if rollout.decide(name, 3, third, store)[0]]
    assert 150 < len(chosen) < 250
    # Who was drawn stays drawn when more are let in, and another release draws others.
    wider = Rollout(percent=40, first=("canary",))
    assert all(wider.decide(name, 3, third, store)[0] for name in chosen)
    assert [name for name in names if rollout.decide(name, 4, fourth, store)[0]] != chosen
    assert rollout.decide("canary", 3, third, store) == (True, "")
    for number in range(5):
        version = 2 if number < 2 else 3
        report = DeviceReport(version=version, wanted_version=3, wanted_stream=third, failed=number < 2)
        store.add(f"tried-{number}", report)
    may, why = rollout.decide("canary", 3, third, store)
    assert not may
    assert "failed on 2 of 5" in why
    assert rollout.decide("canary", 4, fourth, store)[0]


def test_failures_of_a_tenant_stop_only_its_own_release(tmp_path: Path) -> None:
    store = ReportStore(tmp_path / "reports.sqlite")
    mine, theirs = "a" * 64, "b" * 64
    for number in range(10):
        store.add(f"theirs-{number}", DeviceReport(wanted_version=1, wanted_stream=theirs, failed=True))
    assert Rollout().decide("mine-1", 1, mine, store) == (True, "")
    assert not Rollout().decide("theirs-1", 1, theirs, store)[0]


def test_groups_have_their_own_percentage(tmp_path: Path) -> None:
    store = ReportStore(tmp_path / "reports.sqlite")
    rollout = Rollout(percent=0.0, first=("plant-1",), groups=(("lab-*", 100.0), ("plant-*", 0.0)))
    may = {name: rollout.decide(name, 3, "a" * 64, store) for name in ("lab-1", "plant-1", "plant-2", "pump-1")}
    assert {name: found[0] for name, found in may.items()} == {
        "lab-1": True,
        "plant-1": True,
        "plant-2": False,
        "pump-1": False,
    }
    assert may["plant-2"][1] == "release 3 is limited to 0 % of the devices matching plant-*"
    with pytest.raises(SettingsError, match=r"lab-\*"):
        Rollout(groups=(("lab-*", 101.0),))


def test_a_device_that_must_wait_keeps_its_release(serve: Serve, tmp_path: Path) -> None:
    served = serve(rollout=Rollout(percent=0.0, first=("pump-7",)))
    waiting = visit(StateFolder(tmp_path / "a"), AgentConfig(served.url, device="pump-8"), HttpTransport(), seed=0)
    assert (waiting.version, waiting.bytes_fetched) == (None, 0)
    assert "0 % of the devices" in str(waiting.error)
    assert visit(
        StateFolder(tmp_path / "b"), AgentConfig(served.url, device="pump-7"), HttpTransport(), seed=0
    ).complete


@pytest.mark.parametrize("values", [{"percent": 101}, {"stop_share": -0.1}, {"min_tried": 0}])
def test_rollout_options_out_of_range_are_refused(values: dict[str, float]) -> None:
    with pytest.raises(SettingsError, match="rollout"):
        Rollout(**values)


def test_reports_are_kept_over_restarts_and_bounded(tmp_path: Path) -> None:
    path = tmp_path / "reports.sqlite"
    store = ReportStore(path, keep=3)
    for number in range(10):
        store.add("pump-7", DeviceReport(version=number))
    store.close()
    again = ReportStore(path, keep=3)
    assert [report["version"] for report in again.of_device("pump-7")] == [9, 8, 7]
    assert again.num_devices() == 1
    (tmp_path / "bad").write_bytes(b"no database at all" * 100)
    with pytest.raises(StorageError, match="bad"):
        ReportStore(tmp_path / "bad")


def test_a_folder_without_a_repository_is_refused(tmp_path: Path) -> None:
    from airlora.delivery import ServerPlan

    with pytest.raises(ReleaseError, match="not a repository"):
        make_app(ServerPlan(tmp_path, ReportStore(":memory:")))
