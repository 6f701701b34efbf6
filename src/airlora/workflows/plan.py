"""What to send over one link, and what else could be sent: bytes, seconds, measured loss."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from textwrap import fill
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from airlora.adapters import LowRankUpdate, install_updates, load_adapter
from airlora.codec import BitWidth, DecodedStream, decode_stream, describe, encode_stream, truncate
from airlora.env import Link
from airlora.errors import ChannelError, SettingsError
from airlora.packing import Packing, stream_sources
from airlora.policy import ConstantPolicy, import_policy
from airlora.progress import ProgressReporter, SilentProgress
from airlora.ranks import RankPattern
from airlora.reports.figures import draw_heat_maps, styled
from airlora.tasks import Evaluation, evaluate
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

__all__ = ["LinkPlan", "PlannedPayload", "plan_figure", "plan_link"]

STREAM = "stream"
"""Name of the plan that no policy makes: components and their precision by rate and distortion."""

ADALORA = "adalora"
"""Name of PEFT's AdaLoRA, trained for the link's budget: numbers alone are counted, no framing."""

BYTES_PER_FLOAT = 4

FINEST_DISTORTION = 0.005
"""Where a link carries more, the stream ends here: finer changes nothing that can be measured."""

NOMINAL_BITS = 3.0
"""What a policy counts a number as while its precision is left open."""

MAX_TRIES = 8

MAX_BITS = 2.0**60
"""No link carries more before any deadline that is one."""


@dataclass(frozen=True, slots=True)
class PlannedPayload:
    """One thing that could be sent.

    Args:
        policy: What chose the ranks; `stream`: rate and distortion did.
        bits: "auto", or bits of every number.
        rank_pattern: Components that arrive in time, per module.
        payload_bytes: Everything that is sent: head, digests, numbers.
        airtime_s: That takes.
        deadline_share: Of the deadline.
        meets_deadline: Whether that is 1 or less.
        expected_loss: Measured with exactly these bytes decoded, nats per sample.
        expected_accuracy: Likewise.
        data: The bytes; none of an adapter that is not ours.
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
        """Return plain values for JSON, without the bytes."""
        return {name: getattr(self, name) for name in self.__dataclass_fields__ if name != "data"}


