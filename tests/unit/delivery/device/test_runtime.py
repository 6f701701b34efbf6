"""Models that follow the state of a device."""

from __future__ import annotations

import copy
import itertools
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from transformers import BertConfig, BertForSequenceClassification

from airlora.adapters import base_fingerprint, draw_modules, inject
from airlora.codec import DenseTensor, ModuleUpdate, StreamHeader, encode_stream
from airlora.delivery import (
    AgentConfig,
    AttachedModel,
    DownloadTarget,
    SignedRepository,
    StateFolder,
    attach,
    publish_stream,
    visit,
)
from airlora.delivery.device import runtime
from airlora.errors import AdapterError
from delivery import FakeTransport, make_repository

TOKENS = torch.tensor([[1, 5, 9, 3]])


def make_model(seed: int = 0) -> BertForSequenceClassification:
    torch.manual_seed(seed)
    config = BertConfig(
        vocab_size=30, hidden_size=32, num_hidden_layers=3, num_attention_heads=2, intermediate_size=64, num_labels=2
    )
    return BertForSequenceClassification(config).eval()


def make_stream(
    seed: int, r_max: int = 3, *, with_head: bool = True, chosen: Any = None, drawn: Any = None, **form: Any
) -> bytes:
    model = make_model()
    if drawn == ["bert.pooler.dense"]:
        draw_modules(model, drawn)
    adapted = inject(copy.deepcopy(model), r_max=r_max, seed=0, **form)
    generator = np.random.default_rng(seed)
    updates = {
        name: ModuleUpdate(
            generator.standard_normal((shape.d_out, r_max)),
            0.3 * generator.standard_normal((r_max, shape.d_in)),
            np.geomspace(1, 0.5, r_max),
        )
        for name, shape in adapted.shapes.items()
    }
    head = {
        name: DenseTensor(generator.standard_normal(tuple(value.shape)), 1.0)
        for name, value in adapted.head_state().items()
        if with_head
    }
    shapes = {name: tensor.values.shape for name, tensor in head.items()}
    metadata = ({} if chosen is None else {"set": chosen}) | ({} if drawn is None else {"drawn": drawn})
    header = StreamHeader(base_fingerprint(model), adapted.shapes, shapes, r_max=r_max, metadata=metadata)
    return encode_stream(header, updates, head, max_distortion=0.002)


@pytest.fixture
def repository(tmp_path: Path) -> SignedRepository:
    repository = make_repository(tmp_path)
    publish_stream(repository, make_stream(1))
    return repository


def update(repository: SignedRepository, folder: StateFolder, **wish: int) -> None:
    found = visit(
        folder, AgentConfig("http://x", target=DownloadTarget(**wish)), FakeTransport(repository.folder), seed=0
    )
    assert found.error is None


def logits(model: torch.nn.Module) -> torch.Tensor:
    with torch.no_grad():
        return model(TOKENS).logits.clone()


def reference(stream: bytes) -> torch.Tensor:
    """Return the logits of a model whose weights include the updates."""
    from airlora.codec import decode_stream

    model, decoded = make_model(), decode_stream(stream)
    with torch.no_grad():
        for name, (U, V) in decoded.modules.items():
            change = torch.from_numpy(U @ V)
            weight = model.get_submodule(name.removesuffix(".in").removesuffix(".out")).weight
            weight += weight @ change if name.endswith(".in") else change @ weight if name.endswith(".out") else change
        for name, value in decoded.tensors.items():
            model.get_parameter(name).copy_(torch.from_numpy(value))
    return logits(model)


def test_the_model_computes_with_the_adapter_of_the_device(repository: SignedRepository, tmp_path: Path) -> None:
    folder = StateFolder(tmp_path / "state")
    model, base = make_model(), logits(make_model())
    attached = attach(model, folder.folder, check_every_s=0.0)
    assert attached.version is None
    assert torch.equal(logits(model), base)
    update(repository, folder)
    assert torch.allclose(logits(model), reference(make_stream(1)), atol=1e-5)
    assert attached.version == 1
    # The second release has a higher rank.
    publish_stream(repository, make_stream(2, r_max=5))
    update(repository, folder)
    assert torch.allclose(logits(model), reference(make_stream(2, r_max=5)), atol=1e-5)
    assert attached.version == 2
    assert not attached.refresh()


