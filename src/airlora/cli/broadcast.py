"""Commands for broadcasts: cast and listen."""

from __future__ import annotations

import json
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from airlora.cli.app import app, is_quiet, make_console
from airlora.cli.edge import (
    AcceptBase,
    Base,
    Deadline,
    Health,
    MaxBytes,
    MinAccuracyGain,
    State,
    Tenant,
    show_visit,
    verify_seconds,
)
from airlora.cli.options import Json
from airlora.cli.releases import Keys, Repo, open_with_keys
from airlora.errors import AirloraError, SettingsError
from airlora.files import read_bytes
from airlora.identity import parse_level
from airlora.settings.sizes import parse_size

__all__ = ["cast", "listen"]

LEAST_WAIT_S = 1.0
"""Shortest wait between two visits, s."""

LONGEST_WAIT_S = 60.0
"""Longest wait after visits without progress, s."""


@app.command()
def cast(
    repository: Repo,
    address: Annotated[
        str,
        typer.Argument(metavar="HOST:PORT", help="Address of a host, or of a multicast group such as 239.1.2.3:9000."),
    ],
    rate_bps: Annotated[float, typer.Option(metavar="R", help="Largest rate of the packets, bit/s.")] = 1e6,
    rounds: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            help="Number of rounds. A round sends metadata and stream once, with redundancy.",
            show_default="until interrupted",
        ),
    ] = None,
    packet_bytes: Annotated[
        int,
        typer.Option(
            metavar="B", help="Largest size of a packet, bytes, such as 222 for the fastest LoRaWAN data rate."
        ),
    ] = 1200,
    tenant: Annotated[
        str | None,
        typer.Option(metavar="T", help="Tenant whose release is sent.", show_default="devices without a tenant"),
    ] = None,
    hops: Annotated[
        int, typer.Option(metavar="H", help="Number of routers that packets to a multicast group may pass.")
    ] = 1,
    keys: Keys = None,
    as_json: Json = False,
) -> None:
    """Broadcast the newest release repeatedly over a one-way link.

    Each packet is signed with the timestamp key. The metadata and the shortest usable prefix get the most redundancy.
    A release that is published meanwhile is sent from the next round on.
    """
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

    from airlora.delivery.broadcast.cast import CastPlan
    from airlora.delivery.broadcast.cast import cast as send

    host, port = parse_address(address)
    plan = CastPlan(host, port, rate_bps, rounds, packet_bytes, tenant, hops)
    opened = open_with_keys(repository, keys)
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, console=make_console(stderr=True), transient=True, disable=is_quiet()) as progress:
        task = progress.add_task("casting", total=None)

        def show_packet(number: int, num_bytes: int) -> None:
            progress.update(task, description=f"casting, round {number + 1}", advance=num_bytes)

        result = send(opened, plan, on_packet=show_packet)
    if as_json:
        print(json.dumps(asdict(result)))
        return
    make_console().print(
        f"release {result.version}: {result.num_rounds} rounds, {result.num_packets:,} packets, "
        f"{result.num_bytes:,} bytes in {result.seconds:.1f} s",
        highlight=False,
        soft_wrap=True,
    )


@app.command()
def listen(
    address: Annotated[
        str,
        typer.Argument(
            metavar="[HOST]:PORT", help="Address of this machine, or multicast group, on which packets arrive."
        ),
    ],
    state: State,
    root: Annotated[
        Path | None,
        typer.Option(
            metavar="ROOT.json",
            help="Newest root metadata of the repository, needed for the first visit.",
            show_default="that of an earlier visit",
        ),
    ] = None,
    once: Annotated[bool, typer.Option("--once", help="Stop after one visit.")] = False,
    deadline_s: Deadline = None,
    stall_s: Annotated[
        float, typer.Option(metavar="X", help="Time without a packet after which a visit ends, s.")
    ] = 60.0,
    max_bytes: MaxBytes = None,
    min_accuracy_gain: MinAccuracyGain = None,
    tenant: Tenant = None,
    base: Base = None,
    accept_base: AcceptBase = "bfloat16",
    health: Health = None,
    as_json: Json = False,
) -> None:
    """Receive the broadcast of `airlora cast`, verify the release and install it as it arrives.

    Continues an earlier visit. Exit codes are those of `airlora edge run`. `airlora edge status`, `rollback` and
    `history` work on the same state.
    """
    from airlora.delivery.broadcast.listen import BROADCAST_URL, BroadcastTransport, open_receiver
    from airlora.delivery.device.agent import visit
    from airlora.delivery.device.decisions import AgentConfig, DownloadTarget
    from airlora.delivery.device.health import command_check
    from airlora.delivery.device.state import StateFolder
    from airlora.delivery.device.transport import DownloadLimits

    if deadline_s is not None:
        verify_seconds("deadline_s", deadline_s)
    verify_seconds("stall_s", stall_s)
    config = AgentConfig(
        url=BROADCAST_URL,
        root=None if root is None else read_bytes(root, "root", SettingsError),
        tenant=tenant,
        target=DownloadTarget(None if max_bytes is None else parse_size(max_bytes), min_accuracy_gain),
        base_fingerprint=base,
        accept_base=parse_level(accept_base),
        checks=[command_check(text) for text in health or []],
    )
    limits = DownloadLimits(stall_timeout_s=stall_s, max_attempts=1 if once else 2)
    folder = StateFolder(state)
    host, port = parse_address(address, needs_host=False)
    is_first, wait_s = True, LEAST_WAIT_S
    with open_receiver(host, port) as receiver:
        transport = BroadcastTransport(receiver, folder.trust, root=config.root, limits=limits)
        while True:
            is_done = is_better = False
            try:
                transport.monitor.set_deadline(deadline_s)
                found = visit(folder, config, transport)
                show_visit(found, as_json=as_json)
                is_done, is_better = found.error is None and found.complete, found.first_usable_s is not None
                if found.error is not None:
                    raise found.error
            except AirloraError as error:
                if once or (is_first and isinstance(error, SettingsError)):
                    raise
                print(f"airlora: {error}", file=sys.stderr, flush=True)
            if once:
                return
            is_first = False
            if is_done:
                # All of it runs: there is nothing to do before something else is on the air.
                transport.wait_for_new_metadata()
            wait_s = LEAST_WAIT_S if is_done or is_better else min(LONGEST_WAIT_S, 2.0 * wait_s)
            time.sleep(wait_s)


def parse_address(text: str, *, needs_host: bool = True) -> tuple[str, int]:
    """Return the host and port of an address, `[HOST]:PORT` for colons in the host; raises `SettingsError`."""
    host, _, port = text.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if (needs_host and not host) or not (port.isascii() and port.isdigit() and 1 <= int(port) <= 65_535):
        raise SettingsError.of("address", text, "HOST:PORT, such as 239.1.2.3:9000")
    return host, int(port)
