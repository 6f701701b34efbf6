from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from airlora.adapters import (
    AdaptedModel,
    LowRankUpdate,
    canonical_svd,
    canonicalise,
    components_of,
    dense_reference,
    inject,
    install_updates,
)
from airlora.errors import AdapterError

Make = Callable[..., AdaptedModel]
Tiny = Callable[..., torch.nn.Module]


def draw(d_out: int, d_in: int, r: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    shapes = ((d_out, r), (r,), (r, d_in))
    P, lam, Q = (torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes)
    return P, lam, Q


@st.composite
def components(draw_from: st.DrawFn) -> tuple[Tensor, Tensor, Tensor]:
    d_out, d_in = draw_from(st.integers(1, 12)), draw_from(st.integers(1, 12))
    r = draw_from(st.integers(1, min(d_out, d_in)))
    P, lam, Q = draw(d_out, d_in, r, draw_from(st.integers(0, 1000)))
    # The SVD is not unique for zero and for equal singular values.
    lam[torch.rand(r, generator=torch.Generator().manual_seed(d_in)) < draw_from(st.floats(0, 1))] = 0
    return P, lam, Q


@settings(deadline=None)
@given(components())
def test_canonical_svd_is_a_singular_value_decomposition(pql: tuple[Tensor, Tensor, Tensor]) -> None:
    P, lam, Q = pql
    U, s, Vt = canonical_svd(P, lam, Q)
    dense = P @ torch.diag(lam) @ Q
    identity = torch.eye(len(lam), dtype=torch.float64)
    torch.testing.assert_close(U @ torch.diag(s) @ Vt, dense, rtol=0, atol=1e-12 * (1 + float(dense.norm())))
    torch.testing.assert_close(U.T @ U, identity, rtol=0, atol=1e-12)
    torch.testing.assert_close(Vt @ Vt.T, identity, rtol=0, atol=1e-12)
    torch.testing.assert_close(s, torch.linalg.svdvals(dense)[: len(lam)], rtol=0, atol=1e-12 * (1 + float(s[0])))
    assert bool((s.diff() <= 0).all())
    assert bool((s >= 0).all())


@settings(deadline=None)
@given(components())
def test_largest_entry_of_every_left_singular_vector_is_positive(pql: tuple[Tensor, Tensor, Tensor]) -> None:
    U, _, _ = canonical_svd(*pql)
    assert bool((U.gather(0, U.abs().argmax(dim=0, keepdim=True)) > 0).all())


def test_canonical_svd_is_invariant_to_order_sign_and_scale_of_components() -> None:
    P, lam, Q = draw(7, 9, 4, seed=0)
    order = torch.tensor([2, 0, 3, 1])
    U, s, Vt = canonical_svd(P, lam, Q)
    for other in ((P[:, order], lam[order], Q[order]), (-P, lam, -Q), (P * 2, lam, Q / 2), (P * lam, lam * 0 + 1, Q)):
        for a, b in zip(canonical_svd(*other), (U, s, Vt), strict=True):
            torch.testing.assert_close(a, b, rtol=0, atol=1e-12)
    for a, b in zip(canonical_svd(U, s, Vt), (U, s, Vt), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-12)


def test_zero_update_has_orthonormal_singular_vectors() -> None:
    P, lam, Q = draw(7, 9, 4, seed=0)
    U, s, _ = canonical_svd(P, lam * 0, Q)
    assert s.tolist() == [0.0] * 4
    torch.testing.assert_close(U.T @ U, torch.eye(4, dtype=torch.float64))


def test_canonicalise_keeps_the_update_and_makes_every_truncation_optimal(adapted: Make) -> None:
    """Eckart and Young: the smallest error of rank r is the norm of the omitted singular values."""
    model = adapted("bert")
    dense = {name: update.dense().detach().double() for name, update in model.updates.items()}
    model.set_ranks([3] * 12)
    truncated_before = {name: update.dense().detach().double() for name, update in model.updates.items()}
    canonicalise(model)
    assert set(model.rank_pattern.ranks) == {3}
    improved = 0
    for rank in range(5):
        model.set_ranks([rank] * 12)
        for name, update in model.updates.items():
            error = torch.linalg.matrix_norm(dense[name] - update.dense().detach())
            best = torch.linalg.svdvals(dense[name])[rank:].norm()
            torch.testing.assert_close(error, best, rtol=1e-4, atol=1e-5)
            if rank == 3:
                improved += bool(error < 0.99 * torch.linalg.matrix_norm(dense[name] - truncated_before[name]))
    assert improved > 6


def test_canonicalise_keeps_the_logits(adapted: Make, batch: dict[str, Tensor]) -> None:
    model = adapted("gpt2", dtype=torch.float32)
    before = model.model(**batch).logits
    canonicalise(model)
    torch.testing.assert_close(model.model(**batch).logits, before, rtol=0, atol=1e-5)


def test_canonicalise_refuses_values_that_are_not_finite(adapted: Make) -> None:
    model = adapted("bert")
    last = model.sites[-1].name
    with torch.no_grad():
        model.updates[last].Q[1, 2] = torch.nan
    before = {name: update.P.clone() for name, update in model.updates.items()}
    with pytest.raises(AdapterError, match=f"{last}.*not finite"):
        canonicalise(model)
    assert all(torch.equal(before[name], update.P) for name, update in model.updates.items())


def adapted_bert(tiny: Tiny, *, scale: float = 3.0, r_max: int = 4) -> AdaptedModel:
    """Return a model whose updates are random, neither orthonormal nor ordered."""
    adapted = inject(tiny("bert"), r_max=r_max, seed=1, scale=scale)
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for update in adapted.updates.values():
            for parameter in update.parameters():
                parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))
    return adapted


