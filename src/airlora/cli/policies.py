"""The command policies."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from airlora.cli.app import app, print_result, show_progress
from airlora.cli.options import Json
from airlora.errors import SettingsError

__all__ = ["policies"]


@app.command()
def policies(
    bench: Annotated[bool, typer.Option("--bench", help="Benchmark the policies and write a report.")] = False,
    show_list: Annotated[
        bool, typer.Option("--list", help="Show every policy by name. The same as no option at all.")
    ] = False,
    quick: Annotated[
        bool, typer.Option("--quick", help="Use one problem, few evaluations and two seeds: minutes instead of hours.")
    ] = False,
    out: Annotated[
        Path,
        typer.Option(
            metavar="DIR", help="Folder of the records and the report. An unfinished benchmark in it is continued."
        ),
    ] = Path("runs/policies"),
    names: Annotated[
        list[str] | None,
        typer.Option(
            "--policy",
            metavar="NAME",
            help="Benchmark only this policy, or package.module:Class; repeatable.",
            show_default="all that the benchmark supports",
        ),
    ] = None,
    problems: Annotated[
        list[str] | None,
        typer.Option(
            "--problem",
            metavar="KEY",
            help="Benchmark only this problem: `separable-36`, `noisy-36`, `interacting-36` or `separable-144`; "
            "repeatable.",
            show_default="all four; with --quick separable-36",
        ),
    ] = None,
    evaluations: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            help="Loss measurements of each policy that learns.",
            show_default="20000; with --quick 1000; with --run 2000",
        ),
    ] = None,
    seeds: Annotated[
        int | None,
        typer.Option(metavar="N", help="Number of seeds, one problem instance each.", show_default="3; with --quick 2"),
    ] = None,
    preset: Annotated[
        str | None,
        typer.Option(
            metavar="P",
            help="Preset that the policies' settings are taken from: `quick`, `standard`, `paper-literal` or `paper`. "
            "Finished runs have their own.",
            show_default="quick",
        ),
    ] = None,
    runs: Annotated[
        list[Path] | None,
        typer.Option(
            "--run",
            metavar="RUN",
            help="Benchmark on the adapter of this finished run instead; repeatable, one run per seed.",
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """List the policies, or benchmark them.

    The benchmark uses problems with a known optimum, or with `--run` the adapters of finished runs.
    """
    from airlora.policy import policy_specs
    from airlora.reports.tables import policy_table

    values_given = evaluations is not None or seeds is not None or preset is not None
    if not bench:
        if not show_list and (quick or names or problems or values_given or runs):
            raise SettingsError("these options belong to --bench: `airlora policies --bench`")
        listed = [{"policy": name, "summary": spec.summary} for name, spec in policy_specs().items()]
        print_result(listed, policy_table(), as_json=as_json)
        return
    if runs:
        if problems or seeds is not None or quick or preset is not None:
            raise SettingsError("--run benchmarks on finished runs: leave --problem, --seeds, --preset and --quick out")
        _benchmark_on_runs(runs, names, out, evaluations, as_json=as_json)
        return
    from airlora.bench.policies import BenchmarkPlan, benchmark_policies, run_benchmark, summarise
    from airlora.bench.problems import PROBLEMS
    from airlora.bench.report import benchmark_findings, benchmark_tables, write_benchmark_report
    from airlora.tasks import available_threads

    plan = BenchmarkPlan(
        problems=tuple(problems or (tuple(PROBLEMS)[:1] if quick else PROBLEMS)),
        policies=tuple(names or benchmark_policies()),
        evaluations=(1_000 if quick else 20_000) if evaluations is None else evaluations,
        num_seeds=(2 if quick else 3) if seeds is None else seeds,
        preset=preset or "quick",
    )
    with show_progress() as progress:
        rows = summarise(run_benchmark(plan, out, num_processes=available_threads(), watcher=progress))
    report = write_benchmark_report(rows, out, command=shlex.join(["airlora", *sys.argv[1:]]))
    print_result(rows, *benchmark_tables(rows), *benchmark_findings(rows), f"report: {report}", as_json=as_json)


def _benchmark_on_runs(
    runs: list[Path], names: list[str] | None, out: Path, evaluations: int | None, *, as_json: bool
) -> None:
    from airlora.bench.frozen import frozen_benchmark_policies, frozen_table, run_frozen_benchmark

    with show_progress() as progress:
        summary = run_frozen_benchmark(
            runs,
            tuple(names or frozen_benchmark_policies()),
            out,
            evaluations=2_000 if evaluations is None else evaluations,
            watcher=progress,
        )
    print_result(summary, frozen_table(summary), as_json=as_json)
