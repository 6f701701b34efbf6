r"""Export of an adapter as a LoRA in PEFT's format, for PEFT, vLLM and llama.cpp.

| file | content |
|---|---|
| `adapter_model.safetensors` | `base_model.model.NAME.lora_A.weight` and `.lora_B.weight`, for PEFT also the head |
| `adapter_config.json` | ranks, scaling and names |

PEFT adds $\frac{\alpha}{r} B A$ to the weight of a layer. The export sets $\alpha = r$ for every module and multiplies
scale and coefficients into B:

$$B = s\,P_r\,\mathrm{diag}(\lambda_r),\quad A = Q_r$$

A fused layer (GPT-2's `c_attn`) gets one LoRA of rank $r_q + r_k + r_v$. Its A stacks the three Q, and its B is block
diagonal. An FFN update on the residual side is exported as the equivalent update of the weight.

Notation: s scale; P_r, lambda_r, Q_r active components of Eq. 2.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import save
from torch import Tensor, nn
from torch.nn.functional import pad
from transformers.pytorch_utils import Conv1D

from airlora.adapters.injection import AdaptedModel
from airlora.adapters.peft.config import CONFIG_NAME, PREFIX, WEIGHTS_NAME
from airlora.adapters.svd import linear_shape
from airlora.errors import AdapterError, ModelError, RankPatternError, SettingsError
from airlora.files import make_folder, write_bytes, write_json

__all__ = ["PeftExport", "export_peft", "export_uniform"]

_VLLM_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)
_SEQUENCE_CLASSIFIER = "SEQ_CLS"
_PEFT_CLASSIFIER_HEADS = ("classifier", "score")

Factors = dict[str, tuple[Tensor, Tensor]]


@dataclass(frozen=True, slots=True)
class PeftExport:
    """Summary of an export.

    Args:
        num_modules: Number of layers with a LoRA. A fused layer counts once.
        rank: Largest rank in the file.
        has_head: Whether the file holds the head.
        payload_bytes: Size of `adapter_model.safetensors`, bytes.
    """

    num_modules: int
    rank: int
    has_head: bool
    payload_bytes: int


def export_peft(adapted: AdaptedModel, folder: Path | str, *, base_model: str) -> PeftExport:
    """Write the adapter at its current ranks, for `peft.PeftModel.from_pretrained(base, folder)`.

    The loaded model has the logits of the adapted model. `rank_pattern` and `alpha_pattern` both list every module,
    because PEFT would otherwise divide one alpha by different ranks. Modules of rank 0 are omitted. PEFT loads no LoRA
    without modules, so if all ranks are 0 the first module is written with one zero component. A pooler that the files
    of the base model lack is exported with the head.

    Args:
        adapted: Model with the adapter to export.
        folder: Folder to write to, created if it is missing. Existing files of the same names are replaced.
        base_model: Name or folder of the base model, for `base_model_name_or_path`.

    Raises:
        AdapterError: A value is not finite, or all ranks are 0 and there is no head.
        ModelError: The adapter has been removed from the model.
        StorageError: The files cannot be written.
    """
    factors = _factors(adapted)
    if not factors and not adapted.head_names:
        raise AdapterError("nothing to export: every module has rank 0 and the model has no head")
    if not factors:
        factors = _zeros(adapted)
    ranks = {name: len(A) for name, (_, A) in factors.items()}
    task = _task(adapted.model)
    # PEFT matches the keys as regular expressions for the end of a name. "^" makes a key match one module (PEFT 0.15).
    patterns = {f"^{re.escape(name)}": rank for name, rank in ranks.items()}
    config = _config(adapted, ranks, base_model) | {
        "task_type": task,
        "modules_to_save": [*adapted.head_names, *adapted.drawn_modules] or None,
        "rank_pattern": patterns,
        "alpha_pattern": patterns,
    }
    return _write(folder, factors, _head(adapted, task), config)


def export_uniform(
    adapted: AdaptedModel,
    folder: Path | str,
    *,
    for_: Literal["vllm", "llama.cpp"],
    base_model: str,
    rank: int | None = None,
) -> PeftExport:
    """Write the adapter with one rank for all modules, padded with zeros, and without the head.

    The update is that of the current ranks. vLLM and llama.cpp scale all modules alike, so they would load mixed ranks
    with wrong scales or not at all:

    - vLLM applies `lora_alpha / r` of `adapter_config.json` to every module and ignores `rank_pattern` and
      `alpha_pattern`. It refuses `modules_to_save`. Its option `--max-lora-rank` must be at least r and one of 8, 16,
      32, 64, 128, 256, 320 and 512. The default r is the smallest of these that fits, so the engine is started with r.
      (`vllm/lora/peft_helper.py`, `vllm/config/lora.py`)
    - llama.cpp stores one alpha per adapter and divides it by the number of columns of each B. Its converter stops at
      tensors other than lora_A and lora_B, such as a head. It transposes the factors of GPT-2's layers, which PEFT
      does not transpose, so such models are refused here. (`convert_lora_to_gguf.py`, `src/llama-adapter.h`)

    Modules of rank 0 are omitted, and both loaders leave them unchanged. `task_type` is omitted because PEFT would look
    for a classifier's head.

    Args:
        adapted: Model with the adapter to export.
        folder: Folder to write to, created if it is missing. Existing files of the same names are replaced.
        for_: Loader of the files, "vllm" or "llama.cpp".
        base_model: Name or folder of the base model, for `base_model_name_or_path`. llama.cpp's converter reads the
            model's `config.json` there.
        rank: Rank of all modules, or None for the smallest that the loader allows.

    Raises:
        AdapterError: A value is not finite, or all ranks are 0.
        ModelError: llama.cpp's converter cannot read the layers, or the adapter has been removed from the model.
        RankPatternError: `rank` is below the largest rank of a layer or not allowed by vLLM.
        SettingsError: `for_` is unknown.
        StorageError: The files cannot be written.
    """
    if for_ not in ("vllm", "llama.cpp"):
        raise SettingsError.of("for", for_, "'vllm' or 'llama.cpp'")
    factors = _factors(adapted)
    if not factors:
        raise AdapterError(f"nothing to export for {for_}: every module has rank 0, and {for_} loads no head")
    layers = adapted.layers
    transposed = next((name for name in factors if isinstance(layers[name].base, Conv1D)), None)
    if for_ == "llama.cpp" and transposed is not None:
        raise ModelError(
            f"llama.cpp's converter transposes layers such as {transposed} (Conv1D) and would load them wrongly"
        )
    uniform = _uniform_rank(max(len(A) for _, A in factors.values()), rank, _VLLM_RANKS if for_ == "vllm" else None)
    padded = {
        name: (pad(B, (0, uniform - B.shape[1])), pad(A, (0, 0, 0, uniform - len(A))))
        for name, (B, A) in factors.items()
    }
    return _write(folder, padded, {}, _config(adapted, dict.fromkeys(padded, uniform), base_model))


def _uniform_rank(largest: int, rank: int | None, allowed: tuple[int, ...] | None) -> int:
    fitting = [size for size in allowed or (rank or largest,) if size >= largest]
    if not fitting:
        limit = max(allowed) if allowed else rank
        raise RankPatternError.of("largest rank of a layer", largest, f"at most {limit}")
    if rank is not None and rank not in fitting:
        raise RankPatternError.of("rank", rank, f"one of {', '.join(map(str, fitting))}")
    return rank or fitting[0]


def _factors(adapted: AdaptedModel) -> Factors:
    """Return B [d_out, r] and A [r, d_in], float32, of every layer with an active component."""
    factors: Factors = {}
    active = {site.module_name for site in adapted.sites if adapted.updates[site.name].rank}
    for name, layer in adapted.layers.items():
        if name in active:
            B, A = (factor.cpu().float() for factor in layer.factors())
            if not bool(torch.isfinite(B).all() and torch.isfinite(A).all()):
                raise AdapterError(f"the components of {name} hold values that are not finite")
            factors[name] = B, A
    return factors


def _zeros(adapted: AdaptedModel) -> Factors:
    name, layer = next(iter(adapted.layers.items()))
    shape = linear_shape(layer.base)
    return {name: (torch.zeros(shape.d_out, 1), torch.zeros(1, shape.d_in))}


def _task(model: nn.Module) -> str | None:
    """Return PEFT's `task_type` for the model, or None."""
    name = type(model).__name__
    if name.endswith("ForSequenceClassification"):
        return _SEQUENCE_CLASSIFIER
    return "CAUSAL_LM" if name.endswith(("ForCausalLM", "LMHeadModel")) else None


