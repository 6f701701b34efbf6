import math
from itertools import pairwise

import pytest
import torch
from diffusers import DDIMScheduler
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from torch import Tensor

from airlora.errors import PolicyError
from airlora.policy import DiffusionSettings
from airlora.policy.diffusion.process import NoiseSchedule, posterior_mean, predict_noise, predict_x0
from airlora.policy.diffusion.samplers import (
    SAMPLERS,
    SPACINGS,
    DDIMSampler,
    DDPMSampler,
    Denoise,
    Sampler,
    spaced_timesteps,
)

SCHEDULE = NoiseSchedule.make("scaled_linear", 1000, 1e-4, 2e-2)
X_T = torch.randn(400, 3, generator=torch.Generator().manual_seed(0))
POINT = torch.tensor([0.5, -0.3, 0.0])


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(1)


def make(name: str, **changes: object) -> Sampler:
    return SAMPLERS[name].from_settings(DiffusionSettings(**changes))  # type: ignore[arg-type]


def denoise_gaussian(mean: Tensor, std: float) -> Denoise:
    """Return the exact denoiser of data from N(mean, std^2)."""

    def denoise(x_tau: Tensor, timestep: int) -> tuple[Tensor, Tensor]:
        alpha_bar = SCHEDULE.alpha_bar(timestep)
        variance = alpha_bar * std**2 + 1.0 - alpha_bar
        noise_hat = math.sqrt(1.0 - alpha_bar) * (x_tau - math.sqrt(alpha_bar) * mean) / variance
        return predict_x0(x_tau, noise_hat, alpha_bar), noise_hat

    return denoise


@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("steps", [1, 2, 3, 10, 50, 333, 1000])
def test_inference_steps_equal_those_of_diffusers(spacing: str, steps: int) -> None:
    scheduler = DDIMScheduler(1000, timestep_spacing=spacing)
    scheduler.set_timesteps(steps)
    theirs = scheduler.timesteps.tolist()
    if steps == 1 and spacing == "linspace":
        theirs = [999]  # diffusers visits step 0, whose input is nearly noise-free
    assert spaced_timesteps(1000, steps, spacing) == theirs


@pytest.mark.parametrize("spacing", SPACINGS)
@given(st.data())
def test_inference_steps_decrease_and_have_the_requested_number(spacing: str, data: st.DataObject) -> None:
    num_train_timesteps = data.draw(st.integers(1, 1200))
    steps = data.draw(st.integers(1, num_train_timesteps))
    visited = spaced_timesteps(num_train_timesteps, steps, spacing)
    assert len(visited) == steps
    assert all(later < earlier for earlier, later in pairwise(visited))
    assert 0 <= visited[-1] <= visited[0] < num_train_timesteps
    if spacing != "leading":
        assert visited[0] == num_train_timesteps - 1


def test_trailing_steps_do_not_fall_below_zero() -> None:
    # Repeated subtraction of the float stride 1000 / 61 ends just above 0, and diffusers returns step -1.
    assert spaced_timesteps(1000, 61, "trailing")[-1] == 15


@pytest.mark.parametrize("steps", [1, 2, 7, 50, 1000])
@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("name", ["ddim", "ddpm"])
def test_samplers_reach_a_point_mass_in_any_number_of_steps(name: str, steps: int, spacing: str) -> None:
    sampler = make(name, num_inference_steps=steps, clip_sample=False, timestep_spacing=spacing)
    x0 = sampler.sample(SCHEDULE, denoise_gaussian(POINT, 0.0), X_T, generator())
    torch.testing.assert_close(x0, POINT.expand_as(x0), atol=1e-3, rtol=0)


def test_eq_16_and_17_as_printed_do_not_reach_a_point_mass() -> None:
    # Erratum 2: with the posterior mean as x0_hat, even an exact denoiser does not reach the point mass.
    exact = denoise_gaussian(POINT, 0.0)

    def as_printed(x_tau: Tensor, timestep: int) -> tuple[Tensor, Tensor]:
        noise_hat = exact(x_tau, timestep)[1]
        alpha, alpha_bar = float(SCHEDULE.alphas[timestep]), SCHEDULE.alpha_bar(timestep)
        return posterior_mean(x_tau, noise_hat, alpha, alpha_bar), noise_hat

    sampler = DDIMSampler(50, clip_sample=False)
    right = sampler.sample(SCHEDULE, exact, X_T, generator())
    wrong = sampler.sample(SCHEDULE, as_printed, X_T, generator())
    assert (right - POINT).abs().max() < 1e-3
    # The mean distance of a standard normal draw from its mean is 0.8.
    assert (wrong - POINT).abs().mean() > 0.8


