r"""What PEFT's `adapter_config.json` says of a LoRA or AdaLoRA, as far as it changes the logits.

| type | added to a layer |
|---|---|
| LoRA | $\frac{\alpha}{r} B A$, with rsLoRA $\frac{\alpha}{\sqrt r} B A$ |
| AdaLoRA | $\frac{\alpha}{r_0 + 10^{-5}} B\,\mathrm{diag}(E)\,A$, with $r_0$ its first rank, whatever is left of it |

Anything else in the file that would change the logits is refused by name.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from airlora.adapters.peft.exporting import CONFIG_NAME
from airlora.errors import AdapterError
from airlora.files import read_bytes

__all__ = ["PeftConfig", "read_peft_config"]

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
# Other initialisations, such as PiSSA and OLoRA, take something off the base weights.
_INITS_THAT_LEAVE_THE_BASE = (True, False, None, "gaussian", "orthogonal", "eva")
_MOST_QUANTIFIERS = 3

_Number = TypeVar("_Number", int, float)


@dataclass(frozen=True, slots=True)
class PeftConfig:
    """The settings that the factors are read with.

    Args:
        path: The file, for messages.
        is_adalora: Whether the factors are AdaLoRA's B, E and A.
        rank: r, or AdaLoRA's first rank.
        alpha: lora_alpha.
        use_rslora: Whether alpha is divided by the root of the rank.
        rank_pattern: Rank by regular expression for the end of a module's name.
        alpha_pattern: Alpha, likewise.
        modules_to_save: Ends of the names of modules that are in the file as a whole.
        base_model: Name of the base model, or None.
        task: PEFT's `task_type`, such as "SEQ_CLS", or None.
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
        """Return the factor of a module's product.

        Args:
            module: Its name in the base model.
            rank: Of the factors in the file.

        Raises:
            AdapterError: The configuration gives the module another rank.
        """
        if self.is_adalora:
            return (self.alpha if self.alpha > 0 else float(rank)) / (self.rank + 1e-5)
        expected = _lookup(self.rank_pattern, module, self.rank)
        if rank != expected:
            raise AdapterError.of(f"rank of {module}", rank, f"{expected}, as {self.path} says")
        alpha = _lookup(self.alpha_pattern, module, self.alpha)
        return alpha / (math.sqrt(rank) if self.use_rslora else rank)


def read_peft_config(folder: Path | str) -> PeftConfig:
    """Return the settings in the folder's `adapter_config.json`.

    Raises:
        AdapterError: The file is missing or damaged, of another method than LoRA and AdaLoRA, or asks for something
            that a plain low-rank update cannot do.
    """
    path = Path(folder) / CONFIG_NAME
    config = _Fields(_parse(path), path)
    kind = config.of("peft_type", ("LORA", "ADALORA"), default="LORA")
    for name, meaning in _UNSUPPORTED.items():
        if config.values.get(name):
            raise AdapterError(f"PEFT adapter {path}: {name} is set ({meaning}), which airlora cannot represent")
    config.of("bias", ("none",), default="none")
    config.of("init_lora_weights", _INITS_THAT_LEAVE_THE_BASE, default=True)
    is_adalora = kind == "ADALORA"
    return PeftConfig(
        path=path,
        is_adalora=is_adalora,
        rank=config.rank("init_r", config.values.get("init_r", 12))
        if is_adalora
        else config.rank("r", config.values.get("r", 8)),
        alpha=config.number("lora_alpha", config.values.get("lora_alpha", 8)),
        use_rslora=bool(config.values.get("use_rslora")) and not is_adalora,
        # AdaLoRA's own rank_pattern says which components were cut off before saving: they are gone.
        rank_pattern={} if is_adalora else {key: config.rank(*item) for key, item in config.pattern("rank_pattern")},
        alpha_pattern={}
        if is_adalora
        else {key: config.number(*item) for key, item in config.pattern("alpha_pattern")},
        modules_to_save=config.names("modules_to_save"),
        base_model=config.text("base_model_name_or_path"),
        task=config.text("task_type"),
    )


class _Fields:
    """Values of a JSON object, each looked at before it is used."""

    def __init__(self, values: Mapping[str, Any], path: Path) -> None:
        self.values = values
        self._path = path

    def of(self, name: str, allowed: tuple[Any, ...], *, default: Any) -> Any:
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

    def pattern(self, name: str) -> list[tuple[str, tuple[str, Any]]]:
        """Return the entries as (key, (name for messages, value))."""
        value = self.values.get(name) or {}
        if not isinstance(value, dict):
            raise self._error(name, value, "an object of names")
        for key in value:
            self._verify_key(name, key)
        return [(key, (f"{name} of {key}", entry)) for key, entry in value.items()]

    def _verify_key(self, name: str, key: str) -> None:
        """Raise `AdapterError` for no regular expression, or one that may take years on a short name."""
        bare = re.sub(r"\\.", "", key)
        if re.search(r"\)[*+?{]", bare) or len(re.findall(r"[*+?{]", bare)) > _MOST_QUANTIFIERS or len(key) > 1000:
            raise self._error(f"key of {name}", key, f"names and regular expressions of {_MOST_QUANTIFIERS} repeats")
        try:
            re.compile(_ending_in(key))
        except (re.error, RecursionError, OverflowError) as error:
            raise self._error(f"key of {name}", key, f"a regular expression ({error})") from error

    def _error(self, name: str, value: object, allowed: str) -> AdapterError:
        return AdapterError.of(f"PEFT adapter {self._path}: {name}", value, allowed)


def _parse(path: Path) -> Mapping[str, Any]:
    content = read_bytes(path, "PEFT adapter", AdapterError)
    try:
        value: Any = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise AdapterError(f"PEFT adapter {path}: not valid JSON") from error
    if not isinstance(value, dict):
        raise AdapterError(f"PEFT adapter {path}: no JSON object")
    return value


def _ending_in(key: str) -> str:
    """Return the expression that PEFT makes of a key."""
    return rf"(.*\.)?({key})$"


def _lookup(pattern: Mapping[str, _Number], module: str, default: _Number) -> _Number:
    """Return the value of the first key that matches the end of the name, as `peft.utils.other.get_pattern_key`."""
    for key, value in pattern.items():
        if re.match(_ending_in(key), module):
            return value
    return pattern.get(module, default)