def test_the_model_follows_a_growing_prefix(repository: SignedRepository, tmp_path: Path) -> None:
    folder, stream = StateFolder(tmp_path / "state"), make_stream(1)
    update(repository, folder, max_bytes=len(stream) * 2 // 3)
    model = make_model()
    attached = attach(model, folder.folder, check_every_s=0.0)
    part = attached.num_bytes
    assert 0 < part < len(stream)
    assert torch.allclose(logits(model), reference(stream[:part]), atol=1e-5)
    update(repository, folder)
    assert torch.allclose(logits(model), reference(stream), atol=1e-5)
    assert attached.num_bytes == len(stream)


def test_no_pass_mixes_two_releases(repository: SignedRepository, tmp_path: Path) -> None:
    folder = StateFolder(tmp_path / "state")
    update(repository, folder)
    streams = [make_stream(seed) for seed in range(1, 6)]
    wanted = torch.stack([reference(stream) for stream in streams])
    model = make_model()
    attached = attach(model, folder.folder, check_every_s=0.0)
    results: list[torch.Tensor] = []
    stop = threading.Event()

    def compute() -> None:
        while not stop.is_set():
            results.append(logits(model))

    threads = [threading.Thread(target=compute) for _ in range(4)]
    for thread in threads:
        thread.start()
    for stream in streams[1:]:
        publish_stream(repository, stream)
        update(repository, folder)
        time.sleep(0.1)
    time.sleep(0.2)
    stop.set()
    for thread in threads:
        thread.join()
    assert attached.version == 5
    nearest = (torch.stack(results)[:, None] - wanted[None]).abs().amax(dim=(2, 3)).min(dim=1)
    assert nearest.values.max() < 1e-4
    assert len(set(nearest.indices.tolist())) >= 3


def test_an_adapter_for_another_base_model_is_refused(repository: SignedRepository, tmp_path: Path) -> None:
    folder = StateFolder(tmp_path / "state")
    update(repository, folder)
    with pytest.raises(AdapterError, match="made for the base model"):
        attach(make_model(seed=1), folder.folder)


def test_a_base_model_in_bfloat16_is_accepted_unless_it_has_to_be_exact(
    repository: SignedRepository, tmp_path: Path
) -> None:
    folder = StateFolder(tmp_path / "state")
    update(repository, folder)
    with pytest.raises(AdapterError, match="made for the base model"):
        attach(make_model().to(torch.bfloat16), folder.folder, accept="exact")
    full, half = make_model(), make_model().to(torch.bfloat16)
    assert attach(full, folder.folder, accept="exact").version == attach(half, folder.folder).version == 1
    wanted, found = logits(full), logits(half).float()
    assert (wanted - found).abs().max() < 0.05 * wanted.abs().max()


def test_a_pass_does_not_fail_because_of_an_unusable_adapter(repository: SignedRepository, tmp_path: Path) -> None:
    folder, stream = StateFolder(tmp_path / "state"), make_stream(1)
    update(repository, folder)
    model = make_model()
    attached = attach(model, folder.folder, check_every_s=0.0)
    state = folder.load()
    # The state folder of a device with another base model.
    foreign = encode_foreign()
    folder.write_candidate("b", foreign)
    folder.accept_candidate("b")
    state.slots["b"] = state.running.model_copy(update={"version": 9, **described(foreign)})
    state.active = "b"
    folder.save(state)
    assert torch.allclose(logits(model), reference(stream), atol=1e-5)
    assert attached.version == 1
    assert isinstance(attached.error, AdapterError)


def test_a_release_that_fails_to_install_leaves_the_one_before(
    repository: SignedRepository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, stream = StateFolder(tmp_path / "state"), make_stream(1)
    update(repository, folder)
    model = make_model()
    attached = attach(model, folder.folder, check_every_s=0.0)
    publish_stream(repository, make_stream(2, r_max=5))
    update(repository, folder)
    real, calls = runtime.install_updates, []

    def fails_once(*arguments: Any) -> None:
        calls.append(arguments)
        if len(calls) == 1:
            raise RuntimeError("out of memory")
        real(*arguments)

    monkeypatch.setattr(runtime, "install_updates", fails_once)
    assert torch.allclose(logits(model), reference(stream), atol=1e-5)
    assert attached.version == 1
    assert "out of memory" in str(attached.error)


def assert_ends(thread: threading.Thread) -> None:
    thread.start()
    thread.join(20)
    assert not thread.is_alive()


def test_an_interrupted_pass_does_not_block_a_replacement(repository: SignedRepository, tmp_path: Path) -> None:
    folder = StateFolder(tmp_path / "state")
    model = make_model()
    attached = attach(model, folder.folder)

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    hook = model.bert.register_forward_pre_hook(interrupt)
    with pytest.raises(KeyboardInterrupt):
        logits(model)
    hook.remove()
    update(repository, folder)
    assert_ends(threading.Thread(target=attached.refresh, daemon=True))
    assert attached.version == 1
    assert_ends(threading.Thread(target=attached.detach, daemon=True))
    assert torch.isfinite(logits(model)).all()


def test_overlapping_passes_do_not_delay_a_replacement_for_ever(repository: SignedRepository, tmp_path: Path) -> None:
    folder = StateFolder(tmp_path / "state")
    model = make_model()
    slow = model.bert.register_forward_pre_hook(lambda *_: time.sleep(0.05))
    attached = attach(model, folder.folder, check_every_s=1000.0)
    stop = threading.Event()

    def compute(delay_s: float) -> None:
        time.sleep(delay_s)
        while not stop.is_set():
            logits(model)

    threads = [threading.Thread(target=compute, args=(delay_s,), daemon=True) for delay_s in (0.0, 0.03)]
    for thread in threads:
        thread.start()
    update(repository, folder)
    assert_ends(threading.Thread(target=attached.refresh, daemon=True))
    stop.set()
    for thread in threads:
        thread.join(20)
    slow.remove()
    assert attached.version == 1


def test_a_replacement_from_within_a_pass_is_refused(repository: SignedRepository, tmp_path: Path) -> None:
    folder = StateFolder(tmp_path / "state")
    model = make_model()
    attached = attach(model, folder.folder)
    hook = model.bert.register_forward_pre_hook(lambda *_: attached.detach() and None)
    with pytest.raises(AdapterError, match="within a forward pass"):
        logits(model)
    hook.remove()
    update(repository, folder)
    assert attached.refresh()


def test_an_unreadable_state_sets_the_error_and_passes_continue(
    repository: SignedRepository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = StateFolder(tmp_path / "state")
    model = make_model()
    attached = attach(model, folder.folder, check_every_s=0.0)
    update(repository, folder)

    def denied(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    with monkeypatch.context() as patch:
        patch.setattr(StateFolder, "load", denied)
        logits(model)
    assert isinstance(attached.error, PermissionError)
    attached.refresh()
    assert attached.version == 1


def encode_foreign() -> bytes:
    from delivery import make_stream as make_other

    return make_other(3)


def described(stream: bytes) -> dict[str, object]:
    from airlora.codec import describe

    value = describe(stream)
    return {"digest": value["digest"], "num_bytes": len(stream), "num_segments": value["num_segments"]}


def test_a_detached_model_is_the_base_model_again(repository: SignedRepository, tmp_path: Path) -> None:
    folder = StateFolder(tmp_path / "state")
    update(repository, folder)
    model = make_model()
    attached = attach(model, folder.folder)
    assert not torch.equal(logits(model), logits(make_model()))
    detached = attached.detach()
    assert torch.equal(logits(model), logits(make_model()))
    assert {type(module).__name__ for module in detached.modules()} == {
        type(module).__name__ for module in make_model().modules()
    }


@pytest.mark.parametrize("r_max", [3, 5])
def test_a_release_without_a_classification_head_uses_the_one_of_the_model(
    repository: SignedRepository, tmp_path: Path, r_max: int
) -> None:
    folder = StateFolder(tmp_path / "state")
    update(repository, folder)
    model = make_model()
    attached = attach(model, folder.folder, check_every_s=0.0)
    stream = make_stream(2, r_max, with_head=False)
    publish_stream(repository, stream)
    update(repository, folder)
    assert torch.allclose(logits(model), reference(stream), atol=1e-5)
    assert attached.version == 2
    publish_stream(repository, make_stream(3))
    update(repository, folder)
    assert torch.allclose(logits(model), reference(make_stream(3)), atol=1e-5)


def test_a_failed_installation_is_repeated(
    repository: SignedRepository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = StateFolder(tmp_path / "state")
    update(repository, folder)
    model = make_model()
    attached = attach(model, folder.folder, check_every_s=0.0)
    publish_stream(repository, make_stream(2))
    update(repository, folder)

    def fails(*_: object) -> None:
        raise MemoryError("no memory")

    with monkeypatch.context() as patch:
        patch.setattr("airlora.delivery.device.runtime.install_updates", fails)
        # Neither the new adapter nor the one before can be installed.
        logits(model)
    assert isinstance(attached.error, MemoryError)
    assert torch.allclose(logits(model), reference(make_stream(2)), atol=1e-5)
    assert (attached.version, attached.error) == (2, None)


def test_waits_between_failed_installations_double(
    repository: SignedRepository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = StateFolder(tmp_path / "state")
    update(repository, folder)
    clock = SimpleNamespace(monotonic=lambda: clock.now)
    clock.now = 0.0
    monkeypatch.setattr("airlora.delivery.device.runtime.time", clock)
    model = make_model()
    attached = attach(model, folder.folder, check_every_s=1.0)
    publish_stream(repository, make_stream(2, chosen=[]))
    update(repository, folder)
    tries, read = [], AttachedModel._read

    def counted(self: AttachedModel) -> object:
        tries.append(clock.now)
        return read(self)

    monkeypatch.setattr(AttachedModel, "_read", counted)
    for _ in range(300):
        clock.now += 1.0
        logits(model)
    assert [later - before for before, later in itertools.pairwise(tries)][:7] == [
        2.0,
        4.0,
        8.0,
        16.0,
        32.0,
        60.0,
        60.0,
    ]
    assert "settings []" in str(attached.error)
    assert torch.allclose(logits(model), reference(make_stream(1)), atol=1e-5)


def test_releases_may_alternate_between_weight_and_residual_updates(
    repository: SignedRepository, tmp_path: Path
) -> None:
    folder, model = StateFolder(tmp_path / "state"), make_model()
    update(repository, folder)
    attach(model, folder.folder, check_every_s=0.0)
    other = make_stream(2, chosen={"adapter.ffn_update": "residual"}, ffn_update="residual")
    for stream in (other, make_stream(3)):
        publish_stream(repository, stream)
        update(repository, folder)
        assert torch.allclose(logits(model), reference(stream), atol=1e-5)


@pytest.mark.parametrize("form", ["both", "residual"])
def test_a_release_with_the_wrong_update_form_is_refused(
    repository: SignedRepository, tmp_path: Path, form: str
) -> None:
    folder, model = StateFolder(tmp_path / "state"), make_model()
    update(repository, folder)
    attached = attach(model, folder.folder, check_every_s=0.0)
    before = logits(model)
    publish_stream(repository, make_stream(2, chosen={"adapter.ffn_update": form}))
    update(repository, folder)
    assert torch.equal(logits(model), before)
    assert attached.error is not None


@pytest.mark.parametrize(
    "chosen",
    [
        [],
        "x",
        {"adapter.head_modules": 5},
        {"adapter.target_modules": ["a", 1]},
        {"adapter.ffn_update": "both"},
        {"adapter.ffn_update": ["residual"]},
    ],
)
def test_invalid_settings_in_a_stream_header_are_named(
    repository: SignedRepository, tmp_path: Path, chosen: object
) -> None:
    publish_stream(repository, make_stream(2, chosen=chosen))
    folder = StateFolder(tmp_path / "state")
    update(repository, folder)
    with pytest.raises(AdapterError, match="allowed is a list of names|allowed is an object|allowed is 'weight' or"):
        attach(make_model(), folder.folder)


def test_a_missing_pooler_is_that_of_the_sender_until_the_model_is_detached(tmp_path: Path) -> None:
    repository = make_repository(tmp_path)
    publish_stream(repository, make_stream(1, drawn=["bert.pooler.dense"]))
    folder = StateFolder(tmp_path / "state")
    update(repository, folder)
    wanted, model = make_model(), make_model()
    draw_modules(wanted, ["bert.pooler.dense"])
    # The device's own pooler is another one, as `transformers` draws it anew at every load.
    with torch.no_grad():
        model.bert.pooler.dense.weight.normal_()
    own = model.bert.pooler.dense.weight.clone()
    attached = attach(model, tmp_path / "state")
    assert attached.version == 1
    assert torch.equal(model.bert.pooler.dense.weight, wanted.bert.pooler.dense.weight)
    # A release for the whole base model, pooler included, is another base model.
    publish_stream(repository, make_stream(2))
    update(repository, folder)
    with pytest.raises(AdapterError, match="made for the base model"):
        attached.refresh()
    assert attached.version == 1
    assert torch.equal(model.bert.pooler.dense.weight, wanted.bert.pooler.dense.weight)
    attached.detach()
    assert torch.equal(model.bert.pooler.dense.weight, own)


@pytest.mark.parametrize(
    "drawn", ["bert.pooler.dense", ["bert.encoder"], ["other.pooler"], ["bert.pooler.dense", "bert.pooler.dense"]]
)
def test_only_poolers_of_the_model_are_drawn(tmp_path: Path, drawn: Any) -> None:
    repository = make_repository(tmp_path)
    publish_stream(repository, make_stream(1, drawn=drawn))
    update(repository, StateFolder(tmp_path / "state"))
    model = make_model()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(
        AdapterError, match="allowed is a list of up to 4 different poolers|which the model does not have"
    ):
        attach(model, tmp_path / "state")
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
