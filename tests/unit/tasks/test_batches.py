from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer

from airlora.errors import CheckpointError, DataError
from airlora.tasks import BatchOrder, Classification, EncodedData
from airlora.text import TextDataset, TokenizerVocabulary, sample_complexity

TASK = Classification(label_names=("negative", "positive"))
CPU = torch.device("cpu")


def encoded(lengths: list[int], side: str = "right") -> EncodedData:
    return EncodedData(
        TASK,
        {"input_ids": [np.arange(1, n + 1) for n in lengths], "labels": np.arange(len(lengths)) % 2},
        complexities=np.asarray([(float(n), n / 100) for n in lengths]),
        pad_token_id=9,
        padding_side=side,
    )


def test_a_batch_is_padded_to_its_longest_sample() -> None:
    batch = encoded([2, 3, 9]).batch([0, 1], CPU)
    assert batch["input_ids"].tolist() == [[1, 2, 9], [1, 2, 3]]
    assert batch["attention_mask"].tolist() == [[1, 1, 0], [1, 1, 1]]
    assert batch["labels"].tolist() == [0, 1]
    left = encoded([2, 3], "left").batch([0, 1], CPU)
    assert left["input_ids"].tolist() == [[9, 1, 2], [1, 2, 3]]
    assert left["attention_mask"].tolist() == [[0, 1, 1], [1, 1, 1]]


@pytest.mark.parametrize(("side", "expected"), [("right", [[7, -100], [5, 6]]), ("left", [[-100, 7], [5, 6]])])
def test_targets_of_single_tokens_are_padded_with_the_ignored_target(side: str, expected: list[list[int]]) -> None:
    columns = {
        "input_ids": [np.array([1]), np.array([1, 2])],
        "token_type_ids": [np.array([1]), np.array([1, 1])],
        "labels": [np.array([7]), np.array([5, 6])],
    }
    batch = EncodedData(TASK, columns, np.zeros((2, 2)), pad_token_id=9, padding_side=side).batch([0, 1], CPU)
    assert batch["labels"].tolist() == expected
    assert batch["token_type_ids"].sum() == 3


def test_targets_may_be_floats() -> None:
    columns = {"input_ids": [np.array([1]), np.array([2])], "labels": [0.5, 1.5]}
    batch = EncodedData(TASK, columns, np.zeros((2, 2)), pad_token_id=0).batch([1, 0], CPU)
    assert batch["labels"].tolist() == [1.5, 0.5]


def test_in_order_yields_every_sample_once_shortest_first() -> None:
    data = encoded([5, 1, 4, 2, 3])
    batches = [indices.tolist() for indices in data.in_order(2)]
    assert batches == [[1, 3], [4, 2], [0]]


def test_text_features_are_means_over_samples() -> None:
    data = encoded([1, 3, 5])
    assert data.complexity().entropy_nats == pytest.approx(3.0)
    assert data.complexity([0, 1]).oov_rate == pytest.approx(0.02)


def test_an_epoch_has_every_sample_once_and_epochs_differ() -> None:
    order = BatchOrder(np.arange(1, 65), 8, seed=1)
    first, second = ([order.take().tolist() for _ in range(8)] for _ in range(2))
    assert sorted(sum(first, [])) == list(range(64)) == sorted(sum(second, []))
    assert first != second


def test_samples_of_similar_length_share_a_batch() -> None:
    lengths = np.random.default_rng(0).integers(1, 100, 512)
    order = BatchOrder(lengths, 8, seed=1)
    padded = sum(8 * lengths[order.take()].max() for _ in range(64))
    unsorted = sum(8 * lengths[i : i + 8].max() for i in range(0, 512, 8))
    assert padded < 0.8 * unsorted


def test_peek_is_the_next_take_and_the_order_resumes() -> None:
    order = BatchOrder(np.arange(1, 30), 4, seed=3)
    for _ in range(11):
        assert order.peek().tolist() == order.take().tolist()
    other = BatchOrder(np.arange(1, 30), 4, seed=3)
    other.load_state_dict(order.state_dict())
    assert [other.take().tolist() for _ in range(9)] == [order.take().tolist() for _ in range(9)]


def test_fewer_samples_than_a_batch_are_one_batch() -> None:
    order = BatchOrder(np.asarray([3, 1, 2]), 8, seed=0)
    assert sorted(order.take().tolist()) == [0, 1, 2]
    assert sorted(order.take().tolist()) == [0, 1, 2]


def test_an_order_refuses_to_resume_on_other_data() -> None:
    state = BatchOrder(np.arange(1, 30), 4, seed=3).state_dict()
    with pytest.raises(CheckpointError, match="7 batches per epoch, the training data now give 10"):
        BatchOrder(np.arange(1, 41), 4, seed=3).load_state_dict(state)


def test_encoding_truncates_texts_and_measures_their_features(tiny_model: object) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    data = TextDataset(texts=("the film is great .", "zzz the food"), labels=(1, 0), label_names=("0", "1"), name="t")
    result = TASK.encode(data, tokenizer, TokenizerVocabulary(tokenizer), max_length=4)
    assert result.lengths.tolist() == [4, 4]
    assert result.complexity([0]).oov_rate == 0.0
    assert result.complexity([1]).oov_rate == pytest.approx(1 / 3)


def test_encoding_refuses_text_without_tokens() -> None:
    class Mute:
        def __call__(self, texts: list[str], **_: object) -> dict[str, list[list[int]]]:
            return {"input_ids": [[] for _ in texts]}

    data = TextDataset(texts=("a",), labels=(0,), label_names=("0", "1"), name="t")
    with pytest.raises(DataError, match="t, sample 0"):
        TASK.encode(data, Mute(), frozenset(), max_length=4)  # type: ignore[arg-type]


def test_pairs_of_texts_are_encoded_as_the_tokenizer_does(tiny_model: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    data = TextDataset(("the good film", "bad"), (1, 0), ("0", "1"), pairs=("a plot", "the film was good"))
    vocabulary = TokenizerVocabulary(tokenizer)
    encoded = TASK.encode(data, tokenizer, vocabulary, max_length=16)
    expected = tokenizer(["the good film", "bad"], ["a plot", "the film was good"])
    for name in ("input_ids", "token_type_ids"):
        assert [ids.tolist() for ids in encoded.columns[name]] == expected[name]
    assert any(1 in ids for ids in encoded.columns["token_type_ids"])
    together = sample_complexity("the good film a plot", vocabulary)
    assert encoded.complexity([0]) == together
    alone = TASK.encode(TextDataset(("bad",), (0,), ("0", "1")), tokenizer, vocabulary, max_length=16)
    assert alone.columns.keys() == {"input_ids", "labels"}
