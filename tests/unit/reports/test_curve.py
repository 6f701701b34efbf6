import io
import math
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from airlora.errors import SettingsError
from airlora.reports.curve import (
    curve_figure,
    curve_findings,
    curve_table,
    size_table,
    smallest_close,
    write_curve_report,
)
from airlora.reports.curve_points import (
    CurvePoint,
    CurveRow,
    best_within,
    byte_saving,
    lead_within,
    pareto_front,
    summarise_curve,
)
from airlora.tasks import Classification

METRIC = Classification.metrics[0]


def row(series: str, num_bytes: float, accuracy: float, loss: float = 0.4) -> CurveRow:
    label = f"{num_bytes:g} B"
    point = CurvePoint("run", series, series, label, round(num_bytes), 1, accuracy, loss)
    return CurveRow(series, label, 1, num_bytes, 1.0, accuracy, None, loss, None, METRIC, (point,))


def line(series: str, factor: float) -> list[CurveRow]:
    """Return a curve whose accuracy rises by .05 whenever the bytes double."""
    return [row(series, factor * 1000 * 2**place, 0.6 + 0.05 * place) for place in range(6)]


@pytest.mark.parametrize("factor", [0.5, 1.0, 4.0])
def test_the_saving_is_the_factor_between_two_parallel_curves(factor: float) -> None:
    rows = [*line("stream", 1.0), *line("lora 32 bit", factor)]
    assert byte_saving(rows, ["stream"], ["lora 32 bit"]).mean == pytest.approx(1.0 - 1.0 / factor)


def test_larger_adapters_of_lower_accuracy_do_not_change_the_saving() -> None:
    rows = [*line("stream", 1.0), *line("lora 32 bit", 2.0)]
    noisy = [*rows, row("lora 32 bit", 50_000, 0.61), row("stream", 40_000, 0.3)]
    assert byte_saving(noisy, ["stream"], ["lora 32 bit"]).mean == pytest.approx(0.5)


def test_the_saving_of_several_runs_has_a_confidence_interval() -> None:
    def points(series: str, factors: dict[str, float]) -> list[CurvePoint]:
        return [
            CurvePoint(run, series, series, f"{place}", round(factor * 1000 * 2**place), 1, 0.6 + 0.05 * place, 0.4)
            for run, factor in factors.items()
            for place in range(6)
        ]

    rows = summarise_curve([*points("stream", {"a": 1, "b": 1}), *points("lora 32 bit", {"a": 2, "b": 8})], METRIC)
    saving = byte_saving(rows, ["stream"], ["lora 32 bit"])
    # Logarithms -ln 2 and -ln 8: their mean is -ln 4, their standard error ln 2.
    assert saving.mean == pytest.approx(0.75)
    assert saving.interval == pytest.approx(0.25 * 12.706 * math.log(2), rel=1e-3)


def test_more_points_on_the_same_curve_hardly_change_the_saving() -> None:
    def sampled(series: str, ratio: float, count: int) -> list[CurveRow]:
        return [row(series, 2000 * ratio**k, 0.87 - 0.17 * 2500 / (2000 * ratio**k)) for k in range(count)]

    rows = [*sampled("stream", 2**0.5, 12), *sampled("lora 32 bit", 2.0, 6)]
    assert abs(byte_saving(rows, ["stream"], ["lora 32 bit"]).mean) < 0.015


def test_runs_without_a_common_size_are_refused() -> None:
    with pytest.raises(SettingsError, match="every run"):
        summarise_curve([], METRIC)


def test_curves_without_a_common_accuracy_have_no_saving() -> None:
    rows = [*line("stream", 1.0), row("adalora 32 bit", 1000, 0.9), row("adalora 32 bit", 2000, 0.95)]
    assert byte_saving(rows, ["stream"], ["adalora 32 bit"]) is None
    assert byte_saving(rows, ["stream"], ["full 32 bit"]) is None


def test_curves_with_a_tiny_common_range_have_no_saving() -> None:
    rows = [*line("stream", 1.0), row("constant 4 bit", 20_000, 0.849), row("constant 4 bit", 40_000, 0.86)]
    assert byte_saving(rows, ["stream"], ["constant 4 bit"]) is None


def test_a_prefix_is_close_only_if_all_larger_ones_are() -> None:
    full = row("full 32 bit", 1e6, 0.86)
    accuracies = [0.80, 0.858, 0.85, 0.856, 0.857]
    rows = [full, *(row("stream", 1000.0 * (place + 1), value) for place, value in enumerate(accuracies))]
    close = smallest_close(rows)
    assert close is not None
    assert close.payload_bytes == 4000
    assert smallest_close([full, row("stream", 1000, 0.7)]) is None
    assert smallest_close([row("stream", 1000, 0.7)]) is None


def test_findings_state_savings_and_losses_of_accuracy() -> None:
    rows = [
        row("stream", 2000, 0.80),
        row("stream", 4000, 0.856),
        row("full 32 bit", 1_000_000, 0.86),
        row("adalora 32 bit", 400_000, 0.85),
        row("adalora 32 bit", 1_000_000, 0.87),
        *line("lora 32 bit", 1.0),
    ]
    text = "\n".join(curve_findings(rows))
    assert "AdaLoRA at 1e+06 B in float32: 87.00% with 1,000,000 bytes." in text
    assert "within 0.5 points of the whole adapter from 4,000 bytes on (85.60%): 1/250 of its bytes, and 1/250" in text
    assert "Its accuracy is worse than that of AdaLoRA" in text
    assert "The smallest AdaLoRA" not in text
    cheap = [*rows, row("adalora 4 bit", 90_000, 0.857), row("adalora 4 bit", 20_000, 0.84)]
    assert "(4 bit, 90000 B: 85.70%) has 22 times its bytes" in "\n".join(curve_findings(cheap))
    worse = [row("full 32 bit", 1_000_000, 0.99), *(r for r in rows if r.series != "full 32 bit")]
    assert "A prefix of the stream is not within 0.5 points of the whole adapter at any size." in curve_findings(worse)


