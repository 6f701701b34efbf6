from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from airlora.errors import PolicyError
from airlora.observation import Observation
from airlora.policy import (
    Buffer,
    DiffusionSettings,
    HierarchicalPolicy,
    Learner,
    PolicyProblem,
    PPOSettings,
    RandomPolicy,
    Transition,
)

Observe = Callable[..., Observation]
Explored = Callable[[Learner, int], Buffer]

PPO = PPOSettings(hidden_size=16, minibatch_size=8, update_epochs=2)
DIFFUSION = DiffusionSettings(
    hidden_size=64, num_train_timesteps=100, beta_end=0.2, num_inference_steps=5, updates_per_stage=3, batch_size=16
)


def make(
    problem: PolicyProblem, seed: int = 0, warmup_updates: int = 20, latent_size: int | None = None, **changes: Any
) -> HierarchicalPolicy:
    ppo = PPO.model_copy(update={"latent_size": latent_size})
    diffusion = DIFFUSION.model_copy(update={"warmup_updates": warmup_updates, **changes})
    return HierarchicalPolicy(problem, ppo, diffusion, seed=seed)


def weights(state: Any) -> list[torch.Tensor]:
    return [value.clone() for value in state.values()]


def same(one: list[torch.Tensor], other: list[torch.Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def test_starts_as_ppo(problem: PolicyProblem, observe: Observe) -> None:
    """The diffusion begins as the identity: the samples follow a_out, and the decision is PPO's first rank."""
    policy = make(problem, warmup_updates=400, exploration=0.0)
    assert policy.decide(observe()).tolist() == [1] * 4
    decisions = [policy.explore(observe()) for _ in range(40)]
    a_outs = np.asarray([decision.a_out for decision in decisions])
    samples = np.asarray([decision.x0 for decision in decisions])
    assert np.abs(samples - a_outs.clip(-1, 1)).mean() < 0.1


def test_remembers_all_that_its_stages_need(problem: PolicyProblem, observe: Observe) -> None:
    decision = make(problem).explore(observe())
    assert decision.a_out is not None
    assert decision.x0 is not None
    assert decision.log_prob is not None
    assert decision.value is not None
    expected = np.clip(np.floor((decision.x0.astype(float) + 1) / 2 * 5), 0, 4)
    np.testing.assert_array_equal(decision.ranks, expected)


def test_each_stage_holds_the_other_fixed(problem: PolicyProblem, explored: Explored) -> None:
    """Algorithm 1: first PPO, then the DDIM with PPO fixed."""
    policy = make(problem)
    buffer = explored(policy, 16)
    names = []
    for name, run in policy.stages(buffer, 16):
        coarse, fine = weights(policy.state_dict()["coarse"]["network"]), weights(policy.state_dict()["fine"]["model"])
        run()
        names.append(name)
        is_ppo = name == "ppo"
        assert same(coarse, weights(policy.state_dict()["coarse"]["network"])) != is_ppo
        assert same(fine, weights(policy.state_dict()["fine"]["model"])) == is_ppo
    assert names == ["ppo", "diffusion"]


def test_the_diffusion_learns_from_the_whole_buffer_and_ppo_from_the_rollout(
    problem: PolicyProblem, explored: Explored
) -> None:
    policy = make(problem)
    buffer = explored(policy, 24)
    metrics = {name: run() for name, run in policy.stages(buffer, 8)}
    assert metrics["ppo"]["approx_kl"] < 1.0
    assert np.isfinite(metrics["diffusion"]["loss"])


@pytest.mark.parametrize("condition", ["a_out", "a_out_and_state"])
@pytest.mark.parametrize("latent_size", [None, 1, 2, 7])
def test_every_shape_explores_and_learns(
    problem: PolicyProblem, explored: Explored, observe: Observe, condition: str, latent_size: int | None
) -> None:
    policy = make(problem, condition=condition, latent_size=latent_size)
    for _, run in policy.stages(explored(policy, 16), 16):
        run()
    decision = policy.explore(observe())
    assert decision.a_out is not None
    assert len(decision.a_out) == (latent_size or 4)
    assert decision.ranks.shape == (4,)


def test_a_short_latent_is_stretched_over_the_modules(problem: PolicyProblem) -> None:
    policy = make(problem, latent_size=2)
    x0, condition = policy._draw_start(50, torch.Generator().manual_seed(0))
    first, last = condition[:, 0], condition[:, 1]
    torch.testing.assert_close(x0, torch.stack([first + (last - first) * step / 3 for step in range(4)], dim=1))


def test_goes_on_bit_equal(problem: PolicyProblem, explored: Explored, observe: Observe) -> None:
    one = make(problem)
    for _, run in one.stages(explored(one, 16), 16):
        run()
    other = HierarchicalPolicy.from_arguments(problem, one.arguments)
    other.load_state_dict(one.state_dict())
    for policy in (one, other):
        for _, run in policy.stages(explored(policy, 16), 16):
            run()
    np.testing.assert_array_equal(one.explore(observe()).x0, other.explore(observe()).x0)
    np.testing.assert_array_equal(one.decide(observe()), other.decide(observe()))


def test_needs_a_out_as_its_condition(problem: PolicyProblem) -> None:
    with pytest.raises(PolicyError, match="diffusion.condition = 'state': allowed is a_out or a_out_and_state"):
        make(problem, condition="state")


def test_refuses_a_buffer_that_it_did_not_fill(problem: PolicyProblem, observe: Observe) -> None:
    buffer, vector = Buffer(4), problem.spec.to_vector(observe())
    ranks = RandomPolicy(problem, seed=0).decide(observe())
    buffer.add(Transition(observe(), vector, ranks, 1.0, vector, False, False, 1.0))
    for _, run in make(problem).stages(buffer, 1):
        with pytest.raises(PolicyError, match=r"a_out"):
            run()
