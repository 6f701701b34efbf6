r"""File names of PEFT's adapter format, and the settings in `adapter_config.json` that affect the logits.

| method | update of a layer's weight |
|---|---|
| LoRA | $\frac{\alpha}{r} B A$, with rsLoRA $\frac{\alpha}{\sqrt r} B A$ |
| AdaLoRA | $\frac{\alpha}{r_0 + 10^{-5}} B\,\mathrm{diag}(E)\,A$ with the initial rank $r_0$ |

Other settings that would change the logits are refused, and the message names the setting.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from airlora.errors import AdapterError
from airlora.files import read_bytes

__all__ = ["CONFIG_NAME", "PREFIX", "WEIGHTS_NAME", "PeftConfig", "read_peft_config"]

CONFIG_NAME = "adapter_config.json"
WEIGHTS_NAME = "adapter_model.safetensors"
PREFIX = "base_model.model."
"""Prefix that PEFT adds to the names of the base model's modules."""

_UNSUPPORTED = {
    "use_dora": "DoRA",
    "lora_bias": "a bias beside lora_B",
    "use_qalora": "QALoRA",
    "use_bdlora": "block-diagonal LoRA",
    "alora_invocation_tokens": "activated LoRA",
    "arrow_config": "Arrow routing",
    "kasa_config": "KaSA, which changes the base weights",
    "layer_replication": "replicated layers",
    "target_parameters": "updates of bare parameters",
    "trainable_token_indices": "trained token embeddings",
}
# Other initialisations, such as PiSSA and OLoRA, change the base weights.
_ALLOWED_INITIALISATIONS = (True, False, None, "gaussian", "orthogonal", "eva")
_MAX_QUANTIFIERS = 3

_Number = TypeVar("_Number", int, float)


@dataclass(frozen=True, slots=True)
class PeftConfig:
    """Settings of a PEFT adapter that are needed to read its factors.

    Args:
        path: Configuration file, for messages.
        is_adalora: Whether the factors are AdaLoRA's B, E and A instead of LoRA's B and A.
        rank: LoRA's `r`, or AdaLoRA's `init_r`.
        alpha: `lora_alpha`.
        use_rslora: Whether alpha is divided by the square root of the rank.
        rank_pattern: Ranks by regular expression for the end of a module's name.
        alpha_pattern: Alphas by regular expression for the end of a module's name.
        modules_to_save: Endings of the names of modules that the file holds in full.
        base_model: Name of the base model, or None.
        task: `task_type`, such as "SEQ_CLS", or None.
    """

    path: Path
    is_adalora: bool
    rank: int
    alpha: float
    use_rslora: bool
    rank_pattern: Mapping[str, int]
    alpha_pattern: Mapping[str, float]
    modules_to_save: tuple[str, ...]
    base_model: str | None
    task: str | None

    def scaling(self, module: str, rank: int) -> float:
        """Return the scaling of a module's update.

        Args:
            module: Name of the module in the base model.
            rank: Rank of the module's factors in the file.

        Raises:
            AdapterError: The configuration states another rank for the module.
        """
        if self.is_adalora:
            return (self.alpha if self.alpha > 0 else float(rank)) / (self.rank + 1e-5)
        expected = _lookup(self.rank_pattern, module, self.rank)
        if rank != expected:
            raise AdapterError.of(f"rank of {module}", rank, f"{expected}, as {self.path} states")
        alpha = _lookup(self.alpha_pattern, module, self.alpha)
        return alpha / (math.sqrt(rank) if self.use_rslora else rank)


