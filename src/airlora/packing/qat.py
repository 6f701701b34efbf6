r"""Polishing: what will be sent, rounded as it will be, trained for some steps more so that every cut of it works.

The components that a stream holds are few and rough; the others' part of the work, and the rounding's damage, can be
taken over by those that are sent.  Each step draws a cut of the stream, computes with the components before it as they
will be decoded, and follows labels, the whole adapter's own predictions and, where nothing is cut off, what it makes of
the text on the way there:

$$\min\ \mathbb{E}_{b}\Big[(1-\alpha)\,U(\hat W_b) + \alpha\,\mathrm{KL}(p_{W}\,\|\,p_{\hat W_b})
  + [b = B]\,\frac{\beta}{L} \sum_{l=1}^{L} \frac{\|h_l(\hat W_b) - h_l(W)\|^2}{\|h_l(W)\|^2}\Big]$$

Notation: b bytes of the cut, with probability `whole_share` those of the whole stream, B, and else log-uniform;
\hat W_b the rounded components within b bytes; W the adapter as it was; U the task loss; alpha `TEACHER_SHARE`; beta
`feature_weight`; h_l the output of layer l of L, padding left out.

The rounding is the encoder's own, with all that it does: which components are worth their bytes, a precision for each,
errors that cancel.  It is asked every few steps, see `round_every`; in between its errors stay what they were while the
numbers move, and the gradient passes rounding unchanged (straight-through).

Source: Bengio et al. 2013 for the straight-through gradient, Hinton et al. 2015 for learning from predictions, Romero
et al. 2015 (FitNets) for learning from layers; cuts drawn at random as in nested training.
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

__all__ = ["Polished", "polish", "round_every"]

TEACHER_SHARE = 0.5
"""alpha: between labels alone and the adapter's own predictions alone."""

ROUND_EVERY = 10
"""Most steps for which the encoder's errors are taken to stay: as many cost twice what asking it once does."""

MIN_ROUNDINGS = 20
"""How often it is asked in fewer steps, in which the numbers move as far."""


@dataclass(frozen=True, slots=True)
class Polished:
    """What came out, not rounded.

    Args:
        updates: Balanced factors of the components that are sent, by module; modules without any are left out.
        head: The head's tensors.
        losses: Task loss of each step, nats.
    """

    updates: dict[str, LowRankUpdate]
    head: dict[str, npt.NDArray[np.float32]]
    losses: list[float]


def polish(
    adapted: AdaptedModel,
    data: EncodedData,
    sent: StreamPreview,
    preview: Callable[[Polished], StreamPreview],
    compute: ComputeOptions,
    *,
    steps: int,
    learning_rate: float = 0.03,
    min_bytes: float = 2000.0,
    whole_share: float = 0.0,
    feature_weight: float = 0.0,
    on_step: Callable[[int, float], None] = lambda step, loss: None,
) -> Polished:
    """Return the sent components after `steps` of training; the model is left as it was.

    Args:
        adapted: The model with the whole adapter, at any ranks.
        data: Training data.
        sent: A stream whose components, and no others, are trained.
        preview: What the encoder makes of what they have become.
        compute: Device, batch sizes, precision and seed.
        steps: How many; each costs about as much as a step of fine-tuning and a forward pass.
        learning_rate: Of the first step, in units of each factor's root mean square; it falls to 0 linearly.
        min_bytes: The smallest cut that is drawn.
        whole_share: Of the steps, those that take the whole, 0 to 1.
        feature_weight: beta of those, >= 0; 0: layers are not compared.
        on_step: Called after each step with its number and task loss.

    Raises:
        TrainingError: A loss is not finite.
        AdapterError: The adapter holds values that are not finite.
        CodecError: Of `preview`.
    """
    was = adapted.rank_pattern
    student = _Student(adapted, components_of(adapted), sent, compute.device)
    autocast = pick_autocast(compute.precision, compute.device)
    optimizer = torch.optim.Adam(student.parameters(), lr=learning_rate)
    order = BatchOrder(data.lengths, compute.batch_size, compute.seed + 1)
    generator = np.random.default_rng(compute.seed)
    losses: list[float] = []
    adapted.model.eval()
    try:
        for step in range(steps):
            if step % round_every(steps) == 0:
                student.round_as(preview(student.result(losses)))
            batch = data.batch(order.take(), compute.device)
            cut, is_whole = student.draw(generator, min_bytes, whole_share)
            # What a short cut makes of the text cannot be what the whole adapter does.
            follows_layers = is_whole and feature_weight > 0
            adapted.set_ranks([adapted.r_max] * len(adapted.shapes))
            options = {**model_inputs(batch), "output_hidden_states": follows_layers}
            with torch.no_grad(), autocast():
                whole = adapted.model(**options)
            adapted.set_ranks(student.ranks)
            with autocast():
                output = functional_call(adapted.model, student.state(cut), kwargs=options)
            logits, taught = output.logits.float(), whole.logits.float()
            task = data.task.loss(logits, batch)
            agreement = data.task.distillation_loss(logits, taught, batch)
            loss = (1.0 - TEACHER_SHARE) * task + TEACHER_SHARE * agreement
            if follows_layers:
                mask = batch["attention_mask"]
                loss = loss + feature_weight * _feature_distance(output.hidden_states, whole.hidden_states, mask)
            if not torch.isfinite(loss):
                raise TrainingError.of(f"loss at polishing step {step}", loss.item(), "a finite number")
            for group in optimizer.param_groups:
                group["lr"] = learning_rate * (1.0 - step / steps)
            optimizer.zero_grad()
            torch.autograd.backward(loss)
            optimizer.step()
            losses.append(float(task.detach()))
            on_step(step + 1, losses[-1])
    finally:
        adapted.set_ranks(was)
    return student.result(losses)


