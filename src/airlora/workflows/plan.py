"""Plan for one link: payload, airtime and measured loss of a run's adapter, and of the alternatives."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from textwrap import fill
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter
from rich.table import Table

from airlora.adapters import load_adapter
from airlora.channel import Link
from airlora.codec import BitWidth, StreamHeader, decode_stream, describe, encode_stream, truncate
from airlora.errors import ChannelError, CheckpointError
from airlora.files import read_bytes
from airlora.packing import EncoderInput, Packing, make_encoder_input, pack_adapter, predict_decoded
from airlora.policy import ConstantPolicy, import_policy
from airlora.progress import ProgressReporter, SilentProgress
from airlora.ranks import RankPattern
from airlora.reports.figures import draw_heat_maps, styled
from airlora.tasks import Evaluation, Metric
from airlora.training import (
    RunContext,
    RunFolder,
    Settings,
    build_context,
    decide_for_link,
    frozen_env,
    learn_on_frozen,
    problem_of,
    read_held_out,
    stream_header,
    train_adalora,
    with_values,
)
from airlora.workflows.pack import default_qat_steps, pack_coefficients

__all__ = ["LinkPlan", "PlannedPayload", "plan_figure", "plan_link", "plan_table"]

STREAM = "stream"
"""Name of the plan without a policy: rate and distortion decide the components and their precision."""

ADALORA = "adalora"
"""Name of PEFT AdaLoRA trained for the link's budget. Its payload counts parameters, without any framing."""

BYTES_PER_FLOAT = 4

FINEST_DISTORTION = 0.005
"""Distortion of the stream if the link carries more: a lower one has no measurable effect."""

NOMINAL_BITS = 3.0
"""Bits per parameter that a policy assumes while the precision is not chosen yet."""

MAX_ATTEMPTS = 8
"""Attempts of a policy at ranks whose stream fits the link."""


@dataclass(frozen=True, slots=True)
class PlannedPayload:
    """A payload that the link carries before the deadline.

    Args:
        policy: Name of the policy that chose the ranks; `stream` for the choice by rate and distortion.
        bits: Bits per parameter, or "auto".
        rank_pattern: Number of received components by module name.
        payload_bytes: Bytes of the payload, with header, digests and classification head.
        airtime_s: Time to send the payload, s.
        deadline_share: Airtime over the deadline.
        meets_deadline: Whether `deadline_share` is 1 or less.
        expected_loss: Loss of the decoded payload.
        expected_accuracy: Primary metric of the decoded payload.
        data: Payload; empty for PEFT AdaLoRA.
    """

    policy: str
    bits: BitWidth
    rank_pattern: dict[str, int]
    payload_bytes: int
    airtime_s: float
    deadline_share: float
    meets_deadline: bool
    expected_loss: float
    expected_accuracy: float
    data: bytes = field(repr=False)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON, without `data`."""
        return {name: getattr(self, name) for name in self.__dataclass_fields__ if name != "data"}


@dataclass(frozen=True, slots=True)
class LinkPlan:
    """Plan for a link.

    Args:
        chosen: Payload of the requested policy and precision.
        others: Payloads of the alternatives.
        capacity_bps: Capacity of the link, bit/s.
        budget_bytes: Bytes that the link carries before the deadline.
        measured_on: Number and name of the samples that loss and primary metric are measured on.
        metric: Primary metric of the task.
    """

    chosen: PlannedPayload
    others: tuple[PlannedPayload, ...]
    capacity_bps: float
    budget_bytes: int
    measured_on: str
    metric: Metric

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON: those of `chosen`, and the other fields."""
        rest = {"capacity_bps": self.capacity_bps, "budget_bytes": self.budget_bytes, "measured_on": self.measured_on}
        return self.chosen.to_dict() | rest | {"others": [other.to_dict() for other in self.others]}


