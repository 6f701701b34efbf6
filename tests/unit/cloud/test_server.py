"""What a server hands out, and what it refuses."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from airlora.cloud import DeviceReport, ReportStore, Rollout, Tokens, make_app, parse_rate
from airlora.edge import AgentPlan, HttpLink, StateFolder, visit
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


def test_files_come_whole_and_in_ranges(serve: Serve) -> None:
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


def test_what_never_changes_is_kept_for_ever_and_the_timestamp_never(serve: Serve) -> None:
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
def test_nothing_else_is_handed_out(serve: Serve, path: str) -> None:
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


def test_a_device_reports_and_is_shown(serve: Serve, tmp_path: Path) -> None:
    served = serve()
    plan = AgentPlan(served.url, base_fingerprint=FINGERPRINT, device="pump-7")
    found = visit(StateFolder(tmp_path / "state"), plan, HttpLink(), seed=0)
    assert (found.error, found.complete) == (None, True)
    (device,) = json.loads(served.ask("/v1/devices").data)
    assert (device["device"], device["version"], device["complete"]) == ("pump-7", 1, True)
    assert device["bytes_fetched"] == len(STREAMS[0])
    assert len(json.loads(served.ask("/v1/devices/pump-7").data)) == 1
    assert served.ask("/v1/devices/pump-8").status == 404


def test_a_visit_that_used_up_its_time_reports_too(serve: Serve, tmp_path: Path) -> None:
    served = serve()
    link = HttpLink()
    link.end_s = link.clock.now_s() + 0.001
    found = visit(StateFolder(tmp_path / "state"), AgentPlan(served.url, device="pump-7"), link, seed=0)
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
def test_reports_that_are_none(serve: Serve, body: bytes, status: int) -> None:
    assert serve().ask("/v1/devices/pump-7/reports", "POST", body=body).status == status


def test_tokens(serve: Serve, tokens: Path, tmp_path: Path) -> None:
    served = serve(tokens=Tokens(tokens))
    assert served.ask("/healthz").status == 200
    for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "Basic 0123456789abcdef0"}):
        assert served.ask("/metadata/timestamp.json", headers=headers).status == 401
    token = "0123456789abcdef0"  # noqa: S105
    mine = {"Authorization": f"Bearer {token}"}
    assert served.ask("/metadata/timestamp.json", headers=mine).status == 200
    assert served.ask("/v1/devices/pump-7/reports", "POST", body=b"{}", headers=mine).status == 204
    assert served.ask("/v1/devices/pump-8/reports", "POST", body=b"{}", headers=mine).status == 403
    plan = AgentPlan(served.url, device="pump-7")
    found = visit(StateFolder(tmp_path / "state"), plan, HttpLink(token=token), seed=0)
    assert found.complete
    found = visit(StateFolder(tmp_path / "other"), plan, HttpLink(), seed=0)
    assert isinstance(found.error, NetworkError)
    assert "401" in str(found.error)


@pytest.mark.parametrize("text", ["", "pump-7\n", "pump-7 short\n", "a b c\n"])
def test_files_of_tokens_that_are_none(tmp_path: Path, text: str) -> None:
    path = tmp_path / "tokens"
    path.write_text(text)
    with pytest.raises(SettingsError, match="tokens"):
        Tokens(path)


def test_a_rate_per_device(serve: Serve) -> None:
    served = serve(rate=parse_rate("3/minute"))
    found = [served.ask("/metadata/timestamp.json") for _ in range(5)]
    assert [answer.status for answer in found] == [200, 200, 200, 429, 429]
    assert 1 <= int(found[-1].headers["Retry-After"]) <= 60
    assert served.ask("/healthz").status == 200
    with pytest.raises(SettingsError, match="rate"):
        parse_rate("fast")


def test_a_release_goes_to_some_first_and_stops_where_it_fails(tmp_path: Path) -> None:
    store = ReportStore(tmp_path / "reports.sqlite")
    rollout = Rollout(percent=20, first=("canary",), stop_share=0.2, least_tried=5)
    names = [f"device-{number}" for number in range(1000)]
    chosen = [name for name in names if rollout.decide(name, 3, store)[0]]
    assert 150 < len(chosen) < 250
    # Who was drawn stays drawn when more are let in, and another release draws others.
    wider = Rollout(percent=40, first=("canary",))
    assert all(wider.decide(name, 3, store)[0] for name in chosen)
    assert [name for name in names if rollout.decide(name, 4, store)[0]] != chosen
    assert rollout.decide("canary", 3, store) == (True, "")
    for number in range(5):
        store.add(f"tried-{number}", DeviceReport(version=2 if number < 2 else 3, wanted_version=3, failed=number < 2))
    may, why = rollout.decide("canary", 3, store)
    assert not may
    assert "failed on 2 of 5" in why
    assert rollout.decide("canary", 4, store)[0]


def test_a_held_back_device_waits_and_runs_on(serve: Serve, tmp_path: Path) -> None:
    served = serve(rollout=Rollout(percent=0.0, first=("pump-7",)))
    waiting = visit(StateFolder(tmp_path / "a"), AgentPlan(served.url, device="pump-8"), HttpLink(), seed=0)
    assert (waiting.version, waiting.bytes_fetched) == (None, 0)
    assert "0 % of the devices" in str(waiting.error)
    assert visit(StateFolder(tmp_path / "b"), AgentPlan(served.url, device="pump-7"), HttpLink(), seed=0).complete


@pytest.mark.parametrize("values", [{"percent": 101}, {"stop_share": -0.1}, {"least_tried": 0}])
def test_rollouts_that_cannot_be(values: dict[str, float]) -> None:
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


def test_a_folder_without_a_repository(tmp_path: Path) -> None:
    from airlora.cloud import ServerPlan

    with pytest.raises(ReleaseError, match="no repository"):
        make_app(ServerPlan(tmp_path, ReportStore(":memory:")))
