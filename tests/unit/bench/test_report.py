import io
import itertools
import json
import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from rich.table import Table
from rich.text import Text

from airlora.bench.policies import BENCH_POLICIES, BenchRecord, summarise
from airlora.bench.problems import PROBLEMS
from airlora.bench.report import FAMILIES, bench_findings, bench_tables, regret_figure, write_bench_report

SVG = "{http://www.w3.org/2000/svg}"


def rows(
    regrets: dict[str, list[float]], problems: tuple[str, ...] = ("separable-36",), seeds: int = 3, **values: Any
) -> list[dict[str, Any]]:
    """Return a row per regret: at 500, 1000, ... evaluations, or at none for `random`."""
    base = {"deadline_breaks": 0.0, "stale_breaks": 0.25, "unseen_regret": 0.75, "seconds": 12.0, "modules": 36}
    records = [
        BenchRecord(
            problem=problem,
            policy=policy,
            seed=seed,
            evaluations=0 if policy == "random" else 500 * 2**index,
            regret=regret + 0.01 * (seed - (seeds - 1) / 2),
            **base | values,
        )
        for problem in problems
        for policy, path in regrets.items()
        for index, regret in enumerate(path)
        for seed in range(seeds)
    ]
    return summarise(records)


THREE = {"ppo": [0.6, 0.5], "allocate": [0.3, 0.125], "random": [0.9]}
ALL = {name: [0.9 - 0.05 * index, 0.85 - 0.05 * index] for index, name in enumerate(BENCH_POLICIES)} | {
    "random": [0.93]
}


def texts(svg: str) -> list[str]:
    """Return what is written in a picture."""
    return ["".join(node.itertext()) for node in ElementTree.fromstring(svg).iter(f"{SVG}text")]  # noqa: S314


def shown(data: list[dict[str, Any]]) -> str:
    stream = io.StringIO()
    console = Console(file=stream, width=80)
    for table in bench_tables(data):
        console.print(table)
    return stream.getvalue()


def markup(table: Table) -> list[list[str]]:
    """Return the first three columns, as rich would mark them up."""
    columns = (
        [cell.markup if isinstance(cell, Text) else str(cell) for cell in column.cells] for column in table.columns
    )
    return list(columns)[:3]


def test_every_policy_has_a_colour_and_a_dash_of_its_own() -> None:
    members = [name for _, names in FAMILIES.values() for name in names]
    assert sorted(members) == sorted(BENCH_POLICIES)
    assert len({colour for colour, _ in FAMILIES.values()}) == len(FAMILIES)


def test_the_findings_name_the_best_and_where_the_papers_policy_stands() -> None:
    lines = bench_findings(rows(THREE | {"airllm": [0.7, 0.4], "airllm-literal": [0.8, 1.25]}))
    assert lines == [
        "36 modules, separable: best is allocate with 0.125 after 1,000 measured losses; the paper's airllm has 0.400, "
        "place 2 of 5; airllm-literal, with Eq. 19 as written, has 1.250, place 5 of 5.",
        "No policy chose a pattern that breaks the deadline of the link that it was chosen for.",
    ]


def test_the_findings_when_the_papers_policy_is_best_or_missing() -> None:
    best = "36 modules, separable: best is airllm with 0.100 after 500 measured losses."
    assert bench_findings(rows({"airllm": [0.1], "ppo": [0.2]}))[0] == best
    assert "airllm" not in bench_findings(rows(THREE))[0]
    literal = bench_findings(rows({"ppo": [0.1], "airllm-literal": [0.2]}))[0]
    assert literal.endswith("; airllm-literal, with Eq. 19 as written, has 0.200, place 2 of 2.")


def test_the_findings_have_a_line_per_problem() -> None:
    data = rows(THREE, ("separable-36", "separable-144")) + rows({"ppo": [0.1], "random": [0.9]}, ("interacting-36",))
    lines = bench_findings(data)
    assert len(lines) == 4
    assert lines[1].startswith("144 modules, separable: best is allocate")
    assert lines[2].startswith("36 modules, interacting: best is ppo with 0.100 after 500")


def test_the_findings_compare_at_equal_numbers_of_losses() -> None:
    # PPO is ahead in the end, but had four times as many losses; at 1,000 it was behind.
    data = rows({"ppo": [0.6, 0.5, 0.3, 0.01], "allocate": [0.3, 0.125], "random": [0.9]})
    assert "best is allocate with 0.125 after 1,000 measured losses" in bench_findings(data)[0]
    assert "best is random with 0.100, and measures no loss." in bench_findings(rows({"random": [0.1], "ppo": [1]}))[0]


def test_the_findings_name_who_breaks_deadlines() -> None:
    data = rows({"allocate": [0.1]}) + rows({"cmaes": [0.5], "ddim": [0.6]}, deadline_breaks=0.5)
    assert bench_findings(data)[-1] == (
        "Patterns that broke the deadline of the link they were chosen for: cmaes, ddim."
    )


def test_the_tables_have_a_line_per_policy_best_first() -> None:
    text = shown(rows(THREE))
    assert "regret, 36 modules, separable" in text
    assert [name for name in re.findall(r"(?m)^│ (\S+)", text) if name in THREE] == ["allocate", "ppo", "random"]
    for cell in ("500", "1,000", "0.125 ± 0.010", "0.600", "0.750", "0%"):
        assert cell in text, cell
    # What measures nothing is the same at every mark.
    assert text.count("0.900") == 2
    assert len(bench_tables(rows(THREE, tuple(PROBLEMS)))) == len(PROBLEMS)
    assert "±" not in shown(rows(THREE, seeds=1))


