"""Commands of a device: edge run, status, rollback, history."""

from __future__ import annotations

import json
import random
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Optional

import typer
from rich.table import Table

from airlora.cli.app import app, make_console
from airlora.cli.options import Json, Model
from airlora.errors import AirloraError, SettingsError, TrustError
from airlora.files import read_bytes
from airlora.settings.sizes import parse_size

if TYPE_CHECKING:
    from airlora.delivery.device.health import HealthCheck
    from airlora.delivery.device.plan import Visit

__all__ = [
    "Base",
    "Deadline",
    "Health",
    "LeastGain",
    "MaxBytes",
    "State",
    "Tenant",
    "edge",
    "show_visit",
    "verify_seconds",
    "verify_url",
]

ROLLBACK_WAIT_S = 10.0
"""For an agent that is at work."""

edge = typer.Typer(help="Run and look after the adapter of this device.", no_args_is_help=True)
app.add_typer(edge, name="edge")

State = Annotated[Path, typer.Option(metavar="DIR", help="Folder that the device keeps its adapters in.")]
Deadline = Annotated[
    Optional[float],  # noqa: UP045
    typer.Option(metavar="X", help="Seconds that a visit may take; what has come by then is used."),
]
MaxBytes = Annotated[
    Optional[str],  # noqa: UP045
    typer.Option(metavar="N", help="Of a stream, take only whole segments within so much, such as 20kB."),
]
LeastGain = Annotated[
    Optional[float],  # noqa: UP045
    typer.Option(metavar="G", help="Stop where no longer prefix promises so much more accuracy, such as 0.005."),
]
Tenant = Annotated[Optional[str], typer.Option(metavar="T", help="Whose releases.")]  # noqa: UP045
Base = Annotated[
    Optional[str],  # noqa: UP045
    typer.Option(metavar="HEX", help="Fingerprint of this device's base model; releases for another are refused."),
]
Health = Annotated[
    Optional[list[str]],  # noqa: UP045
    typer.Option(metavar="CMD", help="Must exit with 0 for a candidate, whose file is in AIRLORA_ADAPTER."),
]


@edge.command()
def run(
    url: Annotated[str, typer.Argument(metavar="URL", help="Of the repository, such as https://example.org/adapters.")],
    state: State,
    root: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(metavar="ROOT.json", help="The repository's first root, to trust from; needed once."),
    ] = None,
    once: Annotated[bool, typer.Option("--once", help="Visit the repository once.")] = False,
    every_s: Annotated[float, typer.Option(metavar="X", help="Seconds between visits, give or take a fifth.")] = 3600.0,
    deadline_s: Deadline = None,
    max_bytes: MaxBytes = None,
    least_gain: LeastGain = None,
    tenant: Tenant = None,
    base: Base = None,
    health: Health = None,
    probe: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(metavar="FILE", help="Labelled samples: a candidate has to answer them with the base model."),
    ] = None,
    probe_least: Annotated[float, typer.Option(metavar="A", help="Share of right answers that it needs there.")] = 0.5,
    model: Model = None,
    max_rate_bps: Annotated[
        Optional[float],  # noqa: UP045
        typer.Option(metavar="R", help="Leave the rest of the link to others: bit/s."),
    ] = None,
    token_file: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(metavar="FILE", help="Its first line is sent as bearer token."),
    ] = None,
    ca: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option("--ca", metavar="FILE", help="Certificates to trust for https, in the place of the system's."),
    ] = None,
    device: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(metavar="NAME", help="Report to the server by this name, and wait for this device's turn."),
    ] = None,
    seed: Annotated[Optional[int], typer.Option(metavar="S", help="Of the waits between attempts.")] = None,  # noqa: UP045
    as_json: Json = False,
) -> None:
    """Visit a repository: verify, take as much of the newest adapter as is wanted, install it.

    Exit code 0: a verified adapter runs. 2: a mistake in what was asked. 3: the network gave up. 4: trust was refused.
    Whatever the code, what ran before runs on, unless something better came.
    """
    from airlora.delivery.device.agent import visit
    from airlora.delivery.device.decide import Wish
    from airlora.delivery.device.health import AccuracyProbe, command_check
    from airlora.delivery.device.limits import LinkLimits
    from airlora.delivery.device.link import HttpLink
    from airlora.delivery.device.plan import AgentPlan
    from airlora.delivery.device.state import StateFolder

    verify_url(url)
    verify_seconds("every_s", every_s)
    if deadline_s is not None:
        verify_seconds("deadline_s", deadline_s)
    checks: list[HealthCheck] = [command_check(text) for text in health or []]
    if probe is not None:
        checks.append(AccuracyProbe(probe, probe_least, model=model))
    plan = AgentPlan(
        url=url,
        root=None if root is None else read_bytes(root, "root", SettingsError),
        tenant=tenant,
        wish=Wish(None if max_bytes is None else parse_size(max_bytes), least_gain),
        base_fingerprint=base,
        checks=checks,
        device=device,
    )
    limits = LinkLimits(max_rate_bps=max_rate_bps)
    token = None if token_file is None else _first_line(token_file)
    folder = StateFolder(state)
    is_first = True
    while True:
        end_s = float("inf") if deadline_s is None else time.monotonic() + deadline_s
        try:
            link = HttpLink(limits, end_s, token=token, ca_file=None if ca is None else str(ca))
            found = visit(folder, plan, link, seed=seed)
            show_visit(found, as_json=as_json)
            if found.error is not None:
                raise found.error
        except AirloraError as error:
            # What is wrong with the first visit for the user's own sake would be wrong with all.
            if once or (is_first and isinstance(error, SettingsError)):
                raise
            print(f"airlora: {error}", file=sys.stderr, flush=True)
        if once:
            return
        is_first = False
        time.sleep(every_s * random.uniform(0.8, 1.2))


