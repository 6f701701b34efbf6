from collections.abc import Callable

import numpy as np
import pytest
import torch

from airlora.errors import PolicyError
from airlora.observation import Observation
from airlora.policy import Buffer, DiffusionPolicy, DiffusionSettings, Learner, PolicyProblem

Observe = Callable[..., Observation]
Explored = Callable[[Learner, int], Buffer]

SETTINGS = DiffusionSettings(
    hidden_size=32, num_train_timesteps=100, beta_end=0.2, num_inference_steps=5, updates_per_stage=3, batch_size=16
)


def make(problem: PolicyProblem, seed: int = 0, warmup_updates: int = 20, **changes: object) -> DiffusionPolicy:
    settings = SETTINGS.model_copy(update={"warmup_updates": warmup_updates, **changes})
    return DiffusionPolicy(problem, settings, seed=seed)


def test_starts_around_a_quarter_of_r_max(problem: PolicyProblem, observe: Observe) -> None:
    policy = make(problem, warmup_updates=300)
    draws = np.asarray([policy.explore(observe()).ranks for _ in range(60)])
    assert 0.6 < draws.mean() < 1.6
    assert draws.std() > 0.3
    assert (abs(policy.decide(observe()) - 1) <= 1).all()


def test_remembers_the_sample_that_the_ranks_are_made_of(problem: PolicyProblem, observe: Observe) -> None:
    decision = make(problem).explore(observe())
    assert decision.x0 is not None
    expected = np.clip(np.floor((decision.x0.astype(float) + 1) / 2 * 5), 0, 4)
    np.testing.assert_array_equal(decision.ranks, expected)
    assert decision.ranks.dtype == np.int64
    assert (decision.a_out, decision.log_prob, decision.value) == (None, None, None)


def test_sees_the_state(problem: PolicyProblem, observe: Observe) -> None:
    policy = make(problem)
    torch.nn.init.normal_(policy._fine.model.backbone.enter.weight, std=2.0, generator=torch.Generator().manual_seed(0))
    decisions = {tuple(policy.decide(observe(snr_db=float(snr)))) for snr in range(-5, 16)}
    assert len(decisions) > 1


def test_learns_in_one_stage_from_the_newest_transitions(
    problem: PolicyProblem, explored: Explored, observe: Observe
) -> None:
    """What the buffer holds beyond `buffer_size` changes nothing."""
    one, other = make(problem, buffer_size=16), make(problem, buffer_size=16)
    buffer = explored(make(problem, seed=5), 40)
    newest = Buffer(16)
    for index in range(24, 40):
        newest.add(buffer[index])
    for policy, memory in ((one, buffer), (other, newest)):
        ((name, run),) = policy.stages(memory, 8)
        assert name == "diffusion"
        assert np.isfinite(run()["loss"])
    np.testing.assert_array_equal(one.explore(observe()).x0, other.explore(observe()).x0)


def test_goes_on_bit_equal(problem: PolicyProblem, explored: Explored, observe: Observe) -> None:
    one = make(problem)
    buffer = explored(one, 16)
    other = DiffusionPolicy.from_arguments(problem, one.arguments)
    other.load_state_dict(one.state_dict())
    for policy in (one, other):
        for _, run in policy.stages(buffer, 16):
            run()
    np.testing.assert_array_equal(one.explore(observe()).x0, other.explore(observe()).x0)
    np.testing.assert_array_equal(one.decide(observe()), other.decide(observe()))


def test_names_the_part_that_does_not_exist(problem: PolicyProblem) -> None:
    with pytest.raises(PolicyError, match="diffusion.loss = 'hope'"):
        make(problem, loss="hope")
