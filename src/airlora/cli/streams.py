"""Commands on streams: pack, unpack, export, import."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, cast

import typer
from rich.table import Table

from airlora.cli.app import Json, Model, Since, app, make_console, parse_bits
from airlora.errors import SettingsError

__all__ = ["Distortion", "Importance", "Polish", "Size", "export", "import_", "pack", "precision", "unpack"]

Upto = Annotated[
    str | None,
    typer.Option(
        "--upto",
        metavar="SIZE",
        help="Use only the first whole segments of the stream within SIZE, such as 20kB.",
        show_default="the whole stream",
    ),
]
Bits = Annotated[
    str,
    typer.Option(
        metavar="B", help="Bits per parameter: `auto` chooses the precision of each component; or 32, 16, 8 or 4."
    ),
]
Distortion = Annotated[
    float | None,
    typer.Option(
        metavar="D", help="Share of the components' importance that may be lost. Excludes --size.", show_default="0.1"
    ),
]
Size = Annotated[
    str | None,
    typer.Option("--size", metavar="SIZE", help="Approximate size of the stream, such as 12kB. Excludes --distortion."),
]
Polish = Annotated[
    int,
    typer.Option("--polish", metavar="N", help="Steps of quantisation-aware fine-tuning of the components to send."),
]
Importance = Annotated[
    str | None,
    typer.Option(
        metavar="I",
        help="Measure of a component's importance: `balanced`, `path`, `gradient`, `combined`, `taylor`, `measured` or "
        "`singular`.",
        show_default="path; balanced with quantisation-aware fine-tuning or --whole",
    ),
]


@app.command()
def pack(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a finished run.")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="File of the stream, such as adapter.airs.")],
    bits: Bits = "auto",
    distortion: Distortion = None,
    size: Size = None,
    polish: Polish = 0,
    whole: Annotated[
        bool, typer.Option("--whole", help="Optimise for receivers of the whole stream. Its prefixes get worse.")
    ] = False,
    importance: Importance = None,
    since: Since = None,
    as_json: Json = False,
) -> None:
    """Write a run's adapter as a stream, most important components first; its prefixes are usable, too."""
    from airlora.packing import Packing
    from airlora.progress import LiveProgress
    from airlora.workflows.pack import pack_run

    packing = Packing(
        **precision(bits, distortion, size), polish_steps=polish, whole=whole, importance=cast("Any", importance)
    )
    with LiveProgress(make_console(stderr=True)) as progress:
        _show(pack_run(run, out, packing, since=since, watcher=progress), str(out), as_json=as_json)


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
    from airlora.workflows.pack import parse_size, unpack_stream

    max_bytes = None if upto is None else parse_size(upto)
    _show(unpack_stream(stream, out, max_bytes=max_bytes, model=model, since=since), str(stream), as_json=as_json)


@app.command()
def export(
    source: Annotated[Path, typer.Argument(metavar="RUN|STREAM", help="A finished run, or the file of a stream.")],
    out: Annotated[Path, typer.Argument(metavar="DIR", help="Folder for PEFT's two files.")],
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
    from airlora.workflows.pack import export_adapter, parse_size

    max_bytes = None if upto is None else parse_size(upto)
    result = export_adapter(source, out, target, max_bytes=max_bytes, model=model, since=since)
    if as_json:
        print(json.dumps(result))
        return
    head = "with the head" if result["has_head"] else "without a head"
    make_console().print(f"{out}: {result['num_modules']} modules up to rank {result['rank']}, {head}, for {target}")


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
    from airlora.workflows.import_adapter import import_peft

    packing = Packing(**precision(bits, distortion, size), importance="singular")
    names = [name.strip() for name in labels.split(",")] if labels else []
    _show(import_peft(folder, out, packing, model=model, labels=names), str(out), as_json=as_json)


def precision(bits: str, distortion: float | None, size: str | None) -> dict[str, Any]:
    """Return the arguments of `Packing` that say how fine; raises `SettingsError` for more than one of them."""
    from airlora.workflows.pack import parse_size

    values: dict[str, Any] = {"bits": parse_bits(bits)}
    if distortion is not None:
        if bits != "auto" or size is not None:
            raise SettingsError.of("distortion", distortion, "given with bits = auto, and without --size")
        values["max_distortion"] = distortion
    if size is not None:
        values["max_bytes"] = parse_size(size)
    return values


def _show(result: dict[str, Any], title: str, *, as_json: bool) -> None:
    if as_json:
        print(json.dumps(result))
        return
    table = Table(title=title, title_justify="left", show_header=False)
    whole = "" if result["is_complete"] else f" of {result['total_bytes']:,}"
    table.add_row("bytes", f"{result['payload_bytes']:,}{whole}")
    table.add_row("segments", f"{result['num_segments']} of {result['total_segments']}")
    table.add_row("components", str(result["num_components"]))
    table.add_row("numbers", f"{result['num_params']:,}")
    bits = result["bits_per_param"]
    table.add_row("bits a number", "-" if bits is None else f"{bits:.2f}")
    if result["base_stream"] is not None:
        table.add_row("starts from", result["base_stream"][:12])
    table.add_row("base model", result["base_fingerprint"][:12])
    make_console().print(table)
