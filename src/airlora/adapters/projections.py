"""Discovery of a Transformer's projections and of its classification head, by the names of its modules.

The tables below are all that is known about a model family. A module matches an entry if its name equals the entry or
ends in "." and the entry.
"""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from torch import nn

from airlora.adapters.settings import FfnUpdate
from airlora.adapters.svd import is_linear, linear_shape
from airlora.errors import ModelError, SettingsError
from airlora.ranks import ModuleShape

__all__ = ["NEVER_ADAPTED", "ROLES", "ProjectionSite", "find_head", "find_projections", "on_residual_side", "sites_of"]

log = logging.getLogger(__name__)

ROLES = ("q", "k", "v", "qkv", "o", "fc1", "fc2", "other")
"""Roles of projections, in the order of a layer's list of projections (III-A1). A layer that computes q, k and v
together has the role "qkv"; one that computes gate and input of an FFN together has the role "fc1"."""

_SLICED = ("q", "k", "v")
_ROLE_OF_ENDING = {
    # OPT, BART; q, k and v also Llama, Qwen, Mistral, Gemma and relatives
    "self_attn.q_proj": "q",
    "self_attn.k_proj": "k",
    "self_attn.v_proj": "v",
    "self_attn.out_proj": "o",
    "encoder_attn.q_proj": "q",
    "encoder_attn.k_proj": "k",
    "encoder_attn.v_proj": "v",
    "encoder_attn.out_proj": "o",
    "fc1": "fc1",
    "fc2": "fc2",
    # Llama, Qwen, Mistral, Gemma and relatives: a gated FFN has two projections of its input; Phi
    "self_attn.o_proj": "o",
    "self_attn.dense": "o",
    "mlp.gate_proj": "fc1",
    "mlp.up_proj": "fc1",
    "mlp.down_proj": "fc2",
    "shared_expert.gate_proj": "fc1",
    "shared_expert.up_proj": "fc1",
    "shared_expert.down_proj": "fc2",
    # Phi-3, GLM
    "self_attn.qkv_proj": "qkv",
    "mlp.gate_up_proj": "fc1",
    # BERT, RoBERTa, ELECTRA
    "attention.self.query": "q",
    "attention.self.key": "k",
    "attention.self.value": "v",
    "attention.output.dense": "o",
    "intermediate.dense": "fc1",
    "output.dense": "fc2",
    # DeBERTa and DeBERTa-v2
    "attention.self.in_proj": "qkv",
    "attention.self.query_proj": "q",
    "attention.self.key_proj": "k",
    "attention.self.value_proj": "v",
    # ALBERT
    "attention.query": "q",
    "attention.key": "k",
    "attention.value": "v",
    "ffn": "fc1",
    "ffn_output": "fc2",
    # MPNet
    "attention.attn.q": "q",
    "attention.attn.k": "k",
    "attention.attn.v": "v",
    "attention.attn.o": "o",
    # DistilBERT
    "attention.q_lin": "q",
    "attention.k_lin": "k",
    "attention.v_lin": "v",
    "attention.out_lin": "o",
    "ffn.lin1": "fc1",
    "ffn.lin2": "fc2",
    # Falcon, GPT-NeoX, BLOOM; attention.dense also ALBERT
    "self_attention.query_key_value": "qkv",
    "attention.query_key_value": "qkv",
    "self_attention.dense": "o",
    "attention.dense": "o",
    "mlp.dense_h_to_4h": "fc1",
    "mlp.dense_4h_to_h": "fc2",
    # ModernBERT, MPT
    "attn.Wqkv": "qkv",
    "attn.Wo": "o",
    "mlp.Wi": "fc1",
    "mlp.Wo": "fc2",
    "ffn.up_proj": "fc1",
    "ffn.down_proj": "fc2",
    # GPT-2, GPT-BigCode, StarCoder2
    "attn.c_attn": "qkv",
    "attn.c_proj": "o",
    "mlp.c_fc": "fc1",
    "mlp.c_proj": "fc2",
    # GPT-J, GPT-Neo; attn.out_proj also MPT
    "attn.q_proj": "q",
    "attn.k_proj": "k",
    "attn.v_proj": "v",
    "attn.out_proj": "o",
    "attn.attention.q_proj": "q",
    "attn.attention.k_proj": "k",
    "attn.attention.v_proj": "v",
    "attn.attention.out_proj": "o",
    "mlp.fc_in": "fc1",
    "mlp.fc_out": "fc2",
    # T5
    "SelfAttention.q": "q",
    "SelfAttention.k": "k",
    "SelfAttention.v": "v",
    "SelfAttention.o": "o",
    "EncDecAttention.q": "q",
    "EncDecAttention.k": "k",
    "EncDecAttention.v": "v",
    "EncDecAttention.o": "o",
    "DenseReluDense.wi": "fc1",
    "DenseReluDense.wi_0": "fc1",
    "DenseReluDense.wi_1": "fc1",
    "DenseReluDense.wo": "fc2",
}
_SLICED_ENDING = "attn.c_attn"
_HEADS = ("pre_classifier", "classifier", "score", "classification_head")
NEVER_ADAPTED = frozenset({*_HEADS, "lm_head", "cls", "pooler"})
"""Names of modules whose linear layers never get an update."""


