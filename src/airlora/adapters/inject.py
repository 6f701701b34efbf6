"""A base model with an update beside every projection.

`inject` changes the model in place and returns an `AdaptedModel`, the one handle to ranks, updates and head.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, SupportsIndex

import torch
from torch import Tensor, nn

from airlora.adapters.linear import add_to_weight
from airlora.adapters.projections import FfnUpdate, ProjectionSite, find_head, find_projections
from airlora.adapters.svd import (
    SVDFusedLinear,
    SVDLayer,
    SVDLinear,
    SVDResidualLinear,
    SVDUpdate,
    orthogonality_penalty,
)
from airlora.errors import ModelError, RankPatternError
from airlora.ranks import ModuleShape, RankPattern

__all__ = ["AdaptedModel", "dense_reference", "inject"]


class AdaptedModel:
    """A model whose projections carry updates; made by `inject`.

    Args:
        model: The model, already with its new layers.
        sites: The adapted projections, in model order.
        updates: Site name to update, same order.
        head_names: Full names of the head's modules.
        was_trainable: The base's parameters that asked for a gradient before; `eject` turns them on again.
    """

    def __init__(
        self,
        model: nn.Module,
        sites: Sequence[ProjectionSite],
        updates: Mapping[str, SVDUpdate],
        head_names: Sequence[str],
        was_trainable: Iterable[nn.Parameter] = (),
    ) -> None:
        self.model = model
        self.sites = tuple(sites)
        self.updates = dict(updates)
        self.head_names = tuple(head_names)
        self.shapes: dict[str, ModuleShape] = {site.name: site.shape for site in self.sites}
        self._was_trainable = list(was_trainable)

    @property
    def layers(self) -> dict[str, SVDLayer]:
        """The adapted layers by name, in model order; a fused layer holds several sites.

        Raises:
            ModelError: The adapter has been taken out of the model.
        """
        layers = {}
        for site in self.sites:
            layer = self.model.get_submodule(site.module_name)
            if not isinstance(layer, SVDLayer):
                raise ModelError("the adapter has been taken out of the model")
            layers[site.module_name] = layer
        return layers

    @property
    def r_max(self) -> int:
        """Components held per module."""
        return next(iter(self.updates.values())).r_max

    @property
    def scale(self) -> float:
        """The factor s of Eq. 2."""
        return next(iter(self.updates.values())).scale

    @property
    def rank_pattern(self) -> RankPattern:
        """The rank in force, per module in model order."""
        return RankPattern({name: update.rank for name, update in self.updates.items()})

    def set_ranks(self, pattern: RankPattern | Sequence[SupportsIndex]) -> None:
        """Set every module's rank: all of them, or, on an error, none.

        Args:
            pattern: Rank per module name, or the ranks alone in model order; 0 to r_max each.

        Raises:
            RankPatternError: Other modules than the model's, or a rank out of range.
        """
        if not isinstance(pattern, RankPattern):
            pattern = RankPattern.from_ranks(self.updates, pattern)  # type: ignore[arg-type]
        pattern.verify(self.shapes, self.r_max)
        for name, update in self.updates.items():
            update.set_rank(pattern[name])

    @property
    def num_params(self) -> int:
        """Numbers in the active components, the head not counted."""
        return self.rank_pattern.num_params(self.shapes)

    @property
    def head_params(self) -> int:
        """Numbers in the head."""
        return sum(parameter.numel() for parameter in self.head_parameters())

    def head_parameters(self) -> list[nn.Parameter]:
        """Return the head's parameters."""
        return [parameter for name in self.head_names for parameter in self.model.get_submodule(name).parameters()]

    def head_state(self) -> dict[str, Tensor]:
        """Return the head's tensors by full name; they share memory with the model."""
        return {
            f"{name}.{key}": value
            for name in self.head_names
            for key, value in self.model.get_submodule(name).state_dict().items()
        }

    def trainable_parameters(self) -> list[nn.Parameter]:
        """Return what an optimiser gets: P, lam and Q of every module, then the head."""
        components = [parameter for update in self.updates.values() for parameter in update.parameters()]
        return components + self.head_parameters()

    def orthogonality_penalty(self, weight: float) -> Tensor:
        """Return `weight` times the penalty of Eq. 3 over the active components; nothing is computed at weight 0."""
        return orthogonality_penalty(self.updates.values(), weight)

    def enable_gradient_checkpointing(self) -> None:
        """Let the model recompute activations in the backward pass: less memory, more time, the same gradients.

        The kind without reentry needs no gradient on the inputs, so the frozen embeddings stay as they are.

        Raises:
            ModelError: The model does not support it.
        """
        model: Any = self.model
        if not getattr(model, "supports_gradient_checkpointing", False):
            raise ModelError(f"{type(model).__name__} does not support gradient checkpointing")
        # transformers 5 renames the method and will drop the old name.
        enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
        enable({"use_reentrant": False})

    def eject(self) -> nn.Module:
        """Put the original layers back and return the model; the head stays as it was trained.

        Raises:
            ModelError: It has been done before.
        """
        if not any(isinstance(module, SVDLayer) for module in self.model.modules()):
            raise ModelError("the adapter has already been taken out of the model")
        _replace_layers(self.model, lambda layer: layer.base)
        for parameter in self._was_trainable:
            parameter.requires_grad_(True)
        return self.model


