from collections.abc import Callable

import numpy as np
import pytest
import torch

from airlora.adapters import AdaptedModel, LowRankUpdate, components_of, dense_reference, inject, install_updates
from airlora.errors import AdapterError

Tiny = Callable[..., torch.nn.Module]


def adapted_bert(tiny: Tiny, *, scale: float = 3.0, r_max: int = 4) -> AdaptedModel:
    """Return a model whose updates are random, not orthonormal and in no order."""
    adapted = inject(tiny("bert"), r_max=r_max, seed=1, scale=scale)
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for update in adapted.updates.values():
            for part in update.parameters():
                part.copy_(0.3 * torch.randn(part.shape, generator=generator))
    return adapted


def dense(adapted: AdaptedModel, name: str) -> np.ndarray:
    update = adapted.updates[name]
    product = update.P.detach() @ torch.diag(update.lam.detach()) @ update.Q.detach()
    return adapted.scale * product.numpy()


def test_the_components_add_up_to_the_update_scale_included(tiny: Tiny) -> None:
    adapted = adapted_bert(tiny)
    for name, module in components_of(adapted).items():
        whole = (module.left * module.singular_values) @ module.right
        np.testing.assert_allclose(whole, dense(adapted, name), atol=1e-5)
        balanced = module.balanced()
        np.testing.assert_allclose(balanced.left @ balanced.right, dense(adapted, name), atol=1e-5)
        np.testing.assert_allclose(
            np.linalg.norm(balanced.left, axis=0), np.linalg.norm(balanced.right, axis=1), rtol=1e-5
        )


def test_any_prefix_is_the_best_of_its_rank(tiny: Tiny) -> None:
    adapted = adapted_bert(tiny)
    name = next(iter(adapted.shapes))
    module, whole = components_of(adapted)[name], dense(adapted, name)
    singular = np.linalg.svd(whole, compute_uv=False)
    for rank in range(5):
        error = whole - (module.left[:, :rank] * module.singular_values[:rank]) @ module.right[:rank]
        assert np.linalg.norm(error) == pytest.approx(np.sqrt((singular[rank:] ** 2).sum()), abs=1e-4)


def test_installed_again_they_give_the_same_logits(tiny: Tiny) -> None:
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
def test_updates_that_do_not_fit_are_refused_and_nothing_changes(
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
def test_a_head_that_does_not_fit_is_refused(tiny: Tiny, head: dict[str, np.ndarray], words: str) -> None:
    with pytest.raises(AdapterError, match=words):
        install_updates(adapted_bert(tiny), {}, head)


def test_values_that_are_not_finite_are_refused(tiny: Tiny) -> None:
    adapted = adapted_bert(tiny)
    name = list(adapted.shapes)[2]
    with torch.no_grad():
        adapted.updates[name].lam[1] = float("nan")
    with pytest.raises(AdapterError, match=f"components of {name}"):
        components_of(adapted)
