"""The application, its entry point, and output that all commands share."""

from __future__ import annotations

import json
import logging
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Annotated, Any

import typer
from rich.console import Console, RenderableType
from rich.table import Table

from airlora.errors import AirloraError, SettingsError
from airlora.progress import LiveProgress, ProgressReporter, SilentProgress
from airlora.version import __version__

__all__ = ["app", "is_quiet", "main", "make_console", "print_result", "show_progress", "two_columns"]

RENAMED_OPTIONS = {
    ("curve", "--polish"): "--qat-steps",
    ("edge run", "--least-gain"): "--min-accuracy-gain",
    ("edge run", "--probe-least"): "--probe-min-accuracy",
    ("listen", "--least-gain"): "--min-accuracy-gain",
    ("pack", "--polish"): "--qat-steps",
    ("publish", "--polish"): "--qat-steps",
}
"""New name of an option by command, such as `edge run`, and old name. The old name is refused."""

app = typer.Typer(
    name="airlora",
    help="Choose which low-rank adapter components to send over a weak radio link, and deliver them to devices.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)


def main() -> None:
    """Run the command line. A mistake of the user is one line on standard error and exit code 2."""
    # Waiting threads that spin slow a shared machine down tenfold; OpenMP reads this when torch is loaded.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    try:
        _refuse_renamed_options(sys.argv[1:])
        app()
    except AirloraError as error:
        print(f"airlora: {error}", file=sys.stderr)
        raise SystemExit(error.exit_code) from None
    except KeyboardInterrupt:
        print("airlora: interrupted", file=sys.stderr)
        raise SystemExit(130) from None


def _refuse_renamed_options(arguments: Sequence[str]) -> None:
    words = " ".join(word for word in arguments if not word.startswith("-"))
    given = {argument.partition("=")[0] for argument in arguments}
    for (command, old), new in RENAMED_OPTIONS.items():
        if old in given and f"{words} ".startswith(f"{command} "):
            raise SettingsError(f"{old} of `airlora {command}` was renamed: use {new}")


class _StandardError(logging.Handler):
    """Handler that writes to the standard error of the moment, which a live display redirects."""

    def emit(self, record: logging.LogRecord) -> None:
        print(self.format(record), file=sys.stderr)


def _version(value: bool) -> None:
    if value:
        print(__version__)
        raise typer.Exit


@app.callback()
def _root(
    verbose: Annotated[
        int,
        typer.Option(
            "--verbose",
            "-v",
            count=True,
            metavar="",
            show_default=False,
            help="Log more to standard error: decisions with -v, details with -vv.",
        ),
    ] = 0,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Log only errors, and show no progress.")] = False,
    version: Annotated[  # noqa: ARG001 (its callback exits)
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    if quiet and verbose:
        raise SettingsError("give -q or -v, not both")
    handler, log = _StandardError(), logging.getLogger("airlora")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    log.handlers = [handler]
    log.setLevel(logging.ERROR if quiet else max(logging.DEBUG, logging.WARNING - 10 * verbose))


def is_quiet() -> bool:
    """Return whether the option `-q` is given."""
    return not logging.getLogger("airlora").isEnabledFor(logging.WARNING)


def make_console(*, stderr: bool = False) -> Console:
    """Return a console that prints text unchanged: the name of a file may look like rich's markup."""
    return Console(stderr=stderr, markup=False, emoji=False)


@contextmanager
def show_progress() -> Iterator[ProgressReporter]:
    """Yield a watcher that shows the progress of a command on standard error, or nothing with `-q`."""
    if is_quiet():
        yield SilentProgress()
        return
    with LiveProgress(make_console(stderr=True)) as progress:
        yield progress


def print_result(result: Any, *shown: RenderableType, as_json: bool) -> None:
    """Print the result of a command.

    Args:
        result: Plain values, printed as one line of JSON with `as_json`.
        shown: Texts and tables, printed otherwise. Texts are not wrapped.
        as_json: Whether to print JSON.
    """
    if as_json:
        print(json.dumps(result))
        return
    console = make_console()
    for item in shown:
        console.print(item, soft_wrap=isinstance(item, str))


def two_columns(title: str, rows: Mapping[str, str]) -> Table:
    """Return a table of names and values."""
    table = Table(title=title, title_justify="left", show_header=False)
    for name, value in rows.items():
        table.add_row(name, value)
    return table
