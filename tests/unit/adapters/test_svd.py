from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode
from transformers.pytorch_utils import Conv1D

from airlora.adapters import SVDFusedLinear, SVDLinear, SVDUpdate, orthogonality_penalty
from airlora.errors import RankPatternError, SettingsError


def make_update(
    d_in: int = 6, d_out: int = 5, r_max: int = 4, *, random: bool = True, seed: int = 0, **settings: object
) -> SVDUpdate:
    generator = torch.Generator().manual_seed(seed)
    update = SVDUpdate(d_in, d_out, r_max, generator=generator, **settings)
    if random:
        with torch.no_grad():
            for parameter in update.parameters():
                parameter.copy_(torch.randn(parameter.shape, generator=generator))
    return update


def conv1d(d_in: int, d_out: int) -> Conv1D:
    layer = Conv1D(d_out, d_in)
    nn.init.normal_(layer.bias)
    return layer


def test_new_update_is_zero_with_orthonormal_factors() -> None:
    update = make_update(random=False)
    assert update.rank == 4
    assert torch.equal(update(torch.randn(3, 6)), torch.zeros(3, 5))
    assert update.orthogonality_penalty().item() == pytest.approx(0.0, abs=1e-10)


def test_forward_and_penalty_by_hand() -> None:
    update = make_update(2, 2, 1, random=False, scale=2.0)
    with torch.no_grad():
        update.P.copy_(torch.tensor([[1.0], [3.0]]))
        update.lam.copy_(torch.tensor([0.5]))
        update.Q.copy_(torch.tensor([[1.0, -1.0]]))
    # q x = 5 - 2 = 3, times s lam = 1, times p = (1, 3)
    assert update(torch.tensor([5.0, 2.0])).tolist() == [3.0, 9.0]
    # (|p|^2 - 1)^2 = 9^2 and (|q|^2 - 1)^2 = 1^2
    assert update.orthogonality_penalty().item() == 82.0


@settings(deadline=None)
@given(rank=st.integers(0, 4), scale=st.floats(0.1, 10), seed=st.integers(0, 100))
def test_forward_multiplies_by_the_dense_update(rank: int, scale: float, seed: int) -> None:
    update = make_update(seed=seed, scale=scale)
    update.set_rank(rank)
    x = torch.randn(2, 3, 6, generator=torch.Generator().manual_seed(seed))
    torch.testing.assert_close(update(x), x @ update.dense().T, rtol=1e-4, atol=1e-4)
    assert torch.linalg.matrix_rank(update.dense().double(), rtol=1e-5) == rank


def test_dense_update_is_the_sum_of_its_components() -> None:
    update = make_update(scale=1.5)
    update.set_rank(3)
    total = sum(1.5 * update.lam[k] * torch.outer(update.P[:, k], update.Q[k]) for k in range(3))
    torch.testing.assert_close(update.dense(), total)


def test_lowering_and_raising_the_rank_keeps_the_update() -> None:
    update = make_update()
    before = update.dense().detach().clone()
    for rank in (0, 2, np.int64(1), 4):
        update.set_rank(rank)
    assert torch.equal(update.dense(), before)


def test_number_of_operations_is_proportional_to_the_rank() -> None:
    update = make_update(64, 64, 32)
    flops = {}
    for rank in (32, 8, 0):
        update.set_rank(rank)
        with FlopCounterMode(display=False) as counter:
            update(torch.randn(10, 64))
        flops[rank] = counter.get_total_flops()
    assert flops == {32: 2 * 10 * 32 * 128, 8: 2 * 10 * 8 * 128, 0: 0}


def test_inactive_components_have_gradient_zero() -> None:
    update = make_update()
    update.set_rank(2)
    update(torch.randn(3, 6)).square().sum().backward()
    assert bool((update.P.grad[:, :2] != 0).all())
    assert not update.P.grad[:, 2:].any()
    assert not update.lam.grad[2:].any()
    assert not update.Q.grad[2:].any()


@pytest.mark.parametrize("rank", [-1, 5, True, 1.0, "2", None])
def test_invalid_rank_is_refused(rank: object) -> None:
    update = make_update()
    update.set_rank(3)
    with pytest.raises(RankPatternError, match="0 to 4"):
        update.set_rank(rank)
    assert update.rank == 3


@pytest.mark.parametrize("r_max", [0, 6, -1])
def test_invalid_r_max_is_refused(r_max: int) -> None:
    with pytest.raises(RankPatternError, match="1 to 5"):
        make_update(6, 5, r_max)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("scale", 0.0),
        ("scale", -1.0),
        ("scale", math.nan),
        ("scale", math.inf),
        ("dropout", 1.0),
        ("dropout", -0.1),
        ("dtype", torch.int8),
    ],
)
def test_invalid_settings_are_refused(name: str, value: object) -> None:
    with pytest.raises(SettingsError, match=name):
        make_update(**{name: value})