def test_means_include_only_points_of_every_run() -> None:
    points = [
        CurvePoint(run, "stream", "stream", label, size, 3, accuracy, 0.4)
        for run, label, size, accuracy in (
            ("a", "1000 B", 900, 0.80),
            ("b", "1000 B", 980, 0.84),
            ("a", "whole", 2000, 0.85),
        )
    ]
    (found,) = summarise_curve(points, METRIC)
    assert (found.label, found.num_runs, found.payload_bytes) == ("1000 B", 2, 940)
    assert found.accuracy == pytest.approx(0.82)
    # Student's t with one degree of freedom, standard error .02.
    assert found.accuracy_interval == pytest.approx(12.706 * 0.02, rel=1e-3)
    assert found.loss_interval == 0.0


def test_the_figure_names_every_method() -> None:
    rows = [*line("stream", 1.0), *line("constant 8 bit", 3.0), row("full 32 bit", 1e6, 0.9)]
    figure = curve_figure(rows)
    for name in (">stream<", ">constant<", ">full<", "bytes sent, classification head included"):
        assert name in figure


@pytest.mark.parametrize("has_full", [True, False])
def test_the_page_describes_only_measured_series(tmp_path: Path, has_full: bool) -> None:
    rows = [*line("unpolished", 1.0), *([row("full 32 bit", 1e6, 0.9)] if has_full else [])]
    page = write_curve_report(rows, tmp_path, command="airlora curve").read_text(encoding="utf-8")
    assert ("Findings" in page) == has_full
    assert ("Dotted: the whole adapter." in page) == has_full


def test_the_widest_table_fits_into_eighty_columns() -> None:
    widest = CurveRow("constant 32 bit", "11314 B", 3, 1332437.0, 288.0, 0.8735, 0.2194, 0.32061, 0.12861, METRIC)
    screen = io.StringIO()
    Console(file=screen, width=80).print(curve_table([widest]))
    for cell in ("constant 32 bit", "11314 B", "1,332,437", "288", "87.35 ± 21.94", "0.321 ± 0.129"):
        assert cell in screen.getvalue()
    screen = io.StringIO()
    named = replace(widest, series="fourierft 32 bit", label="n_frequency 1000")
    Console(file=screen, width=80).print(curve_table([named]))
    for cell in ("fourierft 32 bit", " 1000 ", "1,332,437", "87.35 ± 21.94", "0.321 ± 0.129"):
        assert cell in screen.getvalue()


def test_a_method_has_the_best_of_its_precisions_within_a_size() -> None:
    rows = [
        row("lora 32 bit", 4000, 0.80, 0.40),
        row("lora 4 bit", 1000, 0.75, 0.45),
        row("lora 4 bit", 2000, 0.78, 0.50),
        row("lora 8 bit", 3000, 0.79, 0.41),
        row("stream", 3500, 0.79, 0.39),
    ]
    assert [own.loss for own in pareto_front(rows[:4])] == [0.45, 0.41, 0.40]
    assert [own.score for own in pareto_front(rows[:4], "accuracy")] == [0.75, 0.78, 0.79, 0.80]
    assert best_within(rows, ["lora"], 2500).loss == 0.45
    assert best_within(rows, ["lora"], 999) is None
    headings, lines = size_table(rows, (900, 2000, 4000))
    assert headings == ["method", "0.9 kB", "2 kB", "4 kB"]
    assert lines == [
        ["stream", "–", "–", "**0.390**"],
        ["lora", "–", "**0.450**", "0.400"],
        ["best stream minus best of PEFT", "–", "–", "-0.010"],
    ]
    assert len(size_table(rows[:4], (4000,))[1]) == 1


def test_the_lead_of_a_method_is_the_mean_of_paired_differences() -> None:
    def points(series: str, losses: tuple[float, ...]) -> list[CurvePoint]:
        return [CurvePoint(f"{run}", series, series, "a", 1000, 1, 0.8, loss) for run, loss in enumerate(losses)]

    rows = summarise_curve(
        [*points("sized", (0.30, 0.50)), *points("lora 4 bit", (0.33, 0.55)), *points("lora 8 bit", (0.4, 0.6))], METRIC
    )
    lead = lead_within(rows, ["stream", "sized"], ["lora"], 1000)
    assert lead is not None
    assert lead.mean == pytest.approx(-0.04)
    # Student's t with one degree of freedom, standard error .01.
    assert lead.interval == pytest.approx(12.706 * 0.01, rel=1e-3)
    assert lead_within(rows, ["sized"], ["lora"], 999) is None
    assert lead_within(rows, ["sized"], ["vera"], 1000) is None


def test_the_saving_at_equal_loss_is_that_of_the_best_precisions() -> None:
    def losses(series: str, factor: float) -> list[CurveRow]:
        return [row(series, factor * 1000 * 2**place, 0.8, 0.5 - 0.03 * place) for place in range(5)]

    rows = [*losses("stream", 1.0), *losses("unilora 32 bit", 8.0), *losses("unilora 4 bit", 2.0)]
    assert byte_saving(rows, ["stream"], ["unilora 32 bit"], quantity="loss").mean == pytest.approx(7 / 8)
    assert byte_saving(rows, ["stream"], ["unilora"], quantity="loss").mean == pytest.approx(1 / 2)