@dataclass(frozen=True, slots=True)
class LinkPlan:
    """A plan for a link.

    Args:
        chosen: What was asked for.
        others: What else could be sent, with the same measure.
        capacity_bps: The link's rate.
        budget_bytes: What it carries before the deadline.
        measured_on: Name of the data behind losses and accuracies, and how many samples.
    """

    chosen: PlannedPayload
    others: tuple[PlannedPayload, ...]
    capacity_bps: float
    budget_bytes: int
    measured_on: str

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON: those of `chosen`, and the rest beside them."""
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
    watcher: ProgressReporter | None = None,
) -> LinkPlan:
    """Return what to send of a run's adapter over a link within the deadline.

    Args:
        run: Folder of a finished run; its training data must still be there.
        link: By mean SNR and bandwidth.
        deadline_s: Seconds.
        rate_model: As `channel.rate`; the default is the run's own.
        bits: "auto" gives every component its precision; a number is the same for all.
        policy: Chooses ranks; by default rate and distortion do, or `greedy` where `bits` is a number. One that learns
            does so first, on the frozen adapter, for `policy.steps` losses.
        data: To measure on; the default are the calibration samples, which fine-tuning did not see.
        adalora: Also train PEFT's AdaLoRA, from the run's r_max down to as many numbers as the link carries, as long
            as the run was trained.  All is then measured on the run's evaluation data, unless others are given: the
            calibration samples say what the stream's components are worth, and AdaLoRA never sees them.
        watcher: Is told of the progress.

    Raises:
        ChannelError: The link does not even carry the stream's head and the model's before the deadline.
        AirloraError: Run, data, link or policy are not usable.
    """
    watcher = watcher or SilentProgress()
    if policy is not None and policy != STREAM:
        import_policy(policy, others=[STREAM])
    planner = _Planner(Path(run), link, deadline_s, rate_model, data, on_eval=adalora)
    asked = policy or (STREAM if bits == "auto" else "greedy")
    wanted: list[tuple[str, BitWidth]] = [(asked, bits), (STREAM, "auto"), ("greedy", 32), ("constant", 32)]
    wanted = list(dict.fromkeys(wanted))
    watcher.phase("planning", len(wanted))
    found = []
    for place, (name, precision) in enumerate(wanted):
        payload = planner.payload(name, precision)
        if payload is None and place == 0:
            raise ChannelError(
                f"link of {link.snr_db:g} dB, {link.bandwidth_hz:g} Hz: carries {planner.budget_bytes} bytes before "
                f"the deadline of {deadline_s:g} s, less than {asked} at {bits} bits needs for the heads alone"
            )
        if payload is not None:
            found.append(payload)
        watcher.step(place + 1, {})
    if adalora and (trained := planner.trained_adalora(watcher)) is not None:
        found.append(trained)
    return LinkPlan(found[0], tuple(found[1:]), planner.capacity_bps, planner.budget_bytes, planner.measured_on)


class _Planner:
    """A run's adapter on one link."""

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
        }
        if rate_model is not None:
            overrides["channel.rate"] = rate_model
        self._settings: Settings = with_values(settings, overrides)
        self.capacity_bps = link.capacity_bps(self._settings.channel)
        if not self.capacity_bps * deadline_s < MAX_BITS:
            raise SettingsError.of("deadline_s", deadline_s, f"so short that the link carries below {MAX_BITS:g} bits")
        self.budget_bytes = int(self.capacity_bps * deadline_s / 8)
        self._bench: RunContext = build_context(self._settings)
        load_adapter(self._bench.adapted, self._folder.adapter_path)
        self._sources = stream_sources(
            self._bench.adapted,
            Packing().weighed_by,
            self._settings.compute_options(self._bench.device),
            calibration=self._bench.calibration,
        )
        self._header = stream_header(self._bench.adapted, self._settings, self._bench.fingerprint, self._bench.task)
        held_out = read_held_out(self._bench, self._settings, data)
        others = self._bench.eval if on_eval else self._bench.calibration
        self._data = others if held_out is None else held_out
        kind = "evaluation" if on_eval else "calibration"
        self.measured_on = f"{len(self._data)} " + (f"{kind} samples" if data is None else f"samples of {data}")

    def payload(self, policy: str, bits: BitWidth) -> PlannedPayload | None:
        """Return what that comes to; None if the link does not carry it."""
        if policy == STREAM:
            data = self._encode(RankPattern.constant(self._header.modules, self._header.r_max), bits)
            fits = self._within_budget(data)
            return None if fits is None else self._measured(policy, bits, fits)
        share = 1.0
        for _ in range(MAX_TRIES):
            pattern = self._decide(policy, bits, share)
            data = self._encode(pattern, bits)
            if len(data) <= self.budget_bytes:
                return self._measured(policy, bits, data)
            if bits == "auto":
                fits = self._within_budget(data)
                return None if fits is None else self._measured(policy, bits, fits)
            # Head, digests and the model's head are beside the numbers that a policy counts.
            share *= 0.98 * self.budget_bytes / len(data)
        return None

    def trained_adalora(self, watcher: ProgressReporter) -> PlannedPayload | None:
        """Return PEFT's AdaLoRA trained for what the link carries in float32, head first; None if that is not one."""
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

    def _decide(self, name: str, bits: BitWidth, share: float) -> RankPattern:
        number = NOMINAL_BITS if bits == "auto" else float(bits)
        channel = self._settings.channel.model_copy(
            update={"bits_per_param": number, "deadline_s": max(share * self._deadline_s, 1e-9)}
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
        sources = self._sources.cut(pattern)

        def encoded(packing: Packing) -> bytes:
            # One layer: the stream is for this link alone.
            options = replace(packing, layers=1).options(has_head=bool(sources.head))
            return encode_stream(self._header, sources.updates, sources.head, **sources.rounded(options))

        if bits != "auto":
            return encoded(Packing(bits=bits))
        finest = encoded(Packing(max_distortion=FINEST_DISTORTION))
        if len(finest) <= self.budget_bytes:
            return finest
        return encoded(Packing(max_bytes=max(1, self.budget_bytes)))

    def _within_budget(self, data: bytes) -> bytes | None:
        """Return the longest prefix that arrives in time and holds the model's head, if there is one."""
        if len(data) <= self.budget_bytes:
            return data
        if describe(data)["head_bytes"] > self.budget_bytes:
            return None
        prefix = truncate(data, self.budget_bytes)
        return prefix if set(decode_stream(prefix).tensors) == set(self._sources.head) else None

    def _measured(self, policy: str, bits: BitWidth, data: bytes) -> PlannedPayload:
        decoded = decode_stream(data)
        return self._payload(policy, bits, decoded.rank_pattern.to_dict(), len(data), self._evaluate(decoded), data)

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

    def _evaluate(self, decoded: DecodedStream) -> Evaluation:
        """Return what the model makes of the data with what arrived; its own adapter comes back."""
        bench = self._bench
        updates = {name: LowRankUpdate(U, V) for name, (U, V) in decoded.modules.items()}
        try:
            install_updates(bench.adapted, updates, decoded.tensors)
            return evaluate(bench.adapted.model, self._data, bench.device, self._settings.finetune.eval_batch_size)
        finally:
            load_adapter(bench.adapted, self._folder.adapter_path)


_TITLE_CHARACTERS = 44
"""Of a line: the data's path is among them."""


def plan_figure(plan: LinkPlan, modules: Mapping[str, Mapping[str, Any]], r_max: int) -> str:
    """Return what could be sent over a link as SVG: ranks above, bytes and measured accuracy below.

    Args:
        plan: The plan and what stands beside it.
        modules: `role` and `layer` per module name, in order.
        r_max: Largest rank of the adapter, as it is told beside the colour scale.
    """
    return styled(lambda: _draw(plan, modules, r_max))


def _draw(plan: LinkPlan, modules: Mapping[str, Mapping[str, Any]], r_max: int) -> Figure:
    rows = [plan.chosen, *plan.others]
    names = [f"{row.policy}, {row.bits} bit" if row.bits != "auto" else row.policy for row in rows]
    num_layers = len({module["layer"] for module in modules.values()})
    figure = Figure(figsize=(max(7.0, 2.6 * len(rows) + 0.6), 4.4 + 0.34 * num_layers), layout="constrained")
    parts: Any = figure.subfigures(2, 1, height_ratios=[1.2 + 0.34 * num_layers, 3.2])
    above, below = parts
    axes = above.subplots(1, len(rows), squeeze=False)[0].tolist()
    patterns = dict(zip(names, (row.rank_pattern for row in rows), strict=True))
    draw_heat_maps(above, axes, patterns, modules, r_max)
    sizes, accuracies = below.subplots(1, 2)
    colours = ["#0072B2", *["#999999"] * (len(rows) - 1)]
    places = range(len(rows))
    limit_shown = plan.budget_bytes <= 20 * max(row.payload_bytes for row in rows)
    sent = "sent, kB; dashed: what the link carries" if limit_shown else "sent, kB"
    for axis, values, title in (
        (sizes, [row.payload_bytes / 1000 for row in rows], sent),
        (accuracies, [row.expected_accuracy for row in rows], f"accuracy, {plan.measured_on}"),
    ):
        bars = axis.barh(places, values, color=colours)
        labels = axis.bar_label(bars, fmt="{:.1f}" if axis is sizes else "{:.1%}", padding=3, fontsize=9)
        for label in labels:
            # Above the dashed line, which would go through a label near the link's limit.
            label.set(zorder=3, bbox={"facecolor": "white", "edgecolor": "none", "pad": 1.0})
        axis.set_title(fill(title, _TITLE_CHARACTERS), loc="left", fontsize=10)
        axis.invert_yaxis()
        axis.margins(x=0.2)
    sizes.set_yticks(places, names)
    accuracies.set_yticks(places, [""] * len(rows))
    if limit_shown:
        sizes.axvline(plan.budget_bytes / 1000, color="#D55E00", linestyle="dashed", linewidth=1.2)
    accuracies.set_xlim(0.0, 1.0)
    accuracies.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:g}%"))
    return figure
