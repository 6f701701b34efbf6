r"""Quantisation-aware fine-tuning (QAT) of the components of a stream, for the whole stream and for its prefixes.

A stream holds few components, coarsely rounded.  QAT trains them to compensate for the rounding and for the components
that are left out.  Each step draws a prefix of the stream, decodes the components in it, and minimises

$$\mathbb{E}_{b}\Big[(1-\alpha)\,U(\hat W_b) + \alpha\,\mathrm{KL}(p_{W}\,\|\,p_{\hat W_b})
  + [b = B]\,\frac{\beta}{L} \sum_{l=1}^{L} \frac{\|h_l(\hat W_b) - h_l(W)\|^2}{\|h_l(W)\|^2}\Big]$$

The labels give the first term, the predictions of the adapter before QAT the second, and its layer outputs the third.

Notation: b bytes of the prefix: those of the whole stream, B, with probability `whole_stream_share`, log-uniform
otherwise; \hat W_b rounded components within b bytes; W adapter before QAT; U task loss; alpha `TEACHER_SHARE`; beta
`feature_weight`; h_l output of layer l of L, without padding.

The encoder itself rounds: it selects components, their precision, and errors that cancel.  It runs every
`preview_interval` steps.  Between two runs, the rounding errors stay constant while the parameters change.  The
gradient passes the rounding unchanged (straight-through estimator).

Source: Bengio et al. 2013 (straight-through estimator); Hinton et al. 2015 (distillation from predictions); Romero et
al. 2015, "FitNets" (distillation from layers); Valipour et al. 2023, "DyLoRA" (random prefixes).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.func import functional_call

from airlora.adapters import AdaptedModel, LowRankUpdate, ModuleComponents, components_of
from airlora.codec import PreviewedItem, StreamPreview
from airlora.errors import TrainingError
from airlora.tasks import BatchOrder, ComputeOptions, EncodedData, model_inputs, pick_autocast

__all__ = ["QatResult", "preview_interval", "run_qat"]

TEACHER_SHARE = 0.5
"""alpha: weight of the predictions of the adapter before QAT. The labels have the remaining weight."""

MAX_PREVIEW_INTERVAL = 10
"""Most steps between two runs of the encoder. A run costs about as much as five steps."""

MIN_PREVIEWS = 20
"""Least number of encoder runs. In fewer steps, the parameters move as far."""


@dataclass(frozen=True, slots=True)
class QatResult:
    """Components and classification head after QAT, not rounded.

    Args:
        updates: Balanced factors of the trained components by module name. Modules without any are left out.
        head: Tensors of the classification head.
        losses: Task loss of each step, nats.
    """

    updates: dict[str, LowRankUpdate]
    head: dict[str, npt.NDArray[np.float32]]
    losses: list[float]


def run_qat(
    adapted: AdaptedModel,
    data: EncodedData,
    candidates: StreamPreview,
    preview: Callable[[QatResult], StreamPreview],
    compute: ComputeOptions,
    *,
    steps: int,
    learning_rate: float = 0.03,
    min_prefix_bytes: float = 2000.0,
    whole_stream_share: float = 0.0,
    feature_weight: float = 0.0,
    on_step: Callable[[int, float], None] = lambda step, loss: None,
) -> QatResult:
    """Return the components of a stream and the classification head after quantisation-aware fine-tuning.

    Args:
        adapted: Model with the whole adapter, at any ranks. It keeps its values and ranks.
        data: Training data.
        candidates: Preview of a stream. Its components are trained, and no others.
        preview: Function that returns what the encoder would send of the current components.
        compute: Device, batch sizes, precision and seed.
        steps: Number of steps. Each costs about a step of fine-tuning and a forward pass.
        learning_rate: Learning rate of the first step, relative to the root mean square of each factor. It decreases
            linearly to 0.
        min_prefix_bytes: Smallest size of a drawn prefix, bytes.
        whole_stream_share: Probability that a step trains the whole stream, 0 to 1.
        feature_weight: beta, weight of the distance between layer outputs in steps that train the whole stream, >= 0.
            Models with encoder and decoder are trained without this term.
        on_step: Function that is called after each step with its number, from 1, and its task loss, nats.

    Raises:
        TrainingError: A loss is not finite.
        AdapterError: The adapter holds values that are not finite.
        CodecError: `preview` raised it.
    """
    ranks = adapted.rank_pattern
    student = _Student(adapted, components_of(adapted), candidates, compute.device)
    autocast = pick_autocast(compute.precision, compute.device)
    optimizer = torch.optim.Adam(student.parameters(), lr=learning_rate)
    order = BatchOrder(data.lengths, compute.batch_size, compute.seed + 1)
    generator = np.random.default_rng(compute.seed)
    losses: list[float] = []
    adapted.model.eval()
    try:
        for step in range(steps):
            if step % preview_interval(steps) == 0:
                student.set_rounding(preview(student.result(losses)))
            batch = data.batch(order.take(), compute.device)
            num_items, is_whole = student.draw_prefix(generator, min_prefix_bytes, whole_stream_share)
            # A short prefix cannot reproduce the layer outputs of the whole adapter.
            follows_layers = is_whole and feature_weight > 0
            adapted.set_ranks([adapted.r_max] * len(adapted.shapes))
            options = {**model_inputs(batch), "output_hidden_states": follows_layers}
            with torch.no_grad(), autocast():
                whole = adapted.model(**options)
            # Models with encoder and decoder have no single list of layer outputs.
            follows_layers = follows_layers and getattr(whole, "hidden_states", None) is not None
            adapted.set_ranks(student.ranks(num_items))
            with autocast():
                output = functional_call(adapted.model, student.state(num_items), kwargs=options)
            logits, taught = output.logits.float(), whole.logits.float()
            task = data.task.loss(logits, batch)
            agreement = data.task.distillation_loss(logits, taught, batch)
            loss = (1.0 - TEACHER_SHARE) * task + TEACHER_SHARE * agreement
            if follows_layers:
                mask = batch["attention_mask"]
                loss = loss + feature_weight * _feature_distance(output.hidden_states, whole.hidden_states, mask)
            if not torch.isfinite(loss):
                raise TrainingError.of(f"loss at QAT step {step}", loss.item(), "a finite number")
            for group in optimizer.param_groups:
                group["lr"] = learning_rate * (1.0 - step / steps)
            # Components that the prefix lacks have a gradient of 0, and the optimiser still moves them.
            optimizer.zero_grad(set_to_none=False)
            torch.autograd.backward(loss)
            optimizer.step()
            losses.append(float(task.detach()))
            on_step(step + 1, losses[-1])
    finally:
        adapted.set_ranks(ranks)
    return student.result(losses)


def preview_interval(steps: int) -> int:
    """Return the number of QAT steps between two runs of the encoder.

    Args:
        steps: Number of QAT steps in total.

    Examples:
        >>> [preview_interval(steps) for steps in (5, 60, 200, 800)]
        [1, 3, 10, 10]
    """
    return max(1, min(MAX_PREVIEW_INTERVAL, steps // MIN_PREVIEWS))


def _feature_distance(found: Sequence[Tensor], wanted: Sequence[Tensor], mask: Tensor) -> Tensor:
    """Return the relative squared distance of layer outputs, averaged over the layers without the embeddings.

    Args:
        found: Outputs of the embeddings and of each layer, [batch, tokens, width].
        wanted: Outputs to compare with, [batch, tokens, width].
        mask: 1 for tokens and 0 for padding, [batch, tokens].
    """
    weights = mask[..., None].float()
    distances = [
        ((own.float() - other.float()).square() * weights).sum() / (other.float().square() * weights).sum()
        for own, other in zip(found[1:], wanted[1:], strict=True)
    ]
    return torch.stack(distances).mean()


class _ScaledParameter:
    """A trained tensor in units of the root mean square of its slices along one axis.

    Args:
        values: Initial values.
        axis: Axis of the slices. None uses one unit for the whole tensor.
    """

    def __init__(self, values: Tensor, axis: int | None) -> None:
        others = [other for other in range(values.dim()) if other != axis]
        size = values.square().mean(dim=others, keepdim=True).sqrt()
        self._size = torch.where(size > 0, size, torch.ones_like(size))
        self.leaf = (values / self._size).clone().requires_grad_()

    def exact(self) -> Tensor:
        return self.leaf * self._size


class _RoundedModule:
    """Trained components of one module, and their rounding errors after any number of items of the stream.

    Args:
        update: Balanced factors of the components.
        device: Device of the model.
    """

    def __init__(self, update: LowRankUpdate, device: torch.device) -> None:
        self.left = _ScaledParameter(_tensor(update.left, device), axis=1)
        self.right = _ScaledParameter(_tensor(update.right, device), axis=0)
        self._device = device

    def update(self) -> LowRankUpdate:
        return LowRankUpdate(_array(self.left.exact()), _array(self.right.exact()))

    def set_rounding(self, sent: Sequence[tuple[int, PreviewedItem]]) -> None:
        """Take the rounding errors from the module's items, each with its position in the stream."""
        own = self.update()
        layers: dict[int, list[tuple[int, PreviewedItem]]] = {}
        for position, item in sent:
            layers.setdefault(item.index, []).append((position, item))
        depth = max(map(len, layers.values()), default=1)
        # An infinite position stands for an item that is not sent.
        positions = np.full((depth, own.rank), np.inf)
        left, right = np.zeros((depth, own.rank, len(own.left))), np.zeros((depth, *own.right.shape))
        for index, items in layers.items():
            for layer, (position, item) in enumerate(items):
                positions[layer, index] = position
                left[layer, index] = item.u - own.left[:, index]
                right[layer, index] = item.v - own.right[index]
        self._positions, self._left_errors, self._right_errors = (
            _tensor(values, self._device) for values in (positions, left, right)
        )

    def rank(self, num_items: int) -> int:
        """Return the number of components up to the last one that is received.

        Args:
            num_items: Number of received items of the stream.
        """
        received = (self._positions < num_items).any(dim=0).nonzero()
        return int(received[-1]) + 1 if len(received) else 0

    def decoded(self, num_items: int) -> tuple[Tensor, Tensor, Tensor]:
        """Return the left factor, 1 or 0 for each present or absent component, and the right factor.

        Components after the last one that is received are left out.

        Args:
            num_items: Number of received items of the stream.
        """
        rank = self.rank(num_items)
        received = (self._positions[:, :rank] < num_items).sum(dim=0)
        newest, every = (received - 1).clamp(min=0), torch.arange(rank, device=self._device)
        left = self.left.exact()[:, :rank] + self._left_errors[newest, every].T
        right = self.right.exact()[:rank] + self._right_errors[newest, every]
        return left, (received > 0).float(), right


