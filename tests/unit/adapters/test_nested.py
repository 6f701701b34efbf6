from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from airlora.adapters import SVDUpdate, keep_inactive, sample_ranks
from airlora.errors import RankPatternError, SettingsError


@given(
    r_max=st.integers(1, 64),
    num_modules=st.integers(1, 50),
    seed=st.integers(0, 2**32 - 1),
    distribution=st.sampled_from(["uniform", "log_uniform"]),
)
def test_sampled_ranks_are_in_range_and_reproducible(
    r_max: int, num_modules: int, seed: int, distribution: str
) -> None:
    first, second = (
        sample_ranks(r_max, num_modules, np.random.default_rng(seed), distribution=distribution) for _ in range(2)
    )
    assert first.dtype == np.int64
    assert first.shape == (num_modules,)
    assert first.min() >= 0
    assert first.max() <= r_max
    assert np.array_equal(first, second)


@pytest.mark.parametrize("r_max", [1, 4, 16])
@pytest.mark.parametrize("distribution", ["uniform", "log_uniform"])
def test_frequencies_of_ranks_match_the_documented_probabilities(r_max: int, distribution: str) -> None:
    count = 200_000
    ranks = sample_ranks(r_max, count, np.random.default_rng(0), distribution=distribution)
    r = np.arange(r_max + 1)
    uniform = np.full(r_max + 1, 1 / (r_max + 1))
    documented = {"uniform": uniform, "log_uniform": np.log((r + 2) / (r + 1)) / np.log(r_max + 2)}[distribution]
    assert documented.sum() == pytest.approx(1.0)
    # at most five standard deviations of a binomial frequency
    np.testing.assert_allclose(np.bincount(ranks) / count, documented, atol=5 * np.sqrt(0.25 / count))


@pytest.mark.parametrize(("r_max", "num_modules", "name"), [(0, 3, "r_max"), (3, 0, "num_modules")])
def test_sizes_below_one_are_refused(r_max: int, num_modules: int, name: str) -> None:
    with pytest.raises(RankPatternError, match=name):
        sample_ranks(r_max, num_modules, np.random.default_rng(0))


def test_unknown_distribution_is_refused() -> None:
    with pytest.raises(SettingsError, match="distribution = 'normal'"):
        sample_ranks(3, 3, np.random.default_rng(0), distribution="normal")


OPTIMISERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.1, weight_decay=0.3),
    "adamw-amsgrad-foreach": lambda p: torch.optim.AdamW(p, lr=0.1, weight_decay=0.3, amsgrad=True, foreach=True),
    "adam-l2": lambda p: torch.optim.Adam(p, lr=0.1, weight_decay=0.3),
    "sgd-momentum": lambda p: torch.optim.SGD(p, lr=0.01, momentum=0.9, weight_decay=0.3),
    "rmsprop": lambda p: torch.optim.RMSprop(p, lr=0.01, momentum=0.9, weight_decay=0.3),
}


@pytest.fixture(params=list(OPTIMISERS))
def make_optimizer(request: pytest.FixtureRequest) -> Callable[..., torch.optim.Optimizer]:
    return OPTIMISERS[request.param]


def make_updates() -> list[SVDUpdate]:
    generator = torch.Generator().manual_seed(0)
    updates = [SVDUpdate(6, 5, 4, generator=generator) for _ in range(2)]
    with torch.no_grad():
        for update in updates:
            update.lam.copy_(torch.tensor([1.0, -0.5, 0.3, 0.2]))
    return updates


def parameters(updates: list[SVDUpdate]) -> list[Tensor]:
    return [parameter for update in updates for parameter in update.parameters()]


def train(updates: list[SVDUpdate], optimizer: torch.optim.Optimizer, steps: int, seed: int = 0) -> None:
    generator = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        optimizer.zero_grad()
        x = torch.randn(8, 6, generator=generator)
        sum(update(x).square().sum() + update(x).sum() for update in updates).backward()
        optimizer.step()


