r"""Causal language modelling: the next token of a text, of a completion, or of an assistant's messages.

$$U = -\frac{1}{N} \sum_n \log p(x_n \mid x_1, \ldots, x_{n-1})$$

Notation: x_n tokens; the sum runs over the N tokens that count, see `CompletionFormat`.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar, Self

import numpy as np
import torch
import transformers
from torch import Tensor
from torch.nn import functional

from airlora.errors import DataError, ModelError
from airlora.observation import IntArray
from airlora.tasks.base import IGNORED, LOSS, TARGETS, Batch, EncodedData, Metric, Task
from airlora.tasks.chat import ASSISTANT, render_chat
from airlora.tasks.next_token import shifted_targets, token_losses
from airlora.tasks.settings import DataSettings
from airlora.text import (
    Completion,
    CompletionDataset,
    CompletionFormat,
    Conversation,
    Vocabulary,
    load_completions,
    sample_complexity,
)

__all__ = ["CausalLM"]

log = logging.getLogger(__name__)

_Encoded = tuple[IntArray, IntArray]
"""Token ids of a sample, and its targets: the ids that count, and `IGNORED` elsewhere."""


class CausalLM(Task):
    """Language modelling by a model of `transformers.AutoModelForCausalLM`, whose last layer stays frozen.

    Attributes:
        sample_format: Format of the training data, which held-out data share. None, for an adapter that was trained
            elsewhere, takes the only format that the columns of the data allow.
        packing: Whether texts are concatenated and divided into samples of `data.max_length` tokens.
    """

    name: ClassVar[str] = "causal-lm"
    metrics: ClassVar[tuple[Metric, ...]] = (
        Metric("perplexity", higher_is_better=False),
        LOSS,
        Metric("token_accuracy", higher_is_better=True, style="%"),
    )
    auto_model: ClassVar[Any] = transformers.AutoModelForCausalLM
    head_modules: ClassVar[tuple[str, ...] | None] = ()

    sample_format: CompletionFormat | None = None
    packing: bool = False

    @property
    def num_outputs(self) -> None:
        """The model keeps its own outputs."""
        return

    @classmethod
    def from_data(cls, settings: DataSettings) -> tuple[Self, CompletionDataset]:
        """Return the task and the training data; `data.train` or a folder `data.name` is required."""
        source = settings.required_sources(cls.name).train
        wanted = None if settings.format == "auto" else settings.format
        data = load_completions(
            source, format=wanted, **settings.completion_columns, max_samples=settings.max_train_samples
        )
        if settings.packing and data.format != "text":
            raise DataError(f"{source}: data.packing = true: allowed is false for the format {data.format!r}")
        return cls(sample_format=data.format, packing=settings.packing), data

    def read(self, settings: DataSettings, source: str | None = None) -> CompletionDataset:
        """Return held-out samples of the format of the training data; see `Task.read`."""
        columns = settings.completion_columns
        if source is not None:
            return load_completions(source, format=self.sample_format, **columns)
        own = settings.required_sources(self.name).eval
        return load_completions(own, format=self.sample_format, **columns, max_samples=settings.max_eval_samples)

    def encode(self, data: CompletionDataset, tokenizer: Any, vocabulary: Vocabulary, max_length: int) -> EncodedData:
        """Return token ids, with the tokens that count as targets.

        As in TRL, prompt and completion are joined without a separator, the end-of-text token follows a text or a
        completion, and longer samples lose their last tokens.

        Raises:
            DataError: No token of a sample counts, for example since its prompt takes all `max_length` tokens, or the
                chat template refuses a conversation.
            ModelError: The model has no fast tokenizer, or no chat template for conversations.
        """
        if not getattr(tokenizer, "is_fast", False):
            raise ModelError(f"tokenizer {type(tokenizer).__name__}: has no fast version, which the task requires")
        whole = []
        for number, sample in enumerate(data.samples):
            try:
                whole.append(_encoded(sample, tokenizer))
            except DataError as error:
                raise DataError(f"{data.name}, sample {number}: {error}") from error
        _warn_of_shared_tokens(data)
        texts = [sample.text for sample in data.samples]
        if self.packing:
            whole = _packed(whole, max_length)
            texts = [tokenizer.decode(ids, skip_special_tokens=True) for ids, _ in whole]
        rows = [(ids[:max_length], targets[:max_length]) for ids, targets in whole]
        for number, ((ids, _), (_, targets)) in enumerate(zip(whole, rows, strict=True)):
            if not (targets[1:] != IGNORED).any():
                raise DataError.of(
                    f"{data.name}, sample {number}: tokens",
                    len(ids),
                    f"two or more, of which one that counts, after the first, is among the first {max_length}; the "
                    "limit is data.max_length",
                )
        states = [sample_complexity(text, vocabulary) for text in texts]
        return EncodedData(
            self,
            {"input_ids": [ids for ids, _ in rows], TARGETS: [targets for _, targets in rows]},
            complexities=np.asarray([(state.entropy_nats, state.oov_rate) for state in states]),
            pad_token_id=tokenizer.pad_token_id,
        )

    @torch.no_grad()
    def verify_model(self, model: torch.nn.Module) -> None:
        """Raise `ModelError` if the model reads the tokens that it is to predict, as encoders do.

        The logits at a token of a causal model do not depend on the next one.
        """
        tokens = torch.tensor([[1, 2, 3], [1, 2, 4]])
        logits = model(input_ids=tokens, attention_mask=torch.ones_like(tokens)).logits[:, :2]
        first, second = logits.float()
        # Masked tokens have the weight 0, so that what is left is rounding.
        if (first - second).abs().max() > 8 * torch.finfo(logits.dtype).eps * first.abs().max():
            raise ModelError(
                f"{type(model).__name__} reads later tokens, as an encoder does: task {self.name} needs a causal model"
            )

    def loss(self, logits: Tensor, batch: Batch) -> Tensor:
        """Return the mean cross-entropy, nats per token that counts.

        Args:
            logits: Float [batch, length, vocabulary].
            batch: Tensors of the batch, targets int64 [batch, length] among them.
        """
        counts, targets = shifted_targets(batch)
        return functional.cross_entropy(logits[:, :-1][counts].float(), targets)

    def batch_loss(self, model: torch.nn.Module, batch: Batch) -> Tensor:
        """Return the model's mean loss on a batch, without the logits of tokens that do not count."""
        return token_losses(model, batch)[0].mean()

    def distillation_loss(self, logits: Tensor, teacher_logits: Tensor, batch: Batch) -> Tensor:
        """Return the mean KL divergence from the teacher's probabilities to the model's, nats per token that counts."""
        counts, _ = shifted_targets(batch)
        learned, taught = (
            functional.log_softmax(values[:, :-1][counts].float(), dim=-1) for values in (logits, teacher_logits)
        )
        return functional.kl_div(learned, taught, log_target=True, reduction="batchmean")

    def batch_outputs(self, model: torch.nn.Module, batch: Batch) -> Sequence[Tensor]:
        """Return the sum of the losses, the number of tokens that count and how many are right, float64 [3] each."""
        losses, is_right = token_losses(model, batch)
        counts, _ = shifted_targets(batch)
        samples = counts.nonzero()[:, 0]
        sums = torch.zeros(len(counts), 3, dtype=torch.float64, device=losses.device)
        columns = torch.stack([losses.double(), torch.ones_like(losses).double(), is_right.double()], dim=1)
        return tuple(sums.index_add_(0, samples, columns).cpu())

    def num_targets(self, batch: Batch) -> int:
        """Return the number of tokens that count."""
        return int(shifted_targets(batch)[0].sum())

    def score(self, outputs: Sequence[Tensor], targets: Sequence[Any]) -> dict[str, float]:  # noqa: ARG002
        """Return perplexity, mean loss, and the share of tokens that count whose logit is the largest."""
        losses, num_tokens, num_right = torch.stack(tuple(outputs)).sum(dim=0).tolist()
        loss = losses / num_tokens
        # A larger perplexity has no float.
        perplexity = math.exp(min(loss, 700.0))
        return {"perplexity": perplexity, "loss": loss, "token_accuracy": num_right / num_tokens}

    def rows(self, outputs: Sequence[Tensor], targets: Sequence[Any]) -> Iterator[dict[str, Any]]:  # noqa: ARG002
        """Yield the mean loss of each sample and its number of tokens that count."""
        for losses, num_tokens, _ in (own.tolist() for own in outputs):
            yield {"loss": losses / num_tokens, "num_tokens": int(num_tokens)}


