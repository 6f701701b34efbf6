"""Where a Transformer's projections are, and where its head is.

A projection is found by the end of its name; the tables below are all there is to a model family.

The two projections of an FFN have one side of the width of the residual stream, d_model, and one that is about four
times as wide.  Their updates may act on the first alone (`FfnUpdate`).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from torch import nn

from airlora.adapters.linear import is_linear, linear_shape
from airlora.errors import ModelError, SettingsError
from airlora.ranks import ModuleShape

__all__ = [
    "NEVER_ADAPTED",
    "ROLES",
    "FfnUpdate",
    "ProjectionSite",
    "find_head",
    "find_projections",
    "on_residual_side",
    "sites_of",
]

ROLES = ("q", "k", "v", "o", "fc1", "fc2", "other")
"""Roles in the order in which the projections of a layer are listed (III-A1)."""

FfnUpdate = Literal["weight", "residual"]
"""Of the FFN's projections: on the weight, or on what they read from the residual stream or write to it."""

_FUSED = "qkv"
_ROLE_OF_ENDING = {
    # OPT; q, k and v also Llama, Qwen2, Qwen3, Mistral
    "self_attn.q_proj": "q",
    "self_attn.k_proj": "k",
    "self_attn.v_proj": "v",
    "self_attn.out_proj": "o",
    "fc1": "fc1",
    "fc2": "fc2",
    # Llama, Qwen2, Qwen3, Mistral: a gated FFN has two inward projections
    "self_attn.o_proj": "o",
    "mlp.gate_proj": "fc1",
    "mlp.up_proj": "fc1",
    "mlp.down_proj": "fc2",
    # BERT, RoBERTa
    "attention.self.query": "q",
    "attention.self.key": "k",
    "attention.self.value": "v",
    "attention.output.dense": "o",
    "intermediate.dense": "fc1",
    "output.dense": "fc2",
    # DistilBERT
    "attention.q_lin": "q",
    "attention.k_lin": "k",
    "attention.v_lin": "v",
    "attention.out_lin": "o",
    "ffn.lin1": "fc1",
    "ffn.lin2": "fc2",
    # GPT-2: one layer whose output is q, k and v side by side
    "attn.c_attn": _FUSED,
    "attn.c_proj": "o",
    "mlp.c_fc": "fc1",
    "mlp.c_proj": "fc2",
}
_HEADS = ("pre_classifier", "classifier", "score", "classification_head")
NEVER_ADAPTED = frozenset({*_HEADS, "lm_head", "cls", "pooler"})
"""A layer with one of these in its name gets no update."""


@dataclass(frozen=True, slots=True)
class ProjectionSite:
    """One adapted projection.

    Args:
        name: Its full name; a part of a fused layer has the layer's name with ".q", ".k" or ".v" added, an update on
            the residual side of an FFN projection ".in" or ".out".
        role: One of `ROLES`.
        layer: Number of its Transformer layer, from 0; None outside the numbered layers.
        shape: In- and out-features of the update: those of the layer, of the part, or of the residual side twice.
        part: "q", "k" or "v" in a fused layer; "in" or "out" where the update maps the layer's input or output to
            itself; else None.
    """

    name: str
    role: str
    layer: int | None
    shape: ModuleShape
    part: str | None = None

    @property
    def module_name(self) -> str:
        """Name of the layer that holds the projection."""
        return self.name if self.part is None else self.name.removesuffix(f".{self.part}")


def find_projections(
    model: nn.Module,
    target_modules: Sequence[str] | str | None = None,
    *,
    head_modules: Sequence[str] | None = None,
    ffn_update: FfnUpdate = "weight",
) -> tuple[ProjectionSite, ...]:
    """Return the projections to adapt, layer by layer and in the order of `ROLES` within a layer.

    The head, the pooler and the LM head are never among them.

    Args:
        model: A Transformer of `transformers`.
        target_modules: None for the families of the table (OPT, BERT, RoBERTa, DistilBERT, GPT-2, Llama, Qwen2, Qwen3,
            Mistral); or, as in PEFT, ends of names, or one regular expression for whole names, or "all-linear".
        head_modules: As in `find_head`.
        ffn_update: "residual" puts the updates of an FFN's projections where they are narrow: before those that widen
            (role fc1) and after those that narrow (fc2).

    Raises:
        ModelError: Nothing is found, or a target matches nothing; the message lists the linear layers there are.
        SettingsError: `target_modules` is empty or not a valid regular expression.
    """
    heads = find_head(model, head_modules)
    linear = {
        name: linear_shape(module)
        for name, module in model.named_modules()
        if is_linear(module) and not _is_under(name, heads) and NEVER_ADAPTED.isdisjoint(name.split("."))
    }
    if target_modules is None:
        names = [name for name in linear if _role(name) and _layer(name)[1] is not None]
        if not names:
            raise ModelError(f"no known projections in {type(model).__name__}; set target_modules: {_listed(linear)}")
    else:
        names = _targets(linear, target_modules)
    stacks = list(dict.fromkeys(_layer(name)[0] for name in names))
    sites = [site for name in names for site in sites_of(name, linear[name])]
    if ffn_update == "residual":
        sites = [on_residual_side(site) for site in sites]

    def position(site: ProjectionSite) -> tuple[int, int, int]:
        stack, layer = _layer(site.module_name)
        return stacks.index(stack), -1 if layer is None else layer, ROLES.index(site.role)

    return tuple(sorted(sites, key=position))


