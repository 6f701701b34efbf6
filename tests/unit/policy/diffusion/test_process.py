import math

import pytest
import torch
from diffusers import DDPMScheduler
from hypothesis import given
from hypothesis import strategies as st

from airlora.policy.diffusion.process import (
    NoiseSchedule,
    add_noise,
    forward_step,
    posterior_mean,
    predict_noise,
    predict_x0,
    velocity,
)

SCHEDULE = NoiseSchedule.make("linear", 1000, 1e-4, 2e-2)
ALPHA_BAR = st.floats(0.01, 0.99)
GENERATOR = torch.Generator().manual_seed(0)
X0 = torch.rand(6, 3, generator=GENERATOR, dtype=torch.float64) * 2 - 1
NOISE = torch.randn(6, 3, generator=GENERATOR, dtype=torch.float64)


@pytest.mark.parametrize("steps", [1, 10, 1000])
def test_iterated_steps_of_eq_13_equal_eq_14(steps: int) -> None:
    zero, one = torch.zeros(1, dtype=torch.float64), torch.ones(1, dtype=torch.float64)
    mean, variance = one, zero
    for beta in SCHEDULE.betas[:steps].tolist():
        mean = forward_step(mean, zero, beta)
        # The variances of independent draws add up: the scaled previous variance and that of the new noise.
        variance = forward_step(variance.sqrt(), zero, beta).square() + forward_step(zero, one, beta).square()
    alpha_bar = SCHEDULE.alpha_bar(steps - 1)
    torch.testing.assert_close(mean, add_noise(one, zero, alpha_bar))
    torch.testing.assert_close(variance, add_noise(zero, one, alpha_bar).square())


def test_add_noise_equals_diffusers() -> None:
    timesteps = torch.tensor([0, 3, 100, 500, 900, 999])
    theirs = DDPMScheduler(1000, 1e-4, 2e-2, "linear").add_noise(X0.float(), NOISE.float(), timesteps)
    ours = add_noise(X0.float(), NOISE.float(), SCHEDULE.alpha_bars(timesteps))
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)


@given(ALPHA_BAR)
def test_sample_and_noise_are_recovered_from_x_tau(alpha_bar: float) -> None:
    x_tau = add_noise(X0, NOISE, alpha_bar)
    torch.testing.assert_close(predict_x0(x_tau, NOISE, alpha_bar), X0)
    torch.testing.assert_close(predict_noise(x_tau, X0, alpha_bar), NOISE)


@pytest.mark.parametrize("timestep", [0, 1, 400, 999])
def test_the_posterior_mean_equals_diffusers(timestep: int) -> None:
    scheduler = DDPMScheduler(1000, 1e-4, 2e-2, "linear", clip_sample=False)
    x_tau = add_noise(X0, NOISE, SCHEDULE.alpha_bar(timestep)).float()
    theirs = scheduler.step(NOISE.float(), timestep, x_tau, generator=torch.Generator().manual_seed(1)).prev_sample
    if timestep > 0:
        drawn = torch.randn(x_tau.shape, generator=torch.Generator().manual_seed(1))
        theirs = theirs - scheduler._get_variance(timestep).sqrt() * drawn
    ours = posterior_mean(x_tau, NOISE.float(), float(SCHEDULE.alphas[timestep]), SCHEDULE.alpha_bar(timestep))
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def test_the_posterior_mean_is_not_an_estimate_of_x0() -> None:
    # Erratum 2: far from step 0 the posterior mean is close to x_tau.
    x_tau = add_noise(X0, NOISE, SCHEDULE.alpha_bar(500))
    mean = posterior_mean(x_tau, NOISE, float(SCHEDULE.alphas[500]), SCHEDULE.alpha_bar(500))
    assert (mean - X0).abs().mean() > 10 * (mean - x_tau).abs().mean()


@given(ALPHA_BAR)
def test_x_tau_and_velocity_are_a_rotation_of_sample_and_noise(alpha_bar: float) -> None:
    x_tau, v = add_noise(X0, NOISE, alpha_bar), velocity(X0, NOISE, alpha_bar)
    torch.testing.assert_close(x_tau.square() + v.square(), X0.square() + NOISE.square())
    torch.testing.assert_close(math.sqrt(alpha_bar) * x_tau - math.sqrt(1 - alpha_bar) * v, X0)


def test_velocity_equals_diffusers() -> None:
    timesteps = torch.tensor([0, 3, 100, 500, 900, 999])
    theirs = DDPMScheduler(1000, 1e-4, 2e-2, "linear").get_velocity(X0.float(), NOISE.float(), timesteps)
    ours = velocity(X0.float(), NOISE.float(), SCHEDULE.alpha_bars(timesteps))
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)


def test_alpha_bar_before_the_first_step_is_1() -> None:
    assert SCHEDULE.alpha_bar(-1) == 1.0
    assert SCHEDULE.alpha_bars(torch.tensor([0, 999])).shape == (2, 1)