def _head(adapted: AdaptedModel, task: str | None) -> dict[str, Tensor]:
    """Return the tensors that PEFT loads in full, by name.

    PEFT selects every module whose name ends in an entry of `modules_to_save`, even within a step of the dotted name,
    and adds two entries for classifiers. With unusual head modules the selection includes modules of the base.
    """
    endings = (
        *adapted.head_names,
        *adapted.drawn_modules,
        *(_PEFT_CLASSIFIER_HEADS if task == _SEQUENCE_CLASSIFIER else ()),
    )
    tensors = {
        f"{name}.{key}": value
        for name, module in adapted.model.named_modules()
        if endings and name.endswith(endings)
        for key, value in module.state_dict().items()
    }
    for name, value in tensors.items():
        if value.is_floating_point() and not bool(torch.isfinite(value).all()):
            raise AdapterError(f"head tensor {name} holds values that are not finite")
    return tensors


def _config(adapted: AdaptedModel, ranks: Mapping[str, int], base_model: str) -> dict[str, Any]:
    """Return the settings that all exports share. All versions of PEFT know them."""
    return {
        "peft_type": "LORA",
        "task_type": None,
        "base_model_name_or_path": base_model,
        "inference_mode": True,
        "r": max(ranks.values()),
        "lora_alpha": max(ranks.values()),
        "lora_dropout": 0.0,
        "use_rslora": False,
        "use_dora": False,
        "bias": "none",
        "fan_in_fan_out": any(isinstance(adapted.layers[name].base, Conv1D) for name in ranks),
        "target_modules": list(ranks),
        "modules_to_save": None,
        "rank_pattern": {},
        "alpha_pattern": {},
    }


def _write(folder: Path | str, factors: Factors, head: Mapping[str, Tensor], config: dict[str, Any]) -> PeftExport:
    tensors = {f"{PREFIX}{name}": value.detach().cpu().clone().contiguous() for name, value in head.items()}
    for name, (B, A) in factors.items():
        tensors[f"{PREFIX}{name}.lora_A.weight"] = A.contiguous()
        tensors[f"{PREFIX}{name}.lora_B.weight"] = B.contiguous()
    content = save(tensors, {"format": "pt"})
    target = make_folder(folder)
    write_bytes(target / WEIGHTS_NAME, content)
    write_json(target / CONFIG_NAME, config)
    return PeftExport(len(factors), int(config["r"]), bool(head), len(content))
