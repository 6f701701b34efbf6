import math

import pytest
import torch

from airlora.errors import SettingsError
from airlora.training import Settings, build_context
from airlora.training.few_parameters import (
    BLOCK_SIZE,
    FEW_PARAMETER_METHODS,
    _rounded_in_blocks,
    measure_few_parameters,
)
from airlora.training.peft_baselines import BASELINE_BITS

HEAD = 2 * 16 + 2
MODULES = {"unilora": 200, "vera": 8, "fourierft": 5, "tinylora": 9, "vblora": 6, "ia3": 1, "ln_tuning": 1}
"""Size of each method for the tiny model: 2 layers, width 16, FFN 32."""

PARAMS = {
    "unilora": 200,
    # d_out and r values per module: six modules of 16, 16, 16, 16, 32, 16 outputs in two layers.
    "vera": 2 * (5 * 16 + 32 + 6 * 8),
    "fourierft": 12 * 5,
    "tinylora": 12 * 9,
    "ia3": 2 * (16 + 16 + 32),
    # The embeddings' and two per layer, each with weight and bias.
    "ln_tuning": 5 * 2 * 16,
}


@pytest.mark.parametrize("method", FEW_PARAMETER_METHODS)
def test_every_method_trains_and_sends_its_parameters(settings: Settings, method: str) -> None:
    context, steps = build_context(settings), []
    points = measure_few_parameters(
        settings,
        context.train,
        context.eval,
        method=method,
        size=MODULES[method],
        learning_rate=FEW_PARAMETER_METHODS[method].rates[1],
        steps=3,
        on_step=steps.append,
    )
    assert steps == [1, 2, 3]
    assert [point.bits for point in points] == list(BASELINE_BITS)
    sizes = [point.payload_bytes for point in points]
    assert sizes == sorted(sizes, reverse=True)
    assert len({point.num_params for point in points}) == 1
    full = points[0]
    assert abs(points[1].evaluation.loss - full.evaluation.loss) < 0.05
    if method == "vblora":
        assert full.payload_bytes > 4 * full.num_params
    else:
        assert full.num_params == PARAMS[method] + HEAD
        assert full.payload_bytes == 4 * full.num_params


def test_the_same_call_gives_the_same_result(settings: Settings) -> None:
    context = build_context(settings)
    first, second = (
        measure_few_parameters(
            settings, context.train, context.eval, method="unilora", size=100, learning_rate=0.02, steps=2, bits=(32,)
        )
        for _ in range(2)
    )
    assert first == second


def test_an_unknown_method_is_refused(settings: Settings) -> None:
    context = build_context(settings)
    with pytest.raises(SettingsError, match=r"method = 'qlora': allowed is one of unilora, vera"):
        measure_few_parameters(
            settings, context.train, context.eval, method="qlora", size=1, learning_rate=0.1, steps=1
        )


@pytest.mark.parametrize("bits", [8, 6, 4])
def test_a_rounded_value_is_off_by_half_a_step_of_its_block(bits: int) -> None:
    values = torch.randn(3, BLOCK_SIZE + 7, generator=torch.Generator().manual_seed(0)) * torch.tensor(
        [[1], [9], [0.1]]
    )
    rounded = _rounded_in_blocks(values, bits)
    assert rounded.shape == values.shape
    flat, difference = values.ravel(), (rounded - values).ravel().abs()
    for first in range(0, len(flat), BLOCK_SIZE):
        block = slice(first, first + BLOCK_SIZE)
        step = float(flat[block].abs().max()) / (2 ** (bits - 1) - 1)
        assert float(difference[block].max()) <= 0.51 * step
        assert len(rounded.ravel()[block].unique()) <= 2**bits
    assert math.isfinite(float(rounded.sum()))


def test_zeros_stay_zero() -> None:
    assert not _rounded_in_blocks(torch.zeros(5), 4).any()


@pytest.mark.parametrize(("method", "message"), [("fourierft", "at most 256"), ("tinylora", "at most 256")])
def test_a_size_beyond_the_projections_is_refused(settings: Settings, method: str, message: str) -> None:
    context = build_context(settings)
    with pytest.raises(SettingsError, match=message):
        measure_few_parameters(
            settings, context.train, context.eval, method=method, size=257, learning_rate=0.1, steps=1
        )
