"""The command inspect."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from airlora.cli.app import app, print_result
from airlora.cli.options import Json

__all__ = ["inspect"]


@app.command()
def inspect(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a finished run.")], as_json: Json = False
) -> None:
    """Show the rank of every layer and projection that a run chose, and its size."""
    from airlora.reports.tables import rank_table
    from airlora.tasks import find_metrics
    from airlora.workflows.inspect import inspect_run

    result = inspect_run(run)
    model, policy = result["model"], result["policy"]
    link = policy["link"]
    labels = f", labels {', '.join(model['label_names'])}" if "label_names" in model else ""
    metrics = [f"{metric.name} {metric.text(result[metric.name])}" for metric in find_metrics(result)]
    print_result(
        result,
        rank_table(result),
        f"model       {model['name']} ({model['fingerprint'][:12]}), {model['task']}{labels}",
        f"policy      {policy['name']} for {link['snr_db']:g} dB and {link['bandwidth_hz'] / 1e6:g} MHz",
        f"parameters  {result['num_params']:,} of the adapter (the paper's count: {result['paper_num_params']:,}) and "
        f"{result['num_head_params']:,} of the classification head",
        f"result      {', '.join(metrics)}",
        as_json=as_json,
    )
