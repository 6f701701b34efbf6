"""The parts that all commands share: the application, its entry point, common options."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from airlora.errors import AirloraError, SettingsError
from airlora.settings.loading import parse_items
from airlora.version import __version__

__all__ = ["Json", "Model", "Set", "Since", "app", "main", "make_console", "parse_bits", "parse_settings"]

app = typer.Typer(
    name="airlora",
    help="Choose which low-rank adapter components to send over a weak radio link, and deliver them to devices.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)

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


def main() -> None:
    """Run the command line; a user's mistake is one line on standard error and exit code 2."""
    # Waiting threads that spin slow a shared machine down tenfold; OpenMP reads this when torch is loaded.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    try:
        app()
    except AirloraError as error:
        print(f"airlora: {error}", file=sys.stderr)
        raise SystemExit(error.exit_code) from None
    except KeyboardInterrupt:
        print("airlora: interrupted", file=sys.stderr)
        raise SystemExit(130) from None


def make_console(*, stderr: bool = False) -> Console:
    """Return a console that writes text as it is: a file's or a release's name may look like rich's markup."""
    return Console(stderr=stderr, markup=False, emoji=False)


def _version(value: bool) -> None:
    if value:
        print(__version__)
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


def parse_settings(items: list[str] | None) -> dict[str, Any]:
    """Return the values of `--set` by dotted key, and import the link process and the policy that they name."""
    values = parse_items(items or [])
    if (process := values.get("channel.process")) is not None:
        from airlora.channel import register_link_process

        register_link_process(str(process))
    if isinstance(policy := values.get("policy.name"), str):
        from airlora.policy import import_policy

        import_policy(policy)
    return values


def parse_bits(text: str) -> Any:
    """Return "auto", or the number of bits; raises `SettingsError`."""
    if text == "auto":
        return text
    if text not in ("32", "16", "8", "4"):
        raise SettingsError.of("bits", text, "auto, 32, 16, 8 or 4")
    return int(text)