def test_the_tables_fit_a_terminal() -> None:
    many = {"airllm-literal": [0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3], "random": [0.95]}
    lines = shown(rows(many)).splitlines()
    assert max(len(line) for line in lines) <= 80
    assert all(cell in "".join(lines) for cell in ("4,000", "32,000", "airllm-literal", "0.300 ± 0.010"))
    assert "…" not in "".join(lines)


def test_the_best_of_a_mark_is_bold_even_if_it_measures_nothing() -> None:
    (table,) = bench_tables(rows({"random": [0.5], "ppo": [0.9, 0.1]}, seeds=1))
    assert markup(table) == [
        ["ppo", "random"],
        ["0.900", "[bold]0.500[/bold]"],
        ["[bold]0.100[/bold]", "0.500"],
    ]


def test_a_mark_that_a_policy_did_not_reach_is_empty() -> None:
    (table,) = bench_tables(rows({"ppo": [0.5], "allocate": [0.3, 0.1]}, seeds=1))
    assert markup(table) == [
        ["allocate", "ppo"],
        ["[bold]0.300[/bold]", "0.500"],
        ["[bold]0.100[/bold]", ""],
    ]


@pytest.mark.parametrize("problems", [("separable-36",), tuple(PROBLEMS)])
def test_the_figure_is_one_picture_with_every_policys_name(problems: tuple[str, ...]) -> None:
    data = rows(ALL, problems)
    svg = regret_figure(data)
    assert svg.count("<svg") == 1
    written = texts(svg)
    for name in BENCH_POLICIES:
        assert written.count(name) == len(problems), name
    for key in problems:
        assert PROBLEMS[key].title in written
    assert regret_figure(data) == svg


def test_the_figures_ticks_are_the_marks() -> None:
    svg = regret_figure(rows({"ppo": [0.9, 0.8, 0.7, 0.6], "cmaes": [0.5, 0.4, 0.3, 0.2]}))
    written = texts(svg)
    assert [text for text in written if text.replace(",", "").isdigit() and int(text.replace(",", "")) >= 500] == [
        "500",
        "1,000",
        "2,000",
        "4,000",
    ]
    # Minor ticks would be written as powers of ten.
    assert not [text for text in written if "10^" in text or "×" in text or "times" in text]


def test_the_figures_names_do_not_overlap() -> None:
    root = ElementTree.fromstring(regret_figure(rows({name: [0.5, 0.4] for name in BENCH_POLICIES})))  # noqa: S314
    heights = {}
    for node in root.iter(f"{SVG}text"):
        if node.text in BENCH_POLICIES:
            places = re.findall(r"(?:translate\(|rotate\([-\d.]+ )([\d.]+)[ ,]([\d.]+)\)", node.get("transform", ""))
            x, y = places[0] if places else (node.get("x", ""), node.get("y", ""))
            heights[node.text] = (float(x), float(y))
    assert len(heights) == len(BENCH_POLICIES)
    assert len({round(x, 3) for x, _ in heights.values()}) == 1
    ys = sorted(y for _, y in heights.values())
    assert min(high - low for low, high in itertools.pairwise(ys)) > 8.0


@pytest.mark.parametrize("regrets", [{"random": [0.9]}, {"cmaes": [0.5]}, {"allocate": [0.0, 0.0], "ppo": [0.5, 1.5]}])
def test_few_policies_and_the_optimum_itself_have_a_figure(regrets: dict[str, list[float]]) -> None:
    data = rows(regrets, seeds=1)
    assert set(regrets) <= set(texts(regret_figure(data)))
    assert all(name in shown(data) for name in regrets)


def test_the_report_has_a_row_per_policy(tmp_path: Path) -> None:
    data = rows(ALL)
    command = "airlora policies --bench --out 'a <b> & c'"
    path = write_bench_report(data, tmp_path / "new" / "folder", command=command)
    page = path.read_text()
    assert path == tmp_path / "new" / "folder" / "report.html"
    assert re.findall(r"<tr><td title=\"[^\"]+\">([\w-]+)</td>", page) == sorted(
        ALL, key=lambda name: (ALL[name][-1], name)
    )
    assert "&lt;b&gt; &amp; c" in page
    assert bench_findings(data)[0].replace("'", "&#39;") in page
    assert "Mean of 3 landscapes" in page
    assert page.count("<svg") == 1
    assert not re.search(r"(href|src)=\"http", page)
    assert json.loads((path.parent / "results.json").read_text()) == data
    assert (path.parent / "regret.svg").read_text() == regret_figure(data)


def test_the_report_of_one_landscape_reads_well(tmp_path: Path) -> None:
    page = write_bench_report(rows(THREE, seeds=1), tmp_path, command="airlora policies --bench").read_text()
    assert "1 landscapes" not in page
    assert "One landscape." in page
    assert "Regret on one landscape, by number" in page
    assert "±" not in page


def test_a_single_panel_is_not_blown_up(tmp_path: Path) -> None:
    widths = []
    for problems in (("separable-36",), ("separable-36", "interacting-36"), tuple(PROBLEMS)):
        page = write_bench_report(rows(THREE, problems), tmp_path, command="airlora").read_text()
        found = re.search(r"<figure style=\"max-width: (\d+)rem\">", page)
        assert found
        widths.append(int(found[1]))
    assert widths == [34, 68, 68]
