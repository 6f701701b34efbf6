"""Jobs of a curve of accuracy against bytes: streams and their prefixes, fixed precision, PEFT's adapters."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, cast

from airlora.adapters import load_adapter
from airlora.codec import BitWidth, decode_stream, describe, encode_stream, truncate
from airlora.errors import CheckpointError, SettingsError
from airlora.files import read_bytes, sha256_of
from airlora.packing import IMPORTANCE_MEASURES, Packing, make_encoder_input, pack_adapter, predict_decoded
from airlora.progress import SilentProgress
from airlora.ranks import RankPattern
from airlora.reports.curve_points import CURVE_METHODS, PEFT_METHODS, CurvePoint
from airlora.tasks import DataSettings, EncodedData, Evaluation
from airlora.training import (
    BASELINE_BITS,
    FEW_PARAMETER_METHODS,
    MIN_SEEDED_BYTES,
    PeftMethod,
    RunContext,
    RunFolder,
    Settings,
    build_context,
    measure_few_parameters,
    measure_peft_baseline,
    read_held_out,
    seeded_recipe,
    stream_header,
    train_seeded_stream,
    with_values,
)
from airlora.version import __version__

__all__ = [
    "DEFAULT_SIZES",
    "RANK_METHODS",
    "CurvePlan",
    "count_steps",
    "fingerprint_of",
    "list_jobs",
    "measure_job",
    "peft_sizes",
]

DEFAULT_SIZES = (3000, 6000, 10_000)
"""Sizes of the streams that are optimised for receivers of the whole, bytes."""

TUNING_STEPS = 300
"""Training steps of each try of a learning rate."""

RANK_METHODS: Mapping[str, str] = {"adalora": "finetune.adalora_learning_rate", "lora": "finetune.lora_learning_rate"}
"""Setting of the learning rate of the methods that are trained at the plan's ranks."""

_NEWER_DATA_FIELDS = {
    "name",
    "text_pair_column",
    "format",
    "prompt_column",
    "completion_column",
    "messages_column",
    "packing",
}
"""Settings of the data that are newer than the first curves."""

PREFIX_RATIO = 2.0**0.5
"""Ratio between neighbouring sizes of measured prefixes."""

MIN_PREFIX_BYTES = 1000

FINEST_DISTORTION = 0.002
"""Distortion of the streams whose prefixes range up to the whole adapter."""

FIXED_BITS: tuple[BitWidth, ...] = (32, 8, 4)

_NOT_FOR_PEFT = {"orthogonality_weight", "nested_probability", "ffn_update", "init_from"}
"""Settings of the adapter that PEFT's adapters do not have."""

_LEARNING_RATES = {"learning_rate", "adalora_learning_rate", "lora_learning_rate"}


@dataclass(frozen=True)
class CurvePlan:
    """Methods and sizes to measure.

    Args:
        packing: Options of packing for the stream with QAT.
        ranks: Ranks at which PEFT's adapters are trained, >= 1.
        sizes: Sizes of the streams that are optimised for receivers of the whole, bytes, >= 1.
        methods: Keys of `CURVE_METHODS`.
        data: Data to measure on. None selects the run's evaluation data.
        baseline_steps: Training steps of PEFT's adapters. None selects those of the run plus those of QAT.
        overrides: Settings of PEFT's adapters that differ from the run's, by dotted key. A learning rate among them is
            not tuned.
        tuning_steps: Training steps of each try of a learning rate, >= 2.
        rates: Learning rates of PEFT's methods by name. Others are tuned.

    Raises:
        SettingsError: A method is unknown, or a value is not allowed.
    """

    packing: Packing
    ranks: tuple[int, ...] = (1, 2, 4, 8)
    sizes: tuple[int, ...] = DEFAULT_SIZES
    methods: tuple[str, ...] = tuple(CURVE_METHODS)
    data: str | None = None
    baseline_steps: int | None = None
    overrides: dict[str, Any] = field(default_factory=dict)
    tuning_steps: int = TUNING_STEPS
    rates: Mapping[str, float] = field(default_factory=dict)

    def steps(self, run: str) -> int:
        """Return the training steps of PEFT's adapters for a run."""
        if self.baseline_steps is not None:
            return self.baseline_steps
        return RunFolder(run).record().steps + self.packing.qat_steps

    def __post_init__(self) -> None:
        for name in self.methods:
            if name not in CURVE_METHODS:
                raise SettingsError.of("method", name, f"one of {', '.join(CURVE_METHODS)}")
        if not self.ranks or min(self.ranks) < 1:
            raise SettingsError.of("ranks", self.ranks, "whole numbers, 1 or more")
        object.__setattr__(self, "sizes", tuple(dict.fromkeys(self.sizes)))
        if min(self.sizes, default=1) < 1:
            raise SettingsError.of("sizes", self.sizes, "bytes, 1 or more")
        if "finetune.steps" in self.overrides:
            raise SettingsError.of(
                "finetune.steps",
                self.overrides["finetune.steps"],
                "no value here: the number of steps is `baseline_steps` (--baseline-steps)",
            )
        if self.tuning_steps < 2:
            raise SettingsError.of("tuning steps", self.tuning_steps, "2 or more")
        if self.baseline_steps is not None and self.baseline_steps < 1:
            raise SettingsError.of("baseline steps", self.baseline_steps, "1 or more")


