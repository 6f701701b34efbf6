"""Measure what each repair of the preset `paper` brings, on a synthetic loss whose optimum is known, on one core.

    $ python benchmarks/paper_repairs.py --out paper_repairs.jsonl

| variant | policy and settings |
|---|---|
| `best-constant` | best constant rank of every context; regret 1 by definition |
| `paper-literal` | policy `airllm`, preset `paper-literal` |
| `ppo` | policy `ppo`, that is PPO without diffusion, preset `paper` |
| `paper` | policy `airllm`, preset `paper` |
| `paper - REPAIR` | policy `airllm`, preset `paper` without one repair |
| `paper + CANDIDATE` | policy `airllm`, preset `paper` with a change that is no repair, see `CANDIDATES` |
| `ppo - REPAIR` | policy `ppo`, preset `paper` without one repair that concerns PPO |
| `paper + CANDIDATE - REPAIR` | both changes |

Regret is 0 at the optimum of Eq. 9 and 1 at the best constant rank of every context. All learners measure equally many
losses. Each line of the JSON file is one variant with one seed; lines that exist already are not
measured again.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import json
import math
import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy import stats

from airlora.bench.synthetic.objective import SyntheticObjective
from airlora.channel import ChannelSettings, Link, shannon_bps
from airlora.env import EnvSettings, RankAllocationEnv
from airlora.errors import SettingsError
from airlora.observation import IntArray
from airlora.policy import RankPolicy
from airlora.ranks import ModuleShape
from airlora.text import TextComplexity
from airlora.training import Algorithm1, Settings, load_settings, problem_of
from airlora.training.links import decide_for_link
from airlora.training.policies import make_from_settings
from airlora.training.presets import REPAIRS, without_repairs

R_MAX, NUM_LAYERS, NUM_TEXTS = 16, 6, 4

DEADLINES_OF_ALL_COMPONENTS = 2.2
"""Transfer time of all components at 5 dB, in deadlines: that of OPT-1.3B at r_max = 16 on the link of the presets."""

COST_WEIGHT = 0.1
"""Lambda of the presets. The best constant rank is 3 on the weakest link and 13 on the strongest."""

FALL_NATS, FALL_STEPS = 0.5, 1000.0
"""Fall of the loss while the model is fine-tuned: 0.5 nats, with this time constant in steps."""

CANDIDATES: Mapping[str, Mapping[str, Any]] = {
    "advantage-weights": {"diffusion.loss": "advantage_weighted"},
    "weights-and-noise": {"diffusion.loss": "advantage_weighted", "diffusion.exploration": 0.1},
    "decision-mean": {"diffusion.num_decision_samples": 8},
}
"""Changes of the preset `paper` that are no repairs of it, since they bring nothing measurable."""

VARIANTS = (
    "paper-literal",
    "ppo",
    "ppo - one-step-advantage",
    "ppo - trend",
    "paper",
    *(f"paper - {name}" for name in REPAIRS),
    *(f"paper + {name}" for name in CANDIDATES),
)


class FallingObjective:
    """A synthetic objective whose loss falls from step to step, as that of a model which is being fine-tuned.

    Args:
        inner: Objective with a known optimum. The fall is the same for all ranks, so that the optimum stays the same.
    """

    def __init__(self, inner: SyntheticObjective) -> None:
        self.inner = inner
        self.head_params, self.r_max = inner.head_params, inner.r_max
        self._steps = 0

    @property
    def shapes(self) -> Mapping[str, ModuleShape]:
        """Shapes of the modules by name, in order."""
        return self.inner.shapes

    def reset(self, generator: np.random.Generator) -> None:
        """Start an episode; the fall goes on."""
        self.inner.reset(generator)

    def complexity(self) -> TextComplexity:
        """Return the text features of the next `measure`."""
        return self.inner.complexity()

    def measure(self, ranks: IntArray) -> float:
        """Return the loss of the ranks, nats, with noise and with what is left of the fall."""
        self._steps += 1
        return self.inner.measure(ranks) + FALL_NATS * math.exp(-self._steps / FALL_STEPS)

    def state_dict(self) -> dict[str, Any]:
        """Return the state of the inner objective and the number of steps."""
        return self.inner.state_dict() | {"steps": self._steps}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the value of `state_dict`."""
        self._steps = state["steps"]
        self.inner.load_state_dict(state)


class SyntheticProblem:
    """The problem of one seed, which draws the landscape and the texts.

    Args:
        settings: Settings whose SNRs, deadline, episodes, trend and seed are used.
    """

    def __init__(self, settings: Settings) -> None:
        self.objective = SyntheticObjective(NUM_LAYERS, R_MAX, num_texts=NUM_TEXTS, seed=settings.seed)
        channel = settings.channel
        bits = self.objective.max_params * channel.bits_per_param
        bandwidth_hz = bits / (DEADLINES_OF_ALL_COMPONENTS * channel.deadline_s * shannon_bps(5.0, 1.0))
        self.channel: ChannelSettings = channel.model_copy(update={"bandwidth_hz": [bandwidth_hz]})
        self.env_settings: EnvSettings = settings.env.model_copy(update={"cost_weight": COST_WEIGHT})
        self.env = RankAllocationEnv(
            FallingObjective(self.objective),
            channel=self.channel,
            env=self.env_settings,
            initial_rank=settings.policy.constant_rank,
        )

    def score(self, policy: RankPolicy) -> tuple[float, float]:
        """Return the regret of a policy, and the share of contexts in which its ranks miss the deadline."""
        excess, scale, misses = 0.0, 0.0, []
        for snr_db, text in itertools.product(self.channel.snr_db, self.objective.texts):
            link = Link(snr_db, self.channel.bandwidth_hz[0])
            budget = self.channel.deadline_s * link.capacity_bps(self.channel) / self.channel.bits_per_param
            price = COST_WEIGHT / budget
            pattern = decide_for_link(policy, self.env, link, text)
            ranks = np.asarray(pattern.ranks, dtype=np.int64)
            best = self.objective.optimum(text, self.objective.max_params, price)
            constant = self.objective.best_constant(text, self.objective.max_params, price)
            own, low, flat = (
                self.objective.loss(r, text) + price * float(r @ self.env.params_per_rank)
                for r in (ranks, best, constant)
            )
            excess, scale = excess + own - low, scale + flat - low
            misses.append(float(ranks @ self.env.params_per_rank) > budget)
        return excess / scale, statistics.fmean(misses)


