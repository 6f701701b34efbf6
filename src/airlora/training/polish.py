r"""Polishing: what will be sent, rounded as it will be, trained for some steps more so that every cut of it works.

The components that a stream holds are few and rough; the others' part of the work, and the rounding's damage, can be
taken over by those that are sent.  Each step draws a cut of the stream, computes with the components before it as they
will be decoded, and follows labels, the whole adapter's own predictions and, where nothing is cut off, what it makes of
the text on the way there:

$$\min\ \mathbb{E}_{b}\Big[(1-\alpha)\,U(\hat W_b) + \alpha\,\mathrm{KL}(p_{W}\,\|\,p_{\hat W_b})
  + [b = B]\,\frac{\beta}{L} \sum_{l=1}^{L} \frac{\|h_l(\hat W_b) - h_l(W)\|^2}{\|h_l(W)\|^2}\Big]$$

Notation: b bytes of the cut, with probability `whole_share` those of the whole stream, B, and else log-uniform;
\hat W_b the rounded components within b bytes; W the adapter as it was; U the task loss; alpha `TEACHER_SHARE`; beta
`feature_weight`; h_l the output of layer l of L, padding left out.  The gradient passes rounding unchanged
(straight-through).

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
from torch.nn import functional

from airlora.adapters import AdaptedModel, LowRankUpdate, ModuleComponents, components_of
from airlora.config import Settings
from airlora.errors import TrainingError
from airlora.training.batches import BatchOrder, EncodedData
from airlora.training.precision import pick_autocast

__all__ = ["Polished", "SentItem", "polish"]

TEACHER_SHARE = 0.5
"""alpha: between labels alone and the adapter's own predictions alone."""

DEAD_ZONE = 0.15
"""Values within .5 + this of a step are rounded to nothing: what rounding by rate and distortion comes to."""


@dataclass(frozen=True, slots=True)
class SentItem:
    """A component as a stream will hold it, or a layer that refines it.

    Args:
        module: Name of its module.
        index: Its place in the module, in canonical order.
        left_step: Step that the column of the left factor is rounded to from then on; 0: not rounded.
        right_step: The same of the right factor's row.
        num_bytes: What the item takes in the stream.
    """

    module: str
    index: int
    left_step: float
    right_step: float
    num_bytes: float


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
    sent: Sequence[SentItem],
    head_steps: Mapping[str, float],
    settings: Settings,
    device: torch.device,
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
        sent: In the order of sending; within a module in canonical order, without a gap.
        head_steps: Step of the head's tensors, by name; 0: not rounded.
        settings: Section `finetune`, and the seed.
        device: Where the model is.
        steps: How many; each costs about as much as a step of fine-tuning and a forward pass.
        learning_rate: Of the first step, in units of each factor's root mean square; it falls to 0 linearly.
        min_bytes: The smallest cut that is drawn.
        whole_share: Of the steps, those that take the whole, 0 to 1.
        feature_weight: beta of those, >= 0; 0: layers are not compared.
        on_step: Called after each step with its number and task loss.

    Raises:
        TrainingError: A loss is not finite.
        AdapterError: The adapter holds values that are not finite.
    """
    was = adapted.rank_pattern
    student = _Student(adapted, components_of(adapted), sent, head_steps, device)
    autocast = pick_autocast(settings.finetune.precision, device)
    optimizer = torch.optim.Adam(student.parameters(), lr=learning_rate)
    order = BatchOrder(data.lengths, settings.finetune.batch_size, settings.seed + 1)
    generator = np.random.default_rng(settings.seed)
    ends = np.cumsum([item.num_bytes for item in sent])
    low, high = math.log(min(min_bytes, ends[-1])), math.log(ends[-1])
    losses = []
    adapted.model.eval()
    try:
        for step in range(steps):
            batch = data.batch(order.take(), device)
            labels = batch.pop("labels")
            drawn = math.exp(generator.uniform(low, high)) * (1 + 1e-9)
            is_whole = generator.random() < whole_share
            cut = len(sent) if is_whole else max(1, int(np.searchsorted(ends, drawn, side="right")))
            # What a short cut makes of the text cannot be what the whole adapter does.
            follows_layers = is_whole and feature_weight > 0
            adapted.set_ranks([adapted.r_max] * len(adapted.shapes))
            options = {**batch, "output_hidden_states": follows_layers}
            with torch.no_grad(), autocast():
                whole = adapted.model(**options)
            adapted.set_ranks(student.ranks)
            with autocast():
                output = functional_call(adapted.model, student.state(cut), kwargs=options)
            logits, taught = output.logits.float(), whole.logits.float()
            task = functional.cross_entropy(logits, labels)
            learned = functional.log_softmax(logits, dim=-1)
            agreement = functional.kl_div(
                learned, functional.log_softmax(taught, dim=-1), log_target=True, reduction="batchmean"
            )
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
    return Polished(student.updates(), student.head(), losses)


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


class _Rounded(torch.autograd.Function):
    """Round to a step with a dead zone; the gradient passes unchanged."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, steps: Tensor) -> Tensor:  # noqa: ARG004
        scaled = values.abs() / steps.clamp(min=1e-30)
        rounded = torch.sign(values) * torch.floor(scaled + 0.5 - DEAD_ZONE) * steps
        return torch.where(steps > 0, rounded, values)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:  # noqa: ARG004
        return gradients[0], None