def snapshot(updates: list[SVDUpdate], optimizer: torch.optim.Optimizer, index: slice) -> list[Tensor]:
    """Return copies of the values and states of the components in `index`."""
    kept = []
    for update in updates:
        for parameter, transposed in ((update.P, True), (update.lam, False), (update.Q, False)):
            states = optimizer.state.get(parameter, {}).values()
            tensors = [parameter.detach(), *(s for s in states if torch.is_tensor(s) and s.shape == parameter.shape)]
            kept += [(tensor.T if transposed else tensor)[index].clone() for tensor in tensors]
    return kept


def test_inactive_components_keep_values_and_states(make_optimizer: Callable[..., torch.optim.Optimizer]) -> None:
    updates = make_updates()
    optimizer = make_optimizer(parameters(updates))
    keep_inactive(optimizer, updates)
    train(updates, optimizer, 3)
    before = snapshot(updates, optimizer, slice(2, None))
    for update in updates:
        update.set_rank(2)
    active = snapshot(updates, optimizer, slice(0, 2))
    train(updates, optimizer, 3, seed=1)
    for update in updates:
        update.set_rank(4)
    after = snapshot(updates, optimizer, slice(2, None))
    assert len(after) > 6
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    moved = snapshot(updates, optimizer, slice(0, 2))
    assert not any(torch.equal(a, b) for a, b in zip(active, moved, strict=True))


def test_active_components_are_updated_as_without_hooks(make_optimizer: Callable[..., torch.optim.Optimizer]) -> None:
    results = []
    for hooked in (True, False):
        updates = make_updates()
        optimizer = make_optimizer(parameters(updates))
        if hooked:
            keep_inactive(optimizer, updates)
        updates[0].set_rank(2)
        train(updates, optimizer, 4)
        results.append(snapshot(updates[:1], optimizer, slice(0, 2)) + snapshot(updates[1:], optimizer, slice(None)))
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


def test_inactive_components_change_without_the_hooks() -> None:
    updates = make_updates()
    optimizer = OPTIMISERS["adamw"](parameters(updates))
    train(updates, optimizer, 1)
    updates[0].set_rank(2)
    before = updates[0].P[:, 2:].clone()
    train(updates, optimizer, 1)
    assert not torch.equal(updates[0].P[:, 2:], before)


def test_states_created_below_full_rank_are_zero_for_inactive_components(
    make_optimizer: Callable[..., torch.optim.Optimizer],
) -> None:
    updates = make_updates()
    optimizer = make_optimizer(parameters(updates))
    keep_inactive(optimizer, updates)
    train(updates, optimizer, 0)
    values = [update.Q[1:].clone() for update in updates]
    # The gradient is taken at full rank and the rank is lowered before the step: inactive slices must not change.
    x = torch.randn(8, 6, generator=torch.Generator().manual_seed(0))
    sum(update(x).square().sum() for update in updates).backward()
    for update in updates:
        update.set_rank(1)
    optimizer.step()
    for update, value in zip(updates, values, strict=True):
        assert torch.equal(update.Q[1:], value)
        states = [s for s in optimizer.state[update.Q].values() if torch.is_tensor(s) and s.shape == update.Q.shape]
        assert states
        assert not any(state[1:].any() for state in states)
        assert any(state[0].any() for state in states)


def test_modules_of_rank_zero_keep_all_components() -> None:
    updates = make_updates()
    optimizer = OPTIMISERS["adamw"](parameters(updates))
    keep_inactive(optimizer, updates)
    train(updates, optimizer, 1)
    before = snapshot(updates[:1], optimizer, slice(None))
    updates[0].set_rank(0)
    train(updates, optimizer, 2)
    optimizer.zero_grad(set_to_none=False)
    optimizer.step()
    assert all(torch.equal(a, b) for a, b in zip(before, snapshot(updates[:1], optimizer, slice(None)), strict=True))


def test_removing_the_handles_removes_the_hooks() -> None:
    updates = make_updates()
    optimizer = OPTIMISERS["adamw"](parameters(updates))
    for handle in keep_inactive(optimizer, updates):
        handle.remove()
    updates[0].set_rank(1)
    before = updates[0].lam[1:].clone()
    train(updates, optimizer, 1)
    assert not torch.equal(updates[0].lam[1:], before)
