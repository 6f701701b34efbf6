"""Figure of the dashboard: accuracy against bytes, as stated by the releases and as reported by devices."""

from __future__ import annotations

import io

import matplotlib
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from airlora.delivery.server.dashboard.overview import Overview

__all__ = ["accuracy_figure"]

_STYLE = {
    "font.family": "sans-serif",
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.25,
    "svg.fonttype": "none",
    "svg.hashsalt": "airlora",
    "text.parse_math": False,  # a tenant's name may hold dollars
}


def accuracy_figure(overview: Overview) -> str:
    """Return the figure as SVG, or an empty string if no accuracy is known."""
    lines = [(row.tenant or "all devices", row.manifest.cuts) for row in overview.releases if row.manifest.cuts]
    points = [(row.num_bytes, row.accuracy) for row in overview.devices if row.accuracy is not None and row.num_bytes]
    if not lines and not points:
        return ""
    with matplotlib.rc_context(_STYLE):  # type: ignore[arg-type]
        figure = Figure(figsize=(6.4, 3.2), layout="constrained")
        axis = figure.subplots()
        for name, cuts in lines:
            sizes, values = [cut.num_bytes for cut in cuts], [cut.accuracy for cut in cuts]
            axis.plot(
                sizes, values, marker=".", color=None if len(lines) > 1 else "#0072B2", label=f"release for {name}"
            )
        if points:
            sizes_held, accuracies = zip(*points, strict=True)
            axis.plot(sizes_held, accuracies, "o", color="#D55E00", alpha=0.6, label="devices")
        axis.set_xscale("log")
        axis.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value / 1e3:g} kB"))
        axis.xaxis.set_minor_formatter(NullFormatter())
        axis.set_xlabel("bytes received")
        axis.set_ylabel("accuracy")
        axis.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:g}%"))
        axis.legend(frameon=False)
        stream = io.StringIO()
        FigureCanvasSVG(figure).print_svg(stream, metadata={"Date": None})  # type: ignore[no-untyped-call]
    text = stream.getvalue()
    return text[text.index("<svg") :]