def peft_sizes(name: str, plan: CurvePlan, run: str) -> Sequence[int]:
    """Return the sizes of a method of PEFT that the run's model allows, in increasing order."""
    if name not in FEW_PARAMETER_METHODS:
        return sorted(plan.ranks)
    return FEW_PARAMETER_METHODS[name].fitting_sizes([*RunFolder(run).record().shapes.values()])


def list_jobs(plan: CurvePlan, run: str) -> list[str]:
    """Return the jobs of a run, the longest first."""
    trained = [f"{name} {rank}" for rank in sorted(plan.ranks, reverse=True) for name in RANK_METHODS]
    trained += [f"{name} {size}" for name in FEW_PARAMETER_METHODS for size in reversed(peft_sizes(name, plan, run))]
    trained += [f"sized {size}" for size in plan.sizes]
    trained += [f"seeded {size}" for size in plan.sizes if size >= MIN_SEEDED_BYTES]
    alone = [name for name in CURVE_METHODS if name not in (*PEFT_METHODS, "seeded", "sized")]
    return [job for job in [*trained, *alone] if job.split()[0] in plan.methods]


def count_steps(run: str, plan: CurvePlan, job: str) -> int:
    """Return how often a job calls the function that counts its steps."""
    if job.split()[0] in (*PEFT_METHODS, "seeded"):
        return plan.steps(run)
    return plan.packing.qat_steps or 1 if job.split()[0] in ("stream", "sized") else 1


def fingerprint_of(folder: RunFolder, plan: CurvePlan, job: str) -> str:
    """Return the digest of all that a job depends on."""
    settings, name = folder.settings(), job.split()[0]
    sources = settings.data.sources()
    relevant: list[Any] = [__version__, _content(plan.data or (sources.eval if sources else None)), job]
    if name in PEFT_METHODS:
        # PEFT's adapters do not depend on the run's adapter or on settings of its own training.
        tuned = with_values(settings, plan.overrides)
        relevant += [
            tuned.model_dump(mode="json", include={"seed": True, "model": True, "data": _data_fields(tuned)}),
            tuned.adapter.model_dump(mode="json", exclude=_NOT_FOR_PEFT),
            tuned.finetune.model_dump(mode="json", exclude={"steps", "eval_every", *_LEARNING_RATES}),
            [plan.rates[name], BASELINE_BITS],
            plan.steps(str(folder.path)),
            # The number of samples that are excluded from training.
            [settings.env.frozen_batches, settings.env.frozen_batch_size],
        ]
    elif name == "seeded":
        tuned = with_values(settings, {**_seeded_recipe(job), **plan.overrides})
        relevant += [
            tuned.model_dump(
                mode="json",
                include={"seed": True, "model": True, "adapter": True, "data": _data_fields(tuned)},
                exclude={"adapter": {"init_from"}},
            ),
            tuned.finetune.model_dump(mode="json", exclude={"steps", "eval_every"}),
            plan.steps(str(folder.path)),
            [settings.env.frozen_batches, settings.env.frozen_batch_size],
        ]
    else:
        relevant += [
            settings.model_dump(
                mode="json",
                exclude={
                    "num_threads": True,
                    "data": _unset_data_fields(settings, "name"),
                    "adapter": {"init_from"} if settings.adapter.init_from is None else set(),
                },
            ),
            hashlib.sha256(read_bytes(folder.adapter_path, "adapter", CheckpointError)).hexdigest(),
        ]
    if name not in ("full", "constant", "singular"):
        relevant.append(_content(sources.train if sources else None))
    if name in ("stream", "sized"):
        relevant += [_stored(plan.packing)]
    elif name in ("unpolished", "singular"):
        relevant.append(plan.packing.layers)
    if name == "unpolished":
        relevant.append(_stored_importance(plan.packing.resolved_importance))
    return hashlib.sha256(json.dumps(relevant, sort_keys=True, default=str).encode()).hexdigest()[:16]


