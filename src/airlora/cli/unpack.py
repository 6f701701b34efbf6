"""The command unpack."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from airlora.cli.app import app, print_result
from airlora.cli.options import Json, Model, Since, Upto, parse_upto

__all__ = ["unpack"]


@app.command()
def unpack(
    stream: Annotated[Path, typer.Argument(metavar="STREAM", help="File of a stream or of its prefix.")],
    out: Annotated[Path, typer.Argument(metavar="DIR", help="Folder for adapter.safetensors and stream.json.")],
    upto: Upto = None,
    model: Model = None,
    since: Since = None,
    as_json: Json = False,
) -> None:
    """Decode a stream or its prefix into an adapter."""
    from airlora.reports.tables import stream_table
    from airlora.workflows.unpack import unpack_stream

    result = unpack_stream(stream, out, max_bytes=parse_upto(upto), model=model, since=since)
    print_result(result, stream_table(str(stream), result), as_json=as_json)