def read_peft_config(folder: Path | str) -> PeftConfig:
    """Return the settings in the folder's `adapter_config.json`.

    Raises:
        AdapterError: The file is missing or damaged, its method is neither LoRA nor AdaLoRA, or a setting cannot be
            represented by a low-rank update.
    """
    path = Path(folder) / CONFIG_NAME
    config = _Fields(path)
    method = config.choice("peft_type", ("LORA", "ADALORA"), default="LORA")
    for name, meaning in _UNSUPPORTED.items():
        if config.values.get(name):
            raise AdapterError(f"PEFT adapter {path}: {name} is set ({meaning}), which airlora cannot represent")
    config.choice("bias", ("none",), default="none")
    config.choice("init_lora_weights", _ALLOWED_INITIALISATIONS, default=True)
    is_adalora = method == "ADALORA"
    rank_name, default_rank = ("init_r", 12) if is_adalora else ("r", 8)
    return PeftConfig(
        path=path,
        is_adalora=is_adalora,
        rank=config.rank(rank_name, config.values.get(rank_name, default_rank)),
        alpha=config.number("lora_alpha", config.values.get("lora_alpha", 8)),
        use_rslora=bool(config.values.get("use_rslora")) and not is_adalora,
        # AdaLoRA's rank_pattern lists the components that were removed before saving.
        rank_pattern={} if is_adalora else config.pattern("rank_pattern", config.rank),
        alpha_pattern={} if is_adalora else config.pattern("alpha_pattern", config.number),
        modules_to_save=config.names("modules_to_save"),
        base_model=config.text("base_model_name_or_path"),
        task=config.text("task_type"),
    )


class _Fields:
    """Validated access to the fields of a JSON file."""

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            self.values: Any = json.loads(read_bytes(path, "PEFT adapter", AdapterError))
        except (ValueError, RecursionError) as error:
            raise AdapterError(f"PEFT adapter {path}: not valid JSON") from error
        if not isinstance(self.values, dict):
            raise AdapterError(f"PEFT adapter {path}: not a JSON object")

    def choice(self, name: str, allowed: tuple[Any, ...], *, default: Any) -> Any:
        value = self.values.get(name, default)
        if not any(value is one or (isinstance(value, str) and value == one) for one in allowed):
            raise self._error(name, value, f"one of {', '.join(map(repr, allowed))}")
        return value

    def rank(self, name: str, value: Any) -> int:
        if type(value) is not int or value < 1:
            raise self._error(name, value, "a whole number, 1 or more")
        return value

    def number(self, name: str, value: Any) -> float:
        if type(value) not in (int, float) or not abs(value) <= 1e30:
            raise self._error(name, value, "a finite number")
        return float(value)

    def text(self, name: str) -> str | None:
        value = self.values.get(name)
        if value is not None and not isinstance(value, str):
            raise self._error(name, value, "a string or nothing")
        return value

    def names(self, name: str) -> tuple[str, ...]:
        value = self.values.get(name) or []
        if not isinstance(value, list) or not all(isinstance(entry, str) and entry for entry in value):
            raise self._error(name, value, "a list of names")
        return tuple(dict.fromkeys(value))

    def pattern(self, name: str, validated: Callable[[str, Any], _Number]) -> dict[str, _Number]:
        value = self.values.get(name) or {}
        if not isinstance(value, dict):
            raise self._error(name, value, "an object of names")
        for key in value:
            self._verify_key(name, key)
        return {key: validated(f"{name} of {key}", entry) for key, entry in value.items()}

    def _verify_key(self, name: str, key: str) -> None:
        """Raise `AdapterError` for a key that is no regular expression or could take exponential time to match."""
        bare = re.sub(r"\\.", "", key)
        if re.search(r"\)[*+?{]", bare) or len(re.findall(r"[*+?{]", bare)) > _MAX_QUANTIFIERS or len(key) > 1000:
            raise self._error(
                f"key of {name}", key, f"names and regular expressions with at most {_MAX_QUANTIFIERS} quantifiers"
            )
        try:
            re.compile(_ending_in(key))
        except (re.error, RecursionError, OverflowError) as error:
            raise self._error(f"key of {name}", key, f"a regular expression ({error})") from error

    def _error(self, name: str, value: object, allowed: str) -> AdapterError:
        return AdapterError.of(f"PEFT adapter {self._path}: {name}", value, allowed)


def _ending_in(key: str) -> str:
    """Return the regular expression that PEFT builds from a key."""
    return rf"(.*\.)?({key})$"


def _lookup(pattern: Mapping[str, _Number], module: str, default: _Number) -> _Number:
    """Return the value of the first key that matches the end of the name, as in `peft.utils.other.get_pattern_key`."""
    for key, value in pattern.items():
        if re.match(_ending_in(key), module):
            return value
    return pattern.get(module, default)
