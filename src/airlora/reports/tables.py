"""Tables for the terminal."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table
from rich.text import Text

from airlora.policy import policy_specs
from airlora.reports.compare import ComparisonRow

__all__ = ["comparison_table", "marked", "policy_table", "projection_column", "rank_table", "stream_table"]


def comparison_table(rows: Sequence[ComparisonRow]) -> Table:
    """Return primary metric and number of sent adapter parameters by policy and SNR; the best of an SNR is bold."""
    snrs, metric = sorted({row.snr_db for row in rows}), rows[0].metric
    table = Table(title=f"{metric.name} and adapter parameters sent, by mean SNR", title_justify="left")
    table.add_column("policy")
    for snr_db in snrs:
        table.add_column(f"{snr_db:g} dB", justify="right")
    table.add_column("mean", justify="right")
    table.add_column("deadline", justify="right")
    for name in dict.fromkeys(row.policy for row in rows):
        own = {row.snr_db: row for row in rows if row.policy == name}
        cells = []
        for snr_db in snrs:
            best = metric.best(row.score for row in rows if row.snr_db == snr_db)
            text = f"{metric.text(own[snr_db].score, short=True)} {own[snr_db].num_params / 1000:5.1f}k"
            cells.append(marked(text, is_best=own[snr_db].score == best))
        mean = statistics.fmean(row.score for row in own.values())
        kept = "kept" if all(row.deadline_share <= 1.0 for row in own.values()) else "broken"
        table.add_row(name, *cells, metric.text(mean), kept)
    return table


def policy_table() -> Table:
    """Return a table of all known policies: name, whether it learns, and summary."""
    table = Table(title="policies", title_justify="left")
    table.add_column("name")
    table.add_column("learns")
    table.add_column("summary")
    for name, spec in policy_specs().items():
        table.add_row(name, "yes" if spec.learns else "no", spec.summary)
    return table


def rank_table(result: Mapping[str, Any]) -> Table:
    """Return the rank of every layer and projection of a run, from the result of `inspect_run`."""
    modules, ranks = result["modules"], result["rank_pattern"]
    columns = list(dict.fromkeys(projection_column(name, module) for name, module in modules.items()))
    table = Table(title="rank by layer and projection", title_justify="left")
    table.add_column("layer", justify="right")
    for column in columns:
        table.add_column(column, justify="right")
    for layer in sorted({module["layer"] for module in modules.values()}):
        own = {
            projection_column(name, module): ranks[name] for name, module in modules.items() if module["layer"] == layer
        }
        table.add_row(str(layer), *(str(own.get(column, "")) for column in columns))
    return table


def stream_table(title: str, result: Mapping[str, Any]) -> Table:
    """Return a table of the description of a stream (see `airlora.codec.describe`)."""
    table = Table(title=title, title_justify="left", show_header=False)
    total = "" if result["is_complete"] else f" of {result['total_bytes']:,}"
    bits = result["bits_per_param"]
    table.add_row("bytes", f"{result['payload_bytes']:,}{total}")
    table.add_row("segments", f"{result['num_segments']} of {result['total_segments']}")
    table.add_row("components", str(result["num_components"]))
    table.add_row("parameters", f"{result['num_params']:,}")
    table.add_row("bits per parameter", "-" if bits is None else f"{bits:.2f}")
    if result["base_stream"] is not None:
        table.add_row("delta to", result["base_stream"][:12])
    table.add_row("base model", result["base_fingerprint"][:12])
    return table


def projection_column(name: str, module: Mapping[str, Any]) -> str:
    """Return the column of a module: its role, or "gate" for the gate of an FFN with two modules of role fc1."""
    return "gate" if name.removesuffix(".in").endswith("gate_proj") else str(module["role"])


def marked(text: str, *, is_best: bool) -> Text:
    """Return a cell, bold if it is the best of its column."""
    return Text(text, style="bold" if is_best else "")