def _stored(packing: Packing) -> dict[str, Any]:
    """Return the options of packing under the names that fingerprints in stored points are made of."""
    values = asdict(packing)
    values["polish_steps"] = values.pop("qat_steps")
    values["importance"] = None if packing.importance is None else _stored_importance(packing.importance)
    return values


def _stored_importance(name: str) -> str:
    return IMPORTANCE_MEASURES[name].former_name or name


def _data_fields(settings: Settings) -> set[str]:
    """Return the settings of the data that matter."""
    return set(DataSettings.model_fields) - _unset_data_fields(settings)


def _unset_data_fields(settings: Settings, *known: str) -> set[str]:
    """Return the settings of the data that have their default and that fingerprints of earlier points do not know.

    Args:
        settings: Settings of the run.
        known: Newer settings that they know.
    """
    default = DataSettings()
    return {name for name in _NEWER_DATA_FIELDS - set(known) if getattr(settings.data, name) == getattr(default, name)}


def _content(source: str | None) -> list[str | None]:
    """Return the name of a data set and, for a file, the digest of its content."""
    return [source, sha256_of(source) if source is not None and Path(source).is_file() else None]


def measure_job(run: str, plan: CurvePlan, job: str, count_step: Callable[[], None]) -> list[CurvePoint]:
    """Return the points of one job of a run.

    Args:
        run: Folder of a finished run.
        plan: Methods and sizes to measure.
        job: Key of `CURVE_METHODS`; for PEFT's adapters followed by a space and the rank, such as `"lora 4"`.
        count_step: Function that is called after each training step. A method without training calls it at most once.

    Raises:
        AirloraError: The run is not finished, its data are missing, or its adapter cannot be read.
    """
    start = time.process_time()
    points = _measure(run, plan, job, count_step)
    seconds = time.process_time() - start
    return [replace(point, cpu_seconds=seconds) for point in points]


def _measure(run: str, plan: CurvePlan, job: str, count_step: Callable[[], None]) -> list[CurvePoint]:
    folder = RunFolder(run)
    settings = with_values(folder.settings(), {"num_threads": 1})
    name, _, size = job.partition(" ")
    if name in PEFT_METHODS:
        return _measure_peft(run, job, plan, with_values(settings, plan.overrides), count_step)
    if name == "seeded":
        return _measure_seeded(run, job, plan, settings, count_step)
    bench = build_context(settings)
    held_out = read_held_out(bench, settings, plan.data) or bench.eval
    load_adapter(bench.adapted, folder.adapter_path)
    measurement = _AdapterMeasurement(run, job, bench, settings, held_out)
    if name == "stream":
        points = measurement.prefixes(plan.packing, count_step)
    elif name == "sized":
        points = measurement.sized(plan.packing, int(size), count_step)
    elif name in ("unpolished", "singular"):
        importance = "singular_value" if name == "singular" else plan.packing.importance
        finest = Packing(max_distortion=FINEST_DISTORTION, layers=plan.packing.layers, importance=importance)
        points = measurement.prefixes(finest, count_step)
    else:
        points = measurement.ranks(
            name, _doubling(settings.adapter.r_max) if name == "constant" else [settings.adapter.r_max]
        )
    if name not in ("stream", "sized"):
        count_step()
    return points


def _measure_peft(
    run: str, job: str, plan: CurvePlan, settings: Settings, count_step: Callable[[], None]
) -> list[CurvePoint]:
    """Return the points of an adapter of PEFT at every precision."""
    bench = build_context(settings)
    held_out = read_held_out(bench, settings, plan.data) or bench.eval
    name, _, size = job.partition(" ")
    steps, rate = plan.steps(run), plan.rates[name]

    def point(label: str, bits: int, num_bytes: int, num_components: int, found: Evaluation) -> CurvePoint:
        return CurvePoint(run, job, f"{name} {bits} bit", label, num_bytes, num_components, found.score, found.loss)

    if name in RANK_METHODS:
        ranked = measure_peft_baseline(
            with_values(settings, {RANK_METHODS[name]: rate}),
            bench.train,
            held_out,
            method=cast("PeftMethod", name),
            rank=int(size),
            steps=steps,
            on_step=lambda step: count_step(),
        )
        return [
            point(f"rank {size}", own.bits, own.payload_bytes, own.num_components, own.evaluation) for own in ranked
        ]
    size_name = FEW_PARAMETER_METHODS[name].size_name
    few = measure_few_parameters(
        settings,
        bench.train,
        held_out,
        method=name,
        size=int(size),
        learning_rate=rate,
        steps=steps,
        on_step=lambda step: count_step(),
    )
    label = f"{size_name} {size}" if size_name else "whole"
    return [point(label, own.bits, own.payload_bytes, 0, own.evaluation) for own in few]