def sites_of(name: str, shape: ModuleShape) -> list[ProjectionSite]:
    """Return the projections that a linear layer holds: itself, or the q, k and v of a fused one.

    Args:
        name: Full name of the layer.
        shape: Of the whole layer.
    """
    layer = _layer(name)[1]
    role = _role(name) or "other"
    if role != _FUSED:
        return [ProjectionSite(name, role, layer, shape)]
    part_shape = ModuleShape(shape.d_in, shape.d_out // len(_FUSED))
    return [ProjectionSite(f"{name}.{part}", part, layer, part_shape, part) for part in _FUSED]


def on_residual_side(site: ProjectionSite) -> ProjectionSite:
    """Return the site of an update on the narrow side of an FFN projection; any other site as it is."""
    d_in, d_out = site.shape.d_in, site.shape.d_out
    if site.role == "fc1" and d_in < d_out:
        return replace(site, name=f"{site.name}.in", shape=ModuleShape(d_in, d_in), part="in")
    if site.role == "fc2" and d_out < d_in:
        return replace(site, name=f"{site.name}.out", shape=ModuleShape(d_out, d_out), part="out")
    return site


def find_head(model: nn.Module, head_modules: Sequence[str] | None = None) -> tuple[str, ...]:
    """Return the full names of the modules that make up the task head.

    Args:
        model: The model.
        head_modules: Ends of names; None for the names that `transformers` gives to classification heads.

    Returns:
        Names in model order, none inside another; empty if the model has no head.

    Raises:
        ModelError: An entry of `head_modules` matches nothing.
    """
    endings = _HEADS if head_modules is None else _as_list(head_modules)
    names = [name for name, _ in model.named_modules()]
    for ending in endings if head_modules is not None else ():
        if not any(_ends(name, ending) for name in names):
            top = ", ".join(name for name, _ in model.named_children())
            raise ModelError.of("head_modules", ending, f"the end of a module's name; the model consists of {top}")
    found: list[str] = []
    for name in names:
        if any(_ends(name, ending) for ending in endings) and not _is_under(name, found):
            found.append(name)
    return tuple(found)


def _targets(linear: dict[str, ModuleShape], target_modules: Sequence[str] | str) -> list[str]:
    if isinstance(target_modules, str):
        if target_modules == "all-linear":
            names = list(linear)
        else:
            try:
                pattern = re.compile(target_modules)
            except re.error as error:
                raise SettingsError.of("target_modules", target_modules, f"a regular expression ({error})") from error
            names = [name for name in linear if pattern.fullmatch(name)]
        if not names:
            raise ModelError.of("target_modules", target_modules, f"a pattern for whole names: {_listed(linear)}")
        return names
    if not target_modules:
        raise SettingsError.of("target_modules", list(target_modules), "at least one end of a module's name")
    for ending in target_modules:
        if not any(_ends(name, ending) for name in linear):
            raise ModelError.of("target_modules", ending, f"the end of a linear layer's name: {_listed(linear)}")
    return [name for name in linear if any(_ends(name, ending) for ending in target_modules)]


def _role(name: str) -> str | None:
    """Return the role that the longest matching ending gives, or None."""
    endings = [ending for ending in _ROLE_OF_ENDING if _ends(name, ending)]
    return _ROLE_OF_ENDING[max(endings, key=len)] if endings else None


def _layer(name: str) -> tuple[str, int | None]:
    """Return the stack of layers a name belongs to and the number of its layer there."""
    components = name.split(".")
    for index, component in enumerate(components):
        if component.isdecimal():
            return ".".join(components[:index]), int(component)
    return name, None


def _listed(names: Iterable[str], most: int = 24) -> str:
    """Return the names' ends behind their layer number, each once and with its count."""
    ends = Counter(re.sub(r"^.*\.\d+\.", "", name) for name in names)
    if not ends:
        return "the model has no linear layers"
    shown = ", ".join(f"{end} ({count})" for end, count in list(ends.items())[:most])
    return f"the model's linear layers end in {shown}{', ...' if len(ends) > most else ''}"


def _ends(name: str, ending: str) -> bool:
    return name == ending or name.endswith(f".{ending}")


def _is_under(name: str, parents: Iterable[str]) -> bool:
    return any(name == parent or name.startswith(f"{parent}.") for parent in parents)


def _as_list(names: Sequence[str]) -> Sequence[str]:
    return [names] if isinstance(names, str) else names
