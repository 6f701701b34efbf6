"""Injection of updates into a base model.

`inject` replaces the projections of a model in place and returns an `AdaptedModel`, the handle to its ranks, updates
and head.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, SupportsIndex

import torch
from torch import Tensor, nn

from airlora.adapters.projections import ProjectionSite, find_head, find_projections
from airlora.adapters.settings import FfnUpdate
from airlora.adapters.svd import (
    SVDFusedLinear,
    SVDLayer,
    SVDLinear,
    SVDResidualLinear,
    SVDUpdate,
    add_to_weight,
    orthogonality_penalty,
)
from airlora.errors import ModelError, RankPatternError
from airlora.ranks import ModuleShape, RankPattern

__all__ = ["AdaptedModel", "dense_reference", "inject"]


class AdaptedModel:
    """A model whose projections carry updates. `inject` creates it.

    Args:
        model: Model with its `SVDLayer` modules in place.
        sites: Adapted projections in model order.
        updates: Update of each site by its name, in the same order.
        head_names: Full names of the head's modules.
        was_trainable: Parameters of the base model that required gradients before. `eject` makes them require
            gradients again.
        target_modules: Selection of the projections that `inject` was given.
    """

    def __init__(
        self,
        model: nn.Module,
        sites: Sequence[ProjectionSite],
        updates: Mapping[str, SVDUpdate],
        head_names: Sequence[str],
        was_trainable: Iterable[nn.Parameter] = (),
        target_modules: Sequence[str] | str | None = None,
    ) -> None:
        self.model = model
        self.sites = tuple(sites)
        self.updates = dict(updates)
        self.head_names = tuple(head_names)
        self.shapes: dict[str, ModuleShape] = {site.name: site.shape for site in self.sites}
        self._was_trainable = list(was_trainable)
        self.target_modules = target_modules

    @property
    def drawn_modules(self) -> tuple[str, ...]:
        """Full names of the modules of the base model that its files lack, see `draw_modules`."""
        found: Any = getattr(self.model, "drawn_modules", ())
        return tuple(found)

    @property
    def layers(self) -> dict[str, SVDLayer]:
        """Adapted layers by module name, in model order. A fused layer holds several sites.

        Raises:
            ModelError: The adapter has been removed from the model.
        """
        layers = {}
        for site in self.sites:
            layer = self.model.get_submodule(site.module_name)
            if not isinstance(layer, SVDLayer):
                raise ModelError("the adapter has been removed from the model: inject a new one")
            layers[site.module_name] = layer
        return layers

    @property
    def r_max(self) -> int:
        """Number of components per module."""
        return next(iter(self.updates.values())).r_max

    @property
    def scale(self) -> float:
        """Scale s of Eq. 2."""
        return next(iter(self.updates.values())).scale

    @property
    def rank_pattern(self) -> RankPattern:
        """Current rank of every module, in model order."""
        return RankPattern({name: update.rank for name, update in self.updates.items()})

    def set_ranks(self, pattern: RankPattern | Sequence[SupportsIndex]) -> None:
        """Set the rank of every module. On an error no rank is changed.

        Args:
            pattern: Ranks by module name, or the ranks alone in model order; 0 to r_max each.

        Raises:
            RankPatternError: The modules are not those of the model, or a rank is out of range.
        """
        if not isinstance(pattern, RankPattern):
            pattern = RankPattern.from_ranks(self.updates, pattern)  # type: ignore[arg-type]
        pattern.verify(self.shapes, self.r_max)
        for name, update in self.updates.items():
            update.set_rank(pattern[name])

    @property
    def num_params(self) -> int:
        """Number of parameters of the active components, without the head."""
        return self.rank_pattern.num_params(self.shapes)

    @property
    def head_params(self) -> int:
        """Number of parameters of the head."""
        return sum(parameter.numel() for parameter in self.head_parameters())

    def head_parameters(self) -> list[nn.Parameter]:
        """Return the head's parameters."""
        return [parameter for name in self.head_names for parameter in self.model.get_submodule(name).parameters()]

    def head_state(self) -> dict[str, Tensor]:
        """Return the head's parameters and buffers by full name. They share memory with the model."""
        return {
            f"{name}.{key}": value
            for name in self.head_names
            for key, value in self.model.get_submodule(name).state_dict().items()
        }

    def trainable_parameters(self) -> list[nn.Parameter]:
        """Return P, lam and Q of every module, then the head's parameters."""
        components = [parameter for update in self.updates.values() for parameter in update.parameters()]
        return components + self.head_parameters()

    def orthogonality_penalty(self, weight: float) -> Tensor:
        """Return `weight` times the penalty of Eq. 3 on the active components, a scalar.

        Args:
            weight: Factor of the penalty, >= 0. At 0 nothing is computed.
        """
        return orthogonality_penalty(self.updates.values(), weight)

    def enable_gradient_checkpointing(self) -> None:
        """Recompute activations in the backward pass: less memory, more time, the same gradients.

        Raises:
            ModelError: The model does not support it.
        """
        model: Any = self.model
        if not getattr(model, "supports_gradient_checkpointing", False):
            raise ModelError(f"{type(model).__name__} does not support gradient checkpointing")
        # transformers 5 renames the method.
        enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
        # The reentrant variant would need inputs that require gradients, and the embeddings are frozen.
        enable({"use_reentrant": False})

    def eject(self) -> nn.Module:
        """Put the base layers back and return the model. The head keeps its trained values.

        Raises:
            ModelError: The adapter has already been removed.
        """
        if not any(isinstance(module, SVDLayer) for module in self.model.modules()):
            raise ModelError("the adapter has already been removed from the model")
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
    """Freeze the model, add a zero update to every projection in place, and return the handle.

    Afterwards only the updates and the head require gradients. On an error the model is unchanged.

    Args:
        model: Transformer of `transformers`.
        r_max: Number of components per module, 1 to the smallest dimension of the adapted modules.
        seed: Seed of the generator that draws P and Q.
        scale: Scale s of Eq. 2, > 0, independent of the rank.
        dropout: Dropout probability on the inputs of the updates during training, 0 <= dropout < 1.
        target_modules: Selection of the projections, see `find_projections`.
        head_modules: Selection of the head, see `find_head`.
        ffn_update: Side of the FFN's projections that the updates act on, see `find_projections`.
        dtype: Floating-point dtype of the updates.

    Raises:
        ModelError: The model already carries updates, has none of the requested modules, or its head shares
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
        by_suffix = {site.suffix or "": updates[site.name] for site in sites if site.module_name == module_name}
        model.set_submodule(module_name, _layer(base, by_suffix).train(base.training))
    for name in head_names:
        model.get_submodule(name).requires_grad_(True)
    return AdaptedModel(model, sites, updates, head_names, was_trainable, target_modules)


def dense_reference(adapted: AdaptedModel) -> nn.Module:
    r"""Return a copy of the model with every update merged into its weight, $W_0 + s P_r \Lambda_r Q_r$ (Eq. 2).

    The copy has the logits of the adapted model at its current ranks, and only the base model's layers.
    """
    reference = copy.deepcopy(adapted.model)

    def merged(layer: SVDLayer) -> nn.Module:
        add_to_weight(layer.base, layer.dense())
        return layer.base

    _replace_layers(reference, merged)
    return reference


def _replace_layers(model: nn.Module, replacement: Callable[[SVDLayer], nn.Module]) -> None:
    layers = [(name, module) for name, module in model.named_modules() if isinstance(module, SVDLayer)]
    for name, layer in layers:
        model.set_submodule(name, replacement(layer))
    # Without an adapter, a model that `airlora.wrap` has changed is saved whole again.
    for name in ("save_pretrained", "_keys_to_ignore_on_save"):
        vars(model).pop(name, None)


def _verify_head(model: nn.Module, head_names: Sequence[str]) -> None:
    """Raise `ModelError` if the head shares a parameter with the base, which must stay frozen."""
    heads = tuple(f"{name}." for name in head_names)
    named = list(model.named_parameters(remove_duplicate=False))
    base = {id(parameter): name for name, parameter in named if not name.startswith(heads)}
    for name, parameter in named:
        if name.startswith(heads) and id(parameter) in base:
            raise ModelError(f"head parameter {name} is tied to {base[id(parameter)]}, which has to stay frozen")


def _layer(base: nn.Module, updates: Mapping[str, SVDUpdate]) -> SVDLayer:
    """Return the layer that replaces `base`, given its updates by `ProjectionSite.suffix` ("" for None)."""
    if "" in updates:
        return SVDLinear(base, updates[""])
    if "in" in updates:
        return SVDResidualLinear(base, updates["in"], "in")
    if "out" in updates:
        return SVDResidualLinear(base, updates["out"], "out")
    return SVDFusedLinear(base, updates)
