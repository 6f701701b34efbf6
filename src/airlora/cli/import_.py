"""The command import."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from airlora.cli.app import app, print_result
from airlora.cli.options import Bits, Distortion, Json, Size, parse_precision

__all__ = ["import_"]


@app.command("import")
def import_(
    folder: Annotated[Path, typer.Argument(metavar="PEFT_DIR", help="Folder of a PEFT LoRA or AdaLoRA adapter.")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="File of the stream.")],
    model: Annotated[
        str | None,
        typer.Option(metavar="NAME|DIR", help="Base model of the adapter.", show_default="that of adapter_config.json"),
    ] = None,
    labels: Annotated[
        str | None, typer.Option(metavar="A,B,...", help="Names of the classes, in order.", show_default="0,1,...")
    ] = None,
    bits: Bits = "auto",
    distortion: Distortion = None,
    size: Size = None,
    as_json: Json = False,
) -> None:
    """Convert a PEFT LoRA or AdaLoRA adapter into a stream, without training."""
    from airlora.packing import Packing
    from airlora.reports.tables import stream_table
    from airlora.workflows.import_ import import_peft

    packing = Packing(**parse_precision(bits, distortion, size))
    names = [name.strip() for name in labels.split(",")] if labels else []
    result = import_peft(folder, out, packing, model=model, labels=names)
    print_result(result, stream_table(str(out), result), as_json=as_json)
