import csv
import functools
import re
from pathlib import Path

import numpy as np
import pytest

from airlora.errors import DataError
from airlora.reproduce.figures import (
    COLUMN_INCHES,
    PAGE_INCHES,
    Difference,
    DrawnFigure,
    Series,
    forest_figure,
    heat_map_figure,
    line_figure,
    paired_line_figure,
    write_figure,
)
from airlora.reproduce.statistics import mean_estimate

SNRS = [-5, 0, 5]
AIRLLM = np.array([[0.94, 0.95, 0.96], [0.95, 0.955, 0.962], [0.945, 0.951, 0.958]])


def draw_lines(**options) -> DrawnFigure:
    group = [Series("airllm", SNRS, AIRLLM), Series("adalora", SNRS, AIRLLM - 0.004)]
    return line_figure({"": group}, xlabel="mean SNR, dB", ylabel="accuracy, %", percent=True, **options)


lines = functools.cache(draw_lines)


def texts(figure: DrawnFigure) -> list[str]:
    return re.findall(r"<text[^>]*>([^<]*)</text>", figure.svg)


def svg_width(figure: DrawnFigure) -> float:
    return float(re.search(r'<svg[^>]*? width="([\d.]+)pt"', figure.svg)[1]) / 72


def test_a_figure_has_the_width_of_its_columns_and_labels_with_units() -> None:
    figure = lines()
    assert svg_width(figure) == pytest.approx(COLUMN_INCHES)
    assert svg_width(draw_lines(width=PAGE_INCHES)) == pytest.approx(PAGE_INCHES)
    assert {"mean SNR, dB", "accuracy, %", "airllm", "adalora", "−5"} <= set(texts(figure))
    assert set(re.findall(r"font-size: (\w+)", figure.svg)) == {"8px"}


def test_equal_data_give_equal_files_without_a_date() -> None:
    first, second = lines(), draw_lines()
    assert (first.svg, first.pdf) == (second.svg, second.pdf)
    assert b"CreationDate" not in first.pdf
    assert "<dc:date>" not in first.svg
    assert first.pdf.startswith(b"%PDF")


def test_the_drawn_numbers_are_means_and_intervals_over_seeds() -> None:
    numbers = lines().numbers
    assert len(numbers) == 6
    expected = mean_estimate(AIRLLM[:, 2])
    assert numbers[2] == {
        "panel": "",
        "series": "airllm",
        "x": 5.0,
        "mean": expected.value,
        "low": expected.interval[0],
        "high": expected.interval[1],
        "num_seeds": 3,
    }


def test_one_seed_is_drawn_without_a_band() -> None:
    figure = line_figure({"": [Series("a", SNRS, [0.1, 0.2, 0.3])]}, xlabel="x", ylabel="y")
    assert figure.numbers[0]["low"] is None
    assert "FillBetween" not in figure.svg
    assert "FillBetween" in lines().svg
    assert "FillBetween" not in lines(intervals="bars").svg


def test_series_differ_in_colour_marker_and_line() -> None:
    group = [Series(f"s{k}", SNRS, AIRLLM[0] + k) for k in range(7)]
    svg = line_figure({"": group}, xlabel="x", ylabel="y").svg
    strokes = set(re.findall(r'clip-path="[^"]*" style="fill: none; ([^"]*stroke: #[0-9a-f]{6}[^"]*)"', svg))
    curves = {stroke for stroke in strokes if "stroke-width: 1.2" in stroke}
    assert len(curves) == 7
    assert len({re.sub(r"stroke: #\w+", "", curve) for curve in curves}) == 7


def test_intervals_much_wider_than_the_differences_are_cut_with_a_note() -> None:
    wide = Series("two seeds", [0, 1], [[0.90, 0.91], [0.92, 0.93]])  # the factor of Student's t is 12.7
    figure = line_figure({"": [wide]}, xlabel="x", ylabel="y", percent=True)
    assert "cut off" in figure.notes[0]
    assert max(float(text) for text in texts(figure) if re.fullmatch(r"\d+\.?\d*", text)) < 96
    assert lines().notes == ()


def test_panels_share_one_legend() -> None:
    group = [Series("a", [0, 1], [1.0, 2.0]), Series("b", [0, 1], [2.0, 1.0])]
    figure = line_figure({"r_max 8": group, "r_max 16": group, "r_max 32": group}, xlabel="x", ylabel="y")
    shown = texts(figure)
    assert shown.count("a") == shown.count("b") == 1
    assert shown.count("y") == 1
    assert shown.count("x") == 3
    assert {"r_max 8", "r_max 16", "r_max 32"} <= set(shown)


