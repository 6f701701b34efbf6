from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor, nn

from airlora.adapters import AdaptedModel, explained_variance_ratio, inject
from airlora.errors import ModelError, SettingsError, TrainingError

Make = Callable[..., AdaptedModel]
Batch = dict[str, Tensor]


def inputs_of(adapted: AdaptedModel, name: str, batches: list[Batch]) -> npt.NDArray[np.float64]:
    """Return the inputs of a module of the base model as rows, without padding."""
    rows: list[Tensor] = []
    model = adapted.model.eval()
    ranks = adapted.rank_pattern
    adapted.set_ranks([0] * len(adapted.shapes))
    for batch in batches:
        kept = batch["attention_mask"].bool().flatten()

        def hook(module: nn.Module, inputs: tuple[Tensor, ...], kept: Tensor = kept) -> None:
            rows.append(inputs[0].reshape(len(kept), -1)[kept])

        handle = model.get_submodule(name).register_forward_pre_hook(hook)
        with torch.no_grad():
            model(**batch)
        handle.remove()
    adapted.set_ranks(ranks)
    return torch.cat(rows).double().numpy()


def by_hand(rows: npt.NDArray[np.float64], count: int, centred: bool) -> npt.NDArray[np.float64]:
    sigma = np.linalg.svd(rows - rows.mean(0) if centred else rows, compute_uv=False)
    return np.asarray((sigma**2 / (sigma**2).sum())[:count])


@pytest.mark.parametrize("centred", [True, False])
def test_ratios_are_squared_singular_values_of_the_inputs(
    family: str, adapted: Make, batch: Batch, centred: bool
) -> None:
    model = adapted(family)
    ratio = explained_variance_ratio(model, [batch], centred=centred)
    assert ratio.shape == (len(model.sites), 4)
    assert ratio.dtype == np.float64
    for site, row in zip(model.sites, ratio, strict=True):
        hand = by_hand(inputs_of(model, site.module_name, [batch]), 4, centred)
        np.testing.assert_allclose(row, hand, rtol=1e-6, atol=1e-10)


def test_rows_descend_and_add_up_to_at_most_one(adapted: Make, batch: Batch) -> None:
    for r_max in (1, 4, 32):
        ratio = explained_variance_ratio(adapted("opt", r_max=r_max), [batch])
        assert (ratio >= 0).all()
        assert (np.diff(ratio, axis=1) <= 0).all()
        assert (ratio.sum(axis=1) <= 1 + 1e-12).all()
    # 32 directions of 32-dimensional inputs explain all variance.
    np.testing.assert_allclose(ratio[0].sum(), 1.0, rtol=1e-12)


def test_ratios_do_not_depend_on_batching_or_order(adapted: Make, batch: Batch) -> None:
    model = adapted("bert")
    whole = explained_variance_ratio(model, [batch])
    halves = [{key: value[rows] for key, value in batch.items()} for rows in (slice(0, 2), slice(2, 4))]
    np.testing.assert_allclose(explained_variance_ratio(model, halves), whole, rtol=1e-5)
    np.testing.assert_allclose(explained_variance_ratio(model, halves[::-1]), whole, rtol=1e-5)
    assert not np.allclose(explained_variance_ratio(model, halves[:1]), whole, rtol=1e-3)


@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_tokens_do_not_count(adapted: Make, batch: Batch, side: str) -> None:
    model = adapted("bert")
    ids = torch.randint(3, 60, (1, 6), generator=torch.Generator().manual_seed(2))
    short = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    zeros = torch.zeros(1, 3, dtype=torch.long)
    places = torch.arange(6)[None]
    if side == "right":
        padded = {key: torch.cat([value, zeros], 1) for key, value in short.items()}
        padded["position_ids"] = torch.cat([places, zeros], 1)
    else:
        padded = {key: torch.cat([zeros, value], 1) for key, value in short.items()}
        padded["position_ids"] = torch.cat([zeros, places], 1)
    expected = explained_variance_ratio(model, [short])
    np.testing.assert_allclose(explained_variance_ratio(model, [padded]), expected, rtol=1e-4, atol=1e-9)
    counted = padded | {"attention_mask": torch.ones_like(padded["attention_mask"])}
    assert not np.allclose(explained_variance_ratio(model, [counted]), expected, rtol=1e-2)


def test_all_tokens_count_without_a_mask(adapted: Make, batch: Batch) -> None:
    model = adapted("opt")
    ids = batch["input_ids"].clamp(min=3)
    bare = explained_variance_ratio(model, [{"input_ids": ids}])
    masked = explained_variance_ratio(model, [{"input_ids": ids, "attention_mask": torch.ones_like(ids)}])
    np.testing.assert_allclose(bare, masked, rtol=1e-6)


def test_projections_with_equal_inputs_have_equal_ratios(adapted: Make, batch: Batch) -> None:
    model = adapted("bert")
    ratio = explained_variance_ratio(model, [batch])
    for layer in (0, 1):
        q, k, v, o = (
            ratio[row]
            for row, site in enumerate(model.sites)
            if site.layer == layer and site.role in ("q", "k", "v", "o")
        )
        np.testing.assert_array_equal(q, k)
        np.testing.assert_array_equal(q, v)
        assert (q != o).any()


