"""Delivery of one release to simulated devices over links of very different rates."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from rich.table import Table

from airlora.delivery.device.agent import VisitResult, visit
from airlora.delivery.device.decisions import AgentConfig
from airlora.delivery.device.http_transport import HttpTransport
from airlora.delivery.device.state import StateFolder
from airlora.delivery.repository.create import create_repository
from airlora.delivery.repository.keys import KeyFolder
from airlora.delivery.repository.publish import publish_stream
from airlora.delivery.server.app import ServerPlan, make_app
from airlora.delivery.server.reports import ReportStore
from airlora.errors import AirloraError, SettingsError
from airlora.files import make_folder, write_json
from airlora.packing import Packing
from airlora.progress import ProgressReporter, SilentProgress
from airlora.testing.local_server import LinkShape, serving, shaped_proxy
from airlora.training import open_run, open_stream
from airlora.workflows.open_source import read_data
from airlora.workflows.pack import pack_bytes
from airlora.workflows.publish import measure_prefixes

__all__ = ["DEMO_LINKS", "DeviceOutcome", "deliver", "delivery_table"]

DEMO_LINKS = {
    "LoRaWAN 5 kbit/s": LinkShape(5e3, loss=0.05, break_share=0.1, retry_s=1.0, delay_s=0.3),
    "NB-IoT 200 kbit/s": LinkShape(2e5, loss=0.05, break_share=0.1, retry_s=0.3, delay_s=0.05),
    "LTE 20 Mbit/s": LinkShape(2e7, loss=0.01, retry_s=0.1, delay_s=0.02),
}
"""Simulated links by name. Rates are those of the names; losses, breaks and delays are assumptions."""


@dataclass(frozen=True)
class DeviceOutcome:
    """Result of one device's visit to the repository.

    Args:
        link: Name of the device's link.
        seconds: Duration of the visit, s.
        first_usable_s: Time until the device ran an adapter, s. None if it ran none.
        bytes_fetched: Downloaded bytes of the stream.
        metadata_bytes: Downloaded bytes of metadata.
        wire_bytes: Bytes on the link: answers with their headers, and lost packets.
        num_breaks: Number of broken connections.
        complete: Whether the device runs the whole release.
        first_accuracy: Accuracy in the manifest of the first prefix that the device ran.
        accuracy: Measured accuracy of the adapter that the device runs in the end.
        note: Reason for an early stop; empty otherwise.
    """

    link: str
    seconds: float
    first_usable_s: float | None
    bytes_fetched: int
    metadata_bytes: int
    wire_bytes: int
    num_breaks: int
    complete: bool
    first_accuracy: float | None
    accuracy: float | None
    note: str


def deliver(
    run: Path | str,
    out: Path | str,
    *,
    links: dict[str, LinkShape] | None = None,
    deadline_s: float = 120.0,
    packing: Packing | None = None,
    seed: int = 0,
    watcher: ProgressReporter | None = None,
) -> list[DeviceOutcome]:
    """Publish a run's adapter in a temporary repository, and return the outcome of one device per link.

    Args:
        run: Folder of a finished run.
        out: Folder in which `delivery.json` is written.
        links: Simulated links by name. None selects `DEMO_LINKS`.
        deadline_s: Time for every device's visit, in real time, s.
        packing: Options of packing. None selects the defaults of `airlora pack`.
        seed: Seed of the losses and waits.
        watcher: Receiver of the progress.

    Raises:
        AirloraError: The run cannot be used, or a device refused the release.
    """
    watcher, links = watcher or SilentProgress(), DEMO_LINKS if links is None else links
    if not links:
        raise SettingsError.of("links", links, "one or more")
    opened = open_run(run)
    name, data = opened.settings.model.name, read_data(opened, None)
    stream = pack_bytes(run, packing or Packing(), watcher=watcher)
    cuts = measure_prefixes(stream, data, model=name, watcher=watcher)
    outcomes: list[DeviceOutcome] = []
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        repository = create_repository(folder / "site", KeyFolder(folder / "keys", folder / "site"))
        publish_stream(repository, stream, cuts=cuts)
        root = (repository.metadata / "1.root.json").read_bytes()
        reports = ReportStore(folder / "reports.sqlite")
        watcher.phase("delivering", len(links))
        with serving(make_app(ServerPlan(repository.folder, reports))) as url:
            visits = _visit_all(folder, url, root, links, deadline_s, seed, lambda done: watcher.step(done, {}))
        reports.close()
        for label, (found, wire_bytes, num_breaks) in visits.items():
            state = StateFolder(folder / _name(label))
            accuracy = None
            if found.slot is not None:
                received, _ = state.read_slot(found.slot)
                accuracy = open_stream(received, model=name).predict(data).evaluation.score
            elif isinstance(found.error, AirloraError):
                raise found.error
            outcomes.append(
                DeviceOutcome(
                    link=label,
                    seconds=found.seconds,
                    first_usable_s=found.first_usable_s,
                    bytes_fetched=found.bytes_fetched,
                    metadata_bytes=found.metadata_bytes,
                    wire_bytes=wire_bytes,
                    num_breaks=num_breaks,
                    complete=found.complete,
                    first_accuracy=cuts[0].accuracy if found.first_usable_s is not None and cuts else None,
                    accuracy=accuracy,
                    note=str(found.error or found.note),
                )
            )
    write_json(make_folder(out) / "delivery.json", [vars(outcome) for outcome in outcomes])
    return outcomes


def _visit_all(
    folder: Path,
    url: str,
    root: bytes,
    links: dict[str, LinkShape],
    deadline_s: float,
    seed: int,
    on_done: Callable[[int], None],
) -> dict[str, tuple[VisitResult, int, int]]:
    """Run all visits at the same time; return visit, bytes on the link and number of breaks by link name."""
    num_done = 0

    def one(label: str, shape: LinkShape) -> tuple[VisitResult, int, int]:
        nonlocal num_done
        with shaped_proxy(url, shape, seed=seed) as link:
            device = StateFolder(folder / _name(label))
            config = AgentConfig(link.url, root=root, device=_name(label))
            result = visit(device, config, HttpTransport(deadline_s=deadline_s), seed=seed)
            num_done += 1
            on_done(num_done)
            return result, link.wire_bytes, link.num_breaks

    with ThreadPoolExecutor(len(links)) as pool:
        futures = {label: pool.submit(one, label, shape) for label, shape in links.items()}
        return {label: future.result() for label, future in futures.items()}


def _name(label: str) -> str:
    """Return the name of the device on a link.

    Examples:
        >>> _name("LTE 20 Mbit/s")
        'LTE-20-Mbit-s'
    """
    return "-".join("".join(letter if letter.isalnum() else " " for letter in label).split())


def delivery_table(outcomes: Sequence[DeviceOutcome]) -> Table:
    """Return the outcomes as a table, one row per device."""
    table = Table(title="delivery to each device", title_justify="left")
    table.add_column("link", no_wrap=True)
    for name in ("usable after", "at first", "done after", "bytes", "on wire", "at the end"):
        table.add_column(name, justify="right")
    for row in outcomes:
        whole = f"{row.bytes_fetched:,}" if row.complete else f"{row.bytes_fetched:,} (prefix)"
        table.add_row(
            row.link,
            "-" if row.first_usable_s is None else f"{row.first_usable_s:.1f} s",
            "-" if row.first_accuracy is None else f"{row.first_accuracy:.1%}",
            f"{row.seconds:.1f} s",
            whole,
            f"{row.wire_bytes:,}",
            "-" if row.accuracy is None else f"{row.accuracy:.1%}",
        )
    return table
