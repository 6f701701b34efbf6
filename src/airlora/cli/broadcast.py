"""Commands for links that go one way: cast and listen."""

from __future__ import annotations

import json
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Optional

import typer

from airlora.cli.app import app, is_quiet, make_console
from airlora.cli.edge import Base, Deadline, Health, LeastGain, MaxBytes, State, Tenant, show_visit, verify_seconds
from airlora.cli.options import Json
from airlora.cli.releases import Keys, Repo, open_with_keys
from airlora.errors import AirloraError, SettingsError
from airlora.files import read_bytes
from airlora.settings.sizes import parse_size

__all__ = ["cast", "listen"]

LEAST_WAIT_S = 1.0
"""Between visits to a broadcast."""

LONGEST_WAIT_S = 60.0
"""Between visits that better nothing."""


@app.command()
def cast(
    repository: Repo,
    address: Annotated[
        str, typer.Argument(metavar="HOST:PORT", help="Where to: an address, or a group such as 239.1.2.3:9000.")
    ],
    rate_bps: Annotated[float, typer.Option(metavar="R", help="Bit/s of packets at most.")] = 1e6,
    rounds: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option(metavar="N", help="Send everything so many times; none: until interrupted."),
    ] = None,
    packet_bytes: Annotated[
        int, typer.Option(metavar="B", help="Of a packet at most, such as 222 for LoRaWAN at its fastest.")
    ] = 1200,
    tenant: Annotated[Optional[str], typer.Option(metavar="T", help="Whose release; none: everybody's.")] = None,  # noqa: UP045
    hops: Annotated[int, typer.Option(metavar="H", help="Routers that packets to a group may pass.")] = 1,
    keys: Keys = None,
    as_json: Json = False,
) -> None:
    """Send the newest release to whoever listens, again and again: no way back is needed.

    Each packet is signed by the timestamp key. The metadata and the part that makes a first adapter are protected most.
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

        def told(number: int, num_bytes: int) -> None:
            progress.update(task, description=f"casting, round {number + 1}", advance=num_bytes)

        result = send(opened, plan, on_packet=told)
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
        str, typer.Argument(metavar="[HOST]:PORT", help="Where packets come: an address of this machine, or a group.")
    ],
    state: State,
    root: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(metavar="ROOT.json", help="The repository's newest root, to trust from; needed once."),
    ] = None,
    once: Annotated[bool, typer.Option("--once", help="Stop after one visit.")] = False,
    deadline_s: Deadline = None,
    stall_s: Annotated[float, typer.Option(metavar="X", help="Give a visit up after so long without a packet.")] = 60.0,
    max_bytes: MaxBytes = None,
    least_gain: LeastGain = None,
    tenant: Tenant = None,
    base: Base = None,
    health: Health = None,
    as_json: Json = False,
) -> None:
    """Take what `airlora cast` sends: verify, install as it comes, go on where it broke off.

    Exit codes as of `airlora edge run`; `airlora edge status`, `rollback` and `history` show the same state.
    """
    from airlora.delivery.broadcast.listen import AIR_URL, BroadcastLink, known_version, listen_at, trusted_keys
    from airlora.delivery.device.agent import visit
    from airlora.delivery.device.decide import Wish
    from airlora.delivery.device.health import command_check
    from airlora.delivery.device.limits import LinkLimits
    from airlora.delivery.device.plan import AgentPlan
    from airlora.delivery.device.state import StateFolder

    if deadline_s is not None:
        verify_seconds("deadline_s", deadline_s)
    verify_seconds("stall_s", stall_s)
    plan = AgentPlan(
        url=AIR_URL,
        root=None if root is None else read_bytes(root, "root", SettingsError),
        tenant=tenant,
        wish=Wish(None if max_bytes is None else parse_size(max_bytes), least_gain),
        base_fingerprint=base,
        checks=[command_check(text) for text in health or []],
    )
    limits = LinkLimits(stall_timeout_s=stall_s, max_attempts=1 if once else 2)
    folder = StateFolder(state)
    host, port = parse_address(address, needs_host=False)
    is_first, wait_s = True, LEAST_WAIT_S
    with listen_at(host, port) as receiver:
        link = BroadcastLink(receiver, trusted_keys(folder.trust, plan.root), limits=limits)
        while True:
            end_s = float("inf") if deadline_s is None else time.monotonic() + deadline_s
            is_done = is_better = False
            try:
                link.begin(trusted_keys(folder.trust, plan.root), end_s, least_version=known_version(folder.trust))
                found = visit(folder, plan, link)
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
                link.begin(link.keys, float("inf"))
                link.wait_for_news()
            wait_s = LEAST_WAIT_S if is_done or is_better else min(LONGEST_WAIT_S, 2.0 * wait_s)
            time.sleep(wait_s)


def parse_address(text: str, *, needs_host: bool = True) -> tuple[str, int]:
    """Return the host and port of an address, `[HOST]:PORT` for colons in the host; raises `SettingsError`."""
    host, _, port = text.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if (needs_host and not host) or not (port.isascii() and port.isdigit() and 1 <= int(port) <= 65_535):
        raise SettingsError.of("address", text, "HOST:PORT, such as 239.1.2.3:9000")
    return host, int(port)
