"""Comparison of all schedules, prediction types, samplers and spacings with diffusers, in double precision."""

import itertools
from typing import Any

import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler
from torch import Tensor

from airlora.policy.diffusion.predictions import PREDICTIONS
from airlora.policy.diffusion.process import NoiseSchedule
from airlora.policy.diffusion.samplers import SPACINGS, DDIMSampler, DDPMSampler, Denoise, Sampler

THEIR_NAMES = {"linear": "linear", "scaled_linear": "scaled_linear", "cosine": "squaredcos_cap_v2"}
NUM_STEPS = 20
X_T = torch.randn(5, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)

every_case = pytest.mark.parametrize(
    ("beta_schedule", "prediction_type", "spacing", "clip"),
    list(itertools.product(sorted(THEIR_NAMES), PREDICTIONS.names(), SPACINGS, [False, True])),
)


def schedule_of(name: str) -> NoiseSchedule:
    return NoiseSchedule.make(name, 1000, 1e-4, 2e-2)


def scheduler_of(kind: Any, beta_schedule: str, prediction_type: str, spacing: str, clip: bool) -> Any:
    scheduler = kind(
        1000,
        1e-4,
        2e-2,
        THEIR_NAMES[beta_schedule],
        prediction_type=prediction_type,
        timestep_spacing=spacing,
        clip_sample=clip,
    )
    # The table of diffusers is in single precision; `test_schedules` compares it.  Both sides use our table here, so
    # the steps are compared in double precision.
    scheduler.alphas_cumprod = schedule_of(beta_schedule).alphas_cumprod
    scheduler.set_timesteps(NUM_STEPS)
    return scheduler


def network(x_tau: Tensor, timestep: int) -> Tensor:
    """Return an arbitrary output that depends on all inputs of a network."""
    return torch.tanh(0.5 * x_tau + 0.001 * timestep) + 0.3 * x_tau.roll(1, dims=-1)


def denoiser(schedule: NoiseSchedule, prediction_type: str) -> Denoise:
    prediction = PREDICTIONS[prediction_type]()
    return lambda x_tau, timestep: prediction.to_x0_and_noise(
        network(x_tau, timestep), x_tau, schedule.alpha_bar(timestep)
    )


def generator_of_noise() -> torch.Generator:
    return torch.Generator().manual_seed(1)


def ours(sampler: Sampler, beta_schedule: str, prediction_type: str, timestep: int, next_timestep: int) -> Tensor:
    schedule = schedule_of(beta_schedule)
    x0_hat, noise_hat = denoiser(schedule, prediction_type)(X_T, timestep)
    return sampler.step(schedule, X_T, x0_hat, noise_hat, timestep, next_timestep, generator_of_noise())


@every_case
@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_a_ddim_step_equals_diffusers(
    beta_schedule: str, prediction_type: str, spacing: str, clip: bool, eta: float
) -> None:
    scheduler = scheduler_of(DDIMScheduler, beta_schedule, prediction_type, spacing, clip)
    sampler = DDIMSampler(NUM_STEPS, eta, clip, spacing)
    timesteps = sampler.timesteps(1000)
    assert timesteps == scheduler.timesteps.tolist()
    noise = torch.randn(X_T.shape, generator=generator_of_noise())
    for timestep in timesteps:
        theirs = scheduler.step(
            network(X_T, timestep), timestep, X_T, eta=eta, use_clipped_model_output=clip, variance_noise=noise
        ).prev_sample
        # The next step of DDIM in diffusers is T / n below the current one for every spacing, including linspace.
        arrives = timestep - 1000 // NUM_STEPS
        torch.testing.assert_close(ours(sampler, beta_schedule, prediction_type, timestep, arrives), theirs)


@every_case
def test_a_ddpm_step_equals_diffusers(beta_schedule: str, prediction_type: str, spacing: str, clip: bool) -> None:
    scheduler = scheduler_of(DDPMScheduler, beta_schedule, prediction_type, spacing, clip)
    sampler = DDPMSampler(NUM_STEPS, clip, spacing)
    timesteps = sampler.timesteps(1000)
    assert timesteps == scheduler.timesteps.tolist()
    in_single, in_double = (
        torch.randn(X_T.shape, generator=generator_of_noise(), dtype=dtype) for dtype in (None, torch.float64)
    )
    for timestep, next_timestep in itertools.pairwise([*timesteps, -1]):
        theirs = scheduler.step(network(X_T, timestep), timestep, X_T, generator=generator_of_noise()).prev_sample
        if timestep > 0:
            # diffusers draws noise in the dtype of the samples, airlora in single precision.
            sigma = float(scheduler._get_variance(timestep).sqrt())
            theirs = theirs - sigma * in_double + sigma * in_single
        step = ours(sampler, beta_schedule, prediction_type, timestep, next_timestep)
        # The tolerance covers noise of variance 1e-20 that diffusers adds at a last step other than step 0.
        torch.testing.assert_close(step, theirs, rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("prediction_type", PREDICTIONS.names())
@pytest.mark.parametrize("beta_schedule", sorted(THEIR_NAMES))
@pytest.mark.parametrize("spacing", SPACINGS)
def test_a_ddpm_sample_equals_diffusers(beta_schedule: str, prediction_type: str, spacing: str) -> None:
    scheduler = scheduler_of(DDPMScheduler, beta_schedule, prediction_type, spacing, True)
    schedule, x, generator = schedule_of(beta_schedule), X_T.float(), generator_of_noise()
    for timestep in scheduler.timesteps.tolist():
        x = scheduler.step(network(x, timestep), timestep, x, generator=generator).prev_sample.float()
    sampler = DDPMSampler(NUM_STEPS, True, spacing)
    x0 = sampler.sample(schedule, denoiser(schedule, prediction_type), X_T.float(), generator_of_noise())
    torch.testing.assert_close(x0, x, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("prediction_type", PREDICTIONS.names())
@pytest.mark.parametrize("beta_schedule", sorted(THEIR_NAMES))
@pytest.mark.parametrize("spacing", ["leading", "trailing"])
def test_a_ddim_sample_equals_diffusers(beta_schedule: str, prediction_type: str, spacing: str) -> None:
    scheduler = scheduler_of(DDIMScheduler, beta_schedule, prediction_type, spacing, True)
    schedule, x = schedule_of(beta_schedule), X_T
    for timestep in scheduler.timesteps.tolist():
        x = scheduler.step(network(x, timestep), timestep, x, use_clipped_model_output=True).prev_sample
    sampler = DDIMSampler(NUM_STEPS, spacing=spacing)
    x0 = sampler.sample(schedule, denoiser(schedule, prediction_type), X_T, generator_of_noise())
    torch.testing.assert_close(x0, x)