def plan_link(
    run: Path | str,
    link: Link,
    *,
    deadline_s: float,
    rate_model: str | None = None,
    bits: BitWidth = "auto",
    policy: str | None = None,
    data: str | None = None,
    adalora: bool = False,
    qat_steps: int | None = None,
    watcher: ProgressReporter | None = None,
) -> LinkPlan:
    """Return the payload of a run's adapter for a link and a deadline, and alternatives.

    Args:
        run: Folder of a finished run. Requires its training data.
        link: Mean SNR and bandwidth of the link.
        deadline_s: Time for the transfer, s.
        rate_model: Rate model, as `channel.rate`. None selects the run's own.
        bits: Bits per parameter, or "auto" to choose the precision of each component.
        policy: Name of the policy that chooses the ranks. None selects the choice by rate and distortion, or `greedy`
            at fixed bits. A policy that learns first takes `policy.steps` loss measurements on the frozen adapter.
        data: Data to measure on. None selects the calibration samples, on which the adapter was not trained.
        adalora: Whether to train PEFT AdaLoRA too, from the run's r_max down to the link's budget, in as many steps as
            the run. The default data are then the run's evaluation data: the calibration samples determine the
            importance of the stream's components, which would favour the stream.
        qat_steps: Steps of quantisation-aware fine-tuning of the stream. None selects those of the run's settings.
        watcher: Receiver of the progress.

    Raises:
        ChannelError: The link does not carry stream header and classification head before the deadline.
        AirloraError: The run, the data, the link or the policy cannot be used.
    """
    watcher = watcher or SilentProgress()
    if policy is not None and policy != STREAM:
        import_policy(policy, others=[STREAM])
    planner = _Planner(Path(run), link, deadline_s, rate_model, data, on_eval=adalora)
    asked = policy or (STREAM if bits == "auto" else "greedy")
    wanted: list[tuple[str, BitWidth]] = [(asked, bits), (STREAM, "auto"), ("greedy", 32), ("constant", 32)]
    wanted = list(dict.fromkeys(wanted))
    found = []
    tuned = planner.tuned_stream(default_qat_steps(run) if qat_steps is None else qat_steps, watcher)
    watcher.phase("planning", len(wanted))
    for number, (name, precision) in enumerate(wanted, 1):
        is_tuned = tuned is not None and (name, precision) == (STREAM, "auto")
        payload = tuned if is_tuned else planner.payload(name, precision)
        if payload is None and number == 1:
            raise ChannelError(
                f"link of {link.snr_db:g} dB, {link.bandwidth_hz:g} Hz: carries {planner.budget_bytes} bytes before "
                f"the deadline of {deadline_s:g} s, fewer than stream header and classification head need for {asked} "
                f"at {bits} bits"
            )
        if payload is not None:
            found.append(payload)
        watcher.step(number, {})
    if adalora and (trained := planner.trained_adalora(watcher)) is not None:
        found.append(trained)
    return LinkPlan(
        found[0], tuple(found[1:]), planner.capacity_bps, planner.budget_bytes, planner.measured_on, planner.metric
    )