class _Student:
    """Trained components and classification head, as parameters of the model."""

    def __init__(
        self,
        adapted: AdaptedModel,
        components: Mapping[str, ModuleComponents],
        candidates: StreamPreview,
        device: torch.device,
    ) -> None:
        ranks = dict.fromkeys(adapted.shapes, 0)
        for item in candidates.items:
            ranks[item.module] = max(ranks[item.module], item.index + 1)
        self._scale = adapted.scale
        self._modules = {}
        for name, rank in ranks.items():
            if rank:
                whole = components[name].balanced()
                self._modules[name] = _RoundedModule(LowRankUpdate(whole.left[:, :rank], whole.right[:rank]), device)
        names = {id(parameter): name for name, parameter in adapted.model.named_parameters()}
        self._parameters = {
            name: [names[id(parameter)] for parameter in (update.P, update.lam, update.Q)]
            for name, update in adapted.updates.items()
        }
        head = adapted.head_state()
        self._head_dtypes = {name: value.dtype for name, value in head.items()}
        self._head = {name: _ScaledParameter(value.detach().float(), axis=None) for name, value in head.items()}
        self._device = device
        self.set_rounding(candidates)

    def ranks(self, num_items: int) -> list[int]:
        """Return the rank that each adapted module has after the first items of the stream."""
        return [self._modules[name].rank(num_items) if name in self._modules else 0 for name in self._parameters]

    def parameters(self) -> list[Tensor]:
        factors = [factor for module in self._modules.values() for factor in (module.left, module.right)]
        return [factor.leaf for factor in (*factors, *self._head.values())]

    def set_rounding(self, preview: StreamPreview) -> None:
        """Use the rounding errors of this preview from now on."""
        self._ends = np.cumsum([item.num_bytes for item in preview.items])
        sent: dict[str, list[tuple[int, PreviewedItem]]] = {name: [] for name in self._modules}
        for position, item in enumerate(preview.items):
            sent[item.module].append((position, item))
        for name, module in self._modules.items():
            module.set_rounding(sent[name])
        # Of tensors that are not sent, the receiver uses its own, which may differ from these.
        self._head_errors = {
            name: _tensor(preview.tensors[name] - _array(factor.exact()), self._device)
            for name, factor in self._head.items()
            if name in preview.tensors
        }

    def draw_prefix(
        self, generator: np.random.Generator, min_prefix_bytes: float, whole_stream_share: float
    ) -> tuple[int, bool]:
        """Return the number of items of a random prefix, and whether it is the whole stream."""
        total = float(self._ends[-1]) if len(self._ends) else min_prefix_bytes
        size = math.exp(generator.uniform(math.log(min(min_prefix_bytes, total)), math.log(total))) * (1 + 1e-9)
        if generator.random() < whole_stream_share:
            return len(self._ends), True
        return max(1, int(np.searchsorted(self._ends, size, side="right"))), False

    def state(self, num_items: int) -> dict[str, Tensor]:
        """Return the model's parameters as they are decoded from the first items of the stream."""
        state = {}
        for name, factor in self._head.items():
            error = self._head_errors.get(name)
            exact = factor.exact()
            state[name] = (exact if error is None else exact + error).to(self._head_dtypes[name])
        for name, module in self._modules.items():
            P, lam, Q = self._parameters[name]
            left, is_present, right = module.decoded(num_items)
            state |= {P: left / self._scale, lam: is_present, Q: right}
        return state

    def result(self, losses: Sequence[float]) -> QatResult:
        return QatResult(
            {name: module.update() for name, module in self._modules.items()},
            {name: _array(factor.exact()) for name, factor in self._head.items()},
            list(losses),
        )


def _tensor(values: Any, device: torch.device) -> Tensor:
    return torch.as_tensor(np.asarray(values, dtype=np.float32), device=device)


def _array(tensor: Tensor) -> npt.NDArray[np.float32]:
    array: npt.NDArray[np.float32] = tensor.detach().cpu().numpy()
    return array
