"""The adapter in a training loop of the user."""

from pathlib import Path

import pytest
import torch
from transformers import AutoModel, AutoModelForCausalLM, AutoModelForSequenceClassification

import airlora
from airlora.adapters import dense_reference, draw_modules
from airlora.codec import decode_stream
from airlora.errors import AdapterError, CodecError, ModelError, SettingsError


def tokens() -> torch.Tensor:
    return torch.randint(4, 30, (6, 9), generator=torch.Generator().manual_seed(0))


def classifier(folder: Path) -> torch.nn.Module:
    return AutoModelForSequenceClassification.from_pretrained(folder).eval()


@pytest.fixture
def batch() -> dict[str, torch.Tensor]:
    mask = torch.ones(6, 9, dtype=torch.int64)
    mask[1, 5:] = 0
    return {"input_ids": tokens(), "attention_mask": mask, "labels": torch.tensor([0, 1, 0, 1, 0, 1])}


def trained(folder: Path, batch: dict[str, torch.Tensor]) -> airlora.AdaptedModel:
    model = classifier(folder)
    adapted = airlora.wrap(model, r_max=4)
    optimizer = torch.optim.AdamW([own for own in model.parameters() if own.requires_grad], lr=0.02)
    adapted.set_ranks([4] * len(adapted.shapes))
    for _ in range(20):
        model(**batch).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return adapted


