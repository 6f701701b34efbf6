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
    run: Annotated[
        Path, typer.Argument(metavar="RUN|PEFT_DIR", help="Folder of a finished run, or of a PEFT LoRA or AdaLoRA.")
    ],
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
    model: Annotated[
        str | None,
        typer.Option(
            metavar="NAME|DIR", help="Base model of a PEFT adapter.", show_default="that of adapter_config.json"
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Write an adapter as a stream, most important components first. Every prefix of it is an adapter, too.

    A PEFT adapter is packed as by `airlora import`, without data. `--qat-steps`, `--importance`, `--whole`, `--since`
    are for runs.
    """
    from airlora.errors import SettingsError
    from airlora.packing import Packing
    from airlora.reports.tables import stream_table
    from airlora.workflows.import_ import import_peft, is_peft_folder
    from airlora.workflows.pack import default_qat_steps, pack_run

    packing = Packing(
        **parse_precision(bits, distortion, size), qat_steps=qat_steps or 0, whole=whole, importance=importance
    )
    if is_peft_folder(run):
        if qat_steps or importance is not None or whole or since is not None:
            raise SettingsError(
                f"{run}: a PEFT adapter has no data for --qat-steps, --importance, --whole and --since; continue it by "
                "`airlora train --init-from`, and pack the run"
            )
        result = import_peft(run, out, packing, model=model)
        print_result(result, stream_table(str(out), result), as_json=as_json)
        return
    if model is not None:
        raise SettingsError(f"model = {model!r}: {run} is a run, which names its base model; leave --model out")
    if qat_steps is None and bits == "auto":
        packing = replace(packing, qat_steps=default_qat_steps(run))
    with show_progress() as progress:
        result = pack_run(run, out, packing, since=since, watcher=progress)
    print_result(result, stream_table(str(out), result), as_json=as_json)
