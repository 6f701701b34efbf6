import torch
from hypothesis import given
from hypothesis import strategies as st

from airlora.policy.diffusion.guidance import drop_condition, guide, with_presence


@given(st.floats(-3, 3), st.floats(-3, 3))
def test_scales_0_and_1_give_the_unconditional_and_conditional_prediction(
    unconditional: float, conditional: float
) -> None:
    u, c = torch.tensor(unconditional), torch.tensor(conditional)
    torch.testing.assert_close(guide(u, c, 0.0), u)
    torch.testing.assert_close(guide(u, c, 1.0), c)


def test_an_absent_condition_differs_from_a_condition_of_zeros() -> None:
    present = with_presence(torch.zeros(1, 2), torch.tensor([True]))
    absent = with_presence(torch.zeros(1, 2), torch.tensor([False]))
    assert not torch.equal(present, absent)


@given(st.lists(st.floats(-5, 5), min_size=3, max_size=3))
def test_the_values_of_an_absent_condition_are_hidden(values: list[float]) -> None:
    absent = torch.tensor([False])
    masked = with_presence(torch.tensor([values]), absent)
    assert torch.equal(masked, with_presence(torch.zeros(1, 3), absent))


def test_conditions_are_dropped_with_the_given_probability() -> None:
    generator = torch.Generator().manual_seed(0)
    assert drop_condition(1000, 0.0, generator).all()
    assert not drop_condition(1000, 1.0, generator).any()
    share = 1.0 - drop_condition(10_000, 0.1, generator).float().mean().item()
    assert 0.08 < share < 0.12
