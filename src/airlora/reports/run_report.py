"""Report of a comparison of policies as one self-contained HTML page."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2

from airlora.files import write_bytes
from airlora.reports.compare import ComparisonRow
from airlora.reports.figures import accuracy_by_params, accuracy_by_snr, rank_heat_maps, reward_curve
from airlora.training import RunFolder, read_metrics

__all__ = ["findings", "write_report"]

_HEAT_MAP_POLICIES = ("airllm", "allocate", "greedy", "adalora")


def findings(rows: Sequence[ComparisonRow]) -> list[str]:
    """Return sentences on the best policy on average, and on the rank of the paper's policy."""
    names = list(dict.fromkeys(row.policy for row in rows))
    accuracy = {name: statistics.fmean(row.accuracy for row in rows if row.policy == name) for name in names}
    params = {name: statistics.fmean(row.num_params for row in rows if row.policy == name) for name in names}
    interval = accuracy_interval(rows)
    order = sorted(names, key=lambda name: -accuracy[name])
    best = order[0]
    lines = [f"Best on average: {best}, {accuracy[best]:.1%} with {params[best]:,.0f} adapter parameters per link."]
    if "airllm" in names and best != "airllm":
        gap = accuracy[best] - accuracy["airllm"]
        rank = order.index("airllm") + 1
        verdict = "within" if gap <= interval else "beyond"
        lines.append(
            f"The paper's policy (airllm: PPO, then DDIM) is {_ordinal(rank)} of {len(names)}: "
            f"{accuracy['airllm']:.1%}, {100 * gap:.1f} points behind {best}, {verdict} the "
            "confidence interval of one accuracy."
        )
        ahead = [name for name in order[: rank - 1] if name in ("greedy", "constant", "random")]
        if ahead:
            lines.append(f"Policies without learning that are better here: {', '.join(ahead)}.")
    if "adalora" in names and best != "adalora":
        difference = 100 * (accuracy[best] - accuracy["adalora"])
        lines.append(
            f"PEFT AdaLoRA, trained separately for every link's budget, reaches {accuracy['adalora']:.1%}: "
            f"{difference:.1f} points below {best}, which truncates one adapter for all links."
        )
    return lines


def accuracy_interval(rows: Sequence[ComparisonRow]) -> float:
    """Return the half width of the 95 % confidence interval of one accuracy, binomial at the mean accuracy."""
    mean = statistics.fmean(row.accuracy for row in rows)
    return 1.96 * math.sqrt(mean * (1.0 - mean) / rows[0].num_samples)


def write_report(
    folder: RunFolder, rows: Sequence[ComparisonRow], *, command: str, title: str, table_note: str = "", provenance: str
) -> Path:
    """Write `report.html` into the folder of a run and return its path.

    Args:
        folder: Folder of a finished run, whose record, settings and metrics the page shows.
        rows: Comparison on the run's links.
        command: Command line that the page shows as its origin.
        title: Title of the page.
        table_note: Note under the table.
        provenance: Origin of the model and the data.

    Raises:
        CheckpointError: The run is not finished.
        StorageError: The page cannot be written.
    """
    record, settings = folder.record(), folder.settings()
    snrs = sorted({row.snr_db for row in rows})
    reference = [row for row in rows if row.snr_db == min(snrs, key=lambda snr: abs(snr - record.link["snr_db"]))]
    shown = {row.policy: row.ranks for row in reference if row.policy in _HEAT_MAP_POLICIES}
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("airlora.reports"), autoescape=True, undefined=jinja2.StrictUndefined
    )
    page = environment.get_template("report.html.j2").render(
        title=title,
        subtitle=(
            f"{record.model}, {len(record.modules)} projections, r_max {settings.adapter.r_max}, "
            f"{settings.channel.deadline_s:g} s deadline, {settings.channel.bits_per_param:g} bits per parameter"
        ),
        tiles=_tiles(rows, record.num_head_params, settings.adapter.r_max, record.modules),
        findings=findings(rows),
        snr_figure=accuracy_by_snr(rows),
        params_figure=accuracy_by_params(rows),
        reward_figure=reward_curve(read_metrics(folder.path)),
        rank_figure=rank_heat_maps(shown, record.modules, settings.adapter.r_max),
        num_samples=rows[0].num_samples,
        interval=accuracy_interval(rows),
        snrs=snrs,
        table=_table(rows, snrs),
        table_note=table_note,
        head=f"{record.num_head_params:,}",
        reference=f"{record.link['snr_db']:g} dB and {record.link['bandwidth_hz'] / 1e6:g} MHz",
        policy=record.policy,
        command=command,
        provenance=provenance,
        settings=folder.settings_path.read_text(encoding="utf-8"),
    )
    path = folder.path / "report.html"
    write_bytes(path, page.encode())
    return path


def _tiles(
    rows: Sequence[ComparisonRow], head: int, r_max: int, modules: Mapping[str, Mapping[str, Any]]
) -> list[dict[str, str]]:
    full = sum(r_max * (module["d_in"] + module["d_out"] + 1) for module in modules.values())
    best = max(rows, key=lambda row: (row.accuracy, -row.num_params))
    small = min((row for row in rows if row.accuracy >= best.accuracy - 0.01), key=lambda row: row.num_params)
    return [
        {
            "label": "best accuracy",
            "value": f"{best.accuracy:.1%}",
            "note": f"{best.policy} at {best.snr_db:g} dB, {best.num_params:,} parameters",
        },
        {
            "label": "smallest within 1 point of it",
            "value": f"{small.payload_bytes / 1000:,.0f} kB",
            "note": f"{small.policy} at {small.snr_db:g} dB, {small.accuracy:.1%}",
        },
        {
            "label": "whole adapter",
            "value": f"{(full + head) * 4 / 1000:,.0f} kB",
            "note": f"{full:,} parameters in FP32, with the classification head",
        },
        {
            "label": "transfers over the deadline",
            "value": f"{sum(row.deadline_share > 1.0 for row in rows)} of {len(rows)}",
            "note": "all policies and links",
        },
    ]


def _table(rows: Sequence[ComparisonRow], snrs: Sequence[float]) -> list[dict[str, Any]]:
    lines = []
    for name in dict.fromkeys(row.policy for row in rows):
        own = {row.snr_db: row for row in rows if row.policy == name}
        cells = [
            {
                "accuracy": own[snr].accuracy,
                "params": f"{own[snr].num_params / 1000:.1f}k",
                "best": own[snr].accuracy == max(row.accuracy for row in rows if row.snr_db == snr),
            }
            for snr in snrs
        ]
        lines.append(
            {
                "policy": name,
                "cells": cells,
                "accuracy": statistics.fmean(row.accuracy for row in own.values()),
                "loss": statistics.fmean(row.loss for row in own.values()),
                "share": statistics.fmean(row.deadline_share for row in own.values()),
            }
        )
    return lines


def _ordinal(number: int) -> str:
    return {1: "first", 2: "second", 3: "third"}.get(number, f"{number}th")
