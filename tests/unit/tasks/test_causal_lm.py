import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import AutoModelForCausalLM, AutoTokenizer, BertConfig, BertLMHeadModel, PreTrainedTokenizerFast

from airlora.errors import DataError, ModelError
from airlora.tasks import CausalLM, EncodedData, evaluate, predict, token_losses
from airlora.text import Completion, CompletionDataset, Conversation, TokenizerVocabulary

TASK = CausalLM(sample_format="prompt-completion")
CPU = torch.device("cpu")
PAIRS = (("the film :", " good"), ("a plot :", " was not very good ."), ("bad :", " it was awful"))


@pytest.fixture(scope="module")
def tokenizer(tiny_decoder: Path) -> Any:
    return AutoTokenizer.from_pretrained(tiny_decoder)


@pytest.fixture(scope="module")
def model(tiny_decoder: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(tiny_decoder).eval()


def encoded(tokenizer: Any, *samples: Any, task: CausalLM = TASK, max_length: int = 32) -> EncodedData:
    data = CompletionDataset(samples, task.sample_format, "data")
    return task.encode(data, tokenizer, TokenizerVocabulary(tokenizer), max_length)


def words(tokenizer: Any, ids: Any) -> list[str]:
    return list(tokenizer.convert_ids_to_tokens([int(own) for own in ids if own >= 0]))


def test_the_completion_and_the_end_of_text_count(tokenizer: Any) -> None:
    data = encoded(tokenizer, Completion("the film :", " was good"))
    assert words(tokenizer, data.columns["input_ids"][0]) == ["<s>", "the", "film", ":", "was", "good", "</s>"]
    assert data.targets[0].tolist()[:4] == [-100] * 4
    assert words(tokenizer, data.targets[0]) == ["was", "good", "</s>"]


def test_all_tokens_of_a_text_count(tokenizer: Any) -> None:
    data = encoded(tokenizer, Completion("", "the film"), task=CausalLM(sample_format="text"))
    assert words(tokenizer, data.targets[0])[-3:] == ["the", "film", "</s>"]


def test_the_messages_of_the_assistant_count(tokenizer: Any) -> None:
    turns = (("user", "film"), ("assistant", "good ."), ("user", "plot"), ("assistant", "bad"))
    data = encoded(tokenizer, Conversation(turns), task=CausalLM(sample_format="messages"))
    assert words(tokenizer, data.targets[0]) == ["good", ".", "</s>", "bad", "</s>"]
    assert words(tokenizer, data.columns["input_ids"][0])[:3] == ["<user>", "film", "</s>"]


def test_answers_in_a_prompt_do_not_count(tokenizer: Any) -> None:
    turns = (("user", "film"), ("assistant", "good ."), ("user", "plot"), ("assistant", "bad"))
    data = encoded(tokenizer, Conversation(turns, num_prompt=3), task=CausalLM(sample_format="prompt-completion"))
    assert words(tokenizer, data.targets[0]) == ["bad", "</s>"]


def test_a_template_that_refuses_a_conversation_is_named(tokenizer: Any) -> None:
    strict = AutoTokenizer.from_pretrained(tokenizer.name_or_path)
    strict.chat_template = "{% if messages[0]['role'] != 'user' %}{{ raise_exception('user first') }}{% endif %}x"
    with pytest.raises(DataError, match=r"data, sample 0: the chat template .* roles system, assistant: user first"):
        encoded(strict, Conversation((("system", "a"), ("assistant", "b"))))


def test_a_conversation_may_begin_with_the_assistant(tokenizer: Any) -> None:
    data = encoded(tokenizer, Conversation((("assistant", "good"), ("user", "film"), ("assistant", "bad"))))
    assert words(tokenizer, data.targets[0])[-2:] == ["bad", "</s>"]


def test_a_token_that_spans_prompt_and_completion_counts(caplog: pytest.LogCaptureFixture) -> None:
    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trained = trainers.BpeTrainer(special_tokens=["<end>"], initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    inner.train_from_iterator(["label: positive"] * 50, trained)
    special = {"eos_token": "<end>", "pad_token": "<end>"}
    bytes_tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, **special)
    data = encoded(bytes_tokenizer, Completion("label: ", "positive"), Completion("label:", " positive"))
    assert "1 of 2 prompts end in white space" in caplog.text
    for targets in data.targets:
        assert bytes_tokenizer.convert_ids_to_tokens(targets[targets >= 0].tolist()) == ["Ġpositive", "<end>"]


def test_a_template_that_changes_earlier_messages_is_refused(tokenizer: Any) -> None:
    changed = AutoTokenizer.from_pretrained(tokenizer.name_or_path)
    changed.chat_template = "{{ messages | length }}{% for message in messages %}{{ message['content'] }}{% endfor %}"
    with pytest.raises(ModelError, match=r"chat template of the model changes earlier messages"):
        encoded(changed, Conversation((("user", "a"), ("assistant", "film"), ("user", "a"), ("assistant", "b"))))
    changed.chat_template = None
    with pytest.raises(ModelError, match=r"no chat template"):
        encoded(changed, Conversation((("user", "a"), ("assistant", "film"))))


def test_a_prompt_that_takes_all_tokens_is_refused(tokenizer: Any) -> None:
    with pytest.raises(DataError, match=r"data, sample 1: tokens = 7.*among the first 5; the limit is data.max_length"):
        encoded(tokenizer, Completion("a", " film"), Completion("the film is :", " good"), max_length=5)


def test_packed_texts_fill_every_sample(tokenizer: Any) -> None:
    task = CausalLM(sample_format="text", packing=True)
    texts = [Completion("", text) for text in ("the film was good", "a plot", "it was bad and awful")]
    apart = encoded(tokenizer, *texts, task=CausalLM(sample_format="text"))
    data = encoded(tokenizer, *texts, task=task, max_length=4)
    together = np.concatenate(apart.columns["input_ids"])
    assert {len(ids) for ids in data.columns["input_ids"]} == {4}
    assert np.concatenate(data.columns["input_ids"]).tolist() == together[: len(data) * 4].tolist()
    assert len(together) - len(data) * 4 < 4


@pytest.mark.parametrize("chunk", [1, 7, 1 << 25])
def test_losses_and_gradients_are_those_of_the_whole_logits(
    tokenizer: Any, model: Any, monkeypatch: pytest.MonkeyPatch, chunk: int
) -> None:
    monkeypatch.setattr("airlora.tasks.next_token.CHUNK_LOGITS", chunk * model.config.vocab_size)
    batch = encoded(tokenizer, *(Completion(*pair) for pair in PAIRS)).batch([0, 1, 2], CPU)
    inputs = {name: own for name, own in batch.items() if name != "labels"}
    wanted = model(**inputs, labels=batch["labels"]).loss
    found = TASK.batch_loss(model, batch)
    assert found.item() == pytest.approx(wanted.item(), rel=1e-5)
    assert TASK.loss(model(**inputs).logits, batch).item() == pytest.approx(wanted.item(), rel=1e-5)
    weight = model.model.layers[0].mlp.up_proj.weight
    torch.testing.assert_close(*(torch.autograd.grad(own, weight)[0] for own in (found, wanted)))


def test_a_model_that_scales_its_logits_keeps_its_loss(tokenizer: Any, model: Any) -> None:
    class Scaled(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = model

        def get_output_embeddings(self) -> torch.nn.Module:
            return self.inner.get_output_embeddings()

        def forward(self, **inputs: torch.Tensor) -> Any:
            output = self.inner(**inputs)
            output.logits = 3.0 * output.logits
            return output

    batch = encoded(tokenizer, *(Completion(*pair) for pair in PAIRS)).batch([0, 1, 2], CPU)
    inputs = {name: own for name, own in batch.items() if name != "labels"}
    wanted, scaled = TASK.loss(3.0 * model(**inputs).logits, batch), Scaled()
    for _ in range(2):
        torch.testing.assert_close(token_losses(scaled, batch)[0].mean(), wanted)


def test_metrics_are_means_over_tokens(tokenizer: Any, model: Any) -> None:
    data = encoded(tokenizer, *(Completion(*pair) for pair in PAIRS))
    found = predict(model, data, CPU, batch_size=2)
    losses, is_right = token_losses(model, data.batch([0, 1, 2], CPU))
    values = found.evaluation.values
    assert values["loss"] == pytest.approx(losses.mean().item(), rel=1e-5)
    assert values["perplexity"] == pytest.approx(math.exp(values["loss"]))
    assert values["token_accuracy"] == pytest.approx(is_right.float().mean().item())
    assert found.evaluation.primary.name == "perplexity"
    rows = found.rows()
    assert [row["num_tokens"] for row in rows] == [2, 6, 4]
    assert sum(row["loss"] * row["num_tokens"] for row in rows) / 12 == pytest.approx(values["loss"], rel=1e-5)
    assert evaluate(model, data, CPU).loss == pytest.approx(values["loss"], rel=1e-5)


def test_the_distillation_loss_is_zero_for_the_teacher(tokenizer: Any, model: Any) -> None:
    batch = encoded(tokenizer, *(Completion(*pair) for pair in PAIRS)).batch([0, 1], CPU)
    logits = model(**{name: own for name, own in batch.items() if name != "labels"}).logits
    assert TASK.distillation_loss(logits, logits, batch).item() == pytest.approx(0.0, abs=1e-6)
    assert TASK.distillation_loss(logits, torch.zeros_like(logits), batch).item() > 0
    assert TASK.num_targets(batch) == 8


def test_the_format_of_the_training_data_is_that_of_held_out_data(
    tmp_path: Path, tiny_prompts: tuple[Path, Path]
) -> None:
    from airlora.tasks import DataSettings

    settings = DataSettings(train=str(tiny_prompts[0]), eval=str(tiny_prompts[1]))
    task, data = CausalLM.from_data(settings)
    assert (task, len(data), len(task.read(settings))) == (TASK, 240, 40)
    (tmp_path / "other.jsonl").write_text(json.dumps({"text": "the film"}) + "\n")
    with pytest.raises(DataError, match=r"column 'prompt' is missing"):
        task.read(settings, str(tmp_path / "other.jsonl"))
    with pytest.raises(DataError, match=r"data.packing = true"):
        CausalLM.from_data(settings.model_copy(update={"packing": True}))
    with pytest.raises(DataError, match=r"task causal-lm: the embedded corpus"):
        CausalLM.from_data(DataSettings())


def test_a_model_that_reads_later_tokens_is_refused(model: Any) -> None:
    TASK.verify_model(model)
    config = BertConfig(
        vocab_size=30,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=24,
        is_decoder=False,
    )
    with pytest.raises(ModelError, match="BertLMHeadModel reads later tokens"):
        TASK.verify_model(BertLMHeadModel(config).eval())
