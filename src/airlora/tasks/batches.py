"""Encoding of texts as token ids, and the order in which training takes batches of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from airlora.errors import CheckpointError, DataError
from airlora.observation import IntArray
from airlora.tasks.base import TARGETS, EncodedData, Task
from airlora.text import Vocabulary, sample_complexity

__all__ = ["BatchOrder", "encode_texts"]


def encode_texts(
    task: Task,
    texts: Sequence[str],
    targets: Sequence[Any],
    name: str,
    tokenizer: Any,
    vocabulary: Vocabulary,
    max_length: int,
    *,
    pairs: Sequence[str] | None = None,
) -> EncodedData:
    """Return texts with one target each as token ids.

    A pair of texts is encoded as the tokenizer does it, with token types if the model has them. The text features are
    those of both texts together.

    Args:
        task: Task of the samples.
        texts: Text of each sample.
        targets: Target of each sample, a whole number or a float.
        name: Name of the data set, for messages.
        tokenizer: Tokenizer of the model.
        vocabulary: Known words, for the out-of-vocabulary rate.
        max_length: Number of tokens to which a sample is truncated. The longer text of a pair is truncated first.
        pairs: Second text of each sample. None stands for samples of one text.

    Raises:
        DataError: A text has no token.
    """
    samples = [list(texts), *([] if pairs is None else [list(pairs)])]
    encoded = tokenizer(*samples, truncation=True, max_length=max_length)
    names = ["input_ids", *(["token_type_ids"] if pairs is not None and "token_type_ids" in encoded else [])]
    empty = next((row for row, ids in enumerate(encoded["input_ids"]) if not ids), None)
    if empty is not None:
        raise DataError.of(f"{name}, sample {empty}", texts[empty], "text that the tokenizer gives tokens for")
    whole = texts if pairs is None else [f"{first} {second}" for first, second in zip(texts, pairs, strict=True)]
    states = [sample_complexity(text, vocabulary) for text in whole]
    columns = {name: [np.asarray(ids, dtype=np.int64) for ids in encoded[name]] for name in names}
    return EncodedData(
        task,
        {**columns, TARGETS: list(targets)},
        complexities=np.asarray([(state.entropy_nats, state.oov_rate) for state in states]),
        pad_token_id=tokenizer.pad_token_id,
        padding_side=tokenizer.padding_side,
    )


class BatchOrder:
    """An endless order of batches that can be saved and resumed.

    Every epoch contains every sample once, except those of a last, smaller batch. The samples are shuffled, divided
    into pools of `POOL_BATCHES` batches and sorted by length within a pool; then the batches are shuffled. Batches of
    similar length need about half the padding, and the order still differs from epoch to epoch.

    Args:
        lengths: Number of tokens of each sample.
        batch_size: Number of samples per batch. Fewer samples than that form one smaller batch.
        seed: Seed of the order.
    """

    POOL_BATCHES = 16

    def __init__(self, lengths: IntArray, batch_size: int, seed: int) -> None:
        self._lengths = lengths
        self._batch_size = batch_size
        self._seed = seed
        self._epoch = 0
        self._position = 0
        self._batches = self._shuffle()

    def peek(self) -> IntArray:
        """Return the indices of the next batch without advancing."""
        return self._batches[self._position]

    def take(self) -> IntArray:
        """Return the indices of the next batch and advance."""
        batch = self._batches[self._position]
        self._position += 1
        if self._position == len(self._batches):
            self._epoch += 1
            self._position = 0
            self._batches = self._shuffle()
        return batch

    def state_dict(self) -> dict[str, int]:
        """Return epoch, position and the number of batches per epoch."""
        return {"epoch": self._epoch, "position": self._position, "num_batches": len(self._batches)}

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        """Continue from `state_dict`; raises `CheckpointError` if the number of batches per epoch has changed."""
        if state["num_batches"] != len(self._batches):
            raise CheckpointError(
                f"the checkpoint was made with {state['num_batches']} batches per epoch, the training data now give "
                f"{len(self._batches)}: resume with the same data and batch size"
            )
        self._epoch, self._position = state["epoch"], state["position"]
        self._batches = self._shuffle()

    def _shuffle(self) -> list[IntArray]:
        generator = np.random.default_rng([self._seed, self._epoch])
        order = generator.permutation(len(self._lengths))
        pool_size = self._batch_size * self.POOL_BATCHES
        batches: list[IntArray] = []
        for start in range(0, len(order), pool_size):
            pool = order[start : start + pool_size]
            pool = pool[np.argsort(self._lengths[pool], kind="stable")]
            batches.extend(pool[i : i + self._batch_size] for i in range(0, len(pool), self._batch_size))
        full = [batch for batch in batches if len(batch) == self._batch_size] or batches
        return [full[i] for i in generator.permutation(len(full))]
