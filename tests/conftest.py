"""Fixtures that tests of several packages share."""

import os
from pathlib import Path

import hypothesis
import pytest

# The time of one example says nothing on a shared machine.
hypothesis.settings.register_profile("airlora", deadline=None, print_blob=True)
hypothesis.settings.load_profile("airlora")

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

WORDS = [
    "the",
    "a",
    "an",
    "of",
    "and",
    "but",
    "not",
    "is",
    "was",
    "film",
    "food",
    "phone",
    "great",
    "good",
    "fine",
    "bad",
    "awful",
    "poor",
    "very",
    "quite",
    "plot",
    "taste",
    "screen",
    "i",
    "it",
    "we",
    "liked",
    "loved",
    "hated",
    "found",
    "with",
    "without",
    "story",
    "service",
    "battery",
    "never",
    "always",
]


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a random two-layer BERT of hidden size 16 and a word-piece tokenizer."""
    import torch
    from transformers import BertConfig, BertForSequenceClassification, BertTokenizerFast

    folder = tmp_path_factory.mktemp("tiny-bert")
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS, *(f"##{c}" for c in "abcdefghijklmnopqrstuvwxyz")]
    vocab = folder / "vocab.txt"
    vocab.write_text("\n".join([*pieces, *"abcdefghijklmnopqrstuvwxyz."]) + "\n")
    BertTokenizerFast(vocab=str(vocab)).save_pretrained(folder)
    config = BertConfig(
        vocab_size=len(pieces) + 27,
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=64,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        BertForSequenceClassification(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_data(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Training and evaluation TSVs whose label is whether a word of praise is in the sentence."""
    import numpy as np

    folder = tmp_path_factory.mktemp("tiny-data")
    generator = np.random.default_rng(0)
    praise, blame = ["great", "good", "fine", "loved"], ["bad", "awful", "poor", "hated"]
    paths = []
    for name, count in (("train.tsv", 240), ("dev.tsv", 60)):
        lines = ["label\ttext"]
        for row in range(count):
            label = row % 2
            text = list(generator.choice(WORDS[:16], size=generator.integers(3, 9)))
            text = [word for word in text if word not in praise + blame]
            text.insert(int(generator.integers(len(text) + 1)), str(generator.choice(praise if label else blame)))
            lines.append(f"{label}\t{' '.join(text)} .")
        paths.append(folder / name)
        paths[-1].write_text("\n".join(lines) + "\n")
    return paths[0], paths[1]


CHAT_TEMPLATE = (
    "{% for message in messages %}<{{ message['role'] }}> {{ message['content'] }} </s>{% endfor %}"
    "{% if add_generation_prompt %}<assistant> {% endif %}"
)


@pytest.fixture(scope="session")
def tiny_decoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a random two-layer Llama of hidden size 16, and a word tokenizer with a chat template."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("tiny-llama")
    words = ["<pad>", "<unk>", "<s>", "</s>", "<user>", "<assistant>", *WORDS, ".", ":", "[", "]"]
    special = {"pad_token": "<pad>", "unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>"}
    vocabulary = {word: index for index, word in enumerate(words)}
    inner = Tokenizer(models.WordLevel(vocabulary, unk_token=special["unk_token"]))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    inner.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 2)])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=inner,
        additional_special_tokens=["<user>", "<assistant>"],
        chat_template=CHAT_TEMPLATE,
        **special,
    )
    tokenizer.save_pretrained(folder)
    config = LlamaConfig(
        vocab_size=len(words),
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=64,
        initializer_range=0.4,  # Larger than usual, so that the frozen last layer can tell the words apart.
        bos_token_id=2,
        eos_token_id=3,
        pad_token_id=0,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        LlamaForCausalLM(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_prompts(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Training and evaluation files of prompts and completions: the completion repeats the words of the prompt."""
    import json

    import numpy as np

    folder = tmp_path_factory.mktemp("tiny-prompts")
    generator = np.random.default_rng(0)
    paths = []
    for name, count in (("train.jsonl", 240), ("dev.jsonl", 40)):
        lines = []
        for _ in range(count):
            words = [str(word) for word in generator.choice(WORDS[9:15], size=3)]
            completion = f" the {words[0]} was {words[1]} and {words[2]} ."
            lines.append(json.dumps({"prompt": f"{' '.join(words)} :", "completion": completion}))
        paths.append(folder / name)
        paths[-1].write_text("\n".join(lines) + "\n")
    return paths[0], paths[1]