class _Factor:
    """A matrix whose slices along one axis are rounded to steps of their own, trained in units of their size.

    Args:
        values: The matrix, or a tensor of the head.
        axis: Of the slices; none: all numbers are alike.
    """

    def __init__(self, values: Tensor, axis: int | None) -> None:
        others = [other for other in range(values.dim()) if other != axis]
        size = values.square().mean(dim=others, keepdim=True).sqrt()
        self.size = torch.where(size > 0, size, torch.ones_like(size))
        self.leaf = (values / self.size).clone().requires_grad_()

    def exact(self) -> Tensor:
        return self.leaf * self.size

    def rounded(self, steps: Tensor) -> Tensor:
        """Return the values rounded to `steps`, one per slice, or one for all."""
        shaped = steps.reshape(self.size.shape)
        result: Tensor = _Rounded.apply(self.exact(), shaped)  # type: ignore[no-untyped-call]
        return result


class _Module:
    """The components of one module that are sent, and how fine they are after any number of items.

    Args:
        update: Balanced factors of the components that are sent.
        events: For each component its items: place in the stream, left step, right step.
    """

    def __init__(
        self, update: LowRankUpdate, events: Sequence[Sequence[tuple[int, float, float]]], device: torch.device
    ) -> None:
        self.left = _Factor(_tensor(update.left, device), axis=1)
        self.right = _Factor(_tensor(update.right, device), axis=0)
        layers = max(len(items) for items in events)
        # Components of fewer items: the others never come.
        table = np.asarray([[*items, *[(math.inf, 0.0, 0.0)] * (layers - len(items))] for items in events])
        self._places, self._left_steps, self._right_steps = (
            _tensor(part.T, device) for part in np.moveaxis(table, 2, 0)
        )

    def at(self, cut: int) -> tuple[Tensor, Tensor, Tensor]:
        """Return left factor, whether each component is there, and right factor after `cut` items."""
        num_items = (self._places < cut).sum(dim=0)
        newest = (num_items - 1).clamp(min=0)[None]
        left = self.left.rounded(self._left_steps.gather(0, newest))
        right = self.right.rounded(self._right_steps.gather(0, newest))
        return left, (num_items > 0).float(), right


class _Student:
    """The sent components and the head as leaves of the graph."""

    def __init__(
        self,
        adapted: AdaptedModel,
        components: Mapping[str, ModuleComponents],
        sent: Sequence[SentItem],
        head_steps: Mapping[str, float],
        device: torch.device,
    ) -> None:
        events: dict[str, list[list[tuple[int, float, float]]]] = {name: [] for name in adapted.shapes}
        for place, item in enumerate(sent):
            own = events[item.module]
            if item.index == len(own):
                own.append([])
            own[item.index].append((place, item.left_step, item.right_step))
        self.ranks = [len(own) for own in events.values()]
        self._scale = adapted.scale
        self._modules = {}
        for name, own in events.items():
            if own:
                whole = components[name].balanced()
                self._modules[name] = _Module(
                    LowRankUpdate(whole.left[:, : len(own)], whole.right[: len(own)]), own, device
                )
        names = {id(parameter): name for name, parameter in adapted.model.named_parameters()}
        self._parameters = {
            name: [names[id(part)] for part in (update.P, update.lam, update.Q)]
            for name, update in adapted.updates.items()
        }
        self._head_dtypes = {name: value.dtype for name, value in adapted.head_state().items()}
        self._head = {name: _Factor(value.detach().float(), axis=None) for name, value in adapted.head_state().items()}
        self._head_steps = {name: _tensor(head_steps[name], device) for name in self._head}

    def parameters(self) -> list[Tensor]:
        factors = [factor for module in self._modules.values() for factor in (module.left, module.right)]
        return [factor.leaf for factor in (*factors, *self._head.values())]

    def state(self, cut: int) -> dict[str, Tensor]:
        """Return the model's parameters with the first `cut` items as they will be decoded."""
        state = {
            name: factor.rounded(self._head_steps[name]).to(self._head_dtypes[name])
            for name, factor in self._head.items()
        }
        for name, module in self._modules.items():
            P, lam, Q = self._parameters[name]
            left, is_there, right = module.at(cut)
            state |= {P: left / self._scale, lam: is_there, Q: right}
        return state

    def updates(self) -> dict[str, LowRankUpdate]:
        return {
            name: LowRankUpdate(_array(module.left.exact()), _array(module.right.exact()))
            for name, module in self._modules.items()
        }

    def head(self) -> dict[str, npt.NDArray[np.float32]]:
        return {name: _array(factor.exact()) for name, factor in self._head.items()}


def _tensor(values: Any, device: torch.device) -> Tensor:
    return torch.as_tensor(np.asarray(values, dtype=np.float32), device=device)


def _array(tensor: Tensor) -> npt.NDArray[np.float32]:
    array: npt.NDArray[np.float32] = tensor.detach().cpu().numpy()
    return array
