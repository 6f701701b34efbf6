"""The adapter in a training loop of the user."""

from pathlib import Path

import pytest
import torch
from transformers import AutoModel, AutoModelForCausalLM, AutoModelForSequenceClassification

import airlora
from airlora.codec import decode_stream
from airlora.errors import AdapterError, AirloraError, ModelError, SettingsError


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
    with pytest.raises(AirloraError, match="lack|header"):
        airlora.load_stream(classifier(tiny_model), stream[:300])
    with pytest.raises(ModelError, match="streams are for classifiers"):
        airlora.pack(airlora.wrap(AutoModel.from_pretrained(tiny_model)))
    adapted = airlora.wrap(AutoModelForCausalLM.from_pretrained(tiny_decoder), r_max=2)
    with pytest.raises(SettingsError, match="max_distortion = 0.2: allowed is none beside max_bytes"):
        airlora.pack(adapted, max_bytes=3000, max_distortion=0.2)
    with pytest.raises(SettingsError, match="calibration: allowed are batches"):
        airlora.pack(adapted, calibration=[{"input_ids": tokens()}])