class _Planner:
    """Payloads of one run's adapter for one link."""

    def __init__(
        self, run: Path, link: Link, deadline_s: float, rate_model: str | None, data: str | None, *, on_eval: bool
    ) -> None:
        self._folder = RunFolder(run)
        self._folder.record()
        settings = self._folder.settings()
        self._link = link
        self._deadline_s = deadline_s
        overrides: dict[str, Any] = {
            "channel.snr_db": [link.snr_db],
            "channel.bandwidth_hz": [link.bandwidth_hz],
            "channel.deadline_s": deadline_s,
            "channel.deadline_mode": "project",
            "env.objective": "frozen",
            "env.cost_weight": 0.0,
            # Policies choose among the components of a seeded adapter as among free ones.
            "adapter.form": "free",
        }
        if rate_model is not None:
            overrides["channel.rate"] = rate_model
        self._settings: Settings = with_values(settings, overrides)
        self.capacity_bps = link.capacity_bps(self._settings.channel)
        self.budget_bytes = link.carried_bytes(self._settings.channel, deadline_s)
        self._bench: RunContext = build_context(self._settings)
        self.metric = self._bench.task.metrics[0]
        load_adapter(self._bench.adapted, self._folder.adapter_path)
        self._source = make_encoder_input(
            self._bench.adapted,
            Packing().resolved_importance,
            self._settings.compute_options(self._bench.device),
            calibration=self._bench.calibration,
        )
        own = stream_header(self._bench.adapted, settings, self._bench.fingerprint, self._bench.task)
        self._seeded = own if own.basis is not None else None
        self._header = replace(own, basis=None)
        held_out = read_held_out(self._bench, self._settings, data)
        others = self._bench.eval if on_eval else self._bench.calibration
        self._data = others if held_out is None else held_out
        kind = "evaluation" if on_eval else "calibration"
        self.measured_on = f"{len(self._data)} " + (f"{kind} samples" if data is None else f"samples of {data}")

    def payload(self, policy: str, bits: BitWidth) -> PlannedPayload | None:
        """Return the payload of a policy at a precision; None if the link does not carry it."""
        if policy == STREAM and bits == "auto" and self._seeded is not None:
            candidates = [self._measured(policy, bits, data) for data in self._seeded_streams(self._seeded)]
            return min(candidates, key=lambda own: own.expected_loss, default=None)
        if policy == STREAM:
            data = self._encode(RankPattern.constant(self._header.modules, self._header.r_max), bits)
            fits = self._within_budget(data)
            return None if fits is None else self._measured(policy, bits, fits)
        share = 1.0
        for _ in range(MAX_ATTEMPTS):
            pattern = self._decide(policy, bits, share)
            data = self._encode(pattern, bits)
            if len(data) <= self.budget_bytes:
                return self._measured(policy, bits, data)
            if bits == "auto":
                fits = self._within_budget(data)
                return None if fits is None else self._measured(policy, bits, fits)
            # A policy does not count header, digests and classification head.
            share *= 0.98 * self.budget_bytes / len(data)
        return None

    def tuned_stream(self, qat_steps: int, watcher: ProgressReporter) -> PlannedPayload | None:
        """Return the payload after quantisation-aware fine-tuning for receivers of the whole stream.

        Args:
            qat_steps: Steps of the fine-tuning.
            watcher: Receiver of the progress.

        Returns:
            The payload. None for 0 steps, for a seeded adapter, or if the link carries no stream or all components.
        """
        if not qat_steps or self._seeded is not None or not self.budget_bytes:
            return None
        if len(self._pack(self._source, Packing(max_distortion=FINEST_DISTORTION))) <= self.budget_bytes:
            return None
        bench = self._bench
        data = pack_adapter(
            bench.adapted,
            self._header,
            Packing(max_bytes=self.budget_bytes, qat_steps=qat_steps, whole=True),
            self._settings.compute_options(bench.device),
            calibration=bench.calibration,
            train=bench.train,
            watcher=watcher,
        )
        if len(data) > self.budget_bytes:
            return None
        return self._measured(STREAM, "auto", data)

    def trained_adalora(self, watcher: ProgressReporter) -> PlannedPayload | None:
        """Return the payload of PEFT AdaLoRA, trained in float32 for the link's budget.

        Args:
            watcher: Receiver of the progress of the training.

        Returns:
            The payload, or None if the budget holds no component or AdaLoRA keeps none.
        """
        bench, steps = self._bench, self._folder.record().steps
        num_head = sum(tensor.numel() for tensor in bench.adapted.head_state().values())
        budget_params = self.budget_bytes // BYTES_PER_FLOAT - num_head
        if budget_params < min(shape.params_per_rank for shape in bench.adapted.shapes.values()):
            return None
        watcher.phase("training AdaLoRA", steps)
        found = train_adalora(
            self._settings,
            bench.train,
            self._data,
            budget_params=budget_params,
            steps=steps,
            on_step=lambda step: watcher.step(step, {}),
        )
        if not found.num_params:
            return None
        num_bytes = BYTES_PER_FLOAT * (found.num_params + num_head)
        return self._payload(ADALORA, 32, found.rank_pattern.to_dict(), num_bytes, found.evaluation, b"")

    def _seeded_streams(self, header: StreamHeader) -> list[bytes]:
        """Return what the link carries of a seeded adapter: its stream, or a prefix and a coarser stream."""
        data = read_bytes(self._folder.stream_path, "stream of the run", CheckpointError)
        if len(data) <= self.budget_bytes:
            return [data]
        coarser = pack_coefficients(self._folder, header, max_bytes=max(1, self.budget_bytes))
        found = [self._within_budget(data), coarser]
        return [own for own in found if own is not None and len(own) <= self.budget_bytes]

    def _decide(self, name: str, bits: BitWidth, share: float) -> RankPattern:
        bits_per_param = NOMINAL_BITS if bits == "auto" else float(bits)
        channel = self._settings.channel.model_copy(
            update={"bits_per_param": bits_per_param, "deadline_s": max(share * self._deadline_s, 1e-9)}
        )
        settings = self._settings.model_copy(update={"channel": channel})
        try:
            env = frozen_env(self._bench, settings)
        except ChannelError:
            return RankPattern.constant(self._header.modules, 0)
        if name == "constant":
            policy: Any = ConstantPolicy(problem_of(env), env.objective.r_max, fit_to_budget=True)
        else:
            policy = learn_on_frozen(name, self._bench, settings, evaluations=settings.policy.steps)
        return decide_for_link(policy, env, self._link, self._bench.calibration.complexity())

    def _encode(self, pattern: RankPattern, bits: BitWidth) -> bytes:
        source = self._source.truncated(pattern)
        if bits != "auto":
            return self._pack(source, Packing(bits=bits))
        finest = self._pack(source, Packing(max_distortion=FINEST_DISTORTION))
        if len(finest) <= self.budget_bytes:
            return finest
        return self._pack(source, Packing(max_bytes=max(1, self.budget_bytes)))

    def _pack(self, source: EncoderInput, packing: Packing) -> bytes:
        # One layer: the stream is for this link alone.
        options = replace(packing, layers=1).options(has_head=bool(source.head))
        return encode_stream(self._header, source.updates, source.head, **source.with_rounding(options))

    def _within_budget(self, data: bytes) -> bytes | None:
        """Return the longest prefix that the link carries; None if it lacks a part of the classification head."""
        if len(data) <= self.budget_bytes:
            return data
        if describe(data)["head_bytes"] > self.budget_bytes:
            return None
        prefix = truncate(data, self.budget_bytes)
        return prefix if set(decode_stream(prefix).tensors) == set(self._source.head) else None

    def _measured(self, policy: str, bits: BitWidth, data: bytes) -> PlannedPayload:
        bench, decoded, batch_size = self._bench, decode_stream(data), self._settings.finetune.eval_batch_size
        found = predict_decoded(bench.adapted, decoded, self._data, bench.device, batch_size).evaluation
        return self._payload(policy, bits, decoded.rank_pattern.to_dict(), len(data), found, data)

    def _payload(
        self,
        policy: str,
        bits: BitWidth,
        rank_pattern: dict[str, int],
        num_bytes: int,
        evaluation: Evaluation,
        data: bytes,
    ) -> PlannedPayload:
        seconds = 8 * num_bytes / self.capacity_bps
        return PlannedPayload(
            policy=policy,
            bits=bits,
            rank_pattern=rank_pattern,
            payload_bytes=num_bytes,
            airtime_s=seconds,
            deadline_share=seconds / self._deadline_s,
            meets_deadline=seconds <= self._deadline_s,
            expected_loss=evaluation.loss,
            expected_accuracy=evaluation.score,
            data=data,
        )


