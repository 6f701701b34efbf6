"""Compare the paper's method with PPO alone and with the best constant rank on a language model, paired by seed.

    $ python benchmarks/paper_learns.py --data sst2 --objective frozen --out runs/learns
    $ python benchmarks/paper_learns.py --data sst2 --objective live --out runs/learns

With the objective `frozen`, an adapter is fine-tuned at full rank once per seed, and both policies measure the same
number of losses on it. With `live`, they choose the ranks of every fine-tuning step. The measure is U + lambda eta of
Eq. 9 on the evaluation data, as the mean over the five links of the presets. Model, steps and learning rates are those
of `airlora reproduce --scale standard`, which shares its trials with this script in the same folder. The script
continues an interrupted run.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from airlora.cli.app import show_progress
from airlora.errors import AirloraError, SettingsError
from airlora.files import write_bytes
from airlora.reproduce.experiment import Arm, Results
from airlora.reproduce.kinds import KINDS
from airlora.reproduce.plan import Plan
from airlora.reproduce.rates import choose_rates, rate_trials
from airlora.reproduce.runner import run_trials
from airlora.reproduce.statistics import mean_estimate
from airlora.reproduce.trial import Trial, TrialResult
from airlora.reproduce.verdicts import ClaimedDifference, judge_family

METHOD, OTHERS = "PPO+DDIM/MLP", ("PPO", "best constant")


def objectives(results: Results, method: str) -> list[float]:
    """Return the mean objective over all links, by seed."""
    snrs_db = results.plan.settings().channel.snr_db
    return [
        float(mean) for mean in np.mean([results.scores(Arm(method, snr_db=own), "objective") for own in snrs_db], 0)
    ]


def report(results: Results) -> str:
    """Return the table of objectives and the verdicts, in Markdown."""
    found = {method: objectives(results, method) for method in (METHOD, *OTHERS)}
    lines = ["| method | U + λη | 95 % interval |", "|---|---:|---|"]
    for method, values in found.items():
        estimate = mean_estimate(values)
        interval = "{:.4f} to {:.4f}".format(*estimate.interval) if estimate.interval else "-"
        lines.append(f"| {method} | {estimate.value:.4f} | {interval} |")
    snrs_db = results.plan.settings().channel.snr_db
    lines += ["", f"| by link | {' | '.join(f'{snr_db:g} dB' for snr_db in snrs_db)} |"]
    lines.append("|---|" + "---:|" * len(snrs_db))
    for symbol, quantity in (("U + λη", "objective"), ("η", "cost")):
        for method in found:
            means = [np.mean(results.scores(Arm(method, snr_db=own), quantity)) for own in snrs_db]
            lines.append(f"| {symbol}: {method} | {' | '.join(f'{mean:.3f}' for mean in means)} |")
    ours = [-value for value in found[METHOD]]
    claims = [
        ClaimedDifference(f"{METHOD} has a lower objective than {other}", ours, [-value for value in found[other]])
        for other in OTHERS
    ]
    lines += [f"\n{own.claim}: {own.verdict}. {own.reason}" for own in judge_family(claims, unit="nats")]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="sst2", help="`sst2`, or a folder with training and held-out files")
    parser.add_argument("--objective", choices=("frozen", "live"), default="frozen")
    parser.add_argument("--losses", type=int, default=1500, help="losses that a policy measures on a frozen adapter")
    parser.add_argument("--seeds", type=int, default=5, help="number of seeds")
    parser.add_argument("--processes", type=int, help="trials at once; all cores by default")
    parser.add_argument("--out", type=Path, default=Path("runs/learns"), help="folder of the results")
    arguments = parser.parse_args()
    if arguments.losses < 1:
        raise SettingsError.of("losses", arguments.losses, "1 or more")
    plan = Plan.make("standard", "repaired", data=arguments.data, num_seeds=arguments.seeds)
    with show_progress() as progress:

        def run(trials: Sequence[Trial]) -> dict[str, TrialResult]:
            return run_trials(trials, arguments.out, kinds=KINDS, num_processes=arguments.processes, progress=progress)

        # PEFT's methods have no part here, and their learning rates do not matter.
        tuning = {key: trial for key, trial in rate_trials(plan).items() if "method" not in trial.options}
        plan = choose_rates(plan, run([*tuning.values()]))
        plan = replace(plan, scale=replace(plan.scale, objective=arguments.objective, evaluations=arguments.losses))
        trials = [trial for method in (METHOD, *OTHERS) for seed in plan.seeds for trial in plan.trials(method, seed)]
        run(plan.adapter_trials(trials))
        results = Results(plan, run(trials))
    text = report(results)
    write_bytes(arguments.out / f"paper_learns_{arguments.objective}.md", f"{text}\n".encode())
    print(text)


if __name__ == "__main__":
    try:
        main()
    except AirloraError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