def test_ddim_recovers_a_gaussian_more_closely_with_more_steps() -> None:
    errors = []
    for steps in (5, 20, 100):
        sampler = DDIMSampler(steps, clip_sample=False)
        x0 = sampler.sample(SCHEDULE, denoise_gaussian(POINT, 0.2), X_T, generator())
        # DDIM is affine in x_T here: the standard deviation of the samples should be 0.2 times that of x_T.
        errors.append(float(((x0.std(0) / X_T.std(0)) - 0.2).abs().max()))
        torch.testing.assert_close(x0.mean(0), POINT, atol=0.05, rtol=0)
    assert errors[0] > errors[1] > errors[2]
    assert errors[2] < 0.01


@pytest.mark.parametrize("name", ["ddim", "ddpm"])
def test_clipping_keeps_samples_within_the_range_of_ranks(name: str) -> None:
    x0 = make(name, num_inference_steps=10).sample(
        SCHEDULE, denoise_gaussian(torch.tensor([3.0, -3.0, 0.0]), 0.1), X_T, generator()
    )
    assert x0.abs().max() <= 1.0
    torch.testing.assert_close(x0[:, :2], torch.tensor([1.0, -1.0]).expand(400, 2), atol=0.05, rtol=0)


def test_clipping_recomputes_the_noise_estimate() -> None:
    x_tau, timestep = torch.full((1, 1), 2.0), 500
    alpha_bar, next_alpha_bar = SCHEDULE.alpha_bar(500), SCHEDULE.alpha_bar(400)
    x0_hat = torch.full((1, 1), 5.0)
    stepped = DDIMSampler(10).step(SCHEDULE, x_tau, x0_hat, torch.zeros(1, 1), timestep, 400, generator())
    noise = predict_noise(x_tau, torch.ones(1, 1), alpha_bar)
    torch.testing.assert_close(stepped, math.sqrt(next_alpha_bar) + math.sqrt(1 - next_alpha_bar) * noise)


def test_ddim_is_deterministic_at_eta_0_and_random_at_eta_1() -> None:
    denoise = denoise_gaussian(POINT, 0.3)
    for eta, same in ((0.0, True), (1.0, False)):
        sampler = DDIMSampler(10, eta=eta)
        one = sampler.sample(SCHEDULE, denoise, X_T, torch.Generator().manual_seed(1))
        other = sampler.sample(SCHEDULE, denoise, X_T, torch.Generator().manual_seed(2))
        assert torch.equal(one, other) == same


@pytest.mark.parametrize("name", ["ddim", "ddpm"])
def test_stochastic_samplers_recover_a_gaussian(name: str) -> None:
    x_T = torch.randn(4000, 3, generator=generator())
    sampler = make(name, num_inference_steps=100, eta=1.0, clip_sample=False)
    x0 = sampler.sample(SCHEDULE, denoise_gaussian(POINT, 0.2), x_T, generator())
    torch.testing.assert_close(x0.mean(0), POINT, atol=0.02, rtol=0)
    torch.testing.assert_close(x0.std(0), torch.full((3,), 0.2), atol=0.02, rtol=0)


@pytest.mark.parametrize("clip", [False, True])
@pytest.mark.parametrize(("timestep", "next_timestep"), [(999, 800), (500, 499), (40, 20), (19, -1), (0, -1)])
def test_ddpm_equals_ddim_at_eta_1(clip: bool, timestep: int, next_timestep: int) -> None:
    x_tau, x0_hat = X_T.double(), 1.5 * X_T.flip(0).double()
    noise_hat = predict_noise(x_tau, x0_hat, SCHEDULE.alpha_bar(timestep))
    ddim, ddpm = (
        sampler.step(SCHEDULE, x_tau, x0_hat, noise_hat, timestep, next_timestep, generator())
        for sampler in (DDIMSampler(10, eta=1.0, clip_sample=clip), DDPMSampler(10, clip_sample=clip))
    )
    torch.testing.assert_close(ddpm, ddim)