def plan_table(title: str, plan: LinkPlan) -> Table:
    """Return the payloads of a plan as a table, the plan itself first."""
    table = Table(title=title, title_justify="left")
    for name in ("sent", "bits", "components", "bytes", "seconds", "of limit", "loss", "score"):
        table.add_column(name, justify="left" if name == "sent" else "right", no_wrap=True)
    for row in (plan.chosen, *plan.others):
        table.add_row(
            row.policy,
            str(row.bits),
            str(sum(row.rank_pattern.values())),
            f"{row.payload_bytes:,}",
            f"{row.airtime_s:.3g}",
            f"{row.deadline_share:.0%}",
            f"{row.expected_loss:.4f}",
            plan.metric.text(row.expected_accuracy, short=True),
        )
    return table


_TITLE_CHARACTERS = 44
"""Longest line of a title, which holds the path of the data."""


def plan_figure(plan: LinkPlan, modules: Mapping[str, Mapping[str, Any]], r_max: int) -> str:
    """Return the payloads of a plan as SVG: rank patterns, and below them bytes and measured primary metric.

    Args:
        plan: Plan for a link.
        modules: `role` and `layer` by module name, in order.
        r_max: Largest rank of the adapter, for the label of the colour scale.
    """
    return styled(lambda: _draw(plan, modules, r_max))