def _seeded_recipe(job: str) -> dict[str, Any]:
    """Return the settings of a seeded adapter for the size of a job. It does not continue from another adapter."""
    return {**seeded_recipe(int(job.split()[1])), "adapter.init_from": None}


def _measure_seeded(
    run: str, job: str, plan: CurvePlan, settings: Settings, count_step: Callable[[], None]
) -> list[CurvePoint]:
    """Return the point of a seeded adapter that is trained for the size of the job."""
    recipe = _seeded_recipe(job)
    settings = with_values(settings, {**recipe, "finetune.steps": plan.steps(run), **plan.overrides})
    bench = build_context(settings)
    held_out = read_held_out(bench, settings, plan.data) or bench.eval
    data = train_seeded_stream(bench, settings, on_step=lambda step: count_step())
    decoded = decode_stream(data, strict=True)
    batch_size = settings.finetune.eval_batch_size
    found = predict_decoded(bench.adapted, decoded, held_out, bench.device, batch_size).evaluation
    label = f"{settings.adapter.stream_bytes} B"
    return [CurvePoint(run, job, "seeded", label, len(data), decoded.num_components, found.score, found.loss)]


def _doubling(r_max: int) -> list[int]:
    """Return 1, 2, 4, ... and r_max.

    Examples:
        >>> _doubling(12)
        [1, 2, 4, 8, 12]
    """
    return [2**power for power in range(r_max.bit_length()) if 2**power < r_max] + [r_max]


class _StepWatcher(SilentProgress):
    """ProgressReporter that counts the steps of QAT."""

    def __init__(self, count_step: Callable[[], None]) -> None:
        self._count_step = count_step

    def step(self, step: int, values: Any) -> None:  # noqa: ARG002 (the watcher's signature)
        self._count_step()


@dataclass
class _AdapterMeasurement:
    """Accuracy and loss of a run's adapter in various encodings."""

    run: str
    job: str
    bench: RunContext
    settings: Settings
    held_out: EncodedData

    def __post_init__(self) -> None:
        bench = self.bench
        self._header = stream_header(bench.adapted, self.settings, bench.fingerprint, bench.task)

    def prefixes(self, packing: Packing, count_step: Callable[[], None]) -> list[CurvePoint]:
        """Return the points of a stream and of its prefixes."""
        data = self._packed(packing, count_step)
        points, size = [], float(MIN_PREFIX_BYTES)
        while size < len(data):
            if describe(data)["head_bytes"] <= size:
                points += self._point(self.job, f"{size:.0f} B", truncate(data, int(size)))
            size *= PREFIX_RATIO
        return points + self._point(self.job, "whole", data)

    def sized(self, packing: Packing, size: int, count_step: Callable[[], None]) -> list[CurvePoint]:
        """Return the point of a stream of a size; a stream too small for components holds the head alone."""
        data = self._packed(replace(packing, max_bytes=size, whole=True), count_step)
        return self._point("sized", f"{size} B", data)

    def _packed(self, packing: Packing, count_step: Callable[[], None]) -> bytes:
        return pack_adapter(
            self.bench.adapted,
            self._header,
            packing,
            self.settings.compute_options(self.bench.device),
            calibration=self.bench.calibration,
            train=self.bench.train,
            watcher=_StepWatcher(count_step),
        )

    def ranks(self, name: str, ranks: Sequence[int]) -> list[CurvePoint]:
        """Return the points of the adapter with one rank for all modules, at fixed precisions."""
        compute = self.settings.compute_options(self.bench.device)
        source = make_encoder_input(self.bench.adapted, "singular_value", compute)
        points = []
        for rank in ranks:
            own = source.truncated(RankPattern.constant(self._header.modules, rank))
            for bits in FIXED_BITS if name == "constant" else FIXED_BITS[:1]:
                packing = Packing(bits=bits, layers=1)
                data = encode_stream(self._header, own.updates, own.head, **packing.options(has_head=bool(own.head)))
                points += self._point(f"{name} {bits} bit", f"rank {rank}" if name == "constant" else "whole", data)
        return points

    def _point(self, series: str, label: str, data: bytes) -> list[CurvePoint]:
        """Return the point of a stream or prefix; none if it does not hold the whole classification head."""
        decoded = decode_stream(data)
        if set(decoded.tensors) != set(self._header.tensors):
            return []
        batch_size = self.settings.finetune.eval_batch_size
        found = predict_decoded(self.bench.adapted, decoded, self.held_out, self.bench.device, batch_size).evaluation
        size, rank = len(data), decoded.num_components
        return [CurvePoint(self.run, self.job, series, label, size, rank, found.score, found.loss)]
