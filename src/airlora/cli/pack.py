"""The command pack."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from airlora.cli.app import app, print_result, show_progress
from airlora.cli.options import (
    Bits,
    Distortion,
    Importance,
    Json,
    PackingCommand,
    RunQatSteps,
    Since,
    Size,
    parse_precision,
)

__all__ = ["pack"]


@app.command(cls=PackingCommand)
def pack(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a finished run.")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="File of the stream, such as adapter.airs.")],
    bits: Bits = "auto",
    distortion: Distortion = None,
    size: Size = None,
    qat_steps: RunQatSteps = None,
    whole: Annotated[
        bool, typer.Option("--whole", help="Optimise for receivers of the whole stream. Its prefixes get worse.")
    ] = False,
    importance: Importance = None,
    since: Since = None,
    as_json: Json = False,
) -> None:
    """Write a run's adapter as a stream, most important components first. Every prefix of it is an adapter, too."""
    from airlora.packing import Packing
    from airlora.reports.tables import stream_table
    from airlora.workflows.pack import default_qat_steps, pack_run

    packing = Packing(
        **parse_precision(bits, distortion, size), qat_steps=qat_steps or 0, whole=whole, importance=importance
    )
    if qat_steps is None and bits == "auto":
        packing = replace(packing, qat_steps=default_qat_steps(run))
    with show_progress() as progress:
        result = pack_run(run, out, packing, since=since, watcher=progress)
    print_result(result, stream_table(str(out), result), as_json=as_json)
