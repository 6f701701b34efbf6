import csv
import json
import re
from pathlib import Path

import pytest

from airlora.errors import DataError, SettingsError
from airlora.reproduce.statistics import Estimate, mean_estimate
from airlora.reproduce.tables import (
    Column,
    ResultTable,
    csv_text,
    latex_table,
    markdown_table,
    summarise,
    write_table,
)
from airlora.reproduce.verdicts import HOLDS, Verdict

METHOD, SETTING = Column("method", "method"), Column("setting", "setting")
ACCURACY, PARAMS = Column("accuracy", "accuracy", "%"), Column("num_params", "parameters", "count")
SCORES = {("airllm", "r_max 8"): (0.95, 0.96), ("airllm", "r_max 16"): (0.94, 0.95), ("ppo", "r_max 8"): (0.9, 0.9)}
ROWS = [
    {"method": method, "setting": setting, "seed": seed, "accuracy": accuracy, "num_params": 4235648}
    for (method, setting), scores in SCORES.items()
    for seed, accuracy in enumerate(scores)
]
PAPER = {("airllm", "r_max 8"): {"accuracy": 0.9564}}


def table() -> ResultTable:
    columns, lines = summarise(ROWS, [METHOD, SETTING, ACCURACY, PARAMS], paper=PAPER)
    return ResultTable("table4", "Accuracy & parameters", columns, lines, ["Mean ± half width; 100 % of_the seeds."])


def test_a_line_shows_the_mean_over_seeds_beside_the_papers_number() -> None:
    shown = table()
    assert [column.heading for column in shown.columns] == [
        "method",
        "setting",
        "accuracy, %",
        "paper, %",
        "parameters",
    ]
    width = mean_estimate([0.95, 0.96]).half_width
    assert shown.texts()[0] == [
        "airllm",
        "r_max 8",
        f"95.50 ± {100 * width:.2f}",
        "95.64",
        "4,235,648",
    ]
    assert [line[:2] for line in shown.texts()] == [list(key) for key in SCORES]
    assert shown.texts()[1][3] == "–"


def test_one_seed_has_no_half_width() -> None:
    _, lines = summarise(ROWS[:1], [METHOD, ACCURACY])
    assert ACCURACY.text(lines[0]["accuracy"]) == "95.00"


def test_values_that_a_method_lacks_are_left_out_of_its_mean() -> None:
    rows = [{"method": "eva", "setting": "", "seed": 0}, {"method": "eva", "setting": "", "seed": 1, "accuracy": 0.9}]
    _, lines = summarise(rows, [ACCURACY])
    assert lines[0]["accuracy"] == Estimate(0.9, None)
    assert summarise(rows[:1], [ACCURACY])[1][0]["accuracy"] is None


def test_csv_has_every_seed_and_all_keys() -> None:
    rows = [*ROWS, {"method": "x, y", "loss": 0.1}]
    read = list(csv.DictReader(csv_text(rows).splitlines()))
    assert len(read) == len(rows)
    assert float(read[0]["accuracy"]) == 0.95
    assert (read[-1]["method"], read[-1]["loss"], read[-1]["seed"]) == ("x, y", "0.1", "")


def test_markdown_has_one_cell_per_column_even_with_bars_in_the_text() -> None:
    text = markdown_table(ResultTable("t", "T", [METHOD, ACCURACY], [{"method": "a|b", "accuracy": 0.5}], ["Note."]))
    assert text == "### T\n\n| method | accuracy, % |\n| :--- | ---: |\n| a\\|b | 50.00 |\n\nNote.\n"


def test_latex_uses_booktabs_and_escapes_special_characters() -> None:
    text = latex_table(table())
    assert re.search(r"\\begin\{tabular\}\{llrrr\}\n\\toprule\n.*\\\\\n\\midrule\n", text)
    assert r"\caption{Accuracy \& parameters}" in text
    assert r"airllm & r\_max 8 & 95.50 $\pm$ " in text
    assert r"100 \% of\_the seeds" in text
    assert text.count(r"\\") == 1 + len(SCORES)
    backslash = ResultTable("t", "a\\b^c~{}#$ λ", [METHOD], [])
    assert r"\caption{a\textbackslash{}b\textasciicircum{}c\textasciitilde{}\{\}\#\$ $\lambda$}" in latex_table(
        backslash
    )


def test_all_files_of_a_table_are_written(tmp_path: Path) -> None:
    verdict = Verdict("A is better.", 0.005, 0.01, None, HOLDS)
    paths = write_table(tmp_path / "out", table(), rows=ROWS, verdicts=[verdict], settings={"scale": "tiny"})
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == sorted(path.name for path in paths)
    assert {path.suffix for path in paths} == {".csv", ".md", ".tex", ".json"}
    content = json.loads((tmp_path / "out" / "table4.json").read_text())
    assert list(content) == ["name", "title", "rows", "verdicts", "settings"]
    assert content["rows"] == ROWS
    assert content["verdicts"][0]["verdict"] == "holds"
    assert content["settings"] == {"scale": "tiny"}


def test_values_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="result table4: a value is not a finite number"):
        write_table(tmp_path, table(), rows=[{"method": "a", "loss": float("nan")}])
    with pytest.raises(DataError, match="nan: allowed is finite numbers"):
        summarise([{"method": "a", "setting": "", "accuracy": float("nan")}], [ACCURACY])
    with pytest.raises(SettingsError, match="style of column x = 'percent': allowed is text, %, number, count"):
        Column("x", "x", "percent")
