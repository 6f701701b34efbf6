"""The command that lists policies and judges them."""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path
from typing import Annotated, Optional

import typer

from airlora.cli.app import Json, app, make_console
from airlora.errors import SettingsError

__all__ = ["policies"]


@app.command()
def policies(
    bench: Annotated[
        bool, typer.Option("--bench", help="Judge them against known optima, and write a report.")
    ] = False,
    show_list: Annotated[
        bool, typer.Option("--list", help="Show every policy by name (also without any option).")
    ] = False,
    quick: Annotated[
        bool, typer.Option("--quick", help="One problem, few evaluations, two seeds: minutes instead of hours.")
    ] = False,
    out: Annotated[
        Path, typer.Option(metavar="DIR", help="Folder of records and report; a bench in it is gone on with.")
    ] = Path("runs/policies"),
    names: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option("--policy", metavar="NAME", help="Only this one; repeatable."),
    ] = None,
    problems: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option(
            "--problem", metavar="KEY", help="separable-36, noisy-36, interacting-36 or separable-144; repeatable."
        ),
    ] = None,
    evaluations: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option(metavar="N", help="Measured losses for each learner; 20000, with --quick 1000."),
    ] = None,
    seeds: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option(metavar="N", help="Landscapes and seeds; 3, with --quick 2."),
    ] = None,
    runs: Annotated[
        Optional[list[Path]],  # noqa: UP045
        typer.Option(
            "--run", metavar="RUN", help="Judge on this finished run's adapter instead; repeatable, one a seed."
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Show the policies, or judge them all on problems whose optimum is known, or on the adapters of finished runs."""
    from airlora.policy import RECIPES
    from airlora.reports.tables import policy_table

    numbers_given = evaluations is not None or seeds is not None
    if not bench:
        if show_list or not (quick or names or problems or numbers_given or runs):
            if as_json:
                print(json.dumps([{"policy": name, "summary": recipe.summary} for name, recipe in RECIPES.items()]))
            else:
                make_console().print(policy_table())
            return
        raise SettingsError("these options belong to --bench: `airlora policies --bench`")
    if runs:
        if problems or seeds is not None or quick:
            raise SettingsError("--run judges on finished runs: leave --problem, --seeds and --quick out")
        _bench_on_runs(runs, names, out, evaluations, as_json=as_json)
        return
    from airlora.bench.policies import BENCH_POLICIES, BenchPlan, run_bench, summarise
    from airlora.bench.problems import PROBLEMS
    from airlora.bench.report import bench_findings, bench_tables, write_bench_report
    from airlora.progress import LiveProgress
    from airlora.tasks import available_threads

    plan = BenchPlan(
        problems=tuple(problems or (tuple(PROBLEMS)[:1] if quick else PROBLEMS)),
        policies=tuple(names or BENCH_POLICIES),
        evaluations=(1_000 if quick else 20_000) if evaluations is None else evaluations,
        num_seeds=(2 if quick else 3) if seeds is None else seeds,
    )
    with LiveProgress(make_console(stderr=True)) as progress:
        rows = summarise(run_bench(plan, out, num_processes=available_threads(), watcher=progress))
    report = write_bench_report(rows, out, command=shlex.join(["airlora", *sys.argv[1:]]))
    if as_json:
        print(json.dumps(rows))
        return
    console = make_console()
    for table in bench_tables(rows):
        console.print(table)
    for line in bench_findings(rows):
        console.print(line)
    console.print(f"report: {report}")


def _bench_on_runs(
    runs: list[Path], names: list[str] | None, out: Path, evaluations: int | None, *, as_json: bool
) -> None:
    from airlora.bench.frozen import FROZEN_POLICIES, frozen_table, run_frozen_bench
    from airlora.progress import LiveProgress

    with LiveProgress(make_console(stderr=True)) as progress:
        summary = run_frozen_bench(
            runs,
            tuple(names or FROZEN_POLICIES),
            out,
            evaluations=2_000 if evaluations is None else evaluations,
            watcher=progress,
        )
    if as_json:
        print(json.dumps(summary))
        return
    make_console().print(frozen_table(summary))
