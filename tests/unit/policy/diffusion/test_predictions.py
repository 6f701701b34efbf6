import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from airlora.errors import PolicyError
from airlora.policy.diffusion.predictions import PREDICTIONS
from airlora.policy.diffusion.process import add_noise

GENERATOR = torch.Generator().manual_seed(0)
X0 = torch.rand(5, 3, generator=GENERATOR, dtype=torch.float64) * 2 - 1
NOISE = torch.randn(5, 3, generator=GENERATOR, dtype=torch.float64)


@pytest.mark.parametrize("name", PREDICTIONS.names())
@given(alpha_bar=st.floats(0.01, 0.99))
def test_the_target_decodes_to_sample_and_noise(name: str, alpha_bar: float) -> None:
    prediction = PREDICTIONS[name]()
    target = prediction.target(X0, NOISE, alpha_bar)
    x0_hat, noise_hat = prediction.to_x0_and_noise(target, add_noise(X0, NOISE, alpha_bar), alpha_bar)
    torch.testing.assert_close(x0_hat, X0)
    torch.testing.assert_close(noise_hat, NOISE)


@pytest.mark.parametrize("name", PREDICTIONS.names())
@given(alpha_bar=st.floats(0.01, 0.99))
def test_every_output_decodes_to_a_pair_that_gives_x_tau(name: str, alpha_bar: float) -> None:
    x_tau = add_noise(X0, NOISE, alpha_bar)
    x0_hat, noise_hat = PREDICTIONS[name]().to_x0_and_noise(torch.ones_like(x_tau), x_tau, alpha_bar)
    torch.testing.assert_close(add_noise(x0_hat, noise_hat, alpha_bar), x_tau)


@pytest.mark.parametrize("name", PREDICTIONS.names())
@given(weight=st.floats(-2, 3))
def test_decoded_noise_is_affine_in_the_output(name: str, weight: float) -> None:
    # Guidance of the outputs therefore equals guidance of the noise estimates.
    prediction, alpha_bar = PREDICTIONS[name](), 0.3
    x_tau = add_noise(X0, NOISE, alpha_bar)
    one, other = torch.full_like(x_tau, 0.5), torch.full_like(x_tau, -1.0)
    mixed = prediction.to_x0_and_noise(one + weight * (other - one), x_tau, alpha_bar)[1]
    noise_one, noise_other = (prediction.to_x0_and_noise(output, x_tau, alpha_bar)[1] for output in (one, other))
    torch.testing.assert_close(mixed, noise_one + weight * (noise_other - noise_one))


def test_all_prediction_types_of_the_paper_are_registered() -> None:
    assert {"epsilon", "sample", "v_prediction"} <= set(PREDICTIONS.names())


def test_an_unknown_prediction_type_raises_an_error_that_lists_the_types() -> None:
    with pytest.raises(PolicyError, match="diffusion.prediction_type = 'x1': allowed is one of epsilon"):
        PREDICTIONS["x1"]