def test_a_heat_map_writes_a_value_into_every_finite_cell() -> None:
    grid = np.array([[1.0, 2.5], [np.nan, 8.0]])
    figure = heat_map_figure(
        {"linear": grid}, rows=["layer 0", "layer 1"], columns=["q", "fc1"], colour_label="mean rank"
    )
    assert {"1.0", "2.5", "8.0", "layer 1", "fc1", "mean rank", "linear"} <= set(texts(figure))
    assert [(cell["row"], cell["column"], cell["value"]) for cell in figure.numbers] == [
        ("layer 0", "q", 1.0),
        ("layer 0", "fc1", 2.5),
        ("layer 1", "fc1", 8.0),
    ]


def test_all_files_of_a_figure_are_written(tmp_path: Path) -> None:
    figure = lines()
    paths = write_figure(tmp_path, "fig4", figure)
    assert [path.name for path in paths] == ["fig4.svg", "fig4.pdf", "fig4.csv"]
    assert (tmp_path / "fig4.svg").read_text().startswith("<?xml")
    rows = list(csv.DictReader((tmp_path / "fig4.csv").read_text().splitlines()))
    assert float(rows[0]["mean"]) == figure.numbers[0]["mean"]
    assert write_figure(tmp_path, "fig4", figure, numbers_name="numbers")[2].name == "numbers.csv"


def test_wrong_data_are_named() -> None:
    with pytest.raises(DataError, match=r"shape of series a = \(1, 3\): allowed is \[num_seeds, 2\]"):
        line_figure({"": [Series("a", [0, 1], [1.0, 2.0, 3.0])]}, xlabel="x", ylabel="y")
    with pytest.raises(DataError, match="at least one panel"):
        line_figure({}, xlabel="x", ylabel="y")
    with pytest.raises(DataError, match=r"shape of map cosine = \(1, 2\): allowed is \(2, 2\)"):
        heat_map_figure({"cosine": [[1.0, 2.0]]}, rows=["0", "1"], columns=["q", "k"], colour_label="rank")


def test_a_forest_figure_needs_finite_differences() -> None:
    for rows in ([], [Difference("a", float("nan"), (0.0, 1.0), "group")]):
        with pytest.raises(DataError, match=r"differences.*at least one row of finite values"):
            forest_figure(rows, colours={"group": "#000000"}, xlabel="nats")


def test_panels_with_labels_of_their_own_have_axes_of_their_own() -> None:
    panels = {"large": [Series("a", [0, 1], [[100.0, 200.0]])], "small": [Series("a", [0, 1], [[0.1, 0.2]])]}
    own = line_figure(panels, xlabel="x", ylabel={"large": "metres", "small": "shares"})
    for text in (">metres<", ">shares<", ">0.20<", ">200<"):
        assert text in own.svg
    assert ">0.20<" not in line_figure(panels, xlabel="x", ylabel="y").svg


def test_an_interval_can_be_left_out() -> None:
    values = [[1.0, 2.0], [2.0, 4.0]]
    shown, hidden = (Series("a", [0, 1], values, shows_interval=own).points() for own in (True, False))
    assert [point.value for _, point in shown] == [point.value for _, point in hidden] == [1.5, 3.0]
    assert all(point.interval is not None for _, point in shown)
    assert all(point.interval is None for _, point in hidden)


def test_paired_lines_show_differences_of_each_seed() -> None:
    # The seeds differ by 100, the lines of a seed by 1 or 3.
    series = [Series("a", [0, 1], [[0.0, 1.0], [100.0, 101.0]]), Series("b", [0, 1], [[1.0, 2.0], [103.0, 104.0]])]
    figure = paired_line_figure(series, base="a", xlabel="step", ylabel="reward")
    points = {(point["panel"], point["series"]): point for point in figure.numbers if point["x"] == 0.0}
    assert points["mean over seeds", "b"]["mean"] == 52.0
    assert points["mean over seeds", "b"]["low"] is None
    own = points["beside a, same seed", "b"]
    assert (own["mean"], own["high"] - own["low"]) == (2.0, pytest.approx(2 * 12.706, rel=1e-3))
    assert points["beside a, same seed", "a"]["mean"] == 0.0