def dense(adapted: AdaptedModel, name: str) -> np.ndarray:
    update = adapted.updates[name]
    product = update.P.detach() @ torch.diag(update.lam.detach()) @ update.Q.detach()
    return adapted.scale * product.numpy()


def test_components_add_up_to_the_scaled_update(tiny: Tiny) -> None:
    adapted = adapted_bert(tiny)
    for name, module in components_of(adapted).items():
        whole = (module.left * module.singular_values) @ module.right
        np.testing.assert_allclose(whole, dense(adapted, name), atol=1e-5)
        balanced = module.balanced()
        np.testing.assert_allclose(balanced.left @ balanced.right, dense(adapted, name), atol=1e-5)
        np.testing.assert_allclose(
            np.linalg.norm(balanced.left, axis=0), np.linalg.norm(balanced.right, axis=1), rtol=1e-5
        )


def test_every_prefix_of_the_components_is_the_best_approximation_of_its_rank(tiny: Tiny) -> None:
    adapted = adapted_bert(tiny)
    name = next(iter(adapted.shapes))
    module, whole = components_of(adapted)[name], dense(adapted, name)
    singular = np.linalg.svd(whole, compute_uv=False)
    for rank in range(5):
        error = whole - (module.left[:, :rank] * module.singular_values[:rank]) @ module.right[:rank]
        assert np.linalg.norm(error) == pytest.approx(np.sqrt((singular[rank:] ** 2).sum()), abs=1e-4)


def test_installed_components_give_the_same_logits(tiny: Tiny) -> None:
    adapted, other = adapted_bert(tiny), inject(tiny("bert"), r_max=6, seed=9, scale=0.5)
    ids = torch.arange(1, 13).reshape(2, 6)
    adapted.set_ranks([4] * len(adapted.shapes))
    head = {name: value.detach().numpy() + 0.5 for name, value in adapted.head_state().items()}
    updates = {name: module.balanced() for name, module in components_of(adapted).items()}
    dropped = list(updates)[3]
    del updates[dropped]
    install_updates(other, updates, head)
    assert other.rank_pattern[dropped] == 0
    assert set(other.rank_pattern.ranks) == {0, 4}
    install_updates(adapted, updates, head)
    adapted.model.eval()
    other.model.eval()
    with torch.no_grad():
        one, two = adapted.model(input_ids=ids).logits, other.model(input_ids=ids).logits
        plain = dense_reference(other).eval()(input_ids=ids).logits
    torch.testing.assert_close(one, two, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(two, plain, atol=1e-5, rtol=1e-5)


def bad_update(d_out: int, d_in: int, rank: int = 1, value: float = 0.0) -> LowRankUpdate:
    return LowRankUpdate(np.full((d_out, rank), value, np.float32), np.zeros((rank, d_in), np.float32))


@pytest.mark.parametrize(
    ("name", "update", "words"),
    [
        ("nowhere", bad_update(32, 32), "no adapted module nowhere"),
        (None, bad_update(31, 32), "shapes of"),
        (None, bad_update(32, 32, rank=5), "= 5: allowed is 0 to r_max = 4"),
        (None, bad_update(32, 32, value=float("nan")), "not finite"),
    ],
)
def test_install_refuses_updates_that_do_not_fit_and_changes_nothing(
    tiny: Tiny, name: str | None, update: LowRankUpdate, words: str
) -> None:
    adapted = adapted_bert(tiny)
    before = {key: value.clone() for key, value in adapted.model.state_dict().items()}
    good = {list(adapted.shapes)[1]: bad_update(32, 32, value=1.0)}
    with pytest.raises(AdapterError, match=words):
        install_updates(adapted, good | {name or next(iter(adapted.shapes)): update}, {})
    for key, value in adapted.model.state_dict().items():
        torch.testing.assert_close(value, before[key], rtol=0, atol=0)


@pytest.mark.parametrize(
    ("head", "words"),
    [
        ({"classifier.scale": np.zeros(2)}, "no tensor classifier.scale"),
        ({"classifier.bias": np.zeros(3)}, "shape of classifier.bias"),
        ({"classifier.bias": np.asarray([0.0, np.inf])}, "classifier.bias holds"),
    ],
)
def test_install_refuses_a_head_that_does_not_fit(tiny: Tiny, head: dict[str, np.ndarray], words: str) -> None:
    with pytest.raises(AdapterError, match=words):
        install_updates(adapted_bert(tiny), {}, head)


def test_components_of_refuses_values_that_are_not_finite(tiny: Tiny) -> None:
    adapted = adapted_bert(tiny)
    name = list(adapted.shapes)[2]
    with torch.no_grad():
        adapted.updates[name].lam[1] = float("nan")
    with pytest.raises(AdapterError, match=f"components of {name}"):
        components_of(adapted)