@dataclass(frozen=True, slots=True)
class ProjectionSite:
    """A projection to adapt.

    Args:
        name: Full name of the projection. The suffix ".q", ".k" or ".v" names a slice of a fused layer, ".in" or ".out"
            an update on the residual side of an FFN projection.
        role: Role in the layer, one of `ROLES`.
        layer: Number of the Transformer layer from 0, or None outside the numbered layers.
        shape: In- and out-features of the update: those of the linear layer, of the slice, or the residual width twice.
        suffix: Suffix of `name` without its dot, or None if `name` is that of a linear layer.
    """

    name: str
    role: str
    layer: int | None
    shape: ModuleShape
    suffix: str | None = None

    @property
    def module_name(self) -> str:
        """Full name of the linear layer that holds the projection."""
        return self.name if self.suffix is None else self.name.removesuffix(f".{self.suffix}")


def find_projections(
    model: nn.Module,
    target_modules: Sequence[str] | str | None = None,
    *,
    head_modules: Sequence[str] | None = None,
    ffn_update: FfnUpdate = "weight",
) -> tuple[ProjectionSite, ...]:
    """Return the projections to adapt, ordered by layer and within a layer by `ROLES`.

    Linear layers of the head, the pooler and the LM head are never returned. A layer of a numbered stack that may be a
    projection and is left out is named in a warning, and so are weights of experts, which are no layers.

    Args:
        model: Transformer of `transformers`.
        target_modules: None selects the projections of the known families, see `_ROLE_OF_ENDING`. In another model it
            selects all linear layers of numbered stacks. As in PEFT, a sequence selects by endings of names, a string
            is a regular expression for whole names, and "all-linear" selects all linear layers.
        head_modules: Selection of the head, see `find_head`.
        ffn_update: "residual" moves the updates of an FFN to the input of widening projections (role fc1) and to the
            output of narrowing ones (fc2).

    Raises:
        ModelError: Nothing is found, or a target matches nothing. The message lists the model's linear layers.
        SettingsError: `target_modules` is empty or not a valid regular expression.
    """
    heads = find_head(model, head_modules)
    linear = {
        name: linear_shape(module)
        for name, module in model.named_modules()
        if is_linear(module) and not _is_under(name, heads) and NEVER_ADAPTED.isdisjoint(name.split("."))
    }
    names = _known_projections(model, linear) if target_modules is None else _targets(linear, target_modules)
    stacks = list(dict.fromkeys(_layer(name)[0] for name in names))
    sites = [site for name in names for site in sites_of(name, linear[name])]
    if ffn_update == "residual":
        sites = [on_residual_side(site) for site in sites]

    def position(site: ProjectionSite) -> tuple[int, int, int]:
        stack, layer = _layer(site.module_name)
        return stacks.index(stack), -1 if layer is None else layer, ROLES.index(site.role)

    return tuple(sorted(sites, key=position))


def sites_of(name: str, shape: ModuleShape) -> list[ProjectionSite]:
    """Return the projections that a linear layer holds: one, or q, k and v side by side in GPT-2's `c_attn`.

    Other layers that compute q, k and v together interleave their heads. Each counts as one projection.

    Args:
        name: Full name of the linear layer.
        shape: In- and out-features of the linear layer.
    """
    layer = _layer(name)[1]
    role = _role(name) or "other"
    if not _matches(name, _SLICED_ENDING) or shape.d_out != len(_SLICED) * shape.d_in:
        return [ProjectionSite(name, role, layer, shape)]
    return [ProjectionSite(f"{name}.{own}", own, layer, ModuleShape(shape.d_in, shape.d_in), own) for own in _SLICED]


def on_residual_side(site: ProjectionSite) -> ProjectionSite:
    """Return the site with its update moved to the residual side if it is an FFN projection, else the site itself.

    Args:
        site: Site of an update on the weight. An FFN projection that keeps the width is returned as it is.
    """
    d_in, d_out = site.shape.d_in, site.shape.d_out
    if site.role == "fc1" and d_in < d_out:
        return replace(site, name=f"{site.name}.in", shape=ModuleShape(d_in, d_in), suffix="in")
    if site.role == "fc2" and d_out < d_in:
        return replace(site, name=f"{site.name}.out", shape=ModuleShape(d_out, d_out), suffix="out")
    return site


