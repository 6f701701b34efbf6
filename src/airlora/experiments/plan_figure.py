"""A plan for one link as a picture."""

from __future__ import annotations

from collections.abc import Mapping
from textwrap import fill
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from airlora.experiments.figures import draw_heat_maps, styled
from airlora.experiments.link_plan import LinkPlan

__all__ = ["plan_figure"]

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
