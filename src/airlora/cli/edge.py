"""Commands of a device: `edge run`, `edge status`, `edge rollback` and `edge history`."""

from __future__ import annotations

import json
import random
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from airlora.cli.app import app, make_console
from airlora.cli.options import Json, Model
from airlora.errors import AirloraError, SettingsError, TrustError
from airlora.files import read_bytes
from airlora.identity import parse_level
from airlora.settings.sizes import parse_size

if TYPE_CHECKING:
    from airlora.delivery.device.agent import VisitResult
    from airlora.delivery.device.health import HealthCheck
    from airlora.delivery.device.state import DeviceState, StateFolder

__all__ = [
    "Base",
    "Deadline",
    "Health",
    "MaxBytes",
    "MinAccuracyGain",
    "State",
    "Tenant",
    "edge",
    "show_visit",
    "verify_seconds",
    "verify_url",
]

ROLLBACK_WAIT_S = 10.0
"""Seconds that a rollback waits for a visit to end."""

edge = typer.Typer(help="Install and manage the adapter of this device.", no_args_is_help=True)
app.add_typer(edge, name="edge")

State = Annotated[Path, typer.Option(metavar="DIR", help="Folder of the device's adapters and metadata.")]
Deadline = Annotated[
    float | None,
    typer.Option(
        metavar="X",
        help="Seconds that a visit may take. The prefix received by then is installed.",
        show_default="no limit",
    ),
]
MaxBytes = Annotated[
    str | None,
    typer.Option(
        metavar="N",
        help="Maximum size of the downloaded prefix of a stream, such as 20kB.",
        show_default="the whole stream",
    ),
]
MinAccuracyGain = Annotated[
    float | None,
    typer.Option(
        metavar="G",
        help="Accuracy that a longer prefix must promise to gain, such as 0.005.",
        show_default="the whole stream",
    ),
]
Tenant = Annotated[str | None, typer.Option(metavar="T", help="Tenant whose releases to install.", show_default="none")]
Base = Annotated[
    str | None,
    typer.Option(
        metavar="HEX",
        help="Fingerprint of the device's base model. Releases for others are rejected.",
        show_default="any",
    ),
]
AcceptBase = Annotated[
    str,
    typer.Option(
        "--accept-base",
        metavar="LEVEL",
        help="Level at which --base is compared: `exact`, or `bfloat16` for weights that are equal after rounding.",
    ),
]
Health = Annotated[
    list[str] | None,
    typer.Option(metavar="CMD", help="Command that must exit with 0 for the candidate AIRLORA_ADAPTER; repeatable."),
]


@edge.command()
def run(
    url: Annotated[str, typer.Argument(metavar="URL", help="Address of the repository, such as https://example.org.")],
    state: State,
    root: Annotated[
        Path | None,
        typer.Option(
            metavar="ROOT.json",
            help="First root metadata of the repository, needed for the first visit.",
            show_default="that of an earlier visit",
        ),
    ] = None,
    once: Annotated[bool, typer.Option("--once", help="Visit the repository once and exit.")] = False,
    every_s: Annotated[
        float, typer.Option(metavar="X", help="Mean seconds between visits, varied by up to 20 %.")
    ] = 3600.0,
    deadline_s: Deadline = None,
    max_bytes: MaxBytes = None,
    min_accuracy_gain: MinAccuracyGain = None,
    tenant: Tenant = None,
    base: Base = None,
    accept_base: AcceptBase = "bfloat16",
    health: Health = None,
    probe: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Labelled samples on which a candidate is measured."),
    ] = None,
    probe_min_accuracy: Annotated[float, typer.Option(metavar="A", help="Minimum accuracy on --probe, 0 to 1.")] = 0.5,
    model: Model = None,
    max_rate_bps: Annotated[
        float | None,
        typer.Option(metavar="R", help="Maximum download rate in bit/s.", show_default="no limit"),
    ] = None,
    token_file: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="File whose first line is sent as bearer token."),
    ] = None,
    ca: Annotated[
        Path | None,
        typer.Option(
            "--ca",
            metavar="FILE",
            help="CA certificates for https that replace the system's.",
            show_default="those of the system",
        ),
    ] = None,
    device: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Name under which the device reports and waits for its turn in a rollout.",
            show_default="none: no reports, no rollout",
        ),
    ] = None,
    seed: Annotated[
        int | None, typer.Option(metavar="S", help="Seed of the waits between attempts.", show_default="random")
    ] = None,
    as_json: Json = False,
) -> None:
    """Download, verify and install the newest adapter of a repository.

    Exit codes: 0 if a verified adapter runs, 2 for an invalid argument, 3 for a network failure, 4 for metadata or
    streams that cannot be trusted. After a failure the adapter from before still runs, or a better one that was
    installed before the failure.
    """
    from airlora.delivery.device.agent import visit
    from airlora.delivery.device.decisions import AgentConfig, DownloadTarget
    from airlora.delivery.device.health import AccuracyProbe, command_check
    from airlora.delivery.device.http_transport import HttpTransport
    from airlora.delivery.device.state import StateFolder
    from airlora.delivery.device.transport import DownloadLimits

    verify_url(url)
    verify_seconds("every_s", every_s)
    if deadline_s is not None:
        verify_seconds("deadline_s", deadline_s)
    checks: list[HealthCheck] = [command_check(text) for text in health or []]
    if probe is not None:
        checks.append(AccuracyProbe(probe, probe_min_accuracy, model=model))
    config = AgentConfig(
        url=url,
        root=None if root is None else read_bytes(root, "root", SettingsError),
        tenant=tenant,
        target=DownloadTarget(None if max_bytes is None else parse_size(max_bytes), min_accuracy_gain),
        base_fingerprint=base,
        accept_base=parse_level(accept_base),
        checks=checks,
        device=device,
    )
    limits = DownloadLimits(max_rate_bps=max_rate_bps)
    token = None if token_file is None else _first_line(token_file)
    folder = StateFolder(state)
    is_first = True
    while True:
        try:
            transport = HttpTransport(
                limits, deadline_s=deadline_s, token=token, ca_file=None if ca is None else str(ca)
            )
            found = visit(folder, config, transport, seed=seed)
            show_visit(found, as_json=as_json)
            if found.error is not None:
                raise found.error
        except AirloraError as error:
            # An invalid argument would fail every visit.
            if once or (is_first and isinstance(error, SettingsError)):
                raise
            print(f"airlora: {error}", file=sys.stderr, flush=True)
        if once:
            return
        is_first = False
        time.sleep(every_s * random.uniform(0.8, 1.2))