def _draw(plan: LinkPlan, modules: Mapping[str, Mapping[str, Any]], r_max: int) -> Figure:
    rows = [plan.chosen, *plan.others]
    names = [f"{row.policy}, {row.bits} bit" if row.bits != "auto" else row.policy for row in rows]
    num_layers = len({module["layer"] for module in modules.values()})
    figure = Figure(figsize=(max(7.0, 2.6 * len(rows) + 0.6), 4.4 + 0.34 * num_layers), layout="constrained")
    subfigures: Any = figure.subfigures(2, 1, height_ratios=[1.2 + 0.34 * num_layers, 3.2])
    above, below = subfigures
    axes = above.subplots(1, len(rows), squeeze=False)[0].tolist()
    patterns = dict(zip(names, (row.rank_pattern for row in rows), strict=True))
    draw_heat_maps(above, axes, patterns, modules, r_max)
    sizes, scores = below.subplots(1, 2)
    colours = ["#0072B2", *["#999999"] * (len(rows) - 1)]
    positions = range(len(rows))
    limit_shown = plan.budget_bytes <= 20 * max(row.payload_bytes for row in rows)
    payload = "payload, kB; dashed: budget of the link" if limit_shown else "payload, kB"
    for axis, values, title in (
        (sizes, [row.payload_bytes / 1000 for row in rows], payload),
        (scores, [row.expected_accuracy for row in rows], f"{plan.metric.name}, {plan.measured_on}"),
    ):
        bars = axis.barh(positions, values, color=colours)
        text = "{:.1f}".format if axis is sizes else partial(plan.metric.text, short=True)
        labels = axis.bar_label(bars, fmt=text, padding=3, fontsize=9)
        for label in labels:
            # White boxes keep labels legible where the dashed line crosses them.
            label.set(zorder=3, bbox={"facecolor": "white", "edgecolor": "none", "pad": 1.0})
        axis.set_title(fill(title, _TITLE_CHARACTERS), loc="left", fontsize=10)
        axis.invert_yaxis()
        axis.margins(x=0.2)
    sizes.set_yticks(positions, names)
    scores.set_yticks(positions, [""] * len(rows))
    if limit_shown:
        sizes.axvline(plan.budget_bytes / 1000, color="#D55E00", linestyle="dashed", linewidth=1.2)
    if plan.metric.style == "%":
        scores.set_xlim(0.0, 1.0)
        scores.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:g}%"))
    return figure
