"""Conversion of a PEFT adapter into a stream, without training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from airlora.adapters import find_projections
from airlora.adapters.peft import PeftRequirements, load_peft, peft_requirements
from airlora.codec import describe
from airlora.errors import AdapterError, SettingsError
from airlora.files import write_bytes
from airlora.packing import Packing, pack_adapter
from airlora.settings.loading import validate
from airlora.tasks import CausalLM, Classification, Task, head_modules, load_adapted, load_base
from airlora.training import load_settings, stream_header

__all__ = ["import_peft", "is_peft_folder"]


def import_peft(
    folder: Path | str, out: Path | str, packing: Packing, *, model: str | None = None, labels: Sequence[str] = ()
) -> dict[str, Any]:
    """Write the stream of a stock PEFT LoRA or AdaLoRA adapter to the file `out`, and return its description.

    The adapter is that of a classifier with its head, or of a causal language model.

    Args:
        folder: Folder with `adapter_config.json` and `adapter_model.safetensors`.
        out: File to write.
        packing: Options of packing. The importance measure is always `singular_value`, since there are no data.
        model: Name or folder of the base model. None selects the one that the adapter names.
        labels: Names of the classes, in order. Without any, they are 0, 1, ...

    Raises:
        AirloraError: The adapter or its base model cannot be used, or the file cannot be written.
    """
    needs = peft_requirements(folder)
    name = model or needs.base_model
    if not name:
        raise SettingsError.of("model", name, f"the name or folder of the base model, which {folder} does not name")
    task = _task(needs, folder, labels)
    overrides: dict[str, Any] = {
        "task": task.name,
        "model.name": name,
        "adapter.r_max": needs.r_max,
        "adapter.scale": 1.0,
        "policy.constant_rank": min(needs.r_max, 4),
    }
    if needs.head_modules is not None:
        overrides["adapter.head_modules"] = list(needs.head_modules)
    settings = load_settings(overrides=overrides)
    base = load_base(settings, task)[0]
    longest = getattr(base.config, "max_position_embeddings", None) or settings.data.max_length
    reading = settings.data.model_copy(update={"max_length": min(settings.data.max_length, longest)})
    settings = settings.model_copy(update={"data": reading})
    usual = find_projections(base, head_modules=head_modules(settings, task))
    if {site.module_name for site in usual} != set(needs.target_modules):
        own = settings.adapter.model_copy(update={"target_modules": list(needs.target_modules)})
        settings = settings.model_copy(update={"adapter": own})
    adapted, _, fingerprint, device = load_adapted(settings, task)
    load_peft(adapted, folder)
    header = stream_header(adapted, settings, fingerprint, task)
    packing = replace(packing, importance="singular_value")
    data = pack_adapter(adapted, header, packing, settings.compute_options(device))
    result = describe(data)
    write_bytes(out, data)
    return result | {"stream": str(out), "model": name}


def is_peft_folder(folder: Path | str) -> bool:
    """Return whether a folder holds an adapter in PEFT's format and no run."""
    return (Path(folder) / "adapter_config.json").is_file() and not (Path(folder) / "settings.toml").is_file()


def _task(needs: PeftRequirements, folder: Path | str, labels: Sequence[str]) -> Task:
    """Return the task of an adapter: a classifier with its head, or a language model without one."""
    if needs.task == "CAUSAL_LM" and needs.head_modules is None:
        if labels:
            raise SettingsError.of("labels", ", ".join(labels), "none for the adapter of a language model")
        return CausalLM()
    if needs.head_modules is None or needs.task not in (None, "SEQ_CLS"):
        kind = needs.task or "an adapter without a head"
        raise AdapterError.of(
            f"PEFT adapter {folder}: task", kind, "SEQ_CLS with its head, or CAUSAL_LM without modules_to_save"
        )
    num_labels = needs.num_labels or 2
    names = tuple(labels) or tuple(str(label) for label in range(num_labels))
    if len(names) != num_labels:
        raise SettingsError.of("labels", ", ".join(names), f"{num_labels} names, as many as the adapter's head has")
    return validate(Classification, {"label_names": names})
