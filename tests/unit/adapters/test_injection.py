from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pytest
import torch
import transformers as hf
from torch import Tensor, nn

from airlora.adapters import AdaptedModel, SVDLayer, dense_reference, inject
from airlora.errors import ModelError, RankPatternError, SettingsError
from airlora.ranks import RankPattern

Make = Callable[..., AdaptedModel]
Tiny = Callable[..., nn.Module]


def logits_of(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    # The same seed gives the same dropout masks in the base model.
    torch.manual_seed(0)
    return model(**batch).logits


def gradients(adapted: AdaptedModel, batch: dict[str, Tensor]) -> list[Tensor]:
    torch.manual_seed(0)
    adapted.model.zero_grad()
    adapted.model(**batch).loss.backward()
    return [parameter.grad.clone() for parameter in adapted.trainable_parameters()]


def test_injection_keeps_the_logits(family: str, tiny: Tiny, batch: dict[str, Tensor]) -> None:
    model = tiny(family)
    before = logits_of(model, batch)
    inject(model, r_max=4, seed=0)
    torch.testing.assert_close(logits_of(model, batch), before, rtol=0, atol=1e-6)


@pytest.mark.parametrize("training", [False, True])
def test_dense_reference_has_the_same_logits_at_every_rank(
    family: str, training: bool, adapted: Make, batch: dict[str, Tensor]
) -> None:
    model = adapted(family, scale=0.5)
    base = logits_of(model.model.train(training), batch)
    mixed = [rank % 5 for rank in range(len(model.sites))]
    for ranks in ([0] * len(mixed), [1] * len(mixed), [2] * len(mixed), [3] * len(mixed), [4] * len(mixed), mixed):
        model.set_ranks(ranks)
        reference = dense_reference(model)
        assert not any(isinstance(module, SVDLayer) for module in reference.modules())
        logits = logits_of(model.model, batch)
        torch.testing.assert_close(logits, logits_of(reference, batch), rtol=0, atol=1e-5)
        assert torch.equal(logits, base) == (ranks == [4] * len(mixed))
        # The comparison is meaningful only if the updates change the logits.
        if any(ranks):
            assert not torch.allclose(logits, logits_of(zero_rank(model), batch), atol=1e-4)
            model.set_ranks(ranks)


def zero_rank(adapted: AdaptedModel) -> nn.Module:
    adapted.set_ranks([0] * len(adapted.sites))
    return adapted.model


def test_gradients_match_the_dense_reference(family: str, adapted: Make, batch: dict[str, Tensor]) -> None:
    """By the chain rule dL/dlam_k = s p_k^T (dL/dW) q_k^T, with dL/dW from the merged model."""
    model = adapted(family, scale=0.5)
    reference = dense_reference(model)
    for parameter in reference.parameters():
        parameter.requires_grad_(True)
    reference(**batch).loss.backward()
    model.model(**batch).loss.backward()
    for site in model.sites:
        update = model.updates[site.name]
        weight = reference.get_submodule(site.module_name).weight
        grad = weight.grad if isinstance(reference.get_submodule(site.module_name), nn.Linear) else weight.grad.T
        if site.suffix is not None:
            grad = grad["qkv".index(site.suffix) * site.shape.d_out :][: site.shape.d_out]
        expected = 0.5 * torch.einsum("ok,oi,ki->k", update.P, grad, update.Q)
        torch.testing.assert_close(update.lam.grad, expected, rtol=1e-3, atol=1e-6)


def test_only_updates_and_head_require_gradients(family: str, adapted: Make) -> None:
    model = adapted(family)
    wanted = {id(parameter) for parameter in model.trainable_parameters()}
    assert {id(parameter) for parameter in model.model.parameters() if parameter.requires_grad} == wanted
    assert len(wanted) == 3 * len(model.sites) + len(model.head_parameters())
    assert model.head_params == sum(tensor.numel() for tensor in model.head_state().values())


def test_parameter_counts_by_hand(adapted: Make) -> None:
    model = adapted("bert")
    assert model.head_params == 2 * 32 + 2
    # Each layer has four projections 32 x 32, one 32 x 48 and one 48 x 32.
    assert model.num_params == 2 * 4 * (4 * (32 + 32 + 1) + 2 * (32 + 48 + 1))
    model.set_ranks([1] + [0] * 11)
    assert model.num_params == 65
    assert (model.r_max, model.scale) == (4, 1.0)


def test_ranks_can_be_set_by_name_or_in_order(adapted: Make) -> None:
    model = adapted("bert")
    ranks = [index % 5 for index in range(12)]
    model.set_ranks(np.array(ranks))
    assert list(model.rank_pattern) == [site.name for site in model.sites] == list(model.shapes)
    assert list(model.rank_pattern.ranks) == ranks
    reverse = RankPattern(dict(reversed(list(model.rank_pattern.items()))))
    model.set_ranks([4] * 12)
    model.set_ranks(reverse)
    assert list(model.rank_pattern.ranks) == ranks


@pytest.mark.parametrize("ranks", [[1] * 11, [5] + [1] * 11, [-1] + [1] * 11, [1.5] * 12])
def test_invalid_ranks_are_refused_and_change_nothing(ranks: Sequence[int], adapted: Make) -> None:
    model = adapted("bert")
    with pytest.raises(RankPatternError):
        model.set_ranks(ranks)
    assert set(model.rank_pattern.ranks) == {4}


def test_ranks_of_other_modules_are_refused(adapted: Make) -> None:
    with pytest.raises(RankPatternError, match="bert"):
        adapted("opt").set_ranks(adapted("bert").rank_pattern)


@pytest.mark.parametrize("family", ["bert", "opt", "gpt2", "llama"])
def test_gradient_checkpointing_gives_the_same_gradients(family: str, adapted: Make, batch: dict[str, Tensor]) -> None:
    model = adapted(family, dropout=0.1)
    model.model.train()
    model.set_ranks([1 + index % 4 for index in range(len(model.sites))])
    plain = gradients(model, batch)
    model.enable_gradient_checkpointing()
    calls = count_forwards(model)
    again = gradients(model, batch)
    # The second call happens in the backward pass, so checkpointing was active.
    assert len(calls) == 2
    for first, second in zip(plain, again, strict=True):
        torch.testing.assert_close(first, second)
    assert any(bool(gradient.any()) for gradient in plain)


def count_forwards(adapted: AdaptedModel) -> list[nn.Module]:
    """Return a list that grows by one at each call of the first projection."""
    calls: list[nn.Module] = []
    first = adapted.model.get_submodule(adapted.sites[0].module_name)
    first.register_forward_hook(lambda module, _inputs, _output: calls.append(module))
    return calls


def test_gradient_checkpointing_without_support_is_refused() -> None:
    adapted = inject(nn.ModuleDict({"a": nn.Linear(4, 4)}), r_max=2, seed=0, target_modules=["a"])
    with pytest.raises(ModelError, match="ModuleDict does not support"):
        adapted.enable_gradient_checkpointing()


def test_eject_restores_the_base_model(family: str, tiny: Tiny, batch: dict[str, Tensor]) -> None:
    model = tiny(family)
    names = [name for name, _ in model.named_parameters()]
    flags = [parameter.requires_grad for parameter in model.parameters()]
    before = logits_of(model, batch)
    adapted = inject(model, r_max=2, seed=0)
    for update in adapted.updates.values():
        nn.init.ones_(update.lam)
    assert adapted.eject() is model
    assert [name for name, _ in model.named_parameters()] == names
    assert [parameter.requires_grad for parameter in model.parameters()] == flags
    assert torch.equal(logits_of(model, batch), before)
    with pytest.raises(ModelError, match="already been removed"):
        adapted.eject()
    inject(model, r_max=2, seed=0)


def test_second_injection_is_refused(tiny: Tiny) -> None:
    model = tiny("bert")
    inject(model, r_max=2, seed=0)
    with pytest.raises(ModelError, match="eject"):
        inject(model, r_max=2, seed=0)


@pytest.mark.parametrize(
    ("settings", "error", "match"),
    [
        ({"r_max": 33}, RankPatternError, r"at most 32: bert\.encoder\.layer\.0\.attention\.self\.query is 32 -> 32"),
        ({"r_max": 0}, RankPatternError, "r_max = 0"),
        ({"r_max": 2, "scale": 0.0}, SettingsError, "scale"),
        ({"r_max": 2, "dropout": 1.5}, SettingsError, "dropout"),
        ({"r_max": 2, "target_modules": ["nothing"]}, ModelError, "nothing"),
        ({"r_max": 2, "head_modules": ["nothing"]}, ModelError, "nothing"),
    ],
)
def test_refused_injection_leaves_the_model_unchanged(
    settings: dict[str, object], error: type[Exception], match: str, tiny: Tiny
) -> None:
    model = tiny("bert")
    before = {name: type(module) for name, module in model.named_modules()}
    with pytest.raises(error, match=match):
        inject(model, seed=0, **settings)
    assert {name: type(module) for name, module in model.named_modules()} == before
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_narrowest_module_limits_r_max(tiny: Tiny) -> None:
    with pytest.raises(RankPatternError, match=r"at most 16: .*k_proj is 32 -> 16"):
        inject(tiny("llama"), r_max=17, seed=0)


def test_head_tied_to_the_base_is_refused() -> None:
    config = hf.OPTConfig(
        hidden_size=32, word_embed_proj_dim=32, ffn_dim=48, num_hidden_layers=1, num_attention_heads=4, vocab_size=60
    )
    model = hf.OPTForCausalLM(config)
    with pytest.raises(ModelError, match=r"lm_head\.weight is tied to model\.decoder\.embed_tokens\.weight"):
        inject(model, r_max=2, seed=0, head_modules=["lm_head"])
    assert inject(model, r_max=2, seed=0).head_names == ()


def test_seed_determines_the_updates(tiny: Tiny) -> None:
    first, second, other = (inject(tiny("bert"), r_max=2, seed=seed) for seed in (1, 1, 2))
    name = first.sites[3].name
    assert torch.equal(first.updates[name].P, second.updates[name].P)
    assert not torch.equal(first.updates[name].P, other.updates[name].P)


def test_injection_keeps_the_training_mode(tiny: Tiny) -> None:
    for training in (True, False):
        adapted = inject(tiny("bert").train(training), r_max=2, seed=0, dropout=0.5)
        assert {module.training for module in adapted.model.modules()} == {training}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_gradients_of_a_half_precision_base_are_finite(
    dtype: torch.dtype, tiny: Tiny, batch: dict[str, Tensor]
) -> None:
    adapted = inject(tiny("llama", dtype=torch.bfloat16), r_max=2, seed=0, dtype=dtype)
    assert {p.dtype for update in adapted.updates.values() for p in update.parameters()} == {dtype}
    assert all(bool(torch.isfinite(gradient).all()) for gradient in gradients(adapted, batch))


def test_penalty_sums_over_all_modules(adapted: Make) -> None:
    model = adapted("bert")
    expected = sum(update.orthogonality_penalty().item() for update in model.updates.values())
    assert model.orthogonality_penalty(2.0).item() == pytest.approx(2.0 * expected, rel=1e-5)
    assert not model.orthogonality_penalty(0.0).requires_grad
