from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from airlora.adapters import ProjectionSite, SVDUpdate, align_to_gradient, dense_reference, inject
from airlora.errors import TrainingError

VALUES = torch.tensor([5.0, 2.0, 0.5])


def one_update(dtype: torch.dtype = torch.float32) -> SVDUpdate:
    return SVDUpdate(10, 7, 3, scale=2.0, dtype=dtype, generator=torch.Generator().manual_seed(1))


def directions() -> tuple[Tensor, Tensor]:
    """Return left [7, 3] and right [3, 10] singular vectors for a gradient."""
    generator = torch.Generator().manual_seed(0)
    left = torch.linalg.qr(torch.randn(7, 3, generator=generator)).Q
    return left, torch.linalg.qr(torch.randn(10, 3, generator=generator)).Q.T


def passes(update: SVDUpdate, gradient: Tensor, num: int = 2) -> Iterator[float]:
    """Run passes whose loss has `gradient` [d_out, d_in] with respect to the weight, one call per input feature."""
    for _ in range(num):
        loss = sum((update(x[None, None]) @ row).sum() for x, row in zip(torch.eye(10), gradient.T, strict=True))
        assert isinstance(loss, Tensor)
        torch.autograd.backward(loss)
        yield loss.item()


@pytest.mark.parametrize("norm", [1.0, 0.4])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_directions_are_the_first_singular_vectors_of_the_gradient(dtype: torch.dtype, norm: float) -> None:
    left, right = directions()
    update = one_update(dtype)
    align_to_gradient({"w": update}, passes(update, ((left * VALUES) @ right).to(dtype)), norm=norm)
    assert not update.lam.any()
    tolerance = 1e-5 if dtype == torch.float32 else 2e-2
    overlaps = (left * (update.P.float() / norm)).sum(dim=0) * (right * (update.Q.float() / norm)).sum(dim=1)
    torch.testing.assert_close(overlaps, torch.ones(3), atol=tolerance, rtol=0)
    torch.testing.assert_close(update.P.float().norm(dim=0), torch.full((3,), norm), atol=tolerance, rtol=0)


def test_a_module_without_a_gradient_gets_orthonormal_directions() -> None:
    update = one_update()
    align_to_gradient({"w": update}, passes(update, torch.zeros(7, 10)))
    torch.testing.assert_close(update.P.T @ update.P, torch.eye(3), atol=1e-5, rtol=0)
    torch.testing.assert_close(update.Q @ update.Q.T, torch.eye(3), atol=1e-5, rtol=0)


def test_a_gradient_that_is_not_finite_changes_nothing() -> None:
    update = one_update()
    before = [parameter.clone() for parameter in update.parameters()]
    with pytest.raises(TrainingError, match=r"gradient of encoder\.w is not finite"):
        align_to_gradient({"encoder.w": update}, passes(update, torch.full((7, 10), torch.nan)))
    assert all(torch.equal(one, other) for one, other in zip(update.parameters(), before, strict=True))


def test_hooks_are_removed_when_a_pass_fails() -> None:
    update = one_update()

    def failing() -> Iterator[None]:
        raise TrainingError("loss = nan")
        yield

    with pytest.raises(TrainingError, match="loss = nan"):
        align_to_gradient({"w": update}, failing())
    assert not update._forward_hooks


def test_global_generator_is_unchanged() -> None:
    update = one_update()
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    align_to_gradient({"w": update}, passes(update, torch.ones(7, 10)))
    assert torch.equal(torch.rand(1), expected)


@pytest.mark.parametrize("checkpointing", [False, True])
def test_directions_capture_the_gradient_of_every_family(
    family: str, checkpointing: bool, tiny: Callable[..., nn.Module], batch: dict[str, Tensor]
) -> None:
    """No other directions capture more of the gradient, which is computed densely on the merged model."""
    adapted = inject(tiny(family), r_max=4, seed=0)
    if checkpointing:
        if not getattr(adapted.model, "supports_gradient_checkpointing", False):
            pytest.skip(f"{family} has no gradient checkpointing")
        adapted.enable_gradient_checkpointing()
        adapted.model.train()
        switch_off_dropout(adapted.model)
    align_to_gradient(adapted.updates, (torch.autograd.backward(adapted.model(**batch).loss) for _ in range(2)))
    merged = dense_reference(adapted).eval().requires_grad_(True)
    torch.autograd.backward(merged(**batch).loss)
    shares = []
    for site in adapted.sites:
        gradient = site_gradient(merged, site)
        update = adapted.updates[site.name]
        best = torch.linalg.svdvals(gradient)[:4].square().sum()
        if best > 0:
            shares.append(float((update.P.T @ gradient @ update.Q.T).square().sum().detach() / best))
    assert len(shares) > len(adapted.sites) // 2
    assert shares == pytest.approx([1.0] * len(shares), abs=1e-2)


def switch_off_dropout(model: nn.Module) -> None:
    """Set dropout to 0, because checkpointing is active in training mode only."""
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        for name in ("dropout", "attention_dropout", "activation_dropout", "dropout_prob"):
            if isinstance(getattr(module, name, None), float):
                setattr(module, name, 0.0)


def site_gradient(merged: nn.Module, site: ProjectionSite) -> Tensor:
    """Return the gradient [d_out, d_in] of the site's weight, or of its slice of a fused weight."""
    layer = merged.get_submodule(site.module_name)
    gradient = layer.get_parameter("weight").grad
    assert gradient is not None
    if isinstance(layer, Conv1D):
        gradient = gradient.T
    if site.suffix is None:
        return gradient
    return gradient.chunk(3, dim=0)["qkv".index(site.suffix)]
