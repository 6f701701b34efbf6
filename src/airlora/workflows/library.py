"""The adapter in your own training loop: wrap a model, pack its adapter, load a stream, export it.

These functions take models of `transformers` that are in memory, and no run. `airlora train` does more: a policy, QAT,
and importance on samples that were kept from training.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from safetensors.torch import save
from torch import Tensor, nn

from airlora.adapters import (
    AdaptedModel,
    AdapterSettings,
    LowRankUpdate,
    base_fingerprint,
    draw_modules,
    inject,
    install_updates,
)
from airlora.adapters.peft import PeftExport, export_peft, export_uniform
from airlora.codec import BitWidth, decode_stream
from airlora.errors import AdapterError, ModelError, SettingsError
from airlora.files import make_folder, write_bytes
from airlora.identity import BaseLevel, is_same_base, parse_level
from airlora.packing import Packing, adapt_for_stream, drawn_modules, head_modules_of, pack_adapter
from airlora.tasks import CausalLM, Classification, ComputeOptions, EncodedData, Task
from airlora.tasks.base import TARGETS
from airlora.training import load_settings, stream_header

__all__ = ["export", "load_stream", "pack", "wrap"]

_DEFAULTS = AdapterSettings()


def wrap(
    model: nn.Module,
    *,
    r_max: int = _DEFAULTS.r_max,
    scale: float = _DEFAULTS.scale,
    target_modules: Sequence[str] | str | None = None,
    seed: int = 0,
) -> AdaptedModel:
    """Freeze a model, add a trainable adapter to its projections in place, and return the handle.

    Only the adapter and the classification head, if there is one, require gradients afterwards. The handle has
    `set_ranks` for ranks that change while you train, `updates` and `head_parameters`. `save_pretrained` of the model
    writes adapter and head alone from then on, so that checkpoints of a trainer are small and resume exactly.

    If the files of the model lack its pooler, as those of DeBERTa-v3 do, load it by `airlora.load_base_model`. Then
    every receiver has the same pooler.

    Args:
        model: Model of `transformers`.
        r_max: Number of components per module.
        scale: Factor of every update, the same at every rank.
        target_modules: Selection of the projections as in PEFT. None selects those of the model's family.
        seed: Seed of the initial components. The update is zero.

    Raises:
        ModelError: The model already carries an adapter, or has no projections.
        RankPatternError: `r_max` is larger than a module's dimension.
        SettingsError: Another value is not allowed.
    """
    adapted = inject(model, r_max=r_max, scale=scale, target_modules=target_modules, seed=seed)
    _save_adapter_alone(adapted)
    return adapted


def _save_adapter_alone(adapted: AdaptedModel) -> None:
    """Let `save_pretrained` write adapter and head alone, without a configuration.

    The base model would otherwise be saved under names that `from_pretrained` does not know, and it would draw all
    weights at random. Without a configuration it refuses the folder.
    """
    model: Any = adapted.model
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    own = {names[id(parameter)] for update in adapted.updates.values() for parameter in update.parameters()}
    head = tuple(f"{name}." for name in adapted.head_names)

    def save_pretrained(
        save_directory: str | Path,
        is_main_process: bool = True,
        state_dict: Any = None,
        *_: Any,
        push_to_hub: bool = False,
        **__: Any,
    ) -> None:
        if push_to_hub:
            raise SettingsError.of("push_to_hub", push_to_hub, "False; `airlora.export` writes a folder for the Hub")
        if not is_main_process:
            return
        given = model.state_dict() if state_dict is None else state_dict
        kept = {
            name: value.detach().cpu().contiguous()
            for name, value in given.items()
            if name in own or (head and name.startswith(head))
        }
        write_bytes(make_folder(save_directory) / "model.safetensors", save(kept, metadata={"format": "pt"}))

    model.save_pretrained = save_pretrained
    # The trainer would warn of them when it resumes.
    model._keys_to_ignore_on_save = {
        name for name in model.state_dict() if name not in own and not (head and name.startswith(head))
    }


def pack(
    adapted: AdaptedModel,
    *,
    max_bytes: int | None = None,
    max_distortion: float | None = None,
    bits: BitWidth = "auto",
    calibration: Iterable[Mapping[str, Tensor]] | None = None,
    base_model: str | None = None,
) -> bytes:
    """Return the adapter as a stream, most important components first. Every prefix of it is an adapter, too.

    Args:
        adapted: Model with its adapter, a classifier or a causal language model. It keeps its values, ranks, gradients
            and mode.
        max_bytes: Size of the stream, bytes. None takes `max_distortion`.
        max_distortion: Share of the components' importance that may be lost. None stands for 0.1.
        bits: Bits per parameter, or "auto" for the best precision of each component.
        calibration: Batches as the model is called with: `input_ids`, `attention_mask` and `labels`. The importance of
            components is measured on them. They should not be training data. None takes singular values.
        base_model: Name of the base model for receivers. None takes that of its configuration.

    Raises:
        AdapterError: The adapter holds values that are not finite.
        ModelError: The model is neither a classifier of one label each nor a causal language model.
        SettingsError: A value is not allowed, or both a size and a distortion are given.
    """
    if max_bytes is not None and max_distortion is not None:
        raise SettingsError.of("max_distortion", max_distortion, "none beside max_bytes")
    task = _task_of(adapted.model)
    config: Any = adapted.model.config
    overrides: dict[str, Any] = {"task": task.name, "model.name": base_model or config.name_or_path or "unknown"}
    if adapted.target_modules is not None:
        overrides["adapter.target_modules"] = list(dict.fromkeys(site.module_name for site in adapted.sites))
    settings = load_settings(overrides=overrides)
    header = stream_header(adapted, settings, base_fingerprint(adapted.model), task)
    text_config = config.get_text_config()
    data = None if calibration is None else _encoded(task, calibration, getattr(text_config, "pad_token_id", None) or 0)
    packing = Packing(
        bits=bits,
        max_bytes=max_bytes,
        max_distortion=Packing().max_distortion if max_distortion is None else max_distortion,
        importance="singular_value" if data is None else None,
    )
    compute = ComputeOptions(next(adapted.model.parameters()).device, 0, 8, 8, "float32")
    is_training = adapted.model.training
    gradients = [(parameter, parameter.grad) for parameter in adapted.model.parameters()]
    try:
        return pack_adapter(adapted, header, packing, compute, calibration=data)
    finally:
        # A training loop goes on where it was.
        adapted.model.train(is_training)
        for parameter, gradient in gradients:
            parameter.grad = gradient


def load_stream(model: nn.Module, data: bytes, *, accept: BaseLevel = "bfloat16") -> AdaptedModel:
    """Add the adapter in a stream, or in a prefix of one, to its base model in place, and return the handle.

    Args:
        model: Base model of `transformers`.
        data: Stream, or its first bytes.
        accept: Level at which the model has to be that of the stream: "exact", or "bfloat16" for weights that are equal
            after rounding to bfloat16.

    Raises:
        CodecError: The stream is damaged.
        AdapterError: The model is another one than that of the stream, or the prefix lacks a tensor of the
            classification head. The model is unchanged then.
        ModelError: The model already carries an adapter.
        SettingsError: The level is unknown.
    """
    level, decoded = parse_level(accept), decode_stream(data)
    header = decoded.header
    if missing := [name for name in header.tensors if name not in decoded.tensors]:
        raise AdapterError(f"stream: its first {decoded.bytes_used} bytes lack {missing[0]} of the classification head")
    modules = dict(model.named_modules())
    drawn = drawn_modules(header)
    if unknown := [name for name in drawn if name not in modules]:
        raise AdapterError(f"stream: draws the module {unknown[0]}, which the model does not have")
    before = {name: {key: own.clone() for key, own in modules[name].state_dict().items()} for name in drawn}
    adapted = None
    try:
        draw_modules(model, drawn)
        found = base_fingerprint(model, head_modules=head_modules_of(header))
        if not is_same_base(header.base_fingerprint, found, level):
            raise AdapterError(f"stream: made for the base model {header.base_fingerprint[:12]}, this is {found[:12]}")
        adapted = adapt_for_stream(model, header)
        updates = {name: LowRankUpdate(U, V) for name, (U, V) in decoded.modules.items()}
        install_updates(adapted, updates, decoded.tensors)
    except BaseException:
        if adapted is not None:
            adapted.eject()
        for name, state in before.items():
            modules[name].load_state_dict(state)
        draw_modules(model, ())
        raise
    return adapted


def export(
    adapted: AdaptedModel,
    folder: Path | str,
    *,
    for_: Literal["peft", "vllm", "llama.cpp"] = "peft",
    base_model: str | None = None,
) -> PeftExport:
    """Write the adapter at its current ranks as a LoRA, and return a summary.

    Args:
        adapted: Model with its adapter.
        folder: Folder to write to.
        for_: Reader of the files. vLLM and llama.cpp read one rank for all modules and no head.
        base_model: Name or folder of the base model. None takes that of its configuration.

    Raises:
        AirloraError: The adapter cannot be exported for this reader, or the files cannot be written.
    """
    config: Any = adapted.model.config
    name = base_model or str(config.name_or_path)
    if for_ == "peft":
        return export_peft(adapted, folder, base_model=name)
    return export_uniform(adapted, folder, for_=for_, base_model=name)


def _task_of(model: nn.Module) -> Task:
    name, config = type(model).__name__, model.config
    if name.endswith(("ForCausalLM", "LMHeadModel")):
        return CausalLM()
    kind = getattr(config, "problem_type", None)
    is_single = kind in (None, "single_label_classification") and getattr(config, "num_labels", 0) > 1
    if name.endswith("ForSequenceClassification") and is_single:
        labels: Any = config.id2label  # type: ignore[union-attr]
        return Classification(label_names=tuple(str(labels[number]) for number in sorted(labels)))
    raise ModelError(
        f"{name}: streams are for classifiers with one label of two or more (ForSequenceClassification) and causal "
        "language models (ForCausalLM)"
    )


def _encoded(task: Task, batches: Iterable[Mapping[str, Tensor]], pad_token_id: int) -> EncodedData:
    """Return the samples of batches without their padding."""
    columns: dict[str, list[Any]] = {}
    for batch in batches:
        if not {"input_ids", "labels"} <= batch.keys():
            found = ", ".join(batch) or "none"
            raise SettingsError.of("calibration: tensors of a batch", found, "input_ids and labels, and attention_mask")
        mask = batch.get("attention_mask", torch.ones_like(batch["input_ids"])).bool().cpu()
        for name, values in batch.items():
            if name != "attention_mask":
                rows = values.cpu()
                own = columns.setdefault(TARGETS if name == "labels" else name, [])
                own += [row[kept].numpy() if row.dim() else row.item() for row, kept in zip(rows, mask, strict=True)]
    if not columns:
        raise SettingsError.of("calibration: batches", 0, "one or more")
    return EncodedData(task, columns, np.zeros((len(columns[TARGETS]), 2), dtype=np.float32), pad_token_id=pad_token_id)
