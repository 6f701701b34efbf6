"""Benchmark of policies on the frozen adapters of finished runs: held-out loss at equal budgets."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from rich.table import Table

from airlora.adapters import load_adapter
from airlora.channel import Link
from airlora.env import RankAllocationEnv
from airlora.errors import SettingsError
from airlora.files import make_folder, write_json
from airlora.policy import RankPolicy, TablePolicy, import_policy, policy_specs
from airlora.progress import ProgressReporter
from airlora.reports.compare import ComparisonRow, compare_policies
from airlora.reports.statistics import half_width
from airlora.reports.tables import marked
from airlora.training import (
    RunContext,
    RunFolder,
    Settings,
    build_context,
    frozen_env,
    learn_on_frozen,
    num_processes,
    problem_of,
    run_jobs,
    train_adalora,
)

__all__ = ["frozen_benchmark_policies", "frozen_table", "run_frozen_benchmark", "summarise_frozen"]

ADALORA = "adalora-ranks"
"""Name of the baseline that truncates the run's adapter to the ranks that PEFT's AdaLoRA kept for the link's budget."""

REFERENCE = "greedy"


def frozen_benchmark_policies() -> tuple[str, ...]:
    """Return the names of the policies that the benchmark includes by default, and of the AdaLoRA baseline."""
    return (*(name for name, spec in policy_specs().items() if "frozen" in spec.benchmarks), ADALORA)


def run_frozen_benchmark(
    runs: Sequence[Path | str],
    policies: Sequence[str],
    out: Path | str,
    *,
    evaluations: int,
    watcher: ProgressReporter,
) -> list[dict[str, Any]]:
    """Write `frozen.json` and return a summary of every policy on every link, over the adapters of all runs.

    All policies decide within the same budgets. The cost weight of Eq. 9 is 0, so that every policy uses its budget.
    Learners measure losses on the calibration samples only.

    Args:
        runs: Folders of finished runs, such as three seeds of one training. Requires the data of the runs.
        policies: Names of policies, or `adalora-ranks`. Classes `package.module:Class` are imported.
        out: Folder of `frozen.json`.
        evaluations: Number of losses that each learner may measure, 1 or more.
        watcher: Receives the progress.

    Raises:
        SettingsError: A policy is unknown, or `evaluations` is below 1.
        AirloraError: A run is not finished, or its data are missing.
    """
    for name in policies:
        if name != ADALORA:
            import_policy(name, others=[ADALORA])
    if evaluations < 1:
        raise SettingsError.of("evaluations", evaluations, "1 or more")
    for run in runs:
        RunFolder(run).record()
    folder = make_folder(out)
    watcher.phase("benchmarking on frozen adapters", len(runs) * len(policies))
    jobs = [partial(_evaluate_run, str(run), tuple(policies), evaluations) for run in runs]
    at_once = num_processes(RunFolder(runs[0]).settings()) if runs else 1
    found = run_jobs(jobs, at_once, on_step=lambda step: watcher.step(step, {}))
    rows = [(index, row) for index, part in enumerate(found) for row in part]
    write_json(folder / "frozen.json", [{"run": str(runs[index]), **row.to_dict()} for index, row in rows])
    return summarise_frozen(rows)


def summarise_frozen(rows: Sequence[tuple[int, ComparisonRow]]) -> list[dict[str, Any]]:
    """Return a dictionary per policy and SNR with means over runs of loss, accuracy and parameters sent.

    `interval` is the half width of the 95 % confidence interval of the mean loss. `gap` is the mean difference to the
    loss of `greedy` on the same run and link, and `gap_interval` its half width. Intervals are None for one run.

    Args:
        rows: Pairs of the index of a run and a row of its comparison.
    """
    keys = list(dict.fromkeys((row.policy, row.snr_db) for _, row in rows))
    reference = {(run, row.snr_db): row.evaluation.loss for run, row in rows if row.policy == REFERENCE}
    summary = []
    for policy, snr_db in keys:
        own = [(run, row) for run, row in rows if (row.policy, row.snr_db) == (policy, snr_db)]
        gaps = [row.evaluation.loss - reference[run, snr_db] for run, row in own if (run, snr_db) in reference]
        summary.append(
            {
                "policy": policy,
                "snr_db": snr_db,
                "runs": len(own),
                "loss": statistics.fmean(row.evaluation.loss for _, row in own),
                "interval": half_width([row.evaluation.loss for _, row in own]),
                own[0][1].metric.name: statistics.fmean(row.score for _, row in own),
                "num_params": statistics.fmean(row.num_params for _, row in own),
                "gap": statistics.fmean(gaps) if gaps else None,
                "gap_interval": half_width(gaps),
            }
        )
    return summary


def frozen_table(summary: Sequence[dict[str, Any]]) -> Table:
    """Return a table of held-out loss by policy and SNR with its interval. The lowest loss of a column is bold."""
    snrs = sorted({line["snr_db"] for line in summary})
    table = Table(title="held-out loss, nats (parameters sent), by mean SNR", title_justify="left")
    table.add_column("policy")
    for snr_db in snrs:
        table.add_column(f"{snr_db:g} dB", justify="right")
    best = {snr_db: min(line["loss"] for line in summary if line["snr_db"] == snr_db) for snr_db in snrs}
    for name in dict.fromkeys(line["policy"] for line in summary):
        cells = []
        for line in sorted((line for line in summary if line["policy"] == name), key=lambda line: line["snr_db"]):
            width = "" if line["interval"] is None else f" ± {line['interval']:.3f}"
            text = f"{line['loss']:.3f}{width} {line['num_params'] / 1000:.1f}k"
            cells.append(marked(text, is_best=line["loss"] == best[line["snr_db"]]))
        table.add_row(name, *cells)
    return table


def _evaluate_run(
    run: str, policies: tuple[str, ...], evaluations: int, count_step: Callable[[], None]
) -> list[ComparisonRow]:
    folder = RunFolder(run)
    record, settings = folder.record(), folder.settings()
    free = settings.env.model_copy(update={"objective": "frozen", "cost_weight": 0.0})
    # Policies can be compared only within the same budget, whatever the deadline mode of the run.
    channel = settings.channel.model_copy(update={"deadline_mode": "project"})
    # Runs are evaluated concurrently, each in a process with one thread.
    settings = settings.model_copy(update={"env": free, "channel": channel, "num_threads": 1})
    bench = build_context(settings)
    load_adapter(bench.adapted, folder.adapter_path)
    env = frozen_env(bench, settings)
    links = [Link(snr_db, record.link["bandwidth_hz"]) for snr_db in settings.channel.snr_db]
    rows = []
    for name in policies:
        if name == ADALORA:
            policy = _adalora_table(bench, env, settings, links, record.steps)
        else:
            # A process of its own knows no classes that the parent process imported.
            import_policy(name)
            policy = learn_on_frozen(name, bench, settings, evaluations=evaluations)
        own = compare_policies(bench, env, [policy], links, precision=settings.finetune.precision)
        rows += [replace(row, policy=name) for row in own]
        count_step()
    return rows


def _adalora_table(
    bench: RunContext, env: RankAllocationEnv, settings: Settings, links: Sequence[Link], steps: int
) -> RankPolicy:
    patterns = [
        train_adalora(
            settings,
            bench.train,
            bench.calibration,
            budget_params=env.budget_params(link.capacity_bps(settings.channel)),
            steps=steps,
        ).rank_pattern
        for link in links
    ]
    return TablePolicy(problem_of(env), patterns)
