"""Every loss and critic goes on bit-equal from a file of the middle of its training."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from airlora.observation import Observation
from airlora.policy import (
    AllocateSettings,
    Buffer,
    DiffusionSettings,
    Learner,
    PolicyProblem,
    PPOSettings,
    RankPolicy,
    load_policy,
    make_policy,
    save_policy,
)
from airlora.policy.diffusion.losses import LOSSES

Observe = Callable[..., Observation]
Explored = Callable[[Learner, int], Buffer]

QUICK = {
    "hidden_size": 16,
    "num_train_timesteps": 50,
    "beta_end": 0.2,
    "num_inference_steps": 3,
    "warmup_updates": 10,
    "updates_per_stage": 3,
    "batch_size": 16,
    "num_plans": 16,
    "critic_updates": 3,
    "buffer_size": 32,
}
LEARNT = [{"loss": name} for name in LOSSES.names()] + [{"loss": "q_guided", "critic": "utility"}]


def same(one: Any, other: Any) -> bool:
    """Whether two states are bit-equal, however deep they are."""
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return torch.equal(one, other) if isinstance(one, torch.Tensor) else bool(one == other)


def rounds(policy: Learner, explored: Explored, count: int) -> None:
    for _ in range(count):
        for _, run in policy.stages(explored(policy, 24), 24):
            run()


@pytest.mark.parametrize("keeps_deadline", [False, True])
@pytest.mark.parametrize("name", ["ddim", "airllm"])
@pytest.mark.parametrize("learnt", LEARNT, ids=lambda learnt: "-".join(learnt.values()))
def test_goes_on_from_a_file_as_if_nothing_had_happened(
    name: str,
    learnt: dict[str, str],
    keeps_deadline: bool,
    problem: PolicyProblem,
    observe: Observe,
    explored: Explored,
    tmp_path: Path,
) -> None:
    own = dataclasses.replace(problem, keeps_deadline=keeps_deadline)
    condition = "a_out" if name == "airllm" else "budget_and_text"
    one: RankPolicy = make_policy(
        name,
        own,
        seed=5,
        ppo=PPOSettings(hidden_size=8, minibatch_size=8, update_epochs=1),
        diffusion=DiffusionSettings(**QUICK, **learnt, condition=condition),  # type: ignore[arg-type]
        allocate=AllocateSettings(num_members=1, forms=["separable", "text"], refit_growth=1.8),
    )
    rounds(one, explored, 2)  # type: ignore[arg-type]
    save_policy(one, tmp_path / "policy")
    middle = one.state_dict()
    other = load_policy(tmp_path / "policy", own)
    assert same(middle, other.state_dict())
    # Twice: once the utility model is fitted anew, once it is not.
    for _ in range(2):
        for policy in (one, other):
            rounds(policy, explored, 1)  # type: ignore[arg-type]
        assert same(one.state_dict(), other.state_dict())
    assert not same(one.state_dict(), middle)
    first, second = one.explore(observe()), other.explore(observe())  # type: ignore[attr-defined]
    for field in dataclasses.fields(first):
        np.testing.assert_array_equal(getattr(first, field.name), getattr(second, field.name))
    np.testing.assert_array_equal(one.decide(observe()), other.decide(observe()))
