from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from airlora.adapters import AlignedStart, ProjectionSite, SVDUpdate, dense_reference, inject


def site_gradient(merged: nn.Module, site: ProjectionSite) -> Tensor:
    """Return the gradient [d_out, d_in] of the site's weight, or of its slice of a fused one."""
    layer = merged.get_submodule(site.module_name)
    gradient = layer.get_parameter("weight").grad
    assert gradient is not None
    if isinstance(layer, Conv1D):
        gradient = gradient.T
    if site.part is None:
        return gradient
    return gradient.chunk(3, dim=0)["qkv".index(site.part)]


def test_every_family_turns_to_its_own_gradient(
    family: str, tiny: Callable[..., nn.Module], batch: dict[str, Tensor]
) -> None:
    """Beside the gradient of the merged model, taken densely: no other directions catch more of it."""
    adapted = inject(tiny(family), r_max=4, seed=0)
    updates = list(adapted.updates.values())
    start = AlignedStart(updates, head_steps=0, align_steps=2, norm=1.0)
    for step in range(2):
        start.prepare(step)
        adapted.model.zero_grad()
        torch.autograd.backward(adapted.model(**batch).loss)
        start.gather(step)
    merged = dense_reference(adapted).requires_grad_(True)
    torch.autograd.backward(merged(**batch).loss)
    shares = []
    for site in adapted.sites:
        gradient = site_gradient(merged, site)
        update = adapted.updates[site.name]
        best = torch.linalg.svdvals(gradient)[:4].square().sum()
        if best > 0:
            shares.append(float((update.P.T @ gradient @ update.Q.T).square().sum().detach() / best))
    assert len(shares) > len(adapted.sites) // 2
    assert max(shares) <= 1 + 1e-4
    assert sum(shares) / len(shares) > 0.7


def one_update(dtype: torch.dtype = torch.float32, rank: int = 3) -> SVDUpdate:
    return SVDUpdate(10, 7, rank, scale=2.0, dtype=dtype, generator=torch.Generator().manual_seed(1))


def align(update: SVDUpdate, gradient: torch.Tensor, start: AlignedStart) -> None:
    """Let `start` see a loss whose gradient with respect to the weight is `gradient` [d_out, d_in], at every step."""
    for step in range(start.num_steps):
        start.prepare(step)
        update.zero_grad()
        loss = (update.dense() * gradient).sum()
        assert loss.item() == pytest.approx(0.0, abs=1e-6)
        torch.autograd.backward(loss)
        start.gather(step)


@pytest.mark.parametrize("norm", [1.0, 0.4])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_finds_the_first_singular_vectors_of_the_gradient(dtype: torch.dtype, norm: float) -> None:
    generator = torch.Generator().manual_seed(0)
    left = torch.linalg.qr(torch.randn(7, 3, generator=generator)).Q
    right = torch.linalg.qr(torch.randn(10, 3, generator=generator)).Q.T
    values = torch.tensor([5.0, 2.0, 0.5])
    update = one_update(dtype)
    align(update, (left * values) @ right, AlignedStart([update], head_steps=0, align_steps=4, norm=norm))
    assert not update.lam.any()
    tolerance = 1e-5 if dtype == torch.float32 else 2e-2
    overlaps = (left * (update.P.float() / norm)).sum(dim=0) * (right * (update.Q.float() / norm)).sum(dim=1)
    torch.testing.assert_close(overlaps, torch.ones(3), atol=tolerance, rtol=0)
    torch.testing.assert_close(update.P.float().norm(dim=0), torch.full((3,), norm), atol=tolerance, rtol=0)


def test_a_module_without_a_gradient_keeps_orthonormal_directions() -> None:
    update = one_update()
    align(update, torch.zeros(7, 10), AlignedStart([update], head_steps=0, align_steps=2, norm=1.0))
    torch.testing.assert_close(update.P.T @ update.P, torch.eye(3))
    torch.testing.assert_close(update.Q @ update.Q.T, torch.eye(3))


def test_without_align_steps_directions_stay_random() -> None:
    update = one_update()
    before = update.P.clone()
    start = AlignedStart([update], head_steps=2, align_steps=0, norm=0.5)
    start.prepare(0)
    start.prepare(2)
    assert [start.phase(step) for step in range(3)] == ["head", "head", None]
    torch.testing.assert_close(update.P, 0.5 * before)
    assert not update.lam.any()
