import hashlib

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from airlora.policy import DiffusionSettings
from airlora.policy.diffusion.backbones import BACKBONES, Backbone
from airlora.policy.diffusion.backbones.unet1d import num_levels
from airlora.policy.diffusion.model import DiffusionModel
from airlora.policy.seeding import seeded_init

SIZES = [1, 2, 5, 6, 36, 144, 171]
SMALL = {
    "backbone": "unet",
    "hidden_size": 32,
    "time_embedding_size": 8,
    "unet_channels": 8,
    "num_train_timesteps": 100,
}


def settings(**changes: object) -> DiffusionSettings:
    return DiffusionSettings(**{**SMALL, **changes})  # type: ignore[arg-type]


def make(sample_size: int, condition_size: int, **changes: object) -> Backbone:
    with seeded_init(0):
        return BACKBONES["unet"](sample_size, condition_size, settings(**changes))


def with_random_weights(backbone: Backbone) -> Backbone:
    """Give the last layer random weights, because it is initialised to zero."""
    with seeded_init(1):
        torch.nn.init.normal_(backbone.leave.weight)
    return backbone


def inputs(count: int, sample_size: int, condition_size: int) -> tuple[Tensor, Tensor, Tensor]:
    draws = torch.Generator().manual_seed(2)
    x_tau = torch.randn(count, sample_size, generator=draws)
    return x_tau, torch.arange(count), torch.randn(count, condition_size, generator=draws)


@pytest.mark.parametrize("sample_size", SIZES)
@pytest.mark.parametrize("condition_size", [1, 7])
@pytest.mark.parametrize("count", [1, 4])
def test_the_output_has_the_shape_of_the_samples(sample_size: int, condition_size: int, count: int) -> None:
    output = with_random_weights(make(sample_size, condition_size))(*inputs(count, sample_size, condition_size))
    assert output.shape == (count, sample_size)
    assert torch.isfinite(output).all()
    assert output.abs().min() > 0


@pytest.mark.parametrize("depth", [1, 2, 12])
@pytest.mark.parametrize("kernel_size", [1, 3, 5, 9])
@pytest.mark.parametrize("sample_size", [1, 6, 37])
def test_every_depth_and_odd_kernel_size_works(depth: int, kernel_size: int, sample_size: int) -> None:
    backbone = with_random_weights(make(sample_size, 2, unet_depth=depth, unet_kernel_size=kernel_size))
    assert backbone(*inputs(2, sample_size, 2)).shape == (2, sample_size)


@pytest.mark.parametrize("sample_size", SIZES)
def test_an_untrained_unet_outputs_zeros(sample_size: int) -> None:
    output = make(sample_size, 3)(*inputs(4, sample_size, 3))
    assert torch.equal(output, torch.zeros(4, sample_size))


@pytest.mark.parametrize("sample_size", SIZES)
def test_every_parameter_has_a_gradient(sample_size: int) -> None:
    backbone = with_random_weights(make(sample_size, 3))
    backbone(*inputs(4, sample_size, 3)).square().mean().backward()
    for name, parameter in backbone.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().max() > 0, name


@pytest.mark.parametrize("sample_size", SIZES)
def test_the_output_depends_on_sample_step_and_condition(sample_size: int) -> None:
    backbone = with_random_weights(make(sample_size, 2))
    x_tau, timesteps, condition = inputs(2, sample_size, 2)
    output = backbone(x_tau, timesteps, condition)
    for others in (
        (x_tau + 1, timesteps, condition),
        (x_tau, timesteps + 1, condition),
        (x_tau, timesteps, -condition),
    ):
        assert not torch.allclose(output, backbone(*others))


def test_samples_of_a_batch_are_independent() -> None:
    backbone, batch = with_random_weights(make(36, 2)), inputs(5, 36, 2)
    alone = torch.cat([backbone(*(tensor[row : row + 1] for tensor in batch)) for row in range(5)])
    torch.testing.assert_close(backbone(*batch), alone, rtol=1e-4, atol=1e-5)


def test_every_module_influences_every_other() -> None:
    backbone = with_random_weights(make(36, 2))
    x_tau, timesteps, condition = inputs(1, 36, 2)
    x_tau.requires_grad_()
    first = torch.autograd.grad(backbone(x_tau, timesteps, condition)[0, 0], x_tau)[0]
    assert (first.abs() > 0).all()


@pytest.mark.parametrize(("sample_size", "levels"), [(1, 1), (2, 2), (3, 3), (6, 4), (32, 6), (33, 6), (171, 6)])
def test_the_number_of_modules_limits_the_depth(sample_size: int, levels: int) -> None:
    assert num_levels(sample_size, 6) == levels
    assert len(make(sample_size, 2, unet_depth=6).down) == levels


@pytest.mark.parametrize("sample_size", SIZES)
def test_the_deepest_possible_level_has_one_module(sample_size: int) -> None:
    length, lengths = sample_size, [sample_size]
    while length > 1:
        length = (length + 1) // 2
        lengths.append(length)
    assert num_levels(sample_size, 99) == len(lengths)


def test_the_unet_learns_a_small_conditional_target() -> None:
    with seeded_init(0):
        model = DiffusionModel(6, 2, settings(prediction_type="sample", num_inference_steps=10, condition_dropout=0.0))
    condition = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    target = torch.tensor([[0.8, -0.8, 0.4, 0.0, -0.4, 0.6], [-0.5, 0.7, 0.1, -0.9, 0.3, 0.0]])
    optimizer, draws = torch.optim.Adam(model.parameters(), lr=3e-3), torch.Generator().manual_seed(0)
    for _ in range(200):
        loss = model.squared_error(target.repeat(16, 1), condition.repeat(16, 1), draws).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    samples = torch.stack([model.sample(condition, draws) for _ in range(8)])
    # The mean distance of the two targets is 0.9.
    assert (samples - target).abs().max() < 0.1


def test_the_seed_determines_the_initial_weights() -> None:
    one, other = make(6, 2).state_dict(), make(6, 2).state_dict()
    assert all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"unet_kernel_size": 4}, "diffusion.unet_kernel_size = 4: allowed is an odd number"),
        ({"unet_kernel_size": 0}, "greater than or equal to 1"),
        ({"unet_depth": 0}, "greater than or equal to 1"),
        ({"unet_channels": 12}, "multiple of 8"),
        ({"unet_channels": 0}, "greater than or equal to 8"),
    ],
)
def test_invalid_settings_are_rejected(change: dict[str, int], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        settings(**change)


def test_channels_grow_from_one_resolution_to_the_next_if_asked() -> None:
    backbone = with_random_weights(make(36, 3, unet_channel_growth=2))
    assert [block.film.out_features // 2 for block in backbone.down] == [8, 16, 32, 64, 128, 256]
    assert [block.film.out_features // 2 for block in backbone.up] == [128, 64, 32, 16, 8]
    assert backbone(*inputs(2, 36, 3)).shape == (2, 36)


def test_the_default_has_the_weights_of_checkpoints_without_the_setting() -> None:
    digest = hashlib.sha256()
    for name, value in make(37, 3).state_dict().items():
        digest.update(name.encode() + value.numpy().tobytes())
    assert digest.hexdigest()[:16] == "8eb9680ad5374f8b"


def test_a_growth_that_the_network_does_not_have_is_refused() -> None:
    with pytest.raises(ValidationError, match="unet_channel_growth"):
        settings(unet_channel_growth=3)
