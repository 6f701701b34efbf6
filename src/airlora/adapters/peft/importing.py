r"""Import of a LoRA or AdaLoRA in PEFT's format as SVD updates in canonical order.

PEFT's product $c\,B A$ of a layer has a thin SVD $U S V^\top$ (`canonical_svd`). Its nonzero singular triplets become
the components, and their number is the rank. The two files are read as data; reading them executes no code.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from airlora.adapters.components import fill_update, thin_svd
from airlora.adapters.injection import AdaptedModel
from airlora.adapters.peft.config import PREFIX, WEIGHTS_NAME, PeftConfig, read_peft_config
from airlora.adapters.projections import NEVER_ADAPTED, sites_of
from airlora.adapters.state import open_safetensors
from airlora.errors import AdapterError, RankPatternError
from airlora.ranks import ModuleShape, RankPattern

__all__ = ["PeftAdapter", "PeftRequirements", "load_peft", "peft_requirements", "read_peft"]

_PICKLE_NAME = "adapter_model.bin"
_LORA = re.compile(r"(?P<module>.+)\.lora_(?P<which>[AB])\.weight")
_ADALORA = re.compile(r"(?P<module>.+)\.lora_(?P<which>[ABE])")
# Layer of a head whose outputs are the labels, in all classification heads of transformers.
_LABELS = re.compile(r"(.+\.)?(classifier|score|out_proj)\.weight")
_EMBEDDING = re.compile(r"(?P<module>.+)\.lora_embedding_[AB]")

Components = tuple[Tensor, Tensor, Tensor]


@dataclass(frozen=True, slots=True)
class PeftAdapter:
    """Content of a folder in PEFT's format.

    Args:
        factors: B [d_out, r] and A [r, d_in] by name of the layer, float32. The update is B A, scaling included in B.
        head: Tensors of the modules that the file holds in full, by full name, float32.
        head_modules: Names of the modules that the file holds in full.
        base_model: Name of the base model in the configuration, or None.
        task: PEFT's `task_type`, such as "SEQ_CLS", or None.
    """

    factors: dict[str, tuple[Tensor, Tensor]]
    head: dict[str, Tensor]
    head_modules: tuple[str, ...]
    base_model: str | None
    task: str | None


@dataclass(frozen=True, slots=True)
class PeftRequirements:
    """Arguments of `load_base_model` and `inject` that make a model fit a PEFT folder.

    Args:
        r_max: Largest rank, 1 or more.
        target_modules: Full names of the adapted layers.
        head_modules: Names of the modules that the file holds in full, or None if there are none.
        num_labels: Number of labels of the head, or None without a head or with an unknown one.
        base_model: Name of the base model in the configuration, or None.
        task: PEFT's `task_type`, such as "SEQ_CLS", or None.
    """

    r_max: int
    target_modules: tuple[str, ...]
    head_modules: tuple[str, ...] | None
    num_labels: int | None
    base_model: str | None
    task: str | None


def read_peft(folder: Path | str) -> PeftAdapter:
    """Return the factors and the head in a folder written by PEFT's `save_pretrained`.

    Args:
        folder: Folder with `adapter_config.json` and `adapter_model.safetensors`.

    Raises:
        AdapterError: A file is missing, damaged or a pickle, or a setting is not supported (`read_peft_config`). The
            adapter changes a layer that airlora does not adapt (head, pooler, LM head, embedding). A tensor is missing,
            misshapen, unknown or not finite.
    """
    config = read_peft_config(folder)
    path = Path(folder) / WEIGHTS_NAME
    if not path.is_file() and (Path(folder) / _PICKLE_NAME).is_file():
        raise AdapterError(
            f"PEFT adapter {folder}: {_PICKLE_NAME} is a pickle, which could run code, and is not read; save the "
            "adapter as safetensors (PEFT's default)"
        )
    pattern = _ADALORA if config.is_adalora else _LORA
    tensors: dict[str, dict[str, Tensor]] = {}
    head: dict[str, Tensor] = {}
    head_modules: list[str] = []
    with open_safetensors(path) as file:
        for key in sorted(file.keys()):
            name = key.removeprefix(PREFIX)
            match = pattern.fullmatch(name)
            if match is None:
                head_modules.append(_head_module(name, config, path))
            elif not NEVER_ADAPTED.isdisjoint(match["module"].split(".")):
                raise AdapterError(
                    f"PEFT adapter {path}: adapts {match['module']}, a layer that airlora does not adapt"
                )
            tensor = file.get_tensor(key)
            if not tensor.is_floating_point():
                raise AdapterError.of(f"PEFT adapter {path}: type of {name}", tensor.dtype, "a floating-point type")
            tensor = tensor.float()
            if not bool(torch.isfinite(tensor).all()):
                raise AdapterError(f"PEFT adapter {path}: {name} holds values that are not finite")
            if match is None:
                head[name] = tensor
            else:
                tensors.setdefault(match["module"], {})[match["which"]] = tensor
    factors = {module: _factors(module, found, config, path) for module, found in tensors.items()}
    if not factors:
        raise AdapterError(f"PEFT adapter {path}: holds no lora_A and lora_B")
    return PeftAdapter(factors, head, tuple(dict.fromkeys(head_modules)), config.base_model, config.task)


def peft_requirements(folder: Path | str) -> PeftRequirements:
    """Return the arguments of `load_base_model` and `inject` that make a model fit the folder.

    Args:
        folder: Folder with `adapter_config.json` and `adapter_model.safetensors`.

    Raises:
        AdapterError: The folder cannot be read, see `read_peft`.
    """
    adapter = read_peft(folder)
    r_max = max(len(s) for _, s, _ in _components(adapter, folder).values())
    labels = [len(tensor) for name, tensor in adapter.head.items() if _LABELS.fullmatch(name) and tensor.ndim == 2]
    return PeftRequirements(
        r_max=max(1, r_max),
        target_modules=tuple(adapter.factors),
        head_modules=adapter.head_modules or None,
        num_labels=labels[0] if len(labels) == 1 else None,
        base_model=adapter.base_model,
        task=adapter.task,
    )


def load_peft(adapted: AdaptedModel, folder: Path | str) -> PeftAdapter:
    """Load a PEFT folder into the model, in canonical order and at its ranks, and return its content.

    Modules that the folder does not adapt get rank 0. Components beyond the rank get coefficient zero and directions
    orthonormal to the active ones, so that training can continue. PEFT stores no digest of the base weights, so only
    names and shapes are compared.

    Args:
        adapted: Model made with the folder's `peft_requirements`, or with more modules or a larger r_max.
        folder: Folder with `adapter_config.json` and `adapter_model.safetensors`.

    Raises:
        AdapterError: The folder cannot be read (`read_peft`), or the model lacks an update for one of its layers, has
            another shape, a smaller r_max or another head. The model is unchanged then.
    """
    adapter = read_peft(folder)
    known = {site.module_name for site in adapted.sites}
    unknown = [name for name in adapter.factors if name not in known]
    if unknown:
        raise AdapterError(
            f"PEFT adapter {folder}: adapts {len(unknown)} layers without an update in the model, such as {unknown[0]}"
        )
    components = _components(adapter, folder)
    for name, (U, s, Vt) in components.items():
        shape, found = adapted.shapes.get(name), ModuleShape(d_in=Vt.shape[1], d_out=U.shape[0])
        if shape != found:
            raise AdapterError.of(f"PEFT adapter {folder}: shape of {name}", found, f"the model's, {shape}")
        if len(s) > adapted.r_max:
            raise AdapterError.of(f"PEFT adapter {folder}: rank of {name}", len(s), f"at most r_max, {adapted.r_max}")
    head = _fitting_head(adapted, adapter, folder)
    with torch.no_grad():
        for name, update in adapted.updates.items():
            if name in components:
                fill_update(update, *components[name])
            else:
                update.lam.zero_()
        for target, tensor in head:
            target.copy_(tensor)
    adapted.set_ranks(
        RankPattern({name: len(components[name][1]) if name in components else 0 for name in adapted.updates})
    )
    return adapter


def _head_module(name: str, config: PeftConfig, path: Path) -> str:
    """Return the module of `modules_to_save` that a tensor belongs to.

    PEFT compares endings of names as strings, also within a step of the dotted name.
    """
    if embedding := _EMBEDDING.fullmatch(name):
        raise AdapterError(
            f"PEFT adapter {path}: adapts {embedding['module']}, an embedding, which airlora does not adapt"
        )
    steps = name.split(".")
    for length in range(1, len(steps)):
        module = ".".join(steps[:length])
        if config.modules_to_save and module.endswith(config.modules_to_save):
            return module
    raise AdapterError(
        f"PEFT adapter {path}: holds an unknown tensor {name}, neither of a LoRA nor of a module in modules_to_save"
    )


def _factors(module: str, tensors: dict[str, Tensor], config: PeftConfig, path: Path) -> tuple[Tensor, Tensor]:
    needed = ("A", "B", "E") if config.is_adalora else ("A", "B")
    for which in needed:
        if which not in tensors:
            raise AdapterError(f"PEFT adapter {path}: lacks lora_{which} of {module}")
    A, B = tensors["A"], tensors["B"]
    if A.ndim != 2 or B.ndim != 2 or len(A) != B.shape[1] or not A.shape[1] or not len(B):
        shapes = f"lora_A {list(A.shape)}, lora_B {list(B.shape)}"
        raise AdapterError.of(f"PEFT adapter {path}: shapes of {module}", shapes, "[r, d_in] and [d_out, r]")
    if config.is_adalora:
        if tensors["E"].shape != (len(A), 1):
            raise AdapterError.of(f"PEFT adapter {path}: shape of {module}.lora_E", list(tensors["E"].shape), "[r, 1]")
        B = B * tensors["E"].T
    B = B * config.scaling(module, len(A))
    if not bool(torch.isfinite(B).all()):
        raise AdapterError(f"PEFT adapter {path}: lora_B of {module}, scaled, holds values that are not finite")
    return B, A


def _components(adapter: PeftAdapter, folder: Path | str) -> dict[str, Components]:
    """Return the nonzero components by name of the projection, with fused layers split into q, k and v."""
    components: dict[str, Components] = {}
    for module, (B, A) in adapter.factors.items():
        try:
            sites = sites_of(module, ModuleShape(d_in=A.shape[1], d_out=len(B)))
            blocks = torch.split(B, [site.shape.d_out for site in sites])
        except (RankPatternError, RuntimeError) as error:
            raise AdapterError.of(f"PEFT adapter {folder}: width of {module}", len(B), "that of q, k and v") from error
        components |= {site.name: thin_svd(block, A) for site, block in zip(sites, blocks, strict=True)}
    return components


def _fitting_head(adapted: AdaptedModel, adapter: PeftAdapter, folder: Path | str) -> list[tuple[Tensor, Tensor]]:
    """Return pairs of a head tensor of the model and the folder's tensor for it."""
    targets, drawn = adapted.head_state(), tuple(f"{name}." for name in adapted.drawn_modules)
    given = {name: tensor for name, tensor in adapter.head.items() if not (drawn and name.startswith(drawn))}
    for name in adapter.head.keys() - given.keys():
        if not torch.equal(adapter.head[name], adapted.model.get_parameter(name).float().cpu()):
            raise AdapterError(f"PEFT adapter {folder}: {name} differs from that of the base model")
    for name, tensor in given.items():
        if name not in targets:
            raise AdapterError(
                f"PEFT adapter {folder}: holds {name}, which is not in the model's head"
                f" ({', '.join(adapted.head_names) or 'there is none'})"
            )
        if tensor.shape != targets[name].shape:
            allowed = f"the model's, {list(targets[name].shape)}"
            raise AdapterError.of(f"PEFT adapter {folder}: shape of {name}", list(tensor.shape), allowed)
    for name in targets:
        if name not in adapter.head and name.startswith(tuple(f"{module}." for module in adapter.head_modules)):
            raise AdapterError(f"PEFT adapter {folder}: lacks {name} of the head")
    return [(targets[name], tensor) for name, tensor in given.items()]
