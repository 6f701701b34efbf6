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
from airlora.reports.figures import rank_heat_maps, reward_curve, score_by_params, score_by_snr
from airlora.training import RunFolder, read_metrics

__all__ = ["findings", "write_report"]

_HEAT_MAP_POLICIES = ("airllm", "allocate", "greedy", "adalora")


def findings(rows: Sequence[ComparisonRow]) -> list[str]:
    """Return sentences on the best policy on average, and on the rank of the paper's policy."""
    names = list(dict.fromkeys(row.policy for row in rows))
    metric = rows[0].metric
    score = {name: statistics.fmean(row.score for row in rows if row.policy == name) for name in names}
    params = {name: statistics.fmean(row.num_params for row in rows if row.policy == name) for name in names}
    interval = score_interval(rows)
    order = sorted(names, key=lambda name: score[name], reverse=metric.higher_is_better)
    best = order[0]
    reached = {name: metric.text(score[name], short=True) for name in names}
    lines = [f"Best on average: {best}, {reached[best]} with {params[best]:,.0f} adapter parameters per link."]
    if "airllm" in names and best != "airllm":
        gap = abs(score[best] - score["airllm"])
        rank = order.index("airllm") + 1
        place = "within" if interval is None or gap <= interval else "beyond"
        verdict = "" if interval is None else f", {place} the confidence interval of one measurement"
        lines.append(
            f"The paper's policy (airllm: PPO, then DDIM) is {_ordinal(rank)} of {len(names)}: "
            f"{reached['airllm']}, {metric.difference(gap)} behind {best}{verdict}."
        )
        ahead = [name for name in order[: rank - 1] if name in ("greedy", "constant", "random")]
        if ahead:
            lines.append(f"Policies without learning that are better here: {', '.join(ahead)}.")
    if "adalora" in names and best != "adalora":
        gap, side = abs(score[best] - score["adalora"]), "below" if metric.higher_is_better else "above"
        lines.append(
            f"PEFT AdaLoRA, trained separately for every link's budget, reaches {reached['adalora']}: "
            f"{metric.difference(gap)} {side} {best}, which truncates one adapter for all links."
        )
    return lines


def score_interval(rows: Sequence[ComparisonRow]) -> float | None:
    """Return the half width of the 95 % confidence interval of a share, binomial at its mean, else None."""
    if rows[0].metric.style != "%":
        return None
    mean = statistics.fmean(row.score for row in rows)
    return 1.96 * math.sqrt(mean * (1.0 - mean) / rows[0].evaluation.num_samples)


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
        snr_figure=score_by_snr(rows),
        params_figure=score_by_params(rows),
        reward_figure=reward_curve(read_metrics(folder.path), record.task.metrics[0]),
        rank_figure=rank_heat_maps(shown, record.modules, settings.adapter.r_max),
        num_samples=rows[0].evaluation.num_samples,
        metric=rows[0].metric,
        interval=score_interval(rows),
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
    metric = rows[0].metric
    best = min((row for row in rows if row.score == metric.best(r.score for r in rows)), key=lambda row: row.num_params)
    small = min((row for row in rows if abs(row.score - best.score) <= 0.01), key=lambda row: row.num_params)
    return [
        {
            "label": f"best {metric.name}",
            "value": metric.text(best.score, short=True),
            "note": f"{best.policy} at {best.snr_db:g} dB, {best.num_params:,} parameters",
        },
        {
            "label": f"smallest within {metric.difference(0.01)} of it",
            "value": f"{small.payload_bytes / 1000:,.0f} kB",
            "note": f"{small.policy} at {small.snr_db:g} dB, {metric.text(small.score, short=True)}",
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
    lines, metric = [], rows[0].metric
    for name in dict.fromkeys(row.policy for row in rows):
        own = {row.snr_db: row for row in rows if row.policy == name}
        cells = [
            {
                "score": metric.text(own[snr].score, short=True),
                "params": f"{own[snr].num_params / 1000:.1f}k",
                "best": own[snr].score == metric.best(row.score for row in rows if row.snr_db == snr),
            }
            for snr in snrs
        ]
        lines.append(
            {
                "policy": name,
                "cells": cells,
                "score": metric.text(statistics.fmean(row.score for row in own.values())),
                "loss": statistics.fmean(row.evaluation.loss for row in own.values()),
                "share": statistics.fmean(row.deadline_share for row in own.values()),
            }
        )
    return lines


def _ordinal(number: int) -> str:
    return {1: "first", 2: "second", 3: "third"}.get(number, f"{number}th")