@pytest.mark.parametrize("timestep", [1, 20, 500, 999])
def test_the_mean_of_a_ddpm_step_is_the_posterior_mean(timestep: int) -> None:
    # Without skipped steps, the step minus its noise is Eq. 16.
    alpha, alpha_bar = float(SCHEDULE.alphas[timestep]), SCHEDULE.alpha_bar(timestep)
    x_tau, noise_hat = X_T.double(), X_T.flip(0).double()
    x0_hat = predict_x0(x_tau, noise_hat, alpha_bar)
    ours = DDPMSampler(1000, clip_sample=False).step(
        SCHEDULE, x_tau, x0_hat, noise_hat, timestep, timestep - 1, generator()
    )
    variance = float(SCHEDULE.betas[timestep]) * (1 - SCHEDULE.alpha_bar(timestep - 1)) / (1 - alpha_bar)
    drawn = torch.randn(x_tau.shape, generator=generator())
    torch.testing.assert_close(ours - math.sqrt(variance) * drawn, posterior_mean(x_tau, noise_hat, alpha, alpha_bar))


@pytest.mark.parametrize(("name", "kind", "eta"), [("ddim", DDIMSampler, {"eta": 0.5}), ("ddpm", DDPMSampler, {})])
def test_settings_define_the_sampler(name: str, kind: type[DDIMSampler | DDPMSampler], eta: dict[str, float]) -> None:
    made = make(name, num_inference_steps=7, eta=0.5, timestep_spacing="trailing", clip_sample=False)
    assert made == kind(7, clip_sample=False, spacing="trailing", **eta)
    assert make(name) == kind(50, clip_sample=True, spacing="linspace")


def test_invalid_arguments_are_rejected() -> None:
    with pytest.raises(PolicyError, match="spacing = 'odd': allowed is one of leading, linspace, trailing"):
        spaced_timesteps(10, 5, "odd")
    for steps in (0, 11):
        with pytest.raises(PolicyError, match=f"num_inference_steps = {steps}: allowed is 1 to 10"):
            spaced_timesteps(10, steps, "leading")
    with pytest.raises(ValidationError, match="'leading', 'linspace' or 'trailing'"):
        make("ddim", timestep_spacing="odd")
    with pytest.raises(PolicyError, match="diffusion.sampler = 'dream': allowed is one of"):
        SAMPLERS["dream"]


@pytest.mark.parametrize(("timestep", "next_timestep"), [(999, 979), (500, 480), (20, 0), (0, -1)])
def test_the_posterior_mean_takes_the_place_of_x0_in_eq_17_as_printed(timestep: int, next_timestep: int) -> None:
    sampler = make("ddim", x0_estimate="posterior_mean", clip_sample=False)
    noise_hat = torch.randn(X_T.shape, generator=generator())
    # Eq. 16 and 17, from the tables of the schedule.
    alpha, alpha_bar = float(SCHEDULE.alphas[timestep]), SCHEDULE.alpha_bar(timestep)
    mean = (X_T - (1 - alpha) / math.sqrt(1 - alpha_bar) * noise_hat) / math.sqrt(alpha)
    next_alpha_bar = SCHEDULE.alpha_bar(next_timestep)
    expected = math.sqrt(next_alpha_bar) * mean + math.sqrt(1 - next_alpha_bar) * noise_hat
    exact = predict_x0(X_T, noise_hat, alpha_bar)
    found, sigma = sampler.transition(SCHEDULE, X_T, exact, noise_hat, timestep, next_timestep)
    torch.testing.assert_close(found, expected)
    assert sigma == 0.0


def test_the_printed_sampler_misses_a_point_mass_that_the_exact_one_reaches() -> None:
    denoise = denoise_gaussian(POINT, 0.0)
    printed = make("ddim", x0_estimate="posterior_mean", clip_sample=False)
    found = printed.sample(SCHEDULE, denoise, X_T, generator())
    assert torch.isfinite(found).all()
    assert (found - POINT).abs().mean() > 0.2
    exact = make("ddim", clip_sample=False).sample(SCHEDULE, denoise, X_T, generator())
    assert (exact - POINT).abs().max() < 0.01


def test_ddpm_visits_all_steps_if_asked() -> None:
    changes = {"num_train_timesteps": 40, "num_inference_steps": 5}
    assert make("ddpm", all_ddpm_steps=True, **changes).timesteps(40) == list(range(39, -1, -1))
    assert len(make("ddpm", **changes).timesteps(40)) == 5
    assert len(make("ddim", all_ddpm_steps=True, **changes).timesteps(40)) == 5
