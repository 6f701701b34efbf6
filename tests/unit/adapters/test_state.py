from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from airlora.adapters import AdaptedModel, base_fingerprint, inject, load_adapter, read_adapter_metadata, save_adapter
from airlora.errors import AdapterError, SettingsError, StorageError
from airlora.identity import is_same_base
from airlora.version import __version__

Make = Callable[..., AdaptedModel]
Tiny = Callable[..., nn.Module]


@pytest.fixture
def path(tmp_path: Path, adapted: Make) -> Path:
    """File of a BERT adapter with random components and a changed head."""
    model = adapted("bert", scale=0.5)
    with torch.no_grad():
        for parameter in model.head_parameters():
            parameter.add_(1.0)
    model.set_ranks([index % 5 for index in range(12)])
    save_adapter(model, tmp_path / "adapter.safetensors", settings={"task": "sst2", "seed": 0})
    return tmp_path / "adapter.safetensors"


@pytest.fixture
def fresh(tiny: Tiny) -> AdaptedModel:
    """The same base model with a new adapter."""
    return inject(tiny("bert"), r_max=4, seed=9, scale=0.5)


def contents(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    size = struct.unpack("<Q", path.read_bytes()[:8])[0]
    header = json.loads(path.read_bytes()[8 : 8 + size])
    return load_file(path), json.loads(header["__metadata__"]["airlora-adapter"])


def rewrite(path: Path, tensors: dict[str, Tensor], metadata: dict[str, Any] | str) -> None:
    text = metadata if isinstance(metadata, str) else json.dumps(metadata)
    save_file(tensors, path, {"airlora-adapter": text})


def everything(adapted: AdaptedModel) -> list[Tensor]:
    return [tensor.clone() for tensor in adapted.model.state_dict().values()]


def assert_refused(adapted: AdaptedModel, path: Path, match: str) -> None:
    before, ranks = everything(adapted), adapted.rank_pattern
    with pytest.raises(AdapterError, match=match) as caught:
        load_adapter(adapted, path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert adapted.rank_pattern == ranks
    assert all(torch.equal(a, b) for a, b in zip(before, everything(adapted), strict=True))


def test_saved_adapter_loads_with_the_same_values_and_ranks(
    family: str, adapted: Make, tiny: Tiny, tmp_path: Path, batch: dict[str, Tensor]
) -> None:
    written = adapted(family)
    written.set_ranks([index % 5 for index in range(len(written.sites))])
    save_adapter(written, tmp_path / "a.safetensors", settings={"lr": 1e-3})
    read = inject(tiny(family), r_max=4, seed=9)
    metadata = load_adapter(read, tmp_path / "a.safetensors")
    assert metadata == read_adapter_metadata(tmp_path / "a.safetensors")
    assert metadata.settings == {"lr": 1e-3}
    assert metadata.rank_pattern == written.rank_pattern == read.rank_pattern
    assert (metadata.r_max, metadata.scale, metadata.library_version) == (4, 1.0, __version__)
    assert metadata.base_fingerprint == base_fingerprint(tiny(family))
    assert all(torch.equal(a, b) for a, b in zip(everything(written), everything(read), strict=True))
    assert torch.equal(written.model(**batch).logits, read.model(**batch).logits)


def test_the_same_adapter_gives_the_same_bytes(adapted: Make, tmp_path: Path) -> None:
    for name in ("a", "b"):
        save_adapter(adapted("bert"), tmp_path / name, settings={"x": 1, "y": 2})
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_components_are_converted_to_the_dtype_of_the_model(tiny: Tiny, path: Path) -> None:
    model = inject(tiny("bert"), r_max=4, seed=9, scale=0.5, dtype=torch.bfloat16)
    load_adapter(model, path)
    name = model.sites[0].name
    torch.testing.assert_close(model.updates[name].P.float(), load_file(path)[f"update.{name}.P"], rtol=1e-2, atol=1e-2)


def test_chosen_head_modules_are_saved(tiny: Tiny, tmp_path: Path) -> None:
    def make() -> AdaptedModel:
        return inject(tiny("bert"), r_max=2, seed=0, head_modules=["pooler", "classifier"])

    written, read = make(), make()
    with torch.no_grad():
        for parameter in written.head_parameters():
            parameter.add_(1.0)
    save_adapter(written, tmp_path / "a", settings={})
    load_adapter(read, tmp_path / "a")
    assert torch.equal(read.model.bert.pooler.dense.weight, written.model.bert.pooler.dense.weight)


def test_missing_file_is_refused(fresh: AdaptedModel, tmp_path: Path) -> None:
    assert_refused(fresh, tmp_path / "none", "no such file")
    assert_refused(fresh, tmp_path, "cannot be read")


@pytest.mark.parametrize("share", [0.0, 1e-4, 0.01, 0.5, 0.999])
def test_truncated_file_is_refused(share: float, fresh: AdaptedModel, path: Path) -> None:
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * share)])
    assert_refused(fresh, path, "damaged")


