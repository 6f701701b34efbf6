"""Policies on the frozen adapters of finished runs: held-out loss at equal budgets."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from rich.table import Table

from airlora.adapters import load_adapter
from airlora.env import Link, RankAllocationEnv
from airlora.errors import SettingsError
from airlora.files import make_folder, write_json
from airlora.policy import RankPolicy, TablePolicy
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

__all__ = ["FROZEN_POLICIES", "frozen_table", "run_frozen_bench", "summarise_frozen"]

FROZEN_POLICIES = ("allocate", "distilled", "airllm", "ppo", "greedy", "eva", "adalora-ranks", "constant", "random")
"""`adalora-ranks`: the ranks that PEFT's AdaLoRA kept when it was trained for the link's budget, as a cut."""

REFERENCE = "greedy"


def run_frozen_bench(
    runs: Sequence[Path | str],
    policies: Sequence[str],
    out: Path | str,
    *,
    evaluations: int,
    watcher: ProgressReporter,
) -> list[dict[str, Any]]:
    """Return the summary of every policy on every link over the runs' adapters, having written `frozen.json`.

    Every policy decides within the same budgets; the price of Eq. 9 is set to 0, so that none saves where another
    sends.  Learners measure losses on the calibration samples only.

    Args:
        runs: Folders of finished runs, such as three seeds of one training; their data must still be there.
        policies: Of `FROZEN_POLICIES`.
        out: Folder of `frozen.json`.
        evaluations: Measured losses that each learner gets.
        watcher: Is told of the progress.

    Raises:
        SettingsError: An unknown policy, or no evaluations.
        AirloraError: A run is not finished, or its data are gone.
    """
    for name in policies:
        if name not in FROZEN_POLICIES:
            raise SettingsError.of("policy", name, f"one of {', '.join(FROZEN_POLICIES)} with --run")
    if evaluations < 1:
        raise SettingsError.of("evaluations", evaluations, "1 or more")
    for run in runs:
        RunFolder(run).record()
    folder = make_folder(out)
    watcher.phase("judging on frozen adapters", len(runs) * len(policies))
    jobs = [partial(_judge_run, str(run), tuple(policies), evaluations) for run in runs]
    at_once = num_processes(RunFolder(runs[0]).settings()) if runs else 1
    found = run_jobs(jobs, at_once, on_step=lambda step: watcher.step(step, {}))
    rows = [(index, row) for index, part in enumerate(found) for row in part]
    write_json(folder / "frozen.json", [{"run": str(runs[index]), **row.to_dict()} for index, row in rows])
    return summarise_frozen(rows)


def summarise_frozen(rows: Sequence[tuple[int, ComparisonRow]]) -> list[dict[str, Any]]:
    """Return a dict per policy and SNR: mean loss, accuracy and numbers, and the loss beside `greedy`'s.

    `interval` is the half width of the 95 % interval of the mean loss over runs, `gap` the mean over runs of the
    loss less that of `greedy` on the same run and link, `gap_interval` its half width; none with one run.

    Args:
        rows: Each with the number of its run.
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
    """Return held-out loss by policy and SNR, with its interval; the least of a column is bold."""
    snrs = sorted({line["snr_db"] for line in summary})
    table = Table(title="held-out loss, nats (numbers sent), by mean SNR", title_justify="left")
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


def _judge_run(
    run: str, policies: tuple[str, ...], evaluations: int, count_step: Callable[[], None]
) -> list[ComparisonRow]:
    folder = RunFolder(run)
    record, settings = folder.record(), folder.settings()
    free = settings.env.model_copy(update={"objective": "frozen", "cost_weight": 0.0})
    # Whatever the run's own mode: policies that send different numbers cannot be compared.
    channel = settings.channel.model_copy(update={"deadline_mode": "project"})
    # One thread and one process per run: the runs go side by side.
    settings = settings.model_copy(update={"env": free, "channel": channel, "num_threads": 1})
    bench = build_context(settings)
    load_adapter(bench.adapted, folder.adapter_path)
    env = frozen_env(bench, settings)
    links = [Link(snr_db, record.link["bandwidth_hz"]) for snr_db in settings.channel.snr_db]
    rows = []
    for name in policies:
        policy = _table_of_adalora(bench, env, settings, links, record.steps) if name == "adalora-ranks" else None
        if policy is None:
            policy = learn_on_frozen(name, bench, settings, evaluations=evaluations)
        own = compare_policies(bench, env, [policy], links, precision=settings.finetune.precision)
        rows += [replace(row, policy=name) for row in own]
        count_step()
    return rows


def _table_of_adalora(
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