def settings_of(variant: str, seed: int, overrides: Mapping[str, Any]) -> Settings:
    """Return the settings of a variant, see the table above."""
    base, _, left_out = variant.partition(" - ")
    base, _, added = base.partition(" + ")
    if base not in ("paper-literal", "ppo", "paper") or (added and added not in CANDIDATES):
        raise SettingsError.of("variant", variant, f"{', '.join(VARIANTS)}, or both + and - in this order")
    policy = "ppo" if base == "ppo" else "airllm"
    names = {"policy.name": policy, "adapter.r_max": R_MAX, "seed": seed}
    changes = {**(without_repairs(left_out) if left_out else {}), **CANDIDATES.get(added, {})}
    preset = "paper-literal" if base == "paper-literal" else "paper"
    return load_settings(preset, overrides={**names, **changes, **overrides})


def digest(settings: Settings) -> str:
    """Return a digest of the settings that a result depends on."""
    text = settings.model_dump_json(include={"seed", "adapter", "channel", "env", "policy", "ppo", "diffusion"})
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def measure(settings: Settings, losses: int) -> dict[str, Any]:
    """Return the result of a learner after a number of losses. The seed draws the landscape and seeds the learner."""
    problem = SyntheticProblem(settings)
    policy = make_from_settings(settings, problem_of(problem.env))
    rollout = settings.policy.rollout_steps
    buffer_size = max(rollout, settings.diffusion.buffer_size)
    algorithm = Algorithm1(problem.env, policy, rollout_steps=rollout, buffer_size=buffer_size, seed=settings.seed)
    start = time.perf_counter()
    for _ in range(losses):
        algorithm.step()
    seconds = time.perf_counter() - start
    regret, misses = problem.score(policy)
    return {"regret": regret, "deadline_misses": misses, "seconds": round(seconds, 1)}


def estimate(values: Sequence[float], form: str = ".3f") -> str:
    """Return the mean with the half width of its 95 % interval (Student's t); the mean alone for one or two values."""
    mean = format(statistics.fmean(values), form)
    if len(values) < 3:
        return mean
    error = statistics.stdev(values) / math.sqrt(len(values))
    return f"{mean} ± {float(stats.t.ppf(0.975, len(values) - 1)) * error:.3f}"


def print_table(records: Sequence[Mapping[str, Any]]) -> None:
    """Print a Markdown table of the variants; differences are to `paper` with the same seeds."""
    by_variant: dict[str, dict[int, Mapping[str, Any]]] = {}
    for record in records:
        by_variant.setdefault(record["variant"], {})[record["seed"]] = record
    whole = by_variant.get("paper", {})
    print("| variant | seeds | regret | difference to `paper` | deadlines missed |")
    print("|---|---|---|---|---|")
    print("| `best-constant` | - | 1 | - | - |")
    for variant, found in by_variant.items():
        regret = estimate([record["regret"] for record in found.values()])
        common = [found[seed]["regret"] - whole[seed]["regret"] for seed in found if seed in whole]
        difference = estimate(common, "+.3f") if common and variant != "paper" else "-"
        misses = statistics.fmean(record["deadline_misses"] for record in found.values())
        print(f"| `{variant}` | {len(found)} | {regret} | {difference} | {misses:.0%} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("paper_repairs.jsonl"), help="file of the results")
    parser.add_argument("--losses", type=int, default=3000, help="losses that every learner measures")
    parser.add_argument("--seeds", type=int, default=5, help="number of seeds")
    parser.add_argument("--first-seed", type=int, default=10)
    parser.add_argument("--variants", nargs="+", default=VARIANTS, metavar="VARIANT")
    parser.add_argument("--inference-steps", type=int, default=10, help="T_diff; Table II has 50")
    parser.add_argument(
        "--sweep-updates", type=int, default=100, help="updates of a stage of paper-literal, which has 1000"
    )
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    records = []
    if arguments.out.exists():
        records = [json.loads(line) for line in arguments.out.read_text().splitlines()]
    seeds = range(arguments.first_seed, arguments.first_seed + arguments.seeds)
    found = []
    for seed, variant in itertools.product(seeds, arguments.variants):
        overrides: dict[str, Any] = {"diffusion.num_inference_steps": arguments.inference_steps}
        if settings_of(variant, seed, {}).diffusion.timestep_order == "sweep":
            overrides["diffusion.updates_per_stage"] = arguments.sweep_updates
        settings = settings_of(variant, seed, overrides)
        key = {"variant": variant, "seed": seed, "losses": arguments.losses, "settings": digest(settings)}
        record = next((record for record in records if record.items() >= key.items()), None)
        if record is None:
            record = key | measure(settings, arguments.losses)
            with arguments.out.open("a") as file:
                file.write(json.dumps(record) + "\n")
            print(record, file=sys.stderr)
        found.append(record)
    print_table(found)


if __name__ == "__main__":
    main()
