"""What a curve of accuracy against bytes is asked for, and what its points are."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from airlora.errors import SettingsError
from airlora.training import Packing, RunFolder

__all__ = ["CURVE_METHODS", "PEFT_METHODS", "CurvePlan", "CurvePoint"]

CURVE_METHODS = {
    "stream": "airlora's stream, polished",
    "sized": "airlora's stream made for each size, polished for the whole of it alone",
    "unpolished": "airlora's stream as trained",
    "singular": "the same in order of singular values",
    "constant": "one rank for all modules, best components first",
    "full": "the whole adapter, float32",
    "adalora": "PEFT AdaLoRA, trained at each rank",
    "lora": "PEFT LoRA, trained at each rank",
}
"""What is drawn, and what it is."""

PEFT_METHODS = ("adalora", "lora")
"""Of them those that are trained anew."""


@dataclass(frozen=True)
class CurvePlan:
    """What is measured.

    Args:
        packing: Of the polished stream.
        ranks: At which PEFT's adapters are trained.
        sizes: Bytes of the streams that are made for their size.
        methods: Of `CURVE_METHODS`.
        data: To measure on; none: the run's evaluation data.
        baseline_steps: Training steps of PEFT's adapters; none: the run's, and those of polishing.
        overrides: Settings of PEFT's adapters that differ from the run's.

    Raises:
        SettingsError: An unknown method, or a rank below 1.
    """

    packing: Packing
    ranks: tuple[int, ...] = (1, 2, 4, 8)
    sizes: tuple[int, ...] = (3000, 6000, 10_000)
    methods: tuple[str, ...] = tuple(CURVE_METHODS)
    data: str | None = None
    baseline_steps: int | None = None
    overrides: dict[str, Any] = field(default_factory=dict)

    def steps(self, run: str) -> int:
        """Return the training steps of PEFT's adapters beside a run."""
        if self.baseline_steps is not None:
            return self.baseline_steps
        return RunFolder(run).record().steps + self.packing.polish_steps

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
                "finetune.steps", self.overrides["finetune.steps"], "left out: baseline steps are given on their own"
            )
        if self.baseline_steps is not None and self.baseline_steps < 1:
            raise SettingsError.of("baseline steps", self.baseline_steps, "1 or more")


@dataclass(frozen=True)
class CurvePoint:
    """One adapter of some size.

    Args:
        run: Folder of the run.
        job: What made it; points of one job come together.
        series: Method, and precision where it is fixed: a line of the picture.
        label: What it is in its series; the same for every run.
        payload_bytes: All that is sent; of PEFT's adapters numbers and scales alone.
        num_components: Rank-one components in it.
        accuracy: On the data.
        loss: Likewise, nats per sample.
        fingerprint: Of version, adapter and settings; a point of others does not count.
    """

    run: str
    job: str
    series: str
    label: str
    payload_bytes: int
    num_components: int
    accuracy: float
    loss: float
    fingerprint: str = ""