def test_a_stream_and_an_export_have_the_logits_of_the_loop(
    tiny_model: Path, batch: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    adapted = trained(tiny_model, batch)
    inputs = {name: own for name, own in batch.items() if name != "labels"}
    with torch.no_grad():
        wanted = adapted.model(**inputs).logits
        stream = airlora.pack(adapted, bits=32)
        received = airlora.load_stream(classifier(tiny_model), stream)
        found = received.model(**inputs).logits
    # Streams do not send the mean over the classes.
    torch.testing.assert_close(found.diff(dim=1), wanted.diff(dim=1), atol=1e-5, rtol=1e-4)
    assert not torch.allclose(wanted, classifier(tiny_model)(**inputs).logits, atol=1e-2)
    assert airlora.export(received, tmp_path / "peft").has_head


def test_packing_leaves_the_loop_where_it_was(tiny_model: Path, batch: dict[str, torch.Tensor]) -> None:
    adapted = trained(tiny_model, batch)
    adapted.model.train()
    adapted.model(**batch).loss.backward()
    before = [None if own.grad is None else own.grad.clone() for own in adapted.model.parameters()]
    airlora.pack(adapted, max_bytes=3000, calibration=[batch])
    assert adapted.model.training
    for own, gradient in zip(adapted.model.parameters(), before, strict=True):
        assert (own.grad is None) == (gradient is None)
        assert gradient is None or torch.equal(own.grad, gradient)


def test_a_model_without_its_adapter_is_saved_whole(
    tiny_model: Path, batch: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    adapted = trained(tiny_model, batch)
    merged = dense_reference(adapted)
    merged.save_pretrained(tmp_path / "merged")
    inputs = {name: own for name, own in batch.items() if name != "labels"}
    with torch.no_grad():
        wanted = adapted.model(**inputs).logits
        found = classifier(tmp_path / "merged")(**inputs).logits
        torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-4)
        adapted.model.save_pretrained(tmp_path / "second", is_main_process=False)
        assert not (tmp_path / "second").exists()
        base = adapted.eject()
        base.save_pretrained(tmp_path / "base")
        torch.testing.assert_close(classifier(tmp_path / "base")(**inputs).logits, base(**inputs).logits)


def test_samples_are_padded_as_the_model_expects(tiny_decoder: Path) -> None:
    model = AutoModelForSequenceClassification.from_pretrained(tiny_decoder, num_labels=2).eval()
    model.config.pad_token_id = 3
    adapted = airlora.wrap(model, r_max=2)
    ids, mask = tokens()[:2], torch.ones(2, 9, dtype=torch.int64)
    ids[1, 5:], mask[1, 5:] = 3, 0
    both = {"input_ids": ids, "attention_mask": mask, "labels": torch.tensor([0, 1])}
    apart = [{name: own[row : row + 1] for name, own in both.items()} for row in (0, 1)]
    apart[1] = {name: own[:, :5] if own.dim() == 2 else own for name, own in apart[1].items()}
    assert airlora.pack(adapted, max_bytes=2000, calibration=[both]) == airlora.pack(
        adapted, max_bytes=2000, calibration=apart
    )


def test_calibration_samples_decide_the_order(tiny_model: Path, batch: dict[str, torch.Tensor]) -> None:
    adapted = trained(tiny_model, batch)
    by_value, by_loss = (
        airlora.pack(adapted, max_bytes=3000),
        airlora.pack(adapted, max_bytes=3000, calibration=[batch]),
    )
    assert by_value != by_loss
    for stream in (by_value, by_loss):
        assert len(stream) <= 3000
        assert decode_stream(stream, strict=True).num_components > 0
    padded = {name: torch.cat([own, own[:, :1]], dim=1) if own.dim() == 2 else own for name, own in batch.items()}
    padded["attention_mask"][:, -1] = 0
    assert airlora.pack(adapted, max_bytes=3000, calibration=[padded]) == by_loss


def test_chosen_projections_are_found_by_the_receiver(tiny_decoder: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(tiny_decoder)
    adapted = airlora.wrap(model, r_max=2, target_modules=["q_proj", "down_proj"])
    adapted.set_ranks([2] * len(adapted.shapes))
    with torch.no_grad():
        for update in adapted.updates.values():
            update.P.normal_()
    received = airlora.load_stream(AutoModelForCausalLM.from_pretrained(tiny_decoder), airlora.pack(adapted, bits=32))
    assert received.shapes == adapted.shapes
    with torch.no_grad():
        torch.testing.assert_close(received.model(tokens()).logits, model(tokens()).logits, atol=1e-4, rtol=1e-4)


def test_a_base_model_in_bfloat16_is_accepted_unless_it_has_to_be_exact(tiny_decoder: Path) -> None:
    adapted = airlora.wrap(AutoModelForCausalLM.from_pretrained(tiny_decoder), r_max=2)
    adapted.set_ranks([2] * len(adapted.shapes))
    with torch.no_grad():
        for update in adapted.updates.values():
            update.P.normal_(std=0.1)
    stream, half = (
        airlora.pack(adapted, bits=32),
        AutoModelForCausalLM.from_pretrained(tiny_decoder, dtype=torch.bfloat16),
    )
    with pytest.raises(AdapterError, match="made for the base model"):
        airlora.load_stream(half, stream, accept="exact")
    received = airlora.load_stream(half, stream)
    with torch.no_grad():
        wanted, found = adapted.model(tokens()).logits, received.model(tokens()).logits.float()
    assert (wanted - found).abs().max() < 0.05 * wanted.abs().max()


def test_models_and_streams_that_do_not_fit_are_refused(
    tiny_model: Path, tiny_decoder: Path, batch: dict[str, torch.Tensor]
) -> None:
    stream = airlora.pack(trained(tiny_model, batch), max_bytes=3000)
    other = classifier(tiny_model)
    with torch.no_grad():
        next(other.parameters()).add_(1.0)
    with pytest.raises(AdapterError, match="made for the base model"):
        airlora.load_stream(other, stream)
    with pytest.raises(CodecError, match="stream"):
        airlora.load_stream(classifier(tiny_model), stream[:60])
    with pytest.raises(SettingsError, match="accept_base = 'bf16'"):
        airlora.load_stream(classifier(tiny_model), stream, accept="bf16")
    several = classifier(tiny_model)
    several.config.problem_type = "multi_label_classification"
    with pytest.raises(ModelError, match="classifiers with one label"):
        airlora.pack(airlora.wrap(several))
    with pytest.raises(ModelError, match="streams are for classifiers"):
        airlora.pack(airlora.wrap(AutoModel.from_pretrained(tiny_model)))
    adapted = airlora.wrap(AutoModelForCausalLM.from_pretrained(tiny_decoder), r_max=2)
    with pytest.raises(SettingsError, match="max_distortion = 0.2: allowed is none beside max_bytes"):
        airlora.pack(adapted, max_bytes=3000, max_distortion=0.2)
    with pytest.raises(SettingsError, match="calibration: tensors of a batch = 'input_ids': allowed is input_ids and"):
        airlora.pack(adapted, calibration=[{"input_ids": tokens()}])


def test_a_refused_stream_leaves_the_model_as_it_was(tiny_model: Path, batch: dict[str, torch.Tensor]) -> None:
    sender = classifier(tiny_model)
    draw_modules(sender, ["bert.pooler.dense"])
    stream = airlora.pack(airlora.wrap(sender, r_max=2), max_bytes=3000)
    other = classifier(tiny_model)
    with torch.no_grad():
        next(other.parameters()).add_(1.0)
    before = {name: value.clone() for name, value in other.state_dict().items()}
    with pytest.raises(AdapterError, match="made for the base model"):
        airlora.load_stream(other, stream)
    assert all(torch.equal(value, before[name]) for name, value in other.state_dict().items())
    assert not other.drawn_modules
    # With the pooler of the sender, another one in the file does not matter.
    received = airlora.load_stream(classifier(tiny_model), stream)
    assert received.drawn_modules == ("bert.pooler.dense",)