def find_head(model: nn.Module, head_modules: Sequence[str] | None = None) -> tuple[str, ...]:
    """Return the full names of the modules that make up the model's classification head.

    The head is trained in full and travels with the adapter; every other module belongs to the frozen base model. The
    result is the same before and after `inject`.

    Args:
        model: Model to search.
        head_modules: Endings of module names. None stands for the names that `transformers` gives to classification
            heads: pre_classifier, classifier, score and classification_head.

    Returns:
        Names in model order, none of them inside another. Empty if the model has no head; an `lm_head` counts as part
        of the base model unless `head_modules` names it.

    Raises:
        ModelError: An entry of `head_modules` matches no module.
    """
    if isinstance(head_modules, str):
        head_modules = [head_modules]
    endings = _HEADS if head_modules is None else head_modules
    names = [name for name, _ in model.named_modules()]
    for ending in endings if head_modules is not None else ():
        if not any(_matches(name, ending) for name in names):
            top = ", ".join(name for name, _ in model.named_children())
            raise ModelError.of("head_modules", ending, f"the end of a module's name; the model consists of {top}")
    found: list[str] = []
    for name in names:
        if any(_matches(name, ending) for ending in endings) and not _is_under(name, found):
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
            raise ModelError.of(
                "target_modules", target_modules, f"a pattern for whole names: {_linear_layers(linear)}"
            )
        return names
    if not target_modules:
        raise SettingsError.of("target_modules", list(target_modules), "at least one end of a module's name")
    for ending in target_modules:
        if not any(_matches(name, ending) for name in linear):
            raise ModelError.of("target_modules", ending, f"the end of a linear layer's name: {_linear_layers(linear)}")
    return [name for name in linear if any(_matches(name, ending) for ending in target_modules)]


def _known_projections(model: nn.Module, linear: Mapping[str, ModuleShape]) -> list[str]:
    """Return the projections of the known families, or in another model all linear layers of numbered stacks."""
    stacked = [name for name in linear if _layer(name)[1] is not None]
    names = [name for name in stacked if _role(name)] or stacked
    if not names:
        raise ModelError(
            f"no known projections in {type(model).__name__}; set target_modules: {_linear_layers(linear)}"
        )
    if not any(_role(name) for name in names):
        log.warning(
            "%s: an unknown architecture; all linear layers of its stacks are adapted (adapter.target_modules selects "
            "others): %s",
            type(model).__name__,
            ", ".join(_endings(names)),
        )
    # Gates and routers have few outputs.
    smallest = min(min(linear[name].d_in, linear[name].d_out) for name in names) // 2
    skipped = [name for name in stacked if name not in set(names) and linear[name].d_out > smallest]
    experts = [name for name, own in model.named_parameters() if own.dim() == 3 and _layer(name)[1] is not None]
    for kind, left_out in (("linear layers", skipped), ("weights of several matrices", experts)):
        if left_out:
            log.warning("%s: %s that are not adapted: %s", type(model).__name__, kind, ", ".join(_endings(left_out)))
    return names


def _endings(names: Iterable[str]) -> list[str]:
    """Return the different endings of names after their layer number."""
    return list(dict.fromkeys(re.sub(r"^.*?\.\d+\.", "", name) for name in names))


def _role(name: str) -> str | None:
    """Return the role of the longest matching entry, or None."""
    endings = [ending for ending in _ROLE_OF_ENDING if _matches(name, ending)]
    return _ROLE_OF_ENDING[max(endings, key=len)] if endings else None


def _layer(name: str) -> tuple[str, int | None]:
    """Return the name of the stack of layers that a module belongs to, and the number of its layer in the stack."""
    steps = name.split(".")
    for index, step in enumerate(steps):
        if step.isdecimal():
            return ".".join(steps[:index]), int(step)
    return name, None


def _linear_layers(names: Iterable[str], limit: int = 24) -> str:
    """Return a clause for messages that lists the endings of the names after their layer number, with counts."""
    ends = Counter(re.sub(r"^.*\.\d+\.", "", name) for name in names)
    if not ends:
        return "the model has no linear layers"
    shown = ", ".join(f"{end} ({count})" for end, count in list(ends.items())[:limit])
    return f"the model's linear layers end in {shown}{', ...' if len(ends) > limit else ''}"


def _matches(name: str, ending: str) -> bool:
    return name == ending or name.endswith(f".{ending}")


def _is_under(name: str, parents: Iterable[str]) -> bool:
    return any(name == parent or name.startswith(f"{parent}.") for parent in parents)
