"""Make the golden policies: files that every later version must load, and what the policies in them decide.

python tests/golden/policy/make.py

Run it only for a new version of the format; then keep the old files beside the new ones.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from airlora.observation import Observation, ObservationSpec
from airlora.policy import (
    POLICIES,
    Buffer,
    CmaSettings,
    DiffusionSettings,
    EvaPolicy,
    GreedyPolicy,
    PolicyProblem,
    PPOSettings,
    RankPolicy,
    TablePolicy,
    Transition,
    load_policy,
    make_policy,
    save_policy,
)
from airlora.ranks import RankPattern
from airlora.training import load_settings

HERE = Path(__file__).parent
NAMES = ("a", "b", "c", "d")
PROBLEM = PolicyProblem(
    NAMES, (10, 10, 30, 30), ObservationSpec(num_modules=4, r_max=4), cost_weight=0.1, keeps_deadline=True
)
SMALL = {
    "hidden_size": 4,
    "num_blocks": 1,
    "time_embedding_size": 4,
    "num_train_timesteps": 20,
    "beta_end": 0.2,
    "num_inference_steps": 3,
    "warmup_updates": 10,
    "updates_per_stage": 4,
    "num_plans": 8,
}
OBSERVATIONS = [
    {"snr_db": snr_db, "bandwidth_hz": 1e6, "entropy_nats": 2.0, "oov_rate": 0.2, "ranks": ranks, "budget_params": size}
    for snr_db, ranks, size in ((-5.0, [1, 1, 1, 1], 60), (5.0, [0, 1, 2, 3], 120), (15.0, [4, 4, 4, 4], 250))
]


def observe(values: dict[str, object]) -> Observation:
    return Observation(**(values | {"ranks": np.array(values["ranks"], np.int64)}))  # type: ignore[arg-type]


def make(name: str) -> RankPolicy:
    if name == "greedy":
        return GreedyPolicy(PROBLEM, np.arange(16, dtype=np.float64).reshape(4, 4))
    if name == "eva":
        return EvaPolicy(PROBLEM, np.arange(16, 0, -1).reshape(4, 4) / 200)
    if name == "table":
        return TablePolicy(PROBLEM, [RankPattern.from_ranks(NAMES, ranks) for ranks in ([1, 2, 0, 1], [1, 0, 0, 1])])
    # The recipe `distilled` of the policy `ddim` also stores a utility model with a prior.
    recipe = "distilled" if name == "ddim" else name
    chosen = load_settings("quick", overrides={"policy.name": recipe})
    return make_policy(
        recipe,
        PROBLEM,
        seed=3,
        ppo=PPOSettings(hidden_size=4, update_epochs=1),
        diffusion=DiffusionSettings(**(chosen.diffusion.model_dump() | SMALL)),
        allocate=chosen.allocate,
        cma=CmaSettings(population_size=4),
        constant_rank=2,
        prior=np.arange(16, 0, -1).reshape(4, 4) / 50 if name in ("allocate", "ddim") else None,
    )


def learn(policy: RankPolicy, num_steps: int = 16) -> None:
    """Let a learner explore and run its stages once; rewards are sums of ranks."""
    buffer = Buffer(100)
    for step in range(num_steps):
        observation = observe(OBSERVATIONS[step % 3])
        vector = PROBLEM.spec.to_vector(observation)
        decision = policy.explore(observation)  # type: ignore[attr-defined]
        reward = float(decision.ranks @ [4, 3, 2, 1]) / 40
        buffer.add(
            Transition(
                observation=observation,
                vector=vector,
                ranks=decision.ranks,
                reward=reward,
                next_vector=vector,
                terminated=False,
                truncated=step % 8 == 7,
                loss=-reward,
                a_out=decision.a_out,
                log_prob=decision.log_prob,
                value=decision.value,
                x0=decision.x0,
                chain=decision.chain,
            )
        )
    for _, run in policy.stages(buffer, num_steps):  # type: ignore[attr-defined]
        run()


def main() -> None:
    decisions = {}
    for name in sorted(POLICIES):
        policy = make(name)
        if hasattr(policy, "explore"):
            learn(policy)
        save_policy(policy, HERE / f"{name}.pt")
        loaded = load_policy(HERE / f"{name}.pt")
        decisions[name] = [loaded.decide(observe(values)).tolist() for values in OBSERVATIONS]
    expected = {"problem": PROBLEM.to_dict(), "observations": OBSERVATIONS, "decisions": decisions}
    (HERE / "expected.json").write_text(json.dumps(expected, indent=1) + "\n")


if __name__ == "__main__":
    main()