@pytest.mark.parametrize(
    "junk",
    [
        b"hello" * 100,
        bytes(500),
        struct.pack("<Q", 2**63) + b"{}",
        struct.pack("<Q", 2) + b"[]",
        b"PK\x03\x04" + bytes(100),
    ],
)
def test_file_of_another_format_is_refused(junk: bytes, fresh: AdaptedModel, path: Path) -> None:
    path.write_bytes(junk)
    assert_refused(fresh, path, "damaged")


def test_safetensors_file_without_adapter_metadata_is_refused(fresh: AdaptedModel, path: Path) -> None:
    tensors = load_file(path)
    for metadata in (None, {"format": "pt"}):
        save_file(tensors, path, metadata)
        assert_refused(fresh, path, "not written by airlora")


@pytest.mark.parametrize("text", ["", "{", "[1]", "null", '"a"', "[" * 100_000])
def test_metadata_other_than_a_json_object_are_refused(text: str, fresh: AdaptedModel, path: Path) -> None:
    rewrite(path, load_file(path), text)
    assert_refused(fresh, path, "metadata are")


@pytest.mark.parametrize(
    ("key", "value", "match"),
    [
        ("version", "2", "version = '2': allowed is '1'"),
        ("version", None, "version"),
        ("r_max", 8, "r_max = 8: allowed is the model's, 4"),
        ("r_max", True, "r_max"),
        ("r_max", 0, "r_max"),
        ("r_max", 3, "largest rank"),
        ("scale", 1.0, r"scale = 1\.0: allowed is the model's, 0\.5"),
        ("scale", float("nan"), "scale"),
        ("scale", "0.5", "scale"),
        ("base_fingerprint", "0" * 64, "belongs to base model 000000000000, this is [0-9a-f]{12}$"),
        ("base_fingerprint", "0" * 63, "base_fingerprint"),
        ("base_fingerprint", 7, "base_fingerprint"),
        ("base_fingerprint", int("1" * 64), "base_fingerprint"),
        ("settings", [], "settings"),
        ("library_version", 1, "library_version"),
        ("rank_pattern", {}, "rank_pattern"),
        ("rank_pattern", [1], "rank_pattern"),
        ("rank_pattern", {"a": -1}, "rank of a"),
        ("rank_pattern", {"a": 1}, "adapts other modules: it lacks 12 of .* has 1 others"),
    ],
)
def test_metadata_with_an_invalid_value_are_refused(
    key: str, value: object, match: str, fresh: AdaptedModel, path: Path
) -> None:
    tensors, metadata = contents(path)
    rewrite(path, tensors, metadata | {key: value})
    assert_refused(fresh, path, match)


def test_adapter_of_another_model_is_refused(adapted: Make, tiny: Tiny, path: Path) -> None:
    assert_refused(adapted("opt", scale=0.5), path, "adapts other modules")
    assert_refused(inject(tiny("bert", seed=1), r_max=4, seed=0, scale=0.5), path, "belongs to base model")
    assert_refused(inject(tiny("bert"), r_max=3, seed=0, scale=0.5), path, "r_max = 4")
    some = inject(tiny("bert"), r_max=4, seed=0, scale=0.5, target_modules=["query"])
    assert_refused(some, path, "has all of the model's modules and has 10 others")
    no_head = inject(tiny("bert"), r_max=4, seed=0, scale=0.5, head_modules=())
    assert_refused(no_head, path, r"unknown tensor head\.classifier")


def test_tensors_that_do_not_fit_are_refused(fresh: AdaptedModel, path: Path) -> None:
    tensors, metadata = contents(path)
    name = next(name for name in tensors if name.endswith("query.P"))
    rewrite(path, {key: value for key, value in tensors.items() if key != name}, metadata)
    assert_refused(fresh, path, f"lacks tensor {name}")
    rewrite(path, tensors | {"extra": torch.zeros(1)}, metadata)
    assert_refused(fresh, path, "unknown tensor extra")
    rewrite(path, tensors | {name: tensors[name].T.contiguous()}, metadata)
    assert_refused(fresh, path, rf"shape of {name} = \[4, 32\]: allowed is \[32, 4\]")
    rewrite(path, tensors | {name: tensors[name].to(torch.int32)}, metadata)
    assert_refused(fresh, path, f"type of {name} = 'I32'")


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_values_that_are_not_finite_are_refused(value: float, fresh: AdaptedModel, path: Path) -> None:
    tensors, metadata = contents(path)
    name = list(tensors)[-1]
    tensors[name].view(-1)[0] = value
    rewrite(path, tensors, metadata)
    assert_refused(fresh, path, f"{name} holds values that are not finite")


def test_values_that_overflow_the_dtype_of_the_model_are_refused(fresh: AdaptedModel, path: Path) -> None:
    tensors, metadata = contents(path)
    name = next(iter(tensors))
    rewrite(path, tensors | {name: tensors[name].double() + 1e300}, metadata)
    assert_refused(fresh, path, "not finite")


