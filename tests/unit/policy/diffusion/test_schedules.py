import pytest
import torch
from diffusers import DDPMScheduler

from airlora.errors import PolicyError
from airlora.policy.diffusion.process import NoiseSchedule
from airlora.policy.diffusion.schedules import SCHEDULES

THEIR_NAMES = {"linear": "linear", "scaled_linear": "scaled_linear", "cosine": "squaredcos_cap_v2"}


@pytest.mark.parametrize("name", sorted(THEIR_NAMES))
@pytest.mark.parametrize("num_train_timesteps", [10, 200, 1000])
def test_betas_equal_those_of_diffusers(name: str, num_train_timesteps: int) -> None:
    theirs = DDPMScheduler(num_train_timesteps, 1e-4, 2e-2, THEIR_NAMES[name])
    ours = NoiseSchedule.make(name, num_train_timesteps, 1e-4, 2e-2)
    torch.testing.assert_close(ours.betas.float(), theirs.betas, rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(ours.alphas_cumprod.float(), theirs.alphas_cumprod, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("name", SCHEDULES.names())
def test_noise_increases_with_every_step(name: str) -> None:
    schedule = NoiseSchedule.make(name, 100, 1e-4, 2e-2)
    assert ((schedule.betas > 0) & (schedule.betas < 1)).all()
    assert (schedule.betas.diff() >= 0).all()
    assert (schedule.alphas_cumprod.diff() < 0).all()


def test_all_schedules_of_the_paper_are_registered() -> None:
    assert {"linear", "cosine", "scaled_linear"} <= set(SCHEDULES.names())


def test_an_unknown_schedule_raises_an_error_that_lists_the_schedules() -> None:
    with pytest.raises(PolicyError, match="diffusion.beta_schedule = 'flat': allowed is one of cosine, linear"):
        NoiseSchedule.make("flat", 10, 1e-4, 2e-2)
