"""Tokenised text in batches of similar length, in an order that can be saved and taken up again."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from airlora.errors import CheckpointError, DataError
from airlora.observation import FloatArray, IntArray
from airlora.text import TextComplexity, TextDataset, Vocabulary, sample_complexity

__all__ = ["BatchOrder", "EncodedData", "encode"]


class EncodedData:
    """A data set as token ids, with the text state of every sample.

    Args:
        input_ids: Token ids of each sample, special tokens included.
        labels: int64 [num_samples].
        complexities: Lexical entropy (nats) and OOV rate per sample, float [num_samples, 2].
        pad_token_id: Fills a batch up to its longest sample.
        padding_side: "right" for encoders; decoders that read their last token take either with an attention mask.
    """

    def __init__(
        self,
        input_ids: Sequence[IntArray],
        labels: IntArray,
        complexities: FloatArray,
        pad_token_id: int,
        padding_side: str = "right",
    ) -> None:
        self.input_ids = input_ids
        self.labels = labels
        self.complexities = complexities
        self.lengths = np.asarray([len(ids) for ids in input_ids])
        self._pad_token_id = pad_token_id
        self._right = padding_side == "right"

    def __len__(self) -> int:
        return len(self.input_ids)

    def batch(self, indices: Sequence[int] | IntArray, device: torch.device) -> dict[str, torch.Tensor]:
        """Return `input_ids` and `attention_mask` int64 [batch, longest] and `labels` int64 [batch]."""
        longest = int(self.lengths[np.asarray(indices)].max())
        ids = np.full((len(indices), longest), self._pad_token_id, dtype=np.int64)
        mask = np.zeros((len(indices), longest), dtype=np.int64)
        for row, index in enumerate(indices):
            length = self.lengths[index]
            place = slice(0, length) if self._right else slice(longest - length, longest)
            ids[row, place] = self.input_ids[index]
            mask[row, place] = 1
        arrays = {"input_ids": ids, "attention_mask": mask, "labels": self.labels[np.asarray(indices)]}
        return {name: torch.from_numpy(array).to(device) for name, array in arrays.items()}

    def complexity(self, indices: Sequence[int] | IntArray | None = None) -> TextComplexity:
        """Return the mean lexical entropy and OOV rate of the samples (all without `indices`)."""
        chosen = self.complexities if indices is None else self.complexities[np.asarray(indices)]
        entropy_nats, oov_rate = chosen.mean(axis=0)
        return TextComplexity(entropy_nats=float(entropy_nats), oov_rate=float(oov_rate))

    def in_order(self, batch_size: int) -> Iterator[IntArray]:
        """Yield every sample once, in batches of similar length, shortest first."""
        order = np.argsort(self.lengths, kind="stable")
        for start in range(0, len(order), batch_size):
            yield order[start : start + batch_size]


def encode(data: TextDataset, tokenizer: Any, vocabulary: Vocabulary, max_length: int) -> EncodedData:
    """Return `data` tokenised and cut to `max_length` tokens, with the text state of every sample.

    Raises:
        DataError: A sample has no token at all.
    """
    encoded = tokenizer(list(data.texts), truncation=True, max_length=max_length)["input_ids"]
    empty = next((row for row, ids in enumerate(encoded) if not ids), None)
    if empty is not None:
        raise DataError.of(
            f"{data.name}, sample {empty}", data.texts[empty], "text that the tokenizer gives tokens for"
        )
    states = [sample_complexity(text, vocabulary) for text in data.texts]
    return EncodedData(
        input_ids=[np.asarray(ids, dtype=np.int64) for ids in encoded],
        labels=np.asarray(data.labels, dtype=np.int64),
        complexities=np.asarray([(state.entropy_nats, state.oov_rate) for state in states]),
        pad_token_id=tokenizer.pad_token_id,
        padding_side=tokenizer.padding_side,
    )


class BatchOrder:
    """An endless order of batches: each epoch every sample once, neighbours of similar length.

    Samples are shuffled, cut into pools of `POOL_BATCHES` batches, sorted by length inside a pool, and the batches are
    shuffled again.  Padding falls by about half, and the order still differs from epoch to epoch.  The last, smaller
    batch of an epoch is kept only if there is no whole one.

    Args:
        lengths: Tokens per sample.
        batch_size: Samples per batch.
        seed: Of the order; the state is (epoch, position) alone.
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
        """Return the indices of the next batch without taking it."""
        return self._batches[self._position]

    def take(self) -> IntArray:
        """Return the indices of the next batch and go on."""
        batch = self._batches[self._position]
        self._position += 1
        if self._position == len(self._batches):
            self._epoch += 1
            self._position = 0
            self._batches = self._shuffle()
        return batch

    def state_dict(self) -> dict[str, int]:
        """Return (epoch, position)."""
        return {"epoch": self._epoch, "position": self._position, "num_batches": len(self._batches)}

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        """Go on from `state_dict`; raises `CheckpointError` if the data have another size now."""
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
        pool = self._batch_size * self.POOL_BATCHES
        batches: list[IntArray] = []
        for start in range(0, len(order), pool):
            part = order[start : start + pool]
            part = part[np.argsort(self._lengths[part], kind="stable")]
            batches.extend(part[i : i + self._batch_size] for i in range(0, len(part), self._batch_size))
        whole = [batch for batch in batches if len(batch) == self._batch_size] or batches
        return [whole[i] for i in generator.permutation(len(whole))]