@edge.command()
def status(state: State, as_json: Json = False) -> None:
    """Show the running adapter of this device and the one that a rollback would restore."""
    folder, found = _load(state)
    running = found.running
    value: dict[str, Any] = {
        "version": None if running is None else running.version,
        "slot": found.active,
        "complete": running is not None and running.is_complete,
        "num_bytes": 0 if running is None else running.num_bytes,
        "num_segments": 0 if running is None else running.num_segments,
        "accuracy": None if running is None else running.accuracy,
        "path": None if found.active is None else str(folder.slot_path(found.active)),
        "newest_version": found.newest_version,
        "slots": {name: installed.model_dump() for name, installed in found.slots.items()},
        "refused": found.bad,
    }
    if as_json:
        print(json.dumps(value))
        return
    console = make_console()
    table = Table(title=str(state), title_justify="left")
    for name in ("slot", "release", "bytes", "segments", "complete", "accuracy", "active"):
        table.add_column(name)
    for slot, installed in sorted(found.slots.items()):
        accuracy = "-" if installed.accuracy is None else f"{installed.accuracy:.2%}"
        complete, active = ("yes" if flag else "no" for flag in (installed.is_complete, slot == found.active))
        cells = (slot, str(installed.version), f"{installed.num_bytes:,}", str(installed.num_segments))
        table.add_row(*cells, complete, accuracy, active)
    console.print(table if found.slots else f"{state}: no adapter yet")
    console.print(f"newest release seen: {found.newest_version or 'none'}")


@edge.command()
def rollback(state: State, as_json: Json = False) -> None:
    """Run the adapter in the other slot again. The adapter that ran is never installed again.

    The command waits up to 10 seconds for a visit that is in progress. Stop the agent if that is too short.
    """
    from airlora.delivery.device.state import rollback

    folder, _ = _load(state)
    found = rollback(folder, wait_s=ROLLBACK_WAIT_S)
    running = found.running
    version = None if running is None else running.version
    if as_json:
        print(json.dumps({"version": version, "slot": found.active}))
        return
    make_console().print(f"{state}: release {version} runs again, in slot {found.active}", soft_wrap=True)


@edge.command()
def history(state: State, as_json: Json = False) -> None:
    """Show the events of this device, oldest first."""
    _, found = _load(state)
    if as_json:
        print(json.dumps(found.history))
        return
    for entry in found.history:
        values = ", ".join(f"{key} {value}" for key, value in entry.items() if key not in ("time", "event"))
        make_console().print(f"{entry['time']}  {entry['event']}  {values}".rstrip(), soft_wrap=True, highlight=False)


def verify_url(url: str) -> None:
    """Raise `SettingsError` unless `url` is an http or https address."""
    from urllib3.exceptions import LocationParseError
    from urllib3.util import parse_url

    try:
        parts = parse_url(url)
    except LocationParseError:
        parts = None
    if parts is None or parts.scheme not in ("http", "https") or not parts.host:
        raise SettingsError.of("url", url, "an address that starts with http:// or https://")


def _load(state: Path) -> tuple[StateFolder, DeviceState]:
    from airlora.delivery.device.state import StateFolder

    if not state.is_dir():
        raise SettingsError(f"state {state}: no such folder")
    folder = StateFolder(state)
    return folder, folder.load()


def verify_seconds(name: str, value: float) -> None:
    """Raise `SettingsError` unless a duration is above 0."""
    if not 0 < value < float("inf"):
        raise SettingsError.of(name, value, "seconds, above 0")


def _first_line(path: Path) -> str:
    text = read_bytes(path, "token", SettingsError).decode(errors="replace").strip().partition("\n")[0].strip()
    if not text or not text.isascii() or not text.isprintable():
        raise SettingsError(f"token {path}: its first line must be printable ASCII")
    return text


def show_visit(found: VisitResult, *, as_json: bool) -> None:
    """Print the result of a visit."""
    if as_json:
        error = None if found.error is None else str(found.error)
        print(json.dumps(vars(found) | {"error": error}), flush=True)
        return
    accuracy = "" if found.accuracy is None else f", promised accuracy {found.accuracy:.1%}"
    complete = "complete" if found.complete else "a prefix of it"
    runs = "no adapter" if found.version is None else f"release {found.version}, {complete}{accuracy}"
    console = make_console()
    console.print(f"runs {runs}", soft_wrap=True, highlight=False)
    console.print(
        f"{found.bytes_fetched:,} bytes downloaded, {found.bytes_reused:,} reused, "
        f"{found.metadata_bytes:,} of metadata, "
        f"{found.seconds:.1f} s{': ' + found.note if found.note else ''}",
        soft_wrap=True,
        highlight=False,
    )
    if isinstance(found.error, TrustError):
        console.print("the adapter from before this visit still runs", highlight=False)
    # A reader of a pipe sees each visit when it ends.
    console.file.flush()
