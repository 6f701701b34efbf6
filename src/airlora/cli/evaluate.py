"""The command evaluate."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from airlora.cli.app import app, print_result, two_columns
from airlora.cli.options import Json, Model, Since, Upto, parse_upto

__all__ = ["evaluate"]


@app.command()
def evaluate(
    run: Annotated[Path, typer.Argument(metavar="RUN|STREAM", help="A finished run, or the file of a stream.")],
    data: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            help="Data set to measure on, see `airlora train --train`. Required for a stream.",
            show_default="the run's evaluation data",
        ),
    ] = None,
    rank: Annotated[
        int | None, typer.Option(metavar="N", help="Rank of every module.", show_default="the run's rank pattern")
    ] = None,
    rank_pattern: Annotated[
        str | None,
        typer.Option(
            metavar="JSON",
            help="Rank of each module: a JSON object with every module's name, or a file that holds one.",
            show_default="the run's rank pattern",
        ),
    ] = None,
    upto: Upto = None,
    model: Model = None,
    since: Since = None,
    predictions: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write target and prediction of every sample to FILE (JSONL).")
    ] = None,
    as_json: Json = False,
) -> None:
    """Measure a run at its own or another rank pattern, or a stream or its prefix."""
    from airlora.tasks import find_metrics
    from airlora.workflows.evaluate import evaluate_run

    result = evaluate_run(
        run,
        data=data,
        rank=rank,
        rank_pattern=rank_pattern,
        predictions=predictions,
        max_bytes=parse_upto(upto),
        model=model,
        since=since,
    )
    rows = {metric.name: metric.text(result[metric.name]) for metric in find_metrics(result)} | {
        "adapter parameters": f"{result['num_params']:,}",
        "samples": f"{result['num_samples']:,}",
    }
    if "payload_bytes" in result:
        rows["bytes of the stream"] = f"{result['payload_bytes']:,}"
    print_result(result, two_columns(str(run), rows), as_json=as_json)
