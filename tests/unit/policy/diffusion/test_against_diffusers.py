"""Every schedule, prediction, sampler and spacing, step by step against diffusers in double precision."""

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
    # Their table is in single precision, with which `test_schedules` compares ours.  Here the steps are compared, to
    # double precision, and so on one table.
    scheduler.alphas_cumprod = schedule_of(beta_schedule).alphas_cumprod
    scheduler.set_timesteps(NUM_STEPS)
    return scheduler


def network(x_tau: Tensor, timestep: int) -> Tensor:
    """Return an output that depends on everything a network sees; it need not make sense."""
    return torch.tanh(0.5 * x_tau + 0.001 * timestep) + 0.3 * x_tau.roll(1, dims=-1)


def denoiser(schedule: NoiseSchedule, prediction_type: str) -> Denoise:
    prediction = PREDICTIONS[prediction_type]()
    return lambda x_tau, timestep: prediction.to_x0_and_noise(
        network(x_tau, timestep), x_tau, schedule.alpha_bar(timestep)
    )


def drawn() -> torch.Generator:
    return torch.Generator().manual_seed(1)


def ours(sampler: Sampler, beta_schedule: str, prediction_type: str, timestep: int, next_timestep: int) -> Tensor:
    schedule = schedule_of(beta_schedule)
    x0_hat, noise_hat = denoiser(schedule, prediction_type)(X_T, timestep)
    return sampler.step(schedule, X_T, x0_hat, noise_hat, timestep, next_timestep, drawn())


@every_case
@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_a_ddim_step(beta_schedule: str, prediction_type: str, spacing: str, clip: bool, eta: float) -> None:
    scheduler = scheduler_of(DDIMScheduler, beta_schedule, prediction_type, spacing, clip)
    sampler = DDIMSampler(NUM_STEPS, eta, clip, spacing)
    timesteps = sampler.timesteps(1000)
    assert timesteps == scheduler.timesteps.tolist()
    noise = torch.randn(X_T.shape, generator=drawn())
    for timestep in timesteps:
        theirs = scheduler.step(
            network(X_T, timestep), timestep, X_T, eta=eta, use_clipped_model_output=clip, variance_noise=noise
        ).prev_sample
        # Their DDIM arrives T / n steps below, also where linspace would have it arrive at the next of its steps.
        arrives = timestep - 1000 // NUM_STEPS
        torch.testing.assert_close(ours(sampler, beta_schedule, prediction_type, timestep, arrives), theirs)


@every_case
def test_a_ddpm_step(beta_schedule: str, prediction_type: str, spacing: str, clip: bool) -> None:
    scheduler = scheduler_of(DDPMScheduler, beta_schedule, prediction_type, spacing, clip)
    sampler = DDPMSampler(NUM_STEPS, clip, spacing)
    timesteps = sampler.timesteps(1000)
    assert timesteps == scheduler.timesteps.tolist()
    in_single, in_double = (torch.randn(X_T.shape, generator=drawn(), dtype=dtype) for dtype in (None, torch.float64))
    for timestep, next_timestep in itertools.pairwise([*timesteps, -1]):
        theirs = scheduler.step(network(X_T, timestep), timestep, X_T, generator=drawn()).prev_sample
        if timestep > 0:
            # They draw in the samples' type, we in single precision whatever the type.
            sigma = float(scheduler._get_variance(timestep).sqrt())
            theirs = theirs - sigma * in_double + sigma * in_single
        step = ours(sampler, beta_schedule, prediction_type, timestep, next_timestep)
        # Not closer: at a last step that is not step 0 they add noise of variance 1e-20.
        torch.testing.assert_close(step, theirs, rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("prediction_type", PREDICTIONS.names())
@pytest.mark.parametrize("beta_schedule", sorted(THEIR_NAMES))
@pytest.mark.parametrize("spacing", SPACINGS)
def test_a_whole_ddpm_sample(beta_schedule: str, prediction_type: str, spacing: str) -> None:
    scheduler = scheduler_of(DDPMScheduler, beta_schedule, prediction_type, spacing, True)
    schedule, x, generator = schedule_of(beta_schedule), X_T.float(), drawn()
    for timestep in scheduler.timesteps.tolist():
        x = scheduler.step(network(x, timestep), timestep, x, generator=generator).prev_sample.float()
    sampler = DDPMSampler(NUM_STEPS, True, spacing)
    x0 = sampler.sample(schedule, denoiser(schedule, prediction_type), X_T.float(), drawn())
    torch.testing.assert_close(x0, x, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("prediction_type", PREDICTIONS.names())
@pytest.mark.parametrize("beta_schedule", sorted(THEIR_NAMES))
@pytest.mark.parametrize("spacing", ["leading", "trailing"])
def test_a_whole_ddim_sample(beta_schedule: str, prediction_type: str, spacing: str) -> None:
    scheduler = scheduler_of(DDIMScheduler, beta_schedule, prediction_type, spacing, True)
    schedule, x = schedule_of(beta_schedule), X_T
    for timestep in scheduler.timesteps.tolist():
        x = scheduler.step(network(x, timestep), timestep, x, use_clipped_model_output=True).prev_sample
    sampler = DDIMSampler(NUM_STEPS, spacing=spacing)
    x0 = sampler.sample(schedule, denoiser(schedule, prediction_type), X_T, drawn())
    torch.testing.assert_close(x0, x)