def test_reading_metadata_of_a_damaged_or_missing_file_fails(tmp_path: Path) -> None:
    (tmp_path / "junk").write_bytes(b"junk" * 10)
    for name in ("none", "junk"):
        with pytest.raises(AdapterError, match=name):
            read_adapter_metadata(tmp_path / name)


@pytest.mark.parametrize("settings", [{"x": float("nan")}, {"x": object()}])
def test_settings_that_json_cannot_represent_are_refused(
    settings: dict[str, object], adapted: Make, tmp_path: Path
) -> None:
    with pytest.raises(SettingsError, match="JSON"):
        save_adapter(adapted("bert"), tmp_path / "a", settings=settings)
    assert list(tmp_path.iterdir()) == []


def test_saving_into_a_missing_folder_fails(adapted: Make, tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="cannot write"):
        save_adapter(adapted("bert"), tmp_path / "none" / "a", settings={})


def test_fingerprint_is_unchanged_by_injection_and_training(family: str, tiny: Tiny) -> None:
    model = tiny(family)
    before = base_fingerprint(model)
    adapted = inject(model, r_max=2, seed=0)
    assert base_fingerprint(model) == before
    with torch.no_grad():
        for parameter in adapted.trainable_parameters():
            parameter.add_(1.0)
    assert base_fingerprint(model) == before
    adapted.eject()
    assert base_fingerprint(model) == before


def test_fingerprint_depends_on_every_base_tensor(tiny: Tiny) -> None:
    model = tiny("gpt2")
    prints = {base_fingerprint(model)}
    base = {name: tensor for name, tensor in model.state_dict().items() if not name.startswith("score.")}
    for tensor in base.values():
        tensor.view(-1)[-1] += 1
        prints.add(base_fingerprint(model))
    assert len(prints) == len(base) + 1


def test_fingerprint_depends_on_names_and_dtypes(tiny: Tiny) -> None:
    layer = nn.Linear(2, 2)
    prints = [
        base_fingerprint(nn.ModuleDict({"a": layer})),
        base_fingerprint(nn.ModuleDict({"b": layer})),
        base_fingerprint(nn.ModuleDict({"a": nn.Linear(2, 2).to(torch.bfloat16)})),
    ]
    assert len(set(prints)) == 3
    assert base_fingerprint(tiny("opt")) == base_fingerprint(tiny("opt"))
    assert base_fingerprint(tiny("opt")) != base_fingerprint(tiny("opt", seed=1))


def test_fingerprint_computed_by_hand() -> None:
    layer = nn.Linear(1, 1, bias=False)
    nn.init.ones_(layer.weight)
    # 1.0 in float32, little-endian
    text = b'["weight", "torch.float32", [1, 1]]' + bytes([0, 0, 0x80, 0x3F])
    rounded = b'["weight", "torch.bfloat16", [1, 1]]' + bytes([0x80, 0x3F])
    halves = [hashlib.sha256(own).hexdigest()[:32] for own in (text, rounded)]
    assert base_fingerprint(layer) == "".join(halves)


def test_fingerprints_tell_at_which_level_two_models_are_the_same(tiny: Tiny) -> None:
    model, half, other = tiny("opt"), tiny("opt").to(torch.bfloat16), tiny("opt", seed=1)
    own, rounded, foreign = (base_fingerprint(each) for each in (model, half, other))
    assert is_same_base(own, base_fingerprint(tiny("opt")))
    assert not is_same_base(own, rounded)
    assert is_same_base(own, rounded, "bfloat16")
    assert is_same_base(rounded, base_fingerprint(half.float()), "bfloat16")
    assert not is_same_base(own, foreign, "bfloat16")
    # The digest that was a fingerprint before the second level.
    digest = hashlib.sha256()
    tensors = {name: value for name, value in model.state_dict().items() if not name.startswith("score.")}
    for name, value in sorted(tensors.items()):
        digest.update(json.dumps([name, str(value.dtype), list(value.shape)]).encode())
        digest.update(value.numpy().tobytes())
    assert is_same_base(digest.hexdigest(), own)
    assert not is_same_base(digest.hexdigest(), rounded, "bfloat16")


@pytest.mark.parametrize("head_modules", [None, (), ("pooler", "classifier")])
def test_fingerprint_omits_the_head(head_modules: tuple[str, ...] | None, tiny: Tiny) -> None:
    model = tiny("bert")
    before = base_fingerprint(model, head_modules=head_modules)
    with torch.no_grad():
        model.classifier.weight.add_(1.0)
    assert (base_fingerprint(model, head_modules=head_modules) == before) == (head_modules != ())
    before = base_fingerprint(model, head_modules=head_modules)
    with torch.no_grad():
        model.bert.pooler.dense.weight.add_(1.0)
    assert (base_fingerprint(model, head_modules=head_modules) == before) == (head_modules == ("pooler", "classifier"))