def test_updates_have_no_effect_and_the_model_is_restored(adapted: Make, batch: Batch) -> None:
    untrained = inject(adapted("bert").eject(), r_max=4, seed=0)
    trained = adapted("bert", dropout=0.3)
    trained.set_ranks([1, 2, 3, 4] * 3)
    trained.model.train()
    ratio = explained_variance_ratio(trained, [batch])
    np.testing.assert_array_equal(ratio, explained_variance_ratio(untrained, [batch]))
    assert trained.rank_pattern.ranks == (1, 2, 3, 4) * 3
    assert trained.model.training
    assert not any(module._forward_pre_hooks for module in trained.model.modules())
    assert all(parameter.grad is None for parameter in trained.model.parameters())


def test_little_memory_gives_the_same_ratios_in_more_passes(adapted: Make, batch: Batch) -> None:
    model = adapted("opt")
    calls = 0

    def count(*_: object) -> None:
        nonlocal calls
        calls += 1

    handle = model.model.register_forward_pre_hook(count)
    whole = explained_variance_ratio(model, [batch])
    assert calls == 1
    np.testing.assert_allclose(explained_variance_ratio(model, [batch], max_bytes=1), whole, rtol=1e-12)
    assert calls == 1 + len(model.sites)
    np.testing.assert_allclose(explained_variance_ratio(model, [batch], max_bytes=8 * 32 * 33 * 5), whole, rtol=1e-12)
    assert calls < 1 + 2 * len(model.sites)
    handle.remove()


def test_equal_inputs_have_ratio_zero(adapted: Make) -> None:
    model = adapted("bert")
    ids = torch.full((3, 1), 7)
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    assert (explained_variance_ratio(model, [batch]) == 0).all()
    uncentred = explained_variance_ratio(model, [batch], centred=False)
    np.testing.assert_allclose(uncentred[:, 0], 1.0, rtol=1e-9)


def test_invalid_arguments_and_inputs_that_are_not_finite_are_refused(adapted: Make, batch: Batch) -> None:
    model = adapted("bert")
    with pytest.raises(TrainingError, match="no batch"):
        explained_variance_ratio(model, [])
    with pytest.raises(SettingsError, match="max_bytes = 0"):
        explained_variance_ratio(model, [batch], max_bytes=0)
    with torch.no_grad():
        model.model.get_submodule(model.sites[0].module_name).bias[0] = torch.inf
    model.set_ranks([3] * 12)
    with pytest.raises(TrainingError, match=r"inputs of .* are not finite"):
        explained_variance_ratio(model, [batch])
    assert model.rank_pattern.ranks == (3,) * 12
    assert not any(module._forward_pre_hooks for module in model.model.modules())


def test_module_that_is_not_called_once_per_token_is_refused(adapted: Make, batch: Batch) -> None:
    model = adapted("bert")
    layer = model.model.get_submodule(model.sites[0].module_name)
    first_token = layer.register_forward_pre_hook(lambda module, inputs: (inputs[0][:, :1],))
    with pytest.raises(ModelError, match="is called on 4 vectors for a batch of 44 tokens"):
        explained_variance_ratio(model, [batch])
    first_token.remove()


@pytest.mark.parametrize("name", ["bert", "distilbert", "llama", "qwen3"])
def test_ratios_give_the_ranks_of_pefts_eva(
    name: str, adapted: Make, tiny: Callable[..., nn.Module], batch: Batch
) -> None:
    """PEFT's EVA on one batch is the exact decomposition, up to the error of its randomised low-rank SVD.

    Modules with equal inputs tie, and PEFT breaks ties arbitrarily. PEFT's EVA fails on OPT, which flattens its tokens
    before fc1.
    """
    from peft import EvaConfig, LoraConfig
    from peft.tuners.lora.eva import get_eva_state_dict

    model = adapted(name, r_max=8)
    unlabelled = {key: value for key, value in batch.items() if key != "labels"}
    names = [site.name for site in model.sites]
    # Rank 4 on average, at most 8 per module.
    config = LoraConfig(r=4, target_modules=names, init_lora_weights="eva", eva_config=EvaConfig(rho=2.0, tau=0.99))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        state = get_eva_state_dict(tiny(name).eval(), [unlabelled], config, show_progress_bar=False)
    theirs = {module: len(components) for module, components in state.items()}
    ratio = explained_variance_ratio(model, [unlabelled])
    best = np.argsort(-ratio, axis=None, kind="stable")[: 4 * len(names)] // 8
    ours = dict(zip(names, np.bincount(best, minlength=len(names)).tolist(), strict=True))
    assert sum(theirs.values()) == sum(ours.values()) == 4 * len(names)
    assert len(set(ours.values())) > 2
    for group in groups_of_equal_inputs(model, ratio):
        assert sorted(theirs[module] for module in group) == sorted(ours[module] for module in group)


def groups_of_equal_inputs(model: AdaptedModel, ratio: npt.NDArray[np.float64]) -> Iterator[list[str]]:
    """Yield the names of modules with equal rows."""
    for row in np.unique(ratio, axis=0):
        yield [site.name for site, own in zip(model.sites, ratio, strict=True) if (own == row).all()]
