"""The command curve."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from airlora.cli.app import app, print_result, show_progress
from airlora.cli.options import (
    Distortion,
    Importance,
    Json,
    PackingCommand,
    QatSteps,
    Set,
    Size,
    parse_precision,
    parse_settings,
)
from airlora.errors import SettingsError
from airlora.settings.sizes import parse_size

__all__ = ["curve"]


@app.command(cls=PackingCommand)
def curve(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Folders of finished runs, one per seed.")],
    out: Annotated[
        Path,
        typer.Option(
            metavar="DIR", help="Folder of the points and the report. An unfinished curve in it is continued."
        ),
    ] = Path("runs/curve"),
    data: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            help="Data set to measure on, see `airlora train --train`.",
            show_default="the runs' evaluation data",
        ),
    ] = None,
    distortion: Distortion = None,
    size: Size = None,
    qat_steps: QatSteps = 200,
    importance: Importance = None,
    ranks: Annotated[
        str, typer.Option(metavar="R,R,...", help="Ranks at which PEFT's LoRA and AdaLoRA are trained.")
    ] = "1,2,4,8",
    sizes: Annotated[
        list[str] | None,
        typer.Option(
            "--for",
            metavar="SIZE",
            help="Size of an additional stream that is optimised for receivers of the whole stream; repeatable.",
            show_default="3kB, 6kB and 10kB",
        ),
    ] = None,
    methods: Annotated[
        list[str] | None,
        typer.Option(
            "--method",
            metavar="M",
            help="Measure only this method; repeatable. Streams: `stream`, `sized` (see --for), `seeded` (see "
            "`airlora train --size`; sizes by --for), `unpolished` (without QAT), `singular` (importance by singular "
            "value). Fixed precisions: `constant` (one rank for all modules), `full` (all components). Methods of "
            "PEFT: `adalora`, `lora`, `unilora`, `vera`, `fourierft`, `tinylora`, `vblora`, `ia3`, `ln_tuning`.",
            show_default="all",
        ),
    ] = None,
    baseline_steps: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            help="Training steps of PEFT's adapters.",
            show_default="those of the run and of quantisation-aware fine-tuning together",
        ),
    ] = None,
    tuning_steps: Annotated[
        int,
        typer.Option(
            metavar="N", help="Training steps of each of the three tries of a learning rate, for every method of PEFT."
        ),
    ] = 300,
    settings: Set = None,
    as_json: Json = False,
) -> None:
    """Measure accuracy and loss against bytes, compare them with PEFT's methods, and write a report.

    Every method of PEFT has the best of three learning rates, measured on samples kept from training. `--set` changes
    settings of PEFT's adapters. `--set finetune.adalora_learning_rate=0.004` takes this rate without a try.
    """
    from airlora.packing import Packing
    from airlora.reports.curve import curve_findings, curve_results, curve_table, write_curve_report
    from airlora.reports.curve_points import CURVE_METHODS, summarise_curve
    from airlora.training import RunFolder
    from airlora.workflows.curve import run_curve
    from airlora.workflows.curve_jobs import DEFAULT_SIZES, CurvePlan

    plan = CurvePlan(
        packing=Packing(**parse_precision("auto", distortion, size), qat_steps=qat_steps, importance=importance),
        ranks=_parse_ranks(ranks),
        sizes=tuple(parse_size(text) for text in sizes) if sizes else DEFAULT_SIZES,
        methods=tuple(methods or CURVE_METHODS),
        data=data,
        baseline_steps=baseline_steps,
        overrides=parse_settings(settings),
        tuning_steps=tuning_steps,
    )
    with show_progress() as progress:
        points = run_curve(runs, plan, out, watcher=progress)
    rows = summarise_curve(points, RunFolder(runs[0]).record().task.metrics[0])
    page = write_curve_report(rows, out, command="airlora " + shlex.join(sys.argv[1:]))
    result = curve_results(rows) | {"report": str(page)}
    print_result(result, curve_table(rows), *curve_findings(rows), f"report: {page}", as_json=as_json)


def _parse_ranks(text: str) -> tuple[int, ...]:
    try:
        return tuple(sorted({int(item) for item in text.split(",")}))
    except ValueError:
        raise SettingsError.of("ranks", text, "whole numbers separated by commas, such as 1,2,4,8") from None
