"""The command serve."""

from __future__ import annotations

import logging
import socket
from pathlib import Path
from typing import Annotated

import typer

from airlora.cli.app import app, is_quiet, make_console
from airlora.errors import SettingsError

__all__ = ["listening", "serve"]


@app.command()
def serve(
    repository: Annotated[Path, typer.Argument(metavar="REPO", help="Folder of the repository.")],
    host: Annotated[str, typer.Option(metavar="H", help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[
        int, typer.Option(metavar="P", help="Port to listen on. 0 takes a free one.", min=0, max=65535)
    ] = 8000,
    reports: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="SQLite database of device reports.", show_default="REPO-reports.sqlite beside REPO"
        ),
    ] = None,
    tokens: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="File of lines `DEVICE TOKEN` and `@OPERATOR TOKEN`. Requests without a token are refused.",
            show_default="none: no token is needed",
        ),
    ] = None,
    rate: Annotated[
        str | None,
        typer.Option(
            metavar="N/TIME", help="Limit of requests per device, such as 600/minute.", show_default="no limit"
        ),
    ] = None,
    certificate: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Certificate chain for https (PEM).", show_default="none: http")
    ] = None,
    private_key: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Private key of the certificate (PEM).")
    ] = None,
    rollout_percent: Annotated[
        float, typer.Option(metavar="P", help="Percentage of the devices that may install a release.")
    ] = 100,
    rollout_first: Annotated[
        list[str] | None,
        typer.Option(
            metavar="DEVICE",
            help="Device that may install a release at any percentage, until it is stopped; repeatable.",
        ),
    ] = None,
    rollout_group: Annotated[
        list[str] | None,
        typer.Option(
            metavar="PATTERN=P",
            help="Percentage of the devices with matching names that may install a release, such as 'lab-*=100'; "
            "repeatable.",
        ),
    ] = None,
    rollout_stop: Annotated[
        float, typer.Option(metavar="S", help="Share of failed installations above which a release is stopped.")
    ] = 0.1,
    quiet: Annotated[bool, typer.Option("--quiet", help="Do not print a line for each request.")] = False,
) -> None:
    """Serve a repository over HTTP.

    Supports range requests, device reports and a staged rollout, with a dashboard at /, and /healthz and /metrics.
    """
    import uvicorn

    from airlora.delivery.server.access import Tokens, logger, parse_rate
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
    logger.setLevel(logging.WARNING if quiet or is_quiet() else logging.INFO)
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
