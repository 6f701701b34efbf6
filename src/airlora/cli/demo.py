"""The command demo."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import RenderableType

from airlora.cli.app import app, print_result, show_progress
from airlora.cli.options import Json, Set, parse_settings

__all__ = ["demo"]


@app.command()
def demo(
    out: Annotated[Path, typer.Option(metavar="DIR", help="Folder of the run and the report.")] = Path("runs/demo"),
    settings: Set = None,
    deliver: Annotated[
        bool,
        typer.Option(
            "--deliver", help="Also publish the adapter and let three devices fetch it over slow, lossy links."
        ),
    ] = False,
    as_json: Json = False,
) -> None:
    """Fine-tune the embedded model, train a policy, compare it with the others, and write a report.

    Takes about nine minutes on two cores and needs no network. The same command continues an interrupted demo.
    `--set preset=paper` runs it with the settings of another preset.
    """
    from airlora.reports.tables import comparison_table
    from airlora.workflows.delivery_demo import deliver as deliver_run
    from airlora.workflows.delivery_demo import delivery_table
    from airlora.workflows.demo import demo_settings, run_demo

    resolved = demo_settings(parse_settings(settings))
    command = " ".join(["airlora demo", f"--out {out}", *(f"--set {item}" for item in settings or [])])
    with show_progress() as progress:
        found = run_demo(out, resolved, watcher=progress, command=command)
        outcomes = deliver_run(out, out, watcher=progress) if deliver else []
    result: dict[str, Any] = {"report": str(found.report), "rows": [row.to_dict() for row in found.rows]}
    shown: list[RenderableType] = [comparison_table(found.rows)]
    if deliver:
        result["delivery"] = [vars(outcome) for outcome in outcomes]
        shown.append(delivery_table(outcomes))
    print_result(result, *shown, f"report: {found.report}", as_json=as_json)