@edge.command()
def status(state: State, as_json: Json = False) -> None:
    """Show what this device runs, and what it could go back to."""
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
    for name in ("slot", "release", "bytes", "segments", "whole", "accuracy", "runs"):
        table.add_column(name)
    for slot, installed in sorted(found.slots.items()):
        worth = "-" if installed.accuracy is None else f"{installed.accuracy:.2%}"
        whole, runs = ("yes" if flag else "no" for flag in (installed.is_complete, slot == found.active))
        cells = (slot, str(installed.version), f"{installed.num_bytes:,}", str(installed.num_segments))
        table.add_row(*cells, whole, worth, runs)
    console.print(table if found.slots else f"{state}: no adapter yet")
    console.print(f"newest release seen: {found.newest_version or 'none'}")


@edge.command()
def rollback(state: State, as_json: Json = False) -> None:
    """Run what lies in the other slot, and do not install again what ran before.

    While an agent fetches a release it is waited for, 10 seconds at most; stop the agent if that is not enough.
    """
    from airlora.delivery.device.rollback import rollback

    folder, _ = _load(state)
    found = rollback(folder, wait_s=ROLLBACK_WAIT_S)
    running = found.running
    version = None if running is None else running.version
    if as_json:
        print(json.dumps({"version": version, "slot": found.active}))
        return
    make_console().print(f"{state}: runs release {version} again, in slot {found.active}", soft_wrap=True)


@edge.command()
def history(state: State, as_json: Json = False) -> None:
    """Show what happened on this device, oldest first."""
    _, found = _load(state)
    if as_json:
        print(json.dumps(found.history))
        return
    for entry in found.history:
        values = ", ".join(f"{key} {value}" for key, value in entry.items() if key not in ("time", "event"))
        make_console().print(f"{entry['time']}  {entry['event']}  {values}".rstrip(), soft_wrap=True, highlight=False)


def verify_url(url: str) -> None:
    """Raise `SettingsError` unless it is an http or https address."""
    from urllib3.exceptions import LocationParseError
    from urllib3.util import parse_url

    try:
        parts = parse_url(url)
    except LocationParseError:
        parts = None
    if parts is None or parts.scheme not in ("http", "https") or not parts.host:
        raise SettingsError.of("url", url, "an address that starts with http:// or https://")


def _load(state: Path) -> tuple[Any, Any]:
    from airlora.delivery.device.state import StateFolder

    if not state.is_dir():
        raise SettingsError(f"state {state}: no such folder")
    folder = StateFolder(state)
    return folder, folder.load()


def verify_seconds(name: str, value: float) -> None:
    """Raise `SettingsError` unless a time is above 0."""
    if not 0 < value < float("inf"):
        raise SettingsError.of(name, value, "seconds, above 0")


def _first_line(path: Path) -> str:
    text = read_bytes(path, "token", SettingsError).decode(errors="replace").strip().partition("\n")[0].strip()
    if not text or not text.isascii() or not text.isprintable():
        raise SettingsError(f"token {path}: its first line is to be printable ASCII")
    return text


def show_visit(found: Visit, *, as_json: bool) -> None:
    """Print what came of a visit."""
    if as_json:
        error: AirloraError | None = found.error
        value = {key: part for key, part in vars(found).items() if key != "error"}
        print(json.dumps(value | {"error": None if error is None else str(error)}), flush=True)
        return
    worth = "" if found.accuracy is None else f", {found.accuracy:.1%} promised"
    whole = "whole" if found.complete else "a part"
    runs = "no adapter" if found.version is None else f"release {found.version}, {whole} of it{worth}"
    console = make_console()
    console.print(f"runs {runs}", soft_wrap=True, highlight=False)
    console.print(
        f"{found.bytes_fetched:,} bytes fetched, {found.bytes_reused:,} reused, {found.metadata_bytes:,} of metadata, "
        f"{found.seconds:.1f} s{': ' + found.note if found.note else ''}",
        soft_wrap=True,
        highlight=False,
    )
    if isinstance(found.error, TrustError):
        console.print("what runs is what ran before", highlight=False)
    # A log that is read through a pipe is to show each visit when it happens.
    console.file.flush()
