"""One run's adapter, or PEFT's in its place, coded in some way and measured."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

from airlora.adapters import LowRankUpdate, install_updates, load_adapter
from airlora.codec import BitWidth, decode_stream, describe, encode_stream, truncate
from airlora.config import Settings, with_values
from airlora.experiments.curve_plan import PEFT_METHODS, CurvePlan, CurvePoint
from airlora.ranks import RankPattern
from airlora.training import (
    EncodedData,
    Packing,
    PeftMethod,
    RunFolder,
    SilentWatcher,
    Workbench,
    assemble,
    evaluate,
    measure_peft_baseline,
    pack_adapter,
    read_held_out,
    stream_header,
    stream_sources,
)

__all__ = ["measure_job"]

CUT_RATIO = 2.0**0.5
"""Between neighbouring sizes that a stream is cut to."""

SMALLEST_CUT_BYTES = 1000

FINEST_DISTORTION = 0.002
"""Of the streams that go up to the whole adapter."""

FIXED_BITS: tuple[BitWidth, ...] = (32, 8, 4)


def measure_job(run: str, plan: CurvePlan, job: str, count_step: Callable[[], None]) -> list[CurvePoint]:
    """Return the points of one job of a run; see `CurvePoint`."""
    folder = RunFolder(run)
    settings = with_values(folder.settings(), {"num_threads": 1})
    name, _, rank = job.partition(" ")
    if name in PEFT_METHODS:
        settings = with_values(settings, plan.overrides)
    bench = assemble(settings)
    held_out = read_held_out(bench, settings, plan.data) or bench.eval
    if name in PEFT_METHODS:
        found = measure_peft_baseline(
            settings,
            bench.train,
            held_out,
            method=cast("PeftMethod", name),
            rank=int(rank),
            num_labels=len(bench.label_names),
            steps=plan.steps(run),
            on_step=lambda step: count_step(),
        )
        return [
            CurvePoint(
                run,
                job,
                f"{name} {point.bits} bit",
                f"rank {rank}",
                point.payload_bytes,
                point.num_components,
                point.accuracy,
                point.loss,
            )
            for point in found
        ]
    load_adapter(bench.adapted, folder.adapter_path)
    measured = _Measured(run, job, bench, settings, held_out)
    if name == "stream":
        points = measured.cuts(plan.packing, count_step)
    elif name == "sized":
        points = measured.sized(plan.packing, plan.sizes, count_step)
    elif name in ("unpolished", "singular"):
        importance = "singular" if name == "singular" else plan.packing.importance
        finest = Packing(max_distortion=FINEST_DISTORTION, layers=plan.packing.layers, importance=importance)
        points = measured.cuts(finest, count_step)
    else:
        points = measured.ranks(
            name, _doubling(settings.adapter.r_max) if name == "constant" else [settings.adapter.r_max]
        )
    if name not in ("stream", "sized"):
        count_step()
    return points


def _doubling(r_max: int) -> list[int]:
    """Return 1, 2, 4, ... and r_max.

    >>> _doubling(12)
    [1, 2, 4, 8, 12]
    """
    return [2**power for power in range(r_max.bit_length()) if 2**power < r_max] + [r_max]


class _StepWatcher(SilentWatcher):
    """Counts the steps of polishing."""

    def __init__(self, count_step: Callable[[], None]) -> None:
        self._count_step = count_step

    def step(self, step: int, values: Any) -> None:  # noqa: ARG002 (the watcher's signature)
        self._count_step()


@dataclass
class _Measured:
    """A run's adapter, coded in some way and measured."""

    run: str
    job: str
    bench: Workbench
    settings: Settings
    held_out: EncodedData

    def __post_init__(self) -> None:
        bench = self.bench
        self._header = stream_header(bench.adapted, self.settings, bench.fingerprint, bench.label_names)

    def cuts(self, packing: Packing, count_step: Callable[[], None]) -> list[CurvePoint]:
        """Return a point per size that the stream is cut to, and the whole of it."""
        data = self._packed(packing, count_step)
        points, size = [], float(SMALLEST_CUT_BYTES)
        while size < len(data):
            if describe(data)["head_bytes"] <= size:
                points += self._point(self.job, f"{size:.0f} B", truncate(data, int(size)))
            size *= CUT_RATIO
        return points + self._point(self.job, "whole", data)

    def sized(self, packing: Packing, sizes: Sequence[int], count_step: Callable[[], None]) -> list[CurvePoint]:
        """Return a point per size that a stream is made for; below the head's there is the head alone."""
        points = []
        for size in sizes:
            data = self._packed(replace(packing, max_bytes=size, whole=True), count_step)
            points += self._point("sized", f"{size} B", data)
            # What was measured is in the model: the next one starts from the run's adapter again.
            load_adapter(self.bench.adapted, RunFolder(self.run).adapter_path)
        return points

    def _packed(self, packing: Packing, count_step: Callable[[], None]) -> bytes:
        return pack_adapter(
            self.bench.adapted,
            self._header,
            packing,
            self.settings,
            self.bench.device,
            calibration=self.bench.calibration,
            train=self.bench.train,
            watcher=_StepWatcher(count_step),
        )

    def ranks(self, name: str, ranks: Sequence[int]) -> list[CurvePoint]:
        """Return a point per rank of all modules and fixed precision."""
        sources = stream_sources(
            self.bench.adapted, "singular", self.settings, self.bench.device, calibration=self.bench.calibration
        )
        points = []
        for rank in ranks:
            own = sources.cut(RankPattern.constant(self._header.modules, rank))
            for bits in FIXED_BITS if name == "constant" else FIXED_BITS[:1]:
                packing = Packing(bits=bits, layers=1)
                data = encode_stream(self._header, own.updates, own.head, **packing.options(has_head=bool(own.head)))
                points += self._point(f"{name} {bits} bit", f"rank {rank}" if name == "constant" else "whole", data)
        return points

    def _point(self, series: str, label: str, data: bytes) -> list[CurvePoint]:
        """Return what the data come to; nothing if the model's head is not whole, without which it says nothing."""
        decoded = decode_stream(data)
        if set(decoded.tensors) != set(self._header.tensors):
            return []
        updates = {name: LowRankUpdate(U, V) for name, (U, V) in decoded.modules.items()}
        adapted = self.bench.adapted
        install_updates(adapted, updates, decoded.tensors)
        found = evaluate(adapted.model, self.held_out, self.bench.device, self.settings.finetune.eval_batch_size)
        return [
            CurvePoint(
                self.run,
                self.job,
                series,
                label,
                len(data),
                sum(update.rank for update in updates.values()),
                found.accuracy,
                found.loss,
            )
        ]
