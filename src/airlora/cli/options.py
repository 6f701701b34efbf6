"""Options that several commands share, and how their values are parsed."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperOption

from airlora.errors import SettingsError
from airlora.settings.loading import parse_items
from airlora.settings.sizes import parse_size

__all__ = [
    "Bits",
    "Distortion",
    "Importance",
    "Json",
    "Model",
    "PackingCommand",
    "QatSteps",
    "RunQatSteps",
    "Set",
    "Since",
    "Size",
    "Upto",
    "parse_bits",
    "parse_precision",
    "parse_settings",
    "parse_upto",
]

IMPORTANCE_HELP = "Measure of the components' importance. A pass reads all calibration samples."

RENAMED_SETTINGS: dict[str, str] = {}
"""New key of a setting by its old key. The old key is refused."""

Json = Annotated[bool, typer.Option("--json", help="Print the result as one line of JSON on standard output.")]
Set = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Set one setting, such as `--set adapter.r_max=16`; repeatable."),
]
Model = Annotated[
    str | None, typer.Option(metavar="NAME|DIR", help="Base model of the stream.", show_default="the embedded model")
]
Since = Annotated[
    Path | None, typer.Option("--since", metavar="STREAM", help="Complete earlier stream that a delta refers to.")
]
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
QatSteps = Annotated[
    int,
    typer.Option(metavar="N", help="Steps of quantisation-aware fine-tuning of the components to send."),
]
RunQatSteps = Annotated[
    int | None,
    typer.Option(
        "--qat-steps",
        metavar="N",
        help="Steps of quantisation-aware fine-tuning of the components to send.",
        show_default="those of `airlora train --size`, else 0",
    ),
]
Importance = Annotated[
    str | None,
    typer.Option(
        metavar="MEASURE",
        help=IMPORTANCE_HELP,
        show_default="integrated_gradient; balanced_gradient with --qat-steps or --whole",
    ),
]


class PackingCommand(TyperCommand):
    """Command with the option `--importance`, whose help lists the importance measures.

    The measures are imported when the command runs or shows its help, since they need torch.
    """

    def get_params(self, ctx: Any) -> list[Any]:
        """Return the parameters of the command."""
        from airlora.packing import IMPORTANCE_MEASURES

        parameters = super().get_params(ctx)
        lines = [f"`{name}` ({own.cost}): {own.help}." for name, own in IMPORTANCE_MEASURES.items()]
        for parameter in parameters:
            if isinstance(parameter, TyperOption) and parameter.name == "importance":
                parameter.help = "\n\n".join([IMPORTANCE_HELP, *lines])
        return parameters


def parse_settings(items: list[str] | None) -> dict[str, Any]:
    """Return the values of `--set` by dotted key, and import the link process and the policy that they name.

    Raises:
        SettingsError: An item has no key or no value, or an old key.
    """
    values = parse_items(items or [])
    for key in values.keys() & RENAMED_SETTINGS.keys():
        raise SettingsError(f"setting {key} was renamed: use {RENAMED_SETTINGS[key]}")
    if (process := values.get("channel.process")) is not None:
        from airlora.channel import register_link_process

        register_link_process(str(process))
    if isinstance(policy := values.get("policy.name"), str):
        from airlora.policy import import_policy

        import_policy(policy)
    return values


def parse_bits(text: str) -> Any:
    """Return "auto" or the number of bits; raises `SettingsError`."""
    if text == "auto":
        return text
    if text not in ("32", "16", "8", "4"):
        raise SettingsError.of("bits", text, "auto, 32, 16, 8 or 4")
    return int(text)


def parse_precision(bits: str, distortion: float | None, size: str | None) -> dict[str, Any]:
    """Return the arguments of `Packing` for these options; raises `SettingsError` if they exclude each other."""
    values: dict[str, Any] = {"bits": parse_bits(bits)}
    if distortion is not None:
        if bits != "auto" or size is not None:
            raise SettingsError(f"distortion = {distortion}: needs bits = auto, and excludes --size")
        values["max_distortion"] = distortion
    if size is not None:
        values["max_bytes"] = parse_size(size)
    return values


def parse_upto(text: str | None) -> int | None:
    """Return the size of a prefix in bytes, None for the whole stream; raises `SettingsError`."""
    return None if text is None else parse_size(text)