def inject(
    model: nn.Module,
    *,
    r_max: int,
    seed: int,
    scale: float = 1.0,
    dropout: float = 0.0,
    target_modules: Sequence[str] | str | None = None,
    head_modules: Sequence[str] | None = None,
    ffn_update: FfnUpdate = "weight",
    dtype: torch.dtype = torch.float32,
) -> AdaptedModel:
    """Freeze the model, put a zero update beside every projection, in place, and return the handle.

    Only the updates and the head ask for gradients afterwards.  On an error the model is as it was.

    Args:
        model: A Transformer of `transformers`.
        r_max: Components per module, 1 to the smallest dimension of the adapted layers.
        seed: Of the random P and Q.
        scale: The factor s of Eq. 2, > 0; it does not depend on the rank.
        dropout: On the updates' inputs while training, 0 <= dropout < 1.
        target_modules: As in `find_projections`.
        head_modules: As in `find_head`.
        ffn_update: As in `find_projections`.
        dtype: Of the updates.

    Raises:
        ModelError: The model already carries updates, has none of the modules asked for, or its head shares
            parameters with the frozen base.
        RankPatternError: r_max is larger than a module's dimension.
        SettingsError: Another value is not allowed.
    """
    if any(isinstance(module, SVDLayer) for module in model.modules()):
        raise ModelError("the model already carries an adapter: eject it first")
    head_names = find_head(model, head_modules)
    sites = find_projections(model, target_modules, head_modules=head_names, ffn_update=ffn_update)
    _verify_head(model, head_names)
    for site in sites:
        if r_max > site.shape.max_rank:
            allowed = f"at most {site.shape.max_rank}: {site.name} is {site.shape.d_in} -> {site.shape.d_out}"
            raise RankPatternError.of("r_max", r_max, allowed)
    generator = torch.Generator().manual_seed(seed)
    updates = {
        site.name: SVDUpdate(
            site.shape.d_in, site.shape.d_out, r_max, scale=scale, dropout=dropout, dtype=dtype, generator=generator
        ).to(model.get_submodule(site.module_name).get_parameter("weight").device)
        for site in sites
    }
    was_trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    model.requires_grad_(False)
    for module_name in dict.fromkeys(site.module_name for site in sites):
        base = model.get_submodule(module_name)
        parts = {site.part: updates[site.name] for site in sites if site.module_name == module_name}
        model.set_submodule(module_name, _layer(base, parts).train(base.training))
    for name in head_names:
        model.get_submodule(name).requires_grad_(True)
    return AdaptedModel(model, sites, updates, head_names, was_trainable)


def dense_reference(adapted: AdaptedModel) -> nn.Module:
    r"""Return a copy of the model with every update merged into its weight, $W_0 + s P_r \Lambda_r Q_r$ (Eq. 2).

    It computes the same logits at the ranks in force, with layers that know nothing of updates.
    """
    reference = copy.deepcopy(adapted.model)

    def merged(layer: SVDLayer) -> nn.Module:
        add_to_weight(layer.base, layer.dense())
        return layer.base

    with torch.no_grad():
        _replace_layers(reference, merged)
    return reference


def _replace_layers(model: nn.Module, replacement: Callable[[SVDLayer], nn.Module]) -> None:
    layers = [(name, module) for name, module in model.named_modules() if isinstance(module, SVDLayer)]
    for name, layer in layers:
        model.set_submodule(name, replacement(layer))


def _verify_head(model: nn.Module, head_names: Sequence[str]) -> None:
    """Raise `ModelError` if the head is tied to the base: training it would change what has to stay frozen."""
    heads = tuple(f"{name}." for name in head_names)
    named = list(model.named_parameters(remove_duplicate=False))
    base = {id(parameter): name for name, parameter in named if not name.startswith(heads)}
    for name, parameter in named:
        if name.startswith(heads) and id(parameter) in base:
            raise ModelError(f"head parameter {name} is tied to {base[id(parameter)]}, which has to stay frozen")


def _layer(base: nn.Module, parts: Mapping[str | None, SVDUpdate]) -> SVDLayer:
    """Return the layer that takes the base layer's place, with the updates of its parts."""
    if None in parts:
        return SVDLinear(base, parts[None])
    if "in" in parts:
        return SVDResidualLinear(base, parts["in"], "in")
    if "out" in parts:
        return SVDResidualLinear(base, parts["out"], "out")
    return SVDFusedLinear(base, _named(parts))


def _named(parts: Mapping[str | None, SVDUpdate]) -> dict[str, SVDUpdate]:
    return {part: update for part, update in parts.items() if part is not None}
