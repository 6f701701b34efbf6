import pytest
import torch
from torch import Tensor

from airlora.errors import PolicyError
from airlora.policy import DiffusionSettings
from airlora.policy.diffusion.backbones import BACKBONES
from airlora.policy.diffusion.guidance import with_presence
from airlora.policy.diffusion.model import DiffusionModel
from airlora.policy.seeding import seeded_init

SMALL = {"hidden_size": 16, "time_embedding_size": 8, "num_train_timesteps": 100, "num_inference_steps": 5}


def settings(**changes: object) -> DiffusionSettings:
    return DiffusionSettings(**{**SMALL, **changes})  # type: ignore[arg-type]


def awake(model: DiffusionModel) -> DiffusionModel:
    """Give the last layer weights, which start at zero."""
    with seeded_init(1), torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(0.1 * torch.randn(parameter.shape))
    return model


def make(**changes: object) -> DiffusionModel:
    with seeded_init(0):
        return awake(DiffusionModel(3, 2, settings(**changes)))


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_the_network_sees_sample_step_and_condition() -> None:
    """Eq. 15: each of the three changes the output."""
    with seeded_init(0):
        backbone = BACKBONES["residual_mlp"](3, 2, settings())
    torch.nn.init.ones_(backbone.leave.weight)
    x_tau, timesteps, condition = torch.zeros(1, 3), torch.tensor([5]), torch.zeros(1, 2)
    output = backbone(x_tau, timesteps, condition)
    assert output.shape == (1, 3)
    assert not torch.equal(output, backbone(x_tau + 1, timesteps, condition))
    assert not torch.equal(output, backbone(x_tau, timesteps + 1, condition))
    assert not torch.equal(output, backbone(x_tau, timesteps, condition + 1))


def test_the_network_starts_quiet() -> None:
    with seeded_init(0):
        backbone = BACKBONES["residual_mlp"](3, 2, settings())
    assert torch.equal(backbone(torch.ones(4, 3), torch.arange(4), torch.ones(4, 2)), torch.zeros(4, 3))


@pytest.mark.parametrize("prediction_type", ["epsilon", "sample", "v_prediction"])
@pytest.mark.parametrize("guidance_scale", [0.0, 1.0, 2.0])
def test_samples_come_from_the_seed_and_lie_among_the_ranks(prediction_type: str, guidance_scale: float) -> None:
    model = make(prediction_type=prediction_type, guidance_scale=guidance_scale)
    condition = torch.tensor([[0.5, -0.5], [1.0, 0.0]])
    x0 = model.sample(condition, generator())
    assert x0.shape == (2, 3)
    assert x0.abs().max() <= 1.0
    assert torch.equal(x0, model.sample(condition, generator()))
    assert (
        torch.unique(torch.cat([model.sample(condition[:1], generator(seed)) for seed in range(9)]), dim=0).size(0) > 1
    )


def test_guidance_mixes_the_two_noises() -> None:
    condition, x_tau = torch.tensor([[0.5, -0.5]]), torch.ones(1, 3)
    noises = {scale: make(guidance_scale=scale).denoiser(condition)(x_tau, 50)[1] for scale in (0.0, 1.0, 1.5)}
    torch.testing.assert_close(noises[1.5], noises[0.0] + 1.5 * (noises[1.0] - noises[0.0]))
    assert not torch.allclose(noises[0.0], noises[1.0])


def test_without_guidance_the_condition_has_no_say() -> None:
    model = make(guidance_scale=0.0)
    one, other = (model.sample(torch.full((1, 2), value), generator()) for value in (0.0, 1.0))
    assert torch.equal(one, other)


def test_a_dropped_condition_has_no_say_in_training() -> None:
    model = make(condition_dropout=1.0)
    x0 = torch.zeros(8, 3)
    one, other = (model.squared_error(x0, torch.full((8, 2), value), generator()) for value in (0.0, 1.0))
    assert torch.equal(one, other)


def test_the_error_is_that_of_the_noise() -> None:
    """The first term of Eq. 19, spelled out with the same draws."""
    model, draws = make(condition_dropout=0.0), generator()
    x0, condition = torch.rand(8, 3), torch.rand(8, 2)
    timesteps = torch.randint(100, (8,), generator=draws)
    noise = torch.randn(8, 3, generator=draws)
    alpha_bar = model.schedule.alphas_cumprod.float()[timesteps][:, None]
    x_tau = alpha_bar.sqrt() * x0 + (1 - alpha_bar).sqrt() * noise
    told = with_presence(condition, torch.ones(8, dtype=torch.bool))
    expected = (model.backbone(x_tau, timesteps, told) - noise).square().mean(-1)
    torch.testing.assert_close(model.squared_error(x0, condition, generator()), expected)


def test_learns_to_follow_its_condition() -> None:
    with seeded_init(0):
        model = DiffusionModel(2, 2, settings(hidden_size=64, condition_dropout=0.1))
    optimizer, draws = torch.optim.Adam(model.parameters(), lr=3e-3), generator()
    for _ in range(400):
        condition = 1.6 * torch.rand(64, 2, generator=draws) - 0.8
        loss: Tensor = model.squared_error(condition, condition, draws).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    condition = 1.6 * torch.rand(200, 2, generator=draws) - 0.8
    distance = (model.sample(condition, draws) - condition).abs().mean()
    assert distance < 0.15  # .53 without the condition


def test_the_global_generator_takes_no_part() -> None:
    torch.manual_seed(7)
    before = torch.get_rng_state()
    model = make(eta=1.0)
    model.squared_error(torch.zeros(4, 3), torch.zeros(4, 2), generator())
    model.sample(torch.zeros(1, 2), generator())
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("part", ["backbone", "beta_schedule", "prediction_type", "sampler"])
def test_names_the_part_that_does_not_exist(part: str) -> None:
    with pytest.raises(PolicyError, match=f"diffusion.{part} = 'none_such': allowed is one of"):
        DiffusionModel(3, 2, settings(**{part: "none_such"}))
