"""The command plan."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from airlora.cli.app import app, print_result, show_progress
from airlora.cli.options import Bits, Json, RunQatSteps, parse_bits
from airlora.errors import SettingsError
from airlora.files import write_bytes

__all__ = ["plan"]


@app.command()
def plan(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a finished run.")],
    snr_db: Annotated[float, typer.Option(metavar="DB", help="Mean SNR of the link, dB.")],
    bandwidth_hz: Annotated[float, typer.Option(metavar="HZ", help="Bandwidth of the link, Hz, such as 1e6.")],
    deadline_s: Annotated[float, typer.Option(metavar="S", help="Time for the transfer, s.")] = 1.0,
    rate_model: Annotated[
        str | None,
        typer.Option(
            metavar="M",
            help="Rate model of the link: `shannon`, `ergodic` or `outage`.",
            show_default="that of the run",
        ),
    ] = None,
    bits: Bits = "auto",
    policy: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Policy that chooses the ranks, or package.module:Class.",
            show_default="choice by rate and distortion; greedy at fixed --bits",
        ),
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            help="Data set to measure on, see `airlora train --train`.",
            show_default="calibration samples; with --adalora the evaluation data",
        ),
    ] = None,
    out: Annotated[Path | None, typer.Option(metavar="FILE", help="Write the planned stream to FILE.")] = None,
    adalora: Annotated[
        bool, typer.Option("--adalora", help="Also train PEFT AdaLoRA for the link's budget. Takes minutes.")
    ] = False,
    qat_steps: RunQatSteps = None,
    picture: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Draw ranks, bytes and accuracies of the options as SVG.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Plan what to send over a link before a deadline, and compare it with the alternatives.

    Shows ranks, precision, bytes, seconds and the measured loss of each option.
    """
    from airlora.channel import Link
    from airlora.training import RunFolder
    from airlora.workflows.plan import plan_figure, plan_link, plan_table

    if not deadline_s > 0:
        raise SettingsError.of("deadline_s", deadline_s, "a number of seconds above 0")
    with show_progress() as progress:
        found = plan_link(
            run,
            Link(snr_db, bandwidth_hz),
            deadline_s=deadline_s,
            rate_model=rate_model,
            bits=parse_bits(bits),
            policy=policy,
            data=data,
            adalora=adalora,
            qat_steps=qat_steps,
            watcher=progress,
        )
    if out is not None:
        write_bytes(out, found.chosen.data)
    if picture is not None:
        folder = RunFolder(run)
        drawn = plan_figure(found, folder.record().modules, folder.settings().adapter.r_max)
        write_bytes(picture, drawn.encode())
    title = f"{snr_db:g} dB, {bandwidth_hz:g} Hz, {deadline_s:g} s: {found.budget_bytes:,} bytes"
    note = (
        f"The first line is the plan, the others are alternatives. Score: {found.metric.name}, measured on "
        f"{found.measured_on}."
    )
    print_result(found.to_dict(), plan_table(title, found), note, as_json=as_json)
