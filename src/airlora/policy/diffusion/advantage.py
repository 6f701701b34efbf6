"""Advantage."""

from __future__ import annotations

import torch
from torch import Tensor

from airlora.observation import NUM_CONTEXT

RIDGE = 1e-3


def features(vectors: Tensor) -> Tensor:
    c = vectors[:, :NUM_CONTEXT].double()
    rows, cols = torch.triu_indices(NUM_CONTEXT, NUM_CONTEXT)
    return torch.cat([torch.ones_like(c[:, :1]), c, c[:, rows] * c[:, cols]], dim=1)


def regress(f: Tensor, y: Tensor) -> Tensor:
    gram = f.T @ f / len(f) + RIDGE * torch.eye(f.shape[1], dtype=f.dtype)
    return f @ torch.linalg.solve(gram, f.T @ y / len(f))


def contextual_advantage(vectors: Tensor, rewards: Tensor, values: Tensor | None = None) -> Tensor:
    f = features(vectors)
    r = rewards.double()
    residual = r - (regress(f, r) if values is None else values.double())
    spread = regress(f, residual.abs())
    floor = 0.1 * residual.abs().mean() + 1e-12
    return (residual / (1.2533 * spread.clamp(min=floor))).float()
