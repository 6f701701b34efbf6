"""The command reproduce."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from airlora.cli.app import app, print_result, show_progress
from airlora.cli.options import Json
from airlora.errors import SettingsError

__all__ = ["reproduce"]


@app.command()
def reproduce(
    name: Annotated[
        str | None,
        typer.Argument(
            metavar="NAME",
            help="table3, table4, table5a, table5b, table6, fig3 to fig8, or `all`.",
            show_default="required without --summary",
        ),
    ] = None,
    scale: Annotated[
        str,
        typer.Option(
            metavar="S",
            help="`quick` for two CPU cores and half an hour, `standard` for hours, `paper` for OPT-1.3B and a GPU.",
        ),
    ] = "quick",
    variant: Annotated[
        str,
        typer.Option(
            metavar="V", help="`literal` for the paper as printed, `repaired` for the paper with documented repairs."
        ),
    ] = "repaired",
    data: Annotated[
        str | None,
        typer.Option(
            metavar="sst2|DIR",
            help="Data: `sst2`, or a folder with training and held-out files.",
            show_default="quick: the embedded corpus; else sst2",
        ),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            metavar="NAME|DIR",
            help="Base model: `embedded-minilm`, a folder, or a Hugging Face id.",
            show_default="embedded-minilm; paper: facebook/opt-1.3b",
        ),
    ] = None,
    out: Annotated[Path, typer.Option(metavar="DIR", help="Folder of the results.")] = Path("runs/reproduce"),
    seeds: Annotated[
        int | None, typer.Option(metavar="N", help="Number of seeds.", show_default="quick: 1; else 5")
    ] = None,
    executor: Annotated[
        str, typer.Option(metavar="E", help="`local` for processes of this machine, or `ray` for a Ray cluster.")
    ] = "local",
    address: Annotated[
        str | None,
        typer.Option(metavar="A", help="Address of the Ray cluster.", show_default="Ray on this machine"),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print trials and hours, and run nothing.")] = False,
    summary: Annotated[bool, typer.Option("--summary", help="Print the verdicts in DIR, and run nothing.")] = False,
    as_json: Json = False,
) -> None:
    """Reproduce the tables and figures of the paper, with statistics and a verdict on every claim.

    Writes CSV, Markdown, LaTeX and JSON of each table, SVG, PDF, CSV and JSON of each figure, and `report.html`. The
    same command continues an interrupted reproduction.
    """
    from airlora.reproduce.plan import Plan
    from airlora.reproduce.report import summary_table
    from airlora.reproduce.run import dry_run as list_trials
    from airlora.reproduce.run import read_verdicts
    from airlora.reproduce.run import reproduce as run

    if summary:
        found = read_verdicts(out, name or "all")
        judged = {key: [verdict.to_dict() for verdict in own.verdicts] for key, own in found.items()}
        origins = {own.origin: [key for key in found if found[key].origin == own.origin] for own in found.values()}
        captions = [f"{origin}: {', '.join(names)}" for origin, names in origins.items()]
        table = summary_table({key: own.verdicts for key, own in found.items()})
        print_result(judged, table, "\n".join(captions), as_json=as_json)
        return
    if name is None:
        raise SettingsError("NAME is missing: give a table or figure such as `table3`, or `all`")
    plan = Plan.make(scale, variant, data=data, model=model, num_seeds=seeds)
    if dry_run:
        lines = list_trials(name, plan, out)
        table = Table(title=f"trials of {name} at the scale {scale}", title_justify="left")
        table.add_column("kind")
        for header in ("trials", "done", "hours, one at a time"):
            table.add_column(header, justify="right")
        for line in lines:
            table.add_row(line.kind, str(line.num_trials), str(line.num_done), f"{line.hours:.2f}")
        table.add_row("total", *(str(sum(getattr(line, key) for line in lines)) for key in ("num_trials", "num_done")))
        hours = sum(line.hours for line in lines)
        listed = {"trials": [vars(line) for line in lines], "hours": hours}
        print_result(listed, table, f"{hours:.2f} hours, one trial at a time", as_json=as_json)
        return
    with show_progress() as progress:
        done = run(
            name,
            plan,
            out,
            executor=executor,
            address=address,
            progress=progress,
            command=shlex.join(["airlora", *sys.argv[1:]]),
        )
    verdicts = {result.name: result.verdicts for result in done.results}
    value = {
        "report": str(done.report),
        "results": {
            result.name: {"rows": list(result.rows), "verdicts": [verdict.to_dict() for verdict in result.verdicts]}
            for result in done.results
        },
    }
    print_result(value, summary_table(verdicts), f"report: {done.report}", as_json=as_json)
