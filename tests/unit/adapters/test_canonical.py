from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from airlora.adapters import AdaptedModel, canonical_svd, canonicalise
from airlora.errors import AdapterError

Make = Callable[..., AdaptedModel]


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
    # Components of no weight and equal ones are where an SVD is not unique.
    lam[torch.rand(r, generator=torch.Generator().manual_seed(d_in)) < draw_from(st.floats(0, 1))] = 0
    return P, lam, Q


@settings(deadline=None)
@given(components())
def test_it_is_the_singular_value_decomposition(pql: tuple[Tensor, Tensor, Tensor]) -> None:
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
def test_signs_are_fixed(pql: tuple[Tensor, Tensor, Tensor]) -> None:
    U, _, _ = canonical_svd(*pql)
    assert bool((U.gather(0, U.abs().argmax(dim=0, keepdim=True)) > 0).all())


def test_the_form_of_the_components_does_not_matter() -> None:
    P, lam, Q = draw(7, 9, 4, seed=0)
    order = torch.tensor([2, 0, 3, 1])
    U, s, Vt = canonical_svd(P, lam, Q)
    for other in ((P[:, order], lam[order], Q[order]), (-P, lam, -Q), (P * 2, lam, Q / 2), (P * lam, lam * 0 + 1, Q)):
        for a, b in zip(canonical_svd(*other), (U, s, Vt), strict=True):
            torch.testing.assert_close(a, b, rtol=0, atol=1e-12)
    for a, b in zip(canonical_svd(U, s, Vt), (U, s, Vt), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-12)


def test_zero_update_gives_orthonormal_components() -> None:
    P, lam, Q = draw(7, 9, 4, seed=0)
    U, s, _ = canonical_svd(P, lam * 0, Q)
    assert s.tolist() == [0.0] * 4
    torch.testing.assert_close(U.T @ U, torch.eye(4, dtype=torch.float64))


def test_update_stays_and_every_cut_is_the_best_one(adapted: Make) -> None:
    """Eckart and Young: the smallest error of a rank-r matrix is the norm of the singular values left out."""
    model = adapted("bert")
    dense = {name: update.dense().detach().double() for name, update in model.updates.items()}
    model.set_ranks([3] * 12)
    cut_before = {name: update.dense().detach().double() for name, update in model.updates.items()}
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
                improved += bool(error < 0.99 * torch.linalg.matrix_norm(dense[name] - cut_before[name]))
    assert improved > 6


def test_logits_stay(adapted: Make, batch: dict[str, Tensor]) -> None:
    model = adapted("gpt2", dtype=torch.float32)
    before = model.model(**batch).logits
    canonicalise(model)
    torch.testing.assert_close(model.model(**batch).logits, before, rtol=0, atol=1e-5)


def test_values_that_are_not_finite_are_refused(adapted: Make) -> None:
    model = adapted("bert")
    last = model.sites[-1].name
    with torch.no_grad():
        model.updates[last].Q[1, 2] = torch.nan
    before = {name: update.P.clone() for name, update in model.updates.items()}
    with pytest.raises(AdapterError, match=f"{last}.*not finite"):
        canonicalise(model)
    assert all(torch.equal(before[name], update.P) for name, update in model.updates.items())
