"""The command serve."""

from __future__ import annotations

import logging
import socket
from pathlib import Path
from typing import Annotated, Optional

import typer

from airlora.cli.app import app, make_console
from airlora.errors import SettingsError

__all__ = ["listening", "serve"]


@app.command()
def serve(
    repository: Annotated[Path, typer.Argument(metavar="REPO", help="Folder of the repository.")],
    host: Annotated[str, typer.Option(metavar="H", help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(metavar="P", help="Port; 0 chooses a free one.", min=0, max=65535)] = 8000,
    reports: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(
            metavar="FILE", help="Database of the devices' reports. [default: <REPO>-reports.sqlite beside REPO]"
        ),
    ] = None,
    tokens: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(
            metavar="FILE",
            help="Require one of the tokens in FILE, with lines `DEVICE TOKEN` or `@OPERATOR TOKEN`. "
            "[default: no token needed]",
        ),
    ] = None,
    rate: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(metavar="N/TIME", help="Request limit of one device, such as 600/minute. [default: none]"),
    ] = None,
    certificate: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(metavar="FILE", help="Certificate chain for HTTPS, PEM."),
    ] = None,
    private_key: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(metavar="FILE", help="Private key of the certificate, PEM."),
    ] = None,
    rollout_percent: Annotated[
        float, typer.Option(metavar="P", help="Percentage of the devices that may install a new release.")
    ] = 100,
    rollout_first: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option(metavar="DEVICE", help="Device that may always install a new release; repeatable."),
    ] = None,
    rollout_group: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option(
            metavar="PATTERN=P", help="Percentage for devices of matching names, such as 'lab-*=100'; repeatable."
        ),
    ] = None,
    rollout_stop: Annotated[
        float, typer.Option(metavar="S", help="Largest share of failed installations before a release is stopped.")
    ] = 0.1,
    quiet: Annotated[bool, typer.Option("--quiet", help="Do not log requests.")] = False,
) -> None:
    """Serve a repository over HTTP, with reports of devices, staged rollout, and a dashboard at /."""
    import uvicorn

    from airlora.delivery.server.access import Tokens, parse_rate
    from airlora.delivery.server.app import ServerPlan, make_app, verify_repository_folder
    from airlora.delivery.server.dashboard.pages import dashboard_routes
    from airlora.delivery.server.reports import ReportStore
    from airlora.delivery.server.rollout import Rollout

    if (certificate is None) != (private_key is None):
        raise SettingsError("pass both --certificate and --private-key, or neither")
    for path in (certificate, private_key):
        if path is not None and not path.is_file():
            raise SettingsError(f"{path}: no such file")
    whole = repository.resolve()
    rollout = Rollout(
        rollout_percent,
        first=tuple(rollout_first or ()),
        groups=tuple(map(_group, rollout_group or ())),
        stop_share=rollout_stop,
    )
    checked = None if tokens is None else Tokens(tokens)
    limit = None if rate is None else parse_rate(rate)
    place = reports or whole.with_name(f"{whole.name}-reports.sqlite")
    if place.resolve().is_relative_to(whole):
        raise SettingsError.of("reports", str(place), f"a file outside of {repository}, which is public")
    verify_repository_folder(repository)
    store = ReportStore(place)
    plan = ServerPlan(repository, store, rollout, checked, limit)
    logging.basicConfig(level=logging.WARNING if quiet else logging.INFO, format="%(asctime)s %(message)s")
    config = uvicorn.Config(
        make_app(plan, pages=dashboard_routes(plan)),
        log_level="warning",
        access_log=False,
        ssl_certfile=certificate,
        ssl_keyfile=private_key,
        server_header=False,
        timeout_graceful_shutdown=5,
    )
    with listening(host, port) as listener:
        address = f"{'https' if config.is_ssl else 'http'}://{host}:{listener.getsockname()[1]}"
        make_console(stderr=True).print(f"serving {repository} at {address}", highlight=False, soft_wrap=True)
        try:
            uvicorn.Server(config).run(sockets=[listener])
        finally:
            store.close()


def _group(text: str) -> tuple[str, float]:
    pattern, _, percent = text.rpartition("=")
    try:
        if pattern:
            return pattern, float(percent)
    except ValueError:
        pass
    raise SettingsError.of("rollout group", text, "PATTERN=PERCENT, such as 'lab-*=100'")


def listening(host: str, port: int) -> socket.socket:
    """Return a listening socket; raises `SettingsError` if the address cannot be used."""
    try:
        return socket.create_server((host, port), backlog=2048)
    except (OSError, UnicodeError) as error:
        reason = (getattr(error, "strerror", None) or str(error)).lower()
        raise SettingsError(
            f"host and port = {host}:{port}: {reason}; allowed is an address of this machine and a free port"
        ) from error
