"""The command serve."""

from __future__ import annotations

import logging
import socket
from pathlib import Path
from typing import Annotated, Optional

import typer

from airlora.cli.app import app, is_quiet, make_console
from airlora.errors import SettingsError

__all__ = ["listening", "serve"]


@app.command()
def serve(
    repository: Annotated[Path, typer.Argument(metavar="REPO", help="Folder of the repository.")],
    host: Annotated[str, typer.Option(metavar="H", help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(metavar="P", help="Port; 0: any that is free.", min=0, max=65535)] = 8000,
    reports: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(metavar="FILE", help="Database of devices' reports; none: `<REPO>-reports.sqlite` beside it."),
    ] = None,
    tokens: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(metavar="FILE", help="Lines of `DEVICE TOKEN` and `@OPERATOR TOKEN`: nobody else may ask."),
    ] = None,
    rate: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(metavar="N/TIME", help="Requests that one device may make, such as 600/minute."),
    ] = None,
    certificate: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(metavar="FILE", help="Certificate chain (PEM), for https."),
    ] = None,
    private_key: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(metavar="FILE", help="Its private key."),
    ] = None,
    rollout_percent: Annotated[float, typer.Option(metavar="P", help="Of the devices that may take a release.")] = 100,
    rollout_first: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option(metavar="DEVICE", help="Always among them; repeatable."),
    ] = None,
    rollout_group: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option(metavar="PATTERN=P", help="Of the devices of such names, such as 'lab-*=100'; repeatable."),
    ] = None,
    rollout_stop: Annotated[
        float, typer.Option(metavar="S", help="Stop a release that fails on a larger share of those that tried it.")
    ] = 0.1,
    quiet: Annotated[bool, typer.Option("--quiet", help="No line per request.")] = False,
) -> None:
    """Serve a repository: files with ranges, devices' reports, rollout, a dashboard at /, /healthz and /metrics."""
    import uvicorn

    from airlora.delivery.server.app import ServerPlan, make_app, verify_repository_folder
    from airlora.delivery.server.dashboard.pages import dashboard_routes
    from airlora.delivery.server.gate import Tokens, log, parse_rate
    from airlora.delivery.server.reports import ReportStore
    from airlora.delivery.server.rollout import Rollout

    if (certificate is None) != (private_key is None):
        raise SettingsError("give --certificate and --private-key, or neither")
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
        raise SettingsError.of("reports", str(place), f"a file outside of {repository}, which is published")
    verify_repository_folder(repository)
    store = ReportStore(place)
    plan = ServerPlan(repository, store, rollout, checked, limit)
    log.setLevel(logging.WARNING if quiet or is_quiet() else logging.INFO)
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
    """Return a socket that listens; raises `SettingsError` where that cannot be."""
    try:
        return socket.create_server((host, port), backlog=2048)
    except (OSError, UnicodeError) as error:
        reason = (getattr(error, "strerror", None) or str(error)).lower()
        raise SettingsError(
            f"host and port = {host}:{port}: {reason}; allowed is an address of this machine and a free port"
        ) from error
