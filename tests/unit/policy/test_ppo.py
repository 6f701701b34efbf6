from collections.abc import Callable

import numpy as np
import pytest
import torch

from airlora.errors import PolicyError, TrainingError
from airlora.observation import Observation
from airlora.policy import Buffer, Learner, PolicyProblem, PPOPolicy, PPOSettings, RandomPolicy, Transition

Observe = Callable[..., Observation]
Explored = Callable[[Learner, int], Buffer]


def make(problem: PolicyProblem, seed: int = 0, **changes: object) -> PPOPolicy:
    settings = PPOSettings(hidden_size=16, minibatch_size=8, update_epochs=2).model_copy(update=changes)
    return PPOPolicy(problem, settings, seed=seed)


def learn(policy: PPOPolicy, buffer: Buffer, rollout: int) -> dict[str, float]:
    ((name, run),) = policy.stages(buffer, rollout)
    assert name == "ppo"
    return run()


@pytest.mark.parametrize(("fraction", "rank"), [(0.0, 0), (0.25, 1), (0.5, 2), (1.0, 4)])
def test_starts_at_the_rank_asked_for(problem: PolicyProblem, observe: Observe, fraction: float, rank: int) -> None:
    policy = make(problem, initial_rank_fraction=fraction)
    assert policy.decide(observe()).tolist() == [rank] * 4


def test_explores_around_its_mean(problem: PolicyProblem, observe: Observe) -> None:
    policy = make(problem, initial_std=0.3)
    decisions = [policy.explore(observe()) for _ in range(200)]
    vectors = np.asarray([decision.a_out for decision in decisions])
    assert abs(vectors.std() - 0.3) < 0.03
    assert all(decision.x0 is None for decision in decisions)
    ranks = np.asarray([decision.ranks for decision in decisions])
    assert ranks.min() >= 0
    assert ranks.max() <= 4
    assert ranks.std() > 0.5


def test_the_first_pass_sees_the_policy_that_drew(problem: PolicyProblem, explored: Explored) -> None:
    """The ratio of Eq. 12 is 1 before the first step: what `explore` remembered is the density it drew from."""
    policy = make(problem, update_epochs=1, minibatch_size=64)
    metrics = learn(policy, explored(policy, 32), 32)
    assert metrics["approx_kl"] == pytest.approx(0.0, abs=1e-6)
    assert metrics["clip_fraction"] == 0.0
    assert metrics["objective"] == pytest.approx(0.0, abs=1e-5)  # standardised advantages


def test_learns_what_is_rewarded(problem: PolicyProblem, explored: Explored, observe: Observe) -> None:
    policy = make(problem, learning_rate=3e-3)
    for _ in range(12):
        metrics = learn(policy, explored(policy, 32), 32)
    assert policy.decide(observe()).sum() > 8  # from 4; more rank is more reward in this buffer
    assert set(metrics) == {
        "loss",
        "objective",
        "value_loss",
        "approx_kl",
        "clip_fraction",
        "entropy",
        "explained_variance",
    }
    assert metrics["explained_variance"] <= 1.0


def test_goes_on_bit_equal(problem: PolicyProblem, explored: Explored, observe: Observe) -> None:
    one = make(problem)
    learn(one, explored(one, 16), 16)
    other = PPOPolicy.from_arguments(problem, one.arguments)
    other.load_state_dict(one.state_dict())
    for policy in (one, other):
        learn(policy, explored(policy, 16), 16)
    np.testing.assert_array_equal(one.explore(observe()).a_out, other.explore(observe()).a_out)
    np.testing.assert_array_equal(one.decide(observe()), other.decide(observe()))


def test_the_global_generators_take_no_part(problem: PolicyProblem, explored: Explored) -> None:
    torch.manual_seed(1)
    before = torch.get_rng_state()
    policy = make(problem)
    learn(policy, explored(policy, 16), 16)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_rollout_of_equal_rewards_is_survived(problem: PolicyProblem, observe: Observe) -> None:
    policy = make(problem)
    decision, vector, buffer = policy.explore(observe()), problem.spec.to_vector(observe()), Buffer(8)
    for _ in range(8):
        buffer.add(
            Transition(
                observe(), vector, decision.ranks, 1.0, vector, False, False, 1.0,
                decision.a_out, decision.log_prob, decision.value,
            )
        )  # fmt: skip
    metrics = learn(policy, buffer, 8)
    assert metrics["explained_variance"] == 0.0
    assert all(np.isfinite(value) for value in metrics.values())


def test_alone_it_has_nothing_to_widen_a_latent_with(problem: PolicyProblem) -> None:
    with pytest.raises(PolicyError, match=r"ppo.latent_size = 2: allowed is none for the policy 'ppo'"):
        make(problem, latent_size=2)


def test_refuses_a_rollout_that_it_did_not_draw(problem: PolicyProblem, observe: Observe) -> None:
    buffer, vector = Buffer(4), problem.spec.to_vector(observe())
    ranks = RandomPolicy(problem, seed=0).decide(observe())
    buffer.add(Transition(observe(), vector, ranks, 1.0, vector, False, False, 1.0))
    with pytest.raises(PolicyError, match="not drawn by PPO"):
        learn(make(problem), buffer, 1)


def test_a_loss_that_is_not_finite_ends_training(problem: PolicyProblem, explored: Explored) -> None:
    policy = make(problem)
    buffer = explored(policy, 8)
    with torch.no_grad():
        policy._coarse.network.log_std.fill_(float("nan"))
    with pytest.raises(TrainingError, match="loss of the PPO stage = nan"):
        learn(policy, buffer, 8)