def test_dropout_is_active_in_training_mode_only() -> None:
    update = make_update(dropout=0.5)
    x = torch.ones(400, 6)
    assert torch.equal(update.eval()(x), update(x))
    torch.manual_seed(0)
    outputs = update.train()(x)
    assert not torch.equal(outputs[0], outputs[1])
    torch.testing.assert_close(outputs.mean(0), update.eval()(x)[0], rtol=0.0, atol=0.6)


@pytest.mark.parametrize("adapter_dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("base_dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("autocast", [False, True])
def test_dtypes_of_base_and_update_may_differ(
    adapter_dtype: torch.dtype, base_dtype: torch.dtype, autocast: bool
) -> None:
    torch.manual_seed(0)
    base = nn.Linear(6, 5).to(base_dtype)
    layer = SVDLinear(base, make_update(dtype=adapter_dtype))
    x = torch.randn(7, 6, dtype=base_dtype)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        plain, out = base(x), layer(x)
    assert out.dtype == plain.dtype
    exact = plain.double() + x.double() @ layer.update.dense().double().T
    torch.testing.assert_close(out.double(), exact, rtol=0.03, atol=0.08)
    out.float().sum().backward()
    assert layer.update.P.grad.dtype == adapter_dtype


@pytest.mark.parametrize("base", [nn.Linear(6, 5), nn.Linear(6, 5, bias=False), conv1d(6, 5)])
def test_layer_adds_the_update_to_its_base(base: nn.Module) -> None:
    layer = SVDLinear(base, make_update())
    x = torch.randn(2, 3, 6)
    torch.testing.assert_close(layer(x), base(x) + x @ layer.dense().float().T)
    assert layer.weight is base.weight
    assert layer.bias is base.bias
    assert not base.weight.requires_grad
    layer.update.set_rank(0)
    assert torch.equal(layer(x), base(x))


@pytest.mark.parametrize("base", [nn.Linear(6, 9), conv1d(6, 9)])
@pytest.mark.parametrize("ranks", [(0, 0, 0), (1, 0, 3), (2, 3, 1)])
def test_fused_layer_adds_each_update_to_its_slice(base: nn.Module, ranks: tuple[int, ...]) -> None:
    layer = SVDFusedLinear(base, {name: make_update(6, 3, 3, seed=seed) for seed, name in enumerate("qkv")})
    for update, rank in zip(layer.updates.values(), ranks, strict=True):
        update.set_rank(rank)
    x = torch.randn(2, 4, 6)
    expected = base(x).clone()
    for index, update in enumerate(layer.updates.values()):
        expected[..., 3 * index : 3 * index + 3] += x @ update.dense().T
    torch.testing.assert_close(layer(x), expected)
    torch.testing.assert_close(base(x) + x @ layer.dense().float().T, expected)


def test_shapes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(RankPatternError, match="shape of the update"):
        SVDLinear(nn.Linear(6, 4), make_update(6, 5))
    with pytest.raises(RankPatternError, match="shape of the update"):
        SVDFusedLinear(nn.Linear(6, 9), {"q": make_update(6, 3, 3), "k": make_update(6, 3, 3)})
    with pytest.raises(TypeError, match="Embedding"):
        SVDLinear(nn.Embedding(6, 5), make_update(6, 5))


def test_penalty_sums_active_components_of_all_modules() -> None:
    updates = [make_update(seed=0), make_update(seed=1), make_update(seed=2)]
    updates[0].set_rank(2)
    updates[1].set_rank(0)

    def by_hand(update: SVDUpdate) -> Tensor:
        P, Q = update.P[:, : update.rank], update.Q[: update.rank]
        identity = torch.eye(update.rank)
        return torch.linalg.matrix_norm(P.T @ P - identity) ** 2 + torch.linalg.matrix_norm(Q @ Q.T - identity) ** 2

    penalty = orthogonality_penalty(updates, 0.5)
    torch.testing.assert_close(penalty, 0.5 * (by_hand(updates[0]) + by_hand(updates[2])))
    penalty.backward()
    assert updates[1].P.grad is None
    assert not updates[0].P.grad[:, 2:].any()


def test_penalty_with_weight_zero_has_no_graph() -> None:
    penalty = orthogonality_penalty([make_update()], 0.0)
    assert penalty.item() == 0.0
    assert not penalty.requires_grad
    assert orthogonality_penalty([], 1.0).item() == 0.0


def test_penalty_is_exact_under_autocast() -> None:
    update = make_update(random=False)
    with torch.autocast("cpu", torch.bfloat16):
        assert orthogonality_penalty([update], 1.0).item() == pytest.approx(0.0, abs=1e-10)


def test_seed_determines_the_initial_values() -> None:
    first, second, other = (make_update(random=False, seed=seed) for seed in (3, 3, 4))
    assert torch.equal(first.P, second.P)
    assert torch.equal(first.Q, second.Q)
    assert not torch.equal(first.P, other.P)