def _encoded(sample: Completion | Conversation, tokenizer: Any) -> _Encoded:
    if isinstance(sample, Conversation):
        text, spans = _rendered(sample, tokenizer)
        found = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    else:
        text, spans = sample.text, [(len(sample.prompt), len(sample.text))]
        found = tokenizer(text, return_offsets_mapping=True)
    ids, offsets = found["input_ids"], found["offset_mapping"]
    # A token that begins in the prompt and ends in the completion counts.
    counts = [any(first < end and start < last for start, end in spans) for first, last in offsets]
    if not isinstance(sample, Conversation) and tokenizer.eos_token_id is not None:
        if ids and ids[-1] == tokenizer.eos_token_id:
            counts[-1] = True
        else:
            ids, counts = [*ids, tokenizer.eos_token_id], [*counts, True]
    tokens = np.asarray(ids, dtype=np.int64)
    return tokens, np.where(counts, tokens, IGNORED)


def _warn_of_shared_tokens(data: CompletionDataset) -> None:
    """Warn if prompts end in white space, which a tokenizer may join with the completion."""
    prompts = [own for own in data.samples if isinstance(own, Completion) and own.prompt]
    shared = [own for own in prompts if own.prompt[-1].isspace() and not own.completion[0].isspace()]
    if shared:
        log.warning(
            "%s: %d of %d prompts end in white space. Tokenizers may join it with the completion, so that generation "
            "sees other tokens than training. Begin the completions with the white space instead.",
            data.name,
            len(shared),
            len(prompts),
        )


def _rendered(sample: Conversation, tokenizer: Any) -> tuple[str, list[tuple[int, int]]]:
    """Return a conversation in the model's chat template, and start and end of the messages that count in it."""
    messages = sample.as_dicts()
    text = render_chat(tokenizer, messages)
    spans = []
    for index, message in enumerate(messages):
        if message["role"] == ASSISTANT and index >= sample.num_prompt:
            before = render_chat(tokenizer, messages[:index], asks=True)
            after = render_chat(tokenizer, messages[: index + 1])
            if not (text.startswith(before) and text.startswith(after)):
                raise ModelError(
                    "the chat template of the model changes earlier messages of a conversation: allowed is data with "
                    "one message of the assistant, the last one"
                )
            spans.append((len(before), len(after)))
    return text, spans


def _packed(samples: Sequence[_Encoded], length: int) -> list[_Encoded]:
    """Return the tokens of all samples, one after the other, in samples of one length. A shorter rest is left out."""
    ids, targets = (np.concatenate(own) for own in zip(*samples, strict=True))
    if len(ids) < length:
        return [(ids, targets)]
    ends = range(length, len(ids) + 1, length)
    return [(ids[end - length : end], targets[end - length : end]) for end in ends]
