"""Delivery of a trained adapter over emulated links in one process."""

import json
import time
from pathlib import Path

import pytest

from airlora.delivery import (
    AgentConfig,
    HttpTransport,
    ReportStore,
    ServerPlan,
    StateFolder,
    make_app,
    publish_stream,
    visit,
)
from airlora.errors import SettingsError
from airlora.testing.local_server import LinkShape, serving, shaped_proxy
from airlora.workflows.delivery_demo import deliver, delivery_table
from commands import airlora
from delivery import STREAMS, Device, make_repository


def test_devices_on_slow_and_fast_links_install_the_same_adapter(run: Path, tmp_path: Path) -> None:
    links = {"slow": LinkShape(4e4, loss=0.1, break_share=0.3, retry_s=0.01), "fast": LinkShape(1e8)}
    slow, fast = deliver(run, tmp_path, links=links, deadline_s=60.0)
    assert slow.complete
    assert fast.complete
    assert slow.accuracy == fast.accuracy
    assert slow.bytes_fetched == fast.bytes_fetched
    assert slow.first_usable_s < slow.seconds
    assert fast.seconds < slow.seconds
    assert slow.wire_bytes > slow.bytes_fetched + slow.metadata_bytes
    value = json.loads((tmp_path / "delivery.json").read_text())
    assert [row["link"] for row in value] == ["slow", "fast"]
    assert delivery_table([slow, fast]).row_count == 2


def test_an_emulated_link_keeps_its_rate_and_loses_packets(tmp_path: Path) -> None:
    repository = make_repository(tmp_path)
    publish_stream(repository, STREAMS[0])
    app = make_app(ServerPlan(repository.folder, ReportStore(":memory:")))
    with serving(app) as url, shaped_proxy(url, LinkShape(2e5, loss=0.2, retry_s=0.001), seed=3) as link:
        start = time.monotonic()
        found = visit(StateFolder(tmp_path / "state"), AgentConfig(link.url), HttpTransport(), seed=0)
        took = time.monotonic() - start
    assert found.complete
    assert link.num_lost > 0
    assert link.wire_bytes > 1.1 * len(STREAMS[0])
    # A loaded machine may be slower than the rate, but not faster.
    assert took >= 0.95 * 8 * link.wire_bytes / 2e5


def test_a_download_over_broken_connections_completes(tmp_path: Path) -> None:
    repository = make_repository(tmp_path)
    publish_stream(repository, STREAMS[0])
    app = make_app(ServerPlan(repository.folder, ReportStore(":memory:")))
    shape = LinkShape(1e7, loss=0.15, break_share=0.5, retry_s=0.001)
    with serving(app) as url, shaped_proxy(url, shape, seed=5) as link:
        found = visit(StateFolder(tmp_path / "state"), AgentConfig(link.url), HttpTransport(), seed=0)
    assert found.complete
    assert link.num_breaks > 0
    device = Device(StateFolder(tmp_path / "state"), repository)
    assert device.running() == STREAMS[0]


@pytest.mark.parametrize(
    "values", [{"rate_bps": 0}, {"rate_bps": 1e3, "loss": 1.0}, {"rate_bps": 1e3, "retry_s": -1}, {"rate_bps": -5}]
)
def test_link_shapes_out_of_range_are_refused(values: dict[str, float]) -> None:
    with pytest.raises(SettingsError):
        LinkShape(**values)


def test_the_demo_has_the_option_deliver() -> None:
    assert "--deliver" in airlora("demo", "--help").stdout
