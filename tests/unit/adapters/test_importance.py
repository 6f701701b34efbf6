from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from airlora.adapters import AdaptedModel, ImportanceAccumulator
from airlora.errors import RankPatternError, TrainingError

Make = Callable[..., AdaptedModel]


def halves(batch: dict[str, Tensor]) -> list[dict[str, Tensor]]:
    return [{key: value[rows] for key, value in batch.items()} for rows in (slice(0, 2), slice(2, 4))]


def loss_with_gate(adapted: AdaptedModel, batch: dict[str, Tensor], name: str, k: int, gate: float) -> float:
    lam = adapted.updates[name].lam
    kept = lam[k].item()
    with torch.no_grad():
        lam[k] = kept * gate
        loss = adapted.model(**batch).loss.item()
        lam[k] = kept
    return loss


def accumulated(adapted: AdaptedModel, batches: list[dict[str, Tensor]]) -> ImportanceAccumulator:
    importance = ImportanceAccumulator(adapted)
    for batch in batches:
        adapted.model.zero_grad()
        adapted.model(**batch).loss.backward()
        importance.add()
    return importance


def test_importance_matches_central_differences_of_a_gate(adapted: Make, batch: dict[str, Tensor]) -> None:
    """The loss is differentiated with respect to the gate, batch by batch, in double precision."""
    model = adapted("bert", scale=0.5, dtype=torch.float64)
    model.model.double()
    batches = halves(batch)
    importance = accumulated(model, batches)
    squared, taylor = importance.squared_gradient(), importance.taylor()
    assert squared.shape == taylor.shape == (12, 4)
    assert squared.dtype == taylor.dtype == np.float64
    step = 1e-4
    for row, k in ((0, 0), (5, 3), (11, 1)):
        name = model.sites[row].name
        gradient = np.array(
            [
                (loss_with_gate(model, b, name, k, 1 + step) - loss_with_gate(model, b, name, k, 1 - step)) / (2 * step)
                for b in batches
            ]
        )
        assert squared[row, k] == pytest.approx((gradient**2).mean(), rel=1e-4)
        assert taylor[row, k] == pytest.approx(abs(gradient.mean()), rel=1e-4)


def test_components_with_coefficient_zero_have_importance_zero(adapted: Make, batch: dict[str, Tensor]) -> None:
    model = adapted("opt")
    with torch.no_grad():
        model.updates[model.sites[2].name].lam[1] = 0
    squared = accumulated(model, [batch]).squared_gradient()
    assert squared[2, 1] == 0
    assert (np.delete(squared[2], 1) > 0).all()


def test_squared_taylor_importance_is_at_most_the_squared_gradient(adapted: Make, batch: dict[str, Tensor]) -> None:
    importance = accumulated(adapted("opt"), halves(batch))
    assert (importance.taylor() ** 2 <= importance.squared_gradient() * (1 + 1e-12)).all()


def test_adding_a_batch_twice_gives_the_same_means(adapted: Make, batch: dict[str, Tensor]) -> None:
    once, twice = (accumulated(adapted("opt"), [batch] * count) for count in (1, 2))
    np.testing.assert_allclose(once.squared_gradient(), twice.squared_gradient(), rtol=1e-6)
    np.testing.assert_allclose(once.taylor() ** 2, once.squared_gradient(), rtol=1e-12)


def test_missing_or_infinite_gradients_and_ranks_below_r_max_are_refused(
    adapted: Make, batch: dict[str, Tensor]
) -> None:
    model = adapted("opt")
    importance = ImportanceAccumulator(model)
    with pytest.raises(TrainingError, match="no batch"):
        importance.squared_gradient()
    with pytest.raises(TrainingError, match="no gradient"):
        importance.add()
    model.model(**batch).loss.backward()
    model.updates[model.sites[-1].name].lam.grad[0] = torch.inf
    with pytest.raises(TrainingError, match="not finite"):
        importance.add()
    model.set_ranks([4] * 11 + [3])
    model.updates[model.sites[-1].name].lam.grad[0] = 0
    with pytest.raises(RankPatternError, match="full rank"):
        importance.add()
    # A refused batch does not count.
    with pytest.raises(TrainingError, match="no batch"):
        importance.taylor()
