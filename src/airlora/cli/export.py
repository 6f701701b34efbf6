"""The command export."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from airlora.cli.app import app, print_result
from airlora.cli.options import Json, Model, Since, Upto, parse_upto

__all__ = ["export"]


@app.command()
def export(
    source: Annotated[Path, typer.Argument(metavar="RUN|STREAM", help="A finished run, or the file of a stream.")],
    out: Annotated[
        Path, typer.Argument(metavar="DIR", help="Folder for adapter_config.json and adapter_model.safetensors.")
    ],
    target: Annotated[
        str, typer.Option("--for", metavar="LIB", help="Target library: `peft`, `vllm` or `llama.cpp`.")
    ] = "peft",
    upto: Upto = None,
    model: Model = None,
    since: Since = None,
    as_json: Json = False,
) -> None:
    """Write an adapter in the format of PEFT, vLLM or llama.cpp.

    For PEFT, each module keeps its rank and the classification head is included. vLLM and llama.cpp need one rank for
    all modules and load no head: the modules are padded with zeros, and the head is left out.
    """
    from airlora.workflows.export import export_adapter

    result = export_adapter(source, out, target, max_bytes=parse_upto(upto), model=model, since=since)
    head = "with the head" if result["has_head"] else "without a head"
    text = f"{out}: {result['num_modules']} modules up to rank {result['rank']}, {head}, for {target}"
    print_result(result, text, as_json=as_json)