def round_every(steps: int) -> int:
    """Return after how many steps the encoder is asked again.

    Examples:
        >>> [round_every(steps) for steps in (5, 60, 200, 800)]
        [1, 3, 10, 10]
    """
    return max(1, min(ROUND_EVERY, steps // MIN_ROUNDINGS))


def _feature_distance(found: Sequence[Tensor], wanted: Sequence[Tensor], mask: Tensor) -> Tensor:
    """Return the mean over the layers of the relative squared distance of their outputs; the first are embeddings.

    Args:
        found: [batch, tokens, width] each.
        wanted: Likewise.
        mask: 1 for tokens and 0 for padding, [batch, tokens].
    """
    weights = mask[..., None].float()
    distances = [
        ((own.float() - other.float()).square() * weights).sum() / (other.float().square() * weights).sum()
        for own, other in zip(found[1:], wanted[1:], strict=True)
    ]
    return torch.stack(distances).mean()


class _Factor:
    """A matrix trained in units of the size of its slices along one axis.

    Args:
        values: The matrix, or a tensor of the head.
        axis: Of the slices; none: all numbers are alike.
    """

    def __init__(self, values: Tensor, axis: int | None) -> None:
        others = [other for other in range(values.dim()) if other != axis]
        size = values.square().mean(dim=others, keepdim=True).sqrt()
        self._size = torch.where(size > 0, size, torch.ones_like(size))
        self.leaf = (values / self._size).clone().requires_grad_()

    def exact(self) -> Tensor:
        return self.leaf * self._size


class _Module:
    """The components of one module, and what the encoder makes of them after any number of items.

    Args:
        update: Balanced factors of the components that are trained.
        device: Where they are.
    """

    def __init__(self, update: LowRankUpdate, device: torch.device) -> None:
        self.left = _Factor(_tensor(update.left, device), axis=1)
        self.right = _Factor(_tensor(update.right, device), axis=0)
        self._device = device

    def update(self) -> LowRankUpdate:
        return LowRankUpdate(_array(self.left.exact()), _array(self.right.exact()))

    def round_as(self, sent: Sequence[tuple[int, PreviewedItem]]) -> None:
        """Take the encoder's items, each with its place in the stream."""
        own = self.update()
        layers: dict[int, list[tuple[int, PreviewedItem]]] = {}
        for place, item in sent:
            layers.setdefault(item.index, []).append((place, item))
        depth = max(map(len, layers.values()), default=1)
        # Items that never come have no place.
        places = np.full((depth, own.rank), np.inf)
        left, right = np.zeros((depth, own.rank, len(own.left))), np.zeros((depth, *own.right.shape))
        for index, items in layers.items():
            for layer, (place, item) in enumerate(items):
                places[layer, index] = place
                left[layer, index] = item.u - own.left[:, index]
                right[layer, index] = item.v - own.right[index]
        self._places, self._left_errors, self._right_errors = (
            _tensor(part, self._device) for part in (places, left, right)
        )

    def at(self, cut: int) -> tuple[Tensor, Tensor, Tensor]:
        """Return left factor, whether each component is there, and right factor after `cut` items."""
        num_items = (self._places < cut).sum(dim=0)
        newest, every = (num_items - 1).clamp(min=0), torch.arange(len(num_items), device=self._device)
        left = self.left.exact() + self._left_errors[newest, every].T
        right = self.right.exact() + self._right_errors[newest, every]
        return left, (num_items > 0).float(), right


class _Student:
    """The components that are trained, and the head, as leaves of the graph."""

    def __init__(
        self,
        adapted: AdaptedModel,
        components: Mapping[str, ModuleComponents],
        sent: StreamPreview,
        device: torch.device,
    ) -> None:
        ranks = dict.fromkeys(adapted.shapes, 0)
        for item in sent.items:
            ranks[item.module] = max(ranks[item.module], item.index + 1)
        self.ranks = list(ranks.values())
        self._scale = adapted.scale
        self._modules = {}
        for name, rank in ranks.items():
            if rank:
                whole = components[name].balanced()
                self._modules[name] = _Module(LowRankUpdate(whole.left[:, :rank], whole.right[:rank]), device)
        names = {id(parameter): name for name, parameter in adapted.model.named_parameters()}
        self._parameters = {
            name: [names[id(part)] for part in (update.P, update.lam, update.Q)]
            for name, update in adapted.updates.items()
        }
        self._head_dtypes = {name: value.dtype for name, value in adapted.head_state().items()}
        self._head = {name: _Factor(value.detach().float(), axis=None) for name, value in adapted.head_state().items()}
        self._device = device
        self.round_as(sent)

    def parameters(self) -> list[Tensor]:
        factors = [factor for module in self._modules.values() for factor in (module.left, module.right)]
        return [factor.leaf for factor in (*factors, *self._head.values())]

    def round_as(self, sent: StreamPreview) -> None:
        """From now on, compute with the encoder's errors as they are in `sent`."""
        self._ends = np.cumsum([item.num_bytes for item in sent.items])
        placed: dict[str, list[tuple[int, PreviewedItem]]] = {name: [] for name in self._modules}
        for place, item in enumerate(sent.items):
            placed[item.module].append((place, item))
        for name, module in self._modules.items():
            module.round_as(placed[name])
        # What is not sent is the model's own, which is not known to be this one.
        self._head_errors = {
            name: _tensor(sent.tensors[name] - _array(factor.exact()), self._device)
            for name, factor in self._head.items()
            if name in sent.tensors
        }

    def draw(self, generator: np.random.Generator, min_bytes: float, whole_share: float) -> tuple[int, bool]:
        """Return a random cut, as a number of items, and whether it is the whole stream."""
        total = float(self._ends[-1]) if len(self._ends) else min_bytes
        drawn = math.exp(generator.uniform(math.log(min(min_bytes, total)), math.log(total))) * (1 + 1e-9)
        if generator.random() < whole_share:
            return len(self._ends), True
        return max(1, int(np.searchsorted(self._ends, drawn, side="right"))), False

    def state(self, cut: int) -> dict[str, Tensor]:
        """Return the model's parameters with the first `cut` items as they will be decoded."""
        state = {}
        for name, factor in self._head.items():
            error = self._head_errors.get(name)
            exact = factor.exact()
            state[name] = (exact if error is None else exact + error).to(self._head_dtypes[name])
        for name, module in self._modules.items():
            P, lam, Q = self._parameters[name]
            left, is_there, right = module.at(cut)
            state |= {P: left / self._scale, lam: is_there, Q: right}
        return state

    def result(self, losses: Sequence[float]) -> Polished:
        """Return the components and the head, not rounded."""
        return Polished(
            {name: module.update() for name, module in self._modules.items()},
            {name: _array(factor.exact()) for name, factor in self._head.items()},
            list(losses),
        )


def _tensor(values: Any, device: torch.device) -> Tensor:
    return torch.as_tensor(np.asarray(values, dtype=np.float32), device=device)


def _array(tensor: Tensor) -> npt.NDArray[np.float32]:
    array: npt.NDArray[np.float32] = tensor.detach().cpu().numpy()
    return array
